//! One sample to what a window folds: a level, an increase, a histogram.
//!
//! Totals become increases here, each against its own last one. Invariants: a sample is folded, opens a window or is refused; none
//! is folded twice; what a sample makes a series hold aside is counted, and there was room for it.

use super::exponential::Exponential;
use super::histogram::{Explicit, is_valid};
use super::increase::{Increase, Previous, Total, increase};
use super::seconds;
use super::state::{Level, Number, State, is_level};
use super::table::Found;
use super::times::Times;
use super::window::{Entry, Taken};
use ollystack_record::{Kind, Sample, Value};

/// A sample came.
pub(super) fn touch(entry: &mut Entry, alias: Option<&mut u32>, now: u64) {
    entry.touched = seconds(now);
    if let Some(alias) = alias {
        *alias = entry.touched;
    }
}

/// Fold one sample where it belongs.
pub(super) fn take_one(found: Found<'_>, sample: Sample, times: &Times, now: u64) -> Taken {
    let Found { entry, known, alias, shared, memory, bounds } = found;
    let Sample { series, start_unix_nano, time_unix_nano, value, mut exemplars, .. } = sample;
    let (alias, touched) = alias.map(|alias| (&mut alias.previous, &mut alias.touched)).unzip();
    touch(entry, touched, now);
    // Of a total, too: one from a time that never comes would cover all that follow it.
    let time_unix_nano = Times::believed(time_unix_nano, now, known.window);
    let kind = series.metric.kind;
    let (state, cumulative) = match value {
        Value::Int(value) => number(kind, Number::Int(value), time_unix_nano),
        // Not a measurement; added up, it would take the window's others with it.
        Value::Double(value) if value.is_nan() => (State::Missing, false),
        Value::Double(value) => number(kind, Number::Double(value), time_unix_nano),
        Value::Missing => (State::Missing, false),
        Value::Histogram(mut point) => {
            if !is_valid(&point) {
                return Taken::Malformed;
            }
            if bounds.growth(&point.explicit_bounds) > memory.room() {
                return Taken::Refused;
            }
            exemplars.append(&mut point.exemplars);
            let before = bounds.bytes();
            let histogram = Explicit::from_point(*point, bounds);
            memory.change(before, bounds.bytes());
            (State::Explicit(Box::new(histogram)), kind == Kind::Histogram { delta: false })
        }
        Value::ExponentialHistogram(mut point) => {
            exemplars.append(&mut point.exemplars);
            let cumulative = kind == Kind::ExponentialHistogram { delta: false };
            (State::Exponential(Box::new(Exponential::from_point(&point))), cumulative)
        }
        Value::Summary(mut point) => {
            point.quantile_values.shrink_to_fit();
            (State::Summary(Box::new((time_unix_nano, *point))), false)
        }
    };
    let state = if !cumulative {
        state
    } else if shared {
        // Totals of several series cannot be told apart here, and their increases not be known.
        return Taken::Refused;
    } else {
        let total = match state {
            State::Sum(number) => Total::Number(number),
            State::Explicit(histogram) => Total::Explicit(histogram),
            State::Exponential(histogram) => Total::Exponential(histogram),
            State::Level(_) | State::Summary(_) | State::Missing => return Taken::Refused,
        };
        let bytes = total.heap_bytes();
        let opens = bytes > 0 && !entry.has_window(times.window(time_unix_nano, known.window).1);
        let previous = alias.unwrap_or(&mut entry.previous);
        let before = previous.as_ref().map_or(0, Previous::heap_bytes);
        // Without room the last total stays as it was, so that the increase of the next one covers this one.
        if bytes.saturating_sub(before) + if opens { 2 * bytes } else { 0 } > memory.room() {
            return Taken::Refused;
        }
        let increase = increase(previous, start_unix_nano, time_unix_nano, total, times.watched_since);
        memory.change(before, previous.as_ref().map_or(0, Previous::heap_bytes));
        match increase {
            // The series is there and has not moved under our eyes: a point of zero says so.
            Increase::By(total) | Increase::Baseline(total) => total.into_state(),
            Increase::Covered => return Taken::Folded,
        }
    };
    let level = is_level(kind);
    match state {
        State::Level(Level { last: number, .. }) | State::Sum(number)
            if exemplars.is_empty() && entry.fold_number(number, time_unix_nano, level) =>
        {
            Taken::Folded
        }
        state => {
            let (start, end) = times.window(time_unix_nano, known.window);
            let before = entry.heap_bytes();
            let taken = entry.fold(start, end, state, exemplars, memory.room());
            memory.change(before, entry.heap_bytes());
            taken
        }
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
