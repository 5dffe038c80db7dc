-- Metrics by five minutes and by the hour, for as long as nobody wants to pay for points: fed by views of the very blocks that bring the
-- points (metrics_raw -> metrics_5m_* -> metrics_1h_*), so that a block that is sent again counts once here, too. Points from before
-- this migration are not in them.
--
-- Five minutes are kept three times as long as the points, hours thirteen times: a month becomes a quarter and a year. They go by whole
-- weeks and whole months, so up to that much later. Labels and descriptions are kept as long as the hours.
--
-- Counts, sums, extremes and the last value stay exact; a quantile is read off merged buckets. An exponential histogram merges with those of
-- its scale, one of explicit bounds with those of the same bounds: Positive has a bucket's index there, or its number from 1, and how many
-- values it holds. Cumulative histograms and summaries are left out, as their points cannot be added up; of a cumulative sum Last, Min and
-- Max tell its course. A counter's Sum is its increase.
--
-- An agent's point may stand for many minutes in which nothing changed: a gauge that stood still, or the steady increase of a counter. Up to
-- two hours it is shared out over the five-minute spans that it covers; any other point lies where its time begins.
--
-- Most of what a small insert costs is the planning of its views, by the function and the column. So no view groups, as the tables add up
-- what belongs together when they are written and merged; numbers, which most points are, have tables without buckets; and names are bound
-- as arguments of lambdas, since one given by AS is written out wherever it is used.

CREATE TABLE IF NOT EXISTS metrics_5m_data ${on_cluster}
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64 CODEC(ZSTD(1)),
    Time                   DateTime CODEC(DoubleDelta, ZSTD(1)),
    ServiceName            LowCardinality(String),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    Count                  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Sum                    SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Min                    SimpleAggregateFunction(min, Float64) CODEC(ZSTD(1)),
    Max                    SimpleAggregateFunction(max, Float64) CODEC(ZSTD(1)),
    -- When it was, and what.
    Last                   SimpleAggregateFunction(max, Tuple(DateTime64(9), Float64)) CODEC(ZSTD(1)),
    RetentionDays          SimpleAggregateFunction(max, UInt16) CODEC(T64, ZSTD(1)),
    ExpiresOn              Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toMonday(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

CREATE TABLE IF NOT EXISTS metrics_1h_data ${on_cluster}
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64 CODEC(ZSTD(1)),
    Time                   DateTime CODEC(DoubleDelta, ZSTD(1)),
    ServiceName            LowCardinality(String),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    Count                  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Sum                    SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Min                    SimpleAggregateFunction(min, Float64) CODEC(ZSTD(1)),
    Max                    SimpleAggregateFunction(max, Float64) CODEC(ZSTD(1)),
    -- When it was, and what.
    Last                   SimpleAggregateFunction(max, Tuple(DateTime64(9), Float64)) CODEC(ZSTD(1)),
    ExpiresOn              Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toStartOfMonth(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

CREATE TABLE IF NOT EXISTS metrics_5m_histograms ${on_cluster}
(
    TenantId       LowCardinality(String),
    MetricName     LowCardinality(String),
    SeriesHash     UInt64 CODEC(ZSTD(1)),
    Time           DateTime CODEC(DoubleDelta, ZSTD(1)),
    Scale          Int32 CODEC(T64, ZSTD(1)),
    BoundsHash     UInt64 CODEC(ZSTD(1)),
    ServiceName    LowCardinality(String),
    MetricType     Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    Count          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Sum            SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Min            SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    Max            SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    ZeroCount      SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Positive       SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    Negative       SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    ExplicitBounds SimpleAggregateFunction(any, Array(Float64)) CODEC(ZSTD(1)),
    RetentionDays  SimpleAggregateFunction(max, UInt16) CODEC(T64, ZSTD(1)),
    ExpiresOn      Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toMonday(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

CREATE TABLE IF NOT EXISTS metrics_1h_histograms ${on_cluster}
(
    TenantId       LowCardinality(String),
    MetricName     LowCardinality(String),
    SeriesHash     UInt64 CODEC(ZSTD(1)),
    Time           DateTime CODEC(DoubleDelta, ZSTD(1)),
    Scale          Int32 CODEC(T64, ZSTD(1)),
    BoundsHash     UInt64 CODEC(ZSTD(1)),
    ServiceName    LowCardinality(String),
    MetricType     Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    Count          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Sum            SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Min            SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    Max            SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    ZeroCount      SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Positive       SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    Negative       SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    ExplicitBounds SimpleAggregateFunction(any, Array(Float64)) CODEC(ZSTD(1)),
    ExpiresOn      Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toStartOfMonth(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

-- Hours before what feeds them.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_1h_numbers_mv ${on_cluster} TO metrics_1h_data AS
SELECT
    TenantId, MetricName, SeriesHash, toStartOfHour(d.Time) AS Time, ServiceName, MetricType, AggregationTemporality, IsMonotonic,
    Count, Sum, Min, Max, Last,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(d.ExpiresOn)) + 10 * RetentionDays))) AS ExpiresOn
FROM metrics_5m_data AS d;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_1h_histograms_mv ${on_cluster} TO metrics_1h_histograms AS
SELECT
    TenantId, MetricName, SeriesHash, toStartOfHour(d.Time) AS Time, Scale, BoundsHash, ServiceName, MetricType,
    Count, Sum, Min, Max, ZeroCount, Positive, Negative, ExplicitBounds,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(d.ExpiresOn)) + 10 * RetentionDays))) AS ExpiresOn
