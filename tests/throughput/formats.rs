//! What ClickHouse takes for a row as the gateway sends it, and for the same row as others do.
//!
//! The gateway's own inserts are kept: Native, columns, in LZ4. The engine turns each block into RowBinary (as the Rust and Java clients
//! send rows) and into JSONEachRow (as Vector and Fluent Bit do), the same rows in the same order in LZ4, too. Then each block is inserted
//! in each format in turn, with the gateway's own settings, into the table with all its views, and into one like it that has none.
//! Merges stand still meanwhile. CPU is what the kernel counts for the engine's process. Invariant: all formats
//! bring the same rows, to the last digit of numbers in JSON.

use super::load::{Load, Plan};
use super::null::Null;
use super::payload::{Payload, RECORDS, Signal};
use super::{DATABASE, Options, Subject};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ollystack_tests::{Binaries, GatewayConfig, Store, StoreConfig, cpu_seconds, post};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Each has a database of its own, with the whole schema.
const FORMATS: [&str; 3] = ["Native", "RowBinary", "JSONEachRow"];
/// What is added to the name of a table that is like another, without its views.
const ALONE: &str = "_alone";
/// Of each signal: so many requests make ten to twenty blocks.
const REQUESTS: u64 = 160;

/// By its own count the engine takes more with each row-wise insert, though it does not: what it has by default is used up too soon.
const MEMORY_BYTES: u64 = 16 << 30;

/// An insert as the gateway made it.
struct Block {
    path: String,
    body: Bytes,
}

/// The same in each of [`FORMATS`], and how many rows it has.
struct Bodies {
    path: String,
    bodies: [Vec<u8>; 3],
    rows: u64,
}

/// Of one signal, by format; CPU with views, and of the table alone.
#[derive(Default)]
struct Found {
    blocks: usize,
    rows: u64,
    bytes: [usize; 3],
    cpu_seconds: [[f64; 3]; 2],
}

#[derive(Default)]
struct Report {
    rows: Vec<Vec<String>>,
    figures: Map<String, Value>,
    sizes: Vec<String>,
}

impl Report {
    fn add(&mut self, signal: Signal, found: &Found) {
        let bytes = found.bytes.map(|bytes| format!("{:.0}", bytes as f64 / found.rows as f64)).join(", ");
        self.sizes.push(format!(
            "{}: {} rows in {} blocks, {bytes} bytes a row",
            signal.name(),
            found.rows,
            found.blocks
        ));
        for (into, cpu) in ["table and views", "table alone"].into_iter().zip(found.cpu_seconds) {
            let each = cpu.map(|seconds| seconds * 1e6 / found.rows as f64);
            let mut row = vec![signal.name().to_owned(), into.to_owned()];
            row.extend(each.iter().map(|seconds| format!("{seconds:.1}")));
            row.extend(each[1..].iter().map(|other| format!("{:.2}", each[0] / other)));
            eprintln!("{}", row.join("  "));
            self.rows.push(row);
            let figures = json!({
                "native_cpu_seconds_per_million": each[0],
                "row_binary_cpu_seconds_per_million": each[1],
                "json_each_row_cpu_seconds_per_million": each[2],
                "native_to_row_binary": each[0] / each[1],
                "native_to_json_each_row": each[0] / each[2],
            });
            self.figures.insert(format!("{}_{}", signal.name(), into.replace(' ', "_")), figures);
        }
    }

    fn json(self) -> Value {
        let notes = [
            "CPU-seconds of ClickHouse for a million rows: the gateway's blocks in three formats by turns, each in LZ4, with the gateway's settings, without merges; then what Native takes of the others' time".to_owned(),
            format!("{RECORDS} records a request; {}", self.sizes.join("; ")),
        ];
        let columns = ["signal", "into", "Native", "RowBinary", "JSONEachRow", "of RowBinary", "of JSONEachRow"];
        json!({ "columns": columns, "rows": self.rows, "notes": notes, "figures": self.figures })
    }
}

pub(super) async fn bench(options: &Options) -> Result<Value> {
    let mut report = Report::default();
    for signal in &options.signals {
        let folder = tempfile::Builder::new().prefix("ollystack-formats-").tempdir()?;
        let blocks = blocks(options, folder.path(), *signal).await?;
        let (binaries, signal) = (options.binaries.clone(), *signal);
        let found = tokio::task::spawn_blocking(move || {
            let mut store = start(&binaries, folder.path())?;
            let bodies =
                blocks.iter().map(|block| bodies(&store, signal.table(), block)).collect::<Result<Vec<_>>>()?;
            compare(&mut store, signal.table(), &bodies)
        });
        report.add(signal, &found.await??);
    }
    Ok(report.json())
}

/// An engine with the schema in a database for each format, which merges nothing.
fn start(binaries: &Binaries, folder: &Path) -> Result<Store> {
    let config = StoreConfig { memory_bytes: Some(MEMORY_BYTES), ..StoreConfig::new(&folder.join("store"))? };
    let store = config.start(binaries)?;
    for format in FORMATS {
        let mut gateway = GatewayConfig::new(&folder.join(format), &store.url(), &database(format))?.start(binaries)?;
        gateway.wait_until_the_schema_is_there()?;
        ensure!(gateway.stop()?.success(), "the gateway did not end well");
    }
    store.sql("SYSTEM STOP MERGES")?;
    Ok(store)
}

fn database(format: &str) -> String {
    format!("{DATABASE}_{}", format.to_lowercase())
}

