//! From a block of messages to rows in the tables: the tasks of the [consumer](super).
//!
//! Invariant: the same block, with the same intent, is inserted under the same token, into the table of its signal; labels of series go before
//! it, under no token that would matter, as twice is once with them.

use super::block::{Batch, Taken};
use crate::batch::block::{Block, Head as BlockHead};
use crate::batch::budget::Budget;
use crate::batch::columns::{Columns, into_native};
use crate::batch::{FORMAT, Table};
use crate::config::Config;
use crate::convert::series::Seen;
use crate::convert::{Counted, Delivery, LABELS, tables};
use crate::kafka::message::Message;
use crate::telemetry::ledger::Held;
use crate::telemetry::metrics::SharedMetrics;
use crate::write::{Landed, Writer};
use hashbrown::HashSet;
use ollystack_receive::{Signal, Wire};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why records of a message are rejected that cannot be read at all.
const MESSAGE: &str = "message";

/// Shared by all partitions.
#[derive(Debug)]
pub(crate) struct Inserter {
    group: String,
    writer: Arc<Writer>,
    tables: [Table; 4],
    seen: Arc<Seen>,
    metrics: SharedMetrics,
}

/// What a block's messages became.
#[derive(Default)]
struct Converted {
    rows: Vec<Columns>,
    labels: Vec<Columns>,
    described: HashSet<u64>,
    held: Vec<Held>,
    tenants: BTreeMap<String, u64>,
    records: u64,
}

impl Inserter {
    pub(crate) fn new(config: &Config, writer: Arc<Writer>, metrics: SharedMetrics) -> Inserter {
        Inserter { group: config.kafka.group.clone(), writer, tables: tables(), seen: Arc::new(Seen::new()), metrics }
    }

    /// Find out which messages of a block are in the tables already. Everything before it in the partition has to be.
    pub(crate) async fn ask(&self, mut batch: Batch) -> Batch {
        for taken in &batch.messages {
            let Some(message) = taken.message.as_ref().filter(|message| message.head.repeated) else { continue };
            let rows = self.writer.rows_of(message.signal, &message.head).await;
            if rows >= message.head.before + message.head.records {
                batch.intent.known.extend(u32::try_from(taken.offset - batch.first));
            }
        }
        batch
    }

    /// Insert a block, for as long as it takes. Returns the offset that comes next.
    pub(crate) async fn insert(self: &Arc<Self>, signal: Signal, topic: &str, partition: i32, batch: Batch) -> i64 {
        let Batch { first, messages, intent, .. } = batch;
        let next = intent.last + 1;
        let token = format!("kafka/{}/{topic}/{partition}/{first}-{}@{}", self.group, intent.last, intent.at);
        let (inserter, known) = (Arc::clone(self), intent.known);
        let work = move || inserter.convert(first, messages, &known);
        let converted = match tokio::task::spawn_blocking(work).await {
            Ok(converted) => converted,
            Err(error) => {
                // Passing it over would be a loss: its partition stands still, which the lag shows.
                tracing::error!(%error, topic, partition, first, "a block cannot be converted: this is a fault, please report it");
                std::future::pending().await
            }
        };
        let Converted { rows, labels, described, held, tenants, records } = converted;
        if !labels.is_empty() {
            // Whatever it is, it is another one: labels of an earlier try may have been fewer.
            let token = format!("{token}/{:016x}", getrandom::u64().unwrap_or_default());
            let block = self.block(LABELS, token, labels, BTreeMap::new());
            self.writer.write_through(LABELS, &block).await;
        }
        if !rows.is_empty() {
            let table = signal_table(signal);
            let block = self.block(table, token, rows, tenants);
            let landed = self.writer.write_through(table, &block).await;
            held.into_iter().for_each(|held| match landed {
                Landed::Stored => held.stored(),
                Landed::SetAside => held.on_disk(),
            });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.seen.remember(described, u32::try_from(now).unwrap_or(u32::MAX));
        self.metrics.kafka.consumed(signal, records);
        next
    }

    fn block(&self, table: usize, token: String, rows: Vec<Columns>, tenants: BTreeMap<String, u64>) -> Block {
        let count = rows.iter().map(Columns::rows).sum();
        let Table { name, columns } = &self.tables[table];
        let (table, columns) = ((*name).into(), columns.clone().into());
        let head = BlockHead { table, columns, format: FORMAT.into(), token, count, tenants };
        Block { head, rows: into_native(rows) }
    }

    fn convert(&self, first: i64, messages: Vec<Taken>, known: &[u32]) -> Converted {
        let mut converted = Converted::default();
        for Taken { offset, message, .. } in messages {
            let Some(message) = message else { continue };
            converted.records += message.head.records;
            let mut held =
                self.metrics.ledger.receive(&message.head.tenant.as_str().into(), message.signal, message.head.records);
            if u32::try_from(offset - first).is_ok_and(|offset| known.contains(&offset)) {
                held.repeated();
                continue;
            }
            self.convert_one(message, &mut held, &mut converted);
            // What is left of it has no row.
            let rest = held.records();
            held.split(rest).rejected(MESSAGE);
        }
        converted
    }

    fn convert_one(&self, message: Message, held: &mut Held, converted: &mut Converted) {
        let head = message.head;
        let delivery = Delivery {
            tenant: head.tenant,
            agent: head.agent,
            sequence: head.sequence,
            ingested_at: head.ingested_at,
            expires_at: head.expires_at,
            ..Delivery::default()
        };
        // Bounded by what the block's messages say of their rows.
        let budget = Budget::new(usize::MAX);
        let counted = Counted::of(Wire::new(message.signal, message.payload.into()));
        let made = match counted.map(|counted| counted.convert(&delivery, &self.seen, &budget)) {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return tracing::error!(?error, tenant = delivery.tenant, "a message cannot become rows"),
            Err(error) => return tracing::error!(?error, tenant = delivery.tenant, "a message cannot be read"),
        };
        for (reason, records) in &made.outcome.rejected {
            held.split(*records).rejected(reason.name());
        }
        for rows in made.rows {
            if rows.table == LABELS {
                converted.labels.push(rows.columns);
                continue;
            }
            let records = u64::from(rows.columns.rows());
            *converted.tenants.entry(delivery.tenant.clone()).or_default() += records;
            converted.held.push(held.split(records).set_out());
            converted.rows.push(rows.columns);
        }
        converted.described.extend(made.outcome.described);
    }
}

/// The table of a signal, by its index among [`tables`].
fn signal_table(signal: Signal) -> usize {
    (0..4).find(|table| crate::convert::signal(*table) == Some(signal)).unwrap_or_default()
}
