//! The schema on the real engine: migrations, the gateway's typed rows, and what the views make of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use clickhouse::{Client, Row};
use ollystack_schema::columns::Columns;
use ollystack_schema::migrations::{MIGRATIONS, Placement};
use ollystack_schema::names::{
    AGENT_LEDGER, EDGE_CONNECTIONS, EDGE_DURATION, EDGE_SENT, ENDPOINT, LOG_LAST, LOG_PATTERN_ID, key,
};
use ollystack_schema::rows::{LogRow, MetricRow, MetricType, SeriesRow, SpanRow, Table};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use support::rows::{all, attributes, insert, metric, minute, now, red, span};
use support::{Store, post};

#[tokio::test]
async fn every_migration_applies_and_applies_again() {
    let store = Store::get();
    let client = store.with_schema("twice").await;
    let tables = "SELECT name FROM system.tables WHERE database = 'twice' AND name NOT LIKE '.%' ORDER BY name";
    let first = all::<String>(&client, tables).await;
    store.with_schema("twice").await;
    assert_eq!(all::<String>(&client, tables).await, first);
    for name in [
        "metrics_raw",
        "metrics_series",
        "logs_raw",
        "traces_raw",
        "ingested_batches",
        "service_metrics_1m",
        "error_aggregates",
        "service_topology",
        "metric_anomalies",
        "log_patterns",
        "otel_logs",
        "otel_traces",
        "otel_metrics_gauge",
    ] {
        assert!(first.iter().any(|table| table == name), "{name} is missing");
    }
    assert!(MIGRATIONS.iter().all(|migration| migration.statements(&Placement::SingleNode).is_ok()));
}

#[tokio::test]
async fn every_statement_for_a_cluster_is_one_that_clickhouse_reads() {
    let store = Store::get();
    let client = store.client("cluster_statements").await;
    let cluster = Placement::Cluster { name: "a-b.c".to_owned(), database: "ollystack".to_owned() };
    let statements = MIGRATIONS.iter().flat_map(|migration| migration.statements(&cluster).unwrap());
    for statement in statements.chain([cluster.record_table()]) {
        let read = client.query(&format!("EXPLAIN AST {statement}")).fetch_all::<String>().await;
        let read = read.unwrap_or_else(|error| panic!("{error}\n{statement}"));
        assert!(!read.is_empty(), "{statement}");
    }
}

#[tokio::test]
async fn the_gateways_rows_come_back_as_they_went_in() {
    let store = Store::get();
    let client = store.with_schema("rows").await;
    let metrics = vec![
        MetricRow {
            explicit_bounds: vec![0.1, 1.0],
            bucket_counts: vec![1, 2, 3],
            scale: -3,
            zero_count: 4,
            zero_threshold: 1e-9,
            positive_bucket_counts: vec![5, 0, u64::MAX],
            negative_offset: -7,
            negative_bucket_counts: vec![8],
            quantiles: vec![0.5, 0.99],
            quantile_values: vec![1.0, 2.0],
            exemplar_attributes: vec![attributes(&[("a", "b")]), vec![]],
            exemplar_times: vec![1, 2],
            exemplar_values: vec![0.5, f64::MAX],
            exemplar_span_ids: vec!["s".into(), String::new()],
            exemplar_trace_ids: vec!["t".into(), String::new()],
            flags: 1,
            is_monotonic: true,
            ..metric()
        },
        MetricRow { series_hash: u64::MAX, ..metric() },
    ];
    let series = vec![SeriesRow {
        tenant_id: "t".into(),
        metric_name: "system.cpu.time".into(),
        series_hash: u64::MAX - 1,
        metric_type: MetricType::Gauge,
        metric_unit: "s".into(),
        resource_attributes: Arc::new(attributes(&[("host.name", "h")])),
        attributes: attributes(&[("cpu.mode", "user")]),
        last_seen: now(),
        expires_at: now() + 86_400,
        ..SeriesRow::default()
    }];
    let logs = vec![LogRow {
        tenant_id: "t".into(),
        timestamp: minute(1),
        observed_timestamp: minute(1) + 1,
        severity_text: "ERROR".into(),
        severity_number: 17,
        body: "cannot open /x: 13".into(),
        line_count: 5,
        log_attributes: attributes(&[("log.file.path", "/x")]),
        ingested_at: now(),
        expires_at: now() + 86_400,
        ..LogRow::default()
    }];
    let spans = vec![SpanRow {
        event_timestamps: vec![1, 2],
        event_names: vec!["a".into(), "b".into()],
        event_attributes: vec![attributes(&[("k", "v")]), vec![]],
        link_trace_ids: vec!["t".into()],
        link_span_ids: vec!["s".into()],
        link_trace_states: vec!["x=y".into()],
        link_attributes: vec![vec![]],
        ..span()
    }];
    insert(&client, "m", &metrics).await;
    insert(&client, "s", &series).await;
    insert(&client, "l", &logs).await;
    insert(&client, "t", &spans).await;
    assert_eq!(all::<MetricRow>(&client, "SELECT ?fields FROM metrics_raw ORDER BY SeriesHash").await, metrics);
    assert_eq!(all::<SeriesRow>(&client, "SELECT ?fields FROM metrics_series").await, series);
    assert_eq!(all::<LogRow>(&client, "SELECT ?fields FROM logs_raw").await, logs);
    assert_eq!(all::<SpanRow>(&client, "SELECT ?fields FROM traces_raw").await, spans);

    let labelled = "SELECT SeriesHash, MetricUnit, Attributes['cpu.mode'] FROM otel_metrics_gauge ORDER BY SeriesHash";
    let labelled = all::<(u64, String, String)>(&client, labelled).await;
    assert_eq!(labelled[0], (u64::MAX - 1, "s".into(), "user".into()));
    assert_eq!(labelled[1], (u64::MAX, String::new(), String::new()));
    let hot = "SELECT HostName FROM traces_raw WHERE has(SpanAttributeItems, 'http.route=/')";
    assert_eq!(all::<String>(&client, hot).await, ["h"]);
    assert_eq!(all::<u64>(&client, "SELECT LineCount FROM otel_logs WHERE hasToken(Body, 'open')").await, [5]);
    for view in
        ["otel_metrics_sum", "otel_metrics_histogram", "otel_metrics_exponential_histogram", "otel_metrics_summary"]
    {
        assert_eq!(all::<u64>(&client, &format!("SELECT count() FROM {view}")).await, [0], "{view}");
    }
    let lookup = "SELECT TraceId, End > Start FROM otel_traces_trace_id_ts";
    assert_eq!(all::<(String, bool)>(&client, lookup).await, [(spans[0].trace_id.clone(), true)]);
}

