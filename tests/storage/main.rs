//! What is stored costs, and what questions to it cost: bytes by sample, line and span, times of ten questions.
//!
//! Recorded batches go through all of an agent's processing and over OTLP/HTTP through a real gateway into the real engine: what their
//! tables weigh then, merged, is what storage costs. Then rows are copied within the engine (see `fill`) and questions asked. `cargo xtask
//! bench storage` builds what it needs and prints the report. Invariant: sizes are of rows that came the whole way, once.

mod fill;
mod questions;
mod replay;

use anyhow::{Context, Result, bail, ensure};
use ollystack_record::Signal;
use ollystack_tests::{Binaries, Gateway, GatewayConfig, Key, Store, StoreConfig};
use questions::QUESTIONS;
use replay::Replay;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// An agent's id.
const AGENT: &str = "5c1d0a6e-0000-4000-8000-000000000001";
/// Requests at a time.
const IN_FLIGHT: usize = 256;
/// For the copying, which takes in millions of rows at once; a server has as much.
const MEMORY_BYTES: u64 = 8 << 30;
/// Where the copies go.
const DATABASE: &str = "storage";

/// One way through which rows come, into a database of its own.
struct Case {
    name: &'static str,
    database: &'static str,
    /// What is counted, and by what name.
    unit: &'static str,
    figure: &'static str,
    /// The tables that hold it; all others hold what views make of it.
    tables: &'static [&'static str],
    replay: fn(&Path) -> Result<Replay>,
}

const CASES: &[Case] = &[
    Case {
        name: "metrics of a host",
        database: "storage_metrics",
        unit: "sample",
        figure: "metric_sample",
        tables: &["metrics_raw", "metrics_series", "metric_descriptions"],
        replay: |data| replay::through(Default::default(), replay::recorded(&data.join("recording"), Signal::Metrics)?),
    },
    Case {
        name: "logs of a host",
        database: "storage_logs",
        unit: "line",
        figure: "log_line",
        tables: &["logs_raw"],
        replay: |data| replay::through(Default::default(), replay::recorded(&data.join("recording"), Signal::Logs)?),
    },
    Case {
        name: "logs of eight systems",
        database: "storage_files",
        unit: "line",
        figure: "file_line",
        tables: &["logs_raw"],
        replay: |data| replay::through(Default::default(), replay::lines(&data.join("loghub"))?),
    },
    Case {
        name: "the same, a row each line",
        database: "storage_lines",
        unit: "line",
        figure: "whole_line",
        tables: &["logs_raw"],
        replay: |data| replay::through(replay::unfolded(), replay::lines(&data.join("loghub"))?),
    },
    Case {
        name: "traces of a host",
        database: "storage_traces",
        unit: "span",
        figure: "span",
        tables: &["traces_raw", "traces_trace_id_ts"],
        replay: |data| replay::through(Default::default(), replay::recorded(&data.join("recording"), Signal::Traces)?),
    },
];

/// What a case's tables hold.
struct Weight {
    rows: u64,
    /// Of its own tables: columns, marks, indexes.
    bytes: u64,
    /// Of tables that views fill.
    derived_bytes: u64,
    /// Of that and whatever else a part has of its own, however few its rows are.
    disk_bytes: u64,
    parts: u64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binaries = Binaries::at(arguments.next().context("the folder of the gateway to measure is missing")?);
    let rows: u64 = arguments.next().context("how many rows is missing")?.parse().context("rows")?;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let data = arguments.next().map_or(data, PathBuf::from);
    // Beside the binaries: a real disk, where a temporary folder may be memory.
    let folder =
        tempfile::Builder::new().prefix("storage-").tempdir_in(std::env::current_exe()?.parent().context("folder")?)?;
    let config = StoreConfig { memory_bytes: Some(MEMORY_BYTES), ..StoreConfig::new(&folder.path().join("store"))? };
    let store = config.start(&binaries)?;
    let mut report = Report::default();
    for case in CASES {
        let replay = (case.replay)(&data).context(case.name)?;
        let mut gateway = gateway(folder.path(), &store, &binaries, case.database)?;
        send(&gateway, &replay.requests).context(case.name)?;
        ensure!(gateway.stop()?.success(), "the gateway did not end well");
        report.weighed(case, &replay, weigh(&store, case)?);
    }
    if rows > 0 {
        gateway(folder.path(), &store, &binaries, DATABASE)?.stop()?;
        eprintln!("copying to {rows} rows of each signal");
        let end = fill::fill(&store, DATABASE, rows)?;
        report.filled(&store, rows)?;
        for question in QUESTIONS {
            report.answered(question, &questions::ask(&store, DATABASE, question, end)?);
        }
    }
    println!("{}", report.json(rows));
    Ok(())
}

