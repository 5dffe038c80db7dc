//! What does not move, as sentences.

use super::*;
use ollystack_record::otlp::metrics::v1::number_data_point;

const CONSTANT: u64 = 240;
const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };

/// Start and end in seconds since [`START`], and count.
fn covered(points: &[HistogramDataPoint]) -> Vec<(u64, u64, u64)> {
    let seconds = |nanos: u64| (nanos - START) / SECOND;
    points.iter().map(|p| (seconds(p.start_time_unix_nano), seconds(p.time_unix_nano), p.count)).collect()
}

/// Ten-second samples of a gauge, with ticks between them.
fn feed(bench: &mut Bench, series: &Arc<Series>, seconds: std::ops::Range<u64>, value: f64) {
    for second in seconds.step_by(10) {
        let now = START + second * SECOND;
        bench.tick(now);
        bench.take(gauge(series, now, value), now);
    }
}

#[test]
fn a_constant_is_sent_at_once_then_once_in_its_time_and_its_points_tile_it() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    feed(&mut bench, &series, 0..600, 7.5);
    assert_eq!(bench.ledger.read().signals[0].suppressed, 6, "three of each run of four");
    bench.drain(START + 600 * SECOND);
    assert_eq!(bench.balance(), 0);
    let points = histogram_points(bench.data());
    assert_eq!(covered(&points), vec![(0, 60, 6), (60, 60 + CONSTANT, 24), (300, 540, 24), (540, 600, 6)]);
    assert!(points.iter().all(|p| p.sum == Some(7.5 * p.count as f64) && (p.min, p.max) == (Some(7.5), Some(7.5))));
}

#[test]
fn a_change_sends_what_was_held_and_then_itself() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    feed(&mut bench, &series, 0..190, 1.0);
    feed(&mut bench, &series, 190..240, 2.0);
    bench.tick(START + 242 * SECOND);
    let points = histogram_points(bench.data());
    assert_eq!(covered(&points), vec![(0, 60, 6), (60, 180, 12), (180, 240, 6)]);
    assert_eq!((points[2].min, points[2].max), (Some(1.0), Some(2.0)));
    assert_eq!(bench.fold.stats().windows, 0);
}

#[test]
fn a_gap_is_not_covered_and_what_comes_after_it_is_sent_at_once() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    feed(&mut bench, &series, 0..170, 1.0);
    bench.tick(START + 241 * SECOND);
    assert_eq!(covered(&histogram_points(bench.data())), vec![(0, 60, 6)], "the next window may still have samples");
    bench.tick(START + 242 * SECOND);
    assert_eq!(covered(&histogram_points(bench.data())), vec![(60, 180, 11)]);
    feed(&mut bench, &series, 360..420, 1.0);
    bench.tick(START + 422 * SECOND);
    assert_eq!(covered(&histogram_points(bench.data())), vec![(360, 420, 6)]);
}

#[test]
fn totals_that_stand_still_are_held_back_numbers_and_histograms_alike() {
    let mut bench = Bench::steady();
    let number = named("number", COUNTER, "a");
    let histogram = named("histogram", Kind::Histogram { delta: false }, "a");
    bench.tick(START);
    for second in (0..420).step_by(10) {
        let now = START + second * SECOND;
        bench.tick(now);
        let moved = second >= 400;
        bench.take(total(&number, 1, now, 100 + i64::from(moved)), now);
        let count = 5 + u64::from(moved);
        let point = HistogramDataPoint {
            count,
            explicit_bounds: vec![1.0],
            bucket_counts: vec![count, 0],
            ..HistogramDataPoint::default()
        };
        bench.take(Sample::number(&histogram, 1, now, Value::Histogram(Box::new(point))), now);
    }
    bench.tick(START + 422 * SECOND);
    assert_eq!(bench.balance(), 0);
    let (numbers, histograms): (Vec<Data>, Vec<Data>) =
        bench.data().into_iter().partition(|data| matches!(data, Data::Sum(_)));
    assert_eq!(sums(numbers), vec![0.0, 0.0, 0.0, 1.0], "the first, the run of four, the run of one, the change");
    let points = histogram_points(histograms);
    assert_eq!(covered(&points), vec![(0, 60, 0), (60, 300, 0), (300, 360, 0), (360, 420, 1)]);
    assert!(points.iter().all(|p| p.explicit_bounds == vec![1.0] && p.bucket_counts == vec![p.count, 0]));
}

