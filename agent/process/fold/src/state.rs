//! One window of one series: what its samples have been folded to so far.
//!
//! Invariant: folding is exact (count, sum, min, max, buckets), whatever the order of the samples; only `last` follows time.

use super::exponential::Exponential;
use super::histogram::Explicit;
use ollystack_record::Kind;
use ollystack_record::otlp::metrics::v1::summary_data_point::ValueAtQuantile;
use ollystack_record::otlp::metrics::v1::{Exemplar, SummaryDataPoint, exemplar};
use ollystack_record::value::attributes_heap_bytes;

/// A larger exemplar is left out: it illustrates a point, and is no record of its own.
const EXEMPLAR_BYTES_MAX: usize = 4 << 10;

/// OTLP's bytes of a trace's and a span's id.
const TRACE_ID_BYTES: usize = 16;
const SPAN_ID_BYTES: usize = 8;

/// A number as OTLP has them: integers stay integers until they no longer fit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Double(f64),
}

impl Number {
    pub(super) fn as_f64(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Double(value) => value,
        }
    }

    pub(super) fn plus(self, other: Number) -> Number {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => {
                a.checked_add(b).map_or(Number::Double(a as f64 + b as f64), Number::Int)
            }
            (a, b) => Number::Double(a.as_f64() + b.as_f64()),
        }
    }

    /// The increase from `earlier`, or `None` if the total went down.
    pub(super) fn since(self, earlier: Number) -> Option<Number> {
        match (self, earlier) {
            (Number::Int(now), Number::Int(then)) if now >= then => now.checked_sub(then).map(Number::Int),
            (Number::Int(_), Number::Int(_)) => None,
            (now, then) => (now.as_f64() >= then.as_f64()).then(|| Number::Double(now.as_f64() - then.as_f64())),
        }
    }
}

/// What a window holds.
#[derive(Debug)]
pub(super) enum State {
    /// Gauges, and sums that go up and down: values, not increases.
    Level(Level),
    /// The increase of a sum.
    Sum(Number),
    Explicit(Box<Explicit>),
    Exponential(Box<Exponential>),
    /// Quantiles do not merge: the newest stands.
    Summary(Box<(u64, SummaryDataPoint)>),
    /// "No recorded value": the series is known and has none.
    Missing,
}

/// Whether the numbers of such a metric are values rather than increases.
pub(super) fn is_level(kind: Kind) -> bool {
    matches!(kind, Kind::Gauge | Kind::Sum { monotonic: false, delta: false })
}

/// A folded level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    pub(super) count: u64,
    pub(super) sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) last: Number,
    pub(super) last_unix_nano: u64,
}

impl Level {
    pub(super) fn new(value: Number, time_unix_nano: u64) -> Level {
        let number = value.as_f64();
        Level { count: 1, sum: number, min: number, max: number, last: value, last_unix_nano: time_unix_nano }
    }

    /// Count one more value.
    #[inline]
    pub(super) fn add(&mut self, value: Number, time_unix_nano: u64) {
        self.merge(Level::new(value, time_unix_nano));
    }

    #[inline]
    fn merge(&mut self, other: Level) {
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.last_unix_nano >= self.last_unix_nano {
            (self.last, self.last_unix_nano) = (other.last, other.last_unix_nano);
        }
    }
}

impl State {
    /// What it takes aside.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            State::Level(_) | State::Sum(_) | State::Missing => 0,
            State::Explicit(histogram) => histogram.heap_bytes(),
            State::Exponential(histogram) => histogram.heap_bytes(),
            State::Summary(summary) => {
                size_of::<(u64, SummaryDataPoint)>()
                    + summary.1.quantile_values.capacity() * size_of::<ValueAtQuantile>()
                    + attributes_heap_bytes(&summary.1.attributes)
            }
        }
    }

    /// What its buckets take as OTLP has them.
    pub(super) fn wire_heap_bytes(&self) -> usize {
        match self {
            State::Explicit(histogram) => 2 * histogram.heap_bytes(),
            State::Exponential(histogram) => histogram.dense_bytes(),
            other => other.heap_bytes(),
        }
    }

    /// Fold another state of the same series in, taking no more than `room` for it; gives it back if the two do not merge.
    pub(super) fn merge(&mut self, other: State, room: usize) -> Result<(), State> {
        match (self, other) {
            (State::Level(mine), State::Level(theirs)) => mine.merge(theirs),
            (State::Sum(mine), State::Sum(theirs)) => *mine = mine.plus(theirs),
            (State::Explicit(mine), State::Explicit(theirs)) => {
                return mine.merge(*theirs).map_err(|theirs| State::Explicit(Box::new(theirs)));
            }
            (State::Exponential(mine), State::Exponential(theirs)) => mine.merge(*theirs, room),
            (State::Summary(mine), State::Summary(theirs)) => {
                if theirs.0 < mine.0 {
                    return Ok(());
                }
                let bytes =
                    |summary: &SummaryDataPoint| summary.quantile_values.capacity() * size_of::<ValueAtQuantile>();
                if bytes(&theirs.1) > bytes(&mine.1).saturating_add(room) {
                    return Err(State::Summary(theirs));
                }
                *mine = theirs;
            }
            (_, State::Missing) => {}
            (mine @ State::Missing, theirs) if theirs.heap_bytes() <= room => *mine = theirs,
            (_, theirs) => return Err(theirs),
        }
        Ok(())
    }
}

/// The exemplars a window keeps: the one with the largest value and the newest.
#[derive(Debug, Default)]
pub(super) struct Exemplars {
    pub(super) worst: Option<Box<Exemplar>>,
    pub(super) last: Option<Box<Exemplar>>,
}

