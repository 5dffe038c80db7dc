//! Folding: many samples of a series become one point per window.
//!
//! Samples come in by [`Fold::take`], derived measurements (RED) by [`Fold::observe`]; points leave as reduced batches on
//! [`Fold::tick`] after their window's end and a grace for late samples. Windows are aligned to the clock, so that hosts agree.
//! A sample goes into the window of its own time; one that is older than every open window opens its own, which closes at the
//! next tick: deltas add up, so two points of one window mean the same as one. A time that is zero or in the future by more
//! than a window is not believed: the agent's own time is taken.
//!
//! Past the limit on series, an overflow series per resource and metric (attribute `otel.metric.overflow`) takes levels and
//! deltas; totals cannot be added without their history and are dropped, counted.
//!
//! Invariant: every sample is folded, opens a window, or is dropped and counted; open windows are measured, not derived.

mod config;
mod exponential;
mod histogram;
mod increase;
mod state;
mod table;
#[cfg(test)]
mod tests;
mod window;
mod wire;

pub use config::{Config, Gauges};

use exponential::Exponential;
use histogram::Explicit;
use increase::{Increase, Total, increase};
use ollystack_record::otlp::metrics::v1::Exemplar;
use ollystack_record::{DropReason, Kind, Ledger, Place, Reduced, Resource, Sample, Series, Signal, Source, Value};
use ollystack_schema::names::HISTOGRAM_SCALE;
use state::{Level, Number, State};
use std::sync::Arc;
use table::{Found, Table};
use window::{Closed, Entry, Taken};

const NANOS_PER_MS: u64 = 1_000_000;

/// How often idle series are looked for.
const IDLE_CHECK_NANOS: u64 = 60_000 * NANOS_PER_MS;

/// The folder. One owner, no clock of its own.
#[derive(Debug)]
pub struct Fold {
    config: Config,
    ledger: Arc<Ledger>,
    table: Table,
    times: Times,
    overflowed: u64,
    open: u64,
    idle_checked: u64,
}

/// What the folder holds and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Series known.
    pub series: usize,
    /// Windows open: points that wait.
    pub windows: u64,
    /// Samples that went into overflow series since the start.
    pub overflowed: u64,
}

impl Fold {
    /// An empty folder.
    pub fn new(config: Config, ledger: Arc<Ledger>) -> Fold {
        let table = Table::new(&config);
        let times = Times { window: config.window_ms.max(1) * NANOS_PER_MS, ..Times::default() };
        Fold { config, ledger, table, times, overflowed: 0, open: 0, idle_checked: 0 }
    }

    /// Fold samples of one resource.
    pub fn take(&mut self, source: Source, resource: &Arc<Resource>, samples: Vec<Sample>, now: u64) {
        self.times.begin(now, self.config.first_window_ms);
        let (mut folded, mut refused) = (0, 0);
        for sample in samples {
            let (entry, overflow) = match self.table.find(source, resource, &sample.series) {
                Found::Own(entry) => (entry, false),
                Found::Overflow(entry) => (entry, true),
                Found::Full => {
                    refused += 1;
                    continue;
                }
            };
            let taken = take_one(entry, sample, &self.times, now);
            self.overflowed += u64::from(overflow && taken != Taken::Refused);
            match taken {
                Taken::Opened => self.open += 1,
                Taken::Folded => folded += 1,
                Taken::Refused => refused += 1,
            }
        }
        self.ledger.folded(Signal::Metrics, folded);
        self.ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, refused);
        self.measure();
    }

    /// Record one measurement of an exponential histogram that the agent itself derives. The point that this opens is seen here
    /// for the first time; a measurement is no record of its own, but one that finds no room is seen and dropped.
    pub fn observe(
        &mut self,
        resource: &Arc<Resource>,
        series: &Arc<Series>,
        measured: f64,
        exemplar: Option<Exemplar>,
        time_unix_nano: u64,
        now: u64,
    ) {
        self.times.begin(now, self.config.first_window_ms);
        let taken = match self.table.find(Source::Agent, resource, series) {
            Found::Full => Taken::Refused,
            Found::Own(entry) | Found::Overflow(entry) => {
                entry.touched_unix_nano = now;
                let mut histogram = Exponential::new(HISTOGRAM_SCALE);
                histogram.record(measured);
                let (start, end) = self.times.window(time_unix_nano, now);
                entry.fold(start, end, State::Exponential(Box::new(histogram)), exemplar.into_iter().collect())
            }
        };
        match taken {
            Taken::Folded => return,
            Taken::Opened => self.open += 1,
            Taken::Refused => self.ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, 1),
        }
        self.ledger.seen(Signal::Metrics, 1);
        self.measure();
    }

    /// Close what is due.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.times.begin(now, self.config.first_window_ms);
        let early = self.times.first_close_is_due(now);
        let (grace, window) = (self.config.grace_ms * NANOS_PER_MS, self.times.window);
        // A window from a time that has not come: the clock was set back. Waiting for it could take for ever.
        let unreachable = now.saturating_add(window.saturating_mul(2));
        self.close(
            now,
            |w| early || w.end_unix_nano.saturating_add(grace) <= now || w.end_unix_nano > unreachable,
            out,
        );
        if now.abs_diff(self.idle_checked) >= IDLE_CHECK_NANOS {
            self.idle_checked = now;
            if self.table.forget_idle(now.saturating_sub(self.config.idle_ms * NANOS_PER_MS)) {
                // A total that comes back brings what was counted before it was forgotten: only younger ones count in full.
                self.times.watched_since = now;
            }
        }
    }

    /// Close everything: the agent stops.
    pub fn drain(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.times.closed_until = now;
        self.close(now, |_| true, out);
    }

    /// What is held now.
    pub fn stats(&self) -> Stats {
        Stats { series: self.table.len(), windows: self.open, overflowed: self.overflowed }
    }

    fn close(&mut self, now: u64, due: impl Fn(&window::Window) -> bool, out: &mut Vec<Reduced>) {
        let mut closed: Vec<Closed> = Vec::new();
        for entry in self.table.iter_mut() {
            entry.close(now, &due, &mut closed);
        }
        if !closed.is_empty() {
            self.open -= closed.len() as u64;
            wire::emit(closed, self.config.gauges, out);
            self.measure();
        }
    }

    fn measure(&self) {
        self.ledger.waiting_set(Signal::Metrics, Place::Window, self.open);
    }
}

