//! What ClickStack (HyperDX) and Grafana's ClickHouse data source in OTel mode ask, asked of the views that bear the exporter's names.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use clickhouse::Client;
use ollystack_schema::rows::{LogRow, MetricRow, MetricType, SeriesRow, Temporality};
use support::Store;
use support::rows::{all, attributes, insert, metric, minute, now, span};

fn series(name: &str, metric_type: MetricType) -> SeriesRow {
    SeriesRow {
        tenant_id: "t".into(),
        metric_name: name.into(),
        series_hash: 1,
        metric_type,
        attributes: attributes(&[("cpu.mode", "user")]),
        last_seen: now(),
        expires_at: now() + 86_400 * 30,
        ..SeriesRow::default()
    }
}

/// A database with some of everything, from two minutes ago to one.
async fn filled(store: &Store, database: &str) -> Client {
    let client = store.with_schema(database).await;
    let labels = [
        series("gauge", MetricType::Gauge),
        series("sum", MetricType::Sum),
        series("histogram", MetricType::Histogram),
    ];
    insert(&client, "series", &labels).await;
    let point = |name: &str, metric_type, value: f64, ago| MetricRow {
        metric_name: name.into(),
        series_hash: 1,
        metric_type,
        aggregation_temporality: Temporality::Delta,
        is_monotonic: metric_type == MetricType::Sum,
        value,
        time_unix: minute(ago),
        ..metric()
    };
    let histogram = |counts: [u64; 3], ago| MetricRow {
        count: counts.iter().sum(),
        explicit_bounds: vec![1.0, 10.0],
        bucket_counts: counts.to_vec(),
        ..point("histogram", MetricType::Histogram, 0.0, ago)
    };
    let points = [
        point("gauge", MetricType::Gauge, 1.0, 2),
        point("gauge", MetricType::Gauge, 3.0, 1),
        point("sum", MetricType::Sum, 5.0, 2),
        point("sum", MetricType::Sum, 7.0, 1),
        histogram([1, 2, 3], 2),
        histogram([10, 20, 30], 1),
    ];
    insert(&client, "points", &points).await;
    let log = LogRow {
        tenant_id: "t".into(),
        timestamp: minute(1) + 7,
        severity_text: "ERROR".into(),
        severity_number: 17,
        service_name: "shop".into(),
        body: "Cannot open /x".into(),
        trace_id: span().trace_id,
        span_id: span().span_id,
        log_attributes: attributes(&[("k", "v")]),
        ingested_at: now(),
        expires_at: now() + 86_400,
        ..LogRow::default()
    };
    insert(&client, "logs", &[log]).await;
    insert(&client, "spans", &[span()]).await;
    client
}

