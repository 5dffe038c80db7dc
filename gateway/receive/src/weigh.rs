//! How much memory a protobuf message takes once it is decoded, found out before it is decoded.
//!
//! Two bytes on the wire are enough for an empty span, which takes some 300 bytes as a structure: a message of 4 MiB could so become
//! more than 600 MiB. This walk reads the wire format without allocating and adds up what prost will allocate: vectors grow by doubling
//! from four elements, texts and bytes to their length. On the way it takes out values that are nested too deeply, for which prost
//! would refuse the whole message. Invariant: what prost decodes without an error takes no more than the weight.

use crate::schema::{Kind, NESTS_MAX, Shape};

/// What the allocator adds to a small allocation.
const ALLOCATION: usize = 16;
/// Fields of the largest message type.
const FIELDS_MAX: usize = 16;
/// Groups within each other; prost takes as many at most.
const GROUPS_MAX: usize = 100;
/// A field number that no value has, with the wire type of content with a length: prost skips it.
const SKIPPED: u8 = 15 << 3 | 2;

/// Why a message cannot be weighed; it could not be decoded either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the message ends within a field")]
    Truncated,
    #[error("a varint is longer than 10 bytes")]
    Varint,
    #[error("field number 0 or above 2^29-1")]
    Number,
    #[error("wire type {0}; OTLP uses 0, 1, 2 and 5")]
    WireType(u8),
    #[error("a group that does not end, or more than {GROUPS_MAX} within each other")]
    Group,
}

/// What was found out about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    /// That prost will allocate, the structure itself not included.
    pub(crate) bytes: usize,
    /// Lists and maps that lay too deep and will be skipped.
    pub(crate) cut: u64,
}

/// Weigh a message of this shape. Lists and maps within more than [`NESTS_MAX`] others get another tag, in place, so that prost
/// skips them instead of refusing the message.
pub(crate) fn weigh(shape: &Shape, message: &mut [u8]) -> Result<Weight, Malformed> {
    let mut walk = Walk { largest: 0, cut: 0 };
    let bytes = walk.message(shape, message, 0)?;
    // While the largest vector doubles for the last time, its former half is there too.
    Ok(Weight { bytes: bytes.saturating_add(walk.largest / 2), cut: walk.cut })
}

struct Walk {
    /// Bytes of the largest vector.
    largest: usize,
    cut: u64,
}

impl Walk {
    /// The weight of one message that lies within so many lists and maps.
    fn message(&mut self, shape: &Shape, mut rest: &mut [u8], nests: usize) -> Result<usize, Malformed> {
        // Elements of repeated fields; of single messages the weight, as prost merges those that are there twice.
        let mut counts = [0usize; FIELDS_MAX];
        let (mut once, mut again) = (0u32, 0u32);
        let mut weight = 0usize;
        while !rest.is_empty() {
            let (tag, width) = varint(rest)?;
            let tag_bytes = take(&mut rest, width)?;
            let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n)).ok_or(Malformed::Number)?;
            let index = shape.fields.iter().position(|field| field.number == number);
            match (tag & 7) as u8 {
                0 => {
                    let (_, width) = varint(rest)?;
                    take(&mut rest, width)?;
                    if let Some((count, Kind::Uint64s)) = at(shape, &mut counts, index) {
                        *count += 1;
                    }
                }
                1 => {
                    take(&mut rest, 8)?;
                    if let Some((count, Kind::Fixed64s | Kind::Doubles)) = at(shape, &mut counts, index) {
                        *count += 1;
                    }
                }
                2 => {
                    let (length, width) = varint(rest)?;
                    take(&mut rest, width)?;
                    let length = usize::try_from(length).map_err(|_| Malformed::Truncated)?;
                    let content = take(&mut rest, length)?;
                    let Some((count, kind)) = at(shape, &mut counts, index) else { continue };
                    match kind {
                        Kind::Message(inner) if inner.is_nest() && nests == NESTS_MAX => {
                            skip(tag_bytes);
                            self.cut += 1;
                        }
                        Kind::Message(inner) => {
                            let bytes = self.message(inner, content, nests + usize::from(inner.is_nest()))?;
                            weight = weight.saturating_add(bytes);
                            *count = count.saturating_add(bytes);
                            let bit = 1 << index.unwrap_or(0);
                            again |= once & bit;
                            once |= bit;
                        }
                        Kind::Messages(inner) => {
                            *count += 1;
                            weight = weight.saturating_add(self.message(inner, content, nests)?);
                        }
                        Kind::Text | Kind::Hex | Kind::Base64 => weight = weight.saturating_add(heap(length)),
                        Kind::Texts => {
                            *count += 1;
                            weight = weight.saturating_add(heap(length));
                        }
                        Kind::Fixed64s | Kind::Doubles => *count += length / 8,
                        Kind::Uint64s => *count += length,
                        _ => {}
                    }
                }
                5 => {
                    take(&mut rest, 4)?;
                }
                // OTLP has none, and what is not known is skipped.
                3 if index.is_none() => skip_group(&mut rest, number, GROUPS_MAX)?,
                other => return Err(Malformed::WireType(other)),
            }
        }
        for (index, (field, count)) in shape.fields.iter().zip(counts).enumerate() {
            let element = match field.kind {
                // Merged vectors grow by doubling too, so beyond the sum of what each would have taken alone.
                Kind::Message(_) if again & 1 << index != 0 => {
                    self.largest = self.largest.max(count.saturating_mul(2));
                    weight = weight.saturating_add(count);
                    continue;
                }
                Kind::Message(_) => continue,
                Kind::Messages(inner) => inner.size,
                Kind::Texts => size_of::<String>(),
                _ => size_of::<u64>(),
            };
            if count > 0 {
                let capacity = count.next_power_of_two().max(4);
                let bytes = capacity.saturating_mul(element);
                self.largest = self.largest.max(bytes);
                weight = weight.saturating_add(bytes).saturating_add(ALLOCATION);
            }
        }
        Ok(weight)
    }
}

