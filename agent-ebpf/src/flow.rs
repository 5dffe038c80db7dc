//! What calls moved over sockets whose protocol was recognised: metadata always, and the first bytes as far as they matter.

use crate::sniff::{self, PREFIX_BYTES};
use crate::{COMMAND_BYTES, Ends, Plain};

/// A call moved bytes.
pub const DATA: u8 = 1;
/// The connection is gone.
pub const CLOSE: u8 = 2;
/// A thread writes a whole line, to whatever it may be; of no connection. See [`LINE_HEAD_BYTES`].
pub const LINE: u8 = 3;
/// Calls on the connection were of no known protocol, so that it is looked at no more. Its last record.
pub const GIVEN_UP: u8 = 4;

/// This host sent it.
pub const SENT: u8 = 0;
/// This host received it.
pub const RECEIVED: u8 = 1;

/// This host asks on this connection.
pub const CLIENT: u8 = 0;
/// This host answers.
pub const SERVER: u8 = 1;

/// First call of its direction after one of the other, or of the connection.
pub const TURN: u8 = 1;
/// The four bytes before this call, which nobody else has told of, are in `carry`.
pub const CARRY: u8 = 2;
/// It is the plain text of something encrypted, as a TLS library took or gave it. Where its socket was not seen, the ends are zero.
pub const ENCRYPTED: u8 = 4;

/// Of what was given up: bytes had moved before it was looked at.
pub const MIDWAY: u8 = 8;

/// A bit that no thread's number has: it is a goroutine's.
pub const GOROUTINE: u32 = 1 << 31;

/// Payload of a [`Bare`] record: what goes out even when the ring has no room for more.
pub const BARE_BYTES: usize = PREFIX_BYTES;
/// Payload of a [`Small`] record: with its metadata 256 bytes. Under pressure everything is cut to this.
pub const SMALL_BYTES: usize = 256 - size_of::<Meta>();
/// Payload of a [`Medium`] record: with its metadata 512 bytes.
pub const MEDIUM_BYTES: usize = 512 - size_of::<Meta>();
/// Payload of a [`Large`] record, and the most that is copied of a call.
pub const LARGE_BYTES: usize = 1024;

/// What is shown of a line that does not fit into a [`Small`] record: so many bytes of its beginning, and the rest of the room from its
/// end. With its length (all of it, with the newline) it can then be told from others.
pub const LINE_HEAD_BYTES: usize = 96;
/// Lines, with the newline, that are too short to be told from others are not looked at, nor what is too long for a line.
pub const LINE_BYTES_MIN: u64 = 9;
/// See [`LINE_BYTES_MIN`].
pub const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Words of 64 bits, a bit for each of those processes whose lines are looked at: of all that share it.
pub const MARKS: u32 = 64;

/// The word and the bit of a process.
#[inline(always)]
pub const fn mark(process: u32) -> (u32, u64) {
    (process / 64 % MARKS, 1 << (process % 64))
}

/// What is known of every call that matters. It goes out even when the ring has no room for more than a prefix, so that
/// counts, status classes and latencies stay true under pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Meta {
    /// Monotonic: entry of the call that sent, exit of the call that received.
    pub time_ns: u64,
    /// The kernel's address of the socket, or a number that is no address for what is [`ENCRYPTED`]: an identity while it lives.
    pub socket: u64,
    /// Process.
    pub process: u32,
    /// Thread; or, with [`GOROUTINE`] set, the number of the goroutine for which it was, as far as it fits.
    pub thread: u32,
    /// Counts the records of this socket from 1; a gap means that one was lost.
    pub sequence: u32,
    /// Bytes the call moved.
    pub length: u32,
    /// Bytes that went in this direction before, wrapping around; calls without a record count.
    pub position: u32,
    /// Bytes that follow this struct.
    pub captured: u16,
    /// [`DATA`], [`CLOSE`], [`LINE`] or [`GIVEN_UP`].
    pub kind: u8,
    /// [`SENT`] or [`RECEIVED`].
    pub direction: u8,
    /// A number of [`sniff`].
    pub protocol: u8,
    /// [`CLIENT`] or [`SERVER`].
    pub role: u8,
    /// [`TURN`], [`CARRY`], [`ENCRYPTED`], [`MIDWAY`].
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// See [`CARRY`].
    pub carry: [u8; 4],
    /// Of a turn's first call over plain TCP: the sequence number of its first byte. Both ends of a connection have the same.
    pub tcp_sequence: u32,
    /// With it: the sequence number of the byte that the other direction goes on with. Both are 0 where they are not known.
    pub tcp_acknowledgment: u32,
    /// Both ends.
    pub ends: Ends,
    /// Command name of the thread.
    pub command: [u8; COMMAND_BYTES],
}

