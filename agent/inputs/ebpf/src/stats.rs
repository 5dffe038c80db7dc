//! What the eBPF input did, for the admin page and the agent's own metrics.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it. Counters only grow.
#[derive(Debug, Default)]
pub struct Stats {
    pub(crate) map_bytes: AtomicU64,
    pub(crate) process_events: AtomicU64,
    pub(crate) tcp_events: AtomicU64,
    pub(crate) http_events: AtomicU64,
    pub(crate) http_spans: AtomicU64,
    pub(crate) http_unanswered: AtomicU64,
    pub(crate) http_unpaired: AtomicU64,
    pub(crate) http_heads_cut: AtomicU64,
    pub(crate) ring_failures: AtomicU64,
    pub(crate) drains_put_off: AtomicU64,
    features: Mutex<Vec<Feature>>,
}

/// A feature as it runs.
#[derive(Clone, Debug, Serialize)]
pub struct Feature {
    /// For example `ebpf.http`.
    pub name: &'static str,
    /// How it is attached, for example `tracepoints`; `off` if it is not.
    pub rung: &'static str,
}

/// A reading.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    /// Bytes that the kernel holds for the agent's maps. They count against the agent's memory.
    pub map_bytes: u64,
    /// Process starts and ends read.
    pub process_events: u64,
    /// TCP events read.
    pub tcp_events: u64,
    /// HTTP heads and closes read.
    pub http_events: u64,
    /// Spans made.
    pub http_spans: u64,
    /// Requests whose answer was not seen: their connection ended, or was silent for minutes.
    pub http_unanswered: u64,
    /// Responses whose request was not seen.
    pub http_unpaired: u64,
    /// Heads cut short or left out because a ring was filling or memory was short; their metadata came.
    pub http_heads_cut: u64,
    /// Records that did not fit into a ring. The ledger has them as dropped.
    pub ring_failures: u64,
    /// Times at which the rings were not looked into, as CPU time was used up.
    pub drains_put_off: u64,
    /// One per feature.
    pub features: Vec<Feature>,
}

impl Stats {
    /// Everything at one moment.
    pub fn read(&self) -> Reading {
        Reading {
            map_bytes: self.map_bytes.load(Relaxed),
            process_events: self.process_events.load(Relaxed),
            tcp_events: self.tcp_events.load(Relaxed),
            http_events: self.http_events.load(Relaxed),
            http_spans: self.http_spans.load(Relaxed),
            http_unanswered: self.http_unanswered.load(Relaxed),
            http_unpaired: self.http_unpaired.load(Relaxed),
            http_heads_cut: self.http_heads_cut.load(Relaxed),
            ring_failures: self.ring_failures.load(Relaxed),
            drains_put_off: self.drains_put_off.load(Relaxed),
            features: self.features.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Bytes that the kernel holds for the agent's maps.
    pub fn map_bytes(&self) -> u64 {
        self.map_bytes.load(Relaxed)
    }

    pub(crate) fn set_features(&self, features: Vec<Feature>) {
        *self.features.lock().unwrap_or_else(PoisonError::into_inner) = features;
    }
}

/// Add to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}
