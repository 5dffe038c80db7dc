-- What is asked most, kept so that the answer reads little: requests of the last hour by time, and what patterns look like once, not in
-- every minute.

-- Requests by service and operation, as in service_metrics_1m_data, but by the hour first: there a minute of one operation lay beside its
-- minutes of a whole day, so that the last hour was read with all of the day. What was stored before stays where it is until it expires.
CREATE TABLE IF NOT EXISTS service_metrics_1m_by_time ${on_cluster}
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
    ExpiresOn   Date CODEC(Delta, ZSTD(1)),
    -- A condition on Time is not looked for in the key's hour where Time itself is in the key, too.
    INDEX idx_time Time TYPE minmax GRANULARITY 1
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, toStartOfHour(Time), ServiceName, SpanName, SpanKind, Time, Origin, Scale)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

DROP VIEW IF EXISTS service_metrics_1m_agent_mv ${on_cluster};

DROP VIEW IF EXISTS service_metrics_1m_spans_mv ${on_cluster};

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_agent_by_time_mv ${on_cluster} TO service_metrics_1m_by_time AS
SELECT
    TenantId,
    toStartOfMinute(if(toUnixTimestamp64Nano(StartTimeUnix) = 0, TimeUnix, StartTimeUnix)) AS Time,
    ServiceName,
    SpanName,
    initcap(r.SpanKind) AS SpanKind,
    'agent' AS Origin,
    Scale,
    toFloat64(r.Count) AS Requests,
    if(StatusCode = 'error', toFloat64(r.Count), 0.) AS Errors,
    ifNull(r.Sum, 0) AS DurationSum,
    r.Min AS DurationMin,
    r.Max AS DurationMax,
    toFloat64(r.ZeroCount) AS ZeroCount,
    CAST(mapFilter((bucket, count) -> count > 0,
        mapFromArrays(range(PositiveOffset, PositiveOffset + length(PositiveBucketCounts)), PositiveBucketCounts)), 'Map(Int32, Float64)') AS Buckets,
    toDate(ExpiresAt) AS ExpiresOn
FROM metrics_raw AS r
WHERE MetricName = 'ollystack.span.duration' AND MetricType = 'exponential_histogram';

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_spans_by_time_mv ${on_cluster} TO service_metrics_1m_by_time AS
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
CREATE OR REPLACE VIEW service_metrics_1m ${on_cluster} AS
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
    FROM
    (
        SELECT * FROM service_metrics_1m_by_time
        UNION ALL
        SELECT * FROM service_metrics_1m_data
    ) AS d
    GROUP BY TenantId, Time, ServiceName, SpanName, SpanKind, Scale
);

-- Of each pattern, the body of the row that stands for the most lines: `<*>` where its lines differ, or a line as it was if none of it was
-- ever folded.
CREATE TABLE IF NOT EXISTS log_templates ${on_cluster}
(
    TenantId  LowCardinality(String),
    PatternId String CODEC(ZSTD(1)),
    Template  AggregateFunction(argMax, String, UInt64) CODEC(ZSTD(1)),
    ExpiresOn Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

-- Lines by the hour, for questions about days. Those from before this migration are not in it.
CREATE TABLE IF NOT EXISTS log_patterns_1h_data ${on_cluster}
(
    TenantId       LowCardinality(String),
    Time           DateTime CODEC(Delta, ZSTD(1)),
    ServiceName    LowCardinality(String),
    SeverityNumber UInt8,
    PatternId      String CODEC(ZSTD(1)),
    Lines          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    FirstSeen      SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    LastSeen       SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    ExpiresOn      Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, Time, ServiceName, SeverityNumber, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

CREATE MATERIALIZED VIEW IF NOT EXISTS log_templates_mv ${on_cluster} TO log_templates AS
SELECT
    TenantId,
    LogAttributes['ollystack.log.pattern.id'] AS PatternId,
    argMaxState(substringUTF8(Body, 1, 1024), LineCount) AS Template,
    toDate(ExpiresAt) AS ExpiresOn
FROM logs_raw
WHERE PatternId != ''
GROUP BY TenantId, PatternId, ExpiresOn;

-- Twice does no harm: of two rows the one that stands for more lines counts, and these are the same.
INSERT INTO log_templates
SELECT TenantId, PatternId, argMaxMergeState(d.Template) AS Template, ExpiresOn FROM log_patterns_data AS d GROUP BY TenantId, PatternId, ExpiresOn;

DROP VIEW IF EXISTS log_patterns_mv ${on_cluster};

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_1h_mv ${on_cluster} TO log_patterns_1h_data AS
SELECT TenantId, toStartOfHour(d.Time) AS Time, ServiceName, SeverityNumber, PatternId, Lines, FirstSeen, LastSeen, ExpiresOn
FROM log_patterns_data AS d;

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_lines_mv ${on_cluster} TO log_patterns_data AS
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    ServiceName,
    SeverityNumber,
    LogAttributes['ollystack.log.pattern.id'] AS PatternId,
    sum(LineCount) AS Lines,
    min(Timestamp) AS FirstSeen,
    max(greatest(Timestamp, fromUnixTimestamp64Nano(toInt64OrZero(LogAttributes['ollystack.log.last_time'])))) AS LastSeen,
    toDate(ExpiresAt) AS ExpiresOn
FROM logs_raw
WHERE PatternId != ''
GROUP BY TenantId, Time, ServiceName, SeverityNumber, PatternId, ExpiresOn;

-- By the minute, and by the hour.
CREATE OR REPLACE VIEW log_patterns ${on_cluster} AS
SELECT
    p.TenantId AS TenantId,
    p.Time AS Time,
    p.ServiceName AS ServiceName,
    p.SeverityNumber AS SeverityNumber,
    p.PatternId AS PatternId,
    t.Template AS Template,
    p.Lines AS Lines,
    p.FirstSeen AS FirstSeen,
    p.LastSeen AS LastSeen
FROM
(
    SELECT
        TenantId, Time, ServiceName, SeverityNumber, PatternId,
        sum(d.Lines) AS Lines,
        min(d.FirstSeen) AS FirstSeen,
        max(d.LastSeen) AS LastSeen
    FROM log_patterns_data AS d
    GROUP BY TenantId, Time, ServiceName, SeverityNumber, PatternId
) AS p
ANY LEFT JOIN
(
    SELECT TenantId, PatternId, argMaxMerge(d.Template) AS Template FROM log_templates AS d GROUP BY TenantId, PatternId
) AS t ON p.TenantId = t.TenantId AND p.PatternId = t.PatternId;

CREATE VIEW IF NOT EXISTS log_patterns_1h ${on_cluster} AS
SELECT
    p.TenantId AS TenantId,
    p.Time AS Time,
    p.ServiceName AS ServiceName,
    p.SeverityNumber AS SeverityNumber,
    p.PatternId AS PatternId,
    t.Template AS Template,
    p.Lines AS Lines,
    p.FirstSeen AS FirstSeen,
    p.LastSeen AS LastSeen
FROM
(
    SELECT
        TenantId, Time, ServiceName, SeverityNumber, PatternId,
        sum(d.Lines) AS Lines,
        min(d.FirstSeen) AS FirstSeen,
        max(d.LastSeen) AS LastSeen
    FROM log_patterns_1h_data AS d
    GROUP BY TenantId, Time, ServiceName, SeverityNumber, PatternId
) AS p
ANY LEFT JOIN
(
    SELECT TenantId, PatternId, argMaxMerge(d.Template) AS Template FROM log_templates AS d GROUP BY TenantId, PatternId
) AS t ON p.TenantId = t.TenantId AND p.PatternId = t.PatternId;
