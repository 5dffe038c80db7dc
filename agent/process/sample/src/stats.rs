//! What sampling holds and did, by policy: served on `/status`, shown by `status`, counted on `/metrics`.
//!
//! Invariant: every span taken waits, or is counted once, as kept or let go, under the policy that decided it.

use crate::rule::Rule;
use serde::{Deserialize, Serialize};

/// Figures of sampling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Traces that wait.
    pub waiting_traces: usize,
    /// Spans that wait, for a decision or to be handed out.
    pub waiting_spans: usize,
    /// Bytes they take, encoded, with their places and origins.
    pub waiting_bytes: usize,
    /// Operations known.
    pub operations: usize,
    /// Kinds of errors known: operation and `error.type` or `exception.type`.
    pub error_kinds: usize,
    /// Spans taken.
    pub spans: u64,
    /// Traces decided before their time, for want of room.
    pub decided_early: u64,
    /// Spans whose tracestate claimed a higher weight than `weight_max`.
    pub weights_limited: u64,
    /// What each policy did, in the order in which they are asked.
    pub policies: Vec<PolicyStats>,
    /// How ordinary traces are kept now.
    pub baseline: BaselineStats,
}

/// What one policy did. A trace is counted once; spans that come after its decision count as `late`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStats {
    /// `error`, `rule:NAME` and so on.
    pub name: String,
    /// Traces kept by it.
    pub kept_traces: u64,
    /// Their spans.
    pub kept_spans: u64,
    /// Traces let go by it.
    pub let_go_traces: u64,
    /// Their spans.
    pub let_go_spans: u64,
}

/// The baseline at present.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BaselineStats {
    /// Share of ordinary traces that is kept.
    pub ratio: f64,
    /// The same as a rejection threshold, as it stands in `ot=th`.
    pub threshold: String,
    /// What the endpoint has it multiplied by: below 1 the tenant's quotas would not last. It is in `ratio`.
    pub scale: f64,
    /// The budget in spans a second, 0 for none.
    pub budget_spans_per_second: f64,
    /// The budget in bytes a day, 0 for none.
    pub budget_bytes_per_day: u64,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Error,
    Rule(u16),
    HealthCheck,
    Slow,
    FirstSight,
    FirstError,
    Baseline,
    ServiceRate,
    Late,
}

const BEFORE_RULES: usize = 1;
const AFTER_RULES: [&str; 7] =
    ["health_check", "slow", "first_sight", "first_error", "baseline", "service_rate", "late"];

/// Counters by policy.
#[derive(Debug)]
pub(crate) struct Counters {
    rows: Vec<PolicyStats>,
    rules: usize,
}

impl Counters {
    pub(crate) fn new(rules: &[Rule]) -> Counters {
        let names = std::iter::once("error".to_owned())
            .chain(rules.iter().map(|rule| format!("rule:{}", rule.name)))
            .chain(AFTER_RULES.map(str::to_owned));
        let rows = names.map(|name| PolicyStats { name, ..PolicyStats::default() }).collect();
        Counters { rows, rules: rules.len() }
    }

    /// So many traces with so many spans were kept, or let go.
    pub(crate) fn count(&mut self, policy: Policy, kept: bool, traces: u64, spans: u64) {
        let after = |index| BEFORE_RULES + self.rules + index;
        let at = match policy {
            Policy::Error => 0,
            Policy::Rule(index) => BEFORE_RULES + usize::from(index),
            Policy::HealthCheck => after(0),
            Policy::Slow => after(1),
            Policy::FirstSight => after(2),
            Policy::FirstError => after(3),
            Policy::Baseline => after(4),
            Policy::ServiceRate => after(5),
            Policy::Late => after(6),
        };
        let Some(row) = self.rows.get_mut(at) else { return };
        if kept {
            row.kept_traces += traces;
            row.kept_spans += spans;
        } else {
            row.let_go_traces += traces;
            row.let_go_spans += spans;
        }
    }

    pub(crate) fn rows(&self) -> Vec<PolicyStats> {
        self.rows.clone()
    }
}

impl Stats {
    /// What a policy did.
    pub fn policy(&self, name: &str) -> PolicyStats {
        self.policies.iter().find(|policy| policy.name == name).cloned().unwrap_or_default()
    }
}
