//! Batches that the endpoint told to come back later, each for itself: a repetition, as long as an earlier attempt may still be
//! written somewhere.
//!
//! Such a batch keeps its lease but neither its bytes nor its place among those under way, so that others pass. When its time has
//! come its lease goes back, and the next one finds here whether an attempt may have arrived, and when it was sent. Invariant: a
//! batch of which no attempt may have arrived is not taken for a repetition, however often its lease changed hands.

use ollystack_buffer::EntryId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use tokio::time::{Instant, sleep_until};

/// Batches that wait at a time. While there are so many no other is begun: all of them are from before a crash, and so are the next.
const DEFERRED_MAX: usize = 64;

/// The waiting ones, and what is known of those that go again.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    waiting: BinaryHeap<Reverse<(Instant, EntryId)>>,
    doubtful_since: HashMap<EntryId, Option<Instant>>,
}

impl Deferred {
    /// `id` has to wait until `due`; an attempt that was sent at `doubtful_since` may have arrived, if there is one.
    pub(crate) fn add(&mut self, id: EntryId, due: Instant, doubtful_since: Option<Instant>) {
        self.waiting.push(Reverse((due, id)));
        self.doubtful_since.insert(id, doubtful_since);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= DEFERRED_MAX
    }

    /// Wait for the next that is due, and let it go; for ever while none waits.
    pub(crate) async fn due(&mut self) -> EntryId {
        let Some(Reverse((due, id))) = self.waiting.peek().copied() else { return std::future::pending().await };
        sleep_until(due).await;
        self.waiting.pop();
        id
    }

    /// What is known of an entry that is leased again; none when it was not here.
    pub(crate) fn leased(&mut self, id: EntryId) -> Option<Option<Instant>> {
        self.doubtful_since.remove(&id)
    }

    /// Nothing is left to be leased: whatever went from here and did not come again was thrown away by the buffer.
    pub(crate) fn nothing_left(&mut self) {
        if self.waiting.is_empty() {
            self.doubtful_since.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;

    #[tokio::test]
    async fn the_first_that_is_due_goes_first_and_is_known_when_it_comes_again() {
        let (mut deferred, now) = (Deferred::default(), Instant::now());
        deferred.add(EntryId(2), now, Some(now));
        deferred.add(EntryId(1), now - Duration::from_millis(1), None);
        deferred.add(EntryId(3), now + Duration::from_secs(3_600), Some(now));
        assert_eq!((deferred.due().await, deferred.due().await), (EntryId(1), EntryId(2)));
        assert!(deferred.due().now_or_never().is_none());
        assert_eq!((deferred.leased(EntryId(1)), deferred.leased(EntryId(2))), (Some(None), Some(Some(now))));
        assert_eq!(deferred.leased(EntryId(2)), None);
    }

    #[test]
    fn no_more_wait_than_may() {
        let (mut deferred, now) = (Deferred::default(), Instant::now());
        for id in 0..DEFERRED_MAX as u64 {
            assert!(!deferred.is_full());
            deferred.add(EntryId(id), now, None);
        }
        assert!(deferred.is_full());
    }
}
