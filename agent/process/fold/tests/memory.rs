//! What folding says it holds, against a counting allocator, filled to its limit with whatever is worst.
//!
//! A test of its own, as nothing else may allocate beside it. Invariant: what is said is what is taken, and both are within the limit,
//! also while windows close and leave.

use ollystack_fold::{Config, Fold, Measurement};
use ollystack_record::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value as Any};
use ollystack_record::otlp::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, SummaryDataPoint,
    exponential_histogram_data_point::Buckets, summary_data_point::ValueAtQuantile,
};
use ollystack_record::{Kind, Ledger, Metric, Resource, Sample, Series, Source, Value, value};
use peak_alloc::PeakAlloc;
use std::sync::Arc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_040 * SECOND;
const LIMIT: usize = 1 << 20;
const PORTION: usize = 128 << 10;
/// Of a portion as OTLP, with all that its vectors grow by.
const PORTION_HEAP: usize = 3 * PORTION;
/// What the ledger and the folder itself take.
const SLACK: usize = 32 << 10;

type Make = fn(usize, u64) -> Sample;

fn series(name: &str, kind: Kind, labels: Vec<KeyValue>) -> Arc<Series> {
    let metric = Metric { name: name.into(), kind, ..Metric::default() };
    Arc::new(Series::new(Arc::default(), Arc::new(metric), labels))
}

fn label(n: usize) -> Vec<KeyValue> {
    vec![value::string("label", format!("series {n}"))]
}

fn sample(series: Arc<Series>, time: u64, value: Value) -> Sample {
    Sample { series, start_unix_nano: START, time_unix_nano: time, flags: 0, value, exemplars: Vec::new() }
}

fn level(n: usize, time: u64) -> Sample {
    sample(series("level", Kind::Gauge, label(n)), time, Value::Double(time as f64))
}

fn long_names(n: usize, time: u64) -> Sample {
    let name = format!("{n:05} {}", "x".repeat(4_000));
    sample(series(&name, Kind::Gauge, label(n)), time, Value::Double(time as f64))
}

fn many_labels(n: usize, time: u64) -> Sample {
    let labels = (0..100).map(|at| value::int(format!("{at}"), n as i64)).collect();
    sample(series("labels", Kind::Gauge, labels), time, Value::Double(time as f64))
}

/// A list in a list in a list.
fn deep(n: usize, time: u64) -> Sample {
    let mut inner = AnyValue { value: Some(Any::IntValue(n as i64)) };
    for _ in 0..60 {
        let mut values = Vec::with_capacity(4);
        values.push(inner);
        inner = AnyValue { value: Some(Any::ArrayValue(ArrayValue { values })) };
    }
    let labels = vec![KeyValue { key: "deep".into(), value: Some(inner), ..KeyValue::default() }];
    sample(series("deep", Kind::Gauge, labels), time, Value::Double(time as f64))
}

fn cumulative(n: usize, time: u64) -> Sample {
    let each = (time - START) / SECOND + 1;
    let point = HistogramDataPoint {
        count: 300 * each,
        explicit_bounds: (1..300).map(f64::from).collect(),
        bucket_counts: vec![each; 300],
        ..HistogramDataPoint::default()
    };
    sample(series("cumulative", Kind::Histogram { delta: false }, label(n)), time, Value::Histogram(Box::new(point)))
}

/// Every series with bounds of its own.
fn own_bounds(n: usize, time: u64) -> Sample {
    let explicit_bounds = (0..100).map(|bound| n as f64 + f64::from(bound) / 1_000.0).collect();
    let bucket_counts = vec![1; 101];
    let point = HistogramDataPoint { count: 101, explicit_bounds, bucket_counts, ..HistogramDataPoint::default() };
    sample(series("bounds", Kind::Histogram { delta: true }, label(n)), time, Value::Histogram(Box::new(point)))
}

fn exponential(n: usize, time: u64) -> Sample {
    let buckets = |offset| Some(Buckets { offset, bucket_counts: vec![1; 300] });
    let (positive, negative) = (buckets((time % 977) as i32), buckets(-500));
    let point = ExponentialHistogramDataPoint { count: 600, scale: 6, positive, negative, ..Default::default() };
    let kind = Kind::ExponentialHistogram { delta: true };
    sample(series("exponential", kind, label(n)), time, Value::ExponentialHistogram(Box::new(point)))
}

