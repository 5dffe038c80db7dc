//! What the host input may be told, with the defaults that suit an unconfigured host.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Section `[host]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether host metrics are collected at all.
    pub enabled: bool,
    /// Milliseconds between samples of `system.*`: 100 to 60,000.
    pub interval_ms: u64,
    /// Milliseconds between samples of what costs more: filesystems, connections, processes, containers. At least
    /// `interval_ms`; stretched when one reading takes more than a thousandth of it in CPU time.
    pub slow_interval_ms: u64,
    /// Where the host's root is mounted; the host's /proc and /sys are looked for below it. `/` unless in a container.
    pub root_path: PathBuf,
    /// `system.cpu.time` per logical CPU; off gives the sum over all.
    pub per_cpu: bool,
    /// How many processes are reported for their CPU time, and as many for their memory. 0 turns `process.*` off.
    pub processes_top: usize,
    /// How many processes are reported at most, those that serve traffic included.
    pub processes_max: usize,
    /// Whether `process.command_line` is sent. Off, as arguments may hold secrets.
    pub process_command_line: bool,
    /// How many containers and services are reported at most. 0 turns `container.*` off.
    pub containers_max: usize,
    /// Whether systemd services are reported beside containers.
    pub systemd_services: bool,
    /// Whether network filesystems are measured too: a dead server can hang the reading (never the agent).
    pub network_filesystems: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            interval_ms: 1_000,
            slow_interval_ms: 10_000,
            root_path: PathBuf::from("/"),
            per_cpu: true,
            processes_top: 10,
            processes_max: 40,
            process_command_line: false,
            containers_max: 100,
            systemd_services: true,
            network_filesystems: false,
        }
    }
}
