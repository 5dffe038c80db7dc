//! What the journal input did, for the admin page and the agent's own metrics.

use serde::Serialize;
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it. Invariant: counters never go down while the agent runs.
#[derive(Debug, Default)]
pub struct Stats {
    reading: Mutex<StatsReading>,
}

/// The account at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatsReading {
    /// Entries read.
    pub entries: u64,
    /// Records that they became: a stack trace is one.
    pub records: u64,
    /// Entries passed over: of excluded units, or without a message.
    pub passed_over: u64,
    /// Lines of journalctl that were no entry.
    pub malformed: u64,
    /// Messages cut at `message_bytes_max`.
    pub messages_cut: u64,
    /// Times journalctl was started again.
    pub restarts: u64,
    /// Times the place to go on from was not in the journal any more.
    pub places_lost: u64,
    /// What journalctl said last when it failed.
    pub last_error: String,
    /// The cursor of the last entry that is durable: where a restart goes on.
    pub committed: String,
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
