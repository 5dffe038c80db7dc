//! The short way beside the long one: the same rows and the same outcome, whatever bytes come.

use super::beside::{delivery, goes_the_short_way, long_way, short_way};
use super::*;
use crate::batch::budget::Budget;
use crate::batch::columns::into_native;
use crate::convert::series::Seen;
use crate::convert::{Counted, Form, convert as convert_message};
use fastrand::Rng;
use ollystack_receive::{Body as _, Held, Message};
use ollystack_schema::names::{FOLD, FOLD_GAUGE, FOLD_UPDOWNCOUNTER, SPAN_DURATION};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, metric,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use prost::Message as _;

const T: u64 = 1_699_999_999_000_000_001;

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(any(value)), ..KeyValue::default() }
}

fn text(text: &str) -> Value {
    Value::StringValue(text.into())
}

/// A value of any kind.
fn value(rng: &mut Rng, nests: usize) -> Value {
    const TEXTS: [&str; 9] = [
        "",
        "shop",
        "a \"quoted\"\n\u{1}line \\",
        "größer",
        "12",
        "GET /orders",
        "/orders/{id}/größer",
        "SELECT id, state FROM orders",
        "SELECT id, state, total, customer_id, address, amount, currency, made_at FROM orders WHERE customer_id = 4711 AND state = 'open' LIMIT 1",
    ];
    const NUMBERS: [f64; 7] = [0.0, -0.0, 1.0, 1e21, -1.5e-9, f64::NAN, f64::NEG_INFINITY];
    match rng.u8(..if nests == 0 { 5 } else { 7 }) {
        0 => text(TEXTS[rng.usize(..TEXTS.len())]),
        1 => Value::BoolValue(rng.bool()),
        2 => Value::IntValue([0, -1, i64::MIN, 443][rng.usize(..4)]),
        3 => Value::DoubleValue(NUMBERS[rng.usize(..NUMBERS.len())]),
        4 => Value::BytesValue((0..rng.u8(..5)).collect()),
        5 => {
            let element = |rng: &mut Rng| AnyValue { value: rng.bool().then(|| value(rng, nests - 1)) };
            Value::ArrayValue(ArrayValue { values: (0..rng.u8(..4)).map(|_| element(rng)).collect() })
        }
        _ => {
            let mut values = attributes(rng, nests - 1);
            let mut keys = std::collections::HashSet::new();
            values.retain(|pair| keys.insert(pair.key.clone()));
            Value::KvlistValue(KeyValueList { values })
        }
    }
}

/// Not sorted, some without a value. Keys may be there twice, but for those within a value.
fn attributes(rng: &mut Rng, nests: usize) -> Vec<KeyValue> {
    const KEYS: [&str; 6] = ["service.name", "b", "a", "ollystack.log.count", "", "ä"];
    let one = |rng: &mut Rng| KeyValue {
        key: KEYS[rng.usize(..KEYS.len())].into(),
        value: (rng.u8(..8) > 0).then(|| any(value(rng, nests))),
        ..KeyValue::default()
    };
    (0..rng.u8(..7)).map(|_| one(rng)).collect()
}

fn id(rng: &mut Rng, length: usize) -> Vec<u8> {
    match rng.u8(..4) {
        0 => Vec::new(),
        1 => vec![0; length],
        2 => vec![7; 3],
        _ => (0..length).map(|_| rng.u8(..)).collect(),
    }
}

