//! No secret leaves in any string of any signal.
//!
//! The fields are read off OTLP's own descriptors, so that one which the protocol gains is tried without anybody thinking of it.
//! Into each in turn, and into all at once, goes a text with a secret of every kind; what comes out of the whole stage, kept whole,
//! is searched for them. What was planted must also have come out redacted, or the search would prove nothing.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

use ollystack_process::fold::Gauges;
use ollystack_process::{Config, Process};
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::collector::trace::v1::ExportTraceServiceRequest;
use ollystack_record::otlp::metrics::v1::{self as proto, metric::Data, number_data_point};
use ollystack_record::otlp::{logs::v1::ScopeLogs, trace::v1::ScopeSpans};
use ollystack_record::{
    Ack, Batch, Kind, Ledger, Metric, Records, Reduced, ReducedRecords, Resource, Sample, Scope, Series, Source, Value,
};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind as Type, MessageDescriptor};
use std::collections::BTreeSet;
use std::sync::Arc;

const NOW: u64 = 1_700_000_040_000_000_000;

/// Parts of secrets that must not come out.
const CANARIES: [&str; 6] =
    ["4111111111111111", "canary@example", "0400440532", "CANARYCANARY2345", "hunter2canary", "CAnaryCAnary"];

/// One secret of each kind. In pieces, so that this file holds nobody's key.
fn planted() -> String {
    let key = ["AKIA", "CANARYCANARY2345"].concat();
    let private = ["-----BEGIN ", "PRIVATE KEY-----CAnaryCAnary"].concat();
    format!(
        "4111111111111111 canary@example.com DE89370400440532013000 {key} postgres://u:hunter2canary@db password=hunter2canary {private}"
    )
}

/// The way to a field, from the request down.
type Way = Vec<FieldDescriptor>;

/// How often a message may be met again inside itself: values in lists in values.
const NESTED_MAX: usize = 3;

/// The ways to all fields that hold text: strings, and the bytes of values.
fn ways(message: &MessageDescriptor, way: &mut Way, found: &mut Vec<Way>) {
    if way.iter().filter(|field| field.kind().as_message() == Some(message)).count() > NESTED_MAX {
        return;
    }
    for field in message.fields() {
        way.push(field.clone());
        match field.kind() {
            Type::String => found.push(way.clone()),
            Type::Bytes if field.name() == "bytes_value" => found.push(way.clone()),
            Type::Message(inner) => ways(&inner, way, found),
            _ => {}
        }
        way.pop();
    }
}

fn name(way: &Way) -> String {
    way.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
}

/// A message with text at the end of the way and nothing else.
fn plant(message: MessageDescriptor, way: &[FieldDescriptor]) -> DynamicMessage {
    let mut message = DynamicMessage::new(message);
    let Some((field, rest)) = way.split_first() else { return message };
    let value = match field.kind() {
        Type::Message(inner) => prost_reflect::Value::Message(plant(inner, rest)),
        Type::Bytes => prost_reflect::Value::Bytes([&[0xFF], planted().as_bytes()].concat().into()),
        _ => prost_reflect::Value::String(planted()),
    };
    let value = if field.is_list() { prost_reflect::Value::List(vec![value]) } else { value };
    message.set_field(field, value);
    message
}

/// A message with all ways planted, one element each where a list can hold several.
fn merge(into: &mut DynamicMessage, mut from: DynamicMessage) {
    for (field, value) in from.take_fields().collect::<Vec<_>>() {
        match (into.has_field(&field), value) {
            (true, prost_reflect::Value::List(mut more)) => {
                if let prost_reflect::Value::List(list) = into.get_field_mut(&field) {
                    list.append(&mut more);
                }
            }
            (true, prost_reflect::Value::Message(more)) => {
                if let prost_reflect::Value::Message(message) = into.get_field_mut(&field) {
                    merge(message, more);
                }
            }
            (_, value) => into.set_field(&field, value),
        }
    }
}

/// What comes out of the stage for the batches, encoded: levels as they usually go out, and once more in the form that has
/// room for their exemplars.
fn through(take: fn(&[u8]) -> Vec<(Resource, Records)>, request: &[u8]) -> Vec<u8> {
    [Gauges::Fold, Gauges::Last].into_iter().flat_map(|gauges| through_one(gauges, take(request))).collect()
}

