//! The columns that the gateway writes, table by table: names and types, in the order of the [rows](crate::rows).
//!
//! What is inserted names every column with its type (FORMAT Native), and the builders in the gateway are made from these lists. Invariant: names
//! and types are those of the migrations, which a test against the engine holds.

use crate::rows::{LogRow, MetricRow, SeriesRow, SpanRow};
use std::fmt;

/// A type of ClickHouse's, of those that the tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// One byte.
    UInt8,
    /// One byte, 0 or 1.
    Bool,
    /// One byte; with its members as they are declared.
    Enum8(&'static str),
    /// Four bytes.
    UInt32,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    UInt64,
    /// Eight bytes.
    Float64,
    /// Seconds since the epoch, four bytes.
    DateTime,
    /// Nanoseconds since the epoch, eight bytes.
    DateTime64,
    /// A double or nothing.
    NullableFloat64,
    /// Text or any bytes.
    String,
    /// Text of few values.
    LowCardinality,
    /// Text of few values to text.
    Map,
    /// A list.
    Array(&'static Type),
}

impl fmt::Display for Type {
    /// As ClickHouse spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::UInt8 => "UInt8",
            Type::Bool => "Bool",
            Type::Enum8(members) => return write!(f, "Enum8({members})"),
            Type::UInt32 => "UInt32",
            Type::Int32 => "Int32",
            Type::UInt64 => "UInt64",
            Type::Float64 => "Float64",
            Type::DateTime => "DateTime",
            Type::DateTime64 => "DateTime64(9)",
            Type::NullableFloat64 => "Nullable(Float64)",
            Type::String => "String",
            Type::LowCardinality => "LowCardinality(String)",
            Type::Map => "Map(LowCardinality(String), String)",
            Type::Array(of) => return write!(f, "Array({of})"),
        })
    }
}

/// Name and type.
pub type Column = (&'static str, Type);

use Type::{
    Array, Bool, DateTime, DateTime64, Enum8, Float64, Int32, LowCardinality, Map, NullableFloat64, String, UInt8,
    UInt32, UInt64,
};

const METRIC_TYPE: Type = Enum8("'gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5");
const TEMPORALITY: Type = Enum8("'unspecified' = 0, 'delta' = 1, 'cumulative' = 2");

/// A row type whose table the gateway writes.
pub trait Columns {
    /// Field for field.
    const COLUMNS: &'static [Column];
}

impl Columns for SeriesRow {
    const COLUMNS: &'static [Column] = &[
        ("TenantId", LowCardinality),
        ("MetricName", LowCardinality),
        ("SeriesHash", UInt64),
        ("ServiceName", LowCardinality),
        ("MetricType", METRIC_TYPE),
        ("MetricUnit", LowCardinality),
        ("MetricDescription", String),
        ("AggregationTemporality", TEMPORALITY),
        ("IsMonotonic", Bool),
        ("ResourceSchemaUrl", LowCardinality),
        ("ResourceAttributes", Map),
        ("ScopeName", LowCardinality),
        ("ScopeVersion", LowCardinality),
        ("ScopeSchemaUrl", LowCardinality),
        ("ScopeAttributes", Map),
        ("Attributes", Map),
        ("LastSeen", DateTime),
        ("ExpiresAt", DateTime),
    ];
}

