-- Who calls whom, by the minute, from both sides, and over connections that nobody looked into.
--
-- Fed twice, never with the same request: agents send exact figures of every edge (ollystack.edge.*), made before they sample; spans that
-- came without an agent (AgentId is empty) count with their sampling weight. An end of which its agent knew the address alone is
-- named here if exactly one service said at that time that it answers there (ollystack.endpoint), else it stays an address.

DROP VIEW IF EXISTS service_topology_mv ${on_cluster};

CREATE TABLE IF NOT EXISTS service_topology_spans ${on_cluster}
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
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, Time, Source, Target, Protocol, SourceKind, TargetKind, Address, SpanKind)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- By the rules of the agents: agent/process/src/edges.rs.
CREATE MATERIALIZED VIEW IF NOT EXISTS service_topology_spans_mv ${on_cluster} TO service_topology_spans AS
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

-- What agents say of edges and of who answers where, by the minute: the labels are those of the series, in metrics_series. Time comes early in
-- the key, as the map is always asked for a time.
CREATE TABLE IF NOT EXISTS service_map_data ${on_cluster}
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
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, Time, MetricName, SeriesHash)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000, auto_statistics_types = '';

-- What did not change for minutes, up to two hours, came as one point and is shared out over them; requests lie where their time begins. That
-- somebody answers at an address holds for the five minutes in which it was said first, and five minutes longer than it was said: the
-- next point may still be on its way.
CREATE MATERIALIZED VIEW IF NOT EXISTS service_map_mv ${on_cluster} TO service_map_data AS
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

-- What answers at an address, with or without a port, as the agents there say, by the minute. Empty where more than one claims it.
CREATE VIEW IF NOT EXISTS service_endpoints ${on_cluster} AS
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

-- One row an edge and minute. Calls, Errors and Duration* are the caller's where it is watched, else those of who was called, which also
-- stand for themselves as Server*; of a caller on another host these are the host's, where no other service of it called there. A host
-- stands for a caller of which no more is known. Protocol tcp: nobody looked into these connections;
-- such a row is there only for ends that are not seen to speak any other protocol in that minute. Durations in seconds.
--
-- What rows of a group need of each other is found by grouping and taking apart again: below a window function no condition on tenant and
-- time would reach the tables. Figures go through the steps as one array (calls, errors, duration; connections, bytes sent, received; round
-- trip and how often it was told), since each name in each step costs planning: more than this reads.
CREATE OR REPLACE VIEW service_topology ${on_cluster} AS
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
        -- From before there were protocols.
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
            -- What was called tells of its callers' host alone; where one service there is seen to call, it is that one's.
            arrayMap((ends, callers, host, host_most) ->
                arrayMap(end -> (end.1, end.2, end.3, end.4, end.5, if(end.3[1] > 0 AND callers = 1, host, []), if(end.3[1] > 0 AND callers = 1, host_most, 0.)),
                    -- Connections from a host that is watched are told by that host.
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
