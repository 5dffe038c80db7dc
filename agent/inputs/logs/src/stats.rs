//! What the log file input did and how far behind it is, for the admin page and the agent's own metrics.

use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it. Invariant: counters never go down while the agent runs.
#[derive(Debug, Default)]
pub struct Stats {
    reading: Mutex<StatsReading>,
}

/// The account at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatsReading {
    /// Lines handed in.
    pub lines: u64,
    /// Records that they became: a stack trace is one.
    pub records: u64,
    /// Bytes read from files.
    pub bytes: u64,
    /// Lines cut at `line_bytes_max`.
    pub lines_cut: u64,
    /// Times a file was found truncated.
    pub truncations: u64,
    /// Files that vanished before they were read to their end.
    pub vanished: u64,
    /// Files passed over because they look binary.
    pub binary: u64,
    /// Files passed over because `files_max` are followed already.
    pub over_limit: u64,
    /// Reads and opens that failed.
    pub errors: u64,
    /// What the last failure was.
    pub last_error: String,
    /// Bytes handed in that wait for their verdict.
    pub unsettled: u64,
    /// The files followed.
    pub files: Vec<FileStats>,
}

/// One followed file.
#[derive(Clone, Debug, Serialize)]
pub struct FileStats {
    /// Where it was first seen.
    pub path: PathBuf,
    /// Handed in up to here, in bytes.
    pub read: u64,
    /// Durable up to here, in bytes: where a restart goes on.
    pub committed: u64,
    /// Bytes behind `read` that are still to be read, when last looked.
    pub lag: u64,
    /// Records handed in.
    pub records: u64,
}

impl Stats {
    /// A copy of everything.
    pub fn read(&self) -> StatsReading {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Change the account.
    pub(crate) fn update(&self, change: impl FnOnce(&mut StatsReading)) {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
