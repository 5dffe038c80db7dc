//! The series that are known, within limits.
//!
//! A series is found by resource and labels. One that goes out under other labels (a rule leaves some off, or redaction changes
//! them) is known by its hash alone, beside its last total and the series that it goes out as: what must not leave is not
//! kept, and two that collide in 64 bits would be taken for one. Invariant: at most `series_max` series plus
//! [`OVERFLOW_SERIES_MAX`] overflow series are held, as many aliases, of one input and one metric no more than their limits, and all
//! of it in `bytes_max`.

use super::bounds::Bounds;
use super::config::Config;
use super::increase::Previous;
use super::memory::{Memory, table_growth};
use super::metrics::{self, Known, Metrics};
use super::past::Past;
use super::resources::{self, Owner, Resources};
use super::run::Run;
use super::slab::Slab;
use super::window::{Closed, Entry};
use hashbrown::{HashMap, HashTable};
use ollystack_record::{Series, Source, value};
use ollystack_schema::names::OVERFLOW;
use std::sync::Arc;

/// Overflow series beside the limit: one per resource and metric, so a thousand metrics may overflow.
const OVERFLOW_SERIES_MAX: usize = 1_000;

/// What the labels of a series may take to be told apart, and each of its metric, scope and resource: a point carries all of them.
const LABELS_BYTES_MAX: usize = 16 << 10;
const DESCRIPTION_BYTES_MAX: usize = 64 << 10;

/// The part of the bytes that is left for series that take what overflows, and for what those that are known hold next.
const RESERVE_SHARE: usize = 16;

/// The part that is left for what grows in steps: places for metrics and resources come in chunks.
const STEPS_SHARE: usize = 32;

/// What an `Arc` puts before its content.
const ARC_BYTES: usize = 2 * size_of::<usize>();

/// Says under which series another goes out; `None`: as it is.
pub type Rewrite = Box<dyn Fn(&Series) -> Option<Series> + Send>;

pub(super) struct Table {
    config: Config,
    rewrite: Option<Rewrite>,
    pub(super) resources: Resources,
    pub(super) metrics: Metrics,
    pub(super) entries: Slab<Entry>,
    index: HashTable<u32>,
    aliases: HashTable<Alias>,
    /// By resource and metric.
    overflow: HashMap<(u32, u32), u32>,
    by_source: [usize; Source::ALL.len()],
    label_bytes: usize,
    past: Past,
    pub(super) bounds: Bounds,
    pub(super) memory: Memory,
    /// Memory is short: no new series beyond half of the limits.
    tight: bool,
}

/// A series that goes out as another.
#[derive(Debug)]
pub(super) struct Alias {
    pub(super) hash: u64,
    pub(super) previous: Option<Previous>,
    pub(super) entry: u32,
    pub(super) touched: u32,
}

/// Where a sample goes.
pub(super) struct Found<'a> {
    pub(super) entry: &'a mut Entry,
    pub(super) known: &'a Known,
    /// The last total of a series that goes out as another.
    pub(super) alias: Option<&'a mut Alias>,
    /// Its own last total cannot be known, so that only levels and deltas can be taken.
    pub(super) shared: bool,
    pub(super) memory: &'a mut Memory,
    pub(super) bounds: &'a mut Bounds,
}

/// Why a sample goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nowhere {
    /// A rule drops its metric.
    Unwanted,
    /// There is no room, not even in an overflow series.
    Full,
}

/// What [`Table::locate`] found; numbers, so that nothing is borrowed.
#[derive(Clone, Copy)]
enum Located {
    Own(u32),
    Alias(u32),
    Shared(u32),
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("entries", &self.entries.len()).field("aliases", &self.aliases.len()).finish()
    }
}

impl Table {
    pub(super) fn new(config: Config) -> Table {
        let mut table = Table {
            memory: Memory::new(config.bytes_max - config.bytes_max / STEPS_SHARE),
            past: Past::new(config.bytes_max),
            config,
            rewrite: None,
            resources: Resources::default(),
            metrics: Metrics::default(),
            entries: Slab::default(),
            index: HashTable::new(),
            aliases: HashTable::new(),
            overflow: HashMap::new(),
            by_source: [0; Source::ALL.len()],
            label_bytes: 0,
            bounds: Bounds::default(),
            tight: false,
        };
        table.recount();
        table
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn rewrite_with(&mut self, rewrite: Rewrite) {
        self.rewrite = Some(rewrite);
    }

    /// Series held, those that go out as another not counted.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the table, without labels and without what histograms and exemplars take aside.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes() + self.index.allocation_size() + self.aliases.allocation_size()
    }

