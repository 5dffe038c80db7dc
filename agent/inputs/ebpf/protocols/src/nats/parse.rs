//! Lines of NATS, with the headers and the first bytes of the payload that follow.
//!
//! Invariant: no input panics, and only numbers and words of a list come out of a payload. Format: NATS Client Protocol; headers:
//! NATS/1.0 (ADR-4); answers of JetStream: JetStream API.

use crate::http::context;
use crate::{Context, Measure};
use std::borrow::Cow;

/// Of headers and payload, as much is looked at.
const REST_BYTES_WANTED: u32 = 512;

/// What a line begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// Publish, with headers or without.
    Publish {
        with_headers: bool,
    },
    /// Deliver, with headers or without.
    Deliver {
        with_headers: bool,
    },
    Connect,
    Pong,
    Error,
    Other,
}

const VERBS: [(&[u8], Verb); 12] = [
    (b"PUB", Verb::Publish { with_headers: false }),
    (b"HPUB", Verb::Publish { with_headers: true }),
    (b"MSG", Verb::Deliver { with_headers: false }),
    (b"HMSG", Verb::Deliver { with_headers: true }),
    (b"CONNECT", Verb::Connect),
    (b"PONG", Verb::Pong),
    (b"-ERR", Verb::Error),
    (b"PING", Verb::Other),
    (b"+OK", Verb::Other),
    (b"SUB", Verb::Other),
    (b"UNSUB", Verb::Other),
    (b"INFO", Verb::Other),
];

/// What the server may say of a connection; anything else is `_OTHER`.
const ERRORS: [&str; 14] = [
    "Unknown Protocol Operation",
    "Attempted To Connect To Route Port",
    "Authorization Violation",
    "Authorization Timeout",
    "User Authentication Expired",
    "Invalid Client Protocol",
    "Maximum Control Line Exceeded",
    "Maximum Connections Exceeded",
    "Maximum Payload Violation",
    "Parser Error",
    "Secure Connection - TLS Required",
    "Stale Connection",
    "Slow Consumer",
    "Permissions Violation",
];

/// What a message of the connection says.
#[derive(Debug, PartialEq)]
pub(super) enum Line<'a> {
    Connect,
    Published(Published<'a>),
    Delivered(Published<'a>),
    Error(&'static str),
    Pong,
}

/// A message on its way.
#[derive(Debug, PartialEq)]
pub(super) struct Published<'a> {
    pub(super) subject: &'a [u8],
    pub(super) reply: Option<&'a [u8]>,
    pub(super) context: Option<Context>,
    pub(super) verdict: Option<Verdict>,
}

/// What an answer says in words that are the protocol's own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// JetStream has stored the message.
    Stored,
    /// A status in the headers: nobody is there to answer (503).
    Status(Cow<'static, str>),
    /// An error of JetStream, by its code.
    Refused(Cow<'static, str>),
}

/// A line, with what it says to follow.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        // The word, or as much of it as is here.
        let is_start = |word: &[u8]| word.starts_with(bytes) || bytes.strip_prefix(word).is_some_and(is_separated);
        return if VERBS.iter().any(|(word, _)| is_start(word)) { Measure::More } else { Measure::Invalid };
    };
    let Some((verb, rest)) = verb(&bytes[..end]) else { return Measure::Invalid };
    let line = end as u32 + 1;
    match (verb, parts(verb, rest)) {
        (_, Some(parts)) => {
            let length = line.saturating_add(parts.total).saturating_add(2);
            Measure::Whole { length, wanted: length.min(line + REST_BYTES_WANTED) }
        }
        (Verb::Publish { .. } | Verb::Deliver { .. }, None) => Measure::Invalid,
        (_, None) => Measure::Whole { length: line, wanted: line },
    }
}

/// What a message says; `None` if its line is not whole, not known or of no interest.
pub(super) fn line(bytes: &[u8]) -> Option<Line<'_>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (verb, rest) = verb(&bytes[..end])?;
    match verb {
        Verb::Connect => Some(Line::Connect),
        Verb::Pong => Some(Line::Pong),
        Verb::Error => Some(Line::Error(error(rest))),
        Verb::Other => None,
        Verb::Publish { .. } => parts(verb, rest).map(|parts| Line::Published(message(parts, &bytes[end + 1..]))),
        Verb::Deliver { .. } => parts(verb, rest).map(|parts| Line::Delivered(message(parts, &bytes[end + 1..]))),
    }
}

