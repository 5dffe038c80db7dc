//! What a request waits for: the verdict on every block that holds rows of it.
//!
//! [`pair`] gives one half to the rows and one to the request. Clones of a [`Share`] travel with the rows; the worst verdict wins.
//! Invariant: the waiting half resolves once, after the last share; a share that is forgotten counts as refused, so that
//! lost rows can never look like kept ones.

use crate::delivered::UnderWay;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The half that travels with the rows.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    shared: Arc<Shared>,
    safe: bool,
}

/// The half that the request keeps.
#[derive(Debug)]
pub(crate) struct Verdict(oneshot::Receiver<bool>);

#[derive(Debug)]
struct Shared {
    all_safe: AtomicBool,
    answer: Mutex<Option<oneshot::Sender<bool>>>,
    /// Dropped after the last share, whether or not anybody still waits.
    _under_way: Option<UnderWay>,
}

/// A fresh pair. `under_way` lasts as long as the rows are on their way.
pub(crate) fn pair(under_way: Option<UnderWay>) -> (Share, Verdict) {
    let (sender, receiver) = oneshot::channel();
    let answer = Mutex::new(Some(sender));
    let shared = Shared { all_safe: AtomicBool::new(true), answer, _under_way: under_way };
    (Share { shared: Arc::new(shared), safe: false }, Verdict(receiver))
}

impl Share {
    /// These rows are in ClickHouse or on a synced disk.
    pub(crate) fn safe(mut self) {
        self.safe = true;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.safe {
            self.shared.all_safe.store(false, Ordering::Release);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let answer = self.answer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answer.take() {
            // A request whose client hung up waits no more: there is nobody to tell.
            let _ = answer.send(*self.all_safe.get_mut());
        }
    }
}

impl Verdict {
    /// Whether every row is safe.
    pub(crate) async fn all_safe(self) -> bool {
        self.0.await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_shares_must_be_safe() {
        let (share, verdict) = pair(None);
        let other = share.clone();
        share.safe();
        other.safe();
        assert!(verdict.all_safe().await);
    }

    #[tokio::test]
    async fn a_forgotten_share_is_a_refusal() {
        let (share, verdict) = pair(None);
        let other = share.clone();
        share.safe();
        drop(other);
        assert!(!verdict.all_safe().await);
    }

    #[tokio::test]
    async fn nothing_is_said_before_the_last_share() {
        let (share, mut verdict) = pair(None);
        let other = share.clone();
        share.safe();
        assert!(verdict.0.try_recv().is_err());
        other.safe();
        assert!(verdict.all_safe().await);
    }
}
