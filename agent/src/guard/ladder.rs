//! From bytes used to a level of the ladder.
//!
//! Invariant: up at once, however far; down one rung at a time, after [`HOLD`] and well below where the rung began, so that a level
//! does not flutter around its threshold.

use ollystack_record::Level;
use std::time::Duration;

/// Percent of the grant at which each level begins. What is used grows on between two looks, 100 ms apart; by how much it did at most is
/// in the guard's figures (`growth_bytes_max`). Of the default grant the last rung leaves 5 MiB for it.
pub(crate) const BEGINS: [u64; Level::ALL.len()] = [0, 75, 82, 89, 95];
/// Percent below its beginning at which a level may end.
const SLACK: u64 = 3;
/// The shortest stay on a rung before the next lower one.
const HOLD: Duration = Duration::from_secs(2);

/// Where the agent stands.
#[derive(Debug, Default)]
pub(crate) struct Ladder {
    level: Level,
    since: Duration,
}

impl Ladder {
    /// The level from now on. `is_stalled`: the kernel makes the agent wait for memory, whatever it uses.
    pub(crate) fn step(&mut self, used: u64, grant: u64, is_stalled: bool, now: Duration) -> Level {
        let percent = used.saturating_mul(100) / grant.max(1);
        let floor = if is_stalled { Level::Slow } else { Level::Calm };
        let reached = |level: &Level| percent >= BEGINS[*level as usize];
        let target = Level::ALL.into_iter().rev().find(reached).unwrap_or_default().max(floor);
        let next = if target > self.level {
            target
        } else if target < self.level
            && percent + SLACK < BEGINS[self.level as usize]
            && now.saturating_sub(self.since) >= HOLD
        {
            Level::ALL[self.level as usize - 1]
        } else {
            self.level
        };
        if next != self.level {
            (self.level, self.since) = (next, now);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::*;

    #[test]
    fn it_goes_up_at_once_and_down_one_by_one_well_below_and_after_a_while() {
        let mut ladder = Ladder::default();
        let table = [
            // Second, percent of the grant, whether the kernel makes it wait, level from then on.
            (0, 74, false, Calm),
            (1, 75, false, Slow),
            (1, 95, false, Shed),
            (2, 60, false, Shed), // not long enough there
            (3, 93, false, Shed), // not far enough below
            (4, 91, false, Lean),
            (4, 40, false, Lean),
            (6, 40, false, Shrink),
            (7, 90, false, Lean), // up is always at once
            (9, 40, false, Shrink),
            (11, 40, false, Slow),
            (13, 72, false, Slow), // 72 is no less than 75 - 3
            (14, 71, false, Calm),
            (15, 10, true, Slow),
            (99, 10, true, Slow), // as long as it stalls
            (100, 10, false, Calm),
        ];
        for (at, percent, is_stalled, expected) in table {
            let level = ladder.step(percent << 20, 100 << 20, is_stalled, Duration::from_secs(at));
            assert_eq!(level, expected, "at {at} s with {percent}%");
        }
    }

    #[test]
    fn what_is_used_beyond_the_grant_or_without_one_is_the_highest_level() {
        assert_eq!(Ladder::default().step(200, 100, false, Duration::ZERO), Shed);
        assert_eq!(Ladder::default().step(1, 0, false, Duration::ZERO), Shed);
    }
}
