//! Goldens: one OTLP message each, and the rows that must come of it, written out in full where a field carries meaning.

use super::sink::Indexed;
use super::*;
use crate::batch::budget::Budget;
use ollystack_schema::names::{FOLD, FOLD_GAUGE, FOLD_UPDOWNCOUNTER, LOG_COUNT, SPAN_DURATION};
use ollystack_schema::rows::{LogRow, MetricRow, MetricType, SeriesRow, SpanRow, Temporality};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::*;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use std::any::Any;

const NOW: u32 = 1_700_000_000;
const T: u64 = 1_699_999_999_000_000_001;

/// Keeps rows as they are.
#[derive(Default)]
struct Kept {
    metrics: Vec<MetricRow>,
    series: Vec<SeriesRow>,
    logs: Vec<LogRow>,
    spans: Vec<SpanRow>,
}

impl Push for Kept {
    fn push<T: Indexed>(&mut self, row: &T) -> Result<(), Overflow> {
        fn keep<R: Clone + 'static>(row: &dyn Any, to: &mut Vec<R>) {
            to.extend(row.downcast_ref::<R>().cloned());
        }
        keep(row, &mut self.metrics);
        keep(row, &mut self.series);
        keep(row, &mut self.logs);
        keep(row, &mut self.spans);
        Ok(())
    }
}

fn delivery() -> Delivery {
    Delivery {
        tenant: "acme".into(),
        agent: "a-1".into(),
        sequence: 9,
        ingested_at: NOW,
        expires_at: NOW + 100,
        treatment: Default::default(),
    }
}

fn rows(message: Message) -> (Kept, Outcome) {
    let records = count(&message);
    let mut kept = Kept::default();
    let outcome = convert(message, &delivery(), &Seen::new(), &mut kept).unwrap();
    assert_eq!(records, outcome.accepted + outcome.rejected_total(), "every record is accepted or rejected");
    (kept, outcome)
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

fn int(key: &str, value: i64) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::IntValue(value)) }), ..KeyValue::default() }
}

fn map(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn resource() -> Option<Resource> {
    Some(Resource { attributes: vec![text("service.name", "shop"), text("host.name", "h1")], ..Resource::default() })
}

fn scope() -> Option<InstrumentationScope> {
    let attributes = vec![text("s", "1")];
    Some(InstrumentationScope {
        name: "lib".into(),
        version: "2".into(),
        attributes,
        ..InstrumentationScope::default()
    })
}

fn logs(records: Vec<LogRecord>) -> Message {
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: records, schema_url: "su".into() }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, schema_url: "ru".into() }];
    Message::Logs(ExportLogsServiceRequest { resource_logs })
}

fn spans(spans: Vec<Span>) -> Message {
    let scope_spans = vec![ScopeSpans { scope: scope(), spans, schema_url: "su".into() }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, schema_url: "ru".into() }];
    Message::Traces(ExportTraceServiceRequest { resource_spans })
}

fn metrics(metrics: Vec<Metric>) -> Message {
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, schema_url: "su".into() }];
    let resource_metrics = vec![ResourceMetrics { resource: resource(), scope_metrics, schema_url: "ru".into() }];
    Message::Metrics(ExportMetricsServiceRequest { resource_metrics })
}

fn metric(name: &str, data: metric::Data) -> Metric {
    Metric { name: name.into(), unit: "By".into(), description: "d".into(), metadata: vec![], data: Some(data) }
}

fn point(value: f64) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![text("k", "v")],
        start_time_unix_nano: T - 1,
        time_unix_nano: T,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn gauge(points: Vec<NumberDataPoint>) -> metric::Data {
    metric::Data::Gauge(Gauge { data_points: points })
}

fn good_span() -> Span {
    Span {
        trace_id: vec![0xab; 16],
        span_id: vec![1; 8],
        name: "GET /".into(),
        kind: 2,
        start_time_unix_nano: T,
        end_time_unix_nano: T + 5,
        ..Span::default()
    }
}

