//! MySQL and MariaDB: commands, from their first packet to the end of their answer.
//!
//! An exchange is a query, the execution of a prepared statement or a fetch of its rows; other commands (log in, prepare, ping) are
//! one only if they fail. Format: MySQL's manual of its source, "Client/Server Protocol"; MariaDB's, "Client/Server Protocol". What
//! is compressed or encrypted is not seen. Invariant: nothing of a password, a parameter or a row is looked at.

mod wire;

use crate::bytes::text;
use crate::sql::{self, Answered, Asked, Dialect, Failure, Query, Statements, Waiting};
use crate::{Chunk, Found, Message, Moment, Protocol, Side, Stream};
use std::sync::Arc;
use wire::{Reply, Status};

/// The statement that was prepared last, for those who send its execution before they know its number.
const LAST_STATEMENT: u64 = u32::MAX as u64;

/// A connection.
#[derive(Debug)]
pub(crate) struct MySql {
    requests: Stream,
    responses: Stream,
    /// What follows cannot be read.
    is_silent: bool,
    is_mariadb: bool,
    /// What the server is capable of, between its greeting and its consent.
    login: Option<u32>,
    /// It consents to compression.
    is_compressed: bool,
    namespace: Option<String>,
    dialect: Dialect,
    statements: Statements<{ 24 * 1024 }>,
    waiting: Waiting<Note>,
    phase: Phase,
    /// When the answer to the oldest command began.
    began: Option<Moment>,
}

/// What is noted of a command.
#[derive(Clone, Copy, Debug)]
struct Note {
    command: u8,
    /// It is of several packets, behind which the answer's are counted.
    is_long: bool,
}

/// Where in an answer the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the first packet of an answer, or of its next part.
    First,
    /// Among the definitions of so many columns.
    Columns(u64),
    /// Behind them, where older servers put a mark.
    Mark,
    Rows,
    /// Among definitions that nobody waits for, up to the next answer.
    Behind,
    /// The client sends a file.
    File,
}

impl Default for MySql {
    fn default() -> MySql {
        MySql {
            requests: Stream::default(),
            responses: Stream::default(),
            is_silent: false,
            is_mariadb: false,
            login: None,
            is_compressed: false,
            namespace: None,
            dialect: Dialect::MySql,
            statements: Statements::default(),
            waiting: Waiting::default(),
            phase: Phase::First,
            began: None,
        }
    }
}

impl Protocol for MySql {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        if self.is_silent {
            return;
        }
        if chunk.from == Side::Client {
            if chunk.is_turn && !self.responses.is_in_step() {
                // How far the server's answers went was not seen: all that waited is behind it.
                self.flush(found);
            }
            let goes_on = self.login.is_some() || self.phase == Phase::File;
            let mut requests = std::mem::take(&mut self.requests);
            requests.walk(chunk, |bytes| wire::measure_request(bytes, goes_on), |packet| self.request(&packet, found));
            self.requests = requests;
            return;
        }
        if chunk.is_turn && self.waiting.oldest().is_none() && self.requests.held_bytes() > 0 {
            // A request whose end is not to be seen is answered.
            if let Some((bytes, began)) = self.requests.give_up() {
                self.request(&Message { bytes: &bytes, length: bytes.len() as u32 + 1, began, at: began }, found);
            }
        }
        if self.responses.is_in_step() && !self.responses.continues(chunk) {
            // Answers were missed: which belong together is not known any more.
            self.flush(found);
        }
        let mut responses = std::mem::take(&mut self.responses);
        let mut is_understood = true;
        responses.walk(chunk, wire::measure_response, |packet| {
            is_understood = is_understood && self.response(&packet, found);
        });
        self.responses = responses;
        if !is_understood {
            self.responses.lose();
        }
        if !self.responses.is_in_step() && self.began.is_some() {
            // The rest of the answer was not copied: no more of it will be known.
            self.complete(None, chunk.at, found);
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.requests.lose();
        self.responses.lose();
        self.flush(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.waiting.end(found);
    }
}

impl MySql {
    /// Memory that it holds, in bytes.
    #[cfg(feature = "fuzz")]
    pub(crate) fn held_bytes(&self) -> usize {
        let streams = self.requests.held_bytes() + self.responses.held_bytes();
        let tables = self.statements.held_bytes() + self.waiting.held_bytes();
        streams + tables + self.namespace.as_ref().map_or(0, String::capacity)
    }

