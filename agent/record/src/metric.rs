//! Metrics as the agent holds them: a series described once, and samples that point to it.
//!
//! An input builds each [`Series`] once and keeps the `Arc`; a sample then costs no allocation. `process` folds by series.
//! Invariant: a series' attributes are sorted, so equal series are equal and hash alike whatever order they came in.

use crate::otlp::{
    common::v1::{InstrumentationScope, KeyValue},
    metrics::v1::{Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, SummaryDataPoint},
};
use crate::value::{attributes_hash, attributes_heap_bytes, feed_text, sort_attributes};
use prost::Message;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// An instrumentation scope with its hash.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// OTLP's own message.
    pub proto: InstrumentationScope,
    /// `schema_url` of the enclosing ScopeMetrics.
    pub schema_url: String,
}

/// What kind of number a metric is. Temporality is as received; folding emits delta.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A current value.
    #[default]
    Gauge,
    /// A sum: `monotonic` is a counter; `delta` says the samples are increases, else totals since their start.
    Sum {
        /// Never goes down but for resets.
        monotonic: bool,
        /// Increases rather than totals.
        delta: bool,
    },
    /// Explicit-bucket histogram.
    Histogram {
        /// Increases rather than totals.
        delta: bool,
    },
    /// Exponential histogram.
    ExponentialHistogram {
        /// Increases rather than totals.
        delta: bool,
    },
    /// Quantiles computed by the sender: passed through.
    Summary,
}

/// A metric's description, shared by its series.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metric {
    /// OTel name, for example `system.cpu.time`.
    pub name: String,
    /// UCUM unit.
    pub unit: String,
    /// For humans.
    pub description: String,
    /// What its numbers are.
    pub kind: Kind,
    /// What its application says of it beyond that.
    pub metadata: Vec<KeyValue>,
}

/// One time series within a resource: scope, metric and attributes.
#[derive(Clone, Debug)]
pub struct Series {
    /// Who measured.
    pub scope: Arc<Scope>,
    /// What is measured.
    pub metric: Arc<Metric>,
    attributes: Vec<KeyValue>,
    hash: u64,
    attribute_bytes: u32,
}

impl Series {
    /// Sort the attributes and hash the whole, everything that equality compares: series that differed in what is left out would
    /// have to be compared one by one. The hash is stable across restarts.
    pub fn new(scope: Arc<Scope>, metric: Arc<Metric>, mut attributes: Vec<KeyValue>) -> Series {
        sort_attributes(&mut attributes);
        // Held for long, and counted.
        attributes.shrink_to_fit();
        let mut hasher = Xxh3::new();
        feed_text(&mut hasher, &scope.proto.name);
        feed_text(&mut hasher, &scope.proto.version);
        feed_text(&mut hasher, &scope.schema_url);
        hasher.update(&attributes_hash(&scope.proto.attributes).to_le_bytes());
        feed_text(&mut hasher, &metric.name);
        feed_text(&mut hasher, &metric.unit);
        feed_text(&mut hasher, &metric.description);
        hasher.update(&attributes_hash(&metric.metadata).to_le_bytes());
        feed_text(&mut hasher, &format!("{:?}", metric.kind));
        hasher.update(&attributes_hash(&attributes).to_le_bytes());
        let attribute_bytes = attributes.iter().map(|a| field_bytes(a.encoded_len())).sum::<usize>() as u32;
        Series { scope, metric, attributes, hash: hasher.digest(), attribute_bytes }
    }

    /// Sorted by key.
    pub fn attributes(&self) -> &[KeyValue] {
        &self.attributes
    }

    /// Equal for equal series.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Bytes of the series itself and of its attributes on the heap; scope and metric, which series share, left out.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Series>() + attributes_heap_bytes(&self.attributes)
    }
}

/// Bytes of a length-delimited field with a tag of one byte.
fn field_bytes(content: usize) -> usize {
    1 + prost::length_delimiter_len(content) + content
}

impl PartialEq for Series {
    fn eq(&self, other: &Series) -> bool {
        self.hash == other.hash
            && self.metric == other.metric
            && self.attributes == other.attributes
            && self.scope == other.scope
    }
}

impl Eq for Series {}

impl std::hash::Hash for Series {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// One measurement of a series.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Whose.
    pub series: Arc<Series>,
    /// Start of the interval for sums and histograms, 0 when unknown. Nanoseconds since the epoch.
    pub start_unix_nano: u64,
    /// When. Nanoseconds since the epoch.
    pub time_unix_nano: u64,
    /// OTLP data point flags.
    pub flags: u32,
    /// How much.
    pub value: Value,
    /// Exemplars of number points; those of histograms stay in their points.
    pub exemplars: Vec<Exemplar>,
}

