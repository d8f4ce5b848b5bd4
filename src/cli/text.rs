//! Formats numbers and paths for people.

use std::path::Path;

/// `1,234,567`.
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 picture`, `2 pictures`, `1 class`, `2,000 classes`.
pub fn count(number: usize, one: &str) -> String {
    let plural = match one.ends_with('s') {
        _ if number == 1 => "",
        true => "es",
        false => "s",
    };
    format!("{} {one}{plural}", thousands(number as u64))
}

/// A name from a file, without line breaks and the control sequences of terminals.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| match letter.is_control() {
            true => letter.escape_default().collect::<Vec<_>>(),
            false => vec![letter],
        })
        .collect()
}

/// [`printable`] for a message of several lines: the names in it may come from a file.
pub fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// `12.6 M`: at most four digits.
pub fn short(value: u64) -> String {
    scaled(value, &[("", 1e0), (" k", 1e3), (" M", 1e6), (" G", 1e9), (" T", 1e12), (" P", 1e15), (" E", 1e18)])
}

/// `93.1 MB`, a megabyte being a million bytes.
pub fn bytes(value: u64) -> String {
    scaled(value, &[(" bytes", 1e0), (" kB", 1e3), (" MB", 1e6), (" GB", 1e9), (" TB", 1e12), (" PB", 1e15)])
}

fn scaled(value: u64, units: &[(&str, f64)]) -> String {
    let value = value as f64;
    let (unit, scale) = units.iter().rev().find(|(_, scale)| value >= *scale).unwrap_or(&units[0]);
    let decimals = match value / scale {
        _ if *scale == 1e0 => 0,
        small if small < 9.995 => 2,
        small if small < 99.95 => 1,
        _ => 0,
    };
    format!("{:.decimals$}{unit}", value / scale)
}

/// `0.8 s`, `48 s`, `12 min 5 s`, `3 h 20 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `14:32 UTC`: the time `seconds` after `now` (seconds since 1970); with the date if that is another day.
pub fn clock(now: u64, seconds: f64) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let then = now.saturating_add(seconds.round() as u64);
    let time = format!("{:02}:{:02} UTC", then % DAY / 3600, then % 3600 / 60);
    if then / DAY == now / DAY {
        return time;
    }
    let (year, month, day) = date(then / DAY);
    format!("{time} on {year}-{month:02}-{day:02}")
}

/// Year, month and day of a day, counted from 1970-01-01. If years start in March, the leap day is at their end, and the
/// lengths of the months repeat as 31 30 31 30 31, which is 153 days for five months.
fn date(day: u64) -> (u64, u64, u64) {
    const FOUR_CENTURIES: u64 = 146_097;
    let day = day + 719_468; // from 0000-03-01
    let (era, day) = (day / FOUR_CENTURIES, day % FOUR_CENTURIES);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // from March
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (400 * era + year, month, day)
}

/// `62.40 % (312 of 500)`.
pub fn share(part: usize, whole: usize) -> String {
    format!("{:.2} % ({part} of {whole})", 100.0 * part as f64 / whole as f64)
}

/// The accuracy of guessing: `10 %` for ten classes.
pub fn chance(classes: usize) -> String {
    let percent = 100.0 / classes as f64;
    if percent.fract() == 0.0 { format!("{percent} %") } else { format!("{percent:.2} %") }
}

/// A path or a value as one word of a shell, for the commands that messages propose: `'my run'`.
pub fn shell(word: impl AsRef<Path>) -> String {
    let word = word.as_ref().display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "_-./,:=@%+".contains(c);
    match word.starts_with('-') || word.is_empty() || !word.chars().all(is_plain) {
        false => word,
        true if cfg!(windows) => format!("\"{word}\""),
        // A word that begins with `-` would be read as a flag.
        true => format!("{}'{}'", if word.starts_with('-') { "./" } else { "" }, word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn words_of_a_shell_are_read_back_by_one() {
        assert_eq!([shell("runs/a-1"), shell("über/ß"), shell("my run")], ["runs/a-1", "über/ß", "'my run'"]);
        assert_eq!(shell("-x"), "./'-x'");
        for word in ["a b", "it's", "$HOME", "a\"b", "`x`", "a\nb", "*", "~", "a;b", "'", "\\", "ä&"] {
            let script = format!("printf %s {}", shell(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn dates_are_counted_day_by_day() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..200_000 {
            assert_eq!(date(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert!(year > 2500);
    }

    #[test]
    fn by_hand() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        let counts = [count(0, "image"), count(1, "image"), count(1, "class"), count(2000, "class")];
        assert_eq!(counts, ["0 images", "1 image", "1 class", "2,000 classes"]);
        assert_eq!([999, 40_551_040, 1_814_073_344].map(short), ["999", "40.6 M", "1.81 G"]);
        assert_eq!([12, 269_722, 152_000_000].map(bytes), ["12 bytes", "270 kB", "152 MB"]);
        assert_eq!([0.84, 48.2, 725.0, 12_000.0].map(duration), ["0.8 s", "48 s", "12 min 5 s", "3 h 20 min"]);
        // 2024-02-28, 23:58:20 UTC.
        let now = 1_709_164_700;
        assert_eq!(clock(now, 99.4), "23:59 UTC");
        assert_eq!(clock(now, 100.0), "00:00 UTC on 2024-02-29");
        assert_eq!(clock(now, 2.0 * 86_400.0), "23:58 UTC on 2024-03-01");
        assert!(clock(now, f64::INFINITY).contains(" UTC on "));
        assert_eq!(share(8731, 10_000), "87.31 % (8731 of 10000)");
        assert_eq!([10, 100, 3].map(chance), ["10 %", "1 %", "33.33 %"]);
    }
}
