-- What metrics are, in words: an agent says it with a metric's first point and then once an hour, so that the labels of most series come
-- without it. Kept by metric, a description outlives the series that it came with, and one that is empty never replaces it.

CREATE TABLE IF NOT EXISTS metric_descriptions ${on_cluster}
(
    TenantId          LowCardinality(String),
    MetricName        LowCardinality(String),
    MetricDescription String CODEC(ZSTD(1)),
    LastSeen          DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt         DateTime CODEC(Delta, ZSTD(1))
)
ENGINE = ${ReplacingMergeTree(LastSeen)}
ORDER BY (TenantId, MetricName)
TTL ExpiresAt
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_descriptions_mv ${on_cluster} TO metric_descriptions AS
SELECT TenantId, MetricName, MetricDescription, LastSeen, ExpiresAt FROM metrics_series WHERE MetricDescription != '';

-- As before, but for the description. That of a series from before this migration stands until its metric is described again.
CREATE OR REPLACE VIEW metrics ${on_cluster} AS
SELECT
    p.*,
    s.MetricUnit AS MetricUnit,
    if(s.Described = '', s.MetricDescription, s.Described) AS MetricDescription,
    s.ResourceSchemaUrl AS ResourceSchemaUrl,
    s.ResourceAttributes AS ResourceAttributes,
    s.ScopeName AS ScopeName,
    s.ScopeVersion AS ScopeVersion,
    s.ScopeSchemaUrl AS ScopeSchemaUrl,
    s.ScopeAttributes AS ScopeAttributes,
    s.Attributes AS Attributes
FROM metrics_raw AS p
ANY LEFT JOIN
(
    SELECT * FROM metrics_series
    ANY LEFT JOIN (SELECT TenantId, MetricName, MetricDescription AS Described FROM metric_descriptions) AS d USING (TenantId, MetricName)
) AS s ON p.TenantId = s.TenantId AND p.MetricName = s.MetricName AND p.SeriesHash = s.SeriesHash;
