//! HTTP/2 frames: how long one is, and how much of it says something.
//!
//! Nine bytes before each frame tell its length, so that what is in DATA can be stepped over. Shared like
//! [`crate::sniff`]: the kernel programs copy what is wanted, the agent reads it. Format: RFC 9113, sections 3.4, 4.1 and 6.
//! Invariant: fixed places only, nothing that may panic.

/// What a client sends first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Before each frame: 24 bits of length, type, flags, and 31 bits of stream.
pub const HEAD_BYTES: usize = 9;
/// Longest payload unless both sides agreed on more.
pub const PAYLOAD_BYTES_USUAL: u32 = 16 * 1024;

/// A body's bytes.
pub const DATA: u8 = 0;
/// Begins or ends a message of a stream.
pub const HEADERS: u8 = 1;
/// Obsolete.
pub const PRIORITY: u8 = 2;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Of the connection.
pub const SETTINGS: u8 = 4;
/// A request that the server makes up.
pub const PUSH_PROMISE: u8 = 5;
/// A heartbeat.
pub const PING: u8 = 6;
/// The last stream that will be answered.
pub const GOAWAY: u8 = 7;
/// Flow control.
pub const WINDOW_UPDATE: u8 = 8;
/// The rest of a block of fields.
pub const CONTINUATION: u8 = 9;

/// The sender's last frame of its stream (DATA, HEADERS).
pub const END_STREAM: u8 = 0x1;
/// The block of fields ends here (HEADERS, PUSH_PROMISE, CONTINUATION).
pub const END_HEADERS: u8 = 0x4;
/// A length and as much padding (DATA, HEADERS, PUSH_PROMISE).
pub const PADDED: u8 = 0x8;
/// Five bytes of priority come first (HEADERS).
pub const WITH_PRIORITY: u8 = 0x20;

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes behind the head.
    pub payload_bytes: u32,
    /// One of the types above, or one to be ignored.
    pub kind: u8,
    /// The flags above.
    pub flags: u8,
    /// Which stream; 0 is the connection.
    pub stream: u32,
}

/// The head of a frame.
#[inline(always)]
pub fn frame(head: &[u8; HEAD_BYTES]) -> Frame {
    Frame {
        payload_bytes: u32::from_be_bytes([0, head[0], head[1], head[2]]),
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7FFF_FFFF,
    }
}

impl Frame {
    /// Bytes of it that say something, from its head on: all of what bears fields or ends streams, of others the head.
    #[inline(always)]
    pub fn wanted_bytes(&self) -> u32 {
        match self.kind {
            HEADERS | CONTINUATION | PUSH_PROMISE | RST_STREAM | GOAWAY => self.bytes(),
            _ => HEAD_BYTES as u32,
        }
    }

    /// The whole, head included.
    #[inline(always)]
    pub fn bytes(&self) -> u32 {
        HEAD_BYTES as u32 + self.payload_bytes
    }

    /// Whether length and stream are as the type wants them. Unknown types pass, as they are to be ignored, in usual lengths.
    #[inline(always)]
    pub fn is_valid(&self) -> bool {
        let of_stream = self.stream != 0;
        match self.kind {
            DATA | HEADERS | PUSH_PROMISE | CONTINUATION => of_stream,
            PRIORITY => of_stream && self.payload_bytes == 5,
            RST_STREAM => of_stream && self.payload_bytes == 4,
            SETTINGS => !of_stream && self.payload_bytes.is_multiple_of(6),
            PING => !of_stream && self.payload_bytes == 8,
            GOAWAY => !of_stream && self.payload_bytes >= 8,
            WINDOW_UPDATE => self.payload_bytes == 4,
            _ => self.payload_bytes <= PAYLOAD_BYTES_USUAL,
        }
    }

    /// Whether it may be taken for a frame where nothing says that one begins: a known type, no flags but its own, and of the
    /// usual length.
    #[inline(always)]
    pub fn is_likely(&self) -> bool {
        let flags = match self.kind {
            DATA => END_STREAM | PADDED,
            HEADERS => END_STREAM | END_HEADERS | PADDED | WITH_PRIORITY,
            PUSH_PROMISE => END_HEADERS | PADDED,
            CONTINUATION => END_HEADERS,
            SETTINGS | PING => 1,
            PRIORITY | RST_STREAM | GOAWAY | WINDOW_UPDATE => 0,
            _ => return false,
        };
        self.is_valid() && self.flags & !flags == 0 && self.payload_bytes <= PAYLOAD_BYTES_USUAL
    }
}

/// Where one side of a connection stands in its frames, from call to call: in four bits how, in the others how far.
///
/// What comes next is passed over, or wanted, or the rest of a frame's head of which some bytes have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Walk(u32);

