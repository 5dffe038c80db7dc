//! Records into the ring, in the size that fits what is to be copied and the room that is left.
//!
//! Invariant: a socket's next number is taken before there is room for the record, so that a lost one leaves a gap.

use crate::{FLOW_LAYOUT, LOSSES, RECORDS, Socket, go};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_user as probe_read_user;
use core::hint::black_box;
use kernel::{AVAILABLE, count, field, wakeup, write_command};
use ollystack_ebpf::Ends;
use ollystack_ebpf::flow::{
    BARE_BYTES, Bare, CLOSE, GIVEN_UP, LARGE_BYTES, Large, MEDIUM_BYTES, Medium, Meta, RECEIVED, SERVER, SMALL_BYTES,
    Small, loss,
};

/// A record's contents, before there is room for it.
pub(crate) struct Head {
    address: u64,
    ends: *const Ends,
    time_ns: u64,
    sequence: u32,
    length: u32,
    position: u32,
    pub(crate) carry: u32,
    pub(crate) tcp: [u32; 2],
    kind: u8,
    direction: u8,
    protocol: u8,
    role: u8,
    pub(crate) flags: u8,
}

impl Head {
    /// The next record of a socket: it takes the socket's next number.
    ///
    /// # Safety
    /// `known` must be an address that the map gave.
    #[inline(always)]
    pub(crate) unsafe fn new(
        address: u64,
        known: *mut Socket,
        kind: u8,
        direction: u8,
        time_ns: u64,
        length: u32,
        position: u32,
    ) -> Head {
        // SAFETY: as promised by the caller; see `on_data` for eviction.
        let (sequence, protocol, role, ends) = unsafe {
            (*known).sequence = (*known).sequence.wrapping_add(1);
            ((*known).sequence, (*known).protocol, (*known).role, &raw const (*known).ends)
        };
        Head {
            address,
            ends,
            time_ns,
            sequence,
            length,
            position,
            carry: 0,
            tcp: [0; 2],
            kind,
            direction,
            protocol,
            role,
            flags: 0,
        }
    }
}

/// Write metadata where it belongs: the stack has no room for a copy, nor for what several of these inlined would need.
///
/// # Safety
/// `meta` must be room that the ring gave.
#[inline(never)]
pub(crate) unsafe fn fill(meta: *mut Meta, head: &Head, captured: u16) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: as promised by the caller.
    unsafe {
        (&raw mut (*meta).time_ns).write(head.time_ns);
        (&raw mut (*meta).socket).write(head.address);
        (&raw mut (*meta).process).write((thread >> 32) as u32);
        (&raw mut (*meta).thread).write(go::go_runs(thread as u32));
        (&raw mut (*meta).sequence).write(head.sequence);
        (&raw mut (*meta).length).write(head.length);
        (&raw mut (*meta).position).write(head.position);
        (&raw mut (*meta).captured).write(captured);
        (&raw mut (*meta).kind).write(head.kind);
        (&raw mut (*meta).direction).write(head.direction);
        (&raw mut (*meta).protocol).write(head.protocol);
        (&raw mut (*meta).role).write(head.role);
        (&raw mut (*meta).flags).write(head.flags);
        (&raw mut (*meta).reserved).write(0);
        (&raw mut (*meta).carry).cast::<u32>().write(head.carry);
        (&raw mut (*meta).tcp_sequence).write(head.tcp[0]);
        (&raw mut (*meta).tcp_acknowledgment).write(head.tcp[1]);
        (&raw mut (*meta).ends).copy_from_nonoverlapping(head.ends, 1);
        write_command(&raw mut (*meta).command);
    }
}

