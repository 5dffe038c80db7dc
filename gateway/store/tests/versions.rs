//! From every earlier version to this one on the real engine: what was stored then is there, and what is stored from then on counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use clickhouse::Client;
use ollystack_schema::migrations::{MIGRATIONS, Placement};
use ollystack_schema::rows::{LogRow, MetricRow, MetricType, SeriesRow, SpanRow};
use std::time::{Duration, Instant};
use support::Store;
use support::rows::{all, attributes, insert, metric, minute, now, red, span};

/// What a gateway of one version stores, told apart by it.
struct Rows {
    series: SeriesRow,
    metrics: [MetricRow; 2],
    log: LogRow,
    span: SpanRow,
}

/// The version with which a table, and the view of requests, came.
const METRICS: u32 = 1;
const LOGS: u32 = 2;
const TRACES: u32 = 3;
const RED: u32 = 5;

impl Rows {
    fn of(version: u32) -> Self {
        let series = SeriesRow {
            tenant_id: "t".into(),
            metric_name: metric().metric_name,
            series_hash: version.into(),
            metric_type: MetricType::Gauge,
            attributes: attributes(&[("version", &version.to_string())]),
            last_seen: now(),
            expires_at: now() + 86_400 * 30,
            ..SeriesRow::default()
        };
        let gauge = MetricRow { series_hash: version.into(), ..metric() };
        let requests = MetricRow { series_hash: version.into(), ..red("ok", 5, "a") };
        let log = LogRow {
            tenant_id: "t".into(),
            timestamp: minute(1) + i64::from(version),
            severity_number: 17,
            body: format!("version {version} cannot open /x"),
            line_count: 3,
            agent_id: "a".into(),
            batch_sequence: version.into(),
            ingested_at: now(),
            expires_at: now() + 86_400 * 30,
            ..LogRow::default()
        };
        let span = SpanRow { timestamp: minute(1) + i64::from(version), agent_id: "a".into(), ..span() };
        Self { series, metrics: [gauge, requests], log, span }
    }
}

/// What a migration sets to work goes on behind it.
async fn rewritten(client: &Client) {
    let start = Instant::now();
    let open = "SELECT concat(command, ' ', latest_fail_reason) FROM system.mutations WHERE database = 'versions' AND NOT is_done";
    loop {
        let open = all::<String>(client, open).await;
        if open.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{open:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A database goes through all versions, and a gateway of each stores what it takes: what the first stored has then been through every
/// migration, what the last stored through none.
#[tokio::test]
async fn what_any_earlier_version_stored_is_kept_whole_and_found() {
    let store = Store::get();
    let client = store.client("versions").await;
    let mut stored = Vec::new();
    for migration in MIGRATIONS {
        for statement in migration.statements(&Placement::SingleNode).unwrap() {
            let done = client.query(&statement).execute().await;
            done.unwrap_or_else(|error| panic!("{}: {error}\n{statement}", migration.name));
        }
        let rows = Rows::of(migration.number);
        if migration.number >= METRICS {
            insert(&client, &format!("series-{}", migration.number), std::slice::from_ref(&rows.series)).await;
            insert(&client, &format!("metrics-{}", migration.number), &rows.metrics).await;
        }
        if migration.number >= LOGS {
            insert(&client, &format!("logs-{}", migration.number), std::slice::from_ref(&rows.log)).await;
        }
        if migration.number >= TRACES {
            insert(&client, &format!("spans-{}", migration.number), std::slice::from_ref(&rows.span)).await;
        }
        stored.push((migration.number, rows));
    }
    rewritten(&client).await;
    let since = |version| stored.iter().filter(move |(of, _)| *of >= version).map(|(_, rows)| rows);

    for (metric, column) in [(0, "system.cpu.time"), (1, "ollystack.span.duration")] {
        let found = format!("SELECT ?fields FROM metrics_raw WHERE MetricName = '{column}' ORDER BY SeriesHash");
        let expected: Vec<MetricRow> = since(METRICS).map(|rows| rows.metrics[metric].clone()).collect();
        assert_eq!(all::<MetricRow>(&client, &found).await, expected);
    }
    let expected: Vec<LogRow> = since(LOGS).map(|rows| rows.log.clone()).collect();
    for condition in ["1", "hasToken(Body, 'open')"] {
        let found = format!("SELECT ?fields FROM logs_raw WHERE {condition} ORDER BY Timestamp");
        assert_eq!(all::<LogRow>(&client, &found).await, expected, "where {condition}");
    }
    let expected: Vec<SpanRow> = since(TRACES).map(|rows| rows.span.clone()).collect();
    let found = "SELECT ?fields FROM traces_raw ORDER BY Timestamp";
    assert_eq!(all::<SpanRow>(&client, found).await, expected);

    let expected: Vec<String> = stored.iter().map(|(version, _)| version.to_string()).collect();
    let labels = "SELECT Attributes['version'] FROM otel_metrics_gauge ORDER BY SeriesHash";
    assert_eq!(all::<String>(&client, labels).await, expected);
    let requests = "SELECT sum(Requests) FROM service_metrics_1m";
    assert_eq!(all::<f64>(&client, requests).await, [5.0 * since(RED).count() as f64]);
}
