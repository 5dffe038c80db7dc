//! The one thread that owns the files: gathers waiting calls, commits puts together, serves leases, writes acks lazily.
//!
//! Calls come from the handles; answers go back by one-shot channels. Invariant: an answer to a put is sent after the
//! commit that holds it has returned.

use crate::handle::{CALLS_MAX, Lease};
use crate::store::Store;
use crate::{Entry, EntryId, Error, Stats, Waiting};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Segments open at a time: one to write per class in use (four in the agent), one to read, one to replace in. A connection
/// costs its page cache (128 KiB) and about 100 KiB besides: 6 of them are under 1.5 MiB.
pub const CONNECTIONS_MAX: usize = 6;

/// How long an ack may wait for a commit to ride with before it gets one of its own: a crash gives the acks of this
/// long again.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// Those whom a commit has just answered come back with the next put after others have begun: they gather to one commit if it waits until
/// all are there, or nobody was answered for a quarter of the time that the last one took; and no longer than it took.
const GATHER_PART: u32 = 4;

/// A put and whom to tell.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) entries: Vec<Entry>,
    pub(crate) answer: oneshot::Sender<Result<Vec<EntryId>, Error>>,
}

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Put(Put),
    Next {
        answer: oneshot::Sender<Result<Option<Lease>, Error>>,
        calls: Sender<Call>,
    },
    Ack {
        ids: Vec<EntryId>,
        answer: oneshot::Sender<()>,
    },
    Leave {
        id: EntryId,
        answer: oneshot::Sender<()>,
    },
    Waiting {
        class: u8,
        signal: u8,
        after: EntryId,
        count: usize,
        answer: oneshot::Sender<Result<Vec<Waiting>, Error>>,
    },
    Peek {
        waiting: Waiting,
        answer: oneshot::Sender<Result<Option<Entry>, Error>>,
    },
    Replace {
        old: Vec<Waiting>,
        entries: Vec<Entry>,
        answer: oneshot::Sender<Result<bool, Error>>,
    },
    /// Leases were given back: look at [`Shared`].
    Wake,
    Close {
        answer: oneshot::Sender<()>,
    },
}

/// A command and its place in the queue, which is free again when the command was answered.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: Command,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// What handles and writer share besides the queue.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    released: Mutex<Vec<EntryId>>,
    stats: Mutex<Stats>,
}

impl Shared {
    pub(crate) fn release(&self, calls: &Sender<Call>, id: EntryId) {
        self.released.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        // Without a writer there is no lease to give back either.
        let _ = calls.send(Call { command: Command::Wake, room: None });
    }