#[test]
fn plain_gauges_are_sent_as_rarely_with_the_time_of_their_last_sample() {
    let mut bench = Bench::new(Config { gauges: Gauges::Last, first_window_ms: 0, ..Config::default() });
    let series = series(Kind::Gauge);
    bench.tick(START);
    feed(&mut bench, &series, 0..360, 3.0);
    bench.drain(START + 360 * SECOND);
    let points = bench.data().into_iter().flat_map(|data| match data {
        Data::Gauge(gauge) => gauge.data_points,
        other => panic!("expected a gauge, got {other:?}"),
    });
    let told: Vec<_> = points.map(|point| ((point.time_unix_nano - START) / SECOND, point.value)).collect();
    let three = Some(number_data_point::Value::AsDouble(3.0));
    assert_eq!(told, vec![(50, three), (290, three), (350, three)]);
}

#[test]
fn nothing_is_held_back_when_it_is_turned_off_or_says_more_than_its_value() {
    let exemplar = Exemplar { time_unix_nano: START, ..Exemplar::default() };
    let missing = |series: &Arc<Series>, now| Sample::number(series, 0, now, Value::Missing);
    let told = |series: &Arc<Series>, now| {
        let mut sample = gauge(series, now, 1.0);
        sample.exemplars.push(exemplar.clone());
        sample
    };
    let plain = |series: &Arc<Series>, now| gauge(series, now, 1.0);
    type Make<'a> = &'a dyn Fn(&Arc<Series>, u64) -> Sample;
    let table: [(&str, u64, Make<'_>, u64); 4] = [
        ("off", 0, &plain, 5),
        ("on", 240_000, &plain, 2),
        ("missing", 240_000, &missing, 5),
        ("exemplar", 240_000, &told, 5),
    ];
    for (what, constant_ms, make, expected) in table {
        let mut bench = Bench::new(Config { constant_ms, first_window_ms: 0, ..Config::default() });
        let series = series(Kind::Gauge);
        bench.tick(START);
        for minute in 0..5 {
            let now = START + minute * 60 * SECOND;
            bench.take(make(&series, now), now);
            bench.tick(now + 62 * SECOND);
        }
        assert_eq!(bench.out.iter().map(|reduced| reduced.records.count()).sum::<u64>(), expected, "{what}");
    }
}

#[test]
fn a_sample_that_is_late_for_a_run_has_a_point_of_its_own() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    feed(&mut bench, &series, 0..190, 1.0);
    bench.take(gauge(&series, START + 70 * SECOND, 9.0), START + 190 * SECOND);
    feed(&mut bench, &series, 200..240, 1.0);
    bench.drain(START + 240 * SECOND);
    assert_eq!(bench.balance(), 0);
    let mut points = covered(&histogram_points(bench.data()));
    points.sort_unstable();
    assert_eq!(points, vec![(0, 60, 6), (60, 120, 1), (60, 240, 17)]);
}

proptest! {
    #[test]
    fn held_back_or_not_points_tile_time_and_counts_and_sums_are_exact(
        steps in prop::collection::vec((0u64..4, 1usize..30, prop::bool::weighted(0.2)), 1..30),
        constant_ms in prop::sample::select(vec![0u64, 60_000, 240_000]),
    ) {
        let mut bench = Bench::new(Config { constant_ms, ..Config::default() });
        let (level, counter) = (named("g", Kind::Gauge, "a"), named("c", COUNTER, "a"));
        let (mut now, mut sum, mut count, mut increase) = (START, 0.0, 0, 0);
        bench.take(total(&counter, 1, now, 0), now);
        let mut sampled = Vec::new();
        for (value, times, gap) in steps {
            now += if gap { 200 * SECOND } else { 0 };
            for _ in 0..times {
                now += 10 * SECOND;
                bench.tick(now);
                bench.take(gauge(&level, now, value as f64), now);
                increase += value as i64 / 3;
                bench.take(total(&counter, 1, now, increase), now);
                (sum, count) = (sum + value as f64, count + 1);
                sampled.push(now);
            }
        }
        bench.drain(now + SECOND);
        prop_assert_eq!(bench.balance(), 0);
        let (counters, levels): (Vec<Data>, Vec<Data>) =
            bench.data().into_iter().partition(|data| matches!(data, Data::Sum(_)));
        prop_assert_eq!(sums(counters).iter().sum::<f64>(), increase as f64);
        let mut points = histogram_points(levels);
        prop_assert_eq!(points.iter().map(|p| p.count).sum::<u64>(), count);
        prop_assert_eq!(points.iter().filter_map(|p| p.sum).sum::<f64>(), sum);
        points.sort_by_key(|p| p.start_time_unix_nano);
        prop_assert!(points.windows(2).all(|pair| pair[0].time_unix_nano <= pair[1].start_time_unix_nano), "{:?}", points);
        let covers = |time: u64| points.iter().any(|p| (p.start_time_unix_nano..p.time_unix_nano).contains(&time));
        prop_assert!(sampled.iter().all(|time| covers(*time)));
    }
}
