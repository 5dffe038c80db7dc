//! Entries that wait, put in fewer: how whoever knows their bytes makes room without losing them.
//!
//! A caller looks at what waits ([`Store::waiting`], [`Store::peek`]), makes less of it, and has it replaced in one transaction of
//! their segment: after a crash it is the old entries or the new ones. The pages that become free go back to the file system. Invariant: an
//! entry that was ever leased, by this process or perhaps by an earlier one, is never replaced: its bytes may have
//! arrived under its id.

use crate::segment::{New, Row, Segment, Totals};
use crate::store::Store;
use crate::{Entry, EntryId, Error, KINDS, Waiting};

impl Store {
    /// Of the first segment that has any: entries of a class and signal above `after` that nobody has ever leased, oldest first,
    /// at most `count`.
    pub(crate) fn waiting(
        &mut self,
        class: u8,
        signal: u8,
        after: EntryId,
        count: usize,
    ) -> Result<Vec<Waiting>, Error> {
        let recovered_below = self.recovered_below;
        let above = |segment: &Segment| segment.head.map(|head| head.max(after.0 + 1).max(recovered_below));
        let segments: Vec<(u64, u64)> = self
            .segments
            .values()
            .filter(|segment| segment.class == class)
            .filter_map(|segment| Some((segment.first_id, above(segment)?)))
            .collect();
        for (first_id, from) in segments {
            self.touch(first_id);
            let Some(segment) = self.segments.get_mut(&first_id).filter(|segment| segment.last >= from) else {
                continue;
            };
            let found = segment.list(signal, from, count)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The entry as it is now; none if it is gone or on lease.
    pub(crate) fn peek(&mut self, waiting: &Waiting) -> Result<Option<Entry>, Error> {
        self.touch(waiting.segment);
        if !self.is_waiting(waiting)? {
            return Ok(None);
        }
        let Some(segment) = self.segments.get_mut(&waiting.segment) else { return Ok(None) };
        match segment.read(waiting.id.0)? {
            Row::Good(stored) => Ok(Some(stored.entry)),
            // Whoever leases it finds out, and counts it.
            Row::Damaged(_) | Row::Missing => Ok(None),
        }
    }

    /// Put `entries`, fewer and of their class, in the place of `old`, all of one segment. False, and nothing is changed, if one of
    /// them is not waiting any more or there is no room for the transaction.
    pub(crate) fn replace(&mut self, old: &[Waiting], entries: &[Entry]) -> Result<bool, Error> {
        let Some(Waiting { segment: first_id, .. }) = old.first() else { return Ok(false) };
        let (first_id, fewer) = (*first_id, (1..=old.len()).contains(&entries.len()));
        for waiting in old {
            if waiting.segment != first_id || !self.is_waiting(waiting)? {
                return Ok(false);
            }
        }
        let Some(segment) = self.segments.get(&first_id) else { return Ok(false) };
        let fits = entries.iter().all(|entry| {
            entry.class == segment.class
                && usize::from(entry.signal) < KINDS
                && entry.size() <= self.options.segment_bytes_max
        });
        let growth = self.space.replacement_max(entries.iter().map(Entry::size), old.len() as u64);
        if !fewer || !fits || self.disk_bytes() + growth + self.space.flush_bytes_max() > self.options.bytes_max {
            return Ok(false);
        }
        // The last ids of the old: so the highest of the segment stays, which tells after a crash how far puts came.
        let kept = &old[old.len() - entries.len()..];
        let new = kept.iter().zip(entries);
        let new: Vec<New<'_>> =
            new.map(|(old, entry)| New { id: old.id.0, put_unix_nano: old.put_unix_nano, entry }).collect();
        let before = segment.live;
        let (mut less, mut more) = (Totals::default(), Totals::default());
        old.iter().for_each(|old| less.add(&Totals::one(old.signal, u64::from(old.records), old.bytes)));
        entries.iter().for_each(|entry| more.add(&entry.totals()));

        self.touch(first_id);
        let Some(segment) = self.segments.get_mut(&first_id) else { return Ok(false) };
        segment.live.subtract(&less);
        segment.live.add(&more);
        // Noted first: what is noted and not there counts as lost after a crash.
        self.state.note(segment);
        if let Err(error) = self.state.settle() {
            segment.live = before;
            self.state.note(segment);
            return Err(error);
        }
        let ids: Vec<u64> = old.iter().map(|waiting| waiting.id.0).collect();
        if let Err(error) = segment.write(&ids, &new, &[]) {
            segment.live = before;
            self.note(first_id);
            self.write_failed(first_id, &error);
            return Err(error);
        }
        ids.iter().for_each(|id| drop(self.recent.take(*id)));
        segment.unleased -= (old.len() - entries.len()) as u64;
        if let Some(head) = segment.head {
            segment.head = segment.after(head - 1)?;
        }
        if segment.writable {
            // It uses its free pages itself.
            return Ok(true);
        }
        if let Err(error) = segment.shrink() {
            // Nothing is lost by it but the room.
            tracing::warn!(%error, "cannot give the room of replaced entries back");
            self.write_failed(first_id, &error);
        }
        Ok(true)
    }

    /// Whether it is there as it was found, and nobody leased it since.
    fn is_waiting(&mut self, waiting: &Waiting) -> Result<bool, Error> {
        let id = waiting.id.0;
        let Some(segment) = self.segments.get_mut(&waiting.segment) else { return Ok(false) };
        let unleased = id >= self.recovered_below && segment.head.is_some_and(|head| id >= head);
        Ok(unleased && segment.list(waiting.signal, id, 1)?.first() == Some(waiting))
    }
}
