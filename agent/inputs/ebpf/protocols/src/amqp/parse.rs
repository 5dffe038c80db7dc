//! Frames of AMQP 0-9-1 as the kernel copied them: possibly cut, possibly hostile, never trusted.
//!
//! Invariant: no input panics. Format: AMQP 0-9-1, sections 2.3.5 (frames), 4.2 (methods and fields); class and method numbers: its
//! XML definition with RabbitMQ's additions.

use crate::bytes::{Bytes, text};
use crate::destination::NAME_BYTES_MAX;
use crate::http::context;
use crate::{Context, Measure, Side};
use std::ops::Range;

/// Of a method or of properties, as much is looked at.
const BYTES_WANTED: u32 = 1024;
/// Far beyond what brokers agree to (128 KiB).
const FRAME_BYTES_MAX: u32 = 1 << 26;
/// Type, channel and size before a frame's payload; an end byte after it.
const HEAD_BYTES: usize = 7;
/// Of what the name of an exchange says.
const TARGET_BYTES_MAX: usize = 120;
/// Headers of a message that are looked at.
const HEADERS_MAX: usize = 64;

const METHOD: u8 = 1;
const PROPERTIES: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;

/// Class and method in one number.
const fn id(class: u16, method: u16) -> u32 {
    (class as u32) << 16 | method as u32
}

const CONNECTION_CLOSE: u32 = id(10, 50);
pub(super) const CHANNEL_OPEN: u32 = id(20, 10);
pub(super) const CHANNEL_CLOSE: u32 = id(20, 40);
pub(super) const CONFIRM_SELECT: u32 = id(85, 10);
pub(super) const CONSUME: u32 = id(60, 20);
pub(super) const PUBLISH: u32 = id(60, 40);
pub(super) const GET: u32 = id(60, 70);

/// A method of clients with an answer: its short strings (behind a reserved number, but for `basic.cancel`), and the bit of the byte
/// behind them that asks for no answer.
struct Call(u32, &'static str, u8, u8);

const CALLS: [Call; 24] = [
    Call(id(10, 40), "connection.open", 0, 0),
    Call(CONNECTION_CLOSE, "connection.close", 0, 0),
    Call(id(10, 70), "connection.update-secret", 0, 0),
    Call(CHANNEL_OPEN, "channel.open", 0, 0),
    Call(id(20, 20), "channel.flow", 0, 0),
    Call(CHANNEL_CLOSE, "channel.close", 0, 0),
    Call(id(40, 10), "exchange.declare", 2, 16),
    Call(id(40, 20), "exchange.delete", 1, 2),
    Call(id(40, 30), "exchange.bind", 3, 1),
    Call(id(40, 40), "exchange.unbind", 3, 1),
    Call(id(50, 10), "queue.declare", 1, 16),
    Call(id(50, 20), "queue.bind", 3, 1),
    Call(id(50, 30), "queue.purge", 1, 1),
    Call(id(50, 40), "queue.delete", 1, 4),
    Call(id(50, 50), "queue.unbind", 3, 0),
    Call(id(60, 10), "basic.qos", 0, 0),
    Call(CONSUME, "basic.consume", 2, 8),
    Call(id(60, 30), "basic.cancel", 1, 1),
    Call(GET, "basic.get", 1, 0),
    Call(id(60, 110), "basic.recover", 0, 0),
    Call(CONFIRM_SELECT, "confirm.select", 0, 1),
    Call(id(90, 10), "tx.select", 0, 0),
    Call(id(90, 20), "tx.commit", 0, 0),
    Call(id(90, 30), "tx.rollback", 0, 0),
];

/// A frame that matters.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    Method(Method<'a>),
    Properties(Option<Context>),
}

#[derive(Debug)]
pub(super) enum Method<'a> {
    Call {
        id: u32,
        name: &'static str,
        queue: Option<Box<str>>,
        is_answered: bool,
    },
    Reply(Reply<'a>),
    Publish(Option<Destination>),
    Deliver {
        consumer: &'a [u8],
        destination: Option<Destination>,
    },
    /// Acknowledged or refused, by the side that took the messages.
    Settle {
        tag: u64,
        is_multiple: bool,
        is_refused: bool,
    },
    Return {
        code: u16,
        destination: Option<Destination>,
    },
    Closed(Close),
}

