//! The arithmetic of the cap: how much a commit can make the files grow at most.
//!
//! Invariant: a bound here is never below what SQLite does with the pages (file format: sqlite.org/fileformat2.html), so
//! that room made before a commit is room enough.

/// From this size on segments have large pages: what they are for is batches of many KiB, which small pages cut into chains that cost
/// two writes and a read a page.
const LARGE_SEGMENT_BYTES: u64 = 4 << 20;
const LARGE_PAGE_BYTES: u64 = 16 << 10;
/// SQLite's default. The smallest cap is four segments of 64 of them.
const SMALL_PAGE_BYTES: u64 = 4 << 10;

/// A page in the WAL has a header.
const FRAME_HEADER_BYTES: u64 = 24;
/// A row's header and its columns besides meta and payload: at most 9 types of up to 9 bytes and 5 integers of 8.
const ROW_BYTES: u64 = 121;

/// Acked rows that can be deleted in one go whatever is stored: with at most 6 pages touched by each (its leaf, two siblings when the leaf
/// runs empty, their parent, a free-list trunk, a pointer map), bounded by [`Space::flush_bytes_max`].
const DELETE_ROWS: u64 = 16;
const DELETE_PAGES: u64 = 6;
/// Where there is room for it, as many more: so acks keep up with any number of puts to a commit.
const DELETE_ROWS_MORE: u64 = 1024;

/// Pages given back to the file system in one transaction: each is filled from the end of the file, whose other page points there,
/// and three more: 16 x 5 frames of the 128 that are kept free. Many small ones write less than a large one, which does not fit the
/// page cache.
pub(crate) const VACUUM_PAGES: u64 = 16;

/// What transactions on pages of one size take. What holds for the size of new segments holds for older ones with smaller pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// A power of two.
    pub(crate) page_bytes: u64,
}

impl Space {
    pub(crate) fn new(segment_bytes_max: u64) -> Space {
        let is_large = segment_bytes_max >= LARGE_SEGMENT_BYTES;
        Space { page_bytes: if is_large { LARGE_PAGE_BYTES } else { SMALL_PAGE_BYTES } }
    }

    pub(crate) fn frame_bytes(self) -> u64 {
        self.page_bytes + FRAME_HEADER_BYTES
    }

    /// What is kept free under the cap so that acks can be written when the buffer is full:
    /// 16 rows x 6 pages + 8 for the tree's root and the file header = 104 frames in the room of 128 pages.
    pub(crate) fn flush_bytes_max(self) -> u64 {
        128 * self.page_bytes
    }

    /// A new segment: header, schema, root page, each also in the WAL; 16 pages to be sure.
    pub(crate) fn segment_bytes_min(self) -> u64 {
        16 * (self.page_bytes + self.frame_bytes())
    }

    /// Pages that rows with these sizes (meta and payload) may add or rewrite.
    fn pages_max(self, sizes: impl Iterator<Item = u64>) -> u64 {
        // The largest part of a row that stays in its leaf; an overflow page begins with the number of the next one.
        let (local_max, overflow_bytes) = (self.page_bytes - 35, self.page_bytes - 4);
        let (mut local, mut overflow) = (0, 0);
        for size in sizes {
            let row = size + ROW_BYTES;
            local += row.min(local_max);
            overflow += if row > local_max { row.div_ceil(overflow_bytes) } else { 0 };
        }
        // Rows come in order, so leaves fill up; a row that does not fit wastes less than half of one. Interior pages point to
        // hundreds of leaves each: 1 in 64 is ample. 8 for the root's path, the file header and the free list.
        let leaves = 2 * local.div_ceil(local_max) + 1;
        let pages = leaves + overflow + leaves / 64 + 8;
        // A pointer map page says of hundreds of others who points to them, in 5 bytes each.
        pages + pages.div_ceil(self.page_bytes / 5) + 1
    }

    /// Bytes by which one transaction can make a segment and its WAL grow: rows of these `sizes` added, 16 rows deleted. A quarter more
    /// for pages that the small page cache writes to the WAL twice.
    pub(crate) fn growth_max(self, sizes: impl Iterator<Item = u64>) -> u64 {
        let pages = self.pages_max(sizes);
        let frames = pages + pages / 4 + DELETE_PAGES * DELETE_ROWS;
        pages * self.page_bytes + frames * self.frame_bytes() + 32
    }

    /// The same for `deleted` rows that others take the place of.
    pub(crate) fn replacement_max(self, sizes: impl Iterator<Item = u64>, deleted: u64) -> u64 {
        self.growth_max(sizes) + DELETE_PAGES * deleted * self.frame_bytes()
    }

    /// How many acked rows may be deleted in one go while so many bytes are free under the cap beyond all else that is to fit.
    pub(crate) fn delete_rows_max(self, free: u64) -> usize {
        (DELETE_ROWS + (free / (DELETE_PAGES * self.frame_bytes())).min(DELETE_ROWS_MORE)) as usize
    }
}
