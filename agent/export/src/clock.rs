//! The endpoint's clock, as heard with its last answer and carried on by our own: what attempts are dated by.
//!
//! A gateway of ours tells its clock with every answer and refuses what was sent too long ago by it, so that an attempt that was held
//! up on the way is not written after we gave it up. Invariant: but for drift between two answers the reading is not ahead of
//! the endpoint's clock.

use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Shared by all attempts.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<(u64, Instant)>>);

impl Clock {
    /// The endpoint said what time it is there.
    pub(crate) fn told(&self, now_ms: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now_ms, Instant::now()));
    }

    /// The time there, in milliseconds since the epoch; 0 when it was never told.
    pub(crate) fn now_ms(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> u64 {
        let told = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.map_or(0, |(then_ms, heard)| then_ms.saturating_add((now - heard).as_millis() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_goes_on_from_what_was_told_last() {
        let clock = Clock::default();
        assert_eq!(clock.now_ms(), 0);
        for told in [1_000, 500] {
            let before = Instant::now();
            clock.told(told);
            let later = Instant::now() + Duration::from_millis(234);
            let most = told + (later - before).as_millis() as u64;
            assert!((told + 234..=most).contains(&clock.at(later)));
        }
    }
}