/// A sample's value. Histogram points are OTLP's own with attributes, times, flags left empty (the sample has them).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An integer.
    Int(i64),
    /// A float.
    Double(f64),
    /// Explicit buckets.
    Histogram(Box<HistogramDataPoint>),
    /// Exponential buckets.
    ExponentialHistogram(Box<ExponentialHistogramDataPoint>),
    /// Quantiles.
    Summary(Box<SummaryDataPoint>),
    /// A point flagged "no recorded value": the series ended or was not measured.
    Missing,
}

impl Sample {
    /// A plain number without exemplars.
    pub fn number(series: &Arc<Series>, start_unix_nano: u64, time_unix_nano: u64, value: Value) -> Sample {
        Sample { series: Arc::clone(series), start_unix_nano, time_unix_nano, flags: 0, value, exemplars: Vec::new() }
    }

    /// Bytes of this sample as an OTLP data point, uncompressed; its share of the metric's name, scope and resource left out.
    pub fn wire_bytes(&self) -> usize {
        /// Tag and fixed64, for each of start, time and a number.
        const FIXED: usize = 9;
        let value = match &self.value {
            Value::Int(_) | Value::Double(_) => FIXED,
            Value::Histogram(point) => point.encoded_len(),
            Value::ExponentialHistogram(point) => point.encoded_len(),
            Value::Summary(point) => point.encoded_len(),
            Value::Missing => 0,
        };
        let start = if self.start_unix_nano == 0 { 0 } else { FIXED };
        let flags = if self.flags == 0 { 0 } else { 2 };
        let exemplars: usize = self.exemplars.iter().map(|exemplar| field_bytes(exemplar.encoded_len())).sum();
        field_bytes(self.series.attribute_bytes as usize + start + FIXED + value + flags + exemplars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::string;

    fn metric(kind: Kind) -> Arc<Metric> {
        Arc::new(Metric { name: "m".into(), unit: "By".into(), kind, ..Metric::default() })
    }

    #[test]
    fn attribute_order_does_not_make_another_series() {
        let scope = Arc::new(Scope::default());
        let one = Series::new(scope.clone(), metric(Kind::Gauge), vec![string("a", "1"), string("b", "2")]);
        let two = Series::new(scope, metric(Kind::Gauge), vec![string("b", "2"), string("a", "1")]);
        assert_eq!(one, two);
        assert_eq!(one.hash(), two.hash());
    }

    #[test]
    fn the_counted_bytes_are_those_of_the_encoded_point() {
        use crate::otlp::metrics::v1::{NumberDataPoint, number_data_point};
        let series = Series::new(Arc::default(), metric(Kind::Gauge), vec![string("a", "1"), string("bb", "two")]);
        let attributes = series.attributes().to_vec();
        let sample = Sample::number(&Arc::new(series), 5, 6, Value::Int(7));
        let value = Some(number_data_point::Value::AsInt(7));
        let point =
            NumberDataPoint { attributes, start_time_unix_nano: 5, time_unix_nano: 6, value, ..Default::default() };
        assert_eq!(sample.wire_bytes(), field_bytes(point.encoded_len()));
    }

    #[test]
    fn whatever_makes_another_series_makes_another_hash() {
        let plain = Metric::default();
        let hash = |scope: Scope, metric: Metric| Series::new(Arc::new(scope), Arc::new(metric), vec![]).hash();
        let scope = |attribute: &str, schema_url: &str| {
            let proto = InstrumentationScope { attributes: vec![string("a", attribute)], ..Default::default() };
            Scope { proto, schema_url: schema_url.into() }
        };
        let hashes = [
            hash(scope("1", ""), plain.clone()),
            hash(scope("2", ""), plain.clone()),
            hash(scope("1", "u"), plain.clone()),
            hash(scope("1", ""), Metric { description: "d".into(), ..plain.clone() }),
            hash(scope("1", ""), Metric { metadata: vec![string("m", "1")], ..plain.clone() }),
            hash(scope("1", ""), Metric { unit: "s".into(), ..plain }),
        ];
        let distinct: std::collections::BTreeSet<u64> = hashes.into_iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn kind_makes_another_series() {
        let scope = Arc::new(Scope::default());
        let one = Series::new(scope.clone(), metric(Kind::Gauge), vec![]);
        let two = Series::new(scope, metric(Kind::Sum { monotonic: true, delta: true }), vec![]);
        assert_ne!(one, two);
    }
}
