//! Reduced records to frozen batches on the buffer.
//!
//! Records gather by signal and class until a batch is full or the interval is over; all that is due goes into one put, so that
//! one sync serves them all. Invariant: an ack is resolved durable only after the put that holds the last of its records returned.

use crate::books::measure;
use crate::config::{Config, MESSAGE_BYTES_MAX};
use crate::frozen;
use crate::split::{Part, Size, split};
use ollystack_buffer::{Advice, Buffer, Entry};
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceRequest;
use ollystack_record::otlp::collector::metrics::v1::ExportMetricsServiceRequest;
use ollystack_record::otlp::collector::trace::v1::ExportTraceServiceRequest;
use ollystack_record::{Ack, Class, DropReason, Ledger, Outcome, Place, Reduced, ReducedRecords, Signal};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Freeze until `reduced` is closed and empty; everything that came is then on disk or counted as dropped. Whoever sends a
/// batch here has entered its records in the ledger as waiting at [`Place::Freezer`].
pub async fn freeze(config: Config, mut reduced: mpsc::Receiver<Reduced>, buffer: Buffer, ledger: Arc<Ledger>) {
    let interval = Duration::from_millis(config.batch_interval_ms);
    let mut freezer = match Freezer::new(&config, buffer, ledger) {
        Ok(freezer) => freezer,
        Err(error) => {
            tracing::error!(%error, "zstd cannot be set up: nothing can be frozen");
            return;
        }
    };
    let mut deadline = None;
    loop {
        let due = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = reduced.recv() => match received {
                Some(reduced) => freezer.take(reduced).await,
                None => break,
            },
            () = due => freezer.flush(|_| true).await,
        }
        deadline = match (freezer.groups.is_empty(), deadline) {
            (true, _) => None,
            (false, known) => known.or_else(|| Some(Instant::now() + interval)),
        };
    }
    freezer.flush(|_| true).await;
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

struct Freezer {
    compressor: zstd::bulk::Compressor<'static>,
    max: Size,
    groups: BTreeMap<GroupKey, Group>,
    buffer: Buffer,
    ledger: Arc<Ledger>,
    failing: bool,
}

impl Freezer {
    fn new(config: &Config, buffer: Buffer, ledger: Arc<Ledger>) -> std::io::Result<Freezer> {
        let compressor = zstd::bulk::Compressor::new(config.compression_level)?;
        let max = Size { records: config.batch_records_max, bytes: config.batch_bytes_max };
        Ok(Freezer { compressor, max, groups: BTreeMap::new(), buffer, ledger, failing: false })
    }

    async fn take(&mut self, reduced: Reduced) {
        let Reduced { class, records, acks } = reduced;
        let signal = records.signal();
        let key = (signal as u8, class as u8);
        for part in split(records, self.max) {
            if part.size.records == 0 {
                continue;
            }
            if part.size.bytes > MESSAGE_BYTES_MAX {
                self.drop_too_large(signal, &part);
                continue;
            }
            let full = self.groups.get(&key).is_some_and(|group| {
                group.size.records + part.size.records > self.max.records
                    || group.size.bytes + part.size.bytes > self.max.bytes
            });
            if full {
                self.flush(|of| *of == key).await;
            }
            let empty = Size { records: 0, bytes: 0 };
            let group = self.groups.entry(key).or_insert_with(|| Group {
                signal,
                class,
                size: empty,
                records: Vec::new(),
                acks: Vec::new(),
            });
            group.size.records += part.size.records;
            group.size.bytes += part.size.bytes;
            group.records.push(part.records);
            group.acks.extend(acks.iter().cloned());
        }
        // Our own share of each: the clones in the groups decide.
        acks.into_iter().for_each(|ack| ack.resolve(Outcome::Durable));
    }

    /// No receiver takes it and no retry helps: the ack does not fail for it, or its sender would come back for ever.
    fn drop_too_large(&self, signal: Signal, part: &Part) {
        let records = part.size.records as u64;
        let (bytes, max) = (part.size.bytes, MESSAGE_BYTES_MAX);
        tracing::error!(
            signal = signal.name(),
            bytes,
            max,
            "one record is larger than what may be sent; it is dropped"
        );
        self.ledger.waiting_add(signal, Place::Freezer, -(records as i64));
        self.ledger.dropped(signal, DropReason::TooLarge, records);
    }

    /// Put the groups that `due` chooses, together.
    async fn flush(&mut self, due: impl Fn(&GroupKey) -> bool) {
        let mut settle = Vec::new();
        let mut entries = Vec::new();
        for (_, group) in self.groups.extract_if(.., |key, _| due(key)) {
            let records = group.size.records as u64;
            let plain = encode(group.signal, group.records);
            entries.push(frozen::freeze(&mut self.compressor, group.signal, group.class, records, plain));
            settle.push((group.signal, records, group.acks));
        }
        if entries.is_empty() {
            return;
        }
        match self.put(entries.clone()).await {
            Err(Advice::Drop) if entries.len() > 1 => {
                // One of them can never be stored; the others need not go with it.
                for (entry, settle) in entries.into_iter().zip(settle) {
                    let result = self.put(vec![entry]).await;
                    self.settle(result, vec![settle]);
                }
            }
            result => self.settle(result, settle),
        }
        measure(&self.buffer, &self.ledger);
    }

    async fn put(&mut self, entries: Vec<Entry>) -> Result<(), Advice> {
        match self.buffer.put(entries).await {
            Ok(_) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the disk buffer takes batches again");
                }
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the disk buffer does not take batches; they are dropped until it does");
                }
                Err(error.advice())
            }
        }
    }

    fn settle(&self, result: Result<(), Advice>, groups: Vec<(Signal, u64, Vec<Ack>)>) {
        for (signal, records, acks) in groups {
            self.ledger.waiting_add(signal, Place::Freezer, -(records as i64));
            let outcome = match result {
                Ok(()) => Outcome::Durable,
                Err(advice) => {
                    let reason = if advice == Advice::Drop { DropReason::TooLarge } else { DropReason::BufferFailed };
                    self.ledger.dropped(signal, reason, records);
                    Outcome::Dropped
                }
            };
            acks.into_iter().for_each(|ack| ack.resolve(outcome));
        }
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
