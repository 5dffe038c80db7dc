//! What can be set about folding, for all metrics and, by rule, for some.
//!
//! Invariant: of the rules the first whose `metric` matches holds, and no other has a say.

use serde::{Deserialize, Serialize};

/// Section `[metrics]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Length of a window, milliseconds.
    pub window_ms: u64,
    /// The first window after a start closes this early, so that data shows at once; milliseconds.
    pub first_window_ms: u64,
    /// How long a window stays open after its end for samples that are late; milliseconds.
    pub grace_ms: u64,
    /// A series that does not move is sent once in this time instead of once a window; milliseconds, 0: each window is sent.
    pub constant_ms: u64,
    /// Series held in all.
    pub series_max: usize,
    /// Bytes of all that is held: series with their labels, histograms, exemplars, last totals, windows on their way out.
    pub bytes_max: usize,
    /// Series held for one input.
    pub series_per_source_max: usize,
    /// Series held of one metric.
    pub series_per_metric_max: usize,
    /// A series without samples for this long is forgotten; milliseconds.
    pub idle_ms: u64,
    /// Whoever runs the folder writes a checkpoint this often; milliseconds, 0: never.
    pub checkpoint_ms: u64,
    /// How levels go out.
    pub gauges: Gauges,
    /// What is otherwise for some metrics.
    pub rules: Vec<Rule>,
}

/// How gauges and up-down counters go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gauges {
    /// Count, sum, min, max and last of the window.
    Fold,
    /// The last value only, as a plain gauge, for backends that insist.
    Last,
}

/// `[[metrics.rules]]`: what is otherwise for the metrics of one name or prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// A metric's name, a prefix followed by `*`, or `*`.
    pub metric: String,
    /// Do not keep the metric; its samples are counted as suppressed.
    pub drop: bool,
    /// Instead of `metrics.window_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// Instead of `metrics.series_per_metric_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series_max: Option<usize>,
    /// Labels to leave off; series that are alike without them become one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop_labels: Vec<String>,
    /// The only labels to keep, if any are named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_labels: Vec<String>,
    /// Instead of `metrics.gauges`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gauges: Option<Gauges>,
}

/// What a window may last, milliseconds: an hour is as much as a crash may be let to take.
const WINDOW_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;

impl Default for Config {
    fn default() -> Config {
        Config {
            window_ms: 60_000,
            first_window_ms: 5_000,
            grace_ms: 2_000,
            // Below the five minutes after which most readers of a gauge take it for gone.
            constant_ms: 240_000,
            series_max: 20_000,
            bytes_max: 6_912 << 10,
            series_per_source_max: 10_000,
            series_per_metric_max: 5_000,
            // Cumulative counters need their last total for the next increase: three exports of the slowest usual interval (5 min).
            idle_ms: 900_000,
            checkpoint_ms: 15_000,
            gauges: Gauges::Fold,
            rules: Vec::new(),
        }
    }
}

impl Config {
    /// The first rule that cannot be followed, and what is wrong with it.
    pub fn check_rules(&self) -> Result<(), (String, String)> {
        for (at, rule) in self.rules.iter().enumerate() {
            rule.check(self.grace_ms).map_err(|(value, allowed)| (format!("{value} in rule {}", at + 1), allowed))?;
        }
        Ok(())
    }

    /// The rule for a metric.
    pub(crate) fn rule(&self, metric: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(metric))
    }
}

impl Rule {
    fn matches(&self, metric: &str) -> bool {
        match self.metric.strip_suffix('*') {
            Some(prefix) => metric.starts_with(prefix),
            None => metric == self.metric,
        }
    }

    /// Whether a label stays.
    pub(crate) fn keeps(&self, label: &str) -> bool {
        let named = |labels: &[String]| labels.iter().any(|name| name == label);
        (self.keep_labels.is_empty() || named(&self.keep_labels)) && !named(&self.drop_labels)
    }

    fn check(&self, grace_ms: u64) -> Result<(), (String, String)> {
        let name = self.metric.strip_suffix('*').unwrap_or(&self.metric);
        if self.metric.is_empty() || name.contains('*') {
            let allowed = "the name of a metric, a prefix followed by *, or *";
            return Err((format!("metric = {:?}", self.metric), allowed.to_owned()));
        }
        if let Some(window_ms) = self.window_ms
            && (!WINDOW_MS.contains(&window_ms) || window_ms < grace_ms)
        {
            let (least, most) = (*WINDOW_MS.start().max(&grace_ms), WINDOW_MS.end());
            return Err((format!("window_ms = {window_ms}"), format!("{least} to {most}")));
        }
        if self.series_max == Some(0) {
            return Err((
                "series_max = 0".to_owned(),
                "at least 1; to keep nothing of a metric, drop = true".to_owned(),
            ));
        }
        if !self.drop_labels.is_empty() && !self.keep_labels.is_empty() {
            return Err(("drop_labels beside keep_labels".to_owned(), "one of the two".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_holds() {
        let rule = |metric: &str| Rule { metric: metric.into(), ..Rule::default() };
        let config = Config { rules: vec![rule("a.b"), rule("a.*"), rule("*")], ..Config::default() };
        for (metric, expected) in [("a.b", "a.b"), ("a.bc", "a.*"), ("a.", "a.*"), ("a", "*"), ("", "*")] {
            assert_eq!(config.rule(metric).map(|rule| rule.metric.as_str()), Some(expected), "{metric}");
        }
        assert_eq!(Config::default().rule("a"), None);
    }

    #[test]
    fn a_rule_that_cannot_be_followed_is_named() {
        let good = Rule { metric: "a.*".into(), ..Rule::default() };
        let table = [
            (Rule { metric: String::new(), ..good.clone() }, "metric = \"\" in rule 2"),
            (Rule { metric: "*.a".into(), ..good.clone() }, "metric = \"*.a\" in rule 2"),
            (Rule { window_ms: Some(1_500), ..good.clone() }, "window_ms = 1500 in rule 2"),
            (Rule { series_max: Some(0), ..good.clone() }, "series_max = 0 in rule 2"),
            (
                Rule { drop_labels: vec!["a".into()], keep_labels: vec!["b".into()], ..good.clone() },
                "drop_labels beside keep_labels in rule 2",
            ),
        ];
        for (bad, expected) in table {
            let config = Config { rules: vec![good.clone(), bad], ..Config::default() };
            assert_eq!(config.check_rules().map_err(|(value, _)| value), Err(expected.to_owned()));
        }
        assert_eq!(Config { rules: vec![good], ..Config::default() }.check_rules(), Ok(()));
    }
}
