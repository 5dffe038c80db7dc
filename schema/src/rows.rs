//! The rows that the gateway writes: one struct a table, field for column, in the order of the migrations.
//!
//! They come from `convert`, gather in `batch` and leave by `write`; the views fill every other table. Times are nanoseconds
//! (`i64`, DateTime64(9)) or seconds (`u32`, DateTime) since the epoch. Attribute maps are sorted by key, values in OTLP's string
//! form. Invariant: names and types equal the columns of the migrations, which a test against the engine holds.

use clickhouse::Row;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;

/// Attributes, sorted by key.
pub type Attributes = Vec<(String, String)>;

/// Attributes that many rows share: those of a resource or a scope.
pub type SharedAttributes = Arc<Attributes>;

/// A table that the gateway writes.
pub trait Table: Row {
    /// Its name, without the database.
    const NAME: &'static str;
}

impl Table for MetricRow {
    const NAME: &'static str = "metrics_raw";
}

impl Table for SeriesRow {
    const NAME: &'static str = "metrics_series";
}

impl Table for LogRow {
    const NAME: &'static str = "logs_raw";
}

impl Table for SpanRow {
    const NAME: &'static str = "traces_raw";
}

/// An `Enum8` as the crate sends it: one signed byte.
macro_rules! enum8 {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(i8)]
        pub enum $name {
            #[default]
            $($(#[$variant_doc])* $variant = $number,)+
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_i8(*self as i8)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match i8::deserialize(deserializer)? {
                    $($number => Ok($name::$variant),)+
                    other => Err(serde::de::Error::custom(format_args!("{} has no member {other}", stringify!($name)))),
                }
            }
        }
    };
}

enum8! {
    /// What a metric's points are.
    MetricType {
        /// A current value, or the fold of a window of them.
        Gauge = 1,
        /// A sum.
        Sum = 2,
        /// Explicit buckets.
        Histogram = 3,
        /// Exponential buckets.
        ExponentialHistogram = 4,
        /// Quantiles computed by the sender.
        Summary = 5,
    }
}

enum8! {
    /// OTLP's AggregationTemporality, with its numbers.
    Temporality {
        /// Not a sum or histogram.
        Unspecified = 0,
        /// Increase since StartTimeUnix.
        Delta = 1,
        /// Total since StartTimeUnix.
        Cumulative = 2,
    }
}

/// The labels of a series, written once per series and now and then again: the row with the newest `last_seen` stands.
#[derive(Clone, Debug, Default, PartialEq, Row, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SeriesRow {
    /// From the key alone.
    pub tenant_id: String,
    /// OTel name.
    pub metric_name: String,
    /// Over resource, scope, metric and attributes: joins points to labels.
    pub series_hash: u64,
    /// See [`MetricRow::service_name`].
    pub service_name: String,
    /// What its points are.
    pub metric_type: MetricType,
    /// UCUM.
    pub metric_unit: String,
    /// For humans.
    pub metric_description: String,
    /// Of sums and histograms.
    pub aggregation_temporality: Temporality,
    /// Of sums.
    pub is_monotonic: bool,
    /// As received.
    pub resource_schema_url: String,
    /// Who.
    pub resource_attributes: SharedAttributes,
    /// Instrumentation scope.
    pub scope_name: String,
    /// Its version.
    pub scope_version: String,
    /// As received.
    pub scope_schema_url: String,
    /// Of the scope.
    pub scope_attributes: SharedAttributes,
    /// Of the points.
    pub attributes: Attributes,
    /// Seconds.
    pub last_seen: u32,
    /// Seconds; not before its last point's.
    pub expires_at: u32,
}

