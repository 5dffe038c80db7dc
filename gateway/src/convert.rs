//! OTLP requests to rows, record by record: what is valid becomes a row, what is not is counted with its reason.
//!
//! Takes a request and who sent it; the rows go to a [`Sink`] as columns, and the [`Outcome`] says what was left out and why. There are two
//! ways: [`view`], from the bytes straight to columns, for requests without anything odd, and the long one by prost's messages and rows.
//! Pure: no clock, no I/O. Invariant: every record of the request is accepted (its row is in the sink), sampled out or rejected
//! (counted once).

mod attributes;
mod logs;
mod metrics;
#[cfg(feature = "kafka")]
mod outgoing;
pub(crate) mod series;
mod sink;
#[cfg(feature = "kafka")]
mod split;
mod traces;
pub(crate) mod view;

#[cfg(feature = "kafka")]
pub(crate) use outgoing::Outgoing;
use sink::Sink;
pub(crate) use sink::{LABELS, Overflow, signal, tables};

use crate::batch::Rows;
use crate::batch::budget::Budget;
use crate::treat::Treatment;
use hashbrown::HashSet;
use ollystack_receive::{Body as _, Export, Held, Message, Refusal, Signal, Wire};
use ollystack_schema::names::semconv::SERVICE_NAME;
use ollystack_schema::rows::SharedAttributes;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use series::Seen;
use sink::Push;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What all rows of one request have in common, and comes from the key, the headers and the clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delivery {
    pub(crate) tenant: String,
    /// The agent's UUID; empty when no agent sent it.
    pub(crate) agent: String,
    pub(crate) sequence: u64,
    /// Seconds since the epoch.
    pub(crate) ingested_at: u32,
    /// Seconds since the epoch.
    pub(crate) expires_at: u32,
    /// What is done to messages first; of what goes from bytes to columns [`Treatment::is_none`] holds.
    pub(crate) treatment: Treatment,
}

/// What became of the records of a request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Records that have a row.
    pub(crate) accepted: u64,
    /// Records that have none, as others stand for them.
    pub(crate) sampled_out: u64,
    /// Records that have none.
    pub(crate) rejected: BTreeMap<Reason, u64>,
    /// Series whose labels are among the rows: to be remembered once these are safe.
    pub(crate) described: HashSet<u64>,
}

/// Why a record was left out. The same record would be left out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    TraceId,
    SpanId,
    Timestamp,
    Attributes,
    Name,
    Value,
    Buckets,
    #[cfg(feature = "kafka")]
    Size,
}

impl Reason {
    /// For counters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::TraceId => "trace_id",
            Reason::SpanId => "span_id",
            Reason::Timestamp => "timestamp",
            Reason::Attributes => "attributes",
            Reason::Name => "name",
            Reason::Value => "value",
            Reason::Buckets => "buckets",
            #[cfg(feature = "kafka")]
            Reason::Size => "size",
        }
    }

    /// For the sender.
    fn rule(self) -> &'static str {
        match self {
            Reason::TraceId => "a trace id must be 16 bytes, not all zero",
            Reason::SpanId => "a span id must be 8 bytes, not all zero",
            Reason::Timestamp => "times must be nanoseconds since 1970, before 2262, and not 0 for spans and points",
            Reason::Attributes => "at most 1024 attributes are taken per resource, scope, record, event and link",
            Reason::Name => "a metric must have a name",
            Reason::Value => "a point must have a value, and a metric data",
            Reason::Buckets => "a histogram must have no buckets, or one more than bounds",
            #[cfg(feature = "kafka")]
            Reason::Size => "a record must fit into a message of Kafka",
        }
    }
}

impl Outcome {
    fn reject(&mut self, reason: Reason, records: usize) {
        *self.rejected.entry(reason).or_default() += records as u64;
    }

    /// All that was left out.
    pub(crate) fn rejected_total(&self) -> u64 {
        self.rejected.values().sum()
    }

    /// What the sender is told; empty when nothing was left out.
    pub(crate) fn message(&self) -> String {
        let parts = self.rejected.iter().map(|(reason, records)| format!("{records} rejected: {}", reason.rule()));
        parts.collect::<Vec<_>>().join("; ")
    }
}

/// A request whose records are counted: data points, log records or spans.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) signal: Signal,
    pub(crate) records: u64,
    /// Of the message, after decompression.
    pub(crate) bytes: u64,
    form: Form,
    held: Held,
}

#[derive(Debug)]
enum Form {
    Wire(Wire),
    /// And how many values were left out of it.
    Message(Message, u64),
}

/// What a request became.
#[derive(Debug)]
pub(crate) struct Converted {
    pub(crate) outcome: Outcome,
    pub(crate) rows: Vec<Rows>,
    /// Lists and maps that were left out because they were nested too deeply.
    pub(crate) values_cut: u64,
}

/// Why a request cannot become rows.
#[derive(Debug)]
pub(crate) enum Error {
    /// It cannot be decoded, or not now.
    Refused(Refusal),
    Overflow(Overflow),
}

impl From<Overflow> for Error {
    fn from(overflow: Overflow) -> Error {
        Error::Overflow(overflow)
    }
}