fn through_one(gauges: Gauges, batches: Vec<(Resource, Records)>) -> Vec<u8> {
    let mut config = Config::default();
    config.metrics.gauges = gauges;
    config.traces.baseline_ratio = 1.0;
    config.traces.budget_spans_per_second = 0.0;
    let mut process = Process::new(config, Arc::default(), Arc::new(Ledger::default()));
    let mut out = Vec::new();
    for (resource, records) in batches {
        let batch = Batch { source: Source::Otlp, resource: Arc::new(resource), records, ack: Ack::none() };
        process.take(batch, NOW, &mut out);
    }
    process.tick(NOW + 1, &mut out);
    process.drain(NOW + 2, &mut out);
    while process.hand_out(NOW + 2, &mut out) {}
    out.iter().flat_map(encoded).collect()
}

fn encoded(reduced: &Reduced) -> Vec<u8> {
    match &reduced.records {
        ReducedRecords::Metrics(resource) => resource.encode_to_vec(),
        ReducedRecords::Logs(resource) => resource.encode_to_vec(),
        ReducedRecords::Traces(resource) => resource.encode_to_vec(),
    }
}

fn logs(request: ExportLogsServiceRequest) -> Vec<(Resource, Records)> {
    let batch = |mut resource: ollystack_record::otlp::logs::v1::ResourceLogs| {
        if resource.scope_logs.is_empty() {
            resource.scope_logs.push(ScopeLogs::default());
        }
        for scope in &mut resource.scope_logs {
            if scope.log_records.is_empty() {
                scope.log_records.push(Default::default());
            }
        }
        (Resource::from_proto(resource.resource), Records::Logs(resource.scope_logs))
    };
    request.resource_logs.into_iter().map(batch).collect()
}

fn traces(request: ExportTraceServiceRequest) -> Vec<(Resource, Records)> {
    let mut ids = 1..;
    let batch = |mut resource: ollystack_record::otlp::trace::v1::ResourceSpans| {
        if resource.scope_spans.is_empty() {
            resource.scope_spans.push(ScopeSpans::default());
        }
        for scope in &mut resource.scope_spans {
            if scope.spans.is_empty() {
                scope.spans.push(Default::default());
            }
            for span in &mut scope.spans {
                let id: u64 = ids.next().unwrap();
                (span.trace_id, span.span_id) = (u128::from(id).to_be_bytes().to_vec(), id.to_be_bytes().to_vec());
            }
        }
        (Resource::from_proto(resource.resource), Records::Traces(resource.scope_spans))
    };
    request.resource_spans.into_iter().map(batch).collect()
}

/// As the OTLP input makes samples of points.
fn metrics(request: ExportMetricsServiceRequest) -> Vec<(Resource, Records)> {
    let batch = |mut resource: proto::ResourceMetrics| {
        if resource.scope_metrics.is_empty() {
            resource.scope_metrics.push(proto::ScopeMetrics::default());
        }
        let mut samples = Vec::new();
        for (number, mut scope_metrics) in resource.scope_metrics.into_iter().enumerate() {
            let scope = Scope { proto: scope_metrics.scope.unwrap_or_default(), schema_url: scope_metrics.schema_url };
            let scope = Arc::new(scope);
            if scope_metrics.metrics.is_empty() {
                scope_metrics.metrics.push(proto::Metric::default());
            }
            for (place, metric) in scope_metrics.metrics.into_iter().enumerate() {
                let of = |kind, metric: &proto::Metric| Metric {
                    name: if metric.name.is_empty() { format!("m{number}.{place}") } else { metric.name.clone() },
                    unit: metric.unit.clone(),
                    description: metric.description.clone(),
                    kind,
                    metadata: metric.metadata.clone(),
                };
                points(&scope, metric, of, &mut samples);
            }
        }
        (Resource::from_proto(resource.resource), Records::Metrics(samples))
    };
    request.resource_metrics.into_iter().map(batch).collect()
}

