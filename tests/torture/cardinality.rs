//! Everything that grows with what others send, at once: series, attributes, long values, operations, services, patterns, histograms,
//! from senders that obey nobody, with every input on; then a full backlog behind a slow endpoint.
//!
//! After each cycle, and at every moment in between: resident memory and kernel maps are below the agent's grant. In the end: what went
//! past a limit is counted, the ledger closes, what was sent is what the endpoint counted, and an honest record still passes.

use crate::otlp::{PROTOBUF, attribute, log, log_records, now, span, spans};
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::sink::Sink;
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ollystack_tests::{Agent, AgentConfig, MemoryWatch, until};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Of one cycle; fifty of them are the full run: a million series, and as many operations and patterns.
const SERIES: usize = 20_000;
const SERIES_PER_REQUEST: usize = 4_000;
const NAMES_PER_REQUEST: usize = 4_000;
const ATTRIBUTES: usize = 10_000;
const LONG_BYTES: usize = 1 << 20;
const BUCKETS: usize = 1_000;
/// A sender that is turned away comes back at once, this often; then this soon, for this long.
const TRIES: usize = 3;
const TOO_SOON: Duration = Duration::from_millis(100);
const HEARD_WITHIN: Duration = Duration::from_secs(30);
const SENDERS: usize = 4;
/// What waits on disk at the restart, for each cycle and at most: the whole of the default buffer.
const BACKLOG_BYTES_PER_CYCLE: u64 = 8 << 20;
const BACKLOG_BYTES_MAX: u64 = 256 << 20;
/// From its start to its answer.
const SERVING_MAX: Duration = Duration::from_secs(5);

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    bombs(run, &runtime, &mut report)?;
    backlog(run, &runtime, &mut report)?;
    Ok(report)
}

/// An agent as it comes, every input on, and the endpoint it sends to.
struct Stage {
    agent: Agent,
    sink: Sink,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn start(run: &Run, runtime: &Runtime, settings: &[(&str, String)]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ollystack-torture-").tempdir()?;
        let (sink, address) = runtime.block_on(Sink::start())?;
        let mut config = AgentConfig::new(&folder.path().join("agent"), &format!("http://{address}"), "olly_torture")?
            .set("export.retry_max_ms", "500")
            .set("export.batch_interval_ms", "50")
            .set("patterns.answer_ms", "50")
            .set("metrics.window_ms", "2000")
            .set("metrics.first_window_ms", "1000")
            .set("metrics.checkpoint_ms", "1000")
            .set("logs.include", &format!("[\"{}/log/*.log\"]", folder.path().display()));
        for (key, value) in settings {
            config = config.set(key, value);
        }
        Ok(Self { agent: config.start(run.binaries())?, sink, _folder: folder })
    }

    /// The grant, and what of it the kernel holds for maps.
    fn limit_and_maps(&self) -> Result<(u64, u64)> {
        let memory = self.agent.status()?["memory"].clone();
        let number = |field: &str| memory[field].as_u64().with_context(|| format!("/status has no memory.{field}"));
        Ok((number("limit_bytes")?, number("map_bytes")?))
    }

    /// What was ever resident, and the maps, are within the grant.
    fn within_the_grant(&self, watch: &MemoryWatch, when: &str, report: &mut Report) -> Result<()> {
        let (limit, maps) = self.limit_and_maps()?;
        let taken = watch.rss_bytes_peak() + maps;
        report.most("memory_bytes_max", taken);
        report.figure("memory_bytes_granted", limit);
        report.must(taken <= limit, || format!("{when}: {taken} bytes of memory, {limit} are granted"));
        Ok(())
    }

    /// Everything that was taken has left, was dropped for a reason, or is accounted for where it waits; and the endpoint counted
    /// what the ledger says was sent.
    fn books_agree(&mut self, report: &mut Report) -> Result<()> {
        self.agent.ledger_closes()?;
        let mut last = String::new();
        let agreed = until("the ledger and the endpoint agree", || {
            let status = self.agent.status()?;
            let sent: Vec<u64> = status["signals"]
                .as_array()
                .context("no ledger")?
                .iter()
                .filter_map(|account| account["sent"].as_u64())
                .collect();
            let counted = self.sink.counted().records;
            last = format!("sent {sent:?}, counted {counted:?}");
            Ok((sent == counted).then_some(()))
        });
        report.must(agreed.is_ok(), || format!("the endpoint counted otherwise: {last}"));
        Ok(())
    }

    /// One honest line goes the whole way.
    fn an_honest_record_passes(&self, report: &mut Report) -> Result<()> {
        let mut record = log("a line that nobody has seen before");
        record.severity_number = 17;
        let body = log_records("honest", vec![record]);
        let passes = until("an honest record passes", || {
            Ok((self.agent.post("/v1/logs", &[PROTOBUF], &body)?.status == 200).then_some(()))
        });
        let arrived = passes
            .and_then(|()| until("it arrives", || Ok(self.sink.counted().lines.contains_key("honest").then_some(()))));
        report.must(arrived.is_ok(), || format!("no honest record passes any more: {arrived:?}"));
        Ok(())
    }
}

