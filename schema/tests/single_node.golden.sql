-- 0001_metrics 8a4fa9fcc90182a3c100067551a16839012713eda430c9dc25aa6edbf2acd1dc
CREATE TABLE IF NOT EXISTS metrics_series
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
ENGINE = ReplacingMergeTree(LastSeen)
ORDER BY (TenantId, MetricName, SeriesHash)
TTL ExpiresAt
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS metrics_raw
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
ENGINE = MergeTree
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, MetricName, SeriesHash, TimeUnix)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- 0002_logs d6d822715fd4b22203c879875a2df9b52753e290d367191fe000ebe6e3381b9d
CREATE TABLE IF NOT EXISTS logs_raw
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
ENGINE = MergeTree
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, toStartOfFiveMinutes(Timestamp), ServiceName, Timestamp)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, map_serialization_version = 'with_buckets';

-- 0003_traces 61fb79d16bfaedb521b8b4769153377471b7ef033288074cfad24018852a8065
CREATE TABLE IF NOT EXISTS traces_raw
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
ENGINE = MergeTree
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, ServiceName, SpanName, toDateTime(Timestamp))
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, map_serialization_version = 'with_buckets';

CREATE TABLE IF NOT EXISTS traces_trace_id_ts
(
    TenantId  LowCardinality(String),
    TraceId   String CODEC(ZSTD(1)),
    Start     SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    End       SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    ExpiresAt DateTime CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, TraceId)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS traces_trace_id_ts_mv TO traces_trace_id_ts AS
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
CREATE TABLE IF NOT EXISTS ingested_batches
(
    TenantId      LowCardinality(String),
    AgentId       LowCardinality(String),
    BatchSequence UInt64 CODEC(Delta, ZSTD(1)),
    Signal        Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    Rows          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    IngestedAt    SimpleAggregateFunction(max, DateTime) CODEC(Delta, ZSTD(1)),
    IngestedOn    Date CODEC(Delta, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY IngestedOn
ORDER BY (TenantId, AgentId, BatchSequence, Signal)
TTL IngestedOn + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_metrics_mv TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'metrics' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM metrics_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_logs_mv TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'logs' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM logs_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingested_batches_traces_mv TO ingested_batches AS
SELECT TenantId, AgentId, BatchSequence, 'traces' AS Signal, count() AS Rows, max(r.IngestedAt) AS IngestedAt, toDate(r.IngestedAt) AS IngestedOn
FROM traces_raw AS r
WHERE AgentId != ''
GROUP BY TenantId, AgentId, BatchSequence, IngestedOn;

-- 0005_service_metrics 196c33d8b80267fef34b2a7aeecee689de3ab0fca334f3928ca3fcf327f8b392
CREATE TABLE IF NOT EXISTS service_metrics_1m_data
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
ENGINE = AggregatingMergeTree
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, SpanName, SpanKind, Time, Origin, Scale)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_agent_mv TO service_metrics_1m_data AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_spans_mv TO service_metrics_1m_data AS
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

CREATE VIEW IF NOT EXISTS service_metrics_1m AS
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

-- 0006_error_aggregates f3c3f6ba05396fa98209659082e57b96b3f3dd7bb14e27c1855ecd1909e6401d
CREATE TABLE IF NOT EXISTS error_aggregates_data
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
ENGINE = AggregatingMergeTree
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, Time, Operation, Source, ExceptionType, Message)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS error_aggregates_spans_mv TO error_aggregates_data AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS error_aggregates_logs_mv TO error_aggregates_data AS
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

CREATE VIEW IF NOT EXISTS error_aggregates AS
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

