//! A batch as it would be sent without reduction: OTLP as an SDK or a collector writes it, each metric's points together.
//!
//! Invariant: as many records leave as came in.

use ollystack_record::otlp::logs::v1::ResourceLogs;
use ollystack_record::otlp::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, Gauge, Histogram, Metric as Proto, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, Summary, metric::Data, number_data_point,
};
use ollystack_record::otlp::trace::v1::ResourceSpans;
use ollystack_record::{Batch, Class, Kind, Metric, Records, Reduced, ReducedRecords, Sample, Value};

pub(crate) fn unreduced(batch: &Batch) -> Reduced {
    let resource = Some(batch.resource.to_proto());
    let records = match &batch.records {
        Records::Metrics(samples) => {
            ReducedRecords::Metrics(ResourceMetrics { resource, scope_metrics: scopes(samples), ..Default::default() })
        }
        Records::Logs(scopes) => {
            ReducedRecords::Logs(ResourceLogs { resource, scope_logs: scopes.clone(), ..Default::default() })
        }
        Records::Traces(scopes) => {
            ReducedRecords::Traces(ResourceSpans { resource, scope_spans: scopes.clone(), ..Default::default() })
        }
        Records::Requests(_) => unreachable!("a recording has spans"),
    };
    Reduced { class: Class::Normal, records, acks: Vec::new() }
}

fn scopes(samples: &[Sample]) -> Vec<ScopeMetrics> {
    let mut scopes: Vec<ScopeMetrics> = Vec::new();
    for sample in samples {
        let (scope, metric) = (&sample.series.scope, &sample.series.metric);
        let known =
            scopes.iter().position(|s| s.scope.as_ref() == Some(&scope.proto) && s.schema_url == scope.schema_url);
        let at = known.unwrap_or_else(|| {
            let proto = Some(scope.proto.clone());
            scopes.push(ScopeMetrics { scope: proto, schema_url: scope.schema_url.clone(), metrics: Vec::new() });
            scopes.len() - 1
        });
        let metrics = &mut scopes[at].metrics;
        let known = metrics.iter().rposition(|known| known.name == metric.name && known.unit == metric.unit);
        let at = known.unwrap_or_else(|| {
            metrics.push(described(metric));
            metrics.len() - 1
        });
        push(metrics[at].data.as_mut().unwrap(), sample);
    }
    scopes
}

fn described(metric: &Metric) -> Proto {
    let temporality = |delta: bool| match delta {
        true => AggregationTemporality::Delta as i32,
        false => AggregationTemporality::Cumulative as i32,
    };
    let data = match metric.kind {
        Kind::Gauge => Data::Gauge(Gauge::default()),
        Kind::Sum { monotonic, delta } => {
            Data::Sum(Sum { aggregation_temporality: temporality(delta), is_monotonic: monotonic, ..Sum::default() })
        }
        Kind::Histogram { delta } => {
            Data::Histogram(Histogram { aggregation_temporality: temporality(delta), ..Histogram::default() })
        }
        Kind::ExponentialHistogram { delta } => Data::ExponentialHistogram(ExponentialHistogram {
            aggregation_temporality: temporality(delta),
            ..ExponentialHistogram::default()
        }),
        Kind::Summary => Data::Summary(Summary::default()),
    };
    let Metric { name, unit, description, metadata, .. } = metric.clone();
    Proto { name, unit, description, metadata, data: Some(data) }
}

/// Append the sample's point. A histogram's or summary's is OTLP's own but for what the sample has.
fn push(data: &mut Data, sample: &Sample) {
    let attributes = sample.series.attributes().to_vec();
    let (start, time) = (sample.start_unix_nano, sample.time_unix_nano);
    match data {
        Data::Gauge(Gauge { data_points }) | Data::Sum(Sum { data_points, .. }) => data_points.push(NumberDataPoint {
            attributes,
            start_time_unix_nano: start,
            time_unix_nano: time,
            exemplars: sample.exemplars.clone(),
            flags: sample.flags,
            value: match sample.value {
                Value::Int(value) => Some(number_data_point::Value::AsInt(value)),
                Value::Double(value) => Some(number_data_point::Value::AsDouble(value)),
                _ => None,
            },
        }),
        Data::Histogram(data) => {
            let value = if let Value::Histogram(point) = &sample.value { Some(point.as_ref().clone()) } else { None };
            let mut point = value.unwrap_or_default();
            (point.attributes, point.flags) = (attributes, sample.flags);
            (point.start_time_unix_nano, point.time_unix_nano) = (start, time);
            data.data_points.push(point);
        }
        Data::ExponentialHistogram(data) => {
            let own = |value: &Value| match value {
                Value::ExponentialHistogram(point) => Some(point.as_ref().clone()),
                _ => None,
            };
            let mut point = own(&sample.value).unwrap_or_default();
            (point.attributes, point.flags) = (attributes, sample.flags);
            (point.start_time_unix_nano, point.time_unix_nano) = (start, time);
            data.data_points.push(point);
        }
        Data::Summary(data) => {
            let value = if let Value::Summary(point) = &sample.value { Some(point.as_ref().clone()) } else { None };
            let mut point = value.unwrap_or_default();
            (point.attributes, point.flags) = (attributes, sample.flags);
            (point.start_time_unix_nano, point.time_unix_nano) = (start, time);
            data.data_points.push(point);
        }
    }
}
