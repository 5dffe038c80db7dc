//! NATS: lines that name a subject, payloads stepped over by their length.
//!
//! A message that is published is an exchange by itself, or a request if it names a subject for the answer: then what comes there
//! ends it. A message that is delivered is a receipt; if it names a subject for the answer, what the client publishes there ends it.
//! Pulls and acknowledgements of JetStream, subscriptions and pings are none. Format: NATS Client Protocol, and NATS/1.0 headers.
//! Invariant: nothing of a payload comes out but JetStream's own words.

mod parse;

use crate::destination::template;
use crate::pending::Pair;
use crate::{Chunk, Context, Exchange, Fifo, Found, Kind, Moment, Protocol, Side, Stream};
use ollystack_record::attribute::{bool, string};
use ollystack_schema::names::semconv;
use parse::{Line, Published, Verdict};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Deliveries that may await what the client answers; past it the oldest is a receipt without an answer.
const SERVING_MAX: usize = 32;
/// So long a client may take to answer a delivery.
const SERVING_NS_MAX: u64 = 10_000_000_000;

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Nats {
    client: Stream,
    server: Stream,
    /// Requests, by the subject of their answer.
    waiting: Fifo<Told, Option<Verdict>>,
    /// Deliveries that want an answer, by its subject.
    serving: VecDeque<(u64, Moment, Told)>,
    /// A connection that the server has not accepted yet.
    connecting: Option<Moment>,
}

/// What becomes an exchange.
#[derive(Debug)]
struct Told {
    subject: Box<str>,
    context: Option<Context>,
}

impl Nats {
    /// Bytes that it keeps besides itself.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let serving = self.serving.capacity() * size_of::<(u64, Moment, Told)>();
        let subjects: usize = self.serving.iter().map(|(.., told)| told.subject.len()).sum();
        let waiting = self.waiting.held_bytes(|told| told.subject.len(), |_| 0);
        self.client.held_bytes() + self.server.held_bytes() + serving + subjects + waiting
    }
}

impl Protocol for Nats {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let Nats { client, server, waiting, serving, connecting } = self;
        while serving.front().is_some_and(|(_, at, _)| chunk.at.time_ns.saturating_sub(at.time_ns) > SERVING_NS_MAX) {
            receive(serving.pop_front(), found);
        }
        match chunk.from {
            Side::Client => client.walk(chunk, parse::measure, |message| match parse::line(message.bytes) {
                Some(Line::Published(published)) => publish(waiting, serving, published, message.began, found),
                Some(Line::Connect) => *connecting = Some(message.began),
                _ => {}
            }),
            Side::Server => server.walk(chunk, parse::measure, |message| match parse::line(message.bytes) {
                Some(Line::Delivered(delivered)) => deliver(waiting, serving, delivered, message.began, found),
                Some(Line::Error(error)) => {
                    let (name, asked) = match connecting.take() {
                        Some(asked) => ("connect", asked),
                        None => ("error", message.began),
                    };
                    found.exchanges.push(refusal(name, asked, message.began, error));
                }
                Some(Line::Pong) => *connecting = None,
                _ => {}
            }),
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.client.lose();
        self.server.lose();
        self.waiting.gap(found);
        self.serving.drain(..).for_each(|delivery| receive(Some(delivery), found));
    }

    fn end(&mut self, found: &mut Found) {
        self.waiting.end(found);
        self.serving.drain(..).for_each(|delivery| receive(Some(delivery), found));
    }
}

/// A client publishes: a message, a request, or the answer to a delivery.
fn publish(
    waiting: &mut Fifo<Told, Option<Verdict>>,
    serving: &mut VecDeque<(u64, Moment, Told)>,
    message: Published<'_>,
    at: Moment,
    found: &mut Found,
) {
    let own = hash(message.subject);
    if let Some((_, asked, told)) =
        serving.iter().position(|(reply, ..)| *reply == own).and_then(|place| serving.remove(place))
    {
        found.exchanges.push(exchange("process", Kind::Receive, asked, at, told, None));
        return;
    }
    // Pulls are answered by the messages themselves, acknowledgements are of a delivery that was told.
    if message.subject.starts_with(b"$JS.ACK.") || message.subject.starts_with(b"$JS.API.CONSUMER.MSG.NEXT.") {
        return;
    }
    let Some(told) = told(&message) else { return };
    match message.reply {
        Some(reply) => {
            let pair = waiting.ask(hash(reply), at, told, found);
            found.exchanges.extend(pair.map(answered));
        }
        None => found.exchanges.push(exchange("publish", Kind::Publish, at, at, told, None)),
    }
}

