//! What was found in the lines, as a table for people or JSON for programs.
//!
//! Invariant: shares are of all lines read, and what the table leaves out is said below it.

use super::Tally;
use crate::table::{Align, Table, bytes, grouped};
use ollystack_patterns::PatternId;
use ollystack_record::otlp::logs::v1::SeverityNumber;
use serde_json::json;
use std::time::Duration;

/// One pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    pub(super) id: PatternId,
    pub(super) tally: Tally,
    pub(super) template: String,
}

/// All of them, the most frequent first; of equally frequent ones the one that came first.
#[derive(Debug)]
pub(super) struct Found {
    patterns: Vec<Pattern>,
    forgotten: Tally,
    lines: u64,
    bytes: u64,
    took: Duration,
}

impl Found {
    pub(super) fn new(mut patterns: Vec<Pattern>, forgotten: Tally, lines: u64, bytes: u64, took: Duration) -> Found {
        patterns.sort_by_key(|pattern| (std::cmp::Reverse(pattern.tally.lines), pattern.tally.first));
        Found { patterns, forgotten, lines, bytes, took }
    }

    /// The table, its last column cut to `width` where there is one.
    pub(super) fn render(&self, top: usize, width: Option<usize>) -> String {
        let mut table = Table::new([
            ("lines", Align::Right),
            ("share", Align::Right),
            ("severity", Align::Left),
            ("id", Align::Right),
            ("pattern", Align::Left),
        ]);
        for Pattern { id, tally, template } in self.patterns.iter().take(top) {
            let (lines, share) = (grouped(tally.lines as i64), percent(tally.lines, self.lines));
            let severity = tally.severity.map_or("-", severity).to_owned();
            table.row([lines, share, severity, id.to_string(), printable(template)]);
        }
        let mut text = match width {
            Some(width) => table.render_cut(width),
            None => table.render(usize::MAX),
        };
        if let Some(rest) = self.patterns.get(top..).filter(|rest| !rest.is_empty()) {
            let lines: u64 = rest.iter().map(|pattern| pattern.tally.lines).sum();
            let (count, s) = (grouped(rest.len() as i64), if rest.len() == 1 { "" } else { "s" });
            let (lines, share) = (grouped(lines as i64), percent(lines, self.lines));
            text.push_str(&format!("and {count} more pattern{s} with {lines} lines, {share}; --top 0 shows all\n"));
        }
        if self.forgotten.lines > 0 {
            let (lines, share) = (grouped(self.forgotten.lines as i64), percent(self.forgotten.lines, self.lines));
            text.push_str(&format!("and {lines} lines, {share}, of patterns that were forgotten for want of room\n"));
        }
        let seconds = self.took.as_secs_f64();
        let rate = grouped((self.lines as f64 / seconds.max(1e-6)) as i64);
        text.push_str(&format!(
            "\n{} lines ({}) in {} patterns; {seconds:.2} s, {rate} lines/s\n",
            grouped(self.lines as i64),
            bytes(self.bytes),
            grouped(self.patterns.len() as i64)
        ));
        text
    }

    /// One object.
    pub(super) fn as_json(&self, top: usize) -> String {
        let top = self.patterns.iter().take(top).map(|Pattern { id, tally, template }| {
            json!({
                "id": id.get(),
                "lines": tally.lines,
                "share": tally.lines as f64 / self.lines.max(1) as f64,
                "severity": tally.severity.map(severity),
                "first_line": tally.first,
                "template": template,
            })
        });
        let whole = json!({
            "lines": self.lines,
            "bytes": self.bytes,
            "patterns": self.patterns.len(),
            "forgotten_lines": self.forgotten.lines,
            "seconds": self.took.as_secs_f64(),
            "top": top.collect::<Vec<_>>(),
        });
        format!("{whole}\n")
    }
}

/// One decimal, and no share that there is reads as none.
fn percent(part: u64, whole: u64) -> String {
    match 100.0 * part as f64 / whole.max(1) as f64 {
        percent if percent < 0.05 && part > 0 => "<0.1%".to_owned(),
        percent => format!("{percent:.1}%"),
    }
}

/// The six of OpenTelemetry, each with four numbers.
fn severity(number: SeverityNumber) -> &'static str {
    match number as i32 {
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "fatal",
        _ => "-",
    }
}

/// Log lines may hold what steers a terminal: it is shown, not obeyed.
fn printable(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    for character in template.chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_patterns::{Config, Miner};

    fn found(lines: &[(u64, &str)]) -> Found {
        let mut miner = Miner::new(Config::default());
        let mut pattern = |first: usize, lines: u64, template: &str| Pattern {
            id: miner.observe(template).id,
            tally: Tally { lines, first: first as u64, severity: None },
            template: template.to_owned(),
        };
        let patterns = lines.iter().enumerate().map(|(n, (lines, template))| pattern(n, *lines, template)).collect();
        let total = lines.iter().map(|(lines, _)| lines).sum();
        Found::new(patterns, Tally::default(), total, 1 << 20, Duration::from_millis(500))
    }

    #[test]
    fn the_table_reads_well() {
        let text = found(&[(1, "rare"), (1_999_998, "user <*> left"), (1, "rare too")]).render(2, None);
        let expected = "    lines   share  severity  id  pattern
1,999,998  100.0%  -          2  user <*> left
        1   <0.1%  -          1  rare
and 1 more pattern with 1 lines, <0.1%; --top 0 shows all

2,000,000 lines (1.00 MiB) in 3 patterns; 0.50 s, 4,000,000 lines/s
";
        assert_eq!(text, expected);
    }

    #[test]
    fn patterns_are_cut_to_a_terminal_and_never_for_a_program() {
        let long = "a-word-".repeat(40);
        let found = found(&[(5, &long)]);
        let row = |width| found.render(1, width).lines().nth(1).unwrap().to_owned();
        assert!(row(Some(80)).chars().count() == 80 && row(Some(80)).ends_with('…'), "{}", row(Some(80)));
        assert!(row(None).ends_with(&long));
    }

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_obeyed() {
        let text = found(&[(1, "a\u{1b}[31m\tb")]).render(1, None);
        assert!(text.contains("a\\u{1b}[31m\\tb") && !text.contains('\u{1b}'), "{text}");
    }
}
