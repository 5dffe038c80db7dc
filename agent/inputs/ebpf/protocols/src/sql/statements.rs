//! What a connection remembers: its prepared statements, and the requests that await their answers.
//!
//! Invariant: each holds at most the bytes that it is allowed, however long the queries.

use super::{Answered, Asked, Query};
use crate::pending::Pair;
use crate::{Fifo, Found, Moment, WAITING_MAX};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of queries that wait.
const WAITING_BYTES_MAX: usize = 12 * 1024;
/// Statements that are remembered, each with its key and place.
const STATEMENTS_MAX: usize = 128;

/// Prepared statements or portals, by a number, of so many bytes in all. What was not used for longest gives way: first its text,
/// then the rest of it.
#[derive(Debug, Default)]
pub(crate) struct Statements<const BYTES_MAX: usize> {
    /// Least recently used first.
    entries: VecDeque<(u64, Arc<Query>)>,
    bytes: usize,
}

impl<const BYTES_MAX: usize> Statements<BYTES_MAX> {
    /// Remember a statement in place of what had its number.
    pub(crate) fn keep(&mut self, number: u64, query: Arc<Query>) {
        self.forget(number);
        self.bytes += query.bytes();
        self.entries.push_back((number, query));
        while self.bytes > BYTES_MAX
            && let Some((_, query)) = self.entries.iter_mut().find(|(_, query)| query.has_text())
        {
            self.bytes -= query.bytes();
            *query = Arc::new(query.without_text());
            self.bytes += query.bytes();
        }
        while (self.entries.len() > STATEMENTS_MAX || self.bytes > BYTES_MAX)
            && let Some((_, query)) = self.entries.pop_front()
        {
            self.bytes -= query.bytes();
        }
    }

    /// The statement of that number.
    pub(crate) fn find(&mut self, number: u64) -> Option<Arc<Query>> {
        let place = self.entries.iter().rposition(|(other, _)| *other == number)?;
        let entry = self.entries.remove(place)?;
        let query = Arc::clone(&entry.1);
        self.entries.push_back(entry);
        Some(query)
    }

    /// The statement is closed.
    pub(crate) fn forget(&mut self, number: u64) {
        if let Some(place) = self.entries.iter().position(|(other, _)| *other == number)
            && let Some((_, query)) = self.entries.remove(place)
        {
            self.bytes -= query.bytes();
        }
    }

    /// Memory that it holds, in bytes.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes + self.entries.capacity() * size_of::<(u64, Arc<Query>)>()
    }

    /// All are.
    pub(crate) fn clear(&mut self) {
        *self = Statements::default();
    }
}

/// Requests in the order in which they will be answered, each with what its protocol notes of it. One whose query does not fit
/// waits without it.
#[derive(Debug)]
pub(crate) struct Waiting<N> {
    fifo: Fifo<(Asked, N), Answered>,
    bytes: usize,
}

impl<N> Default for Waiting<N> {
    fn default() -> Waiting<N> {
        Waiting { fifo: Fifo::default(), bytes: 0 }
    }
}

/// A request with its note, and its answer.
pub(crate) type Answer<N> = Pair<(Asked, N), Answered>;

impl<N> Waiting<N> {
    pub(crate) fn ask(&mut self, at: Moment, mut asked: Asked, note: N, found: &mut Found) -> Option<Answer<N>> {
        if self.fifo.len() == WAITING_MAX {
            // It gives way.
            self.bytes -= self.fifo.oldest(0).map_or(0, |(oldest, _)| oldest.bytes());
        }
        if self.bytes + asked.bytes() > WAITING_BYTES_MAX {
            asked.query = None;
        }
        let bytes = asked.bytes();
        let pair = self.fifo.ask(0, at, (asked, note), found);
        self.bytes += if pair.is_none() { bytes } else { 0 };
        pair
    }

    /// The oldest is answered.
    pub(crate) fn answer(&mut self, at: Moment, answer: Answered, found: &mut Found) -> Option<Answer<N>> {
        let pair = self.fifo.answer(0, at, answer, found)?;
        self.bytes -= pair.0.1.0.bytes();
        Some(pair)
    }

    /// Let go of the oldest ones that will not be answered.
    pub(crate) fn skip(&mut self, is_skipped: impl Fn(&N) -> bool, found: &mut Found) {
        while self.oldest().is_some_and(|note| is_skipped(note)) {
            self.answer(Moment::default(), Answered::default(), found);
            found.unanswered += 1;
        }
    }

    /// Memory that it holds, in bytes.
    #[cfg(feature = "fuzz")]
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes + self.fifo.len() * size_of::<(u64, Moment, (Asked, N))>()
    }

    /// What is noted of the oldest.
    pub(crate) fn oldest(&mut self) -> Option<&mut N> {
        self.fifo.oldest(0).map(|(_, note)| note)
    }

    pub(crate) fn gap(&mut self, found: &mut Found) {
        self.fifo.gap(found);
        self.bytes = 0;
    }

    pub(crate) fn end(&mut self, found: &mut Found) {
        self.fifo.end(found);
        self.bytes = 0;
    }
}

impl Asked {
    fn bytes(&self) -> usize {
        self.query.as_ref().map_or(0, |query| query.bytes())
    }
}
