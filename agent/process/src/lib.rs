//! Reduce telemetry at the source: redact, fold metrics and log lines, derive RED metrics, tail-sample traces.
//!
//! [`Process`] is a value: batches and the time go in, reduced batches come out; no I/O, no clock, no task. What is secret leaves
//! a batch before anything else looks at it. Every span is counted in RED metrics before sampling may let it go. Invariant: a
//! batch's records are folded, held within a limit, handed out, or dropped and counted; its acknowledgement is resolved, or
//! travels on with the records.

mod config;
mod edges;
mod known;
mod lookups;
pub mod red;

pub use config::{Config, Error};
pub use known::BYTES_MAX as KNOWN_BYTES_MAX;
pub use ollystack_fold as fold;
pub use ollystack_logs as logs;
pub use ollystack_redact as redact;
pub use ollystack_sample as sample;

use fold::Measurement;
use known::Known;
use ollystack_record::otlp::trace::v1::ScopeSpans;
use ollystack_record::{Batch, Ledger, Outcome, Records, Reduced, Request, Resource, request};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the stage holds and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// What was redacted, by kind.
    pub redacted: redact::Stats,
    /// Folding.
    pub fold: fold::Stats,
    /// Operations told apart in RED metrics.
    pub operations: usize,
    /// Sampling.
    pub sample: sample::Stats,
    /// Folding of log lines.
    pub logs: logs::Stats,
}

/// What is made of what waits at once, in bytes of memory: all of it would take several times what it takes while it waits. Of metrics
/// so much, of spans half as much.
pub const PORTION_BYTES: usize = 512 << 10;

/// From this level of the ladder on memory is given back.
const RELIEF_LEVEL: u8 = 2;

/// How often at most: closed at each tick, windows would fold nothing.
const RELIEF_EVERY_NANOS: u64 = 10_000_000_000;

/// The stage.
#[derive(Debug)]
pub struct Process {
    redactor: redact::Redactor,
    fold: fold::Fold,
    red: red::Red,
    edges: edges::Edges,
    lookups: lookups::Lookups,
    known: Known,
    sampler: sample::Sampler,
    logs: logs::Logs,
    relieved_unix_nano: u64,
    /// New series are held to half of their limits.
    tight: bool,
}

impl Process {
    /// `agent_resource` is the resource of the metrics that the agent derives.
    pub fn new(config: Config, agent_resource: Arc<Resource>, ledger: Arc<Ledger>) -> Process {
        let mut redactor = redact::Redactor::new(&config.redact);
        let agent_resource = redactor.resource(&agent_resource);
        let mut fold = fold::Fold::new(config.metrics, Arc::clone(&ledger));
        fold.rewrite_with(redactor.rewrite());
        Process {
            redactor,
            fold,
            edges: edges::Edges::new(
                if config.red.enabled { config.red.edges_max } else { 0 },
                Arc::clone(&agent_resource),
            ),
            lookups: lookups::Lookups::new(
                if config.red.enabled { config.red.lookups_max } else { 0 },
                Arc::clone(&agent_resource),
            ),
            red: red::Red::new(config.red, agent_resource),
            known: Known::default(),
            sampler: sample::Sampler::new(config.traces, Arc::clone(&ledger)),
            logs: logs::Logs::new(config.patterns, ledger),
            relieved_unix_nano: 0,
            tight: false,
        }
    }

    /// Take a batch; `now` is nanoseconds since the epoch. Samples and spans are acknowledged here: what is dropped for its age
    /// or for a limit is dropped for good, and sending it again would not change that.
    pub fn take(&mut self, batch: Batch, now: u64, out: &mut Vec<Reduced>) {
        let Batch { source, resource, records, ack } = batch;
        let resource = self.redactor.resource(&resource);
        match records {
            Records::Metrics(mut samples) => {
                // Their series are redacted once, when the folder first sees them.
                self.redactor.samples(&mut samples);
                self.fold.take(source, &resource, samples, now);
                ack.resolve(Outcome::Accepted);
            }
            Records::Requests(requests) => {
                if self.redactor.may_change_keys() || self.sampler.has_rules() {
                    // Anything of a span may matter then.
                    self.take_spans(&resource, request::scope_spans(&requests), now, out);
                } else {
                    self.take_requests(&resource, requests, now, out);
                }
                ack.resolve(Outcome::Accepted);
            }
            Records::Traces(scopes) => {
                self.take_spans(&resource, scopes, now, out);
                ack.resolve(Outcome::Accepted);
            }
            Records::Logs(mut scopes) => {
                self.redactor.logs(&mut scopes);
                self.logs.take(source, &resource, scopes, ack, now, out);
            }
        }
    }

