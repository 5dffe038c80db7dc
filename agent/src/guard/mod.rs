//! The guard: watches what the agent takes of memory and CPU, and sets the [`Pressure`] under which its inputs and stages work.
//!
//! A thread of its own, as the runtime's may be busy when it matters. Memory is what is resident and what the kernel holds for the
//! agent's maps, against the grant: `limits.memory_bytes_max` or what the control group allows, whichever is less. CPU is the
//! process's time against `limits.cpu_cores_max`. Invariant: the time on each level is in [`Figures`], and each worsening in the log, with
//! what caused it.

mod cgroup;
mod ladder;
mod share;
mod speech;

use crate::config::Limits;
use crate::inputs;
use crate::{runtime, usage};
use cgroup::Cgroup;
pub(crate) use cgroup::OTHERS_PERCENT;
use ladder::Ladder;
use ollystack_record::{Level, Pressure};
use serde::{Deserialize, Serialize};
use share::Share;
use speech::{Line, Speech};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks, while something presses or is near to.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks otherwise.
const GLANCE: Duration = Duration::from_millis(250);
/// A part of the grant, or of the CPU share, below which a glance is enough.
const NEAR: f64 = 0.6;
/// Between two looks at the control group, and between two returns of freed memory to the kernel.
const SELDOM: Duration = Duration::from_secs(1);

/// What the guard saw and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Figures {
    pub(crate) level: Level,
    /// Resident and kernel maps, now and at most.
    pub(crate) used_bytes: u64,
    pub(crate) used_bytes_peak: u64,
    /// The most that it grew from one look to the next, of growth that ended near to the first level or above.
    pub(crate) growth_bytes_max: u64,
    /// What it may be.
    pub(crate) grant_bytes: u64,
    /// By name of the level.
    pub(crate) level_seconds: BTreeMap<String, f64>,
    /// In which inputs had to make up for CPU time.
    pub(crate) cpu_rest_seconds: f64,
}

/// The running guard; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) figures: Arc<Mutex<Figures>>,
    _running: SyncSender<()>,
}

impl Guard {
    /// Watch from now on. `inputs` know of the kernel's maps.
    pub(crate) fn start(limits: &Limits, inputs: Arc<inputs::Figures>) -> std::io::Result<Guard> {
        let watcher = Watcher::new(limits, Cgroup::own(), inputs);
        let (running, stopped) = sync_channel(0);
        let (pressure, figures) = (Arc::clone(&watcher.pressure), Arc::clone(&watcher.figures));
        std::thread::Builder::new().name("guard".into()).spawn(move || watcher.run(&stopped))?;
        Ok(Guard { pressure, figures, _running: running })
    }
}

/// What the agent may take: what it was granted, or what its control group allows if that is less.
pub(crate) fn grant(limits: &Limits) -> u64 {
    Cgroup::own().least(limits.memory_bytes_max)
}

struct Watcher {
    pressure: Arc<Pressure>,
    figures: Arc<Mutex<Figures>>,
    inputs: Arc<inputs::Figures>,
    granted: u64,
    /// The lesser of what was granted and what the control group allows.
    grant: u64,
    cgroup: Cgroup,
    is_stalled: bool,
    ladder: Ladder,
    speech: Speech,
    share: Share,
    cores: f64,
    start: Instant,
    last: Reading,
    seldom: Duration,
}

/// What one look finds.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    /// Since the start.
    at: Duration,
    used_bytes: u64,
    cpu: Duration,
}

impl Watcher {
    fn new(limits: &Limits, cgroup: Cgroup, inputs: Arc<inputs::Figures>) -> Watcher {
        let granted = limits.memory_bytes_max;
        Watcher {
            pressure: Arc::default(),
            figures: Arc::default(),
            inputs,
            granted,
            grant: cgroup.least(granted),
            cgroup,
            is_stalled: false,
            ladder: Ladder::default(),
            speech: Speech::default(),
            share: Share::new(limits.cpu_cores_max),
            cores: limits.cpu_cores_max,
            start: Instant::now(),
            last: Reading { cpu: usage::cpu_time(), ..Reading::default() },
            seldom: Duration::ZERO,
        }
    }

