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
mod steady;
mod top;
mod wire;

use ollystack_process::{Config, Process};
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::collector::trace::v1::ExportTraceServiceRequest;
use ollystack_record::{Ack, Batch, Ledger, Records, Reduced, ReducedRecords, Resource, Signal, value};
use ollystack_recording::{Reader, Recorded};
use prost::Message;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wire::{Sum, Sums, Wire};

const TICK_NANOS: u64 = 200_000_000;

/// What a replay of one source showed.
pub(crate) struct Replay {
    pub(crate) into: Sums,
    pub(crate) out: Sums,
    /// What came out of metrics that came in, sent by itself: without the RED metrics, which are derived from spans.
    pub(crate) folded: Sums,
    /// The same, compressed as what comes in is.
    pub(crate) folded_alike: Sums,
    /// The metrics that came in and what came out of them, in whole minutes.
    pub(crate) steady: [Sum; 2],
    /// RED metrics as they would be sent each second, and as they are.
    pub(crate) derived: [Sum; 2],
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
    let agent = Arc::new(agent);
    let mut process = Process::new(Config::default(), Arc::clone(&agent), Arc::clone(&ledger));
    let mut bench = Bench {
        into: Wire::raw(),
        out: Wire::reduced(),
        folded: Wire::reduced(),
        folded_alike: Wire::raw(),
        derived: [Wire::raw(), Wire::reduced()],
        each_second: each_second(Arc::clone(&agent)),
        unfolded: Vec::new(),
        steady: steady::Steady::default(),
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
            while process.hand_out(next_tick, &mut reduced) {}
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
    while process.hand_out(now, &mut reduced) {}
    bench.each_second.drain(now, &mut bench.unfolded);
    bench.passed(now, &mut reduced);
    let [into, out, folded, folded_alike] = bench.ended();
    let (steady, derived) = (bench.steady.sums(), bench.derived.each_ref().map(|wire| wire.sums.of(Signal::Metrics)));
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
        folded_alike,
        steady,
        derived,
        metrics,
        red,
        spans,
        logs,
        top,
        seconds,
        unaccounted: unaccounted.iter().map(|n| n.abs()).sum(),
    }
}

/// Derives RED metrics as an agent that does not fold would send them.
fn each_second(agent: Arc<Resource>) -> Process {
    let mut config = Config::default();
    (config.metrics.window_ms, config.metrics.first_window_ms) = (1_000, 1_000);
    (config.metrics.grace_ms, config.metrics.constant_ms) = (1_000, 0);
    Process::new(config, agent, Arc::default())
}

/// All wires and what is known to be true.
struct Bench {
    into: Wire,
    out: Wire,
    folded: Wire,
    folded_alike: Wire,
    derived: [Wire; 2],
    each_second: Process,
    /// What came out of `each_second`.
    unfolded: Vec<Reduced>,
    steady: steady::Steady,
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
                let (source, resource) = (batch.source, Arc::clone(&batch.resource));
                let batch = Batch { source, resource, records: Records::Traces(scopes.clone()), ack: Ack::none() };
                self.each_second.take(batch, now, &mut self.unfolded);
            }
            Records::Requests(_) => unreachable!("a recording has spans"),
        }
        self.into.take(raw::unreduced(batch), now);
        self.into.due(now);
    }

    /// Time passed, and this came out meanwhile.
    fn passed(&mut self, now: u64, reduced: &mut Vec<Reduced>) {
        for reduced in reduced.drain(..) {
            if let ReducedRecords::Metrics(resource) = &reduced.records {
                let copy = || {
                    let records = ReducedRecords::Metrics(resource.clone());
                    Reduced { class: reduced.class, records, acks: Vec::new() }
                };
                if red::is_derived(resource) {
                    self.derived[1].take(copy(), now);
                } else {
                    self.folded.take(copy(), now);
                    self.folded_alike.take(copy(), now);
                }
            }
            self.out.take(reduced, now);
        }
        self.each_second.tick(now, &mut self.unfolded);
        for reduced in self.unfolded.drain(..).filter(|reduced| reduced.records.signal() == Signal::Metrics) {
            self.derived[0].take(reduced, now);
        }
        self.wires().for_each(|wire| wire.due(now));
        let of = |wire: &Wire| wire.sums.of(Signal::Metrics);
        self.steady.passed(now, of(&self.into), of(&self.folded));
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
        self.wires().for_each(|wire| wire.requests.clear());
    }

    fn wires(&mut self) -> impl Iterator<Item = &mut Wire> {
        let Bench { into, out, folded, folded_alike, derived, .. } = self;
        [into, out, folded, folded_alike].into_iter().chain(derived)
    }

    fn ended(&mut self) -> [Sums; 4] {
        self.wires().for_each(Wire::flush);
        self.read();
        [&self.into, &self.out, &self.folded, &self.folded_alike].map(|wire| wire.sums)
    }
}
