//! Whether the points that came out say what the samples said: for each point, the samples of its series within its interval are
//! added up here and compared.
//!
//! Counts, minima, maxima, last values and bucket counts must be equal; sums may differ by 1e-12 of the amounts that were added.
//! Invariant: a sample that no point covers, and a point without samples, is counted as an error.

use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::metrics::v1::{
    HistogramDataPoint, NumberDataPoint, ResourceMetrics, exemplar, metric::Data, number_data_point,
};
use ollystack_record::value::{attributes_hash, sort_attributes};
use ollystack_record::{Kind, Resource, Sample, Value};
use ollystack_schema::names::FOLD;
use std::collections::{BTreeMap, HashMap};

/// Rounding of some hundred additions of doubles, relative to what was added.
const TOLERANCE: f64 = 1e-12;

/// Wrong points that are told one by one.
const TOLD_MAX: u64 = 5;

/// Resource, scope, metric and attributes.
type Key = (u64, String, String, u64);

/// From, until.
type Interval = (u64, u64);

/// What is known of all series.
pub(crate) struct Truth {
    watched_since: u64,
    series: HashMap<Key, Series>,
}

#[derive(Default)]
struct Series {
    /// Time and amount of the last sample, for increases of totals.
    last: Option<(u64, Amount)>,
    /// By time.
    samples: Vec<(u64, Amount)>,
    /// Points of one interval mean the same as one.
    points: BTreeMap<Interval, Point>,
}

/// A sample's, or by how much its series went on.
#[derive(Clone, Debug, PartialEq)]
enum Amount {
    Level(f64),
    /// And the total that it is a difference of, for the rounding.
    Increase(f64, f64),
    Buckets(Buckets),
    Missing,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Buckets {
    count: u64,
    sum: f64,
    buckets: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Point {
    Level { count: u64, sum: f64, min: f64, max: f64, last: f64 },
    Increase(f64),
    Buckets(Buckets),
    Missing,
}

/// What the comparison showed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) series: u64,
    pub(crate) points: u64,
    pub(crate) wrong: u64,
    pub(crate) samples: u64,
    pub(crate) uncovered: u64,
    /// Of sums, relative to the amounts that were added.
    pub(crate) sum_error_max: f64,
}

impl Truth {
    pub(crate) fn new(watched_since: u64) -> Truth {
        Truth { watched_since, series: HashMap::new() }
    }

    pub(crate) fn saw(&mut self, resource: &Resource, sample: &Sample) {
        let of = &sample.series;
        let key =
            (resource.hash(), of.scope.proto.name.clone(), of.metric.name.clone(), attributes_hash(of.attributes()));
        let series = self.series.entry(key).or_default();
        let amount = Amount::of(sample);
        let increase = match (&series.last, sample.start_unix_nano) {
            _ if !is_total(of.metric.kind) || amount == Amount::Missing => amount.clone(),
            // Began under our eyes: all of it is new. Before: how much of it is new is not known.
            (None, start) if start != 0 && start >= self.watched_since => amount.clone(),
            (None, _) => amount.since(&amount).unwrap_or_else(|| amount.clone()),
            (Some((last_time, _)), start) if start > *last_time => amount.clone(),
            (Some((_, last)), _) => amount.since(last).unwrap_or_else(|| amount.clone()),
        };
        series.samples.push((sample.time_unix_nano, increase));
        if amount != Amount::Missing {
            series.last = Some((sample.time_unix_nano, amount));
        }
    }

    pub(crate) fn got(&mut self, resource: ResourceMetrics) {
        let resource_hash = Resource::from_proto(resource.resource).hash();
        for scope in resource.scope_metrics {
            let scope_name = scope.scope.unwrap_or_default().name;
            for metric in scope.metrics {
                let is_level = metric.metadata.iter().any(|entry| entry.key == FOLD);
                for (mut attributes, interval, point) in points(metric.data, is_level) {
                    sort_attributes(&mut attributes);
                    let hash = attributes_hash(&attributes);
                    let key = (resource_hash, scope_name.clone(), metric.name.clone(), hash);
                    let points = &mut self.series.entry(key).or_default().points;
                    points.entry(interval).and_modify(|known| known.merge(&point)).or_insert(point);
                }
            }
        }
    }

