//! Tail sampling: whole traces are kept or let go when it is known what they were.
//!
//! Spans wait by trace, encoded, until the local root has ended and a short grace is over, or until they have waited long enough; a
//! failed span decides at once. Asked in this order: errors are kept; rules with `always` or `never` are obeyed; traces of nothing but
//! health checks are let go; what is slow for its operation, the first sight of an operation and of a kind of error are kept; rules
//! with a share or a rate apply; and of the rest, the baseline, as much as the budget allows, by trace id. Late spans follow the
//! decision, unless they bring a better reason to keep.
//!
//! Weights: what is kept because of what it is, is kept whole, so a span stands for itself and carries no threshold of ours. What is
//! kept by chance (the baseline, shares, rates) carries `ot=th`, and stands for what was let go beside it. So a sum of weights over all
//! that is kept estimates the sum over all that came, without bias, but for what `never` and health checks let go.
//!
//! Kept traces leave by [`Sampler::hand_out`], decoded a portion at a time: until then they stay encoded where they waited.
//!
//! Invariant: at most `spans_max` spans and `bytes_max` bytes wait; past that, what is kept leaves, and then traces are decided by
//! what is known of them, those first of which the least is still to come.

mod arena;
mod budget;
mod budgets;
mod config;
mod decisions;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod hand_out;
mod health;
mod latency;
pub mod operation;
mod operations;
mod origins;
pub mod rule;
mod sight;
mod stats;
#[cfg(test)]
mod tests;
mod waiting;
mod waits;

pub use config::{Config, RULES_MAX, Unfit};
pub use stats::{BaselineStats, PolicyStats, Stats};

use arena::{Arena, Chain};
use budgets::{Budgets, Size};
use decisions::{Decision, Decisions, Unless};
use hand_out::{Kept, hand_out};
use health::HealthChecks;
use ollystack_record::attribute::{Attribute, Value};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::value::attributes_heap_bytes;
use ollystack_record::{Class, DropReason, Ledger, Place, Reduced, Request, Resource, Signal, Template};
use ollystack_schema::names::semconv;
use ollystack_schema::probability;
use operation::operation;
use operations::Operations;
use origins::{Origin, Origins};
use prost::encoding::{encode_varint, encoded_len_varint};
use rule::{Keep, Rule, Subject};
use stats::{Counters, Policy};
use std::collections::VecDeque;
use std::sync::Arc;
use waiting::{Trace, Waiting};
use waits::Waits;
use xxhash_rust::xxh3::xxh3_64;

/// A single trace may hold this part of `bytes_max`: one that never ends must not drive all others out.
const TRACE_SHARE: usize = 8;

/// What the buffers for encoding and decoding keep between two ticks.
const BUFFER_BYTES: usize = 64 << 10;

/// A kept trace that waits to be handed out.
#[derive(Debug)]
struct Leaving {
    chain: Chain,
    class: Class,
    threshold: u64,
}

/// Waiting traces and decisions.
#[derive(Debug)]
pub struct Sampler {
    config: Config,
    /// The lowest threshold of the baseline: by `baseline_ratio`, and by what was asked since.
    baseline: u64,
    /// What the share of ordinary traces is multiplied by.
    scale: f64,
    /// The highest that an earlier sampler is believed, by `weight_max`.
    believed: u64,
    health_checks: HealthChecks,
    ledger: Arc<Ledger>,
    waiting: Waiting,
    arena: Arena,
    origins: Origins,
    spans: usize,
    decisions: Decisions,
    operations: Operations,
    budgets: Budgets,
    /// Kept traces, encoded.
    leaving: VecDeque<Leaving>,
    kept: Vec<Kept>,
    /// A span on its way into the arena, and a trace that is let go.
    encoded: Vec<u8>,
    let_go: Vec<u8>,
    /// The trace that is being handed out: its spans, of which those from here on have not left, and how it was decided.
    read: Vec<u8>,
    read_to: usize,
    read_as: (Class, u64),
    counters: Counters,
    taken: u64,
    decided_early: u64,
    weights_limited: u64,
    now_unix_nano: u64,
}

