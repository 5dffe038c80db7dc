//! Folding as a whole: what goes out whole, what becomes one row, and that the rows stand for exactly the lines.

use super::*;
use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, any_value::Value};
use ollystack_record::otlp::logs::v1::SeverityNumber;
use ollystack_record::{Ahead, Class, Positions, Putting, ReducedRecords, Settled};
use proptest::prelude::*;

const NOW: u64 = 1_795_165_927_000_000_000;
const SECOND: u64 = 1_000_000_000;

fn config() -> Config {
    Config { time_zone: "UTC".into(), ..Config::default() }
}

fn record(body: &str) -> LogRecord {
    LogRecord {
        observed_time_unix_nano: NOW,
        body: Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) }),
        ..LogRecord::default()
    }
}

fn service(name: &str) -> Arc<Resource> {
    Arc::new(Resource::new(vec![value::string("service.name", name)]))
}

/// The stage with its books and what it handed out.
struct Bench {
    logs: Logs,
    ledger: Arc<Ledger>,
    out: Vec<Reduced>,
}

impl Bench {
    fn new(config: Config) -> Bench {
        let ledger = Arc::new(Ledger::default());
        Bench { logs: Logs::new(config, Arc::clone(&ledger)), ledger, out: Vec::new() }
    }

    fn take_records(&mut self, source: Source, service_name: &str, records: Vec<LogRecord>, ack: Ack, now: u64) {
        self.ledger.seen(Signal::Logs, records.len() as u64);
        let scopes = vec![ScopeLogs { log_records: records, ..ScopeLogs::default() }];
        self.logs.take(source, &service(service_name), scopes, ack, now, &mut self.out);
    }

    fn take(&mut self, lines: &[impl AsRef<str>], now: u64) {
        let records = lines.iter().map(|line| record(line.as_ref())).collect();
        self.take_records(Source::Logs, "shop", records, Ack::none(), now);
    }

    fn tick(&mut self, now: u64) {
        self.logs.tick(now, &mut self.out);
    }

    fn drain(&mut self) {
        self.logs.drain(NOW, &mut self.out);
    }

    /// The records handed out since the last call, and each one's class, in the order of their bodies.
    fn rows(&mut self) -> Vec<LogRecord> {
        let mut rows = Vec::new();
        for reduced in self.out.drain(..) {
            let ReducedRecords::Logs(logs) = reduced.records else { continue };
            self.ledger.waiting_add(Signal::Logs, Place::Freezer, 0);
            let records: Vec<LogRecord> = logs.scope_logs.into_iter().flat_map(|scope| scope.log_records).collect();
            self.ledger.sent(Signal::Logs, records.len() as u64);
            rows.extend(records);
            reduced.acks.into_iter().for_each(|ack| ack.resolve(ollystack_record::Outcome::Durable));
        }
        rows.sort_by(|a, b| text_of(a).cmp(text_of(b)));
        rows
    }

    fn balance(&self) -> i64 {
        self.ledger.read().signals[Signal::Logs as usize].balance()
    }
}

fn count(record: &LogRecord) -> u64 {
    value::int_attribute(&record.attributes, names::LOG_COUNT).map_or(1, |count| count as u64)
}

fn counts(rows: &[LogRecord]) -> Vec<u64> {
    let mut counts: Vec<u64> = rows.iter().map(count).collect();
    counts.sort_unstable();
    counts
}

fn strings_of(record: &LogRecord, key: &str) -> Vec<String> {
    let value = record.attributes.iter().find(|attribute| attribute.key == key).and_then(|a| a.value.clone());
    let Some(Value::ArrayValue(array)) = value.and_then(|value| value.value) else { return Vec::new() };
    array
        .values
        .into_iter()
        .map(|value| text_of(&LogRecord { body: Some(value), ..LogRecord::default() }).to_owned())
        .collect()
}

fn repeated(n: usize) -> Vec<String> {
    (0..n)
        .map(|n| format!("2026-11-20T09:12:{:02}Z INFO served request {n} of client 10.0.0.{}", n % 60, n % 200))
        .collect()
}

