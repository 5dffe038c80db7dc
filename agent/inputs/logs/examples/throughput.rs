//! What reading a log line costs: CPU time of the whole process per line, from the file to the intake's other end.
//!
//! `cargo run --release -p ollystack-input-logs --example throughput [LINES] [LAYOUT]`. Prints one JSON object with a table and figures.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

use ollystack_input_logs::{Config, StartAt, Stats, run};
use ollystack_record::{Afterwork, Intake, Ledger, Outcome, Resource, value};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A stack trace each so many lines of the text that has any.
const TRACE_EVERY: usize = 50;

fn main() {
    let only = std::env::args().nth(2);
    let lines = std::env::args().nth(1).map_or(1_000_000, |lines| lines.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut rows = Vec::new();
    let mut figures = serde_json::Map::new();
    for (name, key, line) in LAYOUTS.iter().filter(|layout| only.as_deref().is_none_or(|only| only == layout.1)) {
        eprintln!("{name}: {lines} lines");
        let folder = tempfile::tempdir().unwrap();
        let (bytes, physical) = write(&folder.path().join("a.log"), lines, *line);
        let (seconds, records) = runtime.block_on(read(folder.path(), physical));
        let micros = seconds * 1e6 / physical as f64;
        rows.push(serde_json::json!([
            name,
            physical.to_string(),
            records.to_string(),
            format!("{micros:.3}"),
            format!("{:.0}", bytes as f64 / 1e6 / seconds)
        ]));
        figures.insert(format!("log_input_{key}_us_a_line"), micros.into());
    }
    let report = serde_json::json!({
        "columns": ["layout", "lines", "records", "us of CPU a line", "MB/core-s"],
        "rows": rows,
        "notes": ["user and system time of the process from start to the last record, its receiver included; file in the page cache"],
        "figures": figures,
    });
    println!("{report}");
}

type Layout = (&'static str, &'static str, fn(usize) -> String);

const LAYOUTS: &[Layout] = &[
    ("plain lines", "plain", |number| format!("{}\n", text(number))),
    ("with stack traces", "traces", |number| {
        let mut text = format!("{}\n", text(number));
        if number.is_multiple_of(TRACE_EVERY) {
            text.push_str("java.lang.IllegalStateException: no stock\n");
            (0..20).for_each(|frame| writeln!(text, "\tat org.acme.Shop.f{frame}(Shop.java:{frame})").unwrap());
        }
        text
    }),
    ("CRI", "cri", |number| format!("2026-11-20T09:12:07.123456789Z stdout F {}\n", text(number))),
    ("Docker JSON", "docker", |number| {
        let text = text(number);
        format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-20T09:12:07.123456789Z\"}}\n")
    }),
];

fn text(number: usize) -> String {
    format!(
        "2026-11-20 09:12:07,{:03} INFO [worker-{}] order {number} stored for customer {}",
        number % 1000,
        number % 8,
        number * 7
    )
}

/// Bytes and lines written.
fn write(path: &Path, lines: usize, line: fn(usize) -> String) -> (usize, usize) {
    let text: String = (0..lines).map(line).collect();
    std::fs::write(path, &text).unwrap();
    (text.len(), text.bytes().filter(|byte| *byte == b'\n').count())
}

/// CPU seconds and records.
async fn read(folder: &Path, lines: usize) -> (f64, u64) {
    let config = Config {
        include: vec![folder.join("*.log").display().to_string()],
        start_at: StartAt::Beginning,
        bytes_per_second_max: 1 << 40,
        ..Config::default()
    };
    let (ledger, stats, stop) = (Arc::new(Ledger::default()), Arc::new(Stats::default()), CancellationToken::new());
    let (intake, mut receiver) = Intake::new(64, 8_192, Arc::clone(&ledger));
    let host = Arc::new(Resource::new(vec![value::string("host.name", "h")]));
    let begun = cpu();
    let (state, after) = (folder.join("state"), Afterwork::default());
    let task = tokio::spawn(run(config, state, host, intake, stop.clone(), after, Arc::clone(&stats)));
    let mut records = 0;
    while stats.read().lines < lines as u64 {
        if let Ok(Some(received)) = tokio::time::timeout(Duration::from_secs(5), receiver.recv()).await {
            let batch = received.take(&ledger);
            records += batch.records.count();
            batch.ack.resolve(Outcome::Durable);
        }
    }
    let seconds = cpu() - begun;
    stop.cancel();
    while receiver.recv().await.is_some() {}
    task.await.unwrap().unwrap();
    (seconds, records)
}

fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