/// The answer to a call, with what it brings.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) to: u32,
    pub(super) consumer: Option<&'a [u8]>,
    pub(super) destination: Option<Destination>,
}

#[derive(Debug)]
pub(super) struct Close {
    pub(super) code: u16,
    /// The method that failed, if one did.
    pub(super) id: u32,
    pub(super) is_connection: bool,
}

/// Whereto, or whence.
#[derive(Debug)]
pub(super) struct Destination {
    /// `exchange:routing key:queue`, as far as they are known and not empty.
    pub(super) name: Box<str>,
    target: Range<usize>,
    key: Option<Range<usize>>,
}

impl Destination {
    pub(super) fn queue(queue: Box<str>) -> Destination {
        Destination { target: 0..queue.len(), key: None, name: queue }
    }

    fn new(exchange: &[u8], key: &[u8]) -> Option<Destination> {
        let name = match (text(exchange, TARGET_BYTES_MAX), text(key, NAME_BYTES_MAX)) {
            (Some(exchange), Some(key)) => {
                let name = text(format!("{exchange}:{key}").as_bytes(), NAME_BYTES_MAX)?;
                return Some(Destination {
                    target: 0..exchange.len(),
                    key: Some(exchange.len() + 1..name.len()),
                    name,
                });
            }
            (Some(exchange), None) => return Some(Destination::queue(exchange)),
            (None, key) => key?,
        };
        let target = 0..name.floor_char_boundary(TARGET_BYTES_MAX);
        Some(Destination { target, key: Some(0..name.len()), name })
    }

    /// What the message is called by: the queue, else the exchange, else (of the default exchange) the routing key.
    pub(super) fn target(&self) -> &str {
        self.name.get(self.target.clone()).unwrap_or(&self.name)
    }

    pub(super) fn routing_key(&self) -> Option<&str> {
        self.name.get(self.key.clone()?)
    }

    /// The queue through which it came is known.
    pub(super) fn came_by(&mut self, queue: &str) {
        // Through the default exchange the routing key is the queue.
        if *self.name == *queue {
            return;
        }
        let before = self.name.floor_char_boundary(NAME_BYTES_MAX.saturating_sub(queue.len() + 1));
        let name = format!("{}:{queue}", &self.name[..before]);
        self.target = before + 1..name.len();
        self.key = self.key.take().filter(|key| key.start <= before).map(|key| key.start..key.end.min(before));
        self.name = name.into();
    }

    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn held_bytes(&self) -> usize {
        self.name.len()
    }
}

/// A frame says how long it is; a connection begins with eight bytes that are none.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    if bytes.starts_with(b"AMQP") || b"AMQP".starts_with(bytes) {
        return Measure::Whole { length: 8, wanted: 8 };
    }
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Measure::More };
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if size > FRAME_BYTES_MAX {
        return Measure::Invalid;
    }
    let length = HEAD_BYTES as u32 + size + 1;
    match head[0] {
        METHOD | PROPERTIES => Measure::Whole { length, wanted: length.min(BYTES_WANTED) },
        BODY | HEARTBEAT => Measure::Whole { length, wanted: HEAD_BYTES as u32 },
        _ => Measure::Invalid,
    }
}

/// The channel of a frame.
pub(super) fn channel(frame: &[u8]) -> u16 {
    frame.get(1..3).map_or(0, |channel| u16::from_be_bytes([channel[0], channel[1]]))
}

/// What a frame says; `None` if it is of no interest, or too short to tell.
pub(super) fn frame(bytes: &[u8], from: Side) -> Option<Frame<'_>> {
    let mut rest = Bytes(bytes);
    let [kind, ..] = rest.array::<HEAD_BYTES>()?;
    match kind {
        METHOD => method(rest, from).map(Frame::Method),
        PROPERTIES => Some(Frame::Properties(properties(rest))),
        _ => None,
    }
}

