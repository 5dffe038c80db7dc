//! DNS over UDP and TCP: a question and the answer of the same identifier and question.
//!
//! A datagram is a message; over TCP each has its length before it, which many read by itself. A question that is repeated while
//! the first waits is the same one. Format: RFC 1035, sections 4.1 and 4.2.2; codes: IANA's DNS parameters. Invariant: only
//! standard queries with one question become exchanges; multicast DNS has the identifier 0 and does not.

use crate::bytes::Bytes;
use crate::{Chunk, Exchange, Fifo, Found, Kind, Measure, Moment, Protocol, Side, Stream};
use ollystack_record::attribute::{own, string};
use ollystack_schema::names::semconv;
use std::borrow::Cow;

/// Of a name, dots included (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// Of a message over TCP: more than any question takes.
const MESSAGE_BYTES_WANTED: u32 = 512;

/// A connection, or a pair of UDP addresses.
#[derive(Debug, Default)]
pub(crate) struct Dns {
    framing: Framing,
    questions: Stream,
    answers: Stream,
    waiting: Fifo<Question, u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    Unknown,
    /// A call is a message.
    Datagrams,
    /// Messages come with their lengths before them, in calls of any size.
    Lengths,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    name: Box<str>,
    kind: u16,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    id: u16,
    is_answer: bool,
    code: u8,
    /// An answer may come without.
    question: Option<Question>,
}

impl Dns {
    /// Bytes that it keeps besides itself.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let streams = self.questions.held_bytes() + self.answers.held_bytes();
        streams + self.waiting.held_bytes(|question| question.name.len(), |_| 0)
    }
}

impl Protocol for Dns {
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found) {
        let Dns { framing, questions, answers, waiting } = self;
        let stream = if chunk.from == Side::Client { questions } else { answers };
        let begins_with_length = || {
            let Some((length, rest)) = chunk.bytes.split_first_chunk::<2>() else { return false };
            u32::from(u16::from_be_bytes(*length)) + 2 == chunk.length && head(rest).is_some()
        };
        match framing {
            Framing::Unknown if begins_with_length() => *framing = Framing::Lengths,
            Framing::Unknown if stream.held_bytes() == 0 && head(chunk.bytes).is_some() => {
                *framing = Framing::Datagrams
            }
            // With a length, or one by itself, it is no datagram: this connection was joined behind one.
            Framing::Datagrams if chunk.length == 2 || begins_with_length() => *framing = Framing::Lengths,
            _ => {}
        }
        if *framing == Framing::Datagrams {
            return message(waiting, chunk.from, chunk.bytes, chunk.at, found);
        }
        stream.walk(chunk, measure, |it| {
            message(waiting, chunk.from, it.bytes.get(2..).unwrap_or_default(), it.began, found);
        });
    }

    fn gap(&mut self, found: &mut Found) {
        self.questions.lose();
        self.answers.lose();
        self.waiting.gap(found);
    }

    fn end(&mut self, found: &mut Found) {
        self.waiting.end(found);
    }
}

fn measure(bytes: &[u8]) -> Measure {
    match bytes.first_chunk::<2>().map(|prefix| u32::from(u16::from_be_bytes(*prefix))) {
        None => Measure::More,
        Some(12..) => {
            let length = u32::from(u16::from_be_bytes([bytes[0], bytes[1]])) + 2;
            Measure::Whole { length, wanted: length.min(MESSAGE_BYTES_WANTED) }
        }
        Some(_) => Measure::Invalid,
    }
}

fn message(waiting: &mut Fifo<Question, u8>, from: Side, bytes: &[u8], at: Moment, found: &mut Found) {
    let Some(head) = head(bytes).filter(|head| head.is_answer == (from == Side::Server)) else { return };
    match head.question {
        Some(question) if !head.is_answer => {
            let id = key(head.id, &question);
            // Sent again, as no answer came in time.
            if waiting.oldest(id).is_none() {
                let pair = waiting.ask(id, at, question, found);
                found.exchanges.extend(pair.map(exchange));
            }
        }
        Some(question) => {
            let pair = waiting.answer(key(head.id, &question), at, head.code, found);
            found.exchanges.extend(pair.map(exchange));
        }
        // Without a question it cannot be told from whom: some servers refuse so.
        None => found.unpaired += u64::from(head.is_answer),
    }
}

