//! The follower: finds files, reads them in turn, hands batches in and commits offsets as verdicts arrive.
//!
//! One loop owns everything, on a thread where blocking reads harm nobody. Files with something to read queue up and get one
//! chunk each in turn. Verdicts may take long (a pattern's window is open for a minute): `commit` gathers them beside the
//! reading. When memory or CPU press, it pauses. Invariant: no more than `batches_in_flight_max` batches are on their way to processing, so memory is bounded by
//! their size; what cannot be handed in stays in its file.

mod budget;
mod commit;
mod walk;

use crate::discover::Globs;
use crate::identity::FileId;
use crate::join::{self, Joined, Limits, Record};
use crate::lines;
use crate::offsets::{Loaded, Store};
use crate::rules::Rules;
use crate::stats::Stats;
use crate::tail::{Look, Remains, Tail, Waits};
use crate::watch::Watch;
use crate::{Config, Error};
use budget::Budget;
use commit::Commits;
use futures::FutureExt;
use hashbrown::{HashMap, HashSet};
use ollystack_record::{Ack, Batch, DropReason, Intake, Records, Resource, Signal, Source};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

pub(crate) use commit::Unsettled;

/// After a notice, wait this long for more: a line a batch would cost ten times as much.
const GATHER: Duration = Duration::from_millis(100);

/// Names changing in a flood (a build, a log storm) make us walk no more often than this.
const WALK_EVERY: Duration = Duration::from_millis(200);

/// Offsets are written, and synced, no more often than this.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How often files without a name are looked at: nobody gives notice of them.
const NAMELESS_EVERY: Duration = Duration::from_secs(1);

/// How long a stop may take to read files that were deleted.
const DELETED_WITHIN: Duration = Duration::from_secs(1);

/// A batch of many short lines ends at the chunk; one of long lines at this many bytes or one line. Runtimes write no longer
/// parts of lines than 16 KiB, which escapes make six times as long at most.
const CHUNK_BYTES_MIN: usize = 128 << 10;

/// What frames take beside a line of the greatest length that came in parts.
const FRAMES_BYTES: usize = 8 << 10;

/// Of all files: bytes that were read and may go on.
const HELD_BYTES_MAX: usize = 256 << 10;

/// Paths that were complained about once.
const COMPLAINTS_MAX: usize = 1_000;

