//! Lines of one pattern on their way to becoming one row.
//!
//! From log records that arrive one by one to the record that stands for them. It says what all of them share: an attribute, a trace
//! or an event name stays only if every line has it, and alike. Invariant: a row stands for exactly the lines that were put into
//! it.

use ollystack_record::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::value;
use ollystack_schema::names;

/// Of a trace (W3C Trace Context).
const TRACE_ID_BYTES: usize = 16;

/// The shortest value in a list is two bytes long and takes a value's size, and a share of its list's spare room.
const LIST_BYTES_PER_BYTE: usize = size_of::<KeyValue>();

/// How many examples are kept, and how much of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) samples: usize,
    pub(crate) bytes_max: usize,
}

impl Shown {
    /// What the examples of one row may take.
    pub(crate) fn bytes(self) -> usize {
        size_of::<Summary>() + self.samples * (size_of::<Sample>() + self.bytes_max + TRACE_ID_BYTES)
    }
}

/// Two or more lines as one, or a line that waits for the second.
#[derive(Debug)]
pub(crate) struct Summary {
    /// What all lines share; the body is the first one's.
    shared: LogRecord,
    count: u64,
    first: u64,
    last: u64,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    text: String,
    trace_id: Vec<u8>,
}

impl Sample {
    fn of(record: &LogRecord, shown: Shown) -> Sample {
        let trace_id = record.trace_id.iter().take(TRACE_ID_BYTES).copied().collect();
        Sample { text: cut(text_of(record), shown.bytes_max), trace_id }
    }

    fn heap_bytes(&self) -> usize {
        self.text.len() + self.trace_id.len()
    }
}

impl Summary {
    /// Of one line.
    pub(crate) fn new(record: LogRecord, shown: Shown) -> Summary {
        let time = time_of(&record);
        let mut samples = Vec::with_capacity(shown.samples);
        if shown.samples > 0 {
            samples.push(Sample::of(&record, shown));
        }
        Summary { count: 1, first: time, last: time, samples, shared: record }
    }

    /// What it takes beside its record.
    pub(crate) fn bytes(&self) -> usize {
        let texts: usize = self.samples.iter().map(Sample::heap_bytes).sum();
        size_of::<Summary>() + self.samples.capacity() * size_of::<Sample>() + texts
    }

    /// One line more. The bytes by which the summary grew.
    pub(crate) fn add(&mut self, record: &LogRecord, severity_text: &str, shown: Shown) -> usize {
        let time = time_of(record);
        self.count += 1;
        self.first = self.first.min(time);
        self.last = self.last.max(time);
        let shared = &mut self.shared;
        if shared.attributes != record.attributes {
            shared.attributes.retain(|attribute| record.attributes.contains(attribute));
        }
        let clear = |ours: &mut Vec<u8>, theirs: &Vec<u8>| {
            if ours != theirs {
                ours.clear();
            }
        };
        clear(&mut shared.trace_id, &record.trace_id);
        clear(&mut shared.span_id, &record.span_id);
        if shared.severity_text != severity_text {
            shared.severity_text.clear();
        }
        shared.flags &= record.flags;
        if self.samples.len() >= shown.samples.min(self.samples.capacity()) {
            return 0;
        }
        let sample = Sample::of(record, shown);
        let bytes = sample.heap_bytes();
        self.samples.push(sample);
        bytes
    }

    /// The row. A line that stayed alone goes out as it came.
    pub(crate) fn into_record(self, template: Option<String>) -> LogRecord {
        let Summary { mut shared, count, first, last, samples } = self;
        if count == 1 {
            return shared;
        }
        if let Some(template) = template {
            shared.body = Some(AnyValue { value: Some(Value::StringValue(template)) });
        }
        shared.time_unix_nano = first;
        let attributes = &mut shared.attributes;
        attributes.push(value::int(names::LOG_COUNT, i64::try_from(count).unwrap_or(i64::MAX)));
        attributes.push(value::int(names::LOG_LAST, i64::try_from(last).unwrap_or(i64::MAX)));
        if samples.iter().any(|sample| !sample.trace_id.is_empty()) {
            attributes.push(strings(names::LOG_SAMPLE_TRACES, samples.iter().map(|sample| hex(&sample.trace_id))));
        }
        if !samples.is_empty() {
            attributes.push(strings(names::LOG_SAMPLES, samples.into_iter().map(|sample| sample.text)));
        }
        shared
    }
}

/// When the line was written, or else read.
pub(crate) fn time_of(record: &LogRecord) -> u64 {
    if record.time_unix_nano == 0 { record.observed_time_unix_nano } else { record.time_unix_nano }
}

/// The text of a record, if text is its body.
pub(crate) fn text_of(record: &LogRecord) -> &str {
    match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text,
        _ => "",
    }
}

/// What a record takes in memory, in a vector of which half may be empty.
pub(crate) fn bytes_of(record: &LogRecord) -> usize {
    let body = match record.body.as_ref().and_then(|body| body.value.as_ref()) {
        Some(Value::StringValue(text)) => text.capacity(),
        _ => 0,
    };
    let ids = record.trace_id.capacity() + record.span_id.capacity();
    let spare = (record.attributes.capacity() - record.attributes.len()) * size_of::<KeyValue>();
    let attributes = attributes_bytes(&record.attributes) + spare;
    2 * size_of::<LogRecord>() + body + record.severity_text.capacity() + ids + attributes
}

/// What attributes take in memory.
pub(crate) fn attributes_bytes(attributes: &[KeyValue]) -> usize {
    let bytes = |attribute: &KeyValue| {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.capacity(),
            Some(Value::BytesValue(bytes)) => bytes.capacity(),
            // Lists are rare: a value of theirs takes more than it is long.
            Some(Value::ArrayValue(_) | Value::KvlistValue(_)) => {
                attribute.value.as_ref().map_or(0, |value| LIST_BYTES_PER_BYTE * prost::Message::encoded_len(value))
            }
            _ => 0,
        };
        size_of::<KeyValue>() + attribute.key.capacity() + value
    };
    attributes.iter().map(bytes).sum()
}

fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

fn strings(key: &str, texts: impl Iterator<Item = String>) -> KeyValue {
    let values = texts.map(|text| AnyValue { value: Some(Value::StringValue(text)) }).collect();
    let value = Some(AnyValue { value: Some(Value::ArrayValue(ArrayValue { values })) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
