//! What a request hands on to a log of messages: OTLP still, by service, without what would not become rows.
//!
//! The very conversion that makes rows judges the records, and its rows are thrown away: so what is answered, counted and handed on is what the
//! consumer of the log will store. Invariant: each record of the request is in a piece, sampled out or rejected.

use super::split::{self, Piece, Pieces};
use super::view::{self, Unusual};
use super::{Counted, Delivery, Error, Form, LABELS, Outcome, Overflow, Push, Reason, Seen, Sink, convert};
use crate::batch::budget::{Budget, Hold};
use crate::convert::sink::Indexed;
use ollystack_receive::{Body as _, Message, Refusal, Signal, Wire};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use prost::Message as _;

/// A request, ready for the log.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) outcome: Outcome,
    pub(crate) pieces: Vec<Piece>,
    /// What all its rows take, about: what a consumer will have to hold.
    pub(crate) row_bytes: u64,
    pub(crate) values_cut: u64,
    /// For the pieces.
    pub(crate) hold: Hold,
}

impl Counted {
    /// Make it ready, in pieces of at most `bytes_max`. What the request held is free then.
    pub(crate) fn outgoing(
        self,
        delivery: &Delivery,
        seen: &Seen,
        budget: &Budget,
        bytes_max: usize,
    ) -> Result<Outgoing, Error> {
        let Counted { form, mut held, signal, .. } = self;
        let treatment = &delivery.treatment;
        let (message, values_cut) = match form {
            Form::Message(message, values_cut) => (message, values_cut),
            Form::Wire(wire) => {
                if treatment.is_none(signal) {
                    let mut sink = Sink::new(budget.clone());
                    match view::convert(&wire, delivery, seen, &mut sink) {
                        Ok(outcome) => return pieces(signal, wire.bytes(), outcome, sink, 0, budget, bytes_max),
                        Err(view::Stop::Overflow(overflow)) => return Err(overflow.into()),
                        Err(view::Stop::Unusual) => {}
                    }
                }
                Message::read(wire, &mut held).map_err(Error::Refused)?
            }
        };
        let mut message = message;
        let sampled_out = if treatment.is_none(signal) { 0 } else { treatment.apply(&mut message) };
        let mut bytes = encode(&message);
        let mut judge = Judge { sink: Sink::new(budget.clone()), taken: Vec::new() };
        let outcome = Outcome { sampled_out, ..convert(message, delivery, seen, &mut judge)? };
        if !outcome.rejected.is_empty() {
            let (mut message, _) = Message::read(Wire::new(signal, bytes), &mut held).map_err(Error::Refused)?;
            keep(&mut message, &judge.taken);
            bytes = encode(&message);
        }
        pieces(signal, &bytes, outcome, judge.sink, values_cut, budget, bytes_max)
    }
}

fn pieces(
    signal: Signal,
    bytes: &[u8],
    mut outcome: Outcome,
    sink: Sink,
    values_cut: u64,
    budget: &Budget,
    bytes_max: usize,
) -> Result<Outgoing, Error> {
    let rows = sink.finish()?;
    let row_bytes = rows.iter().filter(|rows| rows.table != LABELS).map(|rows| rows.columns.bytes() as u64).sum();
    drop(rows);
    let fault = |Unusual| Error::Refused(Refusal::Broken("the request could not be parted by service".to_owned()));
    let Pieces { pieces, too_large } = split::by_service(signal, bytes, bytes_max).map_err(fault)?;
    if too_large > 0 {
        outcome.accepted = outcome.accepted.saturating_sub(too_large);
        outcome.reject(Reason::Size, usize::try_from(too_large).unwrap_or(usize::MAX));
    }
    let total: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    let overflow = || if total > budget.max() { Overflow::Ever { max: budget.max() } } else { Overflow::Now };
    let hold = budget.hold(total).ok_or_else(overflow)?;
    Ok(Outgoing { outcome, pieces, row_bytes, values_cut, hold })
}

fn encode(message: &Message) -> Vec<u8> {
    match message {
        Message::Metrics(request) => request.encode_to_vec(),
        Message::Logs(request) => request.encode_to_vec(),
        Message::Traces(request) => request.encode_to_vec(),
    }
}

/// Takes rows as a [`Sink`] does, and remembers which records had one, in their order.
struct Judge {
    sink: Sink,
    taken: Vec<bool>,
}

impl Push for Judge {
    fn push<T: Indexed>(&mut self, row: &T) -> Result<(), Overflow> {
        if T::INDEX != LABELS {
            self.taken.push(true);
        }
        self.sink.push(row)
    }

    fn left_out(&mut self, records: usize) {
        self.taken.resize(self.taken.len() + records, false);
    }
}