FROM metrics_5m_histograms AS d;

-- Of a point that is shared out over `length` seconds each part has what came up to the end of its span less what came up to its begin, so
-- that all shares add up to all; any other point is one part of one second. What an application tells of itself as gauges and cumulative
-- points began with it, not when it was measured.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_numbers_mv ${on_cluster} TO metrics_5m_data AS
SELECT
    TenantId, MetricName, SeriesHash, toDateTime(Part.1) AS Time, ServiceName, MetricType, AggregationTemporality, IsMonotonic,
    intDiv(r.Count * Part.3, Part.4) - intDiv(r.Count * Part.2, Part.4) AS Count,
    if(MetricType = 'sum' AND AggregationTemporality = 'delta', Value * (Part.3 - Part.2) / Part.4,
        if(Part.4 = 1, ifNull(r.Sum, 0), Value * Count)) AS Sum,
    ifNull(r.Min, Value) AS Min,
    ifNull(r.Max, Value) AS Max,
    (TimeUnix, Value) AS Last,
    toUInt16(intDiv(greatest(0, toInt64(ExpiresAt) - toInt64(IngestedAt)) + 86399, 86400)) AS RetentionDays,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(toDate(IngestedAt))) + 3 * RetentionDays))) AS ExpiresOn
FROM metrics_raw AS r
ARRAY JOIN
    arrayMap((until, age, is_increase, is_window) ->
        arrayMap((since, length) ->
            -- Where the span begins; and from when to when, in seconds since the point's begin, of how many.
            arrayMap(span -> (300 * span, greatest(300 * span, since) - since, least(300 * span + 300, since + length) - since, length),
                range(intDiv(since, 300), intDiv(since + length - 1, 300) + 1)),
            [until - if(age <= 7200 AND (is_increase OR is_window), age, 0)],
            [if(age BETWEEN 1 AND 7200 AND is_window AND (is_increase OR r.Count > 1 AND r.Min = r.Max), age, 1)])[1],
        [toUnixTimestamp(TimeUnix)],
        [toUInt32(toUnixTimestamp(TimeUnix) - toUnixTimestamp(StartTimeUnix))],
        [MetricType = 'sum' AND AggregationTemporality = 'delta'],
        [AgentId != '' AND NOT (AggregationTemporality = 'cumulative' AND IsMonotonic)])[1] AS Part
-- Without the first flag, which says that nothing was measured.
WHERE MetricType IN ('gauge', 'sum') AND bitAnd(Flags, 1) = 0;

