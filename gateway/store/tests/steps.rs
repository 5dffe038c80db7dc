//! Views in steps on the real engine: they make of any rows what the views before them made, once, wherever an insert was broken off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use clickhouse::Client;
use ollystack_schema::migrations::{MIGRATIONS, Placement};
use ollystack_schema::rows::SpanRow;
use support::rows::{all, attributes, insert, metric, now, span};
use support::{Store, post};

/// The last migration before views had steps.
const BEFORE: u32 = 21;

/// What steps feed, and its columns as text.
const FED: [(&str, &str); 6] = [
    ("service_topology_spans", "*"),
    ("metrics_5m_data", "*"),
    ("metrics_1h_data", "*"),
    ("service_map_data", "*"),
    ("service_metrics_1m_by_time", "*"),
    ("agent_ledger_data", "* EXCEPT Last, finalizeAggregation(Last)"),
];

/// Of row `number`, a number by `k` that looks like chance.
const CHANCE: &str = "WITH k -> cityHash64(number, k) AS r";

/// Points of every kind, with times, windows and retentions of every sort, a third of them of no agent.
fn points() -> String {
    let names = "['ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received', \
                 'ollystack.edge.round_trip', 'ollystack.endpoint', 'ollystack.span.duration', 'ollystack.agent.ledger', 'ollystackx', 'a', 'b']";
    let until = (now() / 3_600 - 5) * 3_600;
    format!(
        "INSERT INTO metrics_raw (TenantId, MetricName, SeriesHash, ServiceName, TimeUnix, StartTimeUnix, MetricType, AggregationTemporality, \
         IsMonotonic, Flags, Value, Count, Sum, Min, Max, Scale, PositiveOffset, PositiveBucketCounts, SpanName, SpanKind, StatusCode, AgentId, \
         IngestedAt, ExpiresAt) {CHANCE} SELECT 't', {names}[1 + r(1) % 11], r(2) % 40, ['shop', 'ollystack-agent'][1 + r(3) % 2], \
         toDateTime64({until} + r(4) % 9000, 9) AS until, \
         multiIf(r(5) % 8 = 0, toDateTime64(0, 9), r(5) % 8 = 1, until + INTERVAL 5 SECOND, r(5) % 8 = 2, until, \
         until - toIntervalSecond([7, 60, 300, 4000, 7200, 7201][1 + r(6) % 6])), \
         toInt8(1 + r(7) % if(r(8) % 3 = 0, 5, 2)), toInt8(r(9) % 3), r(10) % 2 = 0, r(11) % 4, r(12) % 1000 / 8 AS value, \
         if(r(13) % 3 = 0, 1, r(13) % 500), if(r(14) % 3 = 0, NULL, r(14) % 1000 / 8), \
         multiIf(r(15) % 3 = 0, NULL, r(15) % 3 = 1, value, value - 1), multiIf(r(16) % 3 = 0, NULL, r(16) % 3 = 1, value, value + 1), \
         6, r(17) % 9, [r(17) % 2, 3], 'GET /', ['server', 'client'][1 + r(18) % 2], ['ok', 'error'][1 + r(19) % 2], ['', 'a', 'b'][1 + r(20) % 3], \
         toDateTime({until}), toDateTime([{}, {}, {}, 4294967295][1 + r(21) % 4]) FROM numbers(6000)",
        until - 86_400,
        until + 86_400,
        until + 100_000
    )
}

