//! What reading and folding log lines costs and saves: from real logs to one JSON report on standard output.
//!
//! `cargo xtask bench logs [-- --data DIR]`. DIR is laid out as LogHub is, DIR/X/X_2k.log with DIR/X/X_2k.log_structured.csv; by default the
//! committed copy. Speed is CPU time of this thread. Invariant: rows stand for exactly the lines that went in, or it fails.

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use ollystack_logs::{Clock, Config, Logs, Zone, parse_at};
use ollystack_patterns::Miner;
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::common::v1::{AnyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Ack, Ledger, Reduced, ReducedRecords, Resource, Source, value};
use ollystack_schema::names;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Long enough for the caches and the clock to settle.
const SECONDS_MIN: f64 = 0.5;
/// As the log input hands them in.
const BATCH: usize = 1_000;
/// 2027: all times of the logs are in the past.
const NOW: u64 = 1_800_000_000_000_000_000;
const WINDOW: u64 = 60_000_000_000;
/// As the exporter compresses.
const ZSTD_LEVEL: i32 = 3;

/// One log: its lines, and what a person says is the message of each.
struct Log {
    name: String,
    lines: Vec<String>,
    content: Vec<String>,
}

/// What went out for a log: rows and their bytes as OTLP and zstd.
#[derive(Clone, Copy, Default)]
struct Sent {
    rows: usize,
    bytes: usize,
}

fn main() -> Result<()> {
    let logs = read_all(&directory()?)?;
    ensure!(!logs.is_empty(), "no log in the directory: want DIR/X/X_2k.log and DIR/X/X_2k.log_structured.csv");
    let mut rows = Vec::new();
    let (mut equal_all, mut lines_all) = (0, 0);
    let [mut whole_all, mut first_all, mut next_all] = [Sent::default(); 3];
    for log in &logs {
        eprintln!("{}", log.name);
        let equal = equal(log);
        let [whole, first, next] = reduce(log)?;
        for (sum, one) in [(&mut whole_all, whole), (&mut first_all, first), (&mut next_all, next)] {
            sum.rows += one.rows;
            sum.bytes += one.bytes;
        }
        equal_all += equal;
        lines_all += log.lines.len();
        let lines: Vec<&str> = log.lines.iter().map(String::as_str).collect();
        rows.push(row(&log.name, equal, lines.len(), speeds(&lines), [whole, first, next]));
    }
    let lines: Vec<&str> = logs.iter().flat_map(|log| &log.lines).map(String::as_str).collect();
    let speeds = speeds(&lines);
    rows.push(row("all", equal_all, lines_all, speeds, [whole_all, first_all, next_all]));
    let report = json!({
        "columns": ["log", "lines", "message right", "parse", "mine", "stage", "rows", "rows next", "bytes", "bytes next"],
        "rows": rows,
        "notes": [
            "message right: lines whose message, once the header is off, is letter for letter what LogHub's people took it to be.",
            "parse, mine, stage: million lines per core-second (CPU time of one thread, batches of 1000, half a second or more); the stage is \
             both, and folding, from records in to rows out.",
            "rows: lines per row when a log fills its first minute, nothing known of it; next: the same lines in the next minute.",
            "bytes: the same of the bytes of OTLP under zstd, level 3, one message a minute, against every line as a row.",
            "Errors, first sights and rare lines are among the rows, whole.",
        ],
        "figures": {
            "message_right_ratio": equal_all as f64 / lines_all as f64,
            "parse_lines_per_core_second": speeds[0],
            "mine_lines_per_core_second": speeds[1],
            "stage_lines_per_core_second": speeds[2],
            "lines_per_row_first": lines_all as f64 / first_all.rows as f64,
            "lines_per_row_next": lines_all as f64 / next_all.rows as f64,
            "bytes_ratio_first": whole_all.bytes as f64 / first_all.bytes as f64,
            "bytes_ratio_next": whole_all.bytes as f64 / next_all.bytes as f64,
        },
    });
    println!("{report}");
    Ok(())
}

fn row(name: &str, equal: usize, lines: usize, speeds: [f64; 3], [whole, first, next]: [Sent; 3]) -> Vec<String> {
    let ratio = |a: usize, b: usize| format!("{:.1}x", a as f64 / b as f64);
    let mut row = vec![name.to_owned(), lines.to_string(), format!("{:.1}%", 100.0 * equal as f64 / lines as f64)];
    row.extend(speeds.map(|speed| format!("{:.2}", speed / 1e6)));
    row.extend([ratio(lines, first.rows), ratio(lines, next.rows)]);
    row.extend([ratio(whole.bytes, first.bytes), ratio(whole.bytes, next.bytes)]);
    row
}

/// Lines whose message is what the label says.
fn equal(log: &Log) -> usize {
    let clock = Clock { now_unix_nano: NOW, zone: &Zone::UTC };
    let pairs = log.lines.iter().zip(&log.content);
    pairs.filter(|(line, content)| parse_at(line, clock).message == content.trim()).count()
}

/// Every line as a row, the rows of a first minute, and those of a second with the same lines.
fn reduce(log: &Log) -> Result<[Sent; 3]> {
    let config = Config { time_zone: "UTC".into(), ..Config::default() };
    let mut whole = Logs::new(Config { enabled: false, ..config.clone() }, Arc::new(Ledger::default()));
    let mut folding = Logs::new(config, Arc::new(Ledger::default()));
    let lines: Vec<&str> = log.lines.iter().map(String::as_str).collect();
    let minute = |logs: &mut Logs, now: u64| -> Result<Sent> {
        let mut out = Vec::new();
        for batch in lines.chunks(BATCH) {
            logs.take(Source::Logs, &resource(), records(batch), Ack::none(), now, &mut out);
        }
        logs.tick(now + WINDOW, &mut out);
        sent(out, lines.len() as u64)
    };
    Ok([minute(&mut whole, NOW)?, minute(&mut folding, NOW)?, minute(&mut folding, NOW + WINDOW)?])
}

