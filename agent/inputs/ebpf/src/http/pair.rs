//! Requests and responses of a connection, joined first in, first out.
//!
//! In: heads with their metadata, in the order the kernel wrote them. Out: [`Exchange`]s. The side that receives the first
//! request of a connection is its server. A gap in a connection's numbers means that a record was lost in the kernel: what
//! waits there can no longer be joined and is counted as lost. Invariant: at most `max` connections are remembered and at
//! most [`PIPELINE_MAX`] requests wait on each; whatever is let go is in [`Counts`].

use super::parse::{self, Request, Response};
use hashbrown::HashMap;
use ollystack_ebpf::Ends;
use ollystack_ebpf::http::{CLOSE, Meta, RECEIVED, REQUEST};
use std::collections::VecDeque;

/// Requests that await their answers on one connection. Clients that pipeline at all send a handful.
const PIPELINE_MAX: usize = 32;
/// A connection without traffic for this long is forgotten; a request that waits longer is not a request any more.
const SILENCE_NS: u64 = 300_000_000_000;
/// How many are looked at to find one that may give way.
const EVICTION_SAMPLE: usize = 16;

/// A request and the start of its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) response: Response,
    /// Metadata of the request: who, where, when.
    pub(crate) meta: Meta,
    /// When the answer began, by the kernel's monotonic clock.
    pub(crate) answered_ns: u64,
    pub(crate) is_server: bool,
}

/// What did not become an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests whose connection ended or fell silent before an answer was seen.
    pub(crate) unanswered: u64,
    /// Responses whose request was not seen.
    pub(crate) unpaired: u64,
    /// Requests behind a gap.
    pub(crate) lost: u64,
    /// Requests beyond a limit.
    pub(crate) over_limit: u64,
}

/// The connections that carry HTTP.
pub(crate) struct Pairing {
    connections: HashMap<u64, Connection>,
    max: usize,
    pub(crate) counts: Counts,
}

struct Connection {
    ends: Ends,
    sequence: u32,
    /// Direction of its requests, as seen here.
    requests: u8,
    waiting: VecDeque<(Request, Meta)>,
    /// A response that another thread read before the record of its request was written.
    early: Option<(Response, u64)>,
    seen_ns: u64,
}

impl Pairing {
    pub(crate) fn new(max: usize) -> Pairing {
        Pairing { connections: HashMap::new(), max, counts: Counts::default() }
    }

    /// Take one record. `head` is what was copied, or the prefix if nothing was.
    pub(crate) fn take(&mut self, meta: &Meta, head: &[u8]) -> Option<Exchange> {
        if meta.kind == CLOSE {
            self.forget(meta.socket);
            return None;
        }
        let is_new =
            self.connections.get(&meta.socket).is_none_or(|known| meta.sequence == 1 || known.ends != meta.ends);
        if is_new {
            self.forget(meta.socket);
            self.make_room();
            let requests = if meta.kind == REQUEST { meta.direction } else { meta.direction ^ 1 };
            let connection = Connection {
                ends: meta.ends,
                sequence: meta.sequence.wrapping_sub(1),
                requests,
                waiting: VecDeque::new(),
                early: None,
                seen_ns: meta.time_ns,
            };
            self.connections.insert(meta.socket, connection);
        }
        let connection = self.connections.get_mut(&meta.socket)?;
        if connection.sequence.wrapping_add(1) != meta.sequence {
            self.counts.lost += connection.waiting.len() as u64;
            connection.waiting.clear();
            connection.early = None;
        }
        connection.sequence = meta.sequence;
        connection.seen_ns = meta.time_ns;
        if meta.kind == REQUEST {
            let request = parse::request(head)?;
            connection.request(request, meta, &mut self.counts)
        } else {
            let response = parse::response(head)?;
            connection.response(response, meta, &mut self.counts)
        }
    }

    /// Forget connections that have been silent for long. Their closes may have been lost.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        let counts = &mut self.counts;
        self.connections.retain(|_, connection| {
            let keep = now_ns.saturating_sub(connection.seen_ns) < SILENCE_NS;
            if !keep {
                connection.end(counts);
            }
            keep
        });
    }

    fn forget(&mut self, socket: u64) {
        if let Some(connection) = self.connections.remove(&socket) {
            connection.end(&mut self.counts);
        }
    }

    /// At the limit one of the longest silent gives way: the oldest of a few, as finding the very oldest would cost a walk.
    fn make_room(&mut self) {
        if self.connections.len() < self.max {
            return;
        }
        let sample = self.connections.iter().take(EVICTION_SAMPLE);
        if let Some(socket) = sample.min_by_key(|(_, connection)| connection.seen_ns).map(|(socket, _)| *socket)
            && let Some(connection) = self.connections.remove(&socket)
        {
            self.counts.over_limit += connection.waiting.len() as u64;
        }
    }
}

