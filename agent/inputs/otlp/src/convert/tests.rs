//! What is taken, what is rejected, and what is taken without its invalid part.

use super::*;
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use ollystack_record::otlp::metrics::v1::{
    ExponentialHistogram, Gauge, Histogram, ResourceMetrics, ScopeMetrics, Sum, Summary,
};
use ollystack_record::otlp::resource::v1::Resource as ResourceProto;
use ollystack_record::otlp::trace::v1::{ResourceSpans, ScopeSpans, span::Link};
use ollystack_record::value::{int, string};

fn span(trace_id: &[u8], span_id: &[u8]) -> Span {
    let (trace_id, span_id) = (trace_id.to_vec(), span_id.to_vec());
    Span { trace_id, span_id, start_time_unix_nano: 1, end_time_unix_nano: 2, ..Span::default() }
}

fn resource(name: &str) -> Option<ResourceProto> {
    Some(ResourceProto { attributes: vec![string("service.name", name)], ..ResourceProto::default() })
}

#[test]
fn a_time_that_no_clock_shows_costs_no_record() {
    let of = |start, end| Span { start_time_unix_nano: start, end_time_unix_nano: end, ..span(&[1; 16], &[2; 8]) };
    let mended = |start, end| {
        let mut span = of(start, end);
        assert!(mend(&mut span));
        (span.start_time_unix_nano, span.end_time_unix_nano)
    };
    assert_eq!([mended(5, 7), mended(0, 7), mended(5, u64::MAX)], [(5, 7), (7, 7), (5, 5)]);
    let (start, end) = mended(u64::MAX, 0);
    assert!(start == end && (1_700_000_000_000_000_000..=TIME_MAX).contains(&start), "{start}");
    let record =
        |time, observed| LogRecord { time_unix_nano: time, observed_time_unix_nano: observed, ..LogRecord::default() };
    let log_records = vec![record(5, u64::MAX), record(u64::MAX, 7)];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let request =
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    let Some((_, Records::Logs(scopes))) = logs(request).batches.pop() else { unreachable!() };
    assert_eq!(scopes[0].log_records, [record(5, 5), record(0, 7)]);
}

#[test]
fn spans_with_invalid_ids_are_rejected_and_counted() {
    let link = |trace_id: Vec<u8>| Link { trace_id, span_id: vec![1; 8], ..Link::default() };
    let mended = Span {
        parent_span_id: vec![0; 8],
        links: vec![link(vec![1; 16]), link(vec![1; 15])],
        dropped_links_count: 2,
        ..span(&[1; 16], &[2; 8])
    };
    let spans =
        vec![mended, span(&[1; 15], &[2; 8]), span(&[0; 16], &[2; 8]), span(&[1; 16], &[]), span(&[1; 16], &[0; 8])];
    let only_invalid = ScopeSpans { spans: vec![span(&[], &[])], ..ScopeSpans::default() };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![
            ResourceSpans {
                resource: resource("a"),
                scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
                schema_url: "https://schema".into(),
            },
            ResourceSpans { resource: resource("b"), scope_spans: vec![only_invalid], ..ResourceSpans::default() },
        ],
    };
    let converted = traces(request);
    assert_eq!((converted.batches.len(), converted.rejected), (1, 5));
    assert!(converted.why.contains("trace_id"), "{}", converted.why);
    let (resource, Records::Traces(scopes)) = &converted.batches[0] else { panic!() };
    assert_eq!(resource.service_name(), "a");
    assert_eq!(scopes[0].schema_url, "https://schema");
    let kept = &scopes[0].spans[0];
    assert_eq!((kept.parent_span_id.len(), kept.links.len(), kept.dropped_links_count), (0, 1, 3));
}

#[test]
fn log_records_lose_invalid_ids_and_nothing_else() {
    let record = |trace_id: Vec<u8>, span_id: Vec<u8>| LogRecord { trace_id, span_id, ..LogRecord::default() };
    let log_records = vec![
        record(vec![1; 16], vec![2; 8]),
        record(vec![1; 16], vec![2; 7]),
        record(vec![0; 16], vec![2; 8]),
        record(vec![], vec![]),
    ];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let request =
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    let converted = logs(request);
    assert_eq!(converted.rejected, 0);
    let Records::Logs(scopes) = &converted.batches[0].1 else { panic!() };
    let lengths: Vec<_> = scopes[0].log_records.iter().map(|r| (r.trace_id.len(), r.span_id.len())).collect();
    assert_eq!(lengths, [(16, 8), (16, 0), (0, 0), (0, 0)]);
}

fn metric(name: &str, data: Data) -> Proto {
    Proto { name: name.into(), unit: "s".into(), data: Some(data), ..Proto::default() }
}

fn number(value: Option<number_data_point::Value>, flags: u32) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![string("k", "v")],
        start_time_unix_nano: 5,
        time_unix_nano: 7,
        value,
        flags,
        ..NumberDataPoint::default()
    }
}

fn convert(metrics_in: Vec<Proto>) -> (Vec<Sample>, u64, String) {
    let scope = Some(InstrumentationScope { name: "scope".into(), ..InstrumentationScope::default() });
    let scope_metrics = vec![ScopeMetrics { scope, metrics: metrics_in, ..ScopeMetrics::default() }];
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource("a"),
            scope_metrics,
            ..ResourceMetrics::default()
        }],
    };
    let mut converted = metrics(request, &mut Interner::new(100));
    let samples = match converted.batches.pop() {
        Some((_, Records::Metrics(samples))) => samples,
        _ => Vec::new(),
    };
    (samples, converted.rejected, converted.why)
}

