//! Exponential histograms: recording, merging without error, downscaling, OTLP's form.
//!
//! Bucket `i` of scale `s` holds values in (base^i, base^(i+1)] with base = 2^(2^-s) (OpenTelemetry metrics data model,
//! "ExponentialHistogram"). Merging halves the resolution of the finer one until scales are equal, which moves whole buckets and
//! so loses no count. Invariant: bucket indices are sorted, unique and at most [`BUCKETS_MAX`] in number, so that memory is
//! bounded whatever the values are.

use ollystack_record::otlp::metrics::v1::ExponentialHistogramDataPoint as Point;
use ollystack_record::otlp::metrics::v1::exponential_histogram_data_point::Buckets as Dense;

/// Distinct buckets on each side of zero: 1 ms to 1 min at scale 6 are 1,015. 16 bytes each: 16 KiB a side at the most.
const BUCKETS_MAX: usize = 1024;

/// Buckets by which a side grows at least.
const BUCKETS_STEP: usize = 4;

/// Buckets in one OTLP point: past it the point is downscaled, since the dense form spends a number on each empty bucket.
const DENSE_MAX: usize = 4096;

/// The coarsest scale that OTLP allows: base 2^1024 holds every float in two buckets.
const SCALE_MIN: i32 = -10;

/// The finest: index 1024 * 2^20 of the largest float fits into 31 bits.
const SCALE_MAX: i32 = 20;

/// Between the powers of two of the smallest and the largest float.
const EXPONENTS: std::ops::RangeInclusive<i32> = -1075..=1024;

/// A histogram that grows. Sum, min and max are those of the values recorded, not of their buckets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exponential {
    pub(crate) scale: i32,
    pub(crate) count: u64,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    zero_count: u64,
    zero_threshold: f64,
    positive: Buckets,
    negative: Buckets,
}

/// (index, count), sorted by index.
#[derive(Clone, Debug, Default, PartialEq)]
struct Buckets(Vec<(i32, u64)>);

/// What of a histogram is not in buckets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summed {
    pub(crate) count: u64,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) zero_count: u64,
    pub(crate) zero_threshold: f64,
}

impl Exponential {
    /// An empty one.
    pub(crate) fn new(scale: i32) -> Exponential {
        Exponential {
            scale: scale.clamp(SCALE_MIN, SCALE_MAX),
            count: 0,
            sum: Some(0.0),
            min: None,
            max: None,
            zero_count: 0,
            zero_threshold: 0.0,
            positive: Buckets::default(),
            negative: Buckets::default(),
        }
    }

    /// From OTLP.
    pub(crate) fn from_point(point: &Point) -> Exponential {
        let summed = Summed {
            count: point.count,
            sum: point.sum,
            min: point.min,
            max: point.max,
            zero_count: point.zero_count,
            zero_threshold: point.zero_threshold,
        };
        Exponential::from_parts(point.scale, summed, indexed(point.positive.as_ref()), indexed(point.negative.as_ref()))
    }

    /// From (index, count) in any order. A scale that no float needs is brought into range, and so is an index that no float has.
    pub(crate) fn from_parts(
        scale: i32,
        summed: Summed,
        positive: Vec<(i32, u64)>,
        negative: Vec<(i32, u64)>,
    ) -> Exponential {
        let Summed { count, sum, min, max, zero_count, zero_threshold } = summed;
        // Not a number, or below zero, it would have zero itself looked for in the buckets.
        let zero_threshold = if zero_threshold > 0.0 { zero_threshold } else { 0.0 };
        let fine = scale.clamp(SCALE_MIN, SCALE_MAX);
        let coarser_by = scale.saturating_sub(fine).clamp(0, 31);
        let buckets = |mut buckets: Vec<(i32, u64)>| {
            buckets.iter_mut().for_each(|bucket| bucket.0 = possible(bucket.0 >> coarser_by, fine));
            buckets.sort_unstable_by_key(|bucket| bucket.0);
            let mut sorted = Buckets(buckets);
            sorted.downscale(0);
            sorted.0.shrink_to_fit();
            sorted
        };
        let (positive, negative) = (buckets(positive), buckets(negative));
        let mut histogram =
            Exponential { scale: fine, count, sum, min, max, zero_count, zero_threshold, positive, negative };
        histogram.shrink();
        histogram
    }

