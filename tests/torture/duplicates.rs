//! Deliveries whose answer is lost at every place between ClickHouse and the agent, and that are made again through another gateway.
//!
//! The senders speak as agents do, so that faults fall where they are meant to: identity, date, and what a repetition says of itself. Each
//! cycle breaks one thing under a few deliveries at once and repeats them until they are acknowledged. In the end every record is
//! there once: in the tables, and in what the views count. Where ClickHouse itself is killed in the middle of an insert, views
//! may lack rows that the table has; that is counted apart, and never may they have one twice.

use crate::otlp::{self, PROTOBUF, Signal, attribute, error_span, spans};
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Gateway, GatewayConfig, Key, Link, Store, StoreConfig, until, within};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics,
    exponential_histogram_data_point::Buckets, metric::Data,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use rustix::process::Signal as UnixSignal;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Deliveries of a cycle, and records of one.
const DELIVERIES: u64 = 24;
const RECORDS: u64 = 20;
/// A sender gives an attempt up after this.
const ATTEMPT: Duration = Duration::from_millis(2_000);
/// Before it is repeated, where no gateway says when.
const PAUSE: Duration = Duration::from_millis(200);
/// Shorter than is usual, so that cycles are; long enough that ClickHouse breaks off no insert for want of time.
const TERMS: &[(&str, &str)] = &[
    ("batch.wait_ms", "50"),
    ("batch.begin_within_ms", "500"),
    ("clickhouse.connect_timeout_ms", "200"),
    ("clickhouse.insert_timeout_ms", "5000"),
];
/// A delivery that is repeated for so long is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// Every so many cycles ClickHouse is killed instead.
const STORE_EVERY: u64 = 8;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Answers of ClickHouse to the first gateway are swallowed.
    AnswerToGateway,
    /// Answers of the first gateway to the sender are swallowed.
    AnswerToSender,
    /// The first gateway is killed.
    GatewayKilled,
    /// The first gateway stands still, and goes on once everything was repeated.
    GatewayStopped,
}

const FAULTS: [Fault; 4] = [Fault::AnswerToGateway, Fault::AnswerToSender, Fault::GatewayStopped, Fault::GatewayKilled];

/// Two gateways on one ClickHouse, the first behind wires that can be broken.
struct Site {
    to_store: Link,
    to_first: Link,
    first: Gateway,
    second: Gateway,
    key: Key,
    database: String,
    sequence: u64,
}

/// One batch.
struct Delivery {
    signal: Signal,
    sequence: u64,
    body: Vec<u8>,
}

/// The gateways' clock, as an agent keeps it.
#[derive(Default)]
struct Clock(Mutex<Option<(u64, Instant)>>);

pub(crate) fn run(run: &Run<'_>) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("once")?;
    let mut site = Site::start(run, &world.folder().join("shared"), run.store()?, world.database())?;
    let mut own: Option<(tempfile::TempDir, Store, Site)> = None;
    for cycle in run.cycles() {
        run.progress(cycle.number, "");
        if cycle.number % STORE_EVERY == STORE_EVERY - 1 {
            if own.is_none() {
                let folder = tempfile::tempdir()?;
                let store = StoreConfig::new(&folder.path().join("store"))?.start(run.binaries())?;
                let site = Site::start(run, &folder.path().join("site"), &store, "torture_duplicates_own")?;
                own = Some((folder, store, site));
            }
            if let Some((_, store, site)) = &mut own {
                kill_the_store(cycle, store, site, &mut report)?;
            }
        } else {
            // Whichever cycles run, each has its fault.
            let fault = FAULTS[(cycle.number % STORE_EVERY % FAULTS.len() as u64) as usize];
            site.cycle(cycle, fault, &mut report)?;
        }
    }
    site.judge(run.store()?, true, &mut report)?;
    if let Some((_, store, site)) = &own {
        site.judge(store, false, &mut report)?;
    }
    Ok(report)
}

