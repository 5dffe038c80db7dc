//! When to try again: one gate before all attempts, because they all go to the same endpoint.
//!
//! After a failure the gate opens for one attempt at a time, after a pause that doubles and varies by chance (or is what the
//! endpoint asked for); after a success it stands open again. On stop nobody waits for a pause: one more attempt is made at once, as a host that
//! goes takes its disk along, unless the endpoint keeps us away. Invariant: attempts that were under way together count as one failure.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// No endpoint may silence us for longer at a time.
const ASKED_MAX: Duration = Duration::from_secs(3_600);

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    initial: Duration,
    max: Duration,
    state: Mutex<State>,
    probe: Semaphore,
    closed: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// In a row; 0: open.
    failures: u32,
    not_before: Instant,
    /// The endpoint asked for the pause, or a person has to act first.
    kept_away: bool,
    /// An attempt failed that was made after [`Gate::close`].
    given_up: bool,
}

/// Leave to make one attempt.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    begun: Instant,
    /// Begun after [`Gate::close`].
    stopping: bool,
    _probe: Option<SemaphorePermit<'a>>,
}

impl Gate {
    pub(crate) fn new(initial: Duration, max: Duration) -> Gate {
        let state = State { failures: 0, not_before: Instant::now(), kept_away: false, given_up: false };
        let state = Mutex::new(state);
        Gate { initial, max, state, probe: Semaphore::new(1), closed: CancellationToken::new() }
    }

    /// Wait until an attempt may be made. None: stopping, and the endpoint does not take anything at the moment.
    pub(crate) async fn pass(&self) -> Option<Pass<'_>> {
        if self.state().failures == 0 {
            return Some(self.leave(None));
        }
        // Whoever has it makes the attempt that tells the others, on stop too.
        let probe = self.probe.acquire().await.ok()?;
        let state = self.state();
        if state.failures == 0 {
            return Some(self.leave(None));
        }
        tokio::select! {
            biased;
            () = self.closed.cancelled() => {
                let state = self.state();
                let tries = state.failures == 0 || !(state.kept_away || state.given_up);
                tries.then(|| self.leave(Some(probe)))
            }
            () = sleep_until(state.not_before) => Some(self.leave(Some(probe))),
        }
    }

    fn leave<'a>(&self, probe: Option<SemaphorePermit<'a>>) -> Pass<'a> {
        Pass { begun: Instant::now(), stopping: self.closed.is_cancelled(), _probe: probe }
    }

    /// The endpoint took something. Returns the failures before.
    pub(crate) fn success(&self) -> u32 {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).failures)
    }

    /// The attempt failed; the next one is made after the pause that is returned, or after what is left of the one that another
    /// attempt of the same time began. `asked` is the endpoint's wish, `least` a lower bound where a person has to act.
    pub(crate) fn failure(&self, pass: &Pass<'_>, asked: Option<Duration>, least: Duration) -> (u32, Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.failures == 0 || pass.begun >= state.not_before {
            state.failures = state.failures.saturating_add(1);
            let doubled = self.initial.saturating_mul(1 << (state.failures - 1).min(20)).min(self.max);
            let own = varied(doubled.max(least));
            let pause = asked.map_or(own, |asked| asked.min(ASKED_MAX).max(own));
            state.not_before = now + pause;
            state.kept_away = asked.is_some() || !least.is_zero();
        }
        state.given_up |= pass.stopping;
        (state.failures, state.not_before.saturating_duration_since(now))
    }

    /// Stopping: from now on nobody waits for a pause to end.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between half of it and all of it, so that a thousand agents do not come back as one.
fn varied(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause / 2 + (pause / 2).mul_f64(random as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn pauses_double_to_the_maximum_and_vary_by_no_more_than_half() {
        let gate = Gate::new(MS, 8 * MS);
        for (round, expected) in [1, 2, 4, 8, 8, 8].into_iter().enumerate() {
            let pass = gate.pass().await.unwrap();
            let (failures, pause) = gate.failure(&pass, None, Duration::ZERO);
            assert_eq!(failures, round as u32 + 1);
            assert!(pause >= expected * MS / 2 && pause <= expected * MS, "{round}: {pause:?}");
        }
        assert_eq!(gate.success(), 6);
        assert!(futures::poll!(pin!(gate.pass())).is_ready(), "open again");
    }

    #[tokio::test]
    async fn attempts_under_way_together_are_one_failure_and_only_one_tries_again() {
        let gate = Gate::new(MS, 8 * MS);
        let together = [gate.pass().await.unwrap(), gate.pass().await.unwrap(), gate.pass().await.unwrap()];
        for pass in &together {
            assert_eq!(gate.failure(pass, None, Duration::ZERO).0, 1);
        }
        let probe = gate.pass().await.unwrap();
        let mut second = pin!(gate.pass());
        assert!(futures::poll!(second.as_mut()).is_pending(), "it waits for the outcome of the first");
        gate.success();
        drop(probe);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn what_the_endpoint_asks_for_is_kept_but_not_for_ever() {
        for (asked, kept) in [(Duration::from_secs(60), Duration::from_secs(60)), (Duration::MAX, ASKED_MAX)] {
            let gate = Gate::new(MS, 2 * MS);
            let pass = gate.pass().await.unwrap();
            assert_eq!(gate.failure(&pass, Some(asked), Duration::ZERO).1, kept);
        }
    }

    /// Closed in the middle of a pause of ten minutes.
    async fn closed_after(asked: Option<Duration>, least: Duration) -> Gate {
        let gate = Gate::new(Duration::from_secs(600), Duration::from_secs(600));
        gate.failure(&gate.pass().await.unwrap(), asked, least);
        let mut waiting = Box::pin(gate.pass());
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        gate.close();
        drop(waiting);
        gate
    }

    #[tokio::test]
    async fn once_it_is_closed_one_more_attempt_is_made_at_once_for_all_who_wait() {
        let gate = closed_after(None, Duration::ZERO).await;
        let last = gate.pass().await.unwrap();
        let mut others = [Box::pin(gate.pass()), Box::pin(gate.pass())];
        for other in &mut others {
            assert!(futures::poll!(other.as_mut()).is_pending(), "it waits for the outcome of the last one");
        }
        gate.failure(&last, None, Duration::ZERO);
        drop(last);
        for other in others {
            assert!(other.await.is_none());
        }

        let gate = closed_after(None, Duration::ZERO).await;
        let last = gate.pass().await.unwrap();
        gate.success();
        let (next, beside) = (gate.pass().await.unwrap(), gate.pass().await.unwrap());
        drop(last);
        gate.failure(&next, None, Duration::ZERO);
        assert!(gate.pass().await.is_none(), "it took some and takes no more");
        drop(beside);
    }

    #[tokio::test]
    async fn once_it_is_closed_nobody_tries_where_the_endpoint_keeps_us_away() {
        for (asked, least) in [(Some(MS), Duration::ZERO), (None, MS)] {
            assert!(closed_after(asked, least).await.pass().await.is_none(), "{asked:?} {least:?}");
        }
    }
}
