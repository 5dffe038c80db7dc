//! Records of what is not copied in one go: bytes that lie in several pieces, more of them than one record holds, and of HTTP/2
//! what is wanted of its frames.
//!
//! A record is put together in room that each processor has, and goes into the ring in its own length. The functions are global
//! ones, so that the verifier looks at each by itself, and what they share is in that room, so that it does not follow values
//! from one to the other. Invariant: of a call no more is read than it moved.

use crate::pieces::{Bytes, told};
use crate::put::{Head, fill, lose};
use crate::{FLOW_LAYOUT, LOSSES, RECORDS, SOCKETS, Socket};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_probe_read_user as probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use core::hint::black_box;
use kernel::{AVAILABLE, count, field, wakeup};
use ollystack_ebpf::flow::{BARE_BYTES, DATA, ENCRYPTED, Gathered, LARGE_BYTES, Meta, SMALL_BYTES, loss};
use ollystack_ebpf::http2::{HEAD_BYTES, Walk};

/// Steps on the way through one call's frames, of which a body's frame needs one and others two; behind them the place is lost.
const STEPS_MAX: u32 = 128;
/// Pieces that what is copied in one go may lie in (gRPC sends each field as two), and those that what is passed over may.
const PIECES_COPIED_MAX: u32 = 48;
const PIECES_PASSED_MAX: u32 = 32;
/// Records that one call gets, where its bytes are wanted as they come.
pub(crate) const PARTS_MAX: u32 = 4;
const LARGE: u32 = LARGE_BYTES as u32;

/// What is read, and the record that is put together. Who is interrupted by another finds another's thread in it.
#[repr(C)]
struct Room {
    thread: u64,
    /// Where the next byte of the call is, and how many lie there.
    base: u64,
    rest: u64,
    /// Where the next piece is told (`struct iovec`).
    next: u64,
    /// Bytes of the call that were not read yet.
    left: u32,
    /// Place of the record in its side's stream, and the bytes it stands for; `filled` of them are there.
    start: u32,
    length: u32,
    filled: u32,
    /// Of HTTP/2, where the frames stand.
    walk: u32,
    /// Of the first record alone.
    carry: u32,
    flags: u32,
    tcp: [u32; 2],
    reserved: u32,
    record: Gathered,
}

#[map]
static ROOM: PerCpuArray<Room> = PerCpuArray::with_max_entries(1, 0);

/// Begin to read a call of `length` bytes from `position` on; flags, carry and TCP's numbers go with its first record.
#[inline(always)]
pub(crate) fn open(bytes: &Bytes, position: u32, length: u32, flags: u8, carry: u32, tcp: [u32; 2]) {
    let Some(room) = ROOM.get_ptr_mut(0) else { return };
    // SAFETY: the map gave the address.
    unsafe {
        (*room).thread = bpf_get_current_pid_tgid();
        (*room).base = bytes.base;
        (*room).rest = bytes.length;
        (*room).next = bytes.next;
        (*room).left = length;
        (*room).start = position;
        (*room).length = 0;
        (*room).filled = 0;
        (*room).carry = carry;
        (*room).flags = flags.into();
        (*room).tcp = tcp;
    }
}

/// Where the next bytes lie. 0 if there are none.
#[inline(always)]
unsafe fn turn(room: *mut Room) -> u64 {
    // SAFETY: as promised by the caller.
    unsafe {
        if (*room).rest == 0 && (*room).next != 0 {
            let Some([base, length]) = told((*room).next) else { return 0 };
            (*room).base = base;
            (*room).rest = length;
            (*room).next += 16;
        }
        (*room).rest
    }
}