/// The server delivers: an answer, or a message.
fn deliver(
    waiting: &mut Fifo<Told, Option<Verdict>>,
    serving: &mut VecDeque<(u64, Moment, Told)>,
    message: Published<'_>,
    at: Moment,
    found: &mut Found,
) {
    let own = hash(message.subject);
    if waiting.oldest(own).is_some() || message.subject.starts_with(b"_INBOX.") {
        // One that no request waits for is a status of a pull, or a further answer to one request.
        if waiting.oldest(own).is_some() {
            let pair = waiting.answer(own, at, message.verdict, found);
            found.exchanges.extend(pair.map(answered));
        }
        return;
    }
    let Some(told) = told(&message) else { return };
    match message.reply.filter(|reply| !reply.starts_with(b"$JS.ACK.")) {
        Some(reply) => {
            if serving.len() == SERVING_MAX {
                receive(serving.pop_front(), found);
            }
            serving.push_back((hash(reply), at, told));
        }
        None => found.exchanges.push(exchange("receive", Kind::Receive, at, at, told, None)),
    }
}

/// A delivery that nobody answered.
fn receive(delivery: Option<(u64, Moment, Told)>, found: &mut Found) {
    found.exchanges.extend(delivery.map(|(_, at, told)| exchange("receive", Kind::Receive, at, at, told, None)));
}

/// A request and its answer: of JetStream, which stored the message or did not, or of whoever subscribed.
fn answered(((asked, told), (at, verdict)): Pair<Told, Option<Verdict>>) -> Exchange {
    let is_of_api = told.subject.starts_with("$JS.");
    match verdict {
        Some(Verdict::Stored) => exchange("publish", Kind::Publish, asked, at, told, None),
        Some(Verdict::Refused(code)) if !is_of_api => exchange("publish", Kind::Publish, asked, at, told, Some(code)),
        Some(Verdict::Refused(code) | Verdict::Status(code)) => {
            exchange("request", Kind::Call, asked, at, told, Some(code))
        }
        None => exchange("request", Kind::Call, asked, at, told, None),
    }
}

fn told(message: &Published<'_>) -> Option<Told> {
    let subject = crate::bytes::text(message.subject, crate::destination::NAME_BYTES_MAX)?;
    Some(Told { subject, context: message.context })
}

fn exchange(
    operation: &'static str,
    kind: Kind,
    asked: Moment,
    answered: Moment,
    told: Told,
    error: Option<Cow<'static, str>>,
) -> Exchange {
    let is_temporary = told.subject.starts_with("_INBOX.");
    let template = if is_temporary { "_INBOX.{id}".to_owned() } else { template(&told.subject) };
    let kind_of = match kind {
        Kind::Publish => "send",
        Kind::Call => "request",
        Kind::Receive if operation == "process" => "process",
        Kind::Receive => "receive",
    };
    let mut attributes = vec![
        string(semconv::MESSAGING_SYSTEM, "nats"),
        string(semconv::MESSAGING_OPERATION_NAME, operation),
        string(semconv::MESSAGING_OPERATION_TYPE, kind_of),
        string(semconv::MESSAGING_DESTINATION_NAME, told.subject.to_string()),
    ];
    if *template != *told.subject {
        attributes.push(string(semconv::MESSAGING_DESTINATION_TEMPLATE, template.clone()));
    }
    if is_temporary {
        attributes.push(bool(semconv::MESSAGING_DESTINATION_TEMPORARY, true));
    }
    Exchange {
        name: format!("{operation} {template}"),
        kind,
        asked,
        answered,
        attributes,
        // The server did what it can: nobody subscribed, or the stream refuses.
        is_fault_of_client: error.is_some(),
        error,
        context: told.context,
    }
}

/// What the server says of a connection, or of no request that it names.
fn refusal(name: &'static str, asked: Moment, answered: Moment, error: &'static str) -> Exchange {
    Exchange {
        name: name.to_owned(),
        kind: Kind::Call,
        asked,
        answered,
        attributes: vec![string(semconv::MESSAGING_SYSTEM, "nats"), string(semconv::MESSAGING_OPERATION_NAME, name)],
        error: Some(error.into()),
        is_fault_of_client: true,
        context: None,
    }
}

