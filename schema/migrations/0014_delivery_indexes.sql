-- A delivery that is repeated is looked for in the table itself among what was ingested an hour before and after it: its rows lie
-- together, so most granules of that time hold none of them.

ALTER TABLE metrics_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_metrics_delivery cityHash64(AgentId, BatchSequence) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE logs_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_logs_delivery cityHash64(AgentId, BatchSequence) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE traces_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_traces_delivery cityHash64(AgentId, BatchSequence) TYPE bloom_filter(0.01) GRANULARITY 1;
