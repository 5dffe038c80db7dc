//! What the whole system costs: cores of agents, gateway and ClickHouse for a million raw events a second, and bytes stored of each.
//!
//! [`HOSTS`] release agents, the gateway with a key, and the engine in a process of its own, all on this host. A raw event is a log line,
//! a span or a metric sample as an application produces it: [`load`] says how many there are, [`lines`], [`services`] and [`series`] what
//! they look like. Once with the agents as they are by default, once with reduction turned off ([`OFF`]), which makes of each event a
//! row; all signals at once, then each alone. CPU is what the kernel counts for each process, from the first event on until the agents
//! and the gateway have ended, with all that they held in ClickHouse, and ClickHouse has merged it. `cargo xtask bench cost` builds what
//! it needs and prints the report. Invariant: a figure is given only if every event is accounted for, in the agents' ledgers, the
//! gateway's, and the tables.

mod lines;
mod load;
mod otlp;
mod series;
mod services;

use anyhow::{Context, Result, bail, ensure};
use lines::System;
use load::{Host, Signal};
use ollystack_tests::{
    AgentConfig, Binaries, Gateway, GatewayConfig, Store, StoreConfig, cpu_seconds, cpu_seconds_of_the_ended, within,
};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Each with an agent; as much as two cores hold with reduction off, beside what produces it.
const HOSTS: usize = 6;
const DATABASE: &str = "ollystack";
/// How long everything is watched at rest before the load.
const REST: Duration = Duration::from_secs(5);
/// How long the agents may take to read the last lines.
const READ: Duration = Duration::from_secs(120);

/// Only what the load is made of, and on stop time to send it all.
const EVERY: &[(&str, &str)] = &[
    ("host.enabled", "false"),
    ("sockets.enabled", "false"),
    ("ebpf.enabled", "false"),
    ("journald.enabled", "\"false\""),
    ("telemetry.enabled", "false"),
    ("logs.start_at", "\"beginning\""),
    ("limits.shutdown_deadline_ms", "60000"),
    ("export.drain_timeout_ms", "50000"),
];
/// Reduction off: a line a row, each span kept, of each series a point a second. RED metrics are derived as by default.
const OFF: &[(&str, &str)] = &[
    ("patterns.enabled", "false"),
    ("traces.baseline_ratio", "1.0"),
    ("traces.budget_spans_per_second", "0.0"),
    ("traces.health_checks", "[]"),
    ("metrics.constant_ms", "0"),
    ("metrics.grace_ms", "500"),
    ("metrics.rules", "[{ metric = \"shop.*\", window_ms = 1000, gauges = \"last\" }]"),
];

/// What is produced in a run.
struct Load {
    name: &'static str,
    signals: &'static [Signal],
}

const LOADS: [Load; 4] = [
    Load { name: "all", signals: &[Signal::Metrics, Signal::Logs, Signal::Traces] },
    Load { name: "log lines", signals: &[Signal::Logs] },
    Load { name: "spans", signals: &[Signal::Traces] },
    Load { name: "samples", signals: &[Signal::Metrics] },
];

/// The tables of each signal, in the order of [`Signal`]; all others hold what views make of them.
const TABLES: [&[&str]; 3] =
    [&["metrics_raw", "metrics_series", "metric_descriptions"], &["logs_raw"], &["traces_raw", "traces_trace_id_ts"]];

