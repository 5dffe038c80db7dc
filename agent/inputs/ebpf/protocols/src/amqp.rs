//! AMQP 0-9-1, as RabbitMQ speaks it: methods in frames, contents stepped over by their length.
//!
//! A method with an answer is a call by its name. A message that is published is an exchange by itself, or ends with the broker's
//! word on a channel that was seen asking for confirms; one that is delivered is a receipt. Acknowledgements of clients and heartbeats
//! are none. Format: AMQP 0-9-1 specification; confirms and `basic.nack`: RabbitMQ's extensions. Invariant: of a message its
//! destination and its trace context come out, nothing else.

mod channels;
mod parse;

use crate::destination::template;
use crate::pending::Pair;
use crate::{Chunk, Context, Exchange, Fifo, Found, Kind, Message, Moment, Protocol, Side, Stream};
use channels::Channels;
use ollystack_record::attribute::{own, string};
use ollystack_schema::names::semconv;
use parse::{Close, Destination, Frame, Method, Reply};
use std::borrow::Cow;

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Amqp {
    client: Stream,
    server: Stream,
    waiting: Fifo<Told, Answer>,
    channels: Channels,
    /// A message by the client and one by the server whose properties are still to come.
    begun: [Option<Begun>; 2],
}

/// What becomes an exchange.
#[derive(Debug)]
struct Told {
    operation: &'static str,
    kind: Kind,
    destination: Option<Destination>,
    context: Option<Context>,
}

/// An answer: whether it is a failure, and the message that it brings.
#[derive(Debug, Default)]
struct Answer {
    error: Option<Cow<'static, str>>,
    destination: Option<Destination>,
}

#[derive(Debug)]
struct Begun {
    channel: u16,
    at: Moment,
    told: Told,
}

impl Amqp {
    /// Bytes that it keeps besides itself.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let text = |it: &Option<Destination>| it.as_ref().map_or(0, Destination::held_bytes);
        let begun: usize = self.begun.iter().flatten().map(|begun| text(&begun.told.destination)).sum();
        let waiting = self.waiting.held_bytes(|told| text(&told.destination), |answer| text(&answer.destination));
        self.client.held_bytes() + self.server.held_bytes() + self.channels.held_bytes() + begun + waiting
    }
}

impl Protocol for Amqp {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let Amqp { client, server, waiting, channels, begun } = self;
        let mut state = State { waiting, channels, begun: &mut begun[chunk.from as usize], found };
        match chunk.from {
            Side::Client => client.walk(chunk, parse::measure, |message| state.by_client(&message)),
            Side::Server => server.walk(chunk, parse::measure, |message| state.by_server(&message)),
        }
    }

    fn gap(&mut self, found: &mut Found) {
        self.client.lose();
        self.server.lose();
        self.channels.lose();
        self.begun.iter_mut().for_each(|begun| let_go(begun.take(), found));
        self.waiting.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.begun.iter_mut().for_each(|begun| let_go(begun.take(), found));
        self.waiting.end(found);
    }
}

/// A message whose properties will not come any more.
fn let_go(begun: Option<Begun>, found: &mut Found) {
    found.exchanges.extend(begun.map(|Begun { at, told, .. }| exchange(((at, told), (at, Answer::default())))));
}

/// A connection while one side's frames are read.
struct State<'a> {
    waiting: &'a mut Fifo<Told, Answer>,
    channels: &'a mut Channels,
    begun: &'a mut Option<Begun>,
    found: &'a mut Found,
}

