//! What the stage may be told, and what it refuses.

use crate::red;
use ollystack_fold as fold;
use ollystack_sample as sample;
use serde::{Deserialize, Serialize};

/// What can be set about the stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folding.
    pub metrics: fold::Config,
    /// RED metrics.
    pub red: red::Config,
    /// Sampling.
    pub traces: sample::Config,
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
    /// Whether every setting is in its range.
    pub fn check(&self) -> Result<(), Error> {
        let (metrics, red, traces) = (&self.metrics, &self.red, &self.traces);
        let series_max = metrics.series_max as u64;
        within("metrics.window_ms", metrics.window_ms, 1_000, 3_600_000)?;
        within("metrics.first_window_ms", metrics.first_window_ms, 0, metrics.window_ms)?;
        within("metrics.grace_ms", metrics.grace_ms, 0, metrics.window_ms)?;
        within("metrics.series_max", series_max, 1, 1_000_000)?;
        within("metrics.series_per_source_max", metrics.series_per_source_max as u64, 1, series_max)?;
        within("metrics.idle_ms", metrics.idle_ms, metrics.window_ms, 86_400_000)?;
        within("red.services_max", red.services_max as u64, 1, 100_000)?;
        within("red.operations_per_service_max", red.operations_per_service_max as u64, 1, 100_000)?;
        within("traces.wait_ms", traces.wait_ms, 100, 300_000)?;
        within("traces.grace_ms", traces.grace_ms, 0, traces.wait_ms)?;
        within("traces.spans_max", traces.spans_max as u64, 1, 10_000_000)?;
        within("traces.bytes_max", traces.bytes_max as u64, 1 << 20, 1 << 32)?;
        within("traces.decisions_max", traces.decisions_max as u64, 1, 10_000_000)?;
        within("traces.slow_samples_min", traces.slow_samples_min, 10, 1_000_000)?;
        within("traces.operations_max", traces.operations_max as u64, 1, 1_000_000)?;
        if !(0.0..=1.0).contains(&traces.baseline_ratio) {
            let value = traces.baseline_ratio.to_string();
            return Err(Error { field: "traces.baseline_ratio", value, allowed: "0 to 1".into() });
        }
        Ok(())
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
    }
}
