//! The HTTP interface against the real engine, as its clients use it: the `clickhouse` crate and plain requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod support;

use clickhouse::{Row, error::Error};
use serde::{Deserialize, Serialize};
use std::io::Write;
use support::{Store, get, post};

#[derive(Clone, Debug, PartialEq, Row, Serialize, Deserialize)]
struct Event {
    id: u64,
    name: String,
    tags: Vec<(String, String)>,
    weight: Option<f64>,
}

fn event(id: u64) -> Event {
    // Every byte that SQL, a shell or a form would trip over.
    let name = (0..=255u8).map(char::from).chain("';--$a$`".chars()).collect();
    Event { id, name, tags: vec![("k".into(), id.to_string())], weight: id.is_multiple_of(2).then_some(0.5) }
}

const TABLE: &str = "CREATE TABLE events (id UInt64, name String, tags Map(LowCardinality(String), String), weight Nullable(Float64), \
                     more String DEFAULT 'default') ENGINE = MergeTree ORDER BY id \
                     SETTINGS non_replicated_deduplication_window = 100";

async fn insert(client: &clickhouse::Client, token: &str, events: &[Event]) -> Result<(), Error> {
    let mut insert = client.insert::<Event>("events").await?;
    insert = insert.with_setting("insert_deduplication_token", token).with_setting("async_insert", "0");
    for event in events {
        insert.write(event).await?;
    }
    insert.end().await
}

#[tokio::test]
async fn typed_rows_come_back_as_they_went_in() {
    let store = Store::get();
    let client = store.client("typed").await;
    client.query(TABLE).execute().await.unwrap();
    let events: Vec<Event> = (0..20_000).map(event).collect();
    insert(&client, "a", &events).await.unwrap();
    let back = client.query("SELECT ?fields FROM events ORDER BY id").fetch_all::<Event>().await.unwrap();
    assert!(back == events);
    let more = client.query("SELECT DISTINCT more FROM events").fetch_all::<String>().await.unwrap();
    assert_eq!(more, ["default"]);
}

#[tokio::test]
async fn a_token_lets_data_in_once_into_table_and_view() {
    let store = Store::get();
    let client = store.client("once").await;
    client.query(TABLE).execute().await.unwrap();
    let target = "CREATE TABLE sums (total UInt64) ENGINE = SummingMergeTree ORDER BY tuple() \
                  SETTINGS non_replicated_deduplication_window = 100";
    client.query(target).execute().await.unwrap();
    let view = "CREATE MATERIALIZED VIEW sums_mv TO sums AS SELECT count() AS total FROM events";
    client.query(view).execute().await.unwrap();
    let client = client.with_setting("deduplicate_blocks_in_dependent_materialized_views", "1");
    let total = || client.query("SELECT count(), assumeNotNull((SELECT sum(total) FROM sums)) FROM events");
    for (token, expected) in [("one", 10), ("one", 10), ("two", 20)] {
        insert(&client, token, &(0..10).map(event).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(total().fetch_one::<(u64, u64)>().await.unwrap(), (expected, expected), "after {token}");
    }
}

#[tokio::test]
async fn parameters_are_bound_and_never_become_sql() {
    let store = Store::get();
    let client = store.client("bound").await;
    let value = "'; DROP DATABASE bound; --\\";
    let back = client.query("SELECT {value:String}").param("value", value).fetch_one::<String>().await.unwrap();
    assert_eq!(back, value);
    let back = client.query("SELECT ?").bind(value).fetch_one::<String>().await.unwrap();
    assert_eq!(back, value);
}

#[tokio::test]
async fn errors_carry_clickhouses_codes() {
    let store = Store::get();
    let client = store.client("errors").await;
    for (statement, code) in [
        ("SELECT * FROM nowhere", "Code: 60. DB::Exception:"),
        ("SELEC 1", "Code: 62."),
        ("SELECT throwIf(1)", "Code: 395."),
    ] {
        match client.query(statement).execute().await.unwrap_err() {
            Error::BadResponse(text) => assert!(text.starts_with(code), "{text}"),
            other => panic!("{other}"),
        }
    }
    let answer = post(store.address, "/?database=errors", &[], b"SELECT * FROM nowhere");
    assert_eq!((answer.status, answer.header("x-clickhouse-exception-code")), (404, Some("60")));
    assert!(answer.text().contains("(UNKNOWN_TABLE) (version 26."), "{}", answer.text());
    // A row cut short: nothing of the insert stands.
    client.query(TABLE).execute().await.unwrap();
    let answer = post(store.address, "/?database=errors&query=INSERT+INTO+events+(id)+FORMAT+RowBinary", &[], &[1; 12]);
    assert_eq!(answer.header("x-clickhouse-exception-code"), Some("33"), "{}", answer.text());
    assert_eq!(client.query("SELECT count() FROM events").fetch_one::<u64>().await.unwrap(), 0);
}

#[tokio::test]
async fn plain_requests_get_what_curl_and_grafana_expect() {
    let store = Store::get();
    let at = store.address;
    store.client("plain").await;
    assert_eq!(get(at, "/ping").unwrap().text(), "Ok.\n");
    assert_eq!(get(at, "/").unwrap().text(), "Ok.\n");
    assert_eq!(get(at, "/nothing").unwrap().status, 404);
    let answer = get(at, "/?query=SELECT%201%20AS%20x&default_format=JSONEachRow&query_id=mine").unwrap();
    assert_eq!(answer.text(), "{\"x\":1}\n");
    assert_eq!(answer.header("x-clickhouse-query-id"), Some("mine"));
    assert_eq!(answer.header("x-clickhouse-format"), Some("JSONEachRow"));
    assert!(answer.header("x-clickhouse-timezone").is_some());
    assert!(answer.header("x-clickhouse-summary").unwrap().contains("\"read_rows\":\"1\""));
    let answer = get(at, "/?query=CREATE%20TABLE%20plain.t%20(a%20UInt8)%20ENGINE%20=%20Memory").unwrap();
    assert_eq!(answer.header("x-clickhouse-exception-code"), Some("164"), "a GET changes nothing");
    assert_eq!(post(at, "/?database=plain", &[], b"CREATE TABLE t (a UInt8, b String) ENGINE = Memory").status, 200);

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"1,one\n").unwrap();
    let gzip = gzip.finish().unwrap();
    let into = "/?database=plain&query=INSERT+INTO+t+FORMAT+CSV";
    let answer = post(at, into, &["Content-Encoding: gzip"], &gzip);
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert!(answer.header("x-clickhouse-summary").unwrap().contains("\"written_rows\":\"1\""), "{}", answer.head);
    assert_eq!(
        post(at, "/?database=plain", &[], b"INSERT INTO t (b, a) VALUES ('two; ''2''', 2), ('3', 3);").status,
        200
    );
    let input = "INSERT INTO t SELECT a * 2, upper(b) FROM input('a UInt8, b String') FORMAT TSV\n2\tfour\n";
    assert_eq!(post(at, "/?database=plain", &[], input.as_bytes()).status, 200);
    let answer = post(at, "/?database=plain&max_threads=1", &[], b"SELECT * FROM t ORDER BY a FORMAT CSV");
    assert_eq!(answer.text(), "1,\"one\"\n2,\"two; '2'\"\n3,\"3\"\n4,\"FOUR\"\n");
}

