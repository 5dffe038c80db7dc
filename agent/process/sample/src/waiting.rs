//! The traces that wait: a table by id, and two queues by time.
//!
//! A trace is in the queue of those whose local root is awaited, or of those that are given a grace after it. Every trace waits
//! equally long, so each queue is in order of its deadlines, and the trace that is nearest to its decision is at the head of one.
//! Invariant: a trace is in the table and in one queue, or nowhere.

use super::arena::Chain;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// The smallest table.
const TABLE_BYTES_MIN: usize = 64;

/// Slots that come at once: one vector that doubled would take three times its size while it did.
const SLOTS_STEP: usize = 512;

const NONE: u32 = u32::MAX;

/// A trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    pub(crate) id: u128,
    /// Its random bits, and what its first span stands for already, as an earlier sampler says.
    pub(crate) randomness: u64,
    pub(crate) weight: f32,
    /// Hash of the service that it entered, or else of the first seen.
    pub(crate) service: u64,
    /// Its spans, encoded.
    pub(crate) chain: Chain,
    pub(crate) spans: u32,
    pub(crate) bytes: u32,
    pub(crate) slow: bool,
    pub(crate) first_sight: bool,
    pub(crate) first_error: bool,
    /// A local root has ended.
    pub(crate) ended: bool,
    /// A request that entered was a health check; another one was not.
    pub(crate) health_check: bool,
    pub(crate) request: bool,
    /// The first of the rules that match.
    pub(crate) rule: Option<u16>,
}

