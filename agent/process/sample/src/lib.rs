//! Tail sampling: whole traces are kept or let go when it is known what they were.
//!
//! Spans wait by trace until the local root has ended and a short grace is over, or until they have waited long enough; a failed
//! span decides at once. Kept are, in this order: errors; roots slower than their operation's 99th percentile; first sights of an
//! operation; and a baseline, by trace id, at a rate. Late spans follow the decision.
//!
//! Weights: whatever is not baseline is kept because of what it is, and all of it is kept, so a span stands for itself and
//! carries no threshold of ours. Baseline spans carry `ot=th`, and stand for those like them that were let go.
//!
//! Invariant: at most `spans_max` spans and `bytes_max` bytes wait; past that the oldest trace is decided by what is known of it.

mod decisions;
mod latency;
pub mod operation;
mod operations;
mod probability;
#[cfg(test)]
mod tests;

use decisions::{Decision, Decisions};
use hashbrown::HashMap;
use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use ollystack_record::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind, status::StatusCode};
use ollystack_record::{Class, Ledger, Place, Reduced, ReducedRecords, Resource, Signal};
use operations::Operations;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

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
    /// Bytes of the spans that wait.
    pub bytes_max: usize,
    /// Decisions that are remembered for late spans.
    pub decisions_max: usize,
    /// Share of ordinary traces that is kept, 0 to 1.
    pub baseline_ratio: f64,
    /// Spans of an operation before any of them can be slow.
    pub slow_samples_min: u64,
    /// Operations (service, name, kind) of which it is known what is slow, and that they are not new.
    pub operations_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            wait_ms: 5_000,
            grace_ms: 500,
            spans_max: 20_000,
            bytes_max: 16 << 20,
            decisions_max: 20_000,
            baseline_ratio: 0.05,
            slow_samples_min: 100,
            operations_max: 2_000,
        }
    }
}

/// Figures of sampling, in spans unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Traces that wait.
    pub waiting_traces: usize,
    /// Spans that wait.
    pub waiting_spans: usize,
    /// Their bytes.
    pub waiting_bytes: usize,
    /// Operations known.
    pub operations: usize,
    /// Taken.
    pub spans: u64,
    /// Kept with a trace that has an error.
    pub kept_error: u64,
    /// Kept with a slow trace.
    pub kept_slow: u64,
    /// Kept with the first sight of an operation.
    pub kept_first_sight: u64,
    /// Kept as baseline.
    pub kept_baseline: u64,
    /// Kept because their trace was, after it was decided.
    pub kept_late: u64,
    /// Let go with their trace.
    pub dropped: u64,
    /// Let go because their trace was, after it was decided.
    pub dropped_late: u64,
    /// Traces decided before their time, for want of room.
    pub decided_early: u64,
}

/// Waiting traces and decisions.
#[derive(Debug)]
pub struct Sampler {
    config: Config,
    threshold: u64,
    ledger: Arc<Ledger>,
    waiting: HashMap<u128, Waiting>,
    /// When a trace has waited long enough; oldest first, traces decided meanwhile among them.
    by_wait: VecDeque<(u64, u128)>,
    /// When the grace after a local root is over; likewise.
    by_end: VecDeque<(u64, u128)>,
    decisions: Decisions,
    operations: Operations,
    spans: usize,
    bytes: usize,
    kept: Vec<Kept>,
    origins: u64,
    counts: Stats,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: Vec<Held>,
    bytes: usize,
    slow: bool,
    first_sight: bool,
    ended: bool,
}

/// What a waiting trace takes beside its spans: its place in the table and in two queues, with the room that these keep for growth.
const TRACE_BYTES: usize = 256;

/// Whose spans these are.
#[derive(Debug)]
struct Origin {
    /// Counts up: spans go out in the order in which they came.
    number: u64,
    resource: Arc<Resource>,
    scope: Option<InstrumentationScope>,
    schema_url: String,
}

#[derive(Debug)]
struct Held {
    origin: Arc<Origin>,
    span: Span,
}

