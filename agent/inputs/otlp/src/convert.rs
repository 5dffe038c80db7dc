//! OTLP requests to batches, one per resource, and what in them is not valid.
//!
//! Rules as the comments in opentelemetry-proto have them. Rejected: a span without a valid trace and span id; a point without a value, of a
//! metric without name or temporality, or whose buckets do not fit its bounds. A log record or exemplar with an invalid id is taken
//! without that id, a span without an invalid parent or link. A time that no clock shows, as of one that was never set, is no reason to
//! lose a record: another time of it, or that of its coming, stands for it. Invariant: accepted plus rejected records are all that came.

use crate::series::{Description, Interner};
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::collector::trace::v1::ExportTraceServiceRequest;
use ollystack_record::otlp::metrics::v1::{
    AggregationTemporality, DataPointFlags, Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint,
    Metric as Proto, NumberDataPoint, SummaryDataPoint, metric::Data, number_data_point,
};
use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::value::sort_attributes;
use ollystack_record::{Kind, Metric, Records, Resource, Sample, Scope, Value};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch, up to 2262: what signed numbers hold, and with them every store.
const TIME_MAX: u64 = i64::MAX as u64;

/// A request, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    /// One per resource that has records.
    pub(crate) batches: Vec<(Arc<Resource>, Records)>,
    /// Records that are not valid.
    pub(crate) rejected: u64,
    /// What is wrong with the first of them.
    pub(crate) why: String,
}

impl Converted {
    fn reject(&mut self, records: usize, why: impl FnOnce() -> String) {
        if records > 0 && self.why.is_empty() {
            self.why = why();
        }
        self.rejected += records as u64;
    }

    fn push(&mut self, resource: Resource, records: Records) {
        if records.count() > 0 {
            self.batches.push((Arc::new(resource), records));
        }
    }
}

/// Spans.
pub(crate) fn traces(request: ExportTraceServiceRequest) -> Converted {
    let mut converted = Converted::default();
    for mut resource in request.resource_spans {
        for scope in &mut resource.scope_spans {
            inherit(&mut scope.schema_url, &resource.schema_url);
            scope.spans.retain_mut(|span| {
                let valid = mend(span);
                if !valid {
                    converted
                        .reject(1, || "a span needs a trace_id of 16 and a span_id of 8 bytes, not all zero".into());
                }
                valid
            });
        }
        resource.scope_spans.retain(|scope| !scope.spans.is_empty());
        converted.push(Resource::from_proto(resource.resource), Records::Traces(resource.scope_spans));
    }
    converted
}

/// Whether a span is valid, once an invalid parent and invalid links are taken off.
fn mend(span: &mut Span) -> bool {
    if !is_id::<8>(&span.parent_span_id) {
        span.parent_span_id.clear();
    }
    let links = span.links.len();
    span.links.retain(|link| is_id::<16>(&link.trace_id) && is_id::<8>(&link.span_id));
    let gone = u32::try_from(links - span.links.len()).unwrap_or(u32::MAX);
    span.dropped_links_count = span.dropped_links_count.saturating_add(gone);
    span.end_time_unix_nano = time(span.end_time_unix_nano, span.start_time_unix_nano);
    span.start_time_unix_nano = time(span.start_time_unix_nano, span.end_time_unix_nano);
    for event in &mut span.events {
        event.time_unix_nano = time(event.time_unix_nano, span.end_time_unix_nano);
    }
    is_id::<16>(&span.trace_id) && is_id::<8>(&span.span_id)
}

/// The first of these that is a time, or now.
fn time(unix_nano: u64, instead: u64) -> u64 {
    let is_time = |unix_nano: &u64| (1..=TIME_MAX).contains(unix_nano);
    [unix_nano, instead]
        .into_iter()
        .find(is_time)
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64))
}

/// Log records.
pub(crate) fn logs(request: ExportLogsServiceRequest) -> Converted {
    let mut converted = Converted::default();
    for mut resource in request.resource_logs {
        for scope in &mut resource.scope_logs {
            inherit(&mut scope.schema_url, &resource.schema_url);
            for record in &mut scope.log_records {
                mend_ids(&mut record.trace_id, &mut record.span_id);
                // A record need not say when it was written; when it was seen, it must.
                record.time_unix_nano = Some(record.time_unix_nano).filter(|time| *time <= TIME_MAX).unwrap_or(0);
                record.observed_time_unix_nano = time(record.observed_time_unix_nano, record.time_unix_nano);
            }
        }
        resource.scope_logs.retain(|scope| !scope.log_records.is_empty());
        converted.push(Resource::from_proto(resource.resource), Records::Logs(resource.scope_logs));
    }
    converted
}

