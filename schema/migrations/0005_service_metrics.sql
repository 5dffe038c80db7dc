-- Rate, errors and duration per service and operation, by the minute.
--
-- Fed twice, never with the same request: Origin 'agent' are the exact ollystack.span.duration histograms that an agent derives from
-- all spans before it samples; Origin 'spans' are spans that came without an agent (AgentId is empty), each counted with its sampling
-- weight. Spans that an agent kept are not counted again, so the two origins may be added, and the view does.
--
-- Buckets are those of an exponential histogram in seconds: key i at scale s holds durations in (2^(i/2^s), 2^((i+1)/2^s)].

CREATE TABLE IF NOT EXISTS service_metrics_1m_data ${on_cluster}
(
    TenantId    LowCardinality(String),
    Time        DateTime CODEC(Delta, ZSTD(1)),
    ServiceName LowCardinality(String),
    SpanName    LowCardinality(String),
    SpanKind    LowCardinality(String),
    Origin      Enum8('agent' = 1, 'spans' = 2),
    Scale       Int32 CODEC(T64, ZSTD(1)),
    Requests    SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Errors      SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    DurationSum SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    DurationMin SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    DurationMax SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    ZeroCount   SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Buckets     SimpleAggregateFunction(sumMap, Map(Int32, Float64)) CODEC(ZSTD(1)),
    ExpiresOn   Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, SpanName, SpanKind, Time, Origin, Scale)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_agent_mv ${on_cluster} TO service_metrics_1m_data AS
SELECT
    TenantId,
    toStartOfMinute(if(toUnixTimestamp64Nano(StartTimeUnix) = 0, TimeUnix, StartTimeUnix)) AS Time,
    ServiceName,
    SpanName,
    initcap(r.SpanKind) AS SpanKind,
    'agent' AS Origin,
    Scale,
    sum(toFloat64(Count)) AS Requests,
    sumIf(toFloat64(Count), StatusCode = 'error') AS Errors,
    sum(ifNull(Sum, 0)) AS DurationSum,
    min(Min) AS DurationMin,
    max(Max) AS DurationMax,
    sum(toFloat64(r.ZeroCount)) AS ZeroCount,
    sumMap(CAST(
        arrayFilter(bucket -> bucket.2 > 0,
            arrayMap((count, index) -> (PositiveOffset + toInt32(index) - 1, toFloat64(count)), PositiveBucketCounts, arrayEnumerate(PositiveBucketCounts))),
        'Map(Int32, Float64)')) AS Buckets,
    toDate(ExpiresAt) AS ExpiresOn
FROM metrics_raw AS r
WHERE MetricName = 'ollystack.span.duration' AND MetricType = 'exponential_histogram'
GROUP BY TenantId, Time, ServiceName, SpanName, SpanKind, Scale, ExpiresOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_spans_mv ${on_cluster} TO service_metrics_1m_data AS
WITH Duration / 1e9 AS Seconds
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    ServiceName,
    SpanName,
    SpanKind,
    'spans' AS Origin,
    6 AS Scale,
    sum(SampleWeight) AS Requests,
    sumIf(SampleWeight, StatusCode = 'Error') AS Errors,
    sum(Seconds * SampleWeight) AS DurationSum,
    min(toNullable(Seconds)) AS DurationMin,
    max(toNullable(Seconds)) AS DurationMax,
    sumIf(SampleWeight, Duration = 0) AS ZeroCount,
    sumMap(if(Duration = 0, CAST([], 'Map(Int32, Float64)'),
        CAST([(toInt32(ceil(log2(Seconds) * 64)) - 1, SampleWeight)], 'Map(Int32, Float64)'))) AS Buckets,
    toDate(ExpiresAt) AS ExpiresOn
FROM traces_raw
WHERE AgentId = ''
GROUP BY TenantId, Time, ServiceName, SpanName, SpanKind, ExpiresOn;

-- Durations in seconds; a quantile is the middle of its bucket, within the extremes that were seen.
CREATE VIEW IF NOT EXISTS service_metrics_1m ${on_cluster} AS
WITH
    mapKeys(Buckets) AS Keys,
    arrayCumSum(mapValues(Buckets)) AS Below,
    ZeroCount + if(empty(Below), 0, Below[-1]) AS Total,
    quantile -> if(Total = 0 OR quantile * Total <= ZeroCount OR empty(Keys), 0.,
        least(ifNull(DurationMax, inf), greatest(ifNull(DurationMin, 0.), exp2(
            (Keys[greatest(1, arrayFirstIndex(b -> ZeroCount + b >= quantile * Total * (1 - 1e-12), Below))] + 0.5) / exp2(Scale))))) AS at
SELECT
    TenantId,
    Time,
    ServiceName,
    SpanName,
    SpanKind,
    Requests,
    Errors,
    if(Requests > 0, Errors / Requests, 0.) AS ErrorRate,
    if(Requests > 0, DurationSum / Requests, 0.) AS DurationAvg,
    DurationMin,
    DurationMax,
    at(0.5) AS DurationP50,
    at(0.95) AS DurationP95,
    at(0.99) AS DurationP99,
    DurationSum,
    Scale,
    ZeroCount,
    Buckets
FROM
(
    SELECT
        TenantId,
        Time,
        ServiceName,
        SpanName,
        SpanKind,
        Scale,
        sum(d.Requests) AS Requests,
        sum(d.Errors) AS Errors,
        sum(d.DurationSum) AS DurationSum,
        min(d.DurationMin) AS DurationMin,
        max(d.DurationMax) AS DurationMax,
        sum(d.ZeroCount) AS ZeroCount,
        sumMap(d.Buckets) AS Buckets
    FROM service_metrics_1m_data AS d
    GROUP BY TenantId, Time, ServiceName, SpanName, SpanKind, Scale
);
