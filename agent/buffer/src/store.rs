//! All files of one buffer and who holds what: leases, acks, and what is left when entries go.
//!
//! Used by the writer's thread alone. Invariant: every stored entry is in exactly one of: never leased, left (both counted by its
//! segment), on lease, or given back; and an entry whose segment is gone while it is on lease is still answered for.

use crate::recent::Recent;
use crate::segment::{IDLES_TO_LIVE_ON, Row, Segment, Totals};
use crate::space::Space;
use crate::state::State;
use crate::writer::CONNECTIONS_MAX;
use crate::{EntryId, Error, KINDS, Loss, Observer, Options, Stats, Stored};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Reads of a segment that may fail in a row before it is set aside: a bad sector must not hold up the queue for ever.
const READ_FAILURES_MAX: u32 = 3;

/// Of so many leases one goes to the oldest entry of all and the others to the most valuable class: new errors do not wait
/// behind an hour of anything else, and nothing waits for ever.
const OLDEST_EVERY: u64 = 4;

/// An entry on lease, or given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// First id of its segment.
    segment: u64,
    class: u8,
    totals: Totals,
    /// Its segment is gone, for this reason: lost unless it is acked.
    orphaned: Option<Loss>,
}

/// The files and the leases.
pub(crate) struct Store {
    pub(crate) options: Options,
    pub(crate) space: Space,
    pub(crate) observer: Arc<dyn Observer>,
    /// Held for the lock.
    pub(crate) _lock: File,
    pub(crate) state: State,
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) recent: Recent,
    pub(crate) leased: BTreeMap<u64, Held>,
    pub(crate) released: BTreeMap<u64, Held>,
    pub(crate) next_id: u64,
    /// The highest that was committed, by class.
    pub(crate) last_ids: [u64; KINDS],
    /// Ids below were put by an earlier process.
    pub(crate) recovered_below: u64,
    pub(crate) quarantine_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) reserve_there: bool,
    pub(crate) turn: u64,
    /// Given since opening.
    pub(crate) leases: u64,
    pub(crate) put_failures: u64,
    pub(crate) commits: u64,
}

impl Store {
    pub(crate) fn directory(&self) -> &Path {
        &self.options.directory
    }