#[derive(Debug)]
struct Kept {
    class: Class,
    held: Held,
}

/// Why a trace is kept.
#[derive(Clone, Copy, Debug)]
enum Policy {
    Error,
    Slow,
    FirstSight,
    Baseline,
}

impl Sampler {
    /// Nothing waits.
    pub fn new(config: Config, ledger: Arc<Ledger>) -> Sampler {
        Sampler {
            threshold: probability::threshold(config.baseline_ratio),
            decisions: Decisions::new(config.decisions_max),
            operations: Operations::new(config.operations_max, config.slow_samples_min),
            config,
            ledger,
            waiting: HashMap::new(),
            by_wait: VecDeque::new(),
            by_end: VecDeque::new(),
            spans: 0,
            bytes: 0,
            kept: Vec::new(),
            origins: 0,
            counts: Stats::default(),
        }
    }

    /// Take spans, to wait for the others of their traces.
    pub fn take(
        &mut self,
        resource: &Arc<Resource>,
        scopes: Vec<ScopeSpans>,
        now_unix_nano: u64,
        out: &mut Vec<Reduced>,
    ) {
        let service = xxh3_64(resource.service_name().as_bytes());
        for ScopeSpans { scope, spans, schema_url } in scopes {
            self.origins += 1;
            let origin = Arc::new(Origin { number: self.origins, resource: Arc::clone(resource), scope, schema_url });
            self.counts.spans += spans.len() as u64;
            for span in spans {
                let (mut slow, mut first_sight) = (false, false);
                if let Some(known) = self.operations.of(service, &span, now_unix_nano) {
                    first_sight = known.first;
                    // Only what enters a service is judged by its latency: with every span of a trace judged by its own
                    // 99th percentile, most larger traces would be slow.
                    slow = is_entry(&span) && known.latency.is_slow(seconds(&span));
                }
                self.span(&origin, span, slow, first_sight, now_unix_nano);
            }
        }
        self.hand_out(out);
    }

    fn span(&mut self, origin: &Arc<Origin>, span: Span, slow: bool, first_sight: bool, now: u64) {
        let trace = trace_id(&span);
        let error = is_error(&span);
        let held = Held { origin: Arc::clone(origin), span };
        match self.decisions.get(trace) {
            Some(Decision::Keep { class, threshold }) if !error || class == Class::Errors => {
                return self.keep_late(held, class, threshold);
            }
            Some(_) if error => {
                // What failed is kept as such, and what follows it; what went before stays as it was decided.
                self.decisions.set(trace, Decision::Keep { class: Class::Errors, threshold: 0 });
                return self.keep_late(held, Class::Errors, 0);
            }
            Some(_) => {
                self.counts.dropped_late += 1;
                return self.ledger.sampled_out(Signal::Traces, 1);
            }
            None => {}
        }
        let mut bytes = heap_bytes(&held.span);
        let entry = is_entry(&held.span);
        let waiting = self.waiting.entry(trace).or_default();
        if waiting.spans.is_empty() {
            self.by_wait.push_back((now.saturating_add(self.config.wait_ms * 1_000_000), trace));
            bytes += TRACE_BYTES;
        }
        if entry && !waiting.ended {
            waiting.ended = true;
            self.by_end.push_back((now.saturating_add(self.config.grace_ms * 1_000_000), trace));
        }
        if waiting.spans.len() == waiting.spans.capacity() {
            // Many traces are of one span, and a vector that grows by itself begins with room for four.
            let more = (waiting.spans.len() / 2).max(1);
            waiting.spans.reserve_exact(more);
            bytes += more * size_of::<Held>();
        }
        waiting.slow |= slow;
        waiting.first_sight |= first_sight;
        waiting.bytes += bytes;
        waiting.spans.push(held);
        self.spans += 1;
        self.bytes += bytes;
        if error {
            self.decide(trace, Some(Policy::Error));
        }
        while (self.spans > self.config.spans_max || self.bytes > self.config.bytes_max)
            && let Some((_, oldest)) = self.by_wait.pop_front()
        {
            self.counts.decided_early += u64::from(self.waiting.contains_key(&oldest));
            self.decide(oldest, None);
        }
        // Traces that were decided leave their times behind: as many again as wait are let be.
        for queue in [&mut self.by_wait, &mut self.by_end] {
            if queue.len() > 2 * self.waiting.len() + 1_024 {
                let waiting = &self.waiting;
                queue.retain(|(_, trace)| waiting.contains_key(trace));
            }
        }
    }

