//! Rules and rewritten labels, as sentences.

use super::*;
use ollystack_record::value::string_attribute;

const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };

fn with(rule: Rule) -> Bench {
    Bench::new(Config { rules: vec![Rule { metric: "m*".into(), ..rule }], first_window_ms: 0, ..Config::default() })
}

fn without_label() -> Rule {
    Rule { drop_labels: vec!["label".into()], ..Rule::default() }
}

#[test]
fn a_metric_that_a_rule_drops_is_counted_as_suppressed() {
    let mut bench = with(Rule { drop: true, ..Rule::default() });
    bench.take(gauge(&named("m1", Kind::Gauge, "a"), START, 1.0), START);
    bench.take(gauge(&named("other", Kind::Gauge, "a"), START, 1.0), START);
    bench.drain(START + SECOND);
    assert_eq!((bench.balance(), bench.ledger.read().signals[0].suppressed), (0, 1));
    assert_eq!((histogram_points(bench.data()).len(), bench.fold.stats().series), (1, 1));
}

#[test]
fn gauges_alike_without_a_label_become_one_level() {
    let mut bench = with(without_label());
    bench.take(gauge(&named("m", Kind::Gauge, "a"), START, 1.0), START);
    bench.take(gauge(&named("m", Kind::Gauge, "b"), START + SECOND, 5.0), START + SECOND);
    bench.drain(START + 2 * SECOND);
    assert_eq!(bench.balance(), 0);
    let points = histogram_points(bench.data());
    assert_eq!((points.len(), points[0].attributes.len()), (1, 0));
    assert_eq!((points[0].count, points[0].min, points[0].max), (2, Some(1.0), Some(5.0)));
}

#[test]
fn only_the_labels_to_keep_stay() {
    let mut bench = with(Rule { keep_labels: vec!["label".into()], ..Rule::default() });
    let metric = Arc::new(Metric { name: "m".into(), ..Metric::default() });
    let labels = ["label", "other"].map(|key| value::string(key, "x")).to_vec();
    let series = Arc::new(Series::new(Arc::default(), metric, labels));
    bench.take(gauge(&series, START, 1.0), START);
    bench.take(gauge(&named("m", Kind::Gauge, "a"), START, 1.0), START);
    bench.drain(START + SECOND);
    let points = histogram_points(bench.data());
    assert!(points.iter().all(|point| point.attributes.len() == 1 && point.attributes[0].key == "label"));
    assert_eq!(points.len(), 2);
}

#[test]
fn a_metric_may_have_windows_of_its_own_length() {
    let mut bench = with(Rule { window_ms: Some(10_000), ..Rule::default() });
    let (short, long) = (named("m", Kind::Gauge, "a"), named("other", Kind::Gauge, "a"));
    bench.tick(START);
    for second in 0..60 {
        let now = START + second * SECOND;
        bench.tick(now);
        bench.take(gauge(&short, now, second as f64), now);
        bench.take(gauge(&long, now, second as f64), now);
    }
    assert_eq!(histogram_points(bench.data()).iter().map(|p| p.count).collect::<Vec<_>>(), vec![10; 5]);
    bench.tick(START + 62 * SECOND);
    assert_eq!(histogram_points(bench.data()).iter().map(|p| p.count).collect::<Vec<_>>(), vec![10, 60]);
}

#[test]
fn past_a_metric_s_own_limit_its_series_overflow_and_others_do_not() {
    let mut bench = with(Rule { series_max: Some(1), ..Rule::default() });
    for (name, label) in [("m", "a"), ("m", "b"), ("m", "c"), ("other", "a"), ("other", "b")] {
        bench.take(gauge(&named(name, Kind::Gauge, label), START, 1.0), START);
    }
    assert_eq!((bench.fold.stats().series, bench.fold.stats().overflowed), (4, 2));
    bench.drain(START + SECOND);
    let points = histogram_points(bench.data());
    let overflow = points.iter().find(|point| point.attributes[0].key == OVERFLOW).unwrap();
    assert_eq!(overflow.count, 2);
}

#[test]
fn one_metric_may_go_out_plain() {
    let mut bench = with(Rule { gauges: Some(Gauges::Last), ..Rule::default() });
    for name in ["m", "other"] {
        bench.take(gauge(&named(name, Kind::Gauge, "a"), START, 1.0), START);
    }
    bench.drain(START + SECOND);
    let data = bench.data();
    assert!(matches!(&data[..], [Data::Gauge(_), Data::Histogram(_)]), "{data:?}");
}

