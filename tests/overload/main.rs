//! What the agent does under more load than it sustains: throughput, refusals, memory, CPU, and whether anything got lost unsaid.
//!
//! The release agent on one core, with every input on: OTLP from applications that obey refusals, log files, host metrics, eBPF (which
//! sees the load itself). It sends to an endpoint that counts. First the load that it sustains is found, then parts and multiples of
//! it are offered, each to a new agent. `cargo xtask bench overload` builds what it needs and prints the report.

mod load;
mod sink;

use anyhow::{Context, Result, ensure};
use load::{Load, RECORDS, SERVICE, Tally, read};
use ollystack_tests::{Agent, AgentConfig, Binaries, MemoryWatch, cpu_seconds};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Map, Value, json};
use sink::{Counted, Sink};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Of the host's cores: the agent's, and everybody else's.
const AGENT_CORE: usize = 0;
const OTHER_CORE: usize = 1;
/// Lines a second that go into each of the files beside one request a second and signal.
const LINES_PER_REQUEST: f64 = 40.0;
const FILES: usize = 4;
/// What their names begin with before a number, and so the service that the agent takes them to be of.
const FILE: &str = "shop";
/// A step of the search, the part of it that counts, and how much the load grows from one to the next.
const STEP: Duration = Duration::from_secs(6);
const STEP_COUNTED: Duration = Duration::from_secs(4);
const GROWTH: f64 = 1.35;
/// Steps in a row that have to fall short: somebody else on the host can spoil one.
const MISSES: u32 = 3;
/// Of what is offered, the part that has to be taken for the load to be sustained.
const SUSTAINED: f64 = 0.95;
/// How long everything may take to leave after the load.
const DRAIN: Duration = Duration::from_secs(120);

/// One line of the table.
struct Case {
    name: &'static str,
    multiple: f64,
    settings: &'static [(&'static str, &'static str)],
    endpoint: Endpoint,
}

#[derive(Clone, Copy, PartialEq)]
enum Endpoint {
    Quick,
    /// So many milliseconds for each answer.
    Slow(u64),
    /// Not there until the load is over.
    Away,
}

const CASES: &[Case] = &[
    Case { name: "0.5x", multiple: 0.5, settings: &[], endpoint: Endpoint::Quick },
    Case { name: "1x", multiple: 1.0, settings: &[], endpoint: Endpoint::Quick },
    Case { name: "2x", multiple: 2.0, settings: &[], endpoint: Endpoint::Quick },
    Case { name: "4x", multiple: 4.0, settings: &[], endpoint: Endpoint::Quick },
    Case { name: "2x, slow endpoint", multiple: 2.0, settings: &[], endpoint: Endpoint::Slow(2_000) },
    Case { name: "2x, endpoint away", multiple: 2.0, settings: &[], endpoint: Endpoint::Away },
    Case {
        name: "2x, 0.3 cores allowed",
        multiple: 2.0,
        settings: &[("limits.cpu_cores_max", "0.3")],
        endpoint: Endpoint::Quick,
    },
];

/// What one case gave.
struct Outcome {
    seconds: f64,
    tally: Arc<Tally>,
    cpu_cores: f64,
    rss_bytes_peak: u64,
    /// Of the agent, after the load and before its end.
    status: Value,
    silent_loss: i64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binaries = Binaries::at(arguments.next().context("the folder of the agent to measure is missing")?);
    let seconds = arguments.next().map_or(Ok(60), |seconds| seconds.parse()).context("seconds")?;
    // To repeat one case, at a known rate.
    let only = arguments.next();
    let rate = arguments.next().map(|rate| rate.parse()).transpose().context("requests a second")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(bench(&binaries, Duration::from_secs(seconds), only.as_deref(), rate))?;
    println!("{report}");
    Ok(())
}

