//! The pattern of every line, held until the last line is read: only then it is known which patterns are one.
//!
//! Ids are small numbers in the order of their first sight, so each takes as many bytes as it needs (LEB128, seven bits a byte): one
//! for the first 127 patterns, two up to 16,383. Invariant: ids come out in the order they were put in.

use ollystack_patterns::PatternId;
use std::collections::HashMap;
use std::io::Write;

/// Bytes of one piece: what is held grows by as much, and is never copied to a larger place.
const PIECE_BYTES: usize = 1 << 20;
/// Of a 64-bit number.
const ID_BYTES_MAX: usize = 10;

/// Ids in the order of lines.
#[derive(Debug, Default)]
pub(crate) struct Assignments {
    pieces: Vec<Vec<u8>>,
    /// The ids that there are, by number.
    known: HashMap<u64, PatternId>,
}

impl Assignments {
    /// The next line's.
    pub(crate) fn push(&mut self, id: PatternId) {
        let mut rest = id.get();
        self.known.entry(rest).or_insert(id);
        let fits = self.pieces.last().is_some_and(|piece| piece.len() + ID_BYTES_MAX <= PIECE_BYTES);
        if !fits {
            self.pieces.push(Vec::with_capacity(PIECE_BYTES));
        }
        let Some(piece) = self.pieces.last_mut() else { return };
        while rest >= 0x80 {
            piece.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        piece.push(rest as u8);
    }

    /// `line number <tab> pattern` for each, as `resolve` names the pattern now.
    pub(crate) fn write(&self, resolve: impl Fn(PatternId) -> PatternId, out: &mut impl Write) -> std::io::Result<()> {
        let resolved: HashMap<u64, u64> = self.known.iter().map(|(&number, &id)| (number, resolve(id).get())).collect();
        let mut line = 0_u64;
        for piece in &self.pieces {
            let (mut number, mut shift) = (0, 0);
            for byte in piece {
                number |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    line += 1;
                    writeln!(out, "{line}\t{}", resolved.get(&number).copied().unwrap_or(number))?;
                    (number, shift) = (0, 0);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_patterns::{Config, Miner};

    /// Words without digits, as many as asked for: each line is a pattern of its own.
    fn ids(count: usize) -> Vec<PatternId> {
        let mut miner = Miner::new(Config { patterns_max: count, bytes_max: usize::MAX });
        let letters = |n: usize| (0..5).map(|at| (b'a' + (n >> (4 * at) & 15) as u8) as char).collect::<String>();
        (0..count).map(|n| miner.observe(&letters(n).repeat(1 + n % 7)).id).collect()
    }

    #[test]
    fn ids_come_out_in_their_order_with_the_number_of_their_line() {
        let ids = ids(300);
        let mut assignments = Assignments::default();
        let order: Vec<PatternId> = (0..5 * PIECE_BYTES / 4).map(|n| ids[(n * 7) % ids.len()]).collect();
        order.iter().for_each(|id| assignments.push(*id));
        assert!(assignments.pieces.len() > 1, "the test crosses no border of pieces");
        let mut text = Vec::new();
        assignments.write(|id| id, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let expected = order.iter().enumerate().map(|(n, id)| format!("{}\t{id}", n + 1));
        assert!(text.lines().eq(expected));
    }

    #[test]
    fn the_id_that_stands_for_it_at_the_end_is_written() {
        let ids = ids(200);
        let mut assignments = Assignments::default();
        [ids[0], ids[1], ids[150]].into_iter().for_each(|id| assignments.push(id));
        let mut text = Vec::new();
        assignments.write(|id| if id == ids[1] { ids[150] } else { id }, &mut text).unwrap();
        let expected = format!("1\t{}\n2\t{}\n3\t{}\n", ids[0], ids[150], ids[150]);
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
