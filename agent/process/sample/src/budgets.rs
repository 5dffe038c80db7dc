//! All that keeps sampling within rates: the budgets of ordinary traces, and the rates of rules and services.
//!
//! Asked when a trace is decided. Invariant: the rates that are kept by service are bounded in number; past that, services share
//! one.

use crate::Config;
use crate::budget::Budget;
use hashbrown::HashMap;

/// Rates held for services, and for rules by service: each 72 bytes.
const RATES_MAX: usize = 1_024;
/// A rate that nothing was asked of for so long is forgotten.
const IDLE_NANOS: u64 = 600_000_000_000;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// How large a trace is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) spans: f64,
    pub(crate) bytes: f64,
}

/// Whose rate: that of a rule (by its index) or of all that is kept ([`ALL`]), and of which service (by its hash).
type Key = (u16, u64);

/// In place of a rule: all of a service.
pub(crate) const ALL: u16 = u16::MAX;

/// All of them.
#[derive(Debug)]
pub(crate) struct Budgets {
    spans: Option<Budget>,
    bytes: Option<Budget>,
    rates: HashMap<Key, Budget>,
}

impl Budgets {
    pub(crate) fn new(config: &Config) -> Budgets {
        let set = |per_second: f64| (per_second > 0.0).then(|| Budget::new(per_second, 0));
        Budgets {
            spans: set(config.budget_spans_per_second),
            bytes: set(config.budget_bytes_per_day as f64 / SECONDS_PER_DAY),
            rates: HashMap::new(),
        }
    }

    /// The probability to keep an ordinary trace with. One that came through an earlier sampler stands for `weight` traces, and
    /// of those the earlier one kept this, so that it is offered as many.
    pub(crate) fn offer(&mut self, size: Size, weight: f64, now_unix_nano: u64) -> f64 {
        let of = |budget: &mut Option<Budget>, units: f64| {
            budget.as_mut().map_or(1.0, |budget| budget.offer(units * weight, now_unix_nano))
        };
        of(&mut self.spans, size.spans).min(of(&mut self.bytes, size.bytes))
    }

    /// That probability now.
    pub(crate) fn ratio(&self) -> f64 {
        let of = |budget: &Option<Budget>| budget.as_ref().map_or(1.0, Budget::ratio);
        of(&self.spans).min(of(&self.bytes))
    }

    /// A trace was kept: an ordinary one, or for another reason.
    pub(crate) fn keep(&mut self, size: Size, ordinary: bool) {
        for (budget, units) in [(&mut self.spans, size.spans), (&mut self.bytes, size.bytes)] {
            match budget {
                Some(budget) if ordinary => budget.keep(units),
                Some(budget) => budget.keep_apart(units),
                None => {}
            }
        }
    }

    /// Whether bytes matter.
    pub(crate) fn weighs(&self) -> bool {
        self.bytes.is_some()
    }

    /// The rate of a rule in a service, or of a service.
    pub(crate) fn rate(&mut self, rule: u16, service: u64, per_second: f64, now_unix_nano: u64) -> &mut Budget {
        let key = (rule, service);
        let room = self.rates.len() < RATES_MAX || self.rates.contains_key(&key);
        let key = if room { key } else { (rule, 0) };
        self.rates.entry(key).or_insert_with(|| Budget::new(per_second, now_unix_nano))
    }

    /// Let time pass.
    pub(crate) fn tick(&mut self, now_unix_nano: u64) {
        for budget in self.spans.iter_mut().chain(&mut self.bytes) {
            budget.tick(now_unix_nano);
        }
        if self.rates.len() >= RATES_MAX {
            self.rates.retain(|_, rate| !rate.is_idle(now_unix_nano, IDLE_NANOS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn past_the_limit_services_share_a_rate_until_others_were_forgotten() {
        let mut budgets = Budgets::new(&Config::default());
        for service in 1..=2 * RATES_MAX as u64 {
            budgets.rate(ALL, service, 1.0, SECOND).offer(1.0, SECOND);
        }
        assert_eq!(budgets.rates.len(), RATES_MAX + 1);
        budgets.tick(SECOND + IDLE_NANOS);
        assert_eq!(budgets.rates.len(), RATES_MAX + 1, "none is idle for so long");
        budgets.tick(2 * SECOND + IDLE_NANOS);
        assert_eq!(budgets.rates.len(), 0);
    }

    #[test]
    fn the_tighter_budget_rules() {
        let config = Config { budget_spans_per_second: 100.0, budget_bytes_per_day: 86_400_000, ..Config::default() };
        for (spans, bytes, ratio) in [(1_000.0, 1_000.0, 0.1), (200.0, 4_000.0, 0.25), (100.0, 1_000.0, 1.0)] {
            let mut budgets = Budgets::new(&config);
            assert_eq!(budgets.offer(Size { spans, bytes }, 1.0, 0), ratio);
        }
        let mut neither = Budgets::new(&Config { budget_spans_per_second: 0.0, ..Config::default() });
        assert_eq!(neither.offer(Size { spans: 1e9, bytes: 1e9 }, 1.0, 0), 1.0);
    }
}
