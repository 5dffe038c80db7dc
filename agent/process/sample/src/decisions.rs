//! What was decided about traces lately, so that late spans follow.
//!
//! Two generations: when the young one is half of the limit, the old one is forgotten and the young one becomes old; what is asked
//! for becomes young again. Invariant: at most the configured number is remembered, the ones asked for latest among them.

use hashbrown::{DefaultHashBuilder, HashMap};
use ollystack_record::Class;
use std::hash::BuildHasher;

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Keep; a threshold other than 0 marks its spans.
    Keep {
        class: Class,
        threshold: u64,
        /// As one of the ordinary traces, to which a budget applies.
        ordinary: bool,
    },
    /// Let go.
    Drop(Unless),
}

/// What makes a decision to let go another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unless {
    /// Any reason: the trace was ordinary.
    Noteworthy,
    /// An error: something asked to let it go.
    Failed,
    /// Nothing.
    Never,
}

/// A decision in eight bytes: a threshold has 56 bits.
#[derive(Clone, Copy, Debug)]
struct Packed(u64);

const THRESHOLD_BITS: u32 = 56;

impl From<Decision> for Packed {
    fn from(decision: Decision) -> Packed {
        match decision {
            Decision::Drop(unless) => Packed(unless as u64),
            Decision::Keep { class, threshold, ordinary } => {
                let kind = 1 << 7 | u64::from(ordinary) << 6 | class as u64;
                Packed(kind << THRESHOLD_BITS | threshold)
            }
        }
    }
}

impl From<Packed> for Decision {
    fn from(Packed(bits): Packed) -> Decision {
        let (kind, threshold) = (bits >> THRESHOLD_BITS, bits & ((1 << THRESHOLD_BITS) - 1));
        if kind == 0 {
            let all = [Unless::Noteworthy, Unless::Failed, Unless::Never];
            return Decision::Drop(all.into_iter().find(|unless| *unless as u64 == threshold).unwrap_or(Unless::Never));
        }
        let classes = [Class::Errors, Class::Normal, Class::Baseline];
        let class = classes.into_iter().find(|class| *class as u64 == kind & 7).unwrap_or(Class::Baseline);
        Decision::Keep { class, threshold, ordinary: kind & 1 << 6 != 0 }
    }
}

/// The latest decisions, by a hash of the trace: should two traces meet in 64 bits, they share a fate, and no more.
#[derive(Debug)]
pub(crate) struct Decisions {
    young: HashMap<u64, Packed>,
    old: HashMap<u64, Packed>,
    half: usize,
    hasher: DefaultHashBuilder,
}

impl Decisions {
    pub(crate) fn new(most: usize) -> Decisions {
        Decisions {
            young: HashMap::new(),
            old: HashMap::new(),
            half: most.div_ceil(2).max(1),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// What was decided.
    pub(crate) fn get(&mut self, trace: u128) -> Option<Decision> {
        let key = self.hasher.hash_one(trace);
        if let Some(decision) = self.young.get(&key) {
            return Some((*decision).into());
        }
        let decision = self.old.remove(&key)?;
        self.insert(key, decision);
        Some(decision.into())
    }

    /// Decide, or decide anew.
    pub(crate) fn set(&mut self, trace: u128, decision: Decision) {
        self.insert(self.hasher.hash_one(trace), decision.into());
    }

    fn insert(&mut self, key: u64, decision: Packed) {
        self.young.insert(key, decision);
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

    const DROP: Decision = Decision::Drop(Unless::Noteworthy);

    #[test]
    fn a_decision_is_remembered_as_it_was_made() {
        let mut decisions = Decisions::new(100);
        let mut all = [Unless::Noteworthy, Unless::Failed, Unless::Never].map(Decision::Drop).to_vec();
        for class in [Class::Errors, Class::Normal, Class::Baseline] {
            for threshold in [0, 1, (1 << 56) - 1] {
                all.extend([true, false].map(|ordinary| Decision::Keep { class, threshold, ordinary }));
            }
        }
        for (trace, decision) in all.iter().enumerate() {
            decisions.set(trace as u128, *decision);
        }
        for (trace, decision) in all.iter().enumerate() {
            assert_eq!(decisions.get(trace as u128), Some(*decision));
        }
    }

    #[test]
    fn the_latest_are_remembered_and_no_more_than_the_limit() {
        let mut decisions = Decisions::new(10);
        for trace in 0..100 {
            decisions.set(trace, DROP);
            assert_eq!(decisions.get(0), Some(DROP), "asked for after {trace} others");
            assert!(decisions.young.len() + decisions.old.len() <= 10);
        }
        assert_eq!(decisions.get(99), Some(DROP));
        assert_eq!(decisions.get(50), None);
    }

    #[test]
    fn a_decision_can_be_changed() {
        let mut decisions = Decisions::new(10);
        decisions.set(1, DROP);
        let keep = Decision::Keep { class: Class::Errors, threshold: 0, ordinary: false };
        decisions.set(1, keep);
        assert_eq!(decisions.get(1), Some(keep));
    }
}
