//! Reduced records to batches: gathered by signal and class until one is full or its time is over, then encoded and compressed.
//!
//! Pure: no I/O and no clock, so that a bench sees the bytes that the disk and the wire see. Invariant: every record taken is in
//! one batch, in the order in which it came, or reported as too large.

use crate::config::{Config, MESSAGE_BYTES_MAX};
use crate::frozen;
use crate::pack::Packer;
use crate::split::{Part, Size, split};
use ollystack_buffer::Entry;
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::collector::trace::v1::ExportTraceServiceRequest;
use ollystack_record::{Ack, Class, Outcome, Reduced, ReducedRecords, Signal};
use prost::Message;
use std::collections::BTreeMap;

/// An export request as it will be sent, and who waits for it.
#[derive(Debug)]
pub struct Gathered {
    /// What of.
    pub signal: Signal,
    /// What it is worth.
    pub class: Class,
    /// How many.
    pub records: u64,
    /// Bytes of the request before compression.
    pub plain_bytes: u64,
    /// As it goes into the buffer; the payload is the compressed request.
    pub entry: Entry,
    /// Clones: the last batch with records of an input's batch decides.
    pub acks: Vec<Ack>,
}

/// Records of one export request alone that is larger than any receiver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// What of.
    pub signal: Signal,
    /// How many: one.
    pub records: u64,
    /// Of how many bytes.
    pub bytes: usize,
}

/// Gathers.
pub struct Gather {
    packer: Packer,
    max: Size,
    groups: BTreeMap<GroupKey, Group>,
}

/// Which batch a record belongs to: signal, then class, by their numbers.
type GroupKey = (u8, u8);

/// A batch that is being gathered.
#[derive(Debug)]
struct Group {
    signal: Signal,
    class: Class,
    size: Size,
    records: Vec<ReducedRecords>,
    acks: Vec<Ack>,
}

impl Gather {
    /// An empty one.
    pub fn new(config: &Config) -> std::io::Result<Gather> {
        let packer = Packer::new(config)?;
        let max = Size { records: config.batch_records_max, bytes: config.batch_bytes_max };
        Ok(Gather { packer, max, groups: BTreeMap::new() })
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Take records. Batches that these do not fit into any more are appended to `full`, records that fit into none to `too_large`.
    /// Records that need several batches are in `full` as a whole, so that one put makes all of them durable.
    pub fn take(&mut self, reduced: Reduced, full: &mut Vec<Gathered>, too_large: &mut Vec<TooLarge>) {
        let Reduced { class, records, acks } = reduced;
        let signal = records.signal();
        let key = (signal as u8, class as u8);
        let parts = split(records, self.max);
        let is_split = parts.len() > 1;
        for Part { records, size } in parts {
            if size.records == 0 {
                continue;
            }
            if size.bytes > MESSAGE_BYTES_MAX {
                too_large.push(TooLarge { signal, records: size.records as u64, bytes: size.bytes });
                continue;
            }
            let overflows = |group: &mut Group| {
                group.size.records + size.records > self.max.records || group.size.bytes + size.bytes > self.max.bytes
            };
            if self.groups.get_mut(&key).is_some_and(overflows)
                && let Some(group) = self.groups.remove(&key)
            {
                full.push(group.freeze(&mut self.packer));
            }
            let empty = Size { records: 0, bytes: 0 };
            let group = self.groups.entry(key).or_insert_with(|| Group {
                signal,
                class,
                size: empty,
                records: Vec::new(),
                acks: Vec::new(),
            });
            group.size.records += size.records;
            group.size.bytes += size.bytes;
            group.records.push(records);
            group.acks.extend(acks.iter().cloned());
        }
        if is_split && let Some(group) = self.groups.remove(&key) {
            full.push(group.freeze(&mut self.packer));
        }
        // Our own share of each: the clones in the groups decide.
        acks.into_iter().for_each(|ack| ack.resolve(Outcome::Durable));
    }

    /// Everything that waits, as batches.
    pub fn flush(&mut self) -> Vec<Gathered> {
        let groups = std::mem::take(&mut self.groups);
        groups.into_values().map(|group| group.freeze(&mut self.packer)).collect()
    }
}

impl Group {
    fn freeze(self, packer: &mut Packer) -> Gathered {
        let Group { signal, class, size, records, acks } = self;
        let (count, plain) = (size.records as u64, encode(signal, records));
        let plain_bytes = plain.len() as u64;
        let entry = frozen::freeze(packer, signal, class, count, plain);
        Gathered { signal, class, records: count, plain_bytes, entry, acks }
    }
}

/// One export request of all resources.
fn encode(signal: Signal, records: Vec<ReducedRecords>) -> Vec<u8> {
    let mut metrics = ExportMetricsServiceRequest::default();
    let mut logs = ExportLogsServiceRequest::default();
    let mut traces = ExportTraceServiceRequest::default();
    for records in records {
        match records {
            ReducedRecords::Metrics(resource) => metrics.resource_metrics.push(resource),
            ReducedRecords::Logs(resource) => logs.resource_logs.push(resource),
            ReducedRecords::Traces(resource) => traces.resource_spans.push(resource),
        }
    }
    match signal {
        Signal::Metrics => metrics.encode_to_vec(),
        Signal::Logs => logs.encode_to_vec(),
        Signal::Traces => traces.encode_to_vec(),
    }
}
