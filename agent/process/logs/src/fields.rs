//! Lines that are a set of named fields: a JSON object, or logfmt's `key=value`.
//!
//! From such a line to the few fields that mean the same everywhere, by the names that loggers give them. Looks at the top level only
//! and builds nothing. Invariant: a line that is not such a set yields nothing, however much it looks like one.

use crate::severity;
use crate::stamp::stamp;
use crate::time::Stamp;
use memchr::memchr2;
use ollystack_record::otlp::logs::v1::SeverityNumber;

/// What the fields of a line say. Texts are as they are written, escapes included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fields<'a> {
    pub(crate) stamp: Option<Stamp>,
    pub(crate) severity: Option<(SeverityNumber, &'a str)>,
    pub(crate) message: Option<&'a str>,
    pub(crate) trace_id: Option<[u8; 16]>,
    pub(crate) span_id: Option<[u8; 8]>,
}

impl<'a> Fields<'a> {
    fn set(&mut self, key: &str, value: &'a str) {
        match key {
            "time" | "ts" | "timestamp" | "@timestamp" | "datetime" | "asctime" | "t" | "@t" => {
                self.stamp = self.stamp.or_else(|| time(value));
            }
            "level" | "severity" | "lvl" | "levelname" | "log.level" | "@level" | "loglevel" | "severity_text"
            | "@l" => {
                self.severity = self.severity.or_else(|| level(value).map(|severity| (severity, value)));
            }
            "msg" | "message" | "@message" | "@m" | "@mt" => self.message = self.message.or(Some(value)),
            "trace_id" | "traceid" | "traceId" | "traceID" | "trace.id" | "otelTraceID" => {
                self.trace_id = self.trace_id.or_else(|| id(value));
            }
            "span_id" | "spanid" | "spanId" | "spanID" | "span.id" | "otelSpanID" => {
                self.span_id = self.span_id.or_else(|| id(value));
            }
            _ => (),
        }
    }
}

fn time(value: &str) -> Option<Stamp> {
    if let Some((stamp, read)) = stamp(value.as_bytes())
        && read == value.len()
    {
        return Some(stamp);
    }
    match value.parse::<u64>() {
        Ok(number) => Stamp::of_epoch(number),
        Err(_) => Stamp::of_epoch_seconds(value.parse().ok()?),
    }
}

fn level(value: &str) -> Option<SeverityNumber> {
    severity::of_word(value.as_bytes()).or_else(|| severity::of_number(value.parse().ok()?))
}

/// An id of exactly N bytes in hexadecimal; all zeros is none (W3C Trace Context).
fn id<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    id.iter().any(|byte| *byte != 0).then_some(id)
}

/// The fields of a JSON object. What comes after a mistake in it is not looked at.
pub(crate) fn json(line: &str) -> Option<Fields<'_>> {
    let bytes = line.as_bytes();
    let mut fields = Fields::default();
    let mut at = skip_space(bytes, 1);
    let mut found = false;
    while bytes.get(at) == Some(&b'"') {
        let Some(key_end) = string_end(bytes, at + 1) else { break };
        let key = &line[at + 1..key_end];
        at = skip_space(bytes, key_end + 1);
        if bytes.get(at) != Some(&b':') {
            break;
        }
        at = skip_space(bytes, at + 1);
        let Some(&first) = bytes.get(at) else { break };
        found = true;
        match first {
            b'"' => {
                let Some(end) = string_end(bytes, at + 1) else { break };
                fields.set(key, &line[at + 1..end]);
                at = end + 1;
            }
            b'{' | b'[' => {
                let Some(end) = nested_end(bytes, at) else { break };
                at = end;
            }
            _ => {
                let rest = &bytes[at..];
                let length = rest.iter().position(|byte| matches!(byte, b',' | b'}' | b' ')).unwrap_or(rest.len());
                fields.set(key, &line[at..at + length]);
                at += length;
            }
        }
        at = skip_space(bytes, at);
        if bytes.get(at) != Some(&b',') {
            break;
        }
        at = skip_space(bytes, at + 1);
    }
    found.then_some(fields)
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Where the string ends whose text begins here: the place of its quote.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Behind the object or array that begins here.
fn nested_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at + 1)?,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => (),
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The fields of a logfmt line: it begins with a pair, and one of its keys is a logger's. The message of one without `msg` is the
/// line.
pub(crate) fn logfmt(line: &str) -> Option<Fields<'_>> {
    let bytes = line.as_bytes();
    let mut fields = Fields::default();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let key = rest.iter().position(|byte| !is_key(*byte)).unwrap_or(rest.len());
        if rest.get(key) != Some(&b'=') || key == 0 {
            if at == 0 {
                return None;
            }
            // A word alone is a flag.
            at += memchr::memchr(b' ', rest).map_or(rest.len(), |space| space + 1);
            continue;
        }
        let value = at + key + 1;
        let end = if bytes.get(value) == Some(&b'"') {
            let Some(end) = string_end(bytes, value + 1) else { break };
            fields.set(&line[at..at + key], &line[value + 1..end]);
            end + 1
        } else {
            let end = memchr::memchr(b' ', &bytes[value..]).map_or(bytes.len(), |length| value + length);
            fields.set(&line[at..at + key], &line[value..end]);
            end
        };
        at = skip_space(bytes, end);
    }
    let known = fields.severity.is_some() || fields.stamp.is_some();
    known.then_some(fields)
}

fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'@')
}
