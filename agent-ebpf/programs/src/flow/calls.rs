//! The system calls that move bytes over sockets: their numbers and where their arguments are, by architecture.

use kernel::at;
use ollystack_ebpf::flow::{RECEIVED, SENT};

/// How a call names its buffer.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Shape {
    /// A pointer to bytes.
    Plain = 0,
    /// An array of pieces (`struct iovec`).
    Pieces = 1,
    /// A `struct msghdr`.
    Message = 2,
    /// Not at all: the bytes come from elsewhere.
    Unseen = 3,
    /// An array of pieces as [`Shape::Pieces`], which the kernel has copied for itself.
    Copied = 4,
}

/// A call's arguments, as far as they matter.
pub(crate) struct Arguments {
    pub(crate) descriptor: u32,
    pub(crate) buffer: u64,
    pub(crate) shape: Shape,
    pub(crate) direction: u8,
    /// Messages of the call, where it may have several; else 1.
    pub(crate) messages: u8,
}

#[cfg(bpf_target_arch = "x86_64")]
mod number {
    pub(super) const READ: u32 = 0;
    pub(super) const WRITE: u32 = 1;
    pub(super) const READV: u32 = 19;
    pub(super) const WRITEV: u32 = 20;
    pub(super) const SENDTO: u32 = 44;
    pub(super) const RECVFROM: u32 = 45;
    pub(super) const SENDMSG: u32 = 46;
    pub(super) const RECVMSG: u32 = 47;
    pub(super) const SENDMMSG: u32 = 307;
}

#[cfg(bpf_target_arch = "aarch64")]
mod number {
    pub(super) const READ: u32 = 63;
    pub(super) const WRITE: u32 = 64;
    pub(super) const READV: u32 = 65;
    pub(super) const WRITEV: u32 = 66;
    pub(super) const SENDTO: u32 = 206;
    pub(super) const RECVFROM: u32 = 207;
    pub(super) const SENDMSG: u32 = 211;
    pub(super) const RECVMSG: u32 = 212;
    pub(super) const SENDMMSG: u32 = 269;
}

/// The calls that write to whatever there is, and how each names its buffer; `None` for others.
#[inline(always)]
pub(crate) fn writes(call: u32) -> Option<Shape> {
    match call {
        number::WRITE => Some(Shape::Plain),
        number::WRITEV => Some(Shape::Pieces),
        _ => None,
    }
}

/// The running call, from `struct pt_regs`: its number, then its first three arguments. They are in place from a call's
/// entry until its result replaces one of them.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn call(registers: u64) -> Option<(u32, [u64; 3])> {
    let [dx, si, di, number] = at::<[u64; 4]>(registers, 96)?;
    Some((number as u32, [di, si, dx]))
}
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn call(registers: u64) -> Option<(u32, [u64; 3])> {
    // syscallno is behind x30, sp, pc, pstate and orig_x0
    Some((at(registers, 280)?, at(registers, 0)?))
}

/// The register of the fourth argument.
const FOURTH: u32 = if cfg!(bpf_target_arch = "x86_64") { 56 } else { 24 }; // r10, x3

/// Looks at the data without taking it: the same bytes come again.
pub(crate) const MSG_PEEK: u64 = 2;

/// Whether a call is one of those.
#[inline(always)]
pub(crate) fn is_traced(call: u32) -> bool {
    use number::*;
    matches!(call, READ | WRITE | READV | WRITEV | SENDTO | RECVFROM | SENDMSG | RECVMSG)
}

/// The running call; `None` if it is none of those.
#[inline(always)]
pub(crate) fn running(registers: u64) -> Option<Arguments> {
    let (number, [first, second, third]) = call(registers)?;
    Arguments::new(number, first, second, third, || at(registers, FOURTH).unwrap_or(0))
}

/// As [`running`], by registers that the verifier knows to be some. [`Arguments::NONE`] as well on the way out of a call, where io_uring
/// does what it had to wait for: the registers then tell of something else.
///
/// # Safety
/// `registers` must be what `bpf_task_pt_regs` gave.
#[inline(always)]
pub(crate) unsafe fn running_typed(registers: *const u64) -> Arguments {
    // A number has 32 bits of its own on one of the two.
    let (number, [first, second, third]) =
        if cfg!(bpf_target_arch = "x86_64") { (120, [112, 104, 96]) } else { (280, [0, 8, 16]) };
    // SAFETY: as promised by the caller.
    let word = |offset: usize| unsafe { registers.byte_add(offset).read_volatile() };
    // Until a call has its result, the result's place has what it had at entry: ENOSYS, or the first argument, which is kept twice.
    const NOT_YET: u64 = -38_i64 as u64;
    const NONE: u32 = u32::MAX;
    let is_over = if cfg!(bpf_target_arch = "x86_64") { word(80) != NOT_YET } else { word(0) != word(272) };
    // SAFETY: as above.
    let number = if is_over { NONE } else { unsafe { registers.byte_add(number).cast::<u32>().read_volatile() } };
    Arguments::new(number, word(first), word(second), word(third), || word(FOURTH as usize)).unwrap_or(Arguments::NONE)
}

impl Arguments {
    /// Of a call that moves nothing, in place of `None`: the compiler lets what is not there undefined, and may read it.
    const NONE: Arguments =
        Arguments { descriptor: 0, buffer: 0, shape: Shape::Unseen, direction: u8::MAX, messages: 0 };

    /// `None` for other calls and for peeking.
    #[inline(always)]
    pub(crate) fn new(
        call: u32,
        first: u64,
        second: u64,
        third: u64,
        fourth: impl FnOnce() -> u64,
    ) -> Option<Arguments> {
        use number::*;
        let (shape, direction, flags) = match call {
            // A resolver asks for both kinds of address in one call.
            SENDMMSG => (Shape::Message, SENT, 0),
            READ => (Shape::Plain, RECEIVED, 0),
            WRITE | SENDTO => (Shape::Plain, SENT, 0),
            READV => (Shape::Pieces, RECEIVED, 0),
            WRITEV => (Shape::Pieces, SENT, 0),
            RECVFROM => (Shape::Plain, RECEIVED, fourth()),
            SENDMSG => (Shape::Message, SENT, 0),
            RECVMSG => (Shape::Message, RECEIVED, third),
            _ => return None,
        };
        if flags & MSG_PEEK != 0 {
            return None;
        }
        let messages = if call != SENDMMSG || third < 1 {
            1
        } else if third < 255 {
            third as u8
        } else {
            255
        };
        Some(Arguments { descriptor: first as u32, buffer: second, shape, direction, messages })
    }
}
