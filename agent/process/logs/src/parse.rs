//! What a log line says of itself: when, how bad, of which trace, and what is left once that is taken off.
//!
//! From the text of a record to [`Parsed`], which borrows from it. Layouts are told by shape, not by the name of who writes them:
//! a set of fields (`fields`), a web server's line about a request, a syslog message, or a header before prose (`head`), and
//! fields after a header. Invariant: nothing here fails, and a line without a known shape is its own message.

use crate::fields::{self, Fields};
use crate::head::{Head, head};
use crate::severity;
use crate::time::{Clock, Stamp, Zone, month_day_stamp, stamp};
use memchr::memchr;
use ollystack_record::otlp::logs::v1::SeverityNumber;

/// How far into a line the time of a request may be: host, addresses and user come before it.
const REQUEST_HEAD_BYTES: usize = 128;
/// How far into a line the place in code ends, where that comes last in the header.
const PLACE_BYTES: usize = 160;

/// What a line says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parsed<'a> {
    /// Its time, nanoseconds since the epoch, if it states one that is believed.
    pub time_unix_nano: Option<u64>,
    /// Its severity and the word that says so.
    pub severity: Option<(SeverityNumber, &'a str)>,
    /// What is left after time, host, process, severity, thread and component: the text that patterns are mined from.
    pub message: &'a str,
    /// The trace it belongs to.
    pub trace_id: Option<[u8; 16]>,
    /// The span it belongs to.
    pub span_id: Option<[u8; 8]>,
}

/// Parse one line without a clock: a time without a year is then unknown, and one without a zone is UTC.
pub fn parse(line: &str) -> Parsed<'_> {
    parse_at(line, Clock { now_unix_nano: 0, zone: &Zone::UTC })
}

/// Parse one line at a time and place, which complete what its time leaves out.
pub fn parse_at<'a>(line: &'a str, clock: Clock<'_>) -> Parsed<'a> {
    let text = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{feff}');
    let Lead { stamp, severity, message } = match text.as_bytes() {
        [b'{', ..] => Lead { message: text, ..Lead::default() },
        [b'<', ..] => of_syslog(text).unwrap_or_else(|| of_header(text)),
        [b'I' | b'W' | b'E' | b'F', digit, ..] if digit.is_ascii_digit() => {
            of_month_day(text).unwrap_or_else(|| of_header(text))
        }
        _ => of_request(text).unwrap_or_else(|| of_header(text)),
    };
    let fields = match message.as_bytes() {
        [b'{', ..] => fields::json(message),
        [first, ..] if first.is_ascii_alphabetic() || matches!(first, b'@' | b'_') => fields::logfmt(message),
        _ => None,
    };
    let Fields { stamp: inner, severity: level, message: inner_message, trace_id, span_id } =
        fields.unwrap_or_default();
    // What the program itself says is nearer to the truth than what was put around it.
    let severity = level.or(severity).or_else(|| if fields.is_none() { severity::of_head(message) } else { None });
    Parsed {
        time_unix_nano: inner.or(stamp).and_then(|stamp| stamp.resolve(clock)),
        severity,
        message: inner_message.unwrap_or(message),
        trace_id,
        span_id,
    }
}

/// What leads a line, taken off.
#[derive(Default)]
struct Lead<'a> {
    stamp: Option<Stamp>,
    severity: Option<(SeverityNumber, &'a str)>,
    message: &'a str,
}

fn of_header(text: &str) -> Lead<'_> {
    let Head { stamp, severity, end } = head(text);
    Lead { stamp, severity, message: &text[end..] }
}

/// `<34>1 2026-11-20T09:12:07Z host app 12 id [data] text` (RFC 5424), or `<34>` before any other header (RFC 3164).
fn of_syslog(text: &str) -> Option<Lead<'_>> {
    let end = memchr(b'>', text.as_bytes().get(..5.min(text.len()))?)?;
    let priority: u32 = text[1..end].parse().ok().filter(|priority| *priority < 192)?;
    let severity = severity::of_number(priority % 8).map(|severity| (severity, &text[1..end]));
    let rest = &text[end + 1..];
    if let Some(message) = rest.strip_prefix("1 ").and_then(of_syslog_5424) {
        return Some(Lead { severity, ..message });
    }
    let Lead { stamp, severity: stated, message } = of_header(rest.trim_start());
    Some(Lead { stamp, severity: stated.or(severity), message })
}

/// What follows the version.
fn of_syslog_5424(text: &str) -> Option<Lead<'_>> {
    let mut words = text.splitn(6, ' ');
    let time = words.next()?;
    let stamp = stamp(time.as_bytes()).map(|(stamp, _)| stamp);
    if stamp.is_none() && time != "-" {
        return None;
    }
    let mut rest = words.nth(4)?;
    if let Some(text) = rest.strip_prefix('-') {
        rest = text;
    }
    while rest.starts_with('[') {
        rest = &rest[element_end(rest.as_bytes())?..];
    }
    Some(Lead { stamp, severity: None, message: rest.trim_start_matches([' ', '\u{feff}']) })
}

/// Behind the structured data that begins here; a bracket within a value is escaped.
fn element_end(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = bytes.iter().position(|byte| {
        let ends = *byte == b']' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(end + 1)
}

/// `E1120 09:12:07.000001 12 main.cc:7] text`.
fn of_month_day(text: &str) -> Option<Lead<'_>> {
    let bytes = text.as_bytes();
    let (stamp, length) = month_day_stamp(&bytes[1..])?;
    let head = &bytes[1 + length..bytes.len().min(PLACE_BYTES)];
    let end = 1 + length + memchr(b']', head)? + 1;
    let severity = severity::of_letter(bytes[0]).map(|severity| (severity, &text[..1]));
    Some(Lead { stamp: Some(stamp), severity, message: text[end..].trim_start() })
}

/// `127.0.0.1 - - [20/Nov/2026:09:12:07 +0000] "GET / HTTP/1.1" 200 12`: what web servers say of a request, which begins with it.
/// Its severity is that of the answer.
fn of_request(text: &str) -> Option<Lead<'_>> {
    let bytes = text.as_bytes();
    let begin = memchr(b'[', &bytes[..bytes.len().min(REQUEST_HEAD_BYTES)])? + 1;
    if bytes.get(begin + 2) != Some(&b'/') {
        return None;
    }
    let (stamp, length) = stamp(&bytes[begin..])?;
    let message = text.get(begin + length..)?.strip_prefix("] ")?;
    let request = message.strip_prefix('"')?;
    let answer = request.find("\" ").map(|end| &request[end + 2..]);
    let status = answer.and_then(|answer| answer.get(..3)).filter(|status| status.bytes().all(|b| b.is_ascii_digit()));
    let severity = status.and_then(|status| Some((severity::of_status(status.parse().ok()?)?, status)));
    Some(Lead { stamp: Some(stamp), severity, message })
}