    fn take_spans(&mut self, resource: &Arc<Resource>, mut scopes: Vec<ScopeSpans>, now: u64, out: &mut Vec<Reduced>) {
        self.redactor.spans(&mut scopes);
        for span in scopes.iter().flat_map(|scope| &scope.spans) {
            self.red.observe(resource.service_name(), span, &mut self.fold, now);
            self.edges.observe(resource.service_name(), span, &mut self.fold, now);
            self.lookups.observe(resource.service_name(), span, &mut self.fold, now);
        }
        self.sampler.take(resource, scopes, now, out);
    }

    /// The same, what requests have in common looked at once.
    fn take_requests(&mut self, resource: &Arc<Resource>, requests: Vec<Request>, now: u64, out: &mut Vec<Reduced>) {
        let Process { redactor, fold, red, edges, lookups, known, sampler, .. } = self;
        sampler.begin(now);
        for mut request in requests {
            let alike = known.of(&request.template, resource, now, |template| {
                let template = redactor.template(template);
                let (service, span) = (resource.service_name(), template.span());
                let (red, edge) = (red.series(service, span, now), edges.series(service, span, now));
                let is_lookup = lookups::is_lookup(span);
                known::Alike { sample: sampler.alike(resource, &template), template, red, edge, is_lookup }
            });
            redactor.own(&mut request.own);
            let (trace_id, span_id) = (&request.names.0[..], &request.names.1[..]);
            let value = red::seconds(request.start_unix_nano, request.end_unix_nano);
            let measurement = Measurement { value, time_unix_nano: request.end_unix_nano, trace_id, span_id };
            if let Some(series) = &alike.red {
                red.count(series, &measurement, fold, now);
            }
            if let Some(series) = &alike.edge {
                edges.count(series, &measurement, fold, now);
            }
            if alike.is_lookup {
                lookups.count(resource.service_name(), alike.template.span(), &request.own, &measurement, fold, now);
            }
            request.template = Arc::clone(&alike.template);
            sampler.take_request(resource, alike.sample, request);
        }
        sampler.send(out);
    }

