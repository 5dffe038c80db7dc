//! What is held in bytes, how it leaves, and what is given up when memory is short, as sentences.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };
const HISTOGRAM: Kind = Kind::Histogram { delta: false };

fn with_bytes(bytes_max: usize) -> Bench {
    Bench::new(Config { bytes_max, first_window_ms: 0, ..Config::default() })
}

fn histogram(series: &Arc<Series>, start: u64, time: u64, buckets: usize, each: u64) -> Sample {
    let point = HistogramDataPoint {
        count: each * buckets as u64,
        explicit_bounds: (1..buckets).map(|bound| bound as f64).collect(),
        bucket_counts: vec![each; buckets],
        ..HistogramDataPoint::default()
    };
    Sample::number(series, start, time, Value::Histogram(Box::new(point)))
}

fn exponential_counts(data: Vec<Data>) -> Vec<(u64, i32)> {
    let points = data.into_iter().flat_map(|data| match data {
        Data::ExponentialHistogram(histogram) => histogram.data_points,
        other => panic!("expected an exponential histogram, got {other:?}"),
    });
    points.map(|point| (point.count, point.scale)).collect()
}

#[test]
fn past_the_limit_on_bytes_levels_overflow_known_series_go_on_and_all_is_counted() {
    let mut bench = with_bytes(256 << 10);
    bench.tick(START);
    let gauges: Vec<Arc<Series>> = (0..2_000).map(|n| named("g", Kind::Gauge, &format!("{n}"))).collect();
    for round in 0..2 {
        for series in &gauges {
            bench.take(gauge(series, START + round, 1.0), START + round);
            assert!(bench.fold.stats().bytes <= 256 << 10);
        }
    }
    let stats = bench.fold.stats();
    assert!((100..1_000).contains(&stats.series), "{stats:?}");
    assert_eq!(stats.overflowed, 2 * (2_000 - stats.series as u64 + 1));
    bench.drain(START + SECOND);
    assert_eq!((bench.balance(), bench.ledger.read().signals[0].dropped_total()), (0, 0));
    let counts: Vec<u64> = histogram_points(bench.data()).iter().map(|point| point.count).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (stats.series, 4_000));
    assert!(counts[..stats.series - 1].iter().all(|count| *count == 2));
}

#[test]
fn a_total_that_finds_no_room_is_covered_by_the_next_that_does() {
    let mut bench = with_bytes(64 << 10);
    bench.tick(START);
    let (small, large) = (named("small", HISTOGRAM, "a"), named("large", HISTOGRAM, "a"));
    bench.take(histogram(&small, START, START, 10, 1), START);
    bench.take(histogram(&large, START, START, 20_000, 1), START);
    let reading = bench.ledger.read();
    assert_eq!((reading.signals[0].dropped_total(), bench.fold.stats().windows), (1, 1));
    bench.take(histogram(&large, START, START + SECOND, 100, 3), START + SECOND);
    bench.drain(START + SECOND);
    assert_eq!(bench.balance(), 0);
    let mut counts: Vec<u64> = histogram_points(bench.data()).iter().map(|point| point.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [10, 300], "the first found no room, and the second counts from the start");
}

#[test]
fn what_is_measured_without_room_is_counted_in_coarser_buckets() {
    let mut bench = with_bytes(64 << 10);
    let spans: Vec<_> =
        (0..20).map(|n| named("s", Kind::ExponentialHistogram { delta: true }, &format!("{n}"))).collect();
    for n in 0..10_000_u64 {
        let value = 0.001 * (1.0 + n as f64);
        let measurement = Measurement { value, time_unix_nano: START, trace_id: &[1; 500], span_id: &[2; 800] };
        bench.fold.observe(&Arc::default(), &spans[n as usize % 20], &measurement, START);
        assert!(bench.fold.stats().bytes <= 64 << 10, "{n}: {:?}", bench.fold.stats());
    }
    bench.drain(START + SECOND);
    assert_eq!(bench.balance(), 0);
    let points = exponential_counts(bench.data());
    assert_eq!(points.iter().map(|(count, _)| count).sum::<u64>(), 10_000);
    assert!(points.iter().any(|(_, scale)| *scale < HISTOGRAM_SCALE), "{points:?}");
}

