//! Samples as columns: what repeats from second to second lies together and compresses to almost nothing.
//!
//! A metrics entry, after its head: number of samples (varint), then seven columns, each with its length in bytes in front:
//!
//! 1. the series: difference of its number to the sample's before;
//! 2. the time: difference to the sample's before;
//! 3. the start: difference to that of the series' sample before;
//! 4. the form of the value (one byte), see [`Form`];
//! 5. whole numbers: difference to the series' whole number before, 0 when its form was another;
//! 6. other doubles: 8 bytes, little-endian, of its bits XOR those of the series' double before;
//! 7. the rest: OTLP points of histograms and summaries, and for a form with [`EXTRA`] flags (varint) and exemplars (their
//!    number, then each), messages with their length in front.
//!
//! Most doubles are hundredths or the like, so a double that is `n / 10^d` exactly is written as the whole number `n`; the search
//! for `d` is that of ALP (Afroozeh, Kuffo, Boncz 2023) for one value. Invariant: every bit of every sample comes back.

use crate::varint::{put, put_bytes, put_difference, take, take_bytes, take_difference};
use ollystack_record::otlp::metrics::v1::Exemplar;
use ollystack_record::{Sample, Series, Value};
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;

/// Decimals that are tried.
const DECIMALS_MAX: u8 = 9;
/// Whole numbers that a double holds exactly.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 0: a whole number.
    Int,
    /// 1 to 10: a double, `n / 10^(form - 1)`.
    Decimal(u8),
    /// 11: any other double.
    Bits,
    /// 12: an OTLP `HistogramDataPoint`.
    Histogram,
    /// 13: an OTLP `ExponentialHistogramDataPoint`.
    ExponentialHistogram,
    /// 14: an OTLP `SummaryDataPoint`.
    Summary,
    /// 15: no value.
    Missing,
}

/// Added to the form of a sample that has flags or exemplars.
pub const EXTRA: u8 = 0x80;

impl Form {
    fn number(self) -> u8 {
        match self {
            Form::Int => 0,
            Form::Decimal(decimals) => 1 + decimals,
            Form::Bits => 11,
            Form::Histogram => 12,
            Form::ExponentialHistogram => 13,
            Form::Summary => 14,
            Form::Missing => 15,
        }
    }

    fn of(number: u8) -> Option<Form> {
        Some(match number {
            0 => Form::Int,
            1..=10 => Form::Decimal(number - 1),
            11 => Form::Bits,
            12 => Form::Histogram,
            13 => Form::ExponentialHistogram,
            14 => Form::Summary,
            15 => Form::Missing,
            _ => return None,
        })
    }
}

/// By the numbers of resource and series: processes share their series.
pub(crate) type Lasts = HashMap<(u64, u64), Last>;

/// What the next sample of a series differs from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    start_unix_nano: u64,
    form: Form,
    whole: u64,
    bits: u64,
}

impl Default for Last {
    fn default() -> Last {
        Last { start_unix_nano: 0, form: Form::Missing, whole: 0, bits: 0 }
    }
}

impl Last {
    /// The whole number that one of `form` differs from.
    fn whole(&self, form: Form) -> u64 {
        if self.form == form { self.whole } else { 0 }
    }
}

#[derive(Default)]
struct Columns {
    series: Vec<u8>,
    times: Vec<u8>,
    starts: Vec<u8>,
    forms: Vec<u8>,
    wholes: Vec<u8>,
    bits: Vec<u8>,
    rest: Vec<u8>,
}

/// Append the columns. `numbers` are those of the samples' series, in the same order.
pub(crate) fn encode(numbers: &[u64], samples: &[Sample], all: &mut Lasts, resource: u64, out: &mut Vec<u8>) {
    let mut columns = Columns::default();
    let (mut number_before, mut time_before) = (0, 0);
    for (&number, sample) in numbers.iter().zip(samples) {
        let last = all.entry((resource, number)).or_default();
        put_difference(&mut columns.series, number_before, number);
        put_difference(&mut columns.times, time_before, sample.time_unix_nano);
        put_difference(&mut columns.starts, last.start_unix_nano, sample.start_unix_nano);
        let form = put_value(&sample.value, last, &mut columns);
        let extra = sample.flags != 0 || !sample.exemplars.is_empty();
        columns.forms.push(form.number() | if extra { EXTRA } else { 0 });
        if extra {
            put(&mut columns.rest, u64::from(sample.flags));
            put(&mut columns.rest, sample.exemplars.len() as u64);
            for exemplar in &sample.exemplars {
                put_bytes(&mut columns.rest, &exemplar.encode_to_vec());
            }
        }
        (last.start_unix_nano, last.form) = (sample.start_unix_nano, form);
        (number_before, time_before) = (number, sample.time_unix_nano);
    }
    put(out, samples.len() as u64);
    let Columns { series, times, starts, forms, wholes, bits, rest } = columns;
    [series, times, starts, forms, wholes, bits, rest].iter().for_each(|column| put_bytes(out, column));
}

