//! What is inserted: rows of one table whose bytes, statement and token never change again.
//!
//! A [`Block`] goes to ClickHouse at once or waits in the spill, as [`Block::to_entry`], and comes out equal. What form its rows have stands
//! in its head, as ClickHouse's name of the format, and in its statement: Native, or RowBinary in a block that a version spilled which knew no
//! columns yet. Invariant: one token, one content: a retry under the same token sends the same bytes with the same statement, whichever
//! process sends it.

use bytes::Bytes;
use ollystack_buffer::Entry;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Fast, and as small as rows get at this speed: a sixth and less.
const SPILL_ZSTD_LEVEL: i32 = 1;

/// A payload that grows to more than this on reading back was not written by us: blocks are frozen at a few MiB.
const BLOCK_BYTES_MAX: usize = 1 << 30;

/// A frozen block.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Block {
    /// What it is, small.
    pub(crate) head: Head,
    /// Rows in `head.format`.
    pub(crate) rows: Bytes,
}

/// What a block is, as it stands in the spill beside its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Of the database that is configured.
    pub(crate) table: Cow<'static, str>,
    /// In the order of each row, quoted, comma-separated.
    pub(crate) columns: Cow<'static, str>,
    /// ClickHouse's name of the input format.
    pub(crate) format: Cow<'static, str>,
    /// `insert_deduplication_token`.
    pub(crate) token: String,
    /// How many.
    pub(crate) count: u32,
    /// Whose, for the ledger; empty for labels, and in blocks of a version that did not say.
    #[serde(default)]
    pub(crate) tenants: BTreeMap<String, u64>,
}

/// A stored block that cannot be read back: damage, or written by a version that is not this one's ancestor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("its head cannot be read: {0}")]
    Head(#[from] serde_json::Error),
    #[error("its rows cannot be packed or unpacked: {0}")]
    Rows(#[from] std::io::Error),
}

impl Block {
    /// The statement that inserts it.
    pub(crate) fn statement(&self) -> String {
        format!("INSERT INTO `{}` ({}) FORMAT {}", self.head.table, self.head.columns, self.head.format)
    }

    /// As the spill stores it. `signal` is for the spill's own counting.
    pub(crate) fn to_entry(&self, signal: u8) -> Result<Entry, Error> {
        Ok(Entry {
            class: 0,
            signal,
            records: self.head.count,
            meta: serde_json::to_vec(&self.head)?.into(),
            payload: zstd::bulk::compress(&self.rows, SPILL_ZSTD_LEVEL)?.into(),
        })
    }

    /// As it was before [`to_entry`](Block::to_entry).
    pub(crate) fn from_entry(entry: &Entry) -> Result<Block, Error> {
        let head = serde_json::from_slice(&entry.meta)?;
        let size = zstd::zstd_safe::get_frame_content_size(&entry.payload).ok().flatten().unwrap_or(0);
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(BLOCK_BYTES_MAX);
        Ok(Block { head, rows: zstd::bulk::decompress(&entry.payload, size)?.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(rows: Bytes) -> Block {
        Block {
            head: Head {
                table: "logs_raw".into(),
                columns: "`TenantId`,`Body`".into(),
                format: "RowBinary".into(),
                token: "gateway-1".into(),
                count: 3,
                tenants: [("acme".to_owned(), 3)].into(),
            },
            rows,
        }
    }

    #[test]
    fn a_block_comes_out_of_the_spill_as_it_went_in() {
        for rows in [Bytes::new(), Bytes::from_static(b"abc"), Bytes::from(vec![7; 3_000_000])] {
            let block = block(rows);
            let entry = block.to_entry(2).unwrap();
            assert_eq!((entry.signal, entry.records), (2, 3));
            assert_eq!(Block::from_entry(&entry).unwrap(), block);
        }
    }

    #[test]
    fn the_statement_names_table_columns_and_format() {
        assert_eq!(block(Bytes::new()).statement(), "INSERT INTO `logs_raw` (`TenantId`,`Body`) FORMAT RowBinary");
    }

    #[test]
    fn damage_is_an_error() {
        let mut entry = block(Bytes::from_static(b"abc")).to_entry(0).unwrap();
        entry.payload = Bytes::from_static(b"not zstd");
        assert!(matches!(Block::from_entry(&entry), Err(Error::Rows(_))));
        entry.meta = Bytes::from_static(b"{}");
        assert!(matches!(Block::from_entry(&entry), Err(Error::Head(_))));
    }
}
