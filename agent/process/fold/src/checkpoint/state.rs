//! What a series holds, to bytes and back.
//!
//! Moments are differences to the checkpoint's own, so that they are short. Invariant: what is read has the invariants that the
//! types promise (sorted buckets, counts that match their bounds), or is refused.

use super::body::{ReadBounds, WrittenBounds};
use super::bytes::{Malformed, Read, Reader, Writer};
use crate::exponential::{Exponential, Summed};
use crate::histogram::{Explicit, fit};
use crate::increase::{Previous, Total};
use crate::run::Run;
use crate::state::{Exemplars, Level, Number, State};
use crate::window::Window;

/// A moment, as the difference to `now`.
pub(super) fn write_moment(to: &mut Writer, now: u64, moment: u64) {
    to.signed(moment.wrapping_sub(now) as i64);
}

pub(super) fn read_moment(from: &mut Reader<'_>, now: u64) -> Read<u64> {
    Ok(now.wrapping_add(from.signed()? as u64))
}

fn write_number(to: &mut Writer, number: Number) {
    match number {
        Number::Int(value) => {
            to.byte(0);
            to.signed(value);
        }
        Number::Double(value) => {
            to.byte(1);
            to.float(value);
        }
    }
}

fn read_number(from: &mut Reader<'_>) -> Read<Number> {
    match from.byte()? {
        0 => from.signed().map(Number::Int),
        1 => from.float().map(Number::Double),
        _ => Err(Malformed),
    }
}

pub(super) fn write_previous(to: &mut Writer, now: u64, previous: &Previous, bounds: &mut WrittenBounds) {
    write_moment(to, now, previous.time_unix_nano);
    match &previous.total {
        Total::Number(number) => {
            to.byte(0);
            write_number(to, *number);
        }
        Total::Explicit(histogram) => {
            to.byte(1);
            write_explicit(to, histogram, bounds);
        }
        Total::Exponential(histogram) => {
            to.byte(2);
            write_exponential(to, histogram);
        }
    }
}

pub(super) fn read_previous(from: &mut Reader<'_>, now: u64, bounds: &mut ReadBounds) -> Read<Previous> {
    let time_unix_nano = read_moment(from, now)?;
    let total = match from.byte()? {
        0 => Total::Number(read_number(from)?),
        1 => Total::Explicit(Box::new(read_explicit(from, bounds)?)),
        2 => Total::Exponential(Box::new(read_exponential(from)?)),
        _ => return Err(Malformed),
    };
    Ok(Previous { time_unix_nano, total })
}

pub(super) fn write_window(to: &mut Writer, now: u64, window: &Window, bounds: &mut WrittenBounds) {
    write_moment(to, now, window.start_unix_nano);
    write_moment(to, now, window.end_unix_nano);
    match &window.state {
        State::Level(level) => {
            to.byte(0);
            to.varint(level.count);
            [level.sum, level.min, level.max].into_iter().for_each(|value| to.float(value));
            write_number(to, level.last);
            write_moment(to, now, level.last_unix_nano);
        }
        State::Sum(number) => {
            to.byte(1);
            write_number(to, *number);
        }
        State::Explicit(histogram) => {
            to.byte(2);
            write_explicit(to, histogram, bounds);
        }
        State::Exponential(histogram) => {
            to.byte(3);
            write_exponential(to, histogram);
        }
        State::Summary(summary) => {
            to.byte(4);
            write_moment(to, now, summary.0);
            to.message(&summary.1);
        }
        State::Missing => to.byte(5),
    }
}

pub(super) fn read_window(from: &mut Reader<'_>, now: u64, bounds: &mut ReadBounds) -> Read<Window> {
    let (start_unix_nano, end_unix_nano) = (read_moment(from, now)?, read_moment(from, now)?);
    if start_unix_nano >= end_unix_nano {
        return Err(Malformed);
    }
    let state = match from.byte()? {
        0 => State::Level(Level {
            count: from.varint()?,
            sum: from.float()?,
            min: from.float()?,
            max: from.float()?,
            last: read_number(from)?,
            last_unix_nano: read_moment(from, now)?,
        }),
        1 => State::Sum(read_number(from)?),
        2 => State::Explicit(Box::new(read_explicit(from, bounds)?)),
        3 => State::Exponential(Box::new(read_exponential(from)?)),
        4 => State::Summary(Box::new((read_moment(from, now)?, from.message()?))),
        5 => State::Missing,
        _ => return Err(Malformed),
    };
    Ok(Window { start_unix_nano, end_unix_nano, state })
}

