//! The acknowledgement that travels with a batch back to where it came from.
//!
//! An input that must know (a log tailer before it commits an offset, an OTLP receiver before it answers) keeps the
//! [`Pending`] half. The [`Ack`] half follows the records. A batch may be split: clones of one `Ack` share a verdict, and the
//! worst outcome wins. Invariant: the pending half resolves exactly once, after the last clone is resolved or dropped; an
//! `Ack` dropped unresolved counts as [`Outcome::Dropped`], so that a lost record can never look like a kept one.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

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
    shared: Option<Arc<Shared>>,
    verdict: Option<Outcome>,
}

/// The half that waits for the verdict.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Outcome>);

#[derive(Debug)]
struct Shared {
    state: Mutex<(Outcome, Option<oneshot::Sender<Outcome>>)>,
}

impl Ack {
    /// A fresh pair.
    pub fn new() -> (Ack, Pending) {
        let (sender, receiver) = oneshot::channel();
        let shared = Shared { state: Mutex::new((Outcome::Durable, Some(sender))) };
        (Ack { shared: Some(Arc::new(shared)), verdict: None }, Pending(receiver))
    }

    /// An acknowledgement nobody waits for.
    pub fn none() -> Ack {
        Ack::default()
    }

    /// Resolve this share of the batch.
    pub fn resolve(mut self, outcome: Outcome) {
        self.verdict = Some(outcome);
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = state.0.max(self.verdict.unwrap_or(Outcome::Dropped));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = state.1.take() {
            // The waiting half may have gone away (its client hung up): then there is nobody to tell.
            let _ = sender.send(state.0);
        }
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
    async fn nothing_is_reported_before_the_last_share() {
        let (ack, mut pending) = Ack::new();
        let other = ack.clone();
        ack.resolve(Outcome::Durable);
        assert!(pending.0.try_recv().is_err());
        other.resolve(Outcome::Durable);
        assert_eq!(pending.outcome().await, Outcome::Durable);
    }
}