#[tokio::test]
async fn a_metric_keeps_its_description_although_later_labels_come_without_it() {
    let store = Store::get();
    let client = store.with_schema("descriptions").await;
    let series = |series_hash: u64, description: &str, last_seen: u32| SeriesRow {
        tenant_id: "t".into(),
        metric_name: metric().metric_name,
        series_hash,
        metric_type: MetricType::Gauge,
        metric_unit: "s".into(),
        metric_description: description.into(),
        last_seen,
        expires_at: now() + 86_400,
        ..SeriesRow::default()
    };
    insert(&client, "m", &[MetricRow { series_hash: 1, ..metric() }, MetricRow { series_hash: 2, ..metric() }]).await;
    insert(&client, "first", &[series(1, "CPU seconds", now() - 9)]).await;
    insert(&client, "later", &[series(1, "", now()), series(2, "", now())]).await;
    client.query("OPTIMIZE TABLE metrics_series FINAL").execute().await.unwrap();
    assert_eq!(all::<String>(&client, "SELECT MetricDescription FROM metrics_series").await, ["", ""]);
    let described = "SELECT SeriesHash, MetricDescription, MetricUnit FROM otel_metrics_gauge ORDER BY SeriesHash";
    let expected = [1, 2].map(|series| (series, "CPU seconds".to_owned(), "s".to_owned()));
    assert_eq!(all::<(u64, String, String)>(&client, described).await, expected, "of every series of the metric");
}

