//! Which spans were kept: all that failed and all that were slow must be.
//!
//! Slow is what took longer than 99 of 100 of the same operation before it, worked out here from all durations; requests alone
//! can be, spans that enter a service. Invariant: a span is known by its ids, and counts once.

use ollystack_record::otlp::trace::v1::{ResourceSpans, Span, span::SpanKind, status::StatusCode};
use std::collections::{HashMap, HashSet};

/// Spans of an operation before any can be slow: the sampler's default.
const KNOWN_MIN: usize = 100;

type Id = (Vec<u8>, Vec<u8>);

#[derive(Default)]
pub(crate) struct Truth {
    errors: HashSet<Id>,
    slow: HashSet<Id>,
    kept: HashSet<Id>,
    /// Durations by service, kind and name, in order.
    known: HashMap<(String, i32, String), Vec<u64>>,
}

/// How many there were, and how many of them were kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: usize,
    pub(crate) errors_kept: usize,
    pub(crate) slow: usize,
    pub(crate) slow_kept: usize,
}

impl Truth {
    pub(crate) fn saw(&mut self, service: &str, span: &Span) {
        let id = || (span.trace_id.clone(), span.span_id.clone());
        if span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32) {
            self.errors.insert(id());
        }
        let enters = [SpanKind::Server as i32, SpanKind::Consumer as i32].contains(&span.kind);
        if !enters && !span.parent_span_id.is_empty() {
            return;
        }
        let operation = ollystack_process::sample::operation::operation(span).into_owned();
        let known = self.known.entry((service.to_owned(), span.kind, operation)).or_default();
        let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        if known.len() >= KNOWN_MIN && nanos > known[known.len() * 99 / 100] {
            self.slow.insert(id());
        }
        known.insert(known.partition_point(|other| *other < nanos), nanos);
    }

    pub(crate) fn got(&mut self, resource: &ResourceSpans) {
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            self.kept.insert((span.trace_id.clone(), span.span_id.clone()));
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let kept = |of: &HashSet<Id>| of.intersection(&self.kept).count();
        Verdict {
            errors: self.errors.len(),
            errors_kept: kept(&self.errors),
            slow: self.slow.len(),
            slow_kept: kept(&self.slow),
        }
    }
}