    /// All that is not in buckets.
    pub(crate) fn summed(&self) -> Summed {
        let Exponential { count, sum, min, max, zero_count, zero_threshold, .. } = *self;
        Summed { count, sum, min, max, zero_count, zero_threshold }
    }

    /// Positive and negative buckets, (index, count) sorted by index.
    pub(crate) fn buckets(&self) -> [&[(i32, u64)]; 2] {
        [&self.positive.0, &self.negative.0]
    }

    /// What it takes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let buckets = self.positive.0.capacity() + self.negative.0.capacity();
        size_of::<Exponential>() + buckets * size_of::<(i32, u64)>()
    }

    /// What its buckets take as OTLP has them, those between them included.
    pub(crate) fn dense_bytes(&self) -> usize {
        (self.positive.span().min(DENSE_MAX) + self.negative.span().min(DENSE_MAX)) * size_of::<u64>()
    }

    /// Count one value; if there is no `room` for another bucket, in coarser ones. Not-a-number and infinities are the caller's
    /// to refuse.
    pub(crate) fn record(&mut self, value: f64, room: usize) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.map(|sum| sum + value);
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
        if value.abs() <= self.zero_threshold {
            self.zero_count = self.zero_count.saturating_add(1);
            return;
        }
        let is_positive = value > 0.0;
        loop {
            let index = bucket(value.abs(), self.scale);
            let scale = self.scale;
            let side = if is_positive { &mut self.positive } else { &mut self.negative };
            if side.fits(index, room) || scale == SCALE_MIN {
                side.add(index, 1);
                break;
            }
            self.downscale_to(scale - 1);
        }
        self.shrink();
    }

    /// Add another; exact but for resolution where scales differ, or if there is no `room` for more buckets. Unknown min, max or sum
    /// of one make the result's unknown.
    pub(crate) fn merge(&mut self, other: Exponential, room: usize) {
        let mut other = other;
        if other.count == 0 {
            return;
        }
        if self.count == 0 && other.heap_bytes() <= self.heap_bytes().saturating_add(room) {
            *self = other;
            return;
        }
        if self.count == 0 {
            (self.scale, self.sum, self.min, self.max) = (other.scale, Some(0.0), other.min, other.max);
        }
        let scale = self.scale.min(other.scale);
        self.downscale_to(scale);
        other.downscale_to(scale);
        self.raise_zero(other.zero_threshold);
        other.raise_zero(self.zero_threshold);
        while !self.has_room_for(&other, room) && self.scale > SCALE_MIN {
            self.downscale_to(self.scale - 1);
            other.downscale_to(self.scale);
        }
        self.count = self.count.saturating_add(other.count);
        self.zero_count = self.zero_count.saturating_add(other.zero_count);
        self.sum = self.sum.zip(other.sum).map(|(a, b)| a + b);
        self.min = self.min.zip(other.min).map(|(a, b)| a.min(b));
        self.max = self.max.zip(other.max).map(|(a, b)| a.max(b));
        for (index, count) in other.positive.0 {
            self.positive.add(index, count);
        }
        for (index, count) in other.negative.0 {
            self.negative.add(index, count);
        }
        self.shrink();
    }

    /// What came since `earlier`, or `None` if this cannot be its continuation (a count went down).
    pub(crate) fn since(&self, earlier: &Exponential) -> Option<Exponential> {
        let scale = self.scale.min(earlier.scale);
        let (mut now, mut then) = (self.clone(), earlier.clone());
        now.downscale_to(scale);
        then.downscale_to(scale);
        now.raise_zero(then.zero_threshold);
        then.raise_zero(now.zero_threshold);
        now.count = now.count.checked_sub(then.count)?;
        now.zero_count = now.zero_count.checked_sub(then.zero_count)?;
        now.positive = now.positive.minus(&then.positive)?;
        now.negative = now.negative.minus(&then.negative)?;
        now.sum = now.sum.zip(then.sum).map(|(a, b)| a - b);
        // Extremes since the start say nothing about the interval.
        now.min = None;
        now.max = None;
        Some(now)
    }

    /// OTLP's form; attributes, times and exemplars are the caller's.
    pub(crate) fn into_point(mut self) -> Point {
        while self.positive.span().max(self.negative.span()) > DENSE_MAX && self.scale > SCALE_MIN {
            self.downscale_to(self.scale - 1);
        }
        Point {
            count: self.count,
            sum: self.sum,
            min: self.min,
            max: self.max,
            scale: self.scale,
            zero_count: self.zero_count,
            zero_threshold: self.zero_threshold,
            positive: self.positive.into_dense(),
            negative: self.negative.into_dense(),
            ..Point::default()
        }
    }

    /// Whether the buckets of another, were they all new, would find room.
    fn has_room_for(&self, other: &Exponential, room: usize) -> bool {
        let growth = |mine: &Buckets, theirs: &Buckets| {
            let more = (mine.0.len() + theirs.0.len()).saturating_sub(mine.0.capacity());
            if more == 0 { 0 } else { (more + step(mine.0.len() + theirs.0.len())) * size_of::<(i32, u64)>() }
        };
        growth(&self.positive, &other.positive) + growth(&self.negative, &other.negative) <= room
    }

    fn downscale_to(&mut self, scale: i32) {
        if scale < self.scale {
            let by = self.scale.saturating_sub(scale);
            self.positive.downscale(by);
            self.negative.downscale(by);
            self.scale = scale;
        }
    }

    /// Buckets that lie wholly within the new threshold of zero count as zero.
    fn raise_zero(&mut self, threshold: f64) {
        if threshold <= self.zero_threshold {
            return;
        }
        self.zero_threshold = threshold;
        let scale = self.scale;
        let inside = |index: i32| upper_bound(index, scale) <= threshold;
        for side in [&mut self.positive, &mut self.negative] {
            self.zero_count = self.zero_count.saturating_add(side.take_while(inside));
        }
    }

    fn shrink(&mut self) {
        while self.positive.0.len().max(self.negative.0.len()) > BUCKETS_MAX && self.scale > SCALE_MIN {
            self.downscale_to(self.scale - 1);
        }
    }
}

