//! Where converted rows go: columns per table, in chunks, each with its hold on the memory budget.
//!
//! A resource of a few bytes on the wire is repeated in each of its rows, so rows can be many times the request: they are
//! counted as they are written. Invariant: the bytes held are never below the bytes written by more than one row.

use crate::batch::budget::{Budget, Hold};
use crate::batch::columns::{self, Columns};
use crate::batch::{Rows, Table};
use ollystack_receive::Signal;
use ollystack_schema::columns::Columns as Described;
use ollystack_schema::rows::{LogRow, MetricRow, SeriesRow, SpanRow, Table as RowTable};
use serde::Serialize;

/// Rows are held and handed on in chunks of this many bytes: half a block, so that blocks stay near their limit.
const CHUNK_BYTES: usize = 8 << 20;

/// The tables that rows go to. Their order is that of [`Indexed::INDEX`].
pub(crate) fn tables() -> [Table; 4] {
    [table::<MetricRow>(), table::<SeriesRow>(), table::<LogRow>(), table::<SpanRow>()]
}

/// The table of series' labels among [`tables`]: the only one whose rows replace each other.
pub(crate) const LABELS: usize = <SeriesRow as Indexed>::INDEX;

/// Whose records the rows of a table are, by its index among [`tables`]; labels are nobody's.
pub(crate) fn signal(table: usize) -> Option<Signal> {
    match table {
        <MetricRow as Indexed>::INDEX => Some(Signal::Metrics),
        <LogRow as Indexed>::INDEX => Some(Signal::Logs),
        <SpanRow as Indexed>::INDEX => Some(Signal::Traces),
        _ => None,
    }
}

fn table<T: RowTable + Described>() -> Table {
    let columns: Vec<String> = T::COLUMNS.iter().map(|(name, _)| format!("`{name}`")).collect();
    Table { name: <T as RowTable>::NAME, columns: columns.join(",") }
}

/// A row type with its place in [`tables`].
pub(crate) trait Indexed: RowTable + Described + Serialize + 'static {
    const INDEX: usize;
}

impl Indexed for MetricRow {
    const INDEX: usize = 0;
}

impl Indexed for SeriesRow {
    const INDEX: usize = 1;
}

impl Indexed for LogRow {
    const INDEX: usize = 2;
}

impl Indexed for SpanRow {
    const INDEX: usize = 3;
}

/// Why rows cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Overflow {
    /// Others hold the memory now.
    #[error("too many rows wait to be written")]
    Now,
    /// More than there is at all.
    #[error("the request becomes more than {max} bytes of rows; send less at a time")]
    Ever { max: usize },
    /// A fault of this program.
    #[error(transparent)]
    Form(#[from] columns::rows::Error),
}

/// What `convert` writes to.
pub(crate) trait Push {
    /// Take one row.
    fn push<T: Indexed>(&mut self, row: &T) -> Result<(), Overflow>;

    /// Records in this place have no row.
    fn left_out(&mut self, records: usize) {
        let _ = records;
    }
}

/// Takes the rows of one request.
#[derive(Debug)]
pub(crate) struct Sink {
    budget: Budget,
    total: usize,
    open: [Columns; 4],
    chunks: Vec<Rows>,
}

impl Sink {
    pub(crate) fn new(budget: Budget) -> Sink {
        Sink { budget, total: 0, open: empty(), chunks: Vec::new() }
    }

    /// The columns that rows of a table are added to; then they are to be [looked at](Sink::look).
    pub(super) fn open<T: Indexed>(&mut self) -> &mut Columns {
        &mut self.open[T::INDEX]
    }

    /// Hold and hand on what is enough for a chunk.
    pub(super) fn look<T: Indexed>(&mut self) -> Result<(), Overflow> {
        if self.open[T::INDEX].bytes() >= CHUNK_BYTES { self.close(T::INDEX) } else { Ok(()) }
    }

    /// Everything that was pushed.
    pub(crate) fn finish(mut self) -> Result<Vec<Rows>, Overflow> {
        for table in 0..self.open.len() {
            self.close(table)?;
        }
        Ok(self.chunks)
    }

    fn close(&mut self, table: usize) -> Result<(), Overflow> {
        let Some(open) = self.open.get_mut(table).filter(|open| open.rows() > 0) else { return Ok(()) };
        let columns = open.take();
        let bytes = columns.bytes();
        self.total += bytes;
        let hold = self.hold(bytes)?;
        self.chunks.push(Rows { table, columns, hold, held: None });
        Ok(())
    }

    fn hold(&self, bytes: usize) -> Result<Hold, Overflow> {
        match self.budget.hold(bytes) {
            Some(hold) => Ok(hold),
            None if self.total > self.budget.max() => Err(Overflow::Ever { max: self.budget.max() }),
            None => Err(Overflow::Now),
        }
    }
}

impl Push for Sink {
    fn push<T: Indexed>(&mut self, row: &T) -> Result<(), Overflow> {
        columns::rows::push(row, self.open::<T>())?;
        self.look::<T>()
    }
}

fn empty() -> [Columns; 4] {
    [MetricRow::COLUMNS, SeriesRow::COLUMNS, LogRow::COLUMNS, SpanRow::COLUMNS].map(Columns::new)
}
