//! Checkpoints as sentences: what goes on, what must not leave twice, and bytes that nobody wrote.

use super::*;
use crate::tests::{Bench, SECOND, START, gauge, histogram_points, named, sums, total};
use crate::{Config, Rule};
use ollystack_record::otlp::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, SummaryDataPoint, exemplar,
    exponential_histogram_data_point::Buckets,
};
use ollystack_record::{Kind, Sample, Series, Value};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };

/// A folder that went on from another's checkpoint at `now`.
fn resumed(from: &mut Bench, config: Config, now: u64) -> (Bench, Restored) {
    let mut bench = Bench::new(config);
    let restored = bench.fold.restore(&from.fold.checkpoint(now), now).unwrap();
    (bench, restored)
}

fn steady() -> Config {
    Config { first_window_ms: 0, ..Config::default() }
}

/// With samples of everything that can be held: each kind of state, exemplars, runs, windows aside, overflow, an alias.
fn full() -> (Bench, Config) {
    let rules = vec![Rule { metric: "alias".into(), drop_labels: vec!["label".into()], ..Rule::default() }];
    let config = Config { series_per_metric_max: 2, rules, ..steady() };
    let mut bench = Bench::new(config.clone());
    bench.tick(START);
    for minute in 0..3 {
        let now = START + minute * 60 * SECOND + SECOND;
        bench.take(gauge(&named("gauge", Kind::Gauge, "constant"), now, 4.5), now);
        bench.take(gauge(&named("gauge", Kind::Gauge, "moving"), now, minute as f64), now);
        bench.take(gauge(&named("gauge", Kind::Gauge, "too many"), now, 1.0), now);
        bench.take(total(&named("total", COUNTER, "a"), START, now, 7 * minute as i64), now);
        bench.take(total(&named("alias", COUNTER, "a"), START, now, 5), now);
        let exemplar =
            Exemplar { time_unix_nano: now, value: Some(exemplar::Value::AsDouble(2.0)), ..Exemplar::default() };
        let delta = named("delta", Kind::Sum { monotonic: true, delta: true }, "a");
        let mut sample = Sample::number(&delta, 0, now, Value::Double(0.5));
        sample.exemplars.push(exemplar);
        bench.take(sample, now);
        for (delta, bound) in [(true, 1.0), (true, 2.0), (false, 3.0)] {
            let (count, explicit_bounds) = (3 + minute, vec![bound]);
            let point =
                HistogramDataPoint { count, explicit_bounds, bucket_counts: vec![count, 0], ..Default::default() };
            let value = Value::Histogram(Box::new(point));
            bench.take(Sample::number(&named("explicit", Kind::Histogram { delta }, "a"), START, now, value), now);
        }
        let positive = Some(Buckets { offset: -3, bucket_counts: vec![1, 0, minute] });
        let point = ExponentialHistogramDataPoint { count: 1 + minute, scale: 3, positive, ..Default::default() };
        let value = Value::ExponentialHistogram(Box::new(point));
        let kind = Kind::ExponentialHistogram { delta: false };
        bench.take(Sample::number(&named("exponential", kind, "a"), START, now, value), now);
        let value = Value::Summary(Box::new(SummaryDataPoint { count: 2, sum: 3.0, ..Default::default() }));
        bench.take(Sample::number(&named("summary", Kind::Summary, "a"), 0, now, value), now);
        bench.take(Sample::number(&named("missing", Kind::Gauge, "a"), 0, now, Value::Missing), now);
        // Into the next window, which so lies aside.
        bench.take(gauge(&named("gauge", Kind::Gauge, "moving"), now + 60 * SECOND, 9.0), now);
        if minute < 2 {
            bench.tick(now + 62 * SECOND);
        }
    }
    bench.out.clear();
    (bench, config)
}

#[test]
fn a_total_that_goes_out_under_other_labels_after_the_restart_counts_nothing_twice() {
    let rule = Rule { metric: "c".into(), drop_labels: vec!["label".into()], ..Rule::default() };
    let (mut bench, now) = (Bench::new(steady()), START + SECOND);
    bench.tick(START);
    bench.take(total(&named("c", COUNTER, "a"), START, now, 5), now);
    bench.drain(now);
    assert_eq!(sums(bench.data()), [5.0]);
    let (mut again, _) = resumed(&mut bench, Config { rules: vec![rule], ..steady() }, now + SECOND);
    again.take(total(&named("c", COUNTER, "a"), START, now + 2 * SECOND, 7), now + 2 * SECOND);
    again.drain(now + 3 * SECOND);
    assert_eq!(sums(again.data()), [0.0]);
}