fn resource(rng: &mut Rng) -> Option<Resource> {
    let entity =
        || EntityRef { schema_url: "e".into(), r#type: "host".into(), id_keys: vec!["a".into()], ..Default::default() };
    let entity_refs = (0..rng.u8(..2)).map(|_| entity()).collect();
    rng.bool().then(|| Resource { attributes: attributes(rng, 2), dropped_attributes_count: 1, entity_refs })
}

fn scope(rng: &mut Rng) -> Option<InstrumentationScope> {
    let attributes = attributes(rng, 1);
    rng.bool().then(|| InstrumentationScope {
        name: "lib".into(),
        version: "2".into(),
        attributes,
        dropped_attributes_count: 3,
    })
}

fn log(rng: &mut Rng) -> LogRecord {
    LogRecord {
        time_unix_nano: [0, T][rng.usize(..2)],
        observed_time_unix_nano: [0, T + 5][rng.usize(..2)],
        severity_number: rng.i32(-1..30),
        severity_text: ["", "INFO", "WARN"][rng.usize(..3)].into(),
        body: (rng.u8(..8) > 0).then(|| any(value(rng, 3))),
        attributes: attributes(rng, 2),
        dropped_attributes_count: rng.u32(..3),
        flags: rng.u32(..),
        trace_id: id(rng, 16),
        span_id: id(rng, 8),
        event_name: ["", "e"][rng.usize(..2)].into(),
    }
}

fn logs(rng: &mut Rng) -> Wire {
    let scope_logs = |rng: &mut Rng| ScopeLogs {
        scope: scope(rng),
        log_records: (0..rng.u8(..6)).map(|_| log(rng)).collect(),
        schema_url: ["", "su"][rng.usize(..2)].into(),
    };
    let resource_logs = |rng: &mut Rng| ResourceLogs {
        resource: resource(rng),
        scope_logs: (0..rng.u8(..3)).map(|_| scope_logs(rng)).collect(),
        schema_url: ["", "ru"][rng.usize(..2)].into(),
    };
    let resource_logs = (0..rng.u8(1..4)).map(|_| resource_logs(rng)).collect();
    Wire::new(Signal::Logs, ExportLogsServiceRequest { resource_logs }.encode_to_vec())
}

fn span(rng: &mut Rng) -> Span {
    let event = |rng: &mut Rng| span::Event {
        time_unix_nano: T,
        name: ["", "exception"][rng.usize(..2)].into(),
        attributes: attributes(rng, 1),
        dropped_attributes_count: 1,
    };
    let link = |rng: &mut Rng| span::Link {
        trace_id: id(rng, 16),
        span_id: id(rng, 8),
        trace_state: "ot=th:8".into(),
        attributes: attributes(rng, 1),
        dropped_attributes_count: 1,
        flags: 1,
    };
    Span {
        trace_id: vec![rng.u8(1..); 16],
        span_id: vec![rng.u8(1..); 8],
        trace_state: ["", "ot=th:c", "x=y"][rng.usize(..3)].into(),
        parent_span_id: id(rng, 8),
        flags: rng.u32(..),
        name: ["GET /", "", "SELECT"][rng.usize(..3)].into(),
        kind: rng.i32(-1..8),
        start_time_unix_nano: T,
        end_time_unix_nano: [0, T - 1, T + 7][rng.usize(..3)],
        attributes: attributes(rng, 2),
        dropped_attributes_count: 1,
        events: (0..rng.u8(..3)).map(|_| event(rng)).collect(),
        dropped_events_count: 1,
        links: (0..rng.u8(..3)).map(|_| link(rng)).collect(),
        dropped_links_count: 1,
        status: rng.bool().then(|| Status { message: "m".into(), code: rng.i32(-1..5) }),
    }
}

fn traces(rng: &mut Rng) -> Wire {
    let scope_spans = |rng: &mut Rng| ScopeSpans {
        scope: scope(rng),
        spans: (0..rng.u8(..6)).map(|_| span(rng)).collect(),
        schema_url: ["", "su"][rng.usize(..2)].into(),
    };
    let resource_spans = |rng: &mut Rng| ResourceSpans {
        resource: resource(rng),
        scope_spans: (0..rng.u8(..3)).map(|_| scope_spans(rng)).collect(),
        schema_url: ["", "ru"][rng.usize(..2)].into(),
    };
    let resource_spans = (0..rng.u8(1..4)).map(|_| resource_spans(rng)).collect();
    Wire::new(Signal::Traces, ExportTraceServiceRequest { resource_spans }.encode_to_vec())
}

fn one_span(span: Span) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn exemplars(rng: &mut Rng) -> Vec<Exemplar> {
    let one = |rng: &mut Rng| Exemplar {
        filtered_attributes: attributes(rng, 1),
        time_unix_nano: T,
        value: [None, Some(exemplar::Value::AsDouble(1.5)), Some(exemplar::Value::AsInt(-3))][rng.usize(..3)],
        span_id: id(rng, 8),
        trace_id: id(rng, 16),
    };
    (0..rng.u8(..3)).map(|_| one(rng)).collect()
}

fn number(rng: &mut Rng) -> NumberDataPoint {
    let flags = rng.u32(..3);
    let value = match rng.u8(..3) {
        0 if flags & 1 != 0 => None,
        1 => Some(number_data_point::Value::AsInt(i64::MAX)),
        _ => Some(number_data_point::Value::AsDouble(0.1)),
    };
    NumberDataPoint {
        attributes: attributes(rng, 1),
        start_time_unix_nano: [0, T - 9][rng.usize(..2)],
        time_unix_nano: T,
        exemplars: exemplars(rng),
        flags,
        value,
    }
}

fn histogram(rng: &mut Rng, folded: bool) -> HistogramDataPoint {
    let bounds = if folded { 0 } else { rng.usize(..4) };
    let bucket_counts = if folded || rng.bool() { Vec::new() } else { (0..=bounds as u64).collect() };
    let maybe = |rng: &mut Rng| rng.bool().then(|| rng.f64());
    HistogramDataPoint {
        attributes: attributes(rng, 1),
        start_time_unix_nano: T - 9,
        time_unix_nano: T,
        count: rng.u64(1..),
        sum: Some(rng.f64()),
        explicit_bounds: (0..bounds).map(|bound| bound as f64).collect(),
        bucket_counts,
        exemplars: exemplars(rng),
        flags: rng.u32(..),
        min: maybe(rng),
        max: maybe(rng),
    }
}

fn exponential(rng: &mut Rng) -> ExponentialHistogramDataPoint {
    let buckets = |rng: &mut Rng| {
        let bucket_counts = (0..rng.u8(..4)).map(|_| rng.u64(..)).collect();
        rng.bool().then(|| Buckets { offset: rng.i32(..), bucket_counts })
    };
    ExponentialHistogramDataPoint {
        attributes: attributes(rng, 1),
        start_time_unix_nano: T - 9,
        time_unix_nano: T,
        count: rng.u64(..),
        sum: rng.bool().then(|| rng.f64()),
        scale: rng.i32(..),
        zero_count: rng.u64(..),
        positive: buckets(rng),
        negative: buckets(rng),
        flags: rng.u32(..),
        exemplars: exemplars(rng),
        min: rng.bool().then(|| rng.f64()),
        max: rng.bool().then(|| rng.f64()),
        zero_threshold: rng.f64(),
    }
}

fn summary(rng: &mut Rng) -> SummaryDataPoint {
    let quantile = |rng: &mut Rng| ValueAtQuantile { quantile: rng.f64(), value: rng.f64() };
    SummaryDataPoint {
        attributes: attributes(rng, 1),
        start_time_unix_nano: 0,
        time_unix_nano: T,
        count: rng.u64(..),
        sum: [0.0, 2.5][rng.usize(..2)],
        quantile_values: (0..rng.u8(..3)).map(|_| quantile(rng)).collect(),
        flags: rng.u32(..),
    }
}

fn metric(rng: &mut Rng) -> Metric {
    let fold = [None, Some(FOLD_GAUGE), Some(FOLD_UPDOWNCOUNTER), Some("other")][rng.usize(..4)];
    let folded = matches!(fold, Some(FOLD_GAUGE | FOLD_UPDOWNCOUNTER));
    let (points, aggregation_temporality) = (rng.usize(..4), rng.i32(-1..4));
    let data = match rng.u8(..5) {
        0 => metric::Data::Gauge(Gauge { data_points: (0..points).map(|_| number(rng)).collect() }),
        1 => metric::Data::Sum(Sum {
            data_points: (0..points).map(|_| number(rng)).collect(),
            aggregation_temporality,
            is_monotonic: rng.bool(),
        }),
        2 => metric::Data::Histogram(Histogram {
            data_points: (0..points).map(|_| histogram(rng, folded)).collect(),
            aggregation_temporality,
        }),
        3 => metric::Data::ExponentialHistogram(ExponentialHistogram {
            data_points: (0..points).map(|_| exponential(rng)).collect(),
            aggregation_temporality,
        }),
        _ => metric::Data::Summary(Summary { data_points: (0..points).map(|_| summary(rng)).collect() }),
    };
    Metric {
        name: ["m", SPAN_DURATION][rng.usize(..2)].into(),
        description: ["", "d"][rng.usize(..2)].into(),
        unit: ["", "By"][rng.usize(..2)].into(),
        metadata: fold.map(|fold| pair(FOLD, text(fold))).into_iter().chain([pair("m", text("n"))]).collect(),
        data: Some(data),
    }
}

fn metrics(rng: &mut Rng) -> Wire {
    let scope_metrics = |rng: &mut Rng| ScopeMetrics {
        scope: scope(rng),
        metrics: (0..rng.u8(..4)).map(|_| metric(rng)).collect(),
        schema_url: ["", "su"][rng.usize(..2)].into(),
    };
    let resource_metrics = |rng: &mut Rng| ResourceMetrics {
        resource: resource(rng),
        scope_metrics: (0..rng.u8(..3)).map(|_| scope_metrics(rng)).collect(),
        schema_url: ["", "ru"][rng.usize(..2)].into(),
    };
    let resource_metrics = (0..rng.u8(1..4)).map(|_| resource_metrics(rng)).collect();
    Wire::new(Signal::Metrics, ExportMetricsServiceRequest { resource_metrics }.encode_to_vec())
}

fn one_metric(metric: Metric) -> Wire {
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    Wire::new(Signal::Metrics, ExportMetricsServiceRequest { resource_metrics }.encode_to_vec())
}

/// A request of one record.
fn one_log(record: LogRecord) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

#[test]
fn what_is_valid_goes_the_short_way_and_becomes_the_same_rows() {
    let mut rng = Rng::with_seed(1);
    for make in [logs, traces, metrics] {
        for _ in 0..1_000 {
            assert!(goes_the_short_way(&make(&mut rng)));
        }
    }
}

#[test]
fn what_is_damaged_becomes_the_same_rows_or_goes_the_long_way() {
    let mut rng = Rng::with_seed(2);
    for make in [logs, traces, metrics] {
        let mut short = 0;
        for _ in 0..5_000 {
            let wire = make(&mut rng);
            let mut bytes = wire.bytes().to_vec();
            for _ in 0..rng.u8(1..3) {
                let at = rng.usize(..=bytes.len().saturating_sub(1));
                match rng.u8(..4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, rng.u8(..)),
                    2 if !bytes.is_empty() => _ = bytes.remove(at),
                    _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.u8(..)),
                }
            }
            short += usize::from(goes_the_short_way(&Wire::new(wire.signal(), bytes)));
        }
        assert!((250..4_750).contains(&short), "{short} went the short way");
    }
}