    /// Let go of what is under way.
    fn flush(&mut self, found: &mut Found) {
        self.waiting.gap(found);
        (self.phase, self.began) = (Phase::First, None);
    }

    /// A packet of the client.
    fn request(&mut self, packet: &Message<'_>, found: &mut Found) {
        let Some((head, body)) = packet.bytes.split_first_chunk::<{ wire::HEAD_BYTES }>() else { return };
        let is_cut = packet.bytes.len() < packet.length as usize;
        let is_long = head[..3] == [0xff; 3];
        let mut ask = |this: &mut MySql, command, query, context| {
            if this.waiting.oldest().is_none() {
                // What has come of an answer before is none to this.
                this.began = None;
            }
            let asked = Asked { query: Some(query), context };
            let pair = this.waiting.ask(packet.began, asked, Note { command, is_long }, found);
            this.found(pair, found);
        };
        if head[3] != 0 {
            if let Some(response) = self.login.and_then(|server| wire::handshake_response(head[3], body, server)) {
                (self.is_silent, self.is_compressed) = (response.is_encrypted, response.is_compressed);
                self.namespace = response.database.and_then(|name| text(name, sql::NAME_BYTES_MAX)).map(String::from);
                ask(self, wire::CONNECT, Arc::new(Query::of("CONNECT")), None);
            }
            return;
        }
        let Some((&command, body)) = body.split_first() else { return };
        let statement = || body.first_chunk().map(|number| u64::from(u32::from_le_bytes(*number)));
        match command {
            wire::QUERY => {
                let (sql, outer) = wire::query(body);
                let (query, context) = Query::read(sql, is_cut, self.dialect);
                ask(self, command, Arc::new(query), context.or(outer));
            }
            wire::PREPARE => {
                let (query, context) = Query::read(body, is_cut, self.dialect);
                let query = Arc::new(query);
                self.statements.keep(LAST_STATEMENT, Arc::clone(&query));
                ask(self, command, query, context);
            }
            wire::EXECUTE | wire::BULK_EXECUTE | wire::FETCH => {
                let query = statement().and_then(|number| self.statements.find(number));
                ask(self, command, query.unwrap_or_else(|| Arc::new(Query::of(wire::name(command)))), None);
            }
            wire::CLOSE => {
                if let Some(number) = statement() {
                    self.statements.forget(number);
                }
            }
            wire::QUIT | wire::LONG_DATA => {}
            // The server sends as long as it likes.
            wire::BINLOG_DUMP | wire::BINLOG_DUMP_GTID => self.is_silent = true,
            wire::INIT_DB => {
                let sql = [b"USE `".as_slice(), body, b"`"].concat();
                ask(self, command, Arc::new(Query::read(&sql, is_cut, self.dialect).0), None);
            }
            _ => {
                if matches!(command, wire::RESET | wire::CHANGE_USER) {
                    self.statements.clear();
                }
                if command == wire::CHANGE_USER {
                    (self.login, self.namespace) = (Some(0), None);
                }
                ask(self, command, Arc::new(Query::of(wire::name(command))), None);
            }
        }
    }

    /// A packet of the server; false if it makes no sense here.
    fn response(&mut self, packet: &Message<'_>, found: &mut Found) -> bool {
        let Some((head, body)) = packet.bytes.split_first_chunk::<{ wire::HEAD_BYTES }>() else { return false };
        let length = packet.length as usize - wire::HEAD_BYTES;
        let note = self.waiting.oldest().copied();
        if head[3] == 0 && note.is_none() && self.phase == Phase::First {
            let Some(greeting) = wire::greeting(body) else { return false };
            (self.login, self.is_mariadb) = (Some(greeting.capabilities), greeting.is_mariadb);
            return true;
        }
        if self.phase == Phase::Behind {
            if head[3] != 1 {
                return true;
            }
            self.phase = Phase::First;
        }
        let is_first = self.began.is_none() && self.phase == Phase::First;
        if is_first && head[3] != 1 && self.login.is_none() && note.is_none_or(|note| !note.is_long) {
            return false;
        }
        let command = note.map_or(wire::QUERY, |note| note.command);
        let Some(reply) = wire::reply(body, length) else { return false };
        self.began.get_or_insert(packet.began);
        match reply {
            // How far it has come.
            Reply::Error { code: 0xffff, .. } => {}
            Reply::Error { code, sqlstate } => {
                let is_fault_of_client = sqlstate.is_some_and(sql::blames_client);
                self.login = None;
                self.complete(Some(Failure { code: code.to_string(), is_fault_of_client }), packet.began, found);
            }
            _ if self.login.is_some() => {
                if let Reply::Done(_) = reply {
                    self.login = None;
                    self.is_silent = self.is_compressed;
                    self.complete(None, packet.began, found);
                } else {
                    self.began = None;
                }
            }
            _ => return self.part(command, reply, body, packet.began, found),
        }
        true
    }

