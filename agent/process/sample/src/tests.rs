//! Sampling as sentences: what is kept, when it is decided, limits, books.

use super::*;
use ollystack_record::otlp::common::v1::{InstrumentationScope, KeyValue};
use ollystack_record::otlp::trace::v1::{Status, span::Event, span::Link, span::SpanKind, status::StatusCode};
use ollystack_record::{ReducedRecords, value};
use proptest::prelude::*;
use prost::Message;

const MS: u64 = 1_000_000;
const START: u64 = 1_700_000_040_000 * MS;

struct Bench {
    sampler: Sampler,
    ledger: Arc<Ledger>,
    resource: Arc<Resource>,
    out: Vec<Reduced>,
}

impl Bench {
    fn new(config: Config) -> Bench {
        let ledger = Arc::new(Ledger::default());
        Bench {
            sampler: Sampler::new(config, Arc::clone(&ledger)),
            ledger,
            resource: Arc::new(Resource::new(vec![value::string("service.name", "shop")])),
            out: Vec::new(),
        }
    }

    /// Keeps nothing but what there is a reason for, and no longer the first sights of `a` to `c`.
    fn seasoned(config: Config) -> Bench {
        Bench::knowing(Config { baseline_ratio: 0.0, ..config })
    }

    /// For which `a` to `c` are no first sights.
    fn knowing(config: Config) -> Bench {
        let mut bench = Bench::new(config);
        for (trace, name) in [(1, "a"), (2, "b"), (3, "c")] {
            bench.take(root(trace << 64, name), START);
        }
        bench.tick(START + 10_000 * MS);
        bench.out.clear();
        bench
    }

    fn take(&mut self, span: Span, now: u64) {
        let scopes = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        self.ledger.seen(Signal::Traces, 1);
        self.sampler.take(&self.resource.clone(), scopes, now, &mut self.out);
        self.leave();
    }

    fn tick(&mut self, now: u64) {
        self.sampler.tick(now);
        self.leave();
    }

    fn drain(&mut self) {
        self.sampler.drain();
        self.leave();
    }

    fn leave(&mut self) {
        while self.sampler.hand_out(64 << 10, &mut self.out) {}
    }

    fn kept(&self) -> Vec<(Class, Span)> {
        let spans = self.out.iter().flat_map(|reduced| match &reduced.records {
            ReducedRecords::Traces(traces) => {
                traces.scope_spans.iter().flat_map(|s| &s.spans).map(|span| (reduced.class, span.clone())).collect()
            }
            _ => Vec::new(),
        });
        spans.collect()
    }

    fn names(&self) -> Vec<String> {
        self.kept().into_iter().map(|(_, span)| span.name).collect()
    }

    /// Whatever left first.
    fn sorted_names(&self) -> Vec<String> {
        let mut names = self.names();
        names.sort();
        names
    }

    fn policy(&self, name: &str) -> PolicyStats {
        self.sampler.stats().policy(name)
    }

    /// Take the trace of one root, and decide it.
    fn decide(&mut self, span: Span) {
        self.take(span, START);
        self.tick(START + 10_000 * MS);
    }
}

fn rules(json: &str) -> Config {
    Config { rules: serde_json::from_str(json).unwrap(), ..Config::default() }
}

fn span(trace: u128, name: &str, parent: bool) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: vec![7; 8],
        parent_span_id: if parent { vec![6; 8] } else { Vec::new() },
        name: name.to_owned(),
        start_time_unix_nano: START,
        end_time_unix_nano: START + 10 * MS,
        ..Span::default()
    }
}

fn root(trace: u128, name: &str) -> Span {
    span(trace, name, false)
}

fn child(trace: u128, name: &str) -> Span {
    span(trace, name, true)
}

fn failed(mut span: Span) -> Span {
    span.status = Some(Status { code: StatusCode::Error as i32, ..Status::default() });
    span
}

fn lasting(mut span: Span, ms: u64) -> Span {
    span.end_time_unix_nano = span.start_time_unix_nano + ms * MS;
    span
}

/// Of 20 KB.
fn large(span: Span) -> Span {
    Span { attributes: vec![value::string("large", "x".repeat(20_000))], ..span }
}