/// Spans of every kind with any of the attributes that name an end.
fn spans() -> String {
    let keys = "['server.address', 'server.port', 'net.peer.name', 'net.peer.port', 'network.peer.address', 'network.peer.port', \
                'service.peer.name', 'peer.service', 'db.system.name', 'db.system', 'db.namespace', 'db.name', 'messaging.destination.name', \
                'messaging.destination', 'messaging.system', 'client.address', 'rpc.system', 'http.request.method', 'http.method', \
                'network.protocol.name']";
    let values = "['10.1.2.3', '127.0.0.1', '::1', 'fd00::1', 'fe80::2', '8.8.8.8', '192.168.1.1', '169.254.1.1', '100.64.3.3', '172.16.0.1', \
                  '172.32.0.1', 'host', '2001:db8::1', '10.999.1.1', '', '80']";
    let time = i64::from(now() / 3_600 - 5) * 3_600;
    format!(
        "INSERT INTO traces_raw (TenantId, Timestamp, SpanName, SpanKind, ServiceName, SpanAttributes, Duration, StatusCode, SampleWeight, \
         AgentId, IngestedAt, ExpiresAt) {CHANCE} SELECT 't', toDateTime64({time} + r(1) % 300, 9), 'GET /', \
         ['Client', 'Server', 'Producer', 'Consumer', 'Internal'][1 + r(2) % 5], ['shop', 'stock'][1 + r(3) % 2], \
         mapFromArrays(arrayFilter(key -> cityHash64(number, key) % 4 = 0, {keys}) AS keys, \
         arrayMap(key -> {values}[1 + cityHash64(key, number) % 16], keys)), \
         r(4) % 1000 * 1000000, ['Unset', 'Error'][1 + r(5) % 2], 1 + r(6) % 4, ['', '', 'a'][1 + r(7) % 3], toDateTime({time}), \
         toDateTime({time} + 86400) FROM numbers(6000)"
    )
}

async fn with_migrations_to(client: &Client, last: u32) {
    for migration in MIGRATIONS.iter().filter(|migration| migration.number <= last) {
        for statement in migration.statements(&Placement::SingleNode).unwrap() {
            let done = client.query(&statement).execute().await;
            done.unwrap_or_else(|error| panic!("{}: {error}\n{statement}", migration.name));
        }
    }
}

#[tokio::test]
async fn steps_make_of_any_rows_what_the_views_before_them_made() {
    let store = Store::get();
    for (database, last) in [("unstepped", BEFORE), ("stepped", BEFORE + 1)] {
        with_migrations_to(&store.client(database).await, last).await;
        for statement in [points(), spans()] {
            let answer = post(store.address, &format!("/?database={database}"), &[], statement.as_bytes());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    for (table, columns) in FED {
        let rows = ["unstepped", "stepped"].map(|database| {
            let query = format!("SELECT {columns} FROM {table} FINAL FORMAT TSV");
            let answer = post(store.address, &format!("/?database={database}"), &[], query.as_bytes()).text();
            let mut rows: Vec<String> = answer.lines().map(str::to_owned).collect();
            rows.sort();
            rows
        });
        assert!(rows[0].len() > 50, "{table}: {:?}", rows[0]);
        let differs = rows[0].iter().zip(&rows[1]).find(|(before, now)| before != now);
        assert!(rows[0] == rows[1], "{table}: {} and {} rows, {differs:?}", rows[0].len(), rows[1].len());
    }
}

#[tokio::test]
async fn an_insert_that_was_broken_off_between_steps_is_completed_by_its_repetition_and_counts_once() {
    let store = Store::get();
    let client = store.with_schema("broken_steps").await;
    let called =
        SpanRow { span_kind: "Client".into(), span_attributes: attributes(&[("peer.service", "stock")]), ..span() };
    let calls = "SELECT sum(Calls) FROM service_topology_spans";
    let steps = ["service_topology_attributes_mv", "service_topology_calls_mv", "service_topology_sums_mv"];
    for (done, step) in steps.into_iter().enumerate() {
        client.query(&format!("DETACH TABLE {step}")).execute().await.unwrap();
        insert(&client, step, std::slice::from_ref(&called)).await;
        assert_eq!(all::<f64>(&client, calls).await, [done as f64], "without {step}");
        client.query(&format!("ATTACH TABLE {step}")).execute().await.unwrap();
        for _ in 0..2 {
            insert(&client, step, std::slice::from_ref(&called)).await;
            assert_eq!(all::<f64>(&client, calls).await, [done as f64 + 1.0], "after {step}");
        }
    }
    let steps = ["metrics_5m_points_mv", "metrics_5m_shares_mv"];
    for (done, step) in steps.into_iter().enumerate() {
        client.query(&format!("DETACH TABLE {step}")).execute().await.unwrap();
        insert(&client, step, &[metric()]).await;
        client.query(&format!("ATTACH TABLE {step}")).execute().await.unwrap();
        for _ in 0..2 {
            insert(&client, step, &[metric()]).await;
            let count = metric().count * (done as u64 + 1);
            for table in ["metrics_5m", "metrics_1h"] {
                let counted = format!("SELECT sum(Count) FROM {table}");
                assert_eq!(all::<u64>(&client, &counted).await, [count], "{table} after {step}");
            }
        }
    }
}
