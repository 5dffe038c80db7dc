//! The series that are known, within limits.
//!
//! Invariant: at most `series_max` series plus [`OVERFLOW_SERIES_MAX`] overflow series are held, and at most
//! `series_per_source_max` from one input.

use super::config::Config;
use super::window::Entry;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use ollystack_record::{Resource, Series, Source, value};
use ollystack_schema::names::OVERFLOW;
use std::sync::Arc;

/// Overflow series beside the limit: one per resource and metric, so a thousand metrics may overflow.
const OVERFLOW_SERIES_MAX: usize = 1_000;

#[derive(Debug)]
pub(super) struct Table {
    entries: HashTable<Entry>,
    by_source: [usize; Source::ALL.len()],
    overflow: usize,
    series_max: usize,
    series_per_source_max: usize,
}

/// Where the samples of a series go.
pub(super) enum Found<'a> {
    /// To itself.
    Own(&'a mut Entry),
    /// There is no room for it: to the overflow series of its metric.
    Overflow(&'a mut Entry),
    /// There is no room for that either.
    Full,
}

impl Table {
    pub(super) fn new(config: &Config) -> Table {
        Table {
            entries: HashTable::new(),
            by_source: [0; Source::ALL.len()],
            overflow: 0,
            series_max: config.series_max,
            series_per_source_max: config.series_per_source_max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&mut self, source: Source, resource: &Arc<Resource>, series: &Arc<Series>) -> Found<'_> {
        let room = self.entries.len() - self.overflow < self.series_max
            && self.by_source[source as usize] < self.series_per_source_max;
        let hash = hash(resource, series);
        if room || self.entries.find(hash, |entry| same(entry, resource, series)).is_some() {
            let by_source = &mut self.by_source[source as usize];
            let slot = self.entries.entry(hash, |entry| same(entry, resource, series), rehash);
            return Found::Own(match slot {
                Slot::Occupied(known) => known.into_mut(),
                Slot::Vacant(vacant) => {
                    *by_source += 1;
                    vacant.insert(Entry::new(source, resource, series)).into_mut()
                }
            });
        }
        self.find_overflow(source, resource, series)
    }

    fn find_overflow(&mut self, source: Source, resource: &Arc<Resource>, series: &Arc<Series>) -> Found<'_> {
        let attributes = vec![value::bool(OVERFLOW, true)];
        let series = Arc::new(Series::new(Arc::clone(&series.scope), Arc::clone(&series.metric), attributes));
        let full = self.overflow >= OVERFLOW_SERIES_MAX;
        let overflow = &mut self.overflow;
        match self.entries.entry(hash(resource, &series), |entry| same(entry, resource, &series), rehash) {
            Slot::Occupied(known) => Found::Overflow(known.into_mut()),
            Slot::Vacant(_) if full => Found::Full,
            Slot::Vacant(vacant) => {
                *overflow += 1;
                let entry = Entry { overflow: true, ..Entry::new(source, resource, &series) };
                Found::Overflow(vacant.insert(entry).into_mut())
            }
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// Forget series that were not touched since `before` and have no window open. True if one of them was a running total.
    pub(super) fn forget_idle(&mut self, before: u64) -> bool {
        let Table { entries, by_source, overflow, .. } = self;
        let mut total = false;
        entries.retain(|entry| {
            let keep = entry.touched_unix_nano >= before || !entry.windows.is_empty();
            total |= !keep && entry.previous.is_some();
            if !keep && entry.overflow {
                *overflow -= 1;
            } else if !keep {
                by_source[entry.source as usize] -= 1;
            }
            keep
        });
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to_fit(rehash);
        }
        total
    }
}

fn hash(resource: &Resource, series: &Series) -> u64 {
    resource.hash().rotate_left(32) ^ series.hash()
}

fn rehash(entry: &Entry) -> u64 {
    hash(&entry.resource, &entry.series)
}

/// The inputs hand in the same `Arc` again and again: looking at the address saves looking at the labels.
fn same(entry: &Entry, resource: &Arc<Resource>, series: &Arc<Series>) -> bool {
    (Arc::ptr_eq(&entry.series, series) || entry.series == *series)
        && (Arc::ptr_eq(&entry.resource, resource) || entry.resource == *resource)
}
