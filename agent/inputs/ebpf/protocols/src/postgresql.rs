//! PostgreSQL: simple and extended queries, from the request's first message to what ends its answer.
//!
//! An exchange is a simple query or the execution of a prepared one, with the messages that prepare it if they come with it. What is
//! done besides (log in, prepare alone) is one only if it fails. Format: PostgreSQL's manual, "Frontend/Backend Protocol".
//! Invariant: nothing of a password, a parameter, a row or copied data is looked at.

mod wire;

use crate::bytes::text;
use crate::sql::{self, Answered, Asked, Dialect, Failure, Query, Statements, Waiting};
use crate::{Chunk, Context, Found, Message, Moment, Protocol, Side, Stream};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use wire::Body;

const SYSTEM: &str = "postgresql";

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct PostgreSql {
    requests: Stream,
    responses: Stream,
    encryption: Encryption,
    namespace: Option<String>,
    statements: Statements<{ 24 * 1024 }>,
    portals: Statements<{ 4 * 1024 }>,
    /// What the client has sent of the next request.
    open: Option<Open>,
    waiting: Waiting<Note>,
    answer: Answer,
    /// Counts requests up to the point where both sides start afresh, by what the client sent.
    batch: u32,
    /// The batch of an error: what follows in it is not done.
    failed: Option<u32>,
}

/// Whether what follows is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Encryption {
    #[default]
    Not,
    /// The client asked for it; the server's next byte decides.
    Asked,
    On,
}

/// What a request is, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    kind: Request,
    batch: u32,
    /// What is asked was seen.
    is_named: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    LogIn,
    /// Answered when the server is ready again.
    Simple,
    /// Of a statement alone.
    Prepare,
    Execute,
}

/// The messages before an execution.
#[derive(Debug)]
struct Open {
    began: Moment,
    query: Option<Arc<Query>>,
    context: Option<Context>,
    /// A statement is parsed whose execution was not seen.
    is_prepare: bool,
}

/// The server's answer to the oldest request, as far as it has come.
#[derive(Debug, Default)]
struct Answer {
    began: Option<Moment>,
    operation: Option<Arc<Query>>,
    error: Option<Failure>,
    /// Something was done, or refused: what is left to come is that the server is ready.
    is_decided: bool,
}

impl Protocol for PostgreSql {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        if self.encryption == Encryption::On {
            return;
        }
        if chunk.from == Side::Client {
            if chunk.is_turn && !self.responses.is_in_step() {
                // How far the server's answers went was not seen: all that waited is behind it.
                self.flush(found);
            }
            let mut requests = std::mem::take(&mut self.requests);
            requests.walk(chunk, wire::measure_request, |message| self.request(&message, found));
            self.requests = requests;
            return;
        }
        if self.encryption == Encryption::Asked {
            return self.decide(chunk);
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
        responses.walk(chunk, wire::measure_response, |message| self.response(&message, found));
        self.responses = responses;
        if !self.responses.is_in_step() && self.answer.began.is_some() && self.waiting.oldest().is_some() {
            // The rest of the answer was not copied: no more of it will be known.
            self.complete(chunk.at, found);
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.requests.lose();
        self.responses.lose();
        self.flush(found);
    }

    fn end(&mut self, found: &mut Found) {
        if self.answer.is_decided && self.waiting.oldest().is_some() {
            // Refused, and the connection closed over it.
            self.complete(Moment::default(), found);
        }
        self.waiting.end(found);
    }
}

impl PostgreSql {
    /// Memory that it holds, in bytes.
    #[cfg(feature = "fuzz")]
    pub(crate) fn held_bytes(&self) -> usize {
        let streams = self.requests.held_bytes() + self.responses.held_bytes();
        let tables = self.statements.held_bytes() + self.portals.held_bytes() + self.waiting.held_bytes();
        streams + tables + self.namespace.as_ref().map_or(0, String::capacity)
    }

    /// Let go of what is under way.
    fn flush(&mut self, found: &mut Found) {
        self.waiting.gap(found);
        (self.open, self.answer, self.failed) = (None, Answer::default(), None);
    }

    /// The server's one byte after a request for encryption.
    fn decide(&mut self, chunk: &Chunk<'_>) {
        self.encryption = match chunk.bytes.first() {
            Some(b'N' | b'E') => Encryption::Not,
            _ => Encryption::On,
        };
        self.responses.lose();
    }