fn method(mut rest: Bytes<'_>, from: Side) -> Option<Method<'_>> {
    let number = rest.u32()?;
    if from == Side::Server && matches!(number, CHANNEL_CLOSE | CONNECTION_CLOSE) {
        let code = rest.u16()?;
        let (id, is_connection) =
            (short_string(&mut rest).and_then(|_| rest.u32()).unwrap_or(0), number == CONNECTION_CLOSE);
        return Some(Method::Closed(Close { code, id, is_connection }));
    }
    if let Some(Call(id, name, strings, no_answer)) = CALLS.iter().find(|call| call.0 == number) {
        return Some(call(rest, *id, name, *strings, *no_answer));
    }
    match (number >> 16, number & 0xFFFF) {
        (60, 40) => {
            rest.u16()?;
            let exchange = short_string(&mut rest)?;
            Some(Method::Publish(Destination::new(exchange, short_string(&mut rest).unwrap_or_default())))
        }
        (60, 50) => {
            let code = rest.u16()?;
            short_string(&mut rest)?;
            Some(Method::Return { code, destination: destination(&mut rest) })
        }
        (60, 60) => {
            let consumer = short_string(&mut rest)?;
            rest.array::<9>();
            Some(Method::Deliver { consumer, destination: destination(&mut rest) })
        }
        (60, settle @ (80 | 120)) => {
            let (tag, bits) = (rest.u64()?, rest.u8()?);
            Some(Method::Settle { tag, is_multiple: bits & 1 != 0, is_refused: settle == 120 })
        }
        (60, 71) => {
            rest.array::<9>();
            Some(Method::Reply(Reply { to: GET, consumer: None, destination: destination(&mut rest) }))
        }
        (60, 72) => Some(Method::Reply(Reply { to: GET, consumer: None, destination: None })),
        (40, 51) => Some(Method::Reply(Reply { to: id(40, 40), consumer: None, destination: None })),
        (_, 1..) if CALLS.iter().any(|call| call.0 == number - 1) => {
            let to = number - 1;
            let consumer = if to == CONSUME { short_string(&mut rest) } else { None };
            Some(Method::Reply(Reply { to, consumer, destination: None }))
        }
        _ => None,
    }
}

fn call(mut rest: Bytes<'_>, id: u32, name: &'static str, strings: u8, no_answer: u8) -> Method<'static> {
    let is_cancel = id == self::id(60, 30);
    if strings > 0 && !is_cancel {
        rest.u16();
    }
    let first = if strings > 0 { short_string(&mut rest) } else { None };
    for _ in 1..strings {
        short_string(&mut rest);
    }
    let is_answered = no_answer == 0 || rest.u8().is_none_or(|bits| bits & no_answer == 0);
    let queue = first.filter(|_| !is_cancel).and_then(|queue| text(queue, TARGET_BYTES_MAX));
    Method::Call { id, name, queue, is_answered }
}

fn destination(rest: &mut Bytes<'_>) -> Option<Destination> {
    let exchange = short_string(rest)?;
    Destination::new(exchange, short_string(rest).unwrap_or_default())
}

/// A trace context among a content's headers.
fn properties(mut rest: Bytes<'_>) -> Option<Context> {
    // Class, weight and size of the body.
    rest.array::<12>()?;
    let flags = rest.u16()?;
    for property in [0x8000, 0x4000] {
        if flags & property != 0 {
            short_string(&mut rest)?;
        }
    }
    if flags & 0x2000 == 0 {
        return None;
    }
    let size = rest.u32()? as usize;
    let mut table = Bytes(&rest.0[..rest.0.len().min(size)]);
    for _ in 0..HEADERS_MAX {
        let name = short_string(&mut table)?;
        let kind = table.u8()?;
        if kind == b'S' {
            let size = table.u32()? as usize;
            let value = table.take(size)?;
            if name.eq_ignore_ascii_case(b"traceparent") {
                return context(value);
            }
            continue;
        }
        let bytes = match kind {
            b't' | b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'd' | b'T' => 8,
            b'A' | b'F' | b'x' => table.u32()? as usize,
            b'V' => 0,
            _ => return None,
        };
        table.take(bytes)?;
    }
    None
}

