//! Folding: many samples of a series become one point per window.
//!
//! Samples come in by [`Fold::take`], derived measurements (RED) by [`Fold::observe`]. Windows close on [`Fold::tick`] after their end
//! and a grace for late samples, and leave by [`Fold::hand_out`] as reduced batches, a portion at a time: until then they wait as
//! they were folded, which takes a fifth of what their points do. Windows are aligned to the clock, so that hosts agree.
//! A sample goes into the window of its own time; one that is older than every open window opens its own, which leaves when
//! windows of its length close next: deltas add up, so two points of one window mean the same as one. Of a series that has as many
//! windows open as it may, the nearest takes it. A time that is zero or in the future by more than a window is not believed: the
//! agent's own time is taken.
//!
//! A window that says what the one before it said is held back and joins a run (`run.rs`). Past a limit on series or bytes, an
//! overflow series per resource and metric (attribute `otel.metric.overflow`) takes levels and deltas; totals cannot be added without
//! their history and are dropped, counted. Known series go on past the limit on bytes: numbers fold in place, exponential histograms
//! in coarser buckets, exemplars are left out, and only what can be put nowhere is dropped.
//!
//! In the books what is open waits in windows, and what closed waits for the freezer, until it is handed out.
//!
//! Invariants: what is held takes no more than `bytes_max`, and is counted to the byte (`memory.rs`); every sample is folded, opens a window, is suppressed by rule, or is dropped and counted; what waits is counted when
//! it begins and ceases to.

mod bounds;
mod checkpoint;
mod config;
mod exponential;
mod histogram;
mod increase;
mod memory;
mod metrics;
mod past;
mod resources;
mod run;
mod slab;
mod state;
mod table;
mod take;
#[cfg(test)]
mod tests;
mod times;
mod window;
mod wire;

pub use checkpoint::{CheckpointError, Restored};
pub use config::{Config, Gauges, Rule};
pub use state::Measurement;
pub use table::Rewrite;

use ollystack_record::{DropReason, Ledger, Place, Reduced, Resource, Sample, Series, Signal, Source};
use ollystack_schema::names::HISTOGRAM_SCALE;
use std::collections::VecDeque;
use std::sync::Arc;
use table::{Found, Nowhere, Table};
use take::{take_one, touch};
use times::{NANOS_PER_MS, Step, Times};
use window::{Closed, Closing, Taken};

/// How often idle series are looked for.
const IDLE_CHECK_NANOS: u64 = 60_000 * NANOS_PER_MS;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The folder. One owner, no clock of its own.
#[derive(Debug)]
pub struct Fold {
    ledger: Arc<Ledger>,
    table: Table,
    times: Times,
    /// No window and no run is due before.
    next_close: u64,
    /// Points that will come of what is open.
    waiting: u64,
    /// Windows on their way out.
    closed: VecDeque<Closed>,
    /// Whether these wait for a checkpoint, how many of them came before the last one, and how many may leave.
    holds_closed: bool,
    sealed: usize,
    free: usize,
    /// Of the last checkpoint.
    checkpoint_bytes: usize,
    overflowed: u64,
    idle_checked: u64,
}

/// Which windows close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Those whose time has come.
    Due,
    /// All that are open; what does not move goes on being held back.
    Open,
    All,
}

/// What the folder holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Series known.
    pub series: usize,
    /// Points that wait: open windows, and runs of what does not move.
    pub windows: u64,
    /// Windows that closed and have not left.
    pub closed: usize,
    /// Samples that went into overflow series since the start.
    pub overflowed: u64,
    /// Bytes of the table of series, labels and histograms left out.
    pub table_bytes: usize,
    /// Bytes of the labels of all series.
    pub label_bytes: usize,
    /// Bytes of all that is held, at most `bytes_max`.
    pub bytes: usize,
}

impl Fold {
    /// An empty folder.
    pub fn new(config: Config, ledger: Arc<Ledger>) -> Fold {
        let times = Times::new(&config);
        let table = Table::new(config);
        Fold {
            ledger,
            table,
            times,
            next_close: u64::MAX,
            waiting: 0,
            closed: VecDeque::new(),
            holds_closed: false,
            sealed: 0,
            free: 0,
            checkpoint_bytes: 0,
            overflowed: 0,
            idle_checked: 0,
        }
    }

    /// From now on nothing escapes: totals that begin later count in full. Without this, that is from the first sample or tick on.
    pub fn begin(&mut self, now: u64) {
        self.times.begin(now);
    }