impl Buckets {
    fn into_dense(self) -> Option<Dense> {
        let (first, last) = (self.0.first()?.0, self.0.last()?.0);
        let mut bucket_counts = vec![0; (last - first) as usize + 1];
        for (index, count) in self.0 {
            bucket_counts[(index - first) as usize] = count;
        }
        Some(Dense { offset: first, bucket_counts })
    }

    fn span(&self) -> usize {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => (i64::from(last.0) - i64::from(first.0)) as usize + 1,
            _ => 0,
        }
    }

    fn add(&mut self, index: i32, count: u64) {
        match self.0.binary_search_by_key(&index, |bucket| bucket.0) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(step(self.0.len()));
                }
                self.0.insert(at, (index, count));
            }
        }
    }

    /// Whether one more count at `index` takes no more than `room`.
    fn fits(&self, index: i32, room: usize) -> bool {
        self.0.len() < self.0.capacity()
            || step(self.0.len()) * size_of::<(i32, u64)>() <= room
            || self.0.binary_search_by_key(&index, |bucket| bucket.0).is_ok()
    }

    /// In the memory that there is.
    fn downscale(&mut self, by: i32) {
        let by = by.clamp(0, 31);
        self.0.iter_mut().for_each(|bucket| bucket.0 >>= by);
        self.0.dedup_by(|next, last| {
            let same = next.0 == last.0;
            if same {
                last.1 = last.1.saturating_add(next.1);
            }
            same
        });
    }

    fn minus(&self, earlier: &Buckets) -> Option<Buckets> {
        let mut rest = self.clone();
        for (index, count) in &earlier.0 {
            let at = rest.0.binary_search_by_key(index, |bucket| bucket.0).ok()?;
            rest.0[at].1 = rest.0[at].1.checked_sub(*count)?;
        }
        rest.0.retain(|bucket| bucket.1 > 0);
        Some(rest)
    }

    fn take_while(&mut self, inside: impl Fn(i32) -> bool) -> u64 {
        let taken = self.0.iter().take_while(|bucket| inside(bucket.0)).count();
        self.0.drain(..taken).fold(0, |sum: u64, bucket| sum.saturating_add(bucket.1))
    }
}

/// By how many buckets a side grows: twice as much as is needed would be most of what a RED series takes.
fn step(buckets: usize) -> usize {
    BUCKETS_STEP + buckets / 8
}

/// The buckets of OTLP's form that hold anything.
fn indexed(dense: Option<&Dense>) -> Vec<(i32, u64)> {
    let Some(dense) = dense else { return Vec::new() };
    let counts = dense.bucket_counts.iter().enumerate().filter(|(_, count)| **count > 0);
    counts.map(|(at, count)| (dense.offset.saturating_add_unsigned(at as u32), *count)).collect()
}