fn summary(n: usize, time: u64) -> Sample {
    let quantile_values = vec![ValueAtQuantile::default(); 500];
    let point = SummaryDataPoint { quantile_values, ..SummaryDataPoint::default() };
    sample(series("summary", Kind::Summary, label(n)), time, Value::Summary(Box::new(point)))
}

fn exemplars(n: usize, time: u64) -> Sample {
    let exemplar = Exemplar {
        filtered_attributes: vec![value::string("text", "x".repeat(1_500))],
        time_unix_nano: time,
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        ..Exemplar::default()
    };
    let kind = Kind::Sum { monotonic: true, delta: true };
    let mut sample = sample(series("exemplars", kind, label(n)), time, Value::Int(1));
    sample.exemplars = vec![exemplar];
    sample
}

/// As a sender without a clock has them: a window for each.
fn any_time(n: usize, time: u64) -> Sample {
    level(n, START - (time % 13) * 60 * SECOND)
}

#[test]
fn what_is_held_is_counted_and_within_its_limit_whatever_comes() {
    samples();
    measurements();
}

fn samples() {
    let all: [(&str, Make); 11] = [
        ("level", level),
        ("long names", long_names),
        ("many labels", many_labels),
        ("deep", deep),
        ("cumulative", cumulative),
        ("own bounds", own_bounds),
        ("exponential", exponential),
        ("summary", summary),
        ("exemplars", exemplars),
        ("any time", any_time),
        ("late", |n, time| level(n, time - 50 * SECOND)),
    ];
    for (what, make) in all {
        let mut fullest = 0;
        let before = HEAP.current_usage();
        let mut fold = Fold::new(Config { bytes_max: LIMIT, ..Config::default() }, Arc::new(Ledger::default()));
        let mut weigh = |fold: &Fold, when: &str| {
            let (held, said) = (HEAP.current_usage() - before, fold.stats().bytes);
            assert!(said <= LIMIT, "{what}, {when}: says {said} of {LIMIT}");
            let off = SLACK + held * 15 / 100;
            assert!(held.abs_diff(said) <= off, "{what}, {when}: holds {held}, says {said}");
            fullest = fullest.max(said);
        };
        let resource = Arc::new(Resource::new(vec![value::string("host.name", "a")]));
        let mut now = START;
        for round in 0..4_u64 {
            // Past one closing: windows open, close and leave.
            now = START + round * 25 * SECOND;
            for n in 0..2_500 {
                fold.take(Source::Otlp, &resource, vec![make(n, now + round)], now);
                if n % 250 == 0 {
                    weigh(&fold, "taken");
                }
            }
            fold.tick(now);
            weigh(&fold, "closed");
            leave(&mut fold, now, what);
        }
        fold.relieve(now);
        leave(&mut fold, now, what);
        weigh(&fold, "relieved");
        assert!(fullest > LIMIT * 3 / 4, "{what}: {fullest} of {LIMIT}, the limit was not reached");
    }
}

fn leave(fold: &mut Fold, now: u64, what: &str) {
    let mut more = true;
    while more {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let mut out = Vec::new();
        more = fold.hand_out(now, PORTION, &mut out);
        let portion = HEAP.peak_usage() - before;
        assert!(portion <= PORTION_HEAP, "{what}: a portion of {portion} bytes");
    }
}

fn measurements() {
    let before = HEAP.current_usage();
    let mut fold = Fold::new(Config { bytes_max: LIMIT, ..Config::default() }, Arc::new(Ledger::default()));
    let spans: Vec<_> = (0..400).map(|n| series("s", Kind::ExponentialHistogram { delta: true }, label(n))).collect();
    let shared = HEAP.current_usage() - before;
    for n in 0..100_000_u64 {
        let value = 0.000_001 * (1.0 + (n * n % 1_000_003) as f64).powi(2);
        let measurement = Measurement { value, time_unix_nano: START, trace_id: &[1; 16], span_id: &[2; 8] };
        fold.observe(&Arc::default(), &spans[n as usize % 400], &measurement, START);
    }
    let (held, said) = (HEAP.current_usage() - before, fold.stats().bytes);
    assert!(said <= LIMIT && said > LIMIT * 3 / 4, "{said}");
    assert!(held.abs_diff(said) <= SLACK + held * 15 / 100, "holds {held} and {shared}, says {said}");
}
