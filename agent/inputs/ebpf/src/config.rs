//! What the eBPF input may be told, with the defaults that suit an unconfigured host.

use crate::Error;
use serde::{Deserialize, Serialize};

/// Section `[ebpf]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether anything is loaded into the kernel at all.
    pub enabled: bool,
    /// Program starts and process ends: counters, and a log event each.
    pub process: bool,
    /// Log events of starts and ends per second at most; beyond, they are only counted. 0 turns the events off.
    pub process_events_per_second_max: u32,
    /// TCP connections: opened, failed, bytes, round trips, retransmissions.
    pub tcp: bool,
    /// Series of `ollystack.tcp.*` between two readings at most; beyond, they merge into one without attributes.
    pub tcp_series_max: usize,
    /// Plain HTTP/1.x requests as spans.
    pub http: bool,
    /// How data is watched: `auto` takes the first of `sockets`, `calls` and `raw` that the kernel allows.
    pub http_taps: Taps,
    /// Bytes of a request or response head that are looked at: 256 to 1,024. A target or header beyond is not seen.
    pub http_head_bytes: u32,
    /// Kernel ring buffer for heads, in bytes: a power of two from 65,536 to 4,194,304.
    pub http_ring_bytes: u32,
    /// Messages without HTTP after which a socket is given up: 1 to 64.
    pub http_misses_max: u32,
    /// Connections whose requests await answers at most: 16 to 65,536.
    pub http_connections_max: usize,
    /// Processes whose name and service are remembered at most: 16 to 65,536.
    pub processes_max: usize,
    /// Milliseconds between two looks into the ring buffers: 5 to 200. A ring that is a quarter full is looked into at once.
    pub drain_interval_ms: u64,
    /// Milliseconds between samples of `ollystack.tcp.*` and `ollystack.process.*`: 1,000 to 60,000.
    pub metrics_interval_ms: u64,
}

/// How data is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Taps {
    /// Whatever the kernel allows, best first.
    Auto,
    /// The tracepoints of sockets; from Linux 6.3. Free where no socket is involved.
    Sockets,
    /// The tracepoints of the calls that move bytes; needs tracefs.
    Calls,
    /// The two raw tracepoints that see every call.
    Raw,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            process: true,
            process_events_per_second_max: 20,
            tcp: true,
            tcp_series_max: 1_000,
            http: true,
            http_taps: Taps::Auto,
            http_head_bytes: 1_024,
            http_ring_bytes: 1_024 * 1_024,
            http_misses_max: 8,
            http_connections_max: 8_192,
            processes_max: 2_048,
            drain_interval_ms: 50,
            metrics_interval_ms: 10_000,
        }
    }
}

impl Config {
    /// Whether every value is allowed.
    pub fn check(&self) -> Result<(), Error> {
        let within = |key, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::Config { key, found: value.to_string(), allowed: format!("{least} to {most}") })
        };
        within("http_head_bytes", self.http_head_bytes.into(), 256, 1_024)?;
        within("http_ring_bytes", self.http_ring_bytes.into(), 65_536, 4_194_304)?;
        within("http_misses_max", self.http_misses_max.into(), 1, 64)?;
        within("http_connections_max", self.http_connections_max as u64, 16, 65_536)?;
        within("processes_max", self.processes_max as u64, 16, 65_536)?;
        within("tcp_series_max", self.tcp_series_max as u64, 1, 100_000)?;
        within("drain_interval_ms", self.drain_interval_ms, 5, 200)?;
        within("metrics_interval_ms", self.metrics_interval_ms, 1_000, 60_000)?;
        if !self.http_ring_bytes.is_power_of_two() {
            let found = self.http_ring_bytes.to_string();
            return Err(Error::Config { key: "http_ring_bytes", found, allowed: "a power of two".into() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_a_ring_must_be_a_power_of_two() {
        Config::default().check().unwrap();
        let odd = Config { http_ring_bytes: 100_000, ..Config::default() };
        assert!(odd.check().unwrap_err().to_string().contains("ebpf.http_ring_bytes is 100000"));
        let small = Config { http_head_bytes: 10, ..Config::default() };
        assert!(small.check().unwrap_err().to_string().contains("256 to 1024"));
    }
}
