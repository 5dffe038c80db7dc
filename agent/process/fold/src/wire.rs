//! Closed windows to OTLP, grouped by resource, scope and metric.
//!
//! A level goes out as a delta histogram without buckets (see ARCHITECTURE.md, "On the wire"), sums and histograms as deltas.
//! Invariant: as many data points leave as windows came in.

use super::config::Gauges;
use super::metrics::{Known, Metrics, bytes_of, scope_bytes_of};
use super::state::{Level, Number, State};
use super::table::Table;
use super::window::{Closed, Entry, Window};
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogram, Gauge, Histogram, HistogramDataPoint, Metric as Proto,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, exemplar, metric::Data, number_data_point,
};
use ollystack_record::{Class, Kind, Metric, Reduced, ReducedRecords, value};
use ollystack_schema::names::{FOLD, FOLD_GAUGE, FOLD_UPDOWNCOUNTER};
use std::collections::VecDeque;

/// Points in one reduced batch: about 200 kB of OTLP.
const POINTS_MAX: usize = 2_000;

/// OTLP data point flag: no recorded value.
const NO_RECORDED_VALUE: u32 = 1;

/// What a point takes beside its labels and buckets.
const POINT_BYTES: usize = 256;

/// Alike next to alike, so that zstd finds it: by resource, scope and metric, then as the series were first seen.
pub(super) fn sort(closed: &mut [Closed], metrics: &Metrics) {
    closed.sort_unstable_by_key(|closed| {
        let scope = metrics.get(closed.metric).map(|known| known.scope_number);
        (closed.resource, scope, closed.metric, closed.entry, closed.window.start_unix_nano)
    });
}

/// Group and hand out of the first `most` windows as many as make about so many bytes.
pub(super) fn emit(
    closed: &mut VecDeque<Closed>,
    most: usize,
    bytes_max: usize,
    table: &mut Table,
    now: u64,
    out: &mut Vec<Reduced>,
) {
    let Table { entries, metrics, resources, memory, .. } = table;
    let mut message = Message::default();
    let mut bytes = 0;
    for _ in 0..most {
        if bytes >= bytes_max {
            break;
        }
        let Some(closed) = closed.pop_front() else { break };
        memory.change(closed.heap_bytes(), 0);
        let Some(entry) = entries.get(closed.entry) else { continue };
        let describe = metrics.describe(entry.metric, now);
        let Some(known) = metrics.get(entry.metric) else { continue };
        if message.points == POINTS_MAX || message.points > 0 && message.resource != entry.resource {
            message.hand_out(out);
        }
        if message.points == 0 {
            message.resource = entry.resource;
            message.proto.resource = resources.get(entry.resource).map(|resource| resource.to_proto());
        }
        if message.points == 0 || message.metric != entry.metric {
            bytes += bytes_of(&known.metric) + scope_bytes_of(&known.scope);
        }
        let aside = closed.window.state.wire_heap_bytes() + closed.exemplars.heap_bytes();
        bytes += POINT_BYTES + entry.series.heap_bytes() + aside;
        message.append(closed, entry, known, describe);
    }
    message.hand_out(out);
}

/// The points of one resource while they gather.
#[derive(Default)]
struct Message {
    proto: ResourceMetrics,
    points: usize,
    resource: u32,
    scope: u32,
    metric: u32,
}

impl Message {
    fn hand_out(&mut self, out: &mut Vec<Reduced>) {
        let Message { proto, points, .. } = std::mem::take(self);
        if points > 0 {
            out.push(Reduced { class: Class::Normal, records: ReducedRecords::Metrics(proto), acks: Vec::new() });
        }
    }

    fn append(&mut self, closed: Closed, entry: &Entry, known: &Known, describe: bool) {
        let scopes = &mut self.proto.scope_metrics;
        if self.points == 0 || self.scope != known.scope_number {
            let (scope, schema_url) = (Some(known.scope.proto.clone()), known.scope.schema_url.clone());
            scopes.push(ScopeMetrics { scope, schema_url, ..ScopeMetrics::default() });
        }
        let Some(scope) = scopes.last_mut() else { return };
        let same = scope.metrics.last_mut().filter(|_| self.points > 0 && self.metric == entry.metric);
        let (data, fold) = data(closed, entry, known.gauges);
        let other = match same {
            Some(last) => join(last.data.as_mut(), data),
            None => Some(data),
        };
        if let Some(data) = other {
            scope.metrics.push(described(&known.metric, describe, data, fold));
        }
        (self.points, self.scope, self.metric) = (self.points + 1, known.scope_number, entry.metric);
    }
}

fn described(metric: &Metric, describe: bool, data: Data, fold: Option<&'static str>) -> Proto {
    // An application that names our own key says something else with it than we do.
    let theirs = metric.metadata.iter().filter(|pair| pair.key != FOLD).cloned();
    Proto {
        name: metric.name.clone(),
        description: if describe { metric.description.clone() } else { String::new() },
        unit: metric.unit.clone(),
        metadata: theirs.chain(fold.map(|fold| value::string(FOLD, fold))).collect(),
        data: Some(data),
    }
}

/// Append the points of `data` to those of `to` if the two are alike, else give it back.
fn join(to: Option<&mut Data>, data: Data) -> Option<Data> {
    match (to, data) {
        (Some(Data::Gauge(to)), Data::Gauge(from)) => to.data_points.extend(from.data_points),
        (Some(Data::Sum(to)), Data::Sum(from))
            if to.is_monotonic == from.is_monotonic && to.aggregation_temporality == from.aggregation_temporality =>
        {
            to.data_points.extend(from.data_points);
        }
        (Some(Data::Histogram(to)), Data::Histogram(from)) => to.data_points.extend(from.data_points),
        (Some(Data::ExponentialHistogram(to)), Data::ExponentialHistogram(from)) => {
            to.data_points.extend(from.data_points);
        }
        (Some(Data::Summary(to)), Data::Summary(from)) => to.data_points.extend(from.data_points),
        (_, data) => return Some(data),
    }
    None
}

