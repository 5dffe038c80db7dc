//! Reduce telemetry at the source: fold metrics, derive RED metrics, tail-sample traces.
//!
//! [`Process`] is a value: batches and the time go in, reduced batches come out; no I/O, no clock, no task. Every span is counted
//! in RED metrics before sampling may let it go. Invariant: a batch's records are folded, held within a limit, handed out, or
//! dropped and counted; its acknowledgement is resolved, or travels on with the records.

mod config;
pub mod fold;
mod logs;
pub mod operation;
pub mod red;
pub mod sample;

pub use config::{Config, Error};

use ollystack_record::{Batch, Ledger, Outcome, Records, Reduced, Resource};
use serde::Serialize;
use std::sync::Arc;

/// What the stage holds and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Folding.
    pub fold: fold::Stats,
    /// Operations told apart in RED metrics.
    pub operations: usize,
    /// Sampling.
    pub sample: sample::Stats,
}

/// The stage.
#[derive(Debug)]
pub struct Process {
    fold: fold::Fold,
    red: red::Red,
    sampler: sample::Sampler,
}

impl Process {
    /// `agent_resource` is the resource of the metrics that the agent derives.
    pub fn new(config: Config, agent_resource: Arc<Resource>, ledger: Arc<Ledger>) -> Process {
        Process {
            fold: fold::Fold::new(config.metrics, Arc::clone(&ledger)),
            red: red::Red::new(config.red, agent_resource),
            sampler: sample::Sampler::new(config.traces, ledger),
        }
    }

    /// Take a batch; `now` is nanoseconds since the epoch. Samples and spans are acknowledged here: what is dropped for its age
    /// or for a limit is dropped for good, and sending it again would not change that.
    pub fn take(&mut self, batch: Batch, now: u64, out: &mut Vec<Reduced>) {
        let Batch { source, resource, records, ack } = batch;
        match records {
            Records::Metrics(samples) => {
                self.fold.take(source, &resource, samples, now);
                ack.resolve(Outcome::Accepted);
            }
            Records::Traces(scopes) => {
                self.sampler.take(&resource, scopes, now, &mut self.red, &mut self.fold, out);
                ack.resolve(Outcome::Accepted);
            }
            Records::Logs(scopes) => logs::take(&resource, scopes, ack, out),
        }
    }

    /// Let time pass: close windows, decide traces. Call several times a second.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.sampler.tick(now, out);
        self.fold.tick(now, out);
    }

    /// Hand out everything that is held: the agent stops.
    pub fn drain(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.sampler.drain(out);
        self.fold.drain(now, out);
    }

    /// What is held and was done.
    pub fn stats(&self) -> Stats {
        Stats { fold: self.fold.stats(), operations: self.red.operations(), sample: self.sampler.stats() }
    }
}