#[tokio::test]
async fn a_requests_settings_and_database_are_its_own() {
    let store = Store::get();
    store.client("own").await;
    let ask =
        |path: &str| post(store.address, path, &[], b"SELECT currentDatabase(), getSetting('max_block_size')").text();
    assert_eq!(ask("/?database=own&max_block_size=123"), "own\t123\n");
    assert_eq!(ask("/"), "default\t65409\n");
}

#[tokio::test]
async fn a_statement_reaches_no_file_and_no_program_of_the_host() {
    let store = Store::get();
    for statement in [
        "SELECT * FROM file('/etc/hostname', 'LineAsString')",
        "SELECT * FROM \"/etc/hostname\"",
        "INSERT INTO FUNCTION file('/tmp/never', 'CSV', 'a UInt8') VALUES (1)",
        "CREATE TABLE f (a String) ENGINE = File(CSV, '/etc/hostname')",
        "CREATE DATABASE f ENGINE = Filesystem('/etc')",
        "CREATE DATABASE f ENGINE = SQLite('/tmp/never')",
        "CREATE DICTIONARY d (a UInt64, b String) PRIMARY KEY a SOURCE(EXECUTABLE(COMMAND 'id' FORMAT 'CSV')) LAYOUT(FLAT()) LIFETIME(1)",
        "SELECT 1 INTO OUTFILE '/tmp/never'",
        "INSERT INTO x FROM INFILE '/etc/hostname' FORMAT CSV",
    ] {
        let answer = post(store.address, "/", &[], statement.as_bytes());
        assert!(matches!(answer.header("x-clickhouse-exception-code"), Some("497" | "344")), "{statement}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_too_large_too_long_or_too_hungry_is_refused_and_the_store_goes_on() {
    let store = Store::get();
    let slow = post(
        store.address,
        "/?max_execution_time=1",
        &[],
        b"SELECT count() FROM numbers(1000000000000) WHERE number % 3 = 1",
    );
    assert_eq!((slow.status, slow.header("x-clickhouse-exception-code")), (408, Some("159")));
    let hungry = post(store.address, "/", &[], b"SELECT groupArray(number) FROM numbers(1000000000)");
    assert_eq!(hungry.header("x-clickhouse-exception-code"), Some("241"), "{}", hungry.text());
    let large = post(store.address, "/", &["X-Ignored: 1"], &vec![b' '; (256 << 20) + 1]);
    assert_eq!((large.status, large.header("x-clickhouse-exception-code")), (413, Some("307")));
    assert_eq!(post(store.address, "/", &[], b"SELECT 1").text(), "1\n");
}
