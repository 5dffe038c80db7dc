//! Folding as sentences: exactness, windows, limits, books.

mod clock;
mod constant;
mod limits;
mod rules;

use super::*;
use ollystack_record::otlp::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, SummaryDataPoint,
    exponential_histogram_data_point::Buckets, metric::Data,
};
use ollystack_record::{Kind, Metric, ReducedRecords, Scope, Value, value};
use ollystack_schema::names::{FOLD, FOLD_GAUGE, OVERFLOW};
use proptest::prelude::*;

pub(crate) const SECOND: u64 = 1_000_000_000;
/// A whole minute, so that windows are easy to count.
pub(crate) const START: u64 = 1_700_000_040 * SECOND;

pub(crate) struct Bench {
    pub(crate) fold: Fold,
    pub(crate) ledger: Arc<Ledger>,
    resource: Arc<Resource>,
    pub(crate) out: Vec<Reduced>,
}

impl Bench {
    pub(crate) fn new(config: Config) -> Bench {
        let ledger = Arc::new(Ledger::default());
        let fold = Fold::new(config, Arc::clone(&ledger));
        Bench { fold, ledger, resource: Arc::new(Resource::default()), out: Vec::new() }
    }

    /// Without the short first window, so that windows are whole.
    pub(crate) fn steady() -> Bench {
        Bench::new(Config { first_window_ms: 0, ..Config::default() })
    }

    pub(crate) fn take(&mut self, sample: Sample, now: u64) {
        self.ledger.seen(Signal::Metrics, 1);
        self.fold.take(Source::Host, &self.resource, vec![sample], now);
    }

    /// Let time pass as it does: in ticks.
    pub(crate) fn pass(&mut self, from: u64, to: u64) {
        (from..=to).step_by(30 * SECOND as usize).for_each(|now| self.tick(now));
    }

    pub(crate) fn tick(&mut self, now: u64) {
        self.fold.tick(now);
        self.leave(now);
    }

    pub(crate) fn drain(&mut self, now: u64) {
        self.fold.drain(now);
        self.leave(now);
    }

    fn leave(&mut self, now: u64) {
        while self.fold.hand_out(now, 256 << 10, &mut self.out) {}
    }

    pub(crate) fn data(&mut self) -> Vec<Data> {
        let batches = std::mem::take(&mut self.out);
        let metrics = batches.into_iter().flat_map(|reduced| match reduced.records {
            ReducedRecords::Metrics(resource) => resource.scope_metrics,
            _ => Vec::new(),
        });
        metrics.flat_map(|scope| scope.metrics).filter_map(|metric| metric.data).collect()
    }

    /// What left, entered as sent, must close the books.
    pub(crate) fn balance(&self) -> i64 {
        let sent: u64 = self.out.iter().map(|reduced| reduced.records.count()).sum();
        self.ledger.sent(Signal::Metrics, sent);
        self.ledger.read().signals[0].balance()
    }
}

pub(crate) fn series(kind: Kind) -> Arc<Series> {
    named("m", kind, "a")
}

pub(crate) fn named(name: &str, kind: Kind, label: &str) -> Arc<Series> {
    let metric = Metric { name: name.into(), unit: "1".into(), kind, ..Metric::default() };
    Arc::new(Series::new(Arc::new(Scope::default()), Arc::new(metric), vec![value::string("label", label)]))
}

pub(crate) fn gauge(series: &Arc<Series>, time: u64, value: f64) -> Sample {
    Sample::number(series, 0, time, Value::Double(value))
}

pub(crate) fn total(series: &Arc<Series>, start: u64, time: u64, value: i64) -> Sample {
    Sample::number(series, start, time, Value::Int(value))
}

pub(crate) fn histogram_points(data: Vec<Data>) -> Vec<HistogramDataPoint> {
    let points = data.into_iter().flat_map(|data| match data {
        Data::Histogram(histogram) => histogram.data_points,
        other => panic!("expected a histogram, got {other:?}"),
    });
    points.collect()
}

pub(crate) fn sums(data: Vec<Data>) -> Vec<f64> {
    let points = data.into_iter().flat_map(|data| match data {
        Data::Sum(sum) => sum.data_points,
        other => panic!("expected a sum, got {other:?}"),
    });
    points
        .map(|point| match point.value {
            Some(ollystack_record::otlp::metrics::v1::number_data_point::Value::AsInt(value)) => value as f64,
            Some(ollystack_record::otlp::metrics::v1::number_data_point::Value::AsDouble(value)) => value,
            None => f64::NAN,
        })
        .collect()
}

