//! The one type that crosses stages, before ([`Batch`]) and after ([`Reduced`]) reduction.

use crate::otlp::{
    logs::v1::{ResourceLogs, ScopeLogs},
    metrics::v1::ResourceMetrics,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use crate::{Ack, Request, Resource, Sample, request};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The three signals, in the order every table prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Signal {
    /// Counted in data points.
    Metrics = 0,
    /// Counted in log records.
    Logs = 1,
    /// Counted in spans.
    Traces = 2,
}

impl Signal {
    /// All, in order.
    pub const ALL: [Signal; 3] = [Signal::Metrics, Signal::Logs, Signal::Traces];

    /// Lower-case name, as in metrics and tables.
    pub fn name(self) -> &'static str {
        ["metrics", "logs", "traces"][self as usize]
    }

    /// From its number.
    pub fn from_u8(number: u8) -> Option<Signal> {
        Signal::ALL.get(usize::from(number)).copied()
    }
}

/// Which input a batch came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// /proc and friends.
    Host,
    /// Log files and the journal.
    Logs,
    /// Applications' OTLP.
    Otlp,
    /// The kernel programs.
    Ebpf,
    /// The agent about itself and what it derives (RED metrics).
    Agent,
}

impl Source {
    /// All, in order.
    pub const ALL: [Source; 5] = [Source::Host, Source::Logs, Source::Otlp, Source::Ebpf, Source::Agent];
}

/// Records of one resource on their way in.
#[derive(Debug)]
pub struct Batch {
    /// Where from.
    pub source: Source,
    /// About whom.
    pub resource: Arc<Resource>,
    /// What.
    pub records: Records,
    /// Who waits for the outcome.
    pub ack: Ack,
}

/// The records of a batch, one signal.
#[derive(Debug)]
pub enum Records {
    /// Samples.
    Metrics(Vec<Sample>),
    /// Log records by scope.
    Logs(Vec<ScopeLogs>),
    /// Spans by scope.
    Traces(Vec<ScopeSpans>),
    /// Spans that the agent itself makes.
    Requests(Vec<Request>),
}

impl Records {
    /// Their signal.
    pub fn signal(&self) -> Signal {
        match self {
            Records::Metrics(_) => Signal::Metrics,
            Records::Logs(_) => Signal::Logs,
            Records::Traces(_) | Records::Requests(_) => Signal::Traces,
        }
    }

    /// The same with requests as the spans that they are.
    pub fn into_otlp(self) -> Records {
        match self {
            Records::Requests(requests) => Records::Traces(request::scope_spans(&requests)),
            other => other,
        }
    }

    /// Data points, log records or spans.
    pub fn count(&self) -> u64 {
        let count: usize = match self {
            Records::Metrics(samples) => samples.len(),
            Records::Logs(scopes) => scopes.iter().map(|s| s.log_records.len()).sum(),
            Records::Traces(scopes) => scopes.iter().map(|s| s.spans.len()).sum(),
            Records::Requests(requests) => requests.len(),
        };
        count as u64
    }

    /// Bytes of the records as OTLP, uncompressed, without their resource; of samples see [`Sample::wire_bytes`].
    pub fn wire_bytes(&self) -> u64 {
        let bytes: usize = match self {
            Records::Metrics(samples) => samples.iter().map(Sample::wire_bytes).sum(),
            Records::Logs(scopes) => scopes.iter().map(Message::encoded_len).sum(),
            Records::Traces(scopes) => scopes.iter().map(Message::encoded_len).sum(),
            Records::Requests(requests) => request::scope_spans_len(requests),
        };
        bytes as u64
    }
}

/// What a batch is worth when the buffer is full: the lowest class goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Errors: error logs, traces kept for an error. Go last.
    Errors = 0,
    /// Slow and first-seen traces, warnings, metrics.
    Normal = 1,
    /// Traces kept by chance alone.
    Baseline = 2,
    /// Debug logs. Go first.
    Debug = 3,
}

/// Reduced records, ready to be frozen.
#[derive(Debug)]
pub struct Reduced {
    /// Worth.
    pub class: Class,
    /// What.
    pub records: ReducedRecords,
    /// Who waits for them to be durable.
    pub acks: Vec<Ack>,
}

/// One OTLP message per resource.
#[derive(Debug)]
pub enum ReducedRecords {
    /// Folded points.
    Metrics(ResourceMetrics),
    /// Log records.
    Logs(ResourceLogs),
    /// Kept spans.
    Traces(ResourceSpans),
}

impl ReducedRecords {
    /// Their signal.
    pub fn signal(&self) -> Signal {
        match self {
            ReducedRecords::Metrics(_) => Signal::Metrics,
            ReducedRecords::Logs(_) => Signal::Logs,
            ReducedRecords::Traces(_) => Signal::Traces,
        }
    }

    /// Data points, log records or spans.
    pub fn count(&self) -> u64 {
        use crate::otlp::metrics::v1::metric::Data;
        let count: usize = match self {
            ReducedRecords::Metrics(resource) => resource
                .scope_metrics
                .iter()
                .flat_map(|scope| &scope.metrics)
                .map(|metric| match &metric.data {
                    Some(Data::Gauge(data)) => data.data_points.len(),
                    Some(Data::Sum(data)) => data.data_points.len(),
                    Some(Data::Histogram(data)) => data.data_points.len(),
                    Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
                    Some(Data::Summary(data)) => data.data_points.len(),
                    None => 0,
                })
                .sum(),
            ReducedRecords::Logs(resource) => resource.scope_logs.iter().map(|s| s.log_records.len()).sum(),
            ReducedRecords::Traces(resource) => resource.scope_spans.iter().map(|s| s.spans.len()).sum(),
        };
        count as u64
    }
}