/// CPU of agents, gateway and ClickHouse.
type Each = [f64; 3];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binaries = Binaries::at(arguments.next().context("the folder of the programs to measure is missing")?);
    let seconds = arguments.next().context("how long to measure is missing")?.parse().context("seconds")?;
    // An agent that has sent nothing before it stops keeps what it has on disk, and the first window to close may be a minute's.
    ensure!(seconds >= 60, "{seconds} s are too short; at least 60 are needed");
    // To repeat one load.
    let only = arguments.next();
    let loads: Vec<_> = LOADS.iter().filter(|load| only.as_deref().is_none_or(|only| only == load.name)).collect();
    ensure!(
        !loads.is_empty(),
        "no load is called {}; there are: {}",
        only.unwrap_or_default(),
        LOADS.iter().map(|load| load.name).collect::<Vec<_>>().join(", ")
    );
    let systems = lines::systems(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/loghub"))?;
    let (mut rows, mut figures, mut rests) = (Vec::new(), Map::new(), Vec::new());
    for load in loads {
        let mut of_both = Vec::new();
        for (state, settings) in [("off", OFF), ("on", &[][..])] {
            let found = measure(&binaries, &systems, load, settings, seconds)
                .with_context(|| format!("{}, reduction {state}", load.name))?;
            let row = found.row(load.name, state);
            eprintln!("{}", row.join("  "));
            rows.push(row);
            figures.insert(format!("{}_{state}", load.name.replace(' ', "_")), found.figures());
            rests.push(found.rest);
            of_both.push(found);
        }
        if let [off, on] = &of_both[..] {
            rows.push(off.over(on));
        }
    }
    let rest: Each = std::array::from_fn(|at| rests.iter().map(|rest| rest[at]).sum::<f64>() / rests.len() as f64);
    let hosts = HOSTS as u64;
    let notes = [
        format!(
            "{seconds} s each: {HOSTS} hosts of {} samples, {} log lines in 8 files and {} spans a second, in all {} events a second; CPU and bytes until all is drained, merged and accounted for",
            series::SAMPLES,
            load::LINES,
            load::SPANS,
            hosts * (series::SAMPLES + load::LINES + load::SPANS)
        ),
        format!(
            "cores for a million events a second: CPU-seconds per million events. What a process takes whatever comes is in them: at rest agents {:.3}, gateway {:.3}, ClickHouse {:.3} cores",
            rest[0], rest[1], rest[2]
        ),
        "wire: compressed requests from agents to gateway; stored: all tables with what views fill, merged, columns, marks and indexes".to_owned(),
        "reduction off: an agent that hands on each line, span and sample; on: as it is by default. RED metrics of all spans in both".to_owned(),
    ];
    let columns =
        ["events", "reduction", "agent", "gateway", "ClickHouse", "cores/M/s", "wire B", "stored B", "rows/event"];
    println!("{}", json!({ "columns": columns, "rows": rows, "notes": notes, "figures": figures }));
    Ok(())
}

/// What one run gave.
struct Found {
    /// Raw, by signal.
    events: [u64; 3],
    /// In the raw tables, by signal.
    rows: [u64; 3],
    cpu_seconds: Each,
    /// Of ClickHouse's, what the last merge of all tables took.
    merge_cpu_seconds: f64,
    /// Cores at rest.
    rest: Each,
    drain_seconds: f64,
    merge_seconds: f64,
    inserts: f64,
    wire_bytes: f64,
    /// Of the tables of each signal, and of views.
    stored_bytes: [u64; 4],
    disk_bytes: u64,
}

/// The processes of one run; the senders first, as they must go.
struct Stage {
    hosts: Vec<Host>,
    gateway: Gateway,
    store: Store,
    _folder: tempfile::TempDir,
}

fn measure(
    binaries: &Binaries,
    systems: &[System],
    load: &Load,
    settings: &[(&str, &str)],
    seconds: u64,
) -> Result<Found> {
    let mut stage = Stage::start(binaries, settings)?;
    let idle = stage.cpu_seconds()?;
    std::thread::sleep(REST);
    let begin = stage.cpu_seconds()?;
    let rest = std::array::from_fn(|at| (begin[at] - idle[at]) / REST.as_secs_f64());

    let events = load::produce(&stage.hosts, systems, load.signals, seconds)?;
    let drain = Instant::now();
    within(READ, "the agents have read every line", || {
        let mut read = 0;
        for host in &stage.hosts {
            read += host.agent.status()?["stages"]["logs"]["lines"].as_u64().unwrap_or(0);
        }
        Ok((read >= events[Signal::Logs as usize]).then_some(()))
    })?;
    let (agents, sent) = stage.stop_agents(events)?;
    let wire_bytes = stage.gateway.metric("ollystack_ingestion_bytes_total", &[])?;
    let inserts = stage.gateway.metric("ollystack_clickhouse_write_latency_seconds_count", &[])?;
    let gateway = stage.stop_gateway(sent)?;
    let drain_seconds = drain.elapsed().as_secs_f64();
    stage.must_hold(events, sent)?;

    let (merge, before) = (Instant::now(), cpu_seconds(stage.store.process().id())?);
    merge_all(&stage.store)?;
    let merge_seconds = merge.elapsed().as_secs_f64();
    let after = cpu_seconds(stage.store.process().id())?;
    let (stored_bytes, disk_bytes) = weigh(&stage.store)?;
    Ok(Found {
        events,
        rows: sent,
        cpu_seconds: [agents - begin[0], gateway - begin[1], after - begin[2]],
        merge_cpu_seconds: after - before,
        rest,
        drain_seconds,
        merge_seconds,
        inserts,
        wire_bytes,
        stored_bytes,
        disk_bytes,
    })
}

