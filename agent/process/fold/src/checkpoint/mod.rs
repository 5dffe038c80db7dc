//! Open windows, runs and last totals as bytes, so that a restart goes on where the agent was.
//!
//! Layout: [`MAGIC`], a version, the body (`body.rs`), and the XXH3 of all before it. The body holds series one after the other, and
//! each resource, metric, label and list of bounds with the first series that has it: later ones name its place. Labels are those that go out; series that go out as others are there by hash alone.
//!
//! Whoever keeps checkpoints sees to it that nothing leaves that the last one holds, so all that is restored was never sent. What
//! came after the checkpoint is lost to levels and deltas; totals make up for it, since their next sample is compared with the
//! last one in the checkpoint. Invariant: bytes that are not whole change nothing.

mod body;
mod bytes;
mod state;
#[cfg(test)]
mod tests;

use crate::table::Alias;
use crate::window::{Entry, More};
use crate::{Fold, seconds};
use body::{Body, ReadSeries};
use ollystack_record::{DropReason, Signal};
use std::sync::Arc;

/// What such bytes begin with.
const MAGIC: &[u8] = b"ollyfold";

/// Of the layout. A later version reads earlier ones or refuses them; none is guessed at.
const VERSION: u8 = 2;

/// The first there was, which is still read.
const FIRST_VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 8;

/// What a checkpoint brought back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Series known again.
    pub series: usize,
    /// Points that wait again, counted as carried.
    pub points: u64,
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
    #[error(
        "the checkpoint has version {0}, must be {FIRST_VERSION} to {VERSION}; set it aside, or run the agent that wrote it"
    )]
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
    /// Windows that closed before are not among it: see [`Fold::let_go`].
    pub fn checkpoint(&mut self, now: u64) -> Vec<u8> {
        self.sealed = self.closed.len();
        let bytes = body::write(self, now);
        self.checkpoint_bytes = bytes.len();
        bytes
    }

    /// Go on from a checkpoint of which nothing was handed out.
    pub fn restore(&mut self, checkpoint: &[u8], now: u64) -> Result<Restored, CheckpointError> {
        if self.table.len() > 0 {
            return Err(CheckpointError::NotEmpty(self.table.len()));
        }
        let Body { watched_since, closed_until, bounds, series, aliases } = body::read(checkpoint)?;
        self.table.memory.change(0, bounds.bytes());
        self.table.bounds = bounds;
        self.times.begin(now);
        self.times.watched_since = watched_since.min(now);
        self.times.closed_until = closed_until;
        let mut restored = Restored::default();
        let places: Vec<Option<u32>> =
            series.into_iter().map(|series| self.readmit(series, now, &mut restored)).collect();
        for alias in aliases {
            let (hash, previous, touched) = (alias.hash, Some(alias.previous), seconds(now));
            let entry = places.get(alias.series).copied().flatten();
            if !entry.is_some_and(|entry| self.table.insert_alias(Alias { hash, previous, entry, touched })) {
                self.forgot_total(now);
            }
        }
        self.table.disbelieve_after(now);
        self.table.forget_unused();
        self.waiting = restored.points;
        self.ledger.carried(Signal::Metrics, restored.points + restored.refused);
        self.ledger.dropped(Signal::Metrics, DropReason::SeriesLimit, restored.refused);
        self.tell();
        Ok(restored)
    }

    /// A series as it was, if there is room for it.
    fn readmit(&mut self, read: ReadSeries, now: u64, restored: &mut Restored) -> Option<u32> {
        let ReadSeries { resource, series, source, overflow, previous, run, mut windows } = read;
        let (points, has_total) = (windows.len() as u64 + u64::from(run.is_held()), previous.is_some());
        let owner = self.table.resources.number(&resource);
        let new = Entry::new(source, owner.number, 0, Arc::new(series));
        let mut entry = Entry { overflow, touched: seconds(now), previous, run, ..new };
        if !windows.is_empty() {
            let (window, exemplars) = windows.remove(0);
            windows.shrink_to_fit();
            entry.window = Some(window);
            let more = More { exemplars, aside: windows };
            entry.more = Some(Box::new(more)).filter(|more| !more.exemplars.is_empty() || !more.aside.is_empty());
        }
        let number = self.table.readmit(owner, entry);
        self.table.resources.forget_unused(owner.number);
        let Some(number) = number else {
            restored.refused += points;
            if has_total {
                self.forgot_total(now);
            }
            return None;
        };
        restored.series += 1;
        restored.points += points;
        if points > 0
            && let Some(entry) = self.table.entries.get(number)
            && let Some(known) = self.table.metrics.get(entry.metric)
        {
            self.next_close = self.next_close.min(self.times.next_close(now, known.window));
        }
        Some(number)
    }

    /// One that comes back brings what was counted before the restart: only younger ones count in full.
    fn forgot_total(&mut self, now: u64) {
        self.times.watched_since = now;
    }
}
