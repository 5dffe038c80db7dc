//! From totals to increases: what a cumulative sample adds to what was known before it.
//!
//! A total that went down by more than a wobble, or whose start moved, was reset: all of it is new. The first sample of a series counts in full when the
//! series began under our eyes (its start lies after ours), and is a baseline otherwise: what came before was another agent's to
//! report. Invariant: increases of a series add up to the last total minus its baseline, across resets.

use super::exponential::Exponential;
use super::histogram::Explicit;
use super::state::{Number, State};

/// The share of the last total that a lower one must reach to be a wobble rather than a reset. The kernel's own per-CPU times
/// (iowait) go back a little now and then: as a reset, all the hours they stand for would count again.
const WOBBLE: f64 = 0.98;

/// The last total of a cumulative series.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) time_unix_nano: u64,
    pub(super) total: Total,
}

/// A running total.
#[derive(Clone, Debug)]
pub(super) enum Total {
    Number(Number),
    Explicit(Box<Explicit>),
    Exponential(Box<Exponential>),
}

/// What a sample adds.
pub(super) enum Increase {
    /// This much.
    By(Total),
    /// Nothing, and this is what nothing looks like: it is the first, and began before us.
    Baseline(Total),
    /// Nothing: a later sample of the same total was here already, and its increase covers this one.
    Covered,
}

/// Take a new total into account. `watched_since` is when the agent began to watch.
pub(super) fn increase(
    previous: &mut Option<Previous>,
    start_unix_nano: u64,
    time_unix_nano: u64,
    total: Total,
    watched_since: u64,
) -> Increase {
    let answer = match previous {
        None if start_unix_nano != 0 && start_unix_nano >= watched_since => Increase::By(total.clone()),
        None => Increase::Baseline(total.zero()),
        Some(last) if time_unix_nano < last.time_unix_nano => return Increase::Covered,
        // A start that has not come says nothing: it would be a reset each time.
        Some(last) if start_unix_nano > last.time_unix_nano && start_unix_nano <= time_unix_nano => {
            Increase::By(total.clone())
        }
        Some(last) => match total.since(&last.total) {
            Some(by) => Increase::By(by),
            None if total.wobbles_below(&last.total) => {
                // The higher total stays known, so that the way back up is not counted again.
                last.time_unix_nano = time_unix_nano;
                return Increase::By(total.zero());
            }
            None => Increase::By(total.clone()),
        },
    };
    *previous = Some(Previous { time_unix_nano, total });
    answer
}

impl Previous {
    /// What it takes aside.
    pub(super) fn heap_bytes(&self) -> usize {
        self.total.heap_bytes()
    }

    /// A histogram of nothing in the buckets of the last one, if it is a histogram.
    pub(super) fn empty_histogram(&self) -> Option<State> {
        match &self.total {
            Total::Number(_) => None,
            histogram => Some(histogram.zero().into_state()),
        }
    }
}

impl Total {
    /// What it takes aside.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Total::Number(_) => 0,
            Total::Explicit(histogram) => histogram.heap_bytes(),
            Total::Exponential(histogram) => histogram.heap_bytes(),
        }
    }

    /// Nothing, in the same shape.
    pub(super) fn zero(&self) -> Total {
        match self {
            Total::Number(Number::Int(_)) => Total::Number(Number::Int(0)),
            Total::Number(Number::Double(_)) => Total::Number(Number::Double(0.0)),
            Total::Explicit(histogram) => Total::Explicit(Box::new(histogram.zero())),
            Total::Exponential(histogram) => Total::Exponential(Box::new(Exponential::new(histogram.scale))),
        }
    }

    /// As what a window folds.
    pub(super) fn into_state(self) -> State {
        match self {
            Total::Number(number) => State::Sum(number),
            Total::Explicit(histogram) => State::Explicit(histogram),
            Total::Exponential(histogram) => State::Exponential(histogram),
        }
    }

    /// Lower than `earlier`, and too little to be a reset.
    fn wobbles_below(&self, earlier: &Total) -> bool {
        match (self, earlier) {
            (Total::Number(now), Total::Number(then)) => {
                now.as_f64() < then.as_f64() && now.as_f64() >= then.as_f64() * WOBBLE
            }
            _ => false,
        }
    }

    /// `None` if this is not a continuation of `earlier`: a reset, or another shape.
    fn since(&self, earlier: &Total) -> Option<Total> {
        match (self, earlier) {
            (Total::Number(now), Total::Number(then)) => now.since(*then).map(Total::Number),
            (Total::Explicit(now), Total::Explicit(then)) => Some(Total::Explicit(Box::new(now.since(then)?))),
            (Total::Exponential(now), Total::Exponential(then)) => Some(Total::Exponential(Box::new(now.since(then)?))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Increases of totals given as (start, time, value), the agent watching since 100; `None` is a baseline.
    fn increases(samples: &[(u64, u64, i64)]) -> Vec<Option<i64>> {
        let mut previous = None;
        let step = |(start, time, value): &(u64, u64, i64)| match increase(
            &mut previous,
            *start,
            *time,
            Total::Number(Number::Int(*value)),
            100,
        ) {
            Increase::By(Total::Number(Number::Int(by))) => Some(by),
            Increase::Covered => Some(0),
            _ => None,
        };
        samples.iter().map(step).collect()
    }

    #[test]
    fn a_series_older_than_the_agent_starts_from_a_baseline() {
        assert_eq!(increases(&[(50, 101, 7), (50, 102, 9)]), vec![None, Some(2)]);
        assert_eq!(increases(&[(0, 101, 7), (0, 102, 9)]), vec![None, Some(2)]);
    }

    #[test]
    fn a_series_that_began_under_our_eyes_counts_in_full() {
        assert_eq!(increases(&[(100, 101, 7), (100, 102, 9)]), vec![Some(7), Some(2)]);
    }

    #[test]
    fn a_reset_counts_what_came_after_it() {
        assert_eq!(increases(&[(50, 101, 7), (50, 102, 3)]), vec![None, Some(3)], "the total went down");
        assert_eq!(
            increases(&[(50, 101, 7), (102, 103, 9)]),
            vec![None, Some(9)],
            "the start moved past the last sample"
        );
    }

    #[test]
    fn a_start_that_has_not_come_is_no_reset() {
        assert_eq!(increases(&[(900, 101, 7), (900, 102, 9)]), vec![Some(7), Some(2)]);
    }

    #[test]
    fn a_sample_out_of_order_is_covered_by_the_later_one() {
        assert_eq!(
            increases(&[(50, 101, 7), (50, 103, 9), (50, 102, 8), (50, 104, 10)]),
            vec![None, Some(2), Some(0), Some(1)]
        );
    }
}