    /// A message of the client.
    fn request(&mut self, message: &Message<'_>, found: &mut Found) {
        let mut body = Body::of(message);
        match message.bytes[0] {
            0 => match wire::startup(message.bytes) {
                wire::Startup::Encrypt => self.encryption = Encryption::Asked,
                wire::Startup::LogIn(database) => {
                    self.namespace = database.and_then(|name| text(name, sql::NAME_BYTES_MAX)).map(String::from);
                    self.ask(message.began, Some(Arc::new(Query::of("CONNECT"))), None, Request::LogIn, found);
                }
                wire::Startup::Other => {}
            },
            b'Q' => {
                self.prepare_alone(found);
                let (sql, is_cut) = body.text();
                let (query, context) = Query::read(sql, is_cut, Dialect::PostgreSql);
                self.ask(message.began, Some(Arc::new(query)), context, Request::Simple, found);
                self.batch = self.batch.wrapping_add(1);
            }
            b'F' => {
                self.ask(message.began, Some(Arc::new(Query::of("CALL"))), None, Request::Simple, found);
                self.batch = self.batch.wrapping_add(1);
            }
            b'P' => {
                self.prepare_alone(found);
                let Some(name) = body.c_string() else { return };
                let (sql, is_cut) = body.text();
                let (query, context) = Query::read(sql, is_cut, Dialect::PostgreSql);
                let query = Arc::new(query);
                self.statements.keep(number(name), Arc::clone(&query));
                self.open = Some(Open { began: message.began, query: Some(query), context, is_prepare: true });
            }
            b'B' => {
                let portal = body.c_string().map(number);
                let query = body.c_string().and_then(|name| self.statements.find(number(name)));
                if let Some(portal) = portal {
                    match &query {
                        Some(query) => self.portals.keep(portal, Arc::clone(query)),
                        None => self.portals.forget(portal),
                    }
                }
                self.open(message.began).query = query;
            }
            b'D' => {
                self.open(message.began);
            }
            b'E' => {
                let query = body.c_string().and_then(|portal| self.portals.find(number(portal)));
                let open = self.open.take();
                let (began, context) = open.map_or((message.began, None), |open| (open.began, open.context));
                self.ask(began, query, context, Request::Execute, found);
            }
            b'C' => {
                let kind = body.byte();
                if let Some(name) = body.c_string().map(number) {
                    match kind {
                        Some(b'S') => self.statements.forget(name),
                        _ => self.portals.forget(name),
                    }
                }
            }
            b'H' => self.prepare_alone(found),
            b'S' => {
                self.prepare_alone(found);
                self.open = None;
                self.batch = self.batch.wrapping_add(1);
            }
            _ => {}
        }
    }

    /// The request that the client is composing.
    fn open(&mut self, began: Moment) -> &mut Open {
        self.open.get_or_insert(Open { began, query: None, context: None, is_prepare: false })
    }

    /// If a statement was parsed and is not to be executed at once, its answer is for itself.
    fn prepare_alone(&mut self, found: &mut Found) {
        if let Some(open) = self.open.take_if(|open| open.is_prepare) {
            self.ask(open.began, open.query, open.context, Request::Prepare, found);
        }
    }

    fn ask(
        &mut self,
        began: Moment,
        query: Option<Arc<Query>>,
        context: Option<Context>,
        kind: Request,
        found: &mut Found,
    ) {
        if self.failed == Some(self.batch) {
            found.unanswered += 1;
            return;
        }
        if self.waiting.oldest().is_none() {
            // What has come of an answer before is none to this.
            self.answer = Answer::default();
        }
        let note = Note { kind, batch: self.batch, is_named: query.is_some() };
        let pair = self.waiting.ask(began, Asked { query, context }, note, found);
        self.found(pair, found);
    }

    fn found(&mut self, pair: Option<sql::Answer<Note>>, found: &mut Found) {
        let Some(((asked, (request, note)), answer)) = pair else { return };
        let is_exchange = matches!(note.kind, Request::Simple | Request::Execute) || answer.1.error.is_some();
        if is_exchange {
            found.exchanges.push(sql::exchange(SYSTEM, self.namespace.as_deref(), ((asked, request), answer)));
        }
    }

