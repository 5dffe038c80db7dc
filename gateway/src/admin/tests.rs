//! What the admin port says, by the state of what stands behind the gateway.

use super::*;
use crate::config::{Flags, Layers};
use crate::convert::tables;
use crate::keys::file;
use crate::telemetry::metrics::Metrics;
use crate::write::clickhouse::ClickHouse;
use crate::write::{Disks, Losses};
use ollystack_buffer::{Buffer, Options, WhenFull};
use std::time::SystemTime;
use tempfile::TempDir;

fn status(directory: &TempDir) -> Status {
    let config = Layers::new(None, std::iter::empty(), &Flags::default()).unwrap().config().unwrap();
    let metrics = Arc::new(Metrics::new());
    let open = |name: &str| {
        let options = Options {
            directory: directory.path().join(name),
            bytes_max: 4 << 20,
            segment_bytes_max: 1 << 20,
            when_full: WhenFull::Refuse,
        };
        Buffer::open(options, Arc::new(Losses { tables: vec![], metrics: metrics.clone() })).unwrap().0
    };
    let disks = Disks { spill: open("spill"), set_aside: open("set-aside") };
    let clickhouse = ClickHouse::new(&config.clickhouse, "http://127.0.0.1:1").unwrap();
    let stop = CancellationToken::new();
    let writer = Writer::new(clickhouse, disks, tables().into(), config.terms(), 1, metrics.clone(), stop.clone());
    Status {
        admission: Some(Arc::new(Admission::new(directory.path().join("keys.toml"), config.tenants))),
        writer: Arc::new(writer),
        broker: None,
        budget: Budget::new(1),
        metrics,
        schema_problem: Arc::default(),
        schema_seen: AtomicBool::new(false),
        stop,
    }
}

#[tokio::test]
async fn a_gateway_is_ready_once_the_tables_were_there_and_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let status = status(&directory);
    status.schema_problem.set(Some("cannot reach ClickHouse".to_owned()));
    let (ready, notes) = status.readiness();
    assert!(!ready);
    assert!(notes.contains(&"schema: cannot reach ClickHouse".to_owned()), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("keys: ") && note.contains("keys new")), "{notes:?}");

    status.writer.schema_ready().send_replace(true);
    assert!(status.readiness().0);
    status.writer.schema_ready().send_replace(false);
    let (ready, notes) = status.readiness();
    assert!(ready, "the spill bridges it: {notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("schema: ")));
    status.stop.cancel();
    assert!(!status.readiness().0);
}

#[tokio::test]
async fn a_gateway_with_keys_and_tables_has_nothing_to_say() {
    let directory = tempfile::tempdir().unwrap();
    file::add(&directory.path().join("keys.toml"), "acme", "", None, SystemTime::now()).unwrap();
    let status = status(&directory);
    status.writer.schema_ready().send_replace(true);
    assert_eq!(status.readiness(), (true, vec![]));
}

#[tokio::test]
async fn each_path_has_its_answer() {
    let directory = tempfile::tempdir().unwrap();
    let status = status(&directory);
    for (method, path, expected) in [
        (Method::GET, "/healthz", 200),
        (Method::GET, "/readyz", 503),
        (Method::GET, "/metrics", 200),
        (Method::GET, "/", 404),
        (Method::POST, "/metrics", 405),
    ] {
        assert_eq!(status.answer(&method, path).status().as_u16(), expected, "{method} {path}");
    }
    let metrics = status.answer(&Method::GET, "/metrics");
    assert!(metrics.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
}