-- Of explicit and exponential buckets a point has the one or the other.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_histograms_mv ${on_cluster} TO metrics_5m_histograms AS
SELECT
    TenantId, MetricName, SeriesHash,
    toStartOfFiveMinutes(toDateTime(if(StartTimeUnix > toDateTime64(0, 9) AND TimeUnix >= StartTimeUnix AND TimeUnix <= StartTimeUnix + INTERVAL 2 HOUR,
        StartTimeUnix, TimeUnix))) AS Time,
    Scale,
    if(empty(r.ExplicitBounds), 0, cityHash64(r.ExplicitBounds)) AS BoundsHash,
    ServiceName, MetricType, Count,
    ifNull(r.Sum, 0) AS Sum,
    Min, Max, ZeroCount,
    mapFilter((bucket, count) -> count > 0, mapFromArrays(
        range(PositiveOffset + (MetricType = 'histogram'), PositiveOffset + (MetricType = 'histogram') + length(BucketCounts) + length(PositiveBucketCounts)),
        arrayConcat(BucketCounts, PositiveBucketCounts))) AS Positive,
    mapFilter((bucket, count) -> count > 0,
        mapFromArrays(range(NegativeOffset, NegativeOffset + length(NegativeBucketCounts)), NegativeBucketCounts)) AS Negative,
    ExplicitBounds,
    toUInt16(intDiv(greatest(0, toInt64(ExpiresAt) - toInt64(IngestedAt)) + 86399, 86400)) AS RetentionDays,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(toDate(IngestedAt))) + 3 * RetentionDays))) AS ExpiresOn
FROM metrics_raw AS r
WHERE MetricType IN ('histogram', 'exponential_histogram') AND AggregationTemporality != 'cumulative' AND bitAnd(Flags, 1) = 0;

-- With quantiles of exponential histograms: the middle of the bucket, within the extremes that were seen. At the agents' scale that is
-- within 0.54% of the value.
CREATE VIEW IF NOT EXISTS metrics_5m ${on_cluster} AS
WITH
    mapKeys(Positive) AS Keys,
    arrayCumSum(mapValues(Positive)) AS Below,
    mapKeys(Negative) AS NegativeKeys,
    arrayReverse(arrayCumSum(arrayReverse(mapValues(Negative)))) AS NegativeBelow,
    toFloat64(if(empty(NegativeBelow), 0, NegativeBelow[1])) AS BelowZero,
    BelowZero + ZeroCount + toFloat64(if(empty(Below), 0, Below[-1])) AS Total,
    rank -> least(ifNull(Max, inf), greatest(ifNull(Min, -inf), multiIf(
        rank <= BelowZero AND NOT empty(NegativeKeys),
            -exp2((NegativeKeys[greatest(1, arrayLastIndex(b -> b >= rank, NegativeBelow))] + 0.5) / exp2(Scale)),
        rank <= BelowZero + ZeroCount OR empty(Keys), 0.,
        exp2((Keys[greatest(1, arrayFirstIndex(b -> BelowZero + ZeroCount + b >= rank * (1 - 1e-12), Below))] + 0.5) / exp2(Scale))))) AS value,
    quantile -> if(MetricType != 'exponential_histogram' OR Total = 0, NULL, toNullable(value(quantile * Total))) AS at
SELECT
    *,
    if(Count > 0, Sum / Count, NULL) AS Avg,
    at(0.5) AS P50,
    at(0.95) AS P95,
    at(0.99) AS P99
FROM
(
    SELECT
        TenantId, MetricName, SeriesHash, Time,
        any(d.ServiceName) AS ServiceName,
        any(d.MetricType) AS MetricType,
        any(d.AggregationTemporality) AS AggregationTemporality,
        any(d.IsMonotonic) AS IsMonotonic,
        sum(d.Count) AS Count,
        sum(d.Sum) AS Sum,
        toNullable(min(d.Min)) AS Min,
        toNullable(max(d.Max)) AS Max,
        max(d.Last).2 AS Last,
        toInt32(0) AS Scale,
        toUInt64(0) AS ZeroCount,
        CAST(map(), 'Map(Int32, UInt64)') AS Positive,
        CAST(map(), 'Map(Int32, UInt64)') AS Negative,
        CAST([], 'Array(Float64)') AS ExplicitBounds
    FROM metrics_5m_data AS d
    GROUP BY TenantId, MetricName, SeriesHash, Time
    UNION ALL
    SELECT
        TenantId, MetricName, SeriesHash, Time,
        any(d.ServiceName) AS ServiceName,
        any(d.MetricType) AS MetricType,
        CAST('delta', 'Enum8(\'unspecified\' = 0, \'delta\' = 1, \'cumulative\' = 2)') AS AggregationTemporality,
        false AS IsMonotonic,
        sum(d.Count) AS Count,
        sum(d.Sum) AS Sum,
        min(d.Min) AS Min,
        max(d.Max) AS Max,
        0. AS Last,
        Scale,
        sum(d.ZeroCount) AS ZeroCount,
        sumMap(d.Positive) AS Positive,
        sumMap(d.Negative) AS Negative,
        any(d.ExplicitBounds) AS ExplicitBounds
    FROM metrics_5m_histograms AS d
    GROUP BY TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash
);

