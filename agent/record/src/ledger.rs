//! The ledger: what happened to every record, by signal and reason.
//!
//! Per signal, in records (data points, log records, spans):
//! `seen + carried = sent + folded + sampled out + suppressed + dropped(reason) + waiting(place)`.
//! Outcomes are counters; `waiting` is measured by whoever holds records (a queue, the open windows, the sampler, the
//! buffer), not derived from the counters, so a balance other than zero means that a record was lost uncounted.
//! `carried` is what the buffer already held when this process started.

use crate::Signal;
use serde::Serialize;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Why records were dropped. Every reason is one counter; add here, and `status`, /metrics and ClickHouse show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum DropReason {
    /// The intake queue was full and the input cannot wait (host samples, kernel events).
    QueueFull,
    /// The kernel ring was full: the event never reached the agent.
    KernelRingFull,
    /// More series than the cap.
    SeriesLimit,
    /// More waiting traces than the cap.
    TraceLimit,
    /// Memory was at its ceiling, and the input cannot wait (host samples, kernel events).
    MemoryLimit,
    /// The disk buffer was full and this was the least valuable.
    BufferEvicted,
    /// The disk refused (full, failing).
    BufferFailed,
    /// A damaged segment was set aside.
    BufferCorrupt,
    /// One record alone is larger than what may be sent.
    TooLarge,
    /// The endpoint refused for good: bad request, permission, unknown method.
    Refused,
    /// The endpoint took the batch and rejected these records of it.
    PartialSuccess,
    /// A line that is not valid or too long was cut or skipped.
    Malformed,
    /// The log file was truncated or vanished before it was read to its end.
    SourceVanished,
    /// Stopped before the disk could take it.
    Shutdown,
    /// Acknowledged into an open window that a crash took.
    Crash,
}

impl DropReason {
    /// All, in order.
    pub const ALL: [DropReason; 15] = [
        DropReason::QueueFull,
        DropReason::KernelRingFull,
        DropReason::SeriesLimit,
        DropReason::TraceLimit,
        DropReason::MemoryLimit,
        DropReason::BufferEvicted,
        DropReason::BufferFailed,
        DropReason::BufferCorrupt,
        DropReason::TooLarge,
        DropReason::Refused,
        DropReason::PartialSuccess,
        DropReason::Malformed,
        DropReason::SourceVanished,
        DropReason::Shutdown,
        DropReason::Crash,
    ];

    /// Snake-case name, as in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::QueueFull => "queue_full",
            DropReason::KernelRingFull => "kernel_ring_full",
            DropReason::SeriesLimit => "series_limit",
            DropReason::TraceLimit => "trace_limit",
            DropReason::MemoryLimit => "memory_limit",
            DropReason::BufferEvicted => "buffer_evicted",
            DropReason::BufferFailed => "buffer_failed",
            DropReason::BufferCorrupt => "buffer_corrupt",
            DropReason::TooLarge => "too_large",
            DropReason::Refused => "refused",
            DropReason::PartialSuccess => "partial_success",
            DropReason::Malformed => "malformed",
            DropReason::SourceVanished => "source_vanished",
            DropReason::Shutdown => "shutdown",
            DropReason::Crash => "crash",
        }
    }
}

/// Where records wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Place {
    /// Between an input and `process`.
    Queue,
    /// Points of open windows.
    Window,
    /// Spans of undecided traces.
    Sampler,
    /// Reduced, on the way to the disk.
    Freezer,
    /// On disk, not yet acknowledged by the endpoint.
    Buffer,
}

impl Place {
    /// All, in the order of the way.
    pub const ALL: [Place; 5] = [Place::Queue, Place::Window, Place::Sampler, Place::Freezer, Place::Buffer];

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        ["queue", "window", "sampler", "freezer", "buffer"][self as usize]
    }
}

#[derive(Debug, Default)]
struct Account {
    seen: AtomicU64,
    carried: AtomicU64,
    sent: AtomicU64,
    folded: AtomicU64,
    sampled_out: AtomicU64,
    suppressed: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    waiting: [AtomicI64; Place::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// One account per signal. Shared by reference; every method is a relaxed atomic.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: [Account; 3],
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(&self, signal: Signal, records: u64) {
            self.accounts[signal as usize].$name.fetch_add(records, Relaxed);
        })*
    };
}

