-- What became of every record, by agent: what the agents say of themselves, beside what is stored here.
--
-- An agent reports its ledger as it stands, over every start of its installation (metric ollystack.agent.ledger), not as increases: a
-- report that is lost, late or repeated changes nothing once another is there. By signal, in records:
-- seen + corrected = sent + folded + sampled_out + suppressed + dropped + waiting.

-- The last report of each line in each hour. Labels are those of its series, in metrics_series.
CREATE TABLE IF NOT EXISTS agent_ledger_data ${on_cluster}
(
    TenantId   LowCardinality(String),
    AgentId    LowCardinality(String),
    SeriesHash UInt64 CODEC(ZSTD(1)),
    Time       DateTime CODEC(Delta, ZSTD(1)),
    Most       SimpleAggregateFunction(max, Int64) CODEC(T64, ZSTD(1)),
    -- By when it arrived, and only then by the host's clock, which may be set back.
    Last       AggregateFunction(argMax, Int64, Tuple(DateTime, DateTime64(9))) CODEC(ZSTD(1)),
    ReportedAt SimpleAggregateFunction(max, DateTime64(9)) CODEC(Delta, ZSTD(1)),
    ExpiresOn  Date CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
PARTITION BY ExpiresOn
ORDER BY (TenantId, AgentId, SeriesHash, Time)
TTL ExpiresOn + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_ledger_mv ${on_cluster} TO agent_ledger_data AS
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
-- Anybody may send a metric of this name, and a number that is none must not cost the block that it came in.
WHERE MetricName = 'ollystack.agent.ledger' AND ServiceName = 'ollystack-agent' AND AgentId != '' AND abs(Value) < 9e18
GROUP BY TenantId, AgentId, SeriesHash, Time, ExpiresOn;

-- How many rows each agent has here: fed by what records the deliveries, and kept when those expire.
CREATE TABLE IF NOT EXISTS agent_rows ${on_cluster}
(
    TenantId   LowCardinality(String),
    AgentId    LowCardinality(String),
    Signal     Enum8('metrics' = 0, 'logs' = 1, 'traces' = 2),
    Rows       SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
    IngestedAt SimpleAggregateFunction(max, DateTime) CODEC(Delta, ZSTD(1))
)
ENGINE = ${AggregatingMergeTree}
ORDER BY (TenantId, AgentId, Signal)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS agent_rows_mv ${on_cluster} TO agent_rows AS
SELECT TenantId, AgentId, Signal, sum(b.Rows) AS Rows, max(b.IngestedAt) AS IngestedAt
FROM ingested_batches AS b
GROUP BY TenantId, AgentId, Signal;

-- Line by line, as it stood at the end of each hour. Account: when it began; an agent that lost its own begins another.
CREATE VIEW IF NOT EXISTS agent_ledger ${on_cluster} AS
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

-- One row an agent and signal: seen, sent, stored, lost and why. NotStored: what a gateway took and is not here: it waits in a spill, or
-- is lost. Records that an agent sent again because it was killed before it had noted that they were sent count once. Unaccounted is
-- zero unless the agent lost records without knowing why.
CREATE VIEW IF NOT EXISTS agent_ledger_balance ${on_cluster} AS
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
        -- What an account that was lost left waiting is among what the next one has seen.
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
