//! What a bench found: a table for people, notes on how it was measured, and the figures by name for programs.
//!
//! A stage's bench prints one as JSON on its standard output. Invariant: table and figures come from one run.

use serde::Deserialize;
use serde_json::{Map, Value};

/// As a bench gives it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    /// Heads of the table.
    pub(super) columns: Vec<String>,
    /// As many cells each as there are columns.
    pub(super) rows: Vec<Vec<String>>,
    /// Sentences: load, basis, limits of what is said.
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// Named with their unit last: `rss_bytes_max`.
    pub(super) figures: Map<String, Value>,
}

impl Report {
    /// Table and notes. A column of numbers is aligned to the right.
    pub(super) fn render(&self) -> String {
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |at: usize| lines().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max();
        let numeric = |at: usize| at > 0 && self.rows.iter().filter_map(|row| row.get(at)).all(|cell| is_number(cell));
        let columns: Vec<(usize, bool)> =
            (0..self.columns.len()).map(|at| (width(at).unwrap_or_default(), numeric(at))).collect();
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().zip(&columns).map(|(cell, &(width, right))| {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                if right { format!("{pad}{cell}") } else { format!("{cell}{pad}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(&format!("  {}\n", line.trim_end()));
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(&format!("  {note}\n"));
        }
        text
    }
}

/// A digit somewhere near its front: `12.3`, `-4%`, `~5 MB`; or nothing to say.
fn is_number(cell: &str) -> bool {
    cell.is_empty()
        || cell == "-"
        || cell.trim_start_matches(['-', '+', '~', '<', '>', '=', ' ']).starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_to_the_left_numbers_to_the_right_and_notes_below() {
        let json = r#"{"columns": ["series", "rate"], "rows": [["1000", "9"], ["100", "12.5"]],
            "notes": ["on one core"], "figures": {"rate": 9.0}}"#;
        let report: Report = serde_json::from_str(json).unwrap();
        assert_eq!(report.render(), "  series  rate\n  1000       9\n  100     12.5\n\n  on one core\n");
    }

    #[test]
    fn a_report_with_a_field_that_nobody_knows_is_refused() {
        assert!(serde_json::from_str::<Report>(r#"{"columns": [], "rows": [], "figures": {}, "note": []}"#).is_err());
    }
}
