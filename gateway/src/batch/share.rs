//! What a request waits for: the verdict on every block that holds rows of it.
//!
//! [`pair`] gives one half to the rows and one to the request. Clones of a [`Share`] travel with the rows; the worst fate wins.
//! Invariant: the waiting half resolves once, after the last share; a share that is forgotten counts as written perhaps, so that
//! lost rows can look neither like kept ones nor like ones that never were.

use crate::delivered::UnderWay;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// What became of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// In ClickHouse, or on a synced disk.
    Safe,
    /// Nowhere, and never to be.
    Untouched,
    /// Nobody knows, or some are and some are not.
    Doubtful,
}

/// The half that travels with the rows.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    shared: Arc<Shared>,
    fate: Option<Fate>,
}

/// The half that the request keeps.
#[derive(Debug)]
pub(crate) struct Verdict(oneshot::Receiver<Fate>);

#[derive(Debug)]
struct Shared {
    /// A bit for each fate that some rows had.
    fates: AtomicU8,
    answer: Mutex<Option<oneshot::Sender<Fate>>>,
    /// Dropped after the last share, whether or not anybody still waits.
    under_way: Option<UnderWay>,
}

/// A fresh pair. `under_way` lasts as long as the rows are on their way.
pub(crate) fn pair(under_way: Option<UnderWay>) -> (Share, Verdict) {
    let (sender, receiver) = oneshot::channel();
    let shared = Shared { fates: AtomicU8::new(0), answer: Mutex::new(Some(sender)), under_way };
    (Share { shared: Arc::new(shared), fate: Some(Fate::Doubtful) }, Verdict(receiver))
}

impl Share {
    /// These rows have met this fate.
    pub(crate) fn settle(mut self, fate: Fate) {
        self.fate = Some(fate);
    }

    /// No rows travel with this one any more: its clones speak for them.
    pub(crate) fn hand_over(mut self) {
        self.fate = None;
    }

    /// The delivery, if the rows are an agent's.
    pub(crate) fn under_way(&self) -> Option<&UnderWay> {
        self.shared.under_way.as_ref()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(fate) = self.fate {
            self.shared.fates.fetch_or(1 << fate as u8, Ordering::AcqRel);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let fate = match *self.fates.get_mut() {
            fates if fates == 1 << Fate::Safe as u8 => Fate::Safe,
            fates if fates == 1 << Fate::Untouched as u8 => Fate::Untouched,
            _ => Fate::Doubtful,
        };
        let answer = self.answer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answer.take() {
            // A request whose client hung up waits no more: there is nobody to tell.
            let _ = answer.send(fate);
        }
    }
}

impl Verdict {
    /// What became of all rows.
    pub(crate) async fn fate(self) -> Fate {
        self.0.await.unwrap_or(Fate::Doubtful)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_of_one_fate_have_it_and_of_several_nobody_knows() {
        use Fate::{Doubtful, Safe, Untouched};
        for (fates, expected) in [
            (vec![Safe, Safe], Safe),
            (vec![Untouched, Untouched], Untouched),
            (vec![Safe, Untouched], Doubtful),
            (vec![Doubtful, Untouched], Doubtful),
            (vec![Safe, Doubtful], Doubtful),
        ] {
            let (share, verdict) = pair(None);
            fates.iter().for_each(|fate| share.clone().settle(*fate));
            share.hand_over();
            assert_eq!(verdict.fate().await, expected, "{fates:?}");
        }
    }

    #[tokio::test]
    async fn a_forgotten_share_is_in_doubt() {
        let (share, verdict) = pair(None);
        share.clone().settle(Fate::Untouched);
        drop(share);
        assert_eq!(verdict.fate().await, Fate::Doubtful);
    }

    #[tokio::test]
    async fn nothing_is_said_before_the_last_share() {
        let (share, mut verdict) = pair(None);
        let other = share.clone();
        share.settle(Fate::Safe);
        assert!(verdict.0.try_recv().is_err());
        other.settle(Fate::Safe);
        assert_eq!(verdict.fate().await, Fate::Safe);
    }
}
