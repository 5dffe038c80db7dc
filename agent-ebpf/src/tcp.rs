//! TCP connections, as the kernel side reports them.

use crate::{COMMAND_BYTES, Ends, Plain};

/// A connection this host opened is established.
pub const CONNECTED: u8 = 1;
/// A connection this host tried to open was not established.
pub const FAILED: u8 = 2;
/// A connection ended.
pub const CLOSED: u8 = 3;
/// A segment was sent again.
pub const RETRANSMITTED: u8 = 4;

/// Who opened the connection is not known: it is older than the programs.
pub const UNKNOWN: u8 = 0;
/// This host opened it.
pub const OUTBOUND: u8 = 1;
/// This host accepted it.
pub const INBOUND: u8 = 2;

/// One event of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Monotonic.
    pub time_ns: u64,
    /// Since the first sight of the connection; 0 when it was not seen to open.
    pub duration_ns: u64,
    /// Payload bytes sent, without retransmissions ([`CLOSED`]).
    pub bytes_sent: u64,
    /// Payload bytes received in order ([`CLOSED`]).
    pub bytes_received: u64,
    /// Owner; 0 when it is not known.
    pub process: u32,
    /// Smoothed round trip ([`CONNECTED`], [`CLOSED`]); 0 when there was none.
    pub round_trip_us: u32,
    /// `errno` of the socket ([`FAILED`], [`CLOSED`]).
    pub error: u16,
    /// One of the kinds above.
    pub kind: u8,
    /// [`UNKNOWN`], [`OUTBOUND`] or [`INBOUND`].
    pub direction: u8,
    /// Zero.
    pub reserved: u32,
    /// Both ends.
    pub ends: Ends,
    /// Command name of the owner; empty when it is not known.
    pub command: [u8; COMMAND_BYTES],
}

// SAFETY: repr(C), integers only, no padding (checked below).
unsafe impl Plain for Event {}
const _: () = assert!(size_of::<Event>() == 104);

/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 128 * 1024;

/// Slots of the per-CPU loss counters.
pub mod loss {
    /// An event did not fit.
    pub const EVENT: u32 = 0;
    /// How many there are.
    pub const COUNT: u32 = 1;
}
