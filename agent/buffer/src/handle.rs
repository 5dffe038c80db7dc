//! The handle that callers hold: async calls in, answers out of the one thread that owns the files.
//!
//! Calls travel to the writer's thread through a queue of bounded length. Invariant: a lease whose caller went away before
//! it heard of it is given back.

use crate::recovery::{self, Opened};
use crate::writer::{self, Call, Command, Put, Shared};
use crate::{Entry, EntryId, Error, KINDS, Observer, Options, Recovery, Stats, Stored, Waiting};
use std::sync::{Arc, mpsc};
use tokio::sync::{Semaphore, oneshot, watch};

/// Calls that may wait for the writer: puts gather to commits among them, and each may hold a frozen batch in memory.
pub(crate) const CALLS_MAX: usize = 64;

/// A handle on the queue; clones share it. Dropping the last one stops the writer, as [`Buffer::close`] does.
#[derive(Clone, Debug)]
pub struct Buffer {
    calls: mpsc::Sender<Call>,
    room: Arc<Semaphore>,
    available: watch::Receiver<u64>,
    shared: Arc<Shared>,
    last_ids: [u64; KINDS],
}

impl Buffer {
    /// Lock the directory, recover what is there and start the writer's thread. Reads files: call it before serving.
    pub fn open(options: Options, observer: Arc<dyn Observer>) -> Result<(Buffer, Recovery), Error> {
        let Opened { store, recovery, last_ids } = recovery::open(options, observer)?;
        let (calls, receiver) = mpsc::channel();
        let (sender, available) = watch::channel(0);
        let shared = Arc::new(Shared::default());
        let room = Arc::new(Semaphore::new(CALLS_MAX));
        writer::start(store, receiver, Arc::clone(&room), Arc::clone(&shared), sender)?;
        Ok((Buffer { calls, room, available, shared, last_ids }, recovery))
    }

    /// Store entries; returns their ids, in order, after the sync. Concurrent puts share one commit. All or nothing, unless
    /// the entries are together larger than a segment: then some may be stored when an error is returned. Dropping
    /// the future does not take the entries back.
    pub async fn put(&self, entries: Vec<Entry>) -> Result<Vec<EntryId>, Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Put(Put { entries, answer })).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// The highest id of each class that was ever stored when the buffer was opened, 0 if none was: whoever noted which ids a put
    /// would go beyond learns after a crash whether it happened, also when what it stored was acked since.
    pub fn last_ids(&self) -> [u64; KINDS] {
        self.last_ids
    }

    /// Lease an entry that nobody has on lease; none when there is none. Three times in four it is the oldest of the most
    /// valuable class, the fourth time the oldest of all. An error (the disk cannot be read) is worth another try after a
    /// pause.
    pub async fn next(&self) -> Result<Option<Stored>, Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Next { answer, calls: self.calls.clone() }).await?;
        answered.await.map_err(|_| Error::Closed)?.map(|lease| lease.and_then(Lease::keep))
    }

    /// Entries of a class and signal above `after` that nobody has ever leased, this process or an earlier one: `count` at most, of
    /// one segment, oldest first. They stay where they are.
    pub async fn waiting(&self, class: u8, signal: u8, after: EntryId, count: usize) -> Result<Vec<Waiting>, Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Waiting { class, signal, after, count, answer }).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// What waits there; none once it is gone or leased.
    pub async fn peek(&self, waiting: &Waiting) -> Result<Option<Entry>, Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Peek { waiting: waiting.clone(), answer }).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Put `entries` in the place of `old`, in one synced transaction: after a crash there are either the ones or the others. They must be
    /// no more than `old`, at least one, of their class, and `old` of one call of [`waiting`](Buffer::waiting). They take the
    /// highest of the ids, which is no harm: nobody ever saw those. False, and nothing is changed, if one of `old` was leased or is gone
    /// meanwhile, or if the transaction does not fit under the cap.
    pub async fn replace(&self, old: Vec<Waiting>, entries: Vec<Entry>) -> Result<bool, Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Replace { old, entries, answer }).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Give a lease back: the entry is again where its age puts it, and its next lease is marked as redelivered.
    pub fn release(&self, id: EntryId) {
        self.shared.release(&self.calls, id);
    }

    /// End a lease on an entry that this process can make nothing of: it stays where it is, and no `next` gives it before the next open. It
    /// counts, and goes when room is needed, as any other.
    pub async fn leave(&self, id: EntryId) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Leave { id, answer }).await?;
        answered.await.map_err(|_| Error::Closed)
    }

    /// Entries that arrived where they were to go. Ids that are not on lease, or were acked before, are passed over.
    /// Returns when no later `next` of this process can give them; the disk follows within a second.
    pub async fn ack(&self, ids: Vec<EntryId>) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.call(Command::Ack { ids, answer }).await?;
        answered.await.map_err(|_| Error::Closed)
    }

    /// Returns at once while there is something to lease, else when there may be; also when the buffer is closed.
    pub async fn changed(&self) {
        // An error means that the writer is gone; the next call says so.
        let _ = self.available.clone().wait_for(|entries| *entries > 0).await;
    }

    /// The latest figures; never waits for the disk.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Write what is pending (acks) and close the files, after the calls that already wait. Later calls fail with
    /// [`Error::Closed`]; leases that are still out are given again after the next open, but for those whose entry was evicted meanwhile, which
    /// are told to the observer now.
    pub async fn close(&self) {
        let (answer, answered) = oneshot::channel();
        if self.call(Command::Close { answer }).await.is_ok() {
            // The writer drops the sender when everything is closed.
            let _ = answered.await;
        }
    }

    async fn call(&self, command: Command) -> Result<(), Error> {
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| Error::Closed)?;
        self.calls.send(Call { command, room: Some(room) }).map_err(|_| Error::Closed)
    }
}

/// A lease on its way to the caller: given back if nobody takes it.
#[derive(Debug)]
pub(crate) struct Lease {
    stored: Option<Stored>,
    shared: Arc<Shared>,
    calls: mpsc::Sender<Call>,
}

impl Lease {
    pub(crate) fn new(stored: Stored, shared: &Arc<Shared>, calls: mpsc::Sender<Call>) -> Lease {
        Lease { stored: Some(stored), shared: Arc::clone(shared), calls }
    }

    fn keep(mut self) -> Option<Stored> {
        self.stored.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(stored) = self.stored.take() {
            self.shared.release(&self.calls, stored.id);
        }
    }
}
