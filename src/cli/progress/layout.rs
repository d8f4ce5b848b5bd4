//! Fits the progress lines into the width of the terminal.

/// Columns that stay free at the end of a line: for `^C`, and because a cursor after the last column would wrap.
const FREE: usize = 3;

/// With fewer columns there is no bar.
const LEAST: usize = 50;

/// One of the two progress lines, before it is fitted.
pub struct Line {
    /// `epoch 3/40`.
    pub name: String,
    /// `120/391`.
    pub count: String,
    /// The most important first.
    pub parts: Vec<String>,
}

/// The number of characters between the brackets of a bar; `None` if there is no room for a bar.
pub fn bar(columns: usize) -> Option<usize> {
    (columns >= LEAST).then(|| (columns.saturating_sub(56) / 2).clamp(4, 24))
}

/// The texts before and after the bars: the names padded to the same width, the counts, and as many parts as fit.
pub fn fit(lines: &[Line; 2], columns: usize) -> [[String; 2]; 2] {
    let longest = |of: fn(&Line) -> &String| lines.iter().map(|line| of(line).len()).max().unwrap_or(0);
    let (name_width, count_width) = (longest(|line| &line.name), longest(|line| &line.count));
    lines.each_ref().map(|line| {
        let name = format!("{:<name_width$}", line.name);
        let mut text = format!("{:>count_width$}", line.count);
        let before = name.len() + bar(columns).map_or(1, |bar| bar + 4);
        for (place, part) in line.parts.iter().enumerate() {
            let longer = format!("{text}{}{part}", if place == 0 { "  " } else { ", " });
            if before + longer.len() + FREE > columns {
                break;
            }
            text = longer;
        }
        [name, text]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> [Line; 2] {
        let line = |name: &str, count: &str, parts: [&str; 3]| Line {
            name: name.to_string(),
            count: count.to_string(),
            parts: parts.map(String::from).to_vec(),
        };
        [
            line("epoch 12/40", "120/391", ["loss 1.234", "accuracy 45.6 %", "812 images/s"]),
            line("run", "29 %", ["38 min 12 s left", "66.1 GFLOP/s", "until about 14:32 UTC"]),
        ]
    }

    fn shown(columns: usize) -> [String; 2] {
        fit(&lines(), columns).map(|[name, text]| match bar(columns) {
            Some(bar) => format!("{name} [{}] {text}", "=".repeat(bar)),
            None => format!("{name} {text}"),
        })
    }

    #[test]
    fn narrow_terminals_are_told_less() {
        assert_eq!(
            shown(120),
            [
                "epoch 12/40 [========================] 120/391  loss 1.234, accuracy 45.6 %, 812 images/s",
                "run         [========================]    29 %  38 min 12 s left, 66.1 GFLOP/s, until about 14:32 UTC",
            ]
        );
        assert_eq!(
            shown(80),
            [
                "epoch 12/40 [============] 120/391  loss 1.234, accuracy 45.6 %, 812 images/s",
                "run         [============]    29 %  38 min 12 s left, 66.1 GFLOP/s",
            ]
        );
        assert_eq!(
            shown(60),
            ["epoch 12/40 [====] 120/391  loss 1.234, accuracy 45.6 %", "run         [====]    29 %  38 min 12 s left",]
        );
        assert_eq!(shown(40), ["epoch 12/40 120/391  loss 1.234", "run            29 %  38 min 12 s left"]);
        assert_eq!(shown(30), ["epoch 12/40 120/391", "run            29 %"]);
    }

    #[test]
    fn no_line_reaches_the_last_columns() {
        for columns in 22..200 {
            let lines = shown(columns);
            assert!(lines.iter().all(|line| line.len() + FREE <= columns), "{columns}: {lines:?}");
        }
    }
}
