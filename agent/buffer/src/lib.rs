//! A durable, bounded queue of opaque entries in SQLite segment files.
//!
//! `export` freezes reduced telemetry into it and sends from it; the gateway spills rows through the same crate. What
//! comes in is safe on disk when [`Buffer::put`] returns; what goes out stays until [`Buffer::ack`].
//!
//! # Invariants
//!
//! 1. `put` returns ids only after the bytes were synced. A failed write is an error, never an id.
//! 2. The files never take more than [`Options::bytes_max`] together: the worst growth of a commit is computed before it
//!    starts (`space`), and room is made first. What was thrown away for it is told to the [`Observer`].
//! 3. An [`EntryId`] is given once in the life of a directory, and ids grow.
//! 4. An entry leaves by exactly one of: ack, eviction, damage. The last two are told to the observer, once.
//! 5. Memory does not follow the backlog: per segment one record of fixed size, per lease a few words, and the
//!    page caches of a few open segments (at most [`writer::CONNECTIONS_MAX`], 128 KiB each); and while less than
//!    [`RECENT_BYTES_MAX`] waits, what waits.
//!
//! # Layout
//!
//! ```text
//! buffer/
//!   lock                             flock: one process at a time
//!   state                            fixed size: the next id block, and what each segment holds (see `state`)
//!   reserve                          bytes given up to SQLite when the disk is full, so that deletes work
//!   00000000000001048576-1.segment1  SQLite; named by the first id it may hold and its class
//!   00000000000001048576-1.segment1-wal
//!   quarantine/                      damaged segments, for a person to look at; first to go when room is needed
//! ```
//!
//! A segment holds entries of one class only, so that evicting the least valuable data is one `unlink`: no write, no
//! free space and no rewriting needed. A segment is deleted when its last entry is acked. Up to one segment per
//! class is open for writing; the others are full, or were closed after a write failed.
//!
//! # Writing
//!
//! One thread owns all files. Waiting puts are gathered and committed together, one transaction per class among them; a commit waits for those
//! whom the last one answered, its own time at most. Segments are in WAL mode with `synchronous=FULL`: one sync of one file per commit,
//! where a rollback journal needs three. `locking_mode=EXCLUSIVE` keeps the WAL index on the heap: no `-shm` file, so no memory map that
//! could raise SIGBUS on a full disk.
//!
//! Most of what is put is acked within moments, so it is written once. A WAL may grow to a segment's size before it is moved into the file, and
//! is then written over from its begin, on blocks that the file system has already given. By then most of it is gone: acked rows leave free pages, which the
//! next puts take. A full segment is left in its WAL for a second or two; if it still lives then, or others become full, it is moved. One that
//! goes before is unlinked unmoved. Segments of 4 MiB and more have pages of 16 KiB, smaller ones of 4 KiB.
//!
//! Acks are deletes. They ride with the next commit of their segment, or go alone after a second without one; a full segment
//! that becomes empty is unlinked without writing them, as is one that is not full after a second, if it has grown. A crash before that gives
//! entries again, marked as [`Stored::redelivered`].
//!
//! # Giving
//!
//! Three leases in four go to the oldest entry of the most valuable class, the fourth to the oldest of all: new errors pass an
//! hour of anything else, and nothing waits for ever. While less than [`RECENT_BYTES_MAX`] waits, leases come from memory and nothing is
//! read back.
//!
//! # Less of it
//!
//! Whoever knows what the bytes mean may put entries that wait in fewer ([`Buffer::waiting`], [`Buffer::peek`],
//! [`Buffer::replace`]): one transaction of their segment, so that after a crash there are the old ones or the new ones, and
//! `PRAGMA incremental_vacuum` in small steps then gives the pages back. Only entries that nobody ever leased are replaced: what may
//! have arrived under an id is never changed.
//!
//! # When the disk fails
//!
//! A put that meets ENOSPC or EIO is an error for its caller and leaves nothing behind. After EIO (a failed sync
//! included) the segment is closed for writing for good, as the kernel may have dropped the pages that it could not
//! write; what it held before stays readable. A full disk heals by itself when space returns. A put whose error came from
//! the sync itself may still be found after a restart: refused, but delivered.
//!
//! Lessons others paid for, and the test that holds each:
//!
//! - an id is an answer to a sync, never to a write; a crash loses nothing that has one: `tests/model.rs`,
//!   `what_was_put_survives_a_kill_and_what_was_acked_before_a_stop_does_not_return`, and the torture `power`, which takes
//!   what was not synced;
//! - a failed sync is never tried again, its put is refused, its segment is written to no more: the torture `io`;
//! - nothing is deleted before the count without it is written, whichever write of it failed, or the next start tells of what was acked
//!   as lost: `nothing_is_deleted_while_its_count_cannot_be_written`, the torture `io`;
//! - WAL with `synchronous=FULL` and one connection a segment (WAL with NORMAL may roll a commit back; two writers met
//!   a corrupting WAL reset in SQLite before 3.51.3): the torture `power`;
//! - deletes work with 0 bytes free: `a_full_disk_is_an_error_and_passes`,
//!   `what_was_acked_on_a_full_disk_does_not_return_after_a_crash`, the torture `full`;
//! - damage costs its segment at most, is counted, and never keeps the buffer from opening:
//!   `any_flipped_byte_or_cut_costs_at_most_its_segment_and_is_counted`, the torture `corrupt`;
//! - a full backlog is counted on opening, not loaded: `cargo xtask bench buffer`;
//! - what an earlier version left is read, what a later one left is not touched: `tests/versions.rs`.
//!
//! # Recovery
//!
//! Opening scans the rows' lengths (not the payloads) of every segment. A segment that SQLite cannot read is set aside in
//! `quarantine/`; what it held is counted from `state`. A payload is checked against its XXH3 when it is read: one that
//! does not match is dropped alone. Ids continue in a fresh block of 2^20, so that a lost tail never repeats one.

