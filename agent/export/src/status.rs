//! How sending goes, for `status`, /healthz and the agent's own metrics.

use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Shared with whoever shows it. Invariant: counters never go down while the agent runs.
#[derive(Debug, Default)]
pub struct Status {
    reading: Mutex<StatusReading>,
}

/// The account at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatusReading {
    /// In a word or two: `starting`, `sending`, `unreachable`, `throttled`, `key refused`, `not OTLP`.
    pub state: &'static str,
    /// Batches that the endpoint took.
    pub batches_sent: u64,
    /// Attempts that failed, those that were made again included.
    pub attempts_failed: u64,
    /// Of those, in a row until now.
    pub consecutive_failures: u32,
    /// Batches that the endpoint refused for good.
    pub batches_refused: u64,
    /// When the endpoint last took a batch.
    pub last_success_unix_ms: Option<u64>,
    /// When an attempt last failed.
    pub last_error_unix_ms: Option<u64>,
    /// Why it did, and what to check.
    pub last_error: Option<String>,
}

impl Status {
    /// A copy of everything.
    pub fn read(&self) -> StatusReading {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone();
        StatusReading { state: if reading.state.is_empty() { "starting" } else { reading.state }, ..reading }
    }

    pub(crate) fn success(&self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.state = "sending";
        reading.batches_sent += 1;
        reading.consecutive_failures = 0;
        reading.last_success_unix_ms = now();
    }

    pub(crate) fn failure(&self, state: &'static str, consecutive: u32, error: String) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.state = state;
        reading.attempts_failed += 1;
        reading.consecutive_failures = consecutive;
        reading.last_error_unix_ms = now();
        reading.last_error = Some(error);
    }

    pub(crate) fn refused(&self, error: String) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.state = "sending";
        reading.attempts_failed += 1;
        reading.consecutive_failures = 0;
        reading.batches_refused += 1;
        reading.last_error_unix_ms = now();
        reading.last_error = Some(error);
    }
}

fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_millis() as u64)
}
