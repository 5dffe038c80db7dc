//! What the OTLP input did, for the admin page and the agent's own metrics.

use ollystack_receive::Event;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it. Invariant: counters never go down while the agent runs.
#[derive(Debug, Default)]
pub struct Stats {
    reading: Mutex<StatsReading>,
}

/// The account at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatsReading {
    /// Requests whose records are safe.
    pub requests_accepted: u64,
    /// Requests refused, by reason.
    pub requests_refused: BTreeMap<String, u64>,
    /// Records that were not valid, within requests that were accepted.
    pub records_rejected: u64,
    /// Lists and maps that were left out because they were nested too deeply.
    pub values_cut: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections closed at once because too many were open.
    pub connections_refused: u64,
    /// Metric series remembered.
    pub series: u64,
}

impl Stats {
    /// A copy of everything.
    pub fn read(&self) -> StatsReading {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut StatsReading)) {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn observe(&self, event: Event) {
        self.update(|reading| match event {
            Event::ConnectionOpened => reading.connections += 1,
            Event::ConnectionClosed => reading.connections = reading.connections.saturating_sub(1),
            Event::ConnectionRefused(_) => reading.connections_refused += 1,
            Event::HandshakeFailed => {}
            Event::Answered { reason: "", values_cut, .. } => {
                reading.requests_accepted += 1;
                reading.values_cut += values_cut;
            }
            Event::Answered { reason, .. } => {
                *reading.requests_refused.entry(reason.to_owned()).or_default() += 1;
            }
        });
    }
}
