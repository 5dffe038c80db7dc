//! Cutting what is too large for one batch, between records and never within one.
//!
//! Invariant: the parts hold the same records in the same order, each under the resource, scope and metric it had.

use ollystack_record::ReducedRecords;
use ollystack_record::otlp::logs::v1::{ResourceLogs, ScopeLogs};
use ollystack_record::otlp::metrics::v1::{
    ExponentialHistogram, Gauge, Histogram, Metric, ResourceMetrics, ScopeMetrics, Sum, Summary, metric::Data,
};
use ollystack_record::otlp::trace::v1::{ResourceSpans, ScopeSpans};
use prost::Message;

/// How large a part may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// A part and what it measures.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) records: ReducedRecords,
    pub(crate) size: Size,
}

impl Part {
    fn new(records: ReducedRecords) -> Part {
        let bytes = match &records {
            ReducedRecords::Metrics(resource) => resource.encoded_len(),
            ReducedRecords::Logs(resource) => resource.encoded_len(),
            ReducedRecords::Traces(resource) => resource.encoded_len(),
        };
        Part { size: Size { records: records.count() as usize, bytes }, records }
    }
}

/// Cut until every part is within `max`; a single record may be larger.
pub(crate) fn split(records: ReducedRecords, max: Size) -> Vec<Part> {
    let mut done = Vec::new();
    let mut rest = vec![Part::new(records)];
    while let Some(mut part) = rest.pop() {
        let fits = part.size.records <= max.records && part.size.bytes <= max.bytes;
        match if fits { None } else { halve(&mut part.records) } {
            None => done.push(part),
            Some(tail) => {
                rest.push(Part::new(tail));
                rest.push(Part::new(part.records));
            }
        }
    }
    done
}

/// Take the second half off; None for a single record.
fn halve(records: &mut ReducedRecords) -> Option<ReducedRecords> {
    match records {
        ReducedRecords::Logs(resource) => halve_logs(resource).map(ReducedRecords::Logs),
        ReducedRecords::Traces(resource) => halve_traces(resource).map(ReducedRecords::Traces),
        ReducedRecords::Metrics(resource) => halve_metrics(resource).map(ReducedRecords::Metrics),
    }
}

fn tail<T>(items: &mut Vec<T>) -> Option<Vec<T>> {
    (items.len() > 1).then(|| items.split_off(items.len() / 2))
}

fn halve_logs(from: &mut ResourceLogs) -> Option<ResourceLogs> {
    let scope_logs = match tail(&mut from.scope_logs) {
        Some(scopes) => scopes,
        None => {
            let scope = from.scope_logs.first_mut()?;
            let log_records = tail(&mut scope.log_records)?;
            vec![ScopeLogs { scope: scope.scope.clone(), log_records, schema_url: scope.schema_url.clone() }]
        }
    };
    Some(ResourceLogs { resource: from.resource.clone(), scope_logs, schema_url: from.schema_url.clone() })
}

fn halve_traces(from: &mut ResourceSpans) -> Option<ResourceSpans> {
    let scope_spans = match tail(&mut from.scope_spans) {
        Some(scopes) => scopes,
        None => {
            let scope = from.scope_spans.first_mut()?;
            let spans = tail(&mut scope.spans)?;
            vec![ScopeSpans { scope: scope.scope.clone(), spans, schema_url: scope.schema_url.clone() }]
        }
    };
    Some(ResourceSpans { resource: from.resource.clone(), scope_spans, schema_url: from.schema_url.clone() })
}

fn halve_metrics(from: &mut ResourceMetrics) -> Option<ResourceMetrics> {
    let scope_metrics = match tail(&mut from.scope_metrics) {
        Some(scopes) => scopes,
        None => {
            let scope = from.scope_metrics.first_mut()?;
            let metrics = match tail(&mut scope.metrics) {
                Some(metrics) => metrics,
                None => vec![halve_metric(scope.metrics.first_mut()?)?],
            };
            vec![ScopeMetrics { scope: scope.scope.clone(), metrics, schema_url: scope.schema_url.clone() }]
        }
    };
    Some(ResourceMetrics { resource: from.resource.clone(), scope_metrics, schema_url: from.schema_url.clone() })
}

fn halve_metric(from: &mut Metric) -> Option<Metric> {
    let data = match from.data.as_mut()? {
        Data::Gauge(data) => Data::Gauge(Gauge { data_points: tail(&mut data.data_points)? }),
        Data::Sum(data) => Data::Sum(Sum { data_points: tail(&mut data.data_points)?, ..*data }),
        Data::Histogram(data) => Data::Histogram(Histogram { data_points: tail(&mut data.data_points)?, ..*data }),
        Data::ExponentialHistogram(data) => {
            Data::ExponentialHistogram(ExponentialHistogram { data_points: tail(&mut data.data_points)?, ..*data })
        }
        Data::Summary(data) => Data::Summary(Summary { data_points: tail(&mut data.data_points)? }),
    };
    Some(Metric {
        name: from.name.clone(),
        description: from.description.clone(),
        unit: from.unit.clone(),
        metadata: from.metadata.clone(),
        data: Some(data),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::logs::v1::LogRecord;
    use ollystack_record::otlp::metrics::v1::NumberDataPoint;
    use ollystack_record::otlp::trace::v1::Span;

    #[test]
    fn points_of_one_metric_are_parted_in_order_and_keep_its_description() {
        let points = (0..10).map(|time| NumberDataPoint { time_unix_nano: time, ..Default::default() }).collect();
        let data = Data::Sum(Sum { data_points: points, aggregation_temporality: 1, is_monotonic: true });
        let metric = Metric { name: "m".into(), unit: "By".into(), data: Some(data), ..Metric::default() };
        let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
        let records = ReducedRecords::Metrics(ResourceMetrics { scope_metrics, ..ResourceMetrics::default() });
        let parts = split(records, Size { records: 3, bytes: 1 << 20 });
        let mut times = Vec::new();
        for part in &parts {
            let ReducedRecords::Metrics(resource) = &part.records else { panic!() };
            let metric = &resource.scope_metrics[0].metrics[0];
            assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("m", "By"));
            let Some(Data::Sum(sum)) = &metric.data else { panic!() };
            assert!(sum.is_monotonic && sum.data_points.len() <= 3);
            times.extend(sum.data_points.iter().map(|point| point.time_unix_nano));
        }
        assert_eq!(times, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn spans_and_log_records_are_parted_by_bytes_down_to_single_ones() {
        let spans = (0..9).map(|i| Span { name: format!("{i}{}", "x".repeat(100)), ..Span::default() }).collect();
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }, ScopeSpans::default()];
        let records = ReducedRecords::Traces(ResourceSpans { scope_spans, ..ResourceSpans::default() });
        let parts = split(records, Size { records: 100, bytes: 250 });
        assert_eq!(parts.iter().map(|part| part.size.records).sum::<usize>(), 9);
        assert!(parts.iter().all(|part| part.size.bytes <= 250));

        let record = LogRecord { severity_text: "x".repeat(1000), ..LogRecord::default() };
        let scope_logs = vec![ScopeLogs { log_records: vec![record; 3], ..ScopeLogs::default() }];
        let records = ReducedRecords::Logs(ResourceLogs { scope_logs, ..ResourceLogs::default() });
        let parts = split(records, Size { records: 100, bytes: 10 });
        assert_eq!(parts.iter().map(|part| part.size.records).collect::<Vec<_>>(), [1, 1, 1]);
    }
}
