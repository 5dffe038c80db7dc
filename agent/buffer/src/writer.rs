//! The one thread that owns the files: gathers waiting calls, commits puts together, serves leases, writes acks lazily.
//!
//! Calls come from the handles; answers go back by one-shot channels. Invariant: an answer to a put is sent after the
//! commit that holds it has returned.

use crate::handle::Lease;
use crate::store::Store;
use crate::{Entry, EntryId, Error, Stats, Waiting};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

/// Segments open at a time: one to write per class in use (four in the agent), one to read, one to replace in. A connection
/// costs its page cache (128 KiB) and about 100 KiB besides: 6 of them are under 1.5 MiB.
pub const CONNECTIONS_MAX: usize = 6;

/// How long an ack may wait for a commit to ride with before it gets one of its own: a crash gives the acks of this
/// long again.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

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
    shared: Arc<Shared>,
    available: watch::Sender<u64>,
) -> Result<(), Error> {
    let directory = store.directory().to_path_buf();
    let mut writer = Writer { store, shared, available, flushed: Instant::now() };
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

    /// Serve `first` and whatever else waits already. Returns those who asked to close.
    fn turn(&mut self, first: Call, calls: &Receiver<Call>) -> Vec<oneshot::Sender<()>> {
        let (mut puts, mut nexts, mut acks) = (Vec::new(), Vec::new(), Vec::new());
        // The places in the queue are free again when the turn is over: so a turn is bounded too.
        let (mut closers, mut rooms) = (Vec::new(), Vec::new());
        let mut call = Some(first);
        while let Some(Call { command, room }) = call {
            rooms.extend(room);
            match command {
                Command::Put(put) => puts.push(put),
                Command::Next { answer, calls } => nexts.push((answer, calls)),
                Command::Ack { ids, answer } => {
                    self.store.ack(&ids);
                    acks.push(answer);
                }
                Command::Leave { id, answer } => {
                    self.store.leave(id);
                    acks.push(answer);
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
                Command::Close { answer } => closers.push(answer),
            }
            call = if closers.is_empty() { calls.try_recv().ok() } else { None };
        }
        self.store.release(&self.shared.take_released());
        let stored = if puts.is_empty() { Vec::new() } else { self.store.commit(puts) };
        let leased: Vec<_> = nexts
            .into_iter()
            .map(|(answer, calls)| (answer, self.store.lease().map(|stored| (stored, calls))))
            .collect();
        // First the figures, then the answers: a caller sees its own effect. One that went away needs no answer.
        self.publish();
        for (answer, result) in stored {
            let _ = answer.send(result);
        }
        for answer in acks {
            let _ = answer.send(());
        }
        for (answer, result) in leased {
            let _ = answer.send(result.map(|(stored, calls)| stored.map(|s| Lease::new(s, &self.shared, calls))));
        }
        closers
    }

    fn publish(&mut self) {
        let stats = self.store.stats();
        let waiting = stats.entries.saturating_sub(stats.leased + stats.left);
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
        self.available.send_if_modified(|entries| std::mem::replace(entries, waiting) != waiting);
    }
}