/// The index, or the nearest that a float can have: the dense form has a number for each one between the first and the last.
fn possible(index: i32, scale: i32) -> i32 {
    let at_scale = |exponent: i32| if scale < 0 { exponent >> -scale } else { exponent << scale };
    index.clamp(at_scale(*EXPONENTS.start()), at_scale(*EXPONENTS.end()))
}

/// The index of the bucket that holds a positive value: ceil(log_base(value)) - 1, exact at powers of two.
fn bucket(value: f64, scale: i32) -> i32 {
    let (exponent, fraction) = split(value);
    if scale <= 0 {
        // base is a power of two: shift the exponent; an exact power of two belongs to the bucket below.
        let exponent = if fraction == 1.0 { exponent - 1 } else { exponent };
        return exponent >> (-scale).min(31);
    }
    if fraction == 1.0 {
        return (exponent << scale) - 1;
    }
    let within = (fraction.log2() * f64::from(1u32 << scale)).ceil() as i32 - 1;
    (exponent << scale) + within.clamp(0, (1 << scale) - 1)
}

/// value = fraction * 2^exponent with fraction in [1, 2).
fn split(value: f64) -> (i32, f64) {
    const SUBNORMAL_SHIFT: i32 = 54;
    if value < f64::MIN_POSITIVE {
        let (exponent, fraction) = split(value * (1u64 << SUBNORMAL_SHIFT) as f64);
        return (exponent - SUBNORMAL_SHIFT, fraction);
    }
    let bits = value.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    (exponent, f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52)))
}

