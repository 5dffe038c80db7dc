//! Brings frozen blocks to safety: into ClickHouse, or on a synced disk until ClickHouse takes them.
//!
//! [`Writer`] is the batcher's sink. A block of rows that their senders may not have on disk goes to the spill at once when its insert
//! fails, so that nobody waits for a retry; while anything is in the spill, such blocks queue behind it, and [`replay`] sends them in
//! order. A block of agents' rows is written soon or never, and what stays open is [settled](settle). A block that ClickHouse
//! will never take is set aside on disk and tried again at the next start. Invariant: a block is answered as safe only after
//! ClickHouse confirmed it or the disk was synced.

pub(crate) mod clickhouse;
pub(crate) mod replay;
mod settle;

use crate::batch::block::{Block, Head};
use crate::batch::share::Fate;
use crate::batch::{Frozen, Sink, Table};
use crate::config::STOP_INSERT_TIMEOUT;
use crate::convert::signal;
use crate::delivered::deadline::{Deadline, Terms};
use crate::delivered::{Arrivals, Identity};
use crate::telemetry::metrics::{OfTable, SharedMetrics, TableKind};
use clickhouse::{ClickHouse, Error, Kind};
use ollystack_buffer::{Buffer, Loss, Observer};
#[cfg(feature = "kafka")]
pub(crate) use replay::Landed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Writes blocks; shared by the gatherers and the replay.
#[derive(Debug)]
pub(crate) struct Writer {
    clickhouse: ClickHouse,
    /// Blocks that wait for ClickHouse.
    spill: Buffer,
    /// Blocks that ClickHouse refused for good.
    set_aside: Buffer,
    tables: Vec<Table>,
    terms: Terms,
    in_flight: Semaphore,
    /// Blocks whose insert was broken off may wait for what became of it.
    settling: Semaphore,
    /// Whether the tables are there; `migrate` says so, and makes them when they are not.
    schema_ready: watch::Sender<bool>,
    /// What is wrong now, if anything; the start of it was logged.
    trouble: Mutex<Trouble>,
    metrics: SharedMetrics,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Trouble {
    clickhouse: Option<String>,
    spill: Option<String>,
}

/// The two places on disk.
#[derive(Debug)]
pub(crate) struct Disks {
    pub(crate) spill: Buffer,
    pub(crate) set_aside: Buffer,
}

impl Writer {
    pub(crate) fn new(
        clickhouse: ClickHouse,
        disks: Disks,
        tables: Vec<Table>,
        terms: Terms,
        in_flight_max: usize,
        metrics: SharedMetrics,
        stop: CancellationToken,
    ) -> Writer {
        Writer {
            clickhouse,
            spill: disks.spill,
            set_aside: disks.set_aside,
            tables,
            terms,
            in_flight: Semaphore::new(in_flight_max),
            settling: Semaphore::new(settle::BLOCKS_MAX),
            schema_ready: watch::Sender::new(false),
            trouble: Mutex::default(),
            metrics,
            stop,
        }
    }

    /// Where the schema's state is told and awaited.
    pub(crate) fn schema_ready(&self) -> &watch::Sender<bool> {
        &self.schema_ready
    }

    /// What keeps rows from reaching ClickHouse, and what keeps them from the spill.
    pub(crate) fn trouble(&self) -> (Option<String>, Option<String>) {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        (trouble.clickhouse.clone(), trouble.spill.clone())
    }

    /// Blocks and bytes in the spill, and blocks set aside.
    pub(crate) fn waiting(&self) -> (u64, u64, u64) {
        let spill = self.spill.stats();
        (spill.entries, spill.disk_bytes, self.set_aside.stats().entries)
    }

    /// Records that wait in the spill, and that are set aside, by signal.
    pub(crate) fn waiting_records(&self) -> [[u64; 3]; 2] {
        [&self.spill, &self.set_aside].map(|disk| by_signal(&disk.stats().records))
    }

    /// Close both places on disk.
    pub(crate) async fn close(&self) {
        self.spill.close().await;
        self.set_aside.close().await;
    }

