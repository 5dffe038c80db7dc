-- Patterns of log lines by the minute: how many lines, folded or whole, were of each.
--
-- PatternId is equal wherever the template is, on every host and after every restart. Template is the body of the row that stands for the
-- most lines: the pattern with `<*>` where its lines differ, or a line as it was if none of it was ever folded.

ALTER TABLE logs_raw ${on_cluster} ADD COLUMN IF NOT EXISTS PatternId String
    MATERIALIZED LogAttributes['ollystack.log.pattern.id'] CODEC(ZSTD(1));

ALTER TABLE logs_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_pattern_id PatternId TYPE bloom_filter(0.001) GRANULARITY 1;

CREATE TABLE IF NOT EXISTS log_patterns_data ${on_cluster}
(
    TenantId       LowCardinality(String),
    Time           DateTime CODEC(Delta, ZSTD(1)),
    ServiceName    LowCardinality(String),
    SeverityNumber UInt8,
    PatternId      String CODEC(ZSTD(1)),
    Lines          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    FirstSeen      SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    LastSeen       SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    Template       AggregateFunction(argMax, String, UInt64) CODEC(ZSTD(1)),
    ExpiresOn      Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, Time, SeverityNumber, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_mv ${on_cluster} TO log_patterns_data AS
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    ServiceName,
    SeverityNumber,
    LogAttributes['ollystack.log.pattern.id'] AS PatternId,
    sum(LineCount) AS Lines,
    min(Timestamp) AS FirstSeen,
    max(greatest(Timestamp, fromUnixTimestamp64Nano(toInt64OrZero(LogAttributes['ollystack.log.last_time'])))) AS LastSeen,
    argMaxState(substringUTF8(Body, 1, 1024), LineCount) AS Template,
    toDate(ExpiresAt) AS ExpiresOn
FROM logs_raw
WHERE PatternId != ''
GROUP BY TenantId, Time, ServiceName, SeverityNumber, PatternId, ExpiresOn;

CREATE VIEW IF NOT EXISTS log_patterns ${on_cluster} AS
SELECT
    TenantId,
    Time,
    ServiceName,
    SeverityNumber,
    PatternId,
    argMaxMerge(d.Template) AS Template,
    sum(d.Lines) AS Lines,
    min(d.FirstSeen) AS FirstSeen,
    max(d.LastSeen) AS LastSeen
FROM log_patterns_data AS d
GROUP BY TenantId, Time, ServiceName, SeverityNumber, PatternId;