#[test]
fn a_log_record_becomes_its_row() {
    let record = LogRecord {
        time_unix_nano: T,
        observed_time_unix_nano: T + 1,
        severity_number: 17,
        severity_text: "ERROR".into(),
        body: Some(AnyValue { value: Some(Value::StringValue("disk full".into())) }),
        attributes: vec![int(LOG_COUNT, 12), text("a", "b")],
        flags: 0x101,
        trace_id: vec![0xcd; 16],
        span_id: vec![2; 8],
        event_name: "e".into(),
        ..LogRecord::default()
    };
    let (kept, outcome) = rows(logs(vec![record]));
    let expected = LogRow {
        tenant_id: "acme".into(),
        timestamp: T as i64,
        observed_timestamp: T as i64 + 1,
        trace_id: "cd".repeat(16),
        span_id: "02".repeat(8),
        trace_flags: 1,
        severity_text: "ERROR".into(),
        severity_number: 17,
        service_name: "shop".into(),
        event_name: "e".into(),
        body: "disk full".into(),
        line_count: 12,
        resource_schema_url: "ru".into(),
        resource_attributes: map(&[("host.name", "h1"), ("service.name", "shop")]).into(),
        scope_schema_url: "su".into(),
        scope_name: "lib".into(),
        scope_version: "2".into(),
        scope_attributes: map(&[("s", "1")]).into(),
        log_attributes: map(&[("a", "b"), (LOG_COUNT, "12")]),
        agent_id: "a-1".into(),
        batch_sequence: 9,
        ingested_at: NOW,
        expires_at: NOW + 100,
    };
    assert_eq!(kept.logs, [expected]);
    assert_eq!(outcome, Outcome { accepted: 1, ..Outcome::default() });
}

#[test]
fn what_a_log_record_leaves_out_is_filled_in() {
    let bare = LogRecord { severity_number: 99, trace_id: vec![1, 2], ..LogRecord::default() };
    let observed = LogRecord { observed_time_unix_nano: T, ..LogRecord::default() };
    let (kept, _) = rows(logs(vec![bare, observed]));
    let arrived = i64::from(NOW) * 1_000_000_000;
    assert_eq!((kept.logs[0].timestamp, kept.logs[0].observed_timestamp), (arrived, arrived));
    assert_eq!((kept.logs[0].severity_number, kept.logs[0].trace_id.as_str(), kept.logs[0].line_count), (0, "", 1));
    assert_eq!(kept.logs[1].timestamp, T as i64);
}

#[test]
fn a_span_becomes_its_row() {
    let span = Span {
        parent_span_id: vec![3; 8],
        trace_state: "ot=th:8".into(),
        flags: 1,
        attributes: vec![int("http.response.status_code", 500)],
        status: Some(Status { code: 2, message: "boom".into() }),
        events: vec![span::Event {
            time_unix_nano: T + 2,
            name: "exception".into(),
            attributes: vec![text("exception.type", "E")],
            ..span::Event::default()
        }],
        links: vec![span::Link {
            trace_id: vec![4; 16],
            span_id: vec![5; 8],
            trace_state: "x=y".into(),
            ..span::Link::default()
        }],
        ..good_span()
    };
    let (kept, _) = rows(spans(vec![span]));
    let expected = SpanRow {
        tenant_id: "acme".into(),
        timestamp: T as i64,
        trace_id: "ab".repeat(16),
        span_id: "01".repeat(8),
        parent_span_id: "03".repeat(8),
        trace_state: "ot=th:8".into(),
        trace_flags: 1,
        span_name: "GET /".into(),
        span_kind: "Server".into(),
        service_name: "shop".into(),
        resource_schema_url: "ru".into(),
        resource_attributes: map(&[("host.name", "h1"), ("service.name", "shop")]).into(),
        scope_schema_url: "su".into(),
        scope_name: "lib".into(),
        scope_version: "2".into(),
        scope_attributes: map(&[("s", "1")]).into(),
        span_attributes: map(&[("http.response.status_code", "500")]),
        duration: 5,
        status_code: "Error".into(),
        status_message: "boom".into(),
        sample_weight: 2.0,
        event_timestamps: vec![T as i64 + 2],
        event_names: vec!["exception".into()],
        event_attributes: vec![map(&[("exception.type", "E")])],
        link_trace_ids: vec!["04".repeat(16)],
        link_span_ids: vec!["05".repeat(8)],
        link_trace_states: vec!["x=y".into()],
        link_attributes: vec![vec![]],
        agent_id: "a-1".into(),
        batch_sequence: 9,
        ingested_at: NOW,
        expires_at: NOW + 100,
    };
    assert_eq!(kept.spans, [expected]);
}

