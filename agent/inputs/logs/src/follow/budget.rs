//! How fast files are read, over all of them.
//!
//! Invariant: over any stretch no more is read than the budget of that stretch, one second's savings and one chunk.

use std::time::{Duration, Instant};

/// Bytes that may be read now, refilled as time passes. A chunk may overdraw it: the next one waits until that is paid.
#[derive(Debug)]
pub(super) struct Budget {
    left: i64,
    per_second: u64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(per_second: u64, now: Instant) -> Budget {
        Budget { left: 0, per_second, at: now }
    }

    /// So many bytes were read.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Whether nothing was left when last asked.
    pub(super) fn is_spent(&self) -> bool {
        self.left <= 0
    }

    /// When it has some again, if it has none now.
    pub(super) fn due(&self) -> Instant {
        let debt = (1 - self.left).max(0) as f64;
        self.at + Duration::from_secs_f64(debt / self.per_second as f64)
    }

    /// Refilled; up to one second's worth is kept.
    pub(super) fn has_some(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second as f64;
        if earned >= 1.0 {
            self.left = self.left.saturating_add(earned as i64).min(self.per_second as i64);
            self.at = now;
        }
        self.left > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_in_a_second_than_the_budget_and_one_chunk() {
        let start = Instant::now();
        let mut budget = Budget::new(1_000, start);
        let mut read = 0;
        for millisecond in 1..=2_000 {
            if budget.has_some(start + Duration::from_millis(millisecond)) {
                budget.spend(300);
                assert!(budget.due() > start + Duration::from_millis(millisecond));
                read += 300;
            }
        }
        assert!((2_000..=2_300).contains(&read), "{read}");
        assert!(budget.has_some(start + Duration::from_secs(3_600)));
        assert_eq!(budget.left, 1_000, "silence saves up one second's worth");
    }
}
