//! Acknowledgements by position: which parts of a source are durable, although the records of one batch go out at different times.
//!
//! A batch's [`Ack`] knows where in its source each record stood. Processing splits it by the ways that the records go
//! ([`Ack::split`]), and the input hears of each part apart. Between the moment in which records are durable and that in which
//! their input knows it the process may be killed, so before a put its parts are announced ([`Announcement`]), and the input
//! writes them down ([`Ahead`]): after the restart it asks the buffer whether that put happened. Invariant: a part is announced
//! only with a put that holds all of its records that are not durable yet.

use crate::ack::{Ack, Outcome, Shared, Waiting};
use crate::{Class, Spans};
use std::fmt::Debug;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What an input hears of its parts.
#[derive(Debug)]
pub struct Positions {
    inbox: Arc<Inbox>,
    receiver: mpsc::UnboundedReceiver<Settled>,
}

/// The verdict on a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which source, as the input numbers them.
    pub source: u64,
    /// Which part of it.
    pub spans: Spans,
    /// What became of it.
    pub outcome: Outcome,
}

/// A part that is about to be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Putting {
    /// Which source, as the input numbers them.
    pub source: u64,
    /// Which part of it.
    pub spans: Spans,
    /// Of the entry that holds its records: those of one class are put all or none.
    pub class: Class,
}

/// Where an input writes down what is about to be put. Called from a thread that may block.
pub trait Ahead: Debug + Send + Sync {
    /// These parts go into entries with ids above `after`, the highest that was given so far. Durable when this returns, as far as
    /// the disk lets it: what could not be written down may be read, and show, twice after a crash, which is no reason not to put it.
    fn announce(&self, after: u64, parts: &[Putting]);

    /// All verdicts on what was announced last are in the inbox.
    fn settled(&self);
}

#[derive(Debug)]
pub(crate) struct Inbox {
    sender: mpsc::UnboundedSender<Settled>,
    ahead: Arc<dyn Ahead>,
}

/// What an acknowledgement by position stands for.
#[derive(Debug)]
pub(crate) struct Part {
    inbox: Arc<Inbox>,
    source: u64,
    spans: Spans,
    /// Of a whole batch: where each record begins, in the order of the records.
    starts: Vec<u64>,
}

impl Part {
    pub(crate) fn report(&mut self, outcome: Outcome) {
        let spans = std::mem::take(&mut self.spans);
        // An input that is gone reads again what it did not hear of.
        let _ = self.inbox.sender.send(Settled { source: self.source, spans, outcome });
    }

    /// Whether records that begin at one place, as they lie across each other, go different ways: what is settled of one says
    /// nothing of the source then.
    fn parts_on(&self, ways: &[usize]) -> bool {
        let pairs = self.starts.windows(2).zip(ways.windows(2));
        pairs.into_iter().any(|(starts, ways)| starts[0] == starts[1] && ways[0] != ways[1])
    }

    /// The same source's: another life of an input numbers its own.
    fn is_like(&self, other: &Part) -> bool {
        self.source == other.source && Arc::ptr_eq(&self.inbox, &other.inbox)
    }
}

impl Positions {
    /// Nothing handed in yet.
    pub fn new(ahead: Arc<dyn Ahead>) -> Positions {
        // Bounded by the acknowledgements that processing holds: each sends once.
        let (sender, receiver) = mpsc::unbounded_channel();
        Positions { inbox: Arc::new(Inbox { sender, ahead }), receiver }
    }

    /// For a batch that is all of `source` from the first of `starts`, where its records begin, up to `end`. Records that lie across
    /// each other begin where the first of them does.
    pub fn ack(&self, source: u64, starts: Vec<u64>, end: u64) -> Ack {
        let spans = starts.first().map_or_else(Spans::default, |first| Spans::one(*first, end));
        Ack::to(Waiting::Part(Part { inbox: Arc::clone(&self.inbox), source, spans, starts }))
    }

    /// Wait for the next verdict. Cancel-safe. Waits for ever if none is outstanding.
    pub async fn next(&mut self) -> Settled {
        match self.receiver.recv().await {
            Some(settled) => settled,
            // Cannot be: the inbox holds a sender too.
            None => std::future::pending().await,
        }
    }

    /// A verdict that is in already.
    pub fn try_next(&mut self) -> Option<Settled> {
        self.receiver.try_recv().ok()
    }
}