    /// The part of an answer to a command that a packet is.
    fn part(&mut self, command: u8, reply: Reply<'_>, body: &[u8], at: Moment, found: &mut Found) -> bool {
        match (self.phase, reply) {
            (Phase::First | Phase::File, Reply::Done(_)) if command == wire::PREPARE => {
                let Some(prepared) = wire::prepared(body) else { return false };
                self.phase = if prepared.definitions == 0 { Phase::First } else { Phase::Behind };
                self.keep(u64::from(prepared.number), at, found);
            }
            (Phase::First, Reply::Done(_) | Reply::Other) if command == wire::FETCH => self.phase = Phase::Rows,
            (Phase::First, Reply::Definition) if command == wire::FIELD_LIST => self.phase = Phase::Rows,
            (Phase::First, Reply::Other) if command == wire::STATISTICS => self.complete(None, at, found),
            (Phase::First | Phase::File, Reply::Done(status)) => self.done(status, at, found),
            (Phase::First | Phase::File | Phase::Rows | Phase::Columns(_), Reply::End(status)) => {
                self.done(status, at, found)
            }
            (Phase::First, Reply::File) => (self.phase, self.began) = (Phase::File, None),
            (Phase::First, Reply::Columns { count, follow: true }) => self.phase = Phase::Columns(count),
            (Phase::First, Reply::Columns { follow: false, .. }) => self.phase = Phase::Mark,
            (Phase::Columns(0 | 1), Reply::Definition) => self.phase = Phase::Mark,
            (Phase::Columns(left), Reply::Definition) => self.phase = Phase::Columns(left - 1),
            (Phase::Mark, Reply::End(status)) if status.is_mark && !status.has_cursor => self.phase = Phase::Rows,
            (Phase::Mark, Reply::End(status)) => self.done(status, at, found),
            (Phase::Mark | Phase::Rows, _) => self.phase = Phase::Rows,
            _ => return false,
        }
        true
    }

    /// A part of an answer ends, most often its last.
    fn done(&mut self, status: Status, at: Moment, found: &mut Found) {
        self.dialect = if status.plain_backslash { Dialect::MySqlPlainBackslash } else { Dialect::MySql };
        self.phase = Phase::First;
        if !status.has_more {
            self.complete(None, at, found);
        }
    }

    /// The oldest command is answered.
    fn complete(&mut self, error: Option<Failure>, at: Moment, found: &mut Found) {
        self.phase = if self.phase == Phase::Behind { Phase::Behind } else { Phase::First };
        let began = self.began.take().unwrap_or(at);
        let pair = self.waiting.answer(began, Answered { operation: None, error }, found);
        self.found(pair, found);
    }

    /// A statement is prepared.
    fn keep(&mut self, number: u64, at: Moment, found: &mut Found) {
        let began = self.began.take().unwrap_or(at);
        if let Some(((_, (request, _)), _)) = self.waiting.answer(began, Answered::default(), found)
            && let Some(query) = request.query
        {
            self.statements.keep(number, query);
        }
    }