#[test]
fn an_error_is_kept_at_once_with_what_came_before_and_after() {
    let mut bench = Bench::seasoned(Config::default());
    bench.take(child(9, "a"), START);
    assert!(bench.out.is_empty());
    bench.take(failed(child(9, "b")), START);
    assert_eq!(bench.sorted_names(), ["a", "b"]);
    bench.take(root(9, "c"), START + 60_000 * MS);
    assert_eq!(bench.sorted_names(), ["a", "b", "c"]);
    assert!(bench.kept().iter().all(|(class, _)| *class == Class::Errors));
}

#[test]
fn an_error_in_a_trace_that_was_let_go_is_kept_all_the_same() {
    let mut bench = Bench::seasoned(Config::default());
    bench.take(root(9, "a"), START);
    bench.tick(START + 10_000 * MS);
    bench.take(child(9, "b"), START + 10_000 * MS);
    assert!(bench.out.is_empty());
    bench.take(failed(child(9, "c")), START + 10_000 * MS);
    assert_eq!(bench.names(), ["c"]);
}

#[test]
fn a_trace_is_decided_a_grace_after_its_root_or_when_it_waited_long_enough() {
    let mut bench = Bench::new(Config::default());
    bench.take(child(1, "child"), START);
    bench.take(root(2, "root"), START);
    bench.tick(START + 499 * MS);
    assert!(bench.out.is_empty());
    bench.tick(START + 500 * MS);
    assert_eq!(bench.names(), ["root"]);
    bench.tick(START + 4_999 * MS);
    assert_eq!(bench.names(), ["root"]);
    bench.tick(START + 5_000 * MS);
    assert_eq!(bench.names(), ["root", "child"]);
}

#[test]
fn a_clock_that_is_set_back_keeps_nobody_waiting() {
    let mut bench = Bench::new(Config::default());
    bench.take(root(1, "a"), START);
    bench.take(child(2, "b"), START);
    bench.tick(START - 3_600_000 * MS);
    assert_eq!(bench.names(), ["a", "b"]);
}

#[test]
fn what_is_slower_than_its_operation_is_kept() {
    let mut bench = Bench::seasoned(Config::default());
    for trace in 100..400 {
        bench.take(lasting(root(trace, "a"), 10 + trace as u64 % 10), START);
    }
    bench.take(lasting(root(500, "a"), 60), START);
    bench.take(lasting(child(501, "a"), 60), START);
    bench.tick(START + 10_000 * MS);
    let slow: Vec<u128> =
        bench.kept().iter().map(|(_, span)| u128::from_be_bytes(span.trace_id[..].try_into().unwrap())).collect();
    assert_eq!(slow, [500], "the root, and not what is inside of a trace");
    assert_eq!(bench.policy("slow").kept_spans, 1);
}

#[test]
fn the_first_sight_of_an_operation_is_kept_and_the_second_is_not() {
    let mut bench = Bench::seasoned(Config::default());
    bench.take(root(9, "GET /new/1"), START);
    bench.take(root(10, "GET /new/2"), START);
    bench.tick(START + 10_000 * MS);
    assert_eq!(bench.names(), ["GET /new/1"]);
}

#[test]
fn the_first_sight_of_an_error_is_kept_although_the_span_did_not_fail() {
    let mut bench = Bench::seasoned(Config::default());
    let exception = |error_type: &str| Event {
        name: "exception".into(),
        attributes: vec![value::string("exception.type", error_type)],
        ..Event::default()
    };
    let handled = |trace, error_type| Span { events: vec![exception(error_type)], ..root(trace, "a") };
    for (trace, error_type) in [(10, "Timeout"), (11, "Timeout"), (12, "Refused")] {
        bench.take(handled(trace, error_type), START);
    }
    bench.take(Span { attributes: vec![value::string("error.type", "Timeout")], ..root(13, "b") }, START);
    bench.tick(START + 10_000 * MS);
    let kept: Vec<u8> = bench.kept().iter().map(|(_, span)| span.trace_id[15]).collect();
    assert_eq!(kept, [10, 12, 13]);
    assert_eq!((bench.policy("first_error").kept_traces, bench.sampler.stats().error_kinds), (3, 3));
}

