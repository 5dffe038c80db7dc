//! Which messages of a partition make a block: pure, so that the same messages and intents give the same blocks.
//!
//! Takes messages in their order; gives blocks that are complete. A block ends at so many records, bytes or messages, after a while, or before
//! the copy of a message that is in it: what is in the tables is asked once for a block, and a copy has to find the first one there. Invariant:
//! a block that was intended is made of the very offsets that stand in its intent.

use super::intent::{Intent, KNOWN_MAX, MESSAGES_MAX};
use crate::kafka::message::Message;
use hashbrown::HashSet;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// As in [`crate::batch`]: it stays one block in ClickHouse.
const BYTES_MAX: u64 = 16 << 20;

/// A message where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) offset: i64,
    /// Milliseconds since the epoch, as its producer dated it.
    pub(crate) at: i64,
    /// None of one that is not ours, which is passed over.
    pub(crate) message: Option<Message>,
}

/// Messages that are inserted together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) first: i64,
    pub(crate) messages: Vec<Taken>,
    pub(crate) intent: Intent,
    /// The intent stands in the committed offset: somebody may have begun.
    pub(crate) again: bool,
}

/// When a block is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) records: u64,
    pub(crate) wait: Duration,
}

/// Gathers the messages of one partition.
#[derive(Debug)]
pub(crate) struct Gatherer {
    limits: Limits,
    /// What the next block has to be.
    intended: Option<Intent>,
    /// The offset that comes next, once one is known.
    next: Option<i64>,
    waiting: VecDeque<Taken>,
    /// Of those, in the next block.
    cut: usize,
    closed: bool,
    since: Option<Instant>,
    records: u64,
    bytes: u64,
    repeated: usize,
    identities: HashSet<u64>,
    /// Offsets that were not there any more.
    missed: u64,
}

impl Gatherer {
    /// From the committed offset, if there is one, and its intent.
    pub(crate) fn new(limits: Limits, committed: Option<i64>, intended: Option<Intent>) -> Gatherer {
        Gatherer {
            limits,
            intended,
            next: committed,
            waiting: VecDeque::new(),
            cut: 0,
            closed: false,
            since: None,
            records: 0,
            bytes: 0,
            repeated: 0,
            identities: HashSet::new(),
            missed: 0,
        }
    }

    /// Take the next message.
    pub(crate) fn take(&mut self, taken: Taken, now: Instant) {
        match self.next {
            Some(next) if taken.offset > next => self.missed += taken.offset.abs_diff(next),
            // The topic was made anew.
            Some(next) if taken.offset < next => self.intended = None,
            _ => {}
        }
        self.next = Some(taken.offset + 1);
        self.waiting.push_back(taken);
        self.look(now);
    }

    /// Offsets that were passed over since this was asked last: deleted before they were read.
    pub(crate) fn missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Whether more than a block waits.
    pub(crate) fn is_full(&self) -> bool {
        self.closed && self.waiting.len() > self.cut
    }

    /// The next block, once it is complete.
    pub(crate) fn batch(&mut self, now: Instant) -> Option<Batch> {
        let due = self.intended.is_none() && self.since.is_some_and(|since| now >= since + self.limits.wait);
        if !self.closed && !due {
            return None;
        }
        let messages: Vec<Taken> = self.waiting.drain(..self.cut).collect();
        (self.cut, self.closed, self.since) = (0, false, None);
        (self.records, self.bytes, self.repeated) = (0, 0, 0);
        self.identities.clear();
        let intended = self.intended.take();
        let batch = match (messages.first(), messages.last()) {
            (Some(first), Some(last)) => {
                let again = intended.is_some();
                let intent = intended.unwrap_or(Intent { last: last.offset, at: first.at, known: Vec::new() });
                Some(Batch { first: first.offset, intent, again, messages })
            }
            _ => None,
        };
        self.look(now);
        batch
    }

    /// Put what waits into the block, until it is complete.
    fn look(&mut self, now: Instant) {
        while !self.closed
            && let Some(taken) = self.waiting.get(self.cut)
        {
            if self.ends_before(taken) {
                self.closed = true;
                return;
            }
            if let Some(message) = &taken.message {
                self.records += message.head.records;
                self.bytes += message.head.row_bytes.max(message.payload.len() as u64);
                self.repeated += usize::from(message.head.repeated);
                self.identities.insert(identity(message));
            }
            self.since.get_or_insert(now);
            self.cut += 1;
            self.closed = match &self.intended {
                Some(intent) => taken.offset >= intent.last,
                None => self.records >= self.limits.records || self.bytes >= BYTES_MAX,
            };
        }
    }

