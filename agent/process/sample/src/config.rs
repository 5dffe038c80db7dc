//! What can be told about sampling: section `[traces]`.
//!
//! Invariant: what [`Config::check`] lets pass can be carried out as it says; a pattern that is none does not even parse.

use crate::rule::Rule;
use serde::{Deserialize, Serialize};

/// Rules at most: each is tried on every span, and a pattern may hold [`crate::rule::PATTERN_BYTES_MAX`].
pub const RULES_MAX: usize = 64;

/// Health checks at most: each is compared with what an entry span asked for.
const HEALTH_CHECKS_MAX: usize = 256;

/// Section `traces`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The longest a trace waits for its root, milliseconds.
    pub wait_ms: u64,
    /// How long after the end of its local root a trace is decided.
    pub grace_ms: u64,
    /// Spans that wait.
    pub spans_max: usize,
    /// Bytes of the spans that wait, encoded, with their places in the table, until they have left.
    pub bytes_max: usize,
    /// Decisions that are remembered for late spans.
    pub decisions_max: usize,
    /// Share of ordinary traces that is kept, 0 to 1; with a budget, the most of them.
    pub baseline_ratio: f64,
    /// Spans a second that may be kept; ordinary traces get what is kept for no other reason. 0: no such budget.
    pub budget_spans_per_second: f64,
    /// Likewise in bytes a day, as uncompressed OTLP. 0: no such budget.
    pub budget_bytes_per_day: u64,
    /// What may be kept of one service but for errors. 0: no such limit.
    pub spans_per_second_per_service_max: f64,
    /// The most traces that one may claim to stand for because an earlier sampler let go the others (`ot=th`); a higher claim is
    /// lowered to this, and counted.
    pub weight_max: f64,
    /// Milliseconds from which on every operation is slow; 0: by each operation's own 99th percentile.
    pub slow_ms: u64,
    /// Spans of an operation before any of them can be slow.
    pub slow_samples_min: u64,
    /// Operations (service, name, kind) of which it is known what is slow, and that they are not new.
    pub operations_max: usize,
    /// Paths, operations and user agents of health checks; a `*` at the end stands for any rest.
    pub health_checks: Vec<String>,
    /// What else to keep and to let go.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Config {
        let health_checks = [
            "/health",
            "/healthz",
            "/livez",
            "/readyz",
            "/live",
            "/ready",
            "/ping",
            "/metrics",
            "/actuator/health*",
            "/-/healthy",
            "/-/ready",
            "grpc.health.v1.Health/*",
            "kube-probe/*",
            "ELB-HealthChecker/*",
            "GoogleHC/*",
        ];
        Config {
            wait_ms: 5_000,
            grace_ms: 500,
            spans_max: 20_000,
            bytes_max: 7 << 20,
            decisions_max: 20_000,
            baseline_ratio: 0.05,
            budget_spans_per_second: 50.0,
            budget_bytes_per_day: 0,
            spans_per_second_per_service_max: 0.0,
            weight_max: 10_000.0,
            slow_ms: 0,
            slow_samples_min: 100,
            operations_max: 1_600,
            health_checks: health_checks.map(str::to_owned).to_vec(),
            rules: Vec::new(),
        }
    }
}

/// A setting that is out of range.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfit {
    /// For example `traces.wait_ms`.
    pub field: &'static str,
    /// As given.
    pub value: String,
    /// In words.
    pub allowed: String,
}

impl Config {
    /// Whether every setting is in its range.
    pub fn check(&self) -> Result<(), Unfit> {
        within("traces.wait_ms", self.wait_ms, 100, 300_000)?;
        within("traces.grace_ms", self.grace_ms, 0, self.wait_ms)?;
        within("traces.spans_max", self.spans_max as u64, 1, 10_000_000)?;
        within("traces.bytes_max", self.bytes_max as u64, 1 << 20, 1 << 32)?;
        within("traces.decisions_max", self.decisions_max as u64, 1, 10_000_000)?;
        within("traces.budget_bytes_per_day", self.budget_bytes_per_day, 0, 1 << 50)?;
        within("traces.slow_ms", self.slow_ms, 0, 86_400_000)?;
        within("traces.slow_samples_min", self.slow_samples_min, 10, 1_000_000)?;
        within("traces.operations_max", self.operations_max as u64, 1, 1_000_000)?;
        within("traces.health_checks", self.health_checks.len() as u64, 0, HEALTH_CHECKS_MAX as u64)?;
        within("traces.rules", self.rules.len() as u64, 0, RULES_MAX as u64)?;
        between("traces.baseline_ratio", self.baseline_ratio, 1.0)?;
        between("traces.budget_spans_per_second", self.budget_spans_per_second, RATE_MAX)?;
        between("traces.spans_per_second_per_service_max", self.spans_per_second_per_service_max, RATE_MAX)?;
        if !(1.0..=WEIGHT_MAX).contains(&self.weight_max) {
            let (value, allowed) = (self.weight_max.to_string(), format!("1 to {WEIGHT_MAX}"));
            return Err(Unfit { field: "traces.weight_max", value, allowed });
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let twice = self.rules[..index].iter().any(|other| other.name == rule.name);
            let fault = if twice { Some("a name of its own") } else { rule.fault() };
            if let Some(allowed) = fault {
                let value = format!("one with the name `{}`", rule.name);
                return Err(Unfit { field: "traces.rules", value, allowed: allowed.to_owned() });
            }
        }
        Ok(())
    }
}

/// A share of one in so many still has its four digits in a threshold.
const WEIGHT_MAX: f64 = 1e9;

/// More spans a second than any host has.
pub(crate) const RATE_MAX: f64 = 1e9;

fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), Unfit> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Unfit { field, value: value.to_string(), allowed: format!("{least} to {most}") })
}

fn between(field: &'static str, value: f64, most: f64) -> Result<(), Unfit> {
    if (0.0..=most).contains(&value) {
        return Ok(());
    }
    Err(Unfit { field, value: value.to_string(), allowed: format!("0 to {most}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Keep;

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let fault = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().map_err(|unfit| format!("{} is {}: {}", unfit.field, unfit.value, unfit.allowed))
        };
        let rule = |name: &str| Rule { name: name.into(), keep: Some(Keep::Always), ..Rule::default() };
        assert_eq!(fault(|c| c.wait_ms = 1), Err("traces.wait_ms is 1: 100 to 300000".to_owned()));
        assert_eq!(fault(|c| c.baseline_ratio = 2.0), Err("traces.baseline_ratio is 2: 0 to 1".to_owned()));
        assert!(fault(|c| c.budget_spans_per_second = f64::NAN).is_err());
        assert!(fault(|c| c.rules = vec![Rule::default()]).is_err());
        let mut config = Config { rules: vec![rule("a"), rule("b")], ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        config.rules.push(rule("a"));
        assert_eq!(config.check().map_err(|unfit| unfit.allowed), Err("a name of its own".to_owned()));
    }
}
