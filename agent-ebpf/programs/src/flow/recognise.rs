//! What a call's first bytes are of.

use crate::pieces::told;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_user as probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use ollystack_ebpf::sniff::{self, PREFIX_BYTES, Seen, sniff};

/// Room for what is looked at, by processor. Who is interrupted by another finds another's name in it.
#[repr(C)]
struct Scratch {
    thread: u64,
    seen: Seen,
    found: u8,
    /// So that what comes behind the prefix fits, as the verifier sees it.
    reserved: [u8; 2 * PREFIX_BYTES],
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// None, where a number of 32 bits may be.
pub(crate) const NOTHING: u64 = u64::MAX;

/// What the bytes at `buffer`, and in the piece told at `next` if they are few, are of; behind four others if those came `before`; and, below, the first four of them. [`NOTHING`] if they
/// cannot be read. All that decides goes through the map: else the verifier follows each way of recognising through all that comes after.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn recognise(buffer: u64, available: u64, before: u64, length: u32, next: u64) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return NOTHING };
    let thread = bpf_get_current_pid_tgid();
    let offset = if before == NOTHING { 0 } else { 4 };
    let room = PREFIX_BYTES as u64 - offset;
    let wanted = if available < room { available as u32 } else { room as u32 };
    // SAFETY: the map gave the address; `wanted` bytes fit behind `offset`, and the helper checks the user's address.
    unsafe {
        (&raw mut (*scratch).thread).write_volatile(thread);
        (*scratch).seen.bytes = [0; PREFIX_BYTES];
        let into = (&raw mut (*scratch).seen.bytes).cast::<u8>();
        if before != NOTHING {
            into.cast::<u32>().write(before as u32);
        }
        if probe_read_user(into.add(offset as usize).cast(), wanted, buffer as *const _) != 0 {
            return NOTHING;
        }
        // Some send a length, or a frame's head, in a piece of its own.
        let place = core::hint::black_box(offset as u32 + wanted);
        if next != 0
            && place < PREFIX_BYTES as u32
            && let Some([base, more]) = told(next)
        {
            let room = PREFIX_BYTES as u32 - place;
            let more = if more < u64::from(room) { more as u32 } else { room };
            // Older verifiers bound nothing by a value that they do not know: the mask stands last.
            let more = core::hint::black_box(more) & (2 * PREFIX_BYTES as u32 - 1);
            let into = (&raw mut (*scratch).seen.bytes).cast::<u8>().add((place & (PREFIX_BYTES as u32 - 1)) as usize);
            let _ = probe_read_user(into.cast(), more, base as *const _);
        }
        (*scratch).seen.length = length.wrapping_add(offset as u32);
        (&raw mut (*scratch).found).write_volatile(sniff(&(*scratch).seen));
        let first = into.cast::<u32>().read();
        let found = (&raw const (*scratch).found).read_volatile();
        let is_mine = (&raw const (*scratch).thread).read_volatile() == thread;
        u64::from(if is_mine { found } else { sniff::UNKNOWN }) << 32 | u64::from(first)
    }
}