    /// Until the other end of `stop` is dropped.
    fn run(mut self, stop: &Receiver<()>) {
        let mut pause = LOOK;
        while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let used_bytes = usage::resident_bytes() + self.inputs.map_bytes();
            pause = self.take(Reading { at: self.start.elapsed(), used_bytes, cpu: usage::cpu_time() });
        }
    }

    /// Act on a reading; when to look again.
    fn take(&mut self, now: Reading) -> Duration {
        let elapsed = now.at.saturating_sub(self.last.at);
        let worked = now.cpu.saturating_sub(self.last.cpu);
        let growth = now.used_bytes.saturating_sub(self.last.used_bytes);
        self.last = now;
        let is_time = now.at >= self.seldom;
        if is_time {
            self.seldom = now.at + SELDOM;
            self.is_stalled = self.cgroup.is_stalled();
            self.grant = self.cgroup.least(self.granted);
        }
        let before = self.pressure.level();
        let level = self.ladder.step(now.used_bytes, self.grant, self.is_stalled, now.at);
        let rest = self.share.charge(worked, elapsed);
        self.pressure.set_level(level);
        self.pressure.rest(rest);
        let line = self.speech.hear(before, level, elapsed, now.at);
        self.say(line, level, now.used_bytes);
        let is_full = now.used_bytes as f64 > self.grant as f64 * NEAR;
        self.note(before, level, elapsed, rest, if is_full { growth } else { 0 });
        if level >= Level::Shrink && is_time {
            runtime::release_memory();
        }
        let is_near = is_full || (self.cores > 0.0 && worked.as_secs_f64() > elapsed.as_secs_f64() * self.cores * NEAR);
        if level > Level::Calm || !rest.is_zero() || is_near { LOOK } else { GLANCE }
    }

    fn say(&self, line: Option<Line>, level: Level, used_bytes: u64) {
        let (grant_bytes, is_stalled) = (self.grant, self.is_stalled);
        let name = level.name();
        match line {
            Some(Line::Worse) => {
                tracing::warn!(
                    level = name,
                    used_bytes,
                    grant_bytes,
                    is_stalled,
                    "memory presses: {}",
                    measures(level)
                );
            }
            Some(Line::Still(spent)) => {
                tracing::warn!(level = name, used_bytes, grant_bytes, is_stalled, "memory still presses: {spent}");
            }
            Some(Line::Over(spent)) => {
                tracing::info!(used_bytes, grant_bytes, "memory has been calm for a minute; before, {spent}");
            }
            None => {}
        }
    }

    fn note(&self, before: Level, level: Level, elapsed: Duration, rest: Duration, growth_bytes: u64) {
        let used_bytes = self.last.used_bytes;
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.level = level;
        figures.used_bytes = used_bytes;
        figures.used_bytes_peak = figures.used_bytes_peak.max(used_bytes);
        figures.growth_bytes_max = figures.growth_bytes_max.max(growth_bytes);
        figures.grant_bytes = self.grant;
        *figures.level_seconds.entry(before.name().to_owned()).or_default() += elapsed.as_secs_f64();
        figures.cpu_rest_seconds += rest.min(elapsed).as_secs_f64();
    }
}

/// What a level brings, for the log.
fn measures(level: Level) -> &'static str {
    match level {
        Level::Calm => "everything at its usual pace",
        Level::Slow => "log files and the journal are read more slowly, host metrics taken less often",
        Level::Shrink => "windows close early, waiting traces are decided",
        Level::Lean => "OTLP is refused with a time to come back, kernel events come without heads",
        Level::Shed => "what cannot wait is dropped, reason memory_limit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(limits: Limits) -> Watcher {
        Watcher::new(&limits, Cgroup::default(), Arc::default())
    }

    fn reading(ms: u64, megabytes: u64, cpu_ms: u64) -> Reading {
        Reading {
            at: Duration::from_millis(ms),
            used_bytes: megabytes << 20,
            cpu: usage::cpu_time() + Duration::from_millis(cpu_ms),
        }
    }

    #[test]
    fn what_is_used_becomes_pressure_and_figures() {
        let mut guard = watcher(Limits { cpu_cores_max: 0.0, ..Limits::default() });
        assert_eq!(guard.take(reading(250, 30, 0)), GLANCE);
        assert_eq!(guard.take(reading(500, 65, 0)), LOOK, "near the first level it looks closely");
        guard.take(reading(600, 90, 0));
        assert_eq!(guard.pressure.level(), Level::Lean);
        guard.take(reading(700, 60, 0));
        let figures = guard.figures.lock().unwrap().clone();
        assert_eq!((figures.level, figures.used_bytes >> 20, figures.used_bytes_peak >> 20), (Level::Lean, 60, 90));
        assert_eq!(figures.growth_bytes_max >> 20, 35, "from 30 to 65, which is near; from nothing to 30 is not");
        let seconds = figures.level_seconds;
        assert!((seconds["calm"] - 0.6).abs() < 1e-9 && (seconds["lean"] - 0.1).abs() < 1e-9, "{seconds:?}");
    }

    #[test]
    fn more_cpu_time_than_the_share_makes_inputs_rest() {
        let mut guard = watcher(Limits { cpu_cores_max: 0.1, ..Limits::default() });
        guard.last.cpu = Duration::ZERO;
        let cpu = |at_ms, cpu_ms| Reading {
            at: Duration::from_millis(at_ms),
            cpu: Duration::from_millis(cpu_ms),
            used_bytes: 0,
        };
        guard.take(cpu(1_000, 90));
        assert!(guard.pressure.cpu_pause().is_zero());
        assert_eq!(guard.take(cpu(1_100, 290)), LOOK);
        assert!(guard.pressure.cpu_pause() > Duration::from_secs(1));
        assert!(guard.figures.lock().unwrap().cpu_rest_seconds > 0.09);
    }

    #[test]
    fn the_guard_s_own_look_finds_this_process() {
        let guard = Guard::start(&Limits::default(), Arc::default()).unwrap();
        while guard.figures.lock().unwrap().used_bytes == 0 {
            std::thread::yield_now();
        }
        assert!(guard.figures.lock().unwrap().grant_bytes <= Limits::default().memory_bytes_max);
    }
}
