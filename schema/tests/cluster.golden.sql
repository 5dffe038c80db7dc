CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER 'c' (Number UInt32, Name String, Checksum String, AppliedAt DateTime64(3) DEFAULT now64(3)) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/{table}', '{shard}-{replica}') ORDER BY Number;

-- 0001_metrics 8a4fa9fcc90182a3c100067551a16839012713eda430c9dc25aa6edbf2acd1dc
CREATE TABLE IF NOT EXISTS metrics_series ON CLUSTER 'c'
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64,
    ServiceName            LowCardinality(String),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    MetricUnit             LowCardinality(String),
    MetricDescription      String CODEC(ZSTD(1)),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    ResourceSchemaUrl      LowCardinality(String),
    ResourceAttributes     Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeName              LowCardinality(String),
    ScopeVersion           LowCardinality(String),
    ScopeSchemaUrl         LowCardinality(String),
    ScopeAttributes        Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Attributes             Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    LastSeen               DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt              DateTime CODEC(Delta, ZSTD(1)),
    HostName               LowCardinality(String) MATERIALIZED ResourceAttributes['host.name'],
    K8sNamespace           LowCardinality(String) MATERIALIZED ResourceAttributes['k8s.namespace.name'],
    K8sPod                 LowCardinality(String) MATERIALIZED ResourceAttributes['k8s.pod.name'],
    Environment            LowCardinality(String) MATERIALIZED if(ResourceAttributes['deployment.environment.name'] != '',
        ResourceAttributes['deployment.environment.name'], ResourceAttributes['deployment.environment'])
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', LastSeen)
ORDER BY (TenantId, MetricName, SeriesHash)
TTL ExpiresAt
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.metrics_series ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_series', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS metrics_raw ON CLUSTER 'c'
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64 CODEC(ZSTD(1)),
    ServiceName            LowCardinality(String),
    StartTimeUnix          DateTime64(9) CODEC(DoubleDelta, ZSTD(1)),
    TimeUnix               DateTime64(9) CODEC(DoubleDelta, ZSTD(1)),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    Flags                  UInt32 CODEC(T64, ZSTD(1)),
    Value                  Float64 CODEC(Gorilla, ZSTD(1)),
    Count                  UInt64 CODEC(T64, ZSTD(1)),
    Sum                    Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    Min                    Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    Max                    Nullable(Float64) CODEC(Gorilla, ZSTD(1)),
    ExplicitBounds         Array(Float64) CODEC(ZSTD(1)),
    BucketCounts           Array(UInt64) CODEC(T64, ZSTD(1)),
    Scale                  Int32 CODEC(T64, ZSTD(1)),
    ZeroCount              UInt64 CODEC(T64, ZSTD(1)),
    ZeroThreshold          Float64 CODEC(Gorilla, ZSTD(1)),
    PositiveOffset         Int32 CODEC(T64, ZSTD(1)),
    PositiveBucketCounts   Array(UInt64) CODEC(T64, ZSTD(1)),
    NegativeOffset         Int32 CODEC(T64, ZSTD(1)),
    NegativeBucketCounts   Array(UInt64) CODEC(T64, ZSTD(1)),
    ValueAtQuantiles       Nested(Quantile Float64, Value Float64) CODEC(ZSTD(1)),
    Exemplars              Nested(
        FilteredAttributes Map(LowCardinality(String), String),
        TimeUnix           DateTime64(9),
        Value              Float64,
        SpanId             String,
        TraceId            String
    ) CODEC(ZSTD(1)),
    SpanName               LowCardinality(String),
    SpanKind               LowCardinality(String),
    StatusCode             LowCardinality(String),
    AgentId                LowCardinality(String),
    BatchSequence          UInt64 CODEC(Delta, ZSTD(1)),
    IngestedAt             DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt              DateTime CODEC(Delta, ZSTD(1)),
    Last                   Float64 ALIAS Value,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, MetricName, SeriesHash, TimeUnix)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.metrics_raw ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_raw', cityHash64(TenantId));

-- 0002_logs d6d822715fd4b22203c879875a2df9b52753e290d367191fe000ebe6e3381b9d
CREATE TABLE IF NOT EXISTS logs_raw ON CLUSTER 'c'
(
    TenantId           LowCardinality(String),
    Timestamp          DateTime64(9) CODEC(Delta, ZSTD(1)),
    ObservedTimestamp  DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId            String CODEC(ZSTD(1)),
    SpanId             String CODEC(ZSTD(1)),
    TraceFlags         UInt8,
    SeverityText       LowCardinality(String),
    SeverityNumber     UInt8,
    ServiceName        LowCardinality(String),
    EventName          LowCardinality(String),
    Body               String CODEC(ZSTD(1)),
    LineCount          UInt64 DEFAULT 1 CODEC(T64, ZSTD(1)),
    ResourceSchemaUrl  LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeSchemaUrl     LowCardinality(String),
    ScopeName          LowCardinality(String),
    ScopeVersion       LowCardinality(String),
    ScopeAttributes    Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    LogAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    AgentId            LowCardinality(String),
    BatchSequence      UInt64 CODEC(Delta, ZSTD(1)),
    IngestedAt         DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt          DateTime CODEC(Delta, ZSTD(1)),
    TimestampTime      DateTime ALIAS toDateTime(Timestamp),
    HostName           LowCardinality(String) MATERIALIZED ResourceAttributes['host.name'],
    K8sNamespace       LowCardinality(String) MATERIALIZED ResourceAttributes['k8s.namespace.name'],
    K8sPod             LowCardinality(String) MATERIALIZED ResourceAttributes['k8s.pod.name'],
    Environment        LowCardinality(String) MATERIALIZED if(ResourceAttributes['deployment.environment.name'] != '',
        ResourceAttributes['deployment.environment.name'], ResourceAttributes['deployment.environment']),
    ResourceAttributeItems Array(String)
        ALIAS arrayMap(kv -> concat(kv.1, '=', kv.2), CAST(ResourceAttributes, 'Array(Tuple(String, String))')),
    LogAttributeItems Array(String)
        ALIAS arrayMap(kv -> concat(kv.1, '=', kv.2), CAST(LogAttributes, 'Array(Tuple(String, String))')),
    INDEX idx_time Timestamp TYPE minmax GRANULARITY 1,
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_body Body TYPE text(tokenizer = 'splitByNonAlpha'),
    INDEX idx_res_attr_items ResourceAttributeItems TYPE text(tokenizer = 'array'),
    INDEX idx_log_attr_items LogAttributeItems TYPE text(tokenizer = 'array')
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, toStartOfFiveMinutes(Timestamp), ServiceName, Timestamp)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, map_serialization_version = 'with_buckets';

CREATE OR REPLACE TABLE `ollystack`.logs_raw ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'logs_raw', cityHash64(TenantId));

-- 0003_traces 61fb79d16bfaedb521b8b4769153377471b7ef033288074cfad24018852a8065
CREATE TABLE IF NOT EXISTS traces_raw ON CLUSTER 'c'
(
    TenantId           LowCardinality(String),
    Timestamp          DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId            String CODEC(ZSTD(1)),
    SpanId             String CODEC(ZSTD(1)),
    ParentSpanId       String CODEC(ZSTD(1)),
    TraceState         String CODEC(ZSTD(1)),
    TraceFlags         UInt32 CODEC(T64, ZSTD(1)),
    SpanName           LowCardinality(String),
    SpanKind           LowCardinality(String),
    ServiceName        LowCardinality(String),
    ResourceSchemaUrl  LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeSchemaUrl     LowCardinality(String),
    ScopeName          LowCardinality(String),
    ScopeVersion       LowCardinality(String),
    ScopeAttributes    Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    SpanAttributes     Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Duration           UInt64 CODEC(T64, ZSTD(1)),
    StatusCode         LowCardinality(String),
    StatusMessage      String CODEC(ZSTD(1)),
    SampleWeight       Float64 DEFAULT 1 CODEC(Gorilla, ZSTD(1)),
    Events             Nested(
        Timestamp  DateTime64(9),
        Name       LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    Links              Nested(
        TraceId    String,
        SpanId     String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    AgentId            LowCardinality(String),
    BatchSequence      UInt64 CODEC(Delta, ZSTD(1)),
    IngestedAt         DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt          DateTime CODEC(Delta, ZSTD(1)),
    HostName           LowCardinality(String) MATERIALIZED ResourceAttributes['host.name'],
    K8sNamespace       LowCardinality(String) MATERIALIZED ResourceAttributes['k8s.namespace.name'],
    K8sPod             LowCardinality(String) MATERIALIZED ResourceAttributes['k8s.pod.name'],
    Environment        LowCardinality(String) MATERIALIZED if(ResourceAttributes['deployment.environment.name'] != '',
        ResourceAttributes['deployment.environment.name'], ResourceAttributes['deployment.environment']),
    ResourceAttributeItems Array(String)
        ALIAS arrayMap(kv -> concat(kv.1, '=', kv.2), CAST(ResourceAttributes, 'Array(Tuple(String, String))')),
    SpanAttributeItems Array(String)
        ALIAS arrayMap(kv -> concat(kv.1, '=', kv.2), CAST(SpanAttributes, 'Array(Tuple(String, String))')),
    INDEX idx_time Timestamp TYPE minmax GRANULARITY 1,
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1,
    INDEX idx_res_attr_items ResourceAttributeItems TYPE text(tokenizer = 'array'),
    INDEX idx_span_attr_items SpanAttributeItems TYPE text(tokenizer = 'array')
)
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, ServiceName, SpanName, toDateTime(Timestamp))
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, map_serialization_version = 'with_buckets';

CREATE OR REPLACE TABLE `ollystack`.traces_raw ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'traces_raw', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS traces_trace_id_ts ON CLUSTER 'c'
(
    TenantId  LowCardinality(String),
    TraceId   String CODEC(ZSTD(1)),
    Start     SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    End       SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    ExpiresAt DateTime CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, TraceId)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.traces_trace_id_ts ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'traces_trace_id_ts', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS traces_trace_id_ts_mv ON CLUSTER 'c' TO traces_trace_id_ts AS
SELECT
    TenantId,
    TraceId,
    min(Timestamp) AS Start,
    max(addNanoseconds(Timestamp, Duration)) AS End,
    toStartOfDay(ExpiresAt) + 86399 AS ExpiresAt
FROM traces_raw
WHERE TraceId != ''
GROUP BY TenantId, TraceId, ExpiresAt;

-- 0004_ingested_batches 2c935f004e2bbc352c9275c8b17a6fd1c0bb4834014803e95ac4a301325bb88e
CREATE TABLE IF NOT EXISTS ingested_batches ON CLUSTER 'c'
(
    TenantId      LowCardinality(String),
    AgentId       LowCardinality(String),
    BatchSequence UInt64 CODEC(Delta, ZSTD(1)),
    Signal        Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    Rows          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    IngestedAt    SimpleAggregateFunction(max, DateTime) CODEC(Delta, ZSTD(1)),
    IngestedOn    Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY IngestedOn
ORDER BY (TenantId, AgentId, BatchSequence, Signal)
TTL IngestedOn + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.ingested_batches ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'ingested_batches', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_metrics_mv ON CLUSTER 'c' TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'metrics' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM metrics_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_logs_mv ON CLUSTER 'c' TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'logs' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM logs_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_traces_mv ON CLUSTER 'c' TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'traces' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM traces_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

-- 0005_service_metrics 196c33d8b80267fef34b2a7aeecee689de3ab0fca334f3928ca3fcf327f8b392
CREATE TABLE IF NOT EXISTS service_metrics_1m_data ON CLUSTER 'c'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, SpanName, SpanKind, Time, Origin, Scale)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.service_metrics_1m_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_metrics_1m_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_agent_mv ON CLUSTER 'c' TO service_metrics_1m_data AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_spans_mv ON CLUSTER 'c' TO service_metrics_1m_data AS
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

CREATE VIEW IF NOT EXISTS service_metrics_1m ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.service_metrics_1m ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_metrics_1m', cityHash64(TenantId));

-- 0006_error_aggregates f3c3f6ba05396fa98209659082e57b96b3f3dd7bb14e27c1855ecd1909e6401d
CREATE TABLE IF NOT EXISTS error_aggregates_data ON CLUSTER 'c'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, Time, Operation, Source, ExceptionType, Message)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.error_aggregates_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'error_aggregates_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS error_aggregates_spans_mv ON CLUSTER 'c' TO error_aggregates_data AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS error_aggregates_logs_mv ON CLUSTER 'c' TO error_aggregates_data AS
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

