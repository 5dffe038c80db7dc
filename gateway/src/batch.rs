//! Gathers rows per table and freezes them into blocks of 10,000 rows or one second, and more while others are on their way.
//!
//! [`Batcher::add`] takes a request's rows; two tasks a table gather them, one those of agents, which have them on disk, one all
//! others, which go to the spill when ClickHouse is away; each hands its frozen blocks to the [`Sink`]. Invariants: a token is given
//! to one content only (a random number per process start and a count, or the identity of a repeated delivery); the rows of a request
//! are queued for all of their tables or for none; those of an agent's delivery for one table are in one block.

pub(crate) mod block;
pub(crate) mod budget;
pub(crate) mod columns;
pub(crate) mod share;

use crate::config;
use crate::delivered::UnderWay;
use crate::delivered::deadline::Deadline;
use crate::telemetry::ledger::Held;
use block::{Block, Head};
use budget::Hold;
use columns::{Columns, into_native};
use share::{Fate, Share, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A block is frozen at this many bytes too: with ClickHouse's default of a million rows and 256 MiB per insert block, a block
/// of ours always stays one block there, and one part.
const BLOCK_BYTES_MAX: usize = 16 << 20;

/// What ClickHouse calls the form of a block's rows. It stands in each block's head and so in the spill: blocks of an older version are
/// sent as they were written (RowBinary, before there were columns).
pub(crate) const FORMAT: &str = "Native";

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
    pub(crate) columns: Columns,
    /// Their share of the memory budget.
    pub(crate) hold: Hold,
    /// The records they are, in the ledger; none of labels.
    pub(crate) held: Option<Held>,
}

/// What a request hands in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) rows: Vec<Rows>,
    /// Set when the sender has the rows on disk: they are never spilled.
    pub(crate) kept: Option<Kept>,
}

/// A delivery of an agent.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Lasts until all the rows are settled.
    pub(crate) under_way: UnderWay,
    /// Their inserts must have begun by then.
    pub(crate) begin_by: Deadline,
    /// It may have been made before: its rows go in blocks of their own under a token made from its identity, so that of all its
    /// repetitions one counts.
    pub(crate) repeated: bool,
}

/// What travels to a gatherer.
#[derive(Debug)]
struct Queued {
    rows: Vec<Rows>,
    begin_by: Option<Deadline>,
    token: Option<String>,
    share: Share,
}

/// A frozen block on its way, with everybody who waits for it.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// As in [`Rows`].
    pub(crate) table: usize,
    pub(crate) block: Block,
    /// Set for a block of agents' rows: its insert must have begun by then.
    pub(crate) begin_by: Option<Deadline>,
    waiting: Vec<Share>,
    held: Vec<Held>,
    /// Freed with the block.
    _holds: Vec<Hold>,
    /// Held while it is being written.
    turn: Option<OwnedSemaphorePermit>,
}

impl Frozen {
    /// Answer the requests. A block dropped without this leaves them in doubt.
    pub(crate) fn settle(self, fate: Fate) {
        self.held.into_iter().for_each(|held| match fate {
            Fate::Safe => held.stored(),
            Fate::Untouched => held.refused("unavailable"),
            Fate::Doubtful => held.doubtful(),
        });
        self.waiting.into_iter().for_each(|share| share.settle(fate));
    }

    /// On a synced disk: as safe as in ClickHouse.
    pub(crate) fn settle_on_disk(self) {
        self.held.into_iter().for_each(Held::on_disk);
        self.waiting.into_iter().for_each(|share| share.settle(Fate::Safe));
    }

    /// Let other blocks of the table be written before this one is settled.
    pub(crate) fn step_aside(&mut self) {
        self.turn = None;
    }

    /// The agents' deliveries of which these are rows.
    pub(crate) fn deliveries(&self) -> Vec<&UnderWay> {
        let mut deliveries: Vec<_> = self.waiting.iter().filter_map(Share::under_way).collect();
        // The chunks of one follow each other.
        deliveries.dedup_by_key(|under_way| under_way.identity());
        deliveries
    }
}