#[tokio::test]
async fn clickstacks_charts_of_gauges_sums_and_histograms_are_drawn() {
    let store = Store::get();
    let client = filled(&store, "clickstack").await;
    let rest = "any(ScopeAttributes) AS ScopeAttributes, any(ResourceAttributes) AS ResourceAttributes, any(Attributes) AS Attributes, \
                any(ResourceSchemaUrl) AS ResourceSchemaUrl, any(ScopeName) AS ScopeName, any(ScopeVersion) AS ScopeVersion, \
                any(ScopeDroppedAttrCount) AS ScopeDroppedAttrCount, any(ScopeSchemaUrl) AS ScopeSchemaUrl, any(ServiceName) AS ServiceName, \
                any(MetricDescription) AS MetricDescription, any(MetricUnit) AS MetricUnit, any(StartTimeUnix) AS StartTimeUnix, any(Flags) AS Flags";
    let when = "TimeUnix >= now() - INTERVAL 1 HOUR AND TimeUnix <= now()";
    let hash = "cityHash64(ScopeAttributes, ResourceAttributes, Attributes) AS AttributesHash";

    let gauge = format!(
        "WITH Source AS (SELECT *, {hash} FROM otel_metrics_gauge WHERE ({when}) AND ((MetricName = 'gauge'))), \
         Bucketed AS (SELECT toStartOfInterval(toDateTime(TimeUnix), INTERVAL 1 hour) AS `__hdx_time_bucket2`, AttributesHash, \
         last_value(Value) AS LastValue, {rest} FROM Source GROUP BY AttributesHash, __hdx_time_bucket2 ORDER BY AttributesHash, __hdx_time_bucket2) \
         SELECT quantile(0.95)(toFloat64OrDefault(toString(LastValue))), any(Attributes['cpu.mode']) FROM Bucketed \
         WHERE (__hdx_time_bucket2 >= now() - INTERVAL 1 DAY AND __hdx_time_bucket2 <= now())"
    );
    let answer = all::<(f64, String)>(&client, &gauge).await;
    assert_eq!(answer[0].1, "user");
    // The last of each hour, and one may have ended between the two.
    assert!((1.0..=3.0).contains(&answer[0].0), "{answer:?}");

    let sum = format!(
        "WITH Source AS (SELECT *, {hash}, \
         IF(AggregationTemporality = 1, Value, \
         greatest(Value - lagInFrame(toNullable(Value), 1, NULL) OVER (PARTITION BY AttributesHash ORDER BY TimeUnix), 0)) AS Rate, \
         IF(AggregationTemporality = 1, SUM(Value) OVER (PARTITION BY AttributesHash ORDER BY TimeUnix ROWS BETWEEN UNBOUNDED PRECEDING \
         AND CURRENT ROW), Value) AS Sum FROM otel_metrics_sum WHERE ({when}) AND ((MetricName = 'sum'))), \
         Bucketed AS (SELECT toStartOfInterval(toDateTime(TimeUnix), INTERVAL 1 day) AS `__hdx_time_bucket2`, AttributesHash, sum(Rate) AS Value, \
         max(Sum) AS Course, {rest}, any(AggregationTemporality) AS AggregationTemporality, any(IsMonotonic) AS IsMonotonic \
         FROM Source GROUP BY AttributesHash, `__hdx_time_bucket2`) SELECT sum(toFloat64OrDefault(toString(Value))), max(Course) FROM Bucketed"
    );
    assert_eq!(all::<(f64, f64)>(&client, &sum).await, [(12.0, 12.0)]);

    let histogram = format!(
        "WITH source AS (SELECT TimeUnix, AggregationTemporality, {hash}, BucketCounts AS counts, ExplicitBounds AS bounds, \
         if(AggregationTemporality = 1, counts, counts) AS rates FROM otel_metrics_histogram WHERE ({when}) AND ((MetricName = 'histogram'))) \
         SELECT toStartOfInterval(toDateTime(TimeUnix), INTERVAL 1 day) AS bucket, sumForEach(rates)[1] AS low, sumForEach(rates)[3] AS high \
         FROM source GROUP BY bucket, bounds"
    );
    let histogram = format!("SELECT sum(low), sum(high) FROM ({histogram})");
    assert_eq!(all::<(u64, u64)>(&client, &histogram).await, [(11, 33)]);
}

#[tokio::test]
async fn clickstacks_search_finds_lines_and_spans() {
    let store = Store::get();
    let client = filled(&store, "clickstack_search").await;
    let lines = "SELECT Timestamp, ServiceName, SeverityText, Body, TimestampTime FROM otel_logs \
                 WHERE (TimestampTime >= now() - INTERVAL 1 HOUR AND TimestampTime <= now()) AND ((hasToken(lower(Body), lower('cannot')))) \
                 ORDER BY TimestampTime DESC LIMIT 200";
    assert_eq!(all::<String>(&client, &format!("SELECT Body FROM ({lines})")).await, ["Cannot open /x"]);
    let by_attribute =
        "SELECT Body FROM otel_logs WHERE LogAttributes['k'] = 'v' AND SeverityText = 'ERROR' AND ServiceName = 'shop'";
    assert_eq!(all::<String>(&client, by_attribute).await, ["Cannot open /x"]);
    let fields = "SELECT DISTINCT arrayJoin(mapKeys(LogAttributes)) AS field FROM otel_logs LIMIT 1000";
    assert_eq!(all::<String>(&client, fields).await, ["k"]);
    let waterfall = "SELECT Body, Timestamp, Duration, SpanId, ParentSpanId, StatusCode, ServiceName FROM \
                     (SELECT SpanName AS Body, Timestamp, Duration / 1e9 AS Duration, SpanId, ParentSpanId, StatusCode, ServiceName FROM otel_traces \
                     WHERE TraceId = '0af7651916cd43dd8448eb211c80319c' AND Timestamp >= now() - INTERVAL 1 HOUR ORDER BY Timestamp LIMIT 50000)";
    assert_eq!(
        all::<(String, f64)>(&client, &format!("SELECT Body, Duration FROM ({waterfall})")).await,
        [("GET /".into(), 0.1)]
    );
}