#[test]
fn every_kind_of_point_becomes_a_sample_of_its_series() {
    use number_data_point::Value::{AsDouble, AsInt};
    let exemplar = Exemplar { trace_id: vec![1; 15], span_id: vec![2; 8], ..Exemplar::default() };
    let with_exemplar = NumberDataPoint { exemplars: vec![exemplar.clone()], ..number(Some(AsInt(1)), 0) };
    let histogram = HistogramDataPoint {
        attributes: vec![int("code", 200)],
        start_time_unix_nano: 5,
        time_unix_nano: 7,
        count: 3,
        bucket_counts: vec![1, 2],
        explicit_bounds: vec![0.5],
        exemplars: vec![exemplar],
        ..HistogramDataPoint::default()
    };
    let (samples, rejected, _) = convert(vec![
        metric(
            "gauge",
            Data::Gauge(Gauge { data_points: vec![with_exemplar, number(Some(AsDouble(1.5)), 0), number(None, 1)] }),
        ),
        metric(
            "sum",
            Data::Sum(Sum {
                data_points: vec![number(Some(AsInt(9)), 0)],
                aggregation_temporality: 2,
                is_monotonic: true,
            }),
        ),
        metric("histogram", Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: 1 })),
        metric(
            "exponential",
            Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![ExponentialHistogramDataPoint { scale: 3, ..Default::default() }],
                aggregation_temporality: 1,
            }),
        ),
        metric(
            "summary",
            Data::Summary(Summary { data_points: vec![SummaryDataPoint { sum: 2.0, ..Default::default() }] }),
        ),
    ]);
    assert_eq!((samples.len(), rejected), (7, 0));
    let values: Vec<_> = samples.iter().map(|sample| &sample.value).collect();
    assert_eq!(values[..4], [&Value::Int(1), &Value::Double(1.5), &Value::Missing, &Value::Int(9)]);
    assert!(Arc::ptr_eq(&samples[0].series, &samples[1].series));
    assert_eq!((samples[0].start_unix_nano, samples[0].time_unix_nano), (5, 7));
    assert_eq!((samples[0].exemplars[0].trace_id.len(), samples[0].exemplars[0].span_id.len()), (0, 0));
    assert_eq!(samples[3].series.metric.kind, Kind::Sum { monotonic: true, delta: false });
    assert_eq!((samples[3].series.metric.unit.as_str(), samples[3].series.scope.proto.name.as_str()), ("s", "scope"));
    let Value::Histogram(point) = values[4] else { panic!() };
    // The sample has the times and attributes; the point keeps its exemplars.
    assert_eq!((point.attributes.len(), point.time_unix_nano, point.count, point.exemplars.len()), (0, 0, 3, 1));
    assert_eq!((samples[4].series.attributes(), samples[4].time_unix_nano), (&[int("code", 200)][..], 7));
    assert!(matches!(values[5], Value::ExponentialHistogram(point) if point.scale == 3));
    assert!(matches!(values[6], Value::Summary(point) if point.sum == 2.0));
}

#[test]
fn points_that_say_nothing_are_rejected_with_the_reason() {
    use number_data_point::Value::AsInt;
    let gauge = |points| Data::Gauge(Gauge { data_points: points });
    let table = [
        (metric("", gauge(vec![number(Some(AsInt(1)), 0); 2])), 2, "name"),
        (metric("m", gauge(vec![number(None, 0)])), 1, "without a value"),
        (
            metric("m", Data::Sum(Sum { data_points: vec![number(Some(AsInt(1)), 0)], ..Sum::default() })),
            1,
            "aggregation_temporality",
        ),
        (
            metric(
                "m",
                Data::Histogram(Histogram {
                    data_points: vec![HistogramDataPoint {
                        bucket_counts: vec![1],
                        explicit_bounds: vec![1.0],
                        ..Default::default()
                    }],
                    aggregation_temporality: 1,
                }),
            ),
            1,
            "bucket_counts",
        ),
    ];
    for (metric, rejected, why) in table {
        let found = convert(vec![metric]);
        assert_eq!((found.0.len(), found.1), (0, rejected));
        assert!(found.2.contains(why), "{}", found.2);
    }
    assert_eq!(convert(vec![Proto { name: "no data".into(), ..Proto::default() }]).1, 0);
}

#[test]
fn what_an_application_says_of_a_metric_comes_along() {
    let metadata = vec![string("unit.display", "ms"), string("a", "b")];
    let data = Data::Gauge(Gauge { data_points: vec![number(Some(number_data_point::Value::AsInt(1)), 0)] });
    let scope_metrics =
        vec![ScopeMetrics { metrics: vec![Proto { metadata, ..metric("m", data) }], ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    let converted = metrics(ExportMetricsServiceRequest { resource_metrics }, &mut Interner::new(100));
    let Records::Metrics(samples) = &converted.batches[0].1 else { panic!() };
    assert_eq!(samples[0].series.metric.metadata, vec![string("a", "b"), string("unit.display", "ms")]);
}
