//! What is redacted, what takes its place, and how often it happened.
//!
//! Invariant: a kind's name stands in the text that replaces it, in the configuration and in the counters alike.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What was found. Rules of one's own have names of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// The number of a payment card.
    Card,
    /// An e-mail address.
    Email,
    /// An international bank account number.
    Iban,
    /// What lets its bearer in for a while: bearer tokens, `Authorization`, JSON web tokens, cookies, signatures.
    Token,
    /// What lets a program in: access keys and API keys of clouds and vendors.
    Key,
    /// A private key in PEM.
    PrivateKey,
    /// A password, passphrase or secret, known by the name before it or by its place in a URL or command.
    Password,
    /// The value of an attribute that the configuration names.
    Attribute,
}

impl Kind {
    /// All, in order.
    pub const ALL: [Kind; 8] = [
        Kind::Card,
        Kind::Email,
        Kind::Iban,
        Kind::Token,
        Kind::Key,
        Kind::PrivateKey,
        Kind::Password,
        Kind::Attribute,
    ];

    /// As in the text that takes its place.
    pub fn name(self) -> &'static str {
        ["card", "email", "iban", "token", "key", "private_key", "password", "attribute"][self as usize]
    }
}

/// What becomes of something found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// `[redacted:card]` stands in its place.
    Mask,
    /// `[card:9f86d081884c7d65]` stands in its place: a keyed hash, the same for the same value.
    Hash,
    /// Nothing.
    Off,
}

/// How often each kind was redacted, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    kinds: [AtomicU64; Kind::ALL.len()],
    rules: Vec<AtomicU64>,
}

impl Counts {
    pub(crate) fn new(rules: usize) -> Counts {
        Counts { kinds: Default::default(), rules: (0..rules).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn add(&self, what: What) {
        let counter = match what {
            What::Kind(kind) => self.kinds.get(kind as usize),
            What::Rule(rule) => self.rules.get(rule),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn of(&self, what: What) -> u64 {
        let counter = match what {
            What::Kind(kind) => self.kinds.get(kind as usize),
            What::Rule(rule) => self.rules.get(rule),
        };
        counter.map_or(0, |counter| counter.load(Relaxed))
    }
}

/// A kind, or the number of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Kind(Kind),
    Rule(usize),
}

/// A stretch of a text that must go, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Find {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) what: What,
    /// A bare value in JSON: what takes its place needs quotes, or the text is JSON no more.
    pub(crate) bare_json: bool,
}

impl Find {
    pub(crate) fn new(start: usize, end: usize, kind: Kind) -> Find {
        Find { start, end, what: What::Kind(kind), bare_json: false }
    }
}