/// The descriptions that left, each with its metric.
fn descriptions(bench: &mut Bench) -> Vec<(String, String)> {
    let batches = std::mem::take(&mut bench.out);
    let metrics = batches.into_iter().flat_map(|reduced| match reduced.records {
        ReducedRecords::Metrics(resource) => resource.scope_metrics,
        _ => Vec::new(),
    });
    metrics.flat_map(|scope| scope.metrics).map(|metric| (metric.name, metric.description)).collect()
}

#[test]
fn a_description_goes_with_a_metrics_first_point_and_then_once_an_hour() {
    let mut bench = Bench::steady();
    let described = |name: &str, label: &str| {
        let metric = Metric { name: name.into(), description: format!("{name}?"), ..Metric::default() };
        Arc::new(Series::new(Arc::default(), Arc::new(metric), vec![value::string("label", label)]))
    };
    let (first, other) = (described("a", "1"), described("b", "1"));
    let mut told = Vec::new();
    bench.tick(START);
    for minute in 0..62 {
        let now = START + minute * 60 * SECOND;
        bench.take(gauge(&first, now, minute as f64), now);
        if minute >= 2 {
            bench.take(gauge(&other, now, minute as f64), now);
        }
        bench.tick(now + 62 * SECOND);
        for (name, description) in descriptions(&mut bench) {
            assert!(description.is_empty() || description == format!("{name}?"));
            told.extend((!description.is_empty()).then_some((minute, name)));
        }
    }
    assert_eq!(told, [(0, "a".into()), (2, "b".into()), (60, "a".into())]);
}

#[test]
fn a_level_that_did_not_move_needs_no_last_value_beside_its_extremes() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    [0, 1].into_iter().for_each(|second| bench.take(gauge(&series, START + second * SECOND, 3.0), START));
    bench.tick(START + 62 * SECOND);
    let point = &histogram_points(bench.data())[0];
    assert_eq!((point.count, point.min, point.max, point.exemplars.len()), (2, Some(3.0), Some(3.0), 0));
}

#[test]
fn sixty_samples_of_a_gauge_become_one_point_with_its_extremes_and_its_last() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    for second in 0..60 {
        bench.take(gauge(&series, START + second * SECOND, second as f64), START + second * SECOND);
    }
    bench.tick(START + 61 * SECOND);
    assert!(bench.out.is_empty(), "the grace has not passed");
    bench.tick(START + 62 * SECOND);
    let points = histogram_points(bench.data());
    assert_eq!(points.len(), 1);
    let point = &points[0];
    assert_eq!((point.count, point.sum, point.min, point.max), (60, Some(1770.0), Some(0.0), Some(59.0)));
    assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (START, START + 60 * SECOND));
    assert_eq!(point.exemplars[0].time_unix_nano, START + 59 * SECOND);
    let reading = &bench.ledger.read().signals[0];
    assert_eq!((reading.folded, reading.waiting_total()), (59, 0));
}

#[test]
fn the_first_window_closes_early_and_the_rest_of_it_is_a_point_of_its_own() {
    let mut bench = Bench::new(Config::default());
    let series = series(Kind::Gauge);
    for second in 10..70 {
        let now = START + second * SECOND;
        bench.take(gauge(&series, now, second as f64), now);
        bench.tick(now);
    }
    bench.tick(START + 130 * SECOND);
    let spans: Vec<(u64, u64, u64)> = histogram_points(bench.data())
        .iter()
        .map(|p| ((p.start_time_unix_nano - START) / SECOND, (p.time_unix_nano - START) / SECOND, p.count))
        .collect();
    assert_eq!(spans, vec![(0, 15, 6), (15, 60, 44), (60, 120, 10)]);
}

#[test]
fn a_counter_goes_out_as_its_increase_across_resets() {
    let mut bench = Bench::steady();
    let series = series(Kind::Sum { monotonic: true, delta: false });
    bench.tick(START);
    for (second, value) in [(0, 100), (10, 130), (20, 5), (30, 6)] {
        let time = START + second * SECOND;
        bench.take(total(&series, 1, time, value), time);
    }
    bench.tick(START + 120 * SECOND);
    assert_eq!(sums(bench.data()), vec![36.0], "30 before the reset, 5 and 1 after it");
}

