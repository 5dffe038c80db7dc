//! Puts become transactions, and room is made for them first.
//!
//! Waiting puts come from the writer's thread; answers go back to it. Invariant: a put is answered with ids only if every
//! transaction that holds an entry of it has committed; a put that failed leaves no entry behind.

use crate::segment::{New, Segment, Totals};
use crate::state::BLOCK_IDS;
use crate::store::Store;
use crate::writer::Put;
use crate::{Entry, EntryId, Error, KINDS, Loss, WhenFull};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// WALs of full segments take one part in so many of the cap at most: two segments by default.
const WALS_PART: u64 = 12;

/// An answer, and to whom.
pub(crate) type Answer = (oneshot::Sender<Result<Vec<EntryId>, Error>>, Result<Vec<EntryId>, Error>);

/// A put on its way: its ids, and what became of them.
struct Pending {
    put: Put,
    ids: Vec<u64>,
    error: Option<Error>,
}

/// One row of one put.
#[derive(Clone, Copy)]
struct Place {
    put: usize,
    entry: usize,
}

impl Store {
    /// Store puts, as many to a transaction as fit.
    pub(crate) fn commit(&mut self, puts: Vec<Put>) -> Vec<Answer> {
        let mut pending: Vec<Pending> =
            puts.into_iter().map(|put| Pending { put, ids: Vec::new(), error: None }).collect();
        for put in &mut pending {
            put.error = self.assign(&put.put.entries, &mut put.ids).err();
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        let places =
            |(put, pending): (usize, &Pending)| (0..pending.put.entries.len()).map(move |entry| Place { put, entry });
        let mut places: Vec<Place> = pending.iter().enumerate().flat_map(places).collect();
        // The least valuable first: what makes room for the others must not have evicted anything that is worth more.
        places.sort_by_key(|place| Reverse(pending[place.put].put.entries[place.entry].class));
        for place in places {
            let Place { put, entry } = place;
            let size = pending[put].put.entries[entry].size();
            // The most that one transaction carries: what the cap is certain to have room for once all else is evicted.
            if bytes + size > self.options.segment_bytes_max && !group.is_empty() {
                self.commit_group(&mut pending, &group);
                group.clear();
                bytes = 0;
            }
            if pending[put].error.is_none() {
                group.push(place);
                bytes += size;
            }
        }
        self.commit_group(&mut pending, &group);
        pending.into_iter().map(|pending| self.answer(pending)).collect()
    }

    fn answer(&mut self, pending: Pending) -> Answer {
        let result = match pending.error {
            None => Ok(pending.ids.into_iter().map(EntryId).collect()),
            Some(error) => {
                self.put_failures += 1;
                Err(error)
            }
        };
        (pending.put.answer, result)
    }

    /// Check entries and give them ids.
    fn assign(&mut self, entries: &[Entry], ids: &mut Vec<u64>) -> Result<(), Error> {
        let max = self.options.segment_bytes_max;
        for entry in entries {
            let kinds = KINDS as u64 - 1;
            for (field, value, max) in [
                ("class", u64::from(entry.class), kinds),
                ("signal", u64::from(entry.signal), kinds),
                ("meta + payload bytes", entry.size(), max),
            ] {
                if value > max {
                    return Err(Error::Entry { field, value, max });
                }
            }
        }
        for _ in entries {
            if self.next_id.is_multiple_of(BLOCK_IDS) {
                self.state.set_block(self.next_id / BLOCK_IDS)?;
            }
            ids.push(self.next_id);
            self.next_id += 1;
        }
        Ok(())
    }

    /// One transaction per class.
    fn commit_group(&mut self, pending: &mut [Pending], group: &[Place]) {
        let mut classes: Vec<Vec<Place>> = vec![Vec::new(); KINDS];
        for place in group {
            classes[usize::from(pending[place.put].put.entries[place.entry].class)].push(*place);
        }
        for (class, mut places) in (0..).zip(classes).collect::<Vec<_>>().into_iter().rev() {
            places.retain(|place| pending[place.put].error.is_none());
            if places.is_empty() {
                continue;
            }
            let row = |p: &Place| (pending[p.put].ids[p.entry], pending[p.put].put.entries[p.entry].clone());
            let rows: Vec<(u64, Entry)> = places.iter().map(row).collect();
            if let Err(error) = self.commit_class(class, &rows) {
                let failed: BTreeSet<usize> = places.iter().map(|place| place.put).collect();
                for put in failed {
                    self.take_back(&pending[put]);
                    pending[put].error = Some(error.clone());
                }
            }
        }
    }

    /// Delete what other transactions already stored of a put that failed. What cannot be deleted either stays, is
    /// counted, and arrives although it was refused.
    fn take_back(&mut self, pending: &Pending) {
        for (id, entry) in pending.ids.iter().zip(&pending.put.entries) {
            for segment in self.segments.values_mut().filter(|segment| segment.class == entry.class) {
                if !matches!(segment.contains(*id), Ok(true)) {
                    continue;
                }
                let before = segment.live;
                segment.live.subtract(&entry.totals());
                self.state.note(segment);
                if self.state.settle().and_then(|()| segment.delete(&[*id])).is_err() {
                    segment.live = before;
                    self.state.note(segment);
                    continue;
                }
                segment.unleased = segment.unleased.saturating_sub(1);
                if segment.head == Some(*id) {
                    segment.head = segment.after(*id).unwrap_or(None);
                }
            }
        }
    }

    fn commit_class(&mut self, class: u8, rows: &[(u64, Entry)]) -> Result<(), Error> {
        let growth = self.space.growth_max(rows.iter().map(|(_, entry)| entry.size())) + self.space.segment_bytes_min();
        if !self.make_room(class, growth)? {
            // Nothing that is stored is worth less: these are what goes.
            let mut lost = Totals::default();
            rows.iter().for_each(|(_, entry)| lost.add(&entry.totals()));
            self.lost(&lost, Loss::Evicted);
            return Ok(());
        }
        let first_id = self.active(class, rows.first().map_or(self.next_id, |(id, _)| *id))?;
        self.touch(first_id);
        let deletes = match self.state.settle() {
            Ok(()) => self.space.delete_rows_max(self.free_bytes().saturating_sub(growth)),
            Err(_) => 0,
        };
        let nothing_waits = self.segments.values().all(|segment| segment.unleased == 0);
        let Some(segment) = self.segments.get_mut(&first_id) else { return Err(Error::Closed) };
        let acked: Vec<u64> = segment.acked.iter().take(deletes).copied().collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let new: Vec<New<'_>> = rows.iter().map(|(id, entry)| New { id: *id, put_unix_nano: now, entry }).collect();
        if let Err(error) = segment.write(&[], &new, &acked) {
            self.write_failed(first_id, &error);
            return Err(error);
        }
        segment.acked.drain(..acked.len());
        if segment.live.entries == 0 {
            segment.oldest_unix_nano = now;
        }
        if nothing_waits {
            self.recent.begin();
        }
        for (id, entry) in rows {
            self.recent.add(*id, entry);
            segment.live.add(&entry.totals());
            segment.unleased += 1;
            segment.head.get_or_insert(*id);
            segment.last = *id;
            self.last_ids[usize::from(class) % KINDS] = *id;
        }
        self.state.write_last_ids(&self.last_ids);
        self.commits += 1;
        self.note(first_id);
        self.settle(first_id);
        Ok(())
    }

    /// After a failed write or sync nobody knows what the file holds beyond its last commit: it is never written to again.
    pub(crate) fn write_failed(&mut self, first_id: u64, error: &Error) {
        let Some(segment) = self.segments.get_mut(&first_id) else { return };
        if !matches!(error, Error::DiskFull { .. }) {
            tracing::error!(%error, "a segment cannot be written and is closed for writing");
            (segment.writable, segment.failed) = (false, true);
            segment.disconnect();
            if segment.live.entries == 0 {
                self.drop_segment(first_id);
            }
        }
    }

    /// After a commit: close a segment that is full, and begin a long WAL anew. What is full keeps its WAL for now: most of what comes is
    /// acked and gone before it would have been worth moving.
    fn settle(&mut self, first_id: u64) {
        let wal_bytes_max = self.options.segment_bytes_max;
        let Some(segment) = self.segments.get_mut(&first_id) else { return };
        if segment.file_bytes >= self.options.segment_bytes_max {
            segment.writable = false;
            return self.bound_wals();
        }
        let moved = if segment.wal_bytes > 2 * wal_bytes_max {
            segment.checkpoint()
        } else if segment.wal_used > wal_bytes_max {
            segment.restart_wal()
        } else {
            Ok(())
        };
        if let Err(error) = moved {
            // The data is safe in the WAL, which counts under the cap as it is.
            tracing::warn!(%error, "cannot checkpoint a segment");
        }
    }

    /// Move the oldest WALs of full segments while all of them take more than their share: they count twice.
    fn bound_wals(&mut self) {
        let full = self.segments.values().filter(|s| !s.writable && !s.failed && s.wal_bytes > 0);
        let full: Vec<(u64, u64)> = full.map(|segment| (segment.first_id, segment.wal_bytes)).collect();
        let mut bytes: u64 = full.iter().map(|(_, bytes)| bytes).sum();
        for (first_id, wal_bytes) in full {
            if bytes <= self.options.bytes_max / WALS_PART {
                return;
            }
            bytes -= wal_bytes;
            self.touch(first_id);
            if let Some(Err(error)) = self.segments.get_mut(&first_id).map(Segment::checkpoint) {
                tracing::warn!(%error, "cannot checkpoint a full segment");
            }
        }
    }

    /// The segment of a class that is open for writing, made now if there is none.
    fn active(&mut self, class: u8, first_id: u64) -> Result<u64, Error> {
        if let Some(segment) = self.segments.values().find(|segment| segment.class == class && segment.writable) {
            return Ok(segment.first_id);
        }
        let mut segment = Segment::new(&self.options.directory, first_id, class, self.space);
        self.touch(first_id);
        if let Err(error) = segment.create() {
            segment.unlink();
            return Err(error);
        }
        segment.slot = self.state.take_slot();
        segment.used = self.turn;
        self.segments.insert(first_id, segment);
        Ok(first_id)
    }

    /// Make room for `growth` bytes of `class`. False: the put itself is the least valuable and must go.
    pub(crate) fn make_room(&mut self, class: u8, growth: u64) -> Result<bool, Error> {
        let bytes_max = self.options.bytes_max;
        let fits = |store: &Store| store.disk_bytes() + growth + store.space.flush_bytes_max() <= bytes_max;
        if fits(self) {
            return Ok(true);
        }
        if self.quarantine_bytes > 0 {
            self.quarantine_bytes = crate::recovery::empty_quarantine(&self.options.directory);
        }
        for segment in self.segments.values_mut().filter(|segment| segment.wal_bytes > 0) {
            if let Err(error) = segment.checkpoint() {
                tracing::warn!(%error, "cannot checkpoint a segment to make room");
            }
        }
        while !fits(self) {
            // Empty ones first, then by worth, then by age.
            let worth = |s: &Segment| (s.live.entries == 0, s.class, Reverse(s.first_id));
            let Some((empty, worst, Reverse(first_id))) = self.segments.values().map(worth).max() else {
                break;
            };
            if !empty && self.options.when_full == WhenFull::Refuse {
                return Err(Error::Full { disk_bytes: self.disk_bytes(), bytes_max });
            }
            if !empty && worst < class {
                return Ok(false);
            }
            let lost = self.abandon(first_id, Loss::Evicted);
            if lost.entries > 0 {
                tracing::error!(
                    class = worst,
                    entries = lost.entries,
                    "the buffer is full; its least valuable segment is gone"
                );
            }
            self.drop_segment(first_id);
        }
        Ok(true)
    }
}
