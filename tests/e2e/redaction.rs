//! No secret that an application logs, sends or is started with reaches the agent's disk or ClickHouse, whichever field it is in;
//! what stands in its place does. Meanwhile the gateway is away, so that the disk holds everything once.

use crate::otlp::{PROTOBUF, Signal, attribute, error_span, log, now};
use anyhow::{Context, Result, ensure};
use ollystack_buffer::{Buffer, Loss, Observer, Options};
use ollystack_tests::{Agent, Link, Outcome, World, until};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics, exemplar,
    metric::Data,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span, Status, span::Event, span::Link as SpanLink,
};
use prost::Message;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Parts of the secrets of [`planted`], and of the process that is started.
const CANARIES: [&str; 7] = [
    "4111111111111111",
    "CANARYCANARY2345",
    "bearerCanary0123",
    "hunter2canary",
    "CAnaryCAnaryCAnary",
    "sesameCanary",
    "argumentCanary",
];

/// Where a text of [`planted`] goes, for each signal.
const LOGS: [&str; 8] = ["file", "body", "log", "event", "severity", "scope", "scopename", "resource"];
const TRACES: [&str; 8] = ["name", "span", "eventname", "event", "link", "status", "scope", "resource"];
const METRICS: [&str; 6] = ["name", "description", "series", "exemplar", "scope", "resource"];

/// A text with one secret of each kind. In pieces, so that this file holds nobody's key.
fn planted(signal: &str, place: &str) -> String {
    let key = ["AKIA", "CANARYCANARY2345"].concat();
    let private = ["-----BEGIN ", "PRIVATE KEY-----\\nCAnaryCAnaryCAnary"].concat();
    format!(
        "{signal}-{place} 4111111111111111 {key} Bearer bearerCanary0123 postgres://u:hunter2canary@db \
         password=sesameCanary {private}"
    )
}

/// What must be found of it.
fn redacted(signal: &str, place: &str) -> String {
    format!(
        "{signal}-{place} [redacted:card] [redacted:key] Bearer [redacted:token] postgres://u:[redacted:password]@db \
         password=[redacted:password] [redacted:private_key]"
    )
}

pub(crate) fn no_secret_reaches_disk_or_store(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let key = gateway.new_key("acme")?;
    let link = Link::to_port(gateway.grpc_port())?;
    link.cut()?;
    let folder = world.folder().join("logs");
    fs::create_dir(&folder)?;
    let private = ["-----BEGIN ", "PRIVATE KEY-----\nCAnaryCAnaryCAnary\n-----END PRIVATE KEY-----\n"].concat();
    fs::write(folder.join("app.log"), format!("{}\n{private}", planted("logs", "file")))?;
    let _process = with_a_secret_argument()?;

    let include = format!("[{:?}]", folder.join("*.log").display().to_string());
    let settings = [
        ("otlp.enabled", "true"),
        ("logs.enabled", "true"),
        ("logs.include", &include),
        ("logs.start_at", "\"beginning\""),
        ("host.enabled", "true"),
        ("host.slow_interval_ms", "1000"),
        ("host.processes_top", "1000"),
        ("host.processes_max", "1000"),
        ("host.process_command_line", "true"),
    ];
    let config = world.agent_to(&format!("http://127.0.0.1:{}", link.port()), &key.secret)?;
    let config = settings.into_iter().fold(config, |config, (key, value)| config.set(key, value));
    let mut agent = config.start(world.binaries())?;
    for (signal, request) in [(Signal::Logs, logs()), (Signal::Traces, traces()), (Signal::Metrics, metrics())] {
        let answer = agent.post(signal.path(), &[PROTOBUF], &request)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    until("the log file is read", || Ok((waiting(&agent, "logs")? >= 5).then_some(())))?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");

    let state = config.folder.join("state");
    for file in files(&state)? {
        holds_none(&fs::read(&file)?, &file.display().to_string())?;
    }
    let waiting = in_the_buffer(&state.join("buffer"), world.folder())?;
    holds_none(&waiting, "the buffer")?;
    let text = String::from_utf8_lossy(&waiting);
    let missing: Vec<String> = everywhere().filter(|text_there| !text.contains(text_there)).collect();
    ensure!(missing.is_empty(), "the buffer does not hold {missing:#?}");

    link.mend()?;
    agent.restart()?;
    let expected: Vec<String> = everywhere().chain(["--password=[redacted:password]".to_owned()]).collect();
    let mut missing = Vec::new();
    let rows = until("everything is in the store", || {
        let rows = everything_stored(world)?;
        missing = expected.iter().filter(|text| !rows.contains(*text)).collect();
        Ok(missing.is_empty().then_some(rows))
    });
    let rows = rows.with_context(|| format!("the store does not hold {missing:#?}"))?;
    holds_none(rows.as_bytes(), "the store")?;
    holds_none(agent.status()?.to_string().as_bytes(), "the status")?;
    holds_none(agent.process().output().as_bytes(), "the agent's log")?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

/// A process with a password among its arguments, which ends when its input does.
fn with_a_secret_argument() -> Result<Child> {
    let arguments = ["-c", "read line", "sh", "--password=argumentCanary"];
    let mut command = Command::new("sh");
    command.args(arguments).stdin(Stdio::piped()).spawn().context("no shell")
}

fn waiting(agent: &Agent, signal: &str) -> Result<u64> {
    agent.account(signal)?["waiting"]["buffer"].as_u64().context("/status has no records in the buffer")
}

/// What must be found of everything that is planted.
fn everywhere() -> impl Iterator<Item = String> {
    let places = [("logs", &LOGS[..]), ("traces", &TRACES[..]), ("metrics", &METRICS[..])];
    places.into_iter().flat_map(|(signal, places)| places.iter().map(move |place| redacted(signal, place)))
}

fn holds_none(bytes: &[u8], what: &str) -> Result<()> {
    let holds = |canary: &&str| bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
    let found: Vec<_> = CANARIES.iter().filter(|canary| holds(canary)).collect();
    ensure!(found.is_empty(), "{what} holds {found:?}");
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

struct Unobserved;

impl Observer for Unobserved {
    fn lost(&self, _: u8, _: u64, _: u64, _: Loss) {}
}

/// Everything that waits in a buffer, decompressed; read from a copy, so that the buffer stays as it is.
fn in_the_buffer(buffer: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let copy = scratch.join("buffer-copy");
    fs::create_dir(&copy)?;
    for file in files(buffer)? {
        fs::copy(&file, copy.join(file.file_name().context("a file without a name")?))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (buffer, _) = Buffer::open(Options::new(copy), Arc::new(Unobserved))?;
        let mut all = Vec::new();
        while let Some(stored) = buffer.next().await? {
            // Not all may be compressed, and what is not is searched as it is.
            match zstd::decode_all(stored.entry.payload.as_ref()) {
                Ok(plain) => all.extend(plain),
                Err(_) => all.extend_from_slice(&stored.entry.payload),
            }
        }
        buffer.close().await;
        Ok(all)
    })
}

/// Every column of every table that holds text. What ClickHouse fills to replace a table with comes and goes meanwhile.
fn everything_stored(world: &World) -> Result<String> {
    let columns = world.sql(
        "SELECT table, arrayStringConcat(groupArray(concat('toString(', \
         if(type LIKE 'AggregateFunction%', 'finalizeAggregation', ''), '(`', name, '`))')), ', ') FROM system.columns \
         WHERE database = '{db}' AND type LIKE '%String%' AND table IN (SELECT name FROM system.tables \
         WHERE database = '{db}' AND engine LIKE '%MergeTree' AND name NOT LIKE '.tmp%') GROUP BY table FORMAT TSVRaw",
    )?;
    let mut all = String::new();
    for line in columns.lines() {
        let (table, columns) = line.split_once('\t').with_context(|| format!("no columns in {line}"))?;
        all.push_str(&world.sql(&format!("SELECT {columns} FROM {{db}}.`{table}` FORMAT TSVRaw"))?);
        all.push('\n');
    }
    Ok(all)
}

fn scope(signal: &str) -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: planted(signal, "scopename"),
        attributes: vec![attribute("canary", &planted(signal, "scope"))],
        ..InstrumentationScope::default()
    })
}

