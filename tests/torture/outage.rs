//! The gateway, or ClickHouse behind it, away for long: an hour scaled down by an agent's buffer that is full after seconds.
//!
//! In every cycle one of them goes away, work is accepted until the buffer evicts, the agent ends, in order or not, and starts on its full
//! backlog. Then the way is mended. The files never take more than their cap, memory stays within its grant, and what was
//! acknowledged is there once or counted as evicted, to the record. Of batches that were on their way when they were evicted the buffer
//! tells once they are back, so a kill leaves those few to the correction that the ledger makes at the next start.

use crate::oracle::{self, IDS_PER_REQUEST};
use crate::otlp::{self, PROTOBUF, Signal};
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use ollystack_tests::{Agent, Gateway, Key, Link, World, post, within};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The smallest there is.
const BUFFER_BYTES_MAX: u64 = 4 << 20;
/// Records of a request, and what makes each as large as this, compressed.
const RECORDS: u64 = 200;
const FILLER_BYTES: usize = 400;
/// Requests of one outage until something is evicted, at most.
const REQUESTS_MAX: u64 = 400;
/// Requests after that.
const REQUESTS_MORE: u64 = 10;
/// Batches on their way at a time, by default.
const IN_FLIGHT_MAX: u64 = 4;
/// The grant by default.
const MEMORY_BYTES_MAX: u64 = 100 << 20;
/// Twice as long as the agent takes to write down what it counted.
const BOOKED: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_secs(120);

/// Who is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    Gateway,
    ClickHouse,
}

struct Outage<'a> {
    world: &'a World<'a>,
    gateway: Gateway,
    key: Key,
    agent: Agent,
    to_gateway: Link,
    to_clickhouse: Link,
    filler: Rng,
    /// Requests so far: each has its own ids.
    requests: u64,
    /// Records that the agent, and the gateway itself, took.
    acknowledged: u64,
    plain: u64,
    kills: u64,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("outage")?;
    let mut outage = Outage::begin(&world, run.seed())?;
    for cycle in run.cycles() {
        run.progress(cycle.number, "outages");
        let number = cycle.number;
        outage.strike(cycle, &mut report).with_context(|| format!("{}\n{}", run.replay_of(number), world.logs()))?;
    }
    outage.judge(&mut report)?;
    Ok(report)
}