/// One window as a metric of one point, and what it was folded from.
fn data(closed: Closed, entry: &Entry, gauges: Gauges) -> (Data, Option<&'static str>) {
    let Closed { window, exemplars, .. } = closed;
    let Window { start_unix_nano, end_unix_nano: time_unix_nano, state } = window;
    let (series, exemplars) = (&entry.series, exemplars.into_vec());
    let attributes = series.attributes().to_vec();
    let delta = AggregationTemporality::Delta as i32;
    let number = |value: Option<Number>, start_unix_nano, time_unix_nano, exemplars| NumberDataPoint {
        attributes: attributes.clone(),
        start_time_unix_nano: start_unix_nano,
        time_unix_nano,
        exemplars,
        flags: if value.is_none() { NO_RECORDED_VALUE } else { 0 },
        value: value.map(wire_number),
    };
    match state {
        State::Level(level) => match (series.metric.kind, gauges) {
            (Kind::Sum { .. }, Gauges::Last) => {
                let point = number(Some(level.last), start_unix_nano, level.last_unix_nano, exemplars);
                (sum(vec![point], AggregationTemporality::Cumulative as i32, false), None)
            }
            (_, Gauges::Last) => {
                let point = number(Some(level.last), 0, level.last_unix_nano, exemplars);
                (Data::Gauge(Gauge { data_points: vec![point] }), None)
            }
            (kind, Gauges::Fold) => {
                let fold = if matches!(kind, Kind::Sum { .. }) { FOLD_UPDOWNCOUNTER } else { FOLD_GAUGE };
                let point = level_point(level, attributes, start_unix_nano, time_unix_nano);
                let data = Histogram { data_points: vec![point], aggregation_temporality: delta };
                (Data::Histogram(data), Some(fold))
            }
        },
        State::Sum(value) => {
            let monotonic = matches!(series.metric.kind, Kind::Sum { monotonic: true, .. });
            (sum(vec![number(Some(value), start_unix_nano, time_unix_nano, exemplars)], delta, monotonic), None)
        }
        State::Explicit(histogram) => {
            let mut point = histogram.into_point();
            (point.attributes, point.start_time_unix_nano, point.time_unix_nano, point.exemplars) =
                (attributes, start_unix_nano, time_unix_nano, exemplars);
            (Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: delta }), None)
        }
        State::Exponential(histogram) => {
            let mut point = histogram.into_point();
            (point.attributes, point.start_time_unix_nano, point.time_unix_nano, point.exemplars) =
                (attributes, start_unix_nano, time_unix_nano, exemplars);
            let data = ExponentialHistogram { data_points: vec![point], aggregation_temporality: delta };
            (Data::ExponentialHistogram(data), None)
        }
        State::Summary(summary) => {
            let (time, mut point) = *summary;
            (point.attributes, point.time_unix_nano) = (attributes, time);
            (Data::Summary(Summary { data_points: vec![point] }), None)
        }
        State::Missing => missing(series.metric.kind, number(None, 0, time_unix_nano, Vec::new())),
    }
}

fn sum(data_points: Vec<NumberDataPoint>, aggregation_temporality: i32, is_monotonic: bool) -> Data {
    Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })
}

/// A gap, told in the metric's own type.
fn missing(kind: Kind, point: NumberDataPoint) -> (Data, Option<&'static str>) {
    use ollystack_record::otlp::metrics::v1::{ExponentialHistogramDataPoint, SummaryDataPoint};
    let (attributes, time_unix_nano, flags) = (point.attributes.clone(), point.time_unix_nano, point.flags);
    let delta = AggregationTemporality::Delta as i32;
    let data = match kind {
        Kind::Gauge => Data::Gauge(Gauge { data_points: vec![point] }),
        Kind::Sum { monotonic, .. } => sum(vec![point], delta, monotonic),
        Kind::Histogram { .. } => {
            let point = HistogramDataPoint { attributes, time_unix_nano, flags, ..HistogramDataPoint::default() };
            Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: delta })
        }
        Kind::ExponentialHistogram { .. } => {
            let empty = ExponentialHistogramDataPoint::default();
            let point = ExponentialHistogramDataPoint { attributes, time_unix_nano, flags, ..empty };
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![point],
                aggregation_temporality: delta,
            })
        }
        Kind::Summary => {
            let point = SummaryDataPoint { attributes, time_unix_nano, flags, ..SummaryDataPoint::default() };
            Data::Summary(Summary { data_points: vec![point] })
        }
    };
    (data, None)
}

fn level_point(level: Level, attributes: Vec<KeyValue>, start: u64, end: u64) -> HistogramDataPoint {
    let value = match level.last {
        Number::Int(value) => exemplar::Value::AsInt(value),
        Number::Double(value) => exemplar::Value::AsDouble(value),
    };
    let last = Exemplar { time_unix_nano: level.last_unix_nano, value: Some(value), ..Exemplar::default() };
    // Of a level that did not move the minimum says it.
    let moved = level.min != level.max;
    HistogramDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: end,
        count: level.count,
        sum: Some(level.sum),
        min: Some(level.min),
        max: Some(level.max),
        exemplars: moved.then_some(last).into_iter().collect(),
        ..HistogramDataPoint::default()
    }
}

fn wire_number(number: Number) -> number_data_point::Value {
    match number {
        Number::Int(value) => number_data_point::Value::AsInt(value),
        Number::Double(value) => number_data_point::Value::AsDouble(value),
    }
}