CREATE VIEW IF NOT EXISTS error_aggregates ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.error_aggregates ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'error_aggregates', cityHash64(TenantId));

-- 0007_service_topology 7d9df80237ef2b43301233a03b2f76cd6283a308d5f1c2822f749a666fe0d546
CREATE TABLE IF NOT EXISTS service_topology_data ON CLUSTER 'c'
(
    TenantId    LowCardinality(String),
    Time        DateTime CODEC(Delta, ZSTD(1)),
    Source      LowCardinality(String),
    Target      LowCardinality(String),
    TargetKind  Enum8('service' = 1, 'database' = 2, 'queue' = 3, 'address' = 4),
    Calls       SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Errors      SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    DurationSum SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    DurationMax SimpleAggregateFunction(max, Float64) CODEC(ZSTD(1)),
    ExpiresOn   Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, Source, Target, TargetKind, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.service_topology_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_topology_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_mv ON CLUSTER 'c' TO service_topology_data AS
WITH
    SpanAttributes AS a,
    multiIf(a['server.address'] != '', a['server.address'], a['net.peer.name'] != '', a['net.peer.name'], a['network.peer.address']) AS Host,
    multiIf(a['server.port'] != '', a['server.port'], a['net.peer.port'] != '', a['net.peer.port'], a['network.peer.port']) AS Port,
    multiIf(Host = '', '', Port = '', Host, position(Host, ':') > 0, concat('[', Host, ']:', Port), concat(Host, ':', Port)) AS Address,
    if(a['db.system.name'] != '', a['db.system.name'], a['db.system']) AS Database,
    if(a['db.namespace'] != '', a['db.namespace'], a['db.name']) AS Namespace,
    if(a['messaging.destination.name'] != '', a['messaging.destination.name'], a['messaging.destination']) AS Queue,
    multiIf(
        a['messaging.system'] != '', 'queue',
        Database != '', 'database',
        a['peer.service'] != '' OR a['service.peer.name'] != '', 'service',
        'address') AS Kind,
    multiIf(
        Kind = 'queue', arrayStringConcat(arrayFilter(part -> part != '', [a['messaging.system'], Queue]), '/'),
        Kind = 'database', arrayStringConcat(arrayFilter(part -> part != '', [Database, Namespace, Address]), '/'),
        Kind = 'service', if(a['service.peer.name'] != '', a['service.peer.name'], a['peer.service']),
        Address) AS Peer
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    if(SpanKind = 'Consumer', Peer, ServiceName) AS Source,
    if(SpanKind = 'Consumer', ServiceName, Peer) AS Target,
    if(SpanKind = 'Consumer', 'service', Kind) AS TargetKind,
    sum(SampleWeight) AS Calls,
    sumIf(SampleWeight, StatusCode = 'Error') AS Errors,
    sum(Duration / 1e9 * SampleWeight) AS DurationSum,
    max(Duration / 1e9) AS DurationMax,
    toDate(ExpiresAt) AS ExpiresOn
FROM traces_raw
WHERE SpanKind IN ('Client', 'Producer', 'Consumer') AND Peer != '' AND (SpanKind != 'Consumer' OR Kind = 'queue')
GROUP BY TenantId, Time, Source, Target, TargetKind, ExpiresOn;

CREATE VIEW IF NOT EXISTS service_topology ON CLUSTER 'c' AS
SELECT
    TenantId,
    Time,
    Source,
    Target,
    TargetKind,
    sum(d.Calls) AS Calls,
    sum(d.Errors) AS Errors,
    if(Calls > 0, sum(d.DurationSum) / Calls, 0.) AS DurationAvg,
    max(d.DurationMax) AS DurationMax
FROM service_topology_data AS d
GROUP BY TenantId, Time, Source, Target, TargetKind;

CREATE OR REPLACE TABLE `ollystack`.service_topology ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_topology', cityHash64(TenantId));

-- 0008_metric_anomalies 6de8d4c6208ba9450b56854e3bd6189371bdc1558853249ca4846c4c0232febc
CREATE MATERIALIZED VIEW IF NOT EXISTS metric_anomalies ON CLUSTER 'c'
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
ENGINE = MergeTree
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

CREATE OR REPLACE TABLE `ollystack`.metric_anomalies ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metric_anomalies', cityHash64(TenantId));

-- 0009_otel_views 971e1b3361a2b15664d6513a83de2ce86c403f62e0cd5b28bc53ba4651c0d835
CREATE VIEW IF NOT EXISTS otel_logs ON CLUSTER 'c' AS SELECT *, toDateTime(Timestamp) AS TimestampTime FROM logs_raw;

CREATE OR REPLACE TABLE `ollystack`.otel_logs ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_logs', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_traces ON CLUSTER 'c' AS SELECT * FROM traces_raw;

CREATE OR REPLACE TABLE `ollystack`.otel_traces ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_traces', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_traces_trace_id_ts ON CLUSTER 'c' AS
SELECT TenantId, TraceId, min(t.Start) AS Start, max(t.End) AS End FROM traces_trace_id_ts AS t GROUP BY TenantId, TraceId;

CREATE OR REPLACE TABLE `ollystack`.otel_traces_trace_id_ts ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_traces_trace_id_ts', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS metrics ON CLUSTER 'c' AS
SELECT
    p.*,
    s.MetricUnit AS MetricUnit,
    s.MetricDescription AS MetricDescription,
    s.ResourceSchemaUrl AS ResourceSchemaUrl,
    s.ResourceAttributes AS ResourceAttributes,
    s.ScopeName AS ScopeName,
    s.ScopeVersion AS ScopeVersion,
    s.ScopeSchemaUrl AS ScopeSchemaUrl,
    s.ScopeAttributes AS ScopeAttributes,
    s.Attributes AS Attributes
FROM metrics_raw AS p
ANY LEFT JOIN metrics_series AS s ON p.TenantId = s.TenantId AND p.MetricName = s.MetricName AND p.SeriesHash = s.SeriesHash;

CREATE OR REPLACE TABLE `ollystack`.metrics ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_metrics_gauge ON CLUSTER 'c' AS
SELECT * FROM metrics WHERE MetricType = 'gauge';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_gauge ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_gauge', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_metrics_sum ON CLUSTER 'c' AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'sum';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_sum ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_sum', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_metrics_histogram ON CLUSTER 'c' AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'histogram';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_histogram ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_histogram', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_metrics_exponential_histogram ON CLUSTER 'c' AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'exponential_histogram';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_exponential_histogram ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_exponential_histogram', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS otel_metrics_summary ON CLUSTER 'c' AS
SELECT * FROM metrics WHERE MetricType = 'summary';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_summary ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_summary', cityHash64(TenantId));

-- 0010_log_patterns d9f27d0ea2214eaf7584a32ce8b0f6c7a81a8a565f57a3ba90bad518e29d2fb0
ALTER TABLE logs_raw ON CLUSTER 'c' ADD COLUMN IF NOT EXISTS PatternId String
    MATERIALIZED LogAttributes['ollystack.log.pattern.id'] CODEC(ZSTD(1));

CREATE OR REPLACE TABLE `ollystack`.logs_raw ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'logs_raw', cityHash64(TenantId));

ALTER TABLE logs_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_pattern_id PatternId TYPE bloom_filter(0.001) GRANULARITY 1;

CREATE TABLE IF NOT EXISTS log_patterns_data ON CLUSTER 'c'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, Time, SeverityNumber, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.log_patterns_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'log_patterns_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_mv ON CLUSTER 'c' TO log_patterns_data AS
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

CREATE VIEW IF NOT EXISTS log_patterns ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.log_patterns ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'log_patterns', cityHash64(TenantId));

