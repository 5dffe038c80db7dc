//! HTTP/2, and gRPC over it: frames to blocks of fields, and those to the streams that they are of.
//!
//! Each side's frames are cut by [`Stream`], which steps over bodies. Where frames were missed, the next call that begins
//! like one is where a side goes on, and what HPACK knew of that side is forgotten. Format: RFC 9113; of gRPC: "gRPC over
//! HTTP2". Invariant: once a block of fields was missed, no field is told by what came before it.

mod calls;
mod grpc;
mod heads;
mod hpack;
mod huffman;

use crate::http::Request;
use crate::{Chunk, Found, Measure, Moment, Protocol, Side, Stream};
use calls::Calls;
use heads::Heads;
use hpack::Table;
use ollystack_ebpf::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEAD_BYTES, HEADERS, PADDED, PREFACE, PUSH_PROMISE,
    RST_STREAM, WITH_PRIORITY, frame,
};
use std::cell::Cell;

/// A block of fields in several frames: the longest that is kept.
const BLOCK_BYTES_MAX: usize = 4 * 1024;

/// A connection.
#[derive(Debug, Default)]
pub struct HttpTwo {
    client: Half,
    server: Half,
    calls: Calls,
}

/// What one side sends.
#[derive(Debug, Default)]
struct Half {
    stream: Stream,
    /// A frame was read since the place was found: the next begins where that one says.
    is_sure: bool,
    table: Table,
    block: Option<Block>,
}

/// The start of a block of fields.
#[derive(Debug)]
struct Block {
    /// Of its first frame.
    frame: Frame,
    began: Moment,
    is_whole: bool,
    bytes: Vec<u8>,
}

/// What a frame says of a stream.
#[derive(Debug)]
enum Event {
    /// The head of a message, or its trailers.
    Fields(Heads),
    /// The sender is done.
    End,
    /// The stream is over.
    Reset(u32),
    /// So are all past this one.
    GoAway,
}

impl HttpTwo {
    /// A connection of HTTP/1.1 whose request is answered as the first stream of HTTP/2 (RFC 7540, section 3.2).
    pub(crate) fn upgraded(asked: Moment, request: Request) -> HttpTwo {
        let mut calls = Calls::default();
        calls.ask(1, asked, Heads::of(request), &mut Found::default());
        HttpTwo { calls, ..HttpTwo::default() }
    }

    /// Memory that it takes beyond its own size.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let block = |half: &Half| half.block.as_ref().map_or(0, |block| block.bytes.len());
        let half = |half: &Half| half.table.held_bytes() + half.stream.held_bytes() + block(half);
        half(&self.client) + half(&self.server) + self.calls.held_bytes()
    }
}

impl Protocol for HttpTwo {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let HttpTwo { client, server, calls } = self;
        match chunk.from {
            Side::Client => client.take(chunk, |stream, at, event| match event {
                Event::Fields(heads) => calls.ask(stream, at, heads, found),
                Event::Reset(code) => calls.reset(stream, at, Side::Client, code, found),
                Event::End | Event::GoAway => {}
            }),
            Side::Server => server.take(chunk, |stream, at, event| match event {
                Event::Fields(heads) => calls.answer(stream, at, heads, found),
                Event::End => calls.end_of_answer(stream, at, found),
                Event::Reset(code) => calls.reset(stream, at, Side::Server, code, found),
                Event::GoAway => calls.go_away(stream, at, found),
            }),
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.client.lose();
        self.server.lose();
        self.calls.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.calls.end(found);
    }
}

impl Half {
    fn lose(&mut self) {
        self.stream.lose();
        self.forget();
    }

    /// Frames were missed.
    fn forget(&mut self) {
        self.is_sure = false;
        self.table.forget();
        self.block = None;
    }