impl Ack {
    /// An acknowledgement for each of `N` ways, of the records that go it: `ways` says which, record for record. None for a way that
    /// no record goes. A batch without positions has one verdict, whichever way its records go; so has one of which records that
    /// begin at one place go different ways.
    pub fn split<const N: usize>(mut self, ways: &[usize]) -> [Option<Ack>; N] {
        let mut acks = [const { None }; N];
        let part = if self.part_mut().is_some_and(|part| part.parts_on(ways)) { None } else { self.take_part() };
        let Some(part) = part else {
            for way in ways {
                if let Some(ack) = acks.get_mut(*way) {
                    ack.get_or_insert_with(|| self.clone());
                }
            }
            self.resolve(Outcome::Durable);
            return acks;
        };
        let ends = part.starts.iter().skip(1).copied().chain([part.spans.end()]);
        let mut spans = [const { Vec::new() }; N];
        for ((start, end), way) in part.starts.iter().zip(ends).zip(ways) {
            if let Some(spans) = spans.get_mut(*way) {
                spans.push((*start, end));
            }
        }
        for (ack, spans) in acks.iter_mut().zip(spans).filter(|(_, spans)| !spans.is_empty()) {
            let (inbox, source, spans) = (Arc::clone(&part.inbox), part.source, Spans::from(spans));
            *ack = Some(Ack::to(Waiting::Part(Part { inbox, source, spans, starts: Vec::new() })));
        }
        acks
    }

    /// Let this one stand for `other`, too, which is given back if they are not parts of one source, waiting alone.
    pub fn join(&mut self, mut other: Ack) -> Option<Ack> {
        let Some(mine) = self.part_mut() else { return Some(other) };
        if !other.part_mut().is_some_and(|theirs| mine.is_like(theirs)) {
            return Some(other);
        }
        other.take_part().into_iter().for_each(|theirs| mine.spans.extend(&theirs.spans));
        None
    }

    /// How many spans this stands for; 1 if it is not by position.
    pub fn spans(&self) -> usize {
        match self.shared.as_ref().map(|shared| &shared.to) {
            Some(Waiting::Part(part)) => part.spans.len(),
            _ => 1,
        }
    }
}

/// The parts that are durable once a put is.
#[derive(Debug, Default)]
pub struct Announcement(Vec<(Arc<Inbox>, Vec<Putting>)>);

impl Announcement {
    /// Of the acknowledgements that go with a put, each with the class of its entry. One of which a clone is elsewhere waits for
    /// more than this put.
    pub fn of<'a>(acks: impl Iterator<Item = (Class, &'a Ack)>) -> Announcement {
        let mut announcement = Announcement::default();
        for (class, shared) in whole(acks) {
            match &shared.to {
                Waiting::All(acks) => {
                    let all = whole(acks.iter().map(|ack| (class, ack)));
                    all.into_iter().for_each(|(class, shared)| announcement.add(class, shared));
                }
                _ => announcement.add(class, shared),
            }
        }
        announcement
    }

    fn add(&mut self, class: Class, shared: &Shared) {
        let Waiting::Part(Part { inbox, source, spans, .. }) = &shared.to else { return };
        let putting = Putting { source: *source, spans: spans.clone(), class };
        match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, inbox)) {
            Some((_, parts)) => parts.push(putting),
            None => self.0.push((Arc::clone(inbox), vec![putting])),
        }
    }

    /// Whether no input waits for this put by position.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Before the put. Writes files.
    pub fn announce(&self, after: u64) {
        self.0.iter().for_each(|(inbox, parts)| inbox.ahead.announce(after, parts));
    }

    /// After the acknowledgements were resolved.
    pub fn settled(&self) {
        self.0.iter().for_each(|(inbox, _)| inbox.ahead.settled());
    }
}