#[test]
fn an_invalid_span_is_rejected_alone_and_by_its_reason() {
    let many = (0..1025).map(|n| int(&n.to_string(), n)).collect();
    let table = [
        (Span { trace_id: vec![], ..good_span() }, Reason::TraceId),
        (Span { trace_id: vec![0; 16], ..good_span() }, Reason::TraceId),
        (Span { trace_id: vec![1; 15], ..good_span() }, Reason::TraceId),
        (Span { span_id: vec![0; 8], ..good_span() }, Reason::SpanId),
        (Span { span_id: vec![1; 9], ..good_span() }, Reason::SpanId),
        (Span { start_time_unix_nano: 0, ..good_span() }, Reason::Timestamp),
        (Span { start_time_unix_nano: u64::MAX, ..good_span() }, Reason::Timestamp),
        (Span { end_time_unix_nano: u64::MAX, ..good_span() }, Reason::Timestamp),
        (Span { attributes: many, ..good_span() }, Reason::Attributes),
    ];
    for (span, reason) in table {
        let (kept, outcome) = rows(spans(vec![good_span(), span, good_span()]));
        assert_eq!((kept.spans.len(), outcome.rejected.into_iter().collect::<Vec<_>>()), (2, vec![(reason, 1)]));
    }
}

#[test]
fn a_clock_that_went_back_makes_no_negative_duration() {
    let (kept, _) = rows(spans(vec![Span { end_time_unix_nano: T - 5, ..good_span() }]));
    assert_eq!(kept.spans[0].duration, 0);
}

#[test]
fn the_sender_is_told_what_was_rejected_and_the_rule() {
    let bad = || Span { trace_id: vec![], ..good_span() };
    let late = Span { start_time_unix_nano: 0, ..good_span() };
    let (_, outcome) = rows(spans(vec![bad(), bad(), late]));
    assert_eq!(outcome.rejected_total(), 3);
    assert_eq!(
        outcome.message(),
        "2 rejected: a trace id must be 16 bytes, not all zero; 1 rejected: times must be nanoseconds since 1970, before 2262, \
         and not 0 for spans and points"
    );
}

#[test]
fn an_absurd_resource_rejects_all_that_hangs_on_it() {
    let Message::Traces(mut request) = spans(vec![good_span(), good_span()]) else { panic!("spans make traces") };
    let absurd = (0..1025).map(|n| int(&n.to_string(), n)).collect();
    request.resource_spans[0].resource = Some(Resource { attributes: absurd, ..Resource::default() });
    let (kept, outcome) = rows(Message::Traces(request));
    assert!(kept.spans.is_empty());
    assert_eq!(outcome.rejected, BTreeMap::from([(Reason::Attributes, 2)]));
}

