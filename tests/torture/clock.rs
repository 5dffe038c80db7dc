//! The wall clock of agent and gateway jumps by an hour and by a year, forth and back, while they work; and records claim to be of the
//! epoch's first and last nanosecond. Nothing is lost, nothing shows twice, and nothing waits for a time that will not come.
//!
//! Only these two processes see the jumps, through libfaketime, which reads the offset from a file at every call; what runs by the
//! monotonic clock goes on as it does when an administrator sets the time. The gateway's clock does not fall behind ClickHouse's by more
//! than an hour: rows live from when it says they came, and those of a year ago are past their retention when they are written.

use crate::oracle::{self, Ids, Oracle};
use crate::otlp::{self, PROTOBUF, Signal};
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, Gateway, World, within};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RECORDS: u64 = 50;
const LINES: u64 = 40;
/// What goes in is visible after so long at most: windows of a second, and what a loaded machine takes.
const STALL: Duration = Duration::from_secs(20);
const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;
const JUMPS: [i64; 5] = [HOUR, -HOUR, YEAR, -YEAR, 0];
/// What a clock that was never set, or one that overflowed, says.
const EXTREMES: [u64; 2] = [0, u64::MAX];
/// Where Debian's and Fedora's packages put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

struct Subject<'a> {
    world: &'a World<'a>,
    /// Offsets of the agent's clock and of the gateway's.
    clocks: [PathBuf; 2],
    gateway: Gateway,
    agent: Agent,
    oracle: Oracle,
    file: PathBuf,
    lines: u64,
    samples: u64,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let Some(library) = LIBRARIES.iter().find(|path| Path::new(path).exists()) else {
        report.note("skipped: libfaketime is not installed; `apt-get install -y faketime`");
        return Ok(report);
    };
    let world = run.world("clock")?;
    let mut subject = Subject::begin(&world, library)?;
    for cycle in run.cycles() {
        run.progress(cycle.number, "jumps");
        let number = cycle.number;
        subject.jump(cycle, &mut report).with_context(|| format!("{}\n{}", run.replay_of(number), world.logs()))?;
    }
    subject.judge(&mut report)?;
    Ok(report)
}

