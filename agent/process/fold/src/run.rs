//! What does not move: windows held back because they say what the one before them said.
//!
//! They gather to a run, which leaves as one point over the whole of its time, with the count and sum of all its samples, and the
//! series' points go on tiling time: a constant is covered by an interval, a gap is not. A run ends when the series changes, falls
//! silent, or has not been heard of for `constant_ms`. Invariant: a window is in one run or leaves by itself.

use super::increase::Previous;
use super::state::{Level, Number, State};
use super::window::Window;

/// What was sent last of a series, and what is held back since.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// A level's last value, a sum's or histogram's last increase (of a histogram, its count). `None`: nothing was sent.
    pub(super) value: Option<Number>,
    pub(super) start_unix_nano: u64,
    /// Where the last window ended, sent or held.
    pub(super) end_unix_nano: u64,
    /// A level's samples, the windows of a sum or histogram. 0: nothing is held.
    pub(super) count: u64,
    pub(super) last_unix_nano: u64,
}

impl Run {
    pub(super) fn is_held(&self) -> bool {
        self.count > 0
    }

    /// Whether a window lies right behind what was sent or held, and says nothing new.
    pub(super) fn goes_on_with(&self, window: &Window, previous: Option<&Previous>) -> bool {
        self.value.is_some()
            && self.end_unix_nano == window.start_unix_nano
            && self.value == still(&window.state, previous)
    }

    /// Hold a window that the series [goes on with](Run::goes_on_with).
    pub(super) fn hold(&mut self, window: &Window) {
        if !self.is_held() {
            self.start_unix_nano = window.start_unix_nano;
        }
        self.end_unix_nano = window.end_unix_nano;
        match &window.state {
            State::Level(level) => {
                self.count = self.count.saturating_add(level.count);
                self.last_unix_nano = self.last_unix_nano.max(level.last_unix_nano);
            }
            _ => self.count += 1,
        }
    }

    /// Remember a window that is sent.
    pub(super) fn sent(&mut self, window: &Window) {
        *self = Run { value: last(&window.state), end_unix_nano: window.end_unix_nano, ..Run::default() };
    }

    /// What is held, as one window. The value stays known.
    pub(super) fn take(&mut self, previous: Option<&Previous>, is_level: bool) -> Option<Window> {
        let value = self.value.filter(|_| self.is_held())?;
        let state = if is_level {
            let (number, count, last_unix_nano) = (value.as_f64(), self.count, self.last_unix_nano);
            let sum = number * count as f64;
            State::Level(Level { count, sum, min: number, max: number, last: value, last_unix_nano })
        } else {
            previous.and_then(Previous::empty_histogram).unwrap_or(State::Sum(value))
        };
        let window = Window { start_unix_nano: self.start_unix_nano, end_unix_nano: self.end_unix_nano, state };
        *self = Run { value: Some(value), end_unix_nano: self.end_unix_nano, ..Run::default() };
        Some(window)
    }
}

/// What a window repeats if it does not move: a level its value, an increase nothing.
fn still(state: &State, previous: Option<&Previous>) -> Option<Number> {
    match state {
        State::Level(level) => (level.min == level.max).then_some(level.last),
        State::Sum(increase) => (increase.as_f64() == 0.0).then_some(*increase),
        // The last total knows the buckets that the run will be told in.
        State::Explicit(_) | State::Exponential(_) => {
            previous.and_then(Previous::empty_histogram).and(last(state)).filter(|count| count.as_f64() == 0.0)
        }
        State::Summary(_) | State::Missing => None,
    }
}

/// What the next window is compared with.
fn last(state: &State) -> Option<Number> {
    match state {
        State::Level(level) => Some(level.last),
        State::Sum(increase) => Some(*increase),
        State::Explicit(histogram) => Some(Number::Int(i64::try_from(histogram.count).unwrap_or(i64::MAX))),
        State::Exponential(histogram) => Some(Number::Int(i64::try_from(histogram.count).unwrap_or(i64::MAX))),
        State::Summary(_) | State::Missing => None,
    }
}
