-- Metrics by five minutes and by the hour, for as long as nobody wants to pay for points: fed by views of the very blocks that bring the
-- points (metrics_raw -> metrics_5m_data -> metrics_1h_data), so that a block that is sent again counts once here, too. Points from before
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

CREATE TABLE IF NOT EXISTS metrics_5m_data ${on_cluster}
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64 CODEC(ZSTD(1)),
    Time                   DateTime CODEC(DoubleDelta, ZSTD(1)),
    Scale                  Int32 CODEC(T64, ZSTD(1)),
    BoundsHash             UInt64 CODEC(ZSTD(1)),
    ServiceName            LowCardinality(String),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    Count                  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Sum                    SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Min                    SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    Max                    SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    Last                   AggregateFunction(argMax, Float64, DateTime64(9)) CODEC(ZSTD(1)),
    ZeroCount              SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Positive               SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    Negative               SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    ExplicitBounds         SimpleAggregateFunction(any, Array(Float64)) CODEC(ZSTD(1)),
    RetentionDays          SimpleAggregateFunction(max, UInt16) CODEC(T64, ZSTD(1)),
    ExpiresOn              Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toMonday(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

CREATE TABLE IF NOT EXISTS metrics_1h_data ${on_cluster}
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64 CODEC(ZSTD(1)),
    Time                   DateTime CODEC(DoubleDelta, ZSTD(1)),
    Scale                  Int32 CODEC(T64, ZSTD(1)),
    BoundsHash             UInt64 CODEC(ZSTD(1)),
    ServiceName            LowCardinality(String),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    Count                  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Sum                    SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Min                    SimpleAggregateFunction(min, Nullable(Float64)) CODEC(ZSTD(1)),
    Max                    SimpleAggregateFunction(max, Nullable(Float64)) CODEC(ZSTD(1)),
    Last                   AggregateFunction(argMax, Float64, DateTime64(9)) CODEC(ZSTD(1)),
    ZeroCount              SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    Positive               SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    Negative               SimpleAggregateFunction(sumMap, Map(Int32, UInt64)) CODEC(ZSTD(1)),
    ExplicitBounds         SimpleAggregateFunction(any, Array(Float64)) CODEC(ZSTD(1)),
    ExpiresOn              Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toStartOfMonth(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

-- Numbers and histograms apart: most points are numbers, and to merge their empty buckets would be most of the work. Hours before what
-- feeds them.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_1h_numbers_mv ${on_cluster} TO metrics_1h_data AS
SELECT
    TenantId,
    MetricName,
    SeriesHash,
    toStartOfHour(d.Time) AS Time,
    any(d.ServiceName) AS ServiceName,
    any(d.MetricType) AS MetricType,
    any(d.AggregationTemporality) AS AggregationTemporality,
    any(d.IsMonotonic) AS IsMonotonic,
    sum(d.Count) AS Count,
    sum(d.Sum) AS Sum,
    min(d.Min) AS Min,
    max(d.Max) AS Max,
    argMaxMergeState(d.Last) AS Last,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(max(d.ExpiresOn))) + 10 * max(RetentionDays)))) AS ExpiresOn
FROM metrics_5m_data AS d
WHERE d.MetricType IN ('gauge', 'sum')
GROUP BY TenantId, MetricName, SeriesHash, Time;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_1h_histograms_mv ${on_cluster} TO metrics_1h_data AS
SELECT
    TenantId,
    MetricName,
    SeriesHash,
    toStartOfHour(d.Time) AS Time,
    Scale,
    BoundsHash,
    any(d.ServiceName) AS ServiceName,
    any(d.MetricType) AS MetricType,
    any(d.AggregationTemporality) AS AggregationTemporality,
    sum(d.Count) AS Count,
    sum(d.Sum) AS Sum,
    min(d.Min) AS Min,
    max(d.Max) AS Max,
    sum(d.ZeroCount) AS ZeroCount,
    sumMap(d.Positive) AS Positive,
    sumMap(d.Negative) AS Negative,
    any(d.ExplicitBounds) AS ExplicitBounds,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(max(d.ExpiresOn))) + 10 * max(RetentionDays)))) AS ExpiresOn
FROM metrics_5m_data AS d
WHERE d.MetricType IN ('histogram', 'exponential_histogram')
GROUP BY TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash;

-- In three steps, as a name that stands for an expression is written out wherever it is used: in one step the planning of an insert would
-- cost more than the insert, and so would a step for each name.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_numbers_mv ${on_cluster} TO metrics_5m_data AS
WITH
    if(IsRun, toUInt64(greatest(Span, Since) - Since), 0) AS Begun,
    if(IsRun, toUInt64(least(Span + 300, Until) - Since), 1) AS Done,
    if(IsRun, toUInt64(Until - Since), 1) AS Whole,
    toUInt64(intDiv(toUInt128(Points) * Done, Whole) - intDiv(toUInt128(Points) * Begun, Whole)) AS Share
SELECT
    TenantId,
    MetricName,
    SeriesHash,
    toDateTime(Span) AS Time,
    any(r.ServiceName) AS ServiceName,
    any(r.MetricType) AS MetricType,
    any(r.AggregationTemporality) AS AggregationTemporality,
    any(r.IsMonotonic) AS IsMonotonic,
    -- All of them, or so many as lie in the span, so that all shares add up to all.
    sum(Share) AS Count,
    sum(multiIf(NOT IsRun, Total, IsIncrease, Total * (Done - Begun) / Whole, Total / Points * Share)) AS Sum,
    min(Least) AS Min,
    max(Most) AS Max,
    argMaxState(Value, TimeUnix) AS Last,
    max(Days) AS RetentionDays,
    toDate(toUInt16(least(65535, max(toUInt32(toUInt16(toDate(IngestedAt))) + 3 * Days)))) AS ExpiresOn
