//! The body of a checkpoint: what of the folder it holds, and in which order.
//!
//! Invariant: all places that are read point to something that was read before.

use super::bytes::{Malformed, Read, Reader, Writer};
use super::{CHECKSUM_BYTES, CheckpointError, FIRST_VERSION, MAGIC, VERSION, state};
use crate::Fold;
use crate::bounds::Bounds;
use crate::increase::Previous;
use crate::run::Run;
use crate::state::Exemplars;
use crate::table::Alias;
use crate::window::{Entry as Held, Window};
use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use ollystack_record::otlp::common::v1::{InstrumentationScope, KeyValue, KeyValueList};
use ollystack_record::value::attributes_hash;
use ollystack_record::{Kind, Metric, Resource, Scope, Series, Source};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// What is read.
pub(super) struct Body {
    pub(super) watched_since: u64,
    pub(super) closed_until: u64,
    /// Of all histograms among it.
    pub(super) bounds: Bounds,
    pub(super) series: Vec<ReadSeries>,
    pub(super) aliases: Vec<ReadAlias>,
}

/// A series and what it held.
pub(super) struct ReadSeries {
    pub(super) resource: Arc<Resource>,
    pub(super) series: Series,
    pub(super) source: Source,
    pub(super) overflow: bool,
    pub(super) previous: Option<Previous>,
    pub(super) run: Run,
    pub(super) windows: Vec<(Window, Exemplars)>,
}

/// The last total of a series that goes out as another, which is given by its place in [`Body::series`].
pub(super) struct ReadAlias {
    pub(super) hash: u64,
    pub(super) series: usize,
    pub(super) previous: Previous,
}

/// Gives things their places as they come up, and writes each where it comes up first.
struct Listed<K>(HashMap<K, usize>);

impl<K: Hash + Eq> Listed<K> {
    fn new() -> Listed<K> {
        Listed(HashMap::new())
    }

    fn place(&mut self, to: &mut Writer, key: K, define: impl FnOnce(&mut Writer)) {
        let next = self.0.len();
        match self.0.entry(key) {
            Entry::Occupied(known) => to.len(*known.get()),
            Entry::Vacant(new) => {
                new.insert(next);
                to.len(next);
                define(to);
            }
        }
    }
}

/// A label, found by its content without a copy of it.
#[derive(PartialEq)]
struct Label<'a>(&'a KeyValue);

// Floats that are no number are unlike themselves: such a label is written each time.
impl Eq for Label<'_> {}

impl Hash for Label<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(attributes_hash(std::slice::from_ref(self.0)));
    }
}

/// Writes lists of bounds, each once.
pub(super) struct WrittenBounds(Listed<*const f64>);

impl WrittenBounds {
    pub(super) fn place(&mut self, to: &mut Writer, bounds: &[f64]) {
        // Equal ones are one list in memory.
        self.0.place(to, bounds.as_ptr(), |to| to.list(bounds.iter(), |to, bound| to.float(*bound)));
    }
}

/// Reads lists of bounds.
pub(super) struct ReadBounds {
    shared: Bounds,
    /// As they came; the first version has them with each histogram.
    listed: Option<Vec<Arc<[f64]>>>,
}

impl ReadBounds {
    pub(super) fn read(&mut self, from: &mut Reader<'_>) -> Read<Arc<[f64]>> {
        let ReadBounds { shared, listed } = self;
        let mut read = |from: &mut Reader<'_>| Ok(shared.share(&from.list(Reader::float)?));
        match listed {
            Some(listed) => place(from, listed, read).cloned(),
            None => read(from),
        }
    }
}

/// What was named: by its place among those that came before, or here for the first time.
fn place<'a, 'l, T>(
    from: &mut Reader<'a>,
    listed: &'l mut Vec<T>,
    read: impl FnOnce(&mut Reader<'a>) -> Read<T>,
) -> Read<&'l T> {
    let place = from.place()?;
    if place == listed.len() {
        listed.push(read(from)?);
    }
    listed.get(place).ok_or(Malformed)
}

