//! What redaction costs a log line, a span and a series, on lines with and without secrets and on texts made to be expensive.
//!
//! `cargo xtask bench redaction [--data DIR]` builds this, runs it and shows what it prints: one JSON object. DIR has logs as DIR/X/X_2k.log
//! or .log.gz. CPU time of one thread; of several rounds the best, as the others had more of the machine's other work in them.

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span, Status, span::Event};
use ollystack_record::value::{int, string};
use ollystack_record::{Kind, Metric, Resource, Scope, Series};
use ollystack_redact::{Config, Redactor};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROUNDS: usize = 9;
/// Records measured at once: enough that the clock's own cost does not show.
const RECORDS: usize = 20_000;
/// Every so manieth record has a secret in the second set.
const SECRET_EVERY: usize = 100;
const HOSTILE_BYTES: usize = 1 << 20;

fn main() -> Result<()> {
    let lines = lines(&directory()?)?;
    let mut table = Table::default();
    eprintln!("{} lines", lines.len());
    table.row("log line, loghub", "line", text_bytes(&lines), texts(&lines));
    let with_secrets = with_secrets(&lines);
    table.row("log line, 1% with a secret", "line_secrets", text_bytes(&with_secrets), texts(&with_secrets));
    for length in [8, 16, 32, 64, 100, 256] {
        let cut: Vec<String> = lines.iter().filter_map(|line| line.get(..length)).map(str::to_owned).collect();
        let name = format!("text of {length} bytes");
        table.row(&name, &format!("text_{length}"), length as f64, texts(&cut));
    }
    table.row("log record, 4 attributes", "record", 0.0, records());
    table.row("span, 10 attributes", "span", 0.0, spans(false));
    table.row("span, 1% with a secret", "span_secrets", 0.0, spans(true));
    table.row("series, once", "series", 0.0, series());
    table.row("resource, each batch", "resource", 0.0, resources());
    let (worst, piece) = hostile();
    let found = found(&lines);
    table.figures.insert("hostile_ns_per_byte".into(), json!(worst));
    println!(
        "{}",
        json!({
            "columns": ["what", "ns each", "bytes", "MB/s"],
            "rows": table.rows,
            "notes": [
                format!("{} lines of loghub; in them was redacted: {found}", lines.len()),
                format!("the dearest of the texts made to be expensive, 1 MiB of {piece:?}, costs {worst:.2} ns a byte"),
                "CPU time of one thread, best of 9 rounds, default configuration; records are copied before the clock starts",
            ],
            "figures": table.figures,
        })
    );
    Ok(())
}

#[derive(Default)]
struct Table {
    rows: Vec<Json>,
    figures: serde_json::Map<String, Json>,
}

impl Table {
    fn row(&mut self, what: &str, key: &str, bytes: f64, ns: f64) {
        eprintln!("{what}: {ns:.1} ns");
        let (size, speed) = match bytes > 0.0 {
            true => (format!("{bytes:.0}"), format!("{:.0}", bytes / ns * 1e3)),
            false => (String::new(), String::new()),
        };
        self.rows.push(json!([what, format!("{ns:.1}"), size, speed]));
        self.figures.insert(format!("ns_per_{key}"), json!(ns));
    }
}

fn directory() -> Result<PathBuf> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/data/loghub")),
        Some("--data") => Ok(arguments.next().context("--data wants a directory")?.into()),
        Some(other) => bail!("unknown argument {other:?}: only --data DIR is known"),
    }
}

fn lines(directory: &Path) -> Result<Vec<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for system in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let Ok(inside) = std::fs::read_dir(system?.path()) else { continue };
        files.extend(
            inside
                .filter_map(|file| Some(file.ok()?.path()))
                .filter(|path| path.to_str().is_some_and(|path| path.ends_with(".log") || path.ends_with(".log.gz"))),
        );
    }
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file)?;
        let mut text = Vec::new();
        match file.extension().is_some_and(|end| end == "gz") {
            true => GzDecoder::new(bytes.as_slice()).read_to_end(&mut text)?,
            false => bytes.as_slice().read_to_end(&mut text)?,
        };
        lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
    }
    if lines.is_empty() {
        bail!("no log in {}: want DIR/X/X_2k.log or .log.gz", directory.display());
    }
    Ok(lines)
}

