//! What sampling says it holds, against a counting allocator, filled to its limit with whatever is worst.
//!
//! A test of its own, as nothing else may allocate beside it. Invariant: what waits takes no more than is said, and that is within the
//! limit; what leaves does so in portions.

use ollystack_record::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value as Any};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Ledger, Resource, value};
use ollystack_sample::{Config, Sampler};
use peak_alloc::PeakAlloc;
use std::sync::Arc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const START: u64 = 1_700_000_040_000_000_000;
const LIMIT: usize = 1 << 20;
const PORTION: usize = 128 << 10;
/// Of a portion, with one span more and all that its vectors grow by.
const PORTION_HEAP: usize = 4 * PORTION;
/// What the sampler takes beside what waits: decisions, operations, and buffers of one trace at most.
const SLACK: usize = 512 << 10;

type Make = fn(usize) -> (Arc<Resource>, Span);

fn resource(n: usize) -> Arc<Resource> {
    Arc::new(Resource::new(vec![value::string("service.name", format!("service {n}"))]))
}

fn span(n: usize, attributes: Vec<KeyValue>) -> Span {
    let trace = (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        name: "a".into(),
        parent_span_id: vec![1; 8],
        attributes,
        ..Span::default()
    }
}

fn deep(n: usize) -> Span {
    let mut inner = AnyValue { value: Some(Any::IntValue(n as i64)) };
    for _ in 0..30 {
        inner = AnyValue { value: Some(Any::ArrayValue(ArrayValue { values: vec![inner] })) };
    }
    span(n, vec![KeyValue { key: "deep".into(), value: Some(inner), ..KeyValue::default() }])
}

#[test]
fn what_waits_is_counted_and_within_its_limit_and_leaves_in_portions_whatever_comes() {
    let all: [(&str, Make, usize); 6] = [
        ("small", |n| (resource(0), span(n, Vec::new())), 8_000),
        ("resources", |n| (resource(n), span(n, Vec::new())), 4_000),
        ("long", |n| (resource(0), span(n, vec![value::string("text", "x".repeat(60_000))])), 60),
        ("many attributes", |n| (resource(0), span(n, (0..500).map(|at| value::int("", at)).collect())), 500),
        ("deep", |n| (resource(0), deep(n)), 6_000),
        ("huge", |n| (resource(0), span(n, vec![value::string("text", "x".repeat(4 << 20))])), 4),
    ];
    for (what, make, count) in all {
        let config = Config {
            bytes_max: LIMIT,
            operations_max: 50,
            baseline_ratio: 1.0,
            budget_spans_per_second: 0.0,
            ..Config::default()
        };
        let before = HEAP.current_usage();
        let mut sampler = Sampler::new(config, Arc::new(Ledger::default()));
        for n in 0..count {
            let (resource, span) = make(n);
            let mut out = Vec::new();
            let scopes = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
            sampler.take(&resource, scopes, START, &mut out);
            drop((resource, out));
            if n % 50 == 0 {
                sampler.tick(START);
                let (held, said) = (HEAP.current_usage() - before, sampler.stats().waiting_bytes);
                assert!(said <= LIMIT, "{what}, {n}: says {said} of {LIMIT}");
                assert!(held <= said + SLACK, "{what}, {n}: holds {held}, says {said}");
            }
        }
        sampler.drain();
        let mut more = true;
        while more {
            let (now, mut out) = (HEAP.current_usage(), Vec::new());
            HEAP.reset_peak_usage();
            more = sampler.hand_out(PORTION, &mut out);
            let portion = HEAP.peak_usage() - now;
            assert!(portion <= PORTION_HEAP, "{what}: a portion of {portion} bytes");
        }
        let stats = sampler.stats();
        assert_eq!((stats.waiting_spans, stats.waiting_bytes), (0, 0), "{what}");
        assert!(what == "huge" || stats.decided_early > 0, "{what}: the limit was not reached");
    }
}