#[test]
fn everything_that_is_held_comes_back_and_leaves_as_it_would_have() {
    let (mut bench, config) = full();
    let now = START + 122 * SECOND;
    let (mut again, restored) = resumed(&mut bench, config, now);
    assert_eq!((restored.points, restored.refused), (bench.fold.stats().windows, 0));
    assert!(bench.fold.stats().windows > 12, "{restored:?}");
    let held = |bench: &mut Bench| bench.fold.checkpoint(now);
    assert_eq!(held(&mut again), held(&mut bench));
    bench.drain(now);
    again.drain(now);
    assert_eq!(again.balance(), 0);
    assert_eq!(again.data(), bench.data());
    assert_eq!(held(&mut again), held(&mut bench), "the last totals");
}

#[test]
fn a_window_goes_on_across_a_restart_as_if_there_had_been_none() {
    let mut bench = Bench::steady();
    let (level, counter) = (named("g", Kind::Gauge, "a"), named("c", COUNTER, "a"));
    bench.tick(START);
    let feed = |bench: &mut Bench, seconds: std::ops::Range<u64>| {
        for second in seconds {
            let now = START + second * SECOND;
            bench.take(gauge(&level, now, second as f64), now);
            bench.take(total(&counter, 1, now, 1_000 + 2 * second as i64), now);
        }
    };
    feed(&mut bench, 0..30);
    let (mut again, restored) = resumed(&mut bench, steady(), START + 30 * SECOND);
    assert_eq!((restored.series, restored.points), (2, 2));
    let late = Config { first_window_ms: 60_000, ..Config::default() };
    let (mut alone, _) = resumed(&mut bench, late, START + 30 * SECOND);
    alone.tick(START + 62 * SECOND);
    assert_eq!(alone.out.len(), 1, "what was restored leaves in its time, whether anything comes after it or not");
    feed(&mut again, 30..60);
    again.tick(START + 62 * SECOND);
    assert_eq!(again.balance(), 0);
    let mut data = again.data();
    assert_eq!(sums(vec![data.remove(1)]), vec![118.0]);
    let point = &histogram_points(data)[0];
    assert_eq!((point.count, point.sum, point.start_time_unix_nano), (60, Some(1770.0), START));
}

#[test]
fn totals_make_up_for_what_came_between_the_checkpoint_and_the_crash() {
    let mut bench = Bench::steady();
    let counter = named("c", COUNTER, "a");
    bench.tick(START);
    bench.take(total(&counter, 1, START + SECOND, 10), START + SECOND);
    bench.take(total(&counter, 1, START + 50 * SECOND, 15), START + 50 * SECOND);
    let checkpoint = bench.fold.checkpoint(START + 50 * SECOND);
    bench.take(total(&counter, 1, START + 55 * SECOND, 18), START + 55 * SECOND);
    let mut again = Bench::steady();
    again.fold.restore(&checkpoint, START + 56 * SECOND).unwrap();
    again.take(total(&counter, 1, START + 57 * SECOND, 21), START + 57 * SECOND);
    again.drain(START + 58 * SECOND);
    assert_eq!(again.balance(), 0);
    assert_eq!(sums(again.data()), vec![11.0]);
}

#[test]
fn a_run_goes_on_across_a_restart() {
    let mut bench = Bench::steady();
    let level = named("g", Kind::Gauge, "a");
    let feed = |bench: &mut Bench, seconds: std::ops::Range<u64>| {
        for second in seconds.step_by(10) {
            let now = START + second * SECOND;
            bench.tick(now);
            bench.take(gauge(&level, now, 1.0), now);
        }
    };
    bench.tick(START);
    feed(&mut bench, 0..150);
    let (mut again, restored) = resumed(&mut bench, steady(), START + 150 * SECOND);
    assert_eq!(restored.points, 2, "a run and an open window");
    feed(&mut again, 150..240);
    again.drain(START + 240 * SECOND);
    assert_eq!(again.balance(), 0);
    let points: Vec<_> = histogram_points(again.data())
        .iter()
        .map(|p| ((p.start_time_unix_nano - START) / SECOND, (p.time_unix_nano - START) / SECOND, p.count))
        .collect();
    assert_eq!(points, vec![(60, 240, 18)]);
}

#[test]
fn after_a_clean_stop_counters_go_on_exactly() {
    let mut bench = Bench::steady();
    let rules = vec![Rule { metric: "alias".into(), drop_labels: vec!["label".into()], ..Rule::default() }];
    let config = Config { rules, ..steady() };
    bench.fold = Fold::new(config.clone(), Arc::clone(&bench.ledger));
    let series = [named("c", COUNTER, "a"), named("alias", COUNTER, "a"), named("alias", COUNTER, "b")];
    bench.tick(START);
    for (at, value) in [(1, 100), (20, 130)] {
        series.iter().for_each(|series| bench.take(total(series, 1, START + at * SECOND, value), START + at * SECOND));
    }
    let stop = START + 30 * SECOND;
    bench.drain(stop);
    let (later, mut again) = (START + 2_000 * SECOND, Bench::new(config));
    let restored = again.fold.restore(&bench.fold.checkpoint(stop), later).unwrap();
    assert_eq!((restored.series, restored.points), (2, 0));
    again.tick(later);
    series.iter().for_each(|series| again.take(total(series, 1, later, 137), later));
    again.drain(later);
    assert_eq!(sums(again.data()), vec![7.0, 14.0]);
}