fn at<'a>(shape: &Shape, counts: &'a mut [usize; FIELDS_MAX], index: Option<usize>) -> Option<(&'a mut usize, Kind)> {
    let index = index?;
    Some((counts.get_mut(index)?, shape.fields.get(index)?.kind))
}

/// Write another tag over this one, as long as it was: a varint may be padded.
fn skip(tag: &mut [u8]) {
    tag.fill(0x80);
    if let Some(first) = tag.first_mut() {
        *first |= SKIPPED;
    }
    if let Some(last) = tag.last_mut() {
        *last &= 0x7f;
    }
}

/// Pass over the group `number`, of which the begin was read; `left` more may lie within each other.
fn skip_group(rest: &mut &mut [u8], number: u32, left: usize) -> Result<(), Malformed> {
    let left = left.checked_sub(1).ok_or(Malformed::Group)?;
    loop {
        let (tag, width) = varint(rest)?;
        take(rest, width)?;
        let inner = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n)).ok_or(Malformed::Number)?;
        match (tag & 7) as u8 {
            0 => {
                let (_, width) = varint(rest)?;
                take(rest, width)?;
            }
            1 => _ = take(rest, 8)?,
            2 => {
                let (length, width) = varint(rest)?;
                take(rest, width)?;
                take(rest, usize::try_from(length).map_err(|_| Malformed::Truncated)?)?;
            }
            3 => skip_group(rest, inner, left)?,
            4 if inner == number => return Ok(()),
            4 => return Err(Malformed::Group),
            5 => _ = take(rest, 4)?,
            other => return Err(Malformed::WireType(other)),
        }
    }
}

fn heap(length: usize) -> usize {
    if length == 0 { 0 } else { length + ALLOCATION }
}

fn take<'a>(rest: &mut &'a mut [u8], length: usize) -> Result<&'a mut [u8], Malformed> {
    let (taken, left) = std::mem::take(rest).split_at_mut_checked(length).ok_or(Malformed::Truncated)?;
    *rest = left;
    Ok(taken)
}