impl Site {
    fn start(run: &Run<'_>, folder: &Path, store: &Store, database: &str) -> Result<Site> {
        let to_store = Link::to_port(store.port())?;
        let terms = |config: GatewayConfig| TERMS.iter().fold(config, |config, (key, value)| config.set(key, value));
        let first =
            GatewayConfig::new(&folder.join("first"), &format!("http://127.0.0.1:{}", to_store.port()), database)?;
        let keys = first.folder.join("keys.toml");
        let mut first = terms(first).start(run.binaries())?;
        first.wait_until_the_schema_is_there()?;
        let key = first.new_key("acme")?;
        let second = GatewayConfig::new(&folder.join("second"), &store.url(), database)?;
        let second = terms(second).set("keys.file", &format!("{keys:?}"));
        let mut second = second.start(run.binaries())?;
        second.wait_until_the_schema_is_there()?;
        let to_first = Link::to_port(first.config().ports[1])?;
        Ok(Site { to_store, to_first, first, second, key, database: database.to_owned(), sequence: 0 })
    }

    /// Break one thing, and repeat what it hit through the other gateway.
    fn cycle(&mut self, mut cycle: Cycle, fault: Fault, report: &mut Report) -> Result<()> {
        let deliveries = self.deliveries();
        let moment = Duration::from_millis(cycle.random.u64(0..200));
        let known = self.known()?;
        let (clock, first) = (Clock::default(), format!("http://127.0.0.1:{}", self.to_first.port()));
        let second = self.second.http();
        clock.hear(&self.second, &self.key)?;
        match fault {
            Fault::AnswerToGateway => self.to_store.swallow_answers(cycle.random.usize(1..4)),
            Fault::AnswerToSender => self.to_first.swallow_answers(deliveries.len()),
            _ => {}
        }
        let key = self.key.clone();
        std::thread::scope(|scope| -> Result<()> {
            let senders: Vec<_> = deliveries
                .iter()
                .map(|delivery| {
                    let (clock, key, ways) = (&clock, &key, [first.as_str(), second.as_str()]);
                    scope.spawn(move || deliver(delivery, key, clock, ways))
                })
                .collect();
            match fault {
                Fault::GatewayKilled => {
                    std::thread::sleep(moment);
                    self.first.process().kill()?;
                }
                Fault::GatewayStopped => {
                    std::thread::sleep(moment);
                    self.first.process().signal(UnixSignal::STOP)?;
                }
                _ => {}
            }
            for sender in senders {
                let attempts = sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
                report.add("attempts", attempts);
            }
            Ok(())
        })?;
        self.to_store.swallow_answers(0);
        self.to_first.swallow_answers(0);
        match fault {
            Fault::GatewayKilled => self.first.restart()?,
            Fault::GatewayStopped => {
                self.first.process().signal(UnixSignal::CONT)?;
                let first = &self.first;
                until("the first gateway has nothing under way", || {
                    Ok((first.metric("ollystack_pending_bytes", &[])? == 0.0).then_some(()))
                })?;
            }
            _ => {}
        }
        report.add("answers_cut_after_commit", (self.known()? - known) as u64);
        report.add("deliveries", deliveries.len() as u64);
        Ok(())
    }

    /// Repetitions that were found to be there.
    fn known(&self) -> Result<f64> {
        self.second.metric("ollystack_redelivered_batches_total", &["outcome=\"known\""])
    }

    fn deliveries(&mut self) -> Vec<Delivery> {
        let deliveries = (0..DELIVERIES).map(|index| {
            self.sequence += 1;
            let (signal, sequence) = (Signal::ALL[(index % 3) as usize], self.sequence);
            Delivery { signal, sequence, body: body(signal, sequence) }
        });
        deliveries.collect()
    }