/// Append the next `bytes` of the call to the record. Whether they were to be had.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_copy(bytes: u32) -> u32 {
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    let mut wanted = bytes;
    for _ in 0..PIECES_COPIED_MAX {
        if wanted == 0 {
            return 1;
        }
        // SAFETY: the map gave the address; the record has twice the room of `LARGE`, and neither place nor length is more
        // than that. They are made opaque, so that the bounds stay where the verifier looks for them.
        unsafe {
            let there = turn(room);
            let taken = if there < u64::from(wanted) { there as u32 } else { wanted };
            let taken = black_box(if taken < LARGE { taken } else { LARGE }) & (2 * LARGE - 1);
            let at = black_box((*room).filled) & (LARGE - 1);
            let into = (&raw mut (*room).record.head).cast::<u8>().add(at as usize);
            if taken > LARGE || probe_read_user(into.cast(), taken, (*room).base as *const _) != 0 {
                return 0;
            }
            (*room).base += u64::from(taken);
            (*room).rest -= u64::from(taken);
            (*room).filled += taken;
            (*room).length += taken;
            (*room).left -= taken;
            wanted -= taken;
        }
    }
    u32::from(wanted == 0)
}

/// Pass over the next `bytes` of the call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_pass(bytes: u32) -> u32 {
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    let mut wanted = u64::from(bytes);
    for _ in 0..PIECES_PASSED_MAX {
        if wanted == 0 {
            break;
        }
        // SAFETY: the map gave the address.
        unsafe {
            let there = turn(room);
            let passed = if there < wanted { there } else { wanted };
            (*room).base += passed;
            (*room).rest -= passed;
            wanted -= passed;
        }
    }
    if wanted > 0 {
        return 0;
    }
    // SAFETY: the map gave the address.
    unsafe {
        (*room).left -= bytes;
        if (*room).filled > 0 {
            (*room).length += bytes;
        } else {
            // Nothing tells of it.
            (*room).start = (*room).start.wrapping_add(bytes);
        }
    }
    1
}

/// Put the record that has been put together, and begin the next behind it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_flush(address: u64, time_ns: u64, direction: u32) -> u32 {
    let Some(known) = SOCKETS.get_ptr_mut(address) else { return 0 };
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    // SAFETY: the maps gave the addresses.
    unsafe {
        let mut head = Head::new(address, known, DATA, direction as u8, time_ns, (*room).length, (*room).start);
        (head.flags, head.carry, head.tcp) = ((*room).flags as u8, (*room).carry, (*room).tcp);
        let waiting = RECORDS.query(AVAILABLE);
        let ring = u64::from(field!(FLOW_LAYOUT.ring_bytes));
        let room_left = match waiting {
            _ if waiting > ring / 4 * 3 => BARE_BYTES as u32,
            _ if waiting > ring / 2 => SMALL_BYTES as u32,
            _ => LARGE,
        };
        let filled = (*room).filled;
        let captured = black_box(if filled < room_left { filled } else { room_left }) & (2 * LARGE - 1);
        fill(&raw mut (*room).record.meta, &head, captured as u16);
        let record = core::slice::from_raw_parts(
            (&raw const (*room).record).cast::<u8>(),
            size_of::<Meta>() + captured as usize,
        );
        let is_mine = (*room).thread == bpf_get_current_pid_tgid();
        if !is_mine || RECORDS.output::<[u8]>(record, wakeup(waiting, record.len(), ring)).is_err() {
            lose(&head);
        } else if captured < filled {
            count(&LOSSES, loss::HEAD_CUT);
        }
        (*room).start = (*room).start.wrapping_add((*room).length);
        (*room).length = 0;
        (*room).filled = 0;
        // The turn is the first record's, what the stream is is all records'.
        (*room).flags &= u32::from(ENCRYPTED);
        (*room).carry = 0;
        (*room).tcp = [0; 2];
    }
    1
}