/// Leave in a message only the records that were taken.
fn keep(message: &mut Message, taken: &[bool]) {
    let mut taken = taken.iter().copied();
    let mut next = || taken.next().unwrap_or(false);
    match message {
        Message::Logs(request) => {
            for scope in request.resource_logs.iter_mut().flat_map(|resource| &mut resource.scope_logs) {
                scope.log_records.retain(|_| next());
            }
        }
        Message::Traces(request) => {
            for scope in request.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans) {
                scope.spans.retain(|_| next());
            }
        }
        Message::Metrics(request) => {
            for scope in request.resource_metrics.iter_mut().flat_map(|resource| &mut resource.scope_metrics) {
                scope.metrics.retain_mut(|metric| keep_points(metric, &mut next));
            }
        }
    }
}

/// Whether any is left.
fn keep_points(metric: &mut Metric, mut next: impl FnMut() -> bool) -> bool {
    fn points<P>(points: &mut Vec<P>, mut next: impl FnMut() -> bool) -> bool {
        points.retain(|_| next());
        !points.is_empty()
    }
    match &mut metric.data {
        Some(Data::Gauge(gauge)) => points(&mut gauge.data_points, next),
        Some(Data::Sum(sum)) => points(&mut sum.data_points, next),
        Some(Data::Histogram(histogram)) => points(&mut histogram.data_points, next),
        Some(Data::ExponentialHistogram(histogram)) => points(&mut histogram.data_points, next),
        Some(Data::Summary(summary)) => points(&mut summary.data_points, next),
        // One without data counts as one record.
        None => next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::KeyValue;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, NumberDataPoint, ResourceMetrics, ScopeMetrics, number_data_point::Value,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;

    fn outgoing(signal: Signal, bytes: Vec<u8>) -> Outgoing {
        let counted = Counted::of(Wire::new(signal, bytes)).unwrap();
        counted.outgoing(&Delivery::default(), &Seen::new(), &Budget::new(1 << 20), 1 << 20).unwrap()
    }

    #[test]
    fn what_would_not_become_rows_is_not_handed_on() {
        let record = |time_unix_nano| LogRecord { time_unix_nano, ..LogRecord::default() };
        let many = Resource { attributes: vec![KeyValue::default(); 1_025], ..Resource::default() };
        let scope_logs = |times: &[u64]| {
            vec![ScopeLogs { log_records: times.iter().copied().map(record).collect(), ..ScopeLogs::default() }]
        };
        let resource_logs = vec![
            ResourceLogs { scope_logs: scope_logs(&[1, u64::MAX, 2]), ..ResourceLogs::default() },
            ResourceLogs { resource: Some(many), scope_logs: scope_logs(&[3, 4]), ..ResourceLogs::default() },
            ResourceLogs { scope_logs: scope_logs(&[u64::MAX, 5]), ..ResourceLogs::default() },
        ];
        let outgoing = outgoing(Signal::Logs, ExportLogsServiceRequest { resource_logs }.encode_to_vec());
        assert_eq!((outgoing.outcome.accepted, outgoing.outcome.rejected_total()), (3, 4));
        let [piece] = &outgoing.pieces[..] else { panic!("{outgoing:?}") };
        let read = ExportLogsServiceRequest::decode(piece.bytes.as_slice()).unwrap();
        let scopes = read.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        let times: Vec<u64> = scopes.flat_map(|scope| &scope.log_records).map(|log| log.time_unix_nano).collect();
        assert_eq!((piece.records, times), (3, vec![1, 2, 5]));
        assert!(outgoing.row_bytes > 0);
    }

    #[test]
    fn points_are_judged_one_by_one() {
        let point = |time_unix_nano| NumberDataPoint {
            time_unix_nano,
            value: Some(Value::AsInt(7)),
            ..NumberDataPoint::default()
        };
        let gauge = |name: &str, times: &[u64]| Metric {
            name: name.into(),
            data: Some(Data::Gauge(Gauge { data_points: times.iter().copied().map(point).collect() })),
            ..Metric::default()
        };
        let nothing = Metric { name: "nothing".into(), ..Metric::default() };
        let metrics = vec![gauge("a", &[1, 0, 2]), gauge("", &[3]), nothing, gauge("b", &[0]), gauge("c", &[4])];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
        let outgoing = outgoing(Signal::Metrics, ExportMetricsServiceRequest { resource_metrics }.encode_to_vec());
        assert_eq!((outgoing.outcome.accepted, outgoing.outcome.rejected_total()), (3, 4));
        let read = ExportMetricsServiceRequest::decode(outgoing.pieces[0].bytes.as_slice()).unwrap();
        assert_eq!(read.resource_metrics[0].scope_metrics[0].metrics, [gauge("a", &[1, 2]), gauge("c", &[4])]);
    }
}