/// Servers must give the question back; its letters may change case.
fn key(id: u16, question: &Question) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    let name = question.name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    (name ^ u64::from(question.kind)) << 16 | u64::from(id)
}

/// A standard query or its answer; `None` if these bytes are neither.
fn head(bytes: &[u8]) -> Option<Head> {
    let mut rest = Bytes(bytes);
    let (id, flags, questions) = (rest.u16()?, rest.u16()?, rest.u16()?);
    rest.array::<6>()?;
    // Operation 0 is a standard query; bit 6 must be zero.
    if flags & 0x7840 != 0 || questions > 1 || id == 0 {
        return None;
    }
    let question = if questions == 1 { question(&mut rest) } else { None };
    Some(Head { id, is_answer: flags & 0x8000 != 0, code: (flags & 0xF) as u8, question })
}

fn question(rest: &mut Bytes<'_>) -> Option<Question> {
    let mut name = String::new();
    loop {
        let length = usize::from(rest.u8()?);
        if length == 0 {
            break;
        }
        // A pointer, or more than a name may have: none of a question.
        if length > 63 || name.len() + length > NAME_BYTES_MAX {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(
            rest.take(length)?.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }),
        );
    }
    Some(Question { name: name.into(), kind: rest.u16()? })
}

fn exchange(((asked, question), (answered, code)): ((Moment, Question), (Moment, u8))) -> Exchange {
    let kind = kind_name(question.kind);
    let code_name = code_name(code);
    let name = if question.name.is_empty() { ".".into() } else { String::from(question.name) };
    Exchange {
        // Names are without number: of searches, of reverse look-ups, of services.
        name: format!("DNS {kind}"),
        kind: Kind::Call,
        asked,
        answered,
        attributes: vec![
            own(string(semconv::DNS_QUESTION_NAME, name)),
            string(semconv::DNS_QUESTION_TYPE, kind),
            string(semconv::DNS_RESPONSE_CODE, code_name),
        ],
        error: (code != 0).then_some(Cow::Borrowed(code_name)),
        // A name that does not exist, and a query that is malformed, not served or not allowed.
        is_fault_of_client: matches!(code, 1 | 3 | 4 | 5),
        context: None,
    }
}

fn kind_name(kind: u16) -> &'static str {
    match kind {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        46 => "RRSIG",
        47 => "NSEC",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        251 => "IXFR",
        252 => "AXFR",
        255 => "ANY",
        257 => "CAA",
        _ => "_OTHER",
    }
}