impl<'a> Subject<'a> {
    fn begin(world: &'a World<'a>, library: &str) -> Result<Subject<'a>> {
        let clocks = ["agent-clock", "gateway-clock"].map(|name| world.folder().join(name));
        let folder = world.folder().join("log");
        std::fs::create_dir(&folder)?;
        clocks.iter().try_for_each(|clock| set(clock, 0))?;
        let through = |clock: &Path| -> Vec<String> {
            let variables = [
                format!("LD_PRELOAD={library}"),
                format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
                "FAKETIME_NO_CACHE=1".to_owned(),
                "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
                "NO_FAKE_STAT=1".to_owned(),
            ];
            std::iter::once("env".to_owned()).chain(variables).collect()
        };
        let mut config = world.gateway()?;
        config.through = through(&clocks[1]);
        let mut gateway = config.start(world.binaries())?;
        gateway.wait_until_the_schema_is_there()?;
        let glob = format!("[{:?}]", folder.join("*.log").display().to_string());
        let mut config = world.agent(&gateway, "acme")?.set("otlp.enabled", "true").set("logs.enabled", "true");
        config = config.set("logs.include", &glob).set("logs.start_at", "\"beginning\"");
        config = config.set("patterns.enabled", "true").set("patterns.window_ms", "1000");
        config.through = through(&clocks[0]);
        let agent = config.start(world.binaries())?;
        let (oracle, file) = (Oracle::new("clock"), folder.join("steady.log"));
        Ok(Subject { world, clocks, gateway, agent, oracle, file, lines: 0, samples: 0 })
    }

    fn jump(&mut self, mut cycle: Cycle, report: &mut Report) -> Result<()> {
        // What is under way when the clock jumps, and what comes then.
        self.load(None)?;
        let offset = JUMPS[cycle.random.usize(..JUMPS.len())];
        set(&self.clocks[0], offset)?;
        set(&self.clocks[1], offset.max(-HOUR))?;
        report.add("jumps", 1);
        self.load(None)?;
        for extreme in EXTREMES {
            self.load(Some(extreme))?;
        }
        let (begin, mut missing) = (Instant::now(), Vec::new());
        let visible = within(STALL, "all is visible", || {
            missing = self.missing()?;
            Ok(missing.is_empty().then_some(()))
        });
        visible.with_context(|| format!("after a jump to {offset:+} s: {}", missing.join(", ")))?;
        report.most("visible_after_ms_max", begin.elapsed().as_millis() as u64);
        self.agent.process().must_run()?;
        self.gateway.process().must_run()
    }

    /// One of everything, of now or of another time.
    fn load(&mut self, time: Option<u64>) -> Result<()> {
        for signal in [Signal::Logs, Signal::Traces] {
            let ids = self.oracle.allot(signal, RECORDS);
            let body = match time {
                None => self.oracle.body(ids),
                Some(time) => of_time(ids, time),
            };
            self.send(signal, &body)?;
            self.oracle.acknowledged(ids);
        }
        self.send(Signal::Metrics, &otlp::gauge("clock", "torture.level", self.samples as f64))?;
        self.samples += 1;
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file)?;
        let lines = self.lines..self.lines + LINES;
        file.write_all(lines.map(|number| format!("INFO served request {number}\n")).collect::<String>().as_bytes())?;
        self.lines += LINES;
        Ok(())
    }

    fn send(&self, signal: Signal, body: &[u8]) -> Result<()> {
        let answer = self.agent.post(signal.path(), &[PROTOBUF], body)?;
        ensure!(answer.status == 200, "{signal:?} answered {} {}", answer.status, answer.text());
        Ok(())
    }

    /// What is not visible yet, for people.
    fn missing(&self) -> Result<Vec<String>> {
        let stored = |of: &str, from: &str| self.world.count(&format!("SELECT {of} FROM {{db}}.{from}"));
        let expected = self.oracle.obligations() / 2;
        let all = [
            ("log records", stored("countIf(ServiceName = 'clock')", "logs_raw")?, expected),
            ("spans", stored("countIf(ServiceName = 'clock')", "traces_raw")?, expected),
            ("lines", stored("sumIf(LineCount, ServiceName = 'steady')", "logs_raw")?, self.lines),
            ("samples", stored("toUInt64(sumIf(Count, MetricName = 'torture.level'))", "metrics_raw")?, self.samples),
        ];
        let missing = all.into_iter().filter(|(_, there, expected)| there < expected);
        Ok(missing.map(|(what, there, expected)| format!("{there} of {expected} {what}")).collect())
    }

    fn judge(mut self, report: &mut Report) -> Result<()> {
        self.agent.ledger_closes()?;
        ensure!(self.agent.stop()?.success() && self.gateway.stop()?.success(), "they did not stop in order");
        self.oracle.judge(self.world, report)?;
        let sum = |of| self.world.count(&format!("SELECT {of}"));
        let lines = sum("sum(LineCount) FROM {db}.logs_raw WHERE ServiceName = 'steady'")?;
        let samples = sum("toUInt64(sum(Count)) FROM {db}.metrics_raw WHERE MetricName = 'torture.level'")?;
        report.figure("lines", lines);
        report.figure("samples", samples);
        report.must(lines == self.lines, || format!("rows stand for {lines} lines, written were {}", self.lines));
        report.must(samples == self.samples, || format!("{samples} samples are there, sent were {}", self.samples));
        Ok(())
    }
}

/// From one moment to the next.
fn set(clock: &Path, offset: i64) -> Result<()> {
    let beside = clock.with_extension("new");
    std::fs::write(&beside, format!("{offset:+}\n"))?;
    Ok(std::fs::rename(&beside, clock)?)
}

/// The request of these ids, as of a sender whose clock says this.
fn of_time(ids: Ids, time: u64) -> Vec<u8> {
    match ids.signal {
        Signal::Traces => {
            let span = |id| Span {
                start_time_unix_nano: time,
                end_time_unix_nano: time,
                attributes: vec![otlp::attribute("payload", &oracle::payload(id))],
                ..otlp::error_span("torture", id)
            };
            otlp::spans("clock", ids.each().map(span).collect())
        }
        _ => {
            let record = |id| LogRecord {
                time_unix_nano: time,
                observed_time_unix_nano: time,
                severity_number: 17,
                ..otlp::log(&oracle::line(id))
            };
            otlp::log_records("clock", ids.each().map(record).collect())
        }
    }
}