fn sent(out: Vec<Reduced>, lines: u64) -> Result<Sent> {
    let mut request = ExportLogsServiceRequest::default();
    for reduced in out {
        if let ReducedRecords::Logs(logs) = reduced.records {
            request.resource_logs.push(logs);
        }
    }
    let scopes = request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
    let records: Vec<&LogRecord> = scopes.flat_map(|scope| &scope.log_records).collect();
    let count = |record: &&LogRecord| value::int_attribute(&record.attributes, names::LOG_COUNT).unwrap_or(1) as u64;
    let stand_for: u64 = records.iter().map(count).sum();
    ensure!(stand_for == lines, "the rows stand for {stand_for} of {lines} lines");
    let rows = records.len();
    Ok(Sent { rows, bytes: zstd::bulk::compress(&request.encode_to_vec(), ZSTD_LEVEL)?.len() })
}

/// Lines per second of CPU: parsing, mining what was parsed, and the stage as a whole.
fn speeds(lines: &[&str]) -> [f64; 3] {
    let clock = Clock { now_unix_nano: NOW, zone: &Zone::UTC };
    let parse =
        per_second(lines.len(), || lines.iter().map(|line| parse_at(black_box(line), clock).message.len()).sum());
    let messages: Vec<&str> = lines.iter().map(|line| parse_at(line, clock).message).collect();
    let mut miner = Miner::new(Default::default());
    let mine =
        per_second(lines.len(), || messages.iter().map(|message| usize::from(miner.observe(message).is_new)).sum());
    let config = Config { time_zone: "UTC".into(), ..Config::default() };
    let mut logs = Logs::new(config, Arc::new(Ledger::default()));
    let resource = resource();
    let (mut taken, mut spent, mut now, mut out) = (0, 0.0, NOW, Vec::new());
    while spent < SECONDS_MIN {
        for batch in lines.chunks(BATCH) {
            // Made as it is handed in, and its records are dropped in the stage.
            let batch = records(batch);
            let begin = cpu_seconds();
            logs.take(Source::Logs, &resource, batch, Ack::none(), now, &mut out);
            now += WINDOW / 240;
            logs.tick(now, &mut out);
            spent += cpu_seconds() - begin;
        }
        taken += lines.len();
        out.clear();
    }
    [parse, mine, taken as f64 / spent]
}

/// Over and over until it took long enough.
fn per_second(lines: usize, mut pass: impl FnMut() -> usize) -> f64 {
    let begin = cpu_seconds();
    let mut passes = 0;
    loop {
        black_box(pass());
        passes += 1;
        let spent = cpu_seconds() - begin;
        if spent >= SECONDS_MIN {
            return (passes * lines) as f64 / spent;
        }
    }
}

/// Of this thread.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resource() -> Arc<Resource> {
    Arc::new(Resource::new(vec![value::string("host.name", "web-1"), value::string("service.name", "shop")]))
}

/// A batch as the log input makes it.
fn records(lines: &[&str]) -> Vec<ScopeLogs> {
    let attributes =
        vec![value::string("log.file.name", "shop.log"), value::string("log.file.path", "/var/log/shop/shop.log")];
    let record = |line: &&str| LogRecord {
        observed_time_unix_nano: NOW,
        body: Some(AnyValue { value: Some(Value::StringValue((*line).to_owned())) }),
        attributes: attributes.clone(),
        ..LogRecord::default()
    };
    vec![ScopeLogs { log_records: lines.iter().map(record).collect(), ..ScopeLogs::default() }]
}

fn directory() -> Result<PathBuf> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/data/loghub")),
        (Some("--data"), Some(path)) => Ok(path.into()),
        (other, _) => anyhow::bail!("want `--data DIR`, found {other:?}"),
    }
}

fn read_all(directory: &Path) -> Result<Vec<Log>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir())?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names.iter().map(|name| read(&directory.join(name), name)).collect()
}

fn read(folder: &Path, name: &str) -> Result<Log> {
    let text = text(folder, &[&format!("{name}_2k.log"), &format!("{name}_2k.log.gz")])?;
    let labels = text_of_labels(folder, name)?;
    let mut reader = csv::Reader::from_reader(labels.as_bytes());
    let column = reader.headers()?.iter().position(|header| header == "Content").context("no column Content")?;
    let content: Vec<String> =
        reader.records().map(|record| Ok(record?.get(column).unwrap_or_default().to_owned())).collect::<Result<_>>()?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    ensure!(lines.len() == content.len(), "{name}: {} lines and {} labels", lines.len(), content.len());
    Ok(Log { name: name.to_owned(), lines, content })
}

fn text_of_labels(folder: &Path, name: &str) -> Result<String> {
    text(folder, &[&format!("{name}_2k.log_structured.csv"), &format!("{name}_2k.log_structured.csv.gz")])
}

/// The first of these files that is there, unpacked if need be.
fn text(folder: &Path, names: &[&str]) -> Result<String> {
    let path = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
    let path = path.with_context(|| format!("{} has none of {}", folder.display(), names.join(", ")))?;
    let mut bytes = Vec::new();
    let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    if path.extension().is_some_and(|ending| ending == "gz") {
        GzDecoder::new(file).read_to_end(&mut bytes)?;
    } else {
        file.read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
