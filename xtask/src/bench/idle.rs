//! `idle`: what the agent costs where nothing happens: host metrics each second, log files, OTLP and eBPF on, and nobody
//! but the store and the gateway beside it.
//!
//! The minute begins after the start has settled: loading programs and reading old logs is no idling.

use super::{Options, Report};
use crate::stack::{self, Stack};
use crate::usage;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Until the first window has closed and the first batches are sent.
const SETTLE: Duration = Duration::from_secs(20);
/// Between two readings of memory.
const SAMPLE: Duration = Duration::from_millis(500);

pub(super) fn run(options: &Options) -> Result<Report> {
    let time = Duration::from_secs(options.seconds);
    let built = stack::build("bench")?;
    let mut stack = Stack::start(&built, |config| config)?;
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
    let figures = [
        ("rss_bytes_max", rss_bytes_max as f64),
        ("rss_bytes_mean", samples.iter().sum::<u64>() as f64 / samples.len() as f64),
        ("map_bytes", map_bytes as f64),
        ("rss_and_map_bytes_max", (rss_bytes_max + map_bytes) as f64),
        ("start_peak_over_idle_bytes", first.rss_bytes_peak.saturating_sub(last.rss_bytes) as f64),
        ("cpu_seconds", cpu_seconds),
        ("cpu_core_percent", cpu_seconds / seconds * 100.0),
        ("threads", last.threads as f64),
        ("inputs_running", running as f64),
        ("seconds", seconds),
    ];
    Ok(Report {
        columns: vec!["figure".to_owned(), "value".to_owned()],
        rows: figures.iter().map(|&(name, value)| vec![name.to_owned(), shown(name, value)]).collect(),
        notes: vec![format!("over {seconds:.0} s, after {} s in which the start settles", SETTLE.as_secs())],
        figures: figures.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
    })
}

fn shown(name: &str, value: f64) -> String {
    if name.contains("bytes") { format!("{:.1} MiB", value / (1 << 20) as f64) } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn bytes_are_shown_as_mebibytes() {
        assert_eq!(shown("rss_bytes_max", 3.0 * 1048576.0), "3.0 MiB");
        assert_eq!(shown("threads", 4.0), "4.00");
    }
}
