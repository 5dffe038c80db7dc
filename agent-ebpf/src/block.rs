//! Requests to block devices, as the kernel side counts them: a histogram of durations for each device and operation.

/// Kinds of operations, as `/proc/diskstats` tells them apart.
pub mod operation {
    #![allow(missing_docs)] // as they say
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 2;
    pub const DISCARD: u32 = 3;
}

/// Histograms at most: 32 disks of which all four operations are seen.
pub const HISTOGRAMS_MAX: u32 = 128;

/// The key of a histogram: major and minor number as the kernel has them side by side, then the operation.
#[inline(always)]
pub fn key(major: u32, minor: u32, operation: u32) -> u64 {
    (major as u64) << 28 | (minor as u64) << 8 | operation as u64
}

/// Major number, minor number and operation of a [`key`].
pub fn parts(key: u64) -> (u32, u32, u32) {
    ((key >> 28) as u32, (key >> 8) as u32 & 0xF_FFFF, key as u32 & 0xFF)
}
