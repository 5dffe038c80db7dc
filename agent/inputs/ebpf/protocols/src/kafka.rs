//! Kafka: requests with a key and a version, answers joined by the request's number.
//!
//! Producing and fetching are named by their topic, the rest by what the protocol calls it. A fetch that brings nothing, and a
//! heartbeat, is no exchange unless it failed. Format: Kafka Protocol Guide. Invariant: of records nothing is looked at.

mod apis;
mod codes;
mod fields;
mod parse;
mod topics;

use crate::pending::Pair;
use crate::{Chunk, Exchange, Fifo, Found, Kind, Message, Moment, Protocol, Side, Stream};
use apis::{FETCH, PRODUCE, api, is_heartbeat};
use ollystack_ebpf::sniff::{PREFIX_BYTES, is_bare_kafka_request};
use ollystack_record::attribute::string;
use ollystack_schema::names::semconv;
use parse::{Request, Told};

/// A part of the protocol's own greeting that is told as a failure: a member without a name is given one.
const MEMBER_ID_REQUIRED: i16 = 79;

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Kafka {
    client: Stream,
    server: Stream,
    waiting: Fifo<Request, Answer>,
}

/// What was copied of an answer: only its request tells how to read it.
#[derive(Debug)]
struct Answer {
    bytes: Box<[u8]>,
    is_whole: bool,
}

impl Kafka {
    /// Bytes that it keeps besides itself.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let topic = |it: &Request| if let parse::Topic::Name(name) = &it.topic { name.len() } else { 0 };
        let request = |it: &Request| topic(it) + it.client.as_ref().map_or(0, |client| client.len());
        let waiting = self.waiting.held_bytes(request, |answer| answer.bytes.len());
        self.client.held_bytes() + self.server.held_bytes() + waiting
    }
}

impl Protocol for Kafka {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let Kafka { client, server, waiting } = self;
        match chunk.from {
            Side::Client => {
                let mut each = |message: Message<'_>| {
                    ask(waiting, message.bytes.get(4..).unwrap_or_default(), message.began, found);
                };
                if !client.is_in_step() && is_bare(chunk) {
                    // Joined between a size, read by itself, and its request: the call's length is that size.
                    let bytes = [&chunk.length.to_be_bytes()[..], chunk.bytes].concat();
                    let (position, length) = (chunk.position.wrapping_sub(4), chunk.length.saturating_add(4));
                    let whole = Chunk { position, length, bytes: &bytes, is_turn: true, ..*chunk };
                    client.walk(&whole, parse::measure, &mut each);
                } else {
                    client.walk(chunk, parse::measure, each);
                }
            }
            Side::Server => server.walk(chunk, parse::measure, |message| {
                let Some(id) = parse::answered(message.bytes) else { return };
                let is_whole = message.bytes.len() == message.length as usize;
                let answer = Answer { bytes: message.bytes.into(), is_whole };
                let pair = waiting.answer(u64::from(id.cast_unsigned()), message.began, answer, found);
                found.exchanges.extend(pair.and_then(exchange));
            }),
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.client.lose();
        self.server.lose();
        self.waiting.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.waiting.end(found);
    }
}

/// A request whose size was read before, as sure as what makes a connection recognised.
fn is_bare(chunk: &Chunk<'_>) -> bool {
    let mut prefix = [0; PREFIX_BYTES];
    let copied = chunk.bytes.len().min(PREFIX_BYTES);
    prefix[..copied].copy_from_slice(&chunk.bytes[..copied]);
    is_bare_kafka_request(&prefix, chunk.length)
}

fn ask(waiting: &mut Fifo<Request, Answer>, bytes: &[u8], at: Moment, found: &mut Found) {
    let Some((id, request)) = parse::request(bytes) else { return };
    if request.is_unanswered {
        let told = Told { code: 0, topic: parse::Topic::None, is_empty: false };
        return found.exchanges.extend(told_exchange(at, request, at, told));
    }
    let pair = waiting.ask(u64::from(id.cast_unsigned()), at, request, found);
    found.exchanges.extend(pair.and_then(exchange));
}

