//! OTLP's messages as a table: field numbers, JSON names, kinds, and the size of what prost makes of each.
//!
//! Read by `weigh` (how much memory will this message take once decoded?) and by `json` (which bytes of protobuf does this
//! JSON stand for?). From opentelemetry-proto 1.x, stable messages only. Invariant: every field of those messages is here; a
//! test compares the table with prost's own encoding.

use opentelemetry_proto::tonic::common::v1 as common;
use opentelemetry_proto::tonic::logs::v1 as logs;
use opentelemetry_proto::tonic::metrics::v1 as metrics;
use opentelemetry_proto::tonic::trace::v1 as trace;
use std::mem::size_of;

/// A message type.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Bytes of the decoded structure itself, without what it points to.
    pub(crate) size: usize,
    pub(crate) fields: &'static [Field],
}

impl Shape {
    /// Whether values lie in it: a list or a map within a value.
    pub(crate) fn is_nest(&self) -> bool {
        std::ptr::eq(self, &ARRAY_VALUE) || std::ptr::eq(self, &KEY_VALUE_LIST)
    }
}

/// So many lists and maps may lie within each other in one value; what is deeper is left out, and the request goes on without it.
///
/// prost refuses a whole message at 100 messages within each other, serde_json at 127 brackets. A map in an exemplar is the worst: 8
/// messages and 3 a level, 14 brackets and 4 a level. 24 levels are 80 and 110, below both.
pub const NESTS_MAX: usize = 24;

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// lowerCamelCase, the only name that OTLP's JSON knows.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Message(&'static Shape),
    Messages(&'static Shape),
    Text,
    Texts,
    /// Bytes that JSON writes in hexadecimal: trace and span ids.
    Hex,
    /// Bytes that JSON writes in base64.
    Base64,
    Bool,
    /// int64, int32.
    Int,
    /// uint32.
    Uint32,
    /// sint32: zigzag.
    Sint32,
    /// An enum: JSON writes its number.
    Enum,
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
    /// Packed.
    Fixed64s,
    /// Packed.
    Doubles,
    /// Packed varints.
    Uint64s,
}

use Kind::{
    Base64, Bool, Double, Doubles, Enum, Fixed32, Fixed64, Fixed64s, Hex, Int, Message, Messages, Sfixed64, Sint32,
    Text, Texts, Uint32, Uint64s,
};

const fn field(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind }
}

macro_rules! shape {
    ($name:ident, $type:ty, $($number:literal $json:literal $kind:expr),* $(,)?) => {
        pub(crate) static $name: Shape =
            Shape { size: size_of::<$type>(), fields: &[$(field($number, $json, $kind)),*] };
    };
}

shape!(METRICS_REQUEST, metrics::MetricsData, 1 "resourceMetrics" Messages(&RESOURCE_METRICS));
shape!(LOGS_REQUEST, logs::LogsData, 1 "resourceLogs" Messages(&RESOURCE_LOGS));
shape!(TRACES_REQUEST, trace::TracesData, 1 "resourceSpans" Messages(&RESOURCE_SPANS));

shape!(ANY_VALUE, common::AnyValue,
    1 "stringValue" Text,
    2 "boolValue" Bool,
    3 "intValue" Int,
    4 "doubleValue" Double,
    5 "arrayValue" Message(&ARRAY_VALUE),
    6 "kvlistValue" Message(&KEY_VALUE_LIST),
    7 "bytesValue" Base64,
);
shape!(ARRAY_VALUE, common::ArrayValue, 1 "values" Messages(&ANY_VALUE));
shape!(KEY_VALUE_LIST, common::KeyValueList, 1 "values" Messages(&KEY_VALUE));
shape!(KEY_VALUE, common::KeyValue, 1 "key" Text, 2 "value" Message(&ANY_VALUE));
shape!(SCOPE, common::InstrumentationScope,
    1 "name" Text,
    2 "version" Text,
    3 "attributes" Messages(&KEY_VALUE),
    4 "droppedAttributesCount" Uint32,
);
shape!(ENTITY_REF, common::EntityRef,
    1 "schemaUrl" Text,
    2 "type" Text,
    3 "idKeys" Texts,
    4 "descriptionKeys" Texts,
);
shape!(RESOURCE, opentelemetry_proto::tonic::resource::v1::Resource,
    1 "attributes" Messages(&KEY_VALUE),
    2 "droppedAttributesCount" Uint32,
    3 "entityRefs" Messages(&ENTITY_REF),
);

