//! HTTP/1.x: heads at the start of messages, bodies stepped over by their length.
//!
//! A body of unknown length (chunked, or until the connection closes) loses the place, which the next turn finds again. A
//! connection that is upgraded to HTTP/2 goes on as one: the request is then answered on the first stream. Grammar: RFC
//! 9112. Invariant: nothing of a query, a cookie or an authorization header comes out: they are never looked at.

pub(crate) mod parse;

use crate::http::{self, Request};
use crate::pending::Pair;
use crate::{Chunk, Fifo, Found, HttpTwo, Measure, Moment, Protocol, Side, Stream};
use parse::Answer;
use std::cell::Cell;

/// A connection.
#[derive(Debug, Default)]
pub struct HttpOne {
    requests: Stream,
    responses: Stream,
    waiting: Fifo<Request, Answer>,
    /// What it has become.
    upgraded: Option<Box<HttpTwo>>,
}

impl Protocol for HttpOne {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let HttpOne { requests, responses, waiting, upgraded } = self;
        if let Some(upgraded) = upgraded {
            return upgraded.take(chunk, found);
        }
        if chunk.from == Side::Client {
            // Measured means read: what was found is told when its message comes out.
            let read = Cell::new(None);
            return requests.walk(
                chunk,
                |bytes| measure_request(bytes, &read),
                |message| {
                    let request = read.take().or_else(|| parse::request(message.bytes));
                    ask(waiting, upgraded, request, message.began, found);
                },
            );
        }
        // An answer comes although the request's head was not complete: that was all of it that is to be seen.
        if chunk.is_turn
            && let Some((bytes, began)) = requests.give_up()
        {
            ask(waiting, upgraded, parse::request(&bytes), began, found);
        }
        let is_head = Cell::new(waiting.oldest(0).is_some_and(|request| request.method == "HEAD"));
        let is_upgraded = Cell::new(false);
        let read = Cell::new(None);
        responses.walk(
            chunk,
            |bytes| match is_upgraded.get() {
                // What lies behind the head that upgrades is HTTP/2, all of it.
                true => Measure::Whole { length: bytes.len() as u32, wanted: 0 },
                false => measure_response(bytes, is_head.get(), &read),
            },
            |message| {
                if let Some(upgraded) = upgraded {
                    let before = chunk.bytes.len().saturating_sub(message.bytes.len()) as u32;
                    let (position, length) = (chunk.position.wrapping_add(before), chunk.length.saturating_sub(before));
                    return upgraded.take(&Chunk { position, length, bytes: message.bytes, ..*chunk }, found);
                }
                // "Continue" and early hints precede the answer; "switching protocols" is one.
                let response = read.take().or_else(|| parse::response(message.bytes));
                if let Some(response) = response.filter(|it| it.status >= 200 || it.status == 101) {
                    let pair = waiting.answer(0, message.began, response, found);
                    tell(pair, upgraded, found);
                    is_upgraded.set(upgraded.is_some());
                    is_head.set(waiting.oldest(0).is_some_and(|request| request.method == "HEAD"));
                }
            },
        );
    }

    fn gap(&mut self, found: &mut Found) {
        if let Some(upgraded) = &mut self.upgraded {
            upgraded.gap(found);
        }
        self.requests.lose();
        self.responses.lose();
        self.waiting.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        if let Some(upgraded) = &mut self.upgraded {
            upgraded.end(found);
        }
        self.waiting.end(found);
    }
}

fn ask(
    waiting: &mut Fifo<Request, Answer>,
    upgraded: &mut Option<Box<HttpTwo>>,
    request: Option<Request>,
    began: Moment,
    found: &mut Found,
) {
    if let Some(request) = request {
        found.asked.push((began, request.context));
        let pair = waiting.ask(0, began, request, found);
        tell(pair, upgraded, found);
    }
}

fn tell(pair: Option<Pair<Request, Answer>>, upgraded: &mut Option<Box<HttpTwo>>, found: &mut Found) {
    let Some(((asked, request), (answered, answer))) = pair else { return };
    if answer.is_upgrade {
        *upgraded = Some(Box::new(HttpTwo::upgraded(asked, request)));
    } else {
        found.exchanges.push(http::exchange(asked, request, answered, answer.into()));
    }
}

fn measure_request(bytes: &[u8], read: &Cell<Option<Request>>) -> Measure {
    match parse::request(bytes) {
        Some(request) => {
            let body_bytes = request.body_bytes;
            read.set(Some(request));
            measure(bytes, body_bytes)
        }
        None if parse::may_become_request(bytes) => Measure::More,
        None => Measure::Invalid,
    }
}

