-- The tables' names in the OpenTelemetry ClickHouse exporter, for tools that insist on them.

CREATE VIEW IF NOT EXISTS otel_logs ${on_cluster} AS SELECT *, toDateTime(Timestamp) AS TimestampTime FROM logs_raw;

CREATE VIEW IF NOT EXISTS otel_traces ${on_cluster} AS SELECT * FROM traces_raw;

CREATE VIEW IF NOT EXISTS otel_traces_trace_id_ts ${on_cluster} AS
SELECT TenantId, TraceId, min(t.Start) AS Start, max(t.End) AS End FROM traces_trace_id_ts AS t GROUP BY TenantId, TraceId;

-- A point with the labels of its series.
CREATE VIEW IF NOT EXISTS metrics ${on_cluster} AS
SELECT
    p.*,
    s.MetricUnit AS MetricUnit,
    s.MetricDescription AS MetricDescription,
    s.ResourceSchemaUrl AS ResourceSchemaUrl,
    s.ResourceAttributes AS ResourceAttributes,
    s.ScopeName AS ScopeName,
    s.ScopeVersion AS ScopeVersion,
    s.ScopeSchemaUrl AS ScopeSchemaUrl,
    s.ScopeAttributes AS ScopeAttributes,
    s.Attributes AS Attributes
FROM metrics_raw AS p
ANY LEFT JOIN metrics_series AS s ON p.TenantId = s.TenantId AND p.MetricName = s.MetricName AND p.SeriesHash = s.SeriesHash;

CREATE VIEW IF NOT EXISTS otel_metrics_gauge ${on_cluster} AS
SELECT * FROM metrics WHERE MetricType = 'gauge';

CREATE VIEW IF NOT EXISTS otel_metrics_sum ${on_cluster} AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'sum';

CREATE VIEW IF NOT EXISTS otel_metrics_histogram ${on_cluster} AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'histogram';

CREATE VIEW IF NOT EXISTS otel_metrics_exponential_histogram ${on_cluster} AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'exponential_histogram';

CREATE VIEW IF NOT EXISTS otel_metrics_summary ${on_cluster} AS
SELECT * FROM metrics WHERE MetricType = 'summary';