    /// Let `rewrite` say, when a series is first seen, under which labels it goes out.
    pub fn rewrite_with(&mut self, rewrite: Rewrite) {
        self.table.rewrite_with(rewrite);
    }

    /// Fold samples of one resource.
    pub fn take(&mut self, source: Source, resource: &Arc<Resource>, samples: Vec<Sample>, now: u64) {
        self.times.begin(now);
        let owner = self.table.resources.number(resource);
        let (mut folded, mut refused, mut malformed, mut unwanted) = (0, 0, 0, 0);
        for sample in samples {
            match self.table.find(source, owner, &sample.series) {
                Ok(found) => {
                    let (overflow, window) = (found.entry.overflow, found.known.window);
                    let taken = take_one(found, sample, &self.times, now);
                    self.overflowed += u64::from(overflow && matches!(taken, Taken::Opened | Taken::Folded));
                    match taken {
                        Taken::Opened => {
                            self.waiting += 1;
                            self.next_close = self.next_close.min(self.times.next_close(now, window));
                        }
                        Taken::Folded => folded += 1,
                        Taken::Refused => refused += 1,
                        Taken::Malformed => malformed += 1,
                    }
                }
                Err(Nowhere::Full) => refused += 1,
                Err(Nowhere::Unwanted) => unwanted += 1,
            }
        }
        self.table.resources.forget_unused(owner.number);
        self.ledger.folded(Signal::Metrics, folded);
        self.ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, refused);
        self.ledger.dropped(Signal::Metrics, DropReason::Malformed, malformed);
        self.ledger.suppressed(Signal::Metrics, unwanted);
        self.tell();
    }

    /// Record one measurement of an exponential histogram that the agent itself derives. The point that this opens is seen here
    /// for the first time; a measurement is no record of its own, but one that finds no room is seen and dropped.
    pub fn observe(&mut self, resource: &Arc<Resource>, series: &Arc<Series>, measurement: &Measurement<'_>, now: u64) {
        self.times.begin(now);
        let owner = self.table.resources.number(resource);
        let taken = match self.table.find(Source::Agent, owner, series) {
            Err(Nowhere::Unwanted) => return self.table.resources.forget_unused(owner.number),
            Err(Nowhere::Full) => {
                self.table.resources.forget_unused(owner.number);
                Taken::Refused
            }
            Ok(Found { entry, known, alias, memory, .. }) => {
                touch(entry, alias.map(|alias| &mut alias.touched), now);
                let time = Times::believed(measurement.time_unix_nano, now, known.window);
                let (start, end) = self.times.window(time, known.window);
                self.next_close = self.next_close.min(self.times.next_close(now, known.window));
                let before = entry.heap_bytes();
                let taken = entry.measure(start, end, HISTOGRAM_SCALE, measurement, memory.room());
                memory.change(before, entry.heap_bytes());
                taken
            }
        };
        match taken {
            Taken::Folded => return,
            Taken::Opened => self.waiting += 1,
            Taken::Refused | Taken::Malformed => self.ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, 1),
        }
        self.ledger.seen(Signal::Metrics, 1);
        self.tell();
    }

    /// Close what is due.
    pub fn tick(&mut self, now: u64) {
        self.times.begin(now);
        let early = self.times.first_close_is_due(now);
        let step = self.times.step(now);
        if early || step == Step::Back || now >= self.next_close {
            self.close(now, if early { Which::Open } else { Which::Due });
        }
        match step {
            Step::None => {}
            Step::Back => self.table.disbelieve_after(now),
            // Nobody was idle, time was not there.
            Step::Forth => self.table.touch_all(seconds(now)),
        }
        if self.closed.is_empty() && now.abs_diff(self.idle_checked) >= IDLE_CHECK_NANOS {
            self.idle_checked = now;
            let idle = seconds(now.saturating_sub(self.table.config().idle_ms * NANOS_PER_MS));
            self.forget_idle(idle, idle, now);
        }
    }

    /// Close everything: the agent stops.
    pub fn drain(&mut self, now: u64) {
        self.times.closed_until = now;
        self.close(now, Which::All);
    }

    /// Memory is short: close what is open, forget levels and deltas that were idle for a window, and give back what tables no longer
    /// need. What comes next makes points of its own, from now on.
    pub fn relieve(&mut self, now: u64) {
        // First, as what closes is on its way then, and that is so each time.
        let Config { window_ms, idle_ms, .. } = *self.table.config();
        let since = |ms: u64| seconds(now.saturating_sub(ms * NANOS_PER_MS));
        self.forget_idle(since(window_ms), since(idle_ms), now);
        self.times.closed_until = now;
        self.close(now, Which::Open);
    }

    /// Whether memory is so short that new series are held to half of the limits; those that are known stay.
    pub fn tighten(&mut self, tight: bool) {
        self.table.tighten(tight);
    }

    /// Whether windows that closed leave only after a checkpoint without them ([`Fold::let_go`]). At first they do not wait.
    pub fn hold_closed(&mut self, hold: bool) {
        self.holds_closed = hold;
        if !hold {
            self.free = self.closed.len();
        }
    }

    /// The last checkpoint is where it was to go: what had closed before it may leave.
    pub fn let_go(&mut self) {
        self.free = self.free.max(self.sealed);
    }

    /// Windows that closed and wait for a checkpoint without them: the one before has them.
    pub fn sheltered(&self) -> u64 {
        (self.closed.len() - self.free) as u64
    }

    /// Append points of closed windows that may leave to `out`, about so many bytes of them. True: there are more.
    pub fn hand_out(&mut self, now: u64, bytes_max: usize, out: &mut Vec<Reduced>) -> bool {
        if self.free == 0 {
            return false;
        }
        let before = self.closed.len();
        wire::emit(&mut self.closed, self.free, bytes_max, &mut self.table, now, out);
        let gone = before - self.closed.len();
        self.ledger.waiting_add(Signal::Metrics, Place::Freezer, -(gone as i64));
        self.free -= gone;
        self.sealed = self.sealed.saturating_sub(gone);
        if self.closed.is_empty() {
            self.closed = VecDeque::new();
        }
        self.free > 0
    }

    /// What is held now.
    pub fn stats(&self) -> Stats {
        Stats {
            series: self.table.len(),
            windows: self.waiting,
            closed: self.closed.len(),
            overflowed: self.overflowed,
            table_bytes: self.table.bytes(),
            label_bytes: self.table.label_bytes(),
            bytes: self.table.held_bytes() + self.closed.capacity() * size_of::<Closed>(),
        }
    }

    /// Close windows, and runs that are over.
    fn close(&mut self, now: u64, which: Which) {
        let constant = self.table.config().constant_ms * NANOS_PER_MS;
        let mut closing = Closing { now, constant, closed: Vec::new(), suppressed: 0 };
        let times = &self.times;
        let Table { entries, metrics, memory, .. } = &mut self.table;
        let mut next_close = u64::MAX;
        for (number, entry) in entries.iter_mut() {
            let Some(length) = metrics.get(entry.metric).map(|known| known.window) else { continue };
            // A window from a time that has not come: the clock was set back. Waiting for it could take for ever.
            let unreachable = now.saturating_add(length.saturating_mul(2));
            let due = |end| which != Which::Due || times.due(end) <= now || end > unreachable;
            // The window behind it would have been closed by now.
            let silent =
                |end: u64| which == Which::All || times.due(end.saturating_add(length)) <= now || end > unreachable;
            let (before, from) = (entry.heap_bytes(), closing.closed.len());
            entry.close(number, due, silent, &mut closing);
            let leaving: usize = closing.closed.iter().skip(from).map(Closed::heap_bytes).sum();
            memory.change(before, entry.heap_bytes() + leaving);
            if entry.waiting() > 0 {
                next_close = next_close.min(times.next_close(now, length));
            }
        }
        self.next_close = next_close;
        let Closing { mut closed, suppressed, .. } = closing;
        self.waiting -= closed.len() as u64 + suppressed;
        self.ledger.suppressed(Signal::Metrics, suppressed);
        wire::sort(&mut closed, &self.table.metrics);
        self.ledger.waiting_add(Signal::Metrics, Place::Freezer, closed.len() as i64);
        self.closed.extend(closed);
        if !self.holds_closed {
            self.free = self.closed.len();
        }
        self.table.forget_unused();
        self.tell();
    }

    /// Forget series that were idle since then, and running totals; in seconds. Not while windows of them are on their way.
    fn forget_idle(&mut self, before: u32, totals_before: u32, now: u64) {
        if self.closed.is_empty() && self.table.forget_idle(before, totals_before) {
            // A total that comes back brings what was counted before it was forgotten: only younger ones count in full.
            self.times.watched_since = now;
        }
    }

    fn tell(&self) {
        self.ledger.waiting_set(Signal::Metrics, Place::Window, self.waiting);
    }
}

fn seconds(nanos: u64) -> u32 {
    u32::try_from(nanos / NANOS_PER_SECOND).unwrap_or(u32::MAX)
}
