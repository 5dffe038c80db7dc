//! Two points of one series that follow each other become one, exactly.
//!
//! Pure. Invariant: the joined point covers both intervals and nothing else, and says of them what a single window over both
//! would have said: counts, sums, buckets, minimum and maximum, and of a folded gauge the last value.

use ollystack_record::otlp::metrics::v1::exponential_histogram_data_point::Buckets;
use ollystack_record::otlp::metrics::v1::{
    Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, exemplar, number_data_point::Value,
};

/// The longest interval that points are joined to: 5 minutes, beginning at multiples of it.
pub(crate) const WINDOW_NANOS: u64 = 300 * 1_000_000_000;
/// Buckets that two exponential histograms may have together: far more than any we make; others stay apart.
const BUCKETS_MAX: i64 = 4_096;

/// A point whose attributes are kept elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Point {
    /// Of a delta sum.
    Sum(NumberDataPoint),
    /// Of a delta histogram, folded gauges among them.
    Histogram(HistogramDataPoint),
    /// Of a delta exponential histogram.
    Exponential(ExponentialHistogramDataPoint),
    /// Encoded and whole: what cannot be joined.
    Other(Vec<u8>),
}

impl Point {
    /// Take the next point of the series into this one. False, and nothing is changed, if the two do not make one: there is a
    /// gap between them, a five-minute boundary, or they are not of one shape. `level` is for folded gauges, whose exemplar is
    /// the last value.
    pub(crate) fn join(&mut self, next: &Point, level: bool) -> bool {
        let joined = match (&*self, next) {
            (Point::Sum(a), Point::Sum(b)) => sum(a, b).map(Point::Sum),
            (Point::Histogram(a), Point::Histogram(b)) => histogram(a, b, level).map(Point::Histogram),
            (Point::Exponential(a), Point::Exponential(b)) => exponential(a, b).map(Point::Exponential),
            _ => None,
        };
        let is_joined = joined.is_some();
        *self = joined.unwrap_or_else(|| std::mem::replace(self, Point::Other(Vec::new())));
        is_joined
    }
}

/// Whether intervals (start, end] follow each other within one window, and no point says that it has no value.
fn follow(a: (u64, u64, u32), b: (u64, u64, u32)) -> bool {
    let in_order = a.0 < a.1 && a.1 == b.0 && b.0 < b.1;
    in_order && a.0 / WINDOW_NANOS == (b.1 - 1) / WINDOW_NANOS && a.2 == 0 && b.2 == 0
}

fn sum(a: &NumberDataPoint, b: &NumberDataPoint) -> Option<NumberDataPoint> {
    let interval = |point: &NumberDataPoint| (point.start_time_unix_nano, point.time_unix_nano, point.flags);
    follow(interval(a), interval(b)).then_some(())?;
    let value = match (a.value?, b.value?) {
        (Value::AsInt(a), Value::AsInt(b)) => Value::AsInt(a.checked_add(b)?),
        (Value::AsDouble(a), Value::AsDouble(b)) => Value::AsDouble(a + b),
        _ => return None,
    };
    let exemplars = if b.exemplars.is_empty() { &a.exemplars } else { &b.exemplars };
    Some(NumberDataPoint {
        start_time_unix_nano: a.start_time_unix_nano,
        value: Some(value),
        exemplars: exemplars.clone(),
        ..b.clone()
    })
}

fn histogram(a: &HistogramDataPoint, b: &HistogramDataPoint, level: bool) -> Option<HistogramDataPoint> {
    let interval = |point: &HistogramDataPoint| (point.start_time_unix_nano, point.time_unix_nano, point.flags);
    follow(interval(a), interval(b)).then_some(())?;
    let alike = a.explicit_bounds == b.explicit_bounds && a.bucket_counts.len() == b.bucket_counts.len();
    alike.then_some(())?;
    let buckets = a.bucket_counts.iter().zip(&b.bucket_counts).map(|(a, b)| a.checked_add(*b));
    let (min, max) = (both(a.min, b.min, f64::min)?, both(a.max, b.max, f64::max)?);
    let exemplars = match level {
        true if min == max => Vec::new(),
        true => vec![last(a, b)?],
        false => worst((a.max, &a.exemplars), (b.max, &b.exemplars)),
    };
    Some(HistogramDataPoint {
        start_time_unix_nano: a.start_time_unix_nano,
        count: a.count.checked_add(b.count)?,
        sum: both(a.sum, b.sum, |a, b| a + b)?,
        bucket_counts: buckets.collect::<Option<Vec<u64>>>()?,
        min,
        max,
        exemplars,
        ..b.clone()
    })
}

