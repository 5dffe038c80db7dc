//! `cargo xtask demo`: this host's metrics, logs and traces, live, in a real ClickHouse.
//!
//! Nothing shown is made up: metrics come from /proc, logs from this host's log files and from the demo's own store and
//! gateway, traces from the plain HTTP that eBPF sees on the host: the gateway's inserts, the view's own queries, whatever
//! else goes on. The agent's own log is left out, so that it does not feed on itself.

mod view;

use crate::stack::{self, SIGNALS, Stack, Status};
use crate::usage;
use anyhow::{Context, Result};
use clap::Args;
use ollystack_tests::AgentConfig;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use view::View;

/// Between two looks for the first rows.
const LOOK: Duration = Duration::from_millis(100);
/// Between two readings for the view.
const REFRESH: Duration = Duration::from_secs(1);

/// Flags.
#[derive(Args)]
pub(crate) struct Options {
    /// End by itself after this many seconds; otherwise on Ctrl-C
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Write what was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Everything that is shown, as of one moment.
#[derive(Clone, Debug, Default)]
struct Reading {
    elapsed: Duration,
    rows: [u64; 3],
    /// Rows a second since the reading before.
    rates: [f64; 3],
    status: Status,
    usage: usage::Usage,
    rss_bytes_max: u64,
    /// CPU since the agent's start, in percent of a core.
    cpu_percent: f64,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Summary {
    seconds: f64,
    rows: Signals<u64>,
    first_row_seconds: Option<f64>,
    landed_seconds: Signals<Option<f64>>,
    reduction: Reduction,
    agent: AgentUsage,
    ledger_closed: bool,
    ledger: Vec<stack::Account>,
    inputs: std::collections::BTreeMap<String, String>,
    store: StoreFacts,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Signals<T> {
    metrics: T,
    logs: T,
    traces: T,
}

#[derive(Serialize)]
struct Reduction {
    points: Option<f64>,
    bytes: Option<f64>,
}

#[derive(Serialize)]
struct AgentUsage {
    rss_bytes_max: u64,
    map_bytes: u64,
    cpu_seconds: f64,
}

#[derive(Serialize)]
struct StoreFacts {
    engine: String,
    url: String,
}

impl<T> From<[T; 3]> for Signals<T> {
    fn from([metrics, logs, traces]: [T; 3]) -> Self {
        Self { metrics, logs, traces }
    }
}

/// Runs the demo; success only if rows of all three signals have landed.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let built = stack::build("demo")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot listen for Ctrl-C")?;
    }
    println!("\nstarting store, gateway and agent");
    let mut stack = Stack::start(&built, with_this_hosts_logs)?;
    let engine = format!("ClickHouse {}, embedded", stack.sql("SELECT version()")?);
    let mut view = View::new(&stack.url(), &engine);
    let outcome = watch(&mut stack, &mut view, options.seconds.map(Duration::from_secs), &stop);
    view.close();
    let (reading, landed) = outcome?;
    let status = stack.settled_status()?;
    let (url, map) = (stack.url(), stack.sql(&view::map_query()).unwrap_or_default());
    println!("stopping agent, gateway and store");
    let rows = stack.stop()?;
    let summary = summarize(&reading, rows, landed, &status, StoreFacts { engine, url });
    view::print_summary(&summary, &status, &map);
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&summary)?;
        std::fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if rows.iter().all(|rows| *rows > 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The agent as it comes, reading this host's log files from their beginning, and the demo's own.
fn with_this_hosts_logs(config: AgentConfig) -> AgentConfig {
    let own = config.folder.parent().map(|run| run.join("{store,gateway}/*.log")).unwrap_or_default();
    let include =
        ["/var/log/**/*.log", "/var/log/syslog", "/var/log/messages", &own.to_string_lossy()].map(|g| format!("{g:?}"));
    config.set("logs.include", &format!("[{}]", include.join(", "))).set("logs.start_at", "\"beginning\"")
}

/// Watches until told to stop or the time is over; the last reading, and when each signal landed.
fn watch(
    stack: &mut Stack,
    view: &mut View,
    limit: Option<Duration>,
    stop: &AtomicBool,
) -> Result<(Reading, [Option<Duration>; 3])> {
    let mut landed = [None; 3];
    let mut last = Reading::default();
    let mut next = Instant::now();
    loop {
        stack.must_run()?;
        let elapsed = stack.started().elapsed();
        let over = stop.load(Relaxed) || limit.is_some_and(|limit| elapsed >= limit);
        let seek = landed.iter().any(Option::is_none);
        if over || Instant::now() >= next {
            last = read(stack, &last)?;
            next = Instant::now() + REFRESH;
        } else if seek {
            last.rows = stack.rows()?;
        }
        for (landed, (rows, (signal, _))) in landed.iter_mut().zip(last.rows.into_iter().zip(SIGNALS)) {
            if rows > 0 && landed.is_none() {
                *landed = Some(elapsed);
                view.landed(signal, elapsed);
            }
        }
        view.show(&last);
        if over {
            return Ok((last, landed));
        }
        std::thread::sleep(LOOK);
    }
}

fn read(stack: &mut Stack, last: &Reading) -> Result<Reading> {
    let elapsed = stack.started().elapsed();
    let rows = stack.rows()?;
    let usage = usage::read(stack.agent_process())?;
    let seconds = elapsed.saturating_sub(last.elapsed).as_secs_f64().max(0.001);
    Ok(Reading {
        elapsed,
        rows,
        rates: std::array::from_fn(|i| rows[i].saturating_sub(last.rows[i]) as f64 / seconds),
        status: stack.status()?,
        usage,
        rss_bytes_max: last.rss_bytes_max.max(usage.rss_bytes),
        cpu_percent: usage.cpu_seconds / elapsed.as_secs_f64().max(0.001) * 100.0,
    })
}

fn summarize(
    reading: &Reading,
    rows: [u64; 3],
    landed: [Option<Duration>; 3],
    status: &Status,
    store: StoreFacts,
) -> Summary {
    let metrics = status.signals.first().cloned().unwrap_or_default();
    Summary {
        seconds: reading.elapsed.as_secs_f64(),
        rows: rows.into(),
        first_row_seconds: landed.iter().flatten().min().map(Duration::as_secs_f64),
        landed_seconds: landed.map(|landed| landed.map(|after| after.as_secs_f64())).into(),
        reduction: Reduction { points: metrics.reduction(), bytes: metrics.reduction_bytes() },
        agent: AgentUsage {
            rss_bytes_max: reading.rss_bytes_max,
            map_bytes: status.memory.map_bytes,
            cpu_seconds: reading.usage.cpu_seconds,
        },
        ledger_closed: status.closed(),
        ledger: status.signals.clone(),
        inputs: status.inputs.iter().map(|input| (input.name.clone(), input.phase.clone())).collect(),
        store,
    }
}
