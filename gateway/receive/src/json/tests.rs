//! The table against prost, and the JSON that the specification writes or forbids.

use super::*;
use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, TRACES_REQUEST};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogsData;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    MetricsData, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets, metric::Data, number_data_point, summary_data_point::ValueAtQuantile,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, TracesData, span};
use opentelemetry_proto::tonic::{
    common::v1::{ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use prost::Message;
use serde::Serialize;

fn decode<M: Message + Default>(shape: &'static Shape, json: &str) -> Result<M, String> {
    let mut share = Share::of(1 << 20);
    let (bytes, _) = transcode(shape, json.as_bytes(), &mut share).map_err(|error| format!("{error:?}"))?;
    Ok(M::decode(bytes.as_slice()).unwrap())
}

fn same<M: Message + Default + Serialize + PartialEq + fmt::Debug>(shape: &'static Shape, message: M) {
    let json = serde_json::to_string(&message).unwrap();
    assert_eq!(decode::<M>(shape, &json).unwrap(), message, "{json}");
}

fn value(value: Value) -> Option<AnyValue> {
    Some(AnyValue { value: Some(value) })
}

fn attributes() -> Vec<KeyValue> {
    let values = [
        Value::StringValue("ü\n\"".into()),
        Value::BoolValue(true),
        Value::IntValue(i64::MIN),
        Value::DoubleValue(-1.5),
        Value::BytesValue(vec![0, 255, 62, 63]),
        Value::ArrayValue(ArrayValue { values: vec![value(Value::IntValue(0)).unwrap(), AnyValue::default()] }),
        Value::KvlistValue(KeyValueList {
            values: vec![KeyValue { key: "k".into(), value: value(Value::BoolValue(false)), ..Default::default() }],
        }),
    ];
    values.map(|v| KeyValue { key: "key".into(), value: value(v), ..Default::default() }).to_vec()
}

fn resource() -> Option<Resource> {
    let entity = EntityRef {
        schema_url: "s".into(),
        r#type: "host".into(),
        id_keys: vec!["a".into(), "b".into()],
        description_keys: vec!["c".into()],
    };
    Some(Resource { attributes: attributes(), dropped_attributes_count: 1, entity_refs: vec![entity] })
}

fn scope() -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: "n".into(),
        version: "v".into(),
        attributes: attributes(),
        dropped_attributes_count: 2,
    })
}

#[test]
fn every_field_of_a_span_has_its_name_and_number() {
    let link = span::Link {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        trace_state: "x=y".into(),
        attributes: attributes(),
        dropped_attributes_count: 3,
        flags: 0x301,
    };
    let event = span::Event {
        time_unix_nano: u64::MAX,
        name: "e".into(),
        attributes: attributes(),
        dropped_attributes_count: 4,
    };
    let span = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        trace_state: "a=b".into(),
        parent_span_id: vec![0xef; 8],
        flags: 0x100,
        name: "op".into(),
        kind: 3,
        start_time_unix_nano: 1,
        end_time_unix_nano: 2,
        attributes: attributes(),
        dropped_attributes_count: 5,
        events: vec![event],
        dropped_events_count: 6,
        links: vec![link],
        dropped_links_count: 7,
        status: Some(Status { message: "bad".into(), code: 2 }),
    };
    let scope_spans = ScopeSpans { scope: scope(), spans: vec![span], schema_url: "u".into() };
    let resource_spans = ResourceSpans { resource: resource(), scope_spans: vec![scope_spans], schema_url: "w".into() };
    same(&TRACES_REQUEST, TracesData { resource_spans: vec![resource_spans] });
}

#[test]
fn every_field_of_a_log_record_has_its_name_and_number() {
    let record = LogRecord {
        time_unix_nano: 1,
        observed_time_unix_nano: 2,
        severity_number: 17,
        severity_text: "ERROR".into(),
        body: value(Value::StringValue("text".into())),
        attributes: attributes(),
        dropped_attributes_count: 1,
        flags: 1,
        trace_id: vec![9; 16],
        span_id: vec![8; 8],
        event_name: "event".into(),
    };
    let scope_logs = ScopeLogs { scope: scope(), log_records: vec![record], schema_url: "u".into() };
    let resource_logs = ResourceLogs { resource: resource(), scope_logs: vec![scope_logs], schema_url: "w".into() };
    same(&LOGS_REQUEST, LogsData { resource_logs: vec![resource_logs] });
}

