//! Aligned text tables for the terminal: `status` and `doctor` hand in rows, and print what comes out.

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Characters that the last column has on the narrowest terminal.
const LAST_COLUMN_MIN: usize = 24;

/// Rows of equal length under a head.
#[derive(Debug)]
pub(crate) struct Table {
    head: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub(crate) fn new<'a>(head: impl IntoIterator<Item = (&'a str, Align)>) -> Table {
        Table { head: head.into_iter().map(|(name, align)| (name.to_owned(), align)).collect(), rows: Vec::new() }
    }

    /// Add a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The whole, two spaces between columns, no trailing blanks. The last column wraps at `width` under itself.
    pub(crate) fn render(&self, width: usize) -> String {
        self.lay_out(|cell, indent| wrap(cell, width.saturating_sub(indent).max(LAST_COLUMN_MIN), indent))
    }

    /// As [`Table::render`], but the last column is cut at `width`: one row is one line.
    pub(crate) fn render_cut(&self, width: usize) -> String {
        self.lay_out(|cell, indent| cut(cell, width.saturating_sub(indent).max(LAST_COLUMN_MIN)))
    }

    /// `last_cell` makes the text of a cell in the last column, which begins after `indent` characters.
    fn lay_out(&self, last_cell: impl Fn(&str, usize) -> String) -> String {
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
                cells.chain([self.head[column].0.chars().count()]).max().unwrap_or(0)
            })
            .collect();
        let indent: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        let head: Vec<String> = self.head.iter().map(|(name, _)| name.clone()).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let blanks = " ".repeat(widths.get(column).copied().unwrap_or(0).saturating_sub(cell.chars().count()));
                let right = self.head.get(column).is_some_and(|(_, align)| *align == Align::Right);
                let last = column + 1 == self.head.len();
                match (right, last) {
                    (true, _) => line.push_str(&format!("{blanks}{cell}  ")),
                    (false, false) => line.push_str(&format!("{cell}{blanks}  ")),
                    (false, true) => line.push_str(&last_cell(cell, indent)),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// At most `width` characters; `…` stands for what is not there.
fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width.saturating_sub(1)) {
        Some((at, last)) if at + last.len_utf8() < text.len() => format!("{}…", text[..at].trim_end()),
        _ => text.to_owned(),
    }
}

/// Break at spaces; continuation lines are indented.
fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            used = 0;
        } else if used > 0 {
            wrapped.push(' ');
            used += 1;
        }
        wrapped.push_str(word);
        used += length;
    }
    wrapped
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit and three significant digits: `31.4 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number} B"),
        _ if value < 10.0 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 100.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Seconds as people say them: `2 d 3 h`, `4 min 5 s`, `12 s`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_last_one_wraps_under_itself() {
        let mut table = Table::new([("name", Align::Left), ("count", Align::Right), ("why", Align::Left)]);
        table.row(["a".into(), "1".into(), "short".into()]);
        table.row(["longer".into(), "1,000".into(), "a reason that is longer than the line".into()]);
        let expected = "\
name    count  why
a           1  short
longer  1,000  a reason that is longer
               than the line
";
        assert_eq!(table.render(30), expected);
    }

    #[test]
    fn a_cut_cell_is_as_wide_as_it_may_be_and_says_that_it_was_cut() {
        let cells = [("12345", "12345"), ("123456", "1234…"), ("äöü€ñß", "äöü€…"), ("abc def", "abc…"), ("", "")];
        for (text, expected) in cells {
            assert_eq!(cut(text, 5), expected, "{text}");
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567), grouped(-1000)], ["0", "999", "1,234,567", "-1,000"]);
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1536), bytes(32_900_000)],
            ["0 B", "1.00 KiB", "1.50 KiB", "31.4 MiB"]
        );
        assert_eq!(
            [duration(59), duration(61), duration(7200), duration(90_000)],
            ["59 s", "1 min 1 s", "2 h 0 min", "1 d 1 h"]
        );
    }
}
