-- Spans, and where in time each trace lies, so that a trace is found by its id alone.

CREATE TABLE IF NOT EXISTS traces_raw ${on_cluster}
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
    -- Nanoseconds.
    Duration           UInt64 CODEC(T64, ZSTD(1)),
    StatusCode         LowCardinality(String),
    StatusMessage      String CODEC(ZSTD(1)),
    -- How many spans this one stands for: 1 / (its sampling probability), from W3C tracestate ot=th.
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
    -- Which delivery brought the row: see ingested_batches.
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
ENGINE = ${MergeTree}
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, ServiceName, SpanName, toDateTime(Timestamp))
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, map_serialization_version = 'with_buckets';

CREATE TABLE IF NOT EXISTS traces_trace_id_ts ${on_cluster}
(
    TenantId  LowCardinality(String),
    TraceId   String CODEC(ZSTD(1)),
    Start     SimpleAggregateFunction(min, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    End       SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    ExpiresAt DateTime CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, TraceId)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS traces_trace_id_ts_mv ${on_cluster} TO traces_trace_id_ts AS
SELECT
    TenantId,
    TraceId,
    min(Timestamp) AS Start,
    max(addNanoseconds(Timestamp, Duration)) AS End,
    toStartOfDay(ExpiresAt) + 86399 AS ExpiresAt
FROM traces_raw
WHERE TraceId != ''
GROUP BY TenantId, TraceId, ExpiresAt;