/// What a gateway makes of the requests of one signal.
async fn blocks(options: &Options, folder: &Path, signal: Signal) -> Result<Vec<Block>> {
    std::fs::create_dir_all(folder)?;
    let null = Null::start(true).await?;
    let url = format!("http://{}", null.address);
    let subject = Subject::start(options, folder, &url, None, &[]).await?;
    let payload = Payload::new(signal)?;
    let plan = Plan { senders: super::SENDERS, per_second: 0, requests: Some(REQUESTS) };
    let load = Load::start((signal, &payload), (&subject.address, &subject.key), plan).await?;
    load.sent().await?;
    let of_table = |(path, _): &(String, Bytes)| path.contains(&quoted(signal.table()));
    let blocks = null.kept().into_iter().filter(of_table).map(|(path, body)| Block { path, body });
    Ok(blocks.collect())
}

/// What the inserts of all blocks but the first took, into the table with its views and into one without.
fn compare(store: &mut Store, table: &str, blocks: &[Bodies]) -> Result<Found> {
    for format in FORMATS {
        let database = database(format);
        store.sql(&format!("CREATE TABLE {database}.{table}{ALONE} AS {database}.{table}"))?;
    }
    let mut found = Found { blocks: blocks.len().saturating_sub(1), ..Found::default() };
    for (number, block) in blocks.iter().enumerate() {
        for (into, cpu) in ["", ALONE].into_iter().zip(&mut found.cpu_seconds) {
            // Each is the first in turn: what follows an insert of its kind finds the engine's code in the processor's caches.
            for turn in 0..FORMATS.len() {
                let at = (number + turn) % FORMATS.len();
                let format = FORMATS[at];
                let into = quoted(&format!("{table}{into}"));
                let path = as_format(&block.path, format).replace(&quoted(table), &into);
                let before = cpu_seconds(store.process().id())?;
                insert(store, &path, &block.bodies[at])?;
                // The first meets caches that are empty.
                if number > 0 {
                    cpu[at] += cpu_seconds(store.process().id())? - before;
                }
            }
        }
        if number > 0 {
            found.rows += block.rows;
            block.bodies.iter().zip(&mut found.bytes).for_each(|(body, sum)| *sum += body.len());
        }
    }
    ensure!(found.rows > 0, "of {table} the gateway made {} blocks, which are too few", blocks.len());
    must_be_alike(store, table)?;
    Ok(found)
}

/// The same rows in each format, by way of a table that keeps their order.
fn bodies(store: &Store, table: &str, block: &Block) -> Result<Bodies> {
    let database = database(FORMATS[0]);
    let scratch = format!("{table}_scratch");
    let columns = columns(&block.path).context("an insert of the gateway names no columns")?;
    let none = format!("SELECT {columns} FROM {database}.{table} LIMIT 0");
    store.sql(&format!("CREATE TABLE IF NOT EXISTS {database}.{scratch} ENGINE = Memory AS {none}"))?;
    insert(store, &as_format(&block.path, FORMATS[0]).replace(&quoted(table), &quoted(&scratch)), &block.body)?;
    let select = |format: &str| -> Result<Vec<u8>> {
        let statement = format!("SELECT {columns} FROM {database}.{scratch} FORMAT {format}");
        let answer = post(&format!("{}/?compress=1", store.url()), &[], statement.as_bytes())?;
        ensure!(answer.status == 200, "ClickHouse answered {} to `{statement}`: {}", answer.status, answer.text());
        Ok(answer.body)
    };
    let bodies = [block.body.to_vec(), select(FORMATS[1])?, select(FORMATS[2])?];
    let rows = store.sql(&format!("SELECT count() FROM {database}.{scratch}"))?.parse()?;
    // A table that is dropped keeps its memory for minutes.
    store.sql(&format!("TRUNCATE TABLE {database}.{scratch}"))?;
    Ok(Bodies { path: block.path.clone(), bodies, rows })
}

/// The insert's path and query for another format and its database.
fn as_format(path: &str, format: &str) -> String {
    path.replace("FORMAT+Native", &format!("FORMAT+{format}"))
        .replace(&format!("database={DATABASE}"), &format!("database={}", database(format)))
}

/// A table's name as it is in the path.
fn quoted(table: &str) -> String {
    format!("%60{table}%60")
}

/// Those that the statement lists.
fn columns(path: &str) -> Option<String> {
    let (_, rest) = path.split_once("%28")?;
    let (columns, _) = rest.split_once("%29")?;
    Some(columns.replace("%2C", ",").replace('+', " ").replace("%60", "`"))
}

fn insert(store: &Store, path: &str, body: &[u8]) -> Result<()> {
    let answer = post(&format!("{}{path}", store.url()), &[], body)?;
    ensure!(answer.status == 200, "ClickHouse answered {} to {path}: {}", answer.status, answer.text());
    Ok(())
}

/// Each database has the same rows, with views and without; of JSONEachRow as many, since its numbers may differ in their last digit.
fn must_be_alike(store: &Store, table: &str) -> Result<()> {
    let mut found = Vec::new();
    for format in FORMATS {
        let hash = if format == "JSONEachRow" { "0" } else { "sum(cityHash64(*))" };
        for into in ["", ALONE] {
            let said = store.sql(&format!("SELECT count(), {hash} FROM {}.{table}{into}", database(format)))?;
            let (count, hash) = said.split_once('\t').with_context(|| format!("`{said}` is no count and hash"))?;
            found.push((count.to_owned(), hash.to_owned()));
        }
    }
    let same = found.iter().all(|(count, hash)| *count == found[0].0 && (hash == "0" || *hash == found[0].1));
    ensure!(same, "the formats brought other rows into {table}: {found:?}");
    Ok(())
}