/// Put a record of one size: metadata, and as much of the data as fits.
macro_rules! put {
    ($record:ty, $bytes:expr, $head:ident, $buffer:ident, $wanted:ident, $waiting:ident, $ring:ident) => {{
        let Some(mut entry) = RECORDS.reserve::<$record>(0) else {
            lose($head);
            return 0;
        };
        let record = entry.as_mut_ptr();
        // Opaque, and checked again where it is used: old verifiers forget the bounds of what lay on the stack meanwhile.
        let bytes = black_box(if $wanted < $bytes as u64 { $wanted as u32 } else { $bytes as u32 });
        if bytes > $bytes as u32 {
            entry.discard(0);
            return 0;
        }
        // SAFETY: the ring gave room for one such record, and `bytes` is at most its head's size; `captured` tells the reader
        // how much of the head is valid.
        unsafe {
            let is_copied = probe_read_user((&raw mut (*record).head).cast(), bytes, $buffer as *const _) == 0;
            fill(&raw mut (*record).meta, $head, if is_copied { bytes as u16 } else { 0 });
            let head = (&raw const (*record).head).cast::<u8>();
            let first = head.cast::<u32>().read_unaligned();
            // Checked behind the opaque value: so the verifier sees the bound of what is added.
            let end = black_box(bytes.wrapping_sub(4));
            let last = if end <= $bytes as u32 - 4 && $wanted <= $bytes as u64 {
                head.add(end as usize).cast::<u32>().read_unaligned()
            } else {
                0
            };
            entry.submit(wakeup($waiting, size_of::<$record>(), $ring));
            u64::from(last) << 32 | u64::from(first)
        }
    }};
}

/// Put a record with the first `in_one` bytes at `buffer`. Under pressure a shorter one. The first four of them, or what stood there
/// before if there are fewer, and above them the last four; 0 each if it is not known.
#[inline(never)]
pub(crate) fn put(head: &Head, buffer: u64, in_one: u64) -> u64 {
    let waiting = RECORDS.query(AVAILABLE);
    let ring = u64::from(field!(FLOW_LAYOUT.ring_bytes));
    if waiting > ring / 4 * 3 {
        if put_bare(head, buffer, in_one) && in_one > BARE_BYTES as u64 {
            count(&LOSSES, loss::HEAD_CUT);
        }
        0
    } else if waiting > ring / 2 {
        if in_one > SMALL_BYTES as u64 {
            count(&LOSSES, loss::HEAD_CUT);
        }
        put!(Small, SMALL_BYTES, head, buffer, in_one, waiting, ring)
    } else if in_one <= SMALL_BYTES as u64 {
        put!(Small, SMALL_BYTES, head, buffer, in_one, waiting, ring)
    } else if in_one <= MEDIUM_BYTES as u64 {
        put!(Medium, MEDIUM_BYTES, head, buffer, in_one, waiting, ring)
    } else {
        put!(Large, LARGE_BYTES, head, buffer, in_one, waiting, ring)
    }
}

/// Put the least that tells of a call. Whether there was room.
#[inline(always)]
pub(crate) fn put_bare(head: &Head, buffer: u64, available: u64) -> bool {
    let waiting = RECORDS.query(AVAILABLE);
    let Some(mut entry) = RECORDS.reserve::<Bare>(0) else {
        lose(head);
        return false;
    };
    let record = entry.as_mut_ptr();
    let bytes = if available < BARE_BYTES as u64 { available as u32 } else { BARE_BYTES as u32 };
    // SAFETY: the ring gave the room, and `bytes` is at most what it has.
    unsafe {
        let is_copied = bytes > 0 && probe_read_user((&raw mut (*record).head).cast(), bytes, buffer as *const _) == 0;
        fill(&raw mut (*record).meta, head, if is_copied { bytes as u16 } else { 0 });
    }
    entry.submit(wakeup(waiting, size_of::<Bare>(), field!(FLOW_LAYOUT.ring_bytes).into()));
    true
}

#[inline(always)]
pub(crate) fn lose(head: &Head) {
    let is_request = (head.direction == RECEIVED) == (head.role == SERVER);
    count(
        &LOSSES,
        match head.kind {
            CLOSE => loss::CLOSE,
            GIVEN_UP => loss::GIVEN_UP,
            _ if is_request => loss::REQUEST,
            _ => loss::RESPONSE,
        },
    );
}