impl State<'_> {
    fn by_client(&mut self, message: &Message<'_>) {
        let (channel, at) = (parse::channel(message.bytes), message.began);
        match parse::frame(message.bytes, Side::Client) {
            Some(Frame::Method(Method::Publish(destination))) => {
                self.begin(channel, at, Told { operation: "publish", kind: Kind::Publish, destination, context: None });
            }
            Some(Frame::Method(Method::Call { id, name, queue, is_answered })) => {
                if matches!(id, parse::CHANNEL_OPEN | parse::CHANNEL_CLOSE) {
                    self.channels.forget(channel);
                } else if id == parse::CONFIRM_SELECT {
                    self.channels.confirm(channel);
                }
                let (operation, kind) = if id == parse::GET { ("get", Kind::Receive) } else { (name, Kind::Call) };
                let told = Told { operation, kind, destination: queue.map(Destination::queue), context: None };
                if is_answered {
                    let pair = self.waiting.ask(call_key(channel, id), at, told, self.found);
                    self.found.exchanges.extend(pair.map(exchange));
                } else {
                    self.tell(at, told, at, Answer::default());
                }
            }
            Some(Frame::Properties(context)) => self.complete(channel, context),
            _ => {}
        }
    }

    fn by_server(&mut self, message: &Message<'_>) {
        let (channel, at) = (parse::channel(message.bytes), message.began);
        match parse::frame(message.bytes, Side::Server) {
            Some(Frame::Method(Method::Deliver { consumer, mut destination })) => {
                if let (Some(destination), Some(queue)) = (&mut destination, self.channels.queue(channel, consumer)) {
                    destination.came_by(queue);
                }
                self.begin(channel, at, Told { operation: "receive", kind: Kind::Receive, destination, context: None });
            }
            Some(Frame::Method(Method::Reply(Reply { to, consumer, destination }))) => {
                let key = call_key(channel, to);
                if let (Some(consumer), Some(told)) = (consumer, self.waiting.oldest(key)) {
                    let queue = told.destination.as_ref().map(|destination| destination.target().into());
                    self.channels.consume(channel, consumer, queue);
                }
                let pair = self.waiting.answer(key, at, Answer { error: None, destination }, self.found);
                self.found.exchanges.extend(pair.map(exchange));
            }
            Some(Frame::Method(Method::Settle { tag, is_multiple, is_refused })) => {
                for tag in self.channels.settled(channel, tag, is_multiple) {
                    let error = is_refused.then_some(Cow::Borrowed("nack"));
                    self.settle(channel, tag, at, error);
                }
            }
            Some(Frame::Method(Method::Return { code, destination }))
                if !self.channels.returned(channel, code, destination.as_ref()) =>
            {
                let told = Told { operation: "return", kind: Kind::Receive, destination, context: None };
                self.tell(at, told, at, Answer { error: Some(code.to_string().into()), destination: None });
            }
            Some(Frame::Method(Method::Closed(close))) => self.closed(channel, at, close),
            Some(Frame::Properties(context)) => self.complete(channel, context),
            _ => {}
        }
    }

    /// The broker closes a channel or the connection: what it names has failed.
    fn closed(&mut self, channel: u16, at: Moment, Close { code, id, is_connection }: Close) {
        if code == 200 {
            return;
        }
        let error = || Some(Cow::Owned(code.to_string()));
        let before = self.found.exchanges.len();
        if id == parse::PUBLISH {
            for tag in self.channels.settled(channel, 0, true) {
                self.settle(channel, tag, at, error());
            }
        } else if self.waiting.oldest(call_key(channel, id)).is_some() {
            let answer = Answer { error: error(), destination: None };
            let pair = self.waiting.answer(call_key(channel, id), at, answer, self.found);
            self.found.exchanges.extend(pair.map(exchange));
        }
        self.channels.forget(channel);
        if self.found.exchanges.len() == before {
            let operation = if is_connection { "connection.close" } else { "channel.close" };
            let told = Told { operation, kind: Kind::Call, destination: None, context: None };
            self.tell(at, told, at, Answer { error: error(), destination: None });
        }
    }

    /// A message begins; its properties come in the next frame.
    fn begin(&mut self, channel: u16, at: Moment, told: Told) {
        if let Some(before) = self.begun.replace(Begun { channel, at, told }) {
            self.pass(before);
        }
    }

    fn complete(&mut self, channel: u16, context: Option<Context>) {
        if let Some(mut begun) = self.begun.take_if(|begun| begun.channel == channel) {
            begun.told.context = context;
            self.pass(begun);
        }
    }

    /// A message is known: one that will be confirmed waits for it.
    fn pass(&mut self, Begun { channel, at, told }: Begun) {
        match self.channels.next_tag(channel).filter(|_| told.kind == Kind::Publish) {
            Some(tag) => {
                let pair = self.waiting.ask(confirm_key(channel, tag), at, told, self.found);
                self.found.exchanges.extend(pair.map(exchange));
            }
            None => self.tell(at, told, at, Answer::default()),
        }
    }

    /// The broker's word on a message that was published.
    fn settle(&mut self, channel: u16, tag: u64, at: Moment, error: Option<Cow<'static, str>>) {
        let key = confirm_key(channel, tag);
        let Some(told) = self.waiting.oldest(key) else { return };
        let returned = self.channels.take_returned(channel, told.destination.as_ref());
        let error = error.or_else(|| returned.map(|code| code.to_string().into()));
        let pair = self.waiting.answer(key, at, Answer { error, destination: None }, self.found);
        self.found.exchanges.extend(pair.map(exchange));
    }

    fn tell(&mut self, asked: Moment, told: Told, answered: Moment, answer: Answer) {
        self.found.exchanges.push(exchange(((asked, told), (answered, answer))));
    }
}