#[test]
fn a_fixed_time_replaces_what_is_slow_for_an_operation() {
    let mut bench =
        Bench::seasoned(Config { slow_ms: 100, ..rules(r#"[{"name": "batch", "operation": "b", "slow_ms": 1000}]"#) });
    for (trace, name, ms) in [(10, "a", 99), (11, "a", 100), (12, "b", 999), (13, "b", 1_000)] {
        bench.take(lasting(root(trace, name), ms), START);
    }
    bench.tick(START + 10_000 * MS);
    assert_eq!(bench.kept().iter().map(|(_, span)| span.trace_id[15]).collect::<Vec<_>>(), [11, 13]);
}

#[test]
fn a_fixed_time_needs_no_knowledge_of_the_operation() {
    let mut bench = Bench::seasoned(Config { slow_ms: 100, operations_max: 3, ..Config::default() });
    bench.decide(lasting(root(10, "d"), 99));
    bench.decide(lasting(root(11, "d"), 100));
    assert_eq!(bench.kept().iter().map(|(_, span)| span.trace_id[15]).collect::<Vec<_>>(), [11]);
}

#[test]
fn a_slow_root_is_kept_although_its_trace_waited_too_long_for_it() {
    let mut bench = Bench::seasoned(Config { slow_ms: 6_000, ..Config::default() });
    bench.decide(child(9, "a"));
    bench.take(lasting(root(9, "b"), 12_000), START + 12_000 * MS);
    bench.take(child(9, "c"), START + 12_000 * MS);
    assert_eq!(bench.names(), ["b", "c"], "and what comes after it");
    assert!(bench.kept().iter().all(|(class, span)| *class == Class::Normal && span.trace_state.is_empty()));
}

#[test]
fn of_rules_the_first_that_matches_decides() {
    let config = rules(
        r#"[{"name": "vip", "attribute": "tier", "equals": "gold", "keep": "always"},
            {"name": "chatter", "service": "shop", "operation": "a", "keep": "never"},
            {"name": "half", "operation": "b", "keep": 0.5}]"#,
    );
    let mut bench = Bench::seasoned(config);
    let high = 0xff_ffff_ffff_ffff_u128;
    let gold = |span: Span| Span { attributes: vec![value::string("tier", "gold")], ..span };
    bench.take(gold(root(10 << 64, "a")), START);
    bench.take(root(11 << 64 | high, "a"), START);
    bench.take(child(12 << 64, "a"), START);
    bench.take(gold(root(12 << 64, "c")), START);
    bench.take(root(13 << 64 | high, "b"), START);
    bench.take(root(14 << 64, "b"), START);
    bench.tick(START + 10_000 * MS);
    let mut kept: Vec<(u8, String)> =
        bench.kept().iter().map(|(_, span)| (span.trace_id[7], span.trace_state.clone())).collect();
    kept.sort();
    let expected = [(10, ""), (12, ""), (12, ""), (13, "ot=th:8")];
    assert_eq!(kept, expected.map(|(trace, state)| (trace, state.to_owned())));
    let counts = ["rule:vip", "rule:chatter", "rule:half"].map(|name| bench.policy(name));
    assert_eq!(counts.clone().map(|policy| policy.kept_traces), [2, 0, 1]);
    assert_eq!(counts.map(|policy| policy.let_go_traces), [0, 2, 1], "one of them made the bench know `a`");
}

#[test]
fn errors_are_kept_whatever_a_rule_says_unless_it_says_errors_too() {
    for (errors, expected) in [("true", vec!["a", "a", "a"]), ("false", vec![])] {
        let json = format!(r#"[{{"name": "never", "operation": "a", "keep": "never", "errors": {errors}}}]"#);
        let mut bench = Bench::seasoned(rules(&json));
        bench.take(failed(root(10, "a")), START);
        bench.take(child(11, "a"), START);
        bench.take(failed(child(11, "a")), START);
        bench.tick(START + 10_000 * MS);
        bench.take(child(10, "b"), START + 10_000 * MS);
        let expected: Vec<&str> = expected.into_iter().chain((errors == "true").then_some("b")).collect();
        assert_eq!(bench.names(), expected);
    }
}

#[test]
fn never_outweighs_slow_and_first_sight_and_so_does_what_follows() {
    let mut bench = Bench::seasoned(rules(r#"[{"name": "never", "operation": "new", "keep": "never", "slow_ms": 1}]"#));
    bench.decide(root(9, "new"));
    bench.take(root(9, "another"), START + 10_000 * MS);
    assert!(bench.out.is_empty());
    bench.take(failed(root(9, "a")), START + 10_000 * MS);
    assert_eq!(bench.names(), ["a"]);
}

#[test]
fn a_rule_may_keep_at_a_rate_in_each_service() {
    let mut bench = Bench::seasoned(rules(r#"[{"name": "some", "operation": "a", "spans_per_second": 10}]"#));
    let mut random = 1_u64;
    for n in 0..20_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now = START + 20_000 * MS + n * MS;
        bench.take(root(u128::from(random.rotate_left(32)) + 1, "a"), now);
        bench.tick(now);
    }
    let kept = bench.policy("rule:some").kept_spans;
    assert!((140..280).contains(&kept), "{kept} in 20 s");
    assert!(bench.kept().iter().skip(10).all(|(_, span)| span.trace_state.starts_with("ot=th:")));
}

#[test]
fn a_service_that_exceeds_its_rate_is_thinned_out_but_for_errors() {
    let config = Config { spans_per_second_per_service_max: 10.0, ..rules(r#"[{"name": "all", "keep": "always"}]"#) };
    let mut bench = Bench::seasoned(config);
    let mut random = 1_u64;
    for n in 0..20_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now = START + 20_000 * MS + n * MS;
        let span = root(u128::from(random.rotate_left(32)) + 1, "a");
        bench.take(if n % 100 == 0 { failed(span) } else { span }, now);
        bench.tick(now);
    }
    let (kept, errors) = (bench.policy("rule:all").kept_spans, bench.policy("error").kept_spans);
    assert!((140..280).contains(&kept), "{kept} in 20 s");
    assert_eq!(errors, 200);
    assert!(bench.policy("service_rate").let_go_traces > 19_000);
    let weight: f64 =
        bench.kept().iter().map(|(_, span)| 1.0 / probability::share(probability::earlier(&span.trace_state))).sum();
    assert!((15_000.0..25_000.0).contains(&weight), "{weight} estimated of 20,000");
}

#[test]
fn health_checks_are_let_go_unless_they_fail_or_are_not_all_of_the_trace() {
    let mut bench = Bench::new(Config { baseline_ratio: 1.0, budget_spans_per_second: 0.0, ..Config::default() });
    let check = |trace| Span { kind: SpanKind::Server as i32, ..root(trace, "GET /healthz") };
    bench.take(check(10), START);
    bench.take(child(10, "select"), START);
    bench.take(failed(check(11)), START);
    bench.take(child(12, "a"), START);
    bench.take(Span { kind: SpanKind::Server as i32, ..child(12, "GET /healthz") }, START);
    bench.take(root(12, "b"), START);
    bench.tick(START + 10_000 * MS);
    bench.take(child(10, "late"), START + 10_000 * MS);
    let mut kept: Vec<u8> = bench.kept().iter().map(|(_, span)| span.trace_id[15]).collect();
    kept.sort_unstable();
    assert_eq!(kept, [11, 12, 12, 12]);
    assert_eq!((bench.policy("health_check").let_go_spans, bench.policy("late").let_go_spans), (2, 1));
}

#[test]
fn what_was_sampled_before_is_offered_as_what_it_stands_for() {
    let config = Config { baseline_ratio: 1.0, budget_spans_per_second: 10.0, ..Config::default() };
    let mut bench = Bench::knowing(config);
    let mut random = 1_u64;
    let mut kept = 0;
    for n in 0..40_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // One in sixteen is left.
        let id = u128::from(random.rotate_left(32)) | 0xf0_0000_0000_0000;
        let now = START + 20_000 * MS + n * MS;
        bench.take(Span { trace_state: "ot=th:f".into(), ..root(id, "a") }, now);
        bench.tick(now);
        kept += bench.kept().len();
        bench.out.clear();
    }
    assert!((320..500).contains(&kept), "{kept} in 40 s");
}

#[test]
fn the_baseline_is_by_trace_id_and_says_what_it_stands_for() {
    let mut bench = Bench::knowing(Config { baseline_ratio: 0.25, ..Config::default() });
    let low = 0x10_0000_0000_0000_u128;
    for (trace, state) in [(0xc * low, ""), (0xc * low - 1, ""), (0xf * low, "x=1"), (0xe * low, "ot=th:e")] {
        bench.take(Span { trace_state: state.into(), ..root((9 << 64) | trace, "a") }, START);
    }
    bench.tick(START + 10_000 * MS);
    let mut kept: Vec<String> = bench.kept().into_iter().map(|(_, span)| span.trace_state).collect();
    kept.sort();
    assert_eq!(kept, ["ot=th:c", "ot=th:c,x=1", "ot=th:e"]);
    bench.out.clear();
    bench.take(child((9 << 64) | (0xc * low), "b"), START + 20_000 * MS);
    assert_eq!(bench.kept()[0].1.trace_state, "ot=th:c", "late spans weigh what their trace does");
}

#[test]
fn random_bits_that_are_given_are_used() {
    let mut bench = Bench::knowing(Config { baseline_ratio: 0.5, ..Config::default() });
    bench.take(Span { trace_state: "ot=rv:80000000000000".into(), ..root(9, "a") }, START);
    bench.take(root(10, "a"), START);
    bench.tick(START + 10_000 * MS);
    assert_eq!(
        bench.kept().iter().map(|(_, span)| span.trace_state.as_str()).collect::<Vec<_>>(),
        ["ot=th:8;rv:80000000000000"]
    );
}

#[test]
fn a_budget_lowers_the_share_and_the_weights_say_so() {
    let config = Config { baseline_ratio: 0.5, budget_spans_per_second: 10.0, ..Config::default() };
    let mut bench = Bench::knowing(config);
    let mut random = 1_u64;
    let (mut kept, mut weight) = (0.0, 0.0);
    for n in 0..60_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let id = u128::from(random) << 64 | u128::from(random.rotate_left(32));
        let now = START + 20_000 * MS + n * MS;
        bench.take(root(id, "a"), now);
        bench.tick(now);
        for (_, span) in bench.kept() {
            kept += 1.0;
            weight += 1.0 / probability::share(probability::earlier(&span.trace_state));
        }
        bench.out.clear();
    }
    assert!((500.0..700.0).contains(&kept), "{kept} kept in 60 s");
    // About 600 spans of weight 100: the sum is off by 4% at one standard deviation.
    assert!((52_000.0..68_000.0).contains(&weight), "{weight} estimated of 60,000");
    assert!(bench.sampler.stats().baseline.ratio < 0.02);
}

#[test]
fn whoever_asks_for_less_of_what_is_ordinary_gets_it_at_once_and_the_weights_say_so() {
    let mut bench = Bench::knowing(Config { baseline_ratio: 0.5, budget_spans_per_second: 0.0, ..Config::default() });
    for (ratio_max, scale, digits) in [(1.0, 0.5, "c"), (0.25, 0.5, "e"), (0.25, 1.0, "c"), (1.0, 1.0, "8")] {
        bench.sampler.spare(ratio_max, scale);
        assert_eq!(bench.sampler.stats().baseline.threshold, digits, "{ratio_max} {scale}");
    }
    bench.sampler.spare(1.0, 0.125);
    let (all, let_go) = (64_u128, 60);
    let failed = Span { status: Some(Status { code: 2, ..Status::default() }), ..root(77 << 64, "b") };
    bench.take(failed, START);
    for n in 0..all {
        bench.take(root((9 << 64) | n << 50, "a"), START);
    }
    bench.tick(START + 10_000 * MS);
    let states: Vec<String> = bench.kept().into_iter().map(|(_, span)| span.trace_state).collect();
    assert_eq!(states, ["", "ot=th:f", "ot=th:f", "ot=th:f", "ot=th:f"], "an error is kept whole");
    assert_eq!(bench.ledger.read().signals[Signal::Traces as usize].sampled_out, let_go);
}

#[test]
fn a_budget_in_bytes_a_day_counts_what_is_kept() {
    // 5,000 a second.
    let config = Config {
        baseline_ratio: 1.0,
        budget_spans_per_second: 0.0,
        budget_bytes_per_day: 432_000_000,
        ..Config::default()
    };
    let mut bench = Bench::knowing(config);
    let mut random = 1_u64;
    let mut bytes = 0;
    for n in 0..30_000_u64 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now = START + 20_000 * MS + n * MS;
        let attributes = vec![value::string("a", "x".repeat(420))];
        bench.take(Span { attributes, ..root(u128::from(random.rotate_left(32)) + 1, "a") }, now);
        bench.tick(now);
        bytes += bench.kept().iter().map(|(_, span)| span.encoded_len()).sum::<usize>();
        bench.out.clear();
    }
    assert!((125_000..185_000).contains(&bytes), "{bytes} bytes in 30 s, of 150,000");
}

#[test]
fn what_is_kept_for_a_reason_stands_for_itself() {
    let mut bench = Bench::new(Config::default());
    bench.take(root(9, "new"), START);
    bench.take(failed(root(10, "new")), START);
    bench.tick(START + 10_000 * MS);
    assert_eq!(bench.kept().len(), 2);
    assert!(bench.kept().iter().all(|(_, span)| span.trace_state.is_empty()));
}

#[test]
fn past_the_limits_traces_are_decided_early_by_what_is_known() {
    let table = [Config { spans_max: 3, ..Config::default() }, Config { bytes_max: 1 << 20, ..Config::default() }];
    for config in table {
        let (spans_max, bytes_max) = (config.spans_max, config.bytes_max);
        let mut bench = Bench::seasoned(config);
        for trace in 100..200 {
            bench.take(large(child(trace, if trace == 120 { "new" } else { "a" })), START);
            let stats = bench.sampler.stats();
            assert!(stats.waiting_spans <= spans_max && stats.waiting_bytes <= bytes_max, "{stats:?}");
        }
        let stats = bench.sampler.stats();
        assert_eq!(bench.names(), ["new"], "what is known to be worth it is kept");
        assert_eq!(stats.decided_early + stats.waiting_traces as u64, 100);
        assert_eq!(bench.ledger.read().signals[2].dropped_total(), 0);
    }
}

#[test]
fn past_the_limits_traces_whose_root_has_ended_are_decided_first() {
    let mut bench = Bench::seasoned(Config { spans_max: 2, ..Config::default() });
    bench.take(child(1, "a"), START);
    bench.take(root(2, "a"), START);
    bench.take(child(3, "a"), START);
    bench.take(failed(child(1, "b")), START);
    assert_eq!(bench.sorted_names(), ["a", "b"], "the trace that was still awaited is whole");
}

#[test]
fn a_trace_without_end_does_not_drive_the_others_out() {
    let mut bench = Bench::seasoned(Config { bytes_max: 1 << 20, ..Config::default() });
    bench.take(child(1, "a"), START);
    for _ in 0..100 {
        bench.take(large(child(2, "a")), START);
    }
    bench.take(failed(child(1, "b")), START);
    assert_eq!(bench.sorted_names(), ["a", "b"]);
    assert_eq!(bench.sampler.stats().decided_early, 1);
}

#[test]
fn a_span_larger_than_all_room_is_decided_alone() {
    let mut bench = Bench::seasoned(Config { bytes_max: 1 << 20, ..Config::default() });
    let huge = |name: &str| Span { attributes: vec![value::string("a", "x".repeat(4 << 20))], ..child(1, name) };
    bench.take(child(1, "a"), START);
    bench.take(huge("new"), START);
    assert_eq!(bench.sorted_names(), ["a", "new"], "what came before it goes with it");
    bench.take(Span { trace_id: vec![7; 16], ..huge("a") }, START);
    assert_eq!(bench.names().len(), 2, "and of no interest it goes the way of others");
    let stats = bench.sampler.stats();
    assert_eq!((stats.waiting_spans, stats.decided_early), (0, 2));
    assert!(stats.waiting_bytes < 1 << 17, "{stats:?}");
}

#[test]
fn kept_spans_leave_in_portions_and_wait_in_the_books_until_then() {
    let mut bench = Bench::new(Config { baseline_ratio: 1.0, budget_spans_per_second: 0.0, ..Config::default() });
    for trace in 0..100 {
        let scopes = vec![ScopeSpans { spans: vec![large(child(trace << 64 | 1, "a"))], ..ScopeSpans::default() }];
        bench.sampler.take(&bench.resource, scopes, START, &mut bench.out);
    }
    bench.sampler.drain();
    let mut portions = 0;
    loop {
        let more = bench.sampler.hand_out(100 << 10, &mut bench.out);
        portions += 1;
        let waiting = bench.ledger.waiting(Signal::Traces, Place::Sampler);
        assert_eq!(bench.names().len() + waiting as usize, 100);
        if !more {
            break;
        }
        assert_eq!(bench.names().len(), 3 * portions);
    }
    assert_eq!(bench.sampler.bytes(), 0);
}

#[test]
fn a_span_nested_deeper_than_is_decoded_is_counted_and_the_others_of_its_trace_go_on() {
    use ollystack_record::otlp::common::v1::{AnyValue, ArrayValue, any_value::Value};
    let mut bench = Bench::seasoned(Config::default());
    let mut inner = AnyValue { value: Some(Value::IntValue(1)) };
    for _ in 0..60 {
        inner = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![inner] })) };
    }
    let attributes = vec![KeyValue { key: "deep".into(), value: Some(inner), ..KeyValue::default() }];
    bench.take(Span { attributes, ..child(9, "b") }, START);
    bench.take(child(9, "a"), START);
    bench.take(failed(child(9, "c")), START);
    assert_eq!(bench.sorted_names(), ["a", "c"]);
    assert_eq!((bench.ledger.read().signals[2].dropped_total(), bench.sampler.spans), (1, 0));
}

