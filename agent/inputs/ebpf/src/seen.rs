//! What was seen of each process's requests: which protocols it serves and calls with, through TLS or not, and how many of its connections
//! were given up, for `doctor --processes`.
//!
//! Invariant: at most [`PROCESSES_MAX`] processes are remembered; when there are more, those of which least was seen go.

use crate::config::Protocol;
use hashbrown::HashMap;
use ollystack_ebpf::flow::{ENCRYPTED, MIDWAY, Meta, SERVER};
use serde::Serialize;

const PROCESSES_MAX: usize = 256;

/// A process, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeenProcess {
    /// Its number.
    pub pid: u32,
    /// Protocols in which it answers, as `ebpf.protocols` names them.
    pub serves: Vec<Protocol>,
    /// Protocols in which it asks.
    pub calls: Vec<Protocol>,
    /// Whether any of it went through TLS.
    pub encrypted: bool,
    /// Spans of it.
    pub spans: u64,
    /// Connections on which nothing was of a known protocol.
    pub unrecognised: u64,
    /// The same of connections that had begun before they were looked at.
    pub midway: u64,
}

/// Remembers.
#[derive(Debug, Default)]
pub(crate) struct Seen(HashMap<u32, Process>);

/// Protocols as bits of their numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    serves: u64,
    calls: u64,
    encrypted: bool,
    spans: u64,
    unrecognised: u64,
    midway: u64,
}

impl Process {
    fn seen(&self) -> u64 {
        self.spans + self.unrecognised + self.midway
    }
}

impl Seen {
    /// A connection of this process was given up.
    pub(crate) fn gave_up(&mut self, meta: &Meta) {
        let process = self.process(meta.process);
        *if meta.flags & MIDWAY != 0 { &mut process.midway } else { &mut process.unrecognised } += 1;
    }

    /// A span was made over a connection of this process.
    pub(crate) fn span(&mut self, meta: &Meta) {
        let process = self.process(meta.process);
        let bit = 1_u64.checked_shl(meta.protocol.into()).unwrap_or(0);
        if meta.role == SERVER {
            process.serves |= bit;
        } else {
            process.calls |= bit;
        }
        process.encrypted |= meta.flags & ENCRYPTED != 0;
        process.spans += 1;
    }

    fn process(&mut self, number: u32) -> &mut Process {
        if self.0.len() >= PROCESSES_MAX && !self.0.contains_key(&number) {
            let mut counts: Vec<u64> = self.0.values().map(Process::seen).collect();
            counts.sort_unstable();
            let middle = counts[counts.len() / 2];
            self.0.retain(|_, process| process.seen() > middle);
        }
        self.0.entry(number).or_default()
    }

    /// It runs another program now.
    pub(crate) fn forget(&mut self, process: u32) {
        self.0.remove(&process);
    }

    /// Everything.
    pub(crate) fn read(&self) -> Vec<SeenProcess> {
        let protocols = |bits: u64| {
            let is_in =
                |protocol: &Protocol| 1_u64.checked_shl(protocol.number().into()).is_some_and(|bit| bits & bit != 0);
            Protocol::ALL.into_iter().filter(is_in).collect()
        };
        let told = self.0.iter().map(|(pid, process)| SeenProcess {
            pid: *pid,
            serves: protocols(process.serves),
            calls: protocols(process.calls),
            encrypted: process.encrypted,
            spans: process.spans,
            unrecognised: process.unrecognised,
            midway: process.midway,
        });
        let mut told: Vec<SeenProcess> = told.collect();
        told.sort_unstable_by_key(|process| process.pid);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::flow::CLIENT;
    use ollystack_ebpf::sniff;

    #[test]
    fn a_process_is_told_with_what_it_serves_and_calls() {
        let mut seen = Seen::default();
        let meta = |role, protocol, flags| Meta { process: 7, role, protocol, flags, ..Meta::default() };
        seen.span(&meta(SERVER, sniff::HTTP1, 0));
        seen.span(&meta(CLIENT, sniff::POSTGRESQL, ENCRYPTED));
        seen.span(&meta(CLIENT, sniff::POSTGRESQL, 0));
        let expected = SeenProcess {
            pid: 7,
            serves: vec![Protocol::Http1],
            calls: vec![Protocol::PostgreSql],
            encrypted: true,
            spans: 3,
            unrecognised: 1,
            midway: 2,
        };
        seen.gave_up(&meta(SERVER, 0, 0));
        seen.gave_up(&meta(SERVER, 0, MIDWAY));
        seen.gave_up(&meta(SERVER, 0, MIDWAY | ENCRYPTED));
        assert_eq!(seen.read(), [expected]);
        seen.forget(7);
        assert_eq!(seen.read(), []);
    }

    #[test]
    fn those_of_which_least_was_seen_give_way() {
        let mut seen = Seen::default();
        for process in 0..2_000 {
            for _ in 0..if process == 3 { 9 } else { 1 } {
                seen.span(&Meta { process, ..Meta::default() });
            }
            assert!(seen.0.len() <= PROCESSES_MAX);
        }
        assert!(seen.read().iter().any(|process| (process.pid, process.spans) == (3, 9)));
    }
}