impl Connection {
    fn request(&mut self, request: Request, meta: &Meta, counts: &mut Counts) -> Option<Exchange> {
        // What an echoing server sends back looks like a request of its own.
        if meta.direction != self.requests {
            return None;
        }
        if let Some((response, time_ns)) = self.early.take() {
            if self.waiting.is_empty() && time_ns > meta.time_ns {
                return Some(exchange(request, response, *meta, time_ns));
            }
            counts.unpaired += 1;
        }
        if self.waiting.len() == PIPELINE_MAX {
            self.waiting.pop_front();
            counts.over_limit += 1;
        }
        self.waiting.push_back((request, *meta));
        None
    }

    fn response(&mut self, response: Response, meta: &Meta, counts: &mut Counts) -> Option<Exchange> {
        // "Continue" and early hints precede the answer; "switching protocols" is one.
        if meta.direction == self.requests || (response.status < 200 && response.status != 101) {
            return None;
        }
        match self.waiting.pop_front() {
            Some((request, asked)) => Some(exchange(request, response, asked, meta.time_ns)),
            None => {
                counts.unpaired += u64::from(self.early.replace((response, meta.time_ns)).is_some());
                None
            }
        }
    }

    fn end(&self, counts: &mut Counts) {
        counts.unanswered += self.waiting.len() as u64;
        counts.unpaired += u64::from(self.early.is_some());
    }
}