#[test]
fn a_series_goes_out_as_it_was_rewritten_and_is_asked_about_once() {
    let mut bench = Bench::steady();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    bench.fold.rewrite_with(Box::new(move |series: &Series| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let secret = string_attribute(series.attributes(), "label") == Some("secret");
        let labels = vec![value::string("label", "***")];
        secret.then(|| Series::new(Arc::clone(&series.scope), Arc::clone(&series.metric), labels))
    }));
    let series = ["secret", "plain"].map(|label| named("m", COUNTER, label));
    bench.tick(START);
    for second in 0..10 {
        let now = START + second * SECOND;
        series.iter().for_each(|series| bench.take(total(series, 1, now, second as i64), now));
    }
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2);
    bench.drain(START + 10 * SECOND);
    let points = bench.data().into_iter().flat_map(|data| match data {
        Data::Sum(sum) => sum.data_points,
        other => panic!("expected a sum, got {other:?}"),
    });
    let labels: Vec<_> = points.map(|point| string_attribute(&point.attributes, "label").unwrap().to_owned()).collect();
    assert_eq!(labels, ["***", "plain"]);
    let checkpoint = bench.fold.checkpoint(START + 10 * SECOND);
    assert!(!checkpoint.windows(6).any(|bytes| bytes == b"secret"), "what may not leave may not reach the disk");
}

#[test]
fn when_most_series_are_gone_their_memory_is_too_and_the_rest_goes_on() {
    let mut bench = with(without_label());
    let stays = [named("m", COUNTER, "a"), named("m", COUNTER, "b"), named("other", COUNTER, "c")];
    bench.tick(START);
    for n in 0..2_000 {
        let label = n.to_string();
        bench.take(gauge(&named("many alike", Kind::Gauge, &label), START, 1.0), START);
        bench.take(gauge(&named("others", Kind::Gauge, &label), START, 1.0), START);
        if n == 1_500 {
            stays.iter().for_each(|series| bench.take(total(series, 1, START, 0), START));
        }
    }
    let full = bench.fold.stats().table_bytes;
    for minute in 1..=20 {
        let now = START + minute * 60 * SECOND;
        bench.pass(now - 60 * SECOND, now - SECOND);
        stays.iter().for_each(|series| bench.take(total(series, 1, now, minute as i64), now));
    }
    assert_eq!(bench.fold.stats().series, 2);
    assert!(bench.fold.stats().table_bytes < full / 10, "{} of {full}", bench.fold.stats().table_bytes);
    bench.drain(START + 1_300 * SECOND);
    assert_eq!(bench.balance(), 0);
    let counters = bench.data().into_iter().filter(|data| matches!(data, Data::Sum(_))).collect();
    assert_eq!(sums(counters).iter().sum::<f64>(), 60.0);
}

#[test]
fn a_series_that_goes_out_as_another_is_forgotten_when_idle() {
    let mut bench = with(without_label());
    bench.tick(START);
    bench.take(total(&named("m", COUNTER, "a"), START, START, 5), START);
    let later = START + 2_000 * SECOND;
    bench.pass(START, later + 61 * SECOND);
    assert_eq!((bench.fold.stats().series, bench.fold.table.aliases().count()), (0, 0));
    // Its total comes back: what it counted before is not counted again.
    let now = later + 62 * SECOND;
    bench.out.clear();
    bench.take(total(&named("m", COUNTER, "a"), START, now, 7), now);
    bench.drain(now + SECOND);
    assert_eq!(sums(bench.data()), vec![0.0]);
}

proptest! {
    #[test]
    fn totals_are_told_apart_before_they_are_added_up(
        steps in prop::collection::vec((0usize..3, 0i64..50, prop::bool::weighted(0.1)), 1..100),
    ) {
        let mut bench = with(without_label());
        bench.tick(START);
        let series = ["a", "b", "c"].map(|label| named("m", COUNTER, label));
        let (mut totals, mut increase, mut now) = ([0, 1_000, 5], 0, START);
        series.iter().zip(totals).for_each(|(series, value)| bench.take(total(series, 1, now, value), now));
        for (which, step, reset) in steps {
            now += SECOND;
            // A reset shows by its start, since a total may have grown past what it was.
            let start = if reset { now } else { 1 };
            totals[which] = if reset { step } else { totals[which] + step };
            increase += step;
            bench.take(total(&series[which], start, now, totals[which]), now);
            bench.tick(now);
        }
        bench.drain(now + SECOND);
        prop_assert_eq!(bench.balance(), 0);
        prop_assert_eq!(bench.fold.stats().series, 1);
        prop_assert_eq!(sums(bench.data()).iter().sum::<f64>(), increase as f64);
    }
}
