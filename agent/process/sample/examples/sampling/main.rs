//! Tail sampling on traces with known truth: what was kept that should be, whether weights are unbiased, whether the budget was met,
//! what a span costs and what it takes while it waits.
//!
//! `cargo xtask bench sampling`. Prints one JSON object: a table, notes, and figures by name. Everything is drawn from fixed seeds and
//! runs by a clock of its own; only the speed differs from run to run.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

mod memory;
mod speed;
mod traffic;
mod truth;

use serde_json::{Map, Value, json};
use std::alloc::System;

/// Counts what is allocated, for `memory`.
#[global_allocator]
static ALLOCATOR: cap::Cap<System> = cap::Cap::new(System, usize::MAX);

/// The table and the figures as they fill.
#[derive(Default)]
struct Report {
    rows: Vec<[String; 3]>,
    figures: Map<String, Value>,
}

impl Report {
    /// A figure, and how it is shown beside what it should be.
    fn add(&mut self, what: &str, name: &str, value: f64, shown: String, aim: &str) {
        self.rows.push([what.to_owned(), shown, aim.to_owned()]);
        self.figures.insert(name.to_owned(), value.into());
    }

    fn share(&mut self, what: &str, name: &str, of: (u64, u64), aim: &str) {
        let (kept, all) = of;
        let share = kept as f64 / all as f64;
        self.add(what, name, share, format!("{:.3}% of {all}", 100.0 * share), aim);
    }
}

/// What leaves at once, as the agent has it.
const PORTION_BYTES: usize = 128 << 10;

fn main() {
    let mut report = Report::default();
    truth::run(&mut report);
    speed::run(&mut report);
    memory::run(&mut report);
    let notes = [
        truth::NOTES,
        &["speed: CPU time of the one thread, over `Process` (RED metrics, sampling) and over sampling alone, 10 spans a trace"],
        &["memory: counted by the allocator, spans of 8 attributes, beside their size as OTLP"],
    ]
    .concat();
    let json = json!({
        "columns": ["what", "found", "aim"],
        "rows": report.rows,
        "notes": notes,
        "figures": report.figures,
    });
    println!("{json}");
}