fn exchange(request: Request, response: Response, meta: Meta, answered_ns: u64) -> Exchange {
    Exchange { request, response, is_server: meta.direction == RECEIVED, answered_ns, meta }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::http::{RESPONSE, SENT};

    const ASK: &[u8] = b"GET /a HTTP/1.1\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

    struct Side {
        pairing: Pairing,
        sequence: u32,
        time_ns: u64,
    }

    impl Side {
        fn new() -> Side {
            Side { pairing: Pairing::new(16), sequence: 0, time_ns: 0 }
        }

        fn meta(&mut self, kind: u8, direction: u8) -> Meta {
            self.sequence += 1;
            self.time_ns += 10;
            Meta {
                time_ns: self.time_ns,
                socket: 1,
                process: 7,
                thread: 7,
                sequence: self.sequence,
                length: 0,
                captured: 0,
                kind,
                direction,
                reserved: 0,
                ends: Ends::default(),
                command: [0; 16],
                prefix: [0; 16],
            }
        }

        fn take(&mut self, kind: u8, direction: u8, head: &[u8]) -> Option<(String, u16, u64)> {
            let meta = self.meta(kind, direction);
            let found = self.pairing.take(&meta, head)?;
            Some((found.request.path?, found.response.status, found.answered_ns - found.meta.time_ns))
        }
    }

    #[test]
    fn answers_join_requests_first_in_first_out() {
        let mut side = Side::new();
        assert_eq!(side.take(REQUEST, SENT, b"GET /a HTTP/1.1\r\n\r\n"), None);
        assert_eq!(side.take(REQUEST, SENT, b"GET /b HTTP/1.1\r\n\r\n"), None);
        assert_eq!(side.take(RESPONSE, RECEIVED, b"HTTP/1.1 200 OK\r\n\r\n"), Some(("/a".into(), 200, 20)));
        assert_eq!(side.take(RESPONSE, RECEIVED, b"HTTP/1.1 404 No\r\n\r\n"), Some(("/b".into(), 404, 20)));
        assert_eq!(side.pairing.counts, Counts::default());
    }

    #[test]
    fn who_receives_the_first_request_is_the_server() {
        for (direction, is_server) in [(RECEIVED, true), (SENT, false)] {
            let mut side = Side::new();
            side.take(REQUEST, direction, ASK);
            let meta = side.meta(RESPONSE, direction ^ 1);
            assert_eq!(side.pairing.take(&meta, OK).unwrap().is_server, is_server);
        }
    }

    #[test]
    fn interim_answers_do_not_end_a_request_but_switching_protocols_does() {
        let mut side = Side::new();
        side.take(REQUEST, RECEIVED, ASK);
        assert_eq!(side.take(RESPONSE, SENT, b"HTTP/1.1 100 Continue\r\n\r\n"), None);
        assert_eq!(side.take(RESPONSE, SENT, b"HTTP/1.1 101 Switching\r\n\r\n").unwrap().1, 101);
    }

    #[test]
    fn an_echo_is_neither_a_request_nor_an_answer() {
        let mut side = Side::new();
        side.take(REQUEST, RECEIVED, ASK);
        assert_eq!(side.take(REQUEST, SENT, ASK), None);
        assert_eq!(side.take(RESPONSE, RECEIVED, OK), None);
        assert_eq!(side.take(RESPONSE, SENT, OK).unwrap().1, 200);
    }

    #[test]
    fn a_gap_lets_go_of_what_waits_instead_of_joining_it_wrongly() {
        let mut side = Side::new();
        side.take(REQUEST, SENT, ASK);
        side.sequence += 1;
        assert_eq!(side.take(RESPONSE, RECEIVED, OK), None);
        assert_eq!(side.pairing.counts.lost, 1);
        side.take(REQUEST, SENT, b"GET /next HTTP/1.1\r\n");
        assert_eq!(side.take(RESPONSE, RECEIVED, OK).unwrap().0, "/next");
    }

    #[test]
    fn an_answer_recorded_before_its_request_still_joins_it() {
        let mut side = Side::new();
        let mut ask = side.meta(REQUEST, SENT);
        let mut answer = side.meta(RESPONSE, RECEIVED);
        (ask.sequence, answer.sequence) = (2, 1);
        assert!(side.pairing.take(&answer, OK).is_none());
        assert_eq!(side.pairing.take(&ask, ASK).unwrap().answered_ns, answer.time_ns);
    }

    #[test]
    fn an_answer_to_a_request_from_before_does_not_join_the_next_one() {
        let mut side = Side::new();
        assert_eq!(side.take(RESPONSE, RECEIVED, OK), None);
        assert_eq!(side.take(REQUEST, SENT, ASK), None);
        assert_eq!(side.pairing.counts.unpaired, 1);
        assert_eq!(side.take(RESPONSE, RECEIVED, b"HTTP/1.1 500 No\r\n").unwrap().1, 500);
    }

    #[test]
    fn a_socket_s_memory_given_to_another_connection_starts_anew() {
        let mut side = Side::new();
        side.take(REQUEST, SENT, ASK);
        side.sequence = 0;
        side.take(REQUEST, RECEIVED, b"GET /new HTTP/1.1\r\n");
        assert_eq!(side.pairing.counts.unanswered, 1);
        assert_eq!(side.take(RESPONSE, SENT, OK).unwrap().0, "/new");
    }

    #[test]
    fn requests_end_unanswered_with_their_connection_or_after_long_silence() {
        let mut side = Side::new();
        side.take(REQUEST, SENT, ASK);
        side.take(CLOSE, SENT, b"");
        assert_eq!((side.pairing.counts.unanswered, side.pairing.connections.len()), (1, 0));
        side.sequence = 0;
        side.take(REQUEST, SENT, ASK);
        side.pairing.expire(side.time_ns + SILENCE_NS - 1);
        assert_eq!(side.pairing.counts.unanswered, 1);
        side.pairing.expire(side.time_ns + SILENCE_NS);
        assert_eq!((side.pairing.counts.unanswered, side.pairing.connections.len()), (2, 0));
    }

    #[test]
    fn neither_connections_nor_pipelines_grow_without_limit() {
        let mut side = Side::new();
        for _ in 0..PIPELINE_MAX + 5 {
            side.take(REQUEST, SENT, ASK);
        }
        assert_eq!(side.pairing.counts.over_limit, 5);
        for socket in 0..100 {
            side.sequence = 0;
            let meta = Meta { socket, ..side.meta(REQUEST, SENT) };
            side.pairing.take(&meta, ASK);
        }
        assert_eq!(side.pairing.connections.len(), 16);
        let held: usize = side.pairing.connections.values().map(|connection| connection.waiting.len()).sum();
        let Counts { unanswered, over_limit, .. } = side.pairing.counts;
        assert_eq!(held as u64 + unanswered + over_limit, PIPELINE_MAX as u64 + 5 + 100, "every request is somewhere");
    }

    #[test]
    fn records_that_are_no_heads_change_nothing() {
        let mut side = Side::new();
        side.take(REQUEST, SENT, ASK);
        assert_eq!(side.take(RESPONSE, RECEIVED, b"HTTP/1.1 abc"), None);
        assert_eq!(side.take(REQUEST, SENT, b"GOT / HTTP/1.1\r\n"), None);
        assert_eq!(side.take(9, RECEIVED, OK).unwrap().1, 200);
    }
}