fn exchange(((asked, request), (answered, answer)): Pair<Request, Answer>) -> Option<Exchange> {
    let told = parse::answer(&request, &answer.bytes, answer.is_whole);
    told_exchange(asked, request, answered, told)
}

fn told_exchange(asked: Moment, request: Request, answered: Moment, told: Told) -> Option<Exchange> {
    let code = Some(told.code).filter(|code| !matches!(*code, 0 | MEMBER_ID_REQUIRED));
    if code.is_none() && (told.is_empty || is_heartbeat(request.key)) {
        return None;
    }
    let (operation, kind, kind_name) = match request.key {
        PRODUCE => ("publish", Kind::Publish, Some("send")),
        FETCH if !request.is_of_replica => ("receive", Kind::Receive, Some("receive")),
        key => (api(key)?.name, Kind::Call, None),
    };
    let mut name = operation.to_owned();
    let mut attributes =
        vec![string(semconv::MESSAGING_SYSTEM, "kafka"), string(semconv::MESSAGING_OPERATION_NAME, operation)];
    attributes.extend(kind_name.map(|kind| string(semconv::MESSAGING_OPERATION_TYPE, kind)));
    // What was fetched, or failed, is one of several that were asked for.
    let topic = if told.topic == parse::Topic::None { request.topic } else { told.topic };
    if let Some(topic) = topic.name() {
        name.push(' ');
        name.push_str(&topic);
        attributes.push(string(semconv::MESSAGING_DESTINATION_NAME, String::from(topic)));
    }
    attributes.extend(request.client.map(|client| string(semconv::MESSAGING_CLIENT_ID, String::from(client))));
    Some(Exchange {
        name,
        kind,
        asked,
        answered,
        attributes,
        error: code.map(codes::name),
        is_fault_of_client: code.is_some_and(codes::is_fault_of_client),
        context: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::Play;
    use crate::{CARRY_BYTES_MAX, HELD_BYTES_MAX};
    use ollystack_ebpf::sniff::KAFKA;
    use ollystack_record::attribute::string_attribute;

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
    }

    /// A request of `app`.
    fn request(key: i16, version: i16, id: i32, body: &[u8]) -> Vec<u8> {
        let head = [&key.to_be_bytes()[..], &version.to_be_bytes(), &id.to_be_bytes(), b"\0\x03app"].concat();
        let tags: &[u8] = if version >= api(key).unwrap().flexible_since { &[0] } else { &[] };
        sized(&[&head, tags, body].concat())
    }

    fn answer(id: i32, body: &[u8]) -> Vec<u8> {
        sized(&[&id.to_be_bytes()[..], body].concat())
    }

    /// One topic with one partition, in the old form and in the compact one.
    const PRODUCE_OLD: &[u8] = b"\xff\xff\xff\xff\0\0\x75\x30\0\0\0\x01\0\x06orders\0\0\0\x01\0\0\0\0\0\0\0\x01x";
    const PRODUCE_COMPACT: &[u8] = b"\0\0\x01\0\0\x75\x30\x02\x07orders\x02\0\0\0\0\x02x\0\0\0";

    #[test]
    fn requests_are_named_by_their_topic_and_joined_by_their_number() {
        let mut play = Play::new(KAFKA);
        play.client(&[request(PRODUCE, 7, 1, PRODUCE_OLD), request(PRODUCE, 9, 2, PRODUCE_COMPACT)].concat());
        play.client(&request(22, 1, 3, b"\xff\xff\0\0\0\x01"));
        let fine = b"\0\x02\x07orders\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0";
        play.server(&[answer(2, fine), answer(3, b"\0\0\0\0\0\x1d")].concat());
        play.server(&answer(1, b"\0\0\0\x01\0\x06orders\0\0\0\x01\0\0\0\0\0\x06\0\0\0\0\0\0\0\0"));
        let expected = [
            "publish orders",
            "InitProducerId TOPIC_AUTHORIZATION_FAILED (client)",
            "publish orders NOT_LEADER_OR_FOLLOWER",
        ];
        assert_eq!(play.told(), expected);
        assert_eq!(string_attribute(&play.exchanges()[0].attributes, semconv::MESSAGING_CLIENT_ID), Some("app"));
    }

    #[test]
    fn producing_without_acknowledgement_is_an_exchange_by_itself() {
        let mut play = Play::new(KAFKA);
        let mut body = PRODUCE_OLD.to_vec();
        body[3] = 0;
        body[2] = 0;
        play.client(&request(PRODUCE, 7, 1, &body));
        play.end();
        assert_eq!((play.told(), play.found().unanswered), (vec!["publish orders".to_owned()], 0));
    }

    /// A fetch of version 13 in a session, of no topics or of one by its identifier.
    fn fetch(id: i32, topic: &[u8]) -> Vec<u8> {
        let start = b"\xff\xff\xff\xff\0\0\x01\xf4\0\0\0\x01\0\0\0\x09\0\0\0\0\x01\0\0\0\x02";
        request(FETCH, 13, id, &[&start[..], if topic.is_empty() { &[1] } else { &[2] }, topic].concat())
    }

    /// Records of one partition, so many bytes.
    fn fetched(id: i32, topic: &[u8], code: u8, records: u8) -> Vec<u8> {
        let partition =
            [&[2, 0, 0, 0, 0, 0, code][..], &[0; 24], &[1], &[0xFF; 4], &[records + 1], &vec![7; records.into()], &[0]]
                .concat();
        answer(id, &[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 2][..], topic, &partition, &[0, 0]].concat())
    }

    #[test]
    fn fetches_are_told_if_they_brought_something_and_their_topics_once_they_were_named() {
        let (known, other) = ([0xAB; 16], [0xAC; 16]);
        let metadata = [
            &b"\0\0\0\0\0\x02\0\0\0\x01\x0a127.0.0.1\0\0\x23\x84\0\0\x08cluster\0\0\0\x01\x02\0\0\x07orders"[..],
            &known,
            b"\0\x02\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\x02\0\0\0\x01\x02\0\0\0\x01\x01\0\x80\0\0\0\0\0",
        ];
        let mut play = Play::new(KAFKA);
        play.client(&request(3, 12, 1, b"\x01\x01\0\0"));
        play.server(&answer(1, &metadata.concat()));
        play.client(&fetch(2, &known));
        play.server(&fetched(2, &known, 0, 5));
        play.client(&fetch(3, b""));
        play.server(&fetched(3, &other, 0, 5));
        play.client(&fetch(4, b""));
        play.server(&answer(4, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0]));
        play.client(&fetch(5, &known));
        play.server(&fetched(5, &known, 0, 0));
        play.client(&fetch(6, &known));
        play.server(&fetched(6, &known, 1, 0));
        assert_eq!(
            play.told(),
            ["Metadata", "receive orders", "receive", "receive orders OFFSET_OUT_OF_RANGE (client)"]
        );
        play.client(&fetch(7, &known));
        let long = fetched(7, &known, 0, 100);
        play.server_cut(&long[..40], 90_000);
        assert_eq!(
            play.told().last().map(String::as_str),
            Some("receive orders"),
            "there is more than what was copied"
        );
    }

    #[test]
    fn heartbeats_are_told_only_if_they_failed() {
        let mut play = Play::new(KAFKA);
        for (id, code) in [(1, 0), (2, 27)] {
            play.client(&request(12, 4, id, b"\x02g\0\0\0\x01\x02m\0\0"));
            play.server(&answer(id, &[0, 0, 0, 0, 0, 0, code, 0]));
        }
        play.client(&request(11, 5, 3, b"\0\x01g"));
        play.server(&answer(3, &[0, 0, 0, 0, 0, 79]));
        assert_eq!(play.told(), ["Heartbeat REBALANCE_IN_PROGRESS (client)", "JoinGroup"]);
    }

    #[test]
    fn failures_are_found_where_each_answer_has_them() {
        let mut play = Play::new(KAFKA);
        let table: [(i16, i16, &[u8]); 9] = [
            (18, 3, b"\0\x23"),
            (10, 2, b"\0\0\0\0\0\x0f"),
            (10, 4, b"\0\0\0\0\0\x02\x02g\xff\xff\xff\xff\x01\xff\xff\xff\xff\0\x0f\0\0\0"),
            (8, 7, b"\0\0\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0\0\x16"),
            (19, 7, b"\0\0\0\0\0\x02\x02t\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\0\x24"),
            (20, 3, b"\0\0\0\0\0\0\0\x01\0\x01t\0\x03"),
            (3, 1, b"\0\0\0\0\0\0\0\x01\0\0\0\x01\0\x05\0\x01t\0\0\0\0\0"),
            (36, 2, b"\0\0\x3a\x01\x01"),
            (8, 10, b"\0\0\0\0\0\x02\x05\xee\xee\xee\xee\0\0\x07\xee\xee\xee\xee\xee\xee\xee\xee\x02\0\0\0\0\0\x16"),
        ];
        for (id, (key, version, told)) in table.into_iter().enumerate() {
            play.client(&request(key, version, id as i32, b""));
            play.server(&answer(id as i32, told));
        }
        let expected = [
            "ApiVersions UNSUPPORTED_VERSION (client)",
            "FindCoordinator COORDINATOR_NOT_AVAILABLE",
            "FindCoordinator COORDINATOR_NOT_AVAILABLE",
            "OffsetCommit ILLEGAL_GENERATION (client)",
            "CreateTopics TOPIC_ALREADY_EXISTS (client)",
            "DeleteTopics UNKNOWN_TOPIC_OR_PARTITION (client)",
            "Metadata LEADER_NOT_AVAILABLE",
            "SaslAuthenticate SASL_AUTHENTICATION_FAILED (client)",
            "OffsetCommit ILLEGAL_GENERATION (client)",
        ];
        assert_eq!(play.told(), expected);
    }

    #[test]
    fn a_request_whose_size_was_read_before_anybody_looked_is_not_lost() {
        let mut play = Play::new(KAFKA);
        let bytes = request(3, 1, 7, b"\0\0\0\0");
        play.skip(Side::Client, 4);
        play.client(&bytes[4..]);
        play.client(&request(3, 1, 8, b"\0\0\0\0"));
        play.server(&[answer(7, &[0; 12]), answer(8, &[0; 12])].concat());
        assert_eq!(play.told(), ["Metadata", "Metadata"]);
    }

    #[test]
    fn what_waits_with_the_longest_names_stays_within_the_limit() {
        let (mut parser, mut found) = (Kafka::default(), Found::default());
        let mut position = 0;
        let mut chunk = |from: Side, bytes: &[u8], parser: &mut Kafka| {
            // Far behind the one before: a turn after calls that were not seen.
            position += 100_000;
            let length = bytes.len() as u32;
            parser.take(&Chunk { from, at: Moment::default(), position, length, bytes, is_turn: true }, &mut found);
        };
        let long = "x".repeat(249);
        for id in 0..300 {
            let start = [&b"\0\0\0\x07"[..], &i32::to_be_bytes(id), &[0, 249], long.as_bytes()].concat();
            let topic = [&b"\xff\xff\0\x01\0\0\0\0\0\0\0\x01\0\xf9"[..], long.as_bytes()].concat();
            chunk(Side::Client, &sized(&[start, topic].concat()), &mut parser);
        }
        let held = size_of::<Kafka>() + parser.held_bytes() + 2 * CARRY_BYTES_MAX;
        assert!(held > HELD_BYTES_MAX / 4 && held <= HELD_BYTES_MAX, "{held} bytes");
        assert!(found.over_limit > 0);
    }
}
