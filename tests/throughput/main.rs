//! What the gateway does with a core: records a second of its CPU, memory, time to acknowledgement, what it hands on, and what ClickHouse
//! makes of it.
//!
//! The release gateway alone on one core; senders, and the store or a [`null`] in its place, on another. [`payload`] says what is sent.
//! CPU is what the kernel counts for the process, so that whoever else uses the host spoils little. First as fast as it answers, then
//! at 10,000 records a second, as an agent's region has it. `--instructions` counts what the gateway executes for a record instead (two runs
//! under callgrind, one the longer: their difference has no start in it). `--formats` has ClickHouse take the gateway's own blocks in other
//! formats, too (see [`formats`]). `--set KEY=VALUE` changes a setting of the gateway. `--peer` has another program on the gateway's core take the same load: a shell command that listens for
//! OTLP/gRPC at `$OTLP_ADDRESS` and writes to `$CLICKHOUSE_URL`, database `$CLICKHOUSE_DATABASE`; `collector.yaml` is one for the
//! OpenTelemetry Collector. `cargo xtask bench gateway` builds what it needs and prints the report.

mod formats;
mod load;
mod null;
mod payload;

use anyhow::{Context, Result, bail, ensure};
use load::{Load, Plan, Sent};
use null::Null;
use ollystack_tests::{
    Binaries, Gateway, GatewayConfig, MemoryWatch, Process, Store, StoreConfig, cpu_seconds, free_port, until,
};
use payload::{Payload, RECORDS, Signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const GATEWAY_CORE: usize = 0;
const OTHER_CORE: usize = 1;
const DATABASE: &str = "ollystack";
/// Connections, caches and the first blocks are none of the measurement.
const WARM_UP: Duration = Duration::from_secs(3);
/// Enough for several blocks of 10,000 rows to be under way.
const SENDERS: usize = 64;
/// What an agent's region is expected to send.
const PACE_PER_SECOND: u64 = 10_000;
/// Of the two runs under callgrind: every request once, and then as many again, so that what is new to the gateway (series) is none of the
/// difference.
const REQUESTS: [u64; 2] = [64, 128];

struct Options {
    binaries: Binaries,
    seconds: Duration,
    clickhouse: bool,
    signals: Vec<Signal>,
    peer: Option<String>,
    instructions: bool,
    formats: bool,
    /// Settings of the gateway, beside its defaults.
    settings: Vec<(String, String)>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
        let binaries = Binaries::at(arguments.next().context("the folder of the gateway to measure is missing")?);
        let seconds = arguments.next().context("how long to measure is missing")?.parse()?;
        let mut options = Options {
            binaries,
            seconds: Duration::from_secs(seconds),
            clickhouse: false,
            signals: Signal::ALL.to_vec(),
            peer: None,
            instructions: false,
            formats: false,
            settings: Vec::new(),
        };
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{flag} lacks its value"));
            match flag.as_str() {
                "--instructions" => options.instructions = true,
                "--formats" => options.formats = true,
                "--sink" => match value()?.as_str() {
                    "null" => options.clickhouse = false,
                    "clickhouse" => options.clickhouse = true,
                    other => bail!("--sink {other}; it is null or clickhouse"),
                },
                "--signal" => {
                    let name = value()?;
                    options.signals.retain(|signal| signal.name() == name);
                    ensure!(!options.signals.is_empty(), "--signal {name}; it is logs, traces or metrics");
                }
                "--peer" => options.peer = Some(value()?),
                "--set" => {
                    let setting = value()?;
                    let (key, value) =
                        setting.split_once('=').with_context(|| format!("--set {setting}; it is KEY=VALUE"))?;
                    options.settings.push((key.to_owned(), value.to_owned()));
                }
                other => bail!("{other}; there are --sink, --signal, --peer, --set, --instructions and --formats"),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        match &options {
            Options { instructions: true, .. } => instructions(&options).await,
            Options { formats: true, .. } => formats::bench(&options).await,
            _ => bench(&options).await,
        }
    })?;
    println!("{report}");
    Ok(())
}

