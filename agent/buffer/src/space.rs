//! The arithmetic of the cap: how much a commit can make the files grow at most.
//!
//! Invariant: a bound here is never below what SQLite does with the pages (file format: sqlite.org/fileformat2.html), so
//! that room made before a commit is room enough.

/// SQLite's default. Small commits of an idle agent rewrite a page or two each: larger pages would only write more.
pub const PAGE_BYTES: u64 = 4096;
/// A page in the WAL has a header of 24 bytes.
const FRAME_BYTES: u64 = PAGE_BYTES + 24;
/// An overflow page begins with the number of the next one.
const OVERFLOW_BYTES: u64 = PAGE_BYTES - 4;
/// The largest part of a row that stays in its leaf: page size - 35.
const LOCAL_BYTES_MAX: u64 = PAGE_BYTES - 35;
/// A row's header and its columns besides meta and payload: at most 9 types of up to 9 bytes and 5 integers of 8.
const ROW_BYTES: u64 = 121;

/// Acked rows deleted in one go: with at most 6 pages touched by each (its leaf, two siblings when the leaf runs empty,
/// their parent, a free-list trunk, a pointer map), bounded by [`FLUSH_BYTES_MAX`].
pub const DELETE_ROWS_MAX: usize = 16;
const DELETE_PAGES: u64 = 6;
/// What is kept free under the cap so that acks can be written when the buffer is full:
/// 16 rows x 6 pages + 8 for the tree's root and the file header = 104 frames, 419 KiB.
pub const FLUSH_BYTES_MAX: u64 = 512 << 10;
/// Pages given back to the file system in one transaction: each is filled from the end of the file, whose other page points there,
/// and three more: 16 x 5 frames are 322 KiB. Many small ones write less than a large one, which does not fit the page cache.
pub(crate) const VACUUM_PAGES: u64 = 16;
/// A new segment: header, schema, root page, each also in the WAL; 16 pages to be sure.
pub const SEGMENT_BYTES_MIN: u64 = 16 * (PAGE_BYTES + FRAME_BYTES);

/// Pages that rows with these sizes (meta and payload) may add or rewrite.
fn pages_max(sizes: impl Iterator<Item = u64>) -> u64 {
    let (mut local, mut overflow) = (0, 0);
    for size in sizes {
        let row = size + ROW_BYTES;
        local += row.min(LOCAL_BYTES_MAX);
        overflow += if row > LOCAL_BYTES_MAX { row.div_ceil(OVERFLOW_BYTES) } else { 0 };
    }
    // Rows come in order, so leaves fill up; a row that does not fit wastes less than half of one. Interior pages point to
    // hundreds of leaves each: 1 in 64 is ample. 8 for the root's path, the file header and the free list.
    let leaves = 2 * local.div_ceil(LOCAL_BYTES_MAX) + 1;
    let pages = leaves + overflow + leaves / 64 + 8;
    // A pointer map page says of 819 others who points to them.
    pages + pages.div_ceil(819) + 1
}

/// Bytes by which one transaction can make a segment and its WAL grow: rows of these `sizes` added, [`DELETE_ROWS_MAX`]
/// rows deleted. A quarter more for pages that the small page cache writes to the WAL twice.
pub fn growth_max(sizes: impl Iterator<Item = u64>) -> u64 {
    let pages = pages_max(sizes);
    let frames = pages + pages / 4 + DELETE_PAGES * DELETE_ROWS_MAX as u64;
    pages * PAGE_BYTES + frames * FRAME_BYTES + 32
}

/// The same for `deleted` rows that others take the place of.
pub(crate) fn replacement_max(sizes: impl Iterator<Item = u64>, deleted: u64) -> u64 {
    growth_max(sizes) + DELETE_PAGES * deleted * FRAME_BYTES
}