/// The number that the bytes begin with, and how many of them it takes.
fn varint(bytes: &[u8]) -> Result<(u64, usize), Malformed> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(if bytes.len() < 10 { Malformed::Truncated } else { Malformed::Varint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, TRACES_REQUEST};
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, LogsData, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, TracesData};
    use prost::Message;

    #[test]
    fn no_message_type_has_more_fields_than_are_counted() {
        fn check(shape: &'static Shape, seen: &mut Vec<*const Shape>) {
            if seen.contains(&std::ptr::from_ref(shape)) {
                return;
            }
            seen.push(shape);
            assert!(shape.fields.len() <= FIELDS_MAX, "{shape:?}");
            for field in shape.fields {
                if let Kind::Message(inner) | Kind::Messages(inner) = field.kind {
                    check(inner, seen);
                }
            }
        }
        for request in [&METRICS_REQUEST, &LOGS_REQUEST, &TRACES_REQUEST] {
            check(request, &mut Vec::new());
        }
    }

    #[test]
    fn empty_spans_weigh_what_they_become() {
        let spans = 100_000;
        let scope = ScopeSpans { spans: vec![Span::default(); spans], ..ScopeSpans::default() };
        let data =
            TracesData { resource_spans: vec![ResourceSpans { scope_spans: vec![scope], ..Default::default() }] };
        let mut bytes = data.encode_to_vec();
        assert!(bytes.len() < 3 * spans);
        let decoded = TracesData::decode(bytes.as_slice()).unwrap();
        let allocated = decoded.resource_spans[0].scope_spans[0].spans.capacity() * size_of::<Span>();
        let weight = weigh(&TRACES_REQUEST, &mut bytes).unwrap().bytes;
        let peak = allocated + allocated / 2;
        assert!(weight >= peak, "{weight} < {peak}");
        assert!(weight < peak + 4096, "{weight} is far above {peak}");
    }

    #[test]
    fn junk_is_refused_with_its_reason() {
        let table: [(&[u8], Malformed); 9] = [
            (&[0x0a], Malformed::Truncated),
            (&[0x0a, 5, 1], Malformed::Truncated),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Malformed::Truncated),
            (&[0xff; 11], Malformed::Varint),
            (&[0x02], Malformed::Number),
            (&[0x0b], Malformed::WireType(3)),
            (&[0x33], Malformed::Truncated),
            (&[0x33, 0x3c], Malformed::Group),
            (&[0x33; 101], Malformed::Group),
        ];
        for (bytes, expected) in table {
            assert_eq!(weigh(&LOGS_REQUEST, &mut bytes.to_vec()), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_group_that_nobody_knows_is_passed_over_as_prost_does() {
        // Field 6: a varint, and a group within.
        let mut message = vec![0x33, 0x08, 1, 0x1b, 0x12, 1, 0, 0x1c, 0x34];
        assert_eq!(weigh(&LOGS_REQUEST, &mut message), Ok(Weight { bytes: 0, cut: 0 }));
        assert_eq!(LogsData::decode(message.as_slice()), Ok(LogsData::default()));
    }

    #[test]
    fn a_message_in_pieces_weighs_what_prost_merges_it_to() {
        // A list in two pieces, of 2^15 values and of one: together they take the room of 2^16.
        let pieces = [AnyValue::default(), AnyValue::default()];
        let list = |values| AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) }.encode_to_vec();
        let mut value = list(vec![AnyValue::default(); 1 << 15]);
        value.extend(list(pieces[..1].to_vec()));
        let decoded = AnyValue::decode(value.as_slice()).unwrap();
        let Some(Value::ArrayValue(merged)) = decoded.value else { panic!("no list") };
        let allocated = merged.values.capacity() * size_of::<AnyValue>();
        let weight = weigh(&crate::schema::ANY_VALUE, &mut value).unwrap().bytes;
        assert!(weight >= allocated + allocated / 2, "{weight} for {allocated}");
    }

    fn record(body: AnyValue) -> Vec<u8> {
        let record = LogRecord { body: Some(body), event_name: "after".to_owned(), ..LogRecord::default() };
        let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
        LogsData { resource_logs: vec![ResourceLogs { scope_logs: vec![scope], ..Default::default() }] }.encode_to_vec()
    }

    fn nested(levels: usize) -> AnyValue {
        let mut value = AnyValue { value: Some(Value::BoolValue(true)) };
        for level in 0..levels {
            let nest = match level % 2 {
                0 => Value::ArrayValue(ArrayValue { values: vec![value] }),
                _ => Value::KvlistValue(KeyValueList {
                    values: vec![KeyValue { key: "k".to_owned(), value: Some(value), ..KeyValue::default() }],
                }),
            };
            value = AnyValue { value: Some(nest) };
        }
        value
    }

    fn levels(value: &AnyValue) -> usize {
        match &value.value {
            Some(Value::ArrayValue(list)) => 1 + list.values.first().map_or(0, levels),
            Some(Value::KvlistValue(map)) => 1 + map.values[0].value.as_ref().map_or(0, levels),
            _ => 0,
        }
    }

    #[test]
    fn what_is_nested_too_deeply_is_taken_out_and_the_rest_stays() {
        for (deep, left, cut) in [
            (10, 10, 0),
            (NESTS_MAX, NESTS_MAX, 0),
            (NESTS_MAX + 1, NESTS_MAX, 1),
            (64, NESTS_MAX, 1),
            (1_000, NESTS_MAX, 1),
        ] {
            let mut bytes = record(nested(deep));
            assert_eq!(weigh(&LOGS_REQUEST, &mut bytes).unwrap().cut, cut, "{deep}");
            let data = LogsData::decode(bytes.as_slice()).unwrap();
            let record = &data.resource_logs[0].scope_logs[0].log_records[0];
            assert_eq!((levels(record.body.as_ref().unwrap()), record.event_name.as_str()), (left, "after"), "{deep}");
        }
    }

    #[test]
    fn a_tag_of_any_length_is_skipped() {
        for width in 1..=10 {
            let mut tag = vec![0x80; width];
            skip(&mut tag);
            assert_eq!(varint(&tag), Ok((u64::from(SKIPPED), width)));
        }
    }
}
