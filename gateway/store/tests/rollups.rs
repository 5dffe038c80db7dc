//! Metrics by five minutes and by the hour on the real engine: exact where they say so, quantiles within a hundredth, each kept its time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use ollystack_schema::names::HISTOGRAM_SCALE;
use ollystack_schema::rows::{MetricRow, MetricType, Temporality};
use support::Store;
use support::rows::{all, insert, metric, now, red};

const SECOND: i64 = 1_000_000_000;

/// The start of an hour that is over, in seconds.
fn hour() -> i64 {
    i64::from(now() / 3_600 - 3) * 3_600
}

/// A point of an agent's over so many seconds from a second of the hour on.
fn point(of: MetricRow, from: i64, seconds: i64) -> MetricRow {
    let start = (hour() + from) * SECOND;
    MetricRow { start_time_unix: start, time_unix: start + seconds * SECOND, agent_id: "a".into(), ..of }
}

/// A gauge that stood still.
fn still(value: f64, count: u64) -> MetricRow {
    let all = Some(value);
    MetricRow { value, count, sum: Some(value * count as f64), min: all, max: all, ..metric() }
}

fn counter(value: f64, temporality: Temporality) -> MetricRow {
    MetricRow {
        metric_name: "requests".into(),
        metric_type: MetricType::Sum,
        aggregation_temporality: temporality,
        is_monotonic: true,
        value,
        count: 1,
        sum: Some(value),
        min: None,
        ..metric()
    }
}

/// Values over four powers of ten, most of them small, equal each time.
fn durations(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..count).map(|_| 1e-4 * 10_f64.powf(4.0 * uniform() * uniform())).collect()
}

fn histogram(values: &[f64]) -> MetricRow {
    let index = |value: f64| (value.log2() * f64::from(1 << HISTOGRAM_SCALE)).ceil() as i32 - 1;
    let offset = values.iter().map(|value| index(*value)).min().unwrap();
    let last = values.iter().map(|value| index(*value)).max().unwrap();
    let mut counts = vec![0; (last - offset + 1) as usize];
    for value in values {
        counts[(index(*value) - offset) as usize] += 1;
    }
    MetricRow {
        sum: Some(values.iter().sum()),
        min: values.iter().copied().reduce(f64::min),
        max: values.iter().copied().reduce(f64::max),
        positive_offset: offset,
        positive_bucket_counts: counts,
        ..red("ok", values.len() as u64, "a")
    }
}

/// How far the worst of three quantiles is off, as a part of its value.
fn off(mut values: Vec<f64>, quantiles: [f64; 3]) -> f64 {
    values.sort_by(f64::total_cmp);
    let exact = |part: f64| values[(part * values.len() as f64).ceil() as usize - 1];
    let parts = [0.5, 0.95, 0.99].map(exact);
    parts.iter().zip(quantiles).map(|(exact, found)| (found / exact - 1.0).abs()).fold(0.0, f64::max)
}