    /// Everything on disk; the reserve counts also while it is given up, so that it can come back.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.segments.values().map(Segment::disk_bytes).sum();
        crate::state::FILE_BYTES + self.reserve_bytes + self.quarantine_bytes + segments
    }

    /// What may still be written under the cap, beside what deletes need when there is no more.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.options.bytes_max.saturating_sub(self.disk_bytes() + self.space.flush_bytes_max())
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut totals = Totals::default();
        self.segments.values().for_each(|segment| totals.add(&segment.live));
        let orphans = self.leased.values().filter(|held| held.orphaned.is_some());
        orphans.for_each(|held| totals.add(&held.totals));
        let alive = self.segments.values().filter(|segment| segment.live.entries > 0);
        Stats {
            entries: totals.entries,
            records: totals.records,
            payload_bytes: totals.bytes,
            disk_bytes: self.disk_bytes(),
            disk_bytes_max: self.options.bytes_max,
            segments: self.segments.len() as u64,
            oldest_unix_nano: alive.map(|segment| segment.oldest_unix_nano).min().unwrap_or(0),
            leased: self.leased.len() as u64,
            left: self.segments.values().map(|segment| segment.left).sum(),
            put_failures: self.put_failures,
            commits: self.commits,
        }
    }

    /// Whose turn it is: an entry given back, or the first of a segment.
    fn next_in_line(&self) -> Option<(u64, u64)> {
        let by_age = self.leases % OLDEST_EVERY == OLDEST_EVERY - 1;
        let released = self.released.iter().map(|(id, held)| (held.class, *id, held.segment));
        let heads = self.segments.values().filter_map(|segment| Some((segment.class, segment.head?, segment.first_id)));
        let next = released.chain(heads).min_by_key(|(class, id, _)| (if by_age { 0 } else { *class }, *id));
        next.map(|(_, id, first_id)| (id, first_id))
    }

    /// Lease the entry whose turn it is.
    pub(crate) fn lease(&mut self) -> Result<Option<Stored>, Error> {
        loop {
            let Some((id, first_id)) = self.next_in_line() else { return Ok(None) };
            match self.read(first_id, id) {
                Ok(Row::Good(mut stored)) => {
                    stored.redelivered = id < self.recovered_below || self.released.contains_key(&id);
                    let (signal, records) = (stored.entry.signal, u64::from(stored.entry.records));
                    let bytes = (stored.entry.meta.len() + stored.entry.payload.len()) as u64;
                    let (class, totals) = (stored.entry.class, Totals::one(signal, records, bytes));
                    // On lease first: if its segment proves damaged now, this one is not among the lost.
                    self.leased.insert(id, Held { segment: first_id, class, totals, orphaned: None });
                    if let Err(error) = self.leave_queue(first_id, id) {
                        self.leased.remove(&id);
                        return Err(error);
                    }
                    self.leases += 1;
                    return Ok(Some(*stored));
                }
                Ok(Row::Damaged(totals)) => {
                    tracing::error!(id, segment = first_id, "an entry is damaged and is dropped");
                    self.leave_queue(first_id, id)?;
                    // Unless its segment went with it, which has told of all that it held.
                    if self.segments.contains_key(&first_id) {
                        self.lost(&totals, Loss::Corrupt);
                        self.forget(first_id, id, &totals);
                    }
                }
                Ok(Row::Missing) => self.set_aside(first_id, "a row is missing"),
                Err(error) => {
                    if !self.segments.contains_key(&first_id) {
                        continue;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Read a row; a segment that cannot be read is set aside and gone when this returns an error for good.
    fn read(&mut self, first_id: u64, id: u64) -> Result<Row, Error> {
        if let Some(entry) = self.recent.take(id) {
            return Ok(Row::Good(Box::new(Stored { id: EntryId(id), redelivered: false, entry })));
        }
        self.touch(first_id);
        let Some(segment) = self.segments.get_mut(&first_id) else { return Ok(Row::Missing) };
        let read = segment.read(id);
        match &read {
            Ok(_) => segment.read_failures = 0,
            Err(error) => {
                segment.read_failures += 1;
                segment.connection = None;
                if segment.read_failures >= READ_FAILURES_MAX {
                    let why = error.to_string();
                    self.set_aside(first_id, &why);
                }
            }
        }
        read
    }

    /// The entry is no longer waiting: find what its segment gives next.
    fn leave_queue(&mut self, first_id: u64, id: u64) -> Result<(), Error> {
        if self.released.remove(&id).is_some() {
            return Ok(());
        }
        let Some(segment) = self.segments.get_mut(&first_id) else { return Ok(()) };
        let next = segment.after(id)?;
        segment.unleased = segment.unleased.saturating_sub(1);
        segment.head = next;
        if next.is_none() && segment.unleased > 0 {
            // The tree lost rows that were counted.
            self.set_aside(first_id, "rows are missing");
        }
        Ok(())
    }

    /// Give leases back. What lost its segment meanwhile is lost now.
    pub(crate) fn release(&mut self, ids: &[EntryId]) {
        for EntryId(id) in ids {
            match self.leased.remove(id) {
                Some(Held { orphaned: Some(reason), totals, .. }) => self.lost(&totals, reason),
                Some(held) => drop(self.released.insert(*id, held)),
                None => {}
            }
        }
    }

    /// Entries arrived. A lease that was given back meanwhile (its answer came late) counts too.
    pub(crate) fn ack(&mut self, ids: &[EntryId]) {
        for EntryId(id) in ids {
            let Some(held) = self.leased.remove(id).or_else(|| self.released.remove(id)) else { continue };
            if held.orphaned.is_none() {
                self.forget(held.segment, *id, &held.totals);
            }
        }
    }

    /// An entry on lease is neither acked nor given again: its segment has it, and nothing else knows of it.
    pub(crate) fn leave(&mut self, EntryId(id): EntryId) {
        let Some(held) = self.leased.remove(&id) else { return };
        match (held.orphaned, self.segments.get_mut(&held.segment)) {
            (None, Some(segment)) => segment.left += 1,
            (Some(reason), _) => self.lost(&held.totals, reason),
            (None, None) => {}
        }
    }

    /// An entry that is neither waiting nor on lease any more leaves its segment; the last one takes the file along.
    pub(crate) fn forget(&mut self, first_id: u64, id: u64, totals: &Totals) {
        let Some(segment) = self.segments.get_mut(&first_id) else { return };
        segment.live.subtract(totals);
        segment.acked.push(id);
        // One that is written to stays: its pages are used again.
        if segment.live.entries == 0 && !segment.writable {
            return self.drop_segment(first_id);
        }
        self.note(first_id);
    }

    /// Write the counts of a segment down.
    pub(crate) fn note(&mut self, first_id: u64) {
        if let Some(segment) = self.segments.get(&first_id) {
            self.state.note(segment);
        }
    }

    /// Delete a segment's files.
    pub(crate) fn drop_segment(&mut self, first_id: u64) {
        if let Some(segment) = self.segments.remove(&first_id) {
            if let Some(slot) = segment.slot {
                self.state.give_back(slot);
            }
            segment.unlink();
        }
    }

    /// Take a segment's entries out of all accounts: those on lease may still be acked, the others are lost.
    pub(crate) fn abandon(&mut self, first_id: u64, reason: Loss) -> Totals {
        let Some(segment) = self.segments.get_mut(&first_id) else { return Totals::default() };
        let mut lost = std::mem::take(&mut segment.live);
        (segment.head, segment.unleased, segment.left) = (None, 0, 0);
        for held in self.leased.values_mut().filter(|held| held.segment == first_id && held.orphaned.is_none()) {
            held.orphaned = Some(reason);
            lost.subtract(&held.totals);
        }
        self.released.retain(|_, held| held.segment != first_id);
        self.lost(&lost, reason);
        lost
    }

    /// A segment that cannot be read: count it as lost and keep the file for a person.
    pub(crate) fn set_aside(&mut self, first_id: u64, why: &str) {
        let lost = self.abandon(first_id, Loss::Corrupt);
        let Some(mut segment) = self.segments.remove(&first_id) else { return };
        tracing::error!(path = %segment.path.display(), why, entries = lost.entries, "a segment is damaged and is set aside");
        segment.connection = None;
        segment.measure();
        if let Some(slot) = segment.slot {
            self.state.give_back(slot);
        }
        self.quarantine_bytes = crate::recovery::quarantine(&self.options, &segment.path);
    }

    pub(crate) fn lost(&self, totals: &Totals, reason: Loss) {
        for signal in 0..KINDS {
            let records = totals.records[signal];
            // The bytes go to the first signal there is: they are told once, and a class rarely holds more than one.
            let first = totals.records[..signal].iter().all(|records| *records == 0);
            if records > 0 {
                let bytes = if first { totals.bytes } else { 0 };
                self.observer.lost(signal as u8, records, bytes, reason);
            }
        }
    }

    /// Mark a segment as used now, and close the connection that was not used for longest if there are too many.
    pub(crate) fn touch(&mut self, first_id: u64) {
        self.turn += 1;
        if let Some(segment) = self.segments.get_mut(&first_id) {
            segment.used = self.turn;
            if segment.connection.is_some() {
                return;
            }
        }
        let open =
            self.segments.values().filter(|segment| segment.connection.is_some() && segment.first_id != first_id);
        let open: Vec<(u64, u64)> = open.map(|segment| (segment.used, segment.first_id)).collect();
        if open.len() >= CONNECTIONS_MAX
            && let Some((_, oldest)) = open.iter().min()
            && let Some(segment) = self.segments.get_mut(oldest)
        {
            segment.park();
        }
    }

    /// Once a second or so: write acks down, bring the reserve back.
    pub(crate) fn idle(&mut self) {
        self.rest();
        // While acks want its room it stays away.
        if self.flush() && !self.reserve_there {
            self.reserve_there = crate::recovery::reserve(&self.options.directory, self.reserve_bytes);
        }
    }

    /// What is empty and has grown goes; what is full grows old.
    fn rest(&mut self) {
        self.segments.values_mut().filter(|s| !s.writable).for_each(|s| s.idles = s.idles.saturating_add(1));
        let bytes_max = self.options.segment_bytes_max / 8;
        let large = |s: &&Segment| s.live.entries == 0 && s.disk_bytes() > bytes_max;
        let large: Vec<u64> = self.segments.values().filter(large).map(|segment| segment.first_id).collect();
        large.into_iter().for_each(|first_id| self.drop_segment(first_id));
    }

    /// Delete acked rows, a bounded number at a time, so that the WAL stays inside what the cap keeps free. Whether all are.
    fn flush(&mut self) -> bool {
        let mut is_done = true;
        let is_pending = |s: &&Segment| !s.acked.is_empty() || s.has_wal_to_move();
        let pending: Vec<u64> = self.segments.values().filter(is_pending).map(|s| s.first_id).collect();
        for first_id in pending {
            self.touch(first_id);
            let mut flushed = self.flush_segment(first_id);
            let left = self.segments.get(&first_id).map(|s| (s.live.entries, s.acked.len()));
            if let (Err(error), Some((live, acked))) = (&flushed, left)
                && (live == 0 || acked == 0)
            {
                if live == 0 {
                    // Nothing has to be written for it to go.
                    self.drop_segment(first_id);
                } else {
                    tracing::warn!(%error, "cannot checkpoint a full segment; trying again");
                }
                continue;
            }
            if matches!(flushed, Err(Error::DiskFull { .. })) && self.give_up_reserve() {
                flushed = self.flush_segment(first_id);
            }
            if let Err(error) = flushed {
                // The acks stay pending; at worst the entries are given again after a restart.
                tracing::warn!(%error, "cannot write acknowledgements down; trying again");
                is_done = false;
            }
        }
        is_done
    }

    fn flush_segment(&mut self, first_id: u64) -> Result<(), Error> {
        loop {
            let deletes = self.space.delete_rows_max(self.free_bytes());
            let is_tight = self.disk_bytes() + self.space.flush_bytes_max() > self.options.bytes_max;
            let Some(segment) = self.segments.get_mut(&first_id) else { return Ok(()) };
            if is_tight || segment.acked.is_empty() && segment.has_wal_to_move() {
                segment.checkpoint()?;
            }
            if segment.acked.is_empty() {
                segment.oldest_unix_nano = segment.oldest().unwrap_or(segment.oldest_unix_nano);
                return Ok(());
            }
            let chunk: Vec<u64> = segment.acked.iter().take(deletes).copied().collect();
            self.state.settle()?;
            segment.delete(&chunk)?;
            segment.acked.drain(..chunk.len());
        }
    }

    /// Let SQLite have the reserved bytes: so deletes work on a disk without space. Whether that made room.
    fn give_up_reserve(&mut self) -> bool {
        if !self.reserve_there {
            return false;
        }
        tracing::warn!(bytes = self.reserve_bytes, "the disk is full; the reserve is given up until there is space");
        self.reserve_there = std::fs::remove_file(self.options.directory.join("reserve")).is_err();
        !self.reserve_there
    }

    /// Write acks down, close all files, and say what is left. Leases on entries whose segment is gone cannot be given again
    /// after the next open: they are lost now.
    pub(crate) fn close(mut self) -> Stats {
        let orphans: Vec<EntryId> =
            self.leased.iter().filter(|(_, held)| held.orphaned.is_some()).map(|(id, _)| EntryId(*id)).collect();
        self.release(&orphans);
        self.segments.values_mut().for_each(|segment| segment.idles = IDLES_TO_LIVE_ON);
        self.flush();
        self.segments.values_mut().for_each(Segment::disconnect);
        let empty: Vec<u64> =
            self.segments.values().filter(|s| s.live.entries == 0 && s.acked.is_empty()).map(|s| s.first_id).collect();
        empty.into_iter().for_each(|first_id| self.drop_segment(first_id));
        self.state.stop();
        self.stats()
    }
}