    fn ends_before(&self, taken: &Taken) -> bool {
        if let Some(intent) = &self.intended {
            return taken.offset > intent.last;
        }
        let Some(first) = self.waiting.front().filter(|_| self.cut > 0) else { return false };
        let repeated = taken.message.as_ref().filter(|message| message.head.repeated);
        taken.offset.abs_diff(first.offset) >= MESSAGES_MAX as u64
            || repeated
                .is_some_and(|message| self.repeated >= KNOWN_MAX || self.identities.contains(&identity(message)))
    }
}

/// Two that are equal by chance end a block early, no more.
fn identity(message: &Message) -> u64 {
    let head = &message.head;
    let numbers = [head.sequence.to_le_bytes(), head.before.to_le_bytes()].concat();
    let texts = [&head.tenant, &head.agent, &head.service].map(|text| text.as_bytes());
    xxh3_64(&[&numbers, texts[0], &[0], texts[1], &[0], texts[2]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::message::Head;
    use bytes::Bytes;
    use ollystack_receive::Signal;

    const LIMITS: Limits = Limits { records: 10, wait: Duration::from_secs(1) };

    fn message(offset: i64, sequence: u64, records: u64, repeated: bool) -> Taken {
        let head = Head { sequence, records, repeated, ..Head::default() };
        Taken { offset, at: 7, message: Some(Message { signal: Signal::Logs, head, payload: Bytes::new() }) }
    }

    fn offsets(batch: &Batch) -> Vec<i64> {
        batch.messages.iter().map(|taken| taken.offset).collect()
    }

    #[test]
    fn a_block_ends_at_so_many_records_or_after_a_while() {
        let now = Instant::now();
        let mut gatherer = Gatherer::new(LIMITS, Some(5), None);
        for offset in 5..9 {
            gatherer.take(message(offset, offset as u64, 4, false), now);
        }
        let batch = gatherer.batch(now).unwrap();
        assert_eq!((offsets(&batch), batch.first, batch.again), (vec![5, 6, 7], 5, false));
        assert_eq!(batch.intent, Intent { last: 7, at: 7, known: vec![] });
        assert!(gatherer.batch(now).is_none(), "the rest has time");
        assert_eq!(offsets(&gatherer.batch(now + LIMITS.wait).unwrap()), [8]);
        assert!(gatherer.batch(now + LIMITS.wait * 9).is_none());
    }

    #[test]
    fn a_block_that_was_intended_is_made_of_the_same_offsets() {
        let now = Instant::now();
        let intent = Intent { last: 6, at: 1, known: vec![1] };
        let mut gatherer = Gatherer::new(LIMITS, Some(5), Some(intent.clone()));
        gatherer.take(message(5, 1, 1, false), now);
        assert!(gatherer.batch(now + LIMITS.wait * 9).is_none(), "no time ends it before its last message");
        gatherer.take(message(6, 1, 100, true), now);
        gatherer.take(message(7, 2, 1, false), now);
        let batch = gatherer.batch(now).unwrap();
        assert_eq!((offsets(&batch), batch.intent, batch.again), (vec![5, 6], intent, true));
        assert_eq!(offsets(&gatherer.batch(now + LIMITS.wait).unwrap()), [7]);
    }

    #[test]
    fn a_copy_is_not_in_the_block_of_the_first_one() {
        let now = Instant::now();
        let mut gatherer = Gatherer::new(LIMITS, None, None);
        gatherer.take(message(0, 1, 1, false), now);
        gatherer.take(message(1, 2, 1, true), now);
        gatherer.take(message(2, 1, 1, true), now);
        assert!(gatherer.is_full());
        assert_eq!(offsets(&gatherer.batch(now).unwrap()), [0, 1]);
        assert_eq!(offsets(&gatherer.batch(now + LIMITS.wait).unwrap()), [2]);
    }

    #[test]
    fn messages_that_are_gone_are_counted_and_end_what_was_intended() {
        let now = Instant::now();
        let intent = Intent { last: 6, at: 1, known: vec![] };
        let mut gatherer = Gatherer::new(LIMITS, Some(5), Some(intent.clone()));
        gatherer.take(message(9, 1, 1, false), now);
        assert_eq!((gatherer.missed(), gatherer.missed()), (4, 0));
        assert!(gatherer.batch(now).is_none(), "nothing of it is left");
        assert_eq!(offsets(&gatherer.batch(now + LIMITS.wait).unwrap()), [9]);
        // Of a topic that was made anew.
        let mut gatherer = Gatherer::new(LIMITS, Some(5), Some(intent));
        gatherer.take(message(0, 1, 10, false), now);
        assert!(!gatherer.batch(now).unwrap().again);
    }
}