impl Stage {
    fn start(binaries: &Binaries, settings: &[(&str, &str)]) -> Result<Stage> {
        // Beside the binaries: a real disk, where a temporary folder may be memory.
        let beside = std::env::current_exe()?;
        let folder = tempfile::Builder::new().prefix("cost-").tempdir_in(beside.parent().context("no folder")?)?;
        let store = StoreConfig::new(&folder.path().join("store"))?.start(binaries)?;
        let gateway = GatewayConfig::new(&folder.path().join("gateway"), &store.url(), DATABASE)?;
        let mut gateway = gateway.set("tenants.records_per_second", "0").start(binaries)?;
        gateway.wait_until_the_schema_is_there()?;
        let key = gateway.new_key("bench")?;
        let mut hosts = Vec::new();
        for number in 0..HOSTS {
            let logs = folder.path().join(format!("log-{number}"));
            std::fs::create_dir(&logs)?;
            let endpoint = format!("http://{}", gateway.grpc());
            let mut config = AgentConfig::new(&folder.path().join(format!("agent-{number}")), &endpoint, &key.secret)?
                .set("logs.include", &format!("[\"{}/*.log\"]", logs.display()))
                .set("enrich.attributes", &format!("{{ \"host.name\" = \"host-{number}\" }}"));
            for (key, value) in EVERY.iter().chain(settings) {
                config = config.set(key, value);
            }
            hosts.push(Host { agent: config.start(binaries)?, logs });
        }
        Ok(Stage { hosts, gateway, store, _folder: folder })
    }

    fn cpu_seconds(&mut self) -> Result<Each> {
        let mut agents = 0.0;
        for host in &mut self.hosts {
            agents += cpu_seconds(host.agent.process().id())?;
        }
        Ok([agents, cpu_seconds(self.gateway.process().id())?, cpu_seconds(self.store.process().id())?])
    }

    /// What the agents took in all, and how many records they sent, when they say that nothing else became of any.
    fn stop_agents(&mut self, events: [u64; 3]) -> Result<(f64, [u64; 3])> {
        let before = cpu_seconds_of_the_ended()?;
        let (mut seen, mut sent) = ([0; 3], [0; 3]);
        for host in &mut self.hosts {
            ensure!(host.agent.stop()?.success(), "an agent did not end well");
            let said = host.agent.process().output();
            let last =
                said.lines().rfind(|line| line.contains("stopped; metrics: ")).context("an agent said nothing")?;
            for (at, signal) in ["metrics: ", "logs: ", "traces: "].into_iter().enumerate() {
                let account = last.split(signal).nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
                let of = |name: &str| -> Result<u64> {
                    let number = account.split(", ").find_map(|part| part.trim().strip_prefix(name));
                    let number = number.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
                    number.with_context(|| format!("an agent's last word has no {name} of {signal}in {last}"))
                };
                for lost in ["dropped", "kept on disk", "unaccounted"] {
                    ensure!(of(lost)? == 0, "an agent's ledger does not close without loss: {last}");
                }
                seen[at] += of("seen")?;
                sent[at] += of("sent")?;
            }
        }
        // The agents derive metrics from spans, which are none of the events.
        ensure!(
            seen[1..] == events[1..] && seen[0] >= events[0],
            "the agents saw {seen:?} of {events:?} metrics, logs and traces"
        );
        Ok((cpu_seconds_of_the_ended()? - before, sent))
    }

    /// What the gateway took in all, when its ledger says that it stored what was sent.
    fn stop_gateway(&mut self, sent: [u64; 3]) -> Result<f64> {
        for (signal, sent) in ["metrics", "logs", "traces"].into_iter().zip(sent) {
            let label = format!("signal=\"{signal}\"");
            let stored = self.gateway.metric("ollystack_ledger_records_total", &[&label, "outcome=\"stored\""])?;
            let balance = self.gateway.metric("ollystack_ledger_balance", &[&label])?;
            ensure!(
                stored == sent as f64 && balance == 0.0,
                "of {sent} {signal} the gateway stored {stored}, its ledger is off by {balance}"
            );
        }
        let before = cpu_seconds_of_the_ended()?;
        ensure!(self.gateway.stop()?.success(), "the gateway did not end well");
        Ok(cpu_seconds_of_the_ended()? - before)
    }

    /// The tables have what was sent, and it stands for what was produced.
    fn must_hold(&self, events: [u64; 3], sent: [u64; 3]) -> Result<()> {
        let count = |what: &str, table: &str| -> Result<u64> {
            let answer = self.store.sql(&format!("SELECT {what} FROM {DATABASE}.{table}"))?;
            answer.parse().with_context(|| format!("{what} of {table} is `{answer}`"))
        };
        let rows = [count("count()", "metrics_raw")?, count("count()", "logs_raw")?, count("count()", "traces_raw")?];
        ensure!(rows == sent, "the tables have {rows:?} rows of {sent:?} metrics, logs and traces");
        let lines = count("sum(LineCount)", "logs_raw")?;
        ensure!(lines == events[1], "the rows of logs stand for {lines} of {} lines", events[1]);
        let spans = count("sumIf(Count, MetricName = 'ollystack.span.duration')", "metrics_raw")?;
        ensure!(spans == events[2], "RED metrics count {spans} of {} spans", events[2]);
        Ok(())
    }
}