impl Trace {
    /// Without a span.
    pub(crate) fn new(id: u128, randomness: u64, weight: f32, service: u64) -> Trace {
        Trace {
            id,
            randomness,
            weight,
            service,
            chain: Chain::EMPTY,
            spans: 0,
            bytes: 0,
            slow: false,
            first_sight: false,
            first_error: false,
            ended: false,
            health_check: false,
            request: false,
            rule: None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    trace: Trace,
    deadline_unix_nano: u64,
    previous: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Waiting {
    slots: Vec<Slot>,
    /// Slots without a trace, by their `next`.
    free: u32,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Those whose root is awaited, and those whose root has ended.
    queues: [Queue; 2],
}

impl Waiting {
    pub(crate) fn new() -> Waiting {
        Waiting {
            slots: Vec::new(),
            free: NONE,
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            queues: [Queue { first: NONE, last: NONE }; 2],
        }
    }

    /// What the slots and the table take.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.table.allocation_size()
    }

    /// By how much they grow at most with a trace more.
    pub(crate) fn growth(&self) -> usize {
        let slots = self.free == NONE && self.slots.len() == self.slots.capacity();
        let slots = if slots { SLOTS_STEP * size_of::<Slot>() } else { 0 };
        let table = self.table.len() == self.table.capacity();
        slots + if table { 2 * self.table.allocation_size().max(TABLE_BYTES_MIN) } else { 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// The slot of a trace.
    pub(crate) fn find(&self, id: u128) -> Option<u32> {
        self.table.find(self.hasher.hash_one(id), |slot| self.slots[*slot as usize].trace.id == id).copied()
    }

    /// A new trace, which waits for its root until a deadline.
    pub(crate) fn insert(&mut self, trace: Trace, deadline_unix_nano: u64) -> u32 {
        let new = Slot { trace, deadline_unix_nano, previous: NONE, next: NONE };
        let slot = match self.free {
            NONE => {
                if self.slots.len() == self.slots.capacity() {
                    self.slots.reserve_exact(SLOTS_STEP);
                }
                self.slots.push(new);
                (self.slots.len() - 1) as u32
            }
            free => {
                self.free = self.slots[free as usize].next;
                self.slots[free as usize] = new;
                free
            }
        };
        let Waiting { slots, hasher, table, .. } = self;
        let rehash = |slot: &u32| hasher.hash_one(slots[*slot as usize].trace.id);
        table.insert_unique(hasher.hash_one(trace.id), slot, rehash);
        self.push(slot);
        slot
    }

    pub(crate) fn get(&mut self, slot: u32) -> &mut Trace {
        &mut self.slots[slot as usize].trace
    }

    /// Its root has ended: it waits on until another deadline, in the other queue.
    pub(crate) fn end(&mut self, slot: u32, deadline_unix_nano: u64) {
        self.unlink(slot);
        let ended = &mut self.slots[slot as usize];
        ended.trace.ended = true;
        ended.deadline_unix_nano = deadline_unix_nano;
        self.push(slot);
    }

    /// Take a trace out.
    pub(crate) fn remove(&mut self, slot: u32) -> Trace {
        self.unlink(slot);
        let trace = self.slots[slot as usize].trace;
        if let Ok(entry) = self.table.find_entry(self.hasher.hash_one(trace.id), |other| *other == slot) {
            entry.remove();
        }
        self.slots[slot as usize].next = self.free;
        self.free = slot;
        trace
    }

    /// One whose deadline has passed, or lies beyond the latest possible, because the clock was set back.
    pub(crate) fn due(&self, now_unix_nano: u64, latest_unix_nano: u64) -> Option<u32> {
        let due = |slot: &u32| {
            let deadline = self.slots[*slot as usize].deadline_unix_nano;
            deadline <= now_unix_nano || deadline > latest_unix_nano
        };
        self.heads().find(due)
    }

    /// The one to decide when room is short: of those whose root has ended the first, because the least is still to come of it;
    /// else the one that waits longest.
    pub(crate) fn nearest(&self) -> Option<u32> {
        self.heads().next()
    }

    fn heads(&self) -> impl Iterator<Item = u32> {
        let [awaited, ended] = self.queues;
        [ended.first, awaited.first].into_iter().filter(|first| *first != NONE)
    }

    /// Give memory back when nothing waits.
    pub(crate) fn trim(&mut self) {
        if self.len() == 0 {
            *self = Waiting::new();
        }
    }

    /// To the end of the queue that it belongs to.
    fn push(&mut self, slot: u32) {
        let queue = &mut self.queues[usize::from(self.slots[slot as usize].trace.ended)];
        let last = std::mem::replace(&mut queue.last, slot);
        match last {
            NONE => queue.first = slot,
            last => self.slots[last as usize].next = slot,
        }
        let pushed = &mut self.slots[slot as usize];
        (pushed.previous, pushed.next) = (last, NONE);
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { previous, next, trace, .. } = self.slots[slot as usize];
        let queue = &mut self.queues[usize::from(trace.ended)];
        match previous {
            NONE => queue.first = next,
            previous => self.slots[previous as usize].next = next,
        }
        match next {
            NONE => queue.last = previous,
            next => self.slots[next as usize].previous = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(id: u128) -> Trace {
        Trace::new(id, 0, 1.0, 0)
    }

    #[test]
    fn traces_come_due_in_order_of_each_queue_wherever_others_left_it() {
        let mut waiting = Waiting::new();
        let slots: Vec<u32> = (0..6).map(|id| waiting.insert(trace(id), 100 + id as u64)).collect();
        waiting.end(slots[4], 50);
        waiting.end(slots[1], 60);
        waiting.remove(slots[2]);
        waiting.remove(slots[5]);
        let again = waiting.insert(trace(9), 110);
        let mut order = Vec::new();
        for now in [49, 50, 99, 100, 110] {
            while let Some(slot) = waiting.due(now, 1_000) {
                order.push((now, waiting.remove(slot).id));
            }
        }
        assert_eq!(order, [(50, 4), (99, 1), (100, 0), (110, 3), (110, 9)]);
        assert!(slots.contains(&again), "slots are used again");
        assert_eq!((waiting.len(), waiting.nearest(), waiting.find(0)), (0, None, None));
    }

    #[test]
    fn ended_ones_are_nearest_to_their_decision() {
        let mut waiting = Waiting::new();
        waiting.insert(trace(1), 10);
        let ended = waiting.insert(trace(2), 20);
        waiting.end(ended, 15);
        let mut order = || waiting.nearest().map(|slot| waiting.remove(slot).id);
        assert_eq!([order(), order(), order()], [Some(2), Some(1), None]);
    }

    #[test]
    fn memory_is_given_back_once_nothing_waits() {
        let mut waiting = Waiting::new();
        let slot = waiting.insert(trace(1), 10);
        waiting.trim();
        assert_eq!((waiting.find(1), waiting.slots.len()), (Some(slot), 1));
        waiting.remove(slot);
        waiting.trim();
        assert_eq!((waiting.slots.capacity(), waiting.table.capacity()), (0, 0));
    }

    #[test]
    fn a_deadline_that_no_trace_can_have_is_due() {
        let mut waiting = Waiting::new();
        waiting.insert(trace(1), 1_000);
        assert_eq!((waiting.due(10, 1_000), waiting.due(10, 999)), (None, Some(0)));
    }
}