/// A gateway whose schema is there.
fn gateway(folder: &Path, store: &Store, binaries: &Binaries, database: &str) -> Result<Gateway> {
    let config = GatewayConfig::new(&folder.join(database), &store.url(), database)?;
    let mut gateway = config.start(binaries)?;
    gateway.wait_until_the_schema_is_there()?;
    Ok(gateway)
}

/// As an agent's deliveries, many at a time, so that they share blocks.
fn send(gateway: &Gateway, requests: &[(Signal, Vec<u8>)]) -> Result<()> {
    let key = gateway.new_key("bench")?;
    let next = AtomicUsize::new(0);
    let deliver = || -> Result<()> {
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some((signal, body)) = requests.get(at) else { return Ok(()) };
            deliver(gateway, &key, *signal, at + 1, body)?;
        }
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(deliver)).collect();
        senders.into_iter().try_for_each(|sender| sender.join().unwrap_or_else(|_| bail!("a sender panicked")))
    })
}

fn deliver(gateway: &Gateway, key: &Key, signal: Signal, sequence: usize, body: &[u8]) -> Result<()> {
    let path = match signal {
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
        Signal::Traces => "/v1/traces",
    };
    let sequence = sequence.to_string();
    let headers = [
        ("content-type", "application/x-protobuf"),
        ("content-encoding", "zstd"),
        ("x-ollystack-agent", AGENT),
        ("x-ollystack-sequence", &sequence),
    ];
    let answer = gateway.post(path, Some(key), &headers, body)?;
    ensure!(answer.status == 200, "the gateway answered {} to {path}: {}", answer.status, answer.text());
    Ok(())
}

fn weigh(store: &Store, case: &Case) -> Result<Weight> {
    let database = case.database;
    let tables = store.sql(&format!(
        "SELECT name FROM system.tables WHERE database = '{database}' AND engine LIKE '%MergeTree' AND name NOT LIKE '.%'"
    ))?;
    for table in tables.lines() {
        store.sql(&format!("OPTIMIZE TABLE {database}.{table} FINAL"))?;
    }
    let own = case.tables.iter().map(|table| format!("'{table}'")).collect::<Vec<_>>().join(", ");
    let main = case.tables[0];
    let sums = store.sql(&format!(
        "WITH data_compressed_bytes + marks_bytes + primary_key_size + secondary_indices_compressed_bytes + secondary_indices_marks_bytes AS bytes, \
         table IN ({own}) AS own \
         SELECT sumIf(rows, table = '{main}'), sumIf(bytes, own), sumIf(bytes, NOT own), sumIf(bytes_on_disk, own), countIf(own) FROM system.parts \
         WHERE active AND database = '{database}' AND table != 'schema_migrations'"
    ))?;
    let sums = sums.split('\t').map(|sum| Ok(sum.parse()?)).collect::<Result<Vec<u64>>>()?;
    let [rows, bytes, derived_bytes, disk_bytes, parts] = sums[..] else { bail!("`{sums:?}` are not five sums") };
    Ok(Weight { rows, bytes, derived_bytes, disk_bytes, parts })
}

#[derive(Default)]
struct Report {
    rows: Vec<[String; 6]>,
    figures: Map<String, Value>,
    notes: Vec<String>,
}

