//! The ledger: what happened to every record, by signal and reason.
//!
//! Per signal, in records (data points, log records, spans):
//! `seen + carried = sent + folded + sampled out + suppressed + dropped(reason) + waiting(place)`.
//! Outcomes are counters; `waiting` is measured by whoever holds records (a queue, the open windows, the sampler, the
//! buffer), not derived from the counters, so a balance other than zero means that a record was lost uncounted.
//! `carried` is what was there when this process started: on disk, restored, or lost by a crash of the one before.
//!
//! Over all runs of an installation nothing is carried: what one run leaves waiting is what the next one begins with. Where the two
//! differ, because the books of a run that was killed end a moment before it did, `corrected` says by how much:
//! `seen + corrected(place) = sent + folded + sampled out + suppressed + dropped(reason) + waiting(place)`.

use crate::Signal;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Why records were dropped. Every reason is one counter; add at the end (its number is in files), and `status`, /metrics and ClickHouse
/// show it.
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

/// Where records wait. Add at the end: its number is in files.
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
        /// Records that were there when this process started.
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
            corrected: Corrected::default(),
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// One per signal, in order.
    pub signals: [SignalReading; 3],
}

impl Default for Reading {
    /// Of a ledger that has seen nothing.
    fn default() -> Reading {
        Ledger::default().read()
    }
}

impl Reading {
    /// This run and all before it, which came to `earlier`, as one account.
    pub fn in_all(&self, earlier: &Reading) -> Reading {
        let mut signals = self.signals.clone();
        for (this, before) in signals.iter_mut().zip(&earlier.signals) {
            this.add(before);
        }
        Reading { signals }
    }
}

/// By how much the books were put right at starts, by where the difference was: records found or lost there, less those that were
/// booked as waiting there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Corrected {
    /// On disk. Above zero: sent and booked so, and still there, to be sent again; or put there after the last entry. Below: sent, or
    /// evicted, after it.
    pub buffer: i64,
    /// In memory. Above zero: taken or folded and lost, for the points that were lost were of many samples. Below: given again by their
    /// source, which was never answered.
    pub memory: i64,
}

/// One signal's account at one moment. All in records, but for the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // named as the counters of `Ledger`, documented there
pub struct SignalReading {
    pub signal: Signal,
    pub seen: u64,
    pub carried: u64,
    pub corrected: Corrected,
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

    /// Waiting at one place.
    pub fn waiting(&self, place: Place) -> i64 {
        self.waiting.get(place as usize).map_or(0, |(_, records)| *records)
    }

    /// What came to its end.
    fn out(&self) -> u64 {
        self.sent + self.folded + self.sampled_out + self.suppressed + self.dropped_total()
    }

    /// What must be waiting somewhere, by the counters alone.
    pub fn open(&self) -> i64 {
        (self.seen + self.carried) as i64 + self.corrected.buffer + self.corrected.memory - self.out() as i64
    }

    /// What went in minus what is accounted for: zero when nothing was lost uncounted.
    pub fn balance(&self) -> i64 {
        self.open() - self.waiting_total()
    }

    /// Count on from `earlier`: what it left waiting is what this one calls carried, so neither counts.
    fn add(&mut self, earlier: &SignalReading) {
        self.carried = 0;
        self.corrected = earlier.corrected;
        let counters = [
            (&mut self.seen, earlier.seen),
            (&mut self.sent, earlier.sent),
            (&mut self.folded, earlier.folded),
            (&mut self.sampled_out, earlier.sampled_out),
            (&mut self.suppressed, earlier.suppressed),
            (&mut self.bytes_in, earlier.bytes_in),
            (&mut self.bytes_out, earlier.bytes_out),
        ];
        let dropped = self.dropped.iter_mut().zip(&earlier.dropped).map(|((_, this), (_, before))| (this, *before));
        for (this, before) in counters.into_iter().chain(dropped) {
            *this += before;
        }
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
    fn every_reason_that_records_are_dropped_for_keeps_the_balance_and_its_own_name() {
        let ledger = Ledger::default();
        for (records, reason) in (1..).zip(DropReason::ALL) {
            ledger.seen(Signal::Logs, records);
            assert_eq!(ledger.read().signals[1].balance(), records as i64, "{reason:?} is not yet counted");
            ledger.dropped(Signal::Logs, reason, records);
            let account = &ledger.read().signals[1];
            assert_eq!((account.balance(), account.dropped[reason as usize]), (0, (reason.name(), records)));
        }
    }

    #[test]
    fn two_runs_are_one_account_in_which_nothing_was_carried() {
        let (first, second) = (Ledger::default(), Ledger::default());
        first.seen(Signal::Logs, 10);
        first.sent(Signal::Logs, 4);
        first.dropped(Signal::Logs, DropReason::Refused, 1);
        first.waiting_set(Signal::Logs, Place::Buffer, 5);
        second.carried(Signal::Logs, 5);
        second.seen(Signal::Logs, 2);
        second.sent(Signal::Logs, 6);
        second.waiting_set(Signal::Logs, Place::Queue, 1);
        let all = second.read().in_all(&first.read()).signals[Signal::Logs as usize].clone();
        assert_eq!((all.seen, all.carried, all.sent, all.dropped_total(), all.waiting_total()), (12, 0, 10, 1, 1));
        assert_eq!(all.balance(), 0);
    }

    #[test]
    fn what_is_moved_between_threads_is_never_lost_from_the_books() {
        let ledger = Ledger::default();
        std::thread::scope(|scope| {
            for signal in Signal::ALL {
                let ledger = &ledger;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        ledger.seen(signal, 3);
                        ledger.waiting_add(signal, Place::Queue, 3);
                    }
                });
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        ledger.waiting_add(signal, Place::Queue, -3);
                        ledger.folded(signal, 2);
                        ledger.waiting_add(signal, Place::Freezer, 1);
                    }
                });
            }
        });
        for account in ledger.read().signals {
            assert_eq!((account.balance(), account.waiting_total()), (0, 10_000));
        }
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
