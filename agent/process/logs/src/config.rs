//! What folding may be told: section `[patterns]` of the agent's configuration.

use crate::rules::{Rule, Rules};
use crate::time::Zone;
use ollystack_patterns as patterns;
use serde::{Deserialize, Serialize};

/// Section `[patterns]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Fold lines that repeat; off, every line goes out as it came.
    pub enabled: bool,
    /// How long lines that repeat are counted before they go out as one row, and over how long a pattern is rare or not.
    pub window_ms: u64,
    /// The same for lines whose sender waits for an answer (OTLP).
    pub answer_ms: u64,
    /// Lines of a pattern that go out whole in a window, at once; only those beyond fold.
    pub whole_per_window: u32,
    /// Lines that a folded row shows as examples.
    pub samples: usize,
    /// How much of such a line is shown.
    pub sample_bytes_max: usize,
    /// Patterns known at once.
    pub patterns_max: usize,
    /// Memory of the patterns.
    pub patterns_bytes_max: usize,
    /// Memory of the open windows; past it lines of further patterns go out whole.
    pub window_bytes_max: usize,
    /// Batches of log files that may wait for an open window; past it the windows close early.
    pub batches_held_max: usize,
    /// Zone of times that state none, as in Europe/Berlin; empty: the host's.
    pub time_zone: String,
    /// What to do with chosen lines, instead of what their number says; the first rule that matches stands.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            window_ms: 60_000,
            answer_ms: 500,
            whole_per_window: 5,
            samples: 3,
            sample_bytes_max: 256,
            patterns_max: 4_096,
            patterns_bytes_max: 2 << 20,
            window_bytes_max: 1_536 << 10,
            batches_held_max: 1_024,
            time_zone: String::new(),
            rules: Vec::new(),
        }
    }
}

/// A setting that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, must be {allowed}")]
pub struct Error {
    /// For example `patterns.window_ms`.
    pub field: &'static str,
    /// As given.
    pub value: String,
    /// In words.
    pub allowed: String,
}

impl Config {
    /// Whether every setting is in its range, every rule reads and the zone is known.
    pub fn check(&self) -> Result<(), Error> {
        within("patterns.window_ms", self.window_ms, 1_000, 600_000)?;
        within("patterns.answer_ms", self.answer_ms, 0, 5_000)?;
        within("patterns.whole_per_window", u64::from(self.whole_per_window), 0, 1_000)?;
        within("patterns.samples", self.samples as u64, 0, 10)?;
        within("patterns.sample_bytes_max", self.sample_bytes_max as u64, 16, 4_096)?;
        within("patterns.patterns_max", self.patterns_max as u64, 16, 1_000_000)?;
        within("patterns.patterns_bytes_max", self.patterns_bytes_max as u64, 64 << 10, 1 << 30)?;
        within("patterns.window_bytes_max", self.window_bytes_max as u64, 64 << 10, 1 << 30)?;
        within("patterns.batches_held_max", self.batches_held_max as u64, 1, 8_192)?;
        Rules::new(&self.rules)?;
        Zone::named(&self.time_zone).map(|_| ()).ok_or_else(|| Error {
            field: "patterns.time_zone",
            value: format!("`{}`", self.time_zone),
            allowed: "a zone that this host knows, as Europe/Berlin or UTC, or empty for the host's own".into(),
        })
    }

    pub(crate) fn miner(&self) -> patterns::Config {
        patterns::Config { patterns_max: self.patterns_max, bytes_max: self.patterns_bytes_max }
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
    use crate::rules::Action;

    #[test]
    fn the_defaults_are_allowed_and_what_is_not_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let refused = |config: Config| config.check().unwrap_err().to_string();
        let config = Config { window_ms: 5, ..Config::default() };
        assert_eq!(refused(config), "patterns.window_ms is 5, must be 1000 to 600000");
        let config = Config { time_zone: "Mars/Base".into(), ..Config::default() };
        assert!(refused(config).contains("patterns.time_zone is `Mars/Base`, must be a zone that this host knows"));
        let rule = Rule { service: String::new(), matches: "(".into(), action: Action::Whole };
        let config = Config { rules: vec![rule], ..Config::default() };
        assert!(refused(config).starts_with("patterns.rules is `(` as match of rule 1, must be a regular expression"));
    }
}