    fn found(&mut self, pair: Option<sql::Answer<Note>>, found: &mut Found) {
        let Some(((asked, (request, note)), answer)) = pair else { return };
        let system = if self.is_mariadb { "mariadb" } else { "mysql" };
        let is_query = matches!(note.command, wire::QUERY | wire::EXECUTE | wire::BULK_EXECUTE | wire::FETCH);
        let is_refused = answer.1.error.is_some();
        if !is_refused && let Some(database) = request.query.as_ref().and_then(|query| query.database()) {
            self.namespace = Some(database.to_owned());
        }
        if is_query || is_refused {
            found.exchanges.push(sql::exchange(system, self.namespace.as_deref(), ((asked, request), answer)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::Play;
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string_attribute;
    use ollystack_schema::names::semconv;

    /// A packet of that count.
    fn packet(count: u8, body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32).to_le_bytes()[..3], &[count], body].concat()
    }

    fn command(number: u8, body: &[u8]) -> Vec<u8> {
        packet(0, &[&[number], body].concat())
    }

    fn query(sql: &str) -> Vec<u8> {
        command(wire::QUERY, sql.as_bytes())
    }

    fn ok(count: u8, status: u16) -> Vec<u8> {
        packet(count, &[&[0, 0, 0][..], &status.to_le_bytes(), &[0, 0]].concat())
    }

    fn mark(count: u8, status: u16) -> Vec<u8> {
        packet(count, &[&[0xfe, 0, 0][..], &status.to_le_bytes()].concat())
    }

    fn error(count: u8, code: u16, sqlstate: &str) -> Vec<u8> {
        packet(count, &[&[0xff][..], &code.to_le_bytes(), b"#", sqlstate.as_bytes(), b"of 'secret'"].concat())
    }

    fn definition(count: u8) -> Vec<u8> {
        packet(count, b"\x03def\x04shop\x01t\x01t\x01a\x01a\x0c\x3f\0\x0b\0\0\0\x03\0\0\0\0\0")
    }

    /// A result of one column and one row, from the first packet's count on.
    fn result(count: u8, status: u16) -> Vec<u8> {
        let [a, b, c, d, e] = [count, count + 1, count + 2, count + 3, count + 4];
        [packet(a, &[1]), definition(b), mark(c, 2), packet(d, b"\x015"), mark(e, status)].concat()
    }

    fn greeting(version: &str) -> Vec<u8> {
        let rest = b"\0\x01\0\0\0abcdefgh\0\xff\xf7\x21\x02\0\xff\x81\x15\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0";
        packet(0, &[b"\x0a", version.as_bytes(), rest].concat())
    }

    fn login(flags: u32, database: &str) -> Vec<u8> {
        let user = b"bob\0\x06secret";
        packet(1, &[&flags.to_le_bytes()[..], &[0, 0, 0, 1, 45], &[0; 23], user, database.as_bytes(), b"\0"].concat())
    }

    /// Version 4.1, a hashed password and a database.
    const FLAGS: u32 = 1 << 9 | 1 << 15 | 1 << 3;

    #[test]
    fn a_query_is_told_by_the_conventions_and_without_its_literals() {
        for (version, system) in [("8.0.36", "mysql"), ("5.5.5-10.11.6-MariaDB-log", "mariadb")] {
            let mut play = Play::new(sniff::MYSQL);
            play.server(&greeting(version));
            play.client(&login(FLAGS, "shop"));
            play.server(&ok(2, 2));
            play.client(&query("INSERT INTO orders VALUES (7, 'secret', \"secret\")"));
            play.server(&error(1, 1062, "23000"));
            assert_eq!(play.told(), ["INSERT orders 1062 (client)"]);
            let exchange = &play.exchanges()[0];
            let table = [
                (semconv::DB_SYSTEM_NAME, system),
                (semconv::DB_NAMESPACE, "shop"),
                (semconv::DB_OPERATION_NAME, "INSERT"),
                (semconv::DB_COLLECTION_NAME, "orders"),
                (semconv::DB_QUERY_SUMMARY, "INSERT orders"),
                (semconv::DB_QUERY_TEXT, "INSERT INTO orders VALUES (?)"),
                (semconv::DB_RESPONSE_STATUS_CODE, "1062"),
            ];
            for (key, value) in table {
                assert_eq!(string_attribute(&exchange.attributes, key), Some(value), "{key}");
            }
            assert!(!format!("{exchange:?}").contains("secret"));
        }
    }

    #[test]
    fn an_answer_begins_with_its_first_byte_and_an_error_late_in_it_counts() {
        let mut play = Play::new(sniff::MYSQL);
        play.client(&query("SELECT a FROM t"));
        play.server(&[packet(1, &[1]), definition(2), mark(3, 2)].concat());
        play.server(&packet(4, b"\x015"));
        assert!(play.told().is_empty());
        play.server(&error(5, 1317, "70100"));
        assert_eq!((play.told(), play.exchanges()[0].answered.time_ns), (vec!["SELECT t 1317 (client)".to_owned()], 2));
    }

    #[test]
    fn results_end_where_either_kind_of_server_says_so() {
        let end = packet(4, &[0xfe, 0, 0, 2, 0, 0, 0]);
        let table = [
            result(1, 2),
            // Without marks, and without rows.
            [packet(1, &[1]), definition(2), packet(3, b"\x015"), end.clone()].concat(),
            [packet(1, &[1]), definition(2), packet(3, b"\xfb"), end.clone()].concat(),
            [packet(1, &[1]), definition(2), end.clone()].concat(),
            // The client has the definitions.
            [packet(1, &[1, 0]), mark(2, 2), packet(3, b"\x015"), mark(4, 2)].concat(),
            // Several results, rows that begin as other packets do.
            [result(1, 2 | 8), result(6, 2 | 8), ok(11, 2)].concat(),
            [packet(1, &[1]), definition(2), mark(3, 2), packet(4, b"\x03def"), packet(5, &[0; 9]), mark(6, 2)]
                .concat(),
        ];
        for answer in table {
            let mut play = Play::new(sniff::MYSQL);
            play.client(&query("SELECT a FROM t"));
            let (most, last) = answer.split_at(answer.len() - 1);
            play.server(most);
            assert!(play.told().is_empty());
            play.server(last);
            assert_eq!(play.told(), ["SELECT t"], "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn executions_are_named_by_the_statement_that_was_prepared_before() {
        let mut play = Play::new(sniff::MYSQL);
        let prepared = |definitions: u8| packet(1, &[0, 7, 0, 0, 0, 0, 0, definitions, 0, 0, 0, 0]);
        let number = [7, 0, 0, 0];
        let execute = |number: &[u8]| command(wire::EXECUTE, &[number, &[0, 1, 0, 0, 0]].concat());
        play.client(&command(wire::PREPARE, b"SELECT a FROM t WHERE b = ?"));
        play.server(&[prepared(1), definition(2), mark(3, 2)].concat());
        assert!(play.told().is_empty(), "to prepare is no request of its own");
        play.client(&command(wire::LONG_DATA, &[&number[..], &[0, 0], b"SELECT"].concat()));
        play.client(&execute(&number));
        play.server(&result(1, 2));
        play.client(&command(wire::FETCH, &[&number[..], &[1, 0, 0, 0]].concat()));
        play.server(&[packet(1, &[0, 0, 5, 0, 0, 0, 0, 0]), mark(2, 2 | 128)].concat());
        play.client(&[command(wire::CLOSE, &number), execute(&number)].concat());
        play.server(&ok(1, 2));
        // Sent together, before the number is known.
        let last = [0xff; 4];
        play.client(&[command(wire::PREPARE, b"DELETE FROM t"), execute(&last)].concat());
        play.server(&[prepared(0), ok(1, 2)].concat());
        assert_eq!(play.told(), ["SELECT t", "SELECT t", "EXECUTE", "DELETE t"]);
    }

    #[test]
    fn a_cursor_ends_an_answer_before_its_rows() {
        let mut play = Play::new(sniff::MYSQL);
        play.client(&query("SELECT a FROM t"));
        play.server(&[packet(1, &[1]), definition(2), mark(3, 2 | 64)].concat());
        assert_eq!(play.told(), ["SELECT t"]);
    }

    #[test]
    fn other_commands_are_told_if_they_fail() {
        let mut play = Play::new(sniff::MYSQL);
        for number in [14, 9, 31] {
            play.client(&command(number, b""));
            play.server(&if number == 9 { packet(1, b"Uptime: 5") } else { ok(1, 2) });
        }
        play.client(&command(wire::PREPARE, b"SELECT a FROM nope"));
        play.server(&error(1, 1146, "42S02"));
        play.client(&command(14, b""));
        play.server(&error(1, 1053, "08S01"));
        play.client(&command(1, b""));
        assert_eq!(play.told(), ["SELECT nope 1146 (client)", "PING 1053"]);
    }

    #[test]
    fn the_database_is_the_one_in_use() {
        let mut play = Play::new(sniff::MYSQL);
        for (use_it, answer) in
            [(query("USE a"), ok(1, 2)), (command(2, b"b"), ok(1, 2)), (command(2, b"c"), error(1, 1049, "42000"))]
        {
            play.client(&use_it);
            play.server(&answer);
            play.client(&query("SELECT 1"));
            play.server(&result(1, 2));
        }
        let namespaces: Vec<_> = play
            .exchanges()
            .iter()
            .map(|it| string_attribute(&it.attributes, semconv::DB_NAMESPACE).unwrap())
            .collect();
        assert_eq!(play.told(), ["USE a", "SELECT", "SELECT", "USE c 1049 (client)", "SELECT"]);
        assert_eq!(namespaces, ["a", "a", "b", "b", "b"]);
    }

    #[test]
    fn a_file_that_the_client_sends_is_no_command() {
        let mut play = Play::new(sniff::MYSQL);
        play.client(&query("LOAD DATA LOCAL INFILE 'secret' INTO TABLE t"));
        play.server(&packet(1, b"\xfbsecret"));
        play.client(&[packet(2, b"\x03SELECT 1"), packet(3, b"")].concat());
        play.server(&ok(4, 2));
        assert_eq!((play.told(), play.exchanges()[0].answered.time_ns), (vec!["LOAD t".to_owned()], 4));
    }

    #[test]
    fn attributes_of_a_query_stand_before_it_and_may_bear_a_context() {
        let trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let attributes =
            [&[2, 1, 0, 1, 8, 0, 1, b'n', 0xfe, 0, 11][..], b"traceparent", &[0; 8], &[55], trace].concat();
        let mut play = Play::new(sniff::MYSQL);
        play.client(&command(wire::QUERY, &[&[0, 1], b"SELECT a FROM t".as_slice()].concat()));
        play.server(&result(1, 2));
        play.client(&command(wire::QUERY, &[&attributes, b"SELECT a FROM u".as_slice()].concat()));
        play.server(&result(1, 2));
        assert_eq!(play.told(), ["SELECT t", "SELECT u"]);
        assert_eq!(play.exchanges().iter().map(|it| it.context.is_some()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn nothing_is_read_of_what_is_encrypted_or_compressed() {
        let encrypted = packet(1, &[&(FLAGS | 1 << 11).to_le_bytes()[..], &[0; 28]].concat());
        for request in [encrypted, login(FLAGS | 1 << 5, "shop")] {
            let mut play = Play::new(sniff::MYSQL);
            play.server(&greeting("8.0.36"));
            play.client(&request);
            play.server(&ok(2, 2));
            play.client(&query("SELECT 1"));
            play.server(&result(1, 2));
            assert!(play.told().is_empty());
        }
    }

    #[test]
    fn a_login_of_several_steps_is_told_if_it_fails() {
        let mut play = Play::new(sniff::MYSQL);
        play.server(&greeting("8.0.36"));
        play.client(&login(FLAGS, "shop"));
        play.server(&packet(2, b"\xfecaching_sha2_password\0abcdefghijklmnopqrst\0"));
        play.client(&packet(3, b"\x03SELECT"));
        play.server(&packet(4, &[1, 4]));
        play.client(&packet(5, b"secret\0"));
        play.server(&error(6, 1045, "28000"));
        assert_eq!(play.told(), ["CONNECT 1045 (client)"]);
    }

    #[test]
    fn results_longer_than_what_is_copied_end_a_query_at_once() {
        let mut play = Play::new(sniff::MYSQL);
        for _ in 0..3 {
            play.client(&query("SELECT a FROM t"));
            play.server_cut(&[packet(1, &[1]), definition(2), mark(3, 2), packet(4, b"\x015")].concat(), 16_384);
            play.server_cut(&[1; 64], 16_384);
        }
        assert_eq!(play.told(), ["SELECT t", "SELECT t", "SELECT t"]);
    }

    #[test]
    fn a_backslash_escapes_only_where_the_server_says_so() {
        let mut play = Play::new(sniff::MYSQL);
        for status in [2 | 512, 2, 2] {
            play.client(&query("SELECT 'a\\', b FROM t"));
            play.server(&ok(1, status));
        }
        assert_eq!(play.told(), ["SELECT", "SELECT t", "SELECT"]);
    }
}
