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
ORDER BY (TenantId, Source, Target, Protocol, SourceKind, TargetKind, Address, SpanKind, Time)
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

-- What answers at an address, with or without a port, as the agents there say, by five minutes. Empty where more than one claims it.
-- A claim holds five minutes longer than it was made for: the next may still be on its way.
CREATE VIEW IF NOT EXISTS service_endpoints ${on_cluster} AS
SELECT
    TenantId,
    Time,
    Address,
    if(length(Services) = 1, Services[1], '') AS ServiceName,
    if(length(Hosts) = 1, Hosts[1], '') AS HostName
FROM
(
    SELECT
        TenantId,
        p.Time AS Time,
        s.Address AS Address,
        groupUniqArrayIf(s.ServiceName, s.ServiceName != '') AS Services,
        groupUniqArray(s.HostName) AS Hosts
    FROM
    (
        SELECT
            TenantId,
            SeriesHash,
            if(toUnixTimestamp64Nano(r.StartTimeUnix) = 0, r.TimeUnix, r.StartTimeUnix) AS Start,
            toDateTime(arrayJoin(range(toUnixTimestamp(toStartOfFiveMinutes(toDateTime(Start))), toUnixTimestamp(toDateTime(r.TimeUnix)) + 300, 300))) AS Time
        FROM metrics_raw AS r
        -- An agent sends a point at least every hour.
        WHERE MetricName = 'ollystack.endpoint' AND r.TimeUnix >= r.StartTimeUnix AND (toUnixTimestamp64Nano(r.StartTimeUnix) = 0 OR r.TimeUnix < r.StartTimeUnix + INTERVAL 2 HOUR)
        GROUP BY TenantId, SeriesHash, Time, Start
    ) AS p
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
    GROUP BY TenantId, Time, Address
);

