//! The door into the agent: a bounded queue between the inputs and `process`.
//!
//! Bounded in batches and in records, so that memory is bounded whatever the inputs do. An input that can hold its source
//! back (OTLP, log files) waits with [`Intake::send`]; one that cannot (host samples, kernel events) uses [`Intake::offer`],
//! which drops and counts when the queue is full, or memory at its ceiling. The inputs learn here how hard memory and CPU press. Invariant: every record is counted as seen exactly once, here.

use crate::{Batch, DropReason, Ledger, Level, Place, Pressure};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The inputs' end. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Intake {
    sender: mpsc::Sender<Received>,
    room: Arc<Semaphore>,
    records_max: u32,
    own: Option<Arc<Semaphore>>,
    ledger: Arc<Ledger>,
    pressure: Arc<Pressure>,
}

/// What an input counts for a batch, such as its bytes; it is given back when the last of its clones is dropped.
pub type Held = Arc<dyn Debug + Send + Sync>;

/// A batch as `process` receives it; the room it took is given back when this is dropped.
#[derive(Debug)]
pub struct Received {
    /// The batch.
    pub batch: Batch,
    held: Option<Held>,
    _room: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

/// Room for a batch.
#[derive(Debug)]
pub struct Slot<'a> {
    intake: &'a Intake,
    slot: mpsc::Permit<'a, Received>,
    room: OwnedSemaphorePermit,
    own: Option<OwnedSemaphorePermit>,
}

/// Why a batch was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum IntakeError {
    /// The agent is stopping.
    Closed,
    /// No room, and the caller asked not to wait.
    Full,
}

impl Intake {
    /// A queue of at most `batches_max` batches holding at most `records_max` records in all.
    pub fn new(batches_max: usize, records_max: u32, ledger: Arc<Ledger>) -> (Intake, mpsc::Receiver<Received>) {
        let (sender, receiver) = mpsc::channel(batches_max);
        let room = Arc::new(Semaphore::new(records_max as usize));
        (Intake { sender, room, records_max, own: None, ledger, pressure: Arc::default() }, receiver)
    }

    /// The same queue under a guard's pressure.
    pub fn under(self, pressure: Arc<Pressure>) -> Intake {
        Intake { pressure, ..self }
    }

    /// How hard memory and CPU press.
    pub fn pressure(&self) -> &Pressure {
        &self.pressure
    }

    /// The same queue for an input that may have no more than `batches_max` of its batches in it. The input's memory is
    /// bounded by their size, however long their verdicts take.
    pub fn limited(&self, batches_max: usize) -> Intake {
        Intake { own: Some(Arc::new(Semaphore::new(batches_max.max(1)))), ..self.clone() }
    }

    /// The ledger that counts what comes in.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Wait for room, then queue. Cancel-safe: nothing is counted until the batch is in.
    pub async fn send(&self, batch: Batch) -> Result<(), IntakeError> {
        self.reserve(batch.records.count()).await?.send(batch);
        Ok(())
    }

    /// The same with what is held for the batch until `process` counts it, whether its input still waits for the verdict or not.
    pub async fn send_holding(&self, batch: Batch, held: Held) -> Result<(), IntakeError> {
        self.reserve(batch.records.count()).await?.queue(batch, Some(held));
        Ok(())
    }

    /// Wait for room for a batch of so many records, which need not be made before there is some. Cancel-safe.
    pub async fn reserve(&self, records: u64) -> Result<Slot<'_>, IntakeError> {
        let own = match self.own.clone() {
            Some(own) => Some(own.acquire_owned().await.map_err(|_| IntakeError::Closed)?),
            None => None,
        };
        let room = self.room.clone().acquire_many_owned(self.weight(records)).await.map_err(|_| IntakeError::Closed)?;
        let slot = self.sender.reserve().await.map_err(|_| IntakeError::Closed)?;
        Ok(Slot { intake: self, slot, room, own })
    }

    /// Queue if there is room now; else give the caller the choice, nothing counted.
    pub fn try_send(&self, batch: Batch) -> Result<(), (IntakeError, Batch)> {
        let own = self.own.clone().map(Semaphore::try_acquire_owned).transpose();
        let (Ok(own), Ok(room)) = (own, self.room.clone().try_acquire_many_owned(self.weight(batch.records.count())))
        else {
            return Err((IntakeError::Full, batch));
        };
        match self.sender.try_reserve() {
            Ok(slot) => {
                self.count(&batch);
                slot.send(Received { batch, held: None, _room: room, _own: own });
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(())) => Err((IntakeError::Full, batch)),
            Err(mpsc::error::TrySendError::Closed(())) => Err((IntakeError::Closed, batch)),
        }
    }

    /// Queue if there is room now and memory for it; else count the records as seen and dropped. True if they were queued.
    pub fn offer(&self, batch: Batch) -> bool {
        if self.pressure.level() == Level::Shed {
            self.lose(&batch, DropReason::MemoryLimit);
            return false;
        }
        match self.try_send(batch) {
            Ok(()) => true,
            Err((error, batch)) => {
                let reason = if error == IntakeError::Full { DropReason::QueueFull } else { DropReason::Shutdown };
                self.lose(&batch, reason);
                false
            }
        }
    }

    fn lose(&self, batch: &Batch, reason: DropReason) {
        let (signal, records) = (batch.records.signal(), batch.records.count());
        self.ledger.seen(signal, records);
        self.ledger.dropped(signal, reason, records);
    }

    /// A batch larger than the whole queue takes all of it rather than waiting for ever.
    fn weight(&self, records: u64) -> u32 {
        u32::try_from(records).unwrap_or(u32::MAX).clamp(1, self.records_max)
    }

    fn count(&self, batch: &Batch) {
        let (signal, records) = (batch.records.signal(), batch.records.count());
        self.ledger.seen(signal, records);
        self.ledger.bytes_in(signal, batch.records.wire_bytes());
        self.ledger.waiting_add(signal, Place::Queue, records as i64);
    }
}

