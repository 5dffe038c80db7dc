//! Three brokers that are one cluster: each record on all of them, acknowledged once two have it, and no unclean elections.
//!
//! Who leads is asked by Kafka's own protocol (Metadata, version 4), of whichever broker answers.

use super::{Broker, BrokerConfig, Node, Topics, wire};
use crate::wait::until;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::Path;

/// A majority outlives one.
const BROKERS: usize = 3;

/// Three running brokers.
#[derive(Debug)]
pub struct Cluster {
    brokers: Vec<Broker>,
}

/// A partition as a broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Partition {
    number: i32,
    /// Node that leads it; -1 for none.
    leader: i32,
    in_sync: Vec<i32>,
}

impl Cluster {
    /// On free ports, each in a folder of its own below `folder`; waits until all accept connections.
    pub fn start(folder: &Path, topics: Topics) -> Result<Cluster> {
        let nodes = (0..BROKERS).map(|_| Node::new()).collect::<Result<Vec<_>>>()?;
        let configs = (0..BROKERS).map(|of| {
            let folder = folder.join(format!("kafka-{}", of + 1));
            BrokerConfig::node(&folder, &nodes, of, topics, None)
        });
        let configs = configs.collect::<Result<Vec<_>>>()?;
        // None listens before there is a majority.
        let mut brokers = configs.iter().map(BrokerConfig::spawn).collect::<Result<Vec<_>>>()?;
        brokers.iter_mut().try_for_each(Broker::wait)?;
        Ok(Cluster { brokers })
    }

    /// All of them, as `kafka.brokers` has it.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(|broker| broker.address().to_string()).collect();
        addresses.join(",")
    }

    /// One of them, counted from 0.
    pub fn broker(&mut self, number: usize) -> &mut Broker {
        &mut self.brokers[number]
    }

    /// Who leads a partition, as those say that are not `without`; waits until somebody does, who is not `without` either.
    pub fn leader(&self, topic: &str, partition: i32, without: Option<usize>) -> Result<usize> {
        until(&format!("somebody leads partition {partition} of {topic}"), || {
            let known = self.partitions(topic, without)?;
            let leader = known.iter().find(|known| known.number == partition).map_or(-1, |known| known.leader);
            Ok(usize::try_from(leader - 1).ok().filter(|leader| Some(*leader) != without))
        })
    }

    /// Waits until every broker says that all replicas of these topics are in sync.
    pub fn wait_until_all_are_in_sync(&self, topics: &[&str]) -> Result<()> {
        until("all replicas are in sync", || {
            let whole = |broker: &Broker, topic: &&str| {
                let known = ask(broker.address(), topic).unwrap_or_default();
                !known.is_empty() && known.iter().all(|partition| partition.in_sync.len() == BROKERS)
            };
            Ok(self.brokers.iter().all(|broker| topics.iter().all(|topic| whole(broker, topic))).then_some(()))
        })
    }

    /// As the first one says that answers and is not `without`; nothing while none does.
    fn partitions(&self, topic: &str, without: Option<usize>) -> Result<Vec<Partition>> {
        let asked = self.brokers.iter().enumerate().filter(|(number, _)| Some(*number) != without);
        Ok(asked.map(|(_, broker)| ask(broker.address(), topic)).find_map(Result::ok).unwrap_or_default())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The last ones would wait for a majority to take leave of.
        for broker in &mut self.brokers {
            let _ = broker.kill();
        }
    }
}

/// What a broker knows of a topic, without making it.
fn ask(broker: SocketAddr, topic: &str) -> Result<Vec<Partition>> {
    const METADATA: u16 = 3;
    let wanted = [1_u32.to_be_bytes().as_slice(), &wire::string(topic), &[0]].concat();
    let answer = wire::ask(broker, METADATA, 4, &wanted)?;
    Answer(&answer).partitions().context("the answer ends too early")
}

/// What is left to be read of one.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    /// Of the one topic that was asked for.
    fn partitions(&mut self) -> Option<Vec<Partition>> {
        let _throttle = self.number()?;
        self.array(|broker| {
            let _id = broker.number()?;
            broker.skip_string()?;
            let _port = broker.number()?;
            broker.skip_string()
        })?;
        self.skip_string()?;
        let _controller = self.number()?;
        let topics = self.array(|topic| {
            let _error = topic.short()?;
            topic.skip_string()?;
            topic.take(1)?;
            topic.array(|partition| {
                let _error = partition.short()?;
                let (number, leader) = (partition.number()?, partition.number()?);
                let _replicas = partition.array(Self::number)?;
                Some(Partition { number, leader, in_sync: partition.array(Self::number)? })
            })
        })?;
        topics.into_iter().next()
    }

    fn take(&mut self, bytes: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// A length of -1 stands for none.
    fn skip_string(&mut self) -> Option<()> {
        let length = self.short()?;
        self.take(usize::try_from(length).unwrap_or(0)).map(drop)
    }

    fn array<T>(&mut self, one: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.number()?;
        (0..length).map(|_| one(self)).collect()
    }
}
