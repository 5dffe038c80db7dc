//! What was handed in and is not settled yet, and the offsets that are saved as verdicts arrive.
//!
//! What is handed in of a file between two saves is one group with one acknowledgement, so what waits grows with the files that
//! are written to and the seconds that verdicts take, not with the lines. Past [`UNSETTLED_MAX`] groups take in more instead of
//! becoming more: reading never waits for a verdict, offsets only move in longer steps. Invariant: an offset is saved only
//! after everything before it is settled.

use super::{COMMIT_EVERY, unix_nanos};
use crate::identity::FileId;
use crate::offsets::{Entry, Store};
use crate::stats::{FileStats, Stats};
use crate::tail::Tail;
use hashbrown::HashMap;
use ollystack_record::{Ack, Afterwork, Outcome, Verdicts};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Groups that take in no more and wait for their verdict; of those that do there is one a file. Each is about 200 bytes here
/// and in its acknowledgement.
const UNSETTLED_MAX: usize = 4_096;

#[derive(Debug)]
pub(super) struct Commits {
    store: Store,
    stats: Arc<Stats>,
    verdicts: Verdicts,
    /// Of which file each group is.
    groups: HashMap<u64, FileId>,
    /// Number of the last group.
    last: u64,
}

/// Which group, and what became of it.
type Verdict = (u64, Outcome);

impl Commits {
    pub(super) fn new(store: Store, stats: Arc<Stats>) -> Commits {
        Commits { store, stats, verdicts: Verdicts::default(), groups: HashMap::new(), last: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        self.store.path()
    }

    /// For a batch of a file.
    pub(super) fn ack(&mut self, tail: &mut Tail) -> Ack {
        tail.ack().unwrap_or_else(|| {
            self.last += 1;
            self.groups.insert(self.last, tail.id);
            let ack = self.verdicts.ack(self.last);
            tail.begin_group(self.last, ack.clone());
            ack
        })
    }

    pub(super) async fn next(&mut self) -> Verdict {
        self.verdicts.next().await
    }

    pub(super) fn try_next(&mut self) -> Option<Verdict> {
        self.verdicts.try_next()
    }

    /// The verdict is in. A batch that was dropped while the agent runs is gone for good, and the ledger says why: reading it
    /// again would drop it again. Dropped while stopping, the disk may have had no chance: it is read again after the restart.
    /// True if there is something to save.
    pub(super) fn settle(&mut self, tails: &mut HashMap<FileId, Tail>, verdict: Verdict, is_stopping: bool) -> bool {
        let (number, outcome) = verdict;
        let tail = self.groups.remove(&number).and_then(|id| tails.get_mut(&id));
        match tail {
            Some(tail) if outcome != Outcome::Dropped || !is_stopping => {
                tail.settle(number);
                true
            }
            _ => false,
        }
    }

    /// Let the groups become due for a verdict, the oldest first, as far as there may be more of those.
    pub(super) fn end_groups(&mut self, tails: &mut HashMap<FileId, Tail>) {
        let mut open: Vec<(u64, &mut Tail)> =
            tails.values_mut().filter_map(|tail| Some((tail.open_group()?, tail))).collect();
        let room = (UNSETTLED_MAX + open.len()).saturating_sub(self.groups.len());
        open.sort_unstable_by_key(|(number, _)| *number);
        open.into_iter().take(room).for_each(|(_, tail)| tail.end_group());
    }

    pub(super) fn save(&self, tails: &HashMap<FileId, Tail>) -> std::io::Result<()> {
        let mut entries: Vec<Entry> = tails.values().map(Tail::entry).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut files: Vec<FileStats> = tails.values().map(file_stats).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        self.stats.update(|stats| {
            stats.files = files;
            stats.unsettled = self.groups.len() as u64;
        });
        self.store.save(unix_nanos(), entries)
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
        tails.values_mut().for_each(Tail::end_group);
        let mut save = Instant::now() + COMMIT_EVERY;
        while !commits.groups.is_empty() {
            tokio::select! {
                biased;
                verdict = commits.next() => {
                    commits.settle(&mut tails, verdict, true);
                }
                () = after.given_up() => {
                    let groups = commits.groups.len();
                    tracing::warn!(groups, "stopped before all log lines were settled: they are read again");
                    break;
                }
            }
            if Instant::now() >= save {
                save = Instant::now() + COMMIT_EVERY;
                try_save(&commits, &tails);
            }
        }
        try_save(&commits, &tails);
    }
}

fn try_save(commits: &Commits, tails: &HashMap<FileId, Tail>) {
    if let Err(error) = commits.save(tails) {
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
