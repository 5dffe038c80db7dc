//! The follower: finds files, reads them in turn, hands batches in and commits offsets as verdicts arrive.
//!
//! One loop owns everything, on a thread where blocking reads harm nobody. Files with something to read queue up and get one
//! chunk each in turn. Invariant: no more than `batches_in_flight_max` batches are unsettled, so memory is bounded by their
//! size; what cannot be handed in stays in its file.

mod budget;
mod walk;

use crate::discover::Globs;
use crate::identity::FileId;
use crate::lines::{self, Rules};
use crate::offsets::{Entry, Loaded, Store};
use crate::stats::{FileStats, Stats};
use crate::tail::{Look, Tail};
use crate::watch::Watch;
use crate::{Config, Error};
use budget::Budget;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use hashbrown::{HashMap, HashSet};
use ollystack_record::{Ack, Batch, DropReason, Intake, Outcome, Records, Resource, Signal, Source};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// After a notice, wait this long for more: a line a batch would cost ten times as much.
const GATHER: Duration = Duration::from_millis(100);

/// Names changing in a flood (a build, a log storm) make us walk no more often than this.
const WALK_EVERY: Duration = Duration::from_millis(200);

/// Offsets are written, and synced, no more often than this.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How often files without a name are looked at: nobody gives notice of them.
const NAMELESS_EVERY: Duration = Duration::from_secs(1);

/// How long a stop waits for verdicts. What is not settled by then is read again after the restart.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A batch of many short lines ends at the chunk; one of long lines at this many bytes or one line.
const CHUNK_BYTES_MIN: usize = 128 << 10;

/// Paths that were complained about once.
const COMPLAINTS_MAX: usize = 1_000;

pub(crate) struct Follower {
    config: Config,
    globs: Arc<Globs>,
    host: Arc<Resource>,
    intake: Intake,
    stats: Arc<Stats>,
    store: Store,
    watch: Watch,
    tails: HashMap<FileId, Tail>,
    by_path: HashMap<PathBuf, FileId>,
    queue: VecDeque<FileId>,
    verdicts: FuturesUnordered<BoxFuture<'static, (FileId, u64, Outcome)>>,
    batches: u64,
    /// Files that look binary, with their size then.
    binary: HashMap<FileId, u64>,
    complaints: HashSet<PathBuf>,
    buffer: Vec<u8>,
    budget: Budget,
    times: Times,
    is_unsaved: bool,
}

/// When what is due.
struct Times {
    walk: Instant,
    walked: Instant,
    gather: Option<Instant>,
    save: Instant,
    nameless: Instant,
}

/// Whether to go on.
#[derive(PartialEq)]
enum Flow {
    On,
    Stop,
}

impl Follower {
    /// Find the files and go on where the last run ended.
    pub(crate) fn new(
        config: Config,
        state_dir: &Path,
        host: Arc<Resource>,
        intake: Intake,
        stats: Arc<Stats>,
    ) -> Result<Follower, Error> {
        let globs = Arc::new(Globs::new(&config)?);
        let store = Store::new(state_dir).map_err(|source| Error::State { path: state_dir.to_owned(), source })?;
        let loaded = store.load().map_err(|source| Error::State { path: store.path().to_owned(), source })?;
        let state = match loaded {
            Loaded::State(state) => Some(state),
            Loaded::Nothing => None,
            Loaded::Damaged(aside) => {
                tracing::error!(
                    path = %aside.display(),
                    start_at = ?config.start_at,
                    "the log offsets were damaged and set aside: files are read as at the first start, so lines are lost or doubled"
                );
                None
            }
        };
        let (watch, error) = Watch::new(Arc::clone(&globs));
        if let Some(error) = error {
            tracing::warn!(%error, "no notices of changes: log files are polled; raise fs.inotify.max_user_instances");
        }
        let now = Instant::now();
        let chunk = lines::chunk_bytes(config.line_bytes_max).max(CHUNK_BYTES_MIN);
        let budget = Budget::new(config.bytes_per_second_max, now);
        let mut follower = Follower {
            buffer: vec![0; chunk],
            budget,
            times: Times { walk: now, walked: now, gather: None, save: now, nameless: now },
            globs,
            host,
            intake,
            stats,
            store,
            watch,
            config,
            tails: HashMap::new(),
            by_path: HashMap::new(),
            queue: VecDeque::new(),
            verdicts: FuturesUnordered::new(),
            batches: 0,
            binary: HashMap::new(),
            complaints: HashSet::new(),
            is_unsaved: true,
        };
        follower.first_walk(state, now);
        follower.save(now).map_err(|source| Error::State { path: follower.store.path().to_owned(), source })?;
        Ok(follower)
    }

