//! The metrics that are known, each with the rule that holds for it and how many series it has.
//!
//! A metric is a scope's metric as its series go out: two scopes that use one name have two. Invariant: a metric is held as long as
//! it has a series, and its number stands for it that long.

use super::config::{Config, Gauges};
use super::slab::Slab;
use super::times::NANOS_PER_MS;
use hashbrown::HashTable;
use ollystack_record::value::{attributes_hash, attributes_heap_bytes};
use ollystack_record::{Metric, Scope, Series};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// A metric and what holds for it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) scope: Arc<Scope>,
    pub(super) metric: Arc<Metric>,
    /// Equal for metrics of one scope.
    pub(super) scope_number: u32,
    /// Length of its windows, nanoseconds.
    pub(super) window: u64,
    pub(super) gauges: Gauges,
    /// Series of its own, without the one that takes what overflows.
    pub(super) series: usize,
    pub(super) series_max: usize,
    /// When its description was last sent, nanoseconds since the epoch. 0: never.
    described_unix_nano: u64,
    /// All series.
    entries: usize,
}

/// How often a metric's description is sent. It belongs to the metric, not to its points: with each, it would be a tenth of what
/// leaves a host.
const DESCRIBE_NANOS: u64 = 3_600_000 * NANOS_PER_MS;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    index: HashTable<u32>,
    known: Slab<Known>,
    scope_index: HashTable<u32>,
    /// Scopes by number, with the metrics they have.
    scopes: Slab<(Arc<Scope>, usize)>,
    /// Of all metrics and scopes.
    bytes: usize,
}

/// What a metric takes.
pub(super) fn bytes_of(metric: &Metric) -> usize {
    let Metric { name, unit, description, metadata, .. } = metric;
    let texts = [name, unit, description].map(String::capacity);
    size_of::<Metric>() + texts.iter().sum::<usize>() + attributes_heap_bytes(metadata)
}

/// What a scope takes.
pub(super) fn scope_bytes_of(scope: &Scope) -> usize {
    let Scope { proto, schema_url } = scope;
    let texts = [&proto.name, &proto.version, schema_url].map(String::capacity);
    size_of::<Scope>() + texts.iter().sum::<usize>() + attributes_heap_bytes(&proto.attributes)
}

impl Metrics {
    pub(super) fn get(&self, number: u32) -> Option<&Known> {
        self.known.get(number)
    }

    /// Whether a metric's description is to be sent now. If so, it is taken for sent.
    pub(super) fn describe(&mut self, number: u32, now: u64) -> bool {
        let Some(known) = self.known.get_mut(number) else { return false };
        let due = known.described_unix_nano == 0 || now.abs_diff(known.described_unix_nano) >= DESCRIBE_NANOS;
        if due {
            known.described_unix_nano = now;
        }
        due
    }

    /// The number of the metric that a series is of.
    pub(super) fn number(&mut self, series: &Series, config: &Config) -> u32 {
        let (scope, metric) = (&series.scope, &series.metric);
        let hash = hash(scope, metric);
        let Metrics { index, known, .. } = self;
        let same = |number: &u32| known.get(*number).is_some_and(|known| known.is(scope, metric));
        if let Some(number) = index.find(hash, same) {
            return *number;
        }
        let scope_number = self.scope_number(scope);
        self.bytes += bytes_of(metric);
        let rule = config.rule(&metric.name);
        let number = self.known.insert(Known {
            scope: Arc::clone(scope),
            metric: Arc::clone(metric),
            scope_number,
            window: rule.and_then(|rule| rule.window_ms).unwrap_or(config.window_ms).max(1) * NANOS_PER_MS,
            gauges: rule.and_then(|rule| rule.gauges).unwrap_or(config.gauges),
            series: 0,
            described_unix_nano: 0,
            entries: 0,
            series_max: rule.and_then(|rule| rule.series_max).unwrap_or(config.series_per_metric_max),
        });
        let known = &self.known;
        let rehash = |number: &u32| known.get(*number).map_or(0, |known| self::hash(&known.scope, &known.metric));
        self.index.insert_unique(hash, number, rehash);
        number
    }

    /// The number of a scope that has a metric more.
    fn scope_number(&mut self, scope: &Arc<Scope>) -> u32 {
        let Metrics { scope_index, scopes, bytes, .. } = self;
        let (hash, same) = (scope_hash(scope), |known: &Arc<Scope>| Arc::ptr_eq(known, scope) || known == scope);
        let found = scope_index.find(hash, |number| scopes.get(*number).is_some_and(|(known, _)| same(known)));
        let number = found.copied().unwrap_or_else(|| {
            *bytes += scope_bytes_of(scope);
            let number = scopes.insert((Arc::clone(scope), 0));
            let rehash = |number: &u32| scopes.get(*number).map_or(0, |(known, _)| scope_hash(known));
            scope_index.insert_unique(hash, number, rehash);
            number
        });
        if let Some((_, metrics)) = scopes.get_mut(number) {
            *metrics += 1;
        }
        number
    }

