//! The system calls that move bytes over sockets: their numbers and where their arguments are, by architecture.

use kernel::at;
use ollystack_ebpf::http::{RECEIVED, SENT};

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
}

/// A call's arguments, as far as they matter.
pub(crate) struct Arguments {
    pub(crate) descriptor: u32,
    pub(crate) buffer: u64,
    pub(crate) shape: Shape,
    pub(crate) direction: u8,
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
}

/// Offsets of the first four arguments in `struct pt_regs`.
#[cfg(bpf_target_arch = "x86_64")]
const REGISTERS: [u32; 4] = [112, 104, 96, 56]; // di, si, dx, r10
#[cfg(bpf_target_arch = "aarch64")]
const REGISTERS: [u32; 4] = [0, 8, 16, 24]; // x0 to x3

/// Looks at the data without taking it: the same bytes come again.
const MSG_PEEK: u64 = 2;

/// Whether a call is one of those.
#[inline(always)]
pub(crate) fn is_traced(call: u32) -> bool {
    use number::*;
    matches!(call, READ | WRITE | READV | WRITEV | SENDTO | RECVFROM | SENDMSG | RECVMSG)
}

/// From the registers at entry.
#[inline(always)]
pub(crate) fn from_registers(call: u32, registers: u64) -> Option<Arguments> {
    let first = at(registers, REGISTERS[0])?;
    let second = at(registers, REGISTERS[1])?;
    let third = at(registers, REGISTERS[2])?;
    Arguments::new(call, first, second, third, || at(registers, REGISTERS[3]).unwrap_or(0))
}

impl Arguments {
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
        Some(Arguments { descriptor: first as u32, buffer: second, shape, direction })
    }
}
