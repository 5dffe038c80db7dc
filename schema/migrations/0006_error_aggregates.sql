-- Errors by the minute: from spans that failed and from log records of severity ERROR and above.
-- Message has its digits and long hexadecimal words masked, so that one fault is one row; Example is one message as it was.

CREATE TABLE IF NOT EXISTS error_aggregates_data ${on_cluster}
(
    TenantId      LowCardinality(String),
    Time          DateTime CODEC(Delta, ZSTD(1)),
    ServiceName   LowCardinality(String),
    Operation     LowCardinality(String),
    Source        Enum8('span' = 1, 'log' = 2),
    ExceptionType LowCardinality(String),
    Message       String CODEC(ZSTD(1)),
    Errors        SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    FirstSeen     SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    LastSeen      SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    Example       SimpleAggregateFunction(any, String) CODEC(ZSTD(1)),
    TraceId       SimpleAggregateFunction(any, String) CODEC(ZSTD(1)),
    ExpiresOn     Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, Time, Operation, Source, ExceptionType, Message)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS error_aggregates_spans_mv ${on_cluster} TO error_aggregates_data AS
WITH
    Events.Attributes[indexOf(Events.Name, 'exception')] AS Exception,
    substringUTF8(multiIf(Exception['exception.message'] != '', Exception['exception.message'], StatusMessage), 1, 256) AS Text
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    ServiceName,
    SpanName AS Operation,
    'span' AS Source,
    multiIf(Exception['exception.type'] != '', Exception['exception.type'], SpanAttributes['error.type']) AS ExceptionType,
    replaceRegexpAll(Text, '\\b[0-9a-fA-F-]{16,}\\b|[0-9]+', '#') AS Message,
    sum(SampleWeight) AS Errors,
    min(Timestamp) AS FirstSeen,
    max(Timestamp) AS LastSeen,
    any(Text) AS Example,
    any(r.TraceId) AS TraceId,
    toDate(ExpiresAt) AS ExpiresOn
FROM traces_raw AS r
WHERE StatusCode = 'Error'
GROUP BY TenantId, Time, ServiceName, Operation, ExceptionType, Message, ExpiresOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS error_aggregates_logs_mv ${on_cluster} TO error_aggregates_data AS
WITH substringUTF8(if(LogAttributes['exception.message'] != '', LogAttributes['exception.message'], Body), 1, 256) AS Text
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    ServiceName,
    EventName AS Operation,
    'log' AS Source,
    LogAttributes['exception.type'] AS ExceptionType,
    replaceRegexpAll(Text, '\\b[0-9a-fA-F-]{16,}\\b|[0-9]+', '#') AS Message,
    toFloat64(sum(LineCount)) AS Errors,
    min(Timestamp) AS FirstSeen,
    max(Timestamp) AS LastSeen,
    any(Text) AS Example,
    any(r.TraceId) AS TraceId,
    toDate(ExpiresAt) AS ExpiresOn
FROM logs_raw AS r
WHERE SeverityNumber >= 17
GROUP BY TenantId, Time, ServiceName, Operation, ExceptionType, Message, ExpiresOn;

CREATE VIEW IF NOT EXISTS error_aggregates ${on_cluster} AS
SELECT
    TenantId,
    Time,
    ServiceName,
    Operation,
    Source,
    ExceptionType,
    Message,
    sum(d.Errors) AS Errors,
    min(d.FirstSeen) AS FirstSeen,
    max(d.LastSeen) AS LastSeen,
    any(d.Example) AS Example,
    any(d.TraceId) AS TraceId
FROM error_aggregates_data AS d
GROUP BY TenantId, Time, ServiceName, Operation, Source, ExceptionType, Message;
