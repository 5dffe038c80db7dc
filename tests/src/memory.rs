//! How much memory another process takes, watched from outside: what is resident, sampled often, and the kernel's own record of the
//! highest.

use anyhow::{Context, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two samples.
const SAMPLE: Duration = Duration::from_millis(25);

/// Watches a process until it is asked for the last time, or the process ends.
#[derive(Debug)]
pub struct MemoryWatch {
    process: u32,
    peak: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// From now on.
    pub fn start(process: u32) -> Self {
        let (peak, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (to, until) = (Arc::clone(&peak), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !until.load(Relaxed) {
                let Ok(bytes) = resident_bytes(process) else { return };
                to.fetch_max(bytes, Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        Self { process, peak, over, thread: Some(thread) }
    }

    /// The most that was seen so far: by the samples, and by the kernel since the process started, if it still runs.
    pub fn rss_bytes_peak(&self) -> u64 {
        let recorded = status_bytes(self.process, "VmHWM").unwrap_or(0);
        self.peak.fetch_max(recorded, Relaxed).max(recorded)
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is resident now.
pub fn resident_bytes(process: u32) -> Result<u64> {
    status_bytes(process, "VmRSS")
}

fn status_bytes(process: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("process {process} is gone"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} has no {field}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_a_process_outlives_it() {
        let watch = MemoryWatch::start(std::process::id());
        let peak = watch.rss_bytes_peak();
        assert!(peak >= 1 << 20 && peak >= resident_bytes(std::process::id()).unwrap() / 2, "{peak}");
        let gone = MemoryWatch::start(u32::MAX);
        assert_eq!(gone.rss_bytes_peak(), 0);
    }
}