shape!(RESOURCE_SPANS, trace::ResourceSpans,
    1 "resource" Message(&RESOURCE),
    2 "scopeSpans" Messages(&SCOPE_SPANS),
    3 "schemaUrl" Text,
);
shape!(SCOPE_SPANS, trace::ScopeSpans,
    1 "scope" Message(&SCOPE),
    2 "spans" Messages(&SPAN),
    3 "schemaUrl" Text,
);
shape!(SPAN, trace::Span,
    1 "traceId" Hex,
    2 "spanId" Hex,
    3 "traceState" Text,
    4 "parentSpanId" Hex,
    5 "name" Text,
    6 "kind" Enum,
    7 "startTimeUnixNano" Fixed64,
    8 "endTimeUnixNano" Fixed64,
    9 "attributes" Messages(&KEY_VALUE),
    10 "droppedAttributesCount" Uint32,
    11 "events" Messages(&SPAN_EVENT),
    12 "droppedEventsCount" Uint32,
    13 "links" Messages(&SPAN_LINK),
    14 "droppedLinksCount" Uint32,
    15 "status" Message(&STATUS),
    16 "flags" Fixed32,
);
shape!(SPAN_EVENT, trace::span::Event,
    1 "timeUnixNano" Fixed64,
    2 "name" Text,
    3 "attributes" Messages(&KEY_VALUE),
    4 "droppedAttributesCount" Uint32,
);
shape!(SPAN_LINK, trace::span::Link,
    1 "traceId" Hex,
    2 "spanId" Hex,
    3 "traceState" Text,
    4 "attributes" Messages(&KEY_VALUE),
    5 "droppedAttributesCount" Uint32,
    6 "flags" Fixed32,
);
shape!(STATUS, trace::Status, 2 "message" Text, 3 "code" Enum);

shape!(RESOURCE_LOGS, logs::ResourceLogs,
    1 "resource" Message(&RESOURCE),
    2 "scopeLogs" Messages(&SCOPE_LOGS),
    3 "schemaUrl" Text,
);
shape!(SCOPE_LOGS, logs::ScopeLogs,
    1 "scope" Message(&SCOPE),
    2 "logRecords" Messages(&LOG_RECORD),
    3 "schemaUrl" Text,
);
shape!(LOG_RECORD, logs::LogRecord,
    1 "timeUnixNano" Fixed64,
    2 "severityNumber" Enum,
    3 "severityText" Text,
    5 "body" Message(&ANY_VALUE),
    6 "attributes" Messages(&KEY_VALUE),
    7 "droppedAttributesCount" Uint32,
    8 "flags" Fixed32,
    9 "traceId" Hex,
    10 "spanId" Hex,
    11 "observedTimeUnixNano" Fixed64,
    12 "eventName" Text,
);

