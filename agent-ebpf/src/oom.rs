//! Processes that the kernel killed for want of memory, as the kernel side reports them.

use crate::cgroup::Names;
use crate::{COMMAND_BYTES, Plain};

/// One process chosen to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Monotonic.
    pub time_ns: u64,
    /// Pages in memory: of files, anonymous and shared.
    pub resident_pages: u64,
    /// Process.
    pub process: u32,
    /// Its user.
    pub user: u32,
    /// Command name of the thread that was chosen.
    pub command: [u8; COMMAND_BYTES],
    /// Its group by the memory controller.
    pub cgroup: Names,
}

// SAFETY: repr(C), integers only, no padding (checked below).
unsafe impl Plain for Event {}
const _: () = assert!(size_of::<Event>() == 616);

/// Bytes of the ring buffer: 26 kills between two looks at it.
pub const RING_BYTES: u32 = 16 * 1024;

/// Slots of the per-CPU loss counters.
pub mod loss {
    /// A kill did not fit.
    pub const EVENT: u32 = 0;
    /// How many there are.
    pub const COUNT: u32 = 1;
}