impl Report {
    fn weighed(&mut self, case: &Case, replay: &Replay, weight: Weight) {
        let per = |bytes: u64, records: u64| bytes as f64 / records.max(1) as f64;
        let (of_record, of_row) = (per(weight.bytes, replay.records), per(weight.bytes, weight.rows));
        let compression = match replay.line_bytes {
            0 => String::new(),
            raw => {
                let times = raw as f64 / weight.bytes as f64;
                self.figure(&format!("{}_compression", case.figure), times);
                format!(", {times:.1}x less than the {raw} bytes of the lines")
            }
        };
        self.rows.push([
            case.name.to_owned(),
            format!("{} {}s, {} rows", replay.records, case.unit, weight.rows),
            format!("{of_record:.2}"),
            format!("{of_row:.1}"),
            format!("{:.2}", per(weight.derived_bytes, replay.records)),
            format!("bytes{compression}; {} on disk in {} parts", weight.disk_bytes, weight.parts),
        ]);
        self.figure(&format!("{}_bytes", case.figure), of_record);
        self.figure(&format!("{}_row_bytes", case.figure), of_row);
        self.figure(&format!("{}_derived_bytes", case.figure), per(weight.derived_bytes, replay.records));
        self.figure(&format!("{}_disk_bytes", case.figure), per(weight.disk_bytes, replay.records));
        self.figure(&format!("{}_rows", case.figure), weight.rows as f64);
    }

    /// What the copies weigh as they lie, which is said and not taken for what real rows weigh.
    fn filled(&mut self, store: &Store, rows: u64) -> Result<()> {
        for fill in fill::FILLS {
            let sizes = store.sql(&format!(
                "SELECT sum(rows), sum(bytes_on_disk), count() FROM system.parts WHERE active AND database = '{DATABASE}' AND table = '{}'",
                fill.table
            ))?;
            let sizes = sizes.split('\t').map(|size| Ok(size.parse()?)).collect::<Result<Vec<f64>>>()?;
            let [count, bytes, parts] = sizes[..] else { bail!("`{sizes:?}` are not three") };
            ensure!(count >= rows as f64 * 0.99, "{} has {count} rows of {rows}", fill.table);
            let note = format!(
                "{}: {count} copies over {} days, {:.1} bytes a row in {parts} parts",
                fill.table,
                fill.days,
                bytes / count
            );
            self.notes.push(note);
        }
        Ok(())
    }

    fn answered(&mut self, question: &questions::Question, answered: &questions::Answered) {
        let at = |part: f64| answered.ms[((answered.ms.len() - 1) as f64 * part).round() as usize];
        self.rows.push([
            question.name.to_owned(),
            format!("{} rows read", answered.rows_read),
            format!("{:.0}", at(0.5)),
            format!("{:.0}", at(1.0)),
            String::new(),
            "ms: median and most".to_owned(),
        ]);
        self.figure(&format!("{}_ms_median", question.figure), at(0.5));
        self.figure(&format!("{}_ms_max", question.figure), at(1.0));
        self.figure(&format!("{}_rows_read", question.figure), answered.rows_read as f64);
    }

    fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), json!(value));
    }

    fn json(mut self, rows: u64) -> Value {
        let whole_way = "sizes: recorded batches through the agent's processing, OTLP, gateway and engine, tables merged; with \
                         columns, marks and indexes, without what a part has once, however many its rows are; derived: tables that \
                         views fill";
        self.notes.insert(0, whole_way.to_owned());
        if rows > 0 {
            let copies = "questions: over the same rows copied within the engine to other hosts, times, identifiers and numbers; 2 threads, \
                          no cache of results, parts as inserted and merged meanwhile";
            self.notes.push(copies.to_owned());
        }
        let columns = ["", "of", "a record", "a row", "derived", ""];
        json!({"columns": columns, "rows": self.rows, "notes": self.notes, "figures": self.figures})
    }
}
