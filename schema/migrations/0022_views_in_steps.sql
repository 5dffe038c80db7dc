-- The costliest views in steps. A name given by AS is written out, and planned anew, wherever it is used, and a subquery wherever a level above it
-- is; so a view that names many things took up to 30 ms to plan for each insert, whatever came. Here each step is a view of its own that
-- hands on what it named through a table that keeps nothing (ENGINE = Null); what no row reaches is not planned at all. The rows that come of it
-- are as before.

-- Edges of spans without an agent: what their attributes say; what that comes to; and the sums.
CREATE TABLE IF NOT EXISTS service_topology_attributes ${on_cluster}
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

CREATE TABLE IF NOT EXISTS service_topology_calls ${on_cluster}
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

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_sums_mv ${on_cluster} TO service_topology_spans AS
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

-- By the rules of the agents: agent/process/src/edges.rs.
CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_calls_mv ${on_cluster} TO service_topology_calls AS
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

DROP VIEW IF EXISTS service_topology_spans_mv ${on_cluster};

CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_attributes_mv ${on_cluster} TO service_topology_attributes AS
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

-- Points of gauges and sums by five minutes: since when, and over how many seconds a point is shared out; and its shares.
CREATE TABLE IF NOT EXISTS metrics_5m_numbers ${on_cluster}
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

-- Of a point that is shared out over `Length` seconds each part has what came up to its end less what came up to its begin, so that all shares
-- add up to all; any other point is one part of one second.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_shares_mv ${on_cluster} TO metrics_5m_data AS
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
    -- In seconds since the point's begin.
    arrayConcat([0], range(300 - Since % 300, Length, 300)) AS Begin,
    arrayConcat(range(300 - Since % 300, Length, 300), [Length]) AS End;

DROP VIEW IF EXISTS metrics_5m_numbers_mv ${on_cluster};

-- What an application tells of itself as gauges and cumulative points began with it, not when it was measured. Points whose first flag says that
-- nothing was measured are left out.
CREATE MATERIALIZED VIEW IF NOT EXISTS metrics_5m_points_mv ${on_cluster} TO metrics_5m_numbers AS
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

-- What agents say of requests, of edges and of themselves: of most blocks of others one step finds that there is nothing of it.
CREATE TABLE IF NOT EXISTS agents_points ${on_cluster}
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

CREATE MATERIALIZED VIEW IF NOT EXISTS service_metrics_1m_points_mv ${on_cluster} TO service_metrics_1m_by_time AS
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

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_ledger_points_mv ${on_cluster} TO agent_ledger_data AS
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
-- Anybody may send a metric of this name, and a number that is none must not cost the block that it came in.
WHERE MetricName = 'ollystack.agent.ledger' AND ServiceName = 'ollystack-agent' AND AgentId != '' AND abs(Value) < 9e18
GROUP BY TenantId, AgentId, SeriesHash, Time, ExpiresOn;

-- What did not change for minutes, up to two hours, came as one point and is shared out over them; requests lie where their time begins. That
-- somebody answers at an address holds for the five minutes in which it was said first, and five minutes longer than it was said: the
-- next point may still be on its way.
CREATE MATERIALIZED VIEW IF NOT EXISTS service_map_points_mv ${on_cluster} TO service_map_data AS
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

DROP VIEW IF EXISTS service_metrics_1m_agent_by_time_mv ${on_cluster};

DROP VIEW IF EXISTS agent_ledger_mv ${on_cluster};

DROP VIEW IF EXISTS service_map_mv ${on_cluster};

CREATE MATERIALIZED VIEW IF NOT EXISTS agents_points_mv ${on_cluster} TO agents_points AS
SELECT
    TenantId, MetricName, SeriesHash, ServiceName, StartTimeUnix, TimeUnix, MetricType, Value, Count, Sum, Min, Max, Scale, ZeroCount, PositiveOffset,
    PositiveBucketCounts, SpanName, SpanKind, StatusCode, AgentId, IngestedAt, ExpiresAt
FROM metrics_raw
WHERE startsWith(MetricName, 'ollystack.');