-- One row an edge and minute. Calls, Errors and Duration* are the caller's where it is watched, else those of who was called, which also
-- stand for themselves as Server*; of a caller on another host these are the host's, where no other service of it called there. A host
-- stands for a caller of which no more is known. Protocol tcp: nobody looked into these connections;
-- such a row is there only for ends that are not seen to speak any other protocol in that minute. Durations in seconds.
CREATE OR REPLACE VIEW service_topology ${on_cluster} AS
WITH
    metric_edges AS
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
            p.Calls AS Calls,
            if(s.Attributes['status.code'] = 'error', p.Calls, 0.) AS Errors,
            p.DurationSum AS DurationSum,
            p.DurationMax AS DurationMax,
            p.Connections AS Connections,
            p.BytesSent AS BytesSent,
            p.BytesReceived AS BytesReceived,
            p.RoundTrip AS RoundTrip
        FROM
        (
            SELECT
                TenantId,
                MetricName,
                SeriesHash,
                if(toUnixTimestamp64Nano(r.StartTimeUnix) = 0, r.TimeUnix, r.StartTimeUnix) AS Start,
                toUnixTimestamp(toStartOfMinute(toDateTime(Start))) AS First,
                -- What did not change for minutes came as one point.
                if(MetricName = 'ollystack.edge.duration' OR r.TimeUnix > Start + INTERVAL 2 HOUR, [First],
                    range(First, greatest(toUnixTimestamp(toDateTime(r.TimeUnix)), First + 1), 60)) AS Minutes,
                toDateTime(arrayJoin(Minutes)) AS Time,
                sumIf(toFloat64(r.Count), MetricName = 'ollystack.edge.duration') AS Calls,
                sumIf(ifNull(r.Sum, 0), MetricName = 'ollystack.edge.duration') AS DurationSum,
                maxIf(ifNull(r.Max, 0), MetricName = 'ollystack.edge.duration') AS DurationMax,
                maxIf(ifNull(r.Max, r.Value), MetricName = 'ollystack.edge.connections') AS Connections,
                sumIf(r.Value / length(Minutes), MetricName = 'ollystack.edge.sent') AS BytesSent,
                sumIf(r.Value / length(Minutes), MetricName = 'ollystack.edge.received') AS BytesReceived,
                avgIf(toNullable(ifNull(r.Sum / r.Count, r.Value)), MetricName = 'ollystack.edge.round_trip') AS RoundTrip
            FROM metrics_raw AS r
            WHERE MetricName IN ('ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received', 'ollystack.edge.round_trip')
            GROUP BY TenantId, MetricName, SeriesHash, Time, Start, First, Minutes
        ) AS p
        INNER JOIN
        (
            SELECT TenantId, MetricName, SeriesHash, any(d.HostName) AS HostName, any(d.Attributes) AS Attributes
            FROM metrics_series AS d
            WHERE MetricName IN ('ollystack.edge.duration', 'ollystack.edge.connections', 'ollystack.edge.sent', 'ollystack.edge.received', 'ollystack.edge.round_trip')
            GROUP BY TenantId, MetricName, SeriesHash
        ) AS s ON p.TenantId = s.TenantId AND p.MetricName = s.MetricName AND p.SeriesHash = s.SeriesHash
    ),
    all_edges AS
    (
        SELECT * FROM metric_edges
        UNION ALL
        SELECT
            TenantId, Time, '' AS HostName, Source, SourceKind, Target, TargetKind, Protocol, Address, SpanKind = 'Server' AS IsServer,
            Calls, Errors, DurationSum, DurationMax, 0. AS Connections, 0. AS BytesSent, 0. AS BytesReceived, NULL AS RoundTrip
        FROM service_topology_spans
        UNION ALL
        -- From before there were protocols.
        SELECT
            TenantId, Time, '' AS HostName, Source, 'service' AS SourceKind, Target, toString(d.TargetKind) AS TargetKind, '' AS Protocol, '' AS Address,
            0 AS IsServer, Calls, Errors, DurationSum, DurationMax, 0. AS Connections, 0. AS BytesSent, 0. AS BytesReceived, NULL AS RoundTrip
        FROM service_topology_data AS d
    ),
    named AS
    (
        SELECT
            e.TenantId AS TenantId,
            e.Time AS Time,
            match(e.Source, '^(127[.]|::1$)') AND e.SourceKind = 'address' AND e.HostName != '' AS FromHere,
            match(e.Target, '^(127[.]|\\[::1\\])') AND e.TargetKind = 'address' AND e.HostName != '' AS ToHere,
            multiIf(FromHere, e.HostName, source.ServiceName != '', source.ServiceName, source.HostName != '', source.HostName, e.Source) AS Source,
            if(e.IsServer, if(SourceKind = 'host', Source, ''), e.HostName) AS SourceHost,
            multiIf(FromHere, 'host', source.ServiceName != '', 'service', source.HostName != '', 'host', e.SourceKind) AS SourceKind,
            multiIf(
                target.ServiceName != '', target.ServiceName,
                ToHere, replaceRegexpOne(e.Target, '^(127[.][0-9.]+|\\[::1\\])', e.HostName),
                e.Target) AS Target,
            if(target.ServiceName != '' AND e.TargetKind = 'address', 'service', e.TargetKind) AS TargetKind,
            e.Protocol AS Protocol,
            e.IsServer AS IsServer,
            e.Calls AS Calls,
            e.Errors AS Errors,
            e.DurationSum AS DurationSum,
            e.DurationMax AS DurationMax,
            e.Connections AS Connections,
            e.BytesSent AS BytesSent,
            e.BytesReceived AS BytesReceived,
            e.RoundTrip AS RoundTrip
        FROM all_edges AS e
        LEFT JOIN service_endpoints AS target
            ON e.TenantId = target.TenantId AND toStartOfFiveMinutes(e.Time) = target.Time AND e.Address = target.Address
        LEFT JOIN service_endpoints AS source
            ON e.TenantId = source.TenantId AND toStartOfFiveMinutes(e.Time) = source.Time AND if(e.SourceKind = 'address', e.Source, '') = source.Address
    ),
    by_host AS
    (
        SELECT
            TenantId,
            Time,
            SourceHost,
            Source,
            SourceKind,
            Target,
            TargetKind,
            Protocol,
            sumIf(n.Calls, NOT IsServer) AS ClientCalls,
            sumIf(n.Errors, NOT IsServer) AS ClientErrors,
            sumIf(n.DurationSum, NOT IsServer) AS ClientDurationSum,
            maxIf(n.DurationMax, NOT IsServer) AS ClientDurationMax,
            sumIf(n.Calls, IsServer) AS OwnCalls,
            sumIf(n.Errors, IsServer) AS OwnErrors,
            sumIf(n.DurationSum, IsServer) AS OwnDurationSum,
            maxIf(n.DurationMax, IsServer) AS OwnDurationMax,
            sum(n.Connections) AS Connections,
            sum(n.BytesSent) AS BytesSent,
            sum(n.BytesReceived) AS BytesReceived,
            avg(n.RoundTrip) AS RoundTrip,
            -- What was called tells of its callers' host alone; where one service there is seen to call, it is that one's.
            countIf(SourceKind != 'host' AND ClientCalls > 0) OVER same_host AS Callers,
            sumIf(OwnCalls, SourceKind = 'host') OVER same_host AS HostCalls,
            sumIf(OwnErrors, SourceKind = 'host') OVER same_host AS HostErrors,
            sumIf(OwnDurationSum, SourceKind = 'host') OVER same_host AS HostDurationSum,
            maxIf(OwnDurationMax, SourceKind = 'host') OVER same_host AS HostDurationMax
        FROM named AS n
        GROUP BY TenantId, Time, SourceHost, Source, SourceKind, Target, TargetKind, Protocol
        WINDOW same_host AS (PARTITION BY TenantId, Time, SourceHost, Target, Protocol)
    ),
    edges AS
    (
        SELECT
            TenantId,
            Time,
            Source,
            SourceKind,
            Target,
            TargetKind,
            Protocol,
            sum(h.ClientCalls) AS ClientCalls,
            sum(h.ClientErrors) AS ClientErrors,
            sum(h.ClientDurationSum) AS ClientDurationSum,
            max(h.ClientDurationMax) AS ClientDurationMax,
            sum(h.OwnCalls + if(h.ClientCalls > 0 AND h.Callers = 1, h.HostCalls, 0)) AS ServerCalls,
            sum(h.OwnErrors + if(h.ClientCalls > 0 AND h.Callers = 1, h.HostErrors, 0)) AS ServerErrors,
            sum(h.OwnDurationSum + if(h.ClientCalls > 0 AND h.Callers = 1, h.HostDurationSum, 0)) AS ServerDurationSum,
            max(greatest(h.OwnDurationMax, if(h.ClientCalls > 0 AND h.Callers = 1, h.HostDurationMax, 0))) AS ServerDurationMax,
            sum(h.Connections) AS Connections,
            sum(h.BytesSent) AS BytesSent,
            sum(h.BytesReceived) AS BytesReceived,
            avg(h.RoundTrip) AS RoundTrip,
            sum(ClientCalls + ServerCalls) OVER (PARTITION BY TenantId, Time, Source, Target) AS CallsOfPair
        FROM by_host AS h
        -- Connections from a host that is watched are told by that host.
        WHERE SourceKind != 'host' OR (Callers = 0 AND Protocol != 'tcp')
        GROUP BY TenantId, Time, Source, SourceKind, Target, TargetKind, Protocol
    )
SELECT
    TenantId,
    Time,
    Source,
    SourceKind,
    Target,
    TargetKind,
    Protocol,
    if(ClientCalls > 0, ClientCalls, r.ServerCalls) AS Calls,
    if(ClientCalls > 0, ClientErrors, r.ServerErrors) AS Errors,
    multiIf(ClientCalls > 0, ClientDurationSum / ClientCalls, r.ServerCalls > 0, ServerDurationSum / r.ServerCalls, 0.) AS DurationAvg,
    if(ClientCalls > 0, ClientDurationMax, r.ServerDurationMax) AS DurationMax,
    r.ServerCalls AS ServerCalls,
    r.ServerErrors AS ServerErrors,
    if(r.ServerCalls > 0, ServerDurationSum / r.ServerCalls, 0.) AS ServerDurationAvg,
    r.ServerDurationMax AS ServerDurationMax,
    Connections,
    BytesSent,
    BytesReceived,
    RoundTrip
FROM edges AS r
WHERE Protocol != 'tcp' OR CallsOfPair = 0;