#[test]
fn rows_that_fill_several_chunks_are_the_same() {
    let log =
        |n: u64| LogRecord { time_unix_nano: T + n, body: Some(any(text(&"x".repeat(50_000)))), ..Default::default() };
    let scope_logs = vec![ScopeLogs { log_records: (0..400).map(log).collect(), ..ScopeLogs::default() }];
    let attributes = vec![pair("service.name", text("shop"))];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_logs = vec![ResourceLogs { resource, scope_logs, schema_url: "u".into() }];
    let wire = Wire::new(Signal::Logs, ExportLogsServiceRequest { resource_logs }.encode_to_vec());
    let mut sink = Sink::new(Budget::new(1 << 30));
    assert_eq!(convert(&wire, &delivery(), &Seen::new(), &mut sink).unwrap().accepted, 400);
    let columns = |sink: Sink| sink.finish().unwrap().into_iter().map(|rows| rows.columns).collect::<Vec<_>>();
    let chunks = columns(sink);
    assert!(chunks.len() > 1, "one chunk of all");
    let mut sink = Sink::new(Budget::new(1 << 30));
    let (message, _) = Message::read(wire, &mut Held::default()).unwrap();
    convert_message(message, &delivery(), &Seen::new(), &mut sink).unwrap();
    assert_eq!(into_native(chunks), into_native(columns(sink)));
}