#[tokio::test]
async fn the_patterns_of_log_lines_count_folded_and_whole_lines_and_show_what_most_have_in_common() {
    let store = Store::get();
    let client = store.with_schema("patterns").await;
    // Read once: a minute may end while the test runs.
    let began = minute(1);
    let row = |pattern: &str, body: &str, line_count: u64, last: i64| {
        let mut log_attributes = attributes(&[(LOG_PATTERN_ID, pattern)]);
        if line_count > 1 {
            log_attributes.insert(0, (LOG_LAST.into(), last.to_string()));
        }
        LogRow {
            tenant_id: "t".into(),
            timestamp: began + 5,
            service_name: "shop".into(),
            severity_number: 9,
            body: body.into(),
            line_count,
            log_attributes,
            ingested_at: now(),
            expires_at: now() + 86_400,
            ..LogRow::default()
        }
    };
    let last = began + 40_000_000_000;
    let rows = [
        row("00000000000000aa", "order 7 paid", 1, 0),
        row("00000000000000aa", "order <*> paid", 120, last),
        row("00000000000000bb", "ready", 1, 0),
        LogRow { log_attributes: Vec::new(), ..row("", "without a pattern", 1, 0) },
    ];
    insert(&client, "p", &rows[..2]).await;
    insert(&client, "p2", &rows[2..]).await;
    let top = "SELECT PatternId, argMax(Template, Lines), sum(Lines), toUnixTimestamp64Nano(min(FirstSeen)), \
               toUnixTimestamp64Nano(max(LastSeen)) FROM log_patterns WHERE ServiceName = 'shop' AND SeverityNumber = 9 \
               GROUP BY PatternId ORDER BY sum(Lines) DESC";
    let first = began + 5;
    assert_eq!(
        all::<(String, String, u64, i64, i64)>(&client, top).await,
        [
            ("00000000000000aa".into(), "order <*> paid".into(), 121, first, last),
            ("00000000000000bb".into(), "ready".into(), 1, first, first),
        ]
    );
    let by_hour = top.replace("log_patterns", "log_patterns_1h");
    assert_eq!(
        all::<(String, String, u64, i64, i64)>(&client, &by_hour).await,
        all::<(String, String, u64, i64, i64)>(&client, top).await
    );
    let whole = "SELECT Body FROM logs_raw WHERE PatternId = '00000000000000aa' AND LineCount = 1";
    assert_eq!(all::<String>(&client, whole).await, ["order 7 paid"]);
}

#[derive(Debug, PartialEq, Row, Deserialize, Serialize)]
struct Red {
    service: String,
    kind: String,
    requests: f64,
    errors: f64,
    average: f64,
    p50: f64,
    p99: f64,
    max: Option<f64>,
}

const RED: &str = "SELECT ServiceName AS service, SpanKind AS kind, Requests AS requests, Errors AS errors, DurationAvg AS average, \
                   DurationP50 AS p50, DurationP99 AS p99, DurationMax AS max FROM service_metrics_1m ORDER BY service";

#[tokio::test]
async fn red_comes_from_agents_histograms_and_from_spans_without_an_agent_never_twice() {
    let store = Store::get();
    let client = store.with_schema("red").await;
    insert(&client, "m", &[red("ok", 90, "a"), red("error", 10, "a")]).await;
    // Kept by an agent: it is in the histogram already.
    insert(&client, "kept", &[SpanRow { agent_id: "a".into(), ..span() }]).await;
    let direct = |duration, weight, status: &str| SpanRow {
        service_name: "direct".into(),
        duration,
        sample_weight: weight,
        status_code: status.into(),
        ..span()
    };
    let mut spans: Vec<SpanRow> = (0..99).map(|_| direct(200_000_000, 2.0, "Unset")).collect();
    spans.push(direct(3_000_000_000, 2.0, "Error"));
    insert(&client, "direct", &spans).await;
    let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.01;
    let rows = all::<Red>(&client, RED).await;
    let [direct, shop] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((direct.service.as_str(), direct.requests, direct.errors), ("direct", 200.0, 2.0));
    assert!(near(direct.p50, 0.2) && near(direct.p99, 0.2) && direct.max == Some(3.0), "{direct:?}");
    assert!(near(direct.average, (99.0 * 0.2 + 3.0) / 100.0), "{direct:?}");
    assert_eq!(
        (shop.service.as_str(), shop.kind.as_str(), shop.requests, shop.errors),
        ("shop", "Server", 100.0, 10.0)
    );
    assert!(near(shop.p50, 0.1) && near(shop.p99, 0.1), "{shop:?}");
}

