//! MongoDB: commands in BSON and their answers, joined by the request's identifier.
//!
//! Commands come as OP_MSG, greetings of old drivers as OP_QUERY; what is in OP_COMPRESSED is not seen, only that it was asked and
//! answered. Greetings (`hello`), by which drivers watch their servers, become no exchange. Format: MongoDB Wire Protocol, and BSON
//! 1.1. Invariant: of a command its name, collection and database come out, never a filter or a document.

mod parse;

use crate::pending::Pair;
use crate::{Chunk, Exchange, Fifo, Found, Kind, Protocol, Side, Stream};
use ollystack_record::attribute::string;
use ollystack_schema::names::semconv;
use parse::{Answer, Failure, Request};

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct MongoDb {
    client: Stream,
    server: Stream,
    waiting: Fifo<Request, Option<Failure>>,
    /// The identifier of the answer that another one will follow without a request.
    followed: Option<u32>,
}

impl MongoDb {
    /// Bytes that it keeps besides itself.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let name = |name: &Option<Box<str>>| name.as_ref().map_or(0, |name| name.len());
        let request = |it: &Request| it.command.len() + name(&it.collection) + name(&it.database);
        let failure = |it: &Option<Failure>| it.as_ref().map_or(0, |it| name(&it.name));
        self.client.held_bytes() + self.server.held_bytes() + self.waiting.held_bytes(request, failure)
    }
}

impl Protocol for MongoDb {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let MongoDb { client, server, waiting, followed } = self;
        match chunk.from {
            Side::Client => client.walk(chunk, parse::measure, |message| {
                let Some((id, request)) = parse::request(message.bytes) else { return };
                if request.is_unanswered {
                    return found.exchanges.extend(exchange(((message.began, request), (message.began, None))));
                }
                let pair = waiting.ask(id.into(), message.began, request, found);
                found.exchanges.extend(pair.and_then(exchange));
            }),
            Side::Server => server.walk(chunk, parse::measure, |message| {
                let Some(Answer { id, to, is_followed, failure }) = parse::answer(message.bytes) else { return };
                let follows = followed.take().is_some_and(|before| before == to);
                *followed = is_followed.then_some(id);
                if !follows {
                    let pair = waiting.answer(to.into(), message.began, failure, found);
                    found.exchanges.extend(pair.and_then(exchange));
                }
            }),
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.client.lose();
        self.server.lose();
        self.followed = None;
        self.waiting.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.waiting.end(found);
    }
}