impl Slot<'_> {
    /// Queue the batch for which there is room.
    pub fn send(self, batch: Batch) {
        self.queue(batch, None);
    }

    fn queue(self, batch: Batch, held: Option<Held>) {
        let Slot { intake, slot, room, own } = self;
        intake.count(&batch);
        slot.send(Received { batch, held, _room: room, _own: own });
    }
}

impl Received {
    /// What is held for the batch: to be kept until `process` has taken it and counts what it keeps of it.
    pub fn held(&self) -> Option<Held> {
        self.held.clone()
    }

    /// Take the batch out of the queue's account: from here on `process` answers for its records.
    pub fn take(self, ledger: &Ledger) -> Batch {
        ledger.waiting_add(self.batch.records.signal(), Place::Queue, -(self.batch.records.count() as i64));
        self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ack, Records, Resource, Signal, Source};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ScopeLogs};

    fn batch(records: usize) -> Batch {
        let scope = ScopeLogs { log_records: vec![LogRecord::default(); records], ..ScopeLogs::default() };
        Batch {
            source: Source::Logs,
            resource: Arc::new(Resource::default()),
            records: Records::Logs(vec![scope]),
            ack: Ack::none(),
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted_as_seen_and_dropped() {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(8, 10, ledger.clone());
        assert!(intake.offer(batch(7)));
        assert!(!intake.offer(batch(4)));
        let reading = ledger.read().signals[Signal::Logs as usize].clone();
        assert_eq!((reading.seen, reading.dropped_total(), reading.waiting_total()), (11, 4, 7));
        assert_eq!(reading.balance(), 0);
        let taken = receiver.recv().await.unwrap().take(&ledger);
        assert_eq!(taken.records.count(), 7);
        assert!(intake.offer(batch(4)), "room is given back once the batch was taken");
    }

    #[tokio::test]
    async fn at_the_ceiling_of_memory_what_cannot_wait_is_dropped_under_a_reason_of_its_own() {
        let (ledger, pressure) = (Arc::new(Ledger::default()), Arc::new(Pressure::default()));
        let (intake, mut receiver) = Intake::new(8, 10, ledger.clone());
        let intake = intake.under(Arc::clone(&pressure));
        pressure.set_level(Level::Lean);
        assert!(intake.offer(batch(1)));
        pressure.set_level(Level::Shed);
        assert!(!intake.offer(batch(2)), "although the queue has room");
        intake.send(batch(3)).await.unwrap();
        let reading = ledger.read().signals[Signal::Logs as usize].clone();
        assert_eq!((reading.seen, reading.waiting_total(), reading.balance()), (6, 4, 0));
        assert!(reading.dropped.contains(&("memory_limit", 2)));
        drop(intake);
        receiver.recv().await.unwrap().take(&ledger);
    }

    #[tokio::test]
    async fn what_is_held_for_a_batch_is_held_until_process_has_taken_it() {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(8, 10, ledger.clone());
        let held: Held = Arc::new(());
        let watch = Arc::downgrade(&held);
        intake.send_holding(batch(1), held).await.unwrap();
        let received = receiver.recv().await.unwrap();
        let held = received.held();
        received.take(&ledger);
        assert!(watch.upgrade().is_some(), "taken from the queue, and in the hands of process");
        drop(held);
        assert!(watch.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_queue_passes_alone() {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(8, 10, ledger.clone());
        intake.send(batch(50)).await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().batch.records.count(), 50);
    }

    #[tokio::test]
    async fn a_limited_input_waits_for_its_own_batches_to_be_taken_and_for_no_other_s() {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(8, 100, ledger.clone());
        let limited = intake.limited(1);
        assert!(limited.try_send(batch(1)).is_ok());
        assert!(matches!(limited.clone().try_send(batch(1)), Err((IntakeError::Full, _))), "clones share the limit");
        assert!(intake.try_send(batch(1)).is_ok());
        // Taken, though its verdict is open.
        let _taken = receiver.recv().await.unwrap().take(&ledger);
        assert!(limited.try_send(batch(1)).is_ok());
    }
}
