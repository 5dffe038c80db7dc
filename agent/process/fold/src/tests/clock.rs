//! Clocks that step, as sentences.

use super::*;

const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };
const HOUR: u64 = 3_600 * SECOND;

/// Feed a constant gauge and a counter that grows by one each ten seconds for five minutes from `from`.
fn feed(bench: &mut Bench, from: u64, total_at_first: i64) {
    let (level, counter) = (named("g", Kind::Gauge, "a"), named("c", COUNTER, "a"));
    for step in 0..30 {
        let now = from + step * 10 * SECOND;
        bench.tick(now);
        bench.take(gauge(&level, now, 1.0), now);
        bench.take(total(&counter, 1, now, total_at_first + step as i64), now);
    }
}

#[test]
fn a_clock_set_back_or_forth_loses_nothing_and_stalls_nothing() {
    for (what, then) in [("back", START - HOUR), ("forth", START + HOUR), ("a year back", START - 8_760 * HOUR)] {
        let mut bench = Bench::steady();
        feed(&mut bench, START, 100);
        feed(&mut bench, then, 130);
        // Five minutes on the new clock are enough for all but the last windows to have left.
        bench.tick(then + 302 * SECOND);
        let counted = |bench: &mut Bench| {
            let sums = bench.out.iter().filter_map(|reduced| match &reduced.records {
                ReducedRecords::Metrics(resource) => Some(resource.clone()),
                _ => None,
            });
            let data = sums.flat_map(|resource| resource.scope_metrics).flat_map(|scope| scope.metrics);
            data.filter_map(|metric| match metric.data {
                Some(data @ Data::Sum(_)) => Some(super::sums(vec![data]).iter().sum::<f64>()),
                _ => None,
            })
            .sum::<f64>()
        };
        assert_eq!(counted(&mut bench), 59.0, "{what}");
        bench.drain(then + 303 * SECOND);
        assert_eq!(bench.balance(), 0, "{what}");
        let points = bench.data().into_iter().filter(|data| matches!(data, Data::Histogram(_))).collect();
        assert_eq!(histogram_points(points).iter().map(|point| point.count).sum::<u64>(), 60, "{what}");
    }
}

#[test]
fn a_series_that_began_after_the_clock_was_set_back_counts_in_full() {
    let mut bench = Bench::steady();
    bench.tick(START);
    let now = START - HOUR;
    bench.tick(now);
    bench.take(total(&series(COUNTER), now + SECOND, now + 2 * SECOND, 7), now + 2 * SECOND);
    bench.drain(now + 3 * SECOND);
    assert_eq!(sums(bench.data()), vec![7.0]);
}

#[test]
fn a_total_from_a_time_that_cannot_be_does_not_silence_its_counter() {
    let mut bench = Bench::steady();
    let counter = series(COUNTER);
    bench.tick(START);
    for (second, time, value) in
        [(0, START, 10), (1, u64::MAX, 12), (2, START + 2 * SECOND, 15), (3, 0, 16), (4, 0, 18)]
    {
        bench.take(total(&counter, 1, time, value), START + second * SECOND);
    }
    bench.drain(START + 5 * SECOND);
    assert_eq!(bench.balance(), 0);
    assert_eq!(sums(bench.data()), vec![8.0]);
}
