//! Gathers rows per table and freezes them into blocks of 10,000 rows or one second.
//!
//! [`Batcher::add`] takes a request's rows; one task a table gathers them and hands each frozen block to the [`Sink`]. Invariants:
//! a token is given to one
//! content only (a random number per process start and a count, or the identity of a repeated delivery); the rows of a request are queued for all
//! of their tables or for none.

pub(crate) mod block;
pub(crate) mod budget;
pub(crate) mod rowbinary;
pub(crate) mod share;

use crate::config;
use crate::delivered::UnderWay;
use block::{Block, Head};
use budget::Hold;
use bytes::{Bytes, BytesMut};
use share::{Share, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A block is frozen at this many bytes too: with ClickHouse's default of a million rows and 256 MiB per insert block, a block
/// of ours always stays one block there, and one part.
const BLOCK_BYTES_MAX: usize = 16 << 20;

/// Requests that may queue for one table's gatherer.
const QUEUE_MAX: usize = 64;

/// A table that rows go to: what a gatherer must know of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: String,
}

/// Rows of one table, from one request.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Index of the table in the list the batcher was made with.
    pub(crate) table: usize,
    pub(crate) count: u32,
    /// RowBinary.
    pub(crate) bytes: Vec<u8>,
    /// Their share of the memory budget.
    pub(crate) hold: Hold,
}

/// What a request hands in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) rows: Vec<Rows>,
    /// Lasts until all the rows are settled.
    pub(crate) under_way: Option<UnderWay>,
    /// Set for a delivery that is repeated: its rows go in blocks of their own under tokens made from this, so that of all its
    /// repetitions one counts.
    pub(crate) token: Option<String>,
}

/// What travels to a gatherer.
type Queued = (Vec<Rows>, Option<String>, Share);

/// A frozen block on its way, with everybody who waits for it.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// As in [`Rows`].
    pub(crate) table: usize,
    pub(crate) block: Block,
    waiting: Vec<Share>,
    /// Freed with the block.
    _holds: Vec<Hold>,
}

impl Frozen {
    /// In ClickHouse or on a synced disk: answer the requests. A block dropped without this refuses them.
    pub(crate) fn safe(self) {
        self.waiting.into_iter().for_each(Share::safe);
    }
}

/// Where frozen blocks go.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Bring a block to safety, or drop it, which refuses its requests.
    fn write(&self, frozen: Frozen) -> impl Future<Output = ()> + Send;
}

/// Takes rows in.
#[derive(Debug)]
pub(crate) struct Batcher {
    tables: Vec<mpsc::Sender<Queued>>,
}

/// The gatherers have ended: the gateway is stopping.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

impl Batcher {
    /// Start one gatherer per table. They end when the batcher is dropped and their blocks are written; `stop` makes them
    /// freeze at once what they have.
    pub(crate) fn start<S: Sink>(
        config: &config::Batch,
        writes_max: usize,
        tables: &[Table],
        sink: &Arc<S>,
        stop: &CancellationToken,
    ) -> Result<(Batcher, JoinSet<()>), getrandom::Error> {
        let tokens = Arc::new(Tokens { start: getrandom::u64()?, next: AtomicU64::new(0) });
        let mut gatherers = JoinSet::new();
        let tables = tables.iter().enumerate().map(|(index, table)| {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            let gatherer = Gatherer {
                table: index,
                head: Head {
                    table: table.name.into(),
                    columns: table.columns.clone().into(),
                    format: "RowBinary".into(),
                    token: String::new(),
                    count: 0,
                },
                rows_max: config.rows_max,
                wait: config.wait(),
                writes_max,
                tokens: Arc::clone(&tokens),
                sink: Arc::clone(sink),
            };
            gatherers.spawn(gatherer.run(queue, stop.clone()));
            sender
        });
        Ok((Batcher { tables: tables.collect() }, gatherers))
    }

