//! Everything the agent says about itself at one moment: what `/status` prints as JSON, `/metrics` as Prometheus text
//! and `ollystack-agent status` as a table.
//!
//! Gathered in `observe.rs`. Invariant: it reads back from its own JSON, because `status` is the same type at the other end.

use crate::guard;
use crate::supervise::InputState;
use ollystack_process::Stats as Process;
use ollystack_record::ledger::{Corrected, SignalReading};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) agent_id: String,
    pub(crate) pid: u32,
    pub(crate) host: String,
    pub(crate) start_unix_seconds: u64,
    pub(crate) uptime_seconds: u64,
    /// Since the start: one per signal, in the order metrics, logs, traces.
    pub(crate) signals: Vec<Account>,
    /// All runs of this installation.
    pub(crate) in_all: InAll,
    /// By name.
    pub(crate) inputs: Vec<InputState>,
    pub(crate) buffer: Buffer,
    pub(crate) export: Export,
    pub(crate) memory: Memory,
    pub(crate) guard: guard::Figures,
    pub(crate) cpu_seconds: f64,
    pub(crate) threads: u64,
    /// Each stage's own figures, by stage, as it gives them.
    pub(crate) stages: BTreeMap<String, serde_json::Value>,
}

/// The ledger over every end that the agent has come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct InAll {
    /// When the account began: with the state directory, or when the ledger in it could not be read.
    pub(crate) begun_unix_seconds: u64,
    /// As those since the start. Nothing is carried; what the books were corrected by at starts is.
    pub(crate) signals: Vec<Account>,
}

/// One signal's ledger. In records, but for the bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) signal: String,
    pub(crate) seen: u64,
    pub(crate) carried: u64,
    pub(crate) corrected: Corrected,
    pub(crate) sent: u64,
    pub(crate) folded: u64,
    pub(crate) sampled_out: u64,
    pub(crate) suppressed: u64,
    /// By reason, every reason.
    pub(crate) dropped: BTreeMap<String, u64>,
    /// By place, every place.
    pub(crate) waiting: BTreeMap<String, i64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Zero when every record is accounted for; off by what moved while it was read.
    pub(crate) balance: i64,
}

/// The disk buffer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Buffer {
    pub(crate) entries: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_bytes_max: u64,
    pub(crate) segments: u64,
    pub(crate) oldest_age_seconds: u64,
    pub(crate) put_failures: u64,
}

/// The way out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Export {
    pub(crate) endpoint: String,
    /// In a word or two.
    pub(crate) state: String,
    pub(crate) batches_sent: u64,
    /// For good: their records are in the ledger as dropped.
    pub(crate) batches_refused: u64,
    pub(crate) attempts_failed: u64,
    pub(crate) last_success_unix_ms: Option<u64>,
    pub(crate) last_error_unix_ms: Option<u64>,
    pub(crate) last_error: Option<String>,
}

/// Memory against its limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) rss_bytes: u64,
    pub(crate) rss_bytes_peak: u64,
    /// What the kernel programs' maps and rings take, which RSS does not show.
    pub(crate) map_bytes: u64,
    /// What the stages' limits add up to.
    pub(crate) declared_bytes: u64,
    /// The grant.
    pub(crate) limit_bytes: u64,
}

impl Report {
    /// What reduction holds and did; nothing before processing first said so.
    pub(crate) fn process(&self) -> Option<Process> {
        Process::deserialize(self.stages.get("process")?).ok()
    }
}

impl Account {
    /// Dropped for any reason.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// Waiting anywhere.
    pub(crate) fn waiting_total(&self) -> i64 {
        self.waiting.values().sum()
    }

