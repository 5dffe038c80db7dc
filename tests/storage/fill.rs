//! Many rows out of few: those that came the whole way are copied within the engine, to many hosts and over a span of time.
//!
//! A copy differs from its original as another host's rows would: by time, host, service, identifiers, digits of bodies, and numbers
//! multiplied by a factor of its own, so that nothing compresses as the repetition it is. The copies are inserted into the raw tables and
//! pass every view. Invariant: sizes of these rows are told apart from those of rows as they came.

use anyhow::Result;
use ollystack_tests::Store;
use std::time::{Duration, Instant};

/// What the copies look like: hosts, and services of each name.
const HOSTS: u64 = 16;
const SERVICES: u64 = 8;
/// The originals' time, which each copy covers; the last copy ends when filling began.
const SPAN_NANOS: u64 = 900_000_000_000;
/// One insert: what a store of 1 GiB takes with all views in a few seconds.
const ROWS_PER_INSERT: u64 = 50_000;
/// How often it is told how far it is.
const PROGRESS: Duration = Duration::from_secs(15);
const SETTINGS: &str = "SETTINGS max_threads = 2, max_insert_threads = 1, max_joined_block_size_rows = 8192, \
                        min_insert_block_size_rows = 50000, min_insert_block_size_bytes = 33554432, \
                        max_partitions_per_insert_block = 0, max_execution_time = 0";

/// Rows of one table, spread over a span of time that ends when filling began.
pub(crate) struct Fill {
    /// The table that is filled.
    pub(crate) table: &'static str,
    /// The databases with the originals.
    pub(crate) from: &'static [&'static str],
    /// Over which the copies lie.
    pub(crate) days: f64,
    /// What a copy has instead of its original's columns; `n` is its number, `host` its host's, `at` the nanosecond of its row.
    replace: &'static str,
    /// Where in the span of one copy a row lies, in nanoseconds.
    place: &'static str,
}

pub(crate) const FILLS: &[Fill] = &[
    Fill {
        table: "metrics_raw",
        from: &["storage_metrics", "storage_traces"],
        days: 30.0,
        replace: "cityHash64(SeriesHash, host) AS SeriesHash, fromUnixTimestamp64Nano(at) AS TimeUnix, \
                  if(toUnixTimestamp64Nano(r.StartTimeUnix) = 0, r.StartTimeUnix, \
                  fromUnixTimestamp64Nano(at - toUnixTimestamp64Nano(r.TimeUnix) + toUnixTimestamp64Nano(r.StartTimeUnix))) AS StartTimeUnix, \
                  Value * factor AS Value, Sum * factor AS Sum, Min * factor AS Min, Max * factor AS Max, \
                  if(ServiceName = '', '', concat(ServiceName, '-', toString(host % {services}))) AS ServiceName",
        place: "toUnixTimestamp64Nano(r.TimeUnix) - first",
    },
    Fill {
        table: "logs_raw",
        from: &["storage_logs", "storage_files"],
        days: 1.0,
        replace: "fromUnixTimestamp64Nano(at) AS Timestamp, fromUnixTimestamp64Nano(at + 1000000) AS ObservedTimestamp, \
                  arrayStringConcat(arrayMap(c -> if(c >= '0' AND c <= '9', substring(digits, toUInt8OrZero(c) + 1, 1), c), \
                  ngrams(Body, 1))) AS Body, \
                  if(TraceId = '', '', lower(hex(sipHash128(TraceId, n)))) AS TraceId, \
                  mapUpdate(ResourceAttributes, map('host.name', concat('host-', toString(host)))) AS ResourceAttributes, \
                  concat(ServiceName, '-', toString(host % {services})) AS ServiceName",
        place: "cityHash64(r.Body, n) % {span}",
    },
    Fill {
        table: "traces_raw",
        from: &["storage_traces"],
        days: 1.0,
        replace: "fromUnixTimestamp64Nano(at) AS Timestamp, toUInt64(Duration * factor) AS Duration, \
                  lower(hex(sipHash128(TraceId, n))) AS TraceId, lower(hex(sipHash64(SpanId, n))) AS SpanId, \
                  if(ParentSpanId = '', '', lower(hex(sipHash64(ParentSpanId, n)))) AS ParentSpanId, \
                  arrayMap(id -> lower(hex(sipHash128(id, n))), `Links.TraceId`) AS `Links.TraceId`, \
                  mapUpdate(ResourceAttributes, map('host.name', concat('host-', toString(host)))) AS ResourceAttributes, \
                  concat(ServiceName, '-', toString(host % {services})) AS ServiceName",
        place: "toUnixTimestamp64Nano(r.Timestamp) - first",
    },
];