#[test]
fn only_an_empty_folder_is_restored() {
    let (mut bench, _) = full();
    let bytes = bench.fold.checkpoint(START);
    let held = bench.fold.stats().series;
    assert_eq!(bench.fold.restore(&bytes, START), Err(CheckpointError::NotEmpty(held)));
}

#[test]
fn what_is_past_the_limits_of_today_is_counted_as_dropped() {
    let (mut bench, config) = full();
    let (again, restored) = resumed(&mut bench, Config { series_max: 3, ..config }, START + 122 * SECOND);
    assert!(restored.refused > 0 && again.fold.stats().series <= 4, "{restored:?}");
    let reading = &again.ledger.read().signals[0];
    assert_eq!((reading.dropped_total(), reading.carried), (restored.refused, restored.points + restored.refused));
    assert_eq!(reading.balance(), 0);
}

#[test]
fn what_overflows_comes_back_whatever_labels_a_rule_keeps() {
    let rule = Rule { metric: "g".into(), keep_labels: vec!["label".into()], series_max: Some(1), ..Rule::default() };
    let config = Config { rules: vec![rule], ..steady() };
    let mut bench = Bench::new(config.clone());
    for label in ["a", "b"] {
        bench.take(gauge(&named("g", Kind::Gauge, label), START, 1.0), START);
    }
    let (_, restored) = resumed(&mut bench, config, START);
    assert_eq!((restored.points, restored.refused), (2, 0));
}

#[test]
fn what_may_not_go_out_any_more_is_not_restored() {
    let mut bench = Bench::steady();
    bench.take(gauge(&named("g", Kind::Gauge, "secret"), START, 1.0), START);
    bench.take(gauge(&named("unwanted", Kind::Gauge, "a"), START, 1.0), START);
    let bytes = bench.fold.checkpoint(START);
    let rules = vec![Rule { metric: "unwanted".into(), drop: true, ..Rule::default() }];
    let mut again = Bench::new(Config { rules, ..steady() });
    again.fold.rewrite_with(Box::new(|series| {
        Some(Series::new(Arc::clone(&series.scope), Arc::clone(&series.metric), Vec::new()))
    }));
    let restored = again.fold.restore(&bytes, START).unwrap();
    assert_eq!((restored.series, restored.refused, again.balance()), (0, 2, 0));
}

#[test]
fn foreign_later_and_cut_bytes_are_told_apart() {
    let (mut bench, config) = full();
    let bytes = bench.fold.checkpoint(START);
    let mut later = bytes.clone();
    later[MAGIC.len()] = VERSION + 1;
    let table = [
        (&b""[..], CheckpointError::Foreign),
        (b"SQLite format 3", CheckpointError::Foreign),
        (MAGIC, CheckpointError::Damaged),
        (&later, CheckpointError::Version(VERSION + 1)),
        (&bytes[..bytes.len() - 1], CheckpointError::Damaged),
    ];
    for (bytes, expected) in table {
        let mut bench = Bench::new(config.clone());
        assert_eq!(bench.fold.restore(bytes, START), Err(expected));
        assert_eq!(bench.fold.stats().series, 0);
    }
}

/// Written by the first version, from what [`full`] holds.
const FIRST: &[u8] = include_bytes!("data/version_1.checkpoint");

#[test]
fn what_an_earlier_version_wrote_is_gone_on_from() {
    let now = START + 122 * SECOND;
    let (mut bench, config) = full();
    let mut again = Bench::new(config);
    assert_eq!(FIRST[MAGIC.len()], FIRST_VERSION);
    again.fold.restore(FIRST, now).unwrap();
    assert_eq!(again.fold.checkpoint(now), bench.fold.checkpoint(now));
}

proptest! {
    #[test]
    fn bytes_that_nobody_wrote_change_nothing_or_are_borne(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (mut bench, config) = full();
        let mut bytes = bench.fold.checkpoint(START + 122 * SECOND);
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // With the right sum, so that the reader itself is tried.
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let mut again = Bench::new(config);
        let now = START + 125 * SECOND;
        if again.fold.restore(&bytes, now).is_err() {
            prop_assert_eq!(again.fold.stats().series, 0);
        }
        for second in [125, 130, 190, 300, 4_000] {
            let now = START + second * SECOND;
            again.take(gauge(&named("gauge", Kind::Gauge, "moving"), now, 1.0), now);
            again.take(total(&named("total", COUNTER, "a"), START, now, 100), now);
            again.tick(now);
        }
        again.drain(START + 4_000 * SECOND);
        prop_assert_eq!(again.balance(), 0);
    }
}