fn exchange(((asked, request), (answered, failure)): Pair<Request, Option<Failure>>) -> Option<Exchange> {
    let command = &*request.command;
    if matches!(command, "hello" | "isMaster" | "ismaster") {
        return None;
    }
    let mut attributes = vec![string(semconv::DB_SYSTEM_NAME, "mongodb")];
    let mut name = command.to_owned();
    if command != parse::COMPRESSED {
        attributes.push(string(semconv::DB_OPERATION_NAME, command.to_owned()));
    }
    if let Some(target) = request.collection.as_deref().or(request.database.as_deref()) {
        name.push(' ');
        name.push_str(target);
    }
    attributes
        .extend(request.collection.map(|collection| string(semconv::DB_COLLECTION_NAME, String::from(collection))));
    attributes.extend(request.database.map(|database| string(semconv::DB_NAMESPACE, String::from(database))));
    if let Some(code) = failure.as_ref().and_then(|failure| failure.code) {
        attributes.push(string(semconv::DB_RESPONSE_STATUS_CODE, code.to_string()));
    }
    Some(Exchange {
        name,
        kind: Kind::Call,
        asked,
        answered,
        attributes,
        is_fault_of_client: failure.as_ref().is_some_and(Failure::is_fault_of_client),
        error: failure.map(Failure::name),
        context: None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse::tests::*;
    use super::*;
    use crate::play::Play;
    use crate::{CARRY_BYTES_MAX, HELD_BYTES_MAX, Moment};
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string_attribute;

    fn ok() -> Vec<u8> {
        document(&[double("ok", 1.0)])
    }

    #[test]
    fn commands_are_named_by_their_collection_and_joined_by_number() {
        let mut play = Play::new(sniff::MONGODB);
        let find = document(&[text("find", "orders"), inner("filter", &[text("card", "4111")]), text("$db", "shop")]);
        let more = document(&[long("getMore", 77), text("collection", "orders"), text("$db", "shop")]);
        let list = document(&[int("listDatabases", 1), text("$db", "admin")]);
        play.client(&[op_msg(1, 0, 0, &find), op_msg(2, 0, 0, &more), op_msg(3, 0, 0, &list)].concat());
        play.server(&op_msg(9, 2, 0, &ok()));
        play.server(&[op_msg(10, 1, 0, &ok()), op_msg(11, 3, 0, &ok())].concat());
        assert_eq!(play.told(), ["getMore orders", "find orders", "listDatabases admin"]);
        let attributes = &play.exchanges()[1].attributes;
        assert_eq!(string_attribute(attributes, semconv::DB_NAMESPACE), Some("shop"));
        assert!(!format!("{:?}", play.exchanges()).contains("4111"));
    }

    #[test]
    fn failures_are_of_commands_and_of_single_writes() {
        let mut play = Play::new(sniff::MONGODB);
        let failed = [
            document(&[double("ok", 0.0), text("errmsg", "x"), int("code", 13), text("codeName", "Unauthorized")]),
            document(&[
                int("n", 0),
                inner("writeErrors", &[inner("0", &[int("index", 0), int("code", 11000)])]),
                double("ok", 1.0),
            ]),
            document(&[double("ok", 0.0), int("code", 99999)]),
            document(&[
                int("n", 1),
                inner("writeConcernError", &[int("code", 64), text("codeName", "WriteConcernFailed")]),
                double("ok", 1.0),
            ]),
        ];
        for (id, failed) in failed.iter().enumerate() {
            play.client(&op_msg(id as u32, 0, 0, &document(&[text("insert", "orders"), text("$db", "shop")])));
            play.server(&op_msg(50, id as u32, 0, failed));
        }
        let expected = [
            "insert orders Unauthorized (client)",
            "insert orders DuplicateKey (client)",
            "insert orders 99999 (client)",
            "insert orders WriteConcernFailed",
        ];
        assert_eq!(play.told(), expected);
        assert_eq!(string_attribute(&play.exchanges()[1].attributes, semconv::DB_RESPONSE_STATUS_CODE), Some("11000"));
    }

    #[test]
    fn requests_without_an_answer_and_answers_without_a_request_are_as_the_flags_say() {
        let mut play = Play::new(sniff::MONGODB);
        play.client(&op_msg(1, 0, 2, &document(&[text("insert", "log"), text("$db", "shop")])));
        play.client(&op_msg(2, 0, 1 << 16, &document(&[int("hello", 1), text("$db", "admin")])));
        play.server(&op_msg(20, 2, 2, &ok()));
        play.server(&op_msg(21, 20, 2, &ok()));
        play.server(&op_msg(22, 21, 0, &ok()));
        play.end();
        assert_eq!(play.told(), ["insert log"]);
        assert_eq!((play.found().unpaired, play.found().unanswered), (0, 0));
    }

    #[test]
    fn what_is_compressed_is_counted_and_timed_and_not_named() {
        let mut play = Play::new(sniff::MONGODB);
        let compressed =
            |id, to| message(id, to, 2012, &[&2013_i32.to_le_bytes()[..], &[90, 0, 0, 0, 2], &[7; 40]].concat());
        play.client(&compressed(1, 0));
        play.server(&compressed(5, 1));
        assert_eq!(play.told(), ["compressed"]);
    }

    #[test]
    fn heads_that_come_by_themselves_and_long_documents_are_stepped_over() {
        let mut play = Play::new(sniff::MONGODB);
        let find = op_msg(1, 0, 0, &document(&[text("find", "orders"), text("$db", "shop")]));
        play.client(&find[..16]);
        play.client(&find[16..]);
        let answer =
            op_msg(5, 1, 0, &document(&[inner("cursor", &[text("x", &"y".repeat(8_000))]), double("ok", 1.0)]));
        play.server_cut(&answer[..300], answer.len() as u32);
        play.client(&op_msg(2, 0, 0, &document(&[text("drop", "orders"), text("$db", "shop")])));
        play.server(&op_msg(6, 2, 0, &ok()));
        assert_eq!(play.told(), ["find orders", "drop orders"]);
    }

    #[test]
    fn commands_of_old_drivers_are_commands() {
        let mut play = Play::new(sniff::MONGODB);
        play.client(&op_query(1, "shop.$cmd", &document(&[text("count", "orders")])));
        play.server(&op_reply(
            5,
            1,
            0,
            &document(&[double("ok", 0.0), int("code", 26), text("codeName", "NamespaceNotFound")]),
        ));
        play.client(&op_query(2, "shop.orders", &document(&[text("a", "b")])));
        play.server(&op_reply(6, 2, 2, &document(&[text("$err", "x"), int("code", 13)])));
        assert_eq!(play.told(), ["count orders NamespaceNotFound (client)", "query orders Unauthorized (client)"]);
    }

    #[test]
    fn what_waits_with_the_longest_names_stays_within_the_limit() {
        let (mut parser, mut found) = (MongoDb::default(), Found::default());
        let mut position = 0;
        let mut chunk = |from: Side, bytes: &[u8], parser: &mut MongoDb| {
            // Far behind the one before: a turn after calls that were not seen.
            position += 100_000;
            let length = bytes.len() as u32;
            parser.take(&Chunk { from, at: Moment::default(), position, length, bytes, is_turn: true }, &mut found);
        };
        let long = "x".repeat(250);
        for id in 0..300 {
            let command = document(&[text(&"c".repeat(40), &long), text("$db", &long)]);
            chunk(Side::Client, &op_msg(id, 0, 0, &command), &mut parser);
        }
        let held = size_of::<MongoDb>() + parser.held_bytes() + 2 * CARRY_BYTES_MAX;
        assert!(held > HELD_BYTES_MAX / 4 && held <= HELD_BYTES_MAX, "{held} bytes");
        assert!(found.over_limit > 0);
    }
}
