//! What an input can do on this host: the rows of `ollystack-agent doctor`.

use serde::Serialize;

/// One input, or one feature of an input.
#[derive(Clone, Debug, Serialize)]
pub struct Availability {
    /// For example `host.disk` or `ebpf.requests`.
    pub name: String,
    /// Whether it works here and now.
    pub state: State,
    /// Why it is so: what was found, in a few words.
    pub why: String,
    /// What would turn it on or improve it; empty when nothing is to be done.
    pub remedy: String,
}

/// Whether something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In full.
    On,
    /// In part.
    Partial,
    /// Not at all: cannot, or is configured off.
    Off,
}

impl Availability {
    /// Works in full.
    pub fn on(name: impl Into<String>, why: impl Into<String>) -> Availability {
        Availability { name: name.into(), state: State::On, why: why.into(), remedy: String::new() }
    }

    /// Works in part.
    pub fn partial(name: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Availability {
        Availability { name: name.into(), state: State::Partial, why: why.into(), remedy: remedy.into() }
    }

    /// Does not work.
    pub fn off(name: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Availability {
        Availability { name: name.into(), state: State::Off, why: why.into(), remedy: remedy.into() }
    }
}
