-- Logs. A row stands for LineCount lines: more than one where repetition was folded before sending.

CREATE TABLE IF NOT EXISTS logs_raw ${on_cluster}
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
    -- Which delivery brought the row: see ingested_batches.
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
ENGINE = ${MergeTree}
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, toStartOfFiveMinutes(Timestamp), ServiceName, Timestamp)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, map_serialization_version = 'with_buckets';