pub(super) fn write(fold: &Fold, now: u64) -> Vec<u8> {
    let Fold { table, times, .. } = fold;
    let (mut resources, mut metrics, mut labels) = (Listed::new(), Listed::new(), Listed::new());
    let mut bounds = WrittenBounds(Listed::new());
    let totals = |alias: &&Alias| alias.previous.is_some();
    let with_totals: HashSet<u32> = table.aliases().filter(totals).map(|alias| alias.entry).collect();
    let is_held =
        |number: u32, entry: &Held| entry.waiting() > 0 || entry.previous.is_some() || with_totals.contains(&number);
    let held = || table.entries.iter().filter(|(number, entry)| is_held(*number, entry));
    // As much as the last one and a little more: grown step by step, it would take up to three times its size.
    let mut to = Writer(Vec::with_capacity(fold.checkpoint_bytes + fold.checkpoint_bytes / 8));
    to.0.extend_from_slice(MAGIC);
    to.byte(VERSION);
    [now, times.watched_since, times.closed_until].into_iter().for_each(|moment| to.fixed(moment));
    to.len(held().count());
    let mut places = HashMap::new();
    for (number, entry) in held() {
        if !with_totals.is_empty() {
            places.insert(number, places.len());
        }
        let known = table.metrics.get(entry.metric);
        resources.place(&mut to, entry.resource, |to| {
            to.message(&table.resources.get(entry.resource).map(|resource| resource.to_proto()).unwrap_or_default());
        });
        metrics.place(&mut to, entry.metric, |to| match known {
            Some(known) => write_metric(to, &known.scope, &known.metric),
            None => write_metric(to, &entry.series.scope, &entry.series.metric),
        });
        to.list(entry.series.attributes().iter(), |to, label| {
            labels.place(to, Label(label), |to| to.message(label));
        });
        write_entry(&mut to, now, entry, &mut bounds);
    }
    let totals = |alias: &Alias| Some((alias.hash, *places.get(&alias.entry)?));
    let mut aliases: Vec<_> = table.aliases().filter_map(|alias| totals(alias).zip(alias.previous.as_ref())).collect();
    aliases.sort_unstable_by_key(|((hash, _), _)| *hash);
    to.list(aliases.into_iter(), |to, ((hash, place), previous)| {
        to.fixed(hash);
        to.len(place);
        state::write_previous(to, now, previous, &mut bounds);
    });
    let checksum = xxh3_64(&to.0);
    to.fixed(checksum);
    to.0
}

pub(super) fn read(bytes: &[u8]) -> Result<Body, CheckpointError> {
    let content = bytes.strip_prefix(MAGIC).ok_or(CheckpointError::Foreign)?;
    let version = match content.first() {
        Some(version @ FIRST_VERSION..=VERSION) => *version,
        Some(version) => return Err(CheckpointError::Version(*version)),
        None => return Err(CheckpointError::Damaged),
    };
    let (checked, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CheckpointError::Damaged)?;
    if xxh3_64(checked) != u64::from_le_bytes(*checksum) {
        return Err(CheckpointError::Damaged);
    }
    let body = checked.get(MAGIC.len() + 1..).ok_or(CheckpointError::Damaged)?;
    read_body(&mut Reader(body), version).map_err(|Malformed| CheckpointError::Damaged)
}