    /// Whether blocks that may be spilled go straight to ClickHouse: the tables are there, and nothing waits that must go first.
    fn direct(&self) -> bool {
        *self.schema_ready.borrow() && self.spill.stats().entries == 0
    }

    /// One insert, counted. After `stop` ClickHouse has a shorter time to confirm it.
    async fn insert(&self, block: &Block, begin_by: Option<Deadline>) -> Result<(), Error> {
        let table = self.label(&block.head.table);
        let begun = Instant::now();
        let stopped = async {
            self.stop.cancelled().await;
            sleep(STOP_INSERT_TIMEOUT).await;
        };
        let result = tokio::select! {
            result = self.clickhouse.insert(block, begin_by) => result,
            () = stopped => Err(Error::timeout(STOP_INSERT_TIMEOUT)),
        };
        let of_table = OfTable { table };
        match &result {
            Ok(()) => {
                self.metrics.write_seconds.get_or_create(&of_table).observe(begun.elapsed().as_secs_f64());
                self.metrics.rows.get_or_create(&of_table).inc_by(u64::from(block.head.count));
                self.set_clickhouse_trouble(None);
            }
            Err(error) => {
                self.metrics.write_errors.get_or_create(&TableKind { table, kind: error.kind.name() }).inc();
                if error.kind == Kind::Missing {
                    self.schema_ready.send_replace(false);
                }
                if !matches!(error.kind, Kind::Block | Kind::Late) {
                    self.set_clickhouse_trouble(Some(error.to_string()));
                }
            }
        }
        result
    }

    /// A block that waited on disk is in ClickHouse.
    fn count_replayed(&self, head: &Head) {
        let table = self.tables.iter().position(|known| known.name == head.table);
        let Some(signal) = table.and_then(signal) else { return };
        for (tenant, records) in &head.tenants {
            self.metrics.ledger.replayed(tenant, signal, *records);
        }
        let known: u64 = head.tenants.values().sum();
        self.metrics.ledger.replayed("", signal, u64::from(head.count).saturating_sub(known));
    }

    /// The table's name for counters: one of ours, never text from a file.
    fn label(&self, table: &str) -> &'static str {
        self.tables.iter().find(|known| known.name == table).map_or("unknown", |known| known.name)
    }

    fn set_clickhouse_trouble(&self, problem: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&trouble.clickhouse, &problem) {
            (None, Some(error)) => {
                tracing::warn!(
                    error,
                    "ClickHouse does not take rows; until it does, those of agents wait with them and others in the spill"
                );
            }
            (Some(_), None) => tracing::info!("ClickHouse takes rows again"),
            _ => {}
        }
        trouble.clickhouse = problem;
    }

    fn set_spill_trouble(&self, problem: Option<String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&trouble.spill, &problem) {
            (None, Some(error)) => {
                tracing::error!(error, "the spill cannot take rows; senders are told to try later until it can");
            }
            (Some(_), None) => tracing::info!("the spill takes rows again"),
            _ => {}
        }
        trouble.spill = problem;
    }

    /// To the spill; dropped, which refuses its requests, when that fails.
    async fn spill(&self, frozen: Frozen) {
        match self.store(&self.spill, frozen.table, &frozen.block).await {
            Ok(()) => {
                self.set_spill_trouble(None);
                let table = self.label(&frozen.block.head.table);
                self.metrics.spilled.get_or_create(&OfTable { table }).inc();
                frozen.settle_on_disk();
            }
            Err(problem) => {
                self.set_spill_trouble(Some(problem));
                frozen.settle(Fate::Doubtful);
            }
        }
    }

    /// Keep a block that ClickHouse refuses. False when the disk does not take it either.
    async fn set_aside(&self, table: usize, block: &Block, error: &Error) -> bool {
        match self.store(&self.set_aside, table, block).await {
            Ok(()) => {
                tracing::error!(
                    table = %block.head.table,
                    rows = block.head.count,
                    token = block.head.token,
                    %error,
                    "ClickHouse refuses a block; it is set aside on disk and tried again at the next start: compare the \
                     table with `ollystack-gateway migrate --plan`, put it right and restart the gateway"
                );
                true
            }
            Err(problem) => {
                self.set_spill_trouble(Some(problem));
                false
            }
        }
    }

    async fn store(&self, buffer: &Buffer, table: usize, block: &Block) -> Result<(), String> {
        let (block, signal) = (block.clone(), u8::try_from(table).unwrap_or(u8::MAX));
        // Packing 16 MiB takes tens of milliseconds: not on a thread that serves requests.
        let packed = tokio::task::spawn_blocking(move || block.to_entry(signal)).await;
        let entry = packed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        buffer.put(vec![entry]).await.map(drop).map_err(|e| e.to_string())
    }
}

