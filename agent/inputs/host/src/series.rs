//! Series, described once and then only pointed to, and the samples of one reading.
//!
//! Invariant: taking a sample allocates nothing; a series is made when its device, CPU or state is first seen, and forgotten
//! when a reading no longer shows it.

use hashbrown::HashMap;
use ollystack_record::otlp::common::v1::{InstrumentationScope, KeyValue};
use ollystack_record::{Kind, Metric, Sample, Scope, Series, Value};
use std::sync::Arc;

/// A metric's description, as a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    kind: Kind,
}

/// A total since boot or since its owner's start.
pub(crate) const fn counter(name: &'static str, unit: &'static str, description: &'static str) -> Definition {
    Definition { name, unit, description, kind: Kind::Sum { monotonic: true, delta: false } }
}

/// A current amount that may be added up over its attributes: OTel's UpDownCounter.
pub(crate) const fn amount(name: &'static str, unit: &'static str, description: &'static str) -> Definition {
    Definition { name, unit, description, kind: Kind::Sum { monotonic: false, delta: false } }
}

/// A current value that may not be added up.
pub(crate) const fn gauge(name: &'static str, unit: &'static str, description: &'static str) -> Definition {
    Definition { name, unit, description, kind: Kind::Gauge }
}

/// Makes series that share their scope and their metrics' descriptions.
#[derive(Debug)]
pub(crate) struct Catalog {
    scope: Arc<Scope>,
    metrics: HashMap<&'static str, Arc<Metric>>,
}

impl Catalog {
    pub(crate) fn new() -> Catalog {
        let proto = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let schema_url = "https://opentelemetry.io/schemas/1.44.0".to_owned();
        Catalog { scope: Arc::new(Scope { proto, schema_url }), metrics: HashMap::new() }
    }

    /// A series of a metric.
    pub(crate) fn series(&mut self, of: &Definition, attributes: Vec<KeyValue>) -> Arc<Series> {
        let metric = self.metrics.entry(of.name).or_insert_with(|| {
            let (name, unit, description) = (of.name.to_owned(), of.unit.to_owned(), of.description.to_owned());
            Arc::new(Metric { name, unit, description, kind: of.kind, ..Metric::default() })
        });
        Arc::new(Series::new(Arc::clone(&self.scope), Arc::clone(metric), attributes))
    }
}

/// The samples of one resource at one moment.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// When they are taken, nanoseconds since the epoch.
    pub(crate) time: u64,
    /// Since when counters count, nanoseconds since the epoch; 0 when unknown.
    pub(crate) start: u64,
    /// What was taken.
    pub(crate) taken: Vec<Sample>,
}

impl Samples {
    /// A whole number.
    pub(crate) fn int(&mut self, series: &Arc<Series>, value: u64) {
        self.push(series, Value::Int(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    /// A fraction; what is not finite is no measurement and left out.
    pub(crate) fn double(&mut self, series: &Arc<Series>, value: f64) {
        if value.is_finite() {
            self.push(series, Value::Double(value));
        }
    }

    /// One reading divided by another, to within an eighth of a thousandth: what lies behind is the noise of clocks that count
    /// hundredths of a second, and would be most of the bytes that such a value takes. Each value's own totals are exact.
    pub(crate) fn quotient(&mut self, series: &Arc<Series>, value: f64) {
        self.double(series, rounded(value));
    }

    fn push(&mut self, series: &Arc<Series>, value: Value) {
        let start = if series.metric.kind == Kind::Gauge { 0 } else { self.start };
        self.taken.push(Sample::number(series, start, self.time, value));
    }
}

/// To twelve significant bits, so that most of a double's bytes are zero, and those of a sum of a minute's.
fn rounded(value: f64) -> f64 {
    const LEFT_OFF: u32 = f64::MANTISSA_DIGITS - 12;
    let half = 1 << (LEFT_OFF - 1);
    f64::from_bits(value.to_bits().saturating_add(half) & (u64::MAX << LEFT_OFF))
}

/// The series of things that come and go: one group of `N` series per CPU, disk, interface or filesystem.
#[derive(Debug)]
pub(crate) struct Groups<const N: usize> {
    groups: HashMap<Box<[u8]>, Group<N>>,
    max: usize,
    reading: u64,
}

#[derive(Debug)]
struct Group<const N: usize> {
    series: [Arc<Series>; N],
    reading: u64,
}

impl<const N: usize> Groups<N> {
    /// At most `max` groups; more are not measured.
    pub(crate) fn new(max: usize) -> Groups<N> {
        Groups { groups: HashMap::new(), max, reading: 0 }
    }

    /// The group of `key`, made if new; `None` when there are too many.
    pub(crate) fn get(&mut self, key: &[u8], make: impl FnOnce() -> [Arc<Series>; N]) -> Option<&[Arc<Series>; N]> {
        if !self.groups.contains_key(key) {
            if self.groups.len() >= self.max {
                return None;
            }
            self.groups.insert(key.into(), Group { series: make(), reading: self.reading });
        }
        let group = self.groups.get_mut(key)?;
        group.reading = self.reading;
        Some(&group.series)
    }

    /// End a reading: what it did not show is forgotten.
    pub(crate) fn sweep(&mut self) {
        let reading = self.reading;
        self.groups.retain(|_, group| group.reading == reading);
        self.reading += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: Definition = amount("system.x", "By", "x");

    #[test]
    fn a_group_is_made_once_and_forgotten_when_a_reading_does_not_show_it() {
        let mut catalog = Catalog::new();
        let mut groups: Groups<1> = Groups::new(1);
        let first = Arc::clone(&groups.get(b"sda", || [catalog.series(&USED, vec![])]).unwrap()[0]);
        groups.sweep();
        let again = Arc::clone(&groups.get(b"sda", || unreachable!()).unwrap()[0]);
        assert!(Arc::ptr_eq(&first, &again));
        assert!(groups.get(b"sdb", || unreachable!()).is_none(), "over the limit");
        groups.sweep();
        groups.sweep();
        assert!(groups.get(b"sdb", || [catalog.series(&USED, vec![])]).is_some(), "sda has left");
    }

    #[test]
    fn a_quotient_is_right_to_an_eighth_of_a_thousandth_and_short() {
        for value in [1.0 / 3.0, 0.031_134_5, 1.0, 7.999_9, 1e-9, 0.0] {
            let short = rounded(value);
            assert!((short - value).abs() <= value * 0.000_125, "{value}: {short}");
            assert!(short.to_bits().trailing_zeros() >= 41, "{value}: {short}");
        }
        let mut samples = Samples::default();
        samples.quotient(&Catalog::new().series(&gauge("g", "1", ""), vec![]), 2.0 / 3.0);
        assert_eq!(samples.taken[0].value, Value::Double(rounded(2.0 / 3.0)));
    }

    #[test]
    fn gauges_have_no_start_and_counters_have_theirs() {
        let mut catalog = Catalog::new();
        let mut samples = Samples { time: 2, start: 1, taken: Vec::new() };
        samples.int(&catalog.series(&counter("c", "1", ""), vec![]), u64::MAX);
        samples.double(&catalog.series(&gauge("g", "1", ""), vec![]), 0.5);
        samples.double(&catalog.series(&gauge("g", "1", ""), vec![]), f64::NAN);
        let starts: Vec<_> = samples.taken.iter().map(|sample| sample.start_unix_nano).collect();
        assert_eq!(starts, [1, 0]);
        assert_eq!(samples.taken[0].value, Value::Int(i64::MAX));
    }
}