/// Nanoseconds of CPU that this thread took.
fn cpu_nanos() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds for each of `count` in the best of some rounds over what `make` makes.
fn best<T>(count: usize, mut make: impl FnMut() -> T, mut work: impl FnMut(&mut T)) -> f64 {
    let mut round = || {
        let mut input = make();
        let before = cpu_nanos();
        work(&mut input);
        let spent = cpu_nanos() - before;
        black_box(&input);
        spent / count as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn redactor() -> Redactor {
    Redactor::new(&Config::default().keyed("bench"))
}

fn text_bytes(lines: &[String]) -> f64 {
    lines.iter().map(String::len).sum::<usize>() as f64 / lines.len() as f64
}

fn texts(lines: &[String]) -> f64 {
    let redactor = redactor();
    best(lines.len(), || (), |()| lines.iter().for_each(|line| drop(black_box(redactor.text(black_box(line))))))
}

fn with_secrets(lines: &[String]) -> Vec<String> {
    let secrets =
        ["password=hunter2", "joe@example.com", "card 4111 1111 1111 1111", "https://joe:secret@example.com/"];
    let mut next = secrets.iter().cycle();
    let secret = |(number, line): (usize, &String)| match number % SECRET_EVERY {
        0 => format!("{line} {}", next.next().unwrap_or(&"")),
        _ => line.clone(),
    };
    lines.iter().enumerate().map(secret).collect()
}

/// What of real lines was redacted, by kind.
fn found(lines: &[String]) -> String {
    let redactor = redactor();
    let changed = lines.iter().filter(|line| matches!(redactor.text(line), Cow::Owned(_))).count();
    let kinds: Vec<String> = redactor.stats().iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("{} in {changed} lines", kinds.join(", "))
}

fn records() -> f64 {
    let record = LogRecord {
        severity_text: "INFO".into(),
        body: string("", "order 17 accepted by worker 3 in 12 ms, 4 items, total 99.90 EUR").value,
        attributes: vec![
            string("log.file.path", "/var/log/shop/orders.log"),
            string("thread.name", "worker-3"),
            string("code.function.name", "shop.orders.accept"),
            int("thread.id", 17),
        ],
        ..LogRecord::default()
    };
    let redactor = redactor();
    let make = || vec![ScopeLogs { log_records: vec![record.clone(); RECORDS], ..ScopeLogs::default() }];
    best(RECORDS, make, |scopes| redactor.logs(scopes))
}

fn spans(secrets: bool) -> f64 {
    let span = |number: usize| Span {
        name: "POST /api/orders/{id}".into(),
        attributes: vec![
            string("http.request.method", "POST"),
            string("url.full", "https://shop.example.com/api/orders/17?page=2"),
            string("url.scheme", "https"),
            string("server.address", "shop.example.com"),
            int("server.port", 443),
            string("http.route", "/api/orders/{id}"),
            string("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
            string("network.protocol.version", "1.1"),
            string("client.address", "203.0.113.17"),
            match secrets && number.is_multiple_of(SECRET_EVERY) {
                true => string("http.request.header.authorization", "Bearer 0123456789abcdef"),
                false => int("http.response.status_code", 200),
            },
        ],
        events: vec![Event { name: "accepted".into(), attributes: vec![int("items", 4)], ..Event::default() }],
        status: Some(Status::default()),
        ..Span::default()
    };
    let redactor = redactor();
    let make = || vec![ScopeSpans { spans: (0..RECORDS).map(span).collect(), ..ScopeSpans::default() }];
    best(RECORDS, make, |scopes| redactor.spans(scopes))
}

fn series() -> f64 {
    let metric = Metric {
        name: "http.server.request.duration".into(),
        unit: "s".into(),
        description: "Duration of HTTP server requests".into(),
        kind: Kind::Histogram { delta: false },
        ..Metric::default()
    };
    let attributes = vec![
        string("http.request.method", "GET"),
        string("http.route", "/cart"),
        int("http.response.status_code", 200),
    ];
    let series = Series::new(Arc::new(Scope::default()), Arc::new(metric), attributes);
    let redactor = redactor();
    best(RECORDS, || (), |()| (0..RECORDS).for_each(|_| drop(black_box(redactor.series(black_box(&series))))))
}

fn resources() -> f64 {
    let attributes =
        (0..15).map(|n| string(format!("host.attribute.{n}"), "a value of some length")).collect::<Vec<_>>();
    let mut redactor = redactor();
    // As an input makes them: equal, and not the same.
    let make = || (0..RECORDS).map(|_| Arc::new(Resource::new(attributes.clone()))).collect::<Vec<_>>();
    best(RECORDS, make, |resources| resources.iter().for_each(|one| drop(black_box(redactor.resource(one)))))
}

/// Nanoseconds a byte of the dearest text, and what it is made of.
fn hostile() -> (f64, &'static str) {
    let pieces = [
        "4",
        "4111 ",
        "4444-",
        "@",
        "a@b.",
        "a%40",
        "eyJ",
        "eyJ.",
        "eyJaaaaaaaa.",
        "://a:",
        "http://a:b/",
        "password",
        "password=",
        "password=\"",
        "password=${",
        "token: a ",
        "Authorization: Digest ",
        "authorization: abc ",
        "Bearer ",
        "bearer",
        "key",
        "api key ",
        "key=[",
        "-----BEGIN",
        "-----BEGIN PRIVATE KEY-----'",
        "mysql ",
        " mysql -",
        "sk-",
        "AKIA",
        "DE22 ",
        "AAAA",
        "\\\"",
        "cookie=",
    ];
    let redactor = redactor();
    let cost = |piece: &&'static str| {
        let text = piece.repeat(HOSTILE_BYTES / piece.len());
        let ns = best(text.len(), || (), |()| drop(black_box(redactor.text(black_box(&text)))));
        eprintln!("1 MiB of {piece:?}: {ns:.2} ns a byte");
        (ns, *piece)
    };
    pieces.iter().map(cost).fold((0.0, ""), |worst, one| if one.0 > worst.0 { one } else { worst })
}
