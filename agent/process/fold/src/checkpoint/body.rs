//! The body of a checkpoint: what of the folder it holds, and in which order.
//!
//! Invariant: all places that are read point to something that was read before.

use super::bytes::{Malformed, Read, Reader, Writer};
use super::{CHECKSUM_BYTES, CheckpointError, MAGIC, VERSION, state};
use crate::Fold;
use crate::increase::Previous;
use crate::run::Run;
use crate::state::Exemplars;
use crate::table::Alias;
use crate::window::{Entry, Window};
use hashbrown::{HashMap, HashSet};
use ollystack_record::otlp::common::v1::{InstrumentationScope, KeyValue, KeyValueList};
use ollystack_record::{Kind, Metric, Resource, Scope, Series, Source};
use prost::Message;
use std::hash::Hash;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// What is read.
pub(super) struct Body {
    pub(super) watched_since: u64,
    pub(super) closed_until: u64,
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

/// Gives things their places as they come up.
struct Listed<K> {
    places: HashMap<K, usize>,
    written: Writer,
}

impl<K: Hash + Eq> Listed<K> {
    fn new() -> Listed<K> {
        Listed { places: HashMap::new(), written: Writer::default() }
    }

    fn place(&mut self, key: K, write: impl FnOnce(&mut Writer, &K)) -> usize {
        let next = self.places.len();
        *self.places.entry(key).or_insert_with_key(|key| {
            write(&mut self.written, key);
            next
        })
    }

    fn write(&self, to: &mut Writer) {
        to.len(self.places.len());
        to.0.extend_from_slice(&self.written.0);
    }
}

pub(super) fn write(fold: &Fold, now: u64) -> Vec<u8> {
    let Fold { table, times, .. } = fold;
    let (mut resources, mut metrics, mut labels) = (Listed::new(), Listed::new(), Listed::new());
    let (mut series, mut places) = (Writer::default(), HashMap::new());
    let totals = |alias: &&Alias| alias.previous.is_some();
    let with_totals: HashSet<u32> = table.aliases().filter(totals).map(|alias| alias.entry).collect();
    for (number, entry) in table.entries.iter() {
        if entry.waiting() == 0 && entry.previous.is_none() && !with_totals.contains(&number) {
            continue;
        }
        let Some(resource) = table.resources.get(entry.resource) else { continue };
        let Some(known) = table.metrics.get(entry.metric) else { continue };
        places.insert(number, places.len());
        series.len(resources.place(entry.resource, |to, _| to.message(&resource.to_proto())));
        series.len(metrics.place(entry.metric, |to, _| write_metric(to, &known.scope, &known.metric)));
        series.list(entry.series.attributes().iter(), |to, label| {
            to.len(labels.place(label.encode_to_vec(), |to, label| to.bytes(label)));
        });
        write_entry(&mut series, now, entry);
    }
    let mut to = Writer(MAGIC.to_vec());
    to.byte(VERSION);
    [now, times.watched_since, times.closed_until].into_iter().for_each(|moment| to.fixed(moment));
    resources.write(&mut to);
    metrics.write(&mut to);
    labels.write(&mut to);
    to.len(places.len());
    to.0.append(&mut series.0);
    let totals = |alias: &Alias| Some((alias.hash, *places.get(&alias.entry)?));
    let mut aliases: Vec<_> = table.aliases().filter_map(|alias| totals(alias).zip(alias.previous.as_ref())).collect();
    aliases.sort_unstable_by_key(|((hash, _), _)| *hash);
    to.list(aliases.into_iter(), |to, ((hash, place), previous)| {
        to.fixed(hash);
        to.len(place);
        state::write_previous(to, now, previous);
    });
    let checksum = xxh3_64(&to.0);
    to.fixed(checksum);
    to.0
}

pub(super) fn read(bytes: &[u8]) -> Result<Body, CheckpointError> {
    let content = bytes.strip_prefix(MAGIC).ok_or(CheckpointError::Foreign)?;
    match content.first() {
        Some(&VERSION) => {}
        Some(version) => return Err(CheckpointError::Version(*version)),
        None => return Err(CheckpointError::Damaged),
    }
    let (checked, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CheckpointError::Damaged)?;
    if xxh3_64(checked) != u64::from_le_bytes(*checksum) {
        return Err(CheckpointError::Damaged);
    }
    let body = checked.get(MAGIC.len() + 1..).ok_or(CheckpointError::Damaged)?;
    read_body(&mut Reader(body)).map_err(|Malformed| CheckpointError::Damaged)
}

fn read_body(from: &mut Reader<'_>) -> Read<Body> {
    let now = from.fixed()?;
    let (watched_since, closed_until) = (from.fixed()?, from.fixed()?);
    let resources = from.list(|from| Ok(Arc::new(Resource::from_proto(Some(from.message()?)))))?;
    let metrics = from.list(read_metric)?;
    let labels = from.list(Reader::message::<KeyValue>)?;
    let series = from.list(|from| {
        let resource = resources.get(from.place()?).ok_or(Malformed)?;
        let (scope, metric) = metrics.get(from.place()?).ok_or(Malformed)?;
        let labels = from.list(|from| labels.get(from.place()?).cloned().ok_or(Malformed))?;
        let series = Series::new(Arc::clone(scope), Arc::clone(metric), labels);
        read_entry(from, now, Arc::clone(resource), series)
    })?;
    let aliases = from.list(|from| {
        let alias =
            ReadAlias { hash: from.fixed()?, series: from.place()?, previous: state::read_previous(from, now)? };
        if alias.series < series.len() { Ok(alias) } else { Err(Malformed) }
    })?;
    if from.0.is_empty() { Ok(Body { watched_since, closed_until, series, aliases }) } else { Err(Malformed) }
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

fn write_entry(to: &mut Writer, now: u64, entry: &Entry) {
    to.byte(entry.source as u8);
    to.byte(u8::from(entry.overflow));
    to.option(entry.previous.as_ref(), |to, previous| state::write_previous(to, now, previous));
    state::write_run(to, now, &entry.run);
    let none = Exemplars::default();
    let own = entry.more.as_ref().map_or(&none, |more| &more.exemplars);
    let aside = entry.more.iter().flat_map(|more| &more.aside).map(|(window, exemplars)| (window, exemplars));
    let windows: Vec<_> = entry.window.iter().map(|window| (window, own)).chain(aside).collect();
    to.list(windows.into_iter(), |to, (window, exemplars)| {
        state::write_window(to, now, window);
        state::write_exemplars(to, exemplars);
    });
}

fn read_entry(from: &mut Reader<'_>, now: u64, resource: Arc<Resource>, series: Series) -> Read<ReadSeries> {
    let source = Source::ALL.get(usize::from(from.byte()?)).copied().ok_or(Malformed)?;
    let overflow = from.byte()? == 1;
    let previous = from.option(|from| state::read_previous(from, now))?;
    let run = state::read_run(from, now)?;
    let windows = from.list(|from| Ok((state::read_window(from, now)?, state::read_exemplars(from)?)))?;
    Ok(ReadSeries { resource, series, source, overflow, previous, run, windows })
}