    /// Every record once, and every view's sums as many. `exact`: views lack nothing either.
    fn judge(&self, store: &Store, exact: bool, report: &mut Report) -> Result<()> {
        let expected = self.sequence / 3 * RECORDS;
        let count = |query: &str| -> Result<f64> {
            let text = store.sql(&query.replace("{db}", &self.database))?;
            text.parse().with_context(|| format!("`{query}` gave `{text}`"))
        };
        for signal in Signal::ALL {
            let table = signal.table();
            let rows = within(STUCK, "every record is there", || {
                let rows = count(&format!("SELECT count() FROM {{db}}.{table}"))?;
                Ok((rows >= expected as f64).then_some(rows))
            });
            let rows = rows.or_else(|_| count(&format!("SELECT count() FROM {{db}}.{table}")))? as u64;
            let wrong = format!(
                "SELECT groupArray((BatchSequence, rows, times)) FROM (SELECT BatchSequence, count() AS rows, \
                 arraySort(groupUniqArray(IngestedAt)) AS times FROM {{db}}.{table} GROUP BY BatchSequence HAVING rows != {RECORDS})"
            );
            report.must(rows == expected, || {
                let wrong = store.sql(&wrong.replace("{db}", &self.database)).unwrap_or_default();
                format!(
                    "{table}: {rows} rows of {expected} acknowledged records; (sequence, rows, taken at) that differ: {wrong}"
                )
            });
            report.add("visible_twice", rows.saturating_sub(expected));
            report.add("acknowledged_lost", expected.saturating_sub(rows));
            report.add("acknowledged", expected);
        }
        // Each view counts the records of its signals; two hear of logs and of spans.
        let views = BTreeMap::from([
            ("ingested_batches", ("SELECT toFloat64(sum(Rows)) FROM {db}.ingested_batches", 3)),
            ("error_aggregates", ("SELECT sum(Errors) FROM {db}.error_aggregates", 2)),
            ("log_patterns", ("SELECT toFloat64(sum(Lines)) FROM {db}.log_patterns", 1)),
            ("service_metrics_1m", ("SELECT sum(Requests) FROM {db}.service_metrics_1m", 1)),
        ]);
        for (view, (query, signals)) in views {
            let (counted, expected) = (count(query)? as u64, expected * signals);
            report.must(counted <= expected, || format!("{view} counts {counted}, there are {expected}"));
            report.must(!exact || counted >= expected, || format!("{view} counts {counted}, there are {expected}"));
            report.add("visible_twice_in_views", counted.saturating_sub(expected));
            let lacking = if exact { "lacking_in_views" } else { "lacking_in_views_after_a_kill_of_clickhouse" };
            report.add(lacking, expected.saturating_sub(counted));
        }
        Ok(())
    }
}

/// ClickHouse dies under inserts of both gateways, and comes back.
fn kill_the_store(mut cycle: Cycle, store: &mut Store, site: &mut Site, report: &mut Report) -> Result<()> {
    let deliveries = site.deliveries();
    let moment = Duration::from_millis(cycle.random.u64(0..250));
    let clock = Clock::default();
    clock.hear(&site.second, &site.key)?;
    let ways = [site.first.http(), site.second.http()];
    std::thread::scope(|scope| -> Result<()> {
        let senders: Vec<_> = deliveries
            .iter()
            .map(|delivery| {
                let (clock, key, ways) = (&clock, &site.key, [ways[0].as_str(), ways[1].as_str()]);
                scope.spawn(move || deliver(delivery, key, clock, ways))
            })
            .collect();
        std::thread::sleep(moment);
        store.process().kill()?;
        store.restart()?;
        for sender in senders {
            let attempts = sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
            report.add("attempts", attempts);
        }
        Ok(())
    })?;
    report.add("deliveries", deliveries.len() as u64);
    report.add("kills_of_clickhouse", 1);
    Ok(())
}

/// Repeat a delivery until it is acknowledged, through one gateway and the other in turn, as an agent would; how many attempts it took.
fn deliver(delivery: &Delivery, key: &Key, clock: &Clock, ways: [&str; 2]) -> Result<u64> {
    let begun = Instant::now();
    let mut doubtful_since: Option<Instant> = None;
    for attempt in 1.. {
        ensure!(begun.elapsed() < STUCK, "delivery {} is not acknowledged after {attempt} attempts", delivery.sequence);
        // The first way once, then mostly the other.
        let way = if attempt == 1 || attempt % 5 == 0 { ways[0] } else { ways[1] };
        let mut headers = vec![
            ("authorization", format!("Bearer {}", key.secret)),
            ("x-ollystack-agent", "70a7c0de-0000".to_owned()),
            ("x-ollystack-sequence", delivery.sequence.to_string()),
            ("x-ollystack-sent-ms", clock.now_ms().to_string()),
        ];
        let sent = Instant::now();
        if let Some(since) = doubtful_since {
            headers.push(("x-ollystack-redelivered", "1".to_owned()));
            headers.push(("x-ollystack-attempt-age-ms", since.elapsed().as_millis().to_string()));
        }
        let mut pause = PAUSE;
        match post(&format!("{way}{}", delivery.signal.path()), &headers, &delivery.body) {
            Ok((200, _)) => return Ok(attempt),
            Ok((status, answer)) => {
                ensure!(matches!(status, 429 | 503), "delivery {} was answered {status}", delivery.sequence);
                clock.told(&answer);
                let seconds = answer.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                pause = Duration::from_secs(seconds.unwrap_or(0)).max(PAUSE);
                if !answer.contains_key("x-ollystack-untouched") {
                    doubtful_since = doubtful_since.or(Some(sent));
                }
            }
            Err(Unanswered::NotSent) => {}
            Err(Unanswered::Perhaps) => doubtful_since = doubtful_since.or(Some(sent)),
        }
        std::thread::sleep(pause);
    }
    Ok(0)
}

