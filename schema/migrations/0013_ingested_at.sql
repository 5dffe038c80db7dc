-- Rows of an insert that was broken off between a table and its views are in the table alone: a delivery that is repeated and is not in
-- ingested_batches is looked for there, among what was ingested about when it was sent.

ALTER TABLE metrics_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_metrics_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

ALTER TABLE logs_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_logs_ingested_at IngestedAt TYPE minmax GRANULARITY 1;

ALTER TABLE traces_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_traces_ingested_at IngestedAt TYPE minmax GRANULARITY 1;
