//! `cargo xtask bench reduction`: a recorded host replayed through all of processing with the default configuration.
//!
//! Batches come at their recorded times, `tick` is called every 200 ms of virtual time, `drain` at the end. What goes in and what
//! comes out is grouped into export requests by the exporter's own code, so bytes are those of the wire. Whether what came out is
//! right is worked out here from the raw records, without the code under test. `--data DIR` takes other recordings, `--top` says
//! on standard error which metrics the output is made of. Invariant: every figure of the output is read from the encoded requests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench may stop")]

mod logs;
mod metrics;
mod raw;
mod red;
mod report;
mod spans;
mod top;
mod wire;

use ollystack_process::{Config, Process};
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::collector::trace::v1::ExportTraceServiceRequest;
use ollystack_record::{Batch, Ledger, Records, Reduced, ReducedRecords, Resource, Signal, value};
use ollystack_recording::{Reader, Recorded};
use prost::Message;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wire::{Sums, Wire};

const TICK_NANOS: u64 = 200_000_000;

/// What a replay of one source showed.
pub(crate) struct Replay {
    pub(crate) into: Sums,
    pub(crate) out: Sums,
    /// What came out of metrics that came in, sent by itself: without the RED metrics, which are derived from spans.
    pub(crate) folded: Sums,
    pub(crate) metrics: metrics::Truth,
    pub(crate) red: red::Truth,
    pub(crate) spans: spans::Truth,
    pub(crate) logs: logs::Truth,
    pub(crate) top: top::Top,
    pub(crate) seconds: f64,
    /// What the ledger cannot account for: 0.
    pub(crate) unaccounted: i64,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let tests_data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let (mut data, mut top) = (tests_data.join("recording"), false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--data" => data = PathBuf::from(arguments.next().unwrap_or_else(|| panic!("--data needs a folder"))),
            "--top" => top = true,
            other => panic!("there are --data DIR and --top, not {other}"),
        }
    }
    let host = replay(recorded(&data));
    if top {
        host.top.print();
    }
    let lines = replay(logs::of_files(&tests_data.join("loghub")));
    println!("{}", serde_json::to_string(&report::of(&host, &lines)).unwrap());
}

/// The batches of all recordings of a folder, one after the other.
fn recorded(folder: &Path) -> impl Iterator<Item = Recorded> {
    let listed = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = listed.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    files.sort();
    assert!(!files.is_empty(), "{}: no recording (*.zst) is there", folder.display());
    files.into_iter().flat_map(|path| {
        let reader = Reader::new(File::open(&path).unwrap());
        reader.unwrap_or_else(|error| panic!("{}: {error}", path.display())).map(Result::unwrap)
    })
}

fn replay(batches: impl Iterator<Item = Recorded>) -> Replay {
    let ledger = Arc::new(Ledger::default());
    let mut batches = batches.peekable();
    let first = batches.peek().map_or(0, |first| first.came_unix_nano);
    // As the agent describes itself.
    let agent =
        Resource::new(vec![value::string("host.name", "bench"), value::string("service.name", "ollystack-agent")]);
    let mut process = Process::new(Config::default(), Arc::new(agent), Arc::clone(&ledger));
    let mut bench = Bench {
        into: Wire::new(),
        out: Wire::new(),
        folded: Wire::new(),
        metrics: metrics::Truth::new(first),
        red: red::Truth::default(),
        spans: spans::Truth::default(),
        logs: logs::Truth::default(),
        top: top::Top::default(),
    };
    let (mut now, mut reduced) = (first, Vec::new());
    let mut next_tick = first + TICK_NANOS;
    for Recorded { came_unix_nano, batch } in batches {
        while next_tick <= came_unix_nano {
            process.tick(next_tick, &mut reduced);
            bench.passed(next_tick, &mut reduced);
            next_tick += TICK_NANOS;
        }
        now = now.max(came_unix_nano);
        ledger.seen(batch.records.signal(), batch.records.count());
        bench.saw(&batch, now);
        process.take(batch, now, &mut reduced);
        bench.passed(now, &mut reduced);
    }
    process.drain(now, &mut reduced);
    bench.passed(now, &mut reduced);
    let [into, out, folded] = bench.ended();
    let unaccounted = Signal::ALL.map(|signal| {
        ledger.sent(signal, out.of(signal).records);
        ledger.read().signals[signal as usize].balance()
    });
    let Bench { metrics, red, spans, logs, top, .. } = bench;
    let seconds = (now - first) as f64 / 1e9;
    Replay {
        into,
        out,
        folded,
        metrics,
        red,
        spans,
        logs,
        top,
        seconds,
        unaccounted: unaccounted.iter().map(|n| n.abs()).sum(),
    }
}

/// Both wires and what is known to be true.
struct Bench {
    into: Wire,
    out: Wire,
    folded: Wire,
    metrics: metrics::Truth,
    red: red::Truth,
    spans: spans::Truth,
    logs: logs::Truth,
    top: top::Top,
}

impl Bench {
    /// A batch comes in.
    fn saw(&mut self, batch: &Batch, now: u64) {
        match &batch.records {
            Records::Metrics(samples) => {
                samples.iter().for_each(|sample| self.metrics.saw(&batch.resource, sample));
                self.top.saw(samples);
            }
            Records::Logs(scopes) => self.logs.saw(scopes),
            Records::Traces(scopes) => {
                for span in scopes.iter().flat_map(|scope| &scope.spans) {
                    self.red.saw(batch.resource.service_name(), span);
                    self.spans.saw(batch.resource.service_name(), span);
                }
            }
        }
        self.into.take(raw::unreduced(batch), now);
        self.into.due(now);
    }

    /// Time passed, and this came out meanwhile.
    fn passed(&mut self, now: u64, reduced: &mut Vec<Reduced>) {
        for reduced in reduced.drain(..) {
            if let ReducedRecords::Metrics(resource) = &reduced.records
                && !red::is_derived(resource)
            {
                let records = ReducedRecords::Metrics(resource.clone());
                self.folded.take(Reduced { class: reduced.class, records, acks: Vec::new() }, now);
            }
            self.out.take(reduced, now);
        }
        self.out.due(now);
        self.folded.due(now);
        self.into.due(now);
        self.read();
    }

    /// What a backend reads in the requests that went out.
    fn read(&mut self) {
        for (signal, request) in self.out.requests.drain(..) {
            match signal {
                Signal::Metrics => {
                    for resource in ExportMetricsServiceRequest::decode(&request[..]).unwrap().resource_metrics {
                        self.top.sent(&resource);
                        self.red.got(&resource);
                        self.metrics.got(resource);
                    }
                }
                Signal::Logs => {
                    let resources = ExportLogsServiceRequest::decode(&request[..]).unwrap().resource_logs;
                    resources.iter().for_each(|resource| self.logs.got(resource));
                }
                Signal::Traces => {
                    let resources = ExportTraceServiceRequest::decode(&request[..]).unwrap().resource_spans;
                    resources.iter().for_each(|resource| self.spans.got(resource));
                }
            }
        }
        self.into.requests.clear();
        self.folded.requests.clear();
    }

    fn ended(&mut self) -> [Sums; 3] {
        self.into.flush();
        self.out.flush();
        self.folded.flush();
        self.read();
        [self.into.sums, self.out.sums, self.folded.sums]
    }
}
