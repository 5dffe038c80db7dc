-- What each tenant used, by hour and signal: for bills, and for quotas that hold over restarts and gateways.
--
-- Two things meet in one table. What is stored is counted by views from the very blocks that carry the rows, so it is exactly what the
-- tables got, whatever was sent twice or killed between. What came in is reported by each gateway as it stands since it began, not as
-- increases, and of reports the largest counts: one that is late or repeated changes nothing.

CREATE TABLE IF NOT EXISTS tenant_usage_data ${on_cluster}
(
    TenantId        LowCardinality(String),
    Hour            DateTime('UTC') CODEC(Delta, ZSTD(1)),
    Signal          Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    -- One start of one gateway; empty for what views count.
    Gateway         String CODEC(ZSTD(1)),
    Plan            LowCardinality(String),
    Received        SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    Rejected        SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    Refused         SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    RequestsRefused SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    Bytes           SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    WireBytes       SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD(1)),
    Stored          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    ReportedAt      SimpleAggregateFunction(max, DateTime('UTC')) CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toYYYYMM(Hour)
ORDER BY (TenantId, Hour, Signal, Gateway, Plan)
TTL Hour + INTERVAL 800 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_usage_metrics_mv ${on_cluster} TO tenant_usage_data AS
SELECT TenantId, toStartOfHour(toDateTime(r.IngestedAt, 'UTC')) AS Hour, 'metrics' AS Signal, count() AS Stored
FROM metrics_raw AS r
GROUP BY TenantId, Hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_usage_logs_mv ${on_cluster} TO tenant_usage_data AS
SELECT TenantId, toStartOfHour(toDateTime(r.IngestedAt, 'UTC')) AS Hour, 'logs' AS Signal, count() AS Stored
FROM logs_raw AS r
GROUP BY TenantId, Hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_usage_traces_mv ${on_cluster} TO tenant_usage_data AS
SELECT TenantId, toStartOfHour(toDateTime(r.IngestedAt, 'UTC')) AS Hour, 'traces' AS Signal, count() AS Stored
FROM traces_raw AS r
GROUP BY TenantId, Hour;

-- Records: received = rejected (for good) + refused (their sender keeps them) + taken. Bytes are those of requests that were taken, once
-- decompressed; WireBytes as they came. Plan is the last that held in the hour, empty for none.
CREATE VIEW IF NOT EXISTS tenant_usage ${on_cluster} AS
SELECT
    Hour,
    TenantId,
    Signal,
    argMaxIf(Plan, (LastAt, Plan), Gateway != '') AS Plan,
    sum(MostReceived) AS Received,
    sum(MostRejected) AS Rejected,
    sum(MostRefused) AS Refused,
    sum(MostRequestsRefused) AS RequestsRefused,
    sum(MostBytes) AS Bytes,
    sum(MostWireBytes) AS WireBytes,
    sum(SumStored) AS Stored
FROM
(
    SELECT
        Hour,
        TenantId,
        Signal,
        Gateway,
        Plan,
        max(u.Received) AS MostReceived,
        max(u.Rejected) AS MostRejected,
        max(u.Refused) AS MostRefused,
        max(u.RequestsRefused) AS MostRequestsRefused,
        max(u.Bytes) AS MostBytes,
        max(u.WireBytes) AS MostWireBytes,
        sum(u.Stored) AS SumStored,
        max(u.ReportedAt) AS LastAt
    FROM tenant_usage_data AS u
    GROUP BY Hour, TenantId, Signal, Gateway, Plan
)
GROUP BY Hour, TenantId, Signal;
