//! The texts of protocol 0, which are escaped and have no length prefix.

use std::borrow::Cow;

/// The bytes of a Python 2 string literal as `repr` writes it: `'a\n\x00'`.
pub(super) fn unquote(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (&quote, rest) = line.split_first()?;
    let body = rest.strip_suffix(&[quote])?;
    if !matches!(quote, b'\'' | b'"') {
        return None;
    }
    if !body.contains(&b'\\') {
        return Some(Cow::Borrowed(body));
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [*rest.next()?, *rest.next()?];
                    hexadecimal(&digits)? as u8
                }
                &other @ (b'\\' | b'\'' | b'"') => other,
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(Cow::Owned(bytes))
}

/// Python's `raw-unicode-escape`: Latin-1, with `\uXXXX` and `\UXXXXXXXX` for the rest.
pub(super) fn unescape_unicode(line: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(byte));
                rest = after;
                continue;
            }
        };
        text.push(char::from_u32(hexadecimal(after.get(1..=digits)?)?)?);
        rest = &after[1 + digits..];
    }
    Some(text)
}

/// The value of hexadecimal digits (and nothing else: no sign).
fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}
