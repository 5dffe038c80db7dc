//! How many bytes of rows may be in memory before anything has confirmed them.
//!
//! Invariant: a [`Hold`] gives back exactly what it took, when the block that carries it is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The bytes that all rows share.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// What some rows hold of the budget.
#[derive(Debug)]
pub(crate) struct Hold {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Budget {
        Budget { used: Arc::default(), max }
    }

    /// Take `bytes`, if they are free.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Hold> {
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.used.fetch_update(Relaxed, Relaxed, add).ok()?;
        Some(Hold { used: Arc::clone(&self.used), bytes })
    }

    /// All there is.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// What is taken now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_free_again_when_its_rows_are_gone() {
        let budget = Budget::new(10);
        let one = budget.hold(7).unwrap();
        assert!(budget.hold(4).is_none());
        assert!(budget.hold(usize::MAX).is_none());
        let two = budget.hold(3).unwrap();
        assert_eq!(budget.used(), 10);
        drop((one, two));
        assert_eq!(budget.used(), 0);
    }
}