#[test]
fn a_sample_that_comes_late_makes_a_point_in_its_own_window() {
    let mut bench = Bench::steady();
    let series = series(Kind::Sum { monotonic: true, delta: true });
    bench.tick(START);
    bench.take(total(&series, 0, START + SECOND, 1), START + SECOND);
    bench.tick(START + 62 * SECOND);
    bench.take(total(&series, 0, START + 2 * SECOND, 5), START + 70 * SECOND);
    bench.tick(START + 121 * SECOND);
    assert_eq!(sums(bench.data()), vec![1.0], "what is late leaves with the next windows");
    bench.tick(START + 122 * SECOND);
    assert_eq!(sums(bench.data()), vec![5.0]);
}

#[test]
fn what_comes_at_once_from_more_windows_than_may_be_open_is_counted_all_the_same() {
    let mut bench = Bench::steady();
    let now = START + 3_600 * SECOND;
    let (delta, counter) = (
        named("delta", Kind::Sum { monotonic: true, delta: true }, "a"),
        series(Kind::Sum { monotonic: true, delta: false }),
    );
    let spans = named("spans", Kind::ExponentialHistogram { delta: true }, "a");
    bench.tick(START);
    for minute in 0..20 {
        let time_unix_nano = START + minute * 60 * SECOND;
        bench.take(total(&delta, 0, time_unix_nano, 1), now);
        bench.take(total(&counter, START, time_unix_nano, minute as i64), now);
        let measurement = Measurement { value: 0.5, time_unix_nano, trace_id: &[], span_id: &[] };
        bench.fold.observe(&Arc::default(), &spans, &measurement, now);
    }
    bench.drain(now + SECOND);
    assert_eq!((bench.balance(), bench.ledger.read().signals[0].dropped_total()), (0, 0));
    let (numbers, histograms): (Vec<_>, Vec<_>) =
        bench.data().into_iter().partition(|data| matches!(data, Data::Sum(_)));
    assert_eq!(sums(numbers).iter().sum::<f64>(), 20.0 + 19.0);
    let counts = histograms.into_iter().flat_map(|data| match data {
        Data::ExponentialHistogram(histogram) => histogram.data_points,
        other => panic!("expected an exponential histogram, got {other:?}"),
    });
    assert_eq!(counts.map(|point| point.count).sum::<u64>(), 20);
}

#[test]
fn impossible_times_and_clock_steps_neither_lose_nor_stall() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    for time in [0, u64::MAX, START + 365 * 86_400 * SECOND, START] {
        bench.take(gauge(&series, time, 1.0), START);
    }
    // The clock was an hour ahead when these came, and is set back.
    bench.take(gauge(&series, START + 3_600 * SECOND, 1.0), START + 3_600 * SECOND);
    bench.tick(START + 62 * SECOND);
    let counts: u64 = histogram_points(bench.data()).iter().map(|point| point.count).sum();
    assert_eq!(counts, 5);
    assert_eq!(bench.fold.stats().windows, 0);
}

#[test]
fn past_the_limit_levels_go_to_the_overflow_series_and_totals_are_dropped_and_counted() {
    let mut bench = Bench::new(Config { series_max: 2, first_window_ms: 0, ..Config::default() });
    bench.tick(START);
    for label in ["a", "b", "c", "d"] {
        bench.take(gauge(&named("g", Kind::Gauge, label), START, 2.0), START);
    }
    let counter = named("c", Kind::Sum { monotonic: true, delta: false }, "e");
    bench.take(total(&counter, 1, START, 9), START);
    assert_eq!(bench.ledger.read().signals[0].dropped_total(), 1);
    bench.drain(START + SECOND);
    assert_eq!(bench.balance(), 0);
    let points = histogram_points(bench.data());
    let overflow: Vec<_> = points.iter().filter(|point| point.attributes[0].key == OVERFLOW).collect();
    assert_eq!((points.len(), overflow.len(), overflow[0].count, overflow[0].sum), (3, 1, 2, Some(4.0)));
}

