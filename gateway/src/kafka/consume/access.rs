//! What the brokers' ACLs keep from the consumer: which right is missing, on what, and whose.
//!
//! The client tells a refusal once, and not of which topic; so topics are known by what the brokers answer about them: nothing to whoever may not
//! describe one, no end of a partition to whoever may not read it. Invariant: what is missing is shown until a broker has given what it
//! had refused.

use crate::config::Kafka;
use crate::kafka::{SIGNALS, topics, user_of};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;
use std::sync::{Mutex, PoisonError};

/// How the client begins what it says of a topic that may be described, and not read.
const FETCH_REFUSED: &str = "Fetch from broker";

/// The end of a partition in an answer that refuses to give it. One below that stands for no answer yet.
const REFUSED_END: i64 = -1;

/// What one user lacks.
#[derive(Debug)]
pub(super) struct Access {
    user: String,
    group: String,
    topics: [String; 3],
    lacks: Mutex<Lacks>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lacks {
    group: bool,
    /// By topic: the brokers do not show it.
    hidden: [bool; 3],
    /// They show it, and nothing that is in it.
    unread: [bool; 3],
    /// Whether a broker refused to give what is in some topic.
    refused: bool,
}

impl Access {
    pub(super) fn new(config: &Kafka) -> Access {
        Access {
            user: user_of(config),
            group: config.group.clone(),
            topics: topics(&config.topic_prefix),
            lacks: Mutex::default(),
        }
    }

    /// A broker refused something; `reason` is what the client says.
    pub(super) fn refused(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        self.change(|lacks| match code {
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => lacks.group = true,
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => lacks.refused |= reason.starts_with(FETCH_REFUSED),
            _ => {}
        });
    }

    /// A broker took something from us as one of the group.
    pub(super) fn in_group(&self) {
        self.change(|lacks| lacks.group = false);
    }

    /// Whether the brokers show a topic, by its place in the list of them.
    pub(super) fn shown(&self, topic: usize, shown: bool) {
        self.change(|lacks| {
            if let Some(hidden) = lacks.hidden.get_mut(topic) {
                *hidden = !shown;
            }
        });
    }

    /// What the client has of the partitions that it reads.
    pub(super) fn reads(&self, statistics: &Statistics) {
        self.change(|lacks| {
            if !lacks.refused {
                return;
            }
            lacks.unread = SIGNALS.map(|signal| {
                let topic = statistics.topics.get(&self.topics[signal as usize]);
                let mut read = topic.into_iter().flat_map(|topic| topic.partitions.values());
                read.any(|partition| partition.fetch_state == "active" && partition.hi_offset == REFUSED_END)
            });
            lacks.refused = lacks.unread.contains(&true);
        });
    }

    /// Whether a topic is known to be kept from us.
    pub(super) fn is_hidden(&self, topic: usize) -> bool {
        self.lacks().hidden.get(topic).copied().unwrap_or(false)
    }

    /// Everything that is missing, in words.
    pub(super) fn missing(&self) -> Vec<String> {
        self.words(&self.lacks())
    }

    fn lacks(&self) -> Lacks {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn words(&self, lacks: &Lacks) -> Vec<String> {
        let Access { user, group, .. } = self;
        let of_group =
            lacks.group.then(|| format!("{user} may not be in group {group}; add the ACL Read on group {group}"));
        let of_topics = self.topics.iter().zip(lacks.hidden.into_iter().zip(lacks.unread)).filter_map(|(topic, state)| {
            match state {
                (true, _) => Some(format!(
                    "{user} is not shown topic {topic}; add the ACL Read on topic {topic}, and make it if it is not there yet"
                )),
                (false, true) => Some(format!("{user} may not read topic {topic}; add the ACL Read on topic {topic}")),
                (false, false) => None,
            }
        });
        of_group.into_iter().chain(of_topics).collect()
    }

    /// Tells what is missing now and was not before.
    fn change(&self, change: impl FnOnce(&mut Lacks)) {
        let (before, now) = {
            let mut lacks = self.lacks.lock().unwrap_or_else(PoisonError::into_inner);
            let before = lacks.clone();
            change(&mut lacks);
            (before, lacks.clone())
        };
        if before == now {
            return;
        }
        let (before, now) = (self.words(&before), self.words(&now));
        for missing in now.iter().filter(|missing| !before.contains(missing)) {
            tracing::warn!("Kafka's brokers refuse what this consumer needs: {missing}");
        }
        if now.is_empty() && !before.is_empty() {
            tracing::info!("Kafka's brokers give what they had refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Layers};
    use rdkafka::statistics::{Partition, Topic};
    use std::collections::HashMap;

    fn access() -> Access {
        let keys = vec![("kafka.sasl_user".to_owned(), "ann".to_owned())];
        let config = Layers::new(None, std::iter::empty(), &Flags { file: None, keys }).unwrap().config().unwrap();
        Access::new(&config.kafka)
    }

    /// The end of the one partition of each topic, as the client has it.
    fn ends(ends: [i64; 3]) -> Statistics {
        let topic = |end: i64| {
            let active = Partition { fetch_state: "active".to_owned(), hi_offset: end, ..Partition::default() };
            Topic { partitions: HashMap::from([(0, active)]), ..Topic::default() }
        };
        let topics = topics("ollystack").into_iter().zip(ends.map(topic)).collect();
        Statistics { topics, ..Statistics::default() }
    }

    #[test]
    fn each_right_that_is_missing_is_named_with_its_user_until_it_is_there() {
        let access = access();
        assert!(access.missing().is_empty());
        access.refused(Some(RDKafkaErrorCode::GroupAuthorizationFailed), "JoinGroup failed: no");
        access.shown(1, false);
        let missing = access.missing();
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(
            missing[0].contains("\"ann\"") && missing[0].contains("Read on group ollystack-gateway"),
            "{missing:?}"
        );
        assert!(missing[1].contains("\"ann\"") && missing[1].contains("Read on topic ollystack-logs"), "{missing:?}");
        access.in_group();
        access.shown(1, true);
        assert!(access.missing().is_empty());
    }

    #[test]
    fn a_topic_that_is_shown_and_not_read_is_known_by_what_its_partitions_lack() {
        let access = access();
        access.reads(&ends([5, -1, 5]));
        assert!(access.missing().is_empty(), "a leader that is no more answers so, too");
        access.refused(Some(RDKafkaErrorCode::TopicAuthorizationFailed), "Fetch from broker 1 failed: no");
        access.reads(&ends([5, -1, -1001]));
        let missing = access.missing();
        assert!(missing.len() == 1 && missing[0].contains("may not read topic ollystack-logs"), "{missing:?}");
        access.shown(1, true);
        assert_eq!(access.missing().len(), 1, "to be shown is not to be read");
        access.reads(&ends([5, 0, 5]));
        assert!(access.missing().is_empty());
    }
}
