//! What a torture found: figures, remarks, and every promise that was broken.
//!
//! Invariant: a report with a violation never passes.

use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Violations that are shown; the number of all is.
const SHOWN_MAX: usize = 20;

/// One torture's outcome.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
    notes: Vec<String>,
    violations: Vec<String>,
}

impl Report {
    /// A figure, named with its unit last; the last value of a name counts.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Adds to a figure that counts.
    pub(crate) fn add(&mut self, name: &str, value: u64) {
        self.figure(name, self.count(name) + value);
    }

    /// A figure that counts, so far.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.figures.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Keeps the largest of a figure.
    pub(crate) fn most(&mut self, name: &str, value: u64) {
        self.figure(name, self.count(name).max(value));
    }

    /// What a reader should know beside the figures.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A promise was broken.
    pub(crate) fn violation(&mut self, text: impl Into<String>) {
        self.violations.push(text.into());
    }

    /// A broken promise unless `holds`.
    pub(crate) fn must(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(text());
        }
    }

    /// Puts another one to it: figures with the same name are added up.
    pub(crate) fn merge(&mut self, other: Report) {
        for (name, value) in other.figures {
            match value.as_u64() {
                Some(count) => self.add(&name, count),
                None => self.figure(&name, value),
            }
        }
        self.notes.extend(other.notes);
        self.violations.extend(other.violations);
    }

    /// Whether every promise held.
    pub(crate) fn held(&self) -> bool {
        self.violations.is_empty()
    }

    pub(crate) fn json(&self, seed: u64) -> Value {
        json!({"held": self.held(), "seed": seed, "figures": self.figures, "notes": self.notes, "violations": self.violations})
    }

    pub(crate) fn render(&self, name: &str, replay: &str) -> String {
        let mut text = format!("{name}: {}\n", if self.held() { "held" } else { "BROKEN" });
        let width = self.figures.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, value) in &self.figures {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(text, "  {name:<width$}  {value}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        for violation in self.violations.iter().take(SHOWN_MAX) {
            let _ = writeln!(text, "  BROKEN: {violation}");
        }
        if self.violations.len() > SHOWN_MAX {
            let _ = writeln!(text, "  and {} more", self.violations.len() - SHOWN_MAX);
        }
        if !self.held() {
            let _ = writeln!(text, "  again: {replay}");
        }
        text
    }
}