/// Fill `database`, which has the schema, with `rows` rows in each raw table. Returns when the last of them are, in Unix nanoseconds: filling
/// may take longer than the hour that questions are about.
pub(crate) fn fill(store: &Store, database: &str, rows: u64) -> Result<i64> {
    let end = store.sql("SELECT toUnixTimestamp64Nano(now64(9))")?.parse()?;
    for fill in FILLS {
        let start = Instant::now();
        for from in fill.from {
            let rows = rows / fill.from.len() as u64;
            fill.run(store, database, from, rows, end)?;
        }
        eprintln!("{} filled in {:.0} s", fill.table, start.elapsed().as_secs_f64());
    }
    // The labels of the copies' series.
    store.sql(&format!(
        "INSERT INTO {database}.metrics_series SELECT r.* REPLACE (cityHash64(SeriesHash, host) AS SeriesHash, \
         if(ServiceName = '', '', concat(ServiceName, '-', toString(host % {SERVICES}))) AS ServiceName, \
         mapUpdate(ResourceAttributes, map('host.name', concat('host-', toString(host)))) AS ResourceAttributes) \
         FROM (SELECT * FROM storage_metrics.metrics_series UNION ALL SELECT * FROM storage_traces.metrics_series) AS r \
         CROSS JOIN (SELECT number AS host FROM numbers({HOSTS})) AS h {SETTINGS}"
    ))?;
    Ok(end)
}

impl Fill {
    fn run(&self, store: &Store, database: &str, from: &str, rows: u64, end: i64) -> Result<()> {
        let table = self.table;
        let time = if table == "metrics_raw" { "TimeUnix" } else { "Timestamp" };
        let originals =
            store.sql(&format!("SELECT count(), toUnixTimestamp64Nano(min({time})) FROM {from}.{table}"))?;
        let (count, first) = originals.split_once('\t').unwrap_or(("0", "0"));
        let count: u64 = count.parse()?;
        anyhow::ensure!(count > 0, "{from}.{table} has no rows to copy");
        let copies = rows.div_ceil(count);
        let step = (self.days * 86_400e9 / copies as f64) as u64;
        let at_once = (ROWS_PER_INSERT / count).max(1);
        let replace = self.replace.replace("{services}", &SERVICES.to_string());
        let mut told = Instant::now();
        for begin in (0..copies).step_by(at_once as usize) {
            let many = at_once.min(copies - begin);
            // Names of the copy's own go out again: an insert takes the table's columns by their place.
            store.sql(&format!(
                "INSERT INTO {database}.{table} WITH toInt64({first}) AS first, \
                 {end} - {SPAN_NANOS} - toInt64({copies} - 1 - n) * {step} AS begin, \
                 least(begin + toInt64({place}), {end}) AS at, n % {HOSTS} AS host, 0.5 + (cityHash64(n) % 1000003) / 1000003 AS factor, \
                 arrayStringConcat(arraySort(d -> cityHash64(d, n), ngrams('0123456789', 1))) AS digits \
                 SELECT r.* EXCEPT (n) REPLACE ({replace}, toDateTime(intDiv(at, 1000000000)) AS IngestedAt, \
                 toDateTime(intDiv(at, 1000000000)) + 2592000 AS ExpiresAt) \
                 FROM (SELECT o.*, n FROM {from}.{table} AS o CROSS JOIN (SELECT number + {begin} AS n FROM numbers({many})) AS c) AS r {SETTINGS}",
                place = self.place.replace("{span}", &SPAN_NANOS.to_string()),
            ))?;
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                eprintln!("{table} from {from}: {} of {} rows", (begin + many) * count, copies * count);
            }
        }
        Ok(())
    }
}
