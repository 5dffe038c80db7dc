//! Entries into records, until they are a batch.
//!
//! Each line that a service writes to its output is an entry; those that belong together, as a stack trace does, are one record,
//! per stream and within one batch. Invariant: a batch holds no more than its limits, and says how far the journal was read.

use crate::cursor::Place;
use crate::entry::Entry;
use hashbrown::HashMap;
use ollystack_multiline::Shape;
use ollystack_record::Resource;
use ollystack_record::otlp::common::v1::{AnyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::value;
use ollystack_schema::names;
use std::sync::Arc;
use tokio::time::Instant;

/// Most lines of one record.
const LINES_MAX: u32 = 500;

/// Message bytes after which a batch is full.
const BYTES_MAX: usize = 128 << 10;

/// Resources that are remembered.
const RESOURCES_MAX: usize = 256;

/// What was read and is not handed in.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    records: Vec<Pending>,
    /// By stream: the record that may go on.
    open: HashMap<String, (usize, Shape)>,
    bytes: usize,
    /// Up to here.
    pub(crate) place: Option<Place>,
    /// When the first entry and the last one came.
    pub(crate) since: Option<(Instant, Instant)>,
}

#[derive(Debug)]
struct Pending {
    resource: Arc<Resource>,
    record: LogRecord,
    text: String,
    lines: u32,
    is_cut: bool,
}

impl Gathered {
    /// Put an entry to it whose message has no more than `bytes_max`.
    pub(crate) fn take(&mut self, entry: Entry, resource: Arc<Resource>, observed: u64, bytes_max: usize) {
        let is_cut = entry.is_cut;
        let message = entry.message.0.trim_end_matches(['\r', '\n']);
        let stream = Some(&entry.stream.0).filter(|stream| entry.is_output() && !stream.is_empty());
        self.bytes += message.len();
        if let Some(stream) = stream
            && let Some((at, shape)) = self.open.get_mut(stream)
            && let Some(next) = shape.with(message.as_bytes())
            && let Some(pending) = self.records.get_mut(*at)
            && pending.lines < LINES_MAX
            && pending.text.len() + 1 + message.len() <= bytes_max
        {
            pending.text.push('\n');
            pending.text.push_str(message);
            pending.lines += 1;
            pending.is_cut |= is_cut;
            *shape = next;
            return;
        }
        if let Some(stream) = stream {
            self.open.insert(stream.clone(), (self.records.len(), Shape::head(message.as_bytes())));
        }
        let (number, name) = entry.severity().map_or((0, ""), |(number, name)| (number as i32, name));
        let record = LogRecord {
            time_unix_nano: entry.time_unix_nano(),
            observed_time_unix_nano: observed,
            severity_number: number,
            severity_text: name.to_owned(),
            attributes: entry.record_attributes(),
            ..LogRecord::default()
        };
        self.records.push(Pending { resource, record, text: message.to_owned(), lines: 1, is_cut });
    }

    /// An entry came, or was passed over.
    pub(crate) fn note(&mut self, place: Place, now: Instant) {
        self.place = Some(place);
        self.since = Some((self.since.map_or(now, |(first, _)| first), now));
    }

    pub(crate) fn is_full(&self, records_max: usize) -> bool {
        self.records.len() >= records_max || self.bytes >= BYTES_MAX
    }

    /// Its records by resource, each in the order of the journal.
    pub(crate) fn into_batches(self) -> Vec<(Arc<Resource>, Vec<LogRecord>)> {
        let mut batches: Vec<(Arc<Resource>, Vec<LogRecord>)> = Vec::new();
        for Pending { resource, mut record, text, lines, is_cut } in self.records {
            if lines > 1 {
                record.attributes.push(value::int(names::LOG_LINES, i64::from(lines)));
            }
            if is_cut {
                record.attributes.push(value::bool(names::LOG_CUT, true));
            }
            record.body = Some(AnyValue { value: Some(Value::StringValue(text)) });
            match batches.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &resource)) {
                Some((_, records)) => records.push(record),
                None => batches.push((resource, vec![record])),
            }
        }
        batches
    }
}

/// Who wrote entries, remembered by what entries say of it.
#[derive(Debug)]
pub(crate) struct Resources {
    host: Arc<Resource>,
    known: HashMap<String, Arc<Resource>>,
}

impl Resources {
    pub(crate) fn new(host: Arc<Resource>) -> Resources {
        Resources { host, known: HashMap::new() }
    }

    pub(crate) fn of(&mut self, entry: &Entry) -> Arc<Resource> {
        let key = entry.source().join("\0");
        if let Some(resource) = self.known.get(&key) {
            return Arc::clone(resource);
        }
        if self.known.len() >= RESOURCES_MAX {
            self.known.clear();
        }
        let attributes = [self.host.attributes().to_vec(), entry.resource_attributes()].concat();
        let resource = Arc::new(Resource::new(attributes));
        self.known.insert(key, Arc::clone(&resource));
        resource
    }
}