-- 0011_metric_descriptions f2bc7a6a80b29964debbe816abf267ad137569a154f352459d79e1777c2acbd9
CREATE TABLE IF NOT EXISTS metric_descriptions ON CLUSTER 'c'
(
    TenantId          LowCardinality(String),
    MetricName        LowCardinality(String),
    MetricDescription String CODEC(ZSTD(1)),
    LastSeen          DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt         DateTime CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', LastSeen)
ORDER BY (TenantId, MetricName)
TTL ExpiresAt
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.metric_descriptions ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metric_descriptions', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_descriptions_mv ON CLUSTER 'c' TO metric_descriptions AS
SELECT TenantId, MetricName, MetricDescription, LastSeen, ExpiresAt FROM metrics_series WHERE MetricDescription != '';

CREATE OR REPLACE VIEW metrics ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.metrics ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics', cityHash64(TenantId));

-- 0012_agent_ledger 9b31fb89845055d156a0d5876d54baa262ef119baafd97ac4a679178af70c412
CREATE TABLE IF NOT EXISTS agent_ledger_data ON CLUSTER 'c'
(
    TenantId   LowCardinality(String),
    AgentId    LowCardinality(String),
    SeriesHash UInt64 CODEC(ZSTD(1)),
    Time       DateTime CODEC(Delta, ZSTD(1)),
    Most       SimpleAggregateFunction(max, Int64) CODEC(T64, ZSTD(1)),
    Last       AggregateFunction(argMax, Int64, Tuple(DateTime, DateTime64(9))) CODEC(ZSTD(1)),
    ReportedAt SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    ExpiresOn  Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, AgentId, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.agent_ledger_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'agent_ledger_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_ledger_mv ON CLUSTER 'c' TO agent_ledger_data AS
SELECT
    TenantId,
    AgentId,
    SeriesHash,
    toStartOfHour(TimeUnix) AS Time,
    max(toInt64(Value)) AS Most,
    argMaxState(toInt64(Value), (r.IngestedAt, TimeUnix)) AS Last,
    max(TimeUnix) AS ReportedAt,
    toDate(ExpiresAt) AS ExpiresOn
FROM metrics_raw AS r
WHERE MetricName = 'ollystack.agent.ledger' AND ServiceName = 'ollystack-agent' AND AgentId != '' AND abs(Value) < 9e18
GROUP BY TenantId, AgentId, SeriesHash, Time, ExpiresOn;

CREATE TABLE IF NOT EXISTS agent_rows ON CLUSTER 'c'
(
    TenantId   LowCardinality(String),
    AgentId    LowCardinality(String),
    Signal     Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    Rows       SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    IngestedAt SimpleAggregateFunction(max, DateTime) CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
ORDER BY (TenantId, AgentId, Signal)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.agent_rows ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'agent_rows', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_rows_mv ON CLUSTER 'c' TO agent_rows AS
SELECT TenantId, AgentId, Signal, sum(b.Rows) AS Rows, max(b.IngestedAt) AS IngestedAt
FROM ingested_batches AS b
GROUP BY TenantId, AgentId, Signal;

CREATE VIEW IF NOT EXISTS agent_ledger ON CLUSTER 'c' AS
SELECT
    TenantId,
    AgentId,
    argMax(s.HostName, d.ReportedAt) AS HostName,
    toDateTime(toUInt32OrZero(s.Attributes['ollystack.ledger.account'])) AS Account,
    s.Attributes['ollystack.signal'] AS Signal,
    s.Attributes['ollystack.ledger.outcome'] AS Outcome,
    s.Attributes['ollystack.ledger.detail'] AS Detail,
    Time,
    if(Outcome IN ('waiting', 'corrected'), argMaxMerge(d.Last), max(d.Most)) AS Records,
    max(d.ReportedAt) AS ReportedAt
FROM agent_ledger_data AS d
INNER JOIN
(
    SELECT TenantId, SeriesHash, any(HostName) AS HostName, any(Attributes) AS Attributes
    FROM metrics_series
    WHERE MetricName = 'ollystack.agent.ledger'
    GROUP BY TenantId, SeriesHash
) AS s ON d.TenantId = s.TenantId AND d.SeriesHash = s.SeriesHash
GROUP BY TenantId, AgentId, Account, Signal, Outcome, Detail, Time;

CREATE OR REPLACE TABLE `ollystack`.agent_ledger ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'agent_ledger', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS agent_ledger_balance ON CLUSTER 'c' AS
SELECT
    l.TenantId AS TenantId,
    l.AgentId AS AgentId,
    l.HostName AS HostName,
    l.Signal AS Signal,
    l.Seen AS Seen,
    l.Sent AS Sent,
    toInt64(r.Stored) AS Stored,
    l.Folded AS Folded,
    l.SampledOut AS SampledOut,
    l.Suppressed AS Suppressed,
    l.Lost AS Lost,
    l.Why AS Why,
    l.Waiting AS Waiting,
    greatest(0, l.Sent - l.CorrectedOnDisk - toInt64(r.Stored)) AS NotStored,
    l.Corrected AS Corrected,
    l.Unaccounted AS Unaccounted,
    l.ReportedAt AS ReportedAt
FROM
(
    SELECT
        TenantId,
        AgentId,
        argMax(a.HostName, a.ReportedAt) AS HostName,
        Signal,
        sumIf(Records, Outcome = 'seen') AS Seen,
        sumIf(Records, Outcome = 'sent') AS Sent,
        sumIf(Records, Outcome = 'folded') AS Folded,
        sumIf(Records, Outcome = 'sampled_out') AS SampledOut,
        sumIf(Records, Outcome = 'suppressed') AS Suppressed,
        sumIf(Records, Outcome = 'dropped') AS Lost,
        sumMapIf(map(Detail, Records), Outcome = 'dropped' AND Records > 0) AS Why,
        sumIf(Records, Outcome = 'waiting' AND Account = Newest) AS Waiting,
        sumIf(Records, Outcome = 'corrected') AS Corrected,
        sumIf(Records, Outcome = 'corrected' AND Detail = 'buffer') AS CorrectedOnDisk,
        sum(multiIf(Outcome IN ('seen', 'corrected'), Records, -Records)) AS Unaccounted,
        max(a.ReportedAt) AS ReportedAt
    FROM
    (
        SELECT
            TenantId,
            AgentId,
            Account,
            Signal,
            Outcome,
            Detail,
            argMax(e.HostName, Time) AS HostName,
            argMax(e.Records, Time) AS Records,
            max(e.ReportedAt) AS ReportedAt,
            max(Account) OVER (PARTITION BY TenantId, AgentId) AS Newest
        FROM agent_ledger AS e
        GROUP BY TenantId, AgentId, Account, Signal, Outcome, Detail
    ) AS a
    GROUP BY TenantId, AgentId, Signal
) AS l
LEFT JOIN
(
    SELECT TenantId, AgentId, toString(b.Signal) AS Signal, sum(Rows) AS Stored FROM agent_rows AS b GROUP BY TenantId, AgentId, Signal
) AS r ON l.TenantId = r.TenantId AND l.AgentId = r.AgentId AND l.Signal = r.Signal;

CREATE OR REPLACE TABLE `ollystack`.agent_ledger_balance ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'agent_ledger_balance', cityHash64(TenantId));

-- 0013_ingested_at 1bc373ba02a1baa4799932c20a6bbb5b707c8a641ed1a75117e44afd75709742
ALTER TABLE metrics_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_metrics_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

ALTER TABLE logs_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_logs_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

ALTER TABLE traces_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_traces_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

-- 0014_delivery_indexes 958c27f5b6f4b1bb5a641610225a2121991a1186885b6ceb5d7b58f1e900beb3
ALTER TABLE metrics_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_metrics_delivery cityHash64(AgentId, BatchSequence) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE logs_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_logs_delivery cityHash64(AgentId, BatchSequence) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE traces_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_traces_delivery cityHash64(AgentId, BatchSequence) TYPE bloom_filter(0.01) GRANULARITY 1;

-- 0015_service_map 045cb3260665117f6c45bbdaa8c4431684ddf1951b6d07d15dd3ce652afaef30
DROP VIEW IF EXISTS service_topology_mv ON CLUSTER 'c';

CREATE TABLE IF NOT EXISTS service_topology_spans ON CLUSTER 'c'
(
    TenantId    LowCardinality(String),
    Time        DateTime CODEC(Delta, ZSTD(1)),
    Source      LowCardinality(String),
    SourceKind  LowCardinality(String),
    Target      LowCardinality(String),
    TargetKind  LowCardinality(String),
    Protocol    LowCardinality(String),
    Address     LowCardinality(String),
    SpanKind    LowCardinality(String),
    Calls       SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Errors      SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    DurationSum SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    DurationMax SimpleAggregateFunction(max, Float64) CODEC(ZSTD(1)),
    ExpiresOn   Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, Time, Source, Target, Protocol, SourceKind, TargetKind, Address, SpanKind)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.service_topology_spans ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_topology_spans', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_spans_mv ON CLUSTER 'c' TO service_topology_spans AS
WITH
    SpanAttributes AS a,
    multiIf(a['server.address'] != '', a['server.address'], a['net.peer.name'] != '', a['net.peer.name'], a['network.peer.address']) AS Host,
    multiIf(a['server.port'] != '', a['server.port'], a['net.peer.port'] != '', a['net.peer.port'], a['network.peer.port']) AS Port,
    if(a['service.peer.name'] != '', a['service.peer.name'], a['peer.service']) AS Peer,
    if(a['db.system.name'] != '', a['db.system.name'], a['db.system']) AS Database,
    if(a['db.namespace'] != '', a['db.namespace'], a['db.name']) AS Namespace,
    if(a['messaging.destination.name'] != '', a['messaging.destination.name'], a['messaging.destination']) AS Destination,
    a['messaging.system'] AS Messaging,
    (host, port) -> multiIf(host = '' OR port = '', host, position(host, ':') > 0, concat('[', host, ']:', port), concat(host, ':', port)) AS at,
    arrayStringConcat(arrayFilter(part -> part != '', [Messaging, Destination]), '/') AS Queue,
    if(a['client.address'] != '', a['client.address'], a['network.peer.address']) AS Caller,
    address -> IPv4StringToNumOrDefault(address) AS v4,
    address -> bitShiftRight(v4(address), 24) IN (10, 127) OR bitShiftRight(v4(address), 20) = 2753
        OR bitShiftRight(v4(address), 16) IN (49320, 43518) OR bitShiftRight(v4(address), 22) = 401
        OR (position(address, ':') > 0 AND match(lower(address), '^(::1$|f[cd]|fe[89ab])')) AS private
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    multiIf(
        SpanKind = 'Consumer', Queue,
        SpanKind != 'Server', ServiceName,
        Peer != '', Peer,
        private(Caller), Caller,
        v4(Caller) != 0 OR position(Caller, ':') > 0, 'internet',
        '') AS Source,
    multiIf(SpanKind = 'Consumer', 'queue', SpanKind != 'Server' OR Peer != '', 'service', private(Caller), 'address', 'internet') AS SourceKind,
    multiIf(
        SpanKind IN ('Server', 'Consumer'), ServiceName,
        Messaging != '', Queue,
        Peer != '', Peer,
        Database != '', arrayStringConcat(arrayFilter(part -> part != '', [Database, Namespace, at(Host, Port)]), '/'),
        at(Host, Port)) AS Target,
    multiIf(
        SpanKind = 'Consumer', 'service',
        SpanKind != 'Server' AND Messaging != '', 'queue',
        Database != '', 'database',
        SpanKind = 'Server' OR Peer != '', 'service',
        'address') AS TargetKind,
    multiIf(
        Messaging != '', Messaging,
        Database != '', Database,
        a['rpc.system'] != '', a['rpc.system'],
        a['http.request.method'] != '' OR a['http.method'] != '', 'http',
        a['network.protocol.name']) AS Protocol,
    if(SpanKind = 'Client' AND Peer = '' AND Messaging = '' AND private(a['network.peer.address']),
        at(a['network.peer.address'], a['network.peer.port']), '') AS Address,
    SpanKind,
    sum(SampleWeight) AS Calls,
    sumIf(SampleWeight, StatusCode = 'Error') AS Errors,
    sum(Duration / 1e9 * SampleWeight) AS DurationSum,
    max(Duration / 1e9) AS DurationMax,
    toDate(ExpiresAt) AS ExpiresOn
FROM traces_raw
WHERE AgentId = '' AND SpanKind IN ('Client', 'Server', 'Producer', 'Consumer') AND Source != '' AND Target != ''
GROUP BY TenantId, Time, Source, SourceKind, Target, TargetKind, Protocol, Address, SpanKind, ExpiresOn;

CREATE TABLE IF NOT EXISTS service_map_data ON CLUSTER 'c'
(
    TenantId   LowCardinality(String),
    Time       DateTime CODEC(Delta, ZSTD(1)),
    MetricName LowCardinality(String),
    SeriesHash UInt64 CODEC(ZSTD(1)),
    Count      SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Sum        SimpleAggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    Max        SimpleAggregateFunction(max, Float64) CODEC(ZSTD(1)),
    ExpiresOn  Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, Time, MetricName, SeriesHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.service_map_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_map_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS service_map_mv ON CLUSTER 'c' TO service_map_data AS
SELECT
    TenantId,
    toDateTime(Minute) AS Time,
    MetricName,
    SeriesHash,
    Points / length(Minutes) AS Count,
    Total / length(Minutes) AS Sum,
    Most AS Max,
    ExpiresOn
FROM
(
    SELECT
        TenantId,
        MetricName,
        SeriesHash,
        r.Count AS Points,
        if(MetricName IN ('ollystack.edge.sent', 'ollystack.edge.received'), Value, ifNull(r.Sum, Value)) AS Total,
        ifNull(r.Max, Value) AS Most,
        toDate(ExpiresAt) AS ExpiresOn,
        arrayMap((until, age) ->
            arrayMap(since -> multiIf(
                    MetricName = 'ollystack.endpoint', range(since - since % 300, until + 300, 60),
                    MetricName = 'ollystack.edge.duration', [since - since % 60],
                    range(since - since % 60, greatest(until, since - since % 60 + 1), 60)),
                [until - if(age <= 7200, age, 0)])[1],
            [toInt64(toUnixTimestamp(TimeUnix))],
            [toUInt32(toUnixTimestamp(TimeUnix) - toUnixTimestamp(StartTimeUnix))])[1] AS Minutes
    FROM metrics_raw AS r
    WHERE MetricName IN ('ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received',
        'ollystack.edge.round_trip', 'ollystack.endpoint')
)
ARRAY JOIN Minutes AS Minute;

CREATE VIEW IF NOT EXISTS service_endpoints ON CLUSTER 'c' AS
SELECT
    TenantId,
    Time,
    s.Address AS Address,
    if(uniqExactIf(s.ServiceName, s.ServiceName != '') = 1, max(s.ServiceName), '') AS ServiceName,
    if(uniqExact(s.HostName) = 1, any(s.HostName), '') AS HostName
FROM service_map_data AS p
INNER JOIN
(
    SELECT
        TenantId,
        SeriesHash,
        any(d.HostName) AS HostName,
        any(d.Attributes['service.name']) AS ServiceName,
        any(d.Attributes['server.address']) AS Host,
        any(d.Attributes['server.port']) AS Port,
        multiIf(Port = '', Host, position(Host, ':') > 0, concat('[', Host, ']:', Port), concat(Host, ':', Port)) AS Address
    FROM metrics_series AS d
    WHERE MetricName = 'ollystack.endpoint'
    GROUP BY TenantId, SeriesHash
) AS s ON p.TenantId = s.TenantId AND p.SeriesHash = s.SeriesHash
WHERE p.MetricName = 'ollystack.endpoint'
GROUP BY TenantId, Time, Address;

CREATE OR REPLACE TABLE `ollystack`.service_endpoints ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_endpoints', cityHash64(TenantId));

CREATE OR REPLACE VIEW service_topology ON CLUSTER 'c' AS
WITH
    all_edges AS
    (
        SELECT
            TenantId,
            p.Time AS Time,
            s.HostName AS HostName,
            s.Attributes['ollystack.edge.source'] AS Source,
            s.Attributes['ollystack.edge.source.kind'] AS SourceKind,
            s.Attributes['ollystack.edge.target'] AS Target,
            s.Attributes['ollystack.edge.target.kind'] AS TargetKind,
            s.Attributes['ollystack.edge.protocol'] AS Protocol,
            s.Attributes['ollystack.edge.address'] AS Address,
            s.Attributes['span.kind'] = 'server' AS IsServer,
            arrayMap((name, count, sum, max, failed) -> [
                    if(name = 'ollystack.edge.duration', count, 0.),
                    if(name = 'ollystack.edge.duration' AND failed, count, 0.),
                    if(name = 'ollystack.edge.duration', sum, 0.),
                    if(name = 'ollystack.edge.connections', max, 0.),
                    if(name = 'ollystack.edge.sent', sum, 0.),
                    if(name = 'ollystack.edge.received', sum, 0.),
                    if(name = 'ollystack.edge.round_trip' AND count > 0, sum / count, 0.),
                    if(name = 'ollystack.edge.round_trip' AND count > 0, 1., 0.)],
                [MetricName], [p.PointCount], [p.PointSum], [p.PointMax], [s.Attributes['status.code'] = 'error'])[1] AS Sums,
            if(MetricName = 'ollystack.edge.duration', p.PointMax, 0.) AS Most
        FROM
        (
            SELECT TenantId, Time, MetricName, SeriesHash, sum(d.Count) AS PointCount, sum(d.Sum) AS PointSum, max(d.Max) AS PointMax
            FROM service_map_data AS d
            WHERE MetricName != 'ollystack.endpoint'
            GROUP BY TenantId, Time, MetricName, SeriesHash
        ) AS p
        INNER JOIN
        (
            SELECT TenantId, MetricName, SeriesHash, any(d.HostName) AS HostName, any(d.Attributes) AS Attributes
            FROM metrics_series AS d
            WHERE MetricName IN ('ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received', 'ollystack.edge.round_trip')
            GROUP BY TenantId, MetricName, SeriesHash
        ) AS s ON p.TenantId = s.TenantId AND p.MetricName = s.MetricName AND p.SeriesHash = s.SeriesHash
        UNION ALL
        SELECT
            TenantId, Time, '' AS HostName, Source, SourceKind, Target, TargetKind, Protocol, Address, SpanKind = 'Server' AS IsServer,
            [Calls, Errors, DurationSum] AS Sums, DurationMax AS Most
        FROM service_topology_spans
        UNION ALL
        SELECT
            TenantId, Time, '' AS HostName, Source, 'service' AS SourceKind, Target, toString(d.TargetKind) AS TargetKind, '' AS Protocol, '' AS Address,
            0 AS IsServer, [Calls, Errors, DurationSum] AS Sums, DurationMax AS Most
        FROM service_topology_data AS d
    ),
    ends AS
    (
        SELECT
            e.TenantId AS TenantId,
            e.Time AS Time,
            arrayMap((kind, name, host, service_there, host_there) -> multiIf(
                    host != '' AND kind = 'address' AND match(name, '^(127[.]|::1$)'), ('host', host),
                    service_there != '', ('service', service_there),
                    host_there != '', ('host', host_there),
                    (kind, name)),
                [e.SourceKind], [e.Source], [e.HostName], [source.ServiceName], [source.HostName])[1] AS From,
            multiIf(NOT e.IsServer, e.HostName, From.1 = 'host', From.2, '') AS SourceHost,
            arrayMap((kind, name, host, service_there) -> multiIf(
                    service_there != '', (if(kind = 'address', 'service', kind), service_there),
                    host != '' AND kind = 'address' AND match(name, '^(127[.]|\\[::1\\])'),
                    (kind, replaceRegexpOne(name, '^(127[.][0-9.]+|\\[::1\\])', host)),
                    (kind, name)),
                [e.TargetKind], [e.Target], [e.HostName], [target.ServiceName])[1] AS To,
            e.Protocol AS Protocol,
            sumForEachIf(e.Sums, NOT e.IsServer) AS Client,
            maxIf(e.Most, NOT e.IsServer) AS ClientMost,
            sumForEachIf(e.Sums, e.IsServer) AS Server,
            maxIf(e.Most, e.IsServer) AS ServerMost
        FROM all_edges AS e
        LEFT JOIN service_endpoints AS target
            ON e.TenantId = target.TenantId AND e.Time = target.Time AND e.Address = target.Address
        LEFT JOIN service_endpoints AS source
            ON e.TenantId = source.TenantId AND e.Time = source.Time AND if(e.SourceKind = 'address', e.Source, '') = source.Address
        GROUP BY TenantId, Time, SourceHost, From, To, Protocol
    ),
    by_host AS
    (
        SELECT
            TenantId,
            Time,
            Protocol,
            arrayMap((ends, callers, host, host_most) ->
                arrayMap(end -> (end.1, end.2, end.3, end.4, end.5, if(end.3[1] > 0 AND callers = 1, host, []), if(end.3[1] > 0 AND callers = 1, host_most, 0.)),
                    arrayFilter(end -> end.1.1 != 'host' OR callers = 0 AND Protocol != 'tcp', ends)),
                [groupArray((n.From, n.To, n.Client, n.ClientMost, (n.Server, n.ServerMost)))],
                [countIf(n.From.1 != 'host' AND n.Client[1] > 0)],
                [sumForEachIf(n.Server, n.From.1 = 'host')],
                [maxIf(n.ServerMost, n.From.1 = 'host')])[1] AS Ends
        FROM ends AS n
        GROUP BY TenantId, Time, SourceHost, n.To.2, Protocol
    ),
    edges AS
    (
        SELECT
            TenantId,
            Time,
            Protocol,
            End.1 AS From,
            End.2 AS To,
            sumForEach(End.3) AS Client,
            max(End.4) AS ClientMost,
            sumForEachArray([End.5.1, End.6]) AS Server,
            max(greatest(End.5.2, End.7)) AS ServerMost
        FROM by_host
        ARRAY JOIN Ends AS End
        GROUP BY TenantId, Time, Protocol, From, To
    )
SELECT
    TenantId,
    Time,
    Source,
    Edge.1 AS SourceKind,
    Target,
    Edge.2 AS TargetKind,
    Edge.3 AS Protocol,
    Edge.4 AS Calls,
    Edge.5 AS Errors,
    Edge.6 AS DurationAvg,
    Edge.7 AS DurationMax,
    Edge.8 AS ServerCalls,
    Edge.9 AS ServerErrors,
    Edge.10 AS ServerDurationAvg,
    Edge.11 AS ServerDurationMax,
    Edge.12 AS Connections,
    Edge.13 AS BytesSent,
    Edge.14 AS BytesReceived,
    Edge.15 AS RoundTrip
FROM
(
    SELECT
        TenantId,
        Time,
        e.From.2 AS Source,
        e.To.2 AS Target,
        sum(e.Client[1] + e.Server[1]) AS CallsOfPair,
        groupArray(arrayMap((source_kind, target_kind, protocol, client, client_most, server, server_most) -> (
                source_kind, target_kind, protocol,
                if(client[1] > 0, client[1], server[1]),
                if(client[1] > 0, client[2], server[2]),
                multiIf(client[1] > 0, client[3] / client[1], server[1] > 0, server[3] / server[1], 0.),
                if(client[1] > 0, client_most, server_most),
                server[1], server[2], if(server[1] > 0, server[3] / server[1], 0.), server_most,
                client[4] + server[4], client[5] + server[5], client[6] + server[6],
                if(client[8] + server[8] > 0, toNullable((client[7] + server[7]) / (client[8] + server[8])), NULL)),
            [e.From.1], [e.To.1], [e.Protocol], [e.Client], [e.ClientMost], [e.Server], [e.ServerMost])[1]) AS Edges
    FROM edges AS e
    GROUP BY TenantId, Time, Source, Target
)
ARRAY JOIN arrayFilter(edge -> edge.3 != 'tcp' OR CallsOfPair = 0, Edges) AS Edge;

CREATE OR REPLACE TABLE `ollystack`.service_topology ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_topology', cityHash64(TenantId));

-- 0016_tenant_usage 1e9804623f6976cb07ee1f245df05b825808b6b26796abbb7f6da721aa7282a6
CREATE TABLE IF NOT EXISTS tenant_usage_data ON CLUSTER 'c'
(
    TenantId        LowCardinality(String),
    Hour            DateTime('UTC') CODEC(Delta, ZSTD(1)),
    Signal          Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toYYYYMM(Hour)
ORDER BY (TenantId, Hour, Signal, Gateway, Plan)
TTL Hour + INTERVAL 800 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;

CREATE OR REPLACE TABLE `ollystack`.tenant_usage_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'tenant_usage_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_usage_metrics_mv ON CLUSTER 'c' TO tenant_usage_data AS
SELECT TenantId, toStartOfHour(toDateTime(r.IngestedAt, 'UTC')) AS Hour, 'metrics' AS Signal, count() AS Stored
FROM metrics_raw AS r
GROUP BY TenantId, Hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_usage_logs_mv ON CLUSTER 'c' TO tenant_usage_data AS
SELECT TenantId, toStartOfHour(toDateTime(r.IngestedAt, 'UTC')) AS Hour, 'logs' AS Signal, count() AS Stored
FROM logs_raw AS r
GROUP BY TenantId, Hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS tenant_usage_traces_mv ON CLUSTER 'c' TO tenant_usage_data AS
SELECT TenantId, toStartOfHour(toDateTime(r.IngestedAt, 'UTC')) AS Hour, 'traces' AS Signal, count() AS Stored
FROM traces_raw AS r
GROUP BY TenantId, Hour;

CREATE VIEW IF NOT EXISTS tenant_usage ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.tenant_usage ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'tenant_usage', cityHash64(TenantId));

-- 0017_storage d8d9dc2be3ab869623f5f12d4e75dc9b68a9609555383ea441ce28e7dc4f8170
ALTER TABLE metrics_raw ON CLUSTER 'c'
    MODIFY COLUMN StartTimeUnix CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN TimeUnix CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN Value CODEC(ZSTD(1)),
    MODIFY COLUMN Sum CODEC(ZSTD(1)),
    MODIFY COLUMN Min CODEC(ZSTD(1)),
    MODIFY COLUMN Max CODEC(ZSTD(1)),
    MODIFY COLUMN ZeroThreshold CODEC(ZSTD(1)),
    MODIFY COLUMN BatchSequence CODEC(DoubleDelta, ZSTD(1));

CREATE OR REPLACE TABLE `ollystack`.metrics_raw ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_raw', cityHash64(TenantId));

ALTER TABLE metrics_raw ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE metrics_series ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE metric_descriptions ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE logs_raw ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE traces_raw ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE traces_trace_id_ts ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE ingested_batches ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE service_metrics_1m_data ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE error_aggregates_data ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE service_topology_spans ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE log_patterns_data ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE agent_ledger_data ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE agent_rows ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE tenant_usage_data ON CLUSTER 'c' MODIFY SETTING auto_statistics_types = '';

ALTER TABLE logs_raw ON CLUSTER 'c' DROP INDEX IF EXISTS idx_body;

ALTER TABLE logs_raw ON CLUSTER 'c' ADD INDEX IF NOT EXISTS idx_body_words Body
    TYPE text(tokenizer = 'splitByNonAlpha', posting_list_codec = 'bitpacking');

ALTER TABLE logs_raw ON CLUSTER 'c' MATERIALIZE INDEX IF EXISTS idx_body_words;

-- 0018_rollups 868cc1100b4ad05e4787e60934c363a807d90d5a4f1643959ca12886c218c4d2
CREATE TABLE IF NOT EXISTS metrics_5m_data ON CLUSTER 'c'
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
    Last                   SimpleAggregateFunction(max, Tuple(DateTime64(9), Float64)) CODEC(ZSTD(1)),
    RetentionDays          SimpleAggregateFunction(max, UInt16) CODEC(T64, ZSTD(1)),
    ExpiresOn              Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toMonday(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.metrics_5m_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_5m_data', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS metrics_1h_data ON CLUSTER 'c'
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
    Last                   SimpleAggregateFunction(max, Tuple(DateTime64(9), Float64)) CODEC(ZSTD(1)),
    ExpiresOn              Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toStartOfMonth(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.metrics_1h_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_1h_data', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS metrics_5m_histograms ON CLUSTER 'c'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toMonday(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.metrics_5m_histograms ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_5m_histograms', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS metrics_1h_histograms ON CLUSTER 'c'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toStartOfMonth(ExpiresOn)
ORDER BY (TenantId, MetricName, SeriesHash, Time, Scale, BoundsHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.metrics_1h_histograms ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_1h_histograms', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_1h_numbers_mv ON CLUSTER 'c' TO metrics_1h_data AS
SELECT
    TenantId, MetricName, SeriesHash, toStartOfHour(d.Time) AS Time, ServiceName, MetricType, AggregationTemporality, IsMonotonic,
    Count, Sum, Min, Max, Last,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(d.ExpiresOn)) + 10 * RetentionDays))) AS ExpiresOn
FROM metrics_5m_data AS d;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_1h_histograms_mv ON CLUSTER 'c' TO metrics_1h_histograms AS
SELECT
    TenantId, MetricName, SeriesHash, toStartOfHour(d.Time) AS Time, Scale, BoundsHash, ServiceName, MetricType,
    Count, Sum, Min, Max, ZeroCount, Positive, Negative, ExplicitBounds,
    toDate(toUInt16(least(65535, toUInt32(toUInt16(d.ExpiresOn)) + 10 * RetentionDays))) AS ExpiresOn
FROM metrics_5m_histograms AS d;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_numbers_mv ON CLUSTER 'c' TO metrics_5m_data AS
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
            arrayMap(span -> (300 * span, greatest(300 * span, since) - since, least(300 * span + 300, since + length) - since, length),
                range(intDiv(since, 300), intDiv(since + length - 1, 300) + 1)),
            [until - if(age <= 7200 AND (is_increase OR is_window), age, 0)],
            [if(age BETWEEN 1 AND 7200 AND is_window AND (is_increase OR r.Count > 1 AND r.Min = r.Max), age, 1)])[1],
        [toUnixTimestamp(TimeUnix)],
        [toUInt32(toUnixTimestamp(TimeUnix) - toUnixTimestamp(StartTimeUnix))],
        [MetricType = 'sum' AND AggregationTemporality = 'delta'],
        [AgentId != '' AND NOT (AggregationTemporality = 'cumulative' AND IsMonotonic)])[1] AS Part