fn resource(signal: &str) -> Option<Resource> {
    let attributes = vec![attribute("service.name", "canary"), attribute("canary", &planted(signal, "resource"))];
    Some(Resource { attributes, ..Resource::default() })
}

fn logs() -> Vec<u8> {
    let planted = |place| planted("logs", place);
    let record = LogRecord {
        attributes: vec![attribute("canary", &planted("log"))],
        event_name: planted("event"),
        severity_text: planted("severity"),
        ..log(&planted("body"))
    };
    let scope_logs = vec![ScopeLogs { scope: scope("logs"), log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource("logs"), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

fn traces() -> Vec<u8> {
    let planted = |place| planted("traces", place);
    let attributes = |place| vec![attribute("canary", &planted(place))];
    let other = error_span("other", 2);
    let span = Span {
        attributes: attributes("span"),
        events: vec![Event {
            name: planted("eventname"),
            time_unix_nano: now(),
            attributes: attributes("event"),
            ..Event::default()
        }],
        links: vec![SpanLink {
            trace_id: other.trace_id,
            span_id: other.span_id,
            attributes: attributes("link"),
            ..SpanLink::default()
        }],
        // Failed: sampling keeps it.
        status: Some(Status { message: planted("status"), code: 2 }),
        ..error_span(&planted("name"), 1)
    };
    let scope_spans = vec![ScopeSpans { scope: scope("traces"), spans: vec![span], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: resource("traces"), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn metrics() -> Vec<u8> {
    let planted = |place| planted("metrics", place);
    let exemplar = Exemplar {
        filtered_attributes: vec![attribute("canary", &planted("exemplar"))],
        time_unix_nano: now(),
        value: Some(exemplar::Value::AsDouble(1.0)),
        ..Exemplar::default()
    };
    let point = HistogramDataPoint {
        attributes: vec![attribute("canary", &planted("series"))],
        start_time_unix_nano: now() - 1_000_000_000,
        time_unix_nano: now(),
        count: 1,
        sum: Some(1.0),
        bucket_counts: vec![1, 0],
        explicit_bounds: vec![2.0],
        exemplars: vec![exemplar],
        ..HistogramDataPoint::default()
    };
    let aggregation_temporality = AggregationTemporality::Delta as i32;
    let metric = Metric {
        name: planted("name"),
        description: planted("description"),
        unit: "1".to_owned(),
        data: Some(Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality })),
        ..Metric::default()
    };
    let scope_metrics =
        vec![ScopeMetrics { scope: scope("metrics"), metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: resource("metrics"), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}