CREATE VIEW IF NOT EXISTS metrics_1h ${on_cluster} AS
WITH
    mapKeys(Positive) AS Keys,
    arrayCumSum(mapValues(Positive)) AS Below,
    mapKeys(Negative) AS NegativeKeys,
    arrayReverse(arrayCumSum(arrayReverse(mapValues(Negative)))) AS NegativeBelow,
    toFloat64(if(empty(NegativeBelow), 0, NegativeBelow[1])) AS BelowZero,
    BelowZero + ZeroCount + toFloat64(if(empty(Below), 0, Below[-1])) AS Total,
    rank -> least(ifNull(Max, inf), greatest(ifNull(Min, -inf), multiIf(
        rank <= BelowZero AND NOT empty(NegativeKeys),
            -exp2((NegativeKeys[greatest(1, arrayLastIndex(b -> b >= rank, NegativeBelow))] + 0.5) / exp2(Scale)),
        rank <= BelowZero + ZeroCount OR empty(Keys), 0.,
        exp2((Keys[greatest(1, arrayFirstIndex(b -> BelowZero + ZeroCount + b >= rank * (1 - 1e-12), Below))] + 0.5) / exp2(Scale))))) AS value,
    quantile -> if(MetricType != 'exponential_histogram' OR Total = 0, NULL, toNullable(value(quantile * Total))) AS at
SELECT
    *,
    if(Count > 0, Sum / Count, NULL) AS Avg,
    at(0.5) AS P50,
    at(0.95) AS P95,
    at(0.99) AS P99
FROM
(
    SELECT
        TenantId, MetricName, SeriesHash, Time,
        any(d.ServiceName) AS ServiceName,
        any(d.MetricType) AS MetricType,
        any(d.AggregationTemporality) AS AggregationTemporality,
        any(d.IsMonotonic) AS IsMonotonic,
        sum(d.Count) AS Count,
        sum(d.Sum) AS Sum,
        toNullable(min(d.Min)) AS Min,
        toNullable(max(d.Max)) AS Max,
        max(d.Last).2 AS Last,
        toInt32(0) AS Scale,
        toUInt64(0) AS ZeroCount,
        CAST(map(), 'Map(Int32, UInt64)') AS Positive,
        CAST(map(), 'Map(Int32, UInt64)') AS Negative,
        CAST([], 'Array(Float64)') AS ExplicitBounds
    FROM metrics_1h_data AS d
    GROUP BY TenantId, MetricName, SeriesHash, Time
    UNION ALL
    SELECT
        TenantId, MetricName, SeriesHash, Time,
        any(d.ServiceName) AS ServiceName,
        any(d.MetricType) AS MetricType,
        CAST('delta', 'Enum8(\'unspecified\' = 0, \'delta\' = 1, \'cumulative\' = 2)') AS AggregationTemporality,
        false AS IsMonotonic,
        sum(d.Count) AS Count,
        sum(d.Sum) AS Sum,
        min(d.Min) AS Min,
        max(d.Max) AS Max,
        0. AS Last,
        Scale,
        sum(d.ZeroCount) AS ZeroCount,
        sumMap(d.Positive) AS Positive,
        sumMap(d.Negative) AS Negative,
        any(d.ExplicitBounds) AS ExplicitBounds
    FROM metrics_1h_histograms AS d
    GROUP BY TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash
);

-- Labels and descriptions stay as long as the hours that need them.
ALTER TABLE metrics_series ${on_cluster} MODIFY TTL
    toDateTime(least(4294967295, toInt64(toUnixTimestamp(LastSeen)) + 13 * greatest(0, toInt64(toUnixTimestamp(ExpiresAt)) - toInt64(toUnixTimestamp(LastSeen)))));

ALTER TABLE metric_descriptions ${on_cluster} MODIFY TTL
    toDateTime(least(4294967295, toInt64(toUnixTimestamp(LastSeen)) + 13 * greatest(0, toInt64(toUnixTimestamp(ExpiresAt)) - toInt64(toUnixTimestamp(LastSeen)))));