fn measure_response(bytes: &[u8], is_head: bool, read: &Cell<Option<Answer>>) -> Measure {
    let answer = parse::response(bytes);
    read.set(answer);
    match answer {
        Some(Answer { status, .. }) if is_head || status < 200 || matches!(status, 204 | 304) => measure(bytes, None),
        Some(response) => measure(bytes, response.body_bytes),
        None if parse::may_become_response(bytes) => Measure::More,
        None => Measure::Invalid,
    }
}

fn measure(bytes: &[u8], body_bytes: Option<u64>) -> Measure {
    match parse::head_bytes(bytes) {
        Some(head) => {
            let length = (head as u64).saturating_add(body_bytes.unwrap_or(0));
            Measure::Whole { length: u32::try_from(length).unwrap_or(head as u32), wanted: head as u32 }
        }
        None => Measure::More,
    }
}

#[cfg(test)]
mod tests {
    use crate::play::Play;
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string;
    use ollystack_schema::names::semconv;

    #[test]
    fn answers_join_requests_first_in_first_out_also_when_they_are_pipelined() {
        let mut play = Play::new(sniff::HTTP1);
        play.client(b"GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nxyGET /c HTTP/1.1\r\n\r\n");
        play.server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
        play.server(b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(play.told(), ["GET /a", "POST /b 404 (client)", "GET /c 503"]);
    }

    #[test]
    fn a_head_that_comes_in_parts_is_one() {
        let mut play = Play::new(sniff::HTTP1);
        for part in ["GE", "T /a/1 HT", "TP/1.1\r\nHost: shop\r\n", "\r\n"] {
            play.client(part.as_bytes());
        }
        play.server(b"HTTP/1.1 4");
        play.server(b"04");
        play.server(b" No\r\n\r\n");
        assert_eq!(play.told(), ["GET /a/{id} 404 (client)"]);
        let found = &play.exchanges()[0];
        assert!(found.attributes.contains(&string(semconv::SERVER_ADDRESS, "shop")));
        assert!(found.answered.time_ns - found.asked.time_ns > 2, "from the first part to the answer's first");
    }

    #[test]
    fn bodies_of_any_kind_are_no_heads() {
        let mut play = Play::new(sniff::HTTP1);
        play.client(b"POST /in HTTP/1.1\r\nContent-Length: 23\r\n\r\n");
        play.client(b"GET /body HTTP/1.1\r\n\r\n ");
        play.server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nHTTP/\r\n");
        play.server(b"HTTP/1.1 500 chunk\r\n\r\n");
        play.client(b"HEAD /big HTTP/1.1\r\n\r\nGET /next HTTP/1.1\r\n\r\n");
        play.server(b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\nHTTP/1.1 204 No\r\n\r\n");
        assert_eq!(play.told(), ["POST /in", "HEAD /big", "GET /next"]);
    }

    #[test]
    fn an_answer_that_comes_before_the_body_is_all_there_does_not_lose_the_next_request() {
        let mut play = Play::new(sniff::HTTP1);
        play.client(b"POST /in HTTP/1.1\r\nContent-Length: 9\r\n\r\nbody");
        play.server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        play.client(b"bo");
        play.client(b"dy.GET /next HTTP/1.1\r\n\r\n");
        play.server(b"HTTP/1.1 204 OK\r\n\r\n");
        assert_eq!(play.told(), ["POST /in", "GET /next"]);
    }

    #[test]
    fn heads_longer_than_what_is_copied_are_read_as_far_as_they_go() {
        let mut play = Play::new(sniff::HTTP1);
        play.client_cut(b"GET /a HTTP/1.1\r\nHost: sh", 5_000);
        play.server_cut(b"HTTP/1.1 200 OK\r\nContent-Le", 5_000);
        assert_eq!(play.told(), ["GET /a"]);
    }

    #[test]
    fn interim_answers_do_not_end_a_request_but_switching_protocols_does() {
        let mut play = Play::new(sniff::HTTP1);
        play.client(b"GET /a HTTP/1.1\r\n\r\n");
        play.server(b"HTTP/1.1 100 Continue\r\n\r\n");
        assert!(play.told().is_empty());
        play.server(b"HTTP/1.1 101 Switching\r\n\r\n");
        assert_eq!(play.told(), ["GET /a"]);
    }

    #[test]
    fn a_gap_lets_go_of_what_waits_instead_of_joining_it_wrongly() {
        let mut play = Play::new(sniff::HTTP1);
        play.client(b"GET /a HTTP/1.1\r\n\r\n");
        play.gap();
        play.server(b"HTTP/1.1 200 OK\r\n\r\n");
        play.client(b"GET /b HTTP/1.1\r\n\r\n");
        play.server(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((play.told(), play.found().lost), (vec!["GET /b".to_owned()], 1));
    }
}
