//! What was handed in and is not settled yet, and the cursor that is saved as verdicts arrive.
//!
//! What is handed in between two saves is one group with one acknowledgement, as a finer cursor would not be written anyway; so an
//! hour of verdicts that do not come is some thousand groups. Invariant: a cursor is saved only after everything before it is
//! settled.

use crate::cursor::{Place, Store};
use crate::stats::Stats;
use ollystack_record::{Ack, Outcome, Verdicts};
use std::collections::VecDeque;
use std::sync::Arc;

/// Groups that wait for their verdict; past it the last one takes in more instead.
const GROUPS_MAX: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Commits {
    store: Arc<Store>,
    stats: Arc<Stats>,
    verdicts: Verdicts,
    groups: VecDeque<Group>,
    /// Of the last group, while it takes in more.
    ack: Option<Ack>,
    /// Number of the last group.
    last: u64,
    committed: Option<Place>,
    pub(crate) is_unsaved: bool,
}

#[derive(Debug)]
struct Group {
    number: u64,
    place: Option<Place>,
    is_settled: bool,
}

impl Commits {
    pub(crate) fn new(store: Store, stats: Arc<Stats>) -> Commits {
        let (store, verdicts) = (Arc::new(store), Verdicts::default());
        Commits {
            store,
            stats,
            verdicts,
            groups: VecDeque::new(),
            ack: None,
            last: 0,
            committed: None,
            is_unsaved: false,
        }
    }

    /// For a batch.
    pub(crate) fn ack(&mut self) -> Ack {
        if let Some(ack) = &self.ack {
            return ack.clone();
        }
        self.last += 1;
        self.groups.push_back(Group { number: self.last, place: None, is_settled: false });
        let ack = self.verdicts.ack(self.last);
        self.ack = Some(ack.clone());
        ack
    }

    /// Everything up to here was handed in, or is nobody's.
    pub(crate) fn handed_in(&mut self, place: Place) {
        match self.groups.back_mut() {
            Some(group) => group.place = Some(place),
            None => self.committed = Some(place),
        }
        self.is_unsaved = true;
    }

    pub(crate) async fn next(&mut self) -> (u64, Outcome) {
        self.verdicts.next().await
    }

    /// The verdict is in. What was dropped while the agent runs is gone for good, and the ledger says why; dropped while stopping,
    /// the disk may have had no chance: it is read again after the restart.
    pub(crate) fn settle(&mut self, (number, outcome): (u64, Outcome), is_stopping: bool) {
        if outcome == Outcome::Dropped && is_stopping {
            // Nothing behind it may be committed either.
            let at = self.groups.partition_point(|group| group.number < number);
            self.groups.truncate(at);
            return;
        }
        if let Some(group) = self.groups.iter_mut().find(|group| group.number == number) {
            group.is_settled = true;
        }
        while self.groups.front().is_some_and(|group| group.is_settled) {
            if let Some(place) = self.groups.pop_front().and_then(|group| group.place) {
                self.committed = Some(place);
                self.is_unsaved = true;
            }
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.groups.is_empty()
    }

    /// The last group takes in no more: its verdict comes once what it has is settled.
    pub(crate) fn end_group(&mut self) {
        if self.groups.len() < GROUPS_MAX {
            self.end();
        }
    }

    /// As [`Commits::end_group`], however many groups wait: nothing more is handed in.
    pub(crate) fn end(&mut self) {
        if let Some(ack) = self.ack.take() {
            ack.resolve(Outcome::Durable);
        }
    }

    /// Write down what is committed. A failure is said each time: it costs entries read twice after a restart.
    pub(crate) async fn save(&mut self) {
        self.is_unsaved = false;
        let Some(place) = self.committed.clone() else { return };
        let store = Arc::clone(&self.store);
        let saved = tokio::task::spawn_blocking(move || store.save(&place).map(|()| place)).await;
        match saved.map_err(std::io::Error::other).and_then(|saved| saved) {
            Ok(place) => self.stats.update(|stats| stats.committed = place.cursor),
            Err(error) => {
                let path = self.store.path().display();
                tracing::error!(%path, %error, "the journal's cursor is not saved, a restart reads entries again; check the disk");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::Afterwork;

    #[tokio::test]
    async fn the_cursor_moves_in_order_and_never_past_what_is_not_settled() {
        let folder = tempfile::tempdir().unwrap();
        let place = |cursor: &str| Place { cursor: cursor.into(), time_unix_nano: 1 };
        let mut commits = Commits::new(Store::new(folder.path()).unwrap(), Arc::default());
        commits.handed_in(place("nothing waits"));
        assert_eq!(commits.committed, Some(place("nothing waits")));
        let acks = ["a", "b", "c"].map(|cursor| {
            let ack = commits.ack();
            commits.handed_in(place(cursor));
            commits.end_group();
            ack
        });
        let [a, b, c] = acks;
        b.resolve(Outcome::Durable);
        let verdict = commits.next().await;
        commits.settle(verdict, false);
        assert_eq!(commits.committed, Some(place("nothing waits")), "a is not settled");
        a.resolve(Outcome::Dropped);
        let verdict = commits.next().await;
        commits.settle(verdict, false);
        assert_eq!(commits.committed, Some(place("b")), "what is gone for good is not read again");
        c.resolve(Outcome::Dropped);
        let verdict = commits.next().await;
        commits.settle(verdict, true);
        commits.save().await;
        assert!(commits.is_settled());
        assert_eq!(Store::new(folder.path()).unwrap().load().unwrap(), Some(place("b")), "dropped in stopping");
    }

    #[tokio::test]
    async fn on_stop_the_last_group_is_settled_however_many_waited() {
        let folder = tempfile::tempdir().unwrap();
        let mut commits = Commits::new(Store::new(folder.path()).unwrap(), Arc::default());
        let hand_in = |number: usize| {
            let ack = commits.ack();
            commits.handed_in(Place { cursor: number.to_string(), time_unix_nano: 1 });
            commits.end_group();
            ack
        };
        let acks: Vec<Ack> = (1..=GROUPS_MAX).map(hand_in).collect();
        acks.into_iter().for_each(|ack| ack.resolve(Outcome::Durable));
        let settled = crate::follow::settle(commits, Afterwork::default());
        tokio::time::timeout(std::time::Duration::from_secs(60), settled).await.expect("the last one waits for itself");
        let saved = Store::new(folder.path()).unwrap().load().unwrap();
        assert_eq!(saved.map(|place| place.cursor), Some(GROUPS_MAX.to_string()));
    }
}
