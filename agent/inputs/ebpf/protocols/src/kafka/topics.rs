//! Names of topics by their identifiers, which newer requests name instead.
//!
//! Learned from what brokers say of their topics, on whichever connection they say it: clients ask on one connection and fetch on
//! another, so the names are the whole process's. An identifier is drawn at random once and never given again, so that it has one name
//! everywhere. Invariant: at most [`TOPICS_MAX`] names are kept, some 130 KiB; past it any one of them goes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

const TOPICS_MAX: usize = 512;

static TOPICS: Mutex<Topics> = Mutex::new(Topics(BTreeMap::new()));

/// A topic is called so.
pub(super) fn learn(id: [u8; 16], name: &str) {
    TOPICS.lock().unwrap_or_else(PoisonError::into_inner).learn(id, name);
}

/// The name of a topic, if it was said.
pub(super) fn name(id: &[u8; 16]) -> Option<Box<str>> {
    TOPICS.lock().unwrap_or_else(PoisonError::into_inner).0.get(id).cloned()
}

struct Topics(BTreeMap<[u8; 16], Box<str>>);

impl Topics {
    fn learn(&mut self, id: [u8; 16], name: &str) {
        match self.0.get_mut(&id) {
            Some(known) if **known == *name => {}
            Some(known) => *known = name.into(),
            None => {
                if self.0.len() == TOPICS_MAX {
                    self.0.pop_first();
                }
                self.0.insert(id, name.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_identifier_and_are_bounded() {
        let mut topics = Topics(BTreeMap::new());
        topics.learn([0; 16], "first");
        topics.learn([0; 16], "renamed");
        assert_eq!(topics.0.get(&[0; 16]).map(|name| &**name), Some("renamed"));
        for number in 1..=TOPICS_MAX as u128 {
            topics.learn(number.to_be_bytes(), "other");
        }
        assert_eq!((topics.0.len(), topics.0.get(&[0; 16])), (TOPICS_MAX, None));
    }
}