    fn keep_late(&mut self, mut held: Held, class: Class, threshold: u64) {
        self.counts.kept_late += 1;
        probability::mark(&mut held.span.trace_state, threshold);
        self.kept.push(Kept { class, held });
    }

    /// Decide a trace, if it still waits.
    fn decide(&mut self, trace: u128, policy: Option<Policy>) {
        let Some(waiting) = self.waiting.remove(&trace) else { return };
        let count = waiting.spans.len() as u64;
        self.spans -= waiting.spans.len();
        self.bytes -= waiting.bytes;
        let policy = policy.or_else(|| match (waiting.slow, waiting.first_sight) {
            (true, _) => Some(Policy::Slow),
            (_, true) => Some(Policy::FirstSight),
            _ => self.is_baseline(trace, &waiting).then_some(Policy::Baseline),
        });
        let (counter, class) = match policy {
            Some(Policy::Error) => (&mut self.counts.kept_error, Class::Errors),
            Some(Policy::Slow) => (&mut self.counts.kept_slow, Class::Normal),
            Some(Policy::FirstSight) => (&mut self.counts.kept_first_sight, Class::Normal),
            Some(Policy::Baseline) => (&mut self.counts.kept_baseline, Class::Baseline),
            None => {
                self.counts.dropped += count;
                self.ledger.sampled_out(Signal::Traces, count);
                return self.decisions.set(trace, Decision::Drop);
            }
        };
        *counter += count;
        let threshold = if class == Class::Baseline { self.threshold } else { 0 };
        self.decisions.set(trace, Decision::Keep { class, threshold });
        for mut held in waiting.spans {
            probability::mark(&mut held.span.trace_state, threshold);
            self.kept.push(Kept { class, held });
        }
    }

    fn is_baseline(&self, trace: u128, waiting: &Waiting) -> bool {
        let tracestate = waiting.spans.first().map_or("", |held| held.span.trace_state.as_str());
        probability::randomness(trace, tracestate) >= self.threshold
    }

    /// Decide what has waited long enough.
    pub fn tick(&mut self, now_unix_nano: u64, out: &mut Vec<Reduced>) {
        // A clock that was set back must not make traces wait for it: nothing waits longer than from now on.
        let latest = now_unix_nano.saturating_add(self.config.wait_ms * 1_000_000);
        let due = |queue: &mut VecDeque<(u64, u128)>| {
            let (deadline, trace) = *queue.front()?;
            (deadline <= now_unix_nano || deadline > latest).then(|| queue.pop_front())?;
            Some(trace)
        };
        while let Some(trace) = due(&mut self.by_end) {
            self.decide(trace, None);
        }
        while let Some(trace) = due(&mut self.by_wait) {
            self.decide(trace, None);
        }
        self.operations.tick(now_unix_nano);
        self.hand_out(out);
    }

    /// Decide everything.
    pub fn drain(&mut self, out: &mut Vec<Reduced>) {
        self.by_end.clear();
        while let Some((_, trace)) = self.by_wait.pop_front() {
            self.decide(trace, None);
        }
        self.hand_out(out);
    }