#[tokio::test]
async fn a_retried_block_counts_once_in_the_table_and_in_every_view() {
    let store = Store::get();
    let client = store.with_schema("retried").await;
    let failed = SpanRow {
        status_code: "Error".into(),
        span_kind: "Client".into(),
        span_attributes: attributes(&[("server.address", "db"), ("server.port", "5432")]),
        ..span()
    };
    let log = LogRow {
        tenant_id: "t".into(),
        timestamp: minute(1),
        severity_number: 17,
        body: "x".into(),
        line_count: 1,
        log_attributes: attributes(&[(LOG_PATTERN_ID, "p")]),
        agent_id: "a".into(),
        batch_sequence: 9,
        ingested_at: now(),
        expires_at: now() + 86_400,
        ..LogRow::default()
    };
    for _ in 0..2 {
        insert(&client, "spans", std::slice::from_ref(&failed)).await;
        insert(&client, "logs", std::slice::from_ref(&log)).await;
        let called = MetricRow { metric_name: EDGE_DURATION.into(), agent_id: String::new(), count: 1, ..metric() };
        insert(&client, "metrics", &[red("ok", 3, "a"), called]).await;
    }
    let once = "SELECT (SELECT count() FROM traces_raw), (SELECT sum(Requests) FROM service_metrics_1m), \
                (SELECT sum(Errors) FROM error_aggregates), (SELECT sum(Calls) FROM service_topology), \
                (SELECT sum(Rows) FROM ingested_batches), (SELECT count() FROM traces_trace_id_ts), \
                (SELECT sum(Rows) FROM agent_rows), (SELECT sum(Lines) FROM log_patterns), (SELECT sum(Lines) FROM log_patterns_1h), \
                (SELECT countIf(Count = 1) FROM service_map_data) FORMAT TSV";
    // Requests: one span without an agent and three in the histogram. Errors: the span and the log record.
    assert_eq!(
        post(store.address, "/?database=retried", &[], once.as_bytes()).text(),
        "1\t4\t2\t1\t2\t1\t2\t1\t1\t1\n"
    );
    let batches = "SELECT AgentId, BatchSequence, toString(Signal), sum(Rows) FROM ingested_batches GROUP BY ALL ORDER BY BatchSequence";
    let expected = [("a".to_owned(), 7, "metrics".to_owned(), 1), ("a".to_owned(), 9, "logs".to_owned(), 1)];
    assert_eq!(all::<(String, u64, String, u64)>(&client, batches).await, expected);
}

/// A line of an agent's ledger, as it was reported so many minutes ago: its labels, and the point.
fn ledger_line(
    (tenant, agent, account): (&str, &str, &str),
    (signal, outcome, detail): (&str, &str, &str),
    (ago, records): (u32, i64),
) -> (SeriesRow, MetricRow) {
    let labels = [
        (key::LEDGER_ACCOUNT, account),
        (key::LEDGER_DETAIL, detail),
        (key::LEDGER_OUTCOME, outcome),
        (key::SIGNAL, signal),
    ];
    // As unequal as the gateway's: of everything that tells the line apart.
    let series_hash = labels
        .iter()
        .flat_map(|(_, text)| text.bytes())
        .chain(agent.bytes())
        .fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let series = SeriesRow {
        tenant_id: tenant.into(),
        metric_name: AGENT_LEDGER.into(),
        series_hash,
        service_name: "ollystack-agent".into(),
        resource_attributes: Arc::new(attributes(&[("host.name", &format!("host-{agent}"))])),
        attributes: attributes(&labels.into_iter().filter(|(_, text)| !text.is_empty()).collect::<Vec<_>>()),
        last_seen: now(),
        expires_at: now() + 86_400 * 30,
        ..SeriesRow::default()
    };
    let point = MetricRow {
        tenant_id: tenant.into(),
        metric_name: AGENT_LEDGER.into(),
        series_hash,
        service_name: "ollystack-agent".into(),
        time_unix: minute(ago),
        metric_type: MetricType::Sum,
        value: records as f64,
        agent_id: agent.into(),
        batch_sequence: 1_000 - u64::from(ago),
        ingested_at: now() - ago * 60,
        ..metric()
    };
    (series, point)
}

#[tokio::test]
async fn a_delivery_is_looked_for_in_a_table_by_its_index() {
    let store = Store::get();
    let client = store.with_schema("delivery_index").await;
    insert(&client, "metrics", &[metric()]).await;
    let log = LogRow { tenant_id: "t".into(), ingested_at: now(), expires_at: now() + 86_400, ..LogRow::default() };
    insert(&client, "logs", &[log]).await;
    insert(&client, "traces", &[span()]).await;
    for signal in ["metrics", "logs", "traces"] {
        // As the gateway asks.
        let plan = format!(
            "EXPLAIN indexes = 1 SELECT count() FROM {signal}_raw WHERE TenantId = 't' AND AgentId = 'a' AND BatchSequence = 7 \
             AND cityHash64(AgentId, BatchSequence) = cityHash64('a', toUInt64(7))"
        );
        let plan = all::<String>(&client, &plan).await.join("\n");
        assert!(plan.contains(&format!("idx_{signal}_delivery")), "{plan}");
    }
}

