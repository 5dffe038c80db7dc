-- Who calls whom, by the minute. An insert-time view sees its own block only, so an edge is read off one span: a client or producer
-- names its peer, a consumer the queue that it reads from. Spans count with their sampling weight. Durations in seconds.

CREATE TABLE IF NOT EXISTS service_topology_data ${on_cluster}
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
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, Source, Target, TargetKind, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_mv ${on_cluster} TO service_topology_data AS
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

CREATE VIEW IF NOT EXISTS service_topology ${on_cluster} AS
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
