//! Explicit-bucket histograms: merging where bounds agree, and differences of cumulative ones.
//!
//! Invariant: `counts` is one longer than `bounds`, or both are empty (a histogram that carries only count and sum).

use ollystack_record::otlp::metrics::v1::HistogramDataPoint as Point;

/// A histogram that grows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explicit {
    pub(crate) count: u64,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) bounds: Vec<f64>,
    pub(crate) counts: Vec<u64>,
}

impl Explicit {
    /// From OTLP; `None` if the counts do not match the bounds.
    pub(crate) fn from_point(point: &Point) -> Option<Explicit> {
        let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
        let histogram = Explicit {
            count: point.count,
            sum: point.sum,
            min: point.min,
            max: point.max,
            bounds: bounds.clone(),
            counts: counts.clone(),
        };
        histogram.fits().then_some(histogram)
    }

    /// Whether the counts match the bounds.
    pub(crate) fn fits(&self) -> bool {
        if self.counts.is_empty() { self.bounds.is_empty() } else { self.counts.len() == self.bounds.len() + 1 }
    }

    /// Add another; gives it back if its bounds differ, since then no exact sum exists.
    pub(crate) fn merge(&mut self, other: Explicit) -> Result<(), Explicit> {
        if self.bounds != other.bounds || self.counts.len() != other.counts.len() {
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
        if self.bounds != earlier.bounds || self.counts.len() != earlier.counts.len() {
            return None;
        }
        let pairs = self.counts.iter().zip(&earlier.counts);
        Some(Explicit {
            count: self.count.checked_sub(earlier.count)?,
            sum: self.sum.zip(earlier.sum).map(|(a, b)| a - b),
            // Extremes since the start say nothing about the interval.
            min: None,
            max: None,
            bounds: self.bounds.clone(),
            counts: pairs.map(|(now, then)| now.checked_sub(*then)).collect::<Option<Vec<u64>>>()?,
        })
    }

    /// Nothing, in the same buckets.
    pub(crate) fn zero(&self) -> Explicit {
        Explicit {
            count: 0,
            sum: self.sum.map(|_| 0.0),
            min: None,
            max: None,
            bounds: self.bounds.clone(),
            counts: vec![0; self.counts.len()],
        }
    }

    /// OTLP's form; attributes, times and exemplars are the caller's.
    pub(crate) fn into_point(self) -> Point {
        Point {
            count: self.count,
            sum: self.sum,
            min: self.min,
            max: self.max,
            explicit_bounds: self.bounds,
            bucket_counts: self.counts,
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

    #[test]
    fn equal_bounds_add_and_others_are_given_back() {
        let mut one = Explicit::from_point(&point(&[1.0], &[2, 3], 9.0)).unwrap();
        one.merge(Explicit::from_point(&point(&[1.0], &[1, 0], 0.5)).unwrap()).unwrap();
        assert_eq!((one.count, one.sum, one.counts.clone()), (6, Some(9.5), vec![3, 3]));
        let other = Explicit::from_point(&point(&[2.0], &[1, 0], 0.5)).unwrap();
        assert_eq!(one.merge(other.clone()), Err(other));
    }

    #[test]
    fn counts_that_do_not_match_the_bounds_are_refused() {
        assert!(Explicit::from_point(&point(&[1.0, 2.0], &[1, 1], 1.0)).is_none());
        assert!(Explicit::from_point(&point(&[1.0], &[], 1.0)).is_none());
        assert!(Explicit::from_point(&point(&[], &[], 1.0)).is_some());
    }

    #[test]
    fn a_bucket_that_went_down_means_a_reset() {
        let earlier = Explicit::from_point(&point(&[1.0], &[2, 3], 9.0)).unwrap();
        let later = Explicit::from_point(&point(&[1.0], &[3, 3], 9.5)).unwrap();
        assert_eq!(later.since(&earlier).unwrap().counts, vec![1, 0]);
        let reset = Explicit::from_point(&point(&[1.0], &[1, 9], 9.5)).unwrap();
        assert!(reset.since(&earlier).is_none());
    }
}
