-- Metrics: a point is one row of metrics_raw; the labels of its series are kept once, in metrics_series.

CREATE TABLE IF NOT EXISTS metrics_series ${on_cluster}
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
ENGINE = ${ReplacingMergeTree(LastSeen)}
ORDER BY (TenantId, MetricName, SeriesHash)
TTL ExpiresAt
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS metrics_raw ${on_cluster}
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
    -- A gauge's last value in the window, a sum's value. 0 for histograms and summaries.
    Value                  Float64 CODEC(Gorilla, ZSTD(1)),
    -- What a window held: a gauge's fold, a histogram's or summary's totals. Count is 1 for a plain point.
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
    -- Set on points of ollystack.span.duration only, so that service_metrics_1m needs no join to be fed.
    SpanName               LowCardinality(String),
    SpanKind               LowCardinality(String),
    StatusCode             LowCardinality(String),
    -- Which delivery brought the row: see ingested_batches.
    AgentId                LowCardinality(String),
    BatchSequence          UInt64 CODEC(Delta, ZSTD(1)),
    IngestedAt             DateTime CODEC(Delta, ZSTD(1)),
    ExpiresAt              DateTime CODEC(Delta, ZSTD(1)),
    Last                   Float64 ALIAS Value,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = ${MergeTree}
PARTITION BY toDate(ExpiresAt)
ORDER BY (TenantId, MetricName, SeriesHash, TimeUnix)
TTL ExpiresAt
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
