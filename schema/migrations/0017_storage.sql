-- What rows weigh, mended by what `cargo xtask bench storage` showed; rows from before are rewritten as parts merge.
--
-- Numbers of gauges and sums are whole or have few digits: ZSTD alone finds more in them than behind Gorilla (24% less), and in times that
-- many series share more than behind DoubleDelta (half). Statistics of columns, which the engine makes by itself and no query here needs,
-- were a fifth of a small part. Posting lists of the text index are packed to the bits that they need.

ALTER TABLE metrics_raw ${on_cluster}
    MODIFY COLUMN StartTimeUnix CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN TimeUnix CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN Value CODEC(ZSTD(1)),
    MODIFY COLUMN Sum CODEC(ZSTD(1)),
    MODIFY COLUMN Min CODEC(ZSTD(1)),
    MODIFY COLUMN Max CODEC(ZSTD(1)),
    MODIFY COLUMN ZeroThreshold CODEC(ZSTD(1)),
    MODIFY COLUMN BatchSequence CODEC(DoubleDelta, ZSTD(1));

ALTER TABLE metrics_raw ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE metrics_series ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE metric_descriptions ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE logs_raw ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE traces_raw ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE traces_trace_id_ts ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE ingested_batches ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE service_metrics_1m_data ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE error_aggregates_data ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE service_topology_spans ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE log_patterns_data ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE agent_ledger_data ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE agent_rows ${on_cluster} MODIFY SETTING auto_statistics_types = '';

ALTER TABLE tenant_usage_data ${on_cluster} MODIFY SETTING auto_statistics_types = '';

-- A column has one text index.
ALTER TABLE logs_raw ${on_cluster} DROP INDEX IF EXISTS idx_body;

ALTER TABLE logs_raw ${on_cluster} ADD INDEX IF NOT EXISTS idx_body_words Body
    TYPE text(tokenizer = 'splitByNonAlpha', posting_list_codec = 'bitpacking');

ALTER TABLE logs_raw ${on_cluster} MATERIALIZE INDEX IF EXISTS idx_body_words;
