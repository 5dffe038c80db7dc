//! What the eBPF input did, for the admin page and the agent's own metrics.

use crate::seen::SeenProcess;
use crate::tls::TlsFile;
use ollystack_record::lines::Doubts;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Shared with whoever shows it. Counters only grow.
#[derive(Debug, Default)]
pub struct Stats {
    pub(crate) map_bytes: AtomicU64,
    pub(crate) process_events: AtomicU64,
    pub(crate) tcp_events: AtomicU64,
    pub(crate) flow_events: AtomicU64,
    pub(crate) spans: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) lines_served: AtomicU64,
    pub(crate) lines_missed: AtomicU64,
    pub(crate) lines_alike: AtomicU64,
    pub(crate) lines_late: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) unpaired: AtomicU64,
    pub(crate) unrecognised: AtomicU64,
    pub(crate) midway: AtomicU64,
    pub(crate) heads_cut: AtomicU64,
    pub(crate) ring_failures: AtomicU64,
    pub(crate) drains_put_off: AtomicU64,
    pub(crate) tls_files: AtomicU64,
    tls: Mutex<Vec<TlsFile>>,
    features: Mutex<Vec<Feature>>,
    processes: Mutex<Vec<SeenProcess>>,
}

/// A feature as it runs.
#[derive(Clone, Debug, Serialize)]
pub struct Feature {
    /// For example `ebpf.requests`.
    pub name: &'static str,
    /// How it is attached, for example `socket tracepoints`; `off` if it is not.
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
    /// Calls that moved data, and closes, read.
    pub flow_events: u64,
    /// Spans made.
    pub spans: u64,
    /// Lines that processes which serve were seen to write.
    pub lines: u64,
    /// Those among them that a thread wrote under the one request that it served, and no doubt about it.
    pub lines_served: u64,
    /// Lines that were left out because a ring was filling.
    pub lines_missed: u64,
    /// Lines that said the same as one of another request, or of none: both are nobody's.
    pub lines_alike: u64,
    /// Times that lines were read in a log and the kernel's records were not looked into in time: those lines have no trace.
    pub lines_late: u64,
    /// Requests whose answer was not seen: their connection ended, or was silent for minutes.
    pub unanswered: u64,
    /// Responses whose request was not seen.
    pub unpaired: u64,
    /// Connections that were given up, as nothing that was said on them is of a known protocol.
    pub unrecognised: u64,
    /// The same of connections that had begun before they were looked at: what was said then may have told.
    pub midway: u64,
    /// Heads cut short or left out because a ring was filling or memory was short; their metadata came.
    pub heads_cut: u64,
    /// Records that did not fit into a ring. The ledger has them as dropped.
    pub ring_failures: u64,
    /// Times at which the rings were not looked into, as CPU time was used up.
    pub drains_put_off: u64,
    /// Libraries and programs that are seen into for TLS.
    pub tls_files: u64,
    /// Files with TLS in them, and whether they are seen into: 64 at most.
    pub tls: Vec<TlsFile>,
    /// One per feature.
    pub features: Vec<Feature>,
    /// Processes of whose requests most was seen, by number.
    pub processes: Vec<SeenProcess>,
}

impl Stats {
    /// Everything at one moment.
    pub fn read(&self) -> Reading {
        Reading {
            map_bytes: self.map_bytes.load(Relaxed),
            process_events: self.process_events.load(Relaxed),
            tcp_events: self.tcp_events.load(Relaxed),
            flow_events: self.flow_events.load(Relaxed),
            spans: self.spans.load(Relaxed),
            lines: self.lines.load(Relaxed),
            lines_served: self.lines_served.load(Relaxed),
            lines_missed: self.lines_missed.load(Relaxed),
            lines_alike: self.lines_alike.load(Relaxed),
            lines_late: self.lines_late.load(Relaxed),
            unanswered: self.unanswered.load(Relaxed),
            unpaired: self.unpaired.load(Relaxed),
            unrecognised: self.unrecognised.load(Relaxed),
            midway: self.midway.load(Relaxed),
            heads_cut: self.heads_cut.load(Relaxed),
            ring_failures: self.ring_failures.load(Relaxed),
            drains_put_off: self.drains_put_off.load(Relaxed),
            tls_files: self.tls_files.load(Relaxed),
            tls: self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            features: self.features.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            processes: self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Bytes that the kernel holds for the agent's maps.
    pub fn map_bytes(&self) -> u64 {
        self.map_bytes.load(Relaxed)
    }

    pub(crate) fn set_doubts(&self, doubts: Doubts) {
        self.lines_alike.store(doubts.alike, Relaxed);
        self.lines_late.store(doubts.late, Relaxed);
    }

    pub(crate) fn set_processes(&self, processes: Vec<SeenProcess>) {
        *self.processes.lock().unwrap_or_else(PoisonError::into_inner) = processes;
    }

    pub(crate) fn set_tls(&self, probed: usize, files: Vec<TlsFile>) {
        self.tls_files.store(probed as u64, Relaxed);
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    pub(crate) fn set_features(&self, features: Vec<Feature>) {
        *self.features.lock().unwrap_or_else(PoisonError::into_inner) = features;
    }
}

/// Add to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}