    /// What becomes known with a chunk: the stream, when its frame began, and what it says.
    fn take(&mut self, chunk: &Chunk<'_>, mut each: impl FnMut(u32, Moment, Event)) {
        if !self.stream.continues(chunk) {
            self.forget();
        }
        let Half { stream, is_sure, table, block } = self;
        let sure = Cell::new(*is_sure);
        // The sides take no turns: any call may begin with a frame, and nearly all do.
        let chunk = Chunk { is_turn: true, ..*chunk };
        stream.walk(
            &chunk,
            |bytes| measure(bytes, sure.get()),
            |message| {
                if let Some((head, payload)) = message.bytes.split_first_chunk()
                    && !message.bytes.starts_with(&PREFACE[..3])
                {
                    let payload_bytes = message.length.saturating_sub(HEAD_BYTES as u32);
                    let frame = Frame { payload_bytes, ..frame(head) };
                    if let Some((stream, began, event)) = event(table, block, frame, message.began, payload) {
                        each(stream, began, event);
                    }
                }
                sure.set(true);
            },
        );
        *is_sure = sure.get();
    }
}

/// A frame, or the preface. Where nothing says that a frame begins, only a likely one is taken.
fn measure(bytes: &[u8], is_sure: bool) -> Measure {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Measure::More };
    if PREFACE.starts_with(head) {
        let length = PREFACE.len() as u32;
        return Measure::Whole { length, wanted: length };
    }
    let frame = frame(head);
    if if is_sure { frame.is_valid() } else { frame.is_likely() } {
        Measure::Whole { length: frame.bytes(), wanted: frame.wanted_bytes() }
    } else {
        Measure::Invalid
    }
}

/// What a frame says, with the blocks of fields that it ends.
fn event(
    table: &mut Table,
    block: &mut Option<Block>,
    frame: Frame,
    began: Moment,
    payload: &[u8],
) -> Option<(u32, Moment, Event)> {
    if block.as_ref().is_some_and(|block| frame.kind != CONTINUATION || block.frame.stream != frame.stream) {
        // Nothing may come between.
        *block = None;
        table.forget();
    }
    let number = || payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let is_whole = payload.len() == frame.payload_bytes as usize;
    match frame.kind {
        HEADERS | PUSH_PROMISE => {
            let Some(fragment) = fragment(frame, payload) else {
                table.forget();
                return None;
            };
            if frame.flags & END_HEADERS != 0 {
                return fields(table, frame, began, fragment, is_whole);
            }
            *block = Some(Block { frame, began, is_whole: true, bytes: Vec::new() });
            block.as_mut()?.append(fragment, is_whole);
            None
        }
        CONTINUATION => {
            block.as_mut()?.append(payload, is_whole);
            if frame.flags & END_HEADERS == 0 {
                return None;
            }
            let Block { frame, began, is_whole, bytes } = block.take()?;
            fields(table, frame, began, &bytes, is_whole)
        }
        DATA if frame.flags & END_STREAM != 0 => Some((frame.stream, began, Event::End)),
        RST_STREAM => Some((frame.stream, began, Event::Reset(number()))),
        GOAWAY => Some((number() & 0x7FFF_FFFF, began, Event::GoAway)),
        _ => None,
    }
}

impl Block {
    fn append(&mut self, fragment: &[u8], is_whole: bool) {
        let room = BLOCK_BYTES_MAX - self.bytes.len();
        // Behind a hole, nothing is read.
        let taken = if self.is_whole { fragment.len().min(room) } else { 0 };
        self.bytes.extend_from_slice(&fragment[..taken]);
        self.is_whole &= is_whole && taken == fragment.len();
    }
}