/// A channel has at most one call of a method open.
fn call_key(channel: u16, id: u32) -> u64 {
    u64::from(channel) << 32 | u64::from(id)
}

/// Tags count from one; the highest bit tells them from calls.
fn confirm_key(channel: u16, tag: u64) -> u64 {
    1 << 63 | u64::from(channel) << 40 | (tag & 0xFF_FFFF_FFFF)
}

fn exchange(((asked, told), (answered, answer)): Pair<Told, Answer>) -> Exchange {
    let Told { operation, kind, destination, context } = told;
    let mut attributes =
        vec![string(semconv::MESSAGING_SYSTEM, "rabbitmq"), string(semconv::MESSAGING_OPERATION_NAME, operation)];
    let mut name = operation.to_owned();
    if kind != Kind::Call {
        attributes
            .push(string(semconv::MESSAGING_OPERATION_TYPE, if kind == Kind::Publish { "send" } else { "receive" }));
    }
    if let Some(destination) = destination {
        let template = template(destination.target());
        if kind != Kind::Call {
            name = format!("{operation} {template}");
        }
        // What was got tells whence it came; the queue is what was asked for.
        let told = answer.destination.as_ref().unwrap_or(&destination);
        if template != destination.target() {
            attributes.push(string(semconv::MESSAGING_DESTINATION_TEMPLATE, template.to_string()));
        }
        attributes.push(string(semconv::MESSAGING_DESTINATION_NAME, told.name.to_string()));
        let key = told.routing_key();
        attributes
            .extend(key.map(|key| own(string(semconv::MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY, key.to_string()))));
    }
    Exchange {
        name,
        kind,
        asked,
        answered,
        attributes,
        is_fault_of_client: answer
            .error
            .as_deref()
            .is_some_and(|error| !matches!(error, "nack" | "320" | "506" | "541")),
        error: answer.error,
        context,
    }
}

#[cfg(test)]
mod tests {
    use super::parse::tests::*;
    use super::*;
    use crate::play::Play;
    use crate::{CARRY_BYTES_MAX, HELD_BYTES_MAX};
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string_attribute;

    const TAG: [u8; 7] = [0; 7];

    fn publish(channel: u16, exchange: &str, key: &str) -> Vec<u8> {
        let method = called(channel, 60, 40, &[&[0, 0], &short(exchange), &short(key), &[0]]);
        [method, content(channel, &[], b"\x01\x00\x01\x00\x00\x00\x05")].concat()
    }