impl<'a> Outage<'a> {
    fn begin(world: &'a World<'a>, seed: u64) -> Result<Outage<'a>> {
        let to_clickhouse = world.link_to_store()?;
        let config = world.gateway_behind(&format!("http://127.0.0.1:{}", to_clickhouse.port()))?;
        let mut gateway = config.set("clickhouse.connect_timeout_ms", "500").start(world.binaries())?;
        gateway.wait_until_the_schema_is_there()?;
        let key = gateway.new_key("acme")?;
        let to_gateway = Link::to_port(gateway.grpc_port())?;
        let config = world.agent_to(&format!("http://127.0.0.1:{}", to_gateway.port()), &key.secret)?;
        let config = config.set("otlp.enabled", "true").set("buffer.bytes_max", &BUFFER_BYTES_MAX.to_string());
        let agent = config.set("buffer.segment_bytes_max", "262144").start(world.binaries())?;
        let filler = Rng::with_seed(seed);
        Ok(Outage {
            world,
            gateway,
            key,
            agent,
            to_gateway,
            to_clickhouse,
            filler,
            requests: 0,
            acknowledged: 0,
            plain: 0,
            kills: 0,
        })
    }

    fn strike(&mut self, mut cycle: Cycle, report: &mut Report) -> Result<()> {
        let away = if cycle.number.is_multiple_of(2) { Away::Gateway } else { Away::ClickHouse };
        match away {
            Away::Gateway => self.to_gateway.cut()?,
            Away::ClickHouse => self.to_clickhouse.cut()?,
        }
        let before = self.evicted()?;
        let mut more = REQUESTS_MORE;
        for request in 0.. {
            ensure!(request < REQUESTS_MAX, "{away:?} is away, and after {REQUESTS_MAX} requests nothing is evicted");
            self.send_to_agent()?;
            self.look(report)?;
            if self.evicted()? > before {
                match more.checked_sub(1) {
                    Some(less) => more = less,
                    None => break,
                }
            }
        }
        if matches!(away, Away::ClickHouse) {
            self.send_to_gateway()?;
        }
        // On a full backlog, after an end in order or without.
        self.until_booked();
        if cycle.random.bool() {
            ensure!(self.agent.stop()?.success(), "the agent did not stop in order");
        } else {
            self.agent.process().kill()?;
            self.kills += 1;
        }
        self.agent.restart()?;
        self.look(report)?;
        match away {
            Away::Gateway => self.to_gateway.mend()?,
            Away::ClickHouse => self.to_clickhouse.mend()?,
        }
        within(DRAIN, "the backlog is sent", || {
            self.look(report)?;
            Ok((self.agent.account("logs")?["waiting"]["buffer"] == 0).then_some(()))
        })?;
        report.add(&format!("outages_of_{away:?}").to_lowercase(), 1);
        self.agent.process().must_run()?;
        self.gateway.process().must_run()
    }

    /// What was evicted last is in the books on disk, too: a kill before would leave it among what they correct at the next start.
    fn until_booked(&self) {
        let (books, now) = (self.agent.config().folder.join("state/ledger"), SystemTime::now());
        // Nothing is written when all is.
        let _ = within(BOOKED, "the books are written", || Ok((books.metadata()?.modified()? > now).then_some(())));
    }

    fn send_to_agent(&mut self) -> Result<()> {
        let url = format!("{}{}", self.agent.http(), Signal::Logs.path());
        let body = self.body("outage");
        let answer = post(&url, &[PROTOBUF], &body)?;
        match answer.status {
            200 => self.acknowledged += RECORDS,
            // Its own limits hold; whoever sends is told to come back.
            429 | 503 => ensure!(answer.header("retry-after").is_some(), "refused without a time to come back"),
            status => bail!("answered {status} {}", answer.text()),
        }
        Ok(())
    }

    /// A plain sender has no disk of its own: the gateway's takes it.
    fn send_to_gateway(&mut self) -> Result<()> {
        let body = self.body("plain");
        let answer = self.gateway.post(Signal::Logs.path(), Some(&self.key), &[PROTOBUF], &body)?;
        ensure!(answer.status == 200, "a plain sender was answered {} {}", answer.status, answer.text());
        self.plain += RECORDS;
        Ok(())
    }

    fn body(&mut self, service: &str) -> Vec<u8> {
        let first = self.requests * IDS_PER_REQUEST;
        self.requests += 1;
        let random = &mut self.filler;
        let record = |id| {
            let filler: String = std::iter::repeat_with(|| random.alphabetic()).take(FILLER_BYTES).collect();
            let attributes = vec![otlp::attribute("filler", &filler)];
            LogRecord { severity_number: 17, attributes, ..otlp::log(&oracle::line(id)) }
        };
        otlp::log_records(service, (first..first + RECORDS).map(record).collect())
    }

    fn evicted(&self) -> Result<u64> {
        let evicted = self.agent.account_in_all("logs")?["dropped"]["buffer_evicted"].as_u64();
        evicted.context("/status has no drops by eviction")
    }

    /// What the ledger found missing from the buffer at starts after kills.
    fn corrected(&self) -> Result<u64> {
        let corrected = self.agent.account_in_all("logs")?["corrected"]["buffer"].as_i64();
        Ok(u64::try_from(-corrected.context("/status has no corrections")?).unwrap_or(0))
    }

    /// What the files and the memory take.
    fn look(&mut self, report: &mut Report) -> Result<()> {
        let disk = bytes_of(&self.agent.config().folder.join("state/buffer"));
        report.most("buffer_bytes_max", disk);
        report.must(disk <= BUFFER_BYTES_MAX, || format!("the buffer takes {disk} of {BUFFER_BYTES_MAX} bytes"));
        let memory = peak_bytes(self.agent.process().id())?;
        report.most("agent_memory_bytes_max", memory);
        // An unoptimised program is larger than what is promised for a real one.
        report.must(cfg!(debug_assertions) || memory <= MEMORY_BYTES_MAX, || format!("the agent took {memory} bytes"));
        Ok(())
    }

    fn judge(mut self, report: &mut Report) -> Result<()> {
        let (acknowledged, plain) = (self.acknowledged, "ServiceName = 'plain'");
        let counted =
            |what: &str, of: &str| self.world.count(&format!("SELECT {what} FROM {{db}}.logs_raw WHERE {of}"));
        let mut last = (0, 0);
        let all = within(DRAIN, "every record is there or counted", || {
            last = (counted("uniqExact(Body)", "ServiceName = 'outage'")?, self.evicted()? + self.corrected()?);
            Ok((last.0 + last.1 >= acknowledged).then_some(()))
        });
        let ((there, gone), corrected) = (last, self.corrected()?);
        let (evicted, on_their_way) = (gone - corrected, self.kills * IN_FLIGHT_MAX * RECORDS);
        report.figure("evicted_on_their_way_before_a_kill", corrected);
        report.must(corrected <= on_their_way, || {
            format!("{corrected} records are corrected, at most {on_their_way} were on their way when a kill came")
        });
        report.figure("acknowledged", acknowledged);
        report.figure("evicted_and_counted", evicted);
        report.must(all.is_ok() && there + gone == acknowledged, || {
            format!("{acknowledged} records were acknowledged, {there} are there and {evicted} counted as evicted")
        });
        let spilled = within(DRAIN, "what was spilled is there", || {
            Ok((counted("uniqExact(Body)", plain)? >= self.plain).then_some(()))
        });
        report.figure("spilled_for_plain_senders", self.plain);
        report.must(spilled.is_ok(), || "what the gateway spilled for plain senders is not there".to_owned());
        let twice = counted("count() - uniqExact(Body)", "1")?;
        report.figure("visible_twice", twice);
        report.must(twice == 0, || format!("{twice} records show twice"));
        self.agent.ledger_closes()?;
        ensure!(self.agent.stop()?.success() && self.gateway.stop()?.success(), "they did not stop in order");
        Ok(())
    }
}

/// Of all files below a folder.
fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |path: &Path| match path.is_dir() {
        true => bytes_of(path),
        // Gone meanwhile: it takes nothing.
        false => path.metadata().map_or(0, |metadata| metadata.len()),
    };
    entries.map(|entry| bytes(&entry.path())).sum()
}

/// The most that a process had in memory so far.
fn peak_bytes(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