/// A measurement that the agent itself makes, with the span that it is of.
#[derive(Clone, Copy, Debug)]
pub struct Measurement<'a> {
    /// How much.
    pub value: f64,
    /// When.
    pub time_unix_nano: u64,
    /// OTLP's 16 bytes, or none.
    pub trace_id: &'a [u8],
    /// OTLP's 8 bytes, or none.
    pub span_id: &'a [u8],
}

impl Exemplars {
    pub(super) fn is_empty(&self) -> bool {
        self.worst.is_none() && self.last.is_none()
    }

    /// What they take.
    pub(super) fn heap_bytes(&self) -> usize {
        self.worst.iter().chain(&self.last).map(|exemplar| exemplar_bytes(exemplar)).sum()
    }

    /// Keep one, or not, if there is no room for it.
    pub(super) fn add(&mut self, mut exemplar: Exemplar, room: usize) {
        exemplar.filtered_attributes.shrink_to_fit();
        let bytes = exemplar_bytes(&exemplar);
        if bytes > EXEMPLAR_BYTES_MAX || 2 * bytes > room {
            return;
        }
        let newer = self.last.as_ref().is_none_or(|last| exemplar.time_unix_nano >= last.time_unix_nano);
        // Of two that are as bad the newer stands: often it is the newest, and one says both.
        let worse = self.worst.as_ref().is_none_or(|worst| value(&exemplar) >= value(worst));
        if worse && newer {
            self.last = Some(Box::new(exemplar.clone()));
            self.worst = Some(Box::new(exemplar));
        } else if worse {
            self.worst = Some(Box::new(exemplar));
        } else if newer {
            self.last = Some(Box::new(exemplar));
        }
    }

    /// Keep a measurement's span if it is the worst: sampling keeps that trace, and hardly ever the newest.
    pub(super) fn note(&mut self, measurement: &Measurement<'_>, room: usize) {
        if self.worst.is_none() && room < MEASURED_BYTES {
            return;
        }
        if self.worst.as_ref().is_none_or(|worst| measurement.value > value(worst)) {
            // Into the memory of the one that goes: this happens for many a span.
            measurement.write(self.worst.get_or_insert_default());
        }
    }

    /// One or two, or none.
    pub(super) fn into_vec(self) -> Vec<Exemplar> {
        match (self.worst, self.last) {
            (Some(worst), Some(last)) if worst == last => vec![*worst],
            (worst, last) => worst.into_iter().chain(last).map(|exemplar| *exemplar).collect(),
        }
    }
}

impl Measurement<'_> {
    fn write(&self, exemplar: &mut Exemplar) {
        exemplar.time_unix_nano = self.time_unix_nano;
        exemplar.value = Some(exemplar::Value::AsDouble(self.value));
        exemplar.trace_id.clear();
        exemplar.trace_id.extend(self.trace_id.iter().take(TRACE_ID_BYTES));
        exemplar.span_id.clear();
        exemplar.span_id.extend(self.span_id.iter().take(SPAN_ID_BYTES));
    }
}

/// Of a measurement, an exemplar.
pub(super) const MEASURED_BYTES: usize = size_of::<Exemplar>() + TRACE_ID_BYTES + SPAN_ID_BYTES;

fn exemplar_bytes(exemplar: &Exemplar) -> usize {
    size_of::<Exemplar>()
        + exemplar.trace_id.capacity()
        + exemplar.span_id.capacity()
        + attributes_heap_bytes(&exemplar.filtered_attributes)
}

fn value(exemplar: &Exemplar) -> f64 {
    match exemplar.value {
        Some(exemplar::Value::AsDouble(value)) => value,
        Some(exemplar::Value::AsInt(value)) => value as f64,
        None => f64::NEG_INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stay_exact_until_they_no_longer_fit() {
        let big = Number::Int((1 << 53) + 1);
        assert_eq!(big.plus(Number::Int(1)), Number::Int((1 << 53) + 2));
        assert_eq!(Number::Int(i64::MAX).plus(Number::Int(1)), Number::Double(i64::MAX as f64 + 1.0));
        assert_eq!(Number::Int(i64::MAX).since(Number::Int(i64::MIN)), None);
    }

    #[test]
    fn the_last_of_a_level_follows_time_not_order() {
        let mut level = Level::new(Number::Int(1), 20);
        level.merge(Level::new(Number::Int(9), 10));
        assert_eq!((level.count, level.last, level.max), (2, Number::Int(1), 9.0));
    }

    #[test]
    fn the_worst_and_the_newest_exemplar_are_kept() {
        let exemplar = |time_unix_nano, value| Exemplar {
            time_unix_nano,
            value: Some(exemplar::Value::AsDouble(value)),
            ..Exemplar::default()
        };
        let mut exemplars = Exemplars::default();
        [(1, 2.0), (2, 9.0), (3, 1.0), (4, 3.0)]
            .into_iter()
            .for_each(|(t, v)| exemplars.add(exemplar(t, v), usize::MAX));
        assert_eq!(exemplars.into_vec(), vec![exemplar(2, 9.0), exemplar(4, 3.0)]);
        // As with a counter's, each of which is worth one.
        let mut alike = Exemplars::default();
        [(1, 1.0), (2, 1.0), (3, 1.0)].into_iter().for_each(|(t, v)| alike.add(exemplar(t, v), usize::MAX));
        assert_eq!(alike.into_vec(), vec![exemplar(3, 1.0)]);
    }
}
