//! How hard memory and CPU press, for whoever can slow down: set by the agent's guard, read wherever records enter or wait.
//!
//! Memory has levels, a ladder of measures in which each includes those before it; CPU has a moment before which inputs rest. Reading
//! costs an atomic load. Invariant: without a guard nothing presses.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A rung of the ladder. Up at once, down one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// Nothing is asked of anybody.
    #[default]
    Calm,
    /// Log files and the journal are read half of the time; the host's metrics half as often.
    Slow,
    /// Windows close early, waiting traces are decided, caches are trimmed, freed memory goes back to the kernel.
    Shrink,
    /// Kernel events without the heads of requests; OTLP is refused, its senders told when to come back.
    Lean,
    /// What cannot wait is dropped and counted where it would enter.
    Shed,
}

impl Level {
    /// All, from the lowest.
    pub const ALL: [Level; 5] = [Level::Calm, Level::Slow, Level::Shrink, Level::Lean, Level::Shed];

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        ["calm", "slow", "shrink", "lean", "shed"][self as usize]
    }

    /// How many times its usual interval whoever samples is to wait.
    pub fn stretch(self) -> u32 {
        [1, 2, 4, 8, 8][self as usize]
    }

    /// For how much of each [`PERIOD`] those that can wait may work.
    fn open(self) -> Duration {
        PERIOD / [1, 2, 4, 8, 1][self as usize]
    }
}

/// Those that can wait work at the beginning of each, the less the higher the level. Short against every time-out.
const PERIOD: Duration = Duration::from_millis(400);
/// CPU time borrowed for longer than this is not left to what cannot wait either.
const DEEP: Duration = Duration::from_millis(500);

/// The gauge that guard and inputs share.
#[derive(Debug)]
pub struct Pressure {
    start: Instant,
    level: AtomicU8,
    /// Milliseconds after `start` until which CPU time is borrowed.
    rest_until_ms: AtomicU64,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure { start: Instant::now(), level: AtomicU8::new(0), rest_until_ms: AtomicU64::new(0) }
    }
}

impl Pressure {
    /// Of memory, now.
    pub fn level(&self) -> Level {
        Level::ALL[usize::from(self.level.load(Relaxed)).min(Level::ALL.len() - 1)]
    }

    /// For the guard: memory presses so much from now on.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Relaxed);
    }

    /// For the guard: so much CPU time is to be made up for, from now on. Zero when the share is kept.
    pub fn rest(&self, time: Duration) {
        let until = if time.is_zero() { Duration::ZERO } else { self.start.elapsed() + time };
        self.rest_until_ms.store(until.as_millis() as u64, Relaxed);
    }

    /// How long an input whose source keeps what is not read should wait now, as memory or CPU press. Zero: go on.
    pub fn pause(&self) -> Duration {
        let now = self.start.elapsed();
        self.cpu_pause_at(now).max(memory_pause(self.level(), now))
    }

    /// How long to wait for CPU alone.
    pub fn cpu_pause(&self) -> Duration {
        self.cpu_pause_at(self.start.elapsed())
    }

    /// Whether so much CPU time is borrowed that events which cannot wait are left to be lost, and counted, too.
    pub fn is_overdrawn(&self) -> bool {
        self.cpu_pause() > DEEP
    }

    fn cpu_pause_at(&self, now: Duration) -> Duration {
        Duration::from_millis(self.rest_until_ms.load(Relaxed)).saturating_sub(now)
    }
}

/// Until those that can wait may work again.
fn memory_pause(level: Level, now: Duration) -> Duration {
    if level == Level::Calm {
        return Duration::ZERO;
    }
    let phase = Duration::from_nanos((now.as_nanos() % PERIOD.as_nanos()) as u64);
    if phase < level.open() && level != Level::Shed { Duration::ZERO } else { PERIOD - phase }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_can_wait_work_the_less_the_higher_the_level_and_not_at_all_at_the_highest() {
        let worked = Level::ALL
            .map(|level| (0..400).filter(|ms| memory_pause(level, Duration::from_millis(*ms)).is_zero()).count());
        assert_eq!(worked, [400, 200, 100, 50, 0]);
        let before_the_next = Duration::from_millis(1_190);
        assert_eq!(memory_pause(Level::Slow, before_the_next), Duration::from_millis(10), "it ends with the period");
    }

    #[test]
    fn what_is_borrowed_of_the_cpu_is_waited_for_and_deep_debt_spares_nobody() {
        let pressure = Pressure::default();
        assert!(pressure.pause().is_zero() && !pressure.is_overdrawn(), "nothing presses without a guard");
        pressure.rest(Duration::from_secs(400));
        assert!(pressure.pause() > Duration::from_secs(300) && pressure.cpu_pause() > Duration::from_secs(300));
        assert!(pressure.is_overdrawn());
        pressure.rest(Duration::ZERO);
        assert!(pressure.cpu_pause().is_zero() && !pressure.is_overdrawn());
    }

    #[test]
    fn memory_alone_makes_nobody_wait_for_cpu() {
        let pressure = Pressure::default();
        pressure.set_level(Level::Shed);
        assert_eq!((pressure.level(), pressure.cpu_pause()), (Level::Shed, Duration::ZERO));
        assert!(!pressure.pause().is_zero());
    }
}