/// Data points, each as a sample of a series that `interner` keeps.
pub(crate) fn metrics(request: ExportMetricsServiceRequest, interner: &mut Interner) -> Converted {
    let mut converted = Converted::default();
    for resource in request.resource_metrics {
        let mut samples = Vec::new();
        for mut scope_metrics in resource.scope_metrics {
            inherit(&mut scope_metrics.schema_url, &resource.schema_url);
            let scope = interner.scope(scope_metrics.scope.unwrap_or_default(), scope_metrics.schema_url);
            for metric in scope_metrics.metrics {
                points(metric, &scope, interner, &mut samples, &mut converted);
            }
        }
        converted.push(Resource::from_proto(resource.resource), Records::Metrics(samples));
    }
    converted
}

fn points(
    proto: Proto,
    scope: &Arc<Scope>,
    interner: &mut Interner,
    samples: &mut Vec<Sample>,
    converted: &mut Converted,
) {
    let Proto { name, description, unit, data, mut metadata } = proto;
    let Some(data) = data else { return };
    let kind = match kind(&data) {
        Ok(kind) if !name.is_empty() => kind,
        Ok(_) => return converted.reject(len(&data), || "a metric without a name".into()),
        Err(why) => return converted.reject(len(&data), || format!("metric {name:?}: {why}")),
    };
    sort_attributes(&mut metadata);
    let metric =
        interner.metric(Description { name: &name, unit: &unit, description: &description, kind, metadata: &metadata });
    let mut to = Points { name: &name, scope, metric: &metric, interner, samples, converted };
    match data {
        Data::Gauge(data) => data.data_points.into_iter().for_each(|point| to.number(point)),
        Data::Sum(data) => data.data_points.into_iter().for_each(|point| to.number(point)),
        Data::Histogram(data) => data.data_points.into_iter().for_each(|point| to.histogram(point)),
        Data::ExponentialHistogram(data) => data.data_points.into_iter().for_each(|point| to.exponential(point)),
        Data::Summary(data) => data.data_points.into_iter().for_each(|point| to.summary(point)),
    }
}

fn kind(data: &Data) -> Result<Kind, &'static str> {
    let delta = |temporality: i32| match AggregationTemporality::try_from(temporality) {
        Ok(AggregationTemporality::Delta) => Ok(true),
        Ok(AggregationTemporality::Cumulative) => Ok(false),
        _ => Err("aggregation_temporality is neither delta (1) nor cumulative (2)"),
    };
    Ok(match data {
        Data::Gauge(_) => Kind::Gauge,
        Data::Sum(sum) => Kind::Sum { monotonic: sum.is_monotonic, delta: delta(sum.aggregation_temporality)? },
        Data::Histogram(data) => Kind::Histogram { delta: delta(data.aggregation_temporality)? },
        Data::ExponentialHistogram(data) => Kind::ExponentialHistogram { delta: delta(data.aggregation_temporality)? },
        Data::Summary(_) => Kind::Summary,
    })
}

fn len(data: &Data) -> usize {
    match data {
        Data::Gauge(data) => data.data_points.len(),
        Data::Sum(data) => data.data_points.len(),
        Data::Histogram(data) => data.data_points.len(),
        Data::ExponentialHistogram(data) => data.data_points.len(),
        Data::Summary(data) => data.data_points.len(),
    }
}

/// Where the points of one metric go.
struct Points<'a> {
    name: &'a str,
    scope: &'a Arc<Scope>,
    metric: &'a Arc<Metric>,
    interner: &'a mut Interner,
    samples: &'a mut Vec<Sample>,
    converted: &'a mut Converted,
}