impl Counted {
    /// Count, and decode what cannot be counted otherwise. What holds no record is decoded, too: nobody would look at the rest of it later.
    pub(crate) fn new(request: Export<Wire>) -> Result<Counted, Refusal> {
        let Export { message: wire, held, decoded_bytes: bytes, .. } = request;
        Counted::held(wire, held, bytes)
    }

    /// A request that came by another way than the face.
    #[cfg(feature = "kafka")]
    pub(crate) fn of(wire: Wire) -> Result<Counted, Refusal> {
        let bytes = wire.bytes().len() as u64;
        Counted::held(wire, Held::default(), bytes)
    }

    fn held(wire: Wire, mut held: Held, bytes: u64) -> Result<Counted, Refusal> {
        let signal = wire.signal();
        let (records, form) = match view::count(signal, wire.bytes()) {
            Ok(records @ 1..) => (records, Form::Wire(wire)),
            Ok(0) | Err(view::Unusual) => {
                let (message, values_cut) = Message::read(wire, &mut held)?;
                (count(&message), Form::Message(message, values_cut))
            }
        };
        Ok(Counted { signal, records, bytes, form, held })
    }

    /// Turn it into rows, held of `budget`. What the request held is free then.
    pub(crate) fn convert(self, delivery: &Delivery, seen: &Seen, budget: &Budget) -> Result<Converted, Error> {
        let Counted { form, mut held, .. } = self;
        let treatment = &delivery.treatment;
        let (mut message, values_cut) = match form {
            Form::Message(message, values_cut) => (message, values_cut),
            Form::Wire(wire) => {
                // What something is done to has to be a message first.
                if treatment.is_none(wire.signal()) {
                    let mut sink = Sink::new(budget.clone());
                    match view::convert(&wire, delivery, seen, &mut sink) {
                        Ok(outcome) => return Ok(Converted { outcome, rows: sink.finish()?, values_cut: 0 }),
                        Err(view::Stop::Overflow(overflow)) => return Err(overflow.into()),
                        Err(view::Stop::Unusual) => {}
                    }
                }
                Message::read(wire, &mut held).map_err(Error::Refused)?
            }
        };
        let sampled_out = if treatment.is_none(message.signal()) { 0 } else { treatment.apply(&mut message) };
        let mut sink = Sink::new(budget.clone());
        let outcome = Outcome { sampled_out, ..convert(message, delivery, seen, &mut sink)? };
        drop(held);
        Ok(Converted { outcome, rows: sink.finish()?, values_cut })
    }
}

/// How many records a message holds.
fn count(message: &Message) -> u64 {
    let count: usize = match message {
        Message::Metrics(request) => {
            let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
            scopes.flat_map(|scope| &scope.metrics).map(metrics::count).sum()
        }
        Message::Logs(request) => {
            let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
            scopes.map(|scope| scope.log_records.len()).sum()
        }
        Message::Traces(request) => {
            let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
            scopes.map(|scope| scope.spans.len()).sum()
        }
    };
    count as u64
}

/// Turn a message into rows.
fn convert(message: Message, delivery: &Delivery, seen: &Seen, sink: &mut impl Push) -> Result<Outcome, Overflow> {
    match message {
        Message::Metrics(request) => metrics::convert(request, delivery, seen, sink),
        Message::Logs(request) => logs::convert(request, delivery, sink),
        Message::Traces(request) => traces::convert(request, delivery, sink),
    }
}

/// A resource or a scope as every row of it repeats it.
#[derive(Clone, Debug, Default)]
struct Origin {
    name: String,
    version: String,
    attributes: SharedAttributes,
    schema_url: String,
}

impl Origin {
    /// `name` is the service's.
    fn resource(resource: Option<Resource>, schema_url: String) -> Result<Origin, Reason> {
        let attributes = attributes::sorted(resource.unwrap_or_default().attributes)?;
        let service = attributes::get(&attributes, SERVICE_NAME).unwrap_or_default().to_owned();
        Ok(Origin { name: service, version: String::new(), attributes: Arc::new(attributes), schema_url })
    }

    fn scope(scope: Option<InstrumentationScope>, schema_url: String) -> Result<Origin, Reason> {
        let scope = scope.unwrap_or_default();
        let attributes = Arc::new(attributes::sorted(scope.attributes)?);
        Ok(Origin { name: scope.name, version: scope.version, attributes, schema_url })
    }
}

/// Nanoseconds as ClickHouse's DateTime64(9) holds them: up to 2262.
fn nanos(unix_nano: u64) -> Result<i64, Reason> {
    i64::try_from(unix_nano).map_err(|_| Reason::Timestamp)
}

/// A time that must be there.
fn nanos_not_zero(unix_nano: u64) -> Result<i64, Reason> {
    if unix_nano == 0 { Err(Reason::Timestamp) } else { nanos(unix_nano) }
}

/// An id of `length` bytes as lower-case hexadecimal.
fn id(bytes: &[u8], length: usize, reason: Reason) -> Result<String, Reason> {
    if bytes.len() != length || bytes.iter().all(|byte| *byte == 0) {
        return Err(reason);
    }
    Ok(hex(bytes))
}

/// An id that may be missing: what is not a valid one is none.
fn optional_id(bytes: &[u8], length: usize) -> String {
    id(bytes, length, Reason::TraceId).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests;