/// What a span means for its trace.
#[derive(Clone, Copy, Debug, Default)]
struct Sight {
    entry: bool,
    failed: bool,
    slow: bool,
    first_sight: bool,
    first_error: bool,
    health_check: bool,
    rule: Option<u16>,
}

/// What a span says for itself.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// Of its operation.
    key: u64,
    entry: bool,
    failed: bool,
    seconds: f64,
    /// How it failed, by [`operations::error_key`].
    error: Option<u64>,
    health_check: bool,
    rule: Option<u16>,
    /// From here on it is slow; 0: by what is usual.
    slow_ms: u64,
}

/// What requests that have a template in common say, as far as that tells.
#[derive(Clone, Copy, Debug)]
pub struct Alike {
    key: u64,
    service_hash: u64,
    /// Each is where its trace enters the service, whether it has a parent or not.
    serves: bool,
    failed: bool,
    error: Option<u64>,
    health_check: bool,
}

/// Where spans come from.
#[derive(Clone, Copy, Debug)]
struct Whose {
    origin: u32,
    service_hash: u64,
}

impl Sampler {
    /// Nothing waits.
    pub fn new(config: Config, ledger: Arc<Ledger>) -> Sampler {
        Sampler {
            baseline: probability::threshold(config.baseline_ratio),
            scale: 1.0,
            believed: probability::threshold(1.0 / config.weight_max),
            health_checks: HealthChecks::new(&config.health_checks),
            decisions: Decisions::new(config.decisions_max),
            operations: Operations::new(config.operations_max, config.slow_samples_min),
            budgets: Budgets::new(&config),
            counters: Counters::new(&config.rules),
            config,
            ledger,
            waiting: Waiting::new(),
            arena: Arena::new(),
            origins: Origins::default(),
            spans: 0,
            leaving: VecDeque::new(),
            kept: Vec::new(),
            encoded: Vec::new(),
            let_go: Vec::new(),
            read: Vec::new(),
            read_to: 0,
            read_as: (Class::Normal, 0),
            taken: 0,
            decided_early: 0,
            weights_limited: 0,
            now_unix_nano: 0,
        }
    }

    /// Take spans, to wait for the others of their traces. What is kept at once, or leaves to make room, is appended to `out`.
    pub fn take(
        &mut self,
        resource: &Arc<Resource>,
        scopes: Vec<ScopeSpans>,
        now_unix_nano: u64,
        out: &mut Vec<Reduced>,
    ) {
        self.begin(now_unix_nano);
        let service_hash = xxh3_64(resource.service_name().as_bytes());
        for ScopeSpans { scope, spans, schema_url } in scopes {
            let origin = Origin { resource: Arc::clone(resource), scope, schema_url, template: None };
            let origin = self.origins.hold(origin);
            let whose = Whose { origin, service_hash };
            self.taken += spans.len() as u64;
            for mut span in spans {
                self.weights_limited += u64::from(probability::limit(&mut span.trace_state, self.believed));
                let told = self.told(&span, resource, service_hash);
                let sight = self.look(told);
                self.take_span(span, whose, sight);
            }
            self.origins.let_go(origin);
        }
        self.send(out);
    }

    /// It is now so late: before requests are taken one by one.
    pub fn begin(&mut self, now_unix_nano: u64) {
        self.now_unix_nano = now_unix_nano;
    }

    /// Take a request, to wait for the spans of its trace; `alike` is what [`Sampler::alike`] said of its template. What is kept at once
    /// waits for [`Sampler::send`].
    pub fn take_request(&mut self, resource: &Arc<Resource>, alike: Alike, request: Request) {
        let Alike { key, service_hash, serves, failed, error, health_check } = alike;
        let entry = serves || request.parent.is_none();
        let is_health_check = |attribute: &Attribute| {
            attribute.key == semconv::URL_PATH
                && matches!(&attribute.value, Value::Text(path) if self.health_checks.is(path))
        };
        let told = Told {
            key,
            entry,
            failed,
            seconds: sight::seconds(request.start_unix_nano, request.end_unix_nano),
            error,
            health_check: entry && (health_check || request.own.iter().any(is_health_check)),
            rule: None,
            slow_ms: self.config.slow_ms,
        };
        let sight = self.look(told);
        let origin = self.origins.hold_template(resource, &request.template);
        self.taken += 1;
        self.take_span(request, Whose { origin, service_hash }, sight);
        self.origins.let_go(origin);
    }