/// The first `wanted` bytes of a call that was opened, in as many records as they need; the last stands for the rest of the call.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_parts(address: u64, time_ns: u64, direction: u32, wanted: u32) -> u32 {
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    let most = if RECORDS.query(AVAILABLE) > u64::from(field!(FLOW_LAYOUT.ring_bytes)) / 4 {
        LARGE
    } else {
        PARTS_MAX * LARGE
    };
    let mut wanted = if wanted < most { wanted } else { most };
    for _ in 0..PARTS_MAX {
        let bytes = if wanted < LARGE { wanted } else { LARGE };
        wanted -= bytes;
        if flow_copy(bytes) == 0 {
            wanted = 0;
        }
        if wanted == 0 {
            // SAFETY: the map gave the address.
            unsafe { (*room).length += (*room).left };
        }
        flow_flush(address, time_ns, direction);
        if wanted == 0 {
            break;
        }
    }
    1
}

/// Where one side of a connection of HTTP/2 stands: in those fields of the socket's entry that other protocols need.
///
/// # Safety
/// `known` must be an address that the map gave.
#[inline(always)]
pub(crate) unsafe fn walk_of(known: *mut Socket, direction: u8) -> *mut u32 {
    // SAFETY: as promised by the caller.
    unsafe { if direction == 0 { &raw mut (*known).budget } else { &raw mut (*known).carry } }
}

/// What is wanted of the frames of a call that was opened.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_frames(address: u64, time_ns: u64, direction: u32) -> u32 {
    let Some(known) = SOCKETS.get_ptr_mut(address) else { return 0 };
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    // SAFETY: the maps gave the addresses.
    unsafe {
        let place = walk_of(known, direction as u8);
        (*room).walk = *place;
        for _ in 0..STEPS_MAX {
            if flow_step(address, time_ns, direction) == 0 {
                break;
            }
        }
        let left = (&raw const (*room).left).read_volatile();
        if left > 0 {
            // No frame could be made out: the reader may find one.
            (&raw mut (*room).walk).write_volatile(Walk::lost().bits());
            let filled = (&raw const (*room).filled).read_volatile();
            let free = LARGE.saturating_sub(filled);
            if (*room).length == filled {
                flow_copy(if left < free { left } else { free });
            }
            (*room).length = (*room).length.wrapping_add((&raw const (*room).left).read_volatile());
        }
        if (&raw const (*room).filled).read_volatile() > 0 {
            flow_flush(address, time_ns, direction);
        }
        *place = (&raw const (*room).walk).read_volatile();
    }
    1
}

/// One step on the way through a call's frames: over what is passed, and then a head, or what is wanted behind one. 0 if it was the
/// last.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_step(address: u64, time_ns: u64, direction: u32) -> u32 {
    let Some(room) = ROOM.get_ptr_mut(0) else { return 0 };
    // SAFETY: the map gave the address.
    unsafe {
        let mut walk = Walk::from_bits((*room).walk);
        if walk.ahead() > 0 && !walk.is_wanted() {
            let left = (*room).left;
            let bytes = if walk.ahead() < left { walk.ahead() } else { left };
            walk = walk.behind(bytes);
            (*room).walk = walk.bits();
            if flow_pass(bytes) == 0 {
                return 0;
            }
        }
        let left = (&raw const (*room).left).read_volatile();
        if left == 0 {
            return 0;
        }
        let is_head = walk.ahead() == 0;
        let ahead = if is_head { walk.head_bytes() } else { walk.ahead() };
        let bytes = if ahead < left { ahead } else { left };
        let bytes = if bytes < LARGE { bytes } else { LARGE };
        let filled = (*room).filled;
        // Behind what was passed over, and where there is no more room, another record begins.
        if filled > 0 && ((*room).length != filled || filled + bytes > LARGE) {
            flow_flush(address, time_ns, direction);
        }
        let at = (&raw const (*room).filled).read_volatile();
        if flow_copy(bytes) == 0 {
            return 0;
        }
        let walk = if is_head {
            let head = (&raw const (*room).record.head).cast::<u8>().add(black_box(at) as usize & (LARGE_BYTES - 1));
            walk.behind_head(&head.cast::<[u8; HEAD_BYTES]>().read_unaligned(), bytes)
        } else {
            walk.behind(bytes)
        };
        (*room).walk = walk.bits();
        u32::from(walk != Walk::lost())
    }
}