#[test]
fn what_the_agent_measures_leaves_with_its_window_and_late_measurements_with_the_next() {
    let mut bench = Bench::steady();
    let series = series(Kind::ExponentialHistogram { delta: true });
    bench.tick(START);
    let measure = |bench: &mut Bench, time_unix_nano, now| {
        let measurement = Measurement { value: 0.5, time_unix_nano, trace_id: &[1; 16], span_id: &[2; 8] };
        bench.fold.observe(&Arc::default(), &series, &measurement, now);
    };
    let counts = |bench: &mut Bench| -> Vec<u64> {
        let points = bench.data().into_iter().flat_map(|data| match data {
            Data::ExponentialHistogram(histogram) => histogram.data_points,
            other => panic!("expected an exponential histogram, got {other:?}"),
        });
        points.map(|point| point.count).collect()
    };
    [1, 2, 3].into_iter().for_each(|second| measure(&mut bench, START + second * SECOND, START + second * SECOND));
    bench.tick(START + 62 * SECOND);
    assert_eq!(counts(&mut bench), vec![3]);
    measure(&mut bench, START + 4 * SECOND, START + 63 * SECOND);
    bench.tick(START + 122 * SECOND);
    assert_eq!(counts(&mut bench), vec![1]);
}

#[test]
fn one_input_past_its_own_limit_leaves_the_others_their_room() {
    let mut bench = Bench::new(Config { series_per_source_max: 1, first_window_ms: 0, ..Config::default() });
    for (source, label) in [(Source::Host, "a"), (Source::Host, "b"), (Source::Otlp, "c"), (Source::Otlp, "d")] {
        bench.fold.take(source, &Arc::default(), vec![gauge(&named("g", Kind::Gauge, label), START, 1.0)], START);
    }
    let stats = bench.fold.stats();
    assert_eq!((stats.series, stats.overflowed), (3, 2), "one each, and one that takes what overflows");
}

#[test]
fn histograms_with_other_bounds_do_not_mix() {
    let mut bench = Bench::steady();
    let series = series(Kind::Histogram { delta: true });
    bench.tick(START);
    for (bound, count) in [(1.0, 3), (2.0, 5), (1.0, 7)] {
        let point = HistogramDataPoint {
            count,
            explicit_bounds: vec![bound],
            bucket_counts: vec![count, 0],
            ..HistogramDataPoint::default()
        };
        let value = Value::Histogram(Box::new(point));
        bench.take(Sample::number(&series, 0, START, value), START);
    }
    bench.drain(START + SECOND);
    let mut counts: Vec<u64> = histogram_points(bench.data()).iter().map(|point| point.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, vec![5, 10]);
}

#[test]
fn an_idle_series_is_forgotten_and_gives_its_room_back() {
    let mut bench = Bench::new(Config { series_max: 1, first_window_ms: 0, ..Config::default() });
    bench.tick(START);
    bench.take(gauge(&named("g", Kind::Gauge, "a"), START, 1.0), START);
    let later = START + 2_000 * SECOND;
    bench.pass(START, later + 61 * SECOND);
    assert_eq!(bench.fold.stats().series, 0);
    bench.take(gauge(&named("g", Kind::Gauge, "b"), later, 1.0), later + 62 * SECOND);
    let stats = bench.fold.stats();
    assert_eq!((stats.series, stats.windows, stats.overflowed), (1, 1, 0));
}

#[test]
fn plain_gauges_are_sent_to_backends_that_insist() {
    let mut bench = Bench::new(Config { gauges: Gauges::Last, first_window_ms: 0, ..Config::default() });
    let series = series(Kind::Gauge);
    bench.tick(START);
    bench.take(gauge(&series, START, 1.0), START);
    bench.take(gauge(&series, START + SECOND, 7.0), START + SECOND);
    bench.drain(START + 2 * SECOND);
    let data = bench.data();
    let Data::Gauge(gauge) = &data[0] else { panic!("expected a gauge, got {data:?}") };
    let seven = ollystack_record::otlp::metrics::v1::number_data_point::Value::AsDouble(7.0);
    assert_eq!(gauge.data_points[0].value, Some(seven));
}

#[test]
fn a_counter_that_wobbles_is_neither_reset_nor_counted_twice_on_its_way_back_up() {
    // The kernel's own per-CPU times (iowait) go back a little at times.
    let mut bench = Bench::steady();
    let series = series(Kind::Sum { monotonic: true, delta: false });
    bench.tick(START);
    for (second, value) in [(0, 50_000.0), (1, 50_000.5), (2, 50_000.25), (3, 50_001.0)] {
        let time = START + second * SECOND;
        bench.take(Sample::number(&series, 1, time, Value::Double(value)), time);
    }
    bench.tick(START + 120 * SECOND);
    assert_eq!(sums(bench.data()), vec![1.0]);
}