    /// What is the same for all requests of a template. Rules look at whole spans: where there are any, nothing is.
    pub fn alike(&self, resource: &Resource, template: &Template) -> Alike {
        let (span, service_hash) = (template.span(), xxh3_64(resource.service_name().as_bytes()));
        let key = operations::key(service_hash, &operation(span), span.kind);
        Alike {
            key,
            service_hash,
            serves: sight::serves(span),
            failed: sight::is_error(span),
            error: sight::error_type(span).map(|error_type| operations::error_key(key, error_type)),
            health_check: self.health_checks.has(span),
        }
    }

    /// Whether there are rules, which may ask for any attribute.
    pub fn has_rules(&self) -> bool {
        !self.config.rules.is_empty()
    }

    /// From now on keep no more than this share of ordinary traces, and of what would be kept of them only this part. Weights follow; what
    /// is kept for a reason or by a rule is not touched.
    pub fn spare(&mut self, ratio_max: f64, scale: f64) {
        self.baseline = probability::threshold(self.config.baseline_ratio.min(ratio_max) * scale);
        self.scale = scale;
    }

    /// Let time pass: decide what has waited long enough.
    pub fn tick(&mut self, now_unix_nano: u64) {
        self.now_unix_nano = now_unix_nano;
        // A clock that was set back must not make traces wait for it: nothing waits longer than from now on.
        let latest = now_unix_nano.saturating_add(self.config.wait_ms.max(self.config.grace_ms) * 1_000_000);
        while let Some(slot) = self.waiting.due(now_unix_nano, latest) {
            self.decide(slot, false);
        }
        self.operations.tick(now_unix_nano);
        self.budgets.tick(now_unix_nano);
        self.trim();
    }

    /// Decide everything.
    pub fn drain(&mut self) {
        while let Some(slot) = self.waiting.nearest() {
            self.decide(slot, false);
        }
    }

    /// Memory is short: decide everything before its time.
    pub fn relieve(&mut self) {
        self.decided_early += self.waiting.len() as u64;
        self.drain();
    }

    /// Append kept spans to `out`, about so many bytes of them. True: there are more.
    pub fn hand_out(&mut self, bytes_max: usize, out: &mut Vec<Reduced>) -> bool {
        self.read_out(bytes_max);
        self.send(out);
        let more = self.read_to < self.read.len() || !self.leaving.is_empty();
        if !more {
            self.trim();
        }
        more
    }