mod commit;
mod error;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod handle;
mod recent;
mod recovery;
mod replace;
mod segment;
mod space;
mod state;
mod store;
pub mod writer;

pub use error::{Advice, Error};
pub use handle::Buffer;
pub use recent::RECENT_BYTES_MAX;

use bytes::Bytes;
use std::path::PathBuf;

/// Classes and signals are numbers from 0 to 7.
pub const KINDS: usize = 8;

/// Where the buffer is, and how large it may grow.
#[derive(Clone, Debug)]
pub struct Options {
    /// Created if missing, with its parents. Nothing else may live in it.
    pub directory: PathBuf,
    /// The most all files together may take, at least 4 MiB.
    pub bytes_max: u64,
    /// A segment is closed once it has grown to this, 256 KiB to a quarter of `bytes_max`. It is also the largest entry.
    pub segment_bytes_max: u64,
    /// What happens to a put that does not fit.
    pub when_full: WhenFull,
}

impl Options {
    /// 256 MiB in segments of 8 MiB, evicting when full.
    pub fn new(directory: impl Into<PathBuf>) -> Options {
        Options {
            directory: directory.into(),
            bytes_max: 256 << 20,
            segment_bytes_max: 8 << 20,
            when_full: WhenFull::Evict,
        }
    }
}

/// What happens to a put that does not fit under the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Throw away the highest class number first, the oldest of it first. A put of a class above all that is stored
    /// is itself what goes: it succeeds and is told to the observer as evicted.
    Evict,
    /// Throw away nothing: the put fails with [`Error::Full`].
    Refuse,
}

/// Identity of an entry: unique and growing for the life of the directory, also when everything was acked and across
/// restarts. Not dense: a restart skips to the next multiple of 2^20.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub u64);

/// What is stored. The buffer looks at none of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Worth, 0 (kept longest) to 7.
    pub class: u8,
    /// For counting only, 0 to 7.
    pub signal: u8,
    /// How many records the payload holds; for counting only.
    pub records: u32,
    /// Small description, for the caller.
    pub meta: Bytes,
    /// The frozen bytes. What they are a part of stays in memory while less than [`RECENT_BYTES_MAX`] waits.
    pub payload: Bytes,
}

/// An entry on lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// To ack or release it by.
    pub id: EntryId,
    /// It was leased before, by this process or perhaps by an earlier one: an earlier attempt may have arrived.
    pub redelivered: bool,
    /// What was put, byte for byte.
    pub entry: Entry,
}

/// An entry that nobody has ever leased, as [`Buffer::waiting`] found it: what it is worth looking at, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// First id of its segment.
    pub(crate) segment: u64,
    /// Its identity.
    pub id: EntryId,
    /// As it was put.
    pub class: u8,
    /// As it was put.
    pub signal: u8,
    /// As it was put.
    pub records: u32,
    /// When it was put.
    pub put_unix_nano: u64,
    /// Of payload and meta.
    pub bytes: u64,
    /// As it was put.
    pub meta: Bytes,
}

/// Why stored entries are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Room was needed and they were the least valuable.
    Evicted,
    /// Their bytes are damaged.
    Corrupt,
}

/// Hears of every loss, on the buffer's own thread (and inside [`Buffer::open`]): must not block.
pub trait Observer: Send + Sync {
    /// Entries of `signal` that stood for `records` in `bytes` of payload and meta are gone.
    fn lost(&self, signal: u8, records: u64, bytes: u64, reason: Loss);
}

/// What was found on opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Entries that are there to be leased.
    pub entries: u64,
    /// Their records, by signal.
    pub records_by_signal: [u64; KINDS],
    /// Their payload and meta bytes.
    pub bytes: u64,
    /// Segments that could not be read, or not to their end. The observer was told of their records, which are not in `records_by_signal`: a
    /// ledger that counts them as dropped must count them as carried first.
    pub quarantined: Vec<Quarantined>,
}

/// A segment that was set aside, or that has lost entries and serves on with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it was.
    pub path: PathBuf,
    /// Entries lost with it.
    pub entries: u64,
    /// Their records, by signal.
    pub records_by_signal: [u64; KINDS],
    /// Their payload and meta bytes.
    pub bytes: u64,
    /// Whether the counts are known to be right; otherwise they are what could still be read: a lower bound.
    pub exact: bool,
    /// What is wrong with it.
    pub why: String,
}

/// The buffer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Not yet acked, leased ones included.
    pub entries: u64,
    /// Their records, by signal.
    pub records: [u64; KINDS],
    /// Their payload and meta bytes.
    pub payload_bytes: u64,
    /// All files together, counted as large as they become at the next checkpoint.
    pub disk_bytes: u64,
    /// The cap.
    pub disk_bytes_max: u64,
    /// Segment files.
    pub segments: u64,
    /// When the oldest entry was put; 0 when there is none. Exact to a second or so while acks are under way.
    pub oldest_unix_nano: u64,
    /// Entries on lease.
    pub leased: u64,
    /// Entries that were left where they are: see [`Buffer::leave`].
    pub left: u64,
    /// Puts that failed since opening.
    pub put_failures: u64,
    /// Commits that were synced since opening.
    pub commits: u64,
}