#[test]
fn a_gauge_point_becomes_its_row_and_describes_its_series() {
    let (kept, outcome) = rows(metrics(vec![metric("m", gauge(vec![point(2.5)]))]));
    let row = &kept.metrics[0];
    let expected = MetricRow {
        tenant_id: "acme".into(),
        metric_name: "m".into(),
        series_hash: row.series_hash,
        service_name: "shop".into(),
        start_time_unix: T as i64 - 1,
        time_unix: T as i64,
        metric_type: MetricType::Gauge,
        value: 2.5,
        count: 1,
        sum: Some(2.5),
        min: Some(2.5),
        max: Some(2.5),
        agent_id: "a-1".into(),
        batch_sequence: 9,
        ingested_at: NOW,
        expires_at: NOW + 100,
        ..MetricRow::default()
    };
    assert_eq!(*row, expected);
    let series = SeriesRow {
        tenant_id: "acme".into(),
        metric_name: "m".into(),
        series_hash: row.series_hash,
        service_name: "shop".into(),
        metric_type: MetricType::Gauge,
        metric_unit: "By".into(),
        metric_description: "d".into(),
        resource_schema_url: "ru".into(),
        resource_attributes: map(&[("host.name", "h1"), ("service.name", "shop")]).into(),
        scope_name: "lib".into(),
        scope_version: "2".into(),
        scope_schema_url: "su".into(),
        scope_attributes: map(&[("s", "1")]).into(),
        attributes: map(&[("k", "v")]),
        last_seen: NOW,
        expires_at: NOW + 100 + 2 * 86_400,
        ..SeriesRow::default()
    };
    assert_eq!(kept.series, [series]);
    assert_eq!((outcome.accepted, outcome.described.len()), (1, 1));
}

#[test]
fn a_folded_gauge_is_a_gauge_again() {
    let folded = HistogramDataPoint {
        start_time_unix_nano: T - 60,
        time_unix_nano: T,
        count: 60,
        sum: Some(120.0),
        min: Some(1.0),
        max: Some(3.5),
        exemplars: vec![Exemplar {
            time_unix_nano: T - 1,
            value: Some(exemplar::Value::AsDouble(2.25)),
            ..Exemplar::default()
        }],
        ..HistogramDataPoint::default()
    };
    let data = |point| {
        metric::Data::Histogram(Histogram {
            data_points: vec![point],
            aggregation_temporality: AggregationTemporality::Delta as i32,
        })
    };
    let mut metric = metric("system.memory.usage", data(folded.clone()));
    metric.metadata = vec![text(FOLD, FOLD_GAUGE)];
    let (kept, _) = rows(metrics(vec![metric.clone()]));
    let row = &kept.metrics[0];
    assert_eq!((row.metric_type, row.aggregation_temporality), (MetricType::Gauge, Temporality::Unspecified));
    assert_eq!((row.value, row.count, row.sum, row.min, row.max), (2.25, 60, Some(120.0), Some(1.0), Some(3.5)));
    assert!(row.exemplar_values.is_empty());

    // A sum that goes up and down is one again.
    let mut sum = metric.clone();
    sum.metadata = vec![text(FOLD, FOLD_UPDOWNCOUNTER)];
    let (other, _) = rows(metrics(vec![sum]));
    let level = &other.metrics[0];
    assert_eq!((level.metric_type, level.aggregation_temporality), (MetricType::Sum, Temporality::Cumulative));
    assert_eq!((level.is_monotonic, level.value, level.max), (false, 2.25, Some(3.5)));

    // The same series as an unfolded gauge has.
    let mut plain = metric.clone();
    plain.metadata = vec![];
    plain.data = Some(gauge(vec![NumberDataPoint { attributes: vec![], ..point(1.0) }]));
    let (other, _) = rows(metrics(vec![plain]));
    assert_eq!(other.metrics[0].series_hash, row.series_hash);

    // Of a level that did not move the extremes are the last value.
    let still = HistogramDataPoint { exemplars: vec![], sum: Some(0.3), count: 3, ..folded.clone() };
    metric.data = Some(data(HistogramDataPoint { min: Some(0.1), max: Some(0.1), ..still }));
    assert_eq!(rows(metrics(vec![metric.clone()])).0.metrics[0].value, 0.1);

    // Without the last value the mean stands; without any there is nothing to keep.
    metric.data = Some(data(HistogramDataPoint { exemplars: vec![], ..folded.clone() }));
    assert_eq!(rows(metrics(vec![metric.clone()])).0.metrics[0].value, 2.0);
    metric.data = Some(data(HistogramDataPoint { exemplars: vec![], count: 0, sum: Some(0.0), ..folded }));
    assert_eq!(rows(metrics(vec![metric])).1.rejected, BTreeMap::from([(Reason::Value, 1)]));
}