    fn settle(method: u16, tag: u8, bits: u8) -> Vec<u8> {
        called(1, 60, method, &[&TAG, &[tag], &[bits]])
    }

    #[test]
    fn calls_join_their_answers_by_channel_and_method() {
        let mut play = Play::new(sniff::AMQP);
        play.client(b"AMQP\0\0\x09\x01");
        play.client(&[called(1, 20, 10, &[&[0]]), called(2, 20, 10, &[&[0]])].concat());
        play.client(&called(1, 50, 10, &[&[0, 0], &short("orders"), &[2], &[0; 4]]));
        play.server(
            &[
                called(2, 20, 11, &[&[0; 4]]),
                called(1, 50, 11, &[&short("orders"), &[0; 8]]),
                called(1, 20, 11, &[&[0; 4]]),
            ]
            .concat(),
        );
        play.client(&[framed(8, 0, &[]), called(0, 10, 50, &[&[0, 200], &short("bye"), &[0; 4]])].concat());
        play.server(&[framed(8, 0, &[]), called(0, 10, 51, &[])].concat());
        assert_eq!(play.told(), ["channel.open", "queue.declare", "channel.open", "connection.close"]);
        let declared = &play.exchanges()[1];
        assert_eq!(string_attribute(&declared.attributes, semconv::MESSAGING_DESTINATION_NAME), Some("orders"));
        assert_eq!((declared.asked.time_ns, declared.answered.time_ns), (3, 4));
    }

    #[test]
    fn messages_are_exchanges_by_themselves_unless_their_channel_confirms() {
        let mut play = Play::new(sniff::AMQP);
        play.client(&[publish(1, "", "mail.7"), publish(1, "events", "user.made")].concat());
        assert_eq!(play.told(), ["publish mail.{id}", "publish events"]);
        let attributes = &play.exchanges()[1].attributes;
        assert_eq!(string_attribute(attributes, semconv::MESSAGING_DESTINATION_NAME), Some("events:user.made"));
        play.client(&called(1, 85, 10, &[&[0]]));
        play.server(&called(1, 85, 11, &[]));
        play.client(&[publish(1, "a", ""), publish(1, "b", ""), publish(1, "c", "")].concat());
        assert_eq!(play.told().len(), 3);
        play.server(&settle(80, 2, 1));
        play.server(&settle(120, 3, 0));
        assert_eq!(play.told()[2..], ["confirm.select", "publish a", "publish b", "publish c nack"]);
    }

    #[test]
    fn messages_that_came_back_have_failed() {
        let mut play = Play::new(sniff::AMQP);
        let back = called(1, 60, 50, &[&312_u16.to_be_bytes(), &short("NO_ROUTE"), &short("x"), &short("k")]);
        let back = [back, content(1, &[], b"back")].concat();
        play.client(&publish(1, "x", "k"));
        play.server(&back);
        play.client(&[called(1, 85, 10, &[&[0]]), publish(1, "x", "j"), publish(1, "x", "k")].concat());
        play.server(&[called(1, 85, 11, &[]), back, settle(80, 2, 1)].concat());
        let expected = ["publish x", "return x 312 (client)", "confirm.select", "publish x", "publish x 312 (client)"];
        assert_eq!(play.told(), expected);
    }

