//! Rights of a broker's users, given and taken by Kafka's own protocol (CreateAcls and DeleteAcls, version 1).

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
    let answer = ask(broker, CREATE_ACLS, 1, &listed(user, rights))?;
    // Throttle time and the number of results, then of each its code (0: given) and no words.
    let results = answer.get(8..).unwrap_or_default().chunks(4).map(|result| result.starts_with(&[0, 0]));
    let given = results.filter(|given| *given).count();
    ensure!(given == rights.len(), "the broker gives not all of {rights:?}: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Takes one away again.
pub(super) fn take(broker: SocketAddr, user: &str, right: Right<'_>) -> Result<()> {
    const DELETE_ACLS: u16 = 31;
    let answer = ask(broker, DELETE_ACLS, 1, &listed(user, &[right]))?;
    // Throttle time and one result: its code (0) and no words, then how many were taken.
    let taken = answer.get(8..).and_then(|result| result.strip_prefix(&[0, 0, 0xff, 0xff]));
    let taken = taken.is_some_and(|taken| taken.starts_with(&1u32.to_be_bytes()));
    ensure!(taken, "the broker does not take {right:?}: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// As a broker is told them, be it to give or to take them.
fn listed(user: &str, rights: &[Right<'_>]) -> Vec<u8> {
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    let mut listed = (rights.len() as u32).to_be_bytes().to_vec();
    for right in rights {
        let (kind, name, operation) = right.parts();
        listed.push(kind);
        listed.extend([string(name), vec![LITERAL], string(&format!("User:{user}")), string("*")].concat());
        listed.extend([operation, ALLOW]);
    }
    listed
}
