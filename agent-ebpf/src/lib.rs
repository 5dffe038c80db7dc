//! What the kernel programs and the agent say to each other: record types, and where the running kernel keeps its fields.
//!
//! The programs (`programs/`, BPF target) write records into ring buffers; the agent (`agent/inputs/ebpf`) reads them there.
//! Offsets of kernel structures go the other way: the agent finds them in the kernel's own BTF and writes them into the
//! programs' read-only data before loading, so that one object fits every kernel.
//!
//! Invariant: every type here is plain integers in C layout without padding, so both sides agree on every byte and any byte
//! pattern is a valid value.
#![no_std]
#![allow(unsafe_code)] // bytes become records here, and nowhere else: see `Plain`

#[cfg(test)]
extern crate std;

pub mod block;
pub mod cgroup;
pub mod flow;
pub mod histogram;
pub mod http2;
pub mod layout;
#[cfg(feature = "objects")]
pub mod objects;
pub mod oom;
pub mod process;
pub mod profile;
pub mod ring;
pub mod run_queue;
pub mod sniff;
pub mod tcp;

/// Plain integers in C layout without padding.
///
/// # Safety
/// Implement only for types that are `repr(C)`, hold nothing but integers and arrays of integers, and have no padding.
pub unsafe trait Plain: Copy {}

/// A record from the front of `bytes`; `None` if they are too few.
pub fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length was checked, `read_unaligned` needs no alignment, and `Plain` makes every bit pattern valid.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a record.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, so every byte is initialised; the slice borrows `value` and spans exactly it.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// Longest command name the kernel keeps, with its terminating zero.
pub const COMMAND_BYTES: usize = 16;

/// IPv4, as in `AF_INET`.
pub const FAMILY_V4: u16 = 2;
/// IPv6, as in `AF_INET6`.
pub const FAMILY_V6: u16 = 10;

/// Both ends of a connection, seen from this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Ends {
    /// Local address; an IPv4 address is in the first four bytes.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// Local port, host order.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u16,
    /// Zero.
    pub reserved: u16,
}

// SAFETY: repr(C), integers only, 40 bytes without padding (checked below).
unsafe impl Plain for Ends {}
const _: () = assert!(size_of::<Ends>() == 40);