#[tokio::test]
async fn one_query_says_what_an_agent_saw_sent_lost_and_why_and_what_is_stored() {
    let store = Store::get();
    let client = store.with_schema("ledger").await;
    let a = ("t", "a", "1700000000");
    let logs = |outcome, detail| ("logs", outcome, detail);
    let lines = [
        // Reports of four hours: counters stand where they were most, what waits where it was last.
        ledger_line(a, logs("seen", ""), (240, 100)),
        ledger_line(a, logs("seen", ""), (1, 1_000)),
        ledger_line(a, logs("sent", ""), (240, 50)),
        ledger_line(a, logs("sent", ""), (1, 900)),
        ledger_line(a, logs("folded", ""), (1, 30)),
        ledger_line(a, logs("dropped", "refused"), (1, 40)),
        ledger_line(a, logs("dropped", "crash"), (1, 5)),
        ledger_line(a, logs("dropped", "malformed"), (1, 0)),
        ledger_line(a, logs("corrected", "buffer"), (1, 2)),
        ledger_line(a, logs("corrected", "memory"), (1, -7)),
        ledger_line(a, logs("waiting", "buffer"), (180, 500)),
        ledger_line(a, logs("waiting", "buffer"), (1, 20)),
        // A later account of the same agent, and another tenant's agent of the same id.
        ledger_line(("t", "a", "1800000000"), logs("seen", ""), (0, 10)),
        ledger_line(("t", "a", "1800000000"), logs("sent", ""), (0, 4)),
        ledger_line(("t", "a", "1800000000"), logs("waiting", "queue"), (0, 6)),
        ledger_line(("u", "a", "1700000000"), logs("seen", ""), (0, 77)),
    ];
    let (series, points): (Vec<_>, Vec<_>) = lines.into_iter().unzip();
    insert(&client, "series", &series).await;
    // What is repeated, or says what was long ago, changes nothing; nor does what is no agent's.
    for token in ["points", "points", "late"] {
        insert(&client, token, &points).await;
    }
    let stranger = MetricRow { agent_id: String::new(), value: 1e6, ..points[1].clone() };
    insert(&client, "stranger", &[stranger]).await;
    // Two of the 904 were sent again, and one is missing.
    let log = |sequence| LogRow {
        tenant_id: "t".into(),
        timestamp: minute(1),
        agent_id: "a".into(),
        batch_sequence: sequence,
        ingested_at: now(),
        expires_at: now() + 86_400,
        ..LogRow::default()
    };
    for _ in 0..2 {
        insert(&client, "logs", &vec![log(1); 901]).await;
    }
    let balance = "SELECT TenantId, HostName, Seen, Sent, Stored, Lost, Why, Waiting, NotStored, Corrected, Unaccounted \
                   FROM agent_ledger_balance WHERE Signal = 'logs' ORDER BY TenantId FORMAT TSV";
    assert_eq!(
        post(store.address, "/?database=ledger", &[], balance.as_bytes()).text(),
        "t\thost-a\t1010\t904\t901\t45\t{'crash':5,'refused':40}\t6\t1\t-5\t0\n\
         u\thost-a\t77\t0\t0\t0\t{}\t0\t0\t0\t77\n"
    );
    let seen = "SELECT Records FROM agent_ledger WHERE TenantId = 't' AND Outcome = 'seen' AND Account < 1800000000 ORDER BY Time";
    assert_eq!(all::<i64>(&client, seen).await, [100, 1_000], "by the hour");
}

#[tokio::test]
async fn a_report_that_is_no_number_costs_neither_itself_nor_those_it_came_with() {
    let store = Store::get();
    let client = store.with_schema("no_number").await;
    let (_, report) = ledger_line(("t", "a", "1700000000"), ("logs", "seen", ""), (1, 3));
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300].map(|value| MetricRow { value, ..report.clone() });
    let rows: Vec<_> = odd.into_iter().chain([report.clone(), metric()]).collect();
    insert(&client, "points", &rows).await;
    assert_eq!(all::<u64>(&client, "SELECT count() FROM metrics_raw").await, [6]);
    let reports = "SELECT max(Most), argMaxMerge(Last) FROM agent_ledger_data";
    assert_eq!(all::<(i64, i64)>(&client, reports).await, [(3, 3)]);
}

