//! Which request on one host is which on another, told by nobody: both ends of a connection have the same two numbers of it.
//!
//! In: a turn's sequence numbers by TCP: of the request's first byte, and of the byte with which the answers go on. They pass
//! through address translation, and where requests and answers take turns both ends have the same (proxies that end a
//! connection begin another). Out: the identifiers that both ends give the request without a word between them. The numbers
//! begin at random with each connection (RFC 6528), so that 64 bits tell requests apart. Where the ends see them
//! differently (a request sent before the answer was read, bytes left unread) there is no joint, never a wrong one.
//! Format: both ends must make the same of the same numbers, in every version.

use ollystack_ebpf::flow::{CARRY, Meta, SENT};
use ollystack_protocols::Moment;

/// A request of which both ends know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joint {
    /// When its first byte moved here.
    pub(super) asked: Moment,
    numbers: u64,
}

impl Joint {
    /// Of a client's turn; `None` if its numbers are not known.
    pub(super) fn of(meta: &Meta) -> Option<Joint> {
        let (sequence, acknowledgment) = (meta.tcp_sequence, meta.tcp_acknowledgment);
        if sequence == 0 && acknowledgment == 0 {
            return None;
        }
        // Some read a request's first four bytes apart.
        let before = if meta.flags & CARRY != 0 && meta.direction != SENT { 4 } else { 0 };
        let numbers = u64::from(sequence.wrapping_sub(before)) << 32 | u64::from(acknowledgment);
        Some(Joint { asked: Moment { time_ns: meta.time_ns, thread: meta.thread }, numbers })
    }

    /// The trace of both spans.
    pub(super) fn trace(&self) -> [u8; 16] {
        let mut trace = [0; 16];
        trace[..8].copy_from_slice(&self.mix(1));
        trace[8..].copy_from_slice(&self.mix(2));
        trace
    }

    /// The span of who asks.
    pub(super) fn client(&self) -> [u8; 8] {
        self.mix(3)
    }

    /// The span of who answers.
    pub(super) fn server(&self) -> [u8; 8] {
        self.mix(4)
    }

    /// SplitMix64 (Steele, Lea, Flood, 2014), the `turn`th number from the joint's: one to one, and never zero.
    fn mix(&self, turn: u64) -> [u8; 8] {
        let mut mixed = self.numbers.wrapping_add(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        mixed.max(1).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::flow::RECEIVED;

    fn meta(direction: u8, tcp_sequence: u32, tcp_acknowledgment: u32) -> Meta {
        Meta { direction, tcp_sequence, tcp_acknowledgment, ..Meta::default() }
    }

    #[test]
    fn both_ends_make_the_same_of_the_same_numbers_and_each_has_a_span_of_its_own() {
        let (sent, received) =
            (Joint::of(&meta(SENT, 7, 9)).unwrap(), Joint::of(&Meta { time_ns: 5, ..meta(RECEIVED, 7, 9) }).unwrap());
        assert_eq!(
            (sent.trace(), sent.client(), sent.server()),
            (received.trace(), received.client(), received.server())
        );
        assert_ne!(sent.client(), sent.server());
        // The format: whoever changes it parts the hosts of two versions.
        assert_eq!(u128::from_be_bytes(sent.trace()), 99_194_350_774_950_796_440_104_142_054_109_591_857);
    }

    #[test]
    fn other_numbers_are_another_request() {
        let trace = |sequence, acknowledgment| Joint::of(&meta(SENT, sequence, acknowledgment)).map(|it| it.trace());
        let traces = [trace(7, 9), trace(9, 7), trace(8, 9), trace(7, 10), trace(7, 0), trace(0, 7)];
        for (at, one) in traces.iter().enumerate() {
            assert!(one.is_some() && !traces[..at].contains(one));
        }
        assert_eq!(trace(0, 0), None, "not known");
    }

    #[test]
    fn four_bytes_that_were_read_apart_are_the_request_s_first() {
        let apart = Meta { flags: CARRY, ..meta(RECEIVED, 11, 9) };
        assert_eq!(Joint::of(&apart).unwrap().trace(), Joint::of(&meta(SENT, 7, 9)).unwrap().trace());
    }
}
