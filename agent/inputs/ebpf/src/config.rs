//! What the eBPF input may be told, with the defaults that suit an unconfigured host.

use crate::Error;
use ollystack_ebpf::sniff;
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
    /// Kills for want of memory: a log event of severity error each, and a counter.
    pub oom: bool,
    /// Block devices: how long requests took, by device and operation.
    pub block_io: bool,
    /// How long threads waited for a CPU, by control group. Costs something at every change of threads.
    pub run_queue: bool,
    /// CPU profiles: what programs spend their time on, as folded stacks of functions, once a minute.
    pub profile: bool,
    /// Requests of applications as spans.
    pub requests: bool,
    /// The trace and span of a request also for the lines that its thread writes to a log meanwhile, where there is no doubt. Costs
    /// some 40 ns at every system call of the host, and 200 at a write, while a process serves so.
    pub log_traces: bool,
    /// Also of those that go through a library of TLS.
    pub tls: bool,
    /// Calls of such a library by one process in a second, beyond which it is left alone for ten minutes: 1,000 to 10,000,000.
    pub tls_calls_per_second_max: u64,
    /// Of which protocols.
    pub protocols: Vec<Protocol>,
    /// How data is watched: `auto` takes the first of `sockets`, `functions`, `calls`, `probes` and `raw` that the kernel allows.
    pub taps: Taps,
    /// Bytes of a call that are looked at: 256 to 1,024. A target or header beyond is not seen.
    pub head_bytes: u32,
    /// Kernel ring buffer for them, in bytes: a power of two from 65,536 to 4,194,304.
    pub ring_bytes: u32,
    /// Calls of no known protocol after which a socket is given up: 1 to 64.
    pub misses_max: u32,
    /// Connections whose requests await answers at most: 16 to 65,536.
    pub connections_max: usize,
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
    /// `fentry` and `fexit` on the functions in which TCP and UDP send and receive; from Linux 6.9. They see what io_uring moves.
    Functions,
    /// The tracepoints of the calls that move bytes; needs tracefs.
    Calls,
    /// Kprobes on the same functions: these see what io_uring moves too, and lose what more threads receive at a time than the
    /// kernel follows.
    Probes,
    /// The two raw tracepoints that see every call.
    Raw,
}

/// A protocol whose requests can be spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the protocols' own names
pub enum Protocol {
    Http1,
    Http2,
    PostgreSql,
    MySql,
    Redis,
    Kafka,
    MongoDb,
    Nats,
    Amqp,
    Dns,
}

impl Protocol {
    /// All.
    pub const ALL: [Protocol; 10] = [
        Protocol::Http1,
        Protocol::Http2,
        Protocol::PostgreSql,
        Protocol::MySql,
        Protocol::Redis,
        Protocol::Kafka,
        Protocol::MongoDb,
        Protocol::Nats,
        Protocol::Amqp,
        Protocol::Dns,
    ];

    /// Its number in `ollystack_ebpf::sniff`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Http1 => sniff::HTTP1,
            Protocol::Http2 => sniff::HTTP2,
            Protocol::PostgreSql => sniff::POSTGRESQL,
            Protocol::MySql => sniff::MYSQL,
            Protocol::Redis => sniff::REDIS,
            Protocol::Kafka => sniff::KAFKA,
            Protocol::MongoDb => sniff::MONGODB,
            Protocol::Nats => sniff::NATS,
            Protocol::Amqp => sniff::AMQP,
            Protocol::Dns => sniff::DNS,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            process: true,
            process_events_per_second_max: 20,
            tcp: true,
            tcp_series_max: 1_000,
            oom: true,
            block_io: true,
            run_queue: false,
            profile: false,
            requests: true,
            log_traces: true,
            tls: true,
            tls_calls_per_second_max: 50_000,
            protocols: Protocol::ALL.to_vec(),
            taps: Taps::Auto,
            head_bytes: 1_024,
            ring_bytes: 1_024 * 1_024,
            misses_max: 8,
            connections_max: 4_096,
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
        within("head_bytes", self.head_bytes.into(), 256, 1_024)?;
        within("ring_bytes", self.ring_bytes.into(), 65_536, 4_194_304)?;
        within("misses_max", self.misses_max.into(), 1, 64)?;
        within("connections_max", self.connections_max as u64, 16, 65_536)?;
        within("processes_max", self.processes_max as u64, 16, 65_536)?;
        within("tcp_series_max", self.tcp_series_max as u64, 1, 100_000)?;
        within("tls_calls_per_second_max", self.tls_calls_per_second_max, 1_000, 10_000_000)?;
        within("drain_interval_ms", self.drain_interval_ms, 5, 200)?;
        within("metrics_interval_ms", self.metrics_interval_ms, 1_000, 60_000)?;
        if !self.ring_bytes.is_power_of_two() {
            let found = self.ring_bytes.to_string();
            return Err(Error::Config { key: "ring_bytes", found, allowed: "a power of two".into() });
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
        let odd = Config { ring_bytes: 100_000, ..Config::default() };
        assert!(odd.check().unwrap_err().to_string().contains("ebpf.ring_bytes is 100000"));
        let small = Config { head_bytes: 10, ..Config::default() };
        assert!(small.check().unwrap_err().to_string().contains("256 to 1024"));
    }
}
