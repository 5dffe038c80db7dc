//! HTTP/1.x heads, as the kernel side recognises and copies them.

use crate::{COMMAND_BYTES, Ends, Plain};

/// A request head.
pub const REQUEST: u8 = 1;
/// A response head.
pub const RESPONSE: u8 = 2;
/// A connection that carried HTTP is gone.
pub const CLOSE: u8 = 3;

/// This host sent it.
pub const SENT: u8 = 0;
/// This host received it.
pub const RECEIVED: u8 = 1;

/// Bytes that tell the protocol: enough for any method with its space, and for `HTTP/1.1 200`.
pub const PREFIX_BYTES: usize = 16;
/// Payload of a [`Small`] record: with its metadata 256 bytes. Under pressure every head is cut to this.
pub const SMALL_BYTES: usize = 256 - size_of::<Meta>();
/// Payload of a [`Medium`] record: with its metadata 512 bytes. The most that is copied of a response.
pub const MEDIUM_BYTES: usize = 512 - size_of::<Meta>();
/// Payload of a [`Large`] record.
pub const LARGE_BYTES: usize = 1024;

/// What is known of every head. It goes out even when the ring has no room for the head itself, so that counts, status
/// classes and latencies stay true under pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// Monotonic: entry of the call that sent, exit of the call that received.
    pub time_ns: u64,
    /// The kernel's address of the socket: an identity while it lives.
    pub socket: u64,
    /// Process.
    pub process: u32,
    /// Thread.
    pub thread: u32,
    /// Counts the records of this socket from 1; a gap means that one was lost.
    pub sequence: u32,
    /// Bytes the call moved.
    pub length: u32,
    /// Bytes of the head that follow this struct.
    pub captured: u16,
    /// [`REQUEST`], [`RESPONSE`] or [`CLOSE`].
    pub kind: u8,
    /// [`SENT`] or [`RECEIVED`].
    pub direction: u8,
    /// Zero.
    pub reserved: u32,
    /// Both ends.
    pub ends: Ends,
    /// Command name of the thread.
    pub command: [u8; COMMAND_BYTES],
    /// The head's first bytes.
    pub prefix: [u8; PREFIX_BYTES],
}

/// Metadata and a short head.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Small {
    /// Always there.
    pub meta: Meta,
    /// `meta.captured` of these are valid.
    pub head: [u8; SMALL_BYTES],
}

/// Metadata and a head as most are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Medium {
    /// Always there.
    pub meta: Meta,
    /// `meta.captured` of these are valid.
    pub head: [u8; MEDIUM_BYTES],
}

/// Metadata and a head of up to 1 KiB.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Large {
    /// Always there.
    pub meta: Meta,
    /// `meta.captured` of these are valid.
    pub head: [u8; LARGE_BYTES],
}

// SAFETY: repr(C), integers only, no padding (checked below).
unsafe impl Plain for Meta {}

const _: () = assert!(size_of::<Meta>() == 112);
const _: () = assert!(size_of::<Small>() == 256);
const _: () = assert!(size_of::<Medium>() == 512);
const _: () = assert!(size_of::<Large>() == 1136);

/// Slots of the per-CPU loss counters.
pub mod loss {
    /// A request's record did not fit: one span is lost.
    pub const REQUEST: u32 = 0;
    /// A response's record did not fit.
    pub const RESPONSE: u32 = 1;
    /// A close did not fit: the agent forgets the connection by age instead.
    pub const CLOSE: u32 = 2;
    /// The ring was filling, so a head was cut short or left out; its metadata went out.
    pub const HEAD_CUT: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 4;
}