async fn bench(options: &Options) -> Result<Value> {
    let (mut rows, mut figures, mut shapes) = (Vec::new(), Map::new(), Vec::new());
    for signal in &options.signals {
        let payload = Payload::new(*signal)?;
        shapes.push(format!("{}: {:.0} bytes, {:.0} after zstd", signal.name(), payload.raw_bytes, payload.wire_bytes));
        for peer in [None].into_iter().chain(options.peer.as_deref().map(Some)) {
            let found = measure(options, (*signal, &payload), peer).await?;
            let name = if peer.is_some() { format!("{}, peer", signal.name()) } else { signal.name().to_owned() };
            let row = found.row(&name);
            eprintln!("{}", row.join(" "));
            rows.push(row);
            figures.insert(name.replace(", ", "_"), found.figures());
        }
    }
    let notes = [
        format!(
            "{} s each at {SENDERS} requests of {RECORDS} records in flight, gRPC and zstd, then at {PACE_PER_SECOND} records a second; the gateway on one core, everything else on another",
            options.seconds.as_secs()
        ),
        format!("a record on average: {}", shapes.join("; ")),
        "CPU is user and system time of the process; out is what is sent to ClickHouse, compressed".to_owned(),
    ];
    Ok(json!({
        "columns": ["signal", "records/core-s", "CPU-s/million", "cores", "out B", "p50", "p99", "p50 paced", "p99 paced", "RSS MiB", "server CPU-s/million", "disk B"],
        "rows": rows, "notes": notes, "figures": figures,
    }))
}

/// What one run gave; of a record where nothing else is said.
#[derive(Debug)]
struct Found {
    sent: Sent,
    paced: Sent,
    cpu_seconds: f64,
    seconds: f64,
    rss_bytes: u64,
    out_bytes: Option<f64>,
    server_cpu_seconds: Option<f64>,
    disk_bytes: Option<f64>,
}

impl Found {
    fn per_core_second(&self) -> f64 {
        self.sent.records as f64 / self.cpu_seconds
    }

    fn row(&self, name: &str) -> Vec<String> {
        let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
        let maybe = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        vec![
            name.to_owned(),
            format!("{:.0}", self.per_core_second()),
            format!("{:.2}", 1e6 / self.per_core_second()),
            format!("{:.2}", self.cpu_seconds / self.seconds),
            maybe(self.out_bytes),
            ms(self.sent.quantile(0.5)),
            ms(self.sent.quantile(0.99)),
            ms(self.paced.quantile(0.5)),
            ms(self.paced.quantile(0.99)),
            format!("{:.0}", self.rss_bytes as f64 / f64::from(1 << 20)),
            maybe(self.server_cpu_seconds.map(|seconds| seconds * 1e6)),
            maybe(self.disk_bytes),
        ]
    }

    fn figures(&self) -> Value {
        json!({
            "records_per_core_second": self.per_core_second().round(),
            "records_per_second": (self.sent.records as f64 / self.seconds).round(),
            "cpu_seconds_per_million": 1e6 / self.per_core_second(),
            "out_bytes": self.out_bytes,
            "acknowledged_p50_ms": self.sent.quantile(0.5).as_secs_f64() * 1e3,
            "acknowledged_p99_ms": self.sent.quantile(0.99).as_secs_f64() * 1e3,
            "acknowledged_paced_p50_ms": self.paced.quantile(0.5).as_secs_f64() * 1e3,
            "acknowledged_paced_p99_ms": self.paced.quantile(0.99).as_secs_f64() * 1e3,
            "rss_bytes_peak": self.rss_bytes,
            "server_cpu_seconds_per_million": self.server_cpu_seconds.map(|seconds| seconds * 1e6),
            "disk_bytes": self.disk_bytes,
        })
    }
}