#[tokio::test]
async fn no_value_that_otlp_knows_costs_the_block_it_came_in() {
    let store = Store::get();
    let client = store.with_schema("odd").await;
    // A span ends before 2262.
    let longest = (i64::MAX - span().timestamp) as u64;
    let spans = [0, 1, longest].map(|duration| SpanRow {
        duration,
        status_code: "Error".into(),
        span_kind: "Client".into(),
        sample_weight: 2_f64.powi(56),
        ..span()
    });
    insert(&client, "spans", &spans).await;
    let point = |offset, value| MetricRow {
        sum: Some(value),
        min: Some(value),
        max: Some(value),
        scale: offset,
        positive_offset: offset,
        positive_bucket_counts: vec![0, u64::MAX, u64::MAX],
        zero_count: u64::MAX,
        ..red("error", u64::MAX, "a")
    };
    let numbers = [f64::NAN, f64::INFINITY, f64::MIN, -0.0];
    let points: Vec<_> = [i32::MIN, 0, i32::MAX].iter().flat_map(|o| numbers.map(|n| point(*o, n))).collect();
    insert(&client, "points", &points).await;
    let lines = [0, 1, i64::MAX].map(|timestamp| LogRow {
        tenant_id: "t".into(),
        timestamp,
        severity_number: 24,
        body: "\u{fffd}\0".repeat(300),
        log_attributes: attributes(&[(LOG_LAST, &(-timestamp).to_string()), (LOG_PATTERN_ID, "p")]),
        line_count: u64::MAX,
        ingested_at: now(),
        expires_at: u32::MAX,
        ..LogRow::default()
    });
    insert(&client, "lines", &lines).await;
    for (table, rows) in [("traces_raw", 3), ("metrics_raw", 12), ("logs_raw", 3)] {
        assert_eq!(all::<u64>(&client, &format!("SELECT count() FROM {table}")).await, [rows], "{table}");
    }
}

#[tokio::test]
async fn equal_faults_are_one_row_whatever_their_numbers() {
    let store = Store::get();
    let client = store.with_schema("faults").await;
    let failed = |id: &str| SpanRow {
        status_code: "Error".into(),
        sample_weight: 4.0,
        event_timestamps: vec![1, 1],
        event_names: vec!["retry".into(), "exception".into()],
        event_attributes: vec![
            vec![],
            attributes(&[("exception.message", &format!("no order {id} for user 17")), ("exception.type", "NotFound")]),
        ],
        ..span()
    };
    insert(&client, "a", &[failed("12"), failed("7f3c9f0be1d24ab89cb1"), span()]).await;
    let found = "SELECT ServiceName, Operation, ExceptionType, Message, Errors, TraceId FROM error_aggregates";
    let expected: Vec<(String, String, String, String, f64, String)> = vec![(
        "shop".into(),
        "GET /".into(),
        "NotFound".into(),
        "no order # for user #".into(),
        8.0,
        "0af7651916cd43dd8448eb211c80319c".into(),
    )];
    assert_eq!(all::<(String, String, String, String, f64, String)>(&client, found).await, expected);
}

#[tokio::test]
async fn edges_of_spans_without_an_agent_are_read_off_each_alone() {
    let store = Store::get();
    let client = store.with_schema("edges").await;
    let edge = |kind: &str, pairs: &[(&str, &str)]| SpanRow {
        span_kind: kind.into(),
        span_attributes: attributes(pairs),
        ..span()
    };
    let spans = [
        edge("Client", &[("server.address", "10.0.0.1"), ("server.port", "80")]),
        edge("Client", &[("network.peer.address", "fd00::1"), ("network.peer.port", "80")]),
        edge("Client", &[("peer.service", "stock"), ("server.address", "10.0.0.2")]),
        edge("Client", &[("db.system", "postgresql"), ("db.namespace", "shop"), ("server.address", "db")]),
        edge("Producer", &[("messaging.destination.name", "orders"), ("messaging.system", "kafka")]),
        edge("Consumer", &[("messaging.destination.name", "orders"), ("messaging.system", "kafka")]),
        edge("Server", &[("server.address", "shop")]),
        edge("Client", &[]),
        edge("Server", &[("client.address", "10.0.0.9"), ("http.request.method", "GET")]),
        edge("Server", &[("client.address", "93.184.216.34")]),
        SpanRow { agent_id: "a".into(), ..edge("Client", &[("peer.service", "counted by its agent")]) },
    ];
    insert(&client, "a", &spans).await;
    let found = "SELECT Source, Target, toString(TargetKind) FROM service_topology ORDER BY Source DESC, Target";
    let found = all::<(String, String, String)>(&client, found).await;
    let expected = [
        ("shop", "10.0.0.1:80", "address"),
        ("shop", "[fd00::1]:80", "address"),
        ("shop", "kafka/orders", "queue"),
        ("shop", "postgresql/shop/db", "database"),
        ("shop", "stock", "service"),
        ("kafka/orders", "shop", "service"),
        ("internet", "shop", "service"),
        ("10.0.0.9", "shop", "service"),
    ];
    assert_eq!(found, expected.map(|(source, target, kind)| (source.into(), target.into(), kind.into())));
}