/// The largest value that bucket `index` holds.
fn upper_bound(index: i32, scale: i32) -> f64 {
    ((f64::from(index) + 1.0) * 2f64.powi(-scale)).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any room.
    const ALL: usize = usize::MAX;

    fn of(scale: i32, values: &[f64]) -> Exponential {
        let mut histogram = Exponential::new(scale);
        values.iter().for_each(|value| histogram.record(*value, ALL));
        histogram
    }

    /// The value at a quantile as a reader of the buckets would estimate it: the middle of the bucket.
    fn quantile(histogram: &Exponential, q: f64) -> f64 {
        let rank = (q * (histogram.count - 1) as f64).round() as u64;
        let mut seen = histogram.zero_count;
        for (index, count) in &histogram.positive.0 {
            seen += count;
            if seen > rank {
                return ((f64::from(*index) + 0.5) * 2f64.powi(-histogram.scale)).exp2();
            }
        }
        0.0
    }

    #[test]
    fn a_value_lies_in_its_bucket_at_every_scale() {
        for scale in [-3, -1, 0, 1, 3, 6, 10] {
            for value in [1e-9, 0.001, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 1000.1, 1e12] {
                let index = bucket(value, scale);
                let (low, high) = (upper_bound(index - 1, scale), upper_bound(index, scale));
                assert!(
                    value > low * (1.0 - 1e-12) && value <= high * (1.0 + 1e-12),
                    "{value} at {scale}: {low} {high}"
                );
            }
        }
    }

    #[test]
    fn quantiles_are_within_one_percent_at_the_base_scale() {
        let values: Vec<f64> = (1..=10_000).map(|i| 0.000_1 * f64::from(i)).collect();
        let histogram = of(ollystack_schema::names::HISTOGRAM_SCALE, &values);
        for q in [0.5, 0.9, 0.99, 0.999] {
            let exact = values[(q * (values.len() - 1) as f64).round() as usize];
            assert!((quantile(&histogram, q) / exact - 1.0).abs() < 0.01);
        }
    }

    #[test]
    fn indices_that_no_float_has_do_not_make_a_point_grow() {
        let far = |offset| {
            let positive = Some(Dense { offset, bucket_counts: vec![u64::MAX, 1] });
            Exponential::from_point(&Point { scale: SCALE_MIN, count: u64::MAX, positive, ..Point::default() })
        };
        let mut histogram = far(i32::MIN);
        histogram.merge(far(i32::MAX), ALL);
        let positive = histogram.into_point().positive.unwrap();
        assert!(positive.bucket_counts.len() <= 4, "{}", positive.bucket_counts.len());
    }

    #[test]
    fn merging_equals_recording_into_one() {
        let (a, b) = ([0.01, 0.5, 2.0, 0.0, -3.0], [7.0, 0.01, 0.02, -0.5]);
        let mut merged = of(6, &a);
        merged.merge(of(4, &b), ALL);
        let all: Vec<f64> = a.iter().chain(&b).copied().collect();
        let together = of(4, &all);
        assert_eq!((merged.scale, merged.count, merged.zero_count), (4, 9, 1));
        assert_eq!(merged.positive, together.positive);
        assert_eq!(merged.negative, together.negative);
        assert_eq!((merged.min, merged.max), (together.min, together.max));
    }

    #[test]
    fn a_difference_and_its_start_make_the_whole() {
        let earlier = of(6, &[0.1, 0.2, 5.0]);
        let mut later = earlier.clone();
        [0.1, 9.0].iter().for_each(|value| later.record(*value, ALL));
        let between = later.since(&earlier).unwrap();
        assert_eq!((between.count, between.min), (2, None));
        let mut whole = earlier.clone();
        whole.merge(between, ALL);
        assert_eq!(whole.positive, later.positive);
        assert!(earlier.since(&later).is_none(), "a histogram that shrank was reset");
    }

    #[test]
    fn buckets_stay_bounded_whatever_comes() {
        let mut histogram = Exponential::new(6);
        let mut value = 1e-300;
        while value < 1e300 {
            histogram.record(value, ALL);
            value *= 1.009;
        }
        assert!(histogram.positive.0.len() <= BUCKETS_MAX);
        let count = histogram.count;
        let point = histogram.into_point();
        let dense = point.positive.unwrap();
        assert!(dense.bucket_counts.len() <= DENSE_MAX);
        assert_eq!(dense.bucket_counts.iter().sum::<u64>(), count);
    }

    #[test]
    fn the_wire_form_reads_back() {
        let histogram = of(6, &[0.001, 0.0, 3.0, -2.0]);
        assert_eq!(Exponential::from_point(&histogram.clone().into_point()), histogram);
    }

    #[test]
    fn a_threshold_of_zero_that_is_none_leaves_zero_where_it_is() {
        for zero_threshold in [f64::NAN, -1.0] {
            let mut hostile = Exponential::from_point(&Point { zero_threshold, ..Point::default() });
            hostile.record(0.0, ALL);
            assert_eq!((hostile.zero_count, hostile.zero_threshold), (1, 0.0));
        }
    }

    #[test]
    fn hostile_offsets_and_scales_do_no_harm() {
        let dense = Some(Dense { offset: i32::MAX, bucket_counts: vec![1, 1, 1] });
        let hostile = Point { scale: i32::MAX, count: 3, positive: dense.clone(), negative: dense, ..Point::default() };
        let mut merged = of(6, &[1.0]);
        merged.merge(Exponential::from_point(&hostile), ALL);
        let _ = merged.into_point();
        let low = Some(Dense { offset: i32::MIN, bucket_counts: vec![1] });
        let hostile = Point { scale: i32::MIN, count: 1, positive: low, ..Point::default() };
        let mut merged = of(6, &[1.0]);
        merged.merge(Exponential::from_point(&hostile), ALL);
        let _ = merged.into_point();
    }

    #[test]
    fn without_room_counts_stay_exact_in_coarser_buckets() {
        let values: Vec<f64> = (1..200).map(|i| 0.001 * f64::from(i)).collect();
        let mut recorded = of(6, &values[..20]);
        let mut merged = recorded.clone();
        merged.positive.0.shrink_to_fit();
        let bytes = [recorded.heap_bytes(), merged.heap_bytes()];
        values[20..].iter().for_each(|value| recorded.record(*value, 0));
        merged.merge(of(6, &values[20..]), 0);
        assert_eq!([recorded.heap_bytes(), merged.heap_bytes()], bytes);
        for histogram in [&recorded, &merged] {
            let counts: u64 = histogram.positive.0.iter().map(|bucket| bucket.1).sum();
            assert_eq!((histogram.count, counts, histogram.max), (199, 199, Some(0.199)));
            assert!(histogram.scale < 6);
        }
        let mut empty = Exponential::new(6);
        let bytes = empty.heap_bytes();
        empty.merge(recorded, 0);
        assert_eq!((empty.count, empty.max), (199, Some(0.199)));
        assert!(empty.heap_bytes() <= bytes + 3 * step(0) * size_of::<(i32, u64)>(), "{}", empty.heap_bytes());
    }
}