/// The fields in a frame, without padding, priority and promised stream. `None` if there is less than those.
fn fragment(frame: Frame, payload: &[u8]) -> Option<&[u8]> {
    let mut rest = payload;
    let mut end = frame.payload_bytes as usize;
    if frame.flags & PADDED != 0 {
        let (padding, more) = rest.split_first()?;
        (rest, end) = (more, end.checked_sub(1 + usize::from(*padding))?);
    }
    let before = match frame.kind {
        PUSH_PROMISE => 4,
        _ if frame.flags & WITH_PRIORITY != 0 => 5,
        _ => 0,
    };
    end = end.checked_sub(before)?;
    let rest = rest.get(before..)?;
    Some(&rest[..rest.len().min(end)])
}

/// What a block of fields says; of a promise nothing, but its fields are in the table from now on.
fn fields(
    table: &mut Table,
    frame: Frame,
    began: Moment,
    block: &[u8],
    is_whole: bool,
) -> Option<(u32, Moment, Event)> {
    let mut heads = Heads::new(frame.flags & END_STREAM != 0);
    table.decode(block, is_whole, |field| heads.add(field));
    (frame.kind == HEADERS).then_some((frame.stream, began, Event::Fields(heads)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::Play;
    use crate::{Exchange, HELD_BYTES_MAX};
    use ollystack_ebpf::http2::SETTINGS;
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::{int_attribute, string_attribute};
    use ollystack_schema::names::semconv;
    use proptest::prelude::*;

    /// Bits in front of a literal: kept in the table, or not.
    const KEPT: u8 = 0x40;
    const NOT_KEPT: u8 = 0;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn literal(bits: u8, name: &str, value: &str) -> Vec<u8> {
        [&[bits, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    }

    fn fields(bits: u8, fields: &[(&str, &str)]) -> Vec<u8> {
        fields.iter().flat_map(|(name, value)| literal(bits, name, value)).collect()
    }

    fn headers(flags: u8, stream: u32, block: &[u8]) -> Vec<u8> {
        frame(HEADERS, flags | END_HEADERS, stream, block)
    }

    /// GET with a path, without a body.
    fn get(stream: u32, path: &str) -> Vec<u8> {
        headers(END_STREAM, stream, &[&[0x82][..], &fields(NOT_KEPT, &[(":path", path)])].concat())
    }

    /// POST of gRPC.
    fn rpc(stream: u32, path: &str) -> Vec<u8> {
        let more = [(":path", path), ("content-type", "application/grpc")];
        headers(0, stream, &[&[0x83][..], &fields(NOT_KEPT, &more)].concat())
    }

    fn status(flags: u8, stream: u32, status: &str) -> Vec<u8> {
        headers(flags, stream, &literal(NOT_KEPT, ":status", status))
    }

    fn rpc_head(stream: u32) -> Vec<u8> {
        headers(0, stream, &[&[0x88][..], &literal(NOT_KEPT, "content-type", "application/grpc+proto")].concat())
    }

    fn trailers(stream: u32, status: &str) -> Vec<u8> {
        headers(END_STREAM, stream, &literal(NOT_KEPT, "grpc-status", status))
    }

    fn play() -> Play {
        let mut play = Play::new(sniff::HTTP2);
        play.client(&[PREFACE, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])[..]].concat());
        play.server(&frame(SETTINGS, 0, 0, &[]));
        play
    }

    fn text<'a>(exchange: &'a Exchange, key: &str) -> Option<&'a str> {
        string_attribute(&exchange.attributes, key)
    }

    #[test]
    fn answers_join_their_streams_in_whatever_order_they_come() {
        let mut play = play();
        play.client(&[get(1, "/a"), get(3, "/b/7"), get(5, "/c")].concat());
        play.server(&[status(0, 5, "200"), frame(DATA, END_STREAM, 5, b"body"), status(END_STREAM, 1, "404")].concat());
        play.server(&status(END_STREAM, 3, "503"));
        assert_eq!(play.told(), ["GET /c", "GET /a 404 (client)", "GET /b/{id} 503"]);
        let found = &play.exchanges()[0];
        assert_eq!((found.asked.time_ns, found.answered.time_ns), (3, 4));
        assert_eq!(text(found, semconv::NETWORK_PROTOCOL_VERSION), Some("2"));
        assert_eq!((play.found().unpaired, play.found().unanswered), (0, 0));
    }

    #[test]
    fn no_answer_is_told_to_be_older_than_its_request() {
        let mut play = play();
        let answer = status(END_STREAM, 1, "200");
        let (begin, rest) = answer.split_at(5);
        play.server(begin);
        play.client(&get(1, "/a"));
        play.server(rest);
        let found = &play.exchanges()[0];
        assert_eq!((found.asked.time_ns, found.answered.time_ns), (4, 4));
    }

    #[test]
    fn a_request_has_the_attributes_that_it_has_over_http1() {
        let mut play = play();
        let request = [
            (":path", "/users/7?token=secret"),
            (":authority", "shop:8080"),
            ("user-agent", "curl/8"),
            ("cookie", "secret"),
            ("content-length", "12"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        play.client(&headers(0, 1, &[&[0x83][..], &fields(KEPT, &request)].concat()));
        play.client(&frame(DATA, END_STREAM, 1, &[b'x'; 12]));
        play.server(&headers(0, 1, &[&[0x88][..], &literal(KEPT, "content-length", "5")].concat()));
        let mut old = Play::new(sniff::HTTP1);
        old.client(
            b"POST /users/7?token=secret HTTP/1.1\r\nHost: shop:8080\r\nUser-Agent: curl/8\r\nContent-Length: 12\r\n\
              traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nxxxxxxxxxxxx",
        );
        old.server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        let is_same = |attribute: &&ollystack_record::Attribute| attribute.key != semconv::NETWORK_PROTOCOL_VERSION;
        let (new, old) = (&play.exchanges()[0], &old.exchanges()[0]);
        assert_eq!((&new.name, &new.context), (&old.name, &old.context));
        assert!(new.context.is_some());
        let attributes = |exchange: &Exchange| exchange.attributes.iter().filter(is_same).cloned().collect::<Vec<_>>();
        assert_eq!(attributes(new), attributes(old));
        assert!(!format!("{new:?}").contains("secret"));
    }

    #[test]
    fn a_procedure_is_told_at_its_end_by_the_status_in_its_trailers() {
        let mut play = play();
        play.client(&[rpc(1, "/shop.v1.Orders/Get"), frame(DATA, END_STREAM, 1, b"x")].concat());
        play.server(&[rpc_head(1), frame(DATA, 0, 1, b"xyz")].concat());
        assert!(play.told().is_empty());
        play.server(&[frame(DATA, 0, 1, b"more"), trailers(1, "0")].concat());
        // Trailers alone.
        play.client(&rpc(3, "/shop.v1.Orders/Put"));
        let only = [("content-type", "application/grpc"), ("grpc-status", "5")];
        play.server(&headers(END_STREAM, 3, &[&[0x88][..], &fields(NOT_KEPT, &only)].concat()));
        play.client(&rpc(5, "/shop.v1.Orders/List"));
        play.server(&[rpc_head(5), trailers(5, "14")].concat());
        assert_eq!(
            play.told(),
            ["shop.v1.Orders/Get", "shop.v1.Orders/Put NOT_FOUND (client)", "shop.v1.Orders/List UNAVAILABLE"]
        );
        let found = &play.exchanges()[0];
        assert_eq!((found.asked.time_ns, found.answered.time_ns), (3, 5));
        assert_eq!(text(found, semconv::RPC_SYSTEM), Some("grpc"));
        assert_eq!(text(found, semconv::RPC_SERVICE), Some("shop.v1.Orders"));
        assert_eq!(text(found, semconv::RPC_METHOD), Some("Get"));
        assert_eq!(int_attribute(&found.attributes, semconv::RPC_GRPC_STATUS_CODE), Some(0));
    }

    #[test]
    fn answers_of_proxies_and_ends_without_a_status_are_what_a_client_makes_of_them() {
        let mut play = play();
        for (stream, path) in [(1, "/s/A"), (3, "/s/B"), (5, "/s/C")] {
            play.client(&rpc(stream, path));
        }
        play.server(&[status(0, 1, "502"), frame(DATA, END_STREAM, 1, b"<html>")].concat());
        play.server(&[rpc_head(3), frame(DATA, END_STREAM, 3, b"x")].concat());
        play.server(&status(END_STREAM, 5, "403"));
        assert_eq!(play.told(), ["s/A UNAVAILABLE", "s/B UNKNOWN", "s/C PERMISSION_DENIED (client)"]);
    }

    #[test]
    fn streams_that_are_reset_or_refused_fail_by_their_codes() {
        let mut play = play();
        let reset = |stream: u32, code: u32| frame(RST_STREAM, 0, stream, &code.to_be_bytes());
        play.client(
            &[get(1, "/a"), rpc(3, "/s/B"), rpc(5, "/s/C"), get(7, "/d"), get(9, "/e"), rpc(11, "/s/F")].concat(),
        );
        play.client(&[reset(1, 8), reset(3, 8)].concat());
        // Too late.
        play.server(&status(END_STREAM, 1, "200"));
        play.server(&[reset(5, 7), reset(7, 99)].concat());
        // An answer that is there already stands.
        play.client(&get(13, "/g"));
        play.server(&[status(0, 13, "200"), reset(13, 2)].concat());
        play.server(&frame(GOAWAY, 0, 0, &[0, 0, 0, 8, 0, 0, 0, 0]));
        assert_eq!(
            play.told(),
            [
                "GET /a CANCEL (client)",
                "s/B CANCELLED (client)",
                "s/C UNAVAILABLE",
                "GET /d UNKNOWN",
                "GET /g",
                "GET /e REFUSED_STREAM",
                "s/F UNAVAILABLE"
            ]
        );
        assert_eq!(play.found().unpaired, 0);
    }

    #[test]
    fn a_procedure_that_is_cancelled_because_its_time_is_up_says_so() {
        let mut play = play();
        for (stream, timeout) in [(1, "1n"), (3, "1S")] {
            let more = [(":path", "/s/M"), ("content-type", "application/grpc"), ("grpc-timeout", timeout)];
            play.client(&headers(0, stream, &[&[0x83][..], &fields(NOT_KEPT, &more)].concat()));
            play.client(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        }
        assert_eq!(play.told(), ["s/M DEADLINE_EXCEEDED", "s/M CANCELLED (client)"]);
    }

    #[test]
    fn bodies_are_stepped_over_however_little_of_them_was_copied() {
        let mut play = play();
        play.client(&get(1, "/a"));
        // Of the answer's body the head of the frame alone; the next call is not seen at all.
        let body = frame(DATA, 0, 1, &[0; 9_000]);
        let head = status(0, 1, "200");
        play.server_cut(&[&head[..], &body[..9]].concat(), (head.len() + 4_009) as u32);
        play.server_cut(&[], 5_000);
        play.client(&get(3, "/b"));
        play.server(&[frame(DATA, END_STREAM, 1, b"x"), status(END_STREAM, 3, "200")].concat());
        assert_eq!(play.told(), ["GET /a", "GET /b"]);
    }

    #[test]
    fn blocks_come_in_several_frames_with_padding_and_priorities() {
        let mut play = play();
        let block = [&[0x82][..], &fields(KEPT, &[(":path", "/long"), ("x-other", &"y".repeat(90))])].concat();
        let first = [&[2][..], &[0, 0, 0, 0, 16], &block[..20], &[0, 0]].concat();
        play.client(&frame(HEADERS, END_STREAM | PADDED | WITH_PRIORITY, 1, &first));
        play.client(&frame(CONTINUATION, 0, 1, &block[20..50]));
        play.client(&frame(CONTINUATION, END_HEADERS, 1, &block[50..]));
        play.server(&status(END_STREAM, 1, "204"));
        // The path is the second newest entry.
        play.client(&headers(END_STREAM, 3, &[0x82, 0xBF]));
        play.server(&status(END_STREAM, 3, "204"));
        assert_eq!(play.told(), ["GET /long", "GET /long"]);
    }

    #[test]
    fn promises_are_no_requests_but_their_fields_count() {
        let mut play = play();
        play.client(&get(1, "/a"));
        let promised = [&[0, 0, 0, 2, 0x82][..], &literal(KEPT, "grpc-status", "13")].concat();
        play.server(&frame(PUSH_PROMISE, END_HEADERS, 1, &promised));
        play.server(&[status(END_STREAM, 2, "200"), status(END_STREAM, 1, "200")].concat());
        play.client(&rpc(3, "/s/M"));
        play.server(&[rpc_head(3), headers(END_STREAM, 3, &[0xBE])].concat());
        assert_eq!((play.told(), play.found().unpaired), (vec!["GET /a".to_owned(), "s/M INTERNAL".to_owned()], 0));
    }

    #[test]
    fn interim_answers_and_a_requests_trailers_change_nothing() {
        let mut play = play();
        play.client(&headers(0, 1, &[&[0x83][..], &fields(NOT_KEPT, &[(":path", "/up")])].concat()));
        play.server(&status(0, 1, "103"));
        play.client(&headers(END_STREAM, 1, &literal(NOT_KEPT, "checksum", "1")));
        assert!(play.told().is_empty());
        play.server(&status(END_STREAM, 1, "200"));
        assert_eq!(play.told(), ["POST /up"]);
    }

    #[test]
    fn joined_midway_a_request_is_counted_and_its_unknown_parts_are_said() {
        let mut play = Play::new(sniff::HTTP2);
        // Indices of a table that was filled before.
        play.client(&headers(END_STREAM, 101, &[0x82, 0xC1, 0xC0]));
        play.client(&headers(0, 103, &[0x83, 0xC2, 0xC0]));
        play.client(&headers(END_STREAM, 105, &[0xC3, 0xC2]));
        play.server(&[status(END_STREAM, 101, "200"), headers(0, 103, &[0x88, 0xC0])].concat());
        // Fields of an answer are unknown as well: the end tells that it was gRPC.
        play.server(&[frame(DATA, 0, 103, b"x"), trailers(103, "4")].concat());
        play.server(&[headers(0, 105, &[0x88, 0xC5]), headers(END_STREAM, 105, &[0xC6])].concat());
        assert_eq!(play.told(), ["GET {unknown}", "{unknown} DEADLINE_EXCEEDED", "{unknown}"]);
        let found = &play.exchanges()[2];
        assert_eq!((text(found, semconv::HTTP_REQUEST_METHOD), text(found, semconv::HTTP_ROUTE)), (None, None));
        // What is said in full from now on is known.
        play.client(&headers(END_STREAM, 107, &[&[0x82][..], &literal(KEPT, ":path", "/new")].concat()));
        play.client(&headers(END_STREAM, 109, &[0x82, 0xBE]));
        play.server(&[status(END_STREAM, 107, "200"), status(END_STREAM, 109, "200")].concat());
        assert_eq!(play.told()[3..], ["GET /new", "GET /new"]);
    }

    #[test]
    fn after_a_block_that_was_missed_no_field_is_told_by_what_came_before() {
        let known = [&[0x82][..], &literal(KEPT, ":path", "/old")].concat();
        let again = headers(END_STREAM, 5, &[0x82, 0xBE]);
        let missed = headers(END_STREAM, 3, &[&[0x82][..], &literal(KEPT, ":path", "/missed")].concat());
        let begin = || {
            let mut play = play();
            play.client(&headers(END_STREAM, 1, &known));
            play.server(&status(END_STREAM, 1, "200"));
            play
        };
        let told = |mut play: Play, again: &[u8]| {
            play.client(again);
            play.server(&status(END_STREAM, 5, "200"));
            play.told().last().cloned()
        };
        assert_eq!(told(begin(), &again).as_deref(), Some("GET /old"));
        // Not copied at all.
        let mut play = begin();
        play.client_cut(&[], missed.len() as u32);
        assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
        // Copied in part: within a field, and up to one.
        for copied in [20, 10] {
            let mut play = begin();
            play.client_cut(&missed[..copied], missed.len() as u32);
            assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
        }
        // A call whose record is missing.
        let mut play = begin();
        play.skip(Side::Client, 50);
        assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
        let mut play = begin();
        play.gap();
        assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
        // A block that is too long to be kept: its last field is the newest.
        let mut play = begin();
        play.client(&frame(HEADERS, 0, 3, &missed[9..]));
        for _ in 0..40 {
            play.client(&frame(CONTINUATION, 0, 3, &literal(NOT_KEPT, "x", &"y".repeat(120))));
        }
        play.client(&frame(CONTINUATION, END_HEADERS, 3, &literal(KEPT, "x", "y")));
        assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
        // A block with a hole between two fields.
        let mut play = begin();
        play.client(&frame(HEADERS, 0, 3, &missed[9..]));
        let (first, second) = (literal(NOT_KEPT, "x", "y"), literal(KEPT, ":path", "/hole"));
        let hole = frame(CONTINUATION, 0, 3, &[&first[..], &second].concat());
        play.client_cut(&hole[..HEAD_BYTES + first.len()], hole.len() as u32);
        play.client(&frame(CONTINUATION, END_HEADERS, 3, &literal(KEPT, ":path", "/behind")));
        assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
        // A continuation without its start, and a start without its continuation.
        let mut play = begin();
        play.client(&frame(HEADERS, 0, 3, &missed[9..]));
        assert_eq!(told(play, &again).as_deref(), Some("GET {unknown}"));
    }

    #[test]
    fn a_place_that_was_lost_is_found_at_a_frame_and_at_nothing_else() {
        let mut play = play();
        play.skip(Side::Client, 10_000);
        play.client(&[7; 600]);
        // A frame by its type, but of six megabytes and with a flag that it has not.
        play.client(b"d\0\0\0\x02\0\0\0\x01");
        play.client(b"\0\0\x05\x01\xFFhello, world: no flags of that kind");
        let request = get(9, "/found");
        play.client(&request[..5]);
        play.client(&request[5..]);
        play.server(&status(END_STREAM, 9, "200"));
        assert_eq!(play.told(), ["GET /found"]);
    }

    #[test]
    fn an_answer_that_was_recorded_before_its_request_joins_it_and_an_older_one_does_not() {
        let (mut parser, mut found, mut positions) = (HttpTwo::default(), Found::default(), [0; 2]);
        let mut take = |from: Side, time_ns: u64, bytes: &[u8]| {
            let (at, length) = (Moment { time_ns, thread: 1 }, bytes.len() as u32);
            let position = positions[from as usize];
            positions[from as usize] += length;
            parser.take(&Chunk { from, at, position, length, bytes, is_turn: true }, &mut found);
            (found.exchanges.len(), found.unpaired)
        };
        take(Side::Server, 9, &[rpc_head(1), trailers(1, "0")].concat());
        assert_eq!(take(Side::Client, 5, &rpc(1, "/s/M")), (1, 0));
        take(Side::Server, 10, &status(END_STREAM, 3, "200"));
        assert_eq!(take(Side::Client, 11, &get(3, "/older")), (1, 1));
        take(Side::Server, 20, &status(END_STREAM, 7, "200"));
        assert_eq!(take(Side::Client, 15, &get(9, "/other")), (1, 2), "the request of 7 cannot come any more");
        assert_eq!(found.exchanges[0].answered.time_ns, 9);
    }

    #[test]
    fn every_request_is_somewhere() {
        let mut play = play();
        for number in 0..200 {
            play.client(&get(2 * number + 1, "/a"));
        }
        assert_eq!(play.found().over_limit, 200 - crate::WAITING_MAX as u64);
        play.gap();
        assert_eq!(play.found().lost, crate::WAITING_MAX as u64);
        for number in 200..210 {
            play.client(&get(2 * number + 1, &"/long".repeat(40)));
        }
        play.end();
        assert_eq!(play.found().unanswered, 10);
        // Long paths: fewer.
        let mut play = self::play();
        for number in 0..100 {
            play.client(&get(2 * number + 1, &"/longer".repeat(18)));
        }
        assert_eq!(play.found().over_limit, 100 - 10 * 1024 / 126);
    }

    #[test]
    fn an_upgraded_connection_goes_on_as_http2() {
        let mut play = Play::new(sniff::HTTP1);
        play.client(b"GET /first HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        play.server(&[&switch[..], &frame(SETTINGS, 0, 0, &[]), &status(END_STREAM, 1, "404")].concat());
        assert_eq!(play.told(), ["GET /first 404 (client)"]);
        play.client(&[&PREFACE[..], &frame(SETTINGS, 0, 0, &[]), &get(3, "/second")].concat());
        play.server(&status(END_STREAM, 3, "200"));
        assert_eq!(play.told()[1..], ["GET /second"]);
        assert_eq!(text(&play.exchanges()[0], semconv::SERVER_ADDRESS), Some("shop"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_hold_much(
            calls in prop::collection::vec((any::<bool>(), 0_u8..12, any::<u8>(), 0_u32..9, prop::collection::vec(any::<u8>(), 0..300), 0_u32..300), 0..60),
        ) {
            let mut parser = HttpTwo::default();
            let (mut found, mut positions) = (Found::default(), [0_u32; 2]);
            for (is_client, kind, flags, stream, payload, beyond) in calls {
                let from = if is_client { Side::Client } else { Side::Server };
                let bytes = if kind > 10 { payload } else { frame(kind, flags, stream, &payload) };
                let length = bytes.len() as u32 + if beyond < 30 { beyond } else { 0 };
                let position = positions[usize::from(is_client)];
                positions[usize::from(is_client)] += length;
                parser.take(&Chunk { from, at: Moment::default(), position, length, bytes: &bytes, is_turn: false }, &mut found);
                prop_assert!(size_of::<HttpTwo>() + parser.held_bytes() <= HELD_BYTES_MAX);
            }
            prop_assert!(found.exchanges.iter().all(|exchange| exchange.name.len() <= 200));
        }

        /// However a conversation is cut into calls, the same exchanges come out.
        #[test]
        fn cuts_change_nothing(cuts in prop::collection::vec(1_usize..40, 1..99)) {
            let client = [&PREFACE[..], &frame(SETTINGS, 0, 0, &[]), &get(1, "/a"), &rpc(3, "/s/M"), &frame(DATA, END_STREAM, 3, &[1; 99]), &get(5, "/b")].concat();
            let server = [frame(SETTINGS, 0, 0, &[]), status(0, 1, "200"), frame(DATA, END_STREAM, 1, &[0; 77]), rpc_head(3), trailers(3, "9"), status(END_STREAM, 5, "500")].concat();
            let mut play = Play::new(sniff::HTTP2);
            for (side, mut rest) in [(Side::Client, &client[..]), (Side::Server, &server[..])] {
                for cut in cuts.iter().chain([&usize::MAX]) {
                    let (part, more) = rest.split_at(rest.len().min(*cut));
                    play.take(side, part, part.len() as u32);
                    rest = more;
                }
            }
            prop_assert_eq!(play.told(), ["GET /a", "s/M FAILED_PRECONDITION (client)", "GET /b 500"]);
        }
    }
}