async fn measure(options: &Options, of: (Signal, &Payload), peer: Option<&str>) -> Result<Found> {
    let folder = tempfile::Builder::new().prefix("ollystack-throughput-").tempdir()?;
    stay_on(OTHER_CORE)?;
    let mut sink = Sink::start(options, folder.path()).await?;
    let mut subject = Subject::start(options, folder.path(), &sink.url(), peer, &[]).await?;
    let process = subject.process();
    let memory = MemoryWatch::start(process);

    let plan = Plan { senders: SENDERS, per_second: 0, requests: None };
    let load = Load::start(of, (&subject.address, &subject.key), plan).await?;
    tokio::time::sleep(WARM_UP).await;
    load.begin();
    let (cpu, server, out, start) = (cpu_seconds(process)?, sink.cpu_seconds()?, sink.bytes(), Instant::now());
    tokio::time::sleep(options.seconds).await;
    load.end();
    let (cpu_seconds, seconds) = (cpu_seconds(process)? - cpu, start.elapsed().as_secs_f64());
    let (server_after, out_after) = (sink.cpu_seconds()?, sink.bytes());
    let sent = load.sent().await?;
    let records = sent.records as f64;

    let plan = Plan { senders: SENDERS, per_second: PACE_PER_SECOND, requests: None };
    let load = Load::start(of, (&subject.address, &subject.key), plan).await?;
    load.begin();
    tokio::time::sleep(options.seconds).await;
    load.end();
    let paced = load.sent().await?;
    Ok(Found {
        sent,
        paced,
        cpu_seconds,
        seconds,
        rss_bytes: memory.rss_bytes_peak(),
        out_bytes: out.zip(out_after).map(|(before, after)| (after - before) as f64 / records),
        server_cpu_seconds: server.zip(server_after).map(|(before, after)| (after - before) / records),
        disk_bytes: sink.disk_bytes(of.0)?,
    })
}

async fn instructions(options: &Options) -> Result<Value> {
    let (mut rows, mut figures) = (Vec::new(), Map::new());
    for signal in &options.signals {
        let payload = Payload::new(*signal)?;
        let mut counts = Vec::new();
        for requests in REQUESTS {
            let folder = tempfile::Builder::new().prefix("ollystack-throughput-").tempdir()?;
            let sink = Sink::start(options, folder.path()).await?;
            let out = options.out_file(*signal)?;
            let through = ["valgrind", "--tool=callgrind", &format!("--callgrind-out-file={out}")].map(str::to_owned);
            let subject = Subject::start(options, folder.path(), &sink.url(), None, &through).await?;
            let plan = Plan { senders: 4, per_second: 0, requests: Some(requests) };
            let load = Load::start((*signal, &payload), (&subject.address, &subject.key), plan).await?;
            load.sent().await?;
            counts.push(subject.executed().await?);
        }
        let records = (REQUESTS[1] - REQUESTS[0]) * RECORDS;
        let each = (counts[1] - counts[0]) as f64 / records as f64;
        rows.push(vec![signal.name().to_owned(), format!("{each:.0}")]);
        figures.insert(signal.name().to_owned(), json!(each.round()));
    }
    let notes =
        ["all that the gateway executes from socket to socket, by callgrind: HTTP/2, zstd, conversion, LZ4".to_owned()];
    Ok(json!({ "columns": ["signal", "instructions/record"], "rows": rows, "notes": notes, "figures": figures }))
}

impl Options {
    /// Where callgrind leaves what it found, for `callgrind_annotate`.
    fn out_file(&self, signal: Signal) -> Result<String> {
        let folder = std::env::current_dir()?.join("target/xtask");
        std::fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("callgrind.{}.out", signal.name())).to_string_lossy().into_owned())
    }
}

/// Where rows go.
enum Sink {
    Null(Null),
    Store(Store),
}

impl Sink {
    async fn start(options: &Options, folder: &Path) -> Result<Sink> {
        if !options.clickhouse {
            return Ok(Sink::Null(Null::start(false).await?));
        }
        let (config, binaries) = (StoreConfig::new(&folder.join("store"))?, options.binaries.clone());
        let start = move || {
            let store = config.start(&binaries)?;
            // Some peers come to no database that they have to make.
            store.sql(&format!("CREATE DATABASE IF NOT EXISTS {DATABASE}"))?;
            anyhow::Ok(store)
        };
        Ok(Sink::Store(tokio::task::spawn_blocking(start).await??))
    }

    fn url(&self) -> String {
        match self {
            Sink::Null(null) => format!("http://{}", null.address),
            Sink::Store(store) => store.url(),
        }
    }

