//! The buffer against a model of it, through random operations, clean restarts and kills.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests; clippy knows only functions marked as one")]

mod support;

use ollystack_buffer::{Buffer, Entry, EntryId, Loss, Stats};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use support::{Losses, copy, disk_bytes, entry, number, open, small};

#[derive(Clone, Debug)]
enum Operation {
    Put(Vec<(u8, usize)>),
    Lease,
    /// The lease at this place, modulo how many there are.
    Ack(usize),
    Release(usize),
    /// Of the waiting ones of a class so many become one of this size, or two.
    Replace(u8, usize, usize),
    Restart,
    Kill,
}

fn operation() -> impl Strategy<Value = Operation> {
    let size = prop_oneof![0..300_usize, 3_000..9_000_usize, 100_000..260_000_usize];
    prop_oneof![
        5 => prop::collection::vec((0..3_u8, size), 1..4).prop_map(Operation::Put),
        5 => Just(Operation::Lease),
        4 => any::<usize>().prop_map(Operation::Ack),
        2 => any::<usize>().prop_map(Operation::Release),
        3 => (0..3_u8, 1..12_usize, 0..60_000_usize).prop_map(|(class, count, bytes)| Operation::Replace(class, count, bytes)),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Kill),
    ]
}

/// What must be there.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<EntryId, (Entry, bool)>,
    leased: BTreeMap<EntryId, Entry>,
    /// Acked since the last clean stop: a kill may bring them back.
    acked: BTreeMap<EntryId, Entry>,
    highest: Option<EntryId>,
    /// Given since the buffer was opened.
    leases: u64,
    put_records: u64,
    acked_records: u64,
}

impl Model {
    /// The most valuable class first, the oldest of it; of four leases the last goes to the oldest of all.
    fn lease(&mut self) -> Option<(EntryId, (Entry, bool))> {
        let by_age = self.leases % 4 == 3;
        let turn = |(id, (entry, _)): &(&EntryId, &(Entry, bool))| (if by_age { 0 } else { entry.class }, **id);
        let id = *self.waiting.iter().min_by_key(turn)?.0;
        self.leases += 1;
        self.waiting.remove_entry(&id)
    }
}

struct World {
    directory: tempfile::TempDir,
    buffer: Buffer,
    losses: Arc<Losses>,
    lost_before: u64,
    /// Records that were evicted while on lease and told as lost by the last stop.
    orphans: u64,
    model: Model,
    next: u64,
}

impl World {
    fn new() -> World {
        let directory = support::directory();
        let (buffer, _, losses) = open(small(directory.path()));
        World { directory, buffer, losses, lost_before: 0, orphans: 0, model: Model::default(), next: 0 }
    }