fn merge_all(store: &Store) -> Result<()> {
    let tables = store.sql(&format!(
        "SELECT name FROM system.tables WHERE database = '{DATABASE}' AND engine LIKE '%MergeTree' AND name NOT LIKE '.%'"
    ))?;
    for table in tables.lines() {
        store.sql(&format!("OPTIMIZE TABLE {DATABASE}.{table} FINAL"))?;
    }
    Ok(())
}

/// By signal and of views, without what a part has once, however many its rows are; and all that is on disk.
fn weigh(store: &Store) -> Result<([u64; 4], u64)> {
    let weights = store.sql(&format!(
        "SELECT table, sum(data_compressed_bytes + marks_bytes + primary_key_size + secondary_indices_compressed_bytes + \
         secondary_indices_marks_bytes), sum(bytes_on_disk) FROM system.parts WHERE active AND database = '{DATABASE}' \
         AND table != 'schema_migrations' GROUP BY table"
    ))?;
    let (mut stored, mut disk) = ([0; 4], 0);
    for line in weights.lines() {
        let [table, bytes, on_disk] = line.split('\t').collect::<Vec<_>>()[..] else { bail!("`{line}` is no weight") };
        let group = TABLES.iter().position(|tables| tables.contains(&table)).unwrap_or(TABLES.len());
        stored[group] += bytes.parse::<u64>()?;
        disk += on_disk.parse::<u64>()?;
    }
    Ok((stored, disk))
}

impl Found {
    fn of_event(&self, sum: f64) -> f64 {
        sum / self.events.iter().sum::<u64>() as f64
    }

    fn cores(&self) -> Each {
        self.cpu_seconds.map(|seconds| self.of_event(seconds) * 1e6)
    }

    fn stored(&self) -> f64 {
        self.of_event(self.stored_bytes.iter().sum::<u64>() as f64)
    }

    fn rows_of_event(&self) -> f64 {
        self.of_event(self.rows.iter().sum::<u64>() as f64)
    }

    fn row(&self, name: &str, state: &str) -> Vec<String> {
        let cores = self.cores();
        let mut row = vec![name.to_owned(), state.to_owned()];
        row.extend(cores.iter().chain([&cores.iter().sum::<f64>()]).map(|cores| format!("{cores:.2}")));
        row.extend([self.of_event(self.wire_bytes), self.stored()].map(|bytes| format!("{bytes:.2}")));
        row.push(format!("{:.3}", self.rows_of_event()));
        row
    }

    /// How many times as much as the other: the ratio below a pair.
    fn over(&self, other: &Found) -> Vec<String> {
        let (mine, others) = (self.cores(), other.cores());
        let mut times: Vec<f64> = mine.iter().zip(others).map(|(mine, other)| mine / other).collect();
        times.push(mine.iter().sum::<f64>() / others.iter().sum::<f64>());
        times.push(self.of_event(self.wire_bytes) / other.of_event(other.wire_bytes));
        times.push(self.stored() / other.stored());
        times.push(self.rows_of_event() / other.rows_of_event());
        let mut row = vec![String::new(), "off : on".to_owned()];
        row.extend(times.into_iter().map(|times| format!("{times:.1}x")));
        row
    }

    fn figures(&self) -> Value {
        let cores = self.cores();
        let stored = self.stored_bytes.map(|bytes| self.of_event(bytes as f64));
        json!({
            "events": { "samples": self.events[0], "log_lines": self.events[1], "spans": self.events[2] },
            "rows": { "metrics": self.rows[0], "logs": self.rows[1], "traces": self.rows[2] },
            "agent_cores_per_million_per_second": cores[0],
            "gateway_cores_per_million_per_second": cores[1],
            "clickhouse_cores_per_million_per_second": cores[2],
            "cores_per_million_per_second": cores.iter().sum::<f64>(),
            "agent_cpu_seconds": self.cpu_seconds[0],
            "gateway_cpu_seconds": self.cpu_seconds[1],
            "clickhouse_cpu_seconds": self.cpu_seconds[2],
            "clickhouse_last_merge_cpu_seconds": self.merge_cpu_seconds,
            "agent_cores_at_rest": self.rest[0],
            "gateway_cores_at_rest": self.rest[1],
            "clickhouse_cores_at_rest": self.rest[2],
            "drain_seconds": self.drain_seconds,
            "last_merge_seconds": self.merge_seconds,
            "inserts": self.inserts,
            "wire_bytes_per_event": self.of_event(self.wire_bytes),
            "stored_bytes_per_event": self.stored(),
            "stored_metrics_bytes_per_event": stored[0],
            "stored_logs_bytes_per_event": stored[1],
            "stored_traces_bytes_per_event": stored[2],
            "stored_views_bytes_per_event": stored[3],
            "on_disk_bytes_per_event": self.of_event(self.disk_bytes as f64),
        })
    }
}