    fn bytes(&self) -> Option<u64> {
        match self {
            Sink::Null(null) => Some(null.bytes()),
            Sink::Store(_) => None,
        }
    }

    fn cpu_seconds(&mut self) -> Result<Option<f64>> {
        match self {
            Sink::Null(_) => Ok(None),
            Sink::Store(store) => cpu_seconds(store.process().id()).map(Some),
        }
    }

    fn disk_bytes(&self, signal: Signal) -> Result<Option<f64>> {
        let Sink::Store(store) = self else { return Ok(None) };
        let query = format!(
            "SELECT sum(bytes_on_disk) / sum(rows) FROM system.parts WHERE active AND database = '{DATABASE}' AND table = '{}'",
            signal.table()
        );
        Ok(store.sql(&query)?.trim().parse().ok())
    }
}

/// What is measured.
struct Subject {
    gateway: Option<Gateway>,
    peer: Option<Process>,
    address: String,
    key: String,
}

impl Subject {
    async fn start(
        options: &Options,
        folder: &Path,
        clickhouse: &str,
        peer: Option<&str>,
        through: &[String],
    ) -> Result<Subject> {
        let (binaries, folder, clickhouse) = (options.binaries.clone(), folder.to_owned(), clickhouse.to_owned());
        let (peer, through) = (peer.map(str::to_owned), through.to_vec());
        let settings = options.settings.clone();
        let started = tokio::task::spawn_blocking(move || {
            // What is started on a core stays there.
            stay_on(GATEWAY_CORE)?;
            let started = match peer {
                Some(command) => Subject::peer(&folder, &clickhouse, &command),
                None => Subject::gateway(
                    &binaries,
                    GatewayConfig::new(&folder.join("gateway"), &clickhouse, DATABASE)?,
                    &settings,
                    &through,
                ),
            };
            stay_on(OTHER_CORE)?;
            started
        });
        let started = started.await?;
        stay_on(OTHER_CORE)?;
        started
    }

    fn gateway(
        binaries: &Binaries,
        config: GatewayConfig,
        settings: &[(String, String)],
        through: &[String],
    ) -> Result<Subject> {
        let config = config.set("tenants.records_per_second", "0");
        let mut config = settings.iter().fold(config, |config, (key, value)| config.set(key, value));
        config.through = through.to_vec();
        config.write()?;
        let key = config.new_key(binaries, "bench")?;
        let mut gateway = config.start(binaries)?;
        gateway.wait_until_the_schema_is_there()?;
        let address = gateway.grpc();
        Ok(Subject { gateway: Some(gateway), peer: None, address, key: key.secret })
    }

    fn peer(folder: &Path, clickhouse: &str, command: &str) -> Result<Subject> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec {command}"));
        shell.env("OTLP_ADDRESS", &address).env("CLICKHOUSE_URL", clickhouse).env("CLICKHOUSE_DATABASE", DATABASE);
        let mut peer = Process::start("peer", shell, &folder.join("peer.log"))?;
        until("the peer listens", || {
            peer.must_run()?;
            Ok(std::net::TcpStream::connect(&address).is_ok().then_some(()))
        })?;
        Ok(Subject { gateway: None, peer: Some(peer), address, key: String::new() })
    }

    fn process(&mut self) -> u32 {
        let of_gateway = self.gateway.as_mut().map(|gateway| gateway.process().id());
        of_gateway.or(self.peer.as_ref().map(Process::id)).unwrap_or_default()
    }

    /// Stop it, and read from its log what callgrind counted.
    async fn executed(self) -> Result<u64> {
        let mut gateway = self.gateway.context("only the gateway runs under callgrind")?;
        let log = tokio::task::spawn_blocking(move || gateway.stop().map(|_| gateway.process().output())).await??;
        let collected =
            log.lines().find_map(|line| line.split_once("Collected : ")).context("callgrind said nothing")?;
        Ok(collected.1.trim().parse()?)
    }
}

fn stay_on(core: usize) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(core.min(cores.max(2) - 1));
    sched_setaffinity(None, &set).context("a thread cannot be pinned to a core; two are needed")
}