/// When windows begin and end.
#[derive(Debug, Default)]
struct Times {
    window: u64,
    /// When the agent began to watch, or last forgot a total; 0 until the first call.
    watched_since: u64,
    /// When the short first window closes; 0 once it did.
    first_close: u64,
    /// The latest close before its time: what comes after belongs to a window that starts here.
    closed_until: u64,
}

impl Times {
    fn begin(&mut self, now: u64, first_window_ms: u64) {
        if self.watched_since == 0 {
            self.watched_since = now;
            self.first_close = now.saturating_add(first_window_ms * NANOS_PER_MS);
        }
    }

    fn first_close_is_due(&mut self, now: u64) -> bool {
        let due = self.first_close != 0 && now >= self.first_close;
        if due {
            (self.first_close, self.closed_until) = (0, now);
        }
        due
    }

    /// The window that a sample of this time belongs to.
    fn window(&self, time_unix_nano: u64, now: u64) -> (u64, u64) {
        let believable = time_unix_nano != 0 && time_unix_nano <= now.saturating_add(self.window);
        let time = if believable { time_unix_nano } else { now };
        let start = time - time % self.window;
        let end = start.saturating_add(self.window);
        let start = if (start..end).contains(&self.closed_until) && time >= self.closed_until {
            self.closed_until
        } else {
            start
        };
        (start, end)
    }
}

fn take_one(entry: &mut Entry, sample: Sample, times: &Times, now: u64) -> Taken {
    let Sample { series, start_unix_nano, time_unix_nano, value, mut exemplars, .. } = sample;
    entry.touched_unix_nano = now;
    let (start, end) = times.window(time_unix_nano, now);
    let (state, cumulative) = match value {
        Value::Missing => return entry.fold(start, end, State::Missing, exemplars),
        // Not a measurement; added up, it would take the window's others with it.
        Value::Double(value) if value.is_nan() => return entry.fold(start, end, State::Missing, exemplars),
        Value::Int(value) => number(series.metric.kind, Number::Int(value), time_unix_nano),
        Value::Double(value) => number(series.metric.kind, Number::Double(value), time_unix_nano),
        Value::Histogram(mut point) => {
            exemplars.append(&mut point.exemplars);
            match Explicit::from_point(&point) {
                Some(histogram) => (
                    State::Explicit(Box::new(histogram)),
                    matches!(series.metric.kind, Kind::Histogram { delta: false }),
                ),
                None => return Taken::Refused,
            }
        }
        Value::ExponentialHistogram(mut point) => {
            exemplars.append(&mut point.exemplars);
            let cumulative = matches!(series.metric.kind, Kind::ExponentialHistogram { delta: false });
            (State::Exponential(Box::new(Exponential::from_point(&point))), cumulative)
        }
        Value::Summary(point) => (State::Summary(Box::new((time_unix_nano, *point))), false),
    };
    if !cumulative {
        return entry.fold(start, end, state, exemplars);
    }
    if entry.overflow {
        // Totals of several series cannot be told apart here, and their increases not be known.
        return Taken::Refused;
    }
    let total = match state {
        State::Sum(number) => Total::Number(number),
        State::Explicit(histogram) => Total::Explicit(histogram),
        State::Exponential(histogram) => Total::Exponential(histogram),
        other => return entry.fold(start, end, other, exemplars),
    };
    let zero = total.zero();
    match increase(&mut entry.previous, start_unix_nano, time_unix_nano, total, times.watched_since) {
        Increase::By(total) => entry.fold(start, end, total.into_state(), exemplars),
        // The series is there and has not moved under our eyes: a point of zero says so.
        Increase::Baseline => entry.fold(start, end, zero.into_state(), exemplars),
        Increase::Covered => Taken::Folded,
    }
}

/// A number's state, and whether it is a total.
fn number(kind: Kind, value: Number, time_unix_nano: u64) -> (State, bool) {
    match kind {
        Kind::Sum { monotonic: true, delta } => (State::Sum(value), !delta),
        Kind::Sum { monotonic: false, delta: true } => (State::Sum(value), false),
        _ => (State::Level(Level::new(value, time_unix_nano)), false),
    }
}
