//! Requests that await their answers.
//!
//! Invariant: at most [`WAITING_MAX`] wait; past it the oldest gives way and is counted.

use crate::{Found, Moment};
use std::collections::VecDeque;

/// Requests that await their answers on one connection.
pub const WAITING_MAX: usize = 128;

/// For protocols that answer in the order of the requests, or name each request by a number.
#[derive(Debug)]
pub struct Fifo<Q, A = ()> {
    waiting: VecDeque<(u64, Moment, Q)>,
    /// Requests that gave way to others of their number: so many answers are to come before those of what waits.
    gave_way: u64,
    /// An answer that another thread read before the record of its request was written.
    early: Option<(u64, Moment, A)>,
}

/// A request and its answer.
pub type Pair<Q, A> = ((Moment, Q), (Moment, A));

impl<Q, A> Default for Fifo<Q, A> {
    fn default() -> Fifo<Q, A> {
        Fifo { waiting: VecDeque::new(), gave_way: 0, early: None }
    }
}

impl<Q, A> Fifo<Q, A> {
    /// A request under a number (any, the same for all, where answers come in order). The pair, if its answer came early.
    pub fn ask(&mut self, id: u64, at: Moment, request: Q, found: &mut Found) -> Option<Pair<Q, A>> {
        if let Some((early, answered, answer)) = self.early.take() {
            if early == id && answered.time_ns > at.time_ns && self.waiting.iter().all(|(other, ..)| *other != id) {
                return Some(((at, request), (answered, answer)));
            }
            found.unpaired += 1;
        }
        if self.waiting.len() == WAITING_MAX {
            let oldest = self.waiting.pop_front();
            self.gave_way += u64::from(oldest.is_some_and(|(other, ..)| other == id));
            found.over_limit += 1;
        }
        self.waiting.push_back((id, at, request));
        None
    }

    /// An answer to the oldest request of that number.
    pub fn answer(&mut self, id: u64, at: Moment, answer: A, found: &mut Found) -> Option<Pair<Q, A>> {
        if self.gave_way > 0 && self.waiting.front().is_some_and(|(other, ..)| *other == id) {
            self.gave_way -= 1;
            return None;
        }
        match self.waiting.iter().position(|(other, ..)| *other == id).and_then(|place| self.waiting.remove(place)) {
            // Bytes from before the request may stand at the head of what answers it: the answer itself came later.
            Some((_, asked, request)) => {
                Some(((asked, request), (if at.time_ns < asked.time_ns { asked } else { at }, answer)))
            }
            None => {
                found.unpaired += u64::from(self.early.replace((id, at, answer)).is_some());
                None
            }
        }
    }

    /// The oldest request of that number.
    pub fn oldest(&mut self, id: u64) -> Option<&mut Q> {
        self.waiting.iter_mut().find(|(other, ..)| *other == id).map(|(.., request)| request)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that wait, by what each request and each answer keeps besides itself.
    pub fn held_bytes(&self, request: impl Fn(&Q) -> usize, answer: impl Fn(&A) -> usize) -> usize {
        let waiting: usize = self.waiting.iter().map(|(.., it)| request(it)).sum();
        let early = self.early.as_ref().map_or(0, |(.., it)| answer(it));
        self.waiting.capacity() * size_of::<(u64, Moment, Q)>() + waiting + early
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Records were lost: nothing that waits can be joined any more.
    pub fn gap(&mut self, found: &mut Found) {
        found.lost += self.waiting.len() as u64;
        self.waiting.clear();
        self.gave_way = 0;
        self.early = None;
    }

    /// The connection is over.
    pub fn end(&mut self, found: &mut Found) {
        found.unanswered += self.waiting.len() as u64;
        found.unpaired += u64::from(self.early.take().is_some());
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time_ns: u64) -> Moment {
        Moment { time_ns, thread: 1 }
    }

    #[test]
    fn answers_join_requests_in_order_or_by_number() {
        let (mut fifo, mut found) = (Fifo::<_, ()>::default(), Found::default());
        for (id, request) in [(1, "a"), (2, "b"), (1, "c")] {
            assert!(fifo.ask(id, at(1), request, &mut found).is_none());
        }
        let mut answer = |id| fifo.answer(id, at(5), (), &mut found).map(|((_, request), _)| request);
        assert_eq!((answer(2), answer(1), answer(1), answer(1)), (Some("b"), Some("a"), Some("c"), None));
        fifo.end(&mut found);
        assert_eq!(found.unpaired, 1);
    }

    #[test]
    fn an_answer_recorded_before_its_request_still_joins_it_and_an_older_one_does_not() {
        let (mut fifo, mut found) = (Fifo::default(), Found::default());
        assert!(fifo.answer(0, at(7), "late", &mut found).is_none());
        assert_eq!(fifo.ask(0, at(5), "q", &mut found).map(|(_, (_, answer))| answer), Some("late"));
        assert!(fifo.answer(0, at(7), "of before", &mut found).is_none());
        assert!(fifo.ask(0, at(9), "q", &mut found).is_none());
        assert_eq!((fifo.len(), found.unpaired), (1, 1));
    }

    #[test]
    fn answers_to_requests_that_gave_way_join_no_others() {
        let (mut fifo, mut found) = (Fifo::<_, ()>::default(), Found::default());
        for number in 0..WAITING_MAX as u64 + 2 {
            fifo.ask(0, at(number), number, &mut found);
        }
        let mut answer = || fifo.answer(0, at(999), (), &mut found).map(|((_, request), _)| request);
        assert_eq!([answer(), answer(), answer(), answer()], [None, None, Some(2), Some(3)]);
    }

    #[test]
    fn no_answer_is_older_than_its_request() {
        let (mut fifo, mut found) = (Fifo::<_, ()>::default(), Found::default());
        fifo.ask(0, at(5), "q", &mut found);
        assert_eq!(fifo.answer(0, at(3), (), &mut found), Some(((at(5), "q"), (at(5), ()))));
    }

    #[test]
    fn every_request_is_somewhere() {
        let (mut fifo, mut found) = (Fifo::<_, ()>::default(), Found::default());
        for number in 0..WAITING_MAX as u64 + 5 {
            fifo.ask(number, at(number), number, &mut found);
        }
        assert_eq!((found.over_limit, fifo.len()), (5, WAITING_MAX));
        fifo.gap(&mut found);
        fifo.ask(1, at(1), 1, &mut found);
        fifo.end(&mut found);
        assert_eq!((found.lost, found.unanswered, fifo.len()), (WAITING_MAX as u64, 1, 0));
    }
}