    /// The oldest request is answered.
    fn complete(&mut self, at: Moment, found: &mut Found) {
        let Answer { began, operation, error, .. } = std::mem::take(&mut self.answer);
        let pair = self.waiting.answer(began.unwrap_or(at), Answered { operation, error }, found);
        self.found(pair, found);
    }

    /// A message of the server.
    fn response(&mut self, message: &Message<'_>, found: &mut Found) {
        let kind = message.bytes[0];
        let oldest = self.waiting.oldest().copied();
        match kind {
            // They may come at any time.
            b'A' | b'N' | b'S' => return,
            b'Z' => {
                let is_simple = oldest.is_none_or(|note| note.kind == Request::Simple);
                if self.answer.is_decided && is_simple || oldest.is_some_and(|note| note.kind == Request::LogIn) {
                    self.complete(message.began, found);
                }
                (self.answer, self.failed) = (Answer::default(), None);
                return;
            }
            _ => {}
        }
        let began = *self.answer.began.get_or_insert(message.began);
        let body = Body::of(message);
        match kind {
            b'1' if oldest.is_some_and(|note| note.kind == Request::Prepare) => self.complete(began, found),
            b'1' | b'2' | b't' | b'T' | b'n' if oldest.is_none() => {
                // What is parsed ahead of its execution: the execution's time is its own.
                if let Some(open) = &mut self.open {
                    open.is_prepare = false;
                }
                self.answer = Answer::default();
            }
            b'C' | b'I' | b's' | b'V' => {
                self.answer.is_decided = true;
                if kind == b'C' && oldest.is_some_and(|note| !note.is_named) {
                    self.answer.operation = wire::tag(body.rest()).map(|tag| Arc::new(Query::of(&tag)));
                }
                if oldest.is_some_and(|note| note.kind == Request::Execute) {
                    self.complete(message.began, found);
                }
            }
            b'E' => self.fail(&body, oldest, found),
            // Data comes from the client now: what decides is said when it has come.
            b'G' => self.answer.began = None,
            // Both sides send as long as they like.
            b'W' => self.complete(message.began, found),
            _ => {}
        }
    }