/// Bytes of what says nothing come first; if none, a frame begins.
const PASSED: u32 = 0;
/// From 1 to this: so many bytes of a head have come. Of less than four the bytes themselves are kept, else length and type.
const CUT_MAX: u32 = 8;
/// Bytes that matter come first.
const WANTED: u32 = 9;
/// It is not known where a frame begins: perhaps with the next call.
const LOST: u32 = 15;
const FAR: u32 = (1 << 28) - 1;

/// Payloads that are taken along, whatever they say: a record of what is behind them costs more.
pub const PAYLOAD_BYTES_TAKEN: u32 = 128;

impl Walk {
    /// From a socket's entry.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Walk {
        Walk(bits)
    }

    /// Into a socket's entry.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Calls were not looked at, or not to their end.
    #[inline(always)]
    pub const fn lost() -> Walk {
        Walk(LOST << 28)
    }

    const fn new(how: u32, far: u32) -> Walk {
        Walk(how << 28 | far & FAR)
    }

    const fn how(self) -> u32 {
        self.0 >> 28
    }

    /// Bytes before the next head.
    #[inline(always)]
    pub const fn ahead(self) -> u32 {
        match self.how() {
            PASSED | WANTED => self.0 & FAR,
            _ => 0,
        }
    }

    /// Whether those matter.
    #[inline(always)]
    pub const fn is_wanted(self) -> bool {
        self.how() == WANTED
    }

    /// Behind so many of the bytes [`Walk::ahead`].
    #[inline(always)]
    pub const fn behind(self, bytes: u32) -> Walk {
        let left = self.ahead().saturating_sub(bytes);
        if left == 0 { Walk(0) } else { Walk::new(self.how(), left) }
    }

    /// Behind bytes that cannot be looked at.
    #[inline(always)]
    pub const fn behind_unseen(self, bytes: u32) -> Walk {
        if self.how() == PASSED && self.ahead() >= bytes { self.behind(bytes) } else { Walk::lost() }
    }

    /// Bytes of the next head that are still to come.
    #[inline(always)]
    pub const fn head_bytes(self) -> u32 {
        match self.how() {
            cut @ 1..=CUT_MAX => HEAD_BYTES as u32 - cut,
            _ => HEAD_BYTES as u32,
        }
    }

    /// Behind the next head, or what of it a call has: the first `fresh` of `bytes`, at most [`Walk::head_bytes`]. If no frame
    /// begins so, the place is lost.
    #[inline(always)]
    pub fn behind_head(self, bytes: &[u8; HEAD_BYTES], fresh: u32) -> Walk {
        if fresh < HEAD_BYTES as u32 {
            return self.behind_part(bytes, fresh);
        }
        if bytes[0] == b'P' && bytes[1] == b'R' && bytes[2] == b'I' && bytes[3] == b' ' {
            return Walk::new(WANTED, (PREFACE.len() - HEAD_BYTES) as u32);
        }
        let frame = frame(bytes);
        let is_frame = if self.how() == LOST { frame.is_likely() } else { frame.is_valid() };
        if is_frame { Walk::of(frame.payload_bytes, frame.kind) } else { Walk::lost() }
    }

    const fn of(payload_bytes: u32, kind: u8) -> Walk {
        let bears = matches!(kind, HEADERS | CONTINUATION | PUSH_PROMISE | RST_STREAM | GOAWAY);
        match bears || payload_bytes <= PAYLOAD_BYTES_TAKEN {
            true if payload_bytes > 0 => Walk::new(WANTED, payload_bytes),
            _ => Walk::new(PASSED, payload_bytes),
        }
    }

    /// A head that one call begins and another ends.
    const fn behind_part(self, bytes: &[u8; HEAD_BYTES], fresh: u32) -> Walk {
        let cut = match self.how() {
            PASSED => 0,
            cut @ 1..=CUT_MAX => cut,
            _ => return Walk::lost(),
        };
        let (mut kept, mut told) = (self.0 & FAR, cut);
        if cut < 4 {
            let missing = if fresh < 4 - cut { fresh } else { 4 - cut };
            let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let word = (kept as u64) << (8 * missing) | (first as u64) >> (32 - 8 * missing);
            told = cut + missing;
            // Of the type as much as there is room for: all that are known.
            kept = if told == 4 { (word >> 8 << 4) as u32 | word as u32 & 0xF } else { word as u32 };
        }
        let came = cut + fresh;
        if came < HEAD_BYTES as u32 {
            return Walk::new(came, kept);
        }
        if told < 4 { Walk::lost() } else { Walk::of(kept >> 4, (kept & 0xF) as u8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn heads_are_read_and_fields_wanted_but_no_bodies() {
        let headers = frame(&[0, 1, 2, HEADERS, END_HEADERS, 0x80, 0, 0, 3]);
        assert_eq!(headers, Frame { payload_bytes: 258, kind: HEADERS, flags: END_HEADERS, stream: 3 });
        assert_eq!((headers.bytes(), headers.wanted_bytes()), (267, 267));
        assert_eq!(frame(&[0, 0x40, 0, DATA, 0, 0, 0, 0, 3]).wanted_bytes(), 9);
    }

    #[test]
    fn what_no_frame_begins_with_is_not_likely_one() {
        let table: [([u8; 9], bool, bool); 11] = [
            ([0, 0, 5, DATA, 1, 0, 0, 0, 1], true, true),
            ([0, 0, 5, DATA, 2, 0, 0, 0, 1], true, false),
            ([0, 0, 5, DATA, 1, 0, 0, 0, 0], false, false),
            ([1, 0, 0, DATA, 0, 0, 0, 0, 1], true, false),
            ([0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1], true, true),
            ([0, 0, 5, RST_STREAM, 0, 0, 0, 0, 1], false, false),
            ([0, 0, 12, SETTINGS, 0, 0, 0, 0, 0], true, true),
            ([0, 0, 13, SETTINGS, 0, 0, 0, 0, 0], false, false),
            ([0, 0, 8, PING, 1, 0, 0, 0, 0], true, true),
            ([0, 0, 8, 0x1F, 0, 0, 0, 0, 0], true, false),
            ([0xFF; 9], false, false),
        ];
        for (head, is_valid, is_likely) in table {
            let frame = frame(&head);
            assert_eq!((frame.is_valid(), frame.is_likely()), (is_valid, is_likely), "{frame:?}");
        }
    }

    /// What is wanted of a call.
    fn wanted(walk: &mut Walk, call: &[u8]) -> Vec<u8> {
        let (mut wanted, mut rest) = (Vec::new(), call);
        while !rest.is_empty() {
            let bytes = if walk.ahead() > 0 {
                let bytes = rest.len().min(walk.ahead() as usize);
                if walk.is_wanted() {
                    wanted.extend_from_slice(&rest[..bytes]);
                }
                *walk = walk.behind(bytes as u32);
                bytes
            } else {
                let bytes = rest.len().min(walk.head_bytes() as usize);
                let mut head = [0xEE; HEAD_BYTES];
                head[..bytes].copy_from_slice(&rest[..bytes]);
                *walk = walk.behind_head(&head, bytes as u32);
                wanted.extend_from_slice(&rest[..bytes]);
                if *walk == Walk::lost() {
                    return wanted;
                }
                bytes
            };
            rest = &rest[bytes..];
        }
        wanted
    }

    fn headers() -> Vec<u8> {
        [&[0, 0, 3, HEADERS, END_HEADERS, 0, 0, 0, 1][..], &[0x82, 0x86, 0x84]].concat()
    }

    fn data(bytes: u16) -> Vec<u8> {
        let [high, low] = bytes.to_be_bytes();
        [&[0, high, low, DATA, 0, 0, 0, 0, 1][..], &[7; 9_999][..bytes.into()]].concat()
    }

    #[test]
    fn of_calls_heads_of_bodies_and_all_of_fields_are_wanted_however_they_are_cut() {
        let stream = [&PREFACE[..], &headers(), &data(1_000), &headers(), &data(0), &data(128), &headers()].concat();
        let expected =
            [&PREFACE[..], &headers(), &data(1_000)[..9], &headers(), &data(0), &data(128), &headers()].concat();
        assert_eq!(wanted(&mut Walk::default(), &stream), expected);
        // The preface is never cut: all of it fits into a packet.
        for size in 1..200 {
            let mut walk = Walk::default();
            let mut seen = wanted(&mut walk, &stream[..24]);
            seen.extend(stream[24..].chunks(size).flat_map(|call| wanted(&mut walk, call)));
            assert_eq!(seen, expected, "in calls of {size}");
        }
    }

    #[test]
    fn a_lost_place_is_taken_up_where_a_call_begins_with_a_frame() {
        let mut walk = Walk::lost();
        assert_eq!(wanted(&mut walk, &data(1_000)[20..]), [7; 9]);
        assert_eq!(walk, Walk::lost());
        assert_eq!(wanted(&mut walk, &headers()[..5]).len(), 5);
        assert_eq!(walk, Walk::lost(), "a part of a head may be anything");
        assert_eq!((wanted(&mut walk, &headers()), walk), (headers(), Walk::default()));
        assert_eq!((wanted(&mut walk, &[0xFF; 12]).len(), walk), (9, Walk::lost()));
    }

    #[test]
    fn bytes_that_cannot_be_looked_at_are_passed_over_within_a_body_alone() {
        let mut walk = Walk::default();
        wanted(&mut walk, &data(1_000)[..9]);
        let behind = walk.behind_unseen(1_000);
        assert_eq!(behind, Walk::default());
        assert_eq!(walk.behind_unseen(1_001), Walk::lost());
        assert_eq!(Walk::default().behind_unseen(1), Walk::lost());
    }
}
