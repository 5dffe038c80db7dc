//! Records into the ring, in the size that fits the head and the room that is left.
//!
//! Invariant: a socket's next number is taken before there is room for the record, so that a lost one leaves a gap.

use crate::{HEADS, HTTP_LAYOUT, LOSSES, Socket};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_user as probe_read_user;
use kernel::{AVAILABLE, count, field, sock_layout, wakeup, write_command, write_ends};
use ollystack_ebpf::http::{
    LARGE_BYTES, Large, MEDIUM_BYTES, Medium, Meta, PREFIX_BYTES, REQUEST, RESPONSE, SMALL_BYTES, Small, loss,
};

/// A record's contents, before there is room for it.
pub(crate) struct Head<'a> {
    pub(crate) address: u64,
    pub(crate) kind: u8,
    pub(crate) direction: u8,
    pub(crate) time_ns: u64,
    pub(crate) length: u32,
    pub(crate) prefix: &'a [u8; PREFIX_BYTES],
}

/// The next number of a socket's records. It is taken before there is room for the record, so that a lost one leaves a gap.
#[inline(always)]
pub(crate) fn next(socket: *mut Socket) -> u32 {
    // SAFETY: the map gave the address; see `on_data` for eviction.
    unsafe {
        (*socket).sequence = (*socket).sequence.wrapping_add(1);
        (*socket).sequence
    }
}

/// Write metadata where it belongs: the stack has no room for a copy, nor for what several of these inlined would need.
///
/// # Safety
/// `meta` must be room that the ring gave.
#[inline(never)]
unsafe fn fill(meta: *mut Meta, head: &Head<'_>, sequence: u32, captured: u16) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: as promised by the caller.
    unsafe {
        (&raw mut (*meta).time_ns).write(head.time_ns);
        (&raw mut (*meta).socket).write(head.address);
        (&raw mut (*meta).process).write((thread >> 32) as u32);
        (&raw mut (*meta).thread).write(thread as u32);
        (&raw mut (*meta).sequence).write(sequence);
        (&raw mut (*meta).length).write(head.length);
        (&raw mut (*meta).captured).write(captured);
        (&raw mut (*meta).kind).write(head.kind);
        (&raw mut (*meta).direction).write(head.direction);
        (&raw mut (*meta).reserved).write(0);
        write_ends(&raw mut (*meta).ends, head.address, &sock_layout!(HTTP_LAYOUT));
        write_command(&raw mut (*meta).command);
        (&raw mut (*meta).prefix).write(*head.prefix);
    }
}

/// Put a record of one size: metadata, and as much of the head as fits.
macro_rules! put {
    ($record:ty, $bytes:expr, $head:ident, $sequence:ident, $buffer:ident, $wanted:ident, $flags:ident) => {{
        let Some(mut entry) = HEADS.reserve::<$record>(0) else { return lose($head.kind) };
        let record = entry.as_mut_ptr();
        let bytes = if $wanted < $bytes as u64 { $wanted as u32 } else { $bytes as u32 };
        // SAFETY: the ring gave room for one such record, and `bytes` is at most its head's size; `captured` tells the reader
        // how much of the head is valid.
        unsafe {
            let is_copied = probe_read_user((&raw mut (*record).head).cast(), bytes, $buffer as *const _) == 0;
            fill(&raw mut (*record).meta, $head, $sequence, if is_copied { bytes as u16 } else { 0 });
        }
        entry.submit($flags);
    }};
}

/// Under pressure first a shorter head, then none: the record itself still goes out.
#[inline(always)]
pub(crate) fn put_head(head: &Head<'_>, sequence: u32, buffer: u64, available: u64) {
    let waiting = HEADS.query(AVAILABLE);
    let ring = u64::from(field!(HTTP_LAYOUT.ring_bytes));
    let flags = wakeup(waiting, ring);
    let allowed = match head.kind {
        // Status and length come early.
        RESPONSE => MEDIUM_BYTES as u64,
        _ => u64::from(field!(HTTP_LAYOUT.head_bytes)),
    };
    let wanted = if available < allowed { available } else { allowed };
    if waiting > ring / 4 * 3 {
        if put_meta(head, sequence) {
            count(&LOSSES, loss::HEAD_CUT);
        }
    } else if wanted <= SMALL_BYTES as u64 {
        put!(Small, SMALL_BYTES, head, sequence, buffer, wanted, flags);
    } else if waiting > ring / 2 {
        put!(Small, SMALL_BYTES, head, sequence, buffer, wanted, flags);
        count(&LOSSES, loss::HEAD_CUT);
    } else if wanted <= MEDIUM_BYTES as u64 {
        put!(Medium, MEDIUM_BYTES, head, sequence, buffer, wanted, flags);
    } else {
        put!(Large, LARGE_BYTES, head, sequence, buffer, wanted, flags);
    }
}

/// Whether there was room.
#[inline(always)]
pub(crate) fn put_meta(head: &Head<'_>, sequence: u32) -> bool {
    let Some(mut entry) = HEADS.reserve::<Meta>(0) else {
        lose(head.kind);
        return false;
    };
    // SAFETY: the ring gave the room.
    unsafe { fill(entry.as_mut_ptr(), head, sequence, 0) };
    entry.submit(wakeup(HEADS.query(AVAILABLE), field!(HTTP_LAYOUT.ring_bytes).into()));
    true
}

#[inline(always)]
fn lose(kind: u8) {
    count(
        &LOSSES,
        match kind {
            REQUEST => loss::REQUEST,
            RESPONSE => loss::RESPONSE,
            _ => loss::CLOSE,
        },
    );
}
