//! Token bucket: how many records a tenant may send on average, and at once.
//!
//! The bucket may go into debt: a request is let in while any token is left, so that one larger than the burst can pass at all,
//! and the next ones wait until the debt is paid. Invariant: over any span of `t` seconds no more than `rate * (t + burst_seconds)`
//! records plus one request are let in.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time to ask a sender to wait: less would only make it ask more often.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);

/// One tenant's bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// False: everything passes.
    limited: bool,
    /// Tokens it holds when full.
    burst: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Tokens per second.
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one. `records_per_second` 0 lets everything in.
    pub(crate) fn new(records_per_second: u64, burst_seconds: u64, now: Instant) -> Bucket {
        let burst = records_per_second as f64 * burst_seconds as f64;
        let state = State { rate: records_per_second as f64, tokens: burst, filled: now };
        Bucket { limited: records_per_second > 0, burst, state: Mutex::new(state) }
    }

    /// Take `records` tokens, or say when to come back. From now on `rate` fills it: other gateways may leave less than there is in all.
    pub(crate) fn take(&self, records: u64, rate: f64, now: Instant) -> Result<(), Duration> {
        if !self.limited {
            return Ok(());
        }
        let mut state = self.fill(now);
        state.rate = rate;
        if state.tokens < 1.0 {
            let seconds = (1.0 - state.tokens) / rate.max(f64::MIN_POSITIVE);
            return Err(Duration::from_secs_f64(seconds.min(3600.0)).max(RETRY_AFTER_MIN));
        }
        state.tokens -= records as f64;
        Ok(())
    }

    /// Tokens that are left, below 0 for a debt, and what it holds when full; None for no limit.
    pub(crate) fn level(&self, now: Instant) -> Option<(f64, f64)> {
        self.limited.then(|| (self.fill(now).tokens, self.burst))
    }

    /// Give back what was taken for a request that was refused after all.
    pub(crate) fn give_back(&self, records: u64, now: Instant) {
        if self.limited {
            let mut state = self.fill(now);
            state.tokens = (state.tokens + records as f64).min(self.burst);
        }
    }

    fn fill(&self, now: Instant) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.saturating_duration_since(state.filled).as_secs_f64();
        state.tokens = (state.tokens + elapsed * state.rate).min(self.burst);
        state.filled = state.filled.max(now);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let bucket = Bucket::new(100, 2, start);
        assert_eq!(bucket.take(200, 100.0, start), Ok(()));
        assert!(bucket.take(1, 100.0, start).is_err());
        assert_eq!(bucket.take(100, 100.0, start + SECOND), Ok(()));
        assert!(bucket.take(1, 100.0, start + SECOND).is_err());
    }

    #[test]
    fn the_time_to_retry_is_when_a_token_is_there() {
        let start = Instant::now();
        let bucket = Bucket::new(100, 1, start);
        assert_eq!(bucket.take(300, 100.0, start), Ok(()), "larger than the burst: passes once, into debt");
        let wait = bucket.take(1, 100.0, start).unwrap_err();
        assert_eq!(wait, Duration::from_secs_f64(2.01));
        assert!(bucket.take(1, 100.0, start + wait - Duration::from_millis(10)).is_err());
        assert_eq!(bucket.take(1, 100.0, start + wait + Duration::from_millis(1)), Ok(()));
    }

    #[test]
    fn a_share_of_the_rate_fills_it_so_much_slower() {
        let start = Instant::now();
        let bucket = Bucket::new(100, 1, start);
        assert_eq!(bucket.take(100, 5.0, start), Ok(()));
        assert_eq!(bucket.take(1, 5.0, start), Err(Duration::from_millis(200)));
        assert_eq!(bucket.take(5, 5.0, start + SECOND), Ok(()));
        assert!(bucket.take(1, 5.0, start + SECOND).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_but_never_more_than_the_burst() {
        let start = Instant::now();
        let bucket = Bucket::new(10, 1, start);
        assert_eq!(bucket.take(10, 10.0, start), Ok(()));
        bucket.give_back(1000, start);
        assert_eq!(bucket.take(10, 10.0, start), Ok(()));
        assert!(bucket.take(1, 100.0, start).is_err());
    }

    #[test]
    fn zero_is_no_limit_and_a_clock_that_stands_still_is_no_credit() {
        let start = Instant::now();
        assert_eq!(Bucket::new(0, 1, start).take(u64::MAX, 0.0, start), Ok(()));
        let bucket = Bucket::new(10, 1, start + SECOND);
        assert_eq!(bucket.take(10, 10.0, start + SECOND), Ok(()));
        assert!(bucket.take(1, 100.0, start).is_err(), "an earlier instant must not fill it");
        assert!(bucket.take(1, 100.0, start + SECOND).is_err());
    }
}