#[test]
fn sums_histograms_and_summaries_keep_their_numbers() {
    let delta = AggregationTemporality::Delta as i32;
    let cumulative = AggregationTemporality::Cumulative as i32;
    let int_point = NumberDataPoint { value: Some(number_data_point::Value::AsInt(7)), ..point(0.0) };
    let sum = Sum { data_points: vec![int_point], aggregation_temporality: delta, is_monotonic: true };
    let histogram = Histogram {
        data_points: vec![HistogramDataPoint {
            time_unix_nano: T,
            count: 3,
            sum: Some(6.0),
            explicit_bounds: vec![1.0, 5.0],
            bucket_counts: vec![0, 2, 1],
            exemplars: vec![Exemplar {
                filtered_attributes: vec![text("u", "1")],
                time_unix_nano: T - 3,
                span_id: vec![1; 8],
                trace_id: vec![2; 16],
                value: Some(exemplar::Value::AsInt(5)),
            }],
            ..HistogramDataPoint::default()
        }],
        aggregation_temporality: cumulative,
    };
    let exponential = ExponentialHistogram {
        data_points: vec![ExponentialHistogramDataPoint {
            time_unix_nano: T,
            count: 4,
            sum: Some(1.5),
            scale: 6,
            zero_count: 1,
            zero_threshold: 0.5,
            positive: Some(Buckets { offset: -3, bucket_counts: vec![1, 2] }),
            ..ExponentialHistogramDataPoint::default()
        }],
        aggregation_temporality: delta,
    };
    let summary = Summary {
        data_points: vec![SummaryDataPoint {
            time_unix_nano: T,
            count: 9,
            sum: 3.0,
            quantile_values: vec![ValueAtQuantile { quantile: 0.99, value: 1.25 }],
            ..SummaryDataPoint::default()
        }],
    };
    let all = vec![
        metric("sum", metric::Data::Sum(sum)),
        metric("histogram", metric::Data::Histogram(histogram)),
        metric("exponential", metric::Data::ExponentialHistogram(exponential)),
        metric("summary", metric::Data::Summary(summary)),
    ];
    let (kept, outcome) = rows(metrics(all));
    assert_eq!((outcome.accepted, kept.series.len()), (4, 4));
    let [sum, histogram, exponential, summary] = kept.metrics.as_slice() else { panic!("four rows") };
    assert_eq!((sum.value, sum.count, sum.sum, sum.min, sum.is_monotonic), (7.0, 1, Some(7.0), None, true));
    assert_eq!((sum.metric_type, sum.aggregation_temporality), (MetricType::Sum, Temporality::Delta));
    assert_eq!(
        (histogram.metric_type, histogram.aggregation_temporality),
        (MetricType::Histogram, Temporality::Cumulative)
    );
    assert_eq!((&histogram.explicit_bounds[..], &histogram.bucket_counts[..]), (&[1.0, 5.0][..], &[0, 2, 1][..]));
    assert_eq!(histogram.exemplar_attributes, [map(&[("u", "1")])]);
    assert_eq!((histogram.exemplar_times[0], histogram.exemplar_values[0]), (T as i64 - 3, 5.0));
    assert_eq!(
        (&histogram.exemplar_span_ids[0], &histogram.exemplar_trace_ids[0]),
        (&"01".repeat(8), &"02".repeat(16))
    );
    assert_eq!((exponential.scale, exponential.zero_count, exponential.zero_threshold), (6, 1, 0.5));
    assert_eq!((exponential.positive_offset, &exponential.positive_bucket_counts[..]), (-3, &[1, 2][..]));
    assert_eq!(
        (summary.count, summary.sum, &summary.quantiles[..], &summary.quantile_values[..]),
        (9, Some(3.0), &[0.99][..], &[1.25][..])
    );
}