#[tokio::test]
async fn grafana_opens_a_trace_by_its_id_and_lists_traces_and_lines() {
    let store = Store::get();
    let client = filled(&store, "grafana").await;
    let trace = "WITH '0af7651916cd43dd8448eb211c80319c' AS trace_id, \
                 (SELECT min(Start) FROM otel_traces_trace_id_ts WHERE TraceId = trace_id) AS trace_start, \
                 (SELECT max(End) + 1 FROM otel_traces_trace_id_ts WHERE TraceId = trace_id) AS trace_end \
                 SELECT TraceId AS traceID, SpanId AS spanID, ParentSpanId AS parentSpanID, ServiceName AS serviceName, SpanName AS operationName, \
                 multiply(toUnixTimestamp64Nano(Timestamp), 0.000001) AS startTime, multiply(Duration, 0.000001) AS duration, \
                 arrayMap(key -> map('key', key, 'value', SpanAttributes[key]), mapKeys(SpanAttributes)) AS tags, \
                 arrayMap(key -> map('key', key, 'value', ResourceAttributes[key]), mapKeys(ResourceAttributes)) AS serviceTags, \
                 if(StatusCode IN ('Error', 'STATUS_CODE_ERROR'), 2, 0) AS statusCode, \
                 arrayMap((name, timestamp, attributes) -> tuple(name, toString(toUnixTimestamp64Milli(timestamp)), \
                 arrayMap(key -> map('key', key, 'value', attributes[key]), mapKeys(attributes))), \
                 Events.Name, Events.Timestamp, Events.Attributes) AS logs, \
                 arrayMap((id, span, attributes) -> tuple(id, span, arrayMap(key -> map('key', key, 'value', attributes[key]), mapKeys(attributes))), \
                 Links.TraceId, Links.SpanId, Links.Attributes) AS references, SpanKind AS kind, StatusMessage AS statusMessage, TraceState AS traceState \
                 FROM otel_traces WHERE traceID = trace_id AND Timestamp >= trace_start AND Timestamp <= trace_end LIMIT 1000";
    let found = format!("SELECT spanID, operationName, duration, length(tags), serviceTags[1]['value'] FROM ({trace})");
    let expected = (span().span_id, "GET /".to_owned(), 100.0, 2, "h".to_owned());
    assert_eq!(all::<(String, String, f64, u64, String)>(&client, &found).await, [expected]);

    let traces = "SELECT TraceId AS traceID, ServiceName AS serviceName, SpanName AS operationName, Timestamp AS startTime, \
                  multiply(Duration, 0.000001) AS duration FROM otel_traces WHERE (Timestamp >= now() - INTERVAL 1 HOUR AND Timestamp <= now()) \
                  AND (ParentSpanId = '') AND (Duration > 0) ORDER BY Timestamp DESC, Duration DESC LIMIT 1000";
    assert_eq!(all::<String>(&client, &format!("SELECT operationName FROM ({traces})")).await, ["GET /"]);

    let lines = "SELECT Timestamp AS timestamp, Body AS body, SeverityText AS level, LogAttributes AS labels, TraceId AS traceID FROM otel_logs \
                 WHERE (timestamp >= now() - INTERVAL 1 HOUR AND timestamp <= now()) AND (TraceId = '0af7651916cd43dd8448eb211c80319c') \
                 ORDER BY timestamp DESC LIMIT 1000";
    assert_eq!(all::<String>(&client, &format!("SELECT body FROM ({lines})")).await, ["Cannot open /x"]);
}

#[tokio::test]
async fn lookups_by_trace_and_word_through_the_exporters_names_use_the_indexes() {
    let store = Store::get();
    let client = filled(&store, "tools_indexes").await;
    for (sql, index) in [
        ("SELECT SpanId FROM otel_traces WHERE TraceId = '0af7651916cd43dd8448eb211c80319c'", "idx_trace_id"),
        (
            "SELECT Start FROM otel_traces_trace_id_ts WHERE TraceId = '0af7651916cd43dd8448eb211c80319c'",
            "idx_trace_id",
        ),
        ("SELECT Body FROM otel_logs WHERE hasToken(Body, 'open')", "idx_body_words"),
        ("SELECT Body FROM otel_logs WHERE TraceId = '0af7651916cd43dd8448eb211c80319c'", "idx_trace_id"),
    ] {
        let plan = all::<String>(&client, &format!("EXPLAIN indexes = 1 {sql}")).await.join("\n");
        assert!(plan.contains(index), "{sql}:\n{plan}");
    }
}