    #[test]
    fn receipts_are_called_by_the_queue_if_its_consumer_was_seen() {
        let mut play = Play::new(sniff::AMQP);
        let deliver = |consumer: &str| {
            let method = called(1, 60, 60, &[&short(consumer), &TAG, &[1, 0], &short("events"), &short("user.made")]);
            [method, content(1, &[], b"body")].concat()
        };
        play.client(&called(1, 60, 20, &[&[0, 0], &short("mailer"), &short(""), &[0], &[0; 4]]));
        play.server(&[called(1, 60, 21, &[&short("ctag-1")]), deliver("ctag-1"), deliver("ctag-2")].concat());
        play.client(&called(1, 60, 70, &[&[0, 0], &short("mailer"), &[1]]));
        play.server(&called(1, 60, 71, &[&TAG, &[2, 0], &short("events"), &short("user.gone"), &[0; 4]]));
        play.client(&called(1, 60, 70, &[&[0, 0], &short("mailer"), &[1]]));
        play.server(&called(1, 60, 72, &[&short("")]));
        assert_eq!(play.told(), ["basic.consume", "receive mailer", "receive events", "get mailer", "get mailer"]);
        let told =
            |number: usize| string_attribute(&play.exchanges()[number].attributes, semconv::MESSAGING_DESTINATION_NAME);
        assert_eq!((told(1), told(3)), (Some("events:user.made:mailer"), Some("events:user.gone")));
    }

    #[test]
    fn what_the_broker_closes_has_failed_with_its_code() {
        let mut play = Play::new(sniff::AMQP);
        let close = |code: u16, class: u16, method: u16| {
            let arguments =
                [&code.to_be_bytes()[..], &short("why"), &class.to_be_bytes(), &method.to_be_bytes()].concat();
            called(1, 20, 40, &[&arguments])
        };
        play.client(&called(1, 50, 10, &[&[0, 0], &short("gone"), &[1], &[0; 4]]));
        play.server(&close(404, 50, 10));
        play.client(&called(1, 20, 41, &[]));
        play.client(&publish(1, "nowhere", "k"));
        play.server(&close(404, 60, 40));
        play.client(&[called(1, 85, 10, &[&[0]]), publish(1, "nowhere", "k")].concat());
        play.server(&[called(1, 85, 11, &[]), close(403, 60, 40)].concat());
        play.server(&called(0, 10, 50, &[&[1, 64], &short("CONNECTION_FORCED"), &[0; 4]]));
        let expected = [
            "queue.declare 404 (client)",
            "publish nowhere",
            "channel.close 404 (client)",
            "confirm.select",
            "publish nowhere 403 (client)",
            "connection.close 320",
        ];
        assert_eq!(play.told(), expected);
    }

    #[test]
    fn after_a_gap_nobody_is_waited_for_by_a_count_that_may_be_wrong() {
        let mut play = Play::new(sniff::AMQP);
        play.client(&called(1, 85, 10, &[&[0]]));
        play.client(&publish(1, "a", "")[..30]);
        play.gap();
        play.client(&publish(1, "b", ""));
        assert_eq!(play.told(), ["publish a", "publish b"], "at once");
        play.server(&settle(80, 1, 0));
        assert_eq!((play.told(), play.found().lost), (vec!["publish a".to_owned(), "publish b".to_owned()], 1));
    }

    #[test]
    fn what_waits_with_the_longest_names_stays_within_the_limit() {
        let (mut parser, mut found) = (Amqp::default(), Found::default());
        let mut position = 0;
        let mut chunk = |from: Side, bytes: &[u8], parser: &mut Amqp| {
            // Far behind the one before: a turn after calls that were not seen.
            position += 100_000;
            let length = bytes.len() as u32;
            parser.take(&Chunk { from, at: Moment::default(), position, length, bytes, is_turn: true }, &mut found);
        };
        let long = "x".repeat(250);
        for number in 0..300 {
            chunk(Side::Client, &called(1, 85, 10, &[&[0]]), &mut parser);
            chunk(Side::Client, &publish(1, &long, &format!("{long}{number}")), &mut parser);
            chunk(
                Side::Client,
                &called(number, 60, 20, &[&[0, 0], &short(&long), &short(""), &[0], &[0; 4]]),
                &mut parser,
            );
        }
        let held = size_of::<Amqp>() + parser.held_bytes() + 2 * CARRY_BYTES_MAX;
        assert!(held > HELD_BYTES_MAX / 4 && held <= HELD_BYTES_MAX, "{held} bytes");
        assert!(found.over_limit > 0);
    }
}