    /// Until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            if stop.is_cancelled() {
                break;
            }
            if let Some(id) = self.next_readable() {
                if self.turn(id, &stop).await == Flow::Stop {
                    break;
                }
                self.bound_open();
                while let Some(Some((id, number, outcome))) = self.verdicts.next().now_or_never() {
                    self.settle(id, number, outcome, stop.is_cancelled());
                }
                if self.watch.changed().now_or_never().is_some() {
                    self.gather_from_now();
                }
            } else {
                let next = self.next_deadline();
                tokio::select! {
                    () = stop.cancelled() => break,
                    Some((id, number, outcome)) = self.verdicts.next() => {
                        self.settle(id, number, outcome, stop.is_cancelled());
                    }
                    () = self.watch.changed() => self.gather_from_now(),
                    () = tokio::time::sleep_until(next.into()) => {}
                }
            }
            self.on_time(Instant::now());
        }
        self.finish().await;
    }

    /// The verdicts of what is under way, as far as they come in time, and the last save.
    async fn finish(&mut self) {
        let deadline = tokio::time::Instant::now() + STOP_WAIT;
        while let Ok(Some((id, number, outcome))) = tokio::time::timeout_at(deadline, self.verdicts.next()).await {
            self.settle(id, number, outcome, true);
        }
        if !self.verdicts.is_empty() {
            tracing::warn!(
                batches = self.verdicts.len(),
                "stopped before all log lines were settled: they are read again"
            );
        }
        self.try_save(Instant::now());
    }

    /// Writes may wait for more of them; a name that changed may soon be gone.
    fn gather_from_now(&mut self) {
        let now = Instant::now();
        let due = if self.watch.has_names() { now } else { now + GATHER };
        self.times.gather = Some(self.times.gather.map_or(due, |gather| gather.min(due)));
    }

    /// The verdict is in. A batch that was dropped while the agent runs is gone for good, and the ledger says why: reading it
    /// again would drop it again. Dropped while stopping, the disk may have had no chance: it is read again after the restart.
    fn settle(&mut self, id: FileId, number: u64, outcome: Outcome, is_stopping: bool) {
        if outcome == Outcome::Dropped && is_stopping {
            return;
        }
        if let Some(tail) = self.tails.get_mut(&id) {
            self.is_unsaved |= tail.settle(number);
        }
    }

    fn next_deadline(&self) -> Instant {
        let wait = Duration::from_millis(self.config.line_wait_ms);
        let mut next = self.times.walk;
        next = self.times.gather.map_or(next, |gather| next.min(gather));
        if self.is_unsaved {
            next = next.min(self.times.save);
        }
        // Files that wait for verdicts are woken by those; only the budget comes back without a word.
        if !self.queue.is_empty() && self.budget.is_spent() {
            next = next.min(self.budget.due());
        }
        for tail in self.tails.values() {
            if tail.is_nameless() {
                next = next.min(self.times.nameless);
            }
            next = tail.unfinished_due(wait).map_or(next, |due| next.min(due));
        }
        next
    }

    fn on_time(&mut self, now: Instant) {
        if self.times.gather.is_some_and(|gather| now >= gather) {
            self.times.gather = None;
            let changed = self.watch.take();
            let mut walk = changed.walk;
            for renamed in changed.renamed {
                self.take_new(&renamed.from, &renamed.to, now);
            }
            for path in changed.files {
                match self.by_path.get(&path) {
                    Some(id) => self.enqueue(*id),
                    None => {
                        walk = true;
                        self.take_new(&path, &path, now);
                    }
                }
            }
            if walk {
                self.times.walk = self.times.walk.min((self.times.walked + WALK_EVERY).max(now));
            }
        }
        if now >= self.times.walk {
            self.walk(now);
        }
        let wait = Duration::from_millis(self.config.line_wait_ms);
        let look_at_nameless = now >= self.times.nameless;
        if look_at_nameless {
            self.times.nameless = now + NAMELESS_EVERY;
        }
        let is_due = |tail: &Tail| {
            (look_at_nameless && tail.is_nameless()) || tail.unfinished_due(wait).is_some_and(|due| now >= due)
        };
        let due: Vec<FileId> = self.tails.values().filter(|tail| is_due(tail)).map(|tail| tail.id).collect();
        due.into_iter().for_each(|id| self.enqueue(id));
        if look_at_nameless {
            let before = self.tails.len();
            self.tails.retain(|_, tail| !tail.is_over(now));
            self.is_unsaved |= self.tails.len() != before;
        }
        if self.is_unsaved && now >= self.times.save {
            self.try_save(now);
        }
    }

    fn enqueue(&mut self, id: FileId) {
        if !self.queue.contains(&id) {
            self.queue.push_back(id);
        }
    }

    /// The first of the queue that may be read now, taken out of it.
    fn next_readable(&mut self) -> Option<FileId> {
        let per_file = (self.config.batches_in_flight_max / 2).max(1);
        if !self.budget.has_some(Instant::now()) || self.verdicts.len() >= self.config.batches_in_flight_max {
            return None;
        }
        let tails = &self.tails;
        let may = |id: &FileId| tails.get(id).is_none_or(|tail| tail.in_flight() < per_file);
        let at = self.queue.iter().position(may)?;
        self.queue.remove(at)
    }

    /// Read one chunk of a file and hand it in.
    async fn turn(&mut self, id: FileId, stop: &CancellationToken) -> Flow {
        let now = Instant::now();
        let Some(tail) = self.tails.get_mut(&id) else { return Flow::On };
        let look = tail.look(self.config.follow_symlinks, now);
        let path = tail.path.clone();
        match look {
            Ok(Look::Same) => {}
            Ok(Look::Anew { unread }) => {
                self.is_unsaved = true;
                self.stats.update(|stats| stats.truncations += 1);
                self.lost(&path, id, unread, "a log file was truncated before it was read to its end");
            }
            Ok(Look::Gone { unread }) => {
                self.lost(&path, id, unread, "a log file vanished before it was read to its end");
                self.tails.remove(&id);
                self.is_unsaved = true;
                return Flow::On;
            }
            Err(error) => {
                self.complain(&path, &error);
                return Flow::On;
            }
        }
        let Some(tail) = self.tails.get_mut(&id) else { return Flow::On };
        if tail.unread() == 0 {
            return Flow::On;
        }
        let rules = Rules {
            line_bytes_max: self.config.line_bytes_max,
            lines_max: self.config.batch_records_max,
            in_cut_line: false,
            take_unfinished: false,
        };
        let wait = Duration::from_millis(self.config.line_wait_ms);
        let split = match tail.read(&mut self.buffer, rules, wait, now) {
            Ok(read) => read,
            Err(error) => {
                tail.close();
                self.complain(&path, &error);
                return Flow::On;
            }
        };

        let (consumed, in_cut_line, count) = (split.consumed as u64, split.in_cut_line, split.lines.len() as u64);
        let cut = split.lines.iter().filter(|line| line.is_cut).count() as u64;
        self.budget.spend(consumed);
        let number = if count > 0 {
            let (ack, pending) = Ack::new();
            let records = Records::Logs(vec![tail.origin.records(&split.lines, unix_nanos())]);
            let batch = Batch { source: Source::Logs, resource: Arc::clone(&tail.resource), records, ack };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Flow::Stop,
                sent = self.intake.send(batch) => if sent.is_err() { return Flow::Stop },
            }
            self.batches += 1;
            let number = self.batches;
            self.verdicts.push(async move { (id, number, pending.outcome().await) }.boxed());
            Some(number)
        } else {
            None
        };
        if consumed > 0 {
            tail.handed_in(consumed, in_cut_line, count, number);
            self.is_unsaved = true;
            if tail.unread() > 0 {
                self.enqueue(id);
            }
        }
        if cut > 0 {
            // The beginning is handed in as a record; the end is one more, and lost.
            self.intake.ledger().seen(Signal::Logs, cut);
            self.intake.ledger().dropped(Signal::Logs, DropReason::Malformed, cut);
        }
        self.stats.update(|stats| {
            stats.lines += count;
            stats.bytes += consumed;
            stats.lines_cut += cut;
        });
        Flow::On
    }

    /// Close the files that were not used for longest: first those without a name that were read to their end, which are then
    /// over, then those that can be opened again. None that has something to read is closed.
    fn bound_open(&mut self) {
        if self.tails.len() <= self.config.files_open_max {
            return;
        }
        let open = self.tails.values().filter(|tail| tail.is_open()).count();
        for _ in self.config.files_open_max..open {
            let may = |tail: &&mut Tail| tail.may_close() || tail.is_finished();
            let idle = self.tails.values_mut().filter(may).min_by_key(|tail| (!tail.is_nameless(), tail.used));
            let Some(tail) = idle else { return };
            if tail.is_nameless() {
                let id = tail.id;
                self.tails.remove(&id);
                self.is_unsaved = true;
            } else {
                tail.close();
            }
        }
    }

    /// Bytes that nobody will ever read: counted in lines by the file's own mean.
    fn lost(&self, path: &Path, id: FileId, unread: u64, what: &'static str) {
        if unread == 0 {
            tracing::info!(path = %path.display(), "{}", "a log file begins anew or is gone; it was read to its end");
            return;
        }
        let lines = self.tails.get(&id).map_or_else(|| unread.div_ceil(100), |tail| tail.lines_in(unread));
        tracing::error!(path = %path.display(), bytes = unread, lines_estimated = lines, "{what}");
        self.stats.update(|stats| stats.vanished += 1);
        self.intake.ledger().seen(Signal::Logs, lines);
        self.intake.ledger().dropped(Signal::Logs, DropReason::SourceVanished, lines);
    }

    /// Counted each time, said once a path.
    fn complain(&mut self, path: &Path, error: impl std::fmt::Display) {
        let text = format!("{}: {error}", path.display());
        if self.complaints.len() < COMPLAINTS_MAX && self.complaints.insert(path.to_owned()) {
            tracing::warn!("{text}; said once");
        }
        self.stats.update(|stats| {
            stats.errors += 1;
            stats.last_error = text;
        });
    }

    fn try_save(&mut self, now: Instant) {
        if let Err(error) = self.save(now) {
            let path = self.store.path().to_owned();
            self.complain(&path, format!("log offsets are not saved, a restart would read lines again: {error}"));
        }
    }

    fn save(&mut self, now: Instant) -> std::io::Result<()> {
        self.times.save = now + COMMIT_EVERY;
        let mut entries: Vec<Entry> = self.tails.values().map(Tail::entry).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let mut files: Vec<FileStats> = self.tails.values().map(file_stats).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        self.stats.update(|stats| stats.files = files);
        self.store.save(unix_nanos(), entries)?;
        self.is_unsaved = false;
        Ok(())
    }
}

fn file_stats(tail: &Tail) -> FileStats {
    FileStats {
        path: tail.path.clone(),
        read: tail.position.offset,
        committed: tail.committed.offset,
        lag: tail.unread(),
        lines: tail.lines,
    }
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