WHERE MetricType IN ('gauge', 'sum') AND bitAnd(Flags, 1) = 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_histograms_mv ON CLUSTER 'c' TO metrics_5m_histograms AS
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

CREATE VIEW IF NOT EXISTS metrics_5m ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.metrics_5m ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_5m', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS metrics_1h ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.metrics_1h ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'metrics_1h', cityHash64(TenantId));

ALTER TABLE metrics_series ON CLUSTER 'c' MODIFY TTL
    toDateTime(least(4294967295, toInt64(toUnixTimestamp(LastSeen)) + 13 * greatest(0, toInt64(toUnixTimestamp(ExpiresAt)) - toInt64(toUnixTimestamp(LastSeen)))));

ALTER TABLE metric_descriptions ON CLUSTER 'c' MODIFY TTL
    toDateTime(least(4294967295, toInt64(toUnixTimestamp(LastSeen)) + 13 * greatest(0, toInt64(toUnixTimestamp(ExpiresAt)) - toInt64(toUnixTimestamp(LastSeen)))));

-- 0019_otel_tools 2fa7e076fd1da026b427e214e0adcc138b7ddf3dad16db2a0004c9869d0282f7
CREATE OR REPLACE VIEW otel_metrics_gauge ON CLUSTER 'c' AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Value, Flags,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId
FROM metrics WHERE MetricType = 'gauge';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_gauge ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_gauge', cityHash64(TenantId));

