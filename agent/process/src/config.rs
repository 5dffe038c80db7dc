//! What the stage may be told, and what it refuses.

use crate::red;
use ollystack_fold as fold;
use ollystack_logs as logs;
use ollystack_redact as redact;
use ollystack_sample as sample;
use serde::{Deserialize, Serialize};

/// What can be set about the stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Redaction.
    pub redact: redact::Config,
    /// Folding.
    pub metrics: fold::Config,
    /// RED metrics.
    pub red: red::Config,
    /// Sampling.
    pub traces: sample::Config,
    /// Folding of log lines.
    pub patterns: logs::Config,
}

/// A setting is out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}, must be {allowed}")]
pub struct Error {
    /// For example `metrics.window_ms`.
    pub field: &'static str,
    /// As given.
    pub value: String,
    /// In words.
    pub allowed: String,
}

impl Config {
    /// With hashes keyed by a key derived from `secret`, unless one is set.
    pub fn keyed(self, secret: &str) -> Config {
        Config { redact: self.redact.keyed(secret), ..self }
    }

    /// Whether every setting is in its range.
    pub fn check(&self) -> Result<(), Error> {
        let (metrics, red) = (&self.metrics, &self.red);
        let series_max = metrics.series_max as u64;
        within("metrics.window_ms", metrics.window_ms, 1_000, 3_600_000)?;
        within("metrics.first_window_ms", metrics.first_window_ms, 0, metrics.window_ms)?;
        within("metrics.grace_ms", metrics.grace_ms, 0, metrics.window_ms)?;
        within("metrics.constant_ms", metrics.constant_ms, 0, 3_600_000)?;
        within("metrics.series_max", series_max, 1, 1_000_000)?;
        within("metrics.bytes_max", metrics.bytes_max as u64, 1 << 20, 1 << 32)?;
        within("metrics.series_per_source_max", metrics.series_per_source_max as u64, 1, series_max)?;
        within("metrics.series_per_metric_max", metrics.series_per_metric_max as u64, 1, series_max)?;
        metrics.check_rules().map_err(|(value, allowed)| Error { field: "metrics.rules", value, allowed })?;
        within("metrics.idle_ms", metrics.idle_ms, metrics.window_ms, 86_400_000)?;
        within("metrics.checkpoint_ms", metrics.checkpoint_ms, 0, 3_600_000)?;
        within("red.services_max", red.services_max as u64, 1, 100_000)?;
        within("red.operations_per_service_max", red.operations_per_service_max as u64, 1, 100_000)?;
        within("red.series_max", red.series_max as u64, 1, 100_000)?;
        within("red.edges_max", red.edges_max as u64, 0, 100_000)?;
        within("red.lookups_max", red.lookups_max as u64, 0, 100_000)?;
        let traces = self.traces.check();
        traces.map_err(|sample::Unfit { field, value, allowed }| Error { field, value, allowed })?;
        let patterns = self.patterns.check();
        patterns.map_err(|logs::Error { field, value, allowed }| Error { field, value, allowed })
    }
}

fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), Error> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error { field, value: value.to_string(), allowed: format!("{least} to {most}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let mut config = Config::default();
        config.metrics.first_window_ms = 61_000;
        assert_eq!(
            config.check().map_err(|error| error.to_string()),
            Err("metrics.first_window_ms is 61000, must be 0 to 60000".to_owned())
        );
        let mut config = Config::default();
        config.traces.baseline_ratio = f64::NAN;
        assert!(config.check().is_err());
        let mut config = Config::default();
        config.metrics.rules = vec![fold::Rule::default()];
        assert!(config.check().is_err_and(|error| error.field == "metrics.rules"));
    }
}
