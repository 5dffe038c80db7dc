//! How many bytes of rows may be in memory before anything has confirmed them: of all, and of one tenant.
//!
//! Invariants: a [`Hold`] gives back exactly what it took, when the block that carries it is gone, whoever still waits for it; no tenant
//! holds more than three quarters, so that none keeps the others out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The bytes that all rows share, or what one tenant may have of them.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
    own: Option<Waiting>,
}

/// Bytes of one tenant's rows. Clones are the same bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting(Arc<AtomicUsize>);

/// What some rows hold of the budget.
#[derive(Debug)]
pub(crate) struct Hold {
    used: Arc<AtomicUsize>,
    own: Option<Waiting>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Budget {
        Budget { used: Arc::default(), max, own: None }
    }

    /// The same bytes, as far as one tenant may have them.
    pub(crate) fn of(&self, tenant: &Waiting) -> Budget {
        Budget { own: Some(tenant.clone()), ..self.clone() }
    }

    /// Take `bytes`, if they are free.
    pub(crate) fn hold(&self, bytes: usize) -> Option<Hold> {
        if let Some(Waiting(used)) = &self.own {
            take(used, bytes, self.max())?;
        }
        let hold = take(&self.used, bytes, self.max);
        if let (None, Some(Waiting(used))) = (hold, &self.own) {
            used.fetch_sub(bytes, Relaxed);
        }
        hold.map(|()| Hold { used: Arc::clone(&self.used), own: self.own.clone(), bytes })
    }

    /// All there is to be had.
    pub(crate) fn max(&self) -> usize {
        if self.own.is_some() { self.max - self.max / 4 } else { self.max }
    }

    /// What is taken now, by all.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

fn take(used: &AtomicUsize, bytes: usize, max: usize) -> Option<()> {
    let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= max);
    used.fetch_update(Relaxed, Relaxed, add).ok().map(drop)
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Relaxed);
        if let Some(Waiting(used)) = &self.own {
            used.fetch_sub(self.bytes, Relaxed);
        }
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

    #[test]
    fn a_tenant_leaves_a_quarter_to_the_others_and_what_it_is_refused_costs_it_nothing() {
        let all = Budget::new(100);
        let (greedy, modest) = (Waiting::default(), Waiting::default());
        let (greedy_of, modest_of) = (all.of(&greedy), all.of(&modest));
        let most = greedy_of.hold(75).unwrap();
        assert!(greedy_of.hold(1).is_none());
        let rest = modest_of.hold(25).unwrap();
        assert!(modest_of.hold(1).is_none(), "others hold it");
        drop(most);
        assert!(modest_of.hold(51).is_none());
        let more = modest_of.hold(50).unwrap();
        drop((rest, more));
        assert_eq!((all.used(), modest.0.load(Relaxed), greedy.0.load(Relaxed)), (0, 0, 0));
    }
}
