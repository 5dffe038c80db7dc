//! What all kernel programs share: reading the kernel's memory at offsets known only at load time.
//!
//! Invariant: nothing here can fault or panic. A read of a bad address yields `None`, and the program gives up.
#![no_std]

use aya_ebpf::helpers::bpf_probe_read_kernel;
use ollystack_ebpf::{Ends, FAMILY_V4, FAMILY_V6, layout};

/// Asks a ring how many bytes wait in it.
pub const AVAILABLE: u64 = 0;

/// The reader comes by itself every few milliseconds, and waking it costs many times what the record costs: so it is woken
/// only when a quarter of the ring waits for it.
#[inline(always)]
pub fn wakeup(waiting: u64, ring_bytes: u64) -> u64 {
    const NO_WAKEUP: u64 = 1;
    const FORCE_WAKEUP: u64 = 2;
    if waiting > ring_bytes / 4 { FORCE_WAKEUP } else { NO_WAKEUP }
}

/// TCP's states, as `inet_sock_set_state` gives them.
pub mod state {
    #![allow(missing_docs)] // the kernel's own names
    pub const ESTABLISHED: i32 = 1;
    pub const SYN_SENT: i32 = 2;
    pub const SYN_RECV: i32 = 3;
    pub const FIN_WAIT1: i32 = 4;
    pub const CLOSE: i32 = 7;
    pub const LAST_ACK: i32 = 9;
    pub const LISTEN: i32 = 10;
    pub const NEW_SYN_RECV: i32 = 12;
}

/// A field of a layout. Volatile, because the agent fills it in after compilation.
#[macro_export]
macro_rules! field {
    ($layout:ident . $($path:ident).+) => {
        // SAFETY: a static of integers, written before the program is loaded and read-only since.
        unsafe { ::core::ptr::read_volatile(&raw const $layout.$($path).+) }
    };
}

/// A value at an offset in a kernel structure.
#[inline(always)]
pub fn at<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address; a bad one is an error, not a fault.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// A pointer at an offset in a kernel structure; null is `None`.
#[inline(always)]
pub fn pointer(base: u64, offset: u32) -> Option<u64> {
    at::<u64>(base, offset).filter(|address| *address != 0)
}

/// Both ends of an IPv4 or IPv6 socket; `None` for any other family.
#[inline(always)]
pub fn ends(sock: u64, layout: &layout::Sock) -> Option<Ends> {
    let mut ends = Ends { family: at(sock, layout.skc_family)?, ..Ends::default() };
    match ends.family {
        FAMILY_V4 => {
            let local = at::<[u8; 4]>(sock, layout.skc_rcv_saddr)?;
            let remote = at::<[u8; 4]>(sock, layout.skc_daddr)?;
            [ends.local[0], ends.local[1], ends.local[2], ends.local[3]] = local;
            [ends.remote[0], ends.remote[1], ends.remote[2], ends.remote[3]] = remote;
        }
        FAMILY_V6 => {
            ends.local = at(sock, layout.skc_v6_rcv_saddr)?;
            ends.remote = at(sock, layout.skc_v6_daddr)?;
        }
        _ => return None,
    }
    ends.remote_port = u16::from_be(at(sock, layout.skc_dport)?);
    ends.local_port = u16::from_be(at(sock, layout.inet_sport)?);
    Some(ends)
}

/// Both ports in one word: changes when the kernel gives a socket's memory to another connection.
#[inline(always)]
pub fn port_pair(sock: u64, layout: &layout::Sock) -> Option<u32> {
    at(sock, layout.skc_dport)
}

/// Read the socket part of a layout.
#[macro_export]
macro_rules! sock_layout {
    ($layout:ident) => {
        ::ollystack_ebpf::layout::Sock {
            skc_family: $crate::field!($layout.sock.skc_family),
            skc_dport: $crate::field!($layout.sock.skc_dport),
            inet_sport: $crate::field!($layout.sock.inet_sport),
            skc_rcv_saddr: $crate::field!($layout.sock.skc_rcv_saddr),
            skc_daddr: $crate::field!($layout.sock.skc_daddr),
            skc_v6_rcv_saddr: $crate::field!($layout.sock.skc_v6_rcv_saddr),
            skc_v6_daddr: $crate::field!($layout.sock.skc_v6_daddr),
        }
    };
}

/// Count a record that did not fit.
#[inline(always)]
pub fn count(losses: &aya_ebpf::maps::PerCpuArray<u64>, reason: u32) {
    if let Some(counter) = losses.get_ptr_mut(reason) {
        // SAFETY: the map gave the address; a preempted increment may be lost by one, never torn.
        unsafe { *counter += 1 };
    }
}

/// What a program file needs besides its programs: the licence (several helpers are for GPL-compatible programs only)
/// and a panic handler that nothing reaches.
#[macro_export]
macro_rules! program_file {
    () => {
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        #[panic_handler]
        fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }
    };
}
