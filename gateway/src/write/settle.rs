//! What becomes of a block of agents' rows whose insert was broken off: ClickHouse writes the table first and its views after it, and may
//! have come anywhere.
//!
//! Comes from `write`; asks the table. Rows that are there all tell that the insert came past the table, and the same block
//! under the same token, at whatever time, then completes the views and adds nothing to the table. Rows of which none are there once
//! the insert's time is over were not written, but a ClickHouse that stood still may just be about to: their senders come again with a
//! repetition, which is looked up then. Invariant: the table's rows are never written after the block's time, so
//! whoever repeats the delivery elsewhere after that finds them, or writes the only ones.

use super::Writer;
use crate::batch::Frozen;
use crate::batch::share::Fate;
use crate::convert::LABELS;
use crate::delivered::deadline::Deadline;
use std::time::Duration;
use tokio::time::sleep;

/// Blocks that wait at a time. As many inserts as are under way can be broken off together; further ones are left in doubt.
pub(super) const BLOCKS_MAX: usize = 8;

/// Between two looks: doubles from the first to the second, as each may cost ClickHouse an insert.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// A ClickHouse that crashed may take so long to come back; after it the block is left as it is.
const WAIT_MAX: Duration = Duration::from_secs(300);

impl Writer {
    /// Bring a block to an end; on `stop`, or when it takes too long, leave it in doubt.
    pub(super) async fn settle(&self, frozen: Frozen, begin_by: Deadline) {
        let Ok(_place) = self.settling.try_acquire() else { return frozen.settle(Fate::Doubtful) };
        let over = begin_by.plus(self.terms.settled_within() - self.terms.begin_within);
        let give_up = Deadline::after(WAIT_MAX);
        let fate = async {
            let mut pause = PAUSE_MIN;
            while !give_up.passed() {
                if let Some(fate) = self.look(&frozen, begin_by, over).await {
                    return fate;
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Fate::Doubtful
        };
        let fate = self.stop.run_until_cancelled(fate).await.unwrap_or(Fate::Doubtful);
        frozen.settle(fate);
    }

    /// One look, and one more insert if that can do no harm.
    async fn look(&self, frozen: &Frozen, begin_by: Deadline, over: Deadline) -> Option<Fate> {
        let insert = async |begin_by| self.insert(&frozen.block, begin_by).await.ok().map(|()| Fate::Safe);
        // Labels replace each other: twice is once.
        if frozen.table == LABELS {
            return insert(None).await;
        }
        let deliveries = frozen.deliveries();
        // Asked before the look: what is not there then is none of a ClickHouse that keeps its limits.
        let over = over.passed();
        match self.clickhouse.in_table(&deliveries).await.ok()? {
            0 if over => Some(Fate::Doubtful),
            all if all == deliveries.len() => insert(None).await,
            // Also where of several partitions or shards some were written: those know their part by the token, and their views may lack it.
            _ if !begin_by.passed() => insert(Some(begin_by)).await,
            0 => None,
            _ => Some(Fate::Doubtful),
        }
    }
}
