//! What is joined says the same of five minutes as its parts did, and the buffer holds it instead of them.

use super::point::WINDOW_NANOS;
use super::*;
use bytes::Bytes;
use ollystack_buffer::{Loss, Observer, Options};
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::metrics::v1::exponential_histogram_data_point::Buckets;
use ollystack_record::otlp::metrics::v1::metric::Data;
use ollystack_record::otlp::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, number_data_point,
};
use ollystack_record::value;
use ollystack_schema::names::{FOLD, FOLD_GAUGE};
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;

const MINUTE: u64 = 60 * 1_000_000_000;
const START: u64 = 1_700_000_100 * 1_000_000_000 / WINDOW_NANOS * WINDOW_NANOS;

/// One sample of a series in one minute; none is a gap.
#[derive(Clone, Debug)]
struct Sample {
    minute: u64,
    series: u8,
    values: Vec<u32>,
}

/// The four kinds that are joined, and one that is not, in one request.
fn request(minute: u64, samples: &[&Sample]) -> ExportMetricsServiceRequest {
    let (start, end) = (START + minute * MINUTE, START + (minute + 1) * MINUTE);
    let attributes = |series: u8| vec![value::string("series", series.to_string())];
    let values = |sample: &Sample| sample.values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>();
    let (mut sums, mut levels, mut histograms, mut gauges) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for sample in samples {
        let (attributes, values) = (attributes(sample.series), values(sample));
        let (min, max) = (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max));
        let (count, sum) = (values.len() as u64, Some(values.iter().sum::<f64>()));
        sums.push(NumberDataPoint {
            attributes: attributes.clone(),
            start_time_unix_nano: start,
            time_unix_nano: end,
            value: sum.map(|sum| number_data_point::Value::AsInt(sum as i64)),
            ..NumberDataPoint::default()
        });
        let last = values.last().map(|last| Exemplar {
            time_unix_nano: end - 1,
            value: Some(exemplar::Value::AsDouble(*last)),
            ..Exemplar::default()
        });
        levels.push(HistogramDataPoint {
            attributes: attributes.clone(),
            start_time_unix_nano: start,
            time_unix_nano: end,
            count,
            sum,
            min,
            max,
            exemplars: last.filter(|_| min != max).into_iter().collect(),
            ..HistogramDataPoint::default()
        });
        let mut buckets = BTreeMap::new();
        values.iter().for_each(|value| *buckets.entry(*value as i32 / 10).or_insert(0) += 1);
        let offset = buckets.keys().next().copied().unwrap_or_default();
        let end_bucket = buckets.keys().last().copied().unwrap_or_default();
        let bucket_counts = (offset..=end_bucket).map(|bucket| buckets.get(&bucket).copied().unwrap_or(0)).collect();
        histograms.push(ExponentialHistogramDataPoint {
            attributes: attributes.clone(),
            start_time_unix_nano: start,
            time_unix_nano: end,
            count,
            sum,
            min,
            max,
            scale: 3,
            positive: Some(Buckets { offset, bucket_counts }),
            ..ExponentialHistogramDataPoint::default()
        });
        gauges.push(NumberDataPoint { attributes, time_unix_nano: end, ..NumberDataPoint::default() });
    }
    let metric = |name: &str, data| Metric { name: name.into(), data: Some(data), ..Metric::default() };
    let level = metric("level", Data::Histogram(Histogram { data_points: levels, aggregation_temporality: 1 }));
    let exponential = ExponentialHistogram { data_points: histograms, aggregation_temporality: 1 };
    let metrics = vec![
        metric("sum", Data::Sum(Sum { data_points: sums, aggregation_temporality: 1, is_monotonic: true })),
        Metric { metadata: vec![value::string(FOLD, FOLD_GAUGE)], ..level },
        metric("histogram", Data::ExponentialHistogram(exponential)),
        metric("gauge", Data::Gauge(Gauge { data_points: gauges })),
    ];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }],
    }
}

/// What is told of one series in one window of five minutes.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Of the minutes that are covered, how often.
    minutes: BTreeMap<u64, u64>,
    increase: i64,
    count: u64,
    sum: f64,
    min: Option<f64>,
    max: Option<f64>,
    /// The latest, and when it was known.
    last: Option<(u64, f64)>,
    buckets: BTreeMap<i32, u64>,
    gauges: Vec<u64>,
}

impl Told {
    fn cover(&mut self, start: u64, end: u64) {
        (start..end).step_by(MINUTE as usize).for_each(|minute| *self.minutes.entry(minute).or_default() += 1);
    }

    fn more(&mut self, count: u64, sum: Option<f64>, min: Option<f64>, max: Option<f64>) {
        self.count += count;
        self.sum += sum.unwrap_or(0.0);
        self.min = self.min.into_iter().chain(min).reduce(f64::min);
        self.max = self.max.into_iter().chain(max).reduce(f64::max);
    }
}

