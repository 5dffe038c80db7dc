//! What a log line says of itself: when, how bad, and what is left once that is taken off.
//!
//! From the text of a record to [`Parsed`], which borrows from it. Invariant: nothing here fails or allocates; a line without
//! a known shape is its own message.

use crate::severity;
use ollystack_record::otlp::logs::v1::SeverityNumber;

/// What a line says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parsed<'a> {
    /// Its time, nanoseconds since the epoch, if it states one.
    pub time_unix_nano: Option<u64>,
    /// Its severity and the word that says so.
    pub severity: Option<(SeverityNumber, &'a str)>,
    /// What is left after time, host, process, severity, thread and component: the text that patterns are mined from.
    pub message: &'a str,
    /// The trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The span it belongs to.
    pub span_id: Option<[u8; 8]>,
}

/// Parse one line.
pub fn parse(line: &str) -> Parsed<'_> {
    Parsed { severity: severity::of_line(line), message: line, ..Parsed::default() }
}
