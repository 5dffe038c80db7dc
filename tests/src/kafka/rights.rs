//! Rights of a broker's users, given by Kafka's own protocol (CreateAcls, version 1).

use super::wire::{ask, string};
use anyhow::{Result, ensure};
use std::net::SocketAddr;

/// What a user may do, and with what.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// Read a topic, and know of it.
    ReadTopic(&'a str),
    /// Write to a topic, and know of it.
    WriteTopic(&'a str),
    /// Make a topic.
    CreateTopic(&'a str),
    /// Be in a group.
    ReadGroup(&'a str),
}

impl Right<'_> {
    /// Kafka's numbers for the kind of thing and the operation, and the thing's name.
    fn parts(&self) -> (u8, &str, u8) {
        const TOPIC: u8 = 2;
        const GROUP: u8 = 3;
        const READ: u8 = 3;
        const WRITE: u8 = 4;
        const CREATE: u8 = 5;
        match self {
            Right::ReadTopic(name) => (TOPIC, name, READ),
            Right::WriteTopic(name) => (TOPIC, name, WRITE),
            Right::CreateTopic(name) => (TOPIC, name, CREATE),
            Right::ReadGroup(name) => (GROUP, name, READ),
        }
    }
}

/// Gives rights to a user, by way of a listener whose clients may do anything.
pub(super) fn give(broker: SocketAddr, user: &str, rights: &[Right<'_>]) -> Result<()> {
    const CREATE_ACLS: u16 = 30;
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    let mut wanted = (rights.len() as u32).to_be_bytes().to_vec();
    for right in rights {
        let (kind, name, operation) = right.parts();
        wanted.push(kind);
        wanted.extend([string(name), vec![LITERAL], string(&format!("User:{user}")), string("*")].concat());
        wanted.extend([operation, ALLOW]);
    }
    let answer = ask(broker, CREATE_ACLS, 1, &wanted)?;
    // Throttle time and the number of results, then of each its code (0: given) and no words.
    let results = answer.get(8..).unwrap_or_default().chunks(4).map(|result| result.starts_with(&[0, 0]));
    let given = results.filter(|given| *given).count();
    ensure!(given == rights.len(), "the broker gives not all of {rights:?}: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
