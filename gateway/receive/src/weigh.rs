//! How much memory a protobuf message takes once it is decoded, found out before it is decoded.
//!
//! Two bytes on the wire are enough for an empty span, which takes some 300 bytes as a structure: a message of 4 MiB could so become
//! more than 600 MiB. This walk reads the wire format without allocating and adds up what prost will allocate: vectors grow by doubling
//! from four elements, texts and bytes to their length. Invariant: what prost decodes without an error takes no more than the
//! weight.

use crate::schema::{Kind, Shape};

/// Messages within messages; prost's own limit.
const DEPTH_MAX: usize = 100;
/// What the allocator adds to a small allocation.
const ALLOCATION: usize = 16;
/// Fields of the largest message type.
const FIELDS_MAX: usize = 16;

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
    #[error("messages nested deeper than 100")]
    Depth,
}

/// Bytes that prost will allocate for a message of this shape, the structure itself not included.
pub(crate) fn weigh(shape: &Shape, message: &[u8]) -> Result<usize, Malformed> {
    let mut largest = 0;
    let weight = walk(shape, message, DEPTH_MAX + 1, &mut largest)?;
    // While the largest vector doubles for the last time, its former half is there too.
    Ok(weight.saturating_add(largest / 2))
}

fn walk(shape: &Shape, mut rest: &[u8], depth: usize, largest: &mut usize) -> Result<usize, Malformed> {
    let Some(depth) = depth.checked_sub(1) else { return Err(Malformed::Depth) };
    let mut counts = [0usize; FIELDS_MAX];
    let mut weight = 0usize;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let number = u32::try_from(tag >> 3).ok().filter(|n| (1..1 << 29).contains(n)).ok_or(Malformed::Number)?;
        let index = shape.fields.iter().position(|field| field.number == number);
        match (tag & 7) as u8 {
            0 => {
                varint(&mut rest)?;
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
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| Malformed::Truncated)?;
                let content = take(&mut rest, length)?;
                let Some((count, kind)) = at(shape, &mut counts, index) else { continue };
                match kind {
                    Kind::Message(inner) => weight = weight.saturating_add(walk(inner, content, depth, largest)?),
                    Kind::Messages(inner) => {
                        *count += 1;
                        weight = weight.saturating_add(walk(inner, content, depth, largest)?);
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
            other => return Err(Malformed::WireType(other)),
        }
    }
    for (field, count) in shape.fields.iter().zip(counts) {
        let element = match field.kind {
            Kind::Messages(inner) => inner.size,
            Kind::Texts => size_of::<String>(),
            _ => size_of::<u64>(),
        };
        if count > 0 {
            let capacity = count.next_power_of_two().max(4);
            let bytes = capacity.saturating_mul(element);
            *largest = bytes.max(*largest);
            weight = weight.saturating_add(bytes).saturating_add(ALLOCATION);
        }
    }
    Ok(weight)
}

fn at<'a>(shape: &Shape, counts: &'a mut [usize; FIELDS_MAX], index: Option<usize>) -> Option<(&'a mut usize, Kind)> {
    let index = index?;
    Some((counts.get_mut(index)?, shape.fields.get(index)?.kind))
}

fn heap(length: usize) -> usize {
    if length == 0 { 0 } else { length + ALLOCATION }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for (index, byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 { Malformed::Truncated } else { Malformed::Varint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{LOGS_REQUEST, METRICS_REQUEST, TRACES_REQUEST};
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
        let bytes = data.encode_to_vec();
        assert!(bytes.len() < 3 * spans);
        let decoded = TracesData::decode(bytes.as_slice()).unwrap();
        let allocated = decoded.resource_spans[0].scope_spans[0].spans.capacity() * size_of::<Span>();
        let weight = weigh(&TRACES_REQUEST, &bytes).unwrap();
        let peak = allocated + allocated / 2;
        assert!(weight >= peak, "{weight} < {peak}");
        assert!(weight < peak + 4096, "{weight} is far above {peak}");
    }

    #[test]
    fn junk_is_refused_with_its_reason() {
        let table: [(&[u8], Malformed); 6] = [
            (&[0x0a], Malformed::Truncated),
            (&[0x0a, 5, 1], Malformed::Truncated),
            (&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Malformed::Truncated),
            (&[0xff; 11], Malformed::Varint),
            (&[0x02], Malformed::Number),
            (&[0x0b], Malformed::WireType(3)),
        ];
        for (bytes, expected) in table {
            assert_eq!(weigh(&LOGS_REQUEST, bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_stops_where_prost_stops() {
        use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value::Value};
        use opentelemetry_proto::tonic::logs::v1::{LogRecord, LogsData, ResourceLogs, ScopeLogs};
        let nested = |levels: usize| {
            let mut value = AnyValue { value: Some(Value::BoolValue(true)) };
            for _ in 0..levels {
                value = AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![value] })) };
            }
            let record = LogRecord { body: Some(value), ..LogRecord::default() };
            let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
            LogsData { resource_logs: vec![ResourceLogs { scope_logs: vec![scope], ..Default::default() }] }
                .encode_to_vec()
        };
        for levels in [10, 47, 48, 49, 64, 100, 1_000] {
            let bytes = nested(levels);
            assert_eq!(weigh(&LOGS_REQUEST, &bytes).is_ok(), LogsData::decode(bytes.as_slice()).is_ok(), "{levels}");
        }
        assert_eq!(weigh(&LOGS_REQUEST, &nested(1_000)), Err(Malformed::Depth));
    }
}
