//! HTML and SVG, escaped by construction.
//!
//! Plain text becomes [`Markup`] only by [`Markup::from`], which escapes it: class names are names of folders, which may
//! contain anything. The only way to insert text without escaping is [`Markup::written_here`], which takes only literals
//! of this program.

use std::fmt::Write as _;

/// A piece of HTML or SVG.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Markup(String);

impl Markup {
    /// Empty markup.
    pub fn new() -> Self {
        Markup::default()
    }

    /// Markup that is part of this program.
    pub fn written_here(markup: &'static str) -> Self {
        Markup(markup.to_string())
    }

    /// Appends `more`.
    pub fn push(&mut self, more: impl Into<Markup>) {
        self.0.push_str(&more.into().0);
    }

    /// The markup as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Markup {
    fn from(text: &str) -> Self {
        Markup(escape(text))
    }
}

impl From<String> for Markup {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Markup {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl<M: Into<Markup>> FromIterator<M> for Markup {
    fn from_iter<I: IntoIterator<Item = M>>(pieces: I) -> Self {
        let mut all = Markup::new();
        pieces.into_iter().for_each(|piece| all.push(piece));
        all
    }
}

/// `<name attribute="value">content</name>`.
pub fn element(name: &'static str, attributes: &[(&'static str, &str)], content: impl Into<Markup>) -> Markup {
    let Markup(mut markup) = void(name, attributes);
    write!(markup, "{}</{name}>", content.into().0).expect("a String takes everything");
    Markup(markup)
}

/// `<name attribute="value">`: an HTML element without content.
pub fn void(name: &'static str, attributes: &[(&'static str, &str)]) -> Markup {
    let mut markup = format!("<{name}");
    for (key, value) in attributes {
        write!(markup, " {key}=\"{}\"", escape(value)).expect("a String takes everything");
    }
    markup.push('>');
    Markup(markup)
}

/// Escapes a text for HTML and XML, both between tags and between quotation marks. Characters that XML does not allow
/// become U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(letter),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_text_is_it_stays_a_text() {
        assert_eq!(escape("<script>&\"'"), "&lt;script&gt;&amp;&quot;&#39;");
        assert_eq!(escape("a\u{0}\u{1b}[31m\tb\n\u{ffff}ü"), "a\u{fffd}\u{fffd}[31m\tb\n\u{fffd}ü");
        let pieces: Markup = [element("b", &[("title", "\"><i>")], "<i>"), Markup::from("&amp;")].into_iter().collect();
        assert_eq!(pieces.as_str(), "<b title=\"&quot;&gt;&lt;i&gt;\">&lt;i&gt;</b>&amp;amp;");
        assert_eq!(void("br", &[]).as_str(), "<br>");
        // Markup is not escaped again.
        assert_eq!(element("p", &[], element("b", &[], "a&b")).as_str(), "<p><b>a&amp;b</b></p>");
    }
}