/// Where frozen blocks go.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Bring a block to safety, or say what else became of it.
    fn write(&self, frozen: Frozen) -> impl Future<Output = ()> + Send;
}

/// Takes rows in.
#[derive(Debug)]
pub(crate) struct Batcher {
    /// By table: of agents, of all others.
    tables: Vec<[mpsc::Sender<Queued>; 2]>,
}

/// The gatherers have ended: the gateway is stopping.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

impl Batcher {
    /// Start the gatherers. They end when the batcher is dropped and their blocks are written; `stop` makes them freeze at once what
    /// they have.
    pub(crate) fn start<S: Sink>(
        config: &config::Batch,
        writes_max: usize,
        tables: &[Table],
        sink: &Arc<S>,
        stop: &CancellationToken,
    ) -> Result<(Batcher, JoinSet<()>), getrandom::Error> {
        let tokens = Arc::new(Tokens { start: getrandom::u64()?, next: AtomicU64::new(0) });
        let mut gatherers = JoinSet::new();
        let mut start = |index: usize, table: &Table, wait: Duration| {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            let gatherer = Gatherer {
                table: index,
                head: Head {
                    table: table.name.into(),
                    columns: table.columns.clone().into(),
                    format: FORMAT.into(),
                    token: String::new(),
                    count: 0,
                    tenants: BTreeMap::new(),
                },
                rows_max: config.rows_max,
                wait,
                writes_max: writes_max.try_into().unwrap_or(u32::MAX),
                turns: Arc::new(Semaphore::new(writes_max)),
                tokens: Arc::clone(&tokens),
                sink: Arc::clone(sink),
            };
            gatherers.spawn(gatherer.run(queue, stop.clone()));
            sender
        };
        // What is left of their time is for their turn to be written.
        let waits = [config.wait().min(config.begin_within() / 4), config.wait()];
        let tables = tables.iter().enumerate().map(|(index, table)| waits.map(|wait| start(index, table, wait)));
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
            let [of_agents, of_others] = self.tables.get(table).ok_or(Stopped)?;
            let queue = if request.kept.is_some() { of_agents } else { of_others };
            queued.push((queue.reserve().await.map_err(|_| Stopped)?, rows));
        }
        let begin_by = request.kept.as_ref().map(|kept| kept.begin_by);
        let repeated = request.kept.as_ref().filter(|kept| kept.repeated);
        let token = repeated.map(|kept| kept.under_way.identity().token());
        let (share, verdict) = share::pair(request.kept.map(|kept| kept.under_way));
        for (room, rows) in queued {
            room.send(Queued { rows, begin_by, token: token.clone(), share: share.clone() });
        }
        share.hand_over();
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
    writes_max: u32,
    /// To be written, as many as `writes_max`.
    turns: Arc<Semaphore>,
    tokens: Arc<Tokens>,
    sink: Arc<S>,
}

struct Open {
    deadline: Instant,
    begin_by: Option<Deadline>,
    columns: Vec<Columns>,
    /// How many there are.
    rows: u32,
    bytes: usize,
    holds: Vec<Hold>,
    held: Vec<Held>,
    waiting: Vec<Share>,
}

impl Open {
    /// Whether it must not grow further.
    fn is_large(&self) -> bool {
        self.bytes >= BLOCK_BYTES_MAX
    }
}

impl<S: Sink> Gatherer<S> {
    async fn run(mut self, mut queue: mpsc::Receiver<Queued>, stop: CancellationToken) {
        let mut open: Option<Open> = None;
        let mut writes = JoinSet::new();
        loop {
            let turns = open.as_ref().and_then(|open| self.turns_due(open));
            let is_large = open.as_ref().is_some_and(Open::is_large);
            // Once any turn is enough there is nothing more that time could change.
            let deadline = open.as_ref().filter(|_| turns != Some(1)).map(|open| open.deadline);
            tokio::select! {
                biased;
                // Until it is its turn, a block that is due goes on growing: the busier ClickHouse is, the fewer inserts it gets.
                turns = Arc::clone(&self.turns).acquire_many_owned(turns.unwrap_or_default()), if turns.is_some() => {
                    self.freeze(open.take(), None, turns.ok().and_then(one_of), &mut writes);
                }
                Some(_) = writes.join_next() => {}
                () = stop.cancelled(), if !self.wait.is_zero() => self.wait = Duration::ZERO,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
                received = queue.recv(), if !is_large => match received {
                    Some(queued) => self.take(queued, &mut open, &mut writes).await,
                    None => break,
                },
            }
        }
        self.write(open, None, &mut writes).await;
        while writes.join_next().await.is_some() {}
    }