fn exponential(
    a: &ExponentialHistogramDataPoint,
    b: &ExponentialHistogramDataPoint,
) -> Option<ExponentialHistogramDataPoint> {
    let interval =
        |point: &ExponentialHistogramDataPoint| (point.start_time_unix_nano, point.time_unix_nano, point.flags);
    follow(interval(a), interval(b)).then_some(())?;
    (a.scale == b.scale && a.zero_threshold == b.zero_threshold).then_some(())?;
    Some(ExponentialHistogramDataPoint {
        start_time_unix_nano: a.start_time_unix_nano,
        count: a.count.checked_add(b.count)?,
        zero_count: a.zero_count.checked_add(b.zero_count)?,
        sum: both(a.sum, b.sum, |a, b| a + b)?,
        min: both(a.min, b.min, f64::min)?,
        max: both(a.max, b.max, f64::max)?,
        positive: buckets(a.positive.as_ref(), b.positive.as_ref())?,
        negative: buckets(a.negative.as_ref(), b.negative.as_ref())?,
        exemplars: worst((a.max, &a.exemplars), (b.max, &b.exemplars)),
        ..b.clone()
    })
}

/// Of two that are there; none of two that are not. One alone, or one that is no number, says that they do not fit.
fn both(a: Option<f64>, b: Option<f64>, join: impl Fn(f64, f64) -> f64) -> Option<Option<f64>> {
    match (a, b) {
        (None, None) => Some(None),
        (Some(a), Some(b)) if !a.is_nan() && !b.is_nan() => Some(Some(join(a, b))),
        _ => None,
    }
}

/// Buckets of one scale, added.
fn buckets(a: Option<&Buckets>, b: Option<&Buckets>) -> Option<Option<Buckets>> {
    let filled = |buckets: &&Buckets| !buckets.bucket_counts.is_empty();
    let (a, b) = match (a.filter(filled), b.filter(filled)) {
        (None, None) => return Some(None),
        (Some(one), None) | (None, Some(one)) => return Some(Some(one.clone())),
        (Some(a), Some(b)) => (a, b),
    };
    let end = |buckets: &Buckets| i64::from(buckets.offset) + buckets.bucket_counts.len() as i64;
    let offset = a.offset.min(b.offset);
    let length = end(a).max(end(b)) - i64::from(offset);
    (length <= BUCKETS_MAX).then_some(())?;
    let mut bucket_counts = vec![0_u64; length as usize];
    for buckets in [a, b] {
        let from = (i64::from(buckets.offset) - i64::from(offset)) as usize;
        for (sum, count) in bucket_counts[from..].iter_mut().zip(&buckets.bucket_counts) {
            *sum = sum.checked_add(*count)?;
        }
    }
    Some(Some(Buckets { offset, bucket_counts }))
}

/// The exemplars of the point with the larger maximum, if it has any: they show what was worst.
fn worst(a: (Option<f64>, &Vec<Exemplar>), b: (Option<f64>, &Vec<Exemplar>)) -> Vec<Exemplar> {
    let first = b.1.is_empty() || (a.0 > b.0 && !a.1.is_empty());
    if first { a.1.clone() } else { b.1.clone() }
}

/// The last value of a folded gauge: that of `b`, which a constant one tells by its minimum.
fn last(a: &HistogramDataPoint, b: &HistogramDataPoint) -> Option<Exemplar> {
    if let Some(last) = b.exemplars.first() {
        return Some(last.clone());
    }
    // In the type that the series has, if the other point shows it.
    let is_int = matches!(a.exemplars.first().and_then(|last| last.value), Some(exemplar::Value::AsInt(_)));
    let value = match b.min? {
        value if is_int && value.fract() == 0.0 => exemplar::Value::AsInt(value as i64),
        value => exemplar::Value::AsDouble(value),
    };
    Some(Exemplar { time_unix_nano: b.time_unix_nano, value: Some(value), ..Exemplar::default() })
}