CREATE OR REPLACE VIEW otel_metrics_sum ON CLUSTER 'c' AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Value, Flags,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId,
    toInt32(m.AggregationTemporality) AS AggregationTemporality, IsMonotonic
FROM metrics AS m WHERE MetricType = 'sum';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_sum ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_sum', cityHash64(TenantId));

CREATE OR REPLACE VIEW otel_metrics_histogram ON CLUSTER 'c' AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Count, Sum, BucketCounts, ExplicitBounds,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId,
    Flags, Min, Max, toInt32(m.AggregationTemporality) AS AggregationTemporality
FROM metrics AS m WHERE MetricType = 'histogram';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_histogram ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_histogram', cityHash64(TenantId));

CREATE OR REPLACE VIEW otel_metrics_exponential_histogram ON CLUSTER 'c' AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Count, Sum, Scale, ZeroCount, PositiveOffset, PositiveBucketCounts, NegativeOffset, NegativeBucketCounts,
    Exemplars.FilteredAttributes, Exemplars.TimeUnix, Exemplars.Value, Exemplars.SpanId, Exemplars.TraceId,
    Flags, Min, Max, toInt32(m.AggregationTemporality) AS AggregationTemporality
FROM metrics AS m WHERE MetricType = 'exponential_histogram';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_exponential_histogram ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_exponential_histogram', cityHash64(TenantId));