#[test]
fn labels_longer_than_any_are_not_told_apart_and_descriptions_longer_than_any_are_refused() {
    let mut bench = Bench::steady();
    let long = named("g", Kind::Gauge, &"x".repeat(20 << 10));
    bench.take(gauge(&long, START, 1.0), START);
    assert_eq!((bench.fold.stats().series, bench.fold.stats().overflowed), (1, 1));
    let labels = (0..10_000).map(|n| value::int(format!("{n}"), n)).collect();
    let many = Arc::new(Series::new(Arc::default(), Arc::clone(&long.metric), labels));
    bench.take(gauge(&many, START, 1.0), START);
    let metric = Metric { description: "x".repeat(1 << 20), ..Metric::default() };
    let described = Arc::new(Series::new(Arc::default(), Arc::new(metric), Vec::new()));
    bench.take(gauge(&described, START, 1.0), START);
    bench.drain(START + SECOND);
    assert_eq!((bench.balance(), bench.ledger.read().signals[0].dropped_total()), (0, 1));
    assert_eq!(histogram_points(bench.data()).iter().map(|point| point.count).sum::<u64>(), 2);
    assert!(bench.fold.stats().bytes < 8 << 10, "{:?}", bench.fold.stats());
}

#[test]
fn an_exemplar_longer_than_any_is_left_out_and_its_sample_is_folded() {
    let mut bench = Bench::steady();
    let series = named("c", Kind::Sum { monotonic: true, delta: true }, "a");
    for text in ["x".repeat(1 << 20), "short".to_owned()] {
        let mut sample = total(&series, 0, START, 1);
        let filtered_attributes = vec![value::string("k", text)];
        sample.exemplars = vec![Exemplar { filtered_attributes, ..Exemplar::default() }];
        bench.take(sample, START);
    }
    bench.drain(START + SECOND);
    let data = bench.data();
    let Data::Sum(sum) = &data[0] else { panic!("expected a sum, got {data:?}") };
    assert_eq!(sum.data_points[0].exemplars[0].filtered_attributes, [value::string("k", "short")]);
    assert_eq!(sums(data), [2.0]);
}

#[test]
fn a_histogram_whose_bounds_do_not_ascend_is_malformed_and_no_reset() {
    let mut bench = Bench::steady();
    let series = named("h", HISTOGRAM, "a");
    let point = HistogramDataPoint {
        explicit_bounds: vec![f64::NAN],
        bucket_counts: vec![1, 1],
        count: 2,
        ..Default::default()
    };
    bench.take(Sample::number(&series, START, START, Value::Histogram(Box::new(point))), START);
    bench.drain(START + SECOND);
    let malformed = DropReason::Malformed;
    let dropped = bench.ledger.read().signals[0].dropped.iter().find(|(name, _)| *name == malformed.name()).copied();
    assert_eq!((dropped, bench.balance()), (Some((malformed.name(), 1)), 0));
}

#[test]
fn points_leave_in_portions_in_one_order_and_wait_in_the_books_until_then() {
    let all = |bytes_max: usize| {
        let mut bench = Bench::steady();
        for n in 0..500 {
            let now = START + n;
            bench.take(gauge(&named(&format!("g{}", n % 7), Kind::Gauge, &format!("{n}")), now, 1.0), now);
        }
        bench.fold.drain(START + SECOND);
        let (mut portions, mut points) = (0, Vec::new());
        loop {
            let more = bench.fold.hand_out(START + SECOND, bytes_max, &mut bench.out);
            let waiting = bench.ledger.waiting(Signal::Metrics, Place::Freezer);
            points.extend(histogram_points(bench.data()).into_iter().map(|point| point.attributes));
            assert_eq!(points.len() + waiting as usize, 500);
            portions += 1;
            if !more {
                return (portions, points);
            }
        }
    };
    let (once, whole) = all(usize::MAX);
    let (portions, parts) = all(8 << 10);
    assert_eq!((once, whole), (1, parts));
    assert!(portions > 20, "{portions}");
}

#[test]
fn closed_windows_leave_only_after_a_checkpoint_without_them() {
    let mut bench = Bench::steady();
    bench.fold.hold_closed(true);
    let series = named("g", Kind::Gauge, "a");
    bench.tick(START);
    bench.take(gauge(&series, START, 1.0), START);
    bench.tick(START + 62 * SECOND);
    bench.fold.let_go();
    assert!(!bench.fold.hand_out(START + 62 * SECOND, 1, &mut bench.out) && bench.out.is_empty());
    let bytes = bench.fold.checkpoint(START + 62 * SECOND);
    let restored = Bench::steady().fold.restore(&bytes, START + 62 * SECOND).unwrap();
    assert_eq!(restored.points, 0);
    // Of the next window the checkpoint knows nothing.
    bench.take(gauge(&series, START + 63 * SECOND, 2.0), START + 63 * SECOND);
    bench.tick(START + 122 * SECOND);
    bench.fold.let_go();
    bench.leave(START + 122 * SECOND);
    assert_eq!(histogram_points(bench.data()).iter().map(|point| point.min).collect::<Vec<_>>(), [Some(1.0)]);
    bench.fold.hold_closed(false);
    bench.leave(START + 122 * SECOND);
    assert_eq!((histogram_points(bench.data()).len(), bench.fold.stats().closed), (1, 0));
}

