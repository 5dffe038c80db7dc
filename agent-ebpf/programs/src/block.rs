//! Requests to block devices: the tracepoint where one is done.
//!
//! The kernel itself notes when a request was made, so that nothing has to be remembered here between two tracepoints; the
//! time includes the wait in the scheduler's queue, as in `/proc/diskstats`. Invariant: the same requests are counted as
//! there, each once, though the tracepoint also sees their parts.
#![no_std]
#![no_main]

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;
use kernel::histogram::record;
use kernel::{at, count, field, pointer};
use ollystack_ebpf::block::{HISTOGRAMS_MAX, key, operation};
use ollystack_ebpf::histogram::Histogram;
use ollystack_ebpf::layout;

kernel::program_file!();

#[unsafe(no_mangle)]
static BLOCK_LAYOUT: layout::Block = layout::Block {
    request_cmd_flags: 0,
    request_data_len: 0,
    request_start_time_ns: 0,
    request_disk: 0,
    queue_disk: 0,
    disk_major: 0,
    flush_sequence: 0,
};

/// The operation is in this byte of a request's `cmd_flags`.
const OPERATION: u32 = 0xFF;
/// REQ_OP_FLUSH.
const FLUSH: u32 = 2;
/// REQ_OP_DISCARD.
const DISCARD: u32 = 3;
/// From here on operations are no data's: commands of drivers.
const DRIVERS: u32 = 32;

#[map]
static HISTOGRAMS: HashMap<u64, Histogram> = HashMap::with_max_entries(HISTOGRAMS_MAX, 0);

/// What a histogram begins with: a program's stack is too small for one.
#[map]
static EMPTY: Array<Histogram> = Array::with_max_entries(1, 0);

/// Requests that found no histogram.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// `block_rq_complete(request, error, bytes)`.
#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn request_done(ctx: RawTracePointContext) -> i32 {
    let _ = measure(ctx.arg::<u64>(0), ctx.arg::<u32>(2));
    0
}

#[inline(always)]
fn measure(request: u64, done_bytes: u32) -> Option<()> {
    let length: u32 = at(request, field!(BLOCK_LAYOUT.request_data_len))?;
    let both: u64 = at(request, field!(BLOCK_LAYOUT.request_cmd_flags))?;
    let (operation, flags) = (both as u32 & OPERATION, (both >> 32) as u32);
    // A part of it is done; or it is a step of a write that wants the disk's cache flushed, and comes again as a whole.
    let is_step = flags & field!(BLOCK_LAYOUT.flush_sequence) != 0 && operation != FLUSH;
    if done_bytes < length || is_step || operation >= DRIVERS {
        return None;
    }
    let started_ns: u64 = at(request, field!(BLOCK_LAYOUT.request_start_time_ns)).filter(|time| *time != 0)?;
    let mut disk = pointer(request, field!(BLOCK_LAYOUT.request_disk))?;
    if field!(BLOCK_LAYOUT.queue_disk) != layout::NO_HOP {
        disk = pointer(disk, field!(BLOCK_LAYOUT.queue_disk))?;
    }
    let operation = match operation {
        FLUSH => operation::FLUSH,
        DISCARD => operation::DISCARD,
        // The lowest bit says which way data goes.
        _ => operation & 1,
    };
    let number: u64 = at(disk, field!(BLOCK_LAYOUT.disk_major))?;
    let key = key(number as u32, (number >> 32) as u32, operation);
    // SAFETY: no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(histogram) = histogram(key) else {
        count(&LOSSES, 0);
        return None;
    };
    // SAFETY: the map gave it.
    unsafe { record(histogram, now_ns.saturating_sub(started_ns)) };
    Some(())
}

#[inline(always)]
fn histogram(key: u64) -> Option<*mut Histogram> {
    if let Some(known) = HISTOGRAMS.get_ptr_mut(key) {
        return Some(known);
    }
    // Another CPU may have put one there meanwhile, which then stays.
    const NO_EXIST: u64 = 1;
    let _ = HISTOGRAMS.insert(key, EMPTY.get(0)?, NO_EXIST);
    HISTOGRAMS.get_ptr_mut(key)
}