fn message<'a>(parts: Parts<'a>, after: &'a [u8]) -> Published<'a> {
    let after = &after[..after.len().min(parts.total as usize)];
    let (headers, payload) = after.split_at(after.len().min(parts.headers as usize));
    Published {
        subject: parts.subject,
        reply: parts.reply,
        context: traceparent(headers),
        verdict: status(headers).map(Verdict::Status).or_else(|| verdict_of_stream(payload)),
    }
}

/// A line of a message.
struct Parts<'a> {
    subject: &'a [u8],
    reply: Option<&'a [u8]>,
    /// Bytes of headers, and of headers and payload.
    headers: u32,
    total: u32,
}

/// `subject [reply] [headers] total`, with the subscription behind the subject if it is a delivery.
fn parts(verb: Verb, rest: &[u8]) -> Option<Parts<'_>> {
    let (is_delivery, with_headers) = match verb {
        Verb::Publish { with_headers } => (false, with_headers),
        Verb::Deliver { with_headers } => (true, with_headers),
        _ => return None,
    };
    let mut words = rest.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let subject = words.next()?;
    if is_delivery {
        words.next()?;
    }
    let total = number(words.next_back()?)?;
    let headers = if with_headers { number(words.next_back()?)? } else { 0 };
    let reply = words.next();
    (words.next().is_none() && headers <= total).then_some(Parts { subject, reply, headers, total })
}

fn verb(line: &[u8]) -> Option<(Verb, &[u8])> {
    let after = |word: &[u8]| line.strip_prefix(word).filter(|rest| rest.is_empty() || is_separated(rest));
    VERBS.iter().find_map(|(word, verb)| Some((*verb, after(word)?)))
}

fn is_separated(rest: &[u8]) -> bool {
    matches!(rest.first(), Some(b' ' | b'\t' | b'\r'))
}

fn number(digits: &[u8]) -> Option<u32> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

/// `'Permissions Violation for Publish to "subject"'`: as much of it as is in the list.
fn error(rest: &[u8]) -> &'static str {
    let rest = rest.trim_ascii();
    let rest = rest.strip_prefix(b"'").unwrap_or(rest);
    let begins =
        |error: &&&str| rest.get(..error.len()).is_some_and(|rest| rest.eq_ignore_ascii_case(error.as_bytes()));
    ERRORS.iter().find(begins).copied().unwrap_or("_OTHER")
}

/// `NATS/1.0 503`: a status instead of a message.
fn status(headers: &[u8]) -> Option<Cow<'static, str>> {
    let [status @ .., _] = headers.strip_prefix(b"NATS/1.0 ")?.get(..4)? else { return None };
    number(status).filter(|status| *status >= 300).map(|status| Cow::Owned(status.to_string()))
}

fn traceparent(headers: &[u8]) -> Option<Context> {
    headers.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(b"traceparent:".len())?;
        name.eq_ignore_ascii_case(b"traceparent:").then(|| context(value.trim_ascii()))?
    })
}

