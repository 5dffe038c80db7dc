//! What was decided about traces lately, so that late spans follow.
//!
//! Two generations: when the young one is half of the limit, the old one is forgotten and the young one becomes old; what is asked
//! for becomes young again. Invariant: at most the configured number is remembered, the ones asked for latest among them.

use hashbrown::HashMap;
use ollystack_record::Class;

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Keep; a threshold other than 0 marks its spans.
    Keep {
        class: Class,
        threshold: u64,
    },
    Drop,
}

/// The latest decisions.
#[derive(Debug)]
pub(crate) struct Decisions {
    young: HashMap<u128, Decision>,
    old: HashMap<u128, Decision>,
    half: usize,
}

impl Decisions {
    pub(crate) fn new(most: usize) -> Decisions {
        Decisions { young: HashMap::new(), old: HashMap::new(), half: most.div_ceil(2).max(1) }
    }

    /// What was decided.
    pub(crate) fn get(&mut self, trace: u128) -> Option<Decision> {
        if let Some(decision) = self.young.get(&trace) {
            return Some(*decision);
        }
        let decision = self.old.remove(&trace)?;
        self.set(trace, decision);
        Some(decision)
    }

    /// Decide, or decide anew.
    pub(crate) fn set(&mut self, trace: u128, decision: Decision) {
        self.young.insert(trace, decision);
        if self.young.len() >= self.half {
            // Keeps the memory of both.
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more_than_the_limit() {
        let mut decisions = Decisions::new(10);
        for trace in 0..100 {
            decisions.set(trace, Decision::Drop);
            assert_eq!(decisions.get(0), Some(Decision::Drop), "asked for after {trace} others");
            assert!(decisions.young.len() + decisions.old.len() <= 10);
        }
        assert_eq!(decisions.get(99), Some(Decision::Drop));
        assert_eq!(decisions.get(50), None);
    }

    #[test]
    fn a_decision_can_be_changed() {
        let mut decisions = Decisions::new(10);
        decisions.set(1, Decision::Drop);
        let keep = Decision::Keep { class: Class::Errors, threshold: 0 };
        decisions.set(1, keep);
        assert_eq!(decisions.get(1), Some(keep));
    }
}