async fn bench(binaries: &Binaries, time: Duration, only: Option<&str>, rate: Option<f64>) -> Result<Value> {
    let sustained = match rate {
        Some(rate) => rate,
        None => sustained(binaries).await?,
    };
    eprintln!("sustained: {sustained:.0} requests a second of each signal");
    let (mut rows, mut figures) = (Vec::new(), Map::new());
    figures.insert("sustained_requests_per_second".to_owned(), json!(sustained.round()));
    for case in CASES.iter().filter(|case| only.is_none_or(|only| only == case.name)) {
        let outcome = measure(binaries, case, sustained * case.multiple, time).await?;
        eprintln!("{}: {:?}", case.name, outcome.row(case.name));
        rows.push(outcome.row(case.name));
        figures.insert(case.name.replace(", ", "_").replace(' ', "_"), outcome.figures());
    }
    let records = RECORDS.iter().sum::<u64>();
    let notes = [
        format!(
            "1x is {sustained:.0} requests a second of each signal, {:.0} records a second ({} points, {} log records, {} spans a request), and as many lines in {FILES} files: the most of which {:.0}% was taken at once",
            sustained * records as f64,
            RECORDS[0],
            RECORDS[1],
            RECORDS[2],
            SUSTAINED * 100.0
        ),
        format!(
            "each case {} s with a new agent pinned to one core, every input on; senders and endpoint on another, obeying Retry-After",
            time.as_secs()
        ),
        "memory is the highest resident set that the kernel recorded plus kernel maps; silent loss is what the ledger does not explain: its balance, sent against what the endpoint counted, acknowledged lines against lines that the endpoint's rows stand for".to_owned(),
    ];
    Ok(json!({
        "columns": ["load", "offered/s", "taken/s", "refused/s", "memory", "CPU cores", "highest level", "dropped", "ledger", "silent loss"],
        "rows": rows, "notes": notes, "figures": figures,
    }))
}

/// Requests a second and signal: the load grows until too much of it is turned away.
async fn sustained(binaries: &Binaries) -> Result<f64> {
    let stage = Stage::start(binaries, &CASES[1]).await?;
    let load = Load::start(stage.agent.config().ports[1], 0.0);
    let (mut rate, mut best, mut misses) = (20.0, 0.0, 0);
    while misses < MISSES {
        load.set_rate(rate);
        tokio::time::sleep(STEP - STEP_COUNTED).await;
        let (before, start) = (read(&load.tally.accepted), Instant::now());
        tokio::time::sleep(STEP_COUNTED).await;
        let seconds = start.elapsed().as_secs_f64();
        let mut each = [0.0; 3];
        for (rate, (now, before)) in each.iter_mut().zip(read(&load.tally.accepted).into_iter().zip(before)) {
            *rate = (now - before) as f64 / seconds;
        }
        let taken = each.into_iter().fold(f64::INFINITY, f64::min);
        eprintln!("offered {rate:.0} requests a second of each signal; taken of metrics, logs, traces {each:.0?}");
        if taken < rate * SUSTAINED {
            misses += 1;
        } else {
            (best, misses) = (taken, 0);
            rate *= GROWTH;
        }
    }
    load.stop().await;
    ensure!(best > 0.0, "the agent does not sustain {rate} requests a second");
    Ok(best)
}

/// An agent and what is around it.
struct Stage {
    agent: Agent,
    sink: Sink,
    logs: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn start(binaries: &Binaries, case: &Case) -> Result<Stage> {
        let folder = tempfile::Builder::new().prefix("ollystack-overload-").tempdir()?;
        let (sink, address) = Sink::start().await?;
        match case.endpoint {
            Endpoint::Quick => {}
            Endpoint::Slow(milliseconds) => sink.delay(Duration::from_millis(milliseconds)),
            Endpoint::Away => sink.set_away(true),
        }
        let logs = folder.path().join("log");
        std::fs::create_dir(&logs)?;
        let include = format!("[\"{}/*.log\"]", logs.display());
        let mut config = AgentConfig::new(&folder.path().join("agent"), &format!("http://{address}"), "olly_bench")?
            .set("logs.include", &include)
            .set("logs.start_at", "\"beginning\"")
            .set("journald.enabled", "\"false\"")
            .set("export.retry_max_ms", "2000");
        for (key, value) in case.settings {
            config = config.set(key, value);
        }
        let binaries = binaries.clone();
        // What is started on a core stays there; this thread goes on on the other.
        let agent = tokio::task::spawn_blocking(move || {
            stay_on(AGENT_CORE)?;
            let agent = config.start(&binaries);
            stay_on(OTHER_CORE)?;
            agent
        });
        let agent = agent.await??;
        stay_on(OTHER_CORE)?;
        Ok(Stage { agent, sink, logs, _folder: folder })
    }
}

