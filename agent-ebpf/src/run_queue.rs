//! How long threads waited for a CPU, as the kernel side counts it: a histogram for each control group.

use crate::Plain;
use crate::cgroup::Names;
use crate::histogram::Histogram;

/// What a control group waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Group {
    /// Between the moment a thread could run and the one it did.
    pub waits: Histogram,
    /// Which group, by the CPU controller.
    pub names: Names,
}

// SAFETY: repr(C), integers only, no padding (checked below).
unsafe impl Plain for Group {}
const _: () = assert!(size_of::<Group>() == 2_248);

/// Control groups told apart; those beyond are under [`OTHERS`].
pub const GROUPS_MAX: u32 = 256;
/// The key of what did not find room.
pub const OTHERS: u64 = 0;
/// Threads that wait at a time. Two whose numbers are so far apart share a place, and the later one takes it.
pub const WAITING_MAX: u32 = 16 * 1024;