    /// Queue the rows of one request. Waits while a table's queue is full; dropped before it returns, nothing was queued.
    pub(crate) async fn add(&self, request: Request) -> Result<Verdict, Stopped> {
        // Room in every queue first, in the order of the tables so that no two requests wait for each other.
        let mut by_table: BTreeMap<usize, Vec<Rows>> = BTreeMap::new();
        for rows in request.rows {
            by_table.entry(rows.table).or_default().push(rows);
        }
        let mut queued = Vec::with_capacity(by_table.len());
        for (table, rows) in by_table {
            let queue = self.tables.get(table).ok_or(Stopped)?;
            queued.push((queue.reserve().await.map_err(|_| Stopped)?, rows));
        }
        let (share, verdict) = share::pair(request.under_way);
        for (room, rows) in queued {
            room.send((rows, request.token.clone(), share.clone()));
        }
        share.safe();
        Ok(verdict)
    }
}

struct Tokens {
    start: u64,
    next: AtomicU64,
}

impl Tokens {
    fn next(&self) -> String {
        format!("{:016x}-{}", self.start, self.next.fetch_add(1, Relaxed))
    }
}

struct Gatherer<S> {
    table: usize,
    head: Head,
    rows_max: usize,
    wait: Duration,
    writes_max: usize,
    tokens: Arc<Tokens>,
    sink: Arc<S>,
}

struct Open {
    deadline: Instant,
    count: u32,
    bytes: BytesMut,
    holds: Vec<Hold>,
    waiting: Vec<Share>,
}

impl<S: Sink> Gatherer<S> {
    async fn run(mut self, mut queue: mpsc::Receiver<Queued>, stop: CancellationToken) {
        let mut open: Option<Open> = None;
        let mut writes = JoinSet::new();
        loop {
            let deadline = open.as_ref().map(|open| open.deadline);
            tokio::select! {
                received = queue.recv() => match received {
                    Some((chunks, token, share)) => {
                        for (index, rows) in chunks.into_iter().enumerate() {
                            match &token {
                                None => {
                                    self.gather(&mut open, rows, share.clone());
                                    self.write_if_full(&mut open, &mut writes).await;
                                }
                                Some(token) => {
                                    let mut alone = None;
                                    self.gather(&mut alone, rows, share.clone());
                                    self.write(alone, Some(format!("{token}/{index}")), &mut writes).await;
                                }
                            }
                        }
                        share.safe();
                    }
                    None => break,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.write_if_full(&mut open, &mut writes).await;
                }
                () = stop.cancelled(), if !self.wait.is_zero() => {
                    self.wait = Duration::ZERO;
                    self.write_if_full(&mut open, &mut writes).await;
                }
                Some(_) = writes.join_next() => {}
            }
        }
        self.write(open, None, &mut writes).await;
        while writes.join_next().await.is_some() {}
    }

    async fn write_if_full(&self, open: &mut Option<Open>, writes: &mut JoinSet<()>) {
        let full = |open: &mut Open| {
            open.count as usize >= self.rows_max
                || open.bytes.len() >= BLOCK_BYTES_MAX
                || open.deadline <= Instant::now()
                || self.wait.is_zero()
        };
        self.write(open.take_if(full), None, writes).await;
    }

    fn gather(&self, open: &mut Option<Open>, rows: Rows, share: Share) {
        let open = open.get_or_insert_with(|| Open {
            deadline: Instant::now() + self.wait,
            count: 0,
            bytes: BytesMut::new(),
            holds: Vec::new(),
            waiting: Vec::new(),
        });
        open.count = open.count.saturating_add(rows.count);
        open.bytes.extend_from_slice(&rows.bytes);
        open.holds.push(rows.hold);
        open.waiting.push(share);
    }

    /// Freeze what is open, if anything is, and have it written; waits while enough blocks of this table are being written.
    async fn write(&self, open: Option<Open>, token: Option<String>, writes: &mut JoinSet<()>) {
        let Some(open) = open else { return };
        while writes.len() >= self.writes_max {
            writes.join_next().await;
        }
        let token = token.unwrap_or_else(|| self.tokens.next());
        let head = Head { token, count: open.count, ..self.head.clone() };
        let block = Block { head, rows: Bytes::from(open.bytes) };
        let frozen = Frozen { table: self.table, block, waiting: open.waiting, _holds: open.holds };
        let sink = Arc::clone(&self.sink);
        writes.spawn(async move { sink.write(frozen).await });
    }
}

#[cfg(test)]
mod tests;
