//! Reduce telemetry at the source: fold metrics, derive RED metrics, tail-sample traces.
//!
//! [`Process`] is a value: batches and the time go in, reduced batches come out; no I/O, no clock, no task. Every span is counted
//! in RED metrics before sampling may let it go. Invariant: a batch's records are folded, held within a limit, handed out, or
//! dropped and counted; its acknowledgement is resolved, or travels on with the records.

// NOTE to the buffer+process helper (remove this line when done): fold, red, operation are done (lead); you write sample/ and logs/ and wire them in `take/tick/drain/stats/Config` below.
pub mod fold;
pub mod operation;
pub mod red;

use ollystack_record::otlp::logs::v1::{ResourceLogs, ScopeLogs};
use ollystack_record::otlp::trace::v1::{ResourceSpans, ScopeSpans};
use ollystack_record::{Ack, Batch, Class, Ledger, Outcome, Records, Reduced, ReducedRecords, Resource};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What can be set about the stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folding.
    pub metrics: fold::Config,
    /// RED metrics.
    pub red: red::Config,
}

/// What the stage holds and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Folding.
    pub fold: fold::Stats,
    /// Operations told apart in RED metrics.
    pub operations: usize,
}

/// The stage.
#[derive(Debug)]
pub struct Process {
    fold: fold::Fold,
    red: red::Red,
}

impl Process {
    /// `agent_resource` is the resource of the metrics that the agent derives.
    pub fn new(config: Config, agent_resource: Arc<Resource>, ledger: Arc<Ledger>) -> Process {
        Process { fold: fold::Fold::new(config.metrics, ledger), red: red::Red::new(config.red, agent_resource) }
    }

    /// Take a batch; `now` is nanoseconds since the epoch.
    pub fn take(&mut self, batch: Batch, now: u64, out: &mut Vec<Reduced>) {
        let Batch { source, resource, records, ack } = batch;
        match records {
            Records::Metrics(samples) => {
                self.fold.take(source, &resource, samples, now);
                ack.resolve(Outcome::Accepted);
            }
            Records::Logs(scopes) => out.push(logs(&resource, scopes, ack)),
            Records::Traces(scopes) => {
                for span in scopes.iter().flat_map(|scope| &scope.spans) {
                    self.red.observe(resource.service_name(), span, &mut self.fold, now);
                }
                out.push(spans(&resource, scopes, ack));
            }
        }
    }

    /// Let time pass: close windows, decide traces. Call several times a second.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.fold.tick(now, out);
    }

    /// Hand out everything that is held: the agent stops.
    pub fn drain(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.fold.drain(now, out);
    }

    /// What is held and was done.
    pub fn stats(&self) -> Stats {
        Stats { fold: self.fold.stats(), operations: self.red.operations() }
    }
}

fn logs(resource: &Resource, scope_logs: Vec<ScopeLogs>, ack: Ack) -> Reduced {
    let message = ResourceLogs { resource: Some(resource.to_proto()), scope_logs, ..ResourceLogs::default() };
    Reduced { class: Class::Normal, records: ReducedRecords::Logs(message), acks: vec![ack] }
}

fn spans(resource: &Resource, scope_spans: Vec<ScopeSpans>, ack: Ack) -> Reduced {
    let message = ResourceSpans { resource: Some(resource.to_proto()), scope_spans, ..ResourceSpans::default() };
    Reduced { class: Class::Normal, records: ReducedRecords::Traces(message), acks: vec![ack] }
}