/// Those of which all clones are here.
fn whole<'a>(acks: impl Iterator<Item = (Class, &'a Ack)>) -> Vec<(Class, &'a Arc<Shared>)> {
    let mut shared: Vec<(Class, &Arc<Shared>)> =
        acks.filter_map(|(class, ack)| Some((class, ack.shared.as_ref()?))).collect();
    shared.sort_by_key(|(_, shared)| Arc::as_ptr(shared));
    let of_one = shared.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(a, b));
    of_one.filter(|clones| Arc::strong_count(clones[0].1) == clones.len()).map(|clones| clones[0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Remembers what was announced.
    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<(u64, Vec<Putting>)>>);

    impl Ahead for Notes {
        fn announce(&self, after: u64, parts: &[Putting]) {
            self.0.lock().unwrap().push((after, parts.to_vec()));
        }

        fn settled(&self) {}
    }

    fn settled(spans: &[(u64, u64)], outcome: Outcome) -> Option<Settled> {
        Some(Settled { source: 7, spans: Spans::from(spans.to_vec()), outcome })
    }

    fn announced(acks: &[&Ack]) -> Vec<(u64, u64)> {
        let announcement = Announcement::of(acks.iter().map(|ack| (Class::Normal, *ack)));
        let parts = announcement.0.into_iter().flat_map(|(_, parts)| parts);
        let mut spans: Vec<(u64, u64)> = parts.flat_map(|part| part.spans.iter().collect::<Vec<_>>()).collect();
        spans.sort_unstable();
        spans
    }

    #[tokio::test]
    async fn each_way_of_a_batch_has_a_verdict_of_its_own_on_its_records() {
        let mut positions = Positions::new(Arc::new(Notes::default()));
        let ack = positions.ack(7, vec![100, 110, 130, 140], 150);
        let [first, second, third] = ack.split::<3>(&[0, 2, 2, 0]);
        assert!(second.is_none());
        third.unwrap().resolve(Outcome::Durable);
        assert_eq!(positions.try_next(), settled(&[(110, 140)], Outcome::Durable));
        assert_eq!(positions.try_next(), None, "the others are under way");
        drop(first);
        assert_eq!(positions.try_next(), settled(&[(100, 110), (140, 150)], Outcome::Dropped));
    }

    #[tokio::test]
    async fn records_that_lie_across_each_other_have_one_verdict_after_all_ways() {
        let mut positions = Positions::new(Arc::new(Notes::default()));
        let [one, other] = positions.ack(7, vec![0, 10, 10, 20], 30).split::<2>(&[0, 1, 1, 0]);
        drop(one);
        assert_eq!(positions.try_next(), settled(&[(0, 10), (20, 30)], Outcome::Dropped), "they go one way");
        drop(other);
        assert_eq!(positions.try_next(), settled(&[(10, 20)], Outcome::Dropped));
        let [one, other] = positions.ack(7, vec![0, 10, 10, 20], 30).split::<2>(&[0, 1, 0, 0]);
        other.unwrap().resolve(Outcome::Durable);
        assert_eq!(positions.try_next(), None);
        one.unwrap().resolve(Outcome::Durable);
        assert_eq!(positions.try_next(), settled(&[(0, 30)], Outcome::Durable));
    }

    #[tokio::test]
    async fn a_batch_without_positions_has_one_verdict_after_all_ways() {
        let (ack, pending) = Ack::new();
        let [first, second] = ack.split::<2>(&[1, 0, 1]);
        first.unwrap().resolve(Outcome::Accepted);
        second.unwrap().resolve(Outcome::Durable);
        assert_eq!(pending.outcome().await, Outcome::Accepted);
        let (ack, pending) = Ack::new();
        assert!(ack.split::<2>(&[]).iter().all(Option::is_none));
        assert_eq!(pending.outcome().await, Outcome::Durable, "there is nothing to wait for");
    }

    #[tokio::test]
    async fn parts_of_one_source_that_wait_together_have_one_verdict() {
        let (mut positions, other) =
            (Positions::new(Arc::new(Notes::default())), Positions::new(Arc::new(Notes::default())));
        let mut held = positions.ack(7, vec![0], 10);
        assert!(held.join(positions.ack(7, vec![10], 20)).is_none());
        assert!(held.join(positions.ack(7, vec![30], 40)).is_none());
        assert_eq!(held.spans(), 2);
        assert!(held.join(positions.ack(8, vec![0], 10)).is_some(), "another source");
        assert!(held.join(other.ack(7, vec![50], 60)).is_some(), "another input");
        let shared = held.clone();
        assert!(held.join(positions.ack(7, vec![60], 70)).is_some(), "a clone of it is under way");
        while positions.try_next().is_some() {}
        shared.resolve(Outcome::Durable);
        held.resolve(Outcome::Durable);
        assert_eq!(positions.try_next(), settled(&[(0, 20), (30, 40)], Outcome::Durable));
    }

    #[test]
    fn a_part_is_announced_with_the_put_that_holds_the_last_of_it() {
        let notes = Arc::new(Notes::default());
        let positions = Positions::new(Arc::clone(&notes) as Arc<dyn Ahead>);
        let (one, two) = (positions.ack(7, vec![0], 10), positions.ack(7, vec![10], 20));
        let elsewhere = two.clone();
        assert_eq!(announced(&[&one, &two]), [(0, 10)]);
        assert_eq!(announced(&[&one, &two, &elsewhere]), [(0, 10), (10, 20)]);
        let all = Ack::all(vec![positions.ack(7, vec![30], 40), positions.ack(7, vec![50], 60)]);
        let clone = all.clone();
        assert!(announced(&[&all]).is_empty());
        assert_eq!(announced(&[&all, &clone]).len(), 2);
        Announcement::of([(Class::Errors, &one)].into_iter()).announce(5);
        let expected = Putting { source: 7, spans: Spans::one(0, 10), class: Class::Errors };
        assert_eq!(*notes.0.lock().unwrap(), [(5, vec![expected])]);
        assert!(
            Announcement::of([(Class::Normal, &Ack::none()), (Class::Normal, &Ack::new().0)].into_iter()).is_empty()
        );
    }
}
