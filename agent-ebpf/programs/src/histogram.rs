//! Counting a duration in a map.

use core::arch::asm;
use ollystack_ebpf::histogram::{Histogram, slot};

/// Count a duration.
///
/// # Safety
/// `into` must be a map's.
#[inline(always)]
pub unsafe fn record(into: *mut Histogram, duration_ns: u64) {
    // SAFETY: as promised by the caller; `slot` is within bounds.
    unsafe {
        add(&raw mut (*into).sum_ns, duration_ns);
        add((&raw mut (*into).counts).cast::<u64>().add(slot(duration_ns)), 1);
    }
}

/// Add to what other CPUs may be adding to. In assembly, as core has no atomic addition for this target.
///
/// # Safety
/// `into` must be a map's.
#[inline(always)]
pub unsafe fn add(into: *mut u64, more: u64) {
    // SAFETY: as promised by the caller; one instruction, which the kernel knows since Linux 3.18.
    unsafe { asm!("lock *(u64 *)({into} + 0) += {more}", into = in(reg) into, more = in(reg) more) };
}
