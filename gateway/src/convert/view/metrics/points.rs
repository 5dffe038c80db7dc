//! Points of every kind, from the wire: scalars as they are, lists to their columns at once.

use super::super::values::Pairs;
use super::super::wire::{Content, Fields};
use super::super::{Unusual, id, nanos};
use crate::batch::columns::Data;
use crate::convert::metrics::NO_RECORDED_VALUE;

/// A point as its row has it, but for lists.
#[derive(Default)]
pub(super) struct Point {
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) flags: u32,
    pub(super) value: f64,
    pub(super) count: u64,
    pub(super) sum: Option<f64>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
    pub(super) scale: i32,
    pub(super) zero_count: u64,
    pub(super) zero_threshold: f64,
    pub(super) positive_offset: i32,
    pub(super) negative_offset: i32,
    pub(super) items: Items,
}

/// How many items of each list.
#[derive(Default)]
pub(super) struct Items {
    pub(super) bounds: usize,
    pub(super) counts: usize,
    pub(super) positive: usize,
    pub(super) negative: usize,
    pub(super) quantiles: usize,
    pub(super) exemplars: usize,
}

/// The columns of what a point has several of.
pub(super) struct Lists<'c> {
    pub(super) bounds: &'c mut Data,
    pub(super) counts: &'c mut Data,
    pub(super) positive: &'c mut Data,
    pub(super) negative: &'c mut Data,
    pub(super) quantiles: &'c mut Data,
    pub(super) quantile_values: &'c mut Data,
    pub(super) exemplar_attributes: &'c mut Data,
    pub(super) exemplar_times: &'c mut Data,
    pub(super) exemplar_values: &'c mut Data,
    pub(super) exemplar_span_ids: &'c mut Data,
    pub(super) exemplar_trace_ids: &'c mut Data,
}

fn double(content: Content<'_>) -> Result<f64, Unusual> {
    Ok(f64::from_bits(content.fixed64()?))
}

/// A signed number in zigzag.
fn sint32(content: Content<'_>) -> Result<i32, Unusual> {
    let number = content.varint()? as u32;
    Ok((number >> 1) as i32 ^ -((number & 1) as i32))
}

/// Numbers of eight bytes, packed or one by one; returns how many.
fn fixed64s(content: Content<'_>, column: &mut Data) -> Result<usize, Unusual> {
    match content {
        Content::Fixed64(number) => {
            column.number(&number.to_le_bytes());
            Ok(1)
        }
        Content::Bytes(numbers) if numbers.len() % 8 == 0 => {
            column.numbers(numbers);
            Ok(numbers.len() / 8)
        }
        _ => Err(Unusual),
    }
}

/// Offset, and how many counts.
fn buckets(message: &[u8], column: &mut Data) -> Result<(i32, usize), Unusual> {
    let (mut offset, mut counts) = (0, 0);
    let mut fields = Fields::of(message);
    while let Some((number, content)) = fields.next()? {
        match (number, content) {
            (1, content) => offset = sint32(content)?,
            (2, Content::Bytes(packed)) => {
                let mut packed = Fields::of(packed);
                while let Some(count) = packed.next_varint()? {
                    column.number(&count.to_le_bytes());
                    counts += 1;
                }
            }
            (2, content) => {
                column.number(&content.varint()?.to_le_bytes());
                counts += 1;
            }
            _ => {}
        }
    }
    Ok((offset, counts))
}