    async fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Put(sizes) => {
                let entries: Vec<Entry> = sizes.iter().map(|(class, bytes)| self.entry(*class, *bytes)).collect();
                let ids = self.buffer.put(entries.clone()).await.unwrap();
                assert_eq!(ids.len(), entries.len());
                for (id, entry) in ids.into_iter().zip(entries) {
                    assert!(Some(id) > self.model.highest);
                    self.model.highest = Some(id);
                    self.model.put_records += u64::from(entry.records);
                    self.model.waiting.insert(id, (entry, false));
                }
                self.forget_evicted();
            }
            Operation::Lease => {
                let stored = self.buffer.next().await.unwrap();
                let expected = self.model.lease();
                assert_eq!(stored.is_some(), expected.is_some());
                if let (Some(stored), Some((id, (entry, redelivered)))) = (stored, expected) {
                    assert_eq!((stored.id, &stored.entry, stored.redelivered), (id, &entry, redelivered));
                    self.model.leased.insert(id, entry);
                }
            }
            Operation::Ack(at) => {
                let Some(id) = self.pick(*at) else { return };
                self.buffer.ack(vec![id]).await.unwrap();
                let entry = self.model.leased.remove(&id).unwrap();
                self.model.acked_records += u64::from(entry.records);
                self.model.acked.insert(id, entry);
            }
            Operation::Release(at) => {
                let Some(id) = self.pick(*at) else { return };
                let lost = self.losses.total();
                self.buffer.release(id);
                let entry = self.model.leased.remove(&id).unwrap();
                // The writer has heard of it when it has answered a later call.
                self.buffer.ack(vec![]).await.unwrap();
                // Evicted while it was on lease, it is lost now and no other.
                if self.losses.total() == lost {
                    self.model.waiting.insert(id, (entry, true));
                }
            }
            Operation::Replace(class, count, bytes) => self.replace(*class, *count, *bytes).await,
            Operation::Restart => {
                self.stop().await;
                let fresh = support::directory();
                copy(self.directory.path(), fresh.path());
                self.reopen(fresh, false).await;
            }
            Operation::Kill => {
                let fresh = support::directory();
                copy(self.directory.path(), fresh.path());
                // Only so that its thread ends: what it writes from here on is not looked at.
                self.stop().await;
                self.reopen(fresh, true).await;
            }
        }
        let used = disk_bytes(self.directory.path());
        assert!(used <= 4 << 20, "{used} bytes on disk");
    }

    async fn replace(&mut self, class: u8, count: usize, bytes: usize) {
        let old = self.buffer.waiting(class, class % 3, EntryId(0), count).await.unwrap();
        // Those that nobody may have seen: of an earlier process all are marked.
        let fresh = self.model.waiting.iter().filter(|(_, (entry, seen))| entry.class == class && !seen);
        let fresh: Vec<(EntryId, u32)> = fresh.map(|(id, (entry, _))| (*id, entry.records)).take(count).collect();
        let found: Vec<(EntryId, u32)> = old.iter().map(|waiting| (waiting.id, waiting.records)).collect();
        assert!(fresh.starts_with(&found) && found.is_empty() == fresh.is_empty(), "{found:?} of {fresh:?}");
        if let Some(first) = old.first() {
            let entry = self.buffer.peek(first).await.unwrap();
            assert_eq!(entry.as_ref(), Some(&self.model.waiting[&first.id].0));
        }
        let entries: Vec<Entry> = old.iter().take(2).map(|_| self.entry(class, bytes)).collect();
        let (held, lost) = (self.buffer.stats(), self.losses.total());
        let kept: Vec<EntryId> = found[found.len() - entries.len()..].iter().map(|(id, _)| *id).collect();
        if !self.buffer.replace(old, entries.clone()).await.unwrap() {
            let room = held.disk_bytes_max - held.disk_bytes;
            assert!(found.is_empty() || room < 2 << 20, "{} entries not replaced with {room} bytes free", found.len());
            // Of the files, which an idle moment makes smaller, it says nothing.
            let counts = |stats: &Stats| (stats.entries, stats.records, stats.payload_bytes, stats.leased, stats.left);
            assert_eq!(counts(&self.buffer.stats()), counts(&held));
            return;
        }
        for (id, records) in found {
            self.model.waiting.remove(&id);
            self.model.put_records -= u64::from(records);
        }
        for (id, entry) in kept.into_iter().zip(entries) {
            self.model.put_records += u64::from(entry.records);
            self.model.waiting.insert(id, (entry, false));
        }
        assert_eq!(self.losses.total(), lost, "replaced is not lost");
    }

    async fn stop(&mut self) {
        let lost = self.losses.total();
        self.buffer.close().await;
        self.orphans = self.losses.total() - lost;
    }

    fn entry(&mut self, class: u8, bytes: usize) -> Entry {
        self.next += 1;
        entry(class, self.next, bytes.min((256 << 10) - 8))
    }

    fn pick(&self, at: usize) -> Option<EntryId> {
        let count = self.model.leased.len();
        self.model.leased.keys().nth(at.checked_rem(count)?).copied()
    }

    /// What was evicted is known by its absence: the records add up, and what goes is the highest class, oldest first.
    fn forget_evicted(&mut self) {
        let held = self.buffer.stats();
        let mut excess = self.held_records() - held.records.iter().sum::<u64>();
        while excess > 0 {
            let candidates = self.model.waiting.iter().map(|(id, (entry, _))| (std::cmp::Reverse(entry.class), *id));
            let (_, id) = candidates.min().expect("more was lost than waited");
            let (entry, _) = self.model.waiting.remove(&id).unwrap();
            excess -= u64::from(entry.records);
        }
    }

    fn held_records(&self) -> u64 {
        let waiting = self.model.waiting.values().map(|(entry, _)| entry);
        waiting.chain(self.model.leased.values()).map(|entry| u64::from(entry.records)).sum()
    }

    async fn reopen(&mut self, directory: tempfile::TempDir, killed: bool) {
        self.lost_before += self.losses.total();
        let (buffer, recovery, losses) = open(small(directory.path()));
        (self.buffer, self.losses, self.directory) = (buffer, losses, directory);
        assert_eq!(recovery.quarantined, vec![]);
        let model = &mut self.model;
        let leased = std::mem::take(&mut model.leased);
        let acked = std::mem::take(&mut model.acked);
        model.waiting.extend(leased.iter().map(|(id, entry)| (*id, (entry.clone(), true))));
        model.waiting.values_mut().for_each(|(_, redelivered)| *redelivered = true);
        // Everything that is owed is there; whatever else is there was acked and its deletion not yet written.
        self.model.leases = 0;
        let mut found = BTreeSet::new();
        let mut again = Vec::new();
        while let Some(stored) = self.buffer.next().await.unwrap() {
            self.model.leases += 1;
            found.insert(stored.id);
            let owed = self.model.waiting.contains_key(&stored.id);
            assert!(owed || (killed && acked.contains_key(&stored.id)), "{} came back", number(&stored));
            if !owed {
                let entry = acked[&stored.id].clone();
                self.model.acked_records -= u64::from(entry.records);
                self.model.waiting.insert(stored.id, (entry, true));
            }
            again.push(stored.id);
        }
        let mut orphans = 0;
        let gone: Vec<EntryId> = self.model.waiting.keys().filter(|id| !found.contains(id)).copied().collect();
        for id in gone {
            assert!(leased.contains_key(&id), "{id:?} was put and is gone");
            orphans += self.model.waiting.remove(&id).map_or(0, |(entry, _)| u64::from(entry.records));
        }
        assert_eq!(orphans, self.orphans, "a stop tells of what is lost with it, and of nothing else");
        again.iter().for_each(|id| self.buffer.release(*id));
        self.buffer.ack(vec![]).await.unwrap();
    }

    fn balance(&self) {
        let lost = self.lost_before + self.losses.total();
        let held: u64 = self.buffer.stats().records.iter().sum();
        assert_eq!(self.model.put_records, held + self.model.acked_records + lost);
        let evicted: u64 = (0..3).map(|signal| self.losses.records(signal, Loss::Evicted)).sum();
        assert_eq!(evicted, self.losses.total(), "nothing is damaged here");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_buffer_does_what_its_model_does(operations in prop::collection::vec(operation(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for operation in &operations {
                world.apply(operation).await;
                world.balance();
            }
        });
    }
}
