//! Sends what waits on disk to ClickHouse, oldest first, and what was set aside once per start.
//!
//! Invariant: an entry leaves the spill only after ClickHouse confirmed it or it stands among the blocks set aside.

use super::Writer;
use super::clickhouse::{Error, Kind};
use crate::batch::block::Block;
#[cfg(feature = "kafka")]
use crate::kafka::message::Head as MessageHead;
use crate::telemetry::metrics::OfTable;
use ollystack_buffer::{Buffer, EntryId, Stored};
#[cfg(feature = "kafka")]
use ollystack_receive::Signal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Pause after a failure: doubles from the first to the second, plus or minus half.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Answers that say neither "later" nor "never" are taken for "never" after so many tries of one block: about two minutes.
const TRIES_MAX: u32 = 25;

impl Writer {
    /// Run until `stop`.
    pub(crate) async fn replay(self: Arc<Self>) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.replay_for_ever()).await;
    }

    async fn replay_for_ever(&self) {
        self.schema().await;
        self.retry_set_aside().await;
        let mut tries = 0;
        loop {
            self.spill.changed().await;
            self.schema().await;
            let stored = match self.spill.next().await {
                Ok(Some(stored)) => stored,
                Ok(None) => {
                    // Everything is on lease elsewhere, or the spill is closed: the wait above is no wait then.
                    sleep(RETRY_MIN).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "the spill cannot be read; trying again");
                    sleep(RETRY_MAX).await;
                    continue;
                }
            };
            if self.send(stored, tries >= TRIES_MAX).await {
                tries = 0;
            } else {
                sleep(pause(tries)).await;
                tries += 1;
            }
        }
    }

    /// Bring one entry out of the spill. False when it went back.
    async fn send(&self, stored: Stored, last_try: bool) -> bool {
        let lease = Lease { buffer: &self.spill, id: Some(stored.id) };
        let block = match Block::from_entry(&stored.entry) {
            Ok(block) => block,
            Err(error) => {
                tracing::error!(%error, rows = stored.entry.records, "a block in the spill cannot be read; set aside as it is");
                let kept = self.set_aside.put(vec![stored.entry.clone()]).await.is_ok();
                return kept && lease.done().await;
            }
        };
        let settled = match self.insert(&block, None).await {
            Ok(()) => {
                self.metrics.replayed.get_or_create(&OfTable { table: self.label(&block.head.table) }).inc();
                self.count_replayed(&block.head);
                true
            }
            Err(error) if never(&error, last_try) => {
                self.set_aside(usize::from(stored.entry.signal), &block, &error).await
            }
            Err(_) => false,
        };
        settled && lease.done().await
    }

    /// Insert a block that stands in a log, for as long as it takes.
    #[cfg(feature = "kafka")]
    pub(crate) async fn write_through(&self, table: usize, block: &Block) -> Landed {
        let mut tries = 0;
        loop {
            self.schema().await;
            // Closed never: the permit is for the insert alone, not for a pause.
            let permit = self.in_flight.acquire().await;
            let inserted = self.insert(block, None).await;
            drop(permit);
            match inserted {
                Ok(()) => return Landed::Stored,
                Err(error) if never(&error, tries >= TRIES_MAX) => {
                    if self.set_aside(table, block, &error).await {
                        return Landed::SetAside;
                    }
                }
                Err(_) => {}
            }
            sleep(pause(tries)).await;
            tries += 1;
        }
    }

    /// How many rows the tables hold of a message's delivery and service, asked for as long as it takes.
    #[cfg(feature = "kafka")]
    pub(crate) async fn rows_of(&self, signal: Signal, head: &MessageHead) -> u64 {
        let mut tries = 0;
        loop {
            self.schema().await;
            match self.clickhouse.rows_of(signal, head).await {
                Ok(rows) => return rows,
                Err(error) => {
                    tracing::warn!(%error, "whether a message arrived before cannot be known now; asking again")
                }
            }
            sleep(pause(tries)).await;
            tries += 1;
        }
    }

    /// What was set aside is tried once more: the table may have been put right since.
    async fn retry_set_aside(&self) {
        let mut kept = Vec::new();
        while let Ok(Some(stored)) = self.set_aside.next().await {
            let lease = Lease { buffer: &self.set_aside, id: Some(stored.id) };
            let inserted = match Block::from_entry(&stored.entry) {
                Ok(block) => {
                    let inserted = self.insert(&block, None).await.is_ok();
                    if inserted {
                        self.count_replayed(&block.head);
                    }
                    inserted
                }
                Err(_) => false,
            };
            match inserted {
                true => drop(lease.done().await),
                false => kept.push(lease),
            }
        }
        if !kept.is_empty() {
            tracing::warn!(
                blocks = kept.len(),
                "ClickHouse still refuses blocks that were set aside; they stay on disk"
            );
        }
    }

    async fn schema(&self) {
        // An error means that the sender is gone, and it is ours.
        let _ = self.schema_ready.subscribe().wait_for(|ready| *ready).await;
    }
}

/// Where a block came to.
#[cfg(feature = "kafka")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landed {
    /// In the tables.
    Stored,
    /// Among the blocks that ClickHouse refuses.
    SetAside,
}

fn never(error: &Error, last_try: bool) -> bool {
    error.kind == Kind::Block || (error.kind == Kind::Other && last_try)
}

/// A lease that goes back when it is dropped, so that a stop in the middle of an insert leaves the entry where it was. Without the
/// entry: as many as are set aside are kept at a time.
struct Lease<'a> {
    buffer: &'a Buffer,
    id: Option<EntryId>,
}

impl Lease<'_> {
    /// The entry arrived. True, unless the buffer is closed: then it comes again and its token makes that harmless.
    async fn done(mut self) -> bool {
        match self.id.take() {
            Some(id) => self.buffer.ack(vec![id]).await.is_ok(),
            None => false,
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.buffer.release(id);
        }
    }
}

fn pause(tries: u32) -> Duration {
    let pause = RETRY_MIN.saturating_mul(1 << tries.min(16)).min(RETRY_MAX);
    // Without random bytes the pause is merely as long as every other gateway's.
    let half = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_are_spread() {
        for tries in 0..100 {
            let pause = pause(tries);
            assert!(pause >= RETRY_MIN / 2 && pause <= RETRY_MAX.mul_f64(1.5), "{tries}: {pause:?}");
        }
        assert!(pause(30) >= RETRY_MAX / 2);
    }
}