/// FNV-1a: subjects of answers are drawn by chance, and 64 bits of them are as good as the whole.
fn hash(subject: &[u8]) -> u64 {
    subject.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::Play;
    use crate::{CARRY_BYTES_MAX, HELD_BYTES_MAX};
    use ollystack_ebpf::sniff;

    #[test]
    fn messages_are_exchanges_by_themselves_and_requests_with_their_answers() {
        let mut play = Play::new(sniff::NATS);
        play.client(b"CONNECT {}\r\nPING\r\nSUB in.* 1\r\nSUB _INBOX.q.* 2\r\nPUB orders.7.new 2\r\nhi\r\nPUB rates.get _INBOX.q.1 0\r\n\r\n");
        play.server(b"PONG\r\nMSG in.a 1 3\r\nPUB\r\n");
        play.server(b"MSG _INBOX.q.1 2 2\r\nok\r\n");
        play.client(b"PUB none.there _INBOX.q.2 0\r\n\r\n");
        play.server(b"HMSG _INBOX.q.2 2 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
        let expected =
            ["publish orders.{id}.new", "receive in.a", "request rates.get", "request none.there 503 (client)"];
        assert_eq!(play.told(), expected);
        let request = &play.exchanges()[2];
        assert_eq!((request.asked.time_ns, request.answered.time_ns), (1, 3));
    }

    #[test]
    fn whoever_answers_is_timed_from_the_delivery_to_the_answer() {
        let mut play = Play::new(sniff::NATS);
        play.server(b"MSG rates.get 1 _INBOX.z.9 2\r\nhi\r\n");
        play.server(b"MSG rates.get 1 _INBOX.z.10 2\r\nhi\r\n");
        play.client(b"PUB _INBOX.z.9 3\r\nyes\r\n");
        play.end();
        assert_eq!(play.told(), ["process rates.get", "receive rates.get"]);
        let times: Vec<_> = play.exchanges().iter().map(|it| (it.asked.time_ns, it.answered.time_ns)).collect();
        assert_eq!(times, [(1, 3), (2, 2)]);
    }

    #[test]
    fn deliveries_that_nobody_answers_are_told_all_the_same() {
        let mut play = Play::new(sniff::NATS);
        for number in 0..SERVING_MAX + 3 {
            play.server(format!("MSG s 1 _INBOX.{number} 0\r\n\r\n").as_bytes());
        }
        assert_eq!(play.told(), ["receive s"; 3]);
        play.gap();
        assert_eq!(play.told().len(), SERVING_MAX + 3);
    }

    #[test]
    fn streams_store_or_refuse_and_their_bookkeeping_is_none() {
        let mut play = Play::new(sniff::NATS);
        play.client(b"PUB orders _INBOX.q.1 2\r\nhi\r\n");
        play.server(b"MSG _INBOX.q.1 2 28\r\n{\"stream\":\"ORDERS\", \"seq\":1}\r\n");
        play.client(b"PUB $JS.API.STREAM.INFO.X _INBOX.q.2 0\r\n\r\n");
        play.server(b"MSG _INBOX.q.2 2 44\r\n{\"error\":{\"code\":404,\"err_code\":10059,\"a\":0}}\r\n");
        play.client(b"PUB $JS.API.CONSUMER.MSG.NEXT.ORDERS.c _INBOX.q.3 0\r\n\r\n");
        play.server(
            b"MSG orders 2 $JS.ACK.ORDERS.c.1.1.1.9.0 2\r\nhi\r\nHMSG _INBOX.q.3 2 16 16\r\nNATS/1.0 408\r\n\r\n\r\n",
        );
        play.client(b"PUB $JS.ACK.ORDERS.c.1.1.1.9.0 4\r\n+ACK\r\n");
        assert_eq!(play.told(), ["publish orders", "request $JS.API.STREAM.INFO.X 10059 (client)", "receive orders"]);
        play.end();
        assert_eq!((play.found().unanswered, play.found().unpaired), (0, 0));
    }

    #[test]
    fn what_the_server_refuses_is_said() {
        let mut play = Play::new(sniff::NATS);
        play.server(b"INFO {\"server_id\":\"x\"}\r\n");
        play.client(b"CONNECT {\"pass\":\"hidden\"}\r\nPING\r\n");
        play.server(b"-ERR 'Authorization Violation'\r\n");
        play.client(b"PUB a 1\r\nx\r\n");
        play.server(b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n");
        let expected =
            ["connect Authorization Violation (client)", "publish a", "error Permissions Violation (client)"];
        assert_eq!(play.told(), expected);
        assert!(!format!("{:?}", play.exchanges()).contains("hidden"));
    }

    #[test]
    fn payloads_are_stepped_over_whatever_is_in_them() {
        let mut play = Play::new(sniff::NATS);
        play.client_cut(b"PUB big 5000\r\nPUB no 0\r\n\r\n", 5_016);
        play.client(b"PUB next 0\r\n\r\nPU");
        play.client(b"B last 1\r\n");
        play.client(b"x\r\n");
        assert_eq!(play.told(), ["publish big", "publish next", "publish last"]);
    }

    #[test]
    fn what_waits_with_the_longest_names_stays_within_the_limit() {
        let (mut parser, mut found) = (Nats::default(), Found::default());
        let mut position = 0;
        let mut chunk = |from: Side, bytes: &[u8], parser: &mut Nats| {
            // Far behind the one before: a turn after calls that were not seen.
            position += 100_000;
            let length = bytes.len() as u32;
            parser.take(&Chunk { from, at: Moment::default(), position, length, bytes, is_turn: true }, &mut found);
        };
        let long = "x".repeat(250);
        for number in 0..300 {
            chunk(Side::Client, format!("PUB {long} {long}{number} 0\r\n\r\n").as_bytes(), &mut parser);
            let message = format!("MSG {long} 1 {long}{number} 0\r\n\r\n");
            chunk(Side::Server, message.as_bytes(), &mut parser);
        }
        let held = size_of::<Nats>() + parser.held_bytes() + 2 * CARRY_BYTES_MAX;
        assert!(held > HELD_BYTES_MAX / 4 && held <= HELD_BYTES_MAX, "{held} bytes");
        assert!(found.over_limit > 0);
    }
}
