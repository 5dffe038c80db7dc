//! What folding may hold in bytes, and what it holds.
//!
//! Two sums: the tables, with what is held once for many (labels, metrics, resources, bounds), counted anew whenever a series comes or
//! goes; and what series hold aside (histograms, exemplars, further windows, last totals), counted as it changes. Invariant: nothing
//! grows by more than there is room for.

use hashbrown::HashTable;

/// Both sums and their limit.
#[derive(Debug)]
pub(crate) struct Memory {
    max: usize,
    tables: usize,
    aside: usize,
}

impl Memory {
    pub(crate) fn new(max: usize) -> Memory {
        Memory { max, tables: 0, aside: 0 }
    }

    /// What may still be taken.
    pub(crate) fn room(&self) -> usize {
        self.max.saturating_sub(self.tables + self.aside)
    }

    /// The tables take so much.
    pub(crate) fn set_tables(&mut self, bytes: usize) {
        self.tables = bytes;
    }

    /// What was held aside in so many bytes is held in others.
    pub(crate) fn change(&mut self, before: usize, after: usize) {
        self.aside = (self.aside + after).saturating_sub(before);
    }

    /// What series hold aside.
    pub(crate) fn aside(&self) -> usize {
        self.aside
    }
}

/// Bytes that a table takes besides if one entry more makes it grow to twice its size.
pub(crate) fn table_growth<T>(table: &HashTable<T>) -> usize {
    const FIRST: usize = 4;
    if table.len() < table.capacity() { 0 } else { 2 * table.allocation_size().max(FIRST * (size_of::<T>() + 1) + 16) }
}