fn stay_on(core: usize) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(core.min(cores.max(2) - 1));
    sched_setaffinity(None, &set).context("a thread cannot be pinned to a core; two are needed")
}

async fn measure(binaries: &Binaries, case: &Case, rate: f64, time: Duration) -> Result<Outcome> {
    let mut stage = Stage::start(binaries, case).await?;
    let process = stage.agent.process().id();
    let memory = MemoryWatch::start(process);
    let (written, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let lines = rate * LINES_PER_REQUEST;
    let writer = std::thread::spawn({
        let (folder, written, over) = (stage.logs.clone(), Arc::clone(&written), Arc::clone(&over));
        move || write_lines(&folder, lines, &written, &over)
    });
    let (cpu_before, start) = (cpu_seconds(process)?, Instant::now());
    let load = Load::start(stage.agent.config().ports[1], rate);
    tokio::time::sleep(time).await;
    let seconds = start.elapsed().as_secs_f64();
    let cpu_cores = (cpu_seconds(process)? - cpu_before) / seconds;
    over.store(true, Relaxed);
    let tally = load.stop().await;
    writer.join().map_err(|_| anyhow::anyhow!("the writer of lines failed"))??;
    stage.sink.set_away(false);
    stage.sink.delay(Duration::ZERO);
    let lines_written = written.load(Relaxed);
    let status = settle(&stage, lines_written).await?;
    let rss_bytes_peak = memory.rss_bytes_peak();
    // What is still open leaves on stop; then every line must be there.
    let mut agent = stage.agent;
    let said = tokio::task::spawn_blocking(move || agent.stop().map(|_| agent.process().output())).await??;
    let last_word = said.lines().rfind(|line| line.contains("stopped; metrics: ")).context("the agent said nothing")?;
    let silent_loss = silent_loss(last_word, &stage.sink.counted(), &tally, lines_written)?;
    Ok(Outcome { seconds, tally, cpu_cores, rss_bytes_peak, status, silent_loss })
}

/// What the agent's last word does not explain, in records.
fn silent_loss(last_word: &str, counted: &Counted, tally: &Tally, lines_written: u64) -> Result<i64> {
    let mut loss = 0;
    for (at, signal) in ["metrics: ", "logs: ", "traces: "].into_iter().enumerate() {
        let account = last_word.split(signal).nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
        let of = |name: &str| -> Result<i64> {
            // The last of all is followed by how long the stop took.
            let rest = account.split(", ").find_map(|part| part.trim().strip_prefix(name));
            let number = rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            number.with_context(|| format!("the agent's last word has no {name} of {signal}in {last_word}"))
        };
        loss += of("unaccounted")?.abs() + (of("sent")? - counted.records[at] as i64).abs();
        if signal == "logs: " {
            let explained = of("dropped")? + of("kept on disk")?;
            let of_applications = counted.lines.get(SERVICE).copied().unwrap_or(0);
            let of_files = counted.lines.get(FILE).copied().unwrap_or(0);
            let owed = read(&tally.accepted)[1] * RECORDS[1];
            let lost = owed.saturating_sub(of_applications) + lines_written.saturating_sub(of_files);
            loss += (lost as i64 - explained).max(0);
        }
    }
    Ok(loss)
}

/// Waits until all files are read and everything that may leave has left, and the ledger is closed.
async fn settle(stage: &Stage, lines_written: u64) -> Result<Value> {
    let start = Instant::now();
    loop {
        let url = format!("http://127.0.0.1:{}/status", stage.agent.config().ports[2]);
        let answer = tokio::task::spawn_blocking(move || ollystack_tests::get(&url)).await??;
        let status: Value = serde_json::from_slice(&answer.body)?;
        let accounts = status["signals"].as_array().context("no ledger")?;
        let closed = accounts.iter().all(|account| account["balance"] == 0);
        let sent = accounts.iter().all(|account| account["waiting"]["buffer"] == 0 && account["waiting"]["queue"] == 0);
        let read = status["stages"]["logs"]["lines"].as_u64().unwrap_or(0) >= lines_written;
        if (closed && sent && read) || start.elapsed() > DRAIN {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Lines into each file in turn, so many a second, until it is over.
fn write_lines(folder: &Path, per_second: f64, written: &AtomicU64, over: &AtomicBool) -> Result<()> {
    let mut files = Vec::new();
    for number in 0..FILES {
        files.push(std::fs::File::create(folder.join(format!("{FILE}-{number}.log")))?);
    }
    let start = Instant::now();
    while !over.load(Relaxed) {
        let due = (start.elapsed().as_secs_f64() * per_second) as u64;
        let next = written.load(Relaxed);
        let mut text = String::new();
        for line in next..due.min(next + 10_000) {
            text.push_str(&format!("INFO order {line} of customer {} shipped in {} ms\n", line % 997, line % 83));
        }
        let file = (next / 100) as usize % FILES;
        files[file].write_all(text.as_bytes())?;
        written.fetch_add(text.lines().count() as u64, Relaxed);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Outcome {
    /// Records a second of one kind of outcome, all signals together.
    fn per_second(&self, counters: &[AtomicU64; 3]) -> f64 {
        let records = read(counters).iter().zip(RECORDS).map(|(requests, records)| requests * records).sum::<u64>();
        records as f64 / self.seconds
    }

    fn memory_bytes(&self) -> u64 {
        self.rss_bytes_peak + self.status["memory"]["map_bytes"].as_u64().unwrap_or(0)
    }

    fn balance(&self) -> i64 {
        self.accounts().iter().filter_map(|account| account["balance"].as_i64()).map(i64::abs).sum()
    }

    fn accounts(&self) -> &[Value] {
        self.status["signals"].as_array().map_or(&[], Vec::as_slice)
    }

    /// By reason, those that occurred.
    fn dropped(&self) -> Map<String, Value> {
        let mut dropped = Map::new();
        for (reason, records) in self.accounts().iter().filter_map(|account| account["dropped"].as_object()).flatten() {
            let sum = dropped.get(reason).and_then(Value::as_u64).unwrap_or(0) + records.as_u64().unwrap_or(0);
            if sum > 0 {
                dropped.insert(reason.clone(), json!(sum));
            }
        }
        dropped
    }

    /// The last that has some time to its name.
    fn highest_level(&self) -> &'static str {
        let spent = |level: &str| self.status["guard"]["level_seconds"][level].as_f64().unwrap_or(0.0) > 0.0;
        ["shed", "lean", "shrink", "slow"].into_iter().find(|level| spent(level)).unwrap_or("calm")
    }

    fn row(&self, name: &str) -> Value {
        let refused = read(&self.tally.refused).iter().sum::<u64>() as f64 / self.seconds;
        let dropped: Vec<String> =
            self.dropped().iter().map(|(reason, records)| format!("{reason} {records}")).collect();
        json!([
            name,
            format!("{:.0}", self.per_second(&self.tally.offered)),
            format!("{:.0}", self.per_second(&self.tally.accepted)),
            format!("{refused:.1}"),
            format!("{:.1} MB", self.memory_bytes() as f64 / 1e6),
            format!("{:.2}", self.cpu_cores),
            self.highest_level(),
            if dropped.is_empty() { "-".to_owned() } else { dropped.join(", ") },
            if self.balance() == 0 { "closed".to_owned() } else { format!("off by {}", self.balance()) },
            self.silent_loss.to_string(),
        ])
    }

    fn figures(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "offered_records_per_second": self.per_second(&self.tally.offered),
            "taken_records_per_second": self.per_second(&self.tally.accepted),
            "requests_offered": read(&self.tally.offered),
            "requests_taken": read(&self.tally.accepted),
            "requests_refused": read(&self.tally.refused),
            "requests_failed": read(&self.tally.failed),
            "requests_overrun": read(&self.tally.overrun),
            "memory_bytes_max": self.memory_bytes(),
            "rss_bytes_max": self.rss_bytes_peak,
            "map_bytes": self.status["memory"]["map_bytes"],
            "cpu_cores": self.cpu_cores,
            "guard": self.status["guard"],
            "dropped": self.dropped(),
            "ledger_balance": self.balance(),
            "silent_loss": self.silent_loss,
        })
    }
}