#[test]
fn lines_that_repeat_become_one_row_that_says_how_many_and_shows_some() {
    let mut bench = Bench::new(config());
    bench.take(&repeated(60), NOW);
    bench.drain();
    let rows = bench.rows();
    assert_eq!(counts(&rows), [1, 1, 1, 1, 1, 55]);
    let folded = rows.iter().find(|row| count(row) == 55).unwrap();
    assert_eq!(text_of(folded), "served request <*> of client <*>");
    assert_eq!((folded.severity_number, folded.severity_text.as_str()), (SeverityNumber::Info as i32, "INFO"));
    let second = NOW / SECOND * SECOND - 7 * SECOND;
    assert_eq!(folded.time_unix_nano, second + 5 * SECOND);
    assert_eq!(value::int_attribute(&folded.attributes, names::LOG_LAST), Some((second + 59 * SECOND) as i64));
    assert_eq!(strings_of(folded, names::LOG_SAMPLES), repeated(8)[5..]);
    let id = |row: &LogRecord| value::string_attribute(&row.attributes, names::LOG_PATTERN_ID).map(str::to_owned);
    assert_eq!(id(folded).map(|id| id.len()), Some(16));
    assert!(rows.iter().any(|row| count(row) == 1 && id(row) == id(folded)), "whole lines name the same pattern");
}

#[test]
fn errors_go_on_whole_at_once_however_many() {
    let mut bench = Bench::new(config());
    let lines: Vec<String> = (0..50).map(|n| format!("ERROR payment {n} failed")).collect();
    bench.take(&lines, NOW);
    assert!(bench.out.iter().all(|reduced| reduced.class == Class::Errors));
    assert_eq!(counts(&bench.rows()), [1; 50]);
}

#[test]
fn rare_lines_and_first_sights_go_on_whole_at_once() {
    let mut bench = Bench::new(Config { whole_per_window: 2, ..config() });
    bench.take(&["one thing happened", "another event occurred", "one thing happened"], NOW);
    assert_eq!(counts(&bench.rows()), [1; 3]);
    let mut bench = Bench::new(Config { whole_per_window: 0, ..config() });
    bench.take(&["one thing happened"], NOW);
    assert_eq!(counts(&bench.rows()), [1]);
}

#[test]
fn what_is_steady_costs_one_row_a_window_from_the_second_on() {
    let mut bench = Bench::new(config());
    let mut rows = Vec::new();
    for window in 0..4 {
        let now = NOW + window * 60 * SECOND;
        bench.tick(now);
        bench.take(&repeated(100), now);
        rows.push(counts(&bench.rows()));
    }
    assert_eq!(rows[0], [1; 5]);
    assert_eq!(rows[1..], [vec![95], vec![100], vec![100]]);
}

#[test]
fn what_was_frequent_and_became_rare_goes_on_whole_again() {
    let mut bench = Bench::new(config());
    bench.take(&repeated(100), NOW);
    bench.tick(NOW + 60 * SECOND);
    bench.rows();
    bench.take(&repeated(3), NOW + 61 * SECOND);
    assert_eq!(bench.rows().len(), 0, "it may still become frequent");
    bench.tick(NOW + 121 * SECOND);
    assert_eq!(bench.rows().iter().map(|row| text_of(row).to_owned()).collect::<Vec<_>>(), repeated(3));
}

#[test]
fn a_line_that_stays_alone_beyond_the_first_goes_out_as_it_came() {
    let mut bench = Bench::new(config());
    bench.take(&repeated(6), NOW);
    bench.drain();
    let rows = bench.rows();
    assert_eq!(counts(&rows), [1; 6]);
    assert_eq!(rows.iter().map(|row| text_of(row).to_owned()).collect::<Vec<_>>(), repeated(6));
}

#[tokio::test]
async fn a_batch_is_acknowledged_only_with_the_last_row_that_stands_for_one_of_its_lines() {
    use ollystack_record::Outcome;
    let mut bench = Bench::new(config());
    let (ack, pending) = Ack::new();
    let records = repeated(20).iter().map(|line| record(line)).collect();
    bench.take_records(Source::Logs, "shop", records, ack, NOW);
    bench.rows();
    let mut pending = Box::pin(pending.outcome());
    let waits =
        std::future::poll_fn(|context| std::task::Poll::Ready(pending.as_mut().poll(context).is_pending())).await;
    assert!(waits, "15 lines are in memory only");
    bench.tick(NOW + 60 * SECOND);
    assert_eq!(counts(&bench.rows()), [15]);
    assert_eq!(pending.await, Outcome::Durable);
}

#[tokio::test]
async fn when_a_folded_row_is_lost_each_batch_in_it_hears_so() {
    use ollystack_record::Outcome;
    let mut bench = Bench::new(config());
    let ((first, one), (second, two)) = (Ack::new(), Ack::new());
    for ack in [first, second] {
        let records = repeated(20).iter().map(|line| record(line)).collect();
        bench.take_records(Source::Logs, "shop", records, ack, NOW);
    }
    bench.rows();
    bench.drain();
    bench.out.clear();
    assert_eq!([one.outcome().await, two.outcome().await], [Outcome::Dropped; 2]);
}