macro_rules! record {
    ($(#[$doc:meta])* $name:ident, $bytes:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name {
            /// Always there.
            pub meta: Meta,
            /// `meta.captured` of these are valid.
            pub head: [u8; $bytes],
        }
    };
}
record!(
    /// Metadata and what tells one protocol from another.
    Bare, BARE_BYTES
);
record!(
    /// Metadata and a short head.
    Small, SMALL_BYTES
);
record!(
    /// Metadata and a head as most are.
    Medium, MEDIUM_BYTES
);
record!(
    /// Metadata and a head of up to 1 KiB.
    Large, LARGE_BYTES
);
record!(
    /// A head that lay in several pieces. Twice the room, so that the verifier sees that the last piece fits.
    Gathered, 2 * LARGE_BYTES
);

// SAFETY: repr(C), integers only, no padding (checked below).
unsafe impl Plain for Meta {}

const _: () = assert!(size_of::<Meta>() == 112);
const _: () = assert!(size_of::<Bare>() == 144);
const _: () = assert!(size_of::<Small>() == 256);
const _: () = assert!(size_of::<Medium>() == 512);
const _: () = assert!(size_of::<Large>() == 1136);
const _: () = assert!(LINE_HEAD_BYTES < SMALL_BYTES);

/// Which calls of a protocol get a record, and how much of them is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Calls that begin with a head, and those that go on with one: bodies are not looked at.
    Heads,
    /// Requests and answers take turns: each call of the client, and the first bytes of an answer.
    Turns,
    /// Messages of both sides stand by themselves: each call.
    Calls,
    /// Frames of known length, of which [`crate::http2::Walk`] says what is wanted.
    Frames,
}

/// How a protocol is watched.
#[inline(always)]
pub const fn watch(protocol: u8) -> Watch {
    match protocol {
        sniff::HTTP1 => Watch::Heads,
        sniff::HTTP2 => Watch::Frames,
        sniff::POSTGRESQL | sniff::MYSQL | sniff::REDIS => Watch::Turns,
        _ => Watch::Calls,
    }
}

/// How many records a call may have: more than one where many messages go at once and each counts.
#[inline(always)]
pub const fn copies(protocol: u8) -> u32 {
    match protocol {
        sniff::REDIS | sniff::POSTGRESQL | sniff::MYSQL | sniff::NATS | sniff::AMQP => 4,
        _ => 1,
    }
}

/// Slots of the per-CPU loss counters.
pub mod loss {
    /// A record of the asking side did not fit: at least one span is lost.
    pub const REQUEST: u32 = 0;
    /// A record of the answering side did not fit.
    pub const RESPONSE: u32 = 1;
    /// A close did not fit: the agent forgets the connection by age instead.
    pub const CLOSE: u32 = 2;
    /// The ring was filling, so a head was cut short; its metadata went out.
    pub const HEAD_CUT: u32 = 3;
    /// The ring was filling, so a line was not told of.
    pub const LINE: u32 = 4;
    /// A connection that was given up did not fit.
    pub const GIVEN_UP: u32 = 5;
    /// How many there are.
    pub const COUNT: u32 = 6;
}
