//! Until when a delivery may still be written: the rule that lets another gateway know that an earlier attempt is over.
//!
//! An agent dates each attempt by the gateways' clock; [`Terms`] turn the date into a [`Deadline`], which `write` asks right before
//! it begins an insert. Invariant: a deadline goes by a clock that no step of the time of day moves and that runs on while
//! this process is stopped or the host sleeps; an attempt that cannot be dated has none and is refused.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// What two clocks may drift apart between two answers, and what ClickHouse may take past its time limit until it looks at it.
const MARGIN: Duration = Duration::from_secs(2);

/// A date this far ahead is taken for now; one further ahead is of another clock.
const AHEAD_MAX_MS: u64 = 500;

/// What all gateways of one ClickHouse agree on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// From the sending of an attempt to the begin of its insert, at most.
    pub(crate) begin_within: Duration,
    /// From there to its end, at most: connecting, and ClickHouse's own time limit.
    pub(crate) insert_within: Duration,
}

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Duration);

impl Terms {
    /// This long after it was sent, an attempt has written its rows or never will.
    pub(crate) fn settled_within(self) -> Duration {
        self.begin_within + self.insert_within + MARGIN
    }

    /// When the insert of an attempt must have begun that was sent at `sent_ms`; none when the date is too old, or of another clock.
    /// Too old is what has used up half of its time on the way: gathered with others, it would take time from them.
    pub(crate) fn begin_by(self, sent_ms: u64, now_ms: u64) -> Option<Deadline> {
        let age = Duration::from_millis(now_ms.saturating_sub(sent_ms));
        let dated = age <= self.begin_within / 2 && sent_ms <= now_ms.saturating_add(AHEAD_MAX_MS);
        dated.then(|| Deadline::after(self.begin_within - age))
    }

    /// Whether there is time enough to gather more rows.
    pub(crate) fn leaves_time(self, begin_by: Deadline) -> bool {
        begin_by.left() > self.begin_within / 4
    }
}

impl Deadline {
    /// So long from now.
    pub(crate) fn after(left: Duration) -> Deadline {
        Deadline(since_boot().saturating_add(left))
    }

    /// So much later.
    pub(crate) fn plus(self, more: Duration) -> Deadline {
        Deadline(self.0.saturating_add(more))
    }

    pub(crate) fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// Until then; zero once it has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_sub(since_boot())
    }
}

fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { begin_within: Duration::from_secs(3_600), insert_within: Duration::from_secs(60) };

    #[test]
    fn what_was_sent_long_ago_has_so_much_less_time() {
        let left = |sent_ms| TERMS.begin_by(sent_ms, 7_200_000).map(|deadline| deadline.left().as_secs_f64().ceil());
        // A second of slack for the test itself.
        assert!(left(7_200_000).is_some_and(|left| (3_599.0..=3_600.0).contains(&left)));
        assert!(left(5_400_000).is_some_and(|left| (1_799.0..=1_800.0).contains(&left)));
        assert_eq!(left(5_399_999), None, "half its time went by on the way");
        assert_eq!(left(0), None, "not dated");
    }

    #[test]
    fn a_date_of_a_clock_that_is_ahead_is_none() {
        assert!(TERMS.begin_by(10_000 + AHEAD_MAX_MS, 10_000).is_some());
        assert_eq!(TERMS.begin_by(10_001 + AHEAD_MAX_MS, 10_000), None);
    }

    #[test]
    fn an_attempt_is_settled_after_both_its_times() {
        assert!(TERMS.settled_within() > TERMS.begin_within + TERMS.insert_within);
        let deadline = Deadline::after(Duration::ZERO);
        assert!(deadline.passed() && !deadline.plus(Duration::from_secs(60)).passed());
    }
}
