//! Which series have had their labels written lately, so that they are written about once a day and not with every point.
//!
//! `convert` asks before it writes a series row; the gateway remembers after the row is safe. Two generations make a bounded,
//! coarse LRU: what was asked for in the younger one or the older one is known; when the younger is full the older goes. Invariant: a
//! series is remembered only after its row is safe, so that forgetting costs a row and remembering never loses one.

use hashbrown::HashMap;
use std::sync::{Mutex, PoisonError};

/// Series per generation: 16 bytes each and the table's slack, about 20 MB for both generations when full.
const GENERATION_MAX: usize = 400_000;

/// Labels are written again after 18 to 24 hours: each series at its own time, so that a day's start is no burst.
const REFRESH_SECONDS: u32 = 18 * 3600;
const SPREAD_SECONDS: u64 = 6 * 3600;

/// How much longer labels stay than the points of their last writing.
pub(super) const LABELS_EXTRA_SECONDS: u32 = 2 * 24 * 3600;

/// The series of this process.
#[derive(Debug)]
pub(crate) struct Seen {
    generation_max: usize,
    generations: Mutex<(Generation, Generation)>,
}

/// When each series' labels were written, in seconds since the epoch.
type Generation = HashMap<u64, u32>;

impl Seen {
    pub(crate) fn new() -> Seen {
        Seen { generation_max: GENERATION_MAX, generations: Mutex::default() }
    }

    /// Whether the labels of a series need no writing at `now`.
    pub(super) fn contains(&self, series: u64, now: u32) -> bool {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *generations;
        let lasts = REFRESH_SECONDS + u32::try_from(series % SPREAD_SECONDS).unwrap_or(0);
        let fresh = |written: u32| now.saturating_sub(written) < lasts;
        if let Some(written) = young.get(&series) {
            return fresh(*written);
        }
        match old.get(&series).copied() {
            Some(written) if fresh(written) => {
                self.insert(young, old, series, written);
                true
            }
            _ => false,
        }
    }

    /// The labels of these series are safe since `now`.
    pub(crate) fn remember(&self, series: impl IntoIterator<Item = u64>, now: u32) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *generations;
        for series in series {
            self.insert(young, old, series, now);
        }
    }

    fn insert(&self, young: &mut Generation, old: &mut Generation, series: u64, written: u32) {
        if young.len() >= self.generation_max && !young.contains_key(&series) {
            *old = std::mem::take(young);
        }
        young.insert(series, written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 24 * 3600;

    #[test]
    fn labels_are_due_once_and_again_within_a_day() {
        let seen = Seen::new();
        assert!(!seen.contains(7, 1000));
        seen.remember([7], 1000);
        assert!(seen.contains(7, 1000 + REFRESH_SECONDS));
        assert!(!seen.contains(7, 1000 + DAY));
        assert!(seen.contains(7, 900), "a clock that stepped back makes nothing due");
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let seen = Seen { generation_max: 10, generations: Mutex::default() };
        seen.remember([1000], 0);
        for series in 0..100 {
            seen.remember([series], 0);
            assert!(seen.contains(1000, 0), "asked for all the time");
        }
        assert!(!seen.contains(0, 0), "not asked for since");
        let generations = seen.generations.lock().unwrap();
        assert!(generations.0.len() <= 10 && generations.1.len() <= 10);
    }
}
