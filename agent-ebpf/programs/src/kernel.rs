//! What all kernel programs share: reading the kernel's memory at offsets known only at load time.
//!
//! Invariant: nothing here can fault or panic. A read of a bad address yields `None`, and the program gives up.
#![no_std]
#![feature(asm_experimental_arch)]

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_get_current_comm as get_current_comm, bpf_probe_read_kernel as probe_read_kernel,
};
pub use ollystack_ebpf::ring::wakeup;
use ollystack_ebpf::{COMMAND_BYTES, Ends, FAMILY_V4, FAMILY_V6, layout};

pub mod cgroup;
pub mod histogram;

/// Asks a ring how many bytes wait in it.
pub const AVAILABLE: u64 = 0;

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

/// Whether a socket is one of IPv4 or IPv6.
#[inline(always)]
pub fn is_internet(sock: u64, layout: &layout::Sock) -> bool {
    matches!(at(sock, layout.skc_family), Some(FAMILY_V4 | FAMILY_V6))
}

/// Write both ends of a socket where they belong: a program's stack is too small for copies. What cannot be read is zero.
///
/// # Safety
/// `into` must be room that a ring gave.
#[inline(always)]
pub unsafe fn write_ends(into: *mut Ends, sock: u64, layout: &layout::Sock) {
    let family: u16 = at(sock, layout.skc_family).unwrap_or(0);
    // SAFETY: as promised by the caller; the helper writes the given number of bytes or zeros.
    unsafe {
        into.write(Ends { local: [0; 16], remote: [0; 16], local_port: 0, remote_port: 0, family, reserved: 0 });
        let (local, remote) = (&raw mut (*into).local, &raw mut (*into).remote);
        if family == FAMILY_V4 {
            read(local.cast(), 4, sock, layout.skc_rcv_saddr);
            read(remote.cast(), 4, sock, layout.skc_daddr);
        } else if family == FAMILY_V6 {
            read(local.cast(), 16, sock, layout.skc_v6_rcv_saddr);
            read(remote.cast(), 16, sock, layout.skc_v6_daddr);
        }
        (&raw mut (*into).local_port).write(u16::from_be(at(sock, layout.inet_sport).unwrap_or(0)));
        (&raw mut (*into).remote_port).write(u16::from_be(at(sock, layout.skc_dport).unwrap_or(0)));
    }
}

/// # Safety
/// `into` must have room for `bytes`.
#[inline(always)]
unsafe fn read(into: *mut u8, bytes: u32, base: u64, offset: u32) {
    // SAFETY: as promised by the caller; the helper checks the address it reads.
    let _ = unsafe { probe_read_kernel(into.cast(), bytes, (base + u64::from(offset)) as *const _) };
}

/// Write the running thread's command name where it belongs.
///
/// # Safety
/// `into` must be room that a ring or map gave.
#[inline(always)]
pub unsafe fn write_command(into: *mut [u8; COMMAND_BYTES]) {
    // SAFETY: as promised by the caller.
    let _ = unsafe { get_current_comm(into.cast(), COMMAND_BYTES as u32) };
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
