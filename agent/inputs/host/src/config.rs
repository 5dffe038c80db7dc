//! What the host input may be told, with the defaults that suit an unconfigured host.

use crate::Error;
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

impl Config {
    /// Refuse what cannot work, naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, found: String, allowed| Err(Error::Config { key, found, allowed });
        if !(100..=60_000).contains(&self.interval_ms) {
            return wrong("interval_ms", self.interval_ms.to_string(), "100 to 60000");
        }
        if !(self.interval_ms..=3_600_000).contains(&self.slow_interval_ms) {
            return wrong("slow_interval_ms", self.slow_interval_ms.to_string(), "interval_ms to 3600000");
        }
        if !self.root_path.is_absolute() {
            return wrong("root_path", self.root_path.display().to_string(), "an absolute path");
        }
        for (key, found) in [
            ("processes_top", self.processes_top),
            ("processes_max", self.processes_max),
            ("containers_max", self.containers_max),
        ] {
            if found > 1_000 {
                return wrong(key, found.to_string(), "0 to 1000");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_an_error_names_key_value_and_what_is_allowed() {
        assert!(Config::default().check().is_ok());
        let table = [
            (Config { interval_ms: 0, ..Config::default() }, "host.interval_ms is 0: allowed is 100 to 60000"),
            (Config { slow_interval_ms: 500, ..Config::default() }, "host.slow_interval_ms is 500"),
            (Config { root_path: "host".into(), ..Config::default() }, "host.root_path is host"),
            (Config { processes_max: 5_000, ..Config::default() }, "host.processes_max is 5000"),
        ];
        for (config, expected) in table {
            let message = config.check().unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