/// A metric point.
///
/// | OTLP | columns |
/// |---|---|
/// | gauge point | `value`, `count` 1, `sum` = `min` = `max` = `value` |
/// | gauge fold (`ollystack.fold` = `gauge`) | type gauge; `value` the exemplar's, without one `min` if it is `max`; `count`, `sum`, `min`, `max` the histogram's |
/// | up-down counter fold (`updowncounter`) | type sum, cumulative, not monotonic; the rest as a gauge fold |
/// | sum point | `value` = `sum`, `count` 1 |
/// | histogram | `count`, `sum`, `min`, `max`, `explicit_bounds`, `bucket_counts` |
/// | exponential histogram | `count`, `sum`, `min`, `max`, `scale`, `zero_*`, `positive_*`, `negative_*` |
/// | summary | `count`, `sum`, `quantiles`, `quantile_values` |
#[derive(Clone, Debug, Default, PartialEq, Row, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MetricRow {
    /// From the key alone.
    pub tenant_id: String,
    /// OTel name.
    pub metric_name: String,
    /// Joins to [`SeriesRow`].
    pub series_hash: u64,
    /// `service.name` of the point if it has one (an agent's RED metrics speak for many services), else of the resource.
    pub service_name: String,
    /// Nanoseconds; 0 when unknown.
    pub start_time_unix: i64,
    /// Nanoseconds.
    pub time_unix: i64,
    /// What the point is.
    pub metric_type: MetricType,
    /// Of sums and histograms.
    pub aggregation_temporality: Temporality,
    /// Of sums.
    pub is_monotonic: bool,
    /// OTLP data point flags.
    pub flags: u32,
    /// A gauge's last value, a sum's value.
    pub value: f64,
    /// Measurements in the point.
    pub count: u64,
    /// Their sum, if sent.
    pub sum: Option<f64>,
    /// Smallest, if sent.
    pub min: Option<f64>,
    /// Largest, if sent.
    pub max: Option<f64>,
    /// Explicit histogram.
    pub explicit_bounds: Vec<f64>,
    /// Explicit histogram.
    pub bucket_counts: Vec<u64>,
    /// Exponential histogram.
    pub scale: i32,
    /// Exponential histogram.
    pub zero_count: u64,
    /// Exponential histogram.
    pub zero_threshold: f64,
    /// Exponential histogram.
    pub positive_offset: i32,
    /// Exponential histogram.
    pub positive_bucket_counts: Vec<u64>,
    /// Exponential histogram.
    pub negative_offset: i32,
    /// Exponential histogram.
    pub negative_bucket_counts: Vec<u64>,
    /// Summary: the quantiles.
    #[serde(rename = "ValueAtQuantiles.Quantile")]
    pub quantiles: Vec<f64>,
    /// Summary: their values; as long as `quantiles`.
    #[serde(rename = "ValueAtQuantiles.Value")]
    pub quantile_values: Vec<f64>,
    /// Exemplars, five columns of one length: attributes.
    #[serde(rename = "Exemplars.FilteredAttributes")]
    pub exemplar_attributes: Vec<Attributes>,
    /// Nanoseconds.
    #[serde(rename = "Exemplars.TimeUnix")]
    pub exemplar_times: Vec<i64>,
    /// Values.
    #[serde(rename = "Exemplars.Value")]
    pub exemplar_values: Vec<f64>,
    /// Lower-case hexadecimal.
    #[serde(rename = "Exemplars.SpanId")]
    pub exemplar_span_ids: Vec<String>,
    /// Lower-case hexadecimal.
    #[serde(rename = "Exemplars.TraceId")]
    pub exemplar_trace_ids: Vec<String>,
    /// Attribute `span.name` of `ollystack.span.duration`; empty on every other metric.
    pub span_name: String,
    /// Attribute `span.kind` of `ollystack.span.duration`; empty on every other metric.
    pub span_kind: String,
    /// Attribute `status.code` of `ollystack.span.duration`; empty on every other metric.
    pub status_code: String,
    /// The sending agent's UUID; empty when the sender is not an agent.
    pub agent_id: String,
    /// Number of the delivery within the agent; 0 when the sender is not an agent.
    pub batch_sequence: u64,
    /// Seconds.
    pub ingested_at: u32,
    /// Seconds: IngestedAt plus the tenant's retention.
    pub expires_at: u32,
}