#[test]
fn a_gauge_that_is_not_a_number_does_not_spoil_its_window() {
    let mut bench = Bench::steady();
    let series = series(Kind::Gauge);
    bench.tick(START);
    for (second, value) in [(0, 1.0), (1, f64::NAN), (2, 3.0)] {
        bench.take(gauge(&series, START + second * SECOND, value), START + second * SECOND);
    }
    bench.tick(START + 120 * SECOND);
    let points = histogram_points(bench.data());
    assert_eq!((points[0].count, points[0].sum, points[0].max), (2, Some(4.0), Some(3.0)));
}

#[test]
fn a_counter_that_began_before_the_first_look_counts_in_full_if_the_agent_was_there() {
    for (begins, expected) in [(true, 100.0), (false, 0.0)] {
        let mut bench = Bench::steady();
        if begins {
            bench.fold.begin(START);
        }
        let series = series(Kind::Sum { monotonic: true, delta: false });
        bench.take(total(&series, START + 1, START + SECOND, 100), START + SECOND);
        bench.tick(START + 120 * SECOND);
        assert_eq!(sums(bench.data()).iter().sum::<f64>(), expected);
    }
}

#[test]
fn a_counter_that_was_forgotten_is_not_counted_again_when_it_returns() {
    let mut bench = Bench::steady();
    let series = series(Kind::Sum { monotonic: true, delta: false });
    bench.tick(START);
    // It began under our eyes, so all of it counts.
    bench.take(total(&series, START, START + SECOND, 100), START + SECOND);
    let later = START + 2_000 * SECOND;
    bench.pass(START, later);
    assert_eq!(bench.fold.stats().series, 0);
    bench.take(total(&series, START, later, 103), later);
    bench.take(total(&series, START, later + SECOND, 105), later + SECOND);
    bench.tick(later + 120 * SECOND);
    assert_eq!(sums(bench.data()).iter().sum::<f64>(), 102.0, "what grew while it was forgotten is not known");
}

#[test]
fn points_that_come_mixed_leave_grouped_by_resource_scope_and_metric() {
    let mut bench = Bench::steady();
    let scope = |name: &str| {
        let mut scope = Scope::default();
        scope.proto.name = name.into();
        Arc::new(scope)
    };
    for round in 0..3 {
        for (scope, name) in [("s1", "a"), ("s2", "a"), ("s1", "b")].map(|(name, metric)| (scope(name), metric)) {
            let metric = Arc::new(Metric { name: name.into(), ..Metric::default() });
            let series = Arc::new(Series::new(scope, metric, vec![value::int("round", round)]));
            for resource in ["r1", "r2"] {
                let resource = Arc::new(Resource::new(vec![value::string("host.name", resource)]));
                bench.ledger.seen(Signal::Metrics, 1);
                bench.fold.take(Source::Otlp, &resource, vec![gauge(&series, START, 1.0)], START);
            }
        }
    }
    bench.drain(START + SECOND);
    assert_eq!(bench.balance(), 0);
    let shapes = bench.out.iter().map(|reduced| match &reduced.records {
        ReducedRecords::Metrics(resource) => {
            let scopes = resource.scope_metrics.iter();
            scopes.map(|scope| scope.metrics.iter().map(|metric| metric.name.as_str()).collect()).collect()
        }
        _ => Vec::new(),
    });
    assert_eq!(shapes.collect::<Vec<Vec<Vec<&str>>>>(), vec![vec![vec!["a", "b"], vec!["a"]]; 2]);
}

#[test]
fn what_an_application_says_of_a_metric_leaves_with_it_but_not_under_our_key() {
    let mut bench = Bench::steady();
    let metadata = vec![value::string(FOLD, "theirs"), value::string("k", "v")];
    let metric = Metric { name: "m".into(), metadata, ..Metric::default() };
    let series = Arc::new(Series::new(Arc::default(), Arc::new(metric), Vec::new()));
    bench.take(gauge(&series, START, 1.0), START);
    bench.drain(START + SECOND);
    let ReducedRecords::Metrics(resource) = &bench.out[0].records else { panic!() };
    let expected = vec![value::string("k", "v"), value::string(FOLD, FOLD_GAUGE)];
    assert_eq!(resource.scope_metrics[0].metrics[0].metadata, expected);
}