pub(crate) struct Follower {
    config: Config,
    globs: Arc<Globs>,
    rules: Rules,
    host: Arc<Resource>,
    intake: Intake,
    stats: Arc<Stats>,
    commits: Commits,
    watch: Watch,
    tails: HashMap<FileId, Tail>,
    by_path: HashMap<PathBuf, FileId>,
    queue: VecDeque<FileId>,
    /// Files that look binary, with their size then.
    binary: HashMap<FileId, u64>,
    complaints: HashSet<PathBuf>,
    buffer: Vec<u8>,
    /// Bytes that the tails hold.
    held_bytes: usize,
    budget: Budget,
    times: Times,
    is_unsaved: bool,
    /// A file was not found where it was seen a moment before.
    has_missed: bool,
    /// What may go on is not waited for.
    is_ending: bool,
    /// Of the file that begins last.
    last_life: u64,
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
#[derive(Debug, PartialEq)]
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
        let chunk = (lines::chunk_bytes(config.line_bytes_max) + FRAMES_BYTES).max(CHUNK_BYTES_MIN);
        let budget = Budget::new(config.bytes_per_second_max, now);
        let mut follower = Follower {
            buffer: vec![0; chunk],
            budget,
            times: Times { walk: now, walked: now, gather: None, save: now, nameless: now },
            globs,
            rules: Rules::new(&config)?,
            host,
            intake: intake.limited(config.batches_in_flight_max),
            commits: Commits::new(store, state_dir, Arc::clone(&stats))
                .map_err(|source| Error::State { path: state_dir.to_owned(), source })?,
            stats,
            watch,
            config,
            tails: HashMap::new(),
            by_path: HashMap::new(),
            queue: VecDeque::new(),
            binary: HashMap::new(),
            complaints: HashSet::new(),
            held_bytes: 0,
            is_unsaved: true,
            has_missed: false,
            is_ending: false,
            last_life: unix_nanos(),
        };
        follower.first_walk(state, now);
        follower.save(now).map_err(|source| Error::State { path: follower.commits.path().to_owned(), source })?;
        Ok(follower)
    }

    /// Until `stop`. What was handed in by then is still to be settled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Unsettled {
        loop {
            if stop.is_cancelled() {
                break;
            }
            if let Some(id) = self.next_readable() {
                if self.turn(id, &stop).await == Flow::Stop {
                    break;
                }
                self.bound_open();
                while let Some(settled) = self.commits.try_next() {
                    self.is_unsaved |= self.commits.settle(&mut self.tails, &settled, false);
                }
                if self.watch.changed().now_or_never().is_some() {
                    self.gather_from_now();
                }
            } else {
                let next = self.next_deadline();
                tokio::select! {
                    () = stop.cancelled() => break,
                    settled = self.commits.next() => {
                        self.is_unsaved |= self.commits.settle(&mut self.tails, &settled, false);
                    }
                    () = self.watch.changed() => self.gather_from_now(),
                    () = tokio::time::sleep_until(next.into()) => {}
                }
            }
            self.on_time(Instant::now());
        }
        self.read_deleted().await;
        Unsettled { tails: self.tails, commits: self.commits }
    }

    /// Writes may wait for more of them; a name that changed may soon be gone.
    fn gather_from_now(&mut self) {
        let now = Instant::now();
        let due = if self.watch.has_names() { now } else { now + GATHER };
        self.times.gather = Some(self.times.gather.map_or(due, |gather| gather.min(due)));
    }

    /// What has no name any more goes with its descriptor: nobody can read it after the restart.
    async fn read_deleted(&mut self) {
        let (deadline, never) = (Instant::now() + DELETED_WITHIN, CancellationToken::new());
        self.is_ending = true;
        let deleted = self.tails.values().filter(|tail| tail.is_deleted());
        for id in deleted.map(|tail| tail.id).collect::<Vec<_>>() {
            let mut before = None;
            while Instant::now() < deadline {
                let turn = tokio::time::timeout_at(deadline.into(), self.turn(id, &never)).await;
                let now = self.tails.get(&id).map(|tail| tail.position.offset);
                if turn != Ok(Flow::On) || now == before {
                    break;
                }
                before = now;
            }
        }
    }

    fn waits(&self) -> Waits {
        if self.is_ending {
            return Waits { line: Duration::ZERO, record: Duration::ZERO };
        }
        Waits {
            line: Duration::from_millis(self.config.line_wait_ms),
            record: Duration::from_millis(self.config.multiline_wait_ms),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            line_bytes_max: self.config.line_bytes_max,
            lines_max: self.config.multiline_lines_max,
            records_max: self.config.batch_records_max,
            chunk_bytes_max: self.buffer.len(),
        }
    }

    fn next_deadline(&self) -> Instant {
        let waits = self.waits();
        let mut next = self.times.walk;
        next = self.times.gather.map_or(next, |gather| next.min(gather));
        if self.is_unsaved {
            next = next.min(self.times.save);
        }
        // Before, nothing is read, whatever is due.
        let mut readable = if self.budget.is_spent() { self.budget.due() } else { self.times.walked };
        let pause = self.intake.pressure().pause();
        if !pause.is_zero() {
            readable = readable.max(Instant::now() + pause);
        }
        if !self.queue.is_empty() {
            next = next.min(readable);
        }
        for tail in self.tails.values() {
            if tail.is_nameless() && !tail.is_retired() {
                next = next.min(self.times.nameless);
            }
            next = tail.due(waits).map_or(next, |due| next.min(due.max(readable)));
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
            if walk || std::mem::take(&mut self.has_missed) {
                self.times.walk = self.times.walk.min((self.times.walked + WALK_EVERY).max(now));
            }
        }
        if now >= self.times.walk {
            self.walk(now);
        }
        let waits = self.waits();
        let look_at_nameless = now >= self.times.nameless;
        if look_at_nameless {
            self.times.nameless = now + NAMELESS_EVERY;
        }
        let is_due =
            |tail: &Tail| (look_at_nameless && tail.is_nameless()) || tail.due(waits).is_some_and(|due| now >= due);
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

    fn next_life(&mut self) -> u64 {
        self.last_life += 1;
        self.last_life
    }

    fn enqueue(&mut self, id: FileId) {
        if !self.queue.contains(&id) {
            self.queue.push_back(id);
        }
    }

    /// The first of the queue, if anything may be read now.
    fn next_readable(&mut self) -> Option<FileId> {
        let may_read = self.budget.has_some(Instant::now()) && self.intake.pressure().pause().is_zero();
        if may_read { self.queue.pop_front() } else { None }
    }

    /// Read one chunk of a file and hand it in.
    async fn turn(&mut self, id: FileId, stop: &CancellationToken) -> Flow {
        let now = Instant::now();
        let next_life = self.next_life();
        let Some(tail) = self.tails.get_mut(&id).filter(|tail| !tail.is_retired()) else { return Flow::On };
        let look = tail.look(&self.rules, self.config.follow_symlinks, next_life, now);
        let path = tail.path.clone();
        match look {
            Ok(Look::Same) => {}
            Ok(Look::Anew { unread, remains }) => {
                self.is_unsaved = true;
                self.stats.update(|stats| stats.truncations += 1);
                self.lost(&path, id, unread, "a log file was truncated before it was read to its end");
                if self.hand_in_remains(id, &remains, stop).await == Flow::Stop {
                    self.lost(&path, id, remains.bytes(), "a log file was truncated as the agent stopped");
                    return Flow::Stop;
                }
            }
            Ok(Look::Gone { unread }) => {
                self.lost(&path, id, unread, "a log file vanished before it was read to its end");
                self.tails.remove(&id);
                self.is_unsaved = true;
                return Flow::On;
            }
            Err(error) => {
                tail.wait_anew(now);
                self.complain(&path, &error);
                return Flow::On;
            }
        }
        let (limits, waits) = (self.limits(), self.waits());
        let Some(tail) = self.tails.get_mut(&id) else { return Flow::On };
        if tail.unread() == 0 {
            return Flow::On;
        }
        let others_held = self.held_bytes.saturating_sub(tail.held_bytes());
        let held_max = HELD_BYTES_MAX.saturating_sub(others_held);
        let (joined, has_more) = match tail.read(&mut self.buffer, limits, waits, held_max, now) {
            Ok(read) => read,
            Err(error) => {
                tail.close();
                tail.wait_anew(now);
                self.complain(&path, &error);
                return Flow::On;
            }
        };
        self.held_bytes = others_held + tail.held_bytes();
        let Joined { records, consumed, in_cut_line, in_record, .. } = joined;
        let count = Count::of(&records, consumed);
        self.budget.spend(count.bytes);
        if !records.is_empty() {
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => return Flow::Stop,
                slot = self.intake.reserve(count.records) => slot,
            };
            let Ok(slot) = slot else { return Flow::Stop };
            let starts = join::starts(&records).into_iter().map(|start| tail.position.offset + start as u64).collect();
            let ack = self.commits.ack(tail, starts, count.bytes);
            slot.send(batch(tail, records, ack));
        }
        if consumed > 0 {
            tail.handed_in(count.bytes, (in_cut_line, in_record), count.records);
            self.is_unsaved = true;
        }
        if has_more {
            self.enqueue(id);
        }
        self.count(count);
        Flow::On
    }

    /// What was read of a file that was truncated since, and waited for more.
    async fn hand_in_remains(&mut self, id: FileId, remains: &Remains, stop: &CancellationToken) -> Flow {
        let joined = remains.joined(self.limits());
        let Some(tail) = self.tails.get(&id).filter(|_| !joined.records.is_empty()) else { return Flow::On };
        let count = Count::of(&joined.records, joined.consumed);
        // There is no offset any more that could wait for the verdict.
        let batch = batch(tail, joined.records, Ack::none());
        tokio::select! {
            biased;
            sent = self.intake.send(batch) => if sent.is_err() { return Flow::Stop },
            () = stop.cancelled() => return Flow::Stop,
        }
        self.count(count);
        Flow::On
    }

    fn count(&self, count: Count) {
        if count.cut > 0 {
            // The beginning is handed in as a record; the end is one more, and lost.
            self.intake.ledger().seen(Signal::Logs, count.cut);
            self.intake.ledger().dropped(Signal::Logs, DropReason::Malformed, count.cut);
        }
        self.stats.update(|stats| {
            stats.lines += count.lines;
            stats.records += count.records;
            stats.bytes += count.bytes;
            stats.lines_cut += count.cut;
        });
    }

    /// Close the files that were not used for longest: first those without a name that were read to their end, which are over
    /// once they are settled, then those that can be opened again. None that has something to read is closed.
    fn bound_open(&mut self) {
        if self.tails.len() <= self.config.files_open_max {
            return;
        }
        let open = self.tails.values().filter(|tail| tail.is_open()).count();
        for _ in self.config.files_open_max..open {
            let idle = self.tails.values_mut().filter(|tail| tail.may_close());
            let Some(tail) = idle.min_by_key(|tail| (!tail.is_nameless(), tail.used)) else { return };
            // One that still has a name, if only for a moment none that was seen, would be new when it is found again.
            if tail.is_finished() && tail.is_deleted() {
                let id = tail.id;
                self.tails.remove(&id);
                self.is_unsaved = true;
            } else if tail.is_nameless() {
                tail.retire();
            } else {
                tail.close();
            }
        }
    }

    /// Bytes that nobody will ever read: counted in records by the file's own mean.
    fn lost(&self, path: &Path, id: FileId, unread: u64, what: &'static str) {
        if unread == 0 {
            tracing::info!(path = %path.display(), "{}", "a log file begins anew or is gone; it was read to its end");
            return;
        }
        let records = self.tails.get(&id).map_or_else(|| unread.div_ceil(100), |tail| tail.records_in(unread));
        tracing::error!(path = %path.display(), bytes = unread, records_estimated = records, "{what}");
        self.stats.update(|stats| stats.vanished += 1);
        self.intake.ledger().seen(Signal::Logs, records);
        self.intake.ledger().dropped(Signal::Logs, DropReason::SourceVanished, records);
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
            let path = self.commits.path().to_owned();
            self.complain(&path, format!("log offsets are not saved, a restart would read lines again: {error}"));
        }
    }

    fn save(&mut self, now: Instant) -> std::io::Result<()> {
        self.times.save = now + COMMIT_EVERY;
        self.held_bytes = self.tails.values().map(Tail::held_bytes).sum();
        self.commits.save(&mut self.tails, false)?;
        self.is_unsaved = false;
        Ok(())
    }
}

/// What is counted of a batch.
struct Count {
    lines: u64,
    records: u64,
    bytes: u64,
    cut: u64,
}

impl Count {
    fn of(records: &[Record<'_>], bytes: usize) -> Count {
        Count {
            lines: records.iter().map(|record| u64::from(record.lines)).sum(),
            records: records.len() as u64,
            bytes: bytes as u64,
            cut: records.iter().filter(|record| record.is_cut).count() as u64,
        }
    }
}

fn batch(tail: &Tail, records: Vec<Record<'_>>, ack: Ack) -> Batch {
    let records = Records::Logs(vec![tail.origin.records(records, unix_nanos())]);
    Batch { source: Source::Logs, resource: Arc::clone(&tail.resource), records, ack }
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

#[cfg(test)]
mod tests;