#[test]
fn every_field_of_every_point_has_its_name_and_number() {
    let exemplar = |value| Exemplar {
        filtered_attributes: attributes(),
        time_unix_nano: 7,
        span_id: vec![1; 8],
        trace_id: vec![2; 16],
        value: Some(value),
    };
    let exemplars = vec![exemplar(exemplar::Value::AsDouble(0.5)), exemplar(exemplar::Value::AsInt(-3))];
    let number = |value| NumberDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        exemplars: exemplars.clone(),
        flags: 1,
        value: Some(value),
    };
    let histogram = HistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: Some(4.5),
        bucket_counts: vec![1, 0, u64::MAX],
        explicit_bounds: vec![-1.0, 2.5],
        exemplars: exemplars.clone(),
        flags: 1,
        min: Some(-1.0),
        max: Some(9.0),
    };
    let exponential = ExponentialHistogramDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: Some(4.5),
        scale: -4,
        zero_count: 1,
        positive: Some(Buckets { offset: -7, bucket_counts: vec![1, 0, 300] }),
        negative: Some(Buckets { offset: 7, bucket_counts: vec![u64::MAX] }),
        flags: 1,
        exemplars: exemplars.clone(),
        min: Some(-1.0),
        max: Some(9.0),
        zero_threshold: 0.25,
    };
    let summary = SummaryDataPoint {
        attributes: attributes(),
        start_time_unix_nano: 1,
        time_unix_nano: 2,
        count: 3,
        sum: 4.5,
        quantile_values: vec![ValueAtQuantile { quantile: 0.5, value: 1.0 }],
        flags: 1,
    };
    let points =
        vec![number(number_data_point::Value::AsInt(i64::MAX)), number(number_data_point::Value::AsDouble(1e300))];
    let kinds = [
        Data::Gauge(Gauge { data_points: points.clone() }),
        Data::Sum(Sum { data_points: points, aggregation_temporality: 2, is_monotonic: true }),
        Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: 1 }),
        Data::ExponentialHistogram(ExponentialHistogram { data_points: vec![exponential], aggregation_temporality: 1 }),
        Data::Summary(Summary { data_points: vec![summary] }),
    ];
    let metrics = kinds.map(|data| Metric {
        name: "m".into(),
        description: "d".into(),
        unit: "By".into(),
        metadata: attributes(),
        data: Some(data),
    });
    let scope_metrics = ScopeMetrics { scope: scope(), metrics: metrics.to_vec(), schema_url: "u".into() };
    let resource_metrics =
        ResourceMetrics { resource: resource(), scope_metrics: vec![scope_metrics], schema_url: "w".into() };
    same(&METRICS_REQUEST, MetricsData { resource_metrics: vec![resource_metrics] });
}

/// The body that a log record gets from the JSON of an AnyValue.
fn any(json: &str) -> Result<Option<Value>, String> {
    let json = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{json}}}]}}]}}]}}"#);
    let data: LogsData = decode(&LOGS_REQUEST, &json)?;
    Ok(data.resource_logs[0].scope_logs[0].log_records[0].body.clone().and_then(|body| body.value))
}