#[test]
fn a_summary_passes_through_the_newest_of_a_window() {
    let mut bench = Bench::steady();
    let series = series(Kind::Summary);
    for (second, count) in [(0, 5), (20, 9), (10, 7)] {
        let summary = SummaryDataPoint { count, ..SummaryDataPoint::default() };
        let time = START + second * SECOND;
        bench.take(Sample::number(&series, 0, time, Value::Summary(Box::new(summary))), START + 20 * SECOND);
    }
    bench.drain(START + 21 * SECOND);
    let data = bench.data();
    let [Data::Summary(summary)] = &data[..] else { panic!("expected a summary, got {data:?}") };
    let point = &summary.data_points[0];
    assert_eq!((summary.data_points.len(), point.count, point.time_unix_nano), (1, 9, START + 20 * SECOND));
}

#[test]
fn exponential_histograms_of_any_scale_become_one() {
    let mut bench = Bench::steady();
    let series = series(Kind::ExponentialHistogram { delta: true });
    for (scale, offset) in [(3, 8), (25, 1 << 25), (-11, 0), (1, 2)] {
        let positive = Some(Buckets { offset, bucket_counts: vec![1, 2] });
        let point = ExponentialHistogramDataPoint { count: 3, scale, positive, ..Default::default() };
        bench.take(Sample::number(&series, 0, START, Value::ExponentialHistogram(Box::new(point))), START);
    }
    bench.drain(START + SECOND);
    let data = bench.data();
    let [Data::ExponentialHistogram(histogram)] = &data[..] else { panic!("expected a histogram, got {data:?}") };
    let point = &histogram.data_points[0];
    let buckets: u64 = point.positive.iter().flat_map(|side| &side.bucket_counts).sum();
    assert_eq!((histogram.data_points.len(), point.count, buckets, point.scale), (1, 12, 12, -10));
}

proptest! {
    #[test]
    fn folding_is_exact_and_the_books_close(samples in prop::collection::vec((0u64..200, 0usize..3, -1e6f64..1e6), 1..300)) {
        let mut bench = Bench::steady();
        let all: Vec<Arc<Series>> = ["a", "b", "c"].iter().map(|label| named("g", Kind::Gauge, label)).collect();
        let mut now = START;
        for (second, which, value) in &samples {
            let time = START + second * SECOND;
            now = now.max(time);
            bench.take(gauge(&all[*which], time, *value), now);
            bench.tick(now);
        }
        bench.drain(now);
        prop_assert_eq!(bench.balance(), 0);
        let points = histogram_points(bench.data());
        for (which, label) in ["a", "b", "c"].iter().enumerate() {
            let mine: Vec<_> =
                points.iter().filter(|p| value::string_attribute(&p.attributes, "label") == Some(label)).collect();
            let values: Vec<f64> = samples.iter().filter(|s| s.1 == which).map(|s| s.2).collect();
            prop_assert_eq!(mine.iter().map(|p| p.count).sum::<u64>(), values.len() as u64);
            let (sum, exact): (f64, f64) = (mine.iter().filter_map(|p| p.sum).sum(), values.iter().sum());
            prop_assert!((sum - exact).abs() <= 1e-6 * (1.0 + values.iter().map(|v| v.abs()).sum::<f64>()));
            let min = mine.iter().filter_map(|p| p.min).fold(f64::INFINITY, f64::min);
            prop_assert_eq!(min, values.iter().copied().fold(f64::INFINITY, f64::min));
        }
    }

    #[test]
    fn increases_add_up_to_the_last_total_whatever_the_order_of_arrival(steps in prop::collection::vec((0u64..50, -3i64..60), 1..100)) {
        let mut bench = Bench::steady();
        let series = series(Kind::Sum { monotonic: true, delta: false });
        bench.tick(START);
        let (mut time, mut last) = (START, 0);
        bench.take(total(&series, START, time, 0), time);
        for (step, change) in steps {
            time += SECOND;
            last += step as i64;
            // Some samples arrive with an older time and an older total.
            if change < 0 {
                bench.take(total(&series, START, time - 2 * SECOND, (last - step as i64).max(0)), time);
            }
            bench.take(total(&series, START, time, last), time);
        }
        bench.drain(time);
        prop_assert_eq!(bench.balance(), 0);
        prop_assert_eq!(sums(bench.data()).iter().sum::<f64>(), last as f64);
    }
}