fn code_name(code: u8) -> &'static str {
    match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::Play;
    use crate::{CARRY_BYTES_MAX, HELD_BYTES_MAX};
    use ollystack_ebpf::sniff;
    use ollystack_record::attribute::string_attribute;

    fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let labels = name.split('.').filter(|label| !label.is_empty());
        let name = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).chain([0]);
        let head = [id.to_be_bytes(), [1, 0], [0, 1], [0, 0], [0, 0], [0, 0]].concat();
        head.into_iter().chain(name).chain(kind.to_be_bytes()).chain([0, 1]).collect()
    }

    fn answer(query: &[u8], code: u8) -> Vec<u8> {
        let mut answer = query.to_vec();
        (answer[2], answer[3]) = (0x81, 0x80 | code);
        answer
    }

    fn over_tcp(message: &[u8]) -> Vec<u8> {
        [&(message.len() as u16).to_be_bytes(), message].concat()
    }

    #[test]
    fn answers_join_their_questions_by_number_and_question() {
        let mut play = Play::new(sniff::DNS);
        let (a, aaaa) = (query(7, "shop.example", 1), query(7, "shop.example", 28));
        play.client(&a);
        play.client(&aaaa);
        play.server(&answer(&aaaa, 0));
        play.server(&answer(&query(7, "other.example", 1), 0));
        play.server(&answer(&query(7, "SHOP.example", 1), 3));
        assert_eq!(play.told(), ["DNS AAAA", "DNS A NXDOMAIN (client)"]);
        let attributes = &play.exchanges()[1].attributes;
        assert_eq!(string_attribute(attributes, semconv::DNS_QUESTION_NAME), Some("shop.example"));
        assert_eq!(string_attribute(attributes, semconv::DNS_RESPONSE_CODE), Some("NXDOMAIN"));
    }

    #[test]
    fn a_question_that_is_sent_again_is_one_from_its_first_time_on() {
        let mut play = Play::new(sniff::DNS);
        let question = query(9, "slow.example", 12);
        play.client(&question);
        play.client(&question);
        play.server(&answer(&question, 2));
        play.end();
        assert_eq!((play.told(), play.found().unanswered), (vec!["DNS PTR SERVFAIL".to_owned()], 0));
        assert_eq!(play.exchanges()[0].asked.time_ns, 1);
    }

    #[test]
    fn behind_a_length_that_was_not_seen_the_lengths_of_what_follows_are() {
        let (mut play, first, second) = (Play::new(sniff::DNS), query(7, "a.test", 1), query(8, "b.test", 28));
        play.client(&first);
        play.server(&over_tcp(&answer(&first, 0)));
        play.client(&over_tcp(&second));
        play.server(&over_tcp(&answer(&second, 3)));
        assert_eq!(play.told(), ["DNS A", "DNS AAAA NXDOMAIN (client)"]);
    }

    #[test]
    fn over_tcp_lengths_may_come_by_themselves_and_messages_together() {
        let mut play = Play::new(sniff::DNS);
        let (a, b, c) = (query(1, "a.example", 1), query(2, "b.example", 15), query(3, "", 2));
        play.client(&over_tcp(&a));
        play.server(&(a.len() as u16).to_be_bytes());
        play.server(&answer(&a, 0));
        play.client(&[over_tcp(&b), over_tcp(&c)].concat());
        let both = [over_tcp(&answer(&c, 5)), over_tcp(&answer(&b, 0))].concat();
        play.server(&both[..9]);
        play.server(&both[9..]);
        assert_eq!(play.told(), ["DNS A", "DNS NS REFUSED (client)", "DNS MX"]);
    }

    #[test]
    fn what_is_no_standard_query_is_no_exchange() {
        let mut play = Play::new(sniff::DNS);
        let plain = query(1, "a.example", 1);
        let change = |place: usize, value: u8| {
            let mut other = plain.clone();
            other[place] = value;
            other
        };
        // The identifier 0 of multicast DNS, an update, a reserved bit, two questions, an answer by the wrong side, a pointer.
        for other in [change(1, 0), change(2, 0x28), change(3, 0x40), change(5, 2), change(2, 0x81), change(12, 0xC0)] {
            play.client(&other);
            play.server(&answer(&other, 0));
        }
        play.client(&plain[..20]);
        assert_eq!(play.told(), [""; 0]);
    }

    #[test]
    fn what_waits_with_the_longest_names_stays_within_the_limit() {
        let (mut parser, mut found) = (Dns::default(), Found::default());
        let mut position = 0;
        let mut chunk = |from: Side, bytes: &[u8], parser: &mut Dns| {
            // Far behind the one before: a turn after calls that were not seen.
            position += 100_000;
            let length = bytes.len() as u32;
            parser.take(&Chunk { from, at: Moment::default(), position, length, bytes, is_turn: true }, &mut found);
        };
        let long = ["x".repeat(60), "y".repeat(60), "z".repeat(60), "w".repeat(60)].join(".");
        for id in 1..300 {
            chunk(Side::Client, &query(id, &long, 1), &mut parser);
        }
        let held = size_of::<Dns>() + parser.held_bytes() + 2 * CARRY_BYTES_MAX;
        assert!(held > HELD_BYTES_MAX / 4 && held <= HELD_BYTES_MAX, "{held} bytes");
        assert!(found.over_limit > 0);
    }
}