/// By metric, series and window.
type Tally = BTreeMap<(String, String, u64), Told>;

fn of<'a>(tally: &'a mut Tally, name: &str, attributes: &[KeyValue], end: u64) -> &'a mut Told {
    tally.entry((name.to_owned(), format!("{attributes:?}"), (end - 1) / WINDOW_NANOS)).or_default()
}

/// And how many points there are.
fn told(requests: &[ExportMetricsServiceRequest]) -> (Tally, u64) {
    let (mut all, mut points) = (Tally::new(), 0);
    let metrics = requests.iter().flat_map(|request| &request.resource_metrics).flat_map(|of| &of.scope_metrics);
    for metric in metrics.flat_map(|scope| &scope.metrics) {
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => sum.data_points.iter().for_each(|point| {
                points += 1;
                let told = of(&mut all, &metric.name, &point.attributes, point.time_unix_nano);
                told.cover(point.start_time_unix_nano, point.time_unix_nano);
                let Some(number_data_point::Value::AsInt(value)) = point.value else { panic!("{point:?}") };
                told.increase += value;
            }),
            Data::Histogram(histogram) => histogram.data_points.iter().for_each(|point| {
                points += 1;
                let told = of(&mut all, &metric.name, &point.attributes, point.time_unix_nano);
                told.cover(point.start_time_unix_nano, point.time_unix_nano);
                told.more(point.count, point.sum, point.min, point.max);
                assert_eq!(point.exemplars.is_empty(), point.min == point.max, "{point:?}");
                let last = match point.exemplars.first().and_then(|last| last.value) {
                    Some(exemplar::Value::AsDouble(last)) => last,
                    _ => point.min.unwrap(),
                };
                told.last = told.last.max_by_time(point.time_unix_nano, last);
            }),
            Data::ExponentialHistogram(histogram) => histogram.data_points.iter().for_each(|point| {
                points += 1;
                let told = of(&mut all, &metric.name, &point.attributes, point.time_unix_nano);
                told.cover(point.start_time_unix_nano, point.time_unix_nano);
                told.more(point.count, point.sum, point.min, point.max);
                let buckets = point.positive.as_ref().unwrap();
                for (bucket, count) in (buckets.offset..).zip(&buckets.bucket_counts).filter(|(_, count)| **count > 0) {
                    *told.buckets.entry(bucket).or_default() += count;
                }
            }),
            Data::Gauge(gauge) => gauge.data_points.iter().for_each(|point| {
                points += 1;
                of(&mut all, &metric.name, &point.attributes, point.time_unix_nano).gauges.push(point.time_unix_nano);
            }),
            Data::Summary(_) => panic!("none was put in"),
        }
    }
    (all, points)
}

trait Latest {
    fn max_by_time(self, time: u64, value: f64) -> Self;
}

impl Latest for Option<(u64, f64)> {
    fn max_by_time(self, time: u64, value: f64) -> Self {
        self.filter(|(known, _)| *known > time).or(Some((time, value)))
    }
}

fn regrouped(requests: &[ExportMetricsServiceRequest], passes: u64) -> (ExportMetricsServiceRequest, u64) {
    let (mut plain, mut points) = (Vec::new(), 0);
    for pass in 0..passes {
        let mut regroup = Regroup::new(pass, passes);
        requests.iter().for_each(|request| regroup.take(Bytes::from(request.encode_to_vec())).unwrap());
        let (bytes, count) = regroup.finish();
        plain.extend(bytes);
        points += count;
    }
    (ExportMetricsServiceRequest::decode(plain.as_slice()).unwrap(), points)
}

fn by_minute(samples: &[Sample]) -> Vec<ExportMetricsServiceRequest> {
    let mut minutes = BTreeMap::<u64, BTreeMap<u8, &Sample>>::new();
    for sample in samples {
        minutes.entry(sample.minute).or_default().insert(sample.series, sample);
    }
    minutes.iter().map(|(minute, of)| request(*minute, &of.values().copied().collect::<Vec<_>>())).collect()
}

