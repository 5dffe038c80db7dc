//! kill -9 at random moments, of the agent and of the gateway, under load from all sides: what was acknowledged is there once, in
//! tables and in views.
//!
//! Two worlds side by side. In one the agent is killed: it takes logs, spans and metrics by OTLP and reads log files, some of whose lines
//! go out whole and some in counts. In the other the gateway is: it takes logs and spans by OTLP, and an agent sends to it that is
//! never killed. What an agent acknowledges of spans and samples it keeps in memory: that may be lost with it, as far as it counts
//! it as lost, and shows once.

use crate::oracle::Oracle;
use crate::otlp::{self, PROTOBUF, Signal};
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, AgentConfig, Key, World, post, until, within};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Records of a request: many, so that millions of them fit into minutes.
const RECORDS: u64 = if cfg!(debug_assertions) { 200 } else { 2_000 };
/// Requests of one sender between two kills at most. Who is killed twice a second delivers little: what a thousand kills leave waiting must
/// fit on the agent's disk, or what was acknowledged is evicted, as it should be.
const REQUESTS: u64 = 2;
/// Lines of a write to a log file: one in so many is an error.
const LINES: u64 = 50;
const ERROR_EVERY: u64 = 5;
/// Between two writes or requests, and after a refusal.
const PAUSE: Duration = Duration::from_millis(20);
/// Requests and lines go on for so long at most before the kill.
const LOAD_MS: u64 = 600;
/// A process serves again within.
const SERVING: Duration = Duration::from_secs(5);
/// Until what waits is delivered: after a thousand kills millions of records, on a machine that may have other work.
const DRAIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 3_600 });

/// What a torture of one process gives, to be put together.
type Outcome = Result<Report>;

pub(crate) fn run(run: &Run) -> Result<Report> {
    let worlds = [run.world("agent")?, run.world("gateway")?];
    let cycles: Vec<Cycle> = run.cycles().collect();
    let other: Vec<Cycle> = run.cycles().collect();
    let (first, second) = std::thread::scope(|scope| {
        let agents = scope.spawn(|| agent(&worlds[0], cycles));
        let gateways = gateway(&worlds[1], other);
        (agents.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the torture of the agent panicked"))), gateways)
    });
    let mut report = Report::default();
    for (outcome, world) in [(first, &worlds[0]), (second, &worlds[1])] {
        report.merge(outcome.with_context(|| world.logs())?);
    }
    Ok(report)
}

/// Sends requests of one signal, one after the other, until told to stop.
struct Load<'a> {
    oracle: &'a Oracle,
    signal: Signal,
    url: String,
    key: Option<&'a Key>,
    /// Whether a success answer is an obligation to store, whatever happens.
    is_firm: bool,
    /// How many kills there were, of which each allows some requests.
    kills: &'a AtomicU64,
    acknowledged: AtomicU64,
}

