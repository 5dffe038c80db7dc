-- The minutes of the last hour in which a series was far from its usual value, renewed each minute.
--
-- Robust z-score (Iglewicz and Hoaglin): 0.6745 * (value - median) / MAD over the last six hours; where more than half of the values are
-- equal MAD is 0 and the mean absolute deviation stands in (divided by 0.7979). A series needs 30 minutes of history. |Score| >= 5
-- is reported. A gauge's or histogram's value is the mean of the minute, a counter's its increase. Cumulative points are left out: their
-- rate needs the point before.

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_anomalies ${on_cluster}
REFRESH EVERY 1 MINUTE
(
    TenantId    LowCardinality(String),
    Time        DateTime,
    MetricName  LowCardinality(String),
    ServiceName LowCardinality(String),
    SeriesHash  UInt64,
    Value       Float64,
    Median      Float64,
    Deviation   Float64,
    Score       Float64
)
ENGINE = ${MergeTree}
ORDER BY (TenantId, Time, MetricName, SeriesHash)
AS
WITH
    arrayMap(point -> point.2, Points) AS Values,
    arrayReduce('medianExact', Values) AS Median,
    arrayMap(value -> abs(value - Median), Values) AS Distances,
    arrayReduce('medianExact', Distances) AS Mad,
    arrayAvg(Distances) AS MeanDistance,
    if(Mad > 0, Mad / 0.6745, MeanDistance / 0.7979) AS Deviation
SELECT
    TenantId,
    Point.1 AS Time,
    MetricName,
    ServiceName,
    SeriesHash,
    Point.2 AS Value,
    Median,
    Deviation,
    (Value - Median) / Deviation AS Score
FROM
(
    SELECT TenantId, MetricName, SeriesHash, any(Service) AS ServiceName, groupArray((Minute, MinuteValue)) AS Points
    FROM
    (
        SELECT
            TenantId,
            MetricName,
            SeriesHash,
            any(r.ServiceName) AS Service,
            toStartOfMinute(TimeUnix) AS Minute,
            if(any(MetricType) = 'sum', sum(Value), sum(if(Count > 0, ifNull(Sum, Value), Value)) / greatest(1, sum(Count))) AS MinuteValue
        FROM metrics_raw AS r
        WHERE TimeUnix >= now() - INTERVAL 6 HOUR AND TimeUnix < toStartOfMinute(now())
            AND MetricType != 'summary' AND AggregationTemporality != 'cumulative'
        GROUP BY TenantId, MetricName, SeriesHash, Minute
    )
    WHERE isFinite(MinuteValue)
    GROUP BY TenantId, MetricName, SeriesHash
    HAVING length(Points) >= 30
)
ARRAY JOIN Points AS Point
WHERE Deviation > 0 AND abs(Score) >= 5 AND Time >= now() - INTERVAL 1 HOUR;