impl Ledger {
    counters! {
        /// Records that entered the agent.
        seen,
        /// Records the buffer held when this process started.
        carried,
        /// Records the endpoint acknowledged.
        sent,
        /// Samples merged into a point that another sample opened; log lines merged into a pattern's count.
        folded,
        /// Spans that sampling let go, after they were counted in RED metrics.
        sampled_out,
        /// Records held back because they say nothing new.
        suppressed,
        /// Bytes the records would take as OTLP, uncompressed, before reduction.
        bytes_in,
        /// Bytes that went over the wire, compressed, acknowledged.
        bytes_out,
    }

    /// Records lost, and why.
    pub fn dropped(&self, signal: Signal, reason: DropReason, records: u64) {
        self.accounts[signal as usize].dropped[reason as usize].fetch_add(records, Relaxed);
    }

    /// Records that began (positive) or ceased (negative) to wait at a place that counts changes.
    pub fn waiting_add(&self, signal: Signal, place: Place, change: i64) {
        self.accounts[signal as usize].waiting[place as usize].fetch_add(change, Relaxed);
    }

    /// Records that wait at a place that measures itself.
    pub fn waiting_set(&self, signal: Signal, place: Place, records: u64) {
        self.accounts[signal as usize].waiting[place as usize].store(records as i64, Relaxed);
    }

    /// Records that wait at a place now. Below zero for a moment when who takes them is faster than who counts them in.
    pub fn waiting(&self, signal: Signal, place: Place) -> i64 {
        self.accounts[signal as usize].waiting[place as usize].load(Relaxed)
    }

    /// A reading of everything. Consistent when nothing moves; off by what moved meanwhile otherwise.
    pub fn read(&self) -> Reading {
        Reading { signals: Signal::ALL.map(|signal| self.accounts[signal as usize].read(signal)) }
    }
}

impl Account {
    fn read(&self, signal: Signal) -> SignalReading {
        let dropped = DropReason::ALL.map(|r| (r.name(), self.dropped[r as usize].load(Relaxed))).to_vec();
        let waiting = Place::ALL.map(|p| (p.name(), self.waiting[p as usize].load(Relaxed))).to_vec();
        SignalReading {
            signal,
            seen: self.seen.load(Relaxed),
            carried: self.carried.load(Relaxed),
            sent: self.sent.load(Relaxed),
            folded: self.folded.load(Relaxed),
            sampled_out: self.sampled_out.load(Relaxed),
            suppressed: self.suppressed.load(Relaxed),
            dropped,
            waiting,
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

/// The ledger at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    /// One per signal, in order.
    pub signals: [SignalReading; 3],
}

/// One signal's account at one moment. All in records, but for the bytes.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)] // named as the counters of `Ledger`, documented there
pub struct SignalReading {
    pub signal: Signal,
    pub seen: u64,
    pub carried: u64,
    pub sent: u64,
    pub folded: u64,
    pub sampled_out: u64,
    pub suppressed: u64,
    #[serde(serialize_with = "as_map")]
    pub dropped: Vec<(&'static str, u64)>,
    #[serde(serialize_with = "as_map")]
    pub waiting: Vec<(&'static str, i64)>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl SignalReading {
    /// Dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, records)| records).sum()
    }

    /// Waiting anywhere.
    pub fn waiting_total(&self) -> i64 {
        self.waiting.iter().map(|(_, records)| records).sum()
    }

    /// What went in minus what is accounted for: zero when nothing was lost uncounted.
    pub fn balance(&self) -> i64 {
        let out = self.sent + self.folded + self.sampled_out + self.suppressed + self.dropped_total();
        (self.seen + self.carried) as i64 - out as i64 - self.waiting_total()
    }
}

fn as_map<S: serde::Serializer, V: Serialize>(pairs: &[(&'static str, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balance_is_zero_when_every_record_is_accounted_for() {
        let ledger = Ledger::default();
        ledger.seen(Signal::Metrics, 10);
        ledger.folded(Signal::Metrics, 6);
        ledger.sent(Signal::Metrics, 1);
        ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, 1);
        ledger.waiting_set(Signal::Metrics, Place::Window, 2);
        assert_eq!(ledger.read().signals[0].balance(), 0);
        ledger.seen(Signal::Metrics, 1);
        assert_eq!(ledger.read().signals[0].balance(), 1);
    }

    #[test]
    fn every_reason_and_place_has_its_own_slot() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, place) in Place::ALL.iter().enumerate() {
            assert_eq!(*place as usize, index);
        }
    }
}