#[test]
fn what_is_odd_goes_the_long_way() {
    let nested = |levels: usize| {
        (0..levels).fold(text("x"), |inner, _| Value::ArrayValue(ArrayValue { values: vec![any(inner)] }))
    };
    let body = |value: Value| one_log(LogRecord { body: Some(any(value)), ..LogRecord::default() });
    let many = |keys: i64| (0..keys).map(|key| pair(&key.to_string(), Value::IntValue(key))).collect::<Vec<_>>();
    let attributes = |attributes: Vec<KeyValue>| one_log(LogRecord { attributes, ..LogRecord::default() });
    let ordinary =
        [body(nested(24)), body(Value::KvlistValue(KeyValueList { values: many(1024) })), attributes(many(1024))];
    for bytes in ordinary {
        assert!(goes_the_short_way(&Wire::new(Signal::Logs, bytes)));
    }
    // A resource in two pieces, which prost merges.
    let pieces = [0x0a, 4, 0x0a, 0, 0x0a, 0];
    let twice = vec![pair("a", text("1")), pair("a", text("2"))];
    let odd = [
        body(nested(25)),
        body(Value::KvlistValue(KeyValueList { values: twice })),
        body(Value::KvlistValue(KeyValueList { values: many(1025) })),
        attributes(many(1025)),
        one_log(LogRecord { time_unix_nano: u64::MAX, ..LogRecord::default() }),
        pieces.to_vec(),
        vec![0x0a, 1],
    ];
    for bytes in odd {
        assert_eq!(short_way(&Wire::new(Signal::Logs, bytes.clone())).unwrap_err(), Unusual, "{bytes:?}");
    }
    let good = span(&mut Rng::with_seed(3));
    assert!(goes_the_short_way(&Wire::new(Signal::Traces, one_span(good.clone()))));
    let late = span::Event { time_unix_nano: u64::MAX, ..Default::default() };
    for odd in [
        Span { start_time_unix_nano: 0, ..good.clone() },
        Span { end_time_unix_nano: u64::MAX, ..good.clone() },
        Span { trace_id: vec![0; 16], ..good.clone() },
        Span { span_id: vec![1; 7], ..good.clone() },
        Span { events: vec![late], ..good.clone() },
    ] {
        let wire = Wire::new(Signal::Traces, one_span(odd));
        assert_eq!(short_way(&wire).unwrap_err(), Unusual);
        assert_eq!(long_way(&wire).unwrap().1.0.rejected_total(), 1);
    }
    let of =
        |name: &str, data: Option<metric::Data>| one_metric(Metric { name: name.into(), data, ..Metric::default() });
    let gauge = |point: NumberDataPoint| Some(metric::Data::Gauge(Gauge { data_points: vec![point] }));
    let point = NumberDataPoint {
        time_unix_nano: T,
        value: Some(number_data_point::Value::AsInt(1)),
        ..NumberDataPoint::default()
    };
    assert!(goes_the_short_way(&of("m", gauge(point.clone()))));
    let buckets = HistogramDataPoint {
        time_unix_nano: T,
        bucket_counts: vec![1],
        explicit_bounds: vec![1.0],
        ..Default::default()
    };
    let histogram = Histogram { data_points: vec![buckets], ..Histogram::default() };
    for wire in [
        of("", gauge(point.clone())),
        of("m", None),
        of("m", gauge(NumberDataPoint { time_unix_nano: 0, ..point.clone() })),
        of("m", gauge(NumberDataPoint { value: None, ..point })),
        of("m", Some(metric::Data::Histogram(histogram))),
    ] {
        assert_eq!(short_way(&wire).unwrap_err(), Unusual);
        assert_eq!(long_way(&wire).unwrap().1.0.rejected_total(), 1);
    }
}