impl Columns for MetricRow {
    const COLUMNS: &'static [Column] = &[
        ("TenantId", LowCardinality),
        ("MetricName", LowCardinality),
        ("SeriesHash", UInt64),
        ("ServiceName", LowCardinality),
        ("StartTimeUnix", DateTime64),
        ("TimeUnix", DateTime64),
        ("MetricType", METRIC_TYPE),
        ("AggregationTemporality", TEMPORALITY),
        ("IsMonotonic", Bool),
        ("Flags", UInt32),
        ("Value", Float64),
        ("Count", UInt64),
        ("Sum", NullableFloat64),
        ("Min", NullableFloat64),
        ("Max", NullableFloat64),
        ("ExplicitBounds", Array(&Float64)),
        ("BucketCounts", Array(&UInt64)),
        ("Scale", Int32),
        ("ZeroCount", UInt64),
        ("ZeroThreshold", Float64),
        ("PositiveOffset", Int32),
        ("PositiveBucketCounts", Array(&UInt64)),
        ("NegativeOffset", Int32),
        ("NegativeBucketCounts", Array(&UInt64)),
        ("ValueAtQuantiles.Quantile", Array(&Float64)),
        ("ValueAtQuantiles.Value", Array(&Float64)),
        ("Exemplars.FilteredAttributes", Array(&Map)),
        ("Exemplars.TimeUnix", Array(&DateTime64)),
        ("Exemplars.Value", Array(&Float64)),
        ("Exemplars.SpanId", Array(&String)),
        ("Exemplars.TraceId", Array(&String)),
        ("SpanName", LowCardinality),
        ("SpanKind", LowCardinality),
        ("StatusCode", LowCardinality),
        ("AgentId", LowCardinality),
        ("BatchSequence", UInt64),
        ("IngestedAt", DateTime),
        ("ExpiresAt", DateTime),
    ];
}

impl Columns for LogRow {
    const COLUMNS: &'static [Column] = &[
        ("TenantId", LowCardinality),
        ("Timestamp", DateTime64),
        ("ObservedTimestamp", DateTime64),
        ("TraceId", String),
        ("SpanId", String),
        ("TraceFlags", UInt8),
        ("SeverityText", LowCardinality),
        ("SeverityNumber", UInt8),
        ("ServiceName", LowCardinality),
        ("EventName", LowCardinality),
        ("Body", String),
        ("LineCount", UInt64),
        ("ResourceSchemaUrl", LowCardinality),
        ("ResourceAttributes", Map),
        ("ScopeSchemaUrl", LowCardinality),
        ("ScopeName", LowCardinality),
        ("ScopeVersion", LowCardinality),
        ("ScopeAttributes", Map),
        ("LogAttributes", Map),
        ("AgentId", LowCardinality),
        ("BatchSequence", UInt64),
        ("IngestedAt", DateTime),
        ("ExpiresAt", DateTime),
    ];
}

impl Columns for SpanRow {
    const COLUMNS: &'static [Column] = &[
        ("TenantId", LowCardinality),
        ("Timestamp", DateTime64),
        ("TraceId", String),
        ("SpanId", String),
        ("ParentSpanId", String),
        ("TraceState", String),
        ("TraceFlags", UInt32),
        ("SpanName", LowCardinality),
        ("SpanKind", LowCardinality),
        ("ServiceName", LowCardinality),
        ("ResourceSchemaUrl", LowCardinality),
        ("ResourceAttributes", Map),
        ("ScopeSchemaUrl", LowCardinality),
        ("ScopeName", LowCardinality),
        ("ScopeVersion", LowCardinality),
        ("ScopeAttributes", Map),
        ("SpanAttributes", Map),
        ("Duration", UInt64),
        ("StatusCode", LowCardinality),
        ("StatusMessage", String),
        ("SampleWeight", Float64),
        ("Events.Timestamp", Array(&DateTime64)),
        ("Events.Name", Array(&LowCardinality)),
        ("Events.Attributes", Array(&Map)),
        ("Links.TraceId", Array(&String)),
        ("Links.SpanId", Array(&String)),
        ("Links.TraceState", Array(&String)),
        ("Links.Attributes", Array(&Map)),
        ("AgentId", LowCardinality),
        ("BatchSequence", UInt64),
        ("IngestedAt", DateTime),
        ("ExpiresAt", DateTime),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;
    use clickhouse::Row;

    #[test]
    fn columns_are_the_fields_of_the_rows_in_their_order() {
        fn check<R: Row + Columns>() {
            let names: Vec<&str> = R::COLUMNS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, R::COLUMN_NAMES);
        }
        check::<SeriesRow>();
        check::<MetricRow>();
        check::<LogRow>();
        check::<SpanRow>();
    }

    #[test]
    fn types_are_spelled_as_clickhouse_does() {
        assert_eq!(Array(&Map).to_string(), "Array(Map(LowCardinality(String), String))");
        assert_eq!(TEMPORALITY.to_string(), "Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2)");
    }
}
