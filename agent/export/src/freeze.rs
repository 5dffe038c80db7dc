//! Reduced records to frozen batches on the buffer.
//!
//! Records gather until a batch is full or the interval is over; all that is due goes into one put, so that one sync serves
//! them all. Inputs that go by positions are told before a put what it makes durable. Invariant: an ack is resolved durable only
//! after the put that holds the last of its records returned.

use crate::books::measure;
use crate::config::{Config, MESSAGE_BYTES_MAX};
use crate::gather::{Gather, Gathered, TooLarge};
use ollystack_buffer::{Advice, Buffer, Entry};
use ollystack_record::{Announcement, DropReason, Ledger, Outcome, Place, Reduced};
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
            () = due => freezer.flush().await,
        }
        deadline = match (freezer.gather.is_empty(), deadline) {
            (true, _) => None,
            (false, known) => known.or_else(|| Some(Instant::now() + interval)),
        };
    }
    freezer.flush().await;
}

struct Freezer {
    gather: Gather,
    buffer: Buffer,
    ledger: Arc<Ledger>,
    failing: bool,
    /// The highest that the buffer gave.
    last_id: u64,
}

impl Freezer {
    fn new(config: &Config, buffer: Buffer, ledger: Arc<Ledger>) -> std::io::Result<Freezer> {
        let last_id = buffer.last_ids().into_iter().max().unwrap_or_default();
        Ok(Freezer { gather: Gather::new(config)?, buffer, ledger, failing: false, last_id })
    }

    async fn take(&mut self, reduced: Reduced) {
        let (mut full, mut too_large) = (Vec::new(), Vec::new());
        self.gather.take(reduced, &mut full, &mut too_large);
        too_large.into_iter().for_each(|record| self.drop_too_large(record));
        self.store(full).await;
    }

    /// No receiver takes it and no retry helps: the ack does not fail for it, or its sender would come back for ever.
    fn drop_too_large(&self, TooLarge { signal, records, bytes }: TooLarge) {
        tracing::error!(
            signal = signal.name(),
            bytes,
            max = MESSAGE_BYTES_MAX,
            "one record is larger than what may be sent; it is dropped"
        );
        self.ledger.waiting_add(signal, Place::Freezer, -(records as i64));
        self.ledger.dropped(signal, DropReason::TooLarge, records);
    }

    async fn flush(&mut self) {
        let due = self.gather.flush();
        self.store(due).await;
    }

    /// Put batches, together.
    async fn store(&mut self, batches: Vec<Gathered>) {
        if batches.is_empty() {
            return;
        }
        let entries = batches.iter().map(|batch| batch.entry.clone()).collect();
        let announcement = self.announce(&batches).await;
        match self.put(entries).await {
            Err(Advice::Drop) if batches.len() > 1 => {
                // One of them can never be stored; the others need not go with it.
                for batch in batches {
                    let result = self.put(vec![batch.entry.clone()]).await;
                    self.settle(result, vec![batch]);
                }
            }
            result => self.settle(result, batches),
        }
        announcement.settled();
        measure(&self.buffer, &self.ledger);
    }

    /// Tell inputs what is about to be put.
    async fn announce(&self, batches: &[Gathered]) -> Arc<Announcement> {
        let acks = batches.iter().flat_map(|batch| batch.acks.iter().map(|ack| (batch.class, ack)));
        let (announcement, after) = (Arc::new(Announcement::of(acks)), self.last_id);
        if !announcement.is_empty() {
            let announcement = Arc::clone(&announcement);
            // They write files.
            let written = tokio::task::spawn_blocking(move || announcement.announce(after)).await;
            if let Err(crash) = written {
                tracing::error!(%crash, "inputs could not be told of a put");
            }
        }
        announcement
    }

    async fn put(&mut self, entries: Vec<Entry>) -> Result<(), Advice> {
        match self.buffer.put(entries).await {
            Ok(ids) => {
                self.last_id = ids.last().map_or(self.last_id, |id| id.0);
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

    fn settle(&self, result: Result<(), Advice>, batches: Vec<Gathered>) {
        for Gathered { signal, records, acks, .. } in batches {
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
