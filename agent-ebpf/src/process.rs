//! Program starts and process ends, as the kernel side reports them.

use crate::{COMMAND_BYTES, Plain};

/// A process runs a new program.
pub const EXEC: u8 = 1;
/// The last thread of a process is gone.
pub const EXIT: u8 = 2;

/// Longest path kept, with its terminating zero: longer ones are cut.
pub const PATH_BYTES: usize = 256;

/// A start or an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Monotonic.
    pub time_ns: u64,
    /// Since the process was forked ([`EXIT`]).
    pub lifetime_ns: u64,
    /// Process.
    pub process: u32,
    /// Its parent.
    pub parent: u32,
    /// User.
    pub user: u32,
    /// As `wait` tells it ([`EXIT`]): the exit status in bits 8-15, the killing signal in bits 0-6.
    pub status: u32,
    /// [`EXEC`] or [`EXIT`].
    pub kind: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// Command name.
    pub command: [u8; COMMAND_BYTES],
}

/// A start, with what was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Exec {
    /// Common part.
    pub event: Event,
    /// Path as given to `execve`, ended by a zero.
    pub path: [u8; PATH_BYTES],
}

// SAFETY: repr(C), integers only, no padding (checked below).
unsafe impl Plain for Event {}
// SAFETY: as above.
unsafe impl Plain for Exec {}
const _: () = assert!(size_of::<Event>() == 56);
const _: () = assert!(size_of::<Exec>() == 312);

/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 64 * 1024;

/// Slots of the per-CPU loss counters.
pub mod loss {
    /// A start did not fit.
    pub const EXEC: u32 = 0;
    /// An end did not fit.
    pub const EXIT: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}
