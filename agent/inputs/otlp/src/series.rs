//! Metric series that senders repeat in every request, each kept once.
//!
//! A point whose series is known costs a hash and a comparison; the attributes that came with it are dropped. What a series takes
//! is counted in units of 1 KiB. When the table is full, everything that was not used again since it was last full is forgotten. Invariant:
//! two points get the same `Arc` only if scope, metric and attributes are equal, never for an equal hash alone.

use hashbrown::HashTable;
use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use ollystack_record::value::{attributes_hash, sort_attributes};
use ollystack_record::{Kind, Metric, Scope, Series};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The table.
#[derive(Debug)]
pub(crate) struct Interner {
    scopes: HashTable<Entry<Scope>>,
    metrics: HashTable<Entry<Metric>>,
    series: HashTable<Entry<Series>>,
    units: usize,
    units_max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    value: Arc<T>,
    hash: u64,
    units: usize,
    used: bool,
}

/// What of a metric's message describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) description: &'a str,
    pub(crate) kind: Kind,
    pub(crate) metadata: &'a [KeyValue],
}

const UNIT_BYTES: usize = 1 << 10;

impl Interner {
    /// A table of at most `units_max` series of 1 KiB.
    pub(crate) fn new(units_max: usize) -> Interner {
        let (scopes, metrics, series) = (HashTable::new(), HashTable::new(), HashTable::new());
        Interner { scopes, metrics, series, units: 0, units_max }
    }

    /// The scope.
    pub(crate) fn scope(&mut self, mut proto: InstrumentationScope, schema_url: String) -> Arc<Scope> {
        sort_attributes(&mut proto.attributes);
        let mut hasher = DefaultHasher::new();
        (&proto.name, &proto.version, &schema_url, attributes_hash(&proto.attributes)).hash(&mut hasher);
        let hash = hasher.finish();
        let scope = Scope { proto, schema_url };
        if let Some(entry) = self.scopes.find_mut(hash, |entry| *entry.value == scope) {
            entry.used = true;
            return Arc::clone(&entry.value);
        }
        let texts = scope.proto.name.len() + scope.proto.version.len() + scope.schema_url.len();
        let bytes = size_of::<Scope>() + texts + attributes_bytes(&scope.proto.attributes);
        let value = Arc::new(scope);
        if let Some(units) = self.room(bytes) {
            let entry = Entry { value: Arc::clone(&value), hash, units, used: false };
            self.scopes.insert_unique(hash, entry, |entry| entry.hash);
        }
        value
    }

    /// The metric.
    pub(crate) fn metric(&mut self, from: Description<'_>) -> Arc<Metric> {
        let Description { name, unit, description, kind, metadata } = from;
        let mut hasher = DefaultHasher::new();
        (name, unit, description, kind, attributes_hash(metadata)).hash(&mut hasher);
        let hash = hasher.finish();
        let same = |entry: &Entry<Metric>| {
            let known = &entry.value;
            known.name == name
                && known.unit == unit
                && known.description == description
                && known.kind == kind
                && known.metadata == metadata
        };
        if let Some(entry) = self.metrics.find_mut(hash, same) {
            entry.used = true;
            return Arc::clone(&entry.value);
        }
        let texts = name.len() + unit.len() + description.len();
        let bytes = size_of::<Metric>() + texts + attributes_bytes(metadata);
        let (name, unit, description) = (name.to_owned(), unit.to_owned(), description.to_owned());
        let value = Arc::new(Metric { name, unit, description, kind, metadata: metadata.to_vec() });
        if let Some(units) = self.room(bytes) {
            let entry = Entry { value: Arc::clone(&value), hash, units, used: false };
            self.metrics.insert_unique(hash, entry, |entry| entry.hash);
        }
        value
    }

    /// The series. `scope` and `metric` are this table's.
    pub(crate) fn series(
        &mut self,
        scope: &Arc<Scope>,
        metric: &Arc<Metric>,
        mut attributes: Vec<KeyValue>,
    ) -> Arc<Series> {
        sort_attributes(&mut attributes);
        let mut hasher = DefaultHasher::new();
        (Arc::as_ptr(scope).addr(), Arc::as_ptr(metric).addr(), attributes_hash(&attributes)).hash(&mut hasher);
        let hash = hasher.finish();
        // An entry's Arcs keep its scope and metric alive, so an equal address is the same one.
        let same = |entry: &Entry<Series>| {
            let known = &entry.value;
            Arc::ptr_eq(&known.scope, scope) && Arc::ptr_eq(&known.metric, metric) && known.attributes() == attributes
        };
        if let Some(entry) = self.series.find_mut(hash, same) {
            entry.used = true;
            return Arc::clone(&entry.value);
        }
        let bytes = size_of::<Series>() + attributes_bytes(&attributes);
        let value = Arc::new(Series::new(Arc::clone(scope), Arc::clone(metric), attributes));
        if let Some(units) = self.room(bytes) {
            let entry = Entry { value: Arc::clone(&value), hash, units, used: false };
            self.series.insert_unique(hash, entry, |entry| entry.hash);
        }
        value
    }