fn bombs(run: &Run, runtime: &Runtime, report: &mut Report) -> Result<()> {
    let mut stage = Stage::start(run, runtime, &[])?;
    let watch = MemoryWatch::start(stage.agent.process().id());
    let (taken, turned_away, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    for mut cycle in run.cycles() {
        run.progress(cycle.number, "bombs");
        let requests = Requests::of(&mut cycle);
        std::thread::scope(|scope| {
            for sender in 0..SENDERS {
                let mine = requests.0.iter().skip(sender).step_by(SENDERS);
                let (agent, taken, turned_away, failed) = (&stage.agent, &taken, &turned_away, &failed);
                scope.spawn(move || {
                    for (path, body) in mine {
                        send(agent, path, body, taken, turned_away, failed);
                    }
                });
            }
        });
        stage.agent.process().must_run()?;
        stage.within_the_grant(
            &watch,
            &format!("after cycle {}, {}", cycle.number, run.replay_of(cycle.number)),
            report,
        )?;
    }
    report.figure("requests_taken", taken.into_inner());
    report.figure("requests_turned_away", turned_away.into_inner());
    let failed = failed.into_inner();
    report.must(failed == 0, || format!("{failed} requests without an answer"));
    stage.books_agree(report)?;
    let status = stage.agent.status()?;
    let fold = &status["stages"]["process"]["fold"];
    report.figure("samples_overflowed", fold["overflowed"].clone());
    report.figure("guard", status["guard"].clone());
    let dropped = stage.agent.account("metrics")?["dropped"]["series_limit"].as_u64().unwrap_or(0);
    report.figure("samples_dropped_series_limit", dropped);
    let overflowed = fold["overflowed"].as_u64().unwrap_or(0);
    report.must(overflowed + dropped > 0, || "20,000 new series a cycle went past no limit".to_owned());
    stage.an_honest_record_passes(report)?;
    stage.within_the_grant(&watch, "in the end", report)
}

/// Not as it is told: turned away, it comes back at once, and then much sooner than it should, until it is heard: on a slow machine
/// the agent's share of CPU turns most of them away, and what is never heard bombs nothing.
fn send(agent: &Agent, path: &str, body: &[u8], taken: &AtomicU64, turned_away: &AtomicU64, failed: &AtomicU64) {
    let deadline = Instant::now() + HEARD_WITHIN;
    for attempt in 0.. {
        match agent.post(path, &[PROTOBUF], body) {
            Ok(answer) if answer.status == 200 => {
                taken.fetch_add(1, Relaxed);
                return;
            }
            Ok(answer) if answer.status >= 400 => {
                turned_away.fetch_add(1, Relaxed);
                let for_good = !matches!(answer.status, 429 | 503);
                if for_good || Instant::now() > deadline {
                    return;
                }
            }
            _ => {
                failed.fetch_add(1, Relaxed);
                return;
            }
        }
        if attempt >= TRIES {
            std::thread::sleep(TOO_SOON);
        }
    }
}

/// A cycle's requests, each a path and a body.
struct Requests(Vec<(&'static str, Vec<u8>)>);

impl Requests {
    fn of(cycle: &mut Cycle) -> Self {
        let random = &mut cycle.random;
        let mut all = Vec::new();
        for _ in 0..SERIES / SERIES_PER_REQUEST {
            let points = (0..SERIES_PER_REQUEST).map(|_| point(vec![attribute("id", &word(random, 12))])).collect();
            all.push(("/v1/metrics", metrics("series", vec![gauge("bomb.series", points)])));
        }
        let many = |random: &mut Rng| -> Vec<KeyValue> {
            (0..ATTRIBUTES).map(|number| attribute(&format!("key.{number}"), &word(random, 8))).collect()
        };
        all.push(("/v1/metrics", metrics("attributes", vec![gauge("bomb.attributes", vec![point(many(random))])])));
        let mut record = log("ten thousand attributes");
        record.attributes = many(random);
        all.push(("/v1/logs", log_records("attributes", vec![record])));
        all.push((
            "/v1/traces",
            spans("attributes", vec![Span { attributes: many(random), ..span("many", random.u64(..1 << 40)) }]),
        ));
        let long = word(random, LONG_BYTES);
        all.push(("/v1/logs", log_records("long", vec![log(&long)])));
        let value = || vec![attribute("long", &long)];
        all.push((
            "/v1/traces",
            spans("long", vec![Span { attributes: value(), ..span(&long, random.u64(..1 << 40)) }]),
        ));
        all.push(("/v1/metrics", metrics("long", vec![gauge("bomb.long", vec![point(value())])])));
        let named = |random: &mut Rng| span(&format!("GET /{}", word(random, 10)), random.u64(..1 << 40));
        for _ in 0..SERIES / NAMES_PER_REQUEST {
            all.push(("/v1/traces", spans(&word(random, 10), (0..NAMES_PER_REQUEST).map(|_| named(random)).collect())));
            let line = |random: &mut Rng| log(&[word(random, 6), word(random, 7), word(random, 5)].join(" "));
            all.push((
                "/v1/logs",
                log_records(&word(random, 10), (0..NAMES_PER_REQUEST).map(|_| line(random)).collect()),
            ));
        }
        all.push(("/v1/metrics", metrics("histograms", vec![histograms(random)])));
        random.shuffle(&mut all);
        Self(all)
    }
}

/// Letters alone: nothing for redaction or a pattern's parameter.
fn word(random: &mut Rng, length: usize) -> String {
    std::iter::repeat_with(|| random.lowercase()).take(length).collect()
}

fn point(attributes: Vec<KeyValue>) -> NumberDataPoint {
    let value = Some(number_data_point::Value::AsDouble(1.0));
    NumberDataPoint { attributes, time_unix_nano: now(), value, ..NumberDataPoint::default() }
}

fn gauge(name: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    Metric { name: name.to_owned(), data: Some(Data::Gauge(Gauge { data_points })), ..Metric::default() }
}

/// Cumulative, each of a series of its own, a thousand buckets in each.
fn histograms(random: &mut Rng) -> Metric {
    let histogram = |random: &mut Rng| HistogramDataPoint {
        attributes: vec![attribute("id", &word(random, 12))],
        start_time_unix_nano: now() - 1_000_000_000,
        time_unix_nano: now(),
        count: BUCKETS as u64,
        sum: Some(1.0),
        bucket_counts: vec![1; BUCKETS],
        explicit_bounds: (1..BUCKETS).map(|bound| bound as f64).collect(),
        ..HistogramDataPoint::default()
    };
    let data = Histogram {
        data_points: (0..100).map(|_| histogram(random)).collect(),
        aggregation_temporality: AggregationTemporality::Cumulative as i32,
    };
    Metric { name: "bomb.histograms".to_owned(), data: Some(Data::Histogram(data)), ..Metric::default() }
}

fn metrics(service: &str, metrics: Vec<Metric>) -> Vec<u8> {
    let resource = opentelemetry_proto::tonic::resource::v1::Resource {
        attributes: vec![attribute("service.name", service)],
        ..Default::default()
    };
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// The endpoint is away until the disk buffer is as full as it gets; then the agent dies, and starts again beside an endpoint that
/// answers slowly.
fn backlog(run: &Run, runtime: &Runtime, report: &mut Report) -> Result<()> {
    let bytes_max = (run.count() * BACKLOG_BYTES_PER_CYCLE).min(BACKLOG_BYTES_MAX);
    let settings = [
        ("buffer.bytes_max", bytes_max.to_string()),
        ("buffer.segment_bytes_max", (bytes_max / 8).min(8 << 20).to_string()),
    ];
    let mut stage = Stage::start(run, runtime, &settings)?;
    stage.sink.set_away(true);
    let watch = MemoryWatch::start(stage.agent.process().id());
    let mut random = Rng::with_seed(run.seed());
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        let status = stage.agent.status()?;
        let disk_bytes = status["buffer"]["disk_bytes"].as_u64().context("no buffer in /status")?;
        let accounts = status["signals"].as_array().context("no ledger")?;
        let evicts = accounts.iter().any(|account| account["dropped"]["buffer_evicted"].as_u64() > Some(0));
        if evicts || disk_bytes > bytes_max / 10 * 9 {
            break;
        }
        ensure!(Instant::now() < deadline, "the buffer does not fill: {disk_bytes} of {bytes_max} bytes");
        let lines = (0..16).map(|_| {
            let mut record = log(&word(&mut random, 64 << 10));
            record.severity_number = 17;
            record
        });
        let body = log_records("backlog", lines.collect());
        stage.agent.post("/v1/logs", &[PROTOBUF], &body)?;
    }
    stage.within_the_grant(&watch, "while the backlog grows", report)?;
    stage.agent.process().kill()?;
    drop(watch);
    stage.sink.set_away(false);
    stage.sink.delay(Duration::from_millis(300));
    let start = Instant::now();
    stage.agent.restart()?;
    let serving = start.elapsed();
    report.figure("backlog_bytes", bytes_max);
    report.figure("backlog_serving_ms", serving.as_millis() as u64);
    report.must(serving <= SERVING_MAX, || format!("serving again after {serving:?}"));
    let watch = MemoryWatch::start(stage.agent.process().id());
    let before = stage.sink.counted().records[1];
    until("the backlog leaves", || Ok((stage.sink.counted().records[1] > before + 50).then_some(())))?;
    stage.sink.delay(Duration::ZERO);
    stage.an_honest_record_passes(report)?;
    stage.within_the_grant(&watch, "after a restart on a full backlog", report)
}