    /// The server reports an error.
    fn fail(&mut self, body: &Body<'_>, oldest: Option<Note>, found: &mut Found) {
        let code = wire::error_code(body.rest());
        let is_fault_of_client = code.is_some_and(sql::blames_client);
        let code = code.map_or_else(|| "_OTHER".to_owned(), |code| String::from_utf8_lossy(code).into_owned());
        self.answer.is_decided = true;
        self.answer.error.get_or_insert(Failure { code, is_fault_of_client });
        let Some(note) = oldest.filter(|note| note.kind != Request::Simple) else { return };
        let began = self.answer.began.unwrap_or_default();
        self.complete(began, found);
        if note.kind != Request::LogIn {
            // All up to the next point of synchronisation is passed over.
            self.failed = Some(note.batch);
            self.waiting.skip(|other| other.batch == note.batch, found);
        }
    }
}

/// A name of a statement or portal.
fn number(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use crate::play::Play;
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string_attribute;
    use ollystack_schema::names::semconv;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    fn query(sql: &str) -> Vec<u8> {
        message(b'Q', format!("{sql}\0").as_bytes())
    }

    fn parse(name: &str, sql: &str) -> Vec<u8> {
        message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
    }

    fn bind(portal: &str, name: &str) -> Vec<u8> {
        message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
    }

    fn execute(portal: &str) -> Vec<u8> {
        message(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
    }

    fn complete(tag: &str) -> Vec<u8> {
        message(b'C', format!("{tag}\0").as_bytes())
    }

    fn error(code: &str) -> Vec<u8> {
        message(b'E', format!("SERROR\0VERROR\0C{code}\0Mof 'secret'\0\0").as_bytes())
    }

    fn ready() -> Vec<u8> {
        message(b'Z', b"I")
    }

    fn sync() -> Vec<u8> {
        message(b'S', b"")
    }

    fn startup(body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    #[test]
    fn a_query_is_told_by_the_conventions_and_without_its_literals() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&startup(b"\0\x03\0\0user\0bob\0database\0shop\0\0"));
        play.server(&message(b'R', &[0, 0, 0, 3]));
        play.client(&message(b'p', b"secret\0"));
        play.server(&[message(b'R', &[0; 4]), message(b'S', b"a\0b\0"), ready()].concat());
        play.client(&query("INSERT INTO orders VALUES (7, 'secret')"));
        play.server(&[error("23505"), ready()].concat());
        assert_eq!(play.told(), ["INSERT orders 23505 (client)"]);
        let exchange = &play.exchanges()[0];
        let tell = |key| string_attribute(&exchange.attributes, key);
        let table = [
            (semconv::DB_SYSTEM_NAME, "postgresql"),
            (semconv::DB_NAMESPACE, "shop"),
            (semconv::DB_OPERATION_NAME, "INSERT"),
            (semconv::DB_COLLECTION_NAME, "orders"),
            (semconv::DB_QUERY_SUMMARY, "INSERT orders"),
            (semconv::DB_QUERY_TEXT, "INSERT INTO orders VALUES (?)"),
            (semconv::DB_RESPONSE_STATUS_CODE, "23505"),
        ];
        for (key, value) in table {
            assert_eq!(tell(key), Some(value), "{key}");
        }
        assert_eq!(exchange.attributes.len(), table.len());
        assert!(!format!("{exchange:?}").contains("secret"));
    }

    #[test]
    fn an_answer_begins_with_its_first_byte_and_an_error_late_in_it_counts() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&query("SELECT 1 / a FROM t"));
        play.server(&message(b'T', &[0; 40]));
        play.server(&message(b'D', &[0; 9]));
        assert!(play.told().is_empty());
        play.server(&[error("22012"), ready()].concat());
        assert_eq!(play.told(), ["SELECT t 22012 (client)"]);
        assert_eq!(play.exchanges()[0].answered.time_ns, 2);
    }

    #[test]
    fn executions_are_named_by_the_statement_that_was_prepared_before() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&[parse("s1", "SELECT * FROM a"), message(b'D', b"Ss1\0"), sync()].concat());
        play.server(&[message(b'1', b""), message(b't', &[0, 0]), message(b'n', b""), ready()].concat());
        assert!(play.told().is_empty(), "to prepare is no request of its own");
        play.client(&[bind("", "s1"), execute(""), sync()].concat());
        play.server(&[message(b'2', b""), complete("SELECT 0"), ready()].concat());
        play.client(&[message(b'C', b"Ss1\0"), bind("", "s1"), execute(""), sync()].concat());
        play.server(&[message(b'3', b""), message(b'2', b""), complete("INSERT 0 1"), ready()].concat());
        assert_eq!(play.told(), ["SELECT a", "INSERT"], "what is closed is known by what the server says that it did");
    }

    #[test]
    fn a_statement_that_cannot_be_prepared_is_told() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&[parse("s1", "SELECT * FROM nope"), sync()].concat());
        play.server(&[error("42P01"), ready()].concat());
        assert_eq!(play.told(), ["SELECT nope 42P01 (client)"]);
    }

    #[test]
    fn in_a_pipeline_an_error_ends_all_up_to_the_next_sync() {
        let mut play = Play::new(sniff::POSTGRESQL);
        let run = |table: &str| [parse("", &format!("SELECT 1 FROM {table}")), bind("", ""), execute("")].concat();
        play.client(&[run("a"), run("b"), run("c"), sync(), run("d"), sync()].concat());
        let done = [message(b'1', b""), message(b'2', b""), complete("SELECT 1")].concat();
        play.server(&[done.clone(), message(b'1', b""), error("22P02"), ready(), done, ready()].concat());
        assert_eq!(play.told(), ["SELECT a", "SELECT b 22P02 (client)", "SELECT d"]);
        assert_eq!(play.found().unanswered, 1);
    }

    #[test]
    fn a_cursor_is_fetched_by_one_execution_after_the_other() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&[parse("", "SELECT * FROM t"), bind("c1", ""), execute("c1"), sync()].concat());
        play.server(&[message(b'1', b""), message(b'2', b""), message(b's', b""), ready()].concat());
        play.client(&[execute("c1"), sync()].concat());
        play.server(&[complete("SELECT 3"), ready()].concat());
        assert_eq!(play.told(), ["SELECT t", "SELECT t"]);
    }

    #[test]
    fn what_is_copied_in_is_answered_when_all_of_it_has_come() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&query("COPY t FROM STDIN"));
        play.server(&message(b'G', &[0, 0, 1, 0, 0]));
        play.client(&message(b'd', b"Q\0\0\0\x0dSELECT 2\0"));
        play.client(&message(b'c', b""));
        play.server(&[complete("COPY 1"), ready()].concat());
        assert_eq!((play.told(), play.exchanges()[0].answered.time_ns), (vec!["COPY t".to_owned()], 5));
        // By an execution: the server passes over the first of two syncs.
        play.client(&[parse("", "COPY t FROM STDIN"), bind("", ""), execute(""), sync()].concat());
        play.server(&[message(b'1', b""), message(b'2', b""), message(b'G', &[0, 0, 1, 0, 0])].concat());
        play.client(&[message(b'd', b"x\n"), message(b'c', b""), sync()].concat());
        play.server(&[complete("COPY 1"), ready()].concat());
        play.client(&query("SELECT 1"));
        play.server(&[complete("SELECT 1"), ready()].concat());
        assert_eq!(play.told(), ["COPY t", "COPY t", "SELECT"]);
    }

    #[test]
    fn results_longer_than_what_is_copied_end_a_query_at_once() {
        let mut play = Play::new(sniff::POSTGRESQL);
        for _ in 0..3 {
            play.client(&query("SELECT * FROM t"));
            play.server_cut(&[message(b'T', &[0; 40]), message(b'D', &[0; 9])].concat(), 8_192);
            play.server_cut(&[0; 64], 8_192);
        }
        assert_eq!(play.told(), ["SELECT t", "SELECT t", "SELECT t"]);
    }

    #[test]
    fn behind_encryption_nothing_is_read_and_without_it_all_is() {
        for (answer, told) in [(b"S", vec![]), (b"N", vec!["SELECT".to_owned()])] {
            let mut play = Play::new(sniff::POSTGRESQL);
            play.client(&startup(&80_877_103_u32.to_be_bytes()));
            play.server(answer);
            play.client(&startup(b"\0\x03\0\0user\0bob\0\0"));
            play.server(&[message(b'R', &[0; 4]), ready()].concat());
            play.client(&query("SELECT 1"));
            play.server(&[complete("SELECT 1"), ready()].concat());
            assert_eq!(play.told(), told);
        }
    }

    #[test]
    fn a_refused_login_is_told_and_a_granted_one_is_not() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&startup(b"\0\x03\0\0user\0bob\0\0"));
        play.server(&message(b'E', b"SFATAL\0C53300\0Mtoo many\0\0"));
        play.end();
        assert_eq!(play.told(), ["CONNECT 53300"]);
    }

    #[test]
    fn an_error_that_ends_the_connection_is_told() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&query("SELECT pg_sleep(9)"));
        play.server(&error("57P01"));
        play.end();
        assert_eq!(play.told(), ["SELECT 57P01"]);
    }

    #[test]
    fn notices_answer_nothing() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&query("SELECT 1"));
        play.server(&[message(b'N', b"SNOTICE\0C00000\0\0"), message(b'A', b"\0\0\0\x01ch\0x\0")].concat());
        play.server(&[complete("SELECT 1"), ready(), message(b'A', b"\0\0\0\x01ch\0x\0")].concat());
        assert_eq!((play.told().len(), play.exchanges()[0].answered.time_ns), (1, 3));
    }

    #[test]
    fn the_context_of_a_comment_is_of_the_execution_that_comes_with_it_alone() {
        let mut play = Play::new(sniff::POSTGRESQL);
        let sql = "SELECT 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/";
        play.client(
            &[parse("s", sql), bind("", "s"), execute(""), sync(), bind("", "s"), execute(""), sync()].concat(),
        );
        let done = [message(b'2', b""), complete("SELECT 1"), ready()].concat();
        play.server(&[message(b'1', b""), done.clone(), done].concat());
        let contexts: Vec<_> = play.exchanges().iter().map(|exchange| exchange.context.is_some()).collect();
        assert_eq!(contexts, [true, false]);
    }

    #[test]
    fn a_gap_lets_go_of_what_waits() {
        let mut play = Play::new(sniff::POSTGRESQL);
        play.client(&query("SELECT 1"));
        play.gap();
        play.server(&[complete("SELECT 1"), ready()].concat());
        play.client(&query("SELECT 2 FROM t"));
        play.server(&[complete("SELECT 1"), ready()].concat());
        assert_eq!((play.told(), play.found().lost), (vec!["SELECT t".to_owned()], 1));
    }
}
