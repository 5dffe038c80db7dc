//! Where in the caller's memory the bytes are that a call moved.

use crate::calls::Shape;
use crate::{Call, Socket};
use aya_ebpf::helpers::bpf_probe_read_user;
use kernel::at;

/// A call's bytes, by their first piece and where the next is told, if there is one.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) base: u64,
    pub(crate) length: u64,
    pub(crate) next: u64,
}

/// The last four bytes of what a call moved; 0 if there are none to be had.
#[inline(always)]
pub(crate) fn last_bytes(buffer: u64, moved: u64) -> u32 {
    if moved < 4 {
        return 0;
    }
    // SAFETY: the helper checks the user's address.
    unsafe { bpf_probe_read_user((buffer + moved - 4) as *const u32) }.unwrap_or(0)
}

/// Where the data begins, and how much lies there in one piece; `None` where it is not in the caller's memory.
///
/// # Safety
/// `known` must be an address that the map gave.
#[inline(always)]
pub(crate) unsafe fn first_piece(call: &Call, known: *mut Socket, moved: u64) -> Option<Bytes> {
    if call.shape == Shape::Plain as u8 {
        return Some(Bytes { base: call.buffer, length: moved, next: 0 });
    }
    // SAFETY: as promised by the caller.
    let mut piece = unsafe { pieces(call, known) }?;
    for _ in 0..EMPTY_MAX {
        let [base, length] = told(piece)?;
        piece += 16;
        if length >= moved {
            return Some(Bytes { base, length: moved, next: 0 });
        }
        if length > 0 {
            return Some(Bytes { base, length, next: piece });
        }
    }
    None
}

/// Whether an address is the kernel's: those have their highest bit set.
#[inline(always)]
pub(crate) fn is_of_kernel(address: u64) -> bool {
    (address as i64) < 0
}

/// The piece that a list tells of at `address`, in the caller's memory or, where it has copied the list, the kernel's. The
/// piece itself is always the caller's.
#[inline(always)]
pub(crate) fn told(address: u64) -> Option<[u64; 2]> {
    if is_of_kernel(address) {
        return at(address, 0);
    }
    // SAFETY: the helper checks the user's address.
    unsafe { bpf_probe_read_user(address as *const [u64; 2]) }.ok()
}

/// Pieces that are looked at to find one that is not empty: Erlang's first often is.
const EMPTY_MAX: u32 = 4;

/// Where the list of pieces is.
///
/// # Safety
/// `known` must be an address that the map gave.
#[inline(always)]
unsafe fn pieces(call: &Call, known: *mut Socket) -> Option<u64> {
    if call.shape == Shape::Copied as u8 {
        return Some(call.buffer);
    }
    if call.shape == Shape::Pieces as u8 {
        return Some(call.buffer).filter(|list| !is_of_kernel(*list));
    }
    if call.shape != Shape::Message as u8 {
        return None;
    }
    let mut message = call.buffer;
    if call.messages > 1 {
        // A call that sends several messages is told of once for each, in their order.
        const MESSAGE_BYTES: u64 = 64; // `struct mmsghdr`
        // SAFETY: as promised by the caller; a datagram socket uses these two for nothing else.
        unsafe {
            let is_next = (*known).budget == message as u32 && (*known).carry + 1 < u32::from(call.messages);
            (*known).carry = if is_next { (*known).carry + 1 } else { 0 };
            (*known).budget = message as u32;
            message += u64::from((*known).carry) * MESSAGE_BYTES;
        }
    }
    // `struct msghdr` of user space: name, name length, then the array.
    // SAFETY: the helper checks the user's address.
    unsafe { bpf_probe_read_user((message + 16) as *const u64) }.ok().filter(|list| !is_of_kernel(*list))
}
