//! Which parts of a source: disjoint spans of its positions, in order.
//!
//! Positions are whatever the source counts, such as bytes of a file. Invariant: spans neither touch nor overlap, so that what is
//! covered has one form.

use serde::{Deserialize, Serialize};

/// Parts of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>")]
pub struct Spans(Vec<(u64, u64)>);

impl From<Vec<(u64, u64)>> for Spans {
    fn from(parts: Vec<(u64, u64)>) -> Spans {
        let mut spans = Spans::default();
        parts.into_iter().for_each(|(from, to)| spans.insert(from, to));
        spans
    }
}

impl Spans {
    /// From here up to there.
    pub fn one(from: u64, to: u64) -> Spans {
        Spans::from(vec![(from, to)])
    }

    /// Cover this, too. Cheap at the end, which is where most is put.
    pub fn insert(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        // Those that it touches become one with it.
        let first = self.0.partition_point(|(_, end)| *end < from);
        let past = first + self.0[first..].partition_point(|(start, _)| *start <= to);
        let (from, to) = match self.0.get(first..past) {
            Some([(start, end)]) => (from.min(*start), to.max(*end)),
            Some([(start, _), .., (_, end)]) => (from.min(*start), to.max(*end)),
            _ => (from, to),
        };
        self.0.splice(first..past, [(from, to)]);
    }

    /// Cover all of these, too.
    pub fn extend(&mut self, other: &Spans) {
        other.iter().for_each(|(from, to)| self.insert(from, to));
    }

    /// Where what is covered at `position`, and on from there, ends.
    pub fn end_from(&self, position: u64) -> Option<u64> {
        let (start, end) = *self.0.get(self.0.partition_point(|(_, end)| *end <= position))?;
        (start <= position).then_some(end)
    }

    /// The first start at or after `position`.
    pub fn next_start(&self, position: u64) -> Option<u64> {
        self.0.get(self.0.partition_point(|(start, _)| *start < position)).map(|(start, _)| *start)
    }

    /// Where the last one ends; 0 if nothing is covered.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, end)| *end)
    }

    /// Forget what ends at `position` or before.
    pub fn forget_before(&mut self, position: u64) {
        self.0.drain(..self.0.partition_point(|(_, end)| *end <= position));
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is covered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much is covered.
    pub fn covered(&self) -> u64 {
        self.iter().map(|(from, to)| to - from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(parts: &[(u64, u64)]) -> Spans {
        Spans::from(parts.to_vec())
    }

    #[test]
    fn parts_in_any_order_have_one_form() {
        for parts in [[(4, 6), (0, 2), (2, 3), (8, 9)], [(8, 9), (2, 3), (4, 6), (0, 2)]] {
            assert_eq!(spans(&parts), spans(&[(0, 3), (4, 6), (8, 9)]));
        }
        assert_eq!(spans(&[(0, 1), (2, 3), (4, 5), (1, 4)]), spans(&[(0, 5)]));
        assert_eq!(spans(&[(3, 9), (4, 5), (7, 7)]), spans(&[(3, 9)]));
        assert_eq!(spans(&[(0, 3), (4, 6)]).covered(), 5);
    }

    #[test]
    fn what_is_covered_from_a_position_on_and_where_it_begins_again() {
        let spans = spans(&[(2, 4), (6, 8)]);
        let ends: Vec<Option<u64>> = (0..9).map(|at| spans.end_from(at)).collect();
        assert_eq!(ends, [None, None, Some(4), Some(4), None, None, Some(8), Some(8), None]);
        let starts: Vec<Option<u64>> = [0, 2, 3, 6, 7].map(|at| spans.next_start(at)).to_vec();
        assert_eq!(starts, [Some(2), Some(2), Some(6), Some(6), None]);
        assert_eq!((spans.end(), Spans::default().end()), (8, 0));
    }

    #[test]
    fn what_lies_before_is_forgotten_and_what_lies_across_is_kept() {
        let mut spans = spans(&[(2, 4), (6, 8)]);
        spans.forget_before(4);
        assert_eq!(spans, Spans::one(6, 8));
        spans.forget_before(7);
        assert_eq!(spans, Spans::one(6, 8));
    }
}