impl Load<'_> {
    fn run(&self, stop: &AtomicBool) {
        let authorization = self.key.map(|key| format!("Bearer {}", key.secret));
        let mut headers = vec![PROTOBUF];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        let url = format!("{}{}", self.url, self.signal.path());
        while !stop.load(Relaxed) {
            let allowed = (self.kills.load(Relaxed) + 1) * REQUESTS * RECORDS;
            if self.acknowledged.load(Relaxed) < allowed {
                let ids = self.oracle.allot(self.signal, RECORDS);
                // Otherwise it was killed, starting, or full.
                if post(&url, &headers, &self.oracle.body(ids)).is_ok_and(|answer| answer.status == 200) {
                    self.acknowledged.fetch_add(ids.count, Relaxed);
                    if self.is_firm {
                        self.oracle.acknowledged(ids);
                    }
                }
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A log file that grows and is rotated now and then, whatever becomes of its reader.
struct Writer {
    path: PathBuf,
    lines: AtomicU64,
}

impl Writer {
    fn run(&self, stop: &AtomicBool) -> Result<()> {
        let (mut file, mut number) = (File::create(&self.path)?, 0);
        while !stop.load(Relaxed) {
            let text: String = (number..number + LINES).map(file_line).collect();
            file.write_all(text.as_bytes())?;
            number += LINES;
            self.lines.store(number, Relaxed);
            if number.is_multiple_of(100 * LINES) {
                std::fs::rename(&self.path, self.path.with_extension(format!("log.{number}")))?;
                file = File::create(&self.path)?;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn errors(&self) -> u64 {
        self.lines.load(Relaxed).div_ceil(ERROR_EVERY)
    }
}

/// An error goes out whole, what repeats in counts.
fn file_line(number: u64) -> String {
    match number.is_multiple_of(ERROR_EVERY) {
        true => format!("ERROR failure {number} of steady\n"),
        false => format!("INFO served request {number} of steady\n"),
    }
}

/// Samples of a level that always moves, and a total that grows, until told to stop.
struct Meter {
    url: String,
    start: u64,
    /// Tried, and acknowledged.
    samples: AtomicU64,
    acknowledged: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    fn run(&self, stop: &AtomicBool) {
        let url = format!("{}{}", self.url, Signal::Metrics.path());
        while !stop.load(Relaxed) {
            let (samples, total) = (self.samples.load(Relaxed), self.total.load(Relaxed));
            let took = |body: &[u8]| post(&url, &[PROTOBUF], body).is_ok_and(|answer| answer.status == 200);
            // Sent and not answered may have arrived: counted as sent.
            self.samples.store(samples + 1, Relaxed);
            if took(&otlp::gauge("metered", "torture.level", samples as f64)) {
                self.acknowledged.fetch_add(1, Relaxed);
            }
            if took(&otlp::total("metered", "torture.total", self.start, (total + 7) as f64)) {
                self.total.store(total + 7, Relaxed);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn agent(world: &World<'_>, cycles: Vec<Cycle>) -> Outcome {
    let mut report = Report::default();
    let mut gateway = world.gateway()?.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let folder = world.folder().join("log");
    std::fs::create_dir(&folder)?;
    let mut agent = tortured(world.agent(&gateway, "acme")?, &folder).start(world.binaries())?;
    let (oracle, stop, kills) = (Oracle::new("killed-agent"), AtomicBool::new(false), AtomicU64::new(0));
    let load = |signal, is_firm| Load {
        oracle: &oracle,
        signal,
        url: agent.http(),
        key: None,
        is_firm,
        kills: &kills,
        acknowledged: AtomicU64::new(0),
    };
    let (logs, traces) = (load(Signal::Logs, true), load(Signal::Traces, false));
    let writer = Writer { path: folder.join("steady.log"), lines: AtomicU64::new(0) };
    let zero = || AtomicU64::new(0);
    let meter = Meter { url: agent.http(), start: otlp::now(), samples: zero(), acknowledged: zero(), total: zero() };
    let killed = std::thread::scope(|scope| {
        let written = scope.spawn(|| writer.run(&stop));
        scope.spawn(|| logs.run(&stop));
        scope.spawn(|| traces.run(&stop));
        scope.spawn(|| meter.run(&stop));
        let killed: Result<()> = cycles.into_iter().try_for_each(|mut cycle| {
            std::thread::sleep(Duration::from_millis(cycle.random.u64(..LOAD_MS)));
            agent.process().kill()?;
            let begin = Instant::now();
            agent.restart().with_context(|| format!("cycle {}", cycle.number))?;
            serving_again("agent", begin, &mut report);
            kills.fetch_add(1, Relaxed);
            Ok(())
        });
        stop.store(true, Relaxed);
        written.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the writer panicked"))).and(killed)
    });
    killed?;
    // A stop hands out what windows hold, and what is left on disk goes with the next start.
    ensure!(agent.stop()?.success(), "the agent did not stop in order");
    agent.restart()?;
    drained(&agent)?;
    oracle.judge(world, &mut report)?;
    until("every line of the file is there", || {
        let (errors, lines) = stored_lines(world)?;
        Ok((errors.1 >= writer.errors() && lines >= writer.lines.load(Relaxed)).then_some(()))
    })
    .or_else(|error| {
        report.violation(format!("{error:#}"));
        Ok::<(), anyhow::Error>(())
    })?;
    let ((rows, distinct), lines) = stored_lines(world)?;
    let (written, errors) = (writer.lines.load(Relaxed), writer.errors());
    report.figure("file_lines", written);
    report.must(rows == distinct, || format!("{} error lines of the file show twice", rows - distinct));
    report.must(distinct == errors, || format!("{distinct} of {errors} error lines of the file are there"));
    report.must(lines == written, || format!("rows stand for {lines} lines of the file, written were {written}"));
    judge_memory(world, &agent, &traces, &meter, &mut report)?;
    views_agree(world, &mut report)?;
    agent.ledger_closes()?;
    ensure!(agent.stop()?.success(), "the agent did not stop in order");
    Ok(report)
}

/// What an agent acknowledges into memory: never twice, and what is missing is counted.
fn judge_memory(world: &World<'_>, agent: &Agent, traces: &Load<'_>, meter: &Meter, report: &mut Report) -> Result<()> {
    let crashed = |signal| -> Result<u64> {
        agent.account_in_all(signal)?["dropped"]["crash"].as_u64().context("/status has no drops by crash")
    };
    let spans = world.count("SELECT uniqExact(SpanId) FROM {db}.traces_raw WHERE ServiceName = 'killed-agent'")?;
    let (acknowledged, lost) = (traces.acknowledged.load(Relaxed), crashed("traces")?);
    report.figure("spans_acknowledged_into_memory", acknowledged);
    report.figure("spans_counted_as_crash", lost);
    report.must(spans + lost >= acknowledged, || {
        format!("{acknowledged} spans were acknowledged, {spans} are there and only {lost} counted as crash")
    });
    let of = |what: &str, name: &str| {
        world.count(&format!("SELECT toUInt64(sum({what})) FROM {{db}}.metrics_raw WHERE MetricName = '{name}'"))
    };
    let (samples, sent) = (of("Count", "torture.level")?, meter.samples.load(Relaxed));
    let acknowledged = meter.acknowledged.load(Relaxed);
    report.must(samples <= sent, || format!("{samples} samples of {sent} are there: some twice"));
    let crashed_points = crashed("metrics")?;
    report.must(samples >= acknowledged || crashed_points > 0, || {
        format!("{} samples are missing and nothing is counted as lost", acknowledged - samples)
    });
    let (total, last) = (of("Value", "torture.total")?, meter.total.load(Relaxed) + 7);
    report.must(total <= last, || format!("a total of {last} became {total}"));
    report.figure("samples_acknowledged_into_memory", acknowledged);
    report.figure("samples_there", samples);
    Ok(())
}

fn gateway(world: &World<'_>, cycles: Vec<Cycle>) -> Outcome {
    let mut report = Report::default();
    let mut gateway = world.gateway()?.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    let mut agent = world.agent(&gateway, "acme")?.set("otlp.enabled", "true").start(world.binaries())?;
    let (direct, through, stop) =
        (Oracle::new("killed-gateway"), Oracle::new("agent-before-it"), AtomicBool::new(false));
    let kills = AtomicU64::new(0);
    let load = |oracle, signal, url, key| Load {
        oracle,
        signal,
        url,
        key,
        is_firm: true,
        kills: &kills,
        acknowledged: AtomicU64::new(0),
    };
    let loads = [Signal::Logs, Signal::Traces]
        .map(|signal| [load(&direct, signal, gateway.http(), Some(&key)), load(&through, signal, agent.http(), None)]);
    let killed = std::thread::scope(|scope| {
        for load in loads.iter().flatten() {
            scope.spawn(|| load.run(&stop));
        }
        let killed: Result<()> = cycles.into_iter().try_for_each(|mut cycle| {
            std::thread::sleep(Duration::from_millis(cycle.random.u64(..LOAD_MS)));
            gateway.process().kill()?;
            let begin = Instant::now();
            gateway.restart().with_context(|| format!("cycle {}", cycle.number))?;
            serving_again("gateway", begin, &mut report);
            kills.fetch_add(1, Relaxed);
            Ok(())
        });
        stop.store(true, Relaxed);
        killed
    });
    killed?;
    drained(&agent)?;
    within(DRAIN, "the gateway has written what it took", || {
        let status = gateway.status()?;
        let signals = status["signals"].as_array().context("/status has no ledger")?;
        let waiting = |place: &str| signals.iter().all(|account| account["waiting"][place] == 0);
        Ok((waiting("memory") && waiting("spill")).then_some(()))
    })?;
    direct.judge(world, &mut report)?;
    through.judge(world, &mut report)?;
    views_agree(world, &mut report)?;
    agent.ledger_closes()?;
    ensure!(agent.stop()?.success() && gateway.stop()?.success(), "they did not stop in order");
    Ok(report)
}

/// Short windows, so that kills fall into every moment of theirs.
fn tortured(config: AgentConfig, folder: &Path) -> AgentConfig {
    let glob = format!("[{:?}]", folder.join("*.log*").display().to_string());
    let config = config.set("otlp.enabled", "true").set("logs.enabled", "true").set("logs.include", &glob);
    let config = config.set("logs.start_at", "\"beginning\"").set("logs.poll_interval_ms", "200");
    config.set("patterns.enabled", "true").set("patterns.window_ms", "1000").set("metrics.checkpoint_ms", "300")
}

fn serving_again(name: &str, begin: Instant, report: &mut Report) {
    let took = begin.elapsed();
    report.add(&format!("kills_of_the_{name}"), 1);
    report.most(&format!("{name}_serves_again_ms_max"), took.as_millis() as u64);
    // Unoptimised, beside everything else of the gate, it may take what it takes.
    report.must(cfg!(debug_assertions) || took <= SERVING, || format!("the {name} took {took:?} to serve again"));
}

/// Waits until the agent holds nothing any more but what its windows do.
pub(crate) fn drained(agent: &Agent) -> Result<()> {
    within(DRAIN, "the agent has sent all it has", || {
        let waiting = |signal| -> Result<i64> {
            let waiting = agent.account(signal)?["waiting"].clone();
            Ok(["queue", "sampler", "freezer", "buffer"].iter().filter_map(|place| waiting[place].as_i64()).sum())
        };
        Ok((waiting("logs")? == 0 && waiting("traces")? == 0).then_some(()))
    })
}

/// Error lines of the file, and how many of them are different; and how many lines all its rows stand for.
fn stored_lines(world: &World<'_>) -> Result<((u64, u64), u64)> {
    let of_file = "FROM {db}.logs_raw WHERE ServiceName = 'steady'";
    let errors = format!("{of_file} AND startsWith(Body, 'ERROR')");
    Ok((
        (world.count(&format!("SELECT count() {errors}"))?, world.count(&format!("SELECT uniqExact(Body) {errors}"))?),
        world.count(&format!("SELECT sum(LineCount) {of_file}"))?,
    ))
}

/// A view counts what is in the table, and each once; of what was never acknowledged the table may have more.
pub(crate) fn views_agree(world: &World<'_>, report: &mut Report) -> Result<()> {
    let view = world.count("SELECT toUInt64(sum(Errors)) FROM {db}.error_aggregates")?;
    let table = world.count("SELECT sum(LineCount) FROM {db}.logs_raw WHERE SeverityNumber >= 17")?
        + world.count("SELECT toUInt64(sum(SampleWeight)) FROM {db}.traces_raw WHERE StatusCode = 'Error'")?;
    let open = report.count("delivered_without_acknowledgement");
    report.must(view <= table && table <= view + open, || {
        format!("a view counts {view} errors, the table has {table}, of which {open} were not acknowledged")
    });
    Ok(())
}