/// `{"stream":"ORDERS","seq":1}`, or `{"error":{"code":400,"err_code":10060,...}}`, with or without a `type` before.
fn verdict_of_stream(payload: &[u8]) -> Option<Verdict> {
    if payload.starts_with(br#"{"stream":""#) && find(payload, br#""seq":"#).is_some() {
        return Some(Verdict::Stored);
    }
    let is_api =
        payload.starts_with(br#"{"type":"io.nats.jetstream.api."#) || payload.starts_with(br#"{"error":{"code":"#);
    let error = find(payload, br#""error":{"#).filter(|_| is_api)?;
    let digits = &error[find_at(error, br#""err_code":"#)? + br#""err_code":"#.len()..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    number(digits.get(..end.min(5))?).map(|code| Verdict::Refused(code.to_string().into()))
}

fn find<'a>(bytes: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    find_at(bytes, word).map(|at| &bytes[at..])
}

fn find_at(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn published(bytes: &[u8]) -> Published<'_> {
        match line(bytes) {
            Some(Line::Published(message) | Line::Delivered(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_tell_how_long_their_messages_are() {
        let whole = |length, wanted| Measure::Whole { length, wanted };
        let table: [(&str, Measure); 13] = [
            ("PUB a 2\r\nhi\r\n", whole(13, 13)),
            ("PUB a reply 900\r\n", whole(919, 529)),
            ("HPUB a 22 33\r\n", whole(49, 49)),
            ("MSG a 9 0\r\n\r\n", whole(13, 13)),
            ("HMSG a 9 reply 12 12\r\n", whole(36, 36)),
            ("PING\r\nPING\r\n", whole(6, 6)),
            ("+OK\r\n", whole(5, 5)),
            ("PUB a", Measure::More),
            ("HM", Measure::More),
            ("PUBA a 2\r\n", Measure::Invalid),
            ("PUB a x\r\n", Measure::Invalid),
            ("HPUB a 9 2\r\n", Measure::Invalid),
            ("GET / HTTP/1.1\r\n", Measure::Invalid),
        ];
        for (text, expected) in table {
            assert_eq!(measure(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn subjects_and_replies_are_told_from_sizes_and_subscriptions() {
        let table = [
            (&b"PUB a.b 0\r\n\r\n"[..], &b"a.b"[..], None),
            (b"PUB a.b _INBOX.x 0\r\n\r\n", b"a.b", Some(&b"_INBOX.x"[..])),
            (b"HPUB a.b r 12 12\r\nNATS/1.0\r\n\r\n\r\n", b"a.b", Some(b"r")),
            (b"MSG a.b 12 4\r\nbody\r\n", b"a.b", None),
            (b"HMSG a.b 12 r 12 12\r\nNATS/1.0\r\n\r\n\r\n", b"a.b", Some(b"r")),
        ];
        for (bytes, subject, reply) in table {
            let message = published(bytes);
            assert_eq!((message.subject, message.reply), (subject, reply));
        }
    }

    #[test]
    fn verdicts_are_read_where_the_protocol_puts_them() {
        let told = |payload: &str| published(format!("MSG s 1 {}\r\n{payload}\r\n", payload.len()).as_bytes()).verdict;
        assert_eq!(told(r#"{"stream":"ORDERS", "seq":7}"#), Some(Verdict::Stored));
        let refused = Some(Verdict::Refused("10060".into()));
        assert_eq!(
            told(r#"{"error":{"code":400,"err_code":10060,"description":"x"},"stream":"ORDERS","seq":0}"#),
            refused
        );
        assert_eq!(told(r#"{"type":"io.nats.jetstream.api.v1.x","error":{"code":404,"err_code":10060}}"#), refused);
        assert_eq!(told(r#"{"order":1,"error":{"err_code":10060}}"#), None, "an application's own words");
        let status = published(b"HMSG s 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n").verdict;
        assert_eq!(status, Some(Verdict::Status("503".into())));
        assert_eq!(published(b"HMSG s 1 12 16\r\nNATS/1.0\r\n\r\n 503\r\n").verdict, None);
    }

    #[test]
    fn errors_are_of_a_list_and_without_what_they_name() {
        for (text, expected) in [
            ("-ERR 'Permissions Violation for Publish to \"secret\"'\r\n", "Permissions Violation"),
            ("-ERR 'maximum payload violation'\r\n", "Maximum Payload Violation"),
            ("-ERR 'account x is full'\r\n", "_OTHER"),
        ] {
            assert_eq!(line(text.as_bytes()), Some(Line::Error(expected)), "{text}");
        }
    }

    #[test]
    fn a_trace_context_in_the_headers_is_adopted() {
        let headers =
            "NATS/1.0\r\nX: y\r\nTraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
        let bytes = format!("HPUB s {} {}\r\n{headers}\r\n", headers.len(), headers.len());
        assert_eq!(published(bytes.as_bytes()).context.map(|context| context.parent[7]), Some(0x31));
        let in_payload = format!("HPUB s 12 {}\r\nNATS/1.0\r\n\r\n{headers}\r\n", 12 + headers.len());
        assert_eq!(published(in_payload.as_bytes()).context, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(start in "(PUB|HPUB|MSG|HMSG|-ERR) [a-z .0-9]{0,30}(\r\n)?", rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let bytes = [start.as_bytes(), &rest].concat();
            let _ = (measure(&bytes), line(&bytes));
        }
    }
}
