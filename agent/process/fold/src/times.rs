//! When windows begin, end and close.
//!
//! Windows are aligned to the clock, so that hosts agree. Invariant: windows of one length close together, at a whole multiple of
//! it plus the grace, so that their points leave in few batches and between two closings there is nothing to look for.

use super::config::Config;

/// Nanoseconds in a millisecond.
pub(super) const NANOS_PER_MS: u64 = 1_000_000;

/// How far the clock may go back without being called a step: adjustments are far smaller.
const BACK_NANOS: u64 = 2_000 * NANOS_PER_MS;

/// How far it may go forth between two ticks, of which there are several a second.
const FORTH_NANOS: u64 = 60_000 * NANOS_PER_MS;

/// What the clock did between two ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It went on.
    None,
    /// It was set back.
    Back,
    /// It was set forth, or the host slept.
    Forth,
}

/// All in nanoseconds, since the epoch where it is a moment.
#[derive(Debug)]
pub(super) struct Times {
    grace: u64,
    first_window: u64,
    /// Since when nothing escaped the agent: totals that began later count in full. 0 until the first call.
    pub(super) watched_since: u64,
    /// When the short first window closes; 0 once it did.
    pub(super) first_close: u64,
    /// The latest close before its time: what comes after belongs to a window that starts here.
    pub(super) closed_until: u64,
    /// The latest tick.
    latest: u64,
}

impl Times {
    pub(super) fn new(config: &Config) -> Times {
        Times {
            grace: config.grace_ms * NANOS_PER_MS,
            first_window: config.first_window_ms * NANOS_PER_MS,
            watched_since: 0,
            first_close: 0,
            closed_until: 0,
            latest: 0,
        }
    }

    pub(super) fn begin(&mut self, now: u64) {
        if self.watched_since == 0 {
            self.watched_since = now;
            self.first_close = now.saturating_add(self.first_window);
        }
    }

    /// True once, when the short first window is over.
    pub(super) fn first_close_is_due(&mut self, now: u64) -> bool {
        let due = self.first_close != 0 && now >= self.first_close;
        if due {
            (self.first_close, self.closed_until) = (0, now);
        }
        due
    }

    /// What the clock did since the last call. Set back, moments that have not come are forgotten.
    pub(super) fn step(&mut self, now: u64) -> Step {
        let latest = std::mem::replace(&mut self.latest, now);
        if now.saturating_add(BACK_NANOS) < latest {
            self.watched_since = self.watched_since.min(now);
            self.first_close = self.first_close.min(now.saturating_add(self.first_window));
            Step::Back
        } else if latest != 0 && now > latest.saturating_add(FORTH_NANOS) {
            Step::Forth
        } else {
            self.latest = latest.max(now);
            Step::None
        }
    }

    /// When a sample was taken that says it was then. A time that is zero, or in the future by more than a window, is not believed.
    pub(super) fn believed(time_unix_nano: u64, now: u64, length: u64) -> u64 {
        let believable = time_unix_nano != 0 && time_unix_nano <= now.saturating_add(length);
        if believable { time_unix_nano } else { now }
    }

    /// The window of this length that a sample of this [believed](Times::believed) time belongs to.
    pub(super) fn window(&self, time: u64, length: u64) -> (u64, u64) {
        let start = time - time % length;
        let end = start.saturating_add(length);
        let cut = (start..end).contains(&self.closed_until) && time >= self.closed_until;
        (if cut { self.closed_until } else { start }, end)
    }

    /// When a window that ends then is closed.
    pub(super) fn due(&self, end_unix_nano: u64) -> u64 {
        end_unix_nano.saturating_add(self.grace)
    }

    /// When windows of this length close next.
    pub(super) fn next_close(&self, now: u64, length: u64) -> u64 {
        let passed = now.saturating_sub(self.grace);
        self.due((passed - passed % length).saturating_add(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_one_length_close_together() {
        let times = Times::new(&Config { grace_ms: 2, ..Config::default() });
        let (length, ms) = (60 * NANOS_PER_MS, NANOS_PER_MS);
        for (now, expected) in [(0, 62), (1, 62), (61, 62), (62, 122), (63, 122), (121, 122), (122, 182)] {
            assert_eq!(times.next_close(now * ms, length), expected * ms, "{now}");
        }
        assert_eq!(times.due(60 * ms), 62 * ms);
    }
}
