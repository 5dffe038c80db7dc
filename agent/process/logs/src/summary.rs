//! Lines of one pattern on their way to becoming one row.
//!
//! From log records that arrive one by one to the record that stands for them. It says what all of them share: an attribute, a trace
//! or an event name stays only if every line has it, and alike. Invariant: a row stands for exactly the lines that were put into
//! it.

use ollystack_record::otlp::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::value;
use ollystack_schema::names;

/// How many examples are kept, and how much of each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) samples: usize,
    pub(crate) bytes_max: usize,
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

impl Summary {
    /// Of one line.
    pub(crate) fn new(record: LogRecord, shown: Shown) -> Summary {
        let time = time_of(&record);
        let mut summary = Summary { count: 1, first: time, last: time, samples: Vec::new(), shared: record };
        if shown.samples > 0 {
            let (text, trace_id) = (cut(text_of(&summary.shared), shown.bytes_max), summary.shared.trace_id.clone());
            summary.samples.push(Sample { text, trace_id });
        }
        summary
    }

    /// One line more. The bytes by which the summary grew.
    pub(crate) fn add(&mut self, record: LogRecord, shown: Shown) -> usize {
        let time = time_of(&record);
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
        if shared.severity_text != record.severity_text {
            shared.severity_text.clear();
        }
        shared.flags &= record.flags;
        if self.samples.len() >= shown.samples {
            return 0;
        }
        let sample = Sample { text: cut(text_of(&record), shown.bytes_max), trace_id: record.trace_id };
        let bytes = sample.text.len() + sample.trace_id.len() + size_of::<Sample>();
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

/// What a record takes in memory.
pub(crate) fn bytes_of(record: &LogRecord) -> usize {
    let attribute = |attribute: &KeyValue| {
        let text = match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.capacity(),
            Some(Value::BytesValue(bytes)) => bytes.capacity(),
            // Lists are rare on logs; their encoding is about what they take.
            Some(other) => prost::Message::encoded_len(&AnyValue { value: Some(other.clone()) }),
            None => 0,
        };
        size_of::<KeyValue>() + attribute.key.capacity() + text
    };
    size_of::<LogRecord>() + text_of(record).len() + record.attributes.iter().map(attribute).sum::<usize>()
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