    /// How many turns must be free for it to take one. Any is enough for what has waited long enough or must not grow further; what
    /// has rows enough goes when no other is on its way: till then it grows, as each insert costs ClickHouse a part in every table behind
    /// its views, however few its rows are.
    fn turns_due(&self, open: &Open) -> Option<u32> {
        if open.is_large() || open.deadline <= Instant::now() || self.wait.is_zero() {
            return Some(1);
        }
        (open.rows as usize >= self.rows_max).then_some(self.writes_max)
    }

    async fn take(&self, queued: Queued, open: &mut Option<Open>, writes: &mut JoinSet<()>) {
        let Queued { rows, begin_by, token, share } = queued;
        let mut alone = None;
        for rows in rows {
            let block = if token.is_some() { &mut alone } else { &mut *open };
            self.gather(block, rows, begin_by, share.clone());
            // What goes to the spill must fit into it; what an agent keeps is in whole or not at all.
            if begin_by.is_none()
                && let Some(turns) = open.as_ref().and_then(|open| self.turns_due(open))
            {
                match Arc::clone(&self.turns).try_acquire_many_owned(turns) {
                    Ok(turns) => self.freeze(open.take(), None, one_of(turns), writes),
                    Err(_) => self.write(open.take_if(|open| open.is_large()), None, writes).await,
                }
            }
        }
        self.write(alone, token, writes).await;
        share.hand_over();
    }

    fn gather(&self, open: &mut Option<Open>, rows: Rows, begin_by: Option<Deadline>, share: Share) {
        let open = open.get_or_insert_with(|| Open {
            deadline: Instant::now() + self.wait,
            begin_by,
            columns: Vec::new(),
            rows: 0,
            bytes: 0,
            holds: Vec::new(),
            held: Vec::new(),
            waiting: Vec::new(),
        });
        // A block that one delivery is too late for is too late for all: the first one's time counts.
        open.begin_by = open.begin_by.min(begin_by);
        open.rows = open.rows.saturating_add(rows.columns.rows());
        open.bytes += rows.columns.bytes();
        open.columns.push(rows.columns);
        open.holds.push(rows.hold);
        open.held.extend(rows.held.map(Held::set_out));
        open.waiting.push(share);
    }

    /// Freeze what is open, if anything is, and have it written; waits while enough blocks of this table are being written.
    async fn write(&self, open: Option<Open>, token: Option<String>, writes: &mut JoinSet<()>) {
        if open.is_some() {
            // Never closed.
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
            self.freeze(open, token, turn, writes);
        }
    }

    fn freeze(
        &self,
        open: Option<Open>,
        token: Option<String>,
        turn: Option<OwnedSemaphorePermit>,
        writes: &mut JoinSet<()>,
    ) {
        let Some(open) = open else { return };
        let token = token.unwrap_or_else(|| self.tokens.next());
        let mut tenants = BTreeMap::new();
        for held in &open.held {
            *tenants.entry(held.tenant().to_string()).or_default() += held.records();
        }
        let head = Head { token, count: open.rows, tenants, ..self.head.clone() };
        let block = Block { head, rows: into_native(open.columns) };
        let Open { begin_by, waiting, held, holds: _holds, .. } = open;
        let frozen = Frozen { table: self.table, block, begin_by, waiting, held, _holds, turn };
        let sink = Arc::clone(&self.sink);
        writes.spawn(async move { sink.write(frozen).await });
    }
}

/// The turn that is taken of those that had to be free.
fn one_of(mut turns: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
    turns.split(1)
}

#[cfg(test)]
mod tests;