impl Point {
    #[inline]
    pub(super) fn number<'a>(
        point: &'a [u8],
        gauge: bool,
        attributes: &mut Pairs<'a>,
        inner: &mut Pairs<'a>,
        lists: &mut Lists<'_>,
    ) -> Result<Point, Unusual> {
        let (mut of, mut value) = (Point::default(), None);
        let mut fields = Fields::of(point);
        while let Some((number, content)) = fields.next()? {
            match number {
                2 => of.start = content.fixed64()?,
                3 => of.time = content.fixed64()?,
                4 => value = Some(double(content)?),
                5 => of.exemplar(lists.exemplar(content.bytes()?, inner, true)?),
                6 => value = Some(content.fixed64()? as i64 as f64),
                7 => attributes.add(content.bytes()?)?,
                8 => of.flags = content.varint()? as u32,
                _ => {}
            }
        }
        if of.flags & NO_RECORDED_VALUE == 0 {
            let value = value.ok_or(Unusual)?;
            (of.value, of.count, of.sum) = (value, 1, Some(value));
            if gauge {
                (of.min, of.max) = (Some(value), Some(value));
            }
        }
        Ok(of)
    }

    #[inline]
    pub(super) fn histogram<'a>(
        point: &'a [u8],
        folded: bool,
        attributes: &mut Pairs<'a>,
        inner: &mut Pairs<'a>,
        lists: &mut Lists<'_>,
    ) -> Result<Point, Unusual> {
        let mut of = Point::default();
        // The value of the first exemplar, if there is one and it has one.
        let mut first = None;
        let mut fields = Fields::of(point);
        while let Some((number, content)) = fields.next()? {
            match number {
                2 => of.start = content.fixed64()?,
                3 => of.time = content.fixed64()?,
                4 => of.count = content.fixed64()?,
                5 => of.sum = Some(double(content)?),
                6 => of.items.counts += fixed64s(content, lists.counts)?,
                7 => of.items.bounds += fixed64s(content, lists.bounds)?,
                8 => {
                    let value = lists.exemplar(content.bytes()?, inner, !folded)?;
                    first = first.or(Some(value));
                    if !folded {
                        of.exemplar(value);
                    }
                }
                9 => attributes.add(content.bytes()?)?,
                10 => of.flags = content.varint()? as u32,
                11 => of.min = Some(double(content)?),
                12 => of.max = Some(double(content)?),
                _ => {}
            }
        }
        if folded {
            // Whoever folds sends no buckets.
            if of.items.counts + of.items.bounds > 0 {
                return Err(Unusual);
            }
            let still = || of.min.filter(|min| of.max == Some(*min));
            let mean = || Some(of.sum? / of.count as f64).filter(|mean| mean.is_finite());
            of.value = first.flatten().or_else(still).or_else(mean).ok_or(Unusual)?;
        } else if of.items.counts > 0 && of.items.counts != of.items.bounds + 1 {
            return Err(Unusual);
        }
        Ok(of)
    }

    #[inline]
    pub(super) fn exponential<'a>(
        point: &'a [u8],
        attributes: &mut Pairs<'a>,
        inner: &mut Pairs<'a>,
        lists: &mut Lists<'_>,
    ) -> Result<Point, Unusual> {
        let (mut of, mut positive, mut negative) = (Point::default(), None, None);
        let mut fields = Fields::of(point);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => attributes.add(content.bytes()?)?,
                2 => of.start = content.fixed64()?,
                3 => of.time = content.fixed64()?,
                4 => of.count = content.fixed64()?,
                5 => of.sum = Some(double(content)?),
                6 => of.scale = sint32(content)?,
                7 => of.zero_count = content.fixed64()?,
                8 => content.once(&mut positive)?,
                9 => content.once(&mut negative)?,
                10 => of.flags = content.varint()? as u32,
                11 => of.exemplar(lists.exemplar(content.bytes()?, inner, true)?),
                12 => of.min = Some(double(content)?),
                13 => of.max = Some(double(content)?),
                14 => of.zero_threshold = double(content)?,
                _ => {}
            }
        }
        (of.positive_offset, of.items.positive) = buckets(positive.unwrap_or_default(), lists.positive)?;
        (of.negative_offset, of.items.negative) = buckets(negative.unwrap_or_default(), lists.negative)?;
        Ok(of)
    }

    #[inline]
    pub(super) fn summary<'a>(
        point: &'a [u8],
        attributes: &mut Pairs<'a>,
        lists: &mut Lists<'_>,
    ) -> Result<Point, Unusual> {
        let mut of = Point { sum: Some(0.0), ..Point::default() };
        let mut fields = Fields::of(point);
        while let Some((number, content)) = fields.next()? {
            match number {
                2 => of.start = content.fixed64()?,
                3 => of.time = content.fixed64()?,
                4 => of.count = content.fixed64()?,
                5 => of.sum = Some(double(content)?),
                6 => {
                    let (mut quantile, mut value) = (0.0f64, 0.0f64);
                    let mut fields = Fields::of(content.bytes()?);
                    while let Some((number, content)) = fields.next()? {
                        match number {
                            1 => quantile = double(content)?,
                            2 => value = double(content)?,
                            _ => {}
                        }
                    }
                    lists.quantiles.number(&quantile.to_le_bytes());
                    lists.quantile_values.number(&value.to_le_bytes());
                    of.items.quantiles += 1;
                }
                7 => attributes.add(content.bytes()?)?,
                8 => of.flags = content.varint()? as u32,
                _ => {}
            }
        }
        Ok(of)
    }

    /// One more exemplar, if it has a value.
    fn exemplar(&mut self, value: Option<f64>) {
        self.items.exemplars += usize::from(value.is_some());
    }
}

impl Lists<'_> {
    /// The value of an exemplar, which is added if it has one and is to be `kept`.
    fn exemplar<'a>(
        &mut self,
        exemplar: &'a [u8],
        attributes: &mut Pairs<'a>,
        kept: bool,
    ) -> Result<Option<f64>, Unusual> {
        attributes.clear();
        let (mut time, mut value, mut span_id, mut trace_id): (_, _, &[u8], &[u8]) = (0, None, &[], &[]);
        let mut fields = Fields::of(exemplar);
        while let Some((number, content)) = fields.next()? {
            match number {
                2 => time = content.fixed64()?,
                3 => value = Some(double(content)?),
                4 => span_id = content.bytes()?,
                5 => trace_id = content.bytes()?,
                6 => value = Some(content.fixed64()? as i64 as f64),
                7 => attributes.add(content.bytes()?)?,
                _ => {}
            }
        }
        if let Some(value) = value.filter(|_| kept) {
            attributes.sort()?;
            attributes.write(self.exemplar_attributes);
            self.exemplar_times.number(&nanos(time)?.to_le_bytes());
            self.exemplar_values.number(&value.to_le_bytes());
            id(self.exemplar_span_ids, span_id, 8);
            id(self.exemplar_trace_ids, trace_id, 16);
        }
        Ok(value)
    }

    pub(super) fn end(&mut self, items: &Items) {
        self.bounds.end_list(items.bounds);
        self.counts.end_list(items.counts);
        self.positive.end_list(items.positive);
        self.negative.end_list(items.negative);
        self.quantiles.end_list(items.quantiles);
        self.quantile_values.end_list(items.quantiles);
        self.exemplar_attributes.end_list(items.exemplars);
        self.exemplar_times.end_list(items.exemplars);
        self.exemplar_values.end_list(items.exemplars);
        self.exemplar_span_ids.end_list(items.exemplars);
        self.exemplar_trace_ids.end_list(items.exemplars);
    }
}
