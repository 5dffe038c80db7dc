//! The agent's share of CPU time: an account that is charged with what it used and credited with what it may use.
//!
//! Invariant: over any stretch the agent uses no more than the share of that stretch and one [`SAVED`], as far as what it does can wait.

use std::time::Duration;

/// Of the share, what a quiet time saves up at most, in seconds.
const SAVED: f64 = 0.5;
/// Of the share, what has to be made up for at most: work that cannot wait (a window that closes) holds nobody back for longer.
const OWED: f64 = 2.0;

/// The account.
#[derive(Debug)]
pub(crate) struct Share {
    /// 0: no limit.
    cores: f64,
    /// Seconds of CPU time; below zero what is saved.
    debt: f64,
}

impl Share {
    /// So many cores, or parts of one. 0: no limit.
    pub(crate) fn new(cores: f64) -> Share {
        Share { cores, debt: 0.0 }
    }

    /// Charge what was used in `elapsed`; for how long inputs should rest now.
    pub(crate) fn charge(&mut self, used: Duration, elapsed: Duration) -> Duration {
        if self.cores <= 0.0 {
            return Duration::ZERO;
        }
        let change = used.as_secs_f64() - elapsed.as_secs_f64() * self.cores;
        self.debt = (self.debt + change).clamp(-SAVED * self.cores, OWED * self.cores);
        Duration::from_secs_f64(self.debt.max(0.0) / self.cores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[test]
    fn a_load_of_two_cores_is_held_to_a_quarter_of_one() {
        let (mut share, mut rest, mut used) = (Share::new(0.25), Duration::ZERO, 0.0);
        for _ in 0..1_000 {
            // Whoever obeys does nothing while there is something to make up for.
            let worked = TICK.saturating_sub(rest) * 2;
            used += worked.as_secs_f64();
            rest = share.charge(worked, TICK);
        }
        assert!((24.5..=25.5).contains(&used), "{used} s of CPU in 100 s");
    }

    #[test]
    fn quiet_times_save_half_a_second_and_what_cannot_wait_is_owed_for_two_at_most() {
        let mut share = Share::new(0.5);
        share.charge(Duration::ZERO, Duration::from_secs(3_600));
        assert_eq!(share.charge(Duration::from_millis(250), Duration::ZERO), Duration::ZERO);
        assert_eq!(share.charge(Duration::from_millis(50), Duration::ZERO), TICK);
        assert_eq!(share.charge(Duration::from_secs(60), TICK), Duration::from_secs(2));
    }

    #[test]
    fn without_a_limit_nobody_rests() {
        assert_eq!(Share::new(0.0).charge(Duration::from_secs(9), TICK), Duration::ZERO);
    }
}