    /// Compare everything, at the end.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { series: self.series.len() as u64, ..Verdict::default() };
        for (key, series) in &self.series {
            let mut covered = vec![false; series.samples.len()];
            for (interval, point) in &series.points {
                verdict.points += 1;
                let amounts = series.within(*interval, matches!(point, Point::Missing), &mut covered);
                match point.differs(&amounts) {
                    Ok(error) => verdict.sum_error_max = verdict.sum_error_max.max(error),
                    Err(why) => {
                        verdict.wrong += 1;
                        if verdict.wrong <= TOLD_MAX {
                            eprintln!("wrong: {} in {interval:?}: {why}", key.2);
                        }
                    }
                }
            }
            verdict.samples += covered.len() as u64;
            let uncovered = covered.iter().filter(|covered| !**covered).count() as u64;
            if uncovered > 0 && verdict.uncovered == 0 {
                eprintln!("{uncovered} samples of {} are in no point", key.2);
            }
            verdict.uncovered += uncovered;
        }
        verdict
    }
}

impl Series {
    /// The amounts of the samples that a point of this interval stands for. A gap has no start.
    fn within(&self, (start, end): Interval, is_gap: bool, covered: &mut [bool]) -> Vec<&Amount> {
        let samples = self.samples.iter().zip(covered);
        let due = samples.filter(|((time, amount), covered)| {
            let is_in = if is_gap { *time <= end } else { (start..end).contains(time) };
            is_in && !**covered && (*amount == Amount::Missing) == is_gap
        });
        due.map(|((_, amount), covered)| {
            *covered = true;
            amount
        })
        .collect()
    }
}

fn is_total(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Sum { monotonic: true, delta: false }
            | Kind::Histogram { delta: false }
            | Kind::ExponentialHistogram { delta: false }
    )
}

impl Amount {
    fn of(sample: &Sample) -> Amount {
        let is_level = matches!(sample.series.metric.kind, Kind::Gauge | Kind::Sum { monotonic: false, delta: false });
        let number = |value: f64| if is_level { Amount::Level(value) } else { Amount::Increase(value, value) };
        match &sample.value {
            Value::Missing => Amount::Missing,
            Value::Int(value) => number(*value as f64),
            Value::Double(value) => number(*value),
            Value::Histogram(point) => Amount::Buckets(Buckets {
                count: point.count,
                sum: point.sum.unwrap_or_default(),
                buckets: point.bucket_counts.clone(),
            }),
            Value::ExponentialHistogram(_) | Value::Summary(_) => {
                panic!("{}: the bench compares no points of this kind", sample.series.metric.name)
            }
        }
    }

    /// None when it went down: it began anew.
    fn since(&self, before: &Amount) -> Option<Amount> {
        match (self, before) {
            (Amount::Increase(now, _), Amount::Increase(before, _)) if now >= before => {
                Some(Amount::Increase(now - before, *now))
            }
            (Amount::Buckets(now), Amount::Buckets(before)) if now.count >= before.count => {
                let pairs = now.buckets.iter().zip(&before.buckets);
                let buckets = pairs.map(|(now, before)| now.checked_sub(*before)).collect::<Option<_>>()?;
                Some(Amount::Buckets(Buckets { count: now.count - before.count, sum: now.sum - before.sum, buckets }))
            }
            _ => None,
        }
    }
}

/// A metric's points: attributes, interval, and what they say.
fn points(data: Option<Data>, is_level: bool) -> Vec<(Vec<KeyValue>, Interval, Point)> {
    let number = |point: NumberDataPoint| {
        let interval = (point.start_time_unix_nano, point.time_unix_nano);
        let says = match point.value {
            None => Point::Missing,
            Some(number_data_point::Value::AsInt(value)) => Point::Increase(value as f64),
            Some(number_data_point::Value::AsDouble(value)) => Point::Increase(value),
        };
        (point.attributes, interval, says)
    };
    let histogram = |point: HistogramDataPoint| {
        let interval = (point.start_time_unix_nano, point.time_unix_nano);
        let says = if is_level { level(&point) } else { buckets(&point) };
        (point.attributes, interval, says)
    };
    match data {
        Some(Data::Gauge(data)) => data.data_points.into_iter().map(number).collect(),
        Some(Data::Sum(data)) => data.data_points.into_iter().map(number).collect(),
        Some(Data::Histogram(data)) => data.data_points.into_iter().map(histogram).collect(),
        // Those of the recording are derived from spans and compared with those.
        Some(Data::ExponentialHistogram(_)) | Some(Data::Summary(_)) | None => Vec::new(),
    }
}

