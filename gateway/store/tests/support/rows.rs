//! Rows as the gateway writes them, and the ways in and out.

use clickhouse::{Client, Row, RowOwned, RowRead, RowWrite};
use ollystack_schema::names::{HISTOGRAM_SCALE, SPAN_DURATION};
use ollystack_schema::rows::{MetricRow, MetricType, SpanRow, Table, Temporality};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32
}

/// The start of the last whole minute but `ago`, in nanoseconds.
pub(crate) fn minute(ago: u32) -> i64 {
    i64::from((now() / 60 - ago) * 60) * 1_000_000_000
}

pub(crate) fn attributes(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

pub(crate) async fn insert<T>(client: &Client, token: &str, rows: &[T])
where
    T: Table + RowWrite + for<'a> Row<Value<'a> = T>,
{
    let mut insert = client.insert::<T>(<T as Table>::NAME).await.unwrap();
    insert = insert
        .with_setting("insert_deduplication_token", token)
        .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1");
    for row in rows {
        insert.write(row).await.unwrap();
    }
    insert.end().await.unwrap();
}

pub(crate) async fn all<T: RowOwned + RowRead>(client: &Client, sql: &str) -> Vec<T> {
    client.query(sql).fetch_all::<T>().await.unwrap()
}

pub(crate) fn metric() -> MetricRow {
    MetricRow {
        tenant_id: "t".into(),
        metric_name: "system.cpu.time".into(),
        series_hash: u64::MAX - 1,
        service_name: "shop".into(),
        start_time_unix: minute(2),
        time_unix: minute(1) + 123_456_789,
        metric_type: MetricType::Gauge,
        value: 1.5,
        count: 60,
        sum: Some(90.0),
        min: Some(-1.0),
        max: None,
        ingested_at: now(),
        expires_at: now() + 86_400 * 30,
        ..MetricRow::default()
    }
}

pub(crate) fn red(status: &str, count: u64, agent: &str) -> MetricRow {
    MetricRow {
        metric_name: SPAN_DURATION.into(),
        metric_type: MetricType::ExponentialHistogram,
        aggregation_temporality: Temporality::Delta,
        scale: HISTOGRAM_SCALE,
        count,
        sum: Some(0.1 * count as f64),
        min: Some(0.1),
        max: Some(0.1),
        // 0.1 s: ceil(log2(0.1) * 64) - 1.
        positive_offset: -213,
        positive_bucket_counts: vec![count],
        span_name: "GET /".into(),
        span_kind: "server".into(),
        status_code: status.into(),
        agent_id: agent.into(),
        batch_sequence: 7,
        ..metric()
    }
}

pub(crate) fn span() -> SpanRow {
    SpanRow {
        tenant_id: "t".into(),
        timestamp: minute(1) + 5,
        trace_id: "0af7651916cd43dd8448eb211c80319c".into(),
        span_id: "b7ad6b7169203331".into(),
        span_name: "GET /".into(),
        span_kind: "Server".into(),
        service_name: "shop".into(),
        resource_attributes: Arc::new(attributes(&[("host.name", "h"), ("service.name", "shop")])),
        span_attributes: attributes(&[("http.route", "/"), ("x", "'\\\n\u{0}ü")]),
        duration: 100_000_000,
        status_code: "Unset".into(),
        sample_weight: 1.0,
        ingested_at: now(),
        expires_at: now() + 86_400 * 30,
        ..SpanRow::default()
    }
}