pub(super) fn write_run(to: &mut Writer, now: u64, run: &Run) {
    to.option(run.value, write_number);
    to.varint(run.count);
    write_moment(to, now, run.end_unix_nano);
    if run.is_held() {
        write_moment(to, now, run.start_unix_nano);
        write_moment(to, now, run.last_unix_nano);
    }
}

pub(super) fn read_run(from: &mut Reader<'_>, now: u64) -> Read<Run> {
    let (value, count) = (from.option(read_number)?, from.varint()?);
    let mut run = Run { value, count, end_unix_nano: read_moment(from, now)?, ..Run::default() };
    if run.is_held() {
        run.start_unix_nano = read_moment(from, now)?;
        run.last_unix_nano = read_moment(from, now)?;
        if run.value.is_none() || run.start_unix_nano >= run.end_unix_nano {
            return Err(Malformed);
        }
    }
    Ok(run)
}

pub(super) fn write_exemplars(to: &mut Writer, exemplars: &Exemplars) {
    to.option(exemplars.worst.as_deref(), Writer::message);
    to.option(exemplars.last.as_deref(), Writer::message);
}

pub(super) fn read_exemplars(from: &mut Reader<'_>) -> Read<Exemplars> {
    let mut one = || Ok(from.option(Reader::message)?.map(Box::new));
    Ok(Exemplars { worst: one()?, last: one()? })
}

fn write_explicit(to: &mut Writer, histogram: &Explicit, bounds: &mut WrittenBounds) {
    let Explicit { count, sum, min, max, bounds: own, counts } = histogram;
    to.varint(*count);
    [sum, min, max].into_iter().for_each(|value| to.option(*value, Writer::float));
    bounds.place(to, own);
    to.list(counts.iter(), |to, count| to.varint(*count));
}

fn read_explicit(from: &mut Reader<'_>, bounds: &mut ReadBounds) -> Read<Explicit> {
    let count = from.varint()?;
    let mut float = || from.option(Reader::float);
    let (sum, min, max) = (float()?, float()?, float()?);
    let bounds = bounds.read(from)?;
    let counts = from.list(Reader::varint)?.into_boxed_slice();
    if fit(&bounds, &counts) { Ok(Explicit { count, sum, min, max, bounds, counts }) } else { Err(Malformed) }
}

fn write_exponential(to: &mut Writer, histogram: &Exponential) {
    let Summed { count, sum, min, max, zero_count, zero_threshold } = histogram.summed();
    to.signed(histogram.scale.into());
    to.varint(count);
    [sum, min, max].into_iter().for_each(|value| to.option(value, Writer::float));
    to.varint(zero_count);
    to.float(zero_threshold);
    for buckets in histogram.buckets() {
        to.list(buckets.iter(), |to, (index, count)| {
            to.signed(i64::from(*index));
            to.varint(*count);
        });
    }
}

fn read_exponential(from: &mut Reader<'_>) -> Read<Exponential> {
    let index = |from: &mut Reader<'_>| i32::try_from(from.signed()?).map_err(|_| Malformed);
    let scale = index(from)?;
    let count = from.varint()?;
    let mut float = || from.option(Reader::float);
    let (sum, min, max) = (float()?, float()?, float()?);
    let (zero_count, zero_threshold) = (from.varint()?, from.float()?);
    let mut buckets = || from.list(|from| Ok((index(from)?, from.varint()?)));
    let (positive, negative) = (buckets()?, buckets()?);
    let summed = Summed { count, sum, min, max, zero_count, zero_threshold };
    Ok(Exponential::from_parts(scale, summed, positive, negative))
}
