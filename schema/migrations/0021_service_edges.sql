-- The service map in steps that are views of their own. As one statement of nested WITH it took some 0.4 s to plan, whatever there was to
-- read: each level's analysis goes over all levels below it again, while a view is analysed once. The steps and their answer are as before.

-- What each end says of its edges, and of which host it is, by the minute. Figures go through the steps as one array (calls, errors, duration;
-- connections, bytes sent, received; round trip and how often it was told), since each name in each step costs planning.
CREATE VIEW IF NOT EXISTS service_edges_told ${on_cluster} AS
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
FROM service_topology_data AS d;

-- With names for addresses that one service or host answers at.
CREATE VIEW IF NOT EXISTS service_edges_named ${on_cluster} AS
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

-- What rows of a group need of each other is found by grouping and taking apart again: below a window function no condition on tenant and
-- time would reach the tables.
CREATE VIEW IF NOT EXISTS service_edges_by_host ${on_cluster} AS
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
FROM service_edges_named AS n
GROUP BY TenantId, Time, SourceHost, n.To.2, Protocol;

-- One row an edge, protocol and minute, with what each side says.
CREATE VIEW IF NOT EXISTS service_edges ${on_cluster} AS
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

-- One row an edge and minute. Calls, Errors and Duration* are the caller's where it is watched, else those of who was called, which also
-- stand for themselves as Server*; of a caller on another host these are the host's, where no other service of it called there. A host
-- stands for a caller of which no more is known. Protocol tcp: nobody looked into these connections;
-- such a row is there only for ends that are not seen to speak any other protocol in that minute. Durations in seconds.
CREATE OR REPLACE VIEW service_topology ${on_cluster} AS
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
