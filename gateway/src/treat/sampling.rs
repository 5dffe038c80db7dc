//! Sampling for senders that do not sample: errors and slow spans are kept, with what came of their traces in the same request; of the rest
//! a share by trace id, the same ones as every consistent sampler keeps (opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/).
//!
//! Weights: what is kept by chance says so in `ot=th`, and stands for what was let go beside it; what is kept for what it is stands for
//! itself, as far as an earlier sampler leaves it. Invariant: which spans of a trace are kept by chance does not depend on the request they
//! come in, so that sums of weights estimate the sums over all that came, without bias.

use hashbrown::HashSet;
use ollystack_schema::probability;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

/// How a tenant's traces are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampling {
    /// Random bits from here on are kept.
    threshold: u64,
    slow_nanos: u64,
}

impl Sampling {
    /// Keep this share of what is ordinary; a request that took longer is not. None: all is kept.
    pub(crate) fn new(ratio: f64, slow_ms: u64) -> Option<Sampling> {
        let threshold = probability::threshold(ratio);
        (threshold > 0).then_some(Sampling { threshold, slow_nanos: slow_ms.saturating_mul(1_000_000) })
    }

    /// Take spans out of a request. Returns how many. What has no valid trace id stays, to be rejected.
    pub(crate) fn apply(self, request: &mut ExportTraceServiceRequest) -> u64 {
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let spans = scopes.flat_map(|scope| &scope.spans);
        let noteworthy: HashSet<u128> = spans.filter(|span| self.is_noteworthy(span)).filter_map(trace_id).collect();
        let mut let_go = 0;
        for scope in request.resource_spans.iter_mut().flat_map(|resource| &mut resource.scope_spans) {
            let before = scope.spans.len();
            scope.spans.retain_mut(|span| match trace_id(span) {
                Some(id) if !noteworthy.contains(&id) => self.is_chosen(id, span),
                _ => true,
            });
            let_go += (before - scope.spans.len()) as u64;
        }
        let_go
    }

    /// A failed span, or one that served a request, or began a trace, and took long.
    fn is_noteworthy(self, span: &Span) -> bool {
        let failed = span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
        let serves =
            span.parent_span_id.is_empty() || [SpanKind::Server as i32, SpanKind::Consumer as i32].contains(&span.kind);
        let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        failed || (serves && nanos >= self.slow_nanos)
    }

    /// By chance; one that is chosen says so.
    fn is_chosen(self, id: u128, span: &mut Span) -> bool {
        let chosen = probability::randomness(id, &span.trace_state) >= self.threshold;
        if chosen {
            probability::mark(&mut span.trace_state, self.threshold);
        }
        chosen
    }
}

fn trace_id(span: &Span) -> Option<u128> {
    let bytes: [u8; 16] = span.trace_id.as_slice().try_into().ok()?;
    Some(u128::from_be_bytes(bytes)).filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Status};

    /// A quarter of the random bits.
    const QUARTER: u128 = 1 << 54;

    fn span(id: u128, name: &str) -> Span {
        Span {
            trace_id: (id | 1 << 100).to_be_bytes().to_vec(),
            name: name.to_owned(),
            end_time_unix_nano: 1_000_000,
            ..Span::default()
        }
    }

    /// What is left of spans, by name with their tracestates, and how many were let go.
    fn sampled(ratio: f64, spans: Vec<Span>) -> (Vec<(String, String)>, u64) {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        let mut request = ExportTraceServiceRequest { resource_spans };
        let let_go = Sampling::new(ratio, 500).unwrap().apply(&mut request);
        let left = request.resource_spans.remove(0).scope_spans.remove(0).spans;
        (left.into_iter().map(|span| (span.name, span.trace_state)).collect(), let_go)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
    }

    #[test]
    fn the_baseline_is_by_trace_id_and_weighs_what_it_stands_for() {
        let spans = vec![
            span(0, "a"),
            span(QUARTER, "b"),
            span(2 * QUARTER, "c"),
            span(3 * QUARTER, "d"),
            Span { trace_state: "x=1".to_owned(), ..span(3 * QUARTER, "e") },
            Span { trace_state: "ot=th:e".to_owned(), ..span(4 * QUARTER - 1, "f") },
            Span { trace_state: "ot=rv:ffffffffffffff".to_owned(), ..span(0, "g") },
        ];
        let expected =
            pairs(&[("d", "ot=th:c"), ("e", "ot=th:c,x=1"), ("f", "ot=th:e"), ("g", "ot=th:c;rv:ffffffffffffff")]);
        assert_eq!(sampled(0.25, spans), (expected, 3));
    }

    #[test]
    fn errors_and_slow_requests_are_kept_with_their_traces_and_stand_for_themselves() {
        let status = Some(Status { code: StatusCode::Error as i32, ..Status::default() });
        let slow = |kind: SpanKind, parent: &[u8], name| Span {
            end_time_unix_nano: 500_000_000,
            kind: kind as i32,
            parent_span_id: parent.to_vec(),
            ..span(3, name)
        };
        let spans = vec![
            span(1, "beside"),
            Span { status, trace_state: "ot=th:8".to_owned(), ..span(1, "failed") },
            span(2, "ordinary"),
            slow(SpanKind::Client, &[1], "waits"),
        ];
        assert_eq!(sampled(0.01, spans), (pairs(&[("beside", ""), ("failed", "ot=th:8")]), 2));
        let serves = slow(SpanKind::Server, &[1], "serves");
        assert_eq!(sampled(0.01, vec![serves, slow(SpanKind::Client, &[1], "waits")]).1, 0);
        assert_eq!(sampled(0.01, vec![slow(SpanKind::Internal, &[], "begins")]).1, 0);
    }

    #[test]
    fn sums_of_weights_estimate_what_came() {
        let mut random = 7_u64;
        let spans = (0..20_000).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            span(u128::from(random.rotate_left(32)), "a")
        });
        let (left, let_go) = sampled(0.1, spans.collect());
        assert_eq!(left.len() as u64 + let_go, 20_000);
        let weight = |state: &str| 1.0 / probability::share(probability::earlier(state));
        let estimate: f64 = left.iter().map(|(_, state)| weight(state)).sum();
        // About 2,000 of weight 10: off by 2% at one standard deviation.
        assert!((18_500.0..21_500.0).contains(&estimate), "{estimate}");
    }

    #[test]
    fn what_is_to_be_rejected_stays_and_nothing_is_kept_by_a_share_of_none() {
        let invalid = Span { trace_id: vec![1, 2], ..span(0, "invalid") };
        assert_eq!(sampled(0.0, vec![invalid, span(u128::from(u64::MAX), "a")]), (pairs(&[("invalid", "")]), 1));
        assert_eq!(Sampling::new(1.0, 500), None);
    }
}