#[test]
fn when_memory_is_short_what_waits_is_decided_and_its_memory_given_back() {
    let mut bench = Bench::seasoned(Config::default());
    for trace in 100..200 {
        bench.take(large(child(trace, if trace == 120 { "new" } else { "a" })), START);
    }
    assert!(bench.sampler.bytes() > 2_000_000);
    bench.sampler.relieve();
    bench.leave();
    let stats = bench.sampler.stats();
    assert_eq!((stats.waiting_bytes, stats.decided_early, bench.names()), (0, 100, vec!["new".to_owned()]));
}

#[test]
fn a_weight_that_no_sampler_is_believed_is_lowered_and_counted() {
    let mut bench = Bench::new(Config { weight_max: 16.0, ..Config::default() });
    for trace_state in ["ot=th:f", "ot=th:ffffff"] {
        bench.take(Span { trace_state: trace_state.into(), ..failed(child(9, "a")) }, START);
    }
    let states: Vec<String> = bench.kept().into_iter().map(|(_, span)| span.trace_state).collect();
    assert_eq!((states, bench.sampler.stats().weights_limited), (vec!["ot=th:f".to_owned(); 2], 1));
}

#[test]
fn late_spans_that_are_kept_count_to_the_rate_of_their_service() {
    let kept = |late: u64| {
        let config = Config {
            spans_per_second_per_service_max: 10.0,
            baseline_ratio: 1.0,
            budget_spans_per_second: 0.0,
            ..Config::default()
        };
        let mut bench = Bench::knowing(config);
        let trace = 0xff_u128 << 48;
        bench.take(root(trace, "a"), START + 10_000 * MS);
        bench.tick(START + 20_000 * MS);
        for second in 20..80_u64 {
            for _ in 0..late {
                bench.take(child(trace, "a"), START + second * 1_000 * MS);
            }
            for n in 0..50 {
                let random = (second * 50 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bench.take(root(u128::from(random), "b"), START + second * 1_000 * MS);
            }
            bench.tick(START + (second * 1_000 + 600) * MS);
        }
        bench.names().iter().filter(|name| *name == "b").count()
    };
    let (alone, beside) = (kept(0), kept(8));
    assert!(beside < alone / 2, "{beside} beside late spans, {alone} alone");
}

#[test]
fn traces_that_are_decided_leave_nothing_behind() {
    let mut bench = Bench::seasoned(Config::default());
    for trace in 100..2_000 {
        bench.take(failed(root(trace, "a")), START);
        bench.take(root(trace << 64, "a"), START);
    }
    bench.drain();
    assert_eq!((bench.sampler.spans, bench.sampler.bytes()), (0, 0));
}

#[test]
fn a_span_comes_out_as_it_went_in() {
    let mut bench = Bench::new(Config::default());
    let attributes: Vec<KeyValue> =
        vec![value::string("s", "x".repeat(700)), value::int("i", -7), value::double("d", 0.5), value::bool("b", true)];
    let event =
        Event { time_unix_nano: 7, name: "e".into(), attributes: attributes.clone(), dropped_attributes_count: 3 };
    let link = Link {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        trace_state: "a=b".into(),
        attributes: attributes.clone(),
        dropped_attributes_count: 4,
        flags: 5,
    };
    let span = Span {
        trace_state: "a=b".into(),
        flags: 0x301,
        kind: SpanKind::Client as i32,
        attributes,
        dropped_attributes_count: 6,
        events: vec![event.clone(), event],
        dropped_events_count: 7,
        links: vec![link],
        dropped_links_count: 8,
        status: Some(Status { message: "fine".into(), code: StatusCode::Ok as i32 }),
        ..child(9, "new")
    };
    bench.decide(span.clone());
    assert_eq!(bench.kept().into_iter().map(|(_, span)| span).collect::<Vec<_>>(), [span]);
}

#[test]
fn spans_without_a_valid_trace_are_traces_of_their_own() {
    let mut bench = Bench::seasoned(Config::default());
    let broken = |id: u8| Span { trace_id: vec![1, 2], span_id: vec![id; 8], ..root(0, "a") };
    bench.take(broken(1), START);
    bench.take(failed(broken(2)), START);
    bench.tick(START + 10_000 * MS);
    assert_eq!(bench.kept().iter().map(|(_, span)| span.span_id[0]).collect::<Vec<_>>(), [2]);
}

#[test]
fn kept_spans_go_out_by_class_with_their_resource_and_scope() {
    let mut bench = Bench::new(Config::default());
    let scope = |name: &str, spans| ScopeSpans {
        scope: Some(InstrumentationScope { name: name.into(), ..InstrumentationScope::default() }),
        spans,
        schema_url: "s".into(),
    };
    let scopes = vec![scope("x", vec![root(1, "a"), failed(root(2, "b"))]), scope("y", vec![root(1, "c")])];
    bench.sampler.take(&bench.resource, scopes, START, &mut bench.out);
    bench.drain();
    let messages = bench.out.iter().map(|reduced| match &reduced.records {
        ReducedRecords::Traces(traces) => {
            assert_eq!(traces.resource, Some(bench.resource.to_proto()));
            let scopes = traces.scope_spans.iter();
            let names = scopes.map(|s| (s.scope.clone().unwrap().name, s.schema_url.clone(), s.spans.len()));
            (reduced.class, names.collect::<Vec<_>>())
        }
        other => panic!("{other:?}"),
    });
    let mut messages: Vec<_> = messages.collect();
    messages.iter_mut().for_each(|(_, scopes)| scopes.sort());
    let scope = |name: &str, spans| (name.to_owned(), "s".to_owned(), spans);
    assert_eq!(messages, [(Class::Errors, vec![scope("x", 1)]), (Class::Normal, vec![scope("x", 1), scope("y", 1)])]);
}

proptest! {
    #[test]
    fn every_error_is_kept_and_the_books_close(
        spans in prop::collection::vec((0..12_u128, 0..5_usize, any::<bool>(), 0..10_u8, 0..3_000_u64), 1..200),
        spans_max in 1..40_usize,
    ) {
        let config = rules(
            r#"[{"name": "x", "operation": "a", "keep": 0.5}, {"name": "y", "operation": "b", "keep": "never"},
                {"name": "z", "operation": "c", "spans_per_second": 1, "slow_ms": 10}]"#,
        );
        let mut bench = Bench::new(Config {
            spans_max,
            bytes_max: 4_000,
            decisions_max: 6,
            baseline_ratio: 0.5,
            budget_bytes_per_day: 1_000_000,
            spans_per_second_per_service_max: 3.0,
            ..config
        });
        let (mut now, mut errors) = (START, 0);
        for (trace, name, is_root, luck, wait) in &spans {
            now += wait * MS;
            let mut span = span((trace << 60) + 1, ["a", "b", "c", "d", "e"][*name], !is_root);
            if *luck == 0 {
                errors += 1;
                span = failed(span);
            }
            bench.take(span, now);
            bench.tick(now);
        }
        bench.drain();
        let kept = bench.kept();
        prop_assert_eq!(kept.iter().filter(|(_, span)| sight::is_error(span)).count(), errors);
        prop_assert!(kept.iter().all(|(class, span)| !sight::is_error(span) || *class == Class::Errors));
        bench.ledger.sent(Signal::Traces, kept.len() as u64);
        prop_assert_eq!(bench.ledger.read().signals[2].balance(), 0);
        let stats = bench.sampler.stats();
        let decided: u64 = stats.policies.iter().map(|policy| policy.kept_spans).sum();
        let let_go: u64 = stats.policies.iter().map(|policy| policy.let_go_spans).sum();
        prop_assert_eq!(decided, kept.len() as u64);
        prop_assert_eq!(decided + let_go, spans.len() as u64);
        prop_assert_eq!((stats.waiting_spans, stats.waiting_bytes), (0, 0));
    }
}