impl Points<'_> {
    fn number(&mut self, mut point: NumberDataPoint) {
        let value = match point.value {
            Some(number_data_point::Value::AsInt(number)) => Some(Value::Int(number)),
            Some(number_data_point::Value::AsDouble(number)) => Some(Value::Double(number)),
            None => None,
        };
        if value.is_none() && !is_missing(point.flags) {
            return self.reject("a point without a value");
        }
        mend_exemplars(&mut point.exemplars);
        let series = self.interner.series(self.scope, self.metric, point.attributes);
        self.samples.push(Sample {
            series,
            start_unix_nano: point.start_time_unix_nano,
            time_unix_nano: point.time_unix_nano,
            flags: point.flags,
            value: value.filter(|_| !is_missing(point.flags)).unwrap_or(Value::Missing),
            exemplars: point.exemplars,
        });
    }

    fn histogram(&mut self, mut point: HistogramDataPoint) {
        let (counts, bounds) = (point.bucket_counts.len(), point.explicit_bounds.len());
        if counts != bounds + 1 && !(counts == 0 && bounds == 0) {
            return self.reject("bucket_counts must have one element more than explicit_bounds, or both none");
        }
        mend_exemplars(&mut point.exemplars);
        let attributes = std::mem::take(&mut point.attributes);
        let start_unix_nano = std::mem::take(&mut point.start_time_unix_nano);
        let time_unix_nano = std::mem::take(&mut point.time_unix_nano);
        let flags = std::mem::take(&mut point.flags);
        let value = if is_missing(flags) { Value::Missing } else { Value::Histogram(Box::new(point)) };
        self.push(attributes, start_unix_nano, time_unix_nano, flags, value);
    }

    fn exponential(&mut self, mut point: ExponentialHistogramDataPoint) {
        mend_exemplars(&mut point.exemplars);
        let attributes = std::mem::take(&mut point.attributes);
        let start_unix_nano = std::mem::take(&mut point.start_time_unix_nano);
        let time_unix_nano = std::mem::take(&mut point.time_unix_nano);
        let flags = std::mem::take(&mut point.flags);
        let value = if is_missing(flags) { Value::Missing } else { Value::ExponentialHistogram(Box::new(point)) };
        self.push(attributes, start_unix_nano, time_unix_nano, flags, value);
    }

    fn summary(&mut self, mut point: SummaryDataPoint) {
        let attributes = std::mem::take(&mut point.attributes);
        let start_unix_nano = std::mem::take(&mut point.start_time_unix_nano);
        let time_unix_nano = std::mem::take(&mut point.time_unix_nano);
        let flags = std::mem::take(&mut point.flags);
        let value = if is_missing(flags) { Value::Missing } else { Value::Summary(Box::new(point)) };
        self.push(attributes, start_unix_nano, time_unix_nano, flags, value);
    }

    fn push(
        &mut self,
        attributes: Vec<ollystack_record::otlp::common::v1::KeyValue>,
        start_unix_nano: u64,
        time_unix_nano: u64,
        flags: u32,
        value: Value,
    ) {
        let series = self.interner.series(self.scope, self.metric, attributes);
        let time_unix_nano = time(time_unix_nano, 0);
        let start_unix_nano = Some(start_unix_nano).filter(|start| *start <= TIME_MAX).unwrap_or(0);
        self.samples.push(Sample { series, start_unix_nano, time_unix_nano, flags, value, exemplars: Vec::new() });
    }

    fn reject(&mut self, why: &str) {
        let name = self.name;
        self.converted.reject(1, || format!("metric {name:?}: {why}"));
    }
}

fn is_missing(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

fn mend_exemplars(exemplars: &mut [Exemplar]) {
    for exemplar in exemplars {
        mend_ids(&mut exemplar.trace_id, &mut exemplar.span_id);
    }
}

/// An id that is not valid says that there is none; without a trace there is no span either.
fn mend_ids(trace_id: &mut Vec<u8>, span_id: &mut Vec<u8>) {
    if !is_id::<16>(trace_id) {
        trace_id.clear();
        span_id.clear();
    }
    if !is_id::<8>(span_id) {
        span_id.clear();
    }
}

fn is_id<const LENGTH: usize>(id: &[u8]) -> bool {
    id.len() == LENGTH && id.iter().any(|byte| *byte != 0)
}

/// A schema URL of the resource stands for scopes that have none of their own.
fn inherit(scope: &mut String, resource: &str) {
    if scope.is_empty() {
        scope.push_str(resource);
    }
}

#[cfg(test)]
mod tests;