#[test]
fn an_invalid_point_is_rejected_alone_and_by_its_reason() {
    let no_value = NumberDataPoint { value: None, ..point(0.0) };
    let no_time = NumberDataPoint { time_unix_nano: 0, ..point(0.0) };
    let crooked = Histogram {
        data_points: vec![HistogramDataPoint {
            time_unix_nano: T,
            bucket_counts: vec![1],
            explicit_bounds: vec![1.0],
            ..HistogramDataPoint::default()
        }],
        aggregation_temporality: 1,
    };
    let good = || metric("good", gauge(vec![point(1.0)]));
    let table = [
        (metric("m", gauge(vec![no_value])), Reason::Value),
        (metric("m", gauge(vec![no_time])), Reason::Timestamp),
        (metric("", gauge(vec![point(1.0)])), Reason::Name),
        (Metric { data: None, ..metric("m", gauge(vec![])) }, Reason::Value),
        (metric("m", metric::Data::Histogram(crooked)), Reason::Buckets),
    ];
    for (bad, reason) in table {
        let (kept, outcome) = rows(metrics(vec![good(), bad, good()]));
        assert_eq!((kept.metrics.len(), outcome.rejected.into_iter().collect::<Vec<_>>()), (2, vec![(reason, 1)]));
    }
}

#[test]
fn a_series_that_ended_is_a_row_without_a_measurement() {
    let ended = NumberDataPoint { value: None, flags: 1, ..point(0.0) };
    let (kept, _) = rows(metrics(vec![metric("m", gauge(vec![ended]))]));
    assert_eq!((kept.metrics[0].count, kept.metrics[0].sum, kept.metrics[0].flags), (0, None, 1));
}

#[test]
fn span_columns_are_filled_for_red_metrics_only_and_the_points_service_stands() {
    let attributes = vec![
        text("service.name", "cart"),
        text("span.name", "GET /"),
        text("span.kind", "server"),
        text("status.code", "error"),
    ];
    let points = || vec![NumberDataPoint { attributes: attributes.clone(), ..point(1.0) }];
    let (kept, _) = rows(metrics(vec![metric(SPAN_DURATION, gauge(points())), metric("other", gauge(points()))]));
    let columns = |row: &MetricRow| {
        [row.service_name.clone(), row.span_name.clone(), row.span_kind.clone(), row.status_code.clone()]
    };
    assert_eq!(columns(&kept.metrics[0]), ["cart", "GET /", "server", "error"]);
    assert_eq!(columns(&kept.metrics[1]), ["cart", "", "", ""]);
}

#[test]
fn a_description_that_comes_after_the_labels_is_written_too() {
    let (seen, mut bare) = (Seen::new(), metric("m", gauge(vec![point(1.0)])));
    bare.description = String::new();
    let described = |metric: Metric| {
        let mut kept = Kept::default();
        let outcome = convert(metrics(vec![metric]), &delivery(), &seen, &mut kept).unwrap();
        seen.remember(outcome.described, NOW);
        kept.series.into_iter().map(|series| series.metric_description).collect::<Vec<_>>()
    };
    assert_eq!(described(bare.clone()), [""]);
    assert_eq!(described(metric("m", gauge(vec![point(1.0)]))), ["d"]);
    assert!(described(bare).is_empty());
}