fn put_value(value: &Value, last: &mut Last, columns: &mut Columns) -> Form {
    let before = last.form;
    let mut whole = |form: Form, number: u64| {
        put_difference(&mut columns.wholes, last.whole(form), number);
        last.whole = number;
        form
    };
    match value {
        Value::Int(number) => whole(Form::Int, *number as u64),
        Value::Double(number) => match decimal(*number, before) {
            Some((decimals, n)) => whole(Form::Decimal(decimals), n as u64),
            None => {
                columns.bits.extend_from_slice(&(number.to_bits() ^ last.bits).to_le_bytes());
                last.bits = number.to_bits();
                Form::Bits
            }
        },
        Value::Histogram(point) => {
            put_bytes(&mut columns.rest, &point.encode_to_vec());
            Form::Histogram
        }
        Value::ExponentialHistogram(point) => {
            put_bytes(&mut columns.rest, &point.encode_to_vec());
            Form::ExponentialHistogram
        }
        Value::Summary(point) => {
            put_bytes(&mut columns.rest, &point.encode_to_vec());
            Form::Summary
        }
        Value::Missing => Form::Missing,
    }
}

/// Decimals and whole number that give exactly this double; those of the sample before are tried first, as a difference
/// needs equal decimals.
fn decimal(number: f64, before: Form) -> Option<(u8, i64)> {
    let exact = |decimals: u8| {
        let n = (number * power(decimals)).round();
        let fits = n.abs() <= EXACT_MAX && undecimal(n as i64, decimals).to_bits() == number.to_bits();
        fits.then_some((decimals, n as i64))
    };
    let known = if let Form::Decimal(decimals) = before { exact(decimals) } else { None };
    known.or_else(|| (0..=DECIMALS_MAX).find_map(exact))
}

fn undecimal(n: i64, decimals: u8) -> f64 {
    n as f64 / power(decimals)
}

fn power(decimals: u8) -> f64 {
    10_f64.powi(i32::from(decimals))
}

/// Read the columns; `known` are the series by their numbers. None when they are damaged.
pub(crate) fn decode(mut bytes: &[u8], known: &[Arc<Series>], all: &mut Lasts, resource: u64) -> Option<Vec<Sample>> {
    let count = take(&mut bytes)?;
    let mut column = || take_bytes(&mut bytes);
    let mut columns = Read {
        numbers: column()?,
        times: column()?,
        starts: column()?,
        forms: column()?,
        wholes: column()?,
        bits: column()?,
        rest: column()?,
    };
    // One form a sample: what is announced beyond is not believed.
    if count != columns.forms.len() as u64 || !bytes.is_empty() {
        return None;
    }
    let mut samples = Vec::with_capacity(columns.forms.len());
    let (mut number, mut time_unix_nano) = (0, 0);
    for &form in columns.forms {
        number = take_difference(&mut columns.numbers, number)?;
        time_unix_nano = take_difference(&mut columns.times, time_unix_nano)?;
        let series = Arc::clone(known.get(usize::try_from(number).ok()?)?);
        let last = all.entry((resource, number)).or_default();
        let start_unix_nano = take_difference(&mut columns.starts, last.start_unix_nano)?;
        let extra = form & EXTRA != 0;
        let form = Form::of(form & !EXTRA)?;
        let value = columns.value(form, last)?;
        let (flags, exemplars) = if extra { columns.extra()? } else { (0, Vec::new()) };
        (last.start_unix_nano, last.form) = (start_unix_nano, form);
        samples.push(Sample { series, start_unix_nano, time_unix_nano, flags, value, exemplars });
    }
    Some(samples)
}

struct Read<'a> {
    numbers: &'a [u8],
    times: &'a [u8],
    starts: &'a [u8],
    forms: &'a [u8],
    wholes: &'a [u8],
    bits: &'a [u8],
    rest: &'a [u8],
}

impl Read<'_> {
    fn value(&mut self, form: Form, last: &mut Last) -> Option<Value> {
        let mut whole = |last: &mut Last| {
            last.whole = take_difference(&mut self.wholes, last.whole(form))?;
            Some(last.whole as i64)
        };
        Some(match form {
            Form::Int => Value::Int(whole(last)?),
            Form::Decimal(decimals) => Value::Double(undecimal(whole(last)?, decimals)),
            Form::Bits => {
                let bits = self.bits.split_off(..8)?;
                last.bits ^= u64::from_le_bytes(bits.try_into().ok()?);
                Value::Double(f64::from_bits(last.bits))
            }
            Form::Histogram => Value::Histogram(Box::new(self.message()?)),
            Form::ExponentialHistogram => Value::ExponentialHistogram(Box::new(self.message()?)),
            Form::Summary => Value::Summary(Box::new(self.message()?)),
            Form::Missing => Value::Missing,
        })
    }

    fn message<M: Message + Default>(&mut self) -> Option<M> {
        M::decode(take_bytes(&mut self.rest)?).ok()
    }

    fn extra(&mut self) -> Option<(u32, Vec<Exemplar>)> {
        let flags = u32::try_from(take(&mut self.rest)?).ok()?;
        let count = take(&mut self.rest)?;
        let exemplars = (0..count).map(|_| self.message()).collect::<Option<Vec<Exemplar>>>()?;
        Some((flags, exemplars))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_is_written_as_a_whole_number_only_if_every_bit_comes_back() {
        let table = [
            (0.0, Some((0, 0))),
            (123.45, Some((2, 12_345))),
            (-0.5, Some((1, -5))),
            (4096.0, Some((0, 4096))),
            (-0.0, None),
            (1.0 / 3.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (1e300, None),
        ];
        for (number, expected) in table {
            assert_eq!(decimal(number, Form::Missing), expected, "{number}");
        }
        assert_eq!(decimal(0.5, Form::Decimal(2)), Some((2, 50)), "as many decimals as the one before");
    }
}