/// Why there is no answer.
enum Unanswered {
    NotSent,
    Perhaps,
}

fn post(url: &str, headers: &[(&str, String)], body: &[u8]) -> Result<(u16, ureq::http::HeaderMap), Unanswered> {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(ATTEMPT)).proxy(None);
    let client: ureq::Agent = config.build().into();
    let mut request = client.post(url).header(PROTOBUF.0, PROTOBUF.1);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    match request.send(body) {
        Ok(response) => Ok((response.status().as_u16(), response.headers().clone())),
        Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(Unanswered::NotSent)
        }
        Err(_) => Err(Unanswered::Perhaps),
    }
}

impl Clock {
    /// Ask a gateway for it.
    fn hear(&self, gateway: &Gateway, key: &Key) -> Result<()> {
        let headers = [
            ("authorization", format!("Bearer {}", key.secret)),
            ("x-ollystack-agent", "70a7c0de-0000".to_owned()),
            ("x-ollystack-sent-ms", "0".to_owned()),
        ];
        let url = format!("{}{}", gateway.http(), Signal::Logs.path());
        until("a gateway tells its clock", || {
            let answer = post(&url, &headers, b"").ok();
            let told = answer.is_some_and(|(_, headers)| self.told(&headers));
            Ok(told.then_some(()))
        })
    }

    fn told(&self, headers: &ureq::http::HeaderMap) -> bool {
        let told = headers.get("x-ollystack-clock-ms").and_then(|value| value.to_str().ok()?.parse().ok());
        if let (Some(told), Ok(mut clock)) = (told, self.0.lock()) {
            *clock = Some((told, Instant::now()));
        }
        told.is_some()
    }

    fn now_ms(&self) -> u64 {
        let told = self.0.lock().ok().and_then(|clock| *clock);
        told.map_or(0, |(then, heard)| then + heard.elapsed().as_millis() as u64)
    }
}

/// Records of which every view counts each.
fn body(signal: Signal, sequence: u64) -> Vec<u8> {
    let ids = sequence * RECORDS..(sequence + 1) * RECORDS;
    match signal {
        Signal::Logs => {
            let pattern = || attribute("ollystack.log.pattern.id", "00000000000000aa");
            let record =
                |id| LogRecord { severity_number: 17, attributes: vec![pattern()], ..otlp::log(&format!("id {id}")) };
            otlp::log_records("torture", ids.map(record).collect())
        }
        Signal::Traces => spans("torture", ids.map(|id| error_span("torture", id)).collect()),
        Signal::Metrics => {
            let attributes =
                |id| vec![attribute("span.name", &format!("operation {id}")), attribute("span.kind", "server")];
            durations(ids.map(|id| duration(attributes(id))).collect())
        }
    }
}

/// One request, as agents count them.
fn duration(attributes: Vec<KeyValue>) -> ExponentialHistogramDataPoint {
    let now = otlp::now();
    ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano: now - 1_000_000_000,
        time_unix_nano: now,
        count: 1,
        sum: Some(0.1),
        scale: 6,
        positive: Some(Buckets { offset: -213, bucket_counts: vec![1] }),
        ..ExponentialHistogramDataPoint::default()
    }
}

fn durations(data_points: Vec<ExponentialHistogramDataPoint>) -> Vec<u8> {
    let aggregation_temporality = AggregationTemporality::Delta as i32;
    let data = Some(Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality }));
    let metrics =
        vec![Metric { name: "ollystack.span.duration".to_owned(), unit: "s".to_owned(), data, ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource = Some(Resource { attributes: vec![attribute("service.name", "torture")], ..Resource::default() });
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}
