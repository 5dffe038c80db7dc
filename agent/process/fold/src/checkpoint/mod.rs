//! Open windows, runs and last totals as bytes, so that a restart goes on where the agent was.
//!
//! Layout: [`MAGIC`], a version, the body (`body.rs`), and the XXH3 of all before it. The body holds each resource, metric and label
//! once, and series that point to them. Labels are those that go out; series that go out as others are there by hash alone.
//!
//! What has left since the checkpoint must not leave again. Windows of one length close together (`times.rs`), so how late the
//! agent still handed out tells which windows left. A series whose windows closed between the checkpoint and that moment also
//! lost track of its total and its run: they are left out rather than counted twice, and the total begins anew. Take a
//! checkpoint right after each hand-out, and few crashes fall into that gap. Invariant: bytes that are not whole change nothing.

mod body;
mod bytes;
mod state;
#[cfg(test)]
mod tests;

use crate::run::Run;
use crate::table::Alias;
use crate::window::More;
use crate::{Fold, seconds};
use body::{Body, ReadSeries};
use ollystack_record::{DropReason, Signal};
use std::sync::Arc;

/// What such bytes begin with.
const MAGIC: &[u8] = b"ollyfold";

/// Of the layout. A later version reads earlier ones or refuses them; none is guessed at.
const VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 8;

/// What a checkpoint brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Series known again.
    pub series: usize,
    /// Points that wait again, counted as carried.
    pub points: u64,
    /// Points left out because they were handed out before, or may have been.
    pub handed_out: u64,
    /// Running totals left out because some of what they grew by was handed out; they begin anew.
    pub totals_in_doubt: u64,
    /// Points for which there is no room, or whose labels may not go out any more. Counted as carried and dropped.
    pub refused: u64,
}

/// Why nothing was restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not one of ours.
    #[error("not a checkpoint of metric windows; set it aside")]
    Foreign,
    /// From another version of the agent.
    #[error("the checkpoint has version {0}, must be {VERSION}; set it aside, or run the agent that wrote it")]
    Version(u8),
    /// Cut off or changed.
    #[error("the checkpoint is damaged; set it aside")]
    Damaged,
    /// There is something here already.
    #[error("{0} series are held, must be none; restore before anything is taken")]
    NotEmpty(usize),
}

impl Fold {
    /// All that a restart needs, as bytes for [`Fold::restore`]. After [`Fold::drain`] these are the last totals alone.
    pub fn checkpoint(&self, now: u64) -> Vec<u8> {
        body::write(self, now)
    }

    /// Go on from a checkpoint. Windows that closed by `emitted_through_unix_nano`, the last time at which the agent that took it
    /// handed out points, are left out.
    pub fn restore(
        &mut self,
        checkpoint: &[u8],
        now: u64,
        emitted_through_unix_nano: u64,
    ) -> Result<Restored, CheckpointError> {
        if self.table.len() > 0 {
            return Err(CheckpointError::NotEmpty(self.table.len()));
        }
        let Body { watched_since, first_close, closed_until, series, aliases } = body::read(checkpoint)?;
        let left = |close: u64| close != 0 && close <= emitted_through_unix_nano;
        // The short first window, once over, closed all that was open.
        let all_left = left(first_close);
        self.times.begin(now);
        self.times.closed_until = closed_until;
        // What began before a hand-out may have been counted in part; then only what is younger counts in full.
        let doubt = all_left || series.iter().any(|series| left(series.next_close));
        self.times.watched_since = if doubt { emitted_through_unix_nano } else { watched_since }.min(now);
        let mut restored = Restored::default();
        let mut places = Vec::with_capacity(series.len());
        for mut series in series {
            let doubtful = all_left || left(series.next_close);
            if doubtful {
                let windows = series.windows.len() + usize::from(series.run.is_held());
                series.windows.retain(|(window, _)| !all_left && !left(self.times.due(window.end_unix_nano)));
                restored.handed_out += (windows - series.windows.len()) as u64;
                restored.totals_in_doubt += u64::from(series.previous.is_some());
                (series.run, series.previous) = (Run::default(), None);
            }
            places.push(self.readmit(series, now, &mut restored).filter(|_| !doubtful));
        }
        for alias in aliases {
            match places.get(alias.series).copied().flatten() {
                Some(entry) => {
                    let (hash, previous, touched) = (alias.hash, Some(alias.previous), seconds(now));
                    self.table.insert_alias(Alias { hash, previous, entry, touched });
                }
                None => restored.totals_in_doubt += 1,
            }
        }
        self.table.disbelieve_after(now);
        self.waiting = restored.points;
        self.ledger.carried(Signal::Metrics, restored.points + restored.refused);
        self.ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, restored.refused);
        self.tell();
        Ok(restored)
    }

    /// A series as it was, if there is room for it.
    fn readmit(&mut self, read: ReadSeries, now: u64, restored: &mut Restored) -> Option<u32> {
        let ReadSeries { resource, series, source, overflow, previous, run, mut windows, .. } = read;
        let points = windows.len() as u64 + u64::from(run.is_held());
        let owner = self.table.resources.number(&resource);
        let number = self.table.readmit(source, owner, Arc::new(series), overflow);
        self.table.resources.forget_unused(owner.number);
        let Some(number) = number else {
            restored.refused += points;
            return None;
        };
        let entry = self.table.entries.get_mut(number)?;
        (entry.touched, entry.previous, entry.run) = (seconds(now), previous, run);
        if !windows.is_empty() {
            let (window, exemplars) = windows.remove(0);
            entry.window = Some(window);
            entry.more = Some(Box::new(More { exemplars, aside: windows }));
        }
        restored.series += 1;
        restored.points += points;
        if points > 0
            && let Some(known) = self.table.metrics.get(entry.metric)
        {
            self.next_close = self.next_close.min(self.times.next_close(now, known.window));
        }
        Some(number)
    }
}
