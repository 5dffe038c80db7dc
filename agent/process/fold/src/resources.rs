//! The resources that series are of.
//!
//! Invariant: a resource is held as long as a series of it is, once, and its number stands for it that long.

use super::slab::Slab;
use hashbrown::HashTable;
use ollystack_record::value::attributes_heap_bytes;
use ollystack_record::{Resource, Series};
use std::sync::Arc;

/// A resource by its number, with its hash at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) number: u32,
    hash: u64,
}

impl Owner {
    /// The hash of one of its series.
    pub(super) fn mix(self, series: &Series) -> u64 {
        self.hash.rotate_left(32) ^ series.hash()
    }
}

/// The resources of the series, each held once.
#[derive(Debug, Default)]
pub(super) struct Resources {
    index: HashTable<u32>,
    /// With the series they have.
    known: Slab<(Arc<Resource>, usize)>,
    /// Of all resources.
    bytes: usize,
}

/// What a resource takes.
pub(super) fn bytes_of(resource: &Resource) -> usize {
    size_of::<Resource>() + attributes_heap_bytes(resource.attributes())
}

impl Resources {
    /// A resource's number, which stands for it until [`Resources::forget_unused`].
    pub(super) fn number(&mut self, resource: &Arc<Resource>) -> Owner {
        let Resources { index, known, bytes } = self;
        let same = |number: &u32| {
            known.get(*number).is_some_and(|(known, _)| Arc::ptr_eq(known, resource) || known == resource)
        };
        let hash = resource.hash();
        if let Some(number) = index.find(hash, same) {
            return Owner { number: *number, hash };
        }
        *bytes += bytes_of(resource);
        let number = known.insert((Arc::clone(resource), 0));
        index.insert_unique(hash, number, |number| known.get(*number).map_or(0, |(known, _)| known.hash()));
        Owner { number, hash }
    }

    pub(super) fn get(&self, number: u32) -> Option<&Arc<Resource>> {
        self.known.get(number).map(|(resource, _)| resource)
    }

    pub(super) fn owner(&self, number: u32) -> Owner {
        Owner { number, hash: self.get(number).map_or(0, |resource| resource.hash()) }
    }

    pub(super) fn acquire(&mut self, number: u32) {
        if let Some((_, series)) = self.known.get_mut(number) {
            *series += 1;
        }
    }

    pub(super) fn release(&mut self, number: u32) {
        if let Some((_, series)) = self.known.get_mut(number) {
            *series -= 1;
        }
        self.forget_unused(number);
    }

    /// Forget a resource that no series is of.
    pub(super) fn forget_unused(&mut self, number: u32) {
        let unused = self.known.get(number).filter(|(_, series)| *series == 0).map(|(resource, _)| resource.hash());
        let Some(hash) = unused else { return };
        if let Ok(place) = self.index.find_entry(hash, |other| *other == number) {
            place.remove();
        }
        if let Some((resource, _)) = self.known.remove(number) {
            self.bytes -= bytes_of(&resource);
        }
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.known.bytes() + self.index.allocation_size()
    }
}
