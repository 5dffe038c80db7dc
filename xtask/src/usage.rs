//! What another process uses, as the kernel accounts for it: read from its folder in /proc.

use anyhow::{Context, Result};
use std::path::PathBuf;

/// Ticks a second in /proc/PID/stat: `USER_HZ`, 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// The most it was since the process began.
    pub(crate) rss_bytes_peak: u64,
    /// User and system time of all threads.
    pub(crate) cpu_seconds: f64,
    /// Threads.
    pub(crate) threads: u64,
}

/// Reads now.
pub(crate) fn read(process: u32) -> Result<Usage> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let text =
        |name: &str| std::fs::read_to_string(folder.join(name)).with_context(|| format!("process {process} is gone"));
    parse(&text("status")?, &text("stat")?).with_context(|| format!("/proc/{process} reads unlike a process"))
}

fn parse(status: &str, stat: &str) -> Option<Usage> {
    let number = |field: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    // proc_pid_stat(5): the name, in parentheses, may hold anything; utime and stime are fields 14 and 15, counted from 1.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let cpu_seconds = ticks as f64 / TICKS_PER_SECOND;
    Some(Usage {
        rss_bytes: number("VmRSS")? * 1024,
        rss_bytes_peak: number("VmHWM")? * 1024,
        cpu_seconds,
        threads: number("Threads")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_strange_name_is_read_too() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 100 1000 100";
        let usage = parse("Name:\ta) b (c\nVmHWM:\t  3072 kB\nVmRSS:\t  2048 kB\nThreads:\t3\n", stat);
        assert_eq!(usage, Some(Usage { rss_bytes: 2 << 20, rss_bytes_peak: 3 << 20, cpu_seconds: 2.0, threads: 3 }));
    }

    #[test]
    fn this_process_is_there_and_one_that_is_not_is_said() {
        assert!(read(std::process::id()).unwrap().rss_bytes > 0);
        assert!(read(u32::MAX).unwrap_err().to_string().contains("is gone"));
    }
}
