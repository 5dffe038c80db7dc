//! `idle`: what the agent costs where nothing happens: host metrics each second, log files, OTLP and eBPF on, and nobody
//! but the store and the gateway beside it.
//!
//! The minute begins after the start has settled: loading programs and reading old logs is no idling.

use super::Figure;
use crate::stack::{Built, Stack};
use crate::usage;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Until the first window has closed and the first batches are sent.
const SETTLE: Duration = Duration::from_secs(20);
/// Between two readings of memory.
const SAMPLE: Duration = Duration::from_millis(500);

pub(super) fn run(built: &Built, time: Duration) -> Result<Vec<Figure>> {
    let mut stack = Stack::start(built, |config| config)?;
    let agent = stack.agent_process();
    eprintln!(
        "agent, gateway and store run; settling for {} s, then measuring for {} s",
        SETTLE.as_secs(),
        time.as_secs()
    );
    std::thread::sleep(SETTLE);
    let first = usage::read(agent)?;
    let start = Instant::now();
    let mut samples = vec![first.rss_bytes];
    while start.elapsed() < time {
        std::thread::sleep(SAMPLE);
        stack.must_run()?;
        samples.push(usage::read(agent)?.rss_bytes);
    }
    let seconds = start.elapsed().as_secs_f64();
    let last = usage::read(agent)?;
    let status = stack.settled_status()?;
    stack.stop()?;
    let map_bytes = status.memory.map_bytes;
    let rss_bytes_max = samples.iter().copied().max().unwrap_or_default();
    let cpu_seconds = last.cpu_seconds - first.cpu_seconds;
    let running = status.inputs.iter().filter(|input| input.phase == "running").count();
    Ok(vec![
        Figure { name: "rss_bytes_max", value: rss_bytes_max as f64 },
        Figure { name: "rss_bytes_mean", value: samples.iter().sum::<u64>() as f64 / samples.len() as f64 },
        Figure { name: "map_bytes", value: map_bytes as f64 },
        Figure { name: "rss_and_map_bytes_max", value: (rss_bytes_max + map_bytes) as f64 },
        Figure { name: "cpu_seconds", value: cpu_seconds },
        Figure { name: "cpu_core_percent", value: cpu_seconds / seconds * 100.0 },
        Figure { name: "threads", value: last.threads as f64 },
        Figure { name: "inputs_running", value: running as f64 },
        Figure { name: "seconds", value: seconds },
    ])
}