#[test]
fn labels_are_written_once_until_they_are_due_again() {
    let seen = Seen::new();
    let message = || metrics(vec![metric("m", gauge(vec![point(1.0), point(2.0)]))]);
    let convert_at = |now: u32| {
        let mut kept = Kept::default();
        let delivery = Delivery { ingested_at: now, ..delivery() };
        let outcome = convert(message(), &delivery, &seen, &mut kept).unwrap();
        (kept.series.len(), outcome.described)
    };
    let (written, described) = convert_at(NOW);
    assert_eq!(written, 1, "once for both points");
    assert_eq!(convert_at(NOW).0, 1, "nobody said yet that they are safe");
    seen.remember(described, NOW);
    assert_eq!(convert_at(NOW + 3600).0, 0);
    assert_eq!(convert_at(NOW + 24 * 3600).0, 1);
}

#[test]
fn a_series_is_told_from_every_other_and_not_from_itself() {
    let hash = |change: fn(&mut ResourceMetrics)| {
        let Message::Metrics(mut request) = metrics(vec![metric("m", gauge(vec![point(1.0)]))]) else {
            panic!("metrics")
        };
        change(&mut request.resource_metrics[0]);
        rows(Message::Metrics(request)).0.metrics[0].series_hash
    };
    let same = hash(|_| {});
    assert_eq!(same, hash(|r| r.resource.as_mut().unwrap().attributes.reverse()), "order does not count");
    let changes: [fn(&mut ResourceMetrics); 5] = [
        |r| r.resource.as_mut().unwrap().attributes.push(text("x", "y")),
        |r| r.scope_metrics[0].scope.as_mut().unwrap().version = "3".into(),
        |r| r.scope_metrics[0].metrics[0].name = "n".into(),
        |r| r.scope_metrics[0].metrics[0].unit = "s".into(),
        |r| {
            r.scope_metrics[0].metrics[0].data = Some(gauge(vec![NumberDataPoint { attributes: vec![], ..point(1.0) }]))
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert_ne!(same, hash(change), "change {index}");
    }
}

#[test]
fn rows_are_counted_against_the_budget_and_given_back() {
    let budget = Budget::new(1 << 20);
    let long = "x".repeat(300_000);
    let message = |records: usize| {
        let body = || Some(AnyValue { value: Some(Value::StringValue(long.clone())) });
        logs((0..records).map(|_| LogRecord { body: body(), ..LogRecord::default() }).collect())
    };
    let run = |records| {
        let mut sink = Sink::new(budget.clone());
        convert(message(records), &delivery(), &Seen::new(), &mut sink)?;
        sink.finish()
    };
    let first = run(2).unwrap();
    assert_eq!((first.len(), first[0].columns.rows(), first[0].columns.bytes()), (1, 2, budget.used()));
    assert!(matches!(run(2), Err(Overflow::Now)), "others hold it");
    drop(first);
    assert_eq!(budget.used(), 0);
    assert!(matches!(run(4), Err(Overflow::Ever { .. })), "more than there is");
    assert_eq!(budget.used(), 0);
}

#[test]
fn tables_name_every_column_once_in_the_order_of_the_rows() {
    let [metrics, series, logs, spans] = tables();
    assert_eq!(
        [metrics.name, series.name, logs.name, spans.name],
        ["metrics_raw", "metrics_series", "logs_raw", "traces_raw"]
    );
    assert!(logs.columns.starts_with("`TenantId`,`Timestamp`,`ObservedTimestamp`,"), "{}", logs.columns);
    assert!(metrics.columns.contains("`Exemplars.FilteredAttributes`,`Exemplars.TimeUnix`"), "{}", metrics.columns);
    assert!(spans.columns.contains("`Events.Timestamp`,`Events.Name`,`Events.Attributes`"), "{}", spans.columns);
    assert!(series.columns.ends_with("`LastSeen`,`ExpiresAt`"), "{}", series.columns);
}
