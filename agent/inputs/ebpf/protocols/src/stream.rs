//! One side's bytes, as far as they were copied, cut into messages of known length.
//!
//! Every chunk says where in its side's stream it stands and how many bytes the call moved, so that a message whose end was
//! not copied, or whose later calls did not come at all, can be stepped over by its length. Where the next message begins is
//! lost when its length was not copied, or calls are missing; it is found again at the next turn, where most protocols begin
//! a message. Invariant: at most [`CARRY_BYTES_MAX`] bytes are kept between two chunks.

use crate::{Chunk, Moment};

/// The start of a message of which more is to come. Longer ones are handed out as they are.
pub const CARRY_BYTES_MAX: usize = 4 * 1024;

/// What a message's first bytes say of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// So many bytes in all, at least one; so many of the first are wanted in one piece, if they are to be had.
    Whole {
        /// Bytes of the message.
        length: u32,
        /// Bytes of it that matter, from its start.
        wanted: u32,
    },
    /// More bytes are needed to say. If there are none to be had, what is there is handed out as it is, and the place is lost.
    More,
    /// No message begins so.
    Invalid,
}

/// A message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its first bytes, as many as were copied or wanted.
    pub bytes: &'a [u8],
    /// Its whole length.
    pub length: u32,
    /// When its first byte moved.
    pub began: Moment,
    /// When the chunk came that completed what is here.
    pub at: Moment,
}

/// One side of a connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// Position at which the next message begins, once known.
    next: Option<u32>,
    /// The start of that message, if its bytes came in several chunks, and when its first came.
    carry: Vec<u8>,
    began: Moment,
}

impl Stream {
    /// Forget the place: after a gap.
    pub fn lose(&mut self) {
        self.next = None;
        self.carry.clear();
    }

    /// The start of a message that will not be completed: the other side has answered it.
    pub fn give_up(&mut self) -> Option<(Vec<u8>, Moment)> {
        if self.carry.is_empty() {
            return None;
        }
        self.next = None;
        Some((std::mem::take(&mut self.carry), self.began))
    }

    /// Whether it is known where the next message begins.
    pub fn is_in_step(&self) -> bool {
        self.next.is_some()
    }

    /// Bytes that it keeps.
    pub fn held_bytes(&self) -> usize {
        self.carry.len()
    }

    /// Whether this chunk goes on where its side was, so that no message was missed between.
    pub fn continues(&self, chunk: &Chunk<'_>) -> bool {
        let Some(next) = self.next else { return false };
        match next.wrapping_add(self.carry.len() as u32).wrapping_sub(chunk.position).cast_signed() {
            0 => true,
            ahead => ahead > 0 && self.carry.is_empty(),
        }
    }

