-- The metrics' views have the exporter's columns and no others of common names: tools select everything and add columns of their own
-- (ClickStack's `Sum`, `Rate`), and ask for ScopeDroppedAttrCount, which the exporter always has. TenantId and SeriesHash come on top;
-- what else a point has is in the view metrics.

CREATE OR REPLACE VIEW otel_metrics_gauge ${on_cluster} AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Value, Flags,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId
FROM metrics WHERE MetricType = 'gauge';

CREATE OR REPLACE VIEW otel_metrics_sum ${on_cluster} AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Value, Flags,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId,
    toInt32(m.AggregationTemporality) AS AggregationTemporality, IsMonotonic
FROM metrics AS m WHERE MetricType = 'sum';

CREATE OR REPLACE VIEW otel_metrics_histogram ${on_cluster} AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Count, Sum, BucketCounts, ExplicitBounds,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId,
    Flags, Min, Max, toInt32(m.AggregationTemporality) AS AggregationTemporality
FROM metrics AS m WHERE MetricType = 'histogram';

CREATE OR REPLACE VIEW otel_metrics_exponential_histogram ${on_cluster} AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Count, Sum, Scale, ZeroCount, PositiveOffset, PositiveBucketCounts, NegativeOffset, NegativeBucketCounts,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId,
    Flags, Min, Max, toInt32(m.AggregationTemporality) AS AggregationTemporality
FROM metrics AS m WHERE MetricType = 'exponential_histogram';

CREATE OR REPLACE VIEW otel_metrics_summary ${on_cluster} AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Count, Sum, ValueAtQuantiles.Quantile, ValueAtQuantiles.Value, Flags
FROM metrics WHERE MetricType = 'summary';