#[test]
fn what_goes_the_long_way_is_counted_and_answered_there() {
    let read = |bytes: Vec<u8>| {
        let export = ollystack_receive::Export {
            message: Wire::new(Signal::Logs, bytes),
            headers: http::HeaderMap::new(),
            peer: "127.0.0.1:1".parse().unwrap(),
            transport: ollystack_receive::Transport::Grpc,
            wire_bytes: 1,
            decoded_bytes: 1,
            held: Held::default(),
        };
        Counted::new(export)
    };
    let counted = |bytes: Vec<u8>| read(bytes).unwrap();
    let convert = |counted: Counted| counted.convert(&delivery(), &Seen::new(), &Budget::new(1 << 20));
    let late = counted(one_log(LogRecord { time_unix_nano: u64::MAX, ..LogRecord::default() }));
    assert!(matches!((late.records, &late.form), (1, Form::Wire(_))));
    let converted = convert(late).unwrap();
    assert_eq!((converted.outcome.rejected_total(), converted.rows.len()), (1, 0));
    let deep = (0..30).fold(text("x"), |inner, _| Value::ArrayValue(ArrayValue { values: vec![any(inner)] }));
    let converted = convert(counted(one_log(LogRecord { body: Some(any(deep)), ..LogRecord::default() }))).unwrap();
    assert_eq!((converted.outcome.accepted, converted.values_cut), (1, 1));
    let no_text = LogRecord { severity_text: "abc".into(), ..LogRecord::default() };
    let bytes = one_log(no_text).iter().map(|byte| if *byte == b'b' { 0xff } else { *byte }).collect();
    assert!(matches!(convert(counted(bytes)), Err(crate::convert::Error::Refused(_))));
    // Without a record, and a resource that ends within an attribute.
    assert_eq!(counted(vec![0x0a, 0]).records, 0);
    assert!(read(vec![0x0a, 4, 0x0a, 2, 0x0a, 9]).is_err());
}
