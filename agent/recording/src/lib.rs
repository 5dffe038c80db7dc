//! Batches in a file: what the agent's inputs handed in, record for record, and when it came.
//!
//! `ollystack-agent record` writes with [`Writer`], benches read with [`Reader`]. Nothing is rounded or left out: what is read
//! is what was written, but for acknowledgements. One second of a host is a few hundred samples of series that repeat, so
//! series are described once and samples are columns of differences; a 10-minute recording takes about two bytes a sample.
//!
//! # Format, version 1
//!
//! [`MAGIC`], then one zstd stream of entries: kind (one byte), length (varint), body.
//!
//! | kind | body |
//! |---|---|
//! | 1 resource | OTLP `Resource`; the first has number 0, the next 1 |
//! | 2 series | OTLP `ScopeMetrics` of one metric with one point that has attributes alone; numbered like resources |
//! | 3 metrics | head, then `n` samples as columns, see [`samples`] |
//! | 4 logs | head, then OTLP `ResourceLogs` without its resource |
//! | 5 traces | head, then OTLP `ResourceSpans` without its resource |
//! | 6 forget | empty: resources and series are numbered from 0 again, so that a long recording needs no more memory than a short one |
//!
//! The head of a batch: zigzag varint of nanoseconds since the batch before came (of the first: since the epoch), source (one
//! byte, its place in [`Source::ALL`](ollystack_record::Source::ALL)), number of the resource (varint).
//!
//! Invariant: a reader refuses what no writer made, by entry, and holds no more than one entry and the numbered resources and series.

mod describe;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod read;
pub mod samples;
mod varint;
mod write;

pub use read::{Reader, Recorded};
pub use write::Writer;

/// The first bytes of a file: name and version.
pub const MAGIC: [u8; 8] = *b"ollyrec1";

/// One entry: far more than any batch, which the intake bounds.
const ENTRY_BYTES_MAX: usize = 64 << 20;
/// Resources and series with numbers: about 100 MB at 1 kB each, the agent's own limits are far below.
const NUMBERS_MAX: usize = 100_000;

const RESOURCE: u8 = 1;
const SERIES: u8 = 2;
const METRICS: u8 = 3;
const LOGS: u8 = 4;
const TRACES: u8 = 5;
const FORGET: u8 = 6;

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system, or compressed data that is damaged or cut off.
    #[error("the recording cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// Another file.
    #[error("the file does not begin with {}: it is no recording of this version", MAGIC.escape_ascii())]
    NoRecording,
    /// An entry that no writer makes.
    #[error("entry {entry} of the recording is damaged: {what}")]
    Damaged {
        /// Counted from 1.
        entry: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}