    /// A scope has a metric less; with its last one it is forgotten.
    fn release_scope(&mut self, number: u32) {
        let Some((scope, metrics)) = self.scopes.get_mut(number) else { return };
        *metrics -= 1;
        if *metrics > 0 {
            return;
        }
        if let Ok(place) = self.scope_index.find_entry(scope_hash(scope), |other| *other == number) {
            place.remove();
        }
        self.bytes -= scope_bytes_of(scope);
        self.scopes.remove(number);
    }

    /// What they take.
    pub(super) fn bytes(&self) -> usize {
        let tables = self.index.allocation_size() + self.scope_index.allocation_size();
        self.bytes + self.known.bytes() + self.scopes.bytes() + tables
    }

    /// The metric has a series more; `own` unless it takes what overflows.
    pub(super) fn acquire(&mut self, number: u32, own: bool) -> Option<&Known> {
        let known = self.known.get_mut(number)?;
        known.entries += 1;
        known.series += usize::from(own);
        Some(known)
    }

    /// The metric has a series less; with its last one it is forgotten.
    pub(super) fn release(&mut self, number: u32, own: bool) {
        if let Some(known) = self.known.get_mut(number) {
            known.entries -= 1;
            known.series -= usize::from(own);
        }
        self.forget_unused(number);
    }

    /// Forget a metric that has no series.
    pub(super) fn forget_unused(&mut self, number: u32) {
        if self.known.get(number).is_none_or(|known| known.entries > 0) {
            return;
        }
        let Some(known) = self.known.remove(number) else { return };
        self.bytes -= bytes_of(&known.metric);
        if let Ok(place) = self.index.find_entry(hash(&known.scope, &known.metric), |other| *other == number) {
            place.remove();
        }
        self.release_scope(known.scope_number);
    }
}

impl Known {
    fn is(&self, scope: &Arc<Scope>, metric: &Arc<Metric>) -> bool {
        (Arc::ptr_eq(&self.metric, metric) || self.metric == *metric)
            && (Arc::ptr_eq(&self.scope, scope) || self.scope == *scope)
    }
}

// All that tells two apart is hashed: an application may vary any of it.

fn hash(scope: &Scope, metric: &Metric) -> u64 {
    let Metric { name, unit, description, kind, metadata } = metric;
    let mut hasher = DefaultHasher::new();
    (scope_hash(scope), name, unit, description, kind, attributes_hash(metadata)).hash(&mut hasher);
    hasher.finish()
}

fn scope_hash(scope: &Scope) -> u64 {
    let Scope { proto, schema_url } = scope;
    let mut hasher = DefaultHasher::new();
    (&proto.name, &proto.version, attributes_hash(&proto.attributes), schema_url).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value;

    fn scope(version: &str, label: &str, schema_url: &str) -> Scope {
        let mut scope = Scope { schema_url: schema_url.into(), ..Scope::default() };
        scope.proto.version = version.into();
        scope.proto.attributes = vec![value::string("label", label)];
        scope
    }

    fn metric(description: &str, label: &str) -> Metric {
        Metric { description: description.into(), metadata: vec![value::string("label", label)], ..Metric::default() }
    }

    #[test]
    fn whatever_tells_metrics_apart_tells_their_hashes_apart_so_that_no_search_is_long() {
        let all = [
            (scope("1", "a", ""), metric("", "a")),
            (scope("2", "a", ""), metric("", "a")),
            (scope("1", "b", ""), metric("", "a")),
            (scope("1", "a", "url"), metric("", "a")),
            (scope("1", "a", ""), metric("other", "a")),
            (scope("1", "a", ""), metric("", "b")),
        ];
        let hashes: std::collections::HashSet<u64> = all.iter().map(|(scope, metric)| hash(scope, metric)).collect();
        assert_eq!(hashes.len(), all.len());
    }

    #[test]
    fn a_scope_has_one_number_and_is_held_as_long_as_a_metric_of_it_is() {
        let mut metrics = Metrics::default();
        let mut number = |version: &str, name: &str| {
            let metric = Arc::new(Metric { name: name.into(), ..Metric::default() });
            let series = Series::new(Arc::new(scope(version, "", "")), metric, Vec::new());
            metrics.number(&series, &Config::default())
        };
        let numbers = [number("1", "a"), number("1", "b"), number("2", "a")];
        let scopes = numbers.map(|number| metrics.get(number).unwrap().scope_number);
        assert!(scopes[0] == scopes[1] && scopes[0] != scopes[2]);
        for (number, left) in numbers.into_iter().zip([2, 1, 0]) {
            metrics.forget_unused(number);
            assert_eq!((metrics.scopes.len(), metrics.scope_index.len()), (left, left));
        }
    }
}