-- 0007_service_topology 7d9df80237ef2b43301233a03b2f76cd6283a308d5f1c2822f749a666fe0d546
CREATE TABLE IF NOT EXISTS service_topology_data
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
ENGINE = AggregatingMergeTree
PARTITION BY ExpiresOn
ORDER BY (TenantId, Source, Target, TargetKind, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_mv TO service_topology_data AS
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

CREATE VIEW IF NOT EXISTS service_topology AS
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

-- 0008_metric_anomalies 6de8d4c6208ba9450b56854e3bd6189371bdc1558853249ca4846c4c0232febc
CREATE MATERIALIZED VIEW IF NOT EXISTS metric_anomalies
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

-- 0009_otel_views 971e1b3361a2b15664d6513a83de2ce86c403f62e0cd5b28bc53ba4651c0d835
CREATE VIEW IF NOT EXISTS otel_logs AS SELECT *, toDateTime(Timestamp) AS TimestampTime FROM logs_raw;

CREATE VIEW IF NOT EXISTS otel_traces AS SELECT * FROM traces_raw;

CREATE VIEW IF NOT EXISTS otel_traces_trace_id_ts AS
SELECT TenantId, TraceId, min(t.Start) AS Start, max(t.End) AS End FROM traces_trace_id_ts AS t GROUP BY TenantId, TraceId;

CREATE VIEW IF NOT EXISTS metrics AS
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

CREATE VIEW IF NOT EXISTS otel_metrics_gauge AS
SELECT * FROM metrics WHERE MetricType = 'gauge';

CREATE VIEW IF NOT EXISTS otel_metrics_sum AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'sum';

CREATE VIEW IF NOT EXISTS otel_metrics_histogram AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'histogram';

CREATE VIEW IF NOT EXISTS otel_metrics_exponential_histogram AS
SELECT * REPLACE (toInt32(AggregationTemporality) AS AggregationTemporality) FROM metrics WHERE MetricType = 'exponential_histogram';

CREATE VIEW IF NOT EXISTS otel_metrics_summary AS
SELECT * FROM metrics WHERE MetricType = 'summary';

-- 0010_log_patterns d9f27d0ea2214eaf7584a32ce8b0f6c7a81a8a565f57a3ba90bad518e29d2fb0
ALTER TABLE logs_raw ADD COLUMN IF NOT EXISTS PatternId String
    MATERIALIZED LogAttributes['ollystack.log.pattern.id'] CODEC(ZSTD(1));

ALTER TABLE logs_raw ADD INDEX IF NOT EXISTS idx_pattern_id PatternId TYPE bloom_filter(0.001) GRANULARITY 1;

CREATE TABLE IF NOT EXISTS log_patterns_data
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
ENGINE = AggregatingMergeTree
PARTITION BY ExpiresOn
ORDER BY (TenantId, ServiceName, Time, SeverityNumber, PatternId)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS log_patterns_mv TO log_patterns_data AS
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

CREATE VIEW IF NOT EXISTS log_patterns AS
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

-- 0011_metric_descriptions f2bc7a6a80b29964debbe816abf267ad137569a154f352459d79e1777c2acbd9
CREATE TABLE IF NOT EXISTS metric_descriptions
(
    TenantId          LowCardinality(String),
    MetricName        LowCardinality(String),
    MetricDescription String CODEC(ZSTD(1)),
    LastSeen          DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt         DateTime CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(LastSeen)
ORDER BY (TenantId, MetricName)
TTL ExpiresAt
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_descriptions_mv TO metric_descriptions AS
SELECT TenantId, MetricName, MetricDescription, LastSeen, ExpiresAt FROM metrics_series WHERE MetricDescription != '';

CREATE OR REPLACE VIEW metrics AS
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

-- 0012_agent_ledger 9b31fb89845055d156a0d5876d54baa262ef119baafd97ac4a679178af70c412
CREATE TABLE IF NOT EXISTS agent_ledger_data
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
ENGINE = AggregatingMergeTree
PARTITION BY ExpiresOn
ORDER BY (TenantId, AgentId, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_ledger_mv TO agent_ledger_data AS
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

CREATE TABLE IF NOT EXISTS agent_rows
(
    TenantId   LowCardinality(String),
    AgentId    LowCardinality(String),
    Signal     Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    Rows       SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    IngestedAt SimpleAggregateFunction(max, DateTime) CODEC(Delta, ZSTD(1))
)
ENGINE = AggregatingMergeTree
ORDER BY (TenantId, AgentId, Signal)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_rows_mv TO agent_rows AS
SELECT TenantId, AgentId, Signal, sum(b.Rows) AS Rows, max(b.IngestedAt) AS IngestedAt
FROM ingested_batches AS b
GROUP BY TenantId, AgentId, Signal;

CREATE VIEW IF NOT EXISTS agent_ledger AS
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

CREATE VIEW IF NOT EXISTS agent_ledger_balance AS
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

-- 0013_ingested_at 1bc373ba02a1baa4799932c20a6bbb5b707c8a641ed1a75117e44afd75709742
ALTER TABLE metrics_raw ADD INDEX IF NOT EXISTS idx_metrics_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

ALTER TABLE logs_raw ADD INDEX IF NOT EXISTS idx_logs_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

ALTER TABLE traces_raw ADD INDEX IF NOT EXISTS idx_traces_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