#[test]
fn when_memory_is_short_windows_close_early_and_their_points_tile_time() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    for second in 0..60 {
        bench.take(gauge(&series, START + second * SECOND, second as f64), START + second * SECOND);
        if second == 19 {
            bench.fold.relieve(START + 20 * SECOND);
            assert_eq!(bench.fold.stats().windows, 0);
        }
    }
    bench.tick(START + 62 * SECOND);
    assert_eq!(bench.balance(), 0);
    let points = histogram_points(bench.data());
    let covered = |p: &HistogramDataPoint| {
        ((p.start_time_unix_nano - START) / SECOND, (p.time_unix_nano - START) / SECOND, p.count)
    };
    assert_eq!(points.iter().map(covered).collect::<Vec<_>>(), [(0, 20, 20), (20, 60, 40)]);
}

#[test]
fn relief_forgets_idle_levels_and_keeps_totals() {
    let mut bench = Bench::steady();
    bench.tick(START);
    for n in 0..2_000 {
        bench.take(gauge(&named("g", Kind::Gauge, &format!("{n}")), START, 1.0), START);
    }
    bench.take(total(&named("c", COUNTER, "a"), START, START, 5), START);
    let before = bench.fold.stats();
    let later = START + 200 * SECOND;
    bench.pass(START + SECOND, later);
    bench.take(gauge(&named("g", Kind::Gauge, "0"), later, 1.0), later);
    bench.fold.relieve(later);
    bench.leave(later);
    let after = bench.fold.stats();
    assert_eq!((before.series, after.series), (2_001, 2), "the one that came, and the total");
    assert!(after.bytes < before.bytes / 20, "{} of {}", after.bytes, before.bytes);
    bench.take(total(&named("c", COUNTER, "a"), START, later + SECOND, 9), later + SECOND);
    bench.data();
    bench.drain(later + 2 * SECOND);
    assert_eq!(sums(bench.data()), [4.0]);
}

#[test]
fn idle_series_go_as_soon_as_no_window_is_on_its_way_any_more() {
    let mut bench = Bench::steady();
    bench.tick(START);
    let (idle, other) = (named("g", Kind::Gauge, "idle"), named("g", Kind::Gauge, "other"));
    bench.take(gauge(&idle, START, 1.0), START);
    let looks = START + bench.fold.table.config().idle_ms * 1_000_000 + 60 * SECOND;
    bench.pass(START + 30 * SECOND, looks - 120 * SECOND);
    bench.fold.hold_closed(true);
    bench.take(gauge(&other, looks - 120 * SECOND, 1.0), looks - 120 * SECOND);
    bench.pass(looks - 90 * SECOND, looks);
    assert_eq!((bench.fold.stats().series, bench.fold.sheltered()), (2, 1));
    bench.fold.checkpoint(looks);
    bench.fold.let_go();
    bench.leave(looks);
    bench.tick(looks + SECOND);
    assert_eq!(bench.fold.stats().series, 1);
}

#[test]
fn while_memory_is_short_new_series_are_held_to_half_and_known_ones_stay() {
    let mut bench = Bench::new(Config { series_max: 10, first_window_ms: 0, ..Config::default() });
    let take = |bench: &mut Bench, label: usize| {
        bench.take(gauge(&named("g", Kind::Gauge, &format!("{label}")), START, 1.0), START);
        bench.fold.stats().overflowed
    };
    (0..7).for_each(|label| assert_eq!(take(&mut bench, label), 0));
    bench.fold.tighten(true);
    assert_eq!((take(&mut bench, 3), take(&mut bench, 8)), (0, 1));
    bench.fold.tighten(false);
    assert_eq!((take(&mut bench, 8), take(&mut bench, 9)), (1, 1));
}

#[test]
fn a_series_past_the_limit_is_rewritten_once_until_room_may_have_come() {
    let mut bench = Bench::new(Config { series_max: 1, first_window_ms: 0, ..Config::default() });
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    bench.fold.rewrite_with(Box::new(move |_| {
        counter.fetch_add(1, Relaxed);
        None
    }));
    bench.tick(START);
    for _ in 0..100 {
        for label in ["a", "b"] {
            bench.take(gauge(&named("g", Kind::Gauge, label), START, 1.0), START);
        }
    }
    assert_eq!((asked.load(Relaxed), bench.fold.stats().overflowed), (2, 100));
    bench.tick(START + 62 * SECOND);
    bench.take(gauge(&named("g", Kind::Gauge, "b"), START + 62 * SECOND, 1.0), START + 62 * SECOND);
    assert_eq!(asked.load(Relaxed), 3);
}