shape!(RESOURCE_METRICS, metrics::ResourceMetrics,
    1 "resource" Message(&RESOURCE),
    2 "scopeMetrics" Messages(&SCOPE_METRICS),
    3 "schemaUrl" Text,
);
shape!(SCOPE_METRICS, metrics::ScopeMetrics,
    1 "scope" Message(&SCOPE),
    2 "metrics" Messages(&METRIC),
    3 "schemaUrl" Text,
);
shape!(METRIC, metrics::Metric,
    1 "name" Text,
    2 "description" Text,
    3 "unit" Text,
    5 "gauge" Message(&GAUGE),
    7 "sum" Message(&SUM),
    9 "histogram" Message(&HISTOGRAM),
    10 "exponentialHistogram" Message(&EXPONENTIAL_HISTOGRAM),
    11 "summary" Message(&SUMMARY),
    12 "metadata" Messages(&KEY_VALUE),
);
shape!(GAUGE, metrics::Gauge, 1 "dataPoints" Messages(&NUMBER_POINT));
shape!(SUM, metrics::Sum,
    1 "dataPoints" Messages(&NUMBER_POINT),
    2 "aggregationTemporality" Enum,
    3 "isMonotonic" Bool,
);
shape!(HISTOGRAM, metrics::Histogram,
    1 "dataPoints" Messages(&HISTOGRAM_POINT),
    2 "aggregationTemporality" Enum,
);
shape!(EXPONENTIAL_HISTOGRAM, metrics::ExponentialHistogram,
    1 "dataPoints" Messages(&EXPONENTIAL_POINT),
    2 "aggregationTemporality" Enum,
);
shape!(SUMMARY, metrics::Summary, 1 "dataPoints" Messages(&SUMMARY_POINT));
shape!(NUMBER_POINT, metrics::NumberDataPoint,
    2 "startTimeUnixNano" Fixed64,
    3 "timeUnixNano" Fixed64,
    4 "asDouble" Double,
    5 "exemplars" Messages(&EXEMPLAR),
    6 "asInt" Sfixed64,
    7 "attributes" Messages(&KEY_VALUE),
    8 "flags" Uint32,
);
shape!(HISTOGRAM_POINT, metrics::HistogramDataPoint,
    2 "startTimeUnixNano" Fixed64,
    3 "timeUnixNano" Fixed64,
    4 "count" Fixed64,
    5 "sum" Double,
    6 "bucketCounts" Fixed64s,
    7 "explicitBounds" Doubles,
    8 "exemplars" Messages(&EXEMPLAR),
    9 "attributes" Messages(&KEY_VALUE),
    10 "flags" Uint32,
    11 "min" Double,
    12 "max" Double,
);
shape!(EXPONENTIAL_POINT, metrics::ExponentialHistogramDataPoint,
    1 "attributes" Messages(&KEY_VALUE),
    2 "startTimeUnixNano" Fixed64,
    3 "timeUnixNano" Fixed64,
    4 "count" Fixed64,
    5 "sum" Double,
    6 "scale" Sint32,
    7 "zeroCount" Fixed64,
    8 "positive" Message(&BUCKETS),
    9 "negative" Message(&BUCKETS),
    10 "flags" Uint32,
    11 "exemplars" Messages(&EXEMPLAR),
    12 "min" Double,
    13 "max" Double,
    14 "zeroThreshold" Double,
);
shape!(BUCKETS, metrics::exponential_histogram_data_point::Buckets,
    1 "offset" Sint32,
    2 "bucketCounts" Uint64s,
);
shape!(SUMMARY_POINT, metrics::SummaryDataPoint,
    2 "startTimeUnixNano" Fixed64,
    3 "timeUnixNano" Fixed64,
    4 "count" Fixed64,
    5 "sum" Double,
    6 "quantileValues" Messages(&QUANTILE),
    7 "attributes" Messages(&KEY_VALUE),
    8 "flags" Uint32,
);
shape!(QUANTILE, metrics::summary_data_point::ValueAtQuantile, 1 "quantile" Double, 2 "value" Double);
shape!(EXEMPLAR, metrics::Exemplar,
    2 "timeUnixNano" Fixed64,
    3 "asDouble" Double,
    4 "spanId" Hex,
    5 "traceId" Hex,
    6 "asInt" Sfixed64,
    7 "filteredAttributes" Messages(&KEY_VALUE),
);