    /// Kept spans go out, by class, resource and scope.
    fn hand_out(&mut self, out: &mut Vec<Reduced>) {
        self.ledger.waiting_set(Signal::Traces, Place::Sampler, self.spans as u64);
        if self.kept.is_empty() {
            return;
        }
        let mut kept = std::mem::take(&mut self.kept);
        kept.sort_by_key(|kept| (kept.class, kept.held.origin.resource.hash(), kept.held.origin.number));
        let mut group: Option<(Class, Arc<Origin>, Vec<ScopeSpans>)> = None;
        for Kept { class, held: Held { origin, span } } in kept {
            let fits = |(of, first, _): &(Class, Arc<Origin>, Vec<ScopeSpans>)| {
                *of == class && first.resource == origin.resource
            };
            if !group.as_ref().is_some_and(fits) {
                out.extend(group.take().map(reduced));
                group = Some((class, Arc::clone(&origin), vec![scope(&origin)]));
            }
            let Some((_, last, scopes)) = &mut group else { continue };
            if !Arc::ptr_eq(last, &origin) {
                scopes.push(scope(&origin));
                *last = Arc::clone(&origin);
            }
            if let Some(scope) = scopes.last_mut() {
                scope.spans.push(span);
            }
        }
        out.extend(group.map(reduced));
    }

    /// The figures now.
    pub fn stats(&self) -> Stats {
        Stats {
            waiting_traces: self.waiting.len(),
            waiting_spans: self.spans,
            waiting_bytes: self.bytes,
            operations: self.operations.len(),
            ..self.counts.clone()
        }
    }
}

fn scope(origin: &Origin) -> ScopeSpans {
    ScopeSpans { scope: origin.scope.clone(), spans: Vec::new(), schema_url: origin.schema_url.clone() }
}

fn reduced((class, origin, scope_spans): (Class, Arc<Origin>, Vec<ScopeSpans>)) -> Reduced {
    let resource = Some(origin.resource.to_proto());
    let records = ReducedRecords::Traces(ResourceSpans { resource, scope_spans, ..ResourceSpans::default() });
    Reduced { class, records, acks: Vec::new() }
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}

/// One that ends before it starts took no time.
fn seconds(span: &Span) -> f64 {
    span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) as f64 / 1e9
}

/// Whether a span is where a trace enters its service: the root, or called from elsewhere.
fn is_entry(span: &Span) -> bool {
    span.parent_span_id.is_empty() || [SpanKind::Server as i32, SpanKind::Consumer as i32].contains(&span.kind)
}

/// The trace; spans without a valid id are traces of their own.
fn trace_id(span: &Span) -> u128 {
    let id = <[u8; 16]>::try_from(&span.trace_id[..]).map_or(0, u128::from_be_bytes);
    if id == 0 { u128::from(xxh3_64(&span.span_id)) << 64 | u128::from(xxh3_64(&span.span_id)) } else { id }
}

/// What a span takes on the heap, near enough: its texts, ids and lists, each with an allocation's overhead of 16 bytes.
fn heap_bytes(span: &Span) -> usize {
    let plain = [&span.trace_id, &span.span_id, &span.parent_span_id].iter().map(|id| id.len() + 16).sum::<usize>()
        + [&span.name, &span.trace_state].iter().map(|text| text.len() + 16).sum::<usize>();
    let events: usize = span
        .events
        .iter()
        .map(|event| size_of_val(event) + event.name.len() + 16 + attributes_bytes(&event.attributes))
        .sum();
    let links: usize = span
        .links
        .iter()
        .map(|link| size_of_val(link) + 56 + link.trace_state.len() + attributes_bytes(&link.attributes))
        .sum();
    let message = span.status.as_ref().map_or(0, |status| status.message.len());
    plain + attributes_bytes(&span.attributes) + events + links + message
}

fn attributes_bytes(attributes: &[KeyValue]) -> usize {
    attributes.iter().map(|a| size_of_val(a) + a.key.len() + 16 + a.value.as_ref().map_or(0, value_bytes)).sum()
}

fn value_bytes(value: &AnyValue) -> usize {
    match &value.value {
        Some(Value::StringValue(text)) => text.len() + 16,
        Some(Value::BytesValue(bytes)) => bytes.len() + 16,
        Some(Value::ArrayValue(array)) => {
            array.values.iter().map(|v| size_of_val(v) + value_bytes(v)).sum::<usize>() + 16
        }
        Some(Value::KvlistValue(list)) => attributes_bytes(&list.values) + 16,
        _ => 0,
    }
}
