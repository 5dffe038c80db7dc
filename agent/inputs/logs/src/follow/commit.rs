//! What was handed in and is not settled yet, and the offsets that are saved as verdicts arrive.
//!
//! Lines of one batch may be durable at different times: one goes on at once, another is folded and its pattern's window open for a
//! minute. So the verdicts tell parts of files, and what is saved is how far a file is durable as a whole, and what is beyond. What waits
//! grows with the windows that hold something, not with the lines. Invariant: what is saved as done is settled.

use super::{COMMIT_EVERY, unix_nanos};
use crate::ahead::Notes;
use crate::identity::FileId;
use crate::offsets::{Entry, Store};
use crate::stats::{FileStats, Stats};
use crate::tail::Tail;
use hashbrown::HashMap;
use ollystack_record::{Ack, Afterwork, Outcome, Positions, Settled};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Commits {
    store: Store,
    stats: Arc<Stats>,
    notes: Arc<Notes>,
    positions: Positions,
    /// Bytes that wait for their verdict.
    unsettled: u64,
}

impl Commits {
    /// Offsets and notes are in `folder`.
    pub(super) fn new(store: Store, folder: &Path, stats: Arc<Stats>) -> io::Result<Commits> {
        let notes = Arc::new(Notes::new(folder)?);
        let positions = Positions::new(Arc::clone(&notes) as _);
        Ok(Commits { store, stats, notes, positions, unsettled: 0 })
    }

    pub(super) fn path(&self) -> &Path {
        self.store.path()
    }

    /// For a batch of a file that is handed in next: `starts` are those of its records, from the tail's position on.
    pub(super) fn ack(&mut self, tail: &Tail, mut starts: Vec<u64>, consumed: u64) -> Ack {
        let (from, end) = (tail.position.offset, tail.position.offset + consumed);
        // What lies before the first record, such as blank lines, goes with it.
        if let Some(first) = starts.first_mut() {
            *first = from;
        }
        self.unsettled += consumed;
        self.notes.follow(tail.entry());
        self.positions.ack(tail.life, starts, end)
    }

    pub(super) async fn next(&mut self) -> Settled {
        self.positions.next().await
    }

    pub(super) fn try_next(&mut self) -> Option<Settled> {
        self.positions.try_next()
    }

    /// The verdict is in. A part that was dropped while the agent runs is gone for good, and the ledger says why: reading it
    /// again would drop it again. Dropped while stopping, the disk may have had no chance: it is read again after the restart.
    /// True if there is something to save.
    pub(super) fn settle(&mut self, tails: &mut HashMap<FileId, Tail>, settled: &Settled, is_stopping: bool) -> bool {
        self.unsettled = self.unsettled.saturating_sub(settled.spans.covered());
        let is_done = settled.outcome != Outcome::Dropped || !is_stopping;
        // An earlier life of a file is not there any more.
        let tail = tails.values_mut().find(|tail| is_done && tail.life == settled.source);
        tail.map(|tail| tail.settle(&settled.spans)).is_some()
    }

    pub(super) fn save(&mut self, tails: &mut HashMap<FileId, Tail>, is_stopping: bool) -> io::Result<()> {
        let saving = self.notes.begin_save(|life| tails.values().any(|tail| tail.life == life));
        while let Some(settled) = self.try_next() {
            self.settle(tails, &settled, is_stopping);
        }
        let mut entries: Vec<Entry> = tails.values().map(Tail::entry).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut files: Vec<FileStats> = tails.values().map(file_stats).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        self.stats.update(|stats| {
            stats.files = files;
            stats.unsettled = self.unsettled;
        });
        self.store.save(unix_nanos(), entries)?;
        self.notes.saved(saving);
        Ok(())
    }
}

/// What a follower that reads no more leaves behind.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub(super) tails: HashMap<FileId, Tail>,
    pub(super) commits: Commits,
}

impl Unsettled {
    /// Save offsets as the last verdicts arrive; what is not settled when they are given up is read again after the restart.
    pub(crate) async fn settle(self, after: Afterwork) {
        let Unsettled { mut tails, mut commits } = self;
        let mut save = Instant::now() + COMMIT_EVERY;
        while commits.unsettled > 0 {
            tokio::select! {
                biased;
                settled = commits.next() => {
                    commits.settle(&mut tails, &settled, true);
                }
                () = after.given_up() => {
                    let bytes = commits.unsettled;
                    tracing::warn!(bytes, "stopped before all log lines were settled: they are read again");
                    break;
                }
            }
            if Instant::now() >= save {
                save = Instant::now() + COMMIT_EVERY;
                try_save(&mut commits, &mut tails);
            }
        }
        try_save(&mut commits, &mut tails);
    }
}

fn try_save(commits: &mut Commits, tails: &mut HashMap<FileId, Tail>) {
    if let Err(error) = commits.save(tails, true) {
        let path = commits.path().display();
        tracing::error!(%path, %error, "log offsets are not saved, a restart reads lines again; check the disk");
    }
}

fn file_stats(tail: &Tail) -> FileStats {
    FileStats {
        path: tail.path.clone(),
        read: tail.position.offset,
        committed: tail.committed.offset,
        lag: tail.unread(),
        records: tail.records,
    }
}