    /// What came in, and what became of it but for losses, by name.
    pub(crate) fn outcomes(&self) -> [(&'static str, u64); 5] {
        [
            ("seen", self.seen),
            ("sent", self.sent),
            ("folded", self.folded),
            ("sampled_out", self.sampled_out),
            ("suppressed", self.suppressed),
        ]
    }

    /// How many records each sent one stands for: those that were decided over those that went out.
    pub(crate) fn reduction(&self) -> Option<f64> {
        let decided = self.sent + self.folded + self.sampled_out + self.suppressed;
        (self.sent > 0).then(|| decided as f64 / self.sent as f64)
    }

    /// Raw OTLP bytes over bytes on the wire.
    pub(crate) fn reduction_bytes(&self) -> Option<f64> {
        (self.bytes_in > 0 && self.bytes_out > 0).then(|| self.bytes_in as f64 / self.bytes_out as f64)
    }
}

impl From<&SignalReading> for Account {
    fn from(reading: &SignalReading) -> Account {
        Account {
            signal: reading.signal.name().to_owned(),
            seen: reading.seen,
            carried: reading.carried,
            corrected: reading.corrected,
            sent: reading.sent,
            folded: reading.folded,
            sampled_out: reading.sampled_out,
            suppressed: reading.suppressed,
            dropped: reading.dropped.iter().map(|(reason, records)| ((*reason).to_owned(), *records)).collect(),
            waiting: reading.waiting.iter().map(|(place, records)| ((*place).to_owned(), *records)).collect(),
            bytes_in: reading.bytes_in,
            bytes_out: reading.bytes_out,
            balance: reading.balance(),
        }
    }
}

/// A report with something everywhere, for the tests of whoever renders it.
#[cfg(test)]
pub(crate) fn example() -> Report {
    use crate::supervise::Phase;
    use ollystack_record::{DropReason, Ledger, Place, Signal};
    let ledger = Ledger::default();
    ledger.seen(Signal::Metrics, 61_010);
    ledger.folded(Signal::Metrics, 59_000);
    ledger.sent(Signal::Metrics, 1_000);
    ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, 7);
    ledger.waiting_set(Signal::Metrics, Place::Window, 1_003);
    ledger.bytes_in(Signal::Metrics, 6_000_000);
    ledger.bytes_out(Signal::Metrics, 60_000);
    ledger.seen(Signal::Logs, 12);
    ledger.sent(Signal::Logs, 12);
    // An earlier run, which ended in a crash.
    let mut earlier = Ledger::default().read();
    let [metrics, logs, _] = &mut earlier.signals;
    (metrics.seen, metrics.sent, metrics.dropped[DropReason::Crash as usize].1) = (100_000, 96_600, 3_400);
    (logs.seen, logs.sent, logs.corrected.memory) = (1_200, 1_195, -5);
    let input = |name: &str, phase, note: &str| InputState { name: name.into(), phase, restarts: 0, note: note.into() };
    Report {
        version: "0.1.0".into(),
        agent_id: "6f1a".into(),
        pid: 42,
        host: "web-1".into(),
        start_unix_seconds: 1_800_000_000,
        uptime_seconds: 61,
        signals: ledger.read().signals.iter().map(Account::from).collect(),
        in_all: InAll {
            begun_unix_seconds: 1_700_000_000,
            signals: ledger.read().in_all(&earlier).signals.iter().map(Account::from).collect(),
        },
        inputs: vec![
            input("ebpf", Phase::Off, "not root"),
            InputState { restarts: 3, ..input("host", Phase::Failing, "no \"proc\"") },
            input("logs", Phase::Running, ""),
        ],
        buffer: Buffer { entries: 2, disk_bytes: 4096, disk_bytes_max: 256 << 20, segments: 1, ..Buffer::default() },
        export: Export {
            endpoint: "https://gateway:4317".into(),
            state: "retrying".into(),
            last_success_unix_ms: Some(1_800_000_050_000),
            last_error_unix_ms: Some(1_800_000_060_000),
            last_error: Some("connection refused".into()),
            ..Export::default()
        },
        memory: Memory { rss_bytes: 20 << 20, limit_bytes: 100 << 20, ..Memory::default() },
        guard: guard::Figures::default(),
        cpu_seconds: 0.5,
        threads: 4,
        stages: BTreeMap::from([("process".to_owned(), serde_json::json!(process()))]),
    }
}

#[cfg(test)]
fn process() -> Process {
    use ollystack_process::sample::{BaselineStats, PolicyStats, Stats as Sampling};
    let policy = |name: &str, kept: (u64, u64), let_go: (u64, u64)| PolicyStats {
        name: name.to_owned(),
        kept_traces: kept.0,
        kept_spans: kept.1,
        let_go_traces: let_go.0,
        let_go_spans: let_go.1,
    };
    let sample = Sampling {
        waiting_traces: 3,
        waiting_spans: 20,
        waiting_bytes: 12_345,
        operations: 7,
        spans: 10_000,
        decided_early: 5,
        policies: vec![
            policy("error", (4, 31), (0, 0)),
            policy("rule:vip", (2, 9), (0, 0)),
            policy("slow", (0, 0), (0, 0)),
            policy("baseline", (50, 480), (950, 9_400)),
            policy("late", (0, 10), (0, 50)),
        ],
        baseline: BaselineStats {
            ratio: 0.05,
            threshold: "f3333".to_owned(),
            scale: 0.5,
            budget_spans_per_second: 50.0,
            budget_bytes_per_day: 0,
        },
        ..Sampling::default()
    };
    let mut process = Process { sample, ..Process::default() };
    process.redacted = [("card", 3), ("email", 1_234)].map(|(kind, count)| (kind.to_owned(), count)).into();
    (process.logs.lines, process.logs.rows, process.logs.patterns, process.logs.waiting) = (19_200, 1_900, 74, 12);
    (process.fold.series, process.fold.windows, process.fold.table_bytes, process.fold.label_bytes) =
        (842, 900, 160_000, 210_000);
    process
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_from_its_own_json() {
        let json = serde_json::to_string(&example()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), example());
    }

    #[test]
    fn what_a_stage_says_of_itself_is_read_from_it() {
        let mut report = example();
        assert_eq!(report.process(), Some(process()));
        report.stages.clear();
        assert_eq!(report.process(), None);
    }

    #[test]
    fn drops_and_waiting_records_do_not_count_as_reduction() {
        let report = example();
        assert_eq!(report.signals[0].reduction(), Some(60.0));
        assert_eq!(report.signals[0].reduction_bytes(), Some(100.0));
        assert_eq!(report.signals[2].reduction(), None);
    }
}
