//! What the input found and did, for the admin page.

use serde::Serialize;
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Reading>);

/// A reading: of the last look, but for what says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// Looks since the start.
    pub looks: u64,
    /// Established connections, of all namespaces.
    pub connections: u64,
    /// Sockets that listen.
    pub listening: u64,
    /// Network namespaces besides the host's.
    pub namespaces: u64,
    /// Connections whose process was not found.
    pub unowned: u64,
    /// Connections of which it is not certain who called.
    pub unclear: u64,
    /// Connections over `sockets.sockets_max`, not looked at.
    pub over_limit: u64,
    /// Edges told.
    pub edges: u64,
    /// Addresses told at which services answer.
    pub endpoints: u64,
    /// Addresses behind which conntrack knows others.
    pub translated: u64,
    /// CPU time of it, in microseconds.
    pub last_cpu_us: u64,
    /// What did not work; empty if all did.
    pub error: String,
}

impl Stats {
    /// A copy.
    pub fn read(&self) -> Reading {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace(&self, reading: Reading) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Reading { looks: last.looks + 1, ..reading };
    }
}