#[test]
fn values_are_read_as_the_specification_writes_them() {
    let table = [
        (r#"{"intValue":"-9223372036854775808"}"#, Some(Value::IntValue(i64::MIN))),
        (r#"{"intValue":42}"#, Some(Value::IntValue(42))),
        (r#"{"intValue":1e3}"#, Some(Value::IntValue(1000))),
        (r#"{"intValue":0}"#, Some(Value::IntValue(0))),
        (r#"{"doubleValue":3}"#, Some(Value::DoubleValue(3.0))),
        (r#"{"doubleValue":"2.5"}"#, Some(Value::DoubleValue(2.5))),
        (r#"{"doubleValue":"Infinity"}"#, Some(Value::DoubleValue(f64::INFINITY))),
        (r#"{"doubleValue":"-Infinity"}"#, Some(Value::DoubleValue(f64::NEG_INFINITY))),
        (r#"{"stringValue":""}"#, Some(Value::StringValue(String::new()))),
        (r#"{"boolValue":false}"#, Some(Value::BoolValue(false))),
        (r#"{"bytesValue":"+/8="}"#, Some(Value::BytesValue(vec![0xfb, 0xff]))),
        (r#"{"bytesValue":"-_8"}"#, Some(Value::BytesValue(vec![0xfb, 0xff]))),
        (r#"{"arrayValue":{"values":[]}}"#, Some(Value::ArrayValue(ArrayValue::default()))),
        (r#"{"arrayValue":{}}"#, Some(Value::ArrayValue(ArrayValue::default()))),
        (r#"{"kvlistValue":{"values":null}}"#, Some(Value::KvlistValue(KeyValueList::default()))),
        (r#"{"stringValue":null}"#, None),
        (r#"{"unknownValue":{"deep":[1,{"x":"y"}]}}"#, None),
        (r#"{"string_value":"not a name in OTLP's JSON"}"#, None),
        ("{}", None),
        ("null", None),
    ];
    for (json, expected) in table {
        assert_eq!(any(json).unwrap(), expected, "{json}");
    }
    assert!(matches!(any(r#"{"doubleValue":"NaN"}"#), Ok(Some(Value::DoubleValue(number))) if number.is_nan()));
}

#[test]
fn what_is_not_otlp_is_refused_by_name() {
    let table = [
        (r#"{"intValue":1.5}"#, "intValue"),
        (r#"{"intValue":"9223372036854775808"}"#, "intValue"),
        (r#"{"intValue":true}"#, "intValue"),
        (r#"{"doubleValue":"inf"}"#, "doubleValue"),
        (r#"{"boolValue":"true"}"#, "boolValue"),
        (r#"{"stringValue":7}"#, "stringValue"),
        (r#"{"bytesValue":"a*b"}"#, "bytesValue"),
        (r#"{"arrayValue":[]}"#, "arrayValue"),
        (r#"{"kvlistValue":{"values":{}}}"#, "values"),
        (r#"{"kvlistValue":{"values":[null]}}"#, "an object"),
        (r#""text""#, "body"),
        ("{", "expected"),
    ];
    for (json, name) in table {
        let error = any(json).unwrap_err();
        assert!(error.contains(name), "{json}: {error}");
    }
}

#[test]
fn ids_are_hexadecimal_in_either_case() {
    let json = |id: &str| format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{id}"}}]}}]}}]}}"#);
    let data: TracesData = decode(&TRACES_REQUEST, &json("5B8EFFf798038103d269B633813FC60C")).unwrap();
    assert_eq!(data.resource_spans[0].scope_spans[0].spans[0].trace_id[..3], [0x5b, 0x8e, 0xff]);
    assert!(decode::<TracesData>(&TRACES_REQUEST, &json("5B8")).is_err());
    assert!(decode::<TracesData>(&TRACES_REQUEST, &json("zz")).is_err());
}

#[test]
fn an_enum_is_its_number_and_never_its_name() {
    let json = |kind: &str| format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"kind":{kind}}}]}}]}}]}}"#);
    let data: TracesData = decode(&TRACES_REQUEST, &json("2")).unwrap();
    assert_eq!(data.resource_spans[0].scope_spans[0].spans[0].kind, 2);
    assert!(decode::<TracesData>(&TRACES_REQUEST, &json("\"SPAN_KIND_SERVER\"")).is_err());
}

#[test]
fn what_is_nested_too_deeply_is_left_out_and_the_rest_stays() {
    let list = (r#"{"arrayValue":{"values":["#, "]}}");
    let map = (r#"{"kvlistValue":{"values":[{"key":"k","value":"#, "}]}}");
    for (begin, end) in [list, map] {
        for levels in [10, NESTS_MAX, NESTS_MAX + 1, 64, 100, 200_000] {
            let value = format!("{}{}{}", begin.repeat(levels), r#"{"boolValue":true}"#, end.repeat(levels));
            // In an exemplar, where most brackets are open before.
            let json = format!(
                r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"m","gauge":{{"dataPoints":[{{"exemplars":
                [{{"filteredAttributes":[{{"key":"a","value":{value}}}],"asInt":7}}]}}]}}}}]}}]}}]}}"#
            );
            let mut share = Share::of(16 << 20);
            let (mut bytes, cut) = transcode(&METRICS_REQUEST, json.as_bytes(), &mut share).unwrap();
            assert_eq!(cut, u64::from(levels > NESTS_MAX), "{levels}");
            assert_eq!(crate::weigh::weigh(&METRICS_REQUEST, &mut bytes).unwrap().cut, 0, "{levels}");
            let data = MetricsData::decode(bytes.as_slice()).unwrap();
            let Some(Data::Gauge(gauge)) = &data.resource_metrics[0].scope_metrics[0].metrics[0].data else { panic!() };
            let exemplar = &gauge.data_points[0].exemplars[0];
            let mut depth = 0;
            let mut value = exemplar.filtered_attributes[0].value.as_ref();
            while let Some(nest) = value.and_then(|value| value.value.as_ref()) {
                value = match nest {
                    Value::ArrayValue(list) => list.values.first(),
                    Value::KvlistValue(map) => map.values[0].value.as_ref(),
                    _ => break,
                };
                depth += 1;
            }
            assert_eq!((depth, &exemplar.value), (levels.min(NESTS_MAX), &Some(exemplar::Value::AsInt(7))), "{levels}");
        }
    }
    for levels in [10, 200_000] {
        let unknown = format!("{{\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        // Ignored values are skipped without recursion.
        assert_eq!(any(&unknown), Ok(None), "{levels}");
    }
}

#[test]
fn output_grows_within_the_budget_only() {
    let json = format!(r#"{{"resourceLogs":[{}{{}}]}}"#, "{},".repeat(100_000));
    let mut share = Share::of(100_000);
    let result = transcode(&LOGS_REQUEST, json.as_bytes(), &mut share);
    assert!(matches!(result, Err(NotTranscoded::NoRoom(NoRoom::Ever))));
}
