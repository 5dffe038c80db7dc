//! What the input may be told, with the defaults that suit an unconfigured host.

use crate::Error;
use serde::{Deserialize, Serialize};

/// Section `[sockets]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether sockets are looked at.
    pub enabled: bool,
    /// Milliseconds between two looks: 250 to 300,000. Longer where a look costs much.
    pub interval_ms: u64,
    /// Connections looked at in one look at most: 100 to 200,000.
    pub sockets_max: usize,
    /// Edges told apart at most: 1 to 10,000; the rest share one.
    pub edges_max: usize,
    /// Addresses at which services are said to answer at most: 0 to 10,000.
    pub endpoints_max: usize,
    /// Network namespaces of containers looked into at most: 0 to 10,000.
    pub namespaces_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            interval_ms: 15_000,
            sockets_max: 5_000,
            edges_max: 128,
            endpoints_max: 128,
            namespaces_max: 100,
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
            Err(Error::Config { key, found: value, allowed: format!("{least} to {most}") })
        };
        within("interval_ms", self.interval_ms, 250, 300_000)?;
        within("sockets_max", self.sockets_max as u64, 100, 200_000)?;
        within("edges_max", self.edges_max as u64, 1, 10_000)?;
        within("endpoints_max", self.endpoints_max as u64, 0, 10_000)?;
        within("namespaces_max", self.namespaces_max as u64, 0, 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed_and_what_is_not_is_named() {
        Config::default().check().unwrap();
        let odd = Config { interval_ms: 1, ..Config::default() };
        assert!(odd.check().unwrap_err().to_string().contains("sockets.interval_ms is 1: allowed is 250 to 300000"));
    }
}