impl Writer {
    /// A block that may wait in the spill.
    async fn write_or_spill(&self, frozen: Frozen) {
        if self.direct() {
            // Closed never: the permit is for the insert alone, not for a wait in the spill.
            let permit = self.in_flight.acquire().await;
            match self.insert(&frozen.block, None).await {
                Ok(()) => return frozen.settle(Fate::Safe),
                Err(error) if error.kind == Kind::Block => return self.refused(frozen, &error).await,
                Err(_) => drop(permit),
            }
        }
        self.spill(frozen).await;
    }

    /// A block that waits with its senders, on their disks.
    async fn write_in_time(&self, mut frozen: Frozen, begin_by: Deadline) {
        if !*self.schema_ready.borrow() {
            return frozen.settle(Fate::Untouched);
        }
        let Ok(permit) = timeout(begin_by.left(), self.in_flight.acquire()).await else {
            return frozen.settle(Fate::Untouched);
        };
        match self.insert(&frozen.block, Some(begin_by)).await {
            Ok(()) => frozen.settle(Fate::Safe),
            Err(error) if !error.reached => frozen.settle(Fate::Untouched),
            Err(error) if error.kind == Kind::Block => self.refused(frozen, &error).await,
            Err(_) => {
                drop(permit);
                frozen.step_aside();
                self.settle(frozen, begin_by).await;
            }
        }
    }

    async fn refused(&self, frozen: Frozen, error: &Error) {
        match self.set_aside(frozen.table, &frozen.block, error).await {
            true => frozen.settle_on_disk(),
            false => frozen.settle(Fate::Doubtful),
        }
    }
}

impl Sink for Writer {
    async fn write(&self, frozen: Frozen) {
        match frozen.begin_by {
            None => self.write_or_spill(frozen).await,
            Some(begin_by) => self.write_in_time(frozen, begin_by).await,
        }
    }
}

impl Arrivals for Writer {
    async fn arrived(&self, identity: &Identity, age: Duration) -> Result<bool, String> {
        if !*self.schema_ready.borrow() {
            return Err("the tables are not there yet".to_owned());
        }
        self.clickhouse.has(identity, age).await.map_err(|error| error.to_string())
    }
}

/// What a disk counts by table, by signal.
pub(crate) fn by_signal(by_table: &[u64]) -> [u64; 3] {
    let mut by_signal = [0; 3];
    for (table, records) in by_table.iter().enumerate() {
        if let Some(signal) = signal(table) {
            by_signal[signal as usize] += records;
        }
    }
    by_signal
}

/// Counts what the disks lose: blocks whose bytes are damaged. They were answered as safe, so this is an error in the log.
#[derive(Debug)]
pub(crate) struct Losses {
    pub(crate) tables: Vec<&'static str>,
    pub(crate) metrics: SharedMetrics,
}

impl Observer for Losses {
    fn lost(&self, number: u8, records: u64, bytes: u64, reason: Loss) {
        let table = self.tables.get(usize::from(number)).copied().unwrap_or("unknown");
        let kind = match reason {
            Loss::Evicted => "evicted",
            Loss::Corrupt => "corrupt",
        };
        self.metrics.add_lost(table, kind, records);
        if let Some(signal) = signal(usize::from(number)) {
            self.metrics.ledger.lose(signal, kind, records);
        }
        tracing::error!(table, rows = records, bytes, reason = kind, "rows in the spill are gone; check the disk");
    }
}

#[cfg(test)]
mod tests;
