//! The acknowledgement that travels with a batch back to where it came from.
//!
//! An input that must know keeps the waiting half: an OTLP receiver, before it answers, the [`Pending`] of one batch; a log
//! input, before it commits an offset, [`Verdicts`] that gathers those of many, or [`Positions`](crate::Positions) where the records of
//! one batch go out at different times. The [`Ack`] half follows the records. A batch may be split: clones of one `Ack` share a
//! verdict, and the worst outcome wins. Invariant: the pending half resolves exactly once, after the last clone is resolved or dropped; an
//! `Ack` dropped unresolved counts as [`Outcome::Dropped`], so that a lost record can never look like a kept one.

use crate::positions::Part;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// What became of a batch. Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The records, or what they were reduced to, are on a synced disk or delivered.
    Durable,
    /// The records were folded into state that a clean stop keeps (an open window, a waiting trace).
    Accepted,
    /// The records are gone, and the ledger says why.
    Dropped,
}

/// The half that follows the records. The default one reports to nobody.
#[derive(Clone, Debug, Default)]
pub struct Ack {
    pub(crate) shared: Option<Arc<Shared>>,
    verdict: Option<Outcome>,
}

/// The half that waits for the verdict.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Outcome>);

/// The half that waits for the verdicts of many batches, told apart by number. It takes no task and no future for each, so
/// thousands may wait for as long as a window is open: each is an `Ack` and, once it is resolved, 16 bytes of a queue.
#[derive(Debug)]
pub struct Verdicts {
    sender: mpsc::UnboundedSender<(u64, Outcome)>,
    receiver: mpsc::UnboundedReceiver<(u64, Outcome)>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    worst: Mutex<Outcome>,
    pub(crate) to: Waiting,
}

/// Who waits.
#[derive(Debug)]
pub(crate) enum Waiting {
    One(Option<oneshot::Sender<Outcome>>),
    Many {
        number: u64,
        sender: mpsc::UnboundedSender<(u64, Outcome)>,
    },
    /// Other batches, whose records became the same ones.
    All(Vec<Ack>),
    /// An input that knows where in its source each record stood.
    Part(Part),
    /// Somebody else answers now.
    Nobody,
}

impl Ack {
    /// A fresh pair.
    pub fn new() -> (Ack, Pending) {
        let (sender, receiver) = oneshot::channel();
        (Ack::to(Waiting::One(Some(sender))), Pending(receiver))
    }

    pub(crate) fn to(waiting: Waiting) -> Ack {
        let shared = Shared { worst: Mutex::new(Outcome::Durable), to: waiting };
        Ack { shared: Some(Arc::new(shared)), verdict: None }
    }

    /// An acknowledgement nobody waits for.
    pub fn none() -> Ack {
        Ack::default()
    }

    /// One acknowledgement for all of these: what becomes of its last clone becomes of each. For records of many batches that
    /// were reduced to the same few, so that these need not carry every batch's.
    pub fn all(acks: Vec<Ack>) -> Ack {
        Ack::to(Waiting::All(acks))
    }

    /// Resolve this share of the batch.
    pub fn resolve(mut self, outcome: Outcome) {
        self.verdict = Some(outcome);
    }

    /// What this stands for, if nobody else shares it: whoever takes it answers for it from here on.
    pub(crate) fn part_mut(&mut self) -> Option<&mut Part> {
        match &mut Arc::get_mut(self.shared.as_mut()?)?.to {
            Waiting::Part(part) => Some(part),
            _ => None,
        }
    }