CREATE OR REPLACE VIEW otel_metrics_summary ON CLUSTER 'c' AS
SELECT
    TenantId, SeriesHash,
    ResourceAttributes, ResourceSchemaUrl, ScopeName, ScopeVersion, ScopeAttributes, toUInt32(0) AS ScopeDroppedAttrCount, ScopeSchemaUrl,
    ServiceName, MetricName, MetricDescription, MetricUnit, Attributes, StartTimeUnix, TimeUnix,
    Count, Sum, ValueAtQuantiles.Quantile, ValueAtQuantiles.Value, Flags
FROM metrics WHERE MetricType = 'summary';

CREATE OR REPLACE TABLE `ollystack`.otel_metrics_summary ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'otel_metrics_summary', cityHash64(TenantId));

-- 0020_by_time 9bc8d11447984514342632c6a43d13500a87b7759d4dba6a3d4d69882374e697
CREATE TABLE IF NOT EXISTS service_metrics_1m_by_time ON CLUSTER 'c'
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
    INDEX idx_time Time TYPE minmax GRANULARITY 1
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, toStartOfHour(Time), ServiceName, SpanName, SpanKind, Time, Origin, Scale)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.service_metrics_1m_by_time ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_metrics_1m_by_time', cityHash64(TenantId));

DROP VIEW IF EXISTS service_metrics_1m_agent_mv ON CLUSTER 'c';

DROP VIEW IF EXISTS service_metrics_1m_spans_mv ON CLUSTER 'c';

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_agent_by_time_mv ON CLUSTER 'c' TO service_metrics_1m_by_time AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_spans_by_time_mv ON CLUSTER 'c' TO service_metrics_1m_by_time AS
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

CREATE OR REPLACE VIEW service_metrics_1m ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.service_metrics_1m ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_metrics_1m', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS log_templates ON CLUSTER 'c'
(
    TenantId  LowCardinality(String),
    PatternId String CODEC(ZSTD(1)),
    Template  AggregateFunction(argMax, String, UInt64) CODEC(ZSTD(1)),
    ExpiresOn Date CODEC(Delta, ZSTD(1))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.log_templates ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'log_templates', cityHash64(TenantId));

CREATE TABLE IF NOT EXISTS log_patterns_1h_data ON CLUSTER 'c'
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
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY ExpiresOn
ORDER BY (TenantId, Time, ServiceName, SeverityNumber, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, auto_statistics_types = '';

CREATE OR REPLACE TABLE `ollystack`.log_patterns_1h_data ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'log_patterns_1h_data', cityHash64(TenantId));

CREATE MATERIALIZED VIEW IF NOT EXISTS log_templates_mv ON CLUSTER 'c' TO log_templates AS
SELECT
    TenantId,
    LogAttributes['ollystack.log.pattern.id'] AS PatternId,
    argMaxState(substringUTF8(Body, 1, 1024), LineCount) AS Template,
    toDate(ExpiresAt) AS ExpiresOn
FROM logs_raw
WHERE PatternId != ''
GROUP BY TenantId, PatternId, ExpiresOn;

INSERT INTO log_templates
SELECT TenantId, PatternId, argMaxMergeState(d.Template) AS Template, ExpiresOn FROM log_patterns_data AS d GROUP BY TenantId, PatternId, ExpiresOn;

DROP VIEW IF EXISTS log_patterns_mv ON CLUSTER 'c';

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_1h_mv ON CLUSTER 'c' TO log_patterns_1h_data AS
SELECT TenantId, toStartOfHour(d.Time) AS Time, ServiceName, SeverityNumber, PatternId, Lines, FirstSeen, LastSeen, ExpiresOn
FROM log_patterns_data AS d;

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_lines_mv ON CLUSTER 'c' TO log_patterns_data AS
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

CREATE OR REPLACE VIEW log_patterns ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.log_patterns ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'log_patterns', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS log_patterns_1h ON CLUSTER 'c' AS
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

CREATE OR REPLACE TABLE `ollystack`.log_patterns_1h ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'log_patterns_1h', cityHash64(TenantId));

-- 0021_service_edges a1fe70154b0f0b5dfebbfdd4973e524e98d83b0a7f37c2c542b7caad8315b8c6
CREATE VIEW IF NOT EXISTS service_edges_told ON CLUSTER 'c' AS
SELECT
    TenantId,
    p.Time AS Time,
    s.HostName AS HostName,
    s.Attributes['ollystack.edge.source'] AS Source,
    s.Attributes['ollystack.edge.source.kind'] AS SourceKind,
    s.Attributes['ollystack.edge.target'] AS Target,
    s.Attributes['ollystack.edge.target.kind'] AS TargetKind,
    s.Attributes['ollystack.edge.protocol'] AS Protocol,
    s.Attributes['ollystack.edge.address'] AS Address,
    s.Attributes['span.kind'] = 'server' AS IsServer,
    arrayMap((name, count, sum, max, failed) -> [
            if(name = 'ollystack.edge.duration', count, 0.),
            if(name = 'ollystack.edge.duration' AND failed, count, 0.),
            if(name = 'ollystack.edge.duration', sum, 0.),
            if(name = 'ollystack.edge.connections', max, 0.),
            if(name = 'ollystack.edge.sent', sum, 0.),
            if(name = 'ollystack.edge.received', sum, 0.),
            if(name = 'ollystack.edge.round_trip' AND count > 0, sum / count, 0.),
            if(name = 'ollystack.edge.round_trip' AND count > 0, 1., 0.)],
        [MetricName], [p.PointCount], [p.PointSum], [p.PointMax], [s.Attributes['status.code'] = 'error'])[1] AS Sums,
    if(MetricName = 'ollystack.edge.duration', p.PointMax, 0.) AS Most
FROM
(
    SELECT TenantId, Time, MetricName, SeriesHash, sum(d.Count) AS PointCount, sum(d.Sum) AS PointSum, max(d.Max) AS PointMax
    FROM service_map_data AS d
    WHERE MetricName != 'ollystack.endpoint'
    GROUP BY TenantId, Time, MetricName, SeriesHash
) AS p
INNER JOIN
(
    SELECT TenantId, MetricName, SeriesHash, any(d.HostName) AS HostName, any(d.Attributes) AS Attributes
    FROM metrics_series AS d
    WHERE MetricName IN ('ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received', 'ollystack.edge.round_trip')
    GROUP BY TenantId, MetricName, SeriesHash
) AS s ON p.TenantId = s.TenantId AND p.MetricName = s.MetricName AND p.SeriesHash = s.SeriesHash
UNION ALL
SELECT
    TenantId, Time, '' AS HostName, Source, SourceKind, Target, TargetKind, Protocol, Address, SpanKind = 'Server' AS IsServer,
    [Calls, Errors, DurationSum] AS Sums, DurationMax AS Most