fn read_body(from: &mut Reader<'_>, version: u8) -> Read<Body> {
    let now = from.fixed()?;
    let (watched_since, closed_until) = (from.fixed()?, from.fixed()?);
    let resource = |from: &mut Reader<'_>| Ok(Arc::new(Resource::from_proto(Some(from.message()?))));
    let (mut resources, mut metrics, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    let mut bounds = ReadBounds { shared: Bounds::default(), listed: Some(Vec::new()) };
    if version == FIRST_VERSION {
        // All of them came before the series, and bounds with each histogram.
        resources = from.list(resource)?;
        metrics = from.list(read_metric)?;
        labels = from.list(Reader::message::<KeyValue>)?;
        bounds.listed = None;
    }
    let series = from.list(|from| {
        let resource = Arc::clone(place(from, &mut resources, resource)?);
        let (scope, metric) = place(from, &mut metrics, read_metric)?;
        let labels = from.list(|from| place(from, &mut labels, Reader::message::<KeyValue>).cloned())?;
        let series = Series::new(Arc::clone(scope), Arc::clone(metric), labels);
        read_entry(from, now, resource, series, &mut bounds)
    })?;
    let aliases = from.list(|from| {
        let (hash, place) = (from.fixed()?, from.place()?);
        let alias = ReadAlias { hash, series: place, previous: state::read_previous(from, now, &mut bounds)? };
        if place < series.len() { Ok(alias) } else { Err(Malformed) }
    })?;
    let bounds = bounds.shared;
    if from.0.is_empty() { Ok(Body { watched_since, closed_until, bounds, series, aliases }) } else { Err(Malformed) }
}

fn write_metric(to: &mut Writer, scope: &Scope, metric: &Metric) {
    to.message(&scope.proto);
    to.bytes(scope.schema_url.as_bytes());
    [&metric.name, &metric.unit, &metric.description].into_iter().for_each(|text| to.bytes(text.as_bytes()));
    to.byte(match metric.kind {
        Kind::Gauge => 0,
        Kind::Sum { monotonic, delta } => 1 + u8::from(monotonic) + 2 * u8::from(delta),
        Kind::Histogram { delta } => 5 + u8::from(delta),
        Kind::ExponentialHistogram { delta } => 7 + u8::from(delta),
        Kind::Summary => 9,
    });
    to.message(&KeyValueList { values: metric.metadata.clone() });
}

fn read_metric(from: &mut Reader<'_>) -> Read<(Arc<Scope>, Arc<Metric>)> {
    let scope = Scope { proto: from.message::<InstrumentationScope>()?, schema_url: from.text()? };
    let (name, unit, description) = (from.text()?, from.text()?, from.text()?);
    let kind = match from.byte()? {
        0 => Kind::Gauge,
        sum @ 1..=4 => Kind::Sum { monotonic: (sum - 1) & 1 == 1, delta: (sum - 1) & 2 == 2 },
        histogram @ 5..=6 => Kind::Histogram { delta: histogram == 6 },
        histogram @ 7..=8 => Kind::ExponentialHistogram { delta: histogram == 8 },
        9 => Kind::Summary,
        _ => return Err(Malformed),
    };
    let metadata = from.message::<KeyValueList>()?.values;
    Ok((Arc::new(scope), Arc::new(Metric { name, unit, description, kind, metadata })))
}

fn write_entry(to: &mut Writer, now: u64, entry: &Held, bounds: &mut WrittenBounds) {
    to.byte(entry.source as u8);
    to.byte(u8::from(entry.overflow));
    to.option(entry.previous.as_ref(), |to, previous| state::write_previous(to, now, previous, bounds));
    state::write_run(to, now, &entry.run);
    let none = Exemplars::default();
    let own = entry.more.as_ref().map_or(&none, |more| &more.exemplars);
    let aside = entry.more.iter().flat_map(|more| &more.aside).map(|(window, exemplars)| (window, exemplars));
    let windows: Vec<_> = entry.window.iter().map(|window| (window, own)).chain(aside).collect();
    to.list(windows.into_iter(), |to, (window, exemplars)| {
        state::write_window(to, now, window, bounds);
        state::write_exemplars(to, exemplars);
    });
}

fn read_entry(
    from: &mut Reader<'_>,
    now: u64,
    resource: Arc<Resource>,
    series: Series,
    bounds: &mut ReadBounds,
) -> Read<ReadSeries> {
    let source = Source::ALL.get(usize::from(from.byte()?)).copied().ok_or(Malformed)?;
    let overflow = from.byte()? == 1;
    let previous = from.option(|from| state::read_previous(from, now, bounds))?;
    let run = state::read_run(from, now)?;
    let windows = from.list(|from| Ok((state::read_window(from, now, bounds)?, state::read_exemplars(from)?)))?;
    Ok(ReadSeries { resource, series, source, overflow, previous, run, windows })
}