    /// As [`Ack::part_mut`], for good: nothing is reported by this one any more.
    pub(crate) fn take_part(&mut self) -> Option<Part> {
        let shared = Arc::get_mut(self.shared.as_mut()?)?;
        match std::mem::replace(&mut shared.to, Waiting::Nobody) {
            Waiting::Part(part) => Some(part),
            other => {
                shared.to = other;
                None
            }
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let mut worst = shared.worst.lock().unwrap_or_else(PoisonError::into_inner);
            *worst = worst.max(self.verdict.unwrap_or(Outcome::Dropped));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let worst = *self.worst.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The waiting half may have gone away (its client hung up): then there is nobody to tell.
        match &mut self.to {
            Waiting::One(sender) => {
                let _ = sender.take().map(|sender| sender.send(worst));
            }
            Waiting::Many { number, sender } => {
                let _ = sender.send((*number, worst));
            }
            Waiting::All(acks) => acks.drain(..).for_each(|ack| ack.resolve(worst)),
            Waiting::Part(part) => part.report(worst),
            Waiting::Nobody => {}
        }
    }
}

impl Default for Verdicts {
    fn default() -> Verdicts {
        // Bounded by the acknowledgements that its owner makes: each sends once.
        let (sender, receiver) = mpsc::unbounded_channel();
        Verdicts { sender, receiver }
    }
}

impl Verdicts {
    /// The acknowledgement of batch `number`.
    pub fn ack(&self, number: u64) -> Ack {
        Ack::to(Waiting::Many { number, sender: self.sender.clone() })
    }

    /// Wait for the next verdict: which batch, and what became of it. Cancel-safe. Waits for ever if none is outstanding.
    pub async fn next(&mut self) -> (u64, Outcome) {
        match self.receiver.recv().await {
            Some(verdict) => verdict,
            // Cannot be: `self.sender` is a sender too.
            None => std::future::pending().await,
        }
    }

    /// A verdict that is in already.
    pub fn try_next(&mut self) -> Option<(u64, Outcome)> {
        self.receiver.try_recv().ok()
    }
}

impl Pending {
    /// Wait for the verdict.
    pub async fn outcome(self) -> Outcome {
        self.0.await.unwrap_or(Outcome::Dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_worst_share_decides() {
        let (ack, pending) = Ack::new();
        let other = ack.clone();
        ack.resolve(Outcome::Durable);
        other.resolve(Outcome::Accepted);
        assert_eq!(pending.outcome().await, Outcome::Accepted);
    }

    #[tokio::test]
    async fn a_share_that_is_forgotten_counts_as_dropped() {
        let (ack, pending) = Ack::new();
        let other = ack.clone();
        ack.resolve(Outcome::Durable);
        drop(other);
        assert_eq!(pending.outcome().await, Outcome::Dropped);
    }

    #[tokio::test]
    async fn an_ack_for_many_tells_each_of_them_the_worst() {
        let ((first, one), (second, two)) = (Ack::new(), Ack::new());
        let still_held = first.clone();
        let all = Ack::all(vec![first, second]);
        all.clone().resolve(Outcome::Durable);
        all.resolve(Outcome::Accepted);
        assert_eq!(two.outcome().await, Outcome::Accepted);
        still_held.resolve(Outcome::Dropped);
        assert_eq!(one.outcome().await, Outcome::Dropped);
    }

    #[tokio::test]
    async fn nothing_is_reported_before_the_last_share() {
        let (ack, mut pending) = Ack::new();
        let other = ack.clone();
        ack.resolve(Outcome::Durable);
        assert!(pending.0.try_recv().is_err());
        other.resolve(Outcome::Durable);
        assert_eq!(pending.outcome().await, Outcome::Durable);
    }

    #[tokio::test]
    async fn verdicts_of_many_batches_come_by_number_as_they_fall() {
        let mut verdicts = Verdicts::default();
        let (first, second) = (verdicts.ack(1), verdicts.ack(2));
        let share = second.clone();
        second.resolve(Outcome::Durable);
        assert_eq!(verdicts.try_next(), None, "a share of it is under way");
        share.resolve(Outcome::Accepted);
        assert_eq!(verdicts.next().await, (2, Outcome::Accepted));
        drop(first);
        assert_eq!(verdicts.try_next(), Some((1, Outcome::Dropped)));
    }
}