    /// The messages that become known with this chunk, in order.
    pub fn walk(&mut self, chunk: &Chunk<'_>, measure: impl Fn(&[u8]) -> Measure, each: impl FnMut(Message<'_>)) {
        let copied = &chunk.bytes[..chunk.bytes.len().min(chunk.length as usize)];
        // How far ahead of this chunk it is that this side was to go on: negative when calls are missing.
        let expected = self.next.map(|next| next.wrapping_add(self.carry.len() as u32));
        let ahead = expected.map(|expected| expected.wrapping_sub(chunk.position).cast_signed());
        match ahead {
            Some(0) if !self.carry.is_empty() => {
                let mut joined = std::mem::take(&mut self.carry);
                joined.extend_from_slice(copied);
                self.cut(&joined, self.began, chunk, measure, each);
            }
            Some(0) => self.cut(copied, chunk.at, chunk, measure, each),
            Some(ahead) if ahead > 0 && self.carry.is_empty() => {
                // The message before goes on here.
                let ahead = ahead.cast_unsigned();
                match copied.get(ahead as usize..) {
                    _ if ahead >= chunk.length => {}
                    Some(rest) if !rest.is_empty() => self.cut(rest, chunk.at, chunk, measure, each),
                    _ => self.lose(),
                }
            }
            _ if chunk.is_turn => {
                self.carry.clear();
                self.next = Some(chunk.position);
                self.cut(copied, chunk.at, chunk, measure, each);
            }
            _ => self.lose(),
        }
    }

    /// Cut `rest`, which begins at `next`.
    fn cut(
        &mut self,
        mut rest: &[u8],
        mut began: Moment,
        chunk: &Chunk<'_>,
        measure: impl Fn(&[u8]) -> Measure,
        mut each: impl FnMut(Message<'_>),
    ) {
        // Whether more is to come right behind what was copied.
        let is_whole = chunk.bytes.len() >= chunk.length as usize;
        while let Some(next) = self.next.filter(|_| !rest.is_empty()) {
            let may_wait = is_whole && rest.len() < CARRY_BYTES_MAX;
            let (length, wanted) = match measure(rest) {
                Measure::Whole { length, wanted } if (1..1 << 31).contains(&length) => (length, wanted.min(length)),
                Measure::More if may_wait => (u32::MAX, u32::MAX),
                Measure::More => {
                    self.lose();
                    return each(Message { bytes: rest, length: rest.len() as u32, began, at: chunk.at });
                }
                _ => return self.lose(),
            };
            if may_wait && rest.len() < wanted as usize {
                self.carry = rest.to_vec();
                self.began = began;
                return;
            }
            let here = rest.len().min(length as usize);
            each(Message { bytes: &rest[..here], length, began, at: chunk.at });
            self.next = Some(next.wrapping_add(length));
            (rest, began) = (&rest[here..], chunk.at);
        }
        let end = chunk.position.wrapping_add(chunk.length);
        if self.next.is_some_and(|next| end.wrapping_sub(next).cast_signed() > 0) {
            // The next message begins in what was not copied.
            self.next = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Side;
    use proptest::prelude::*;

    /// One byte of length, the message's own; all of it is wanted, up to 6 bytes.
    fn measure(bytes: &[u8]) -> Measure {
        match bytes[0] {
            0 => Measure::Invalid,
            length => Measure::Whole { length: length.into(), wanted: 6 },
        }
    }

    fn chunk(position: u32, length: u32, bytes: &[u8], is_turn: bool) -> Chunk<'_> {
        let at = Moment { time_ns: u64::from(position), thread: 1 };
        Chunk { from: Side::Client, at, position, length, bytes, is_turn }
    }

    fn walk(stream: &mut Stream, chunk: &Chunk<'_>) -> Vec<(Vec<u8>, u64)> {
        let mut messages = Vec::new();
        stream.walk(chunk, measure, |message| messages.push((message.bytes.to_vec(), message.began.time_ns)));
        messages
    }

    #[test]
    fn messages_come_out_whole_however_the_calls_cut_them() {
        let mut stream = Stream::default();
        assert_eq!(walk(&mut stream, &chunk(0, 4, &[2, 9, 5, 1], true)), [(vec![2, 9], 0)]);
        assert_eq!(walk(&mut stream, &chunk(4, 4, &[2, 3, 4, 3], false)), [(vec![5, 1, 2, 3, 4], 0)]);
        assert_eq!(walk(&mut stream, &chunk(8, 2, &[7, 8], false)), [(vec![3, 7, 8], 4)]);
    }

    #[test]
    fn what_was_not_copied_is_stepped_over_by_its_length() {
        let mut stream = Stream::default();
        assert_eq!(walk(&mut stream, &chunk(0, 20, &[30, 1, 2, 3], true)), [(vec![30, 1, 2, 3], 0)]);
        assert!(walk(&mut stream, &chunk(20, 5, &[9; 5], false)).is_empty(), "still inside");
        assert_eq!(walk(&mut stream, &chunk(25, 8, &[9, 9, 9, 9, 9, 3, 1, 1], false)), [(vec![3, 1, 1], 25)]);
        // A call is missing in the middle of a message.
        assert_eq!(walk(&mut stream, &chunk(33, 10, &[40], true)), [(vec![40], 33)]);
        assert!(stream.continues(&chunk(70, 5, &[], false)) && !stream.continues(&chunk(74, 5, &[], true)));
        assert_eq!(walk(&mut stream, &chunk(70, 5, &[9, 9, 9, 2, 1], false)), [(vec![2, 1], 70)]);
    }

    #[test]
    fn a_lost_place_is_found_again_at_a_turn_and_not_before() {
        let mut stream = Stream::default();
        // The second message begins in what was not copied.
        assert_eq!(walk(&mut stream, &chunk(0, 9, &[2, 1], true)), [(vec![2, 1], 0)]);
        assert!(walk(&mut stream, &chunk(9, 2, &[2, 1], false)).is_empty());
        assert_eq!(walk(&mut stream, &chunk(11, 2, &[2, 1], true)), [(vec![2, 1], 11)]);
        assert!(walk(&mut stream, &chunk(20, 2, &[2, 1], false)).is_empty(), "calls are missing");
        assert!(walk(&mut stream, &chunk(22, 2, &[0, 1], true)).is_empty(), "no message begins so");
        assert!(!stream.is_in_step() && !stream.continues(&chunk(24, 2, &[2, 1], true)));
    }

    proptest! {
        /// However a stream of messages is cut into calls, the same messages come out.
        #[test]
        fn cuts_change_nothing(lengths in prop::collection::vec(1_u8..=6, 1..40), cuts in prop::collection::vec(1_usize..9, 1..99)) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|length| vec![*length; usize::from(*length)]).collect();
            let (mut stream, mut position, mut found) = (Stream::default(), 0_usize, Vec::new());
            for cut in cuts.iter().chain([&usize::MAX]) {
                let part = &bytes[position..bytes.len().min(position.saturating_add(*cut))];
                found.extend(walk(&mut stream, &chunk(position as u32, part.len() as u32, part, position == 0)));
                position += part.len();
            }
            prop_assert_eq!(found.iter().map(|(bytes, _)| bytes[0]).collect::<Vec<_>>(), lengths);
        }

        #[test]
        fn no_chunks_make_it_panic_or_keep_much(chunks in prop::collection::vec((any::<u32>(), 0_u32..9_000, prop::collection::vec(any::<u8>(), 0..64), any::<bool>()), 0..30)) {
            let mut stream = Stream::default();
            for (position, length, bytes, is_turn) in &chunks {
                walk(&mut stream, &chunk(*position, *length, bytes, *is_turn));
                prop_assert!(stream.carry.len() <= CARRY_BYTES_MAX);
            }
        }
    }
}