#[test]
fn whoever_waits_for_an_answer_gets_it_after_half_a_second_and_log_files_after_the_window() {
    for (source, wait) in [(Source::Otlp, 500_000_000), (Source::Logs, 60 * SECOND)] {
        let mut bench = Bench::new(config());
        let records = repeated(20).iter().map(|line| record(line)).collect();
        bench.take_records(source, "shop", records, Ack::none(), NOW);
        bench.rows();
        bench.tick(NOW + wait - 1);
        assert_eq!(bench.rows().len(), 0, "{source:?}");
        bench.tick(NOW + wait);
        assert_eq!(counts(&bench.rows()), [15], "{source:?}");
    }
}

#[test]
fn when_memory_is_short_windows_close_early_and_nothing_is_counted_twice_or_lost() {
    let mut bench = Bench::new(config());
    bench.take(&repeated(60), NOW);
    let before = bench.logs.stats();
    bench.logs.relieve(NOW + SECOND, &mut bench.out);
    let after = bench.logs.stats();
    assert!(before.waiting > 0 && after.waiting == 0 && after.bytes < before.bytes, "{before:?} {after:?}");
    bench.take(&repeated(7), NOW + 2 * SECOND);
    bench.drain();
    assert_eq!(bench.rows().iter().map(count).sum::<u64>(), 67);
    assert_eq!(bench.balance(), 0);
}

#[test]
fn a_clock_that_is_set_back_keeps_nobody_waiting_and_begins_a_new_period() {
    for source in [Source::Otlp, Source::Logs] {
        let mut bench = Bench::new(config());
        let records = || repeated(20).iter().map(|line| record(line)).collect();
        bench.take_records(source, "shop", records(), Ack::none(), NOW);
        bench.rows();
        bench.tick(NOW - 3_600 * SECOND);
        assert_eq!(counts(&bench.rows()), [15], "{source:?}");
        bench.take_records(source, "shop", records(), Ack::none(), NOW - 3_600 * SECOND);
        bench.tick(NOW - 3_540 * SECOND);
        assert_eq!(counts(&bench.rows()), [20], "{source:?}: it was frequent");
        bench.take_records(
            source,
            "shop",
            repeated(1).iter().map(|l| record(l)).collect(),
            Ack::none(),
            NOW - 3_420 * SECOND,
        );
        assert_eq!(counts(&bench.rows()), [1], "{source:?}");
    }
}

#[test]
fn for_whoever_waits_a_pattern_stays_frequent_between_its_batches() {
    let mut bench = Bench::new(config());
    let mut rows = Vec::new();
    for batch in 0..14 {
        let now = NOW + batch * 5 * SECOND;
        let records = repeated(4).iter().map(|line| record(line)).collect();
        bench.take_records(Source::Otlp, "shop", records, Ack::none(), now);
        bench.tick(now + SECOND);
        rows.push(counts(&bench.rows()));
    }
    assert_eq!(rows[..2], [vec![1; 4], vec![1, 3]]);
    assert_eq!(rows[2..12], vec![vec![4]; 10]);
    assert_eq!(rows[12..], [vec![1; 4], vec![4]], "each minute the first lines may be all there are");
}

#[test]
fn windows_close_early_rather_than_hold_too_many_batches() {
    let mut bench = Bench::new(Config { batches_held_max: 3, ..config() });
    for _ in 0..4 {
        bench.take(&repeated(10), NOW);
    }
    assert_eq!(bench.logs.stats().batches_held, 0);
    assert_eq!(counts(&bench.rows()), [1, 1, 1, 1, 1, 35]);
}

/// Nobody writes down what is about to be put.
#[derive(Debug)]
struct NoNotes;

impl Ahead for NoNotes {
    fn announce(&self, _: u64, _: &[Putting]) {}

    fn settled(&self) {}
}