fn sample() -> impl Strategy<Value = Sample> {
    (0..20_u64, 0..6_u8, prop::collection::vec(0..1_000_u32, 1..5)).prop_map(|(minute, series, values)| Sample {
        minute,
        series,
        values,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn five_minutes_are_told_exactly_as_their_minutes_were(samples in prop::collection::vec(sample(), 0..100), passes in 1..5_u64) {
        let minutes = by_minute(&samples);
        let (joined, points) = regrouped(&minutes, passes);
        let (expected, before) = told(&minutes);
        let (found, after) = told(&[joined]);
        prop_assert_eq!(found, expected);
        prop_assert_eq!(after, points);
        prop_assert!(after <= before);
    }
}

#[test]
fn twenty_whole_minutes_become_four_points_and_gaps_stay() {
    let whole = |minute| Sample { minute, series: 0, values: vec![1, 5] };
    let samples: Vec<Sample> = (0..20).map(whole).collect();
    let count = |samples: &[Sample]| {
        let (all, _) = told(&[regrouped(&by_minute(samples), 1).0]);
        all.into_keys().filter(|(name, ..)| name == "sum").count()
    };
    assert_eq!(count(&samples), 4);
    let (request, points) = regrouped(&by_minute(&samples), 1);
    // Three kinds of four points, and twenty gauges, which cannot be joined.
    assert_eq!(points, 3 * 4 + 20);
    assert_eq!(request.resource_metrics[0].scope_metrics[0].metrics.len(), 4);
    let holey: Vec<Sample> = (0..20).filter(|minute| minute % 5 != 2).map(whole).collect();
    assert_eq!(regrouped(&by_minute(&holey), 1).1, 3 * 8 + 16, "a point never covers a gap");
}

#[derive(Debug, Default)]
struct Nothing;

impl Observer for Nothing {
    fn lost(&self, _: u8, records: u64, _: u64, reason: Loss) {
        panic!("{records} records lost: {reason:?}");
    }
}

#[tokio::test]
async fn a_buffer_that_fills_up_holds_old_metrics_by_five_minutes_and_the_ledger_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { bytes_max: 16 << 20, segment_bytes_max: 256 << 10, ..Options::new(folder.path()) };
    let (buffer, _) = Buffer::open(options, Arc::new(Nothing)).unwrap();
    let ledger = Arc::new(Ledger::default());
    let config = Config::default();
    let mut packer = Packer::new(&config).unwrap();
    // So many series that a minute takes some kilobytes packed.
    let mut noise = 1_u64;
    let mut minute = |minute| {
        let samples: Vec<Sample> = (0..40)
            .map(|series| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                Sample { minute, series, values: vec![(noise >> 33) as u32 % 1_000, (noise >> 45) as u32 % 1_000] }
            })
            .collect();
        request(minute, &samples.iter().collect::<Vec<_>>())
    };
    let minutes: Vec<ExportMetricsServiceRequest> = (0..60).map(&mut minute).collect();
    for request in &minutes {
        let entry = frozen::freeze(&mut packer, Signal::Metrics, Class::Normal, 160, request.encode_to_vec());
        buffer.put(vec![entry]).await.unwrap();
    }
    let mut thinner =
        Thinner { config, buffer: buffer.clone(), ledger: Arc::clone(&ledger), after: EntryId(0), rest: 0 };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(!thinner.step(now + 2 * OLD_NANOS).await.unwrap(), "there is room");

    // Somebody else's batches take most of the rest.
    let filler = Entry { class: 0, signal: 1, records: 1, meta: Bytes::new(), payload: vec![7; 100_000].into() };
    while buffer.stats().disk_bytes * 100 < buffer.stats().disk_bytes_max * FULL_PERCENT {
        buffer.put(vec![filler.clone()]).await.unwrap();
    }
    assert!(!thinner.step(now).await.unwrap(), "they are too new");
    let before = buffer.stats();
    // One more behind them, so that the group is known to be all.
    let later = frozen::freeze(&mut packer, Signal::Metrics, Class::Normal, 160, minutes[0].encode_to_vec());
    thinner.buffer.put((0..8).map(|_| later.clone()).collect()).await.unwrap();
    while thinner.step(now + 2 * OLD_NANOS).await.unwrap() {}

    let after = buffer.stats();
    let fewer = before.records[0] + 8 * 160 - after.records[0];
    assert!(fewer > 60 * 80, "{fewer} points fewer of {}", before.records[0]);
    assert_eq!(ledger.read().signals[0].folded, fewer);
    assert_eq!(ledger.waiting(Signal::Metrics, ollystack_record::Place::Buffer), after.records[0] as i64);
    let mut requests = Vec::new();
    while let Some(stored) = buffer.next().await.unwrap() {
        if stored.entry.signal == Signal::Metrics as u8 {
            let records = stored.entry.records;
            let frozen = Frozen::parse(stored.entry).unwrap();
            let plain = frozen.encoded(Encoding::Identity).unwrap();
            let request = ExportMetricsServiceRequest::decode(plain).unwrap();
            assert_eq!(told(std::slice::from_ref(&request)).1, u64::from(records));
            requests.push(request);
        }
    }
    let (mut expected, _) = told(&minutes);
    let (mut found, _) = told(&requests);
    // The batches behind repeat the first minute.
    let first = (START + MINUTE - 1) / WINDOW_NANOS;
    expected.retain(|(_, _, window), _| *window != first);
    found.retain(|(_, _, window), _| *window != first);
    assert_eq!(found, expected);
}
