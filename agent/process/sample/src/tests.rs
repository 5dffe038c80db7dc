//! Sampling as sentences: what is kept, when it is decided, limits, books.

use super::*;
use ollystack_record::otlp::trace::v1::Status;
use ollystack_record::value;
use proptest::prelude::*;

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
        let mut bench = Bench::new(Config { baseline_ratio: 0.0, ..config });
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
    }

    fn tick(&mut self, now: u64) {
        self.sampler.tick(now, &mut self.out);
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

#[test]
fn an_error_is_kept_at_once_with_what_came_before_and_after() {
    let mut bench = Bench::seasoned(Config::default());
    bench.take(child(9, "a"), START);
    assert!(bench.out.is_empty());
    bench.take(failed(child(9, "b")), START);
    assert_eq!(bench.names(), ["a", "b"]);
    bench.take(root(9, "c"), START + 60_000 * MS);
    assert_eq!(bench.names(), ["a", "b", "c"]);
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
    assert_eq!(bench.sampler.stats().kept_slow, 1);
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
fn the_baseline_is_by_trace_id_and_says_what_it_stands_for() {
    let mut bench = Bench::seasoned(Config::default());
    bench.sampler.threshold = probability::threshold(0.25);
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
fn what_is_kept_for_a_reason_stands_for_itself() {
    let mut bench = Bench::new(Config::default());
    bench.take(root(9, "new"), START);
    bench.take(failed(root(10, "new")), START);
    bench.tick(START + 10_000 * MS);
    assert_eq!(bench.kept().len(), 2);
    assert!(bench.kept().iter().all(|(_, span)| span.trace_state.is_empty()));
}

#[test]
fn past_the_limits_the_oldest_trace_is_decided_early() {
    let table = [Config { spans_max: 3, ..Config::default() }, Config { bytes_max: 3_000, ..Config::default() }];
    for config in table {
        let mut bench = Bench::seasoned(config);
        for trace in 100..200 {
            bench.take(child(trace, "a"), START);
            let stats = bench.sampler.stats();
            assert!(stats.waiting_spans <= 7 && stats.waiting_bytes <= 16 << 20, "{stats:?}");
        }
        let stats = bench.sampler.stats();
        assert_eq!(stats.decided_early + stats.waiting_traces as u64, 100);
        assert_eq!(bench.ledger.read().signals[2].dropped_total(), 0);
    }
}

#[test]
fn traces_that_are_decided_leave_nothing_behind() {
    let mut bench = Bench::seasoned(Config::default());
    for trace in 100..20_000 {
        bench.take(failed(root(trace, "a")), START);
    }
    assert!(bench.sampler.by_wait.len() + bench.sampler.by_end.len() < 3_000);
    assert_eq!((bench.sampler.spans, bench.sampler.bytes), (0, 0));
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
    bench.sampler.drain(&mut bench.out);
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
        let mut bench = Bench::new(Config { spans_max, decisions_max: 6, baseline_ratio: 0.5, ..Config::default() });
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
        bench.sampler.drain(&mut bench.out);
        let kept = bench.kept();
        prop_assert_eq!(kept.iter().filter(|(_, span)| is_error(span)).count(), errors);
        prop_assert!(kept.iter().all(|(class, span)| !is_error(span) || *class == Class::Errors));
        bench.ledger.sent(Signal::Traces, kept.len() as u64);
        prop_assert_eq!(bench.ledger.read().signals[2].balance(), 0);
        let stats = bench.sampler.stats();
        let decided = stats.kept_error + stats.kept_slow + stats.kept_first_sight + stats.kept_baseline + stats.kept_late;
        prop_assert_eq!(decided, kept.len() as u64);
        prop_assert_eq!(decided + stats.dropped + stats.dropped_late, spans.len() as u64);
    }
}