    /// Give memory back that nothing needs.
    fn trim(&mut self) {
        self.waiting.trim();
        self.arena.trim();
        for buffer in [&mut self.encoded, &mut self.let_go] {
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES);
        }
        if self.read_to == self.read.len() {
            self.read.clear();
            self.read.shrink_to(BUFFER_BYTES);
            self.read_to = 0;
        }
        if self.leaving.is_empty() {
            self.leaving = VecDeque::new();
        }
    }

    /// The figures now.
    pub fn stats(&self) -> Stats {
        let ratio = self.budgets.ratio() * self.scale;
        let threshold = probability::rung(ratio).max(self.baseline);
        Stats {
            waiting_traces: self.waiting.len(),
            waiting_spans: self.spans,
            waiting_bytes: self.bytes(),
            operations: self.operations.len(),
            error_kinds: self.operations.errors(),
            spans: self.taken,
            decided_early: self.decided_early,
            weights_limited: self.weights_limited,
            policies: self.counters.rows(),
            baseline: BaselineStats {
                ratio: probability::share(threshold),
                threshold: probability::digits(threshold),
                scale: self.scale,
                budget_spans_per_second: self.config.budget_spans_per_second,
                budget_bytes_per_day: self.config.budget_bytes_per_day,
            },
        }
    }

    /// What a span says for itself.
    fn told(&self, span: &Span, resource: &Resource, service_hash: u64) -> Told {
        let operation = operation(span);
        let key = operations::key(service_hash, &operation, span.kind);
        let (mut rule, mut slow_ms) = (None, self.config.slow_ms);
        if !self.config.rules.is_empty() {
            let (service, own) = (resource.service_name(), &span.attributes[..]);
            let subject = Subject { service, operation: &operation, own, resource: resource.attributes() };
            let rules = || self.config.rules.iter().enumerate().filter(|(_, rule)| rule.matches(subject));
            rule = rules().find(|(_, rule)| rule.keeps()).and_then(|(index, _)| u16::try_from(index).ok());
            slow_ms = rules().find_map(|(_, rule)| rule.slow_ms).unwrap_or(slow_ms);
        }
        let entry = sight::is_entry(span);
        Told {
            key,
            entry,
            failed: sight::is_error(span),
            seconds: sight::seconds(span.start_time_unix_nano, span.end_time_unix_nano),
            error: sight::error_type(span).map(|error_type| operations::error_key(key, error_type)),
            health_check: entry && self.health_checks.has(span),
            rule,
            slow_ms,
        }
    }

    /// What a span means, by what came before it.
    fn look(&mut self, told: Told) -> Sight {
        let Told { key, entry, failed, seconds, error, health_check, rule, slow_ms } = told;
        let now = self.now_unix_nano;
        let known = self.operations.of(key, now);
        let mut sight = Sight { entry, failed, health_check, rule, ..Sight::default() };
        sight.first_sight = known.as_ref().is_some_and(|known| known.first);
        // Only what enters a service is judged by its latency: with every span of a trace judged by its own 99th
        // percentile, most larger traces would be slow.
        if entry {
            let slow = known.is_some_and(|known| known.latency.is_slow(seconds));
            sight.slow = if slow_ms == 0 { slow } else { seconds * 1e3 >= slow_ms as f64 };
        }
        sight.first_error = error.is_some_and(|error| self.operations.is_first_error(error, now));
        sight
    }

    fn take_span(&mut self, span: impl Waits, whose: Whose, sight: Sight) {
        let id = span.trace();
        if let Some(decision) = self.decisions.get(id) {
            return self.follow(id, decision, span, whose, sight);
        }
        let waiting = self.waiting.find(id);
        if sight.failed {
            let before = waiting.and_then(|slot| self.waiting.get(slot).rule);
            if !self.lets_errors_go(first(before, sight.rule)) {
                return self.fail(id, waiting, span, whose.origin);
            }
        }
        self.encoded.clear();
        self.encoded.extend_from_slice(&whose.origin.to_le_bytes());
        let own = span.own_len();
        encode_varint(own as u64, &mut self.encoded);
        span.encode_own(&mut self.encoded);
        let bytes = framed(own + span.common_len());
        if bytes > self.config.bytes_max / TRACE_SHARE {
            // Alone too large for a trace: it does not wait, and the others of its trace do not either.
            let slot = self.slot(id, span.trace_state(), whose, sight);
            self.decided_early += 1;
            self.decide(slot, false);
        } else {
            self.make_room(self.encoded.len());
        }
        match self.decisions.get(id) {
            Some(decision) => self.follow(id, decision, span, whose, sight),
            None => self.wait(id, bytes, span.trace_state(), whose, sight),
        }
    }

    /// Keep an error, and what of its trace came before it.
    fn fail(&mut self, id: u128, waiting: Option<u32>, span: impl Waits, origin: u32) {
        match waiting {
            Some(slot) => self.decide(slot, true),
            None => {
                self.decisions.set(id, Decision::Keep { class: Class::Errors, threshold: 0, ordinary: false });
                self.counters.count(Policy::Error, true, 1, 0);
            }
        }
        self.counters.count(Policy::Error, true, 0, 1);
        self.budgets.keep(self.size(&span), false);
        self.keep(span.into_span(), origin, Class::Errors, 0);
    }

    /// The slot of a span's trace, perhaps a new one, which knows of this span.
    fn slot(&mut self, id: u128, trace_state: &str, whose: Whose, sight: Sight) -> u32 {
        let slot = match self.waiting.find(id) {
            Some(slot) => slot,
            None => {
                let wait = self.now_unix_nano.saturating_add(self.config.wait_ms * 1_000_000);
                let randomness = probability::randomness(id, trace_state);
                let earlier = probability::share(probability::earlier(trace_state));
                let weight = if earlier > 0.0 { (1.0 / earlier) as f32 } else { 1.0 };
                self.waiting.insert(Trace::new(id, randomness, weight, whose.service_hash), wait)
            }
        };
        let trace = self.waiting.get(slot);
        trace.slow |= sight.slow;
        trace.first_sight |= sight.first_sight;
        trace.first_error |= sight.first_error;
        trace.rule = first(trace.rule, sight.rule);
        trace.health_check |= sight.health_check;
        trace.request |= sight.entry && !sight.health_check;
        slot
    }

    /// Put an encoded span with its trace, which grows by so many bytes.
    fn wait(&mut self, id: u128, bytes: usize, trace_state: &str, whose: Whose, sight: Sight) {
        let slot = self.slot(id, trace_state, whose, sight);
        let trace = self.waiting.get(slot);
        self.arena.append(&mut trace.chain, &self.encoded);
        trace.spans += 1;
        trace.bytes = trace.bytes.saturating_add(bytes as u32);
        let large = trace.bytes as usize > self.config.bytes_max / TRACE_SHARE;
        if sight.entry && !trace.ended {
            trace.service = whose.service_hash;
            let grace = self.now_unix_nano.saturating_add(self.config.grace_ms * 1_000_000);
            self.waiting.end(slot, grace);
        }
        self.origins.hold_again(whose.origin);
        self.spans += 1;
        if large {
            self.decided_early += 1;
            self.decide(slot, false);
        }
    }

    /// A span of a trace that is decided: it is treated alike, or brings a reason to decide anew from here on. What went before
    /// stays as it was decided; as the reason had nothing to do with chance, weights stay unbiased.
    fn follow(&mut self, id: u128, mut decision: Decision, span: impl Waits, whose: Whose, sight: Sight) {
        let always = matches!(self.rule(sight.rule), Some(Rule { keep: Some(Keep::Always), .. }));
        let noteworthy = always || sight.slow || sight.first_sight || sight.first_error;
        let failed = sight.failed && !self.lets_errors_go(sight.rule);
        let class = match decision {
            Decision::Drop(Unless::Never) | Decision::Keep { class: Class::Errors, .. } => None,
            Decision::Drop(Unless::Failed) | Decision::Keep { class: Class::Normal, .. } => {
                failed.then_some(Class::Errors)
            }
            _ if failed => Some(Class::Errors),
            _ => noteworthy.then_some(Class::Normal),
        };
        if let Some(class) = class {
            decision = Decision::Keep { class, threshold: 0, ordinary: false };
            self.decisions.set(id, decision);
        }
        let size = self.size(&span);
        match decision {
            Decision::Keep { class, threshold, ordinary } => {
                if ordinary {
                    self.budgets.offer(size, 1.0, self.now_unix_nano);
                }
                self.budgets.keep(size, ordinary);
                if class != Class::Errors {
                    self.count_late(whose, sight.rule);
                }
                self.counters.count(Policy::Late, true, 0, 1);
                self.keep(span.into_span(), whose.origin, class, threshold);
            }
            Decision::Drop(unless) => {
                if unless == Unless::Noteworthy {
                    self.budgets.offer(size, 1.0, self.now_unix_nano);
                }
                self.counters.count(Policy::Late, false, 0, 1);
                self.ledger.sampled_out(Signal::Traces, 1);
            }
        }
    }

    /// A late span that is kept is one of its service's, and of its rule's, as those before it were.
    fn count_late(&mut self, whose: Whose, rule: Option<u16>) {
        let (service, now) = (whose.service_hash, self.now_unix_nano);
        let most = self.config.spans_per_second_per_service_max;
        if most > 0.0 {
            self.budgets.rate(budgets::ALL, service, most, now).keep(1.0);
        }
        let rate = self.rule(rule).and_then(|rule| rule.spans_per_second);
        if let (Some(rate), Some(rule)) = (rate, rule) {
            self.budgets.rate(rule, service, rate, now).keep(1.0);
        }
    }

    /// Decide a trace. If it is kept it stays where it is, to be handed out.
    fn decide(&mut self, slot: u32, failed: bool) {
        let trace = self.waiting.remove(slot);
        let spans = u64::from(trace.spans);
        let (policy, decision) = self.judge(&trace, failed);
        self.decisions.set(trace.id, decision);
        self.counters.count(policy, matches!(decision, Decision::Keep { .. }), 1, spans);
        if let Decision::Keep { class, threshold, .. } = decision {
            self.leaving.push_back(Leaving { chain: trace.chain, class, threshold });
            return;
        }
        self.spans -= trace.spans as usize;
        let mut bytes = std::mem::take(&mut self.let_go);
        bytes.clear();
        self.arena.read(trace.chain, &mut bytes);
        let mut rest = &bytes[..];
        while let Some((origin, after)) = rest.split_first_chunk::<4>() {
            rest = after;
            let length = prost::decode_length_delimiter(&mut rest).unwrap_or(0);
            rest = rest.get(length..).unwrap_or_default();
            self.origins.let_go(u32::from_le_bytes(*origin));
        }
        self.let_go = bytes;
        self.ledger.sampled_out(Signal::Traces, spans);
    }

    /// Decode what leaves, in the order in which it was decided, until it was about so many bytes.
    fn read_out(&mut self, bytes_max: usize) {
        let (mut bytes, mut whose) = (0, None);
        while bytes < bytes_max {
            if self.read_to == self.read.len() {
                let Some(Leaving { chain, class, threshold }) = self.leaving.pop_front() else { break };
                (self.read_to, self.read_as) = (0, (class, threshold));
                self.read.clear();
                self.arena.read(chain, &mut self.read);
                continue;
            }
            let before = self.read_to;
            let mut rest = self.read.get(before..).unwrap_or_default();
            let origin = rest.split_off(..size_of::<u32>()).and_then(|origin| origin.try_into().ok());
            let length = prost::decode_length_delimiter(&mut rest).unwrap_or(rest.len());
            let encoded = rest.split_off(..length).unwrap_or_default();
            let origin = origin.map_or(0, u32::from_le_bytes);
            let span = self.origins.whole(origin, encoded);
            self.read_to = self.read.len() - rest.len();
            bytes += self.read_to - before + span.as_ref().map_or(0, heap_bytes);
            self.spans -= 1;
            let base = self.origins.base(origin);
            if whose.replace(base) != Some(base) {
                // It goes with its spans.
                bytes += 2 * self.origins.bytes_of(base);
            }
            let (class, threshold) = self.read_as;
            match span {
                Ok(span) => self.keep(span, origin, class, threshold),
                // Nested deeper than is decoded, which no input lets in.
                Err(_) => self.ledger.dropped(Signal::Traces, DropReason::Malformed, 1),
            }
            self.origins.let_go(origin);
        }
    }

    /// What becomes of a trace, and who decides it.
    fn judge(&mut self, trace: &Trace, failed: bool) -> (Policy, Decision) {
        let size = Size { spans: f64::from(trace.spans), bytes: f64::from(trace.bytes) };
        if failed {
            self.budgets.keep(size, false);
            return (Policy::Error, Decision::Keep { class: Class::Errors, threshold: 0, ordinary: false });
        }
        let now = self.now_unix_nano;
        let rule = self.rule(trace.rule);
        let (keep, rate) = rule.map_or((None, None), |rule| (rule.keep, rule.spans_per_second));
        let rule_index = trace.rule.unwrap_or_default();
        let by_rule = Policy::Rule(rule_index);
        let (policy, class, mut threshold) = match (keep, rate) {
            (Some(Keep::Never), _) => {
                let unless = if self.lets_errors_go(trace.rule) { Unless::Never } else { Unless::Failed };
                return (by_rule, Decision::Drop(unless));
            }
            (Some(Keep::Always), _) => (by_rule, Class::Normal, 0),
            _ if trace.health_check && !trace.request => return (Policy::HealthCheck, Decision::Drop(Unless::Failed)),
            _ if trace.slow => (Policy::Slow, Class::Normal, 0),
            _ if trace.first_sight => (Policy::FirstSight, Class::Normal, 0),
            _ if trace.first_error => (Policy::FirstError, Class::Normal, 0),
            (Some(Keep::Ratio(ratio)), _) => (by_rule, Class::Baseline, probability::threshold(ratio)),
            (None, Some(rate)) => {
                let budget = self.budgets.rate(rule_index, trace.service, rate, now);
                (by_rule, Class::Baseline, probability::rung(budget.offer(size.spans, now)))
            }
            (None, None) => {
                let ratio = self.budgets.offer(size, f64::from(trace.weight), now) * self.scale;
                (Policy::Baseline, Class::Baseline, probability::rung(ratio).max(self.baseline))
            }
        };
        if trace.randomness < threshold {
            return (policy, Decision::Drop(Unless::Noteworthy));
        }
        if self.config.spans_per_second_per_service_max > 0.0 {
            let most = self.config.spans_per_second_per_service_max;
            let budget = self.budgets.rate(budgets::ALL, trace.service, most, now);
            threshold = probability::thinned(threshold, budget.offer(size.spans, now));
            if trace.randomness < threshold {
                return (Policy::ServiceRate, Decision::Drop(Unless::Failed));
            }
            budget.keep(size.spans);
        }
        if rate.is_some() && policy == by_rule {
            self.budgets.rate(rule_index, trace.service, 0.0, now).keep(size.spans);
        }
        let ordinary = policy == Policy::Baseline;
        self.budgets.keep(size, ordinary);
        (policy, Decision::Keep { class, threshold, ordinary })
    }

    /// Hand out what is kept, and then decide traces, until a span of so many bytes fits in.
    fn make_room(&mut self, bytes: usize) {
        while self.spans + 1 > self.config.spans_max || self.bytes() + self.growth(bytes) > self.config.bytes_max {
            if self.read_to < self.read.len() || !self.leaving.is_empty() {
                self.read_out(1);
                continue;
            }
            let Some(slot) = self.waiting.nearest() else { break };
            self.decided_early += 1;
            self.decide(slot, false);
        }
    }

    /// What the waiting spans take.
    fn bytes(&self) -> usize {
        self.arena.bytes() + self.origins.bytes() + self.waiting.bytes() + self.read.len() - self.read_to
    }

    /// What one more of so many bytes takes at most.
    fn growth(&self, bytes: usize) -> usize {
        self.arena.growth(bytes) + self.waiting.growth()
    }

    /// A single span; its bytes cost a walk over it, which is made only if they matter.
    fn size(&self, span: &impl Waits) -> Size {
        let bytes = if self.budgets.weighs() { span.whole_len() as f64 } else { 0.0 };
        Size { spans: 1.0, bytes }
    }

    fn rule(&self, index: Option<u16>) -> Option<&Rule> {
        self.config.rules.get(usize::from(index?))
    }

    fn lets_errors_go(&self, rule: Option<u16>) -> bool {
        self.rule(rule).is_some_and(|rule| rule.errors == Some(false))
    }

    fn keep(&mut self, mut span: Span, origin: u32, class: Class, threshold: u64) {
        probability::mark(&mut span.trace_state, threshold);
        let origin = self.origins.base(origin);
        self.origins.hold_again(origin);
        self.kept.push(Kept { class, origin, span });
    }

    /// Append what was kept at once to `out`, and tell the ledger.
    pub fn send(&mut self, out: &mut Vec<Reduced>) {
        self.ledger.waiting_set(Signal::Traces, Place::Sampler, self.spans as u64);
        if !self.kept.is_empty() {
            hand_out(std::mem::take(&mut self.kept), &mut self.origins, out);
        }
    }
}

/// By how much a trace grows with a span of so many bytes as OTLP, in whichever form it waits: its origin and its length stand before it.
fn framed(bytes: usize) -> usize {
    size_of::<u32>() + encoded_len_varint(bytes as u64) + bytes
}

/// What a decoded span takes, but for a few texts that take what they take encoded.
fn heap_bytes(span: &Span) -> usize {
    let Span { attributes, events, links, .. } = span;
    let in_events: usize = events.iter().map(|event| attributes_heap_bytes(&event.attributes)).sum();
    let in_links: usize = links.iter().map(|link| attributes_heap_bytes(&link.attributes)).sum();
    let lists = size_of_val(&events[..]) + size_of_val(&links[..]);
    size_of::<Span>() + attributes_heap_bytes(attributes) + lists + in_events + in_links
}

/// Of two rules the one that is asked first.
fn first(one: Option<u16>, other: Option<u16>) -> Option<u16> {
    one.into_iter().chain(other).min()
}