    /// Bytes of the labels of all series, estimated.
    pub(super) fn label_bytes(&self) -> usize {
        self.label_bytes
    }

    /// Bytes of all that is held.
    pub(super) fn held_bytes(&self) -> usize {
        self.tables_bytes() + self.memory.aside()
    }

    /// Bytes of the tables, and of what is held once for many.
    fn tables_bytes(&self) -> usize {
        self.bytes()
            + self.overflow.allocation_size()
            + self.resources.bytes()
            + self.metrics.bytes()
            + self.label_bytes
            + self.past.bytes()
    }

    /// Something came or went.
    pub(super) fn recount(&mut self) {
        // Each series may have a window to send at once.
        let closed = self.entries.len() * size_of::<Closed>();
        let past = self.past.bytes_max() - self.past.bytes();
        self.memory.set_tables(self.tables_bytes() + closed + past);
    }

    /// Whether new series are held to half of the limits.
    pub(super) fn tighten(&mut self, tight: bool) {
        self.past.forget();
        self.tight = tight;
    }

    /// Where the samples of a series go.
    #[inline]
    pub(super) fn find(&mut self, source: Source, owner: Owner, series: &Arc<Series>) -> Result<Found<'_>, Nowhere> {
        let located = match self.find_own(owner, series) {
            Some(number) => Located::Own(number),
            None => self.locate(source, owner, series)?,
        };
        let Table { entries, metrics, aliases, memory, bounds, .. } = self;
        let (Located::Own(number) | Located::Alias(number) | Located::Shared(number)) = located;
        let entry = entries.get_mut(number).ok_or(Nowhere::Full)?;
        let known = metrics.get(entry.metric).ok_or(Nowhere::Full)?;
        let alias = match located {
            Located::Alias(_) => {
                let hash = owner.mix(series);
                aliases.find_mut(hash, |alias| alias.hash == hash)
            }
            Located::Own(_) | Located::Shared(_) => None,
        };
        let shared = entry.overflow || matches!(located, Located::Shared(_));
        Ok(Found { entry, known, alias, shared, memory, bounds })
    }

    #[inline]
    fn find_own(&self, owner: Owner, series: &Arc<Series>) -> Option<u32> {
        // The inputs hand in the same `Arc` again and again: looking at the address saves looking at the labels.
        let same = |number: &u32| {
            let is = |entry: &Entry| {
                entry.resource == owner.number && (Arc::ptr_eq(&entry.series, series) || entry.series == *series)
            };
            self.entries.get(*number).is_some_and(is)
        };
        self.index.find(owner.mix(series), same).copied()
    }

    /// The place of a series that does not go out as it is, or is seen for the first time.
    fn locate(&mut self, source: Source, owner: Owner, series: &Arc<Series>) -> Result<Located, Nowhere> {
        let hash = owner.mix(series);
        if let Some(alias) = self.aliases.find(hash, |alias| alias.hash == hash) {
            return Ok(Located::Alias(alias.entry));
        }
        if let Some(entry) = self.past.get(hash) {
            return entry.map(Located::Shared).ok_or(Nowhere::Full);
        }
        if self.config.rule(&series.metric.name).is_some_and(|rule| rule.drop) {
            return Err(Nowhere::Unwanted);
        }
        let located = self.admit_as(source, owner, series);
        self.recount();
        match located {
            Ok(Located::Shared(entry)) => self.past.remember(hash, Some(entry)),
            Err(Nowhere::Full) => self.past.remember(hash, None),
            _ => {}
        }
        located
    }

    /// The place of a series that is seen for the first time, or comes again and found no room before.
    fn admit_as(&mut self, source: Source, owner: Owner, series: &Arc<Series>) -> Result<Located, Nowhere> {
        let hash = owner.mix(series);
        let Some(other) = self.rewritten(series) else { return self.admit(source, owner, series) };
        let other = Arc::new(other);
        let located = match self.find_own(owner, &other) {
            Some(number) => Located::Own(number),
            None => self.admit(source, owner, &other)?,
        };
        match located {
            Located::Own(entry) if self.insert_alias(Alias { hash, previous: None, entry, touched: 0 }) => {
                Ok(Located::Alias(entry))
            }
            Located::Own(entry) | Located::Alias(entry) | Located::Shared(entry) => Ok(Located::Shared(entry)),
        }
    }

    /// Remember as what a series goes out, if there is room; one that is known stays as it is.
    pub(super) fn insert_alias(&mut self, alias: Alias) -> bool {
        let bytes = alias.previous.as_ref().map_or(0, Previous::heap_bytes);
        if self.aliases.len() >= self.config.series_max
            || bytes + table_growth(&self.aliases) > self.memory.room()
            || self.aliases.find(alias.hash, |known| known.hash == alias.hash).is_some()
        {
            return false;
        }
        self.memory.change(0, bytes);
        self.aliases.insert_unique(alias.hash, alias, |alias| alias.hash);
        self.recount();
        true
    }

    pub(super) fn aliases(&self) -> impl Iterator<Item = &Alias> {
        self.aliases.iter()
    }

    /// As which other series one goes out.
    fn rewritten(&self, series: &Series) -> Option<Series> {
        let rule = self.config.rule(&series.metric.name);
        let bare = rule.filter(|rule| series.attributes().iter().any(|label| !rule.keeps(&label.key))).map(|rule| {
            let kept = series.attributes().iter().filter(|label| rule.keeps(&label.key)).cloned().collect();
            Series::new(Arc::clone(&series.scope), Arc::clone(&series.metric), kept)
        });
        let clean = self.rewrite.as_ref().and_then(|rewrite| rewrite(bare.as_ref().unwrap_or(series)));
        clean.or(bare)
    }

    /// A new series within the limits, or the one that takes what goes beyond.
    fn admit(&mut self, source: Source, owner: Owner, series: &Arc<Series>) -> Result<Located, Nowhere> {
        if !self.can_be_described(owner, series) {
            return Err(Nowhere::Full);
        }
        let metric = self.metrics.number(series, &self.config);
        self.recount();
        let entry = |series| Entry::new(source, owner.number, metric, series);
        let (bytes, room) = (self.bytes_for(series), self.memory.room());
        if series.heap_bytes() <= LABELS_BYTES_MAX && self.has_room(source, metric, bytes) {
            return Ok(Located::Own(self.insert(entry(Arc::clone(series)))));
        }
        if let Some(number) = self.overflow.get(&(owner.number, metric)) {
            return Ok(Located::Shared(*number));
        }
        let labels = vec![value::bool(OVERFLOW, true)];
        let series = Arc::new(Series::new(Arc::clone(&series.scope), Arc::clone(&series.metric), labels));
        // An application may send such a series itself: it then takes what overflows here, too.
        if let Some(number) = self.find_own(owner, &series) {
            return Ok(Located::Shared(number));
        }
        if self.overflow.len() >= OVERFLOW_SERIES_MAX || self.bytes_for(&series) > room {
            self.metrics.forget_unused(metric);
            return Err(Nowhere::Full);
        }
        Ok(Located::Shared(self.insert(Entry { overflow: true, ..entry(series) })))
    }

    /// A series from before a restart with what it holds, if it is new here, may go out as it is, and is within the limits.
    pub(super) fn readmit(&mut self, owner: Owner, entry: Entry) -> Option<u32> {
        let Entry { source, overflow, ref series, .. } = entry;
        let unwanted = self.config.rule(&series.metric.name).is_some_and(|rule| rule.drop);
        let other = match overflow {
            // Its label is ours: no rule takes it off.
            true => self.rewrite.as_ref().and_then(|rewrite| rewrite(series)),
            false => self.rewritten(series),
        };
        let is_known = self.find_own(owner, series).is_some();
        if unwanted || is_known || other.is_some() || !self.can_be_described(owner, series) {
            return None;
        }
        let metric = self.metrics.number(series, &self.config);
        self.recount();
        let bytes = self.bytes_for(series) + entry.heap_bytes();
        let is_within = match overflow {
            true => {
                let taken = self.overflow.contains_key(&(owner.number, metric));
                self.overflow.len() < OVERFLOW_SERIES_MAX && !taken
            }
            false => self.is_within(source, metric, self.config.series_max),
        };
        if !is_within || bytes > self.memory.room() {
            self.metrics.forget_unused(metric);
            return None;
        }
        Some(self.insert(Entry { metric, ..entry }))
    }

    /// Whether one series more, which takes so many bytes, is within all limits.
    fn has_room(&self, source: Source, metric: u32, bytes: usize) -> bool {
        let Config { series_max, bytes_max, .. } = self.config;
        let (series_max, reserve) = match self.tight {
            true => (series_max / 2, bytes_max / 2),
            false => (series_max, bytes_max / RESERVE_SHARE),
        };
        self.is_within(source, metric, series_max) && bytes + reserve <= self.memory.room()
    }

    /// Whether one series more is within the limits in number.
    fn is_within(&self, source: Source, metric: u32, series_max: usize) -> bool {
        self.entries.len() - self.overflow.len() < series_max
            && self.by_source[source as usize] < self.config.series_per_source_max
            && self.metrics.get(metric).is_some_and(|known| known.series < known.series_max)
    }

    /// What a series takes, and the copies of its metric and scope that came with it: they are told once for a metric, but whoever
    /// describes a metric anew with each series has them held with each.
    fn series_bytes(&self, entry: &Entry) -> usize {
        let Entry { series, metric, .. } = entry;
        let known = self.metrics.get(*metric);
        let own_metric = known.is_none_or(|known| !Arc::ptr_eq(&known.metric, &series.metric));
        let own_scope = known.is_none_or(|known| !Arc::ptr_eq(&known.scope, &series.scope));
        let metric = if own_metric { ARC_BYTES + metrics::bytes_of(&series.metric) } else { 0 };
        let scope = if own_scope { ARC_BYTES + metrics::scope_bytes_of(&series.scope) } else { 0 };
        ARC_BYTES + series.heap_bytes() + metric + scope
    }

    /// What a series more takes at most.
    fn bytes_for(&self, series: &Series) -> usize {
        let tables = self.entries.growth() + table_growth(&self.index);
        let described = metrics::bytes_of(&series.metric) + metrics::scope_bytes_of(&series.scope);
        tables + size_of::<Closed>() + 3 * ARC_BYTES + series.heap_bytes() + described
    }

    /// Whether what a series belongs to is small enough to go with its points.
    fn can_be_described(&self, owner: Owner, series: &Series) -> bool {
        let resource = self.resources.get(owner.number).map_or(0, |resource| resources::bytes_of(resource));
        let bytes = [resource, metrics::bytes_of(&series.metric), metrics::scope_bytes_of(&series.scope)];
        bytes.iter().all(|bytes| *bytes <= DESCRIPTION_BYTES_MAX)
    }

    /// Insert what is not there yet.
    fn insert(&mut self, mut entry: Entry) -> u32 {
        let (resource, metric, source, overflow) = (entry.resource, entry.metric, entry.source, entry.overflow);
        // One copy of what all series of a metric share, whoever described it again.
        if let Some(known) = self.metrics.acquire(metric, !overflow)
            && let Some(series) = Arc::get_mut(&mut entry.series)
        {
            (series.scope, series.metric) = (Arc::clone(&known.scope), Arc::clone(&known.metric));
        }
        self.label_bytes += self.series_bytes(&entry);
        self.memory.change(0, entry.heap_bytes());
        self.resources.acquire(resource);
        let hash = self.resources.owner(resource).mix(&entry.series);
        let number = self.entries.insert(entry);
        let Table { index, entries, resources, .. } = self;
        index.insert_unique(hash, number, |number| rehash(entries, resources, *number));
        if overflow {
            self.overflow.insert((resource, metric), number);
        } else {
            self.by_source[source as usize] += 1;
        }
        self.recount();
        number
    }

    /// The clock was set back to `now`: later moments are not believed any more.
    pub(super) fn disbelieve_after(&mut self, now: u64) {
        let seconds = super::seconds(now);
        let past = |previous: &mut Option<Previous>| {
            if let Some(previous) = previous {
                previous.time_unix_nano = previous.time_unix_nano.min(now);
            }
        };
        for (_, entry) in self.entries.iter_mut() {
            entry.touched = entry.touched.min(seconds);
            past(&mut entry.previous);
            if !entry.run.is_held() && entry.run.end_unix_nano > now {
                entry.run = Run::default();
            }
        }
        for alias in self.aliases.iter_mut() {
            alias.touched = alias.touched.min(seconds);
            past(&mut alias.previous);
        }
    }

    /// As if a sample of each series had just come.
    pub(super) fn touch_all(&mut self, seconds: u32) {
        self.entries.iter_mut().for_each(|(_, entry)| entry.touched = seconds);
        self.aliases.iter_mut().for_each(|alias| alias.touched = seconds);
    }

    /// Forget series that were not touched since `before` (seconds) and hold nothing; running totals only if not since `totals_before`.
    /// True if one of them was a running total.
    pub(super) fn forget_idle(&mut self, before: u32, totals_before: u32) -> bool {
        let mut total = false;
        let idle = |touched: u32, previous: &Option<Previous>| {
            touched < if previous.is_some() { totals_before } else { before }
        };
        let memory = &mut self.memory;
        self.aliases.retain(|alias| {
            let keep = !idle(alias.touched, &alias.previous);
            if let (false, Some(previous)) = (keep, &alias.previous) {
                memory.change(previous.heap_bytes(), 0);
                total = true;
            }
            keep
        });
        if self.aliases.len() < self.aliases.capacity() / 4 {
            self.aliases.shrink_to_fit(|alias| alias.hash);
        }
        let idle = |entry: &Entry| entry.waiting() == 0 && idle(entry.touched, &entry.previous);
        let gone: Vec<u32> = self.entries.iter().filter(|(_, entry)| idle(entry)).map(|(number, _)| number).collect();
        for number in gone {
            total |= self.remove(number);
        }
        if self.entries.is_sparse() {
            self.shrink();
        }
        self.forget_unused();
        total
    }

    /// Forget what nothing refers to any more, and that there was no room.
    pub(super) fn forget_unused(&mut self) {
        let before = self.bounds.bytes();
        self.bounds.forget_unused();
        self.memory.change(before, self.bounds.bytes());
        self.past.forget();
        self.recount();
    }

    /// True if it was a running total.
    fn remove(&mut self, number: u32) -> bool {
        let Some(entry) = self.entries.get(number) else { return false };
        let hash = self.resources.owner(entry.resource).mix(&entry.series);
        if let Ok(place) = self.index.find_entry(hash, |other| *other == number) {
            place.remove();
        }
        let Some(entry) = self.entries.remove(number) else { return false };
        self.label_bytes -= self.series_bytes(&entry);
        self.memory.change(entry.heap_bytes(), 0);
        self.resources.release(entry.resource);
        if entry.overflow {
            self.overflow.remove(&(entry.resource, entry.metric));
        } else {
            self.by_source[entry.source as usize] -= 1;
        }
        self.metrics.release(entry.metric, !entry.overflow);
        entry.previous.is_some()
    }

    /// Move what is left together, and give the rest of the memory back.
    fn shrink(&mut self) {
        let mut moved: HashMap<u32, u32> = HashMap::with_capacity(self.entries.len());
        let mut kept = Slab::default();
        let numbers: Vec<u32> = self.entries.iter().map(|(number, _)| number).collect();
        for number in numbers {
            if let Some(entry) = self.entries.remove(number) {
                moved.insert(number, kept.insert(entry));
            }
        }
        self.entries = kept;
        let now = |number: &mut u32| *number = moved.get(number).copied().unwrap_or(*number);
        self.index.iter_mut().for_each(now);
        self.aliases.iter_mut().for_each(|alias| now(&mut alias.entry));
        self.overflow.values_mut().for_each(now);
        let Table { index, entries, resources, overflow, .. } = self;
        index.shrink_to_fit(|number| rehash(entries, resources, *number));
        overflow.shrink_to_fit();
    }
}

fn rehash(entries: &Slab<Entry>, resources: &Resources, number: u32) -> u64 {
    entries.get(number).map_or(0, |entry| resources.owner(entry.resource).mix(&entry.series))
}
