//! What was just put, for whoever leases it at once: while the queue is short nothing has to be read back.
//!
//! From `commit`, after the sync, to `store`'s leases. Invariant: bounded bytes, none while there is a backlog; an entry here is, byte
//! for byte, the row of that id.

use crate::Entry;
use std::collections::BTreeMap;

/// Payload and meta of entries that are kept in memory, until they are leased or more than this waits: one batch of the largest that is usual,
/// and then some.
pub const RECENT_BYTES_MAX: u64 = 1_280 << 10;

/// By id.
#[derive(Debug)]
pub(crate) struct Recent {
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
    bytes_max: u64,
    /// More came than is kept: there is a backlog until nothing waits again.
    is_over: bool,
}

impl Recent {
    pub(crate) fn new(segment_bytes_max: u64) -> Recent {
        let bytes_max = RECENT_BYTES_MAX.min(segment_bytes_max / 4);
        Recent { entries: BTreeMap::new(), bytes: 0, bytes_max, is_over: false }
    }

    pub(crate) fn add(&mut self, id: u64, entry: &Entry) {
        self.is_over |= self.bytes + entry.size() > self.bytes_max;
        if self.is_over {
            self.forget();
        } else {
            self.bytes += entry.size();
            self.entries.insert(id, entry.clone());
        }
    }

    pub(crate) fn take(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.bytes -= entry.size();
        Some(entry)
    }

    /// Nothing waits any more; what is left here was evicted.
    pub(crate) fn begin(&mut self) {
        self.forget();
        self.is_over = false;
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn each_entry_is_given_once_and_none_of_a_backlog_until_nothing_waits() {
        let entry =
            |bytes| Entry { class: 0, signal: 0, records: 1, meta: Bytes::new(), payload: vec![7; bytes].into() };
        let mut recent = Recent::new(400);
        (1..=2).for_each(|id| recent.add(id, &entry(50)));
        assert_eq!([1, 1].map(|id| recent.take(id)), [Some(entry(50)), None]);
        recent.add(3, &entry(50));
        assert!(recent.take(3).is_some(), "what was taken leaves room");
        (4..=6).for_each(|id| recent.add(id, &entry(30)));
        assert_eq!([2, 4, 5, 6].map(|id| recent.take(id)), [None, None, None, None], "140 of a quarter of 400 bytes");
        recent.begin();
        recent.add(7, &entry(30));
        assert_eq!(recent.take(7), Some(entry(30)));
    }
}