FROM service_topology_spans
UNION ALL
SELECT
    TenantId, Time, '' AS HostName, Source, 'service' AS SourceKind, Target, toString(d.TargetKind) AS TargetKind, '' AS Protocol, '' AS Address,
    0 AS IsServer, [Calls, Errors, DurationSum] AS Sums, DurationMax AS Most
FROM service_topology_data AS d;

CREATE OR REPLACE TABLE `ollystack`.service_edges_told ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_edges_told', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS service_edges_named ON CLUSTER 'c' AS
SELECT
    e.TenantId AS TenantId,
    e.Time AS Time,
    arrayMap((kind, name, host, service_there, host_there) -> multiIf(
            host != '' AND kind = 'address' AND match(name, '^(127[.]|::1$)'), ('host', host),
            service_there != '', ('service', service_there),
            host_there != '', ('host', host_there),
            (kind, name)),
        [e.SourceKind], [e.Source], [e.HostName], [source.ServiceName], [source.HostName])[1] AS From,
    multiIf(NOT e.IsServer, e.HostName, From.1 = 'host', From.2, '') AS SourceHost,
    arrayMap((kind, name, host, service_there) -> multiIf(
            service_there != '', (if(kind = 'address', 'service', kind), service_there),
            host != '' AND kind = 'address' AND match(name, '^(127[.]|\\[::1\\])'),
            (kind, replaceRegexpOne(name, '^(127[.][0-9.]+|\\[::1\\])', host)),
            (kind, name)),
        [e.TargetKind], [e.Target], [e.HostName], [target.ServiceName])[1] AS To,
    e.Protocol AS Protocol,
    sumForEachIf(e.Sums, NOT e.IsServer) AS Client,
    maxIf(e.Most, NOT e.IsServer) AS ClientMost,
    sumForEachIf(e.Sums, e.IsServer) AS Server,
    maxIf(e.Most, e.IsServer) AS ServerMost
FROM service_edges_told AS e
LEFT JOIN service_endpoints AS target
    ON e.TenantId = target.TenantId AND e.Time = target.Time AND e.Address = target.Address
LEFT JOIN service_endpoints AS source
    ON e.TenantId = source.TenantId AND e.Time = source.Time AND if(e.SourceKind = 'address', e.Source, '') = source.Address
GROUP BY TenantId, Time, SourceHost, From, To, Protocol;

CREATE OR REPLACE TABLE `ollystack`.service_edges_named ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_edges_named', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS service_edges_by_host ON CLUSTER 'c' AS
SELECT
    TenantId,
    Time,
    Protocol,
    arrayMap((ends, callers, host, host_most) ->
        arrayMap(end -> (end.1, end.2, end.3, end.4, end.5, if(end.3[1] > 0 AND callers = 1, host, []), if(end.3[1] > 0 AND callers = 1, host_most, 0.)),
            arrayFilter(end -> end.1.1 != 'host' OR callers = 0 AND Protocol != 'tcp', ends)),
        [groupArray((n.From, n.To, n.Client, n.ClientMost, (n.Server, n.ServerMost)))],
        [countIf(n.From.1 != 'host' AND n.Client[1] > 0)],
        [sumForEachIf(n.Server, n.From.1 = 'host')],
        [maxIf(n.ServerMost, n.From.1 = 'host')])[1] AS Ends
FROM service_edges_named AS n
GROUP BY TenantId, Time, SourceHost, n.To.2, Protocol;

CREATE OR REPLACE TABLE `ollystack`.service_edges_by_host ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_edges_by_host', cityHash64(TenantId));

CREATE VIEW IF NOT EXISTS service_edges ON CLUSTER 'c' AS
SELECT
    TenantId,
    Time,
    Protocol,
    End.1 AS From,
    End.2 AS To,
    sumForEach(End.3) AS Client,
    max(End.4) AS ClientMost,
    sumForEachArray([End.5.1, End.6]) AS Server,
    max(greatest(End.5.2, End.7)) AS ServerMost
FROM service_edges_by_host
ARRAY JOIN Ends AS End
GROUP BY TenantId, Time, Protocol, From, To;

CREATE OR REPLACE TABLE `ollystack`.service_edges ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_edges', cityHash64(TenantId));

CREATE OR REPLACE VIEW service_topology ON CLUSTER 'c' AS
SELECT
    TenantId,
    Time,
    Source,
    Edge.1 AS SourceKind,
    Target,
    Edge.2 AS TargetKind,
    Edge.3 AS Protocol,
    Edge.4 AS Calls,
    Edge.5 AS Errors,
    Edge.6 AS DurationAvg,
    Edge.7 AS DurationMax,
    Edge.8 AS ServerCalls,
    Edge.9 AS ServerErrors,
    Edge.10 AS ServerDurationAvg,
    Edge.11 AS ServerDurationMax,
    Edge.12 AS Connections,
    Edge.13 AS BytesSent,
    Edge.14 AS BytesReceived,
    Edge.15 AS RoundTrip
FROM
(
    SELECT
        TenantId,
        Time,
        e.From.2 AS Source,
        e.To.2 AS Target,
        sum(e.Client[1] + e.Server[1]) AS CallsOfPair,
        groupArray(arrayMap((source_kind, target_kind, protocol, client, client_most, server, server_most) -> (
                source_kind, target_kind, protocol,
                if(client[1] > 0, client[1], server[1]),
                if(client[1] > 0, client[2], server[2]),
                multiIf(client[1] > 0, client[3] / client[1], server[1] > 0, server[3] / server[1], 0.),
                if(client[1] > 0, client_most, server_most),
                server[1], server[2], if(server[1] > 0, server[3] / server[1], 0.), server_most,
                client[4] + server[4], client[5] + server[5], client[6] + server[6],
                if(client[8] + server[8] > 0, toNullable((client[7] + server[7]) / (client[8] + server[8])), NULL)),
            [e.From.1], [e.To.1], [e.Protocol], [e.Client], [e.ClientMost], [e.Server], [e.ServerMost])[1]) AS Edges
    FROM service_edges AS e
    GROUP BY TenantId, Time, Source, Target
)
ARRAY JOIN arrayFilter(edge -> edge.3 != 'tcp' OR CallsOfPair = 0, Edges) AS Edge;

CREATE OR REPLACE TABLE `ollystack`.service_topology ON CLUSTER 'c'
ENGINE = Distributed('c', 'ollystack_local', 'service_topology', cityHash64(TenantId));

-- 0022_views_in_steps 1515adc1bb972ab9a62bc81401d7a8b7227e8e5f7946c69f2806d65549829c06
CREATE TABLE IF NOT EXISTS service_topology_attributes ON CLUSTER 'c'
(
    TenantId            LowCardinality(String),
    Time                DateTime,
    ServiceName         LowCardinality(String),
    SpanKind            LowCardinality(String),
    StatusCode          LowCardinality(String),
    SampleWeight        Float64,
    Seconds             Float64,
    ExpiresOn           Date,
    Host                String,
    Port                String,
    NetworkAddress      String,
    NetworkPort         String,
    Caller              String,
    Peer                String,
    Database            String,
    Namespace           String,
    Messaging           String,
    Destination         String,
    RemoteCalls         String,
    IsHttp              Bool,
    NetworkProtocol     String
)
ENGINE = Null;