    /// Series remembered now.
    pub(crate) fn len(&self) -> usize {
        self.series.len()
    }

    /// Make room; None when it is larger than an eighth of the table, which is not worth forgetting others for.
    fn room(&mut self, bytes: usize) -> Option<usize> {
        let units = bytes.div_ceil(UNIT_BYTES);
        if units > self.units_max / 8 {
            return None;
        }
        if self.units + units > self.units_max {
            self.forget_unused();
        }
        if self.units + units > self.units_max {
            self.forget_unused();
        }
        self.units += units;
        Some(units)
    }

    /// Forget what was not used again since the last time, and begin anew: called twice in a row it forgets all.
    fn forget_unused(&mut self) {
        fn sweep<T>(table: &mut HashTable<Entry<T>>) -> usize {
            let mut units = 0;
            table.retain(|entry| {
                let keep = std::mem::take(&mut entry.used);
                units += if keep { entry.units } else { 0 };
                keep
            });
            units
        }
        self.units = sweep(&mut self.series) + sweep(&mut self.metrics) + sweep(&mut self.scopes);
    }
}

/// Heap bytes of attributes, about.
fn attributes_bytes(attributes: &[KeyValue]) -> usize {
    attributes.iter().map(|a| size_of::<KeyValue>() + a.key.len() + a.value.as_ref().map_or(0, value_bytes)).sum()
}

fn value_bytes(value: &AnyValue) -> usize {
    match &value.value {
        Some(Value::StringValue(text)) => text.len(),
        Some(Value::BytesValue(bytes)) => bytes.len(),
        Some(Value::ArrayValue(array)) => array.values.iter().map(|v| size_of::<AnyValue>() + value_bytes(v)).sum(),
        Some(Value::KvlistValue(list)) => attributes_bytes(&list.values),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::{int, string};

    fn gauge(name: &str) -> Description<'_> {
        Description { name, unit: "1", description: "", kind: Kind::Gauge, metadata: &[] }
    }

    #[test]
    fn a_series_is_known_again_in_whatever_order_its_attributes_come() {
        let mut interner = Interner::new(100);
        let scope = interner.scope(InstrumentationScope::default(), String::new());
        let metric = interner.metric(gauge("m"));
        let one = interner.series(&scope, &metric, vec![string("a", "1"), int("b", 2)]);
        let two = interner.series(&scope, &metric, vec![int("b", 2), string("a", "1")]);
        assert!(Arc::ptr_eq(&one, &two));
        let other = interner.series(&scope, &metric, vec![string("a", "1"), int("b", 3)]);
        assert_ne!(one, other);
        assert!(Arc::ptr_eq(&metric, &interner.metric(gauge("m"))));
        assert_eq!(interner.len(), 2);
    }

    #[test]
    fn the_table_stays_within_its_units_and_keeps_what_is_in_use() {
        let mut interner = Interner::new(50);
        for round in 0..1_000 {
            let scope = interner.scope(InstrumentationScope::default(), String::new());
            let metric = interner.metric(gauge("m"));
            interner.series(&scope, &metric, vec![int("round", round)]);
            assert!(interner.units <= 50, "{}", interner.units);
        }
        let scope = interner.scope(InstrumentationScope::default(), String::new());
        let metric = interner.metric(gauge("m"));
        let kept = interner.series(&scope, &metric, vec![int("kept", 1)]);
        for round in 0..1_000 {
            interner.series(&scope, &metric, vec![int("other", round)]);
            let again = interner.series(&scope, &metric, vec![int("kept", 1)]);
            assert!(Arc::ptr_eq(&kept, &again), "{round}");
        }
    }

    #[test]
    fn a_huge_series_passes_without_being_remembered() {
        let mut interner = Interner::new(50);
        let scope = interner.scope(InstrumentationScope::default(), String::new());
        let metric = interner.metric(gauge("m"));
        let series = interner.series(&scope, &metric, vec![string("huge", "x".repeat(1 << 20))]);
        assert_eq!(series.attributes().len(), 1);
        assert_eq!(interner.len(), 0);
    }
}