#[test]
fn lines_that_go_on_are_settled_while_others_of_their_batch_wait() {
    let mut bench = Bench::new(config());
    let mut positions = Positions::new(Arc::new(NoNotes));
    let acks = [positions.ack(1, vec![0, 10, 20, 30], 40), positions.ack(1, vec![40, 50], 60)];
    let mut settled = || {
        let settled: Vec<Settled> = std::iter::from_fn(|| positions.try_next()).collect();
        settled.into_iter().flat_map(|part| part.spans.iter().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    bench.take(&repeated(20), NOW);
    bench.rows();
    let known = repeated(2);
    let lines = [&known[0], "INFO something new", "ERROR failed", &known[1]];
    for (ack, lines) in acks.into_iter().zip([&lines[..], &[lines[0], lines[3]]]) {
        let records = lines.iter().map(|line| record(line)).collect();
        bench.take_records(Source::Logs, "shop", records, ack, NOW);
    }
    bench.rows();
    assert_eq!(settled(), [(20, 30), (10, 20)], "an error and a first sight, each of its class");
    bench.drain();
    assert!(settled().is_empty(), "the rows are not durable yet");
    bench.rows();
    assert_eq!(settled(), [(0, 10), (30, 60)]);
}

#[test]
fn a_row_says_what_all_its_lines_say_and_keeps_the_traces_of_its_samples() {
    let mut bench = Bench::new(config());
    let records = (0..20).map(|n: u8| LogRecord {
        attributes: vec![value::string("log.file.path", "/a"), value::int("thread.id", n.into()), value::int("x", 1)],
        trace_id: if n == 5 { vec![] } else { vec![n; 16] },
        span_id: vec![7; 8],
        flags: 1,
        ..record(&format!("served request {n}"))
    });
    bench.take_records(Source::Logs, "shop", records.collect(), Ack::none(), NOW);
    bench.drain();
    let rows = bench.rows();
    let folded = rows.iter().find(|row| count(row) == 15).unwrap();
    let keys: Vec<&str> = folded.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(keys[..2], ["log.file.path", "x"], "thread.id differs");
    assert_eq!((folded.trace_id.len(), folded.span_id.len(), folded.flags), (0, 8, 1));
    assert_eq!(strings_of(folded, names::LOG_SAMPLE_TRACES), ["".to_owned(), "06".repeat(16), "07".repeat(16)]);
}

#[test]
fn severities_services_and_scopes_do_not_mix() {
    let mut bench = Bench::new(Config { whole_per_window: 1, ..config() });
    let scope = |name: &str, level: &str| ScopeLogs {
        scope: Some(InstrumentationScope { name: name.into(), ..InstrumentationScope::default() }),
        log_records: (0..10).map(|n| record(&format!("2026-11-20T09:12:07Z {level} served request {n}"))).collect(),
        ..ScopeLogs::default()
    };
    let scopes = vec![scope("a", "INFO"), scope("a", "WARN"), scope("b", "INFO")];
    for name in ["shop", "cart"] {
        bench.logs.take(Source::Logs, &service(name), scopes.clone(), Ack::none(), NOW, &mut bench.out);
    }
    bench.rows();
    bench.drain();
    let row = |reduced: &Reduced| match &reduced.records {
        ReducedRecords::Logs(logs) => logs.scope_logs.iter().map(|s| s.log_records.len()).collect(),
        _ => Vec::new(),
    };
    let found: Vec<Vec<usize>> = bench.out.iter().map(row).collect();
    assert_eq!(found, [[2, 1], [2, 1]], "by service, then scope");
    assert_eq!(bench.rows().iter().map(count).sum::<u64>(), 60 - 6 - 1 + 1);
}

#[test]
fn events_and_bodies_that_are_no_text_go_on_whole() {
    let mut bench = Bench::new(config());
    let number = |n| LogRecord { body: Some(AnyValue { value: Some(Value::IntValue(n)) }), ..LogRecord::default() };
    let event = |n| LogRecord { event_name: "process.exec".into(), ..record(&format!("exec {n}")) };
    bench.take_records(Source::Ebpf, "shop", (0..20).map(number).chain((0..20).map(event)).collect(), Ack::none(), NOW);
    assert_eq!(counts(&bench.rows()), [1; 40]);
}

#[test]
fn what_stands_for_many_lines_already_keeps_their_number() {
    let mut bench = Bench::new(config());
    let folded = |n| LogRecord { attributes: vec![value::int(names::LOG_COUNT, 12)], ..record(&format!("served {n}")) };
    bench.take_records(Source::Otlp, "shop", (0..20).map(folded).collect(), Ack::none(), NOW);
    bench.drain();
    assert_eq!(counts(&bench.rows()), [12; 20]);
}

#[test]
fn a_record_with_more_attributes_than_are_compared_goes_on_whole() {
    let of = |attributes: usize| {
        let mut bench = Bench::new(config());
        let attributes: Vec<_> = (0..attributes).map(|n| value::int(format!("key {n}"), 7)).collect();
        let records = (0..20).map(|n| LogRecord { attributes: attributes.clone(), ..record(&format!("served {n}")) });
        bench.take_records(Source::Otlp, "shop", records.collect(), Ack::none(), NOW);
        bench.drain();
        bench.rows().len()
    };
    assert_eq!((of(ATTRIBUTES_MAX), of(ATTRIBUTES_MAX + 1)), (6, 20));
}

#[test]
fn rules_let_chosen_lines_pass_whole_or_only_be_counted() {
    let rule = |matches: &str, action| Rule { matches: matches.into(), action, ..Rule::default() };
    let rules = vec![rule("^audit", Action::Whole), rule("known trouble", Action::Count)];
    let mut bench = Bench::new(Config { rules, ..config() });
    let lines = (0..20).flat_map(|n| [format!("audit of user {n}"), format!("ERROR known trouble {n}")]);
    bench.take(&lines.collect::<Vec<_>>(), NOW);
    bench.drain();
    let rows = bench.rows();
    let (audit, trouble): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| text_of(row).starts_with("audit"));
    assert_eq!(counts(&audit), [1; 20]);
    assert_eq!(counts(&trouble), [20]);
}

#[test]
fn switched_off_every_line_goes_on_whole_and_is_still_completed() {
    let mut bench = Bench::new(Config { enabled: false, ..config() });
    bench.take(&repeated(50), NOW);
    let rows = bench.rows();
    assert_eq!(counts(&rows), [1; 50]);
    assert!(rows.iter().all(|row| row.severity_number == SeverityNumber::Info as i32 && row.time_unix_nano > 0));
}

#[test]
fn memory_stays_within_its_limit_whatever_comes() {
    let config = Config { window_bytes_max: 64 << 10, patterns_bytes_max: 64 << 10, patterns_max: 1_000, ..config() };
    let mut bench = Bench::new(config.clone());
    let long = "x".repeat(2_000);
    for n in 0..300_u64 {
        let word: String = (0..8).map(|i| char::from(b'a' + ((n >> i) % 26) as u8)).collect();
        let lines: Vec<String> =
            (0..9).map(|i| format!("{word} {i} thing{} {long}", (b'a' + n as u8 % 26) as char)).collect();
        let records = lines.iter().map(|line| record(line)).collect();
        bench.take_records(Source::Logs, &format!("service-{}", n % 40), records, Ack::none(), NOW + n);
        let held = bench.logs.windows.held().bytes;
        // What is checked is the memory before a line: one more, and the table that grows by it, may come on top.
        assert!(held <= config.window_bytes_max + (8 << 10), "{held}");
    }
    bench.drain();
    assert_eq!(bench.rows().iter().map(count).sum::<u64>(), 2_700);
    bench.tick(NOW + 300 * SECOND);
    assert_eq!(bench.logs.windows.held().bytes, 0, "nothing is remembered of what is gone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_stand_for_exactly_the_lines_and_the_books_balance(
        steps in prop::collection::vec((0_u8..6, 0_u8..3, 1_usize..40, 0_u64..40), 1..40),
        whole_per_window in 0_u32..4,
        with_rules in any::<bool>(),
    ) {
        let rules = vec![Rule { matches: "of 3".into(), action: Action::Count, ..Rule::default() }];
        let rules = if with_rules { rules } else { Vec::new() };
        let mut bench = Bench::new(Config { whole_per_window, rules, batches_held_max: 5, ..config() });
        let (mut now, mut lines, mut stand_for) = (NOW, 0, 0);
        for (kind, name, n, seconds) in steps {
            now += seconds * SECOND;
            let level = ["INFO", "ERROR", "DEBUG"][usize::from(kind % 3)];
            let records: Vec<LogRecord> =
                (0..n).map(|i| record(&format!("2026-11-20 09:12:07 {level} kind {kind} of {} is {i}", kind + name))).collect();
            lines += n as u64;
            let source = if kind < 3 { Source::Logs } else { Source::Otlp };
            bench.take_records(source, ["a", "b", "c"][usize::from(name)], records, Ack::none(), now);
            bench.tick(now);
            stand_for += bench.rows().iter().map(count).sum::<u64>();
            prop_assert_eq!(bench.balance(), 0);
        }
        bench.drain();
        stand_for += bench.rows().iter().map(count).sum::<u64>();
        prop_assert_eq!(stand_for, lines);
        prop_assert_eq!(bench.balance(), 0);
        prop_assert_eq!(bench.logs.stats().waiting, 0);
    }

    #[test]
    fn no_text_makes_it_panic(texts in prop::collection::vec(".{0,80}|[\\[\\]{}<>\":=,|0-9T/ -]{0,60}", 1..20)) {
        let mut bench = Bench::new(config());
        bench.take(&texts, NOW);
        bench.drain();
        prop_assert_eq!(bench.rows().iter().map(count).sum::<u64>(), texts.len() as u64);
    }
}