    fn take_released(&self) -> Vec<EntryId> {
        std::mem::take(&mut self.released.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Run the thread; it ends after `Close` or when the last handle is gone.
pub(crate) fn start(
    store: Store,
    calls: Receiver<Call>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
    available: watch::Sender<u64>,
) -> Result<(), Error> {
    let directory = store.directory().to_path_buf();
    let now = Instant::now();
    let mut writer = Writer {
        store,
        shared,
        available,
        flushed: now,
        room,
        company: 0,
        committed: now,
        took: Duration::ZERO,
        moved: now,
    };
    writer.publish();
    std::thread::Builder::new()
        .name("ollystack-buffer".into())
        .spawn(move || writer.run(&calls))
        .map_err(|error| Error::io(directory, &error))?;
    Ok(())
}

struct Writer {
    store: Store,
    shared: Arc<Shared>,
    available: watch::Sender<u64>,
    flushed: Instant,
    /// The queue's places.
    room: Arc<Semaphore>,
    /// How many were answered by the last commit or waited when it ended: so many may come with puts at once.
    company: usize,
    /// When it ended, and how long it took.
    committed: Instant,
    took: Duration,
    /// When somebody was last answered.
    moved: Instant,
}

/// Whom to give a lease, and how it comes back.
type Next = (oneshot::Sender<Result<Option<Lease>, Error>>, Sender<Call>);

/// What one turn has taken from the queue.
#[derive(Default)]
struct Turn {
    puts: Vec<Put>,
    put_rooms: Vec<OwnedSemaphorePermit>,
    rooms: Vec<OwnedSemaphorePermit>,
    nexts: Vec<Next>,
    acks: Vec<oneshot::Sender<()>>,
    closers: Vec<oneshot::Sender<()>>,
}

impl Writer {
    fn run(mut self, calls: &Receiver<Call>) {
        let closers = loop {
            match calls.recv_timeout(FLUSH_AFTER) {
                Ok(call) => {
                    let closers = self.turn(call, calls);
                    if !closers.is_empty() {
                        break closers;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Vec::new(),
            }
            if self.flushed.elapsed() >= FLUSH_AFTER {
                self.store.idle();
                self.flushed = Instant::now();
                self.publish();
            }
        };
        let Writer { store, shared, available, .. } = self;
        let stats = store.close();
        *shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        drop(available);
        drop(closers);
    }

    /// Serve `first` and whatever else waits already, and commit the puts among it, with those that are sure to come at once. Returns
    /// those who asked to close.
    fn turn(&mut self, first: Call, calls: &Receiver<Call>) -> Vec<oneshot::Sender<()>> {
        let mut turn = Turn::default();
        let mut call = Some(first);
        while let Some(next) = call {
            self.take(next, &mut turn);
            let is_open = turn.closers.is_empty();
            call = if is_open { calls.try_recv().ok() } else { None };
            if call.is_none() {
                if self.serve(&mut turn) {
                    self.moved = Instant::now();
                }
                let until = (self.moved + self.took / GATHER_PART).min(self.committed + self.took);
                if is_open
                    && (1..self.company).contains(&turn.puts.len())
                    && let Some(left) = until.checked_duration_since(Instant::now())
                {
                    call = calls.recv_timeout(left).ok();
                }
            }
        }
        if turn.puts.is_empty() {
            return turn.closers;
        }
        let began = Instant::now();
        let stored = self.store.commit(turn.puts);
        self.took = began.elapsed();
        self.committed = began + self.took;
        self.moved = self.committed;
        self.company = CALLS_MAX - self.room.available_permits();
        // First the figures, then the answers: a caller sees its own effect. One that went away needs no answer.
        self.publish();
        for (answer, result) in stored {
            let _ = answer.send(result);
        }
        turn.closers
    }

    fn take(&mut self, Call { command, room }: Call, turn: &mut Turn) {
        // The places in the queue are free again when their calls are answered: so a turn is bounded too.
        let rooms = if matches!(command, Command::Put(_)) { &mut turn.put_rooms } else { &mut turn.rooms };
        rooms.extend(room);
        match command {
            Command::Put(put) => turn.puts.push(put),
            Command::Next { answer, calls } => turn.nexts.push((answer, calls)),
            Command::Ack { ids, answer } => {
                self.store.ack(&ids);
                turn.acks.push(answer);
            }
            Command::Leave { id, answer } => {
                self.store.leave(id);
                turn.acks.push(answer);
            }
            Command::Waiting { class, signal, after, count, answer } => {
                let _ = answer.send(self.store.waiting(class, signal, after, count));
            }
            Command::Peek { waiting, answer } => drop(answer.send(self.store.peek(&waiting))),
            Command::Replace { old, entries, answer } => {
                let replaced = self.store.replace(&old, &entries);
                self.publish();
                let _ = answer.send(replaced);
            }
            Command::Wake => {}
            Command::Close { answer } => turn.closers.push(answer),
        }
    }

    /// Answer all but the puts; whether there was anybody.
    fn serve(&mut self, turn: &mut Turn) -> bool {
        let is_any = !turn.nexts.is_empty() || !turn.acks.is_empty();
        self.store.release(&self.shared.take_released());
        let leased: Vec<_> = turn
            .nexts
            .drain(..)
            .map(|(answer, calls)| (answer, self.store.lease().map(|stored| (stored, calls))))
            .collect();
        self.publish();
        for answer in turn.acks.drain(..) {
            let _ = answer.send(());
        }
        for (answer, result) in leased {
            let _ = answer.send(result.map(|(stored, calls)| stored.map(|s| Lease::new(s, &self.shared, calls))));
        }
        turn.rooms.clear();
        is_any
    }

    fn publish(&mut self) {
        let stats = self.store.stats();
        let waiting = stats.entries.saturating_sub(stats.leased + stats.left);
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        self.available.send_if_modified(|entries| std::mem::replace(entries, waiting) != waiting);
    }
}