/// A point of a host's agent, from three minutes to one ago, with the labels of its series.
fn labelled(host: &str, name: &str, labels: &[(&str, &str)], value: f64) -> (SeriesRow, MetricRow) {
    // As unequal as the gateway's: of everything that tells the series apart.
    let texts = labels.iter().flat_map(|(_, text)| text.bytes()).chain(host.bytes()).chain(name.bytes());
    let series_hash = texts.fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let series = SeriesRow {
        tenant_id: "t".into(),
        metric_name: name.into(),
        series_hash,
        resource_attributes: Arc::new(attributes(&[("host.name", host)])),
        attributes: attributes(labels),
        last_seen: now(),
        expires_at: now() + 86_400 * 30,
        ..SeriesRow::default()
    };
    let point = MetricRow {
        metric_name: name.into(),
        series_hash,
        start_time_unix: minute(3),
        time_unix: minute(1),
        value,
        count: value as u64,
        sum: Some(value * 0.1),
        max: Some(value),
        agent_id: host.into(),
        ..metric()
    };
    (series, point)
}

#[tokio::test]
async fn an_edge_is_told_by_both_sides_and_an_address_is_named_by_who_answers_there() {
    let store = Store::get();
    let client = store.with_schema("service_map").await;
    let edge =
        |name: &str, host: &str, (from, kind): (&str, &str), (to, at): (&str, &str), more: [&str; 3], value: f64| {
            let [protocol, span_kind, status] = more;
            let labels = [
                (key::EDGE_SOURCE, from),
                (key::EDGE_SOURCE_KIND, kind),
                (key::EDGE_TARGET, to),
                (key::EDGE_TARGET_KIND, if at.is_empty() { "service" } else { "address" }),
                (key::EDGE_PROTOCOL, protocol),
                (key::EDGE_ADDRESS, at),
                (key::SPAN_KIND, span_kind),
                (key::STATUS_CODE, status),
            ];
            labelled(host, name, &labels, value)
        };
    let shop = ("shop", "service");
    let http = |from, to, span_kind, status, calls| {
        let host = if span_kind == "client" { "host-a" } else { "host-b" };
        edge(EDGE_DURATION, host, from, to, ["http", span_kind, status], calls)
    };
    let tcp = |name, to| edge(name, "host-a", shop, to, ["tcp", "", ""], 600.0);
    let endpoint = |host: &str, address: &str, port: &str, service: &str| {
        let labels = [("server.address", address), ("server.port", port), ("service.name", service)];
        labelled(host, ENDPOINT, &labels, 1.0)
    };
    let stock = ("stock.local:80", "10.0.0.2:8080");
    let (series, points): (Vec<_>, Vec<_>) = [
        http(shop, stock, "client", "unset", 8.0),
        http(shop, stock, "client", "error", 2.0),
        http(("10.0.0.1", "address"), ("stock", ""), "server", "unset", 10.0),
        http(("127.0.0.1", "address"), ("stock", ""), "server", "unset", 1.0),
        http(("10.1.0.7", "address"), ("stock", ""), "server", "unset", 3.0),
        edge(
            EDGE_DURATION,
            "host-c",
            ("pod", "service"),
            ("10.0.0.2:8080", "10.0.0.2:8080"),
            ["http", "client", "unset"],
            4.0,
        ),
        // Of two that call from one host the other side does not know which is which.
        http(shop, ("cart", ""), "client", "unset", 1.0),
        http(("batch", "service"), ("cart", ""), "client", "unset", 1.0),
        http(("10.0.0.1", "address"), ("cart", ""), "server", "unset", 2.0),
        http(shop, ("10.0.0.9:80", "10.0.0.9:80"), "client", "unset", 5.0),
        // Of what http is known nothing else is told; what is not known is told as what it is.
        tcp(EDGE_CONNECTIONS, ("10.0.0.2:8080", "10.0.0.2:8080")),
        tcp(EDGE_CONNECTIONS, ("10.0.0.3:9000", "10.0.0.3:9000")),
        tcp(EDGE_SENT, ("10.0.0.3:9000", "10.0.0.3:9000")),
        // Told by the host that called.
        edge(EDGE_CONNECTIONS, "host-b", ("10.0.0.1", "address"), ("store", ""), ["tcp", "", ""], 600.0),
        endpoint("host-a", "10.0.0.1", "", ""),
        endpoint("host-b", "10.0.0.2", "", ""),
        endpoint("host-b", "10.0.0.2", "8080", "stock"),
        endpoint("host-b", "10.1.0.7", "", "pod"),
        // Two hosts say that they have this one.
        endpoint("host-a", "10.0.0.9", "80", "one"),
        endpoint("host-b", "10.0.0.9", "80", "other"),
    ]
    .into_iter()
    .unzip();
    insert(&client, "series", &series).await;
    insert(&client, "points", &points).await;
    let found = "SELECT concat(Source, ' (', SourceKind, ') > ', Target, ' (', TargetKind, ') ', Protocol), \
                 Calls, Errors, ServerCalls, Connections, BytesSent FROM service_topology \
                 WHERE Time = (SELECT min(Time) FROM service_topology) ORDER BY 1";
    let found = all::<(String, f64, f64, f64, f64, f64)>(&client, found).await;
    let expected = [
        ("batch (service) > cart (service) http", 1.0, 0.0, 0.0, 0.0, 0.0),
        ("host-b (host) > stock (service) http", 1.0, 0.0, 1.0, 0.0, 0.0),
        ("pod (service) > stock (service) http", 4.0, 0.0, 3.0, 0.0, 0.0),
        ("shop (service) > 10.0.0.3:9000 (address) tcp", 0.0, 0.0, 0.0, 600.0, 300.0),
        ("shop (service) > 10.0.0.9:80 (address) http", 5.0, 0.0, 0.0, 0.0, 0.0),
        ("shop (service) > cart (service) http", 1.0, 0.0, 0.0, 0.0, 0.0),
        ("shop (service) > stock (service) http", 10.0, 2.0, 10.0, 0.0, 0.0),
    ];
    assert_eq!(found, expected.map(|(edge, a, b, c, d, e)| (edge.to_owned(), a, b, c, d, e)));
    let durations =
        "SELECT DISTINCT DurationAvg, DurationMax FROM service_topology WHERE Target = 'stock' AND Source = 'shop'";
    // Connections of the second minute have no requests beside them.
    let durations = all::<(f64, f64)>(&client, durations).await;
    assert!(durations.contains(&(0.1, 8.0)), "{durations:?}");
    let elsewhere = "SELECT count() FROM service_topology WHERE TenantId != 't'";
    assert_eq!(all::<u64>(&client, elsewhere).await, [0]);
}

