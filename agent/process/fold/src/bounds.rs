//! The bounds of explicit histograms, each list of them held once.
//!
//! All series of a metric have the same, and so have a series' last total and its windows: held with each, they would be half of what
//! a histogram takes. Invariant: equal lists are one list, and what all of them take is counted.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Strong and weak count before the bounds.
const ARC_BYTES: usize = 2 * size_of::<usize>();

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    known: HashTable<Arc<[f64]>>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

impl Bounds {
    /// These, as they are held.
    pub(crate) fn share(&mut self, bounds: &[f64]) -> Arc<[f64]> {
        let Bounds { known, hasher, bytes } = self;
        let hash = hash(hasher, bounds);
        if let Some(shared) = known.find(hash, |known| known[..] == *bounds) {
            return Arc::clone(shared);
        }
        let shared: Arc<[f64]> = bounds.into();
        *bytes += bytes_of(&shared);
        known.insert_unique(hash, Arc::clone(&shared), |known| self::hash(hasher, known));
        shared
    }

    /// Forget those that no histogram has.
    pub(crate) fn forget_unused(&mut self) {
        let Bounds { known, hasher, bytes } = self;
        known.retain(|bounds| {
            let used = Arc::strong_count(bounds) > 1;
            *bytes -= if used { 0 } else { bytes_of(bounds) };
            used
        });
        if known.len() < known.capacity() / 4 {
            known.shrink_to_fit(|bounds| hash(hasher, bounds));
        }
    }

    /// What they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.known.allocation_size()
    }

    /// What these would take besides, at most.
    pub(crate) fn growth(&self, bounds: &[f64]) -> usize {
        let known = self.known.find(hash(&self.hasher, bounds), |known| known[..] == *bounds);
        if known.is_some() { 0 } else { ARC_BYTES + size_of_val(bounds) + super::memory::table_growth(&self.known) }
    }
}

fn bytes_of(bounds: &Arc<[f64]>) -> usize {
    ARC_BYTES + size_of_val(&bounds[..])
}

fn hash(hasher: &DefaultHashBuilder, bounds: &[f64]) -> u64 {
    let mut hasher = hasher.build_hasher();
    bounds.iter().for_each(|bound| hasher.write_u64(bound.to_bits()));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_held_once_and_until_nobody_has_them() {
        let mut bounds = Bounds::default();
        let first = bounds.share(&[1.0, 2.0]);
        assert!(Arc::ptr_eq(&first, &bounds.share(&[1.0, 2.0])));
        assert!(!Arc::ptr_eq(&first, &bounds.share(&[1.0])));
        bounds.forget_unused();
        assert_eq!((bounds.known.len(), bounds.bytes, bounds.growth(&[1.0, 2.0])), (1, ARC_BYTES + 16, 0));
        drop(first);
        bounds.forget_unused();
        assert_eq!((bounds.known.len(), bounds.bytes), (0, 0));
    }
}