    /// Let time pass: close windows, decide traces. Call several times a second.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.sampler.tick(now);
        self.fold.tick(now);
        self.logs.tick(now, out);
    }

    /// From now on keep no more than this share of ordinary traces, and of what would be kept of them only this part (0 to 1 each).
    pub fn spare(&mut self, ratio_max: f64, scale: f64) {
        self.sampler.spare(ratio_max, scale);
    }

    /// Memory is short on the ladder's `level` (`ollystack_record::pressure`). From 2 on let go of what can go early: windows close
    /// before their time (intervals tile, so that nothing is lost or told twice), traces are decided, idle series and what is
    /// remembered only to be faster are forgotten. From 3 on new series are held to half of their limits, until the level is below 2.
    /// Call it with every tick, at any level: 0 and 1 ask for nothing.
    pub fn relieve(&mut self, level: u8, now: u64, out: &mut Vec<Reduced>) {
        let tight = if self.tight { level >= RELIEF_LEVEL } else { level > RELIEF_LEVEL };
        if tight != self.tight {
            self.tight = tight;
            self.fold.tighten(tight);
        }
        if level < RELIEF_LEVEL || now.abs_diff(self.relieved_unix_nano) < RELIEF_EVERY_NANOS {
            return;
        }
        self.relieved_unix_nano = now;
        self.redactor.forget();
        self.known.forget();
        self.sampler.relieve();
        self.fold.relieve(now);
        self.logs.relieve(now, out);
    }

    /// Hand out everything that is held: the agent stops.
    pub fn drain(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.sampler.drain();
        self.fold.drain(now);
        self.logs.drain(now, out);
    }

    /// Append the next portion of what closed and was decided to `out`. False: there is no more.
    pub fn hand_out(&mut self, now: u64, out: &mut Vec<Reduced>) -> bool {
        let more = self.sampler.hand_out(PORTION_BYTES / 2, out);
        self.fold.hand_out(now, PORTION_BYTES, out) | more
    }

    /// Whether windows of metrics that closed leave only after a checkpoint without them is where it was to go: see
    /// [`Process::let_go`]. At first they do not wait.
    pub fn hold_closed(&mut self, hold: bool) {
        self.fold.hold_closed(hold);
    }

    /// The last checkpoint is there: what had closed before it may leave.
    pub fn let_go(&mut self) {
        self.fold.let_go();
    }

    /// Points that wait for that, which the checkpoint before still has.
    pub fn sheltered(&self) -> u64 {
        self.fold.sheltered()
    }

    /// What is held of metrics, as bytes for [`Process::restore`]: open windows and last totals, after [`Process::drain`] the totals
    /// alone. Traces and log lines are not among it.
    pub fn checkpoint(&mut self, now: u64) -> Vec<u8> {
        self.fold.checkpoint(now)
    }

    /// From now on nothing escapes: totals of metrics that begin later count in full. Call before anything can come.
    pub fn begin(&mut self, now: u64) {
        self.fold.begin(now);
    }

    /// Go on from a checkpoint of which nothing had been handed out, before anything is taken.
    pub fn restore(&mut self, checkpoint: &[u8], now: u64) -> Result<fold::Restored, fold::CheckpointError> {
        self.fold.restore(checkpoint, now)
    }

    /// What is held and was done.
    pub fn stats(&self) -> Stats {
        Stats {
            redacted: self.redactor.stats(),
            fold: self.fold.stats(),
            operations: self.red.operations(),
            sample: self.sampler.stats(),
            logs: self.logs.stats(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::metrics::v1::metric::Data;
    use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
    use ollystack_record::{Ack, ReducedRecords, Signal, Source};

    const NOW: u64 = 1_700_000_040_000_000_000;

    /// Requests that the RED metrics among these count.
    fn requests(out: &[Reduced]) -> u64 {
        let metrics = out.iter().flat_map(|reduced| match &reduced.records {
            ReducedRecords::Metrics(resource) => {
                resource.scope_metrics.iter().flat_map(|scope| &scope.metrics).collect()
            }
            _ => Vec::new(),
        });
        let count = |metric: &ollystack_record::otlp::metrics::v1::Metric| match &metric.data {
            Some(Data::ExponentialHistogram(data)) => data.data_points.iter().map(|point| point.count).sum(),
            _ => 0,
        };
        metrics.map(count).sum()
    }

    #[test]
    fn red_metrics_count_every_span_although_sampling_lets_most_go() {
        let ledger = Arc::new(Ledger::default());
        let mut config = Config::default();
        config.traces.baseline_ratio = 0.0;
        let mut process = Process::new(config, Arc::default(), Arc::clone(&ledger));
        let mut out = Vec::new();
        for n in 1..=300_u128 {
            let span = Span { trace_id: (n << 64).to_be_bytes().to_vec(), name: "a".into(), ..Span::default() };
            let records = Records::Traces(vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }]);
            ledger.seen(Signal::Traces, 1);
            let batch = Batch { source: Source::Otlp, resource: Arc::default(), records, ack: Ack::none() };
            process.take(batch, NOW, &mut out);
        }
        process.drain(NOW, &mut out);
        while process.hand_out(NOW, &mut out) {}
        let kept: u64 = out.iter().filter(|r| r.records.signal() == Signal::Traces).map(|r| r.records.count()).sum();
        assert!(kept < 300, "{kept} of 300 kept: sampling let nothing go");
        assert_eq!(requests(&out), 300);
    }

    #[test]
    fn from_the_second_level_on_what_can_go_early_goes_and_from_the_third_on_fewer_series_are_new() {
        let mut config = Config::default();
        config.metrics.series_max = 4;
        let mut process = Process::new(config, Arc::default(), Arc::default());
        let mut out = Vec::new();
        let take = |process: &mut Process, out: &mut Vec<Reduced>, name: &str| {
            let span = Span { trace_id: name.repeat(16).into_bytes(), name: name.into(), ..Span::default() };
            let records = Records::Traces(vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }]);
            process.take(Batch { source: Source::Otlp, resource: Arc::default(), records, ack: Ack::none() }, NOW, out);
            process.stats().fold.series
        };
        take(&mut process, &mut out, "a");
        process.relieve(RELIEF_LEVEL - 1, NOW, &mut out);
        assert!(!process.hand_out(NOW, &mut out) && out.is_empty());
        process.relieve(RELIEF_LEVEL, NOW, &mut out);
        while process.hand_out(NOW, &mut out) {}
        assert_eq!((requests(&out), process.stats().sample.waiting_spans), (1, 0));
        let series = |process: &mut Process, level: u8, name: &str| {
            process.relieve(level, NOW, &mut Vec::new());
            take(process, &mut Vec::new(), name)
        };
        assert_eq!(series(&mut process, RELIEF_LEVEL, "b"), 2);
        assert_eq!(series(&mut process, RELIEF_LEVEL + 1, "c"), 3, "the one that takes what overflows");
        assert_eq!(series(&mut process, RELIEF_LEVEL, "d"), 3, "not before it is over");
        assert_eq!(series(&mut process, RELIEF_LEVEL - 1, "e"), 4);
    }
}