#[tokio::test]
async fn a_minute_far_from_the_usual_is_an_anomaly() {
    let store = Store::get();
    let client = store.with_schema("far").await;
    let point = |ago: u32, mean: f64, hash: u64| MetricRow {
        series_hash: hash,
        time_unix: minute(ago),
        sum: Some(mean * 60.0),
        value: mean,
        ..metric()
    };
    // One series wobbles and once leaps, one only wobbles.
    let wobble = |ago: u32| 10.0 + f64::from(ago % 5) * 0.1;
    let mut rows: Vec<MetricRow> =
        (1..=60).map(|ago| point(ago, if ago == 3 { 50.0 } else { wobble(ago) }, 1)).collect();
    rows.extend((1..=60).map(|ago| point(ago, wobble(ago), 2)));
    insert(&client, "a", &rows).await;
    for statement in ["SYSTEM REFRESH VIEW metric_anomalies", "SYSTEM WAIT VIEW metric_anomalies"] {
        client.query(statement).execute().await.unwrap();
    }
    let found = "SELECT SeriesHash, Value, Score > 5 FROM metric_anomalies";
    assert_eq!(all::<(u64, f64, bool)>(&client, found).await, [(1, 50.0, true)]);
}

#[tokio::test]
async fn rows_leave_when_their_retention_is_over() {
    let store = Store::get();
    let client = store.with_schema("gone").await;
    let old = SpanRow { expires_at: now() - 86_400, ..span() };
    insert(&client, "old", &[old]).await;
    insert(&client, "new", &[SpanRow { span_name: "stays".into(), ..span() }]).await;
    client.query("OPTIMIZE TABLE traces_raw FINAL").execute().await.unwrap();
    assert_eq!(all::<String>(&client, "SELECT SpanName FROM traces_raw").await, ["stays"]);
}

#[tokio::test]
async fn columns_that_the_gateway_writes_have_the_types_of_the_tables() {
    async fn check<T: Table + Columns>(client: &Client) {
        let query = format!(
            "SELECT name, type FROM system.columns WHERE database = 'columns' AND table = '{}' \
             AND default_kind NOT IN ('MATERIALIZED', 'ALIAS') ORDER BY position",
            <T as Table>::NAME
        );
        let ours: Vec<(String, String)> =
            T::COLUMNS.iter().map(|(name, of)| (name.to_string(), of.to_string())).collect();
        assert_eq!(all::<(String, String)>(client, &query).await, ours, "{}", <T as Table>::NAME);
    }
    let store = Store::get();
    let client = store.with_schema("columns").await;
    check::<MetricRow>(&client).await;
    check::<SeriesRow>(&client).await;
    check::<LogRow>(&client).await;
    check::<SpanRow>(&client).await;
}