/// A log record.
#[derive(Clone, Debug, Default, PartialEq, Row, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LogRow {
    /// From the key alone.
    pub tenant_id: String,
    /// Nanoseconds; the observed time when the record has none.
    pub timestamp: i64,
    /// Nanoseconds.
    pub observed_timestamp: i64,
    /// Lower-case hexadecimal, empty when absent.
    pub trace_id: String,
    /// Lower-case hexadecimal, empty when absent.
    pub span_id: String,
    /// W3C trace flags.
    pub trace_flags: u8,
    /// As received.
    pub severity_text: String,
    /// 1 to 24; 0 when unset.
    pub severity_number: u8,
    /// `service.name` of the resource.
    pub service_name: String,
    /// OTLP event name.
    pub event_name: String,
    /// The body; JSON when it is structured.
    pub body: String,
    /// How many lines the row stands for: 1, or what folding counted (attribute `ollystack.log.count`).
    pub line_count: u64,
    /// As received.
    pub resource_schema_url: String,
    /// Who.
    pub resource_attributes: SharedAttributes,
    /// As received.
    pub scope_schema_url: String,
    /// Instrumentation scope.
    pub scope_name: String,
    /// Its version.
    pub scope_version: String,
    /// Of the scope.
    pub scope_attributes: SharedAttributes,
    /// Of the record.
    pub log_attributes: Attributes,
    /// The sending agent's UUID; empty when the sender is not an agent.
    pub agent_id: String,
    /// Number of the delivery within the agent; 0 when the sender is not an agent.
    pub batch_sequence: u64,
    /// Seconds.
    pub ingested_at: u32,
    /// Seconds: IngestedAt plus the tenant's retention.
    pub expires_at: u32,
}

/// A span.
#[derive(Clone, Debug, Default, PartialEq, Row, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SpanRow {
    /// From the key alone.
    pub tenant_id: String,
    /// Start, nanoseconds.
    pub timestamp: i64,
    /// Lower-case hexadecimal.
    pub trace_id: String,
    /// Lower-case hexadecimal.
    pub span_id: String,
    /// Lower-case hexadecimal, empty for a root.
    pub parent_span_id: String,
    /// W3C tracestate as received.
    pub trace_state: String,
    /// OTLP span flags.
    pub trace_flags: u32,
    /// Operation.
    pub span_name: String,
    /// One of [`SPAN_KINDS`](crate::names::SPAN_KINDS).
    pub span_kind: String,
    /// `service.name` of the resource.
    pub service_name: String,
    /// As received.
    pub resource_schema_url: String,
    /// Who.
    pub resource_attributes: SharedAttributes,
    /// As received.
    pub scope_schema_url: String,
    /// Instrumentation scope.
    pub scope_name: String,
    /// Its version.
    pub scope_version: String,
    /// Of the scope.
    pub scope_attributes: SharedAttributes,
    /// Of the span.
    pub span_attributes: Attributes,
    /// Nanoseconds; 0 when the end lies before the start.
    pub duration: u64,
    /// One of [`STATUS_CODES`](crate::names::STATUS_CODES).
    pub status_code: String,
    /// As received.
    pub status_message: String,
    /// How many spans it stands for: from tracestate `ot=th`, else 1.
    pub sample_weight: f64,
    /// Events, three columns of one length: nanoseconds.
    #[serde(rename = "Events.Timestamp")]
    pub event_timestamps: Vec<i64>,
    /// Names.
    #[serde(rename = "Events.Name")]
    pub event_names: Vec<String>,
    /// Attributes.
    #[serde(rename = "Events.Attributes")]
    pub event_attributes: Vec<Attributes>,
    /// Links, four columns of one length: lower-case hexadecimal.
    #[serde(rename = "Links.TraceId")]
    pub link_trace_ids: Vec<String>,
    /// Lower-case hexadecimal.
    #[serde(rename = "Links.SpanId")]
    pub link_span_ids: Vec<String>,
    /// W3C tracestate.
    #[serde(rename = "Links.TraceState")]
    pub link_trace_states: Vec<String>,
    /// Attributes.
    #[serde(rename = "Links.Attributes")]
    pub link_attributes: Vec<Attributes>,
    /// The sending agent's UUID; empty when the sender is not an agent.
    pub agent_id: String,
    /// Number of the delivery within the agent; 0 when the sender is not an agent.
    pub batch_sequence: u64,
    /// Seconds.
    pub ingested_at: u32,
    /// Seconds: IngestedAt plus the tenant's retention.
    pub expires_at: u32,
}
