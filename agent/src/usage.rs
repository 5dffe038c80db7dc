//! What this process itself uses: read from /proc for `/metrics`, `status` and the agent's own telemetry.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// One reading. Zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Resident memory.
    pub(crate) rss_bytes: u64,
    /// Its highest value so far.
    pub(crate) rss_bytes_peak: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// User and system time of all threads.
    pub(crate) cpu_seconds: f64,
}

/// Read now.
pub(crate) fn read() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Usage { cpu_seconds: cpu_time().as_secs_f64(), ..parse(&status) }
}

/// User and system time of all threads.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory alone, from the file that costs least to read.
pub(crate) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

fn parse(status: &str) -> Usage {
    let number = |field: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Usage {
        rss_bytes: number("VmRSS") * 1024,
        rss_bytes_peak: number("VmHWM") * 1024,
        threads: number("Threads"),
        cpu_seconds: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_status_is_read_in_bytes() {
        let usage = parse("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n");
        assert_eq!((usage.rss_bytes, usage.rss_bytes_peak, usage.threads), (1 << 20, 2 << 20, 3));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = read();
        assert!(usage.rss_bytes > 0 && usage.cpu_seconds > 0.0, "{usage:?}");
        let (resident, again) = (resident_bytes(), read().rss_bytes);
        assert!(resident.abs_diff(again) < 32 << 20, "{resident} and {again} are of one process");
    }
}