fn short_string<'a>(rest: &mut Bytes<'a>) -> Option<&'a [u8]> {
    let length = rest.u8()?;
    rest.take(length.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn short(text: &str) -> Vec<u8> {
        [&[text.len() as u8], text.as_bytes()].concat()
    }

    pub(in super::super) fn framed(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u32).to_be_bytes();
        [&[kind], &channel.to_be_bytes()[..], &size, payload, &[0xCE]].concat()
    }

    /// A method with its arguments.
    pub(in super::super) fn called(channel: u16, class: u16, method: u16, arguments: &[&[u8]]) -> Vec<u8> {
        framed(METHOD, channel, &[&id(class, method).to_be_bytes()[..], &arguments.concat()].concat())
    }

    pub(in super::super) fn content(channel: u16, headers: &[u8], body: &[u8]) -> Vec<u8> {
        let flags: &[u8] = if headers.is_empty() { &[0x80, 0] } else { &[0xA0, 0] };
        let size = (headers.len() as u32).to_be_bytes();
        let table: &[u8] = if headers.is_empty() { &[] } else { &[&size[..], headers].concat() };
        let properties = [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], flags, &short("text/plain"), table].concat();
        [framed(PROPERTIES, channel, &properties), framed(BODY, channel, body)].concat()
    }

    #[test]
    fn frames_tell_how_long_they_are() {
        assert_eq!(measure(&called(1, 20, 10, &[&[0]])), Measure::Whole { length: 13, wanted: 13 });
        assert_eq!(measure(&framed(BODY, 1, &[1; 90])), Measure::Whole { length: 98, wanted: 7 });
        assert_eq!(measure(b"AMQP\0\0\x09\x01"), Measure::Whole { length: 8, wanted: 8 });
        assert_eq!(measure(&[1, 0, 1]), Measure::More);
        for bytes in [&[4, 0, 1, 0, 0, 0, 0][..], &[1, 0, 1, 0xFF, 0, 0, 0]] {
            assert_eq!(measure(bytes), Measure::Invalid);
        }
    }

    #[test]
    fn calls_that_want_no_answer_say_so_in_a_bit() {
        let is_answered = |bytes: &[u8]| match frame(bytes, Side::Client) {
            Some(Frame::Method(Method::Call { is_answered, .. })) => is_answered,
            other => panic!("{other:?}"),
        };
        for (bits, expected) in [(2, true), (16, false)] {
            assert_eq!(is_answered(&called(1, 50, 10, &[&[0, 0], &short("q"), &[bits], &[0; 4]])), expected);
            assert_eq!(
                is_answered(&called(1, 40, 10, &[&[0, 0], &short("x"), &short("topic"), &[bits], &[0; 4]])),
                expected
            );
        }
        assert!(!is_answered(&called(1, 60, 30, &[&short("tag"), &[1]])));
        assert!(!is_answered(&called(1, 85, 10, &[&[1]])));
    }

    #[test]
    fn a_trace_context_is_found_among_headers_of_every_type() {
        let value = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let headers = [
            [short("a"), vec![b't', 1]].concat(),
            [short("b"), vec![b'I', 0, 0, 0, 1]].concat(),
            [short("c"), vec![b'F', 0, 0, 0, 2, 9, 9]].concat(),
            [short("d"), vec![b'V']].concat(),
            [short("traceparent"), vec![b'S', 0, 0, 0, 55], value.to_vec()].concat(),
        ];
        let found = |headers: &[u8]| match frame(&content(1, headers, b""), Side::Client) {
            Some(Frame::Properties(context)) => context.map(|context| context.parent[7]),
            other => panic!("{other:?}"),
        };
        assert_eq!(found(&headers.concat()), Some(0x31));
        assert_eq!(found(&headers[..4].concat()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(class in prop::sample::select(vec![10_u16, 20, 40, 50, 60, 85, 90]), method in 0_u16..130, rest in prop::collection::vec(any::<u8>(), 0..80), kind in 1_u8..4) {
            let bytes = framed(kind, 1, &[&id(class, method).to_be_bytes()[..], &rest].concat());
            for side in [Side::Client, Side::Server] {
                let _ = (measure(&bytes), frame(&bytes, side).is_some());
            }
        }
    }
}