CREATE TABLE IF NOT EXISTS service_topology_calls ON CLUSTER 'c'
(
    TenantId     LowCardinality(String),
    Time         DateTime,
    Source       String,
    SourceKind   LowCardinality(String),
    Target       String,
    TargetKind   LowCardinality(String),
    Protocol     String,
    Address      String,
    SpanKind     LowCardinality(String),
    StatusCode   LowCardinality(String),
    SampleWeight Float64,
    Seconds      Float64,
    ExpiresOn    Date
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_sums_mv ON CLUSTER 'c' TO service_topology_spans AS
SELECT
    TenantId, Time, Source, SourceKind, Target, TargetKind, Protocol, Address, SpanKind,
    sum(SampleWeight) AS Calls,
    sumIf(SampleWeight, StatusCode = 'Error') AS Errors,
    sum(Seconds * SampleWeight) AS DurationSum,
    max(Seconds) AS DurationMax,
    ExpiresOn
FROM service_topology_calls
WHERE Source != '' AND Target != ''
GROUP BY TenantId, Time, Source, SourceKind, Target, TargetKind, Protocol, Address, SpanKind, ExpiresOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_calls_mv ON CLUSTER 'c' TO service_topology_calls AS
WITH
    (host, port) -> multiIf(host = '' OR port = '', host, position(host, ':') > 0, concat('[', host, ']:', port), concat(host, ':', port)) AS at,
    arrayStringConcat(arrayFilter(part -> part != '', [Messaging, Destination]), '/') AS Queue,
    address -> IPv4StringToNumOrDefault(address) AS v4,
    address -> bitShiftRight(v4(address), 24) IN (10, 127) OR bitShiftRight(v4(address), 20) = 2753
        OR bitShiftRight(v4(address), 16) IN (49320, 43518) OR bitShiftRight(v4(address), 22) = 401
        OR (position(address, ':') > 0 AND match(lower(address), '^(::1$|f[cd]|fe[89ab])')) AS private
SELECT
    TenantId, Time,
    multiIf(
        SpanKind = 'Consumer', Queue,
        SpanKind != 'Server', ServiceName,
        Peer != '', Peer,
        private(Caller), Caller,
        v4(Caller) != 0 OR position(Caller, ':') > 0, 'internet',
        '') AS Source,
    multiIf(SpanKind = 'Consumer', 'queue', SpanKind != 'Server' OR Peer != '', 'service', private(Caller), 'address', 'internet') AS SourceKind,
    multiIf(
        SpanKind IN ('Server', 'Consumer'), ServiceName,
        Messaging != '', Queue,
        Peer != '', Peer,
        Database != '', arrayStringConcat(arrayFilter(part -> part != '', [Database, Namespace, at(Host, Port)]), '/'),
        at(Host, Port)) AS Target,
    multiIf(
        SpanKind = 'Consumer', 'service',
        SpanKind != 'Server' AND Messaging != '', 'queue',
        Database != '', 'database',
        SpanKind = 'Server' OR Peer != '', 'service',
        'address') AS TargetKind,
    multiIf(Messaging != '', Messaging, Database != '', Database, RemoteCalls != '', RemoteCalls, IsHttp, 'http', NetworkProtocol) AS Protocol,
    if(SpanKind = 'Client' AND Peer = '' AND Messaging = '' AND private(NetworkAddress), at(NetworkAddress, NetworkPort), '') AS Address,
    SpanKind, StatusCode, SampleWeight, Seconds, ExpiresOn
FROM service_topology_attributes;

DROP VIEW IF EXISTS service_topology_spans_mv ON CLUSTER 'c';

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_attributes_mv ON CLUSTER 'c' TO service_topology_attributes AS
WITH SpanAttributes AS a
SELECT
    TenantId,
    toStartOfMinute(Timestamp) AS Time,
    ServiceName, SpanKind, StatusCode, SampleWeight,
    Duration / 1e9 AS Seconds,
    toDate(ExpiresAt) AS ExpiresOn,
    multiIf(a['server.address'] != '', a['server.address'], a['net.peer.name'] != '', a['net.peer.name'], a['network.peer.address']) AS Host,
    multiIf(a['server.port'] != '', a['server.port'], a['net.peer.port'] != '', a['net.peer.port'], a['network.peer.port']) AS Port,
    a['network.peer.address'] AS NetworkAddress,
    a['network.peer.port'] AS NetworkPort,
    if(a['client.address'] != '', a['client.address'], a['network.peer.address']) AS Caller,
    if(a['service.peer.name'] != '', a['service.peer.name'], a['peer.service']) AS Peer,
    if(a['db.system.name'] != '', a['db.system.name'], a['db.system']) AS Database,
    if(a['db.namespace'] != '', a['db.namespace'], a['db.name']) AS Namespace,
    a['messaging.system'] AS Messaging,
    if(a['messaging.destination.name'] != '', a['messaging.destination.name'], a['messaging.destination']) AS Destination,
    a['rpc.system'] AS RemoteCalls,
    a['http.request.method'] != '' OR a['http.method'] != '' AS IsHttp,
    a['network.protocol.name'] AS NetworkProtocol
FROM traces_raw
WHERE AgentId = '' AND SpanKind IN ('Client', 'Server', 'Producer', 'Consumer');

CREATE TABLE IF NOT EXISTS metrics_5m_numbers ON CLUSTER 'c'
(
    TenantId               LowCardinality(String),
    MetricName             LowCardinality(String),
    SeriesHash             UInt64,
    ServiceName            LowCardinality(String),
    MetricType             Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    AggregationTemporality Enum8('unspecified' = 0, 'delta' = 1, 'cumulative' = 2),
    IsMonotonic            Bool,
    TimeUnix               DateTime64(9),
    Value                  Float64,
    Points                 UInt64,
    Total                  Float64,
    Min                    Float64,
    Max                    Float64,
    IsIncrease             Bool,
    Since                  Int64,
    Length                 UInt32,
    RetentionDays          UInt16,
    IngestedOn             Date
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_shares_mv ON CLUSTER 'c' TO metrics_5m_data AS
SELECT
    TenantId, MetricName, SeriesHash,
    toStartOfFiveMinutes(toDateTime(Since + Begin)) AS Time,
    ServiceName, MetricType, AggregationTemporality, IsMonotonic,
    intDiv(Points * End, Length) - intDiv(Points * Begin, Length) AS Count,
    if(IsIncrease, Value * (End - Begin) / Length, if(Length = 1, Total, Value * Count)) AS Sum,
    Min, Max,
    (TimeUnix, Value) AS Last,
    RetentionDays,
    toDate(least(65535, toUInt16(IngestedOn) + 3 * RetentionDays)) AS ExpiresOn
FROM metrics_5m_numbers
ARRAY JOIN
    arrayConcat([0], range(300 - Since % 300, Length, 300)) AS Begin,
    arrayConcat(range(300 - Since % 300, Length, 300), [Length]) AS End;

DROP VIEW IF EXISTS metrics_5m_numbers_mv ON CLUSTER 'c';

CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_points_mv ON CLUSTER 'c' TO metrics_5m_numbers AS
WITH
    AgentId != '' AND NOT (AggregationTemporality = 'cumulative' AND IsMonotonic) AS IsWindow,
    toUInt32(toUnixTimestamp(TimeUnix) - toUnixTimestamp(StartTimeUnix)) AS Age
SELECT
    TenantId, MetricName, SeriesHash, ServiceName, MetricType, AggregationTemporality, IsMonotonic, TimeUnix, Value,
    r.Count AS Points,
    ifNull(r.Sum, 0) AS Total,
    ifNull(r.Min, Value) AS Min,
    ifNull(r.Max, Value) AS Max,
    MetricType = 'sum' AND AggregationTemporality = 'delta' AS IsIncrease,
    toUnixTimestamp(TimeUnix) - if(Age <= 7200 AND (IsIncrease OR IsWindow), Age, 0) AS Since,
    if(IsWindow AND Age BETWEEN 1 AND 7200 AND (IsIncrease OR r.Count > 1 AND r.Min = r.Max), Age, 1) AS Length,
    toUInt16(intDiv(greatest(0, toInt64(ExpiresAt) - toInt64(IngestedAt)) + 86399, 86400)) AS RetentionDays,
    toDate(IngestedAt) AS IngestedOn
FROM metrics_raw AS r
WHERE MetricType IN ('gauge', 'sum') AND bitAnd(Flags, 1) = 0;

CREATE TABLE IF NOT EXISTS agents_points ON CLUSTER 'c'
(
    TenantId             LowCardinality(String),
    MetricName           LowCardinality(String),
    SeriesHash           UInt64,
    ServiceName          LowCardinality(String),
    StartTimeUnix        DateTime64(9),
    TimeUnix             DateTime64(9),
    MetricType           Enum8('gauge' = 1, 'sum' = 2, 'histogram' = 3, 'exponential_histogram' = 4, 'summary' = 5),
    Value                Float64,
    Count                UInt64,
    Sum                  Nullable(Float64),
    Min                  Nullable(Float64),
    Max                  Nullable(Float64),
    Scale                Int32,
    ZeroCount            UInt64,
    PositiveOffset       Int32,
    PositiveBucketCounts Array(UInt64),
    SpanName             LowCardinality(String),
    SpanKind             LowCardinality(String),
    StatusCode           LowCardinality(String),
    AgentId              LowCardinality(String),
    IngestedAt           DateTime,
    ExpiresAt            DateTime
)
ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_points_mv ON CLUSTER 'c' TO service_metrics_1m_by_time AS
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
FROM agents_points AS r
WHERE MetricName = 'ollystack.span.duration' AND MetricType = 'exponential_histogram';

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_ledger_points_mv ON CLUSTER 'c' TO agent_ledger_data AS
SELECT
    TenantId,
    AgentId,
    SeriesHash,
    toStartOfHour(TimeUnix) AS Time,
    max(toInt64(Value)) AS Most,
    argMaxState(toInt64(Value), (r.IngestedAt, TimeUnix)) AS Last,
    max(TimeUnix) AS ReportedAt,
    toDate(ExpiresAt) AS ExpiresOn
FROM agents_points AS r
WHERE MetricName = 'ollystack.agent.ledger' AND ServiceName = 'ollystack-agent' AND AgentId != '' AND abs(Value) < 9e18
GROUP BY TenantId, AgentId, SeriesHash, Time, ExpiresOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_map_points_mv ON CLUSTER 'c' TO service_map_data AS
SELECT
    TenantId,
    toDateTime(Minute) AS Time,
    MetricName,
    SeriesHash,
    Points / length(Minutes) AS Count,
    Total / length(Minutes) AS Sum,
    Most AS Max,
    ExpiresOn
FROM
(
    SELECT
        TenantId,
        MetricName,
        SeriesHash,
        r.Count AS Points,
        if(MetricName IN ('ollystack.edge.sent', 'ollystack.edge.received'), Value, ifNull(r.Sum, Value)) AS Total,
        ifNull(r.Max, Value) AS Most,
        toDate(ExpiresAt) AS ExpiresOn,
        arrayMap((until, age) ->
            arrayMap(since -> multiIf(
                    MetricName = 'ollystack.endpoint', range(since - since % 300, until + 300, 60),
                    MetricName = 'ollystack.edge.duration', [since - since % 60],
                    range(since - since % 60, greatest(until, since - since % 60 + 1), 60)),
                [until - if(age <= 7200, age, 0)])[1],
            [toInt64(toUnixTimestamp(TimeUnix))],
            [toUInt32(toUnixTimestamp(TimeUnix) - toUnixTimestamp(StartTimeUnix))])[1] AS Minutes
    FROM agents_points AS r
    WHERE MetricName IN ('ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received',
        'ollystack.edge.round_trip', 'ollystack.endpoint')
)
ARRAY JOIN Minutes AS Minute;

DROP VIEW IF EXISTS service_metrics_1m_agent_by_time_mv ON CLUSTER 'c';

DROP VIEW IF EXISTS agent_ledger_mv ON CLUSTER 'c';

DROP VIEW IF EXISTS service_map_mv ON CLUSTER 'c';

CREATE MATERIALIZED VIEW IF NOT EXISTS agents_points_mv ON CLUSTER 'c' TO agents_points AS
SELECT
    TenantId, MetricName, SeriesHash, ServiceName, StartTimeUnix, TimeUnix, MetricType, Value, Count, Sum, Min, Max, Scale, ZeroCount, PositiveOffset,
    PositiveBucketCounts, SpanName, SpanKind, StatusCode, AgentId, IngestedAt, ExpiresAt
FROM metrics_raw
WHERE startsWith(MetricName, 'ollystack.');

