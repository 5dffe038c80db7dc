//! What this process itself uses: read from /proc for `/metrics`, `status` and the agent's own telemetry.

use rustix::time::{ClockId, clock_gettime};

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
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    Usage { cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9, ..parse(&status) }
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
    }
}
