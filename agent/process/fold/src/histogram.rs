//! Explicit-bucket histograms: merging where bounds agree, and differences of cumulative ones.
//!
//! Invariant: `counts` is one longer than `bounds`, which ascend, or both are empty (a histogram that carries only count and sum).

use super::bounds::Bounds;
use ollystack_record::otlp::metrics::v1::HistogramDataPoint as Point;
use std::sync::Arc;

/// A histogram that grows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explicit {
    pub(crate) count: u64,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) bounds: Arc<[f64]>,
    pub(crate) counts: Box<[u64]>,
}

/// Whether a point is a histogram: bounds ascend, and there is a count for each bucket between them.
pub(crate) fn is_valid(point: &Point) -> bool {
    let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
    // What is not a number ascends from nothing.
    let ascend = bounds.first().is_none_or(|bound| !bound.is_nan()) && bounds.windows(2).all(|pair| pair[0] < pair[1]);
    ascend && fit(bounds, counts)
}

/// Whether the counts match the bounds.
pub(crate) fn fit(bounds: &[f64], counts: &[u64]) -> bool {
    if counts.is_empty() { bounds.is_empty() } else { counts.len() == bounds.len() + 1 }
}

impl Explicit {
    /// Of a [valid](is_valid) point.
    pub(crate) fn from_point(point: Point, bounds: &mut Bounds) -> Explicit {
        let Point { count, sum, min, max, explicit_bounds, bucket_counts, .. } = point;
        let counts = bucket_counts.into_boxed_slice();
        Explicit { count, sum, min, max, bounds: bounds.share(&explicit_bounds), counts }
    }

    /// What it takes, its bounds left out.
    pub(crate) fn heap_bytes(&self) -> usize {
        Explicit::bytes_for(self.counts.len())
    }

    /// What one of so many buckets takes, its bounds left out.
    pub(crate) fn bytes_for(buckets: usize) -> usize {
        size_of::<Explicit>() + buckets * size_of::<u64>()
    }

    fn has_bounds_of(&self, other: &Explicit) -> bool {
        (Arc::ptr_eq(&self.bounds, &other.bounds) || self.bounds == other.bounds)
            && self.counts.len() == other.counts.len()
    }

    /// Add another; gives it back if its bounds differ, since then no exact sum exists.
    pub(crate) fn merge(&mut self, other: Explicit) -> Result<(), Explicit> {
        if !self.has_bounds_of(&other) {
            return Err(other);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.zip(other.sum).map(|(a, b)| a + b);
        self.min = self.min.zip(other.min).map(|(a, b)| a.min(b));
        self.max = self.max.zip(other.max).map(|(a, b)| a.max(b));
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        Ok(())
    }

    /// What came since `earlier`, or `None` if this is not its continuation (other bounds, a count went down).
    pub(crate) fn since(&self, earlier: &Explicit) -> Option<Explicit> {
        if !self.has_bounds_of(earlier) {
            return None;
        }
        let pairs = self.counts.iter().zip(&earlier.counts);
        Some(Explicit {
            count: self.count.checked_sub(earlier.count)?,
            sum: self.sum.zip(earlier.sum).map(|(a, b)| a - b),
            // Extremes since the start say nothing about the interval.
            min: None,
            max: None,
            bounds: Arc::clone(&self.bounds),
            counts: pairs.map(|(now, then)| now.checked_sub(*then)).collect::<Option<Box<[u64]>>>()?,
        })
    }

    /// Nothing, in the same buckets.
    pub(crate) fn zero(&self) -> Explicit {
        Explicit {
            count: 0,
            sum: self.sum.map(|_| 0.0),
            min: None,
            max: None,
            bounds: Arc::clone(&self.bounds),
            counts: vec![0; self.counts.len()].into_boxed_slice(),
        }
    }

    /// OTLP's form; attributes, times and exemplars are the caller's.
    pub(crate) fn into_point(self) -> Point {
        Point {
            count: self.count,
            sum: self.sum,
            min: self.min,
            max: self.max,
            explicit_bounds: self.bounds.to_vec(),
            bucket_counts: self.counts.into_vec(),
            ..Point::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(bounds: &[f64], counts: &[u64], sum: f64) -> Point {
        Point {
            count: counts.iter().sum(),
            sum: Some(sum),
            explicit_bounds: bounds.to_vec(),
            bucket_counts: counts.to_vec(),
            ..Point::default()
        }
    }

    fn explicit(bounds: &[f64], counts: &[u64], sum: f64) -> Explicit {
        Explicit::from_point(point(bounds, counts, sum), &mut Bounds::default())
    }

    #[test]
    fn equal_bounds_add_and_others_are_given_back() {
        let mut one = explicit(&[1.0], &[2, 3], 9.0);
        one.merge(explicit(&[1.0], &[1, 0], 0.5)).unwrap();
        assert_eq!((one.count, one.sum, one.counts.clone()), (6, Some(9.5), [3, 3].into()));
        let other = explicit(&[2.0], &[1, 0], 0.5);
        assert_eq!(one.merge(other.clone()), Err(other));
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        let table: [(&[f64], &[u64], bool); 9] = [
            (&[1.0, 2.0], &[1, 1], false),
            (&[1.0], &[], false),
            (&[], &[], true),
            (&[], &[1], true),
            (&[1.0, f64::INFINITY], &[1, 1, 0], true),
            (&[f64::NAN], &[1, 1], false),
            (&[1.0, f64::NAN], &[1, 1, 1], false),
            (&[2.0, 1.0], &[1, 1, 1], false),
            (&[1.0, 1.0], &[1, 1, 1], false),
        ];
        for (bounds, counts, expected) in table {
            assert_eq!(is_valid(&point(bounds, counts, 1.0)), expected, "{bounds:?} {counts:?}");
        }
    }

    #[test]
    fn a_bucket_that_went_down_means_a_reset() {
        let earlier = explicit(&[1.0], &[2, 3], 9.0);
        let later = explicit(&[1.0], &[3, 3], 9.5);
        assert_eq!(later.since(&earlier).unwrap().counts, [1, 0].into());
        let reset = explicit(&[1.0], &[1, 9], 9.5);
        assert!(reset.since(&earlier).is_none());
    }
}