FROM
(
    SELECT
        *,
        Since - Since % 300 AS First,
        AgentId != '' AND Until > First + 300 AND CanRun AS IsRun,
        arrayJoin(if(IsRun, range(toUInt32(First), Until, 300), [toUInt32(First)])) AS Span
    FROM
    (
        SELECT
            TenantId, MetricName, SeriesHash, ServiceName, MetricType, AggregationTemporality, IsMonotonic, AgentId, TimeUnix, IngestedAt, Value,
            toUInt32(greatest(0, intDiv(toUnixTimestamp64Nano(StartTimeUnix), 1000000000))) AS Start,
            toUInt32(greatest(0, intDiv(toUnixTimestamp64Nano(TimeUnix), 1000000000))) AS Until,
            AggregationTemporality = 'cumulative' AND IsMonotonic AS IsCourse,
            MetricType = 'sum' AND AggregationTemporality = 'delta' AS IsIncrease,
            -- When an application began, which plain gauges and cumulative points tell, is not when they were measured.
            toUInt32(if(Start = 0 OR Start > Until OR Until > Start + 7200 OR IsCourse OR AgentId = '' AND NOT IsIncrease, Until, Start)) AS Since,
            IsIncrease OR NOT IsCourse AND Count > 1 AND r.Min = r.Max AS CanRun,
            Count AS Points,
            if(IsIncrease, Value, ifNull(r.Sum, 0)) AS Total,
            ifNull(r.Min, Value) AS Least,
            ifNull(r.Max, Value) AS Most,
            toUInt16(least(65535, greatest(0, intDiv(toInt64(ExpiresAt) - toInt64(IngestedAt) + 86399, 86400)))) AS Days
        FROM metrics_raw AS r
        -- Without the first flag, which says that nothing was measured.
        WHERE MetricType IN ('gauge', 'sum') AND bitAnd(Flags, 1) = 0
    )
) AS r
GROUP BY TenantId, MetricName, SeriesHash, Time;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_histograms_mv ${on_cluster} TO metrics_5m_data AS
WITH
    toInt64(ExpiresAt) - toInt64(IngestedAt) AS Retention,
    toUInt16(least(65535, greatest(0, intDiv(Retention + 86399, 86400)))) AS Days,
    toUnixTimestamp64Nano(StartTimeUnix) > 0 AND TimeUnix >= StartTimeUnix AND TimeUnix <= StartTimeUnix + INTERVAL 2 HOUR AS IsBegun,
    (counts, first) -> CAST(arrayFilter(bucket -> bucket.2 > 0,
        arrayMap((count, number) -> (first + toInt32(number), count), counts, arrayEnumerate(counts))), 'Map(Int32, UInt64)') AS buckets
SELECT
    TenantId,
    MetricName,
    SeriesHash,
    toStartOfFiveMinutes(toDateTime(if(IsBegun, StartTimeUnix, TimeUnix))) AS Time,
    r.Scale AS Scale,
    if(empty(r.ExplicitBounds), 0, cityHash64(r.ExplicitBounds)) AS BoundsHash,
    any(r.ServiceName) AS ServiceName,
    any(r.MetricType) AS MetricType,
    any(r.AggregationTemporality) AS AggregationTemporality,
    sum(r.Count) AS Count,
    sum(ifNull(r.Sum, 0)) AS Sum,
    min(r.Min) AS Min,
    max(r.Max) AS Max,
    sum(r.ZeroCount) AS ZeroCount,
    sumMap(if(r.MetricType = 'histogram', buckets(BucketCounts, 0), buckets(PositiveBucketCounts, PositiveOffset - 1))) AS Positive,
    sumMap(buckets(NegativeBucketCounts, NegativeOffset - 1)) AS Negative,
    any(r.ExplicitBounds) AS ExplicitBounds,
    max(Days) AS RetentionDays,
    toDate(toUInt16(least(65535, max(toUInt32(toUInt16(toDate(IngestedAt))) + 3 * Days)))) AS ExpiresOn
FROM metrics_raw AS r
WHERE r.MetricType IN ('histogram', 'exponential_histogram') AND r.AggregationTemporality != 'cumulative' AND bitAnd(Flags, 1) = 0
GROUP BY TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash;

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
        min(d.Min) AS Min,
        max(d.Max) AS Max,
        argMaxMerge(d.Last) AS Last,
        Scale,
        sum(d.ZeroCount) AS ZeroCount,
        sumMap(d.Positive) AS Positive,
        sumMap(d.Negative) AS Negative,
        any(d.ExplicitBounds) AS ExplicitBounds
    FROM metrics_5m_data AS d
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
        min(d.Min) AS Min,
        max(d.Max) AS Max,
        argMaxMerge(d.Last) AS Last,
        Scale,
        sum(d.ZeroCount) AS ZeroCount,
        sumMap(d.Positive) AS Positive,
        sumMap(d.Negative) AS Negative,
        any(d.ExplicitBounds) AS ExplicitBounds
    FROM metrics_1h_data AS d
    GROUP BY TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash
);

-- Labels and descriptions stay as long as the hours that need them.
ALTER TABLE metrics_series ${on_cluster} MODIFY TTL
    toDateTime(least(4294967295, toInt64(toUnixTimestamp(LastSeen)) + 13 * greatest(0, toInt64(toUnixTimestamp(ExpiresAt)) - toInt64(toUnixTimestamp(LastSeen)))));

ALTER TABLE metric_descriptions ${on_cluster} MODIFY TTL
    toDateTime(least(4294967295, toInt64(toUnixTimestamp(LastSeen)) + 13 * greatest(0, toInt64(toUnixTimestamp(ExpiresAt)) - toInt64(toUnixTimestamp(LastSeen)))));
