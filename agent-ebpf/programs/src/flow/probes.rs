//! The functions of the kernel in which TCP and UDP send and receive, seen at their entry and their return.
//!
//! Whoever sends and receives comes through them: calls of every kind, and io_uring, whose payload is seen here alone. At entry
//! the message says where the bytes are; at return their number is known. Two ways lead in: `fentry` and `fexit`, which see every
//! return and cost little, and kprobes, of which the kernel can follow only so many returns at a time (twice its processors, and
//! ten at least): further ones it drops. Invariant: a return that was dropped is never made up for by another's.

use crate::calls::{MSG_PEEK, Shape};
use crate::{CALLS, Call, FLOW_LAYOUT, exit, is_given_up, keep};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use aya_ebpf::macros::{fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext};
use core::hint::black_box;
use kernel::{at, field};
use ollystack_ebpf::flow::{RECEIVED, SENT};

/// `tcp_sendmsg(sock, message, size)` and its twins of UDP.
#[kprobe]
pub fn probe_send(ctx: ProbeContext) -> u32 {
    begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), SENT, 0);
    0
}

/// `tcp_recvmsg(sock, message, length, flags, address length)` and its twins; up to Linux 5.18 another argument is before the flags.
#[kprobe]
pub fn probe_receive(ctx: ProbeContext) -> u32 {
    // Both are read: the verifier refuses to read one at a place that was chosen.
    let [third, fourth] = [3, 4].map(|argument| black_box(ctx.arg::<u64>(argument).unwrap_or(0)));
    let flags = if field!(FLOW_LAYOUT.iter.receive_flags) == 4 { fourth } else { third };
    begin(ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), RECEIVED, flags);
    0
}

/// The return of each of these.
#[kretprobe]
pub fn probe_return(ctx: RetProbeContext) -> u32 {
    // Not by `flow_return`: a function more, and the stack of all is too much for Linux 5.10.
    exit(ctx.ret::<i32>().into());
    0
}

/// A function by `fentry` and `fexit`: a program is bound to one as it is loaded. `$result` is the number of its arguments.
macro_rules! function {
    ($entry:ident, $return:ident, $direction:expr, $result:literal, $flags:expr) => {
        /// Its entry.
        #[fentry]
        pub fn $entry(ctx: FEntryContext) -> i32 {
            let flags: fn(&FEntryContext) -> u64 = $flags;
            // Read as memory, not as context: as that it has a type, and no function takes it for the number that keys are.
            let socket = at::<u64>(ctx.as_ptr() as u64, 0).unwrap_or(0);
            begin(socket, ctx.arg(1), $direction, flags(&ctx));
            0
        }

        /// Its return.
        #[fexit]
        pub fn $return(ctx: FExitContext) -> i32 {
            flow_return(i64::from(ctx.arg::<i32>($result)) as u64);
            0
        }
    };
}
function!(tcp_send, tcp_sent, SENT, 3, |_| 0);
function!(udp_send, udp_sent, SENT, 3, |_| 0);
function!(udp6_send, udp6_sent, SENT, 3, |_| 0);
function!(tcp_receive, tcp_received, RECEIVED, 5, |ctx| ctx.arg(3));
function!(udp_receive, udp_received, RECEIVED, 5, |ctx| ctx.arg(3));
function!(udp6_receive, udp6_received, RECEIVED, 5, |ctx| ctx.arg(3));

/// Bytes have moved: one copy of the core for all returns.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn flow_return(result: u64) -> u32 {
    exit(result as i64);
    0
}

#[inline(always)]
fn begin(socket: u64, message: u64, direction: u8, flags: u64) {
    /// What became of datagrams, instead of their bytes.
    const MSG_ERRQUEUE: u64 = 0x2000;
    let thread = bpf_get_current_pid_tgid();
    if let Some(entry) = CALLS.get_ptr_mut(thread) {
        // SAFETY: the map gave the address; see `keep` for eviction. What runs still has lost its return.
        unsafe { (*entry).is_running = 0 };
    }
    if flags & (MSG_PEEK | MSG_ERRQUEUE) != 0
        || (thread >> 32) as u32 == field!(FLOW_LAYOUT.agent)
        || is_given_up(socket, direction)
    {
        return;
    }
    let (buffer, shape) = place(message);
    // SAFETY: no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let shape = shape as u8;
    keep(thread, Call { socket, buffer, time_ns, shape, direction, messages: 1, is_running: 1, reserved: [0; 4] });
}

/// Where the bytes of a message are.
#[inline(always)]
fn place(message: u64) -> (u64, Shape) {
    let address = |offset| at::<u64>(message, offset).unwrap_or(0);
    let kind = at::<u32>(message, field!(FLOW_LAYOUT.iter.kind)).unwrap_or(0) & field!(FLOW_LAYOUT.iter.kind_mask);
    let done = address(field!(FLOW_LAYOUT.iter.iov_offset));
    if kind == field!(FLOW_LAYOUT.iter.ubuf) {
        (address(field!(FLOW_LAYOUT.iter.ubuf_address)).wrapping_add(done), Shape::Plain)
    } else if kind == field!(FLOW_LAYOUT.iter.iovec) && done == 0 {
        (address(field!(FLOW_LAYOUT.iter.iov)), Shape::Copied)
    } else {
        // Of a file, or of the kernel itself; or the rest of what was not taken whole, which is rare.
        (0, Shape::Unseen)
    }
}
