-- Which deliveries have arrived: fed from the very blocks that carry the rows, so it can say neither more nor less than the
-- tables hold. A delivery that says it may have been made before is looked up here; the sum of Rows tells whether all of it is in.

CREATE TABLE IF NOT EXISTS ingested_batches ${on_cluster}
(
    TenantId      LowCardinality(String),
    AgentId       LowCardinality(String),
    BatchSequence UInt64 CODEC(Delta, ZSTD(1)),
    Signal        Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    Rows          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    IngestedAt    SimpleAggregateFunction(max, DateTime) CODEC(Delta, ZSTD(1)),
    IngestedOn    Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY IngestedOn
ORDER BY (TenantId, AgentId, BatchSequence, Signal)
TTL IngestedOn + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_metrics_mv ${on_cluster} TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'metrics' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM metrics_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_logs_mv ${on_cluster} TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'logs' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM logs_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_traces_mv ${on_cluster} TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'traces' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM traces_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;