fn level(point: &HistogramDataPoint) -> Point {
    let (sum, min, max) = (point.sum.unwrap(), point.min.unwrap(), point.max.unwrap());
    // A point without an exemplar is of a level whose last value is plain to see.
    let last = point.exemplars.first().map_or(max, |exemplar| match exemplar.value.unwrap() {
        exemplar::Value::AsInt(value) => value as f64,
        exemplar::Value::AsDouble(value) => value,
    });
    Point::Level { count: point.count, sum, min, max, last }
}

fn buckets(point: &HistogramDataPoint) -> Point {
    let (sum, buckets) = (point.sum.unwrap_or_default(), point.bucket_counts.clone());
    Point::Buckets(Buckets { count: point.count, sum, buckets })
}

impl Point {
    fn merge(&mut self, other: &Point) {
        match (self, other) {
            (
                Point::Level { count, sum, min, max, last },
                Point::Level { count: more, sum: add, min: low, max: high, last: newer },
            ) => {
                *count += more;
                *sum += add;
                *min = min.min(*low);
                *max = max.max(*high);
                *last = *newer;
            }
            (Point::Increase(sum), Point::Increase(add)) => *sum += add,
            (Point::Buckets(sum), Point::Buckets(add)) => sum.add(add),
            _ => {}
        }
    }

    /// The relative error of the sum, or what is not equal.
    fn differs(&self, amounts: &[&Amount]) -> Result<f64, String> {
        if amounts.is_empty() {
            return Err("no sample is in it".to_owned());
        }
        match self {
            Point::Missing => Ok(0.0),
            Point::Level { count, sum, min, max, last } => {
                let levels: Vec<f64> = amounts
                    .iter()
                    .filter_map(|amount| if let Amount::Level(level) = amount { Some(*level) } else { None })
                    .collect();
                let low = levels.iter().copied().fold(f64::INFINITY, f64::min);
                let high = levels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let expected = (levels.len() as u64, low, high, levels.last().copied().unwrap_or(f64::NAN));
                if (*count, *min, *max, *last) != expected {
                    return Err(format!("count, min, max, last are {:?}, not {expected:?}", (count, min, max, last)));
                }
                close(*sum, levels.iter().sum(), levels.iter().map(|level| level.abs()).sum())
            }
            Point::Increase(sum) => {
                let (mut expected, mut scale) = (0.0, 0.0_f64);
                for amount in amounts {
                    if let Amount::Increase(by, total) = amount {
                        expected += by;
                        scale = scale.max(total.abs());
                    }
                }
                close(*sum, expected, scale)
            }
            Point::Buckets(point) => {
                let (mut expected, mut scale) = (Buckets::default(), 0.0);
                for amount in amounts {
                    if let Amount::Buckets(buckets) = amount {
                        expected.add(buckets);
                        scale += buckets.sum.abs();
                    }
                }
                if (point.count, &point.buckets) != (expected.count, &expected.buckets) {
                    return Err(format!("{point:?}, not {expected:?}"));
                }
                // A total's increase is rounded as the total is: some 1e-16 of what the series ever added up.
                close(point.sum, expected.sum, scale.max(1.0))
            }
        }
    }
}

fn close(found: f64, expected: f64, scale: f64) -> Result<f64, String> {
    let error = if found == expected { 0.0 } else { (found - expected).abs() / scale };
    if error <= TOLERANCE { Ok(error) } else { Err(format!("sum is {found}, not {expected}")) }
}

impl Buckets {
    fn add(&mut self, other: &Buckets) {
        self.count += other.count;
        self.sum += other.sum;
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, add)| *sum += add);
    }
}