#[tokio::test]
async fn quantiles_of_merged_histograms_are_within_a_hundredth_and_all_else_is_exact() {
    let store = Store::get();
    let client = store.with_schema("quantiles").await;
    let minutes: Vec<Vec<f64>> = (0..60).map(|minute| durations(minute, 400)).collect();
    for (minute, values) in minutes.iter().enumerate() {
        insert(&client, &format!("{minute}"), &[point(histogram(values), minute as i64 * 60, 60)]).await;
    }
    let read = |table: &str| {
        format!("SELECT toInt64(toUnixTimestamp(Time)), Count, Sum, Min, Max, P50, P95, P99 FROM {table} ORDER BY Time")
    };
    for (table, minutes_each) in [("metrics_5m", 5), ("metrics_1h", 60)] {
        type Read = (i64, u64, f64, Option<f64>, Option<f64>, Option<f64>, Option<f64>, Option<f64>);
        let rows = all::<Read>(&client, &read(table)).await;
        assert_eq!(rows.len(), 60 / minutes_each, "{table}");
        for (at, (row, values)) in rows.into_iter().zip(minutes.chunks(minutes_each)).enumerate() {
            let values = values.concat();
            assert_eq!(row.0, hour() + (at * minutes_each * 60) as i64, "{table}");
            assert_eq!(row.1, values.len() as u64);
            assert!((row.2 / values.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{row:?}");
            assert_eq!(row.3, values.iter().copied().reduce(f64::min));
            assert_eq!(row.4, values.iter().copied().reduce(f64::max));
            let off = off(values, [row.5, row.6, row.7].map(Option::unwrap));
            assert!(off < 0.01, "{table}: off by {off}: {row:?}");
        }
    }
}

#[tokio::test]
async fn a_block_that_is_sent_again_counts_once_by_five_minutes_and_by_the_hour() {
    let store = Store::get();
    let client = store.with_schema("rollups_once").await;
    for token in ["first", "second", "first", "second"] {
        insert(&client, token, &[point(still(2.0, 60), 0, 60), point(histogram(&[0.1, 0.2]), 0, 60)]).await;
    }
    for table in ["metrics_5m", "metrics_1h"] {
        let sums = format!("SELECT sum(Count), sum(Sum) FROM {table}");
        let sums = all::<(u64, f64)>(&client, &sums).await;
        assert_eq!(sums[0].0, 124, "{table}");
        assert!((sums[0].1 - 240.6).abs() < 1e-9, "{table}: {sums:?}");
    }
}

#[tokio::test]
async fn what_stood_still_is_in_every_span_that_it_covers_and_all_else_where_its_time_begins() {
    let store = Store::get();
    let client = store.with_schema("rollups_spans").await;
    let bounds = |counts: Vec<u64>| MetricRow {
        metric_name: "sizes".into(),
        metric_type: MetricType::Histogram,
        aggregation_temporality: Temporality::Delta,
        count: counts.iter().sum(),
        value: 0.0,
        sum: Some(1.0),
        min: Some(0.5),
        max: Some(90.0),
        explicit_bounds: vec![1.0, 10.0],
        bucket_counts: counts,
        ..metric()
    };
    // Began with its process, long before it was measured, and came without an agent.
    let plain =
        MetricRow { metric_name: "plain".into(), agent_id: String::new(), ..point(still(3.0, 1), -7_000, 8_000) };
    let rows = [
        point(still(5.0, 840), 120, 840),
        MetricRow { min: Some(1.0), max: Some(9.0), ..point(still(5.0, 60), 960, 60) },
        point(counter(100.0, Temporality::Delta), 60, 600),
        MetricRow { series_hash: 7, ..point(counter(700.0, Temporality::Cumulative), -86_400, 86_400 + 30) },
        MetricRow { series_hash: 7, ..point(counter(900.0, Temporality::Cumulative), -86_400, 86_400 + 90) },
        point(bounds(vec![1, 0, 2]), 0, 60),
        point(bounds(vec![4, 0, 8]), 60, 60),
        plain,
        // Nothing was measured.
        MetricRow { flags: 1, count: 0, sum: None, min: None, ..point(still(0.0, 0), 1_200, 60) },
    ];
    insert(&client, "rows", &rows).await;
    let found = format!(
        "SELECT MetricName, SeriesHash = 7, toInt64(toUnixTimestamp(Time)) - {}, Count, Sum, Min, Max, Last, toString(Positive) \
         FROM metrics_5m ORDER BY ALL",
        hour()
    );
    type Found = (String, bool, i64, u64, f64, Option<f64>, Option<f64>, f64, String);
    let found = all::<Found>(&client, &found).await;
    let row = |name: &str, of_seven, time, count, sum, extremes: Option<(f64, f64)>, last, buckets: &str| {
        let (min, max) = (extremes.map(|of| of.0), extremes.map(|of| of.1));
        (name.to_owned(), of_seven, time, count, sum, min, max, last, buckets.to_owned())
    };
    let gauge =
        |time, count| row("system.cpu.time", false, time, count, 5.0 * count as f64, Some((5.0, 5.0)), 5.0, "{}");
    let increase = |time, count, sum| row("requests", false, time, count, sum, Some((100.0, 100.0)), 100.0, "{}");
    let expected = [
        row("plain", false, 900, 1, 3.0, Some((3.0, 3.0)), 3.0, "{}"),
        increase(0, 0, 40.0),
        increase(300, 0, 50.0),
        increase(600, 1, 10.0),
        row("requests", true, 0, 2, 1_600.0, Some((700.0, 900.0)), 900.0, "{}"),
        row("sizes", false, 0, 15, 2.0, Some((0.5, 90.0)), 0.0, "{1:5,3:10}"),
        gauge(0, 180),
        gauge(300, 300),
        gauge(600, 300),
        row("system.cpu.time", false, 900, 120, 600.0, Some((1.0, 9.0)), 5.0, "{}"),
    ];
    let shown = |rows: &[Found]| rows.iter().map(|row| format!("{row:?}\n")).collect::<String>();
    assert_eq!(shown(&found), shown(&expected));
    let hours = "SELECT MetricName, sum(Count), sum(Sum) FROM metrics_1h GROUP BY MetricName ORDER BY MetricName";
    let expected = [("plain", 1, 3.0), ("requests", 3, 1_700.0), ("sizes", 15, 2.0), ("system.cpu.time", 900, 4_500.0)];
    let expected = expected.map(|(name, count, sum)| (name.to_owned(), count, sum));
    assert_eq!(all::<(String, u64, f64)>(&client, hours).await, expected);
}

#[tokio::test]
async fn each_rollup_leaves_when_its_own_time_is_over_and_hours_are_kept_longest() {
    let store = Store::get();
    let client = store.with_schema("rollups_leave").await;
    // A day's retention, by how many days ago they came.
    for (days_ago, count) in [(0, 1), (2, 10), (12, 100), (100, 1_000)] {
        let ingested_at = now() - days_ago * 86_400;
        let row = MetricRow { ingested_at, expires_at: ingested_at + 86_400, ..point(still(1.0, count), 0, 60) };
        insert(&client, &format!("{days_ago}"), &[row]).await;
    }
    for (table, kept) in [("metrics_raw", 1), ("metrics_5m_data", 11), ("metrics_1h_data", 111)] {
        client.query(&format!("OPTIMIZE TABLE {table} FINAL")).execute().await.unwrap();
        let left = format!("SELECT sum(Count) FROM {table}");
        let left = all::<u64>(&client, &left).await;
        assert_eq!(left, [kept], "{table}");
    }
}