fn points(
    scope: &Arc<Scope>,
    mut metric: proto::Metric,
    of: impl Fn(Kind, &proto::Metric) -> Metric,
    samples: &mut Vec<Sample>,
) {
    let data = metric.data.take().unwrap_or(Data::Gauge(proto::Gauge { data_points: vec![Default::default()] }));
    let mut push = |kind, attributes, value, exemplars| {
        let series = Arc::new(Series::new(Arc::clone(scope), Arc::new(of(kind, &metric)), attributes));
        let sample = Sample { exemplars, ..Sample::number(&series, 0, NOW, value) };
        samples.push(sample);
    };
    let number = |point: &proto::NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsDouble(value)) => Value::Double(value),
        _ => Value::Int(1),
    };
    match data {
        Data::Gauge(gauge) => gauge.data_points.into_iter().for_each(|point| {
            push(Kind::Gauge, point.attributes.clone(), number(&point), point.exemplars);
        }),
        Data::Sum(sum) => sum.data_points.into_iter().for_each(|point| {
            let kind = Kind::Sum { monotonic: true, delta: true };
            push(kind, point.attributes.clone(), number(&point), point.exemplars);
        }),
        Data::Histogram(histogram) => histogram.data_points.into_iter().for_each(|mut point| {
            let attributes = std::mem::take(&mut point.attributes);
            push(Kind::Histogram { delta: true }, attributes, Value::Histogram(Box::new(point)), Vec::new());
        }),
        Data::ExponentialHistogram(histogram) => histogram.data_points.into_iter().for_each(|mut point| {
            let attributes = std::mem::take(&mut point.attributes);
            let value = Value::ExponentialHistogram(Box::new(point));
            push(Kind::ExponentialHistogram { delta: true }, attributes, value, Vec::new());
        }),
        Data::Summary(summary) => summary.data_points.into_iter().for_each(|mut point| {
            let attributes = std::mem::take(&mut point.attributes);
            push(Kind::Summary, attributes, Value::Summary(Box::new(point)), Vec::new());
        }),
    }
}

/// Whether a field does not travel: the agent has no place for a resource's references, and gives its schema to its scopes.
fn stays_behind(name: &str) -> bool {
    name.contains(".entity_refs.") || (name.ends_with(".schema_url") && name.matches('.').count() == 1)
}

fn try_all(request: &str, take: fn(&[u8]) -> Vec<(Resource, Records)>) {
    let pool = DescriptorPool::decode(opentelemetry_proto::DESCRIPTORS).unwrap();
    let request = pool.get_message_by_name(request).unwrap();
    let mut found = Vec::new();
    ways(&request, &mut Vec::new(), &mut found);
    assert!(found.len() > 50, "only {} strings in {}", found.len(), request.full_name());

    let holds = |out: &[u8], text: &str| out.windows(text.len()).any(|window| window == text.as_bytes());
    let canaries = |out: &[u8]| CANARIES.into_iter().filter(|canary| holds(out, canary)).collect::<Vec<_>>();
    let (mut missed, mut unseen) = (Vec::new(), BTreeSet::new());
    let mut everything = DynamicMessage::new(request.clone());
    for way in &found {
        let message = plant(request.clone(), way);
        let out = through(take, &message.encode_to_vec());
        missed.extend(canaries(&out).into_iter().map(|canary| format!("{canary} in {}", name(way))));
        if !holds(&out, "[redacted:card]") {
            unseen.insert(name(way));
        }
        merge(&mut everything, message);
    }
    assert!(missed.is_empty(), "{} of {} strings leak:\n{}", missed.len(), found.len(), missed.join("\n"));
    unseen.retain(|name| !stays_behind(name));
    assert!(unseen.is_empty(), "planted and not found again:\n{unseen:#?}");

    let out = through(take, &everything.encode_to_vec());
    assert_eq!(canaries(&out), Vec::<&str>::new(), "all at once");
}

#[test]
fn no_canary_in_any_string_of_logs_comes_out() {
    try_all("opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest", |bytes| {
        logs(Message::decode(bytes).unwrap())
    });
}

#[test]
fn no_canary_in_any_string_of_traces_comes_out() {
    try_all("opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest", |bytes| {
        traces(Message::decode(bytes).unwrap())
    });
}

#[test]
fn no_canary_in_any_string_of_metrics_comes_out() {
    try_all("opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest", |bytes| {
        metrics(Message::decode(bytes).unwrap())
    });
}
