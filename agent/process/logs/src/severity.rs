//! The severity that a log line states, if it states one.
//!
//! Levels by name and number, and the search for a level near the beginning of a line that has no header to say where it stands.
//! Invariant: a word counts only where loggers put levels; prose about errors has no severity.

use memchr::memchr;
use ollystack_record::otlp::logs::v1::SeverityNumber;

/// How far into a line a level may be: time, host, process and thread come before it.
const HEAD_BYTES: usize = 160;
/// `information`: no level is longer.
pub(crate) const LEVEL_BYTES_MAX: usize = 11;

/// A level by name, in any case.
pub(crate) fn of_word(word: &[u8]) -> Option<SeverityNumber> {
    use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Trace, Warn};
    let mut lower = [0; LEVEL_BYTES_MAX];
    let lower = lower.get_mut(..word.len()).filter(|lower| lower.len() >= 3)?;
    for (lower, byte) in lower.iter_mut().zip(word) {
        *lower = byte | 0x20;
    }
    Some(match &*lower {
        b"trace" | b"finest" | b"finer" => Trace,
        b"debug" | b"dbg" | b"fine" | b"verbose" => Debug,
        b"info" | b"inf" | b"information" | b"log" | b"note" => Info,
        b"notice" => Info2,
        b"warn" | b"wrn" | b"warning" => Warn,
        b"error" | b"err" | b"severe" => Error,
        b"crit" | b"critical" | b"alert" | b"emerg" | b"emergency" | b"fatal" | b"panic" => Fatal,
        _ => return None,
    })
}

/// A level by its first letter, as programs write it that write one letter.
pub(crate) fn of_letter(letter: u8) -> Option<SeverityNumber> {
    use SeverityNumber::{Debug, Error, Fatal, Info, Trace, Warn};
    Some(match letter {
        b'T' | b'V' => Trace,
        b'D' => Debug,
        b'I' => Info,
        b'W' => Warn,
        b'E' => Error,
        b'F' => Fatal,
        _ => return None,
    })
}

/// Levels by number: of pino and bunyan from 10 up, of syslog (RFC 5424, 6.2.1) below.
pub(crate) fn of_number(level: u32) -> Option<SeverityNumber> {
    use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Trace, Warn};
    Some(match level {
        0..=2 | 60 => Fatal,
        3 | 50 => Error,
        4 | 40 => Warn,
        5 => Info2,
        6 | 30 => Info,
        7 | 20 => Debug,
        10 => Trace,
        _ => return None,
    })
}

/// What the status of an answer over HTTP says of the request.
pub(crate) fn of_status(status: u32) -> Option<SeverityNumber> {
    use SeverityNumber::{Error, Info, Warn};
    Some(match status {
        100..=399 => Info,
        400..=499 => Warn,
        500..=599 => Error,
        _ => return None,
    })
}

/// A level among the first so many words: in brackets or before a colon in any case, bare only in upper case.
pub(crate) fn of_head(line: &str, words: usize) -> Option<(SeverityNumber, &str)> {
    if let Some(found) = of_brief(line) {
        return Some(found);
    }
    for token in line[..line.floor_char_boundary(HEAD_BYTES)].split_ascii_whitespace().take(words) {
        let first = std::ptr::eq(token.as_ptr(), line.as_ptr());
        if let Some(found) = of_token(token, first) {
            return Some(found);
        }
    }
    None
}

/// `E/Window(  170): text`, as devices write it: the process in five places at least.
fn of_brief(line: &str) -> Option<(SeverityNumber, &str)> {
    let [letter, b'/', rest @ ..] = line.as_bytes() else { return None };
    let rest = &rest[..rest.len().min(HEAD_BYTES)];
    let process = &rest[memchr(b'(', rest)? + 1..];
    let width = memchr(b')', process).filter(|width| *width >= 5 && process[*width..].starts_with(b"): "))?;
    let digits = process[..width].trim_ascii_start();
    let severity = of_letter(*letter)?;
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then(|| (severity, &line[..1]))
}

/// A level in a word with what clings to it: `[12][error]`, `<warn>`, `(info)`, `main:ERROR:`. Before a colon a lower-case word is
/// a level only where it comes first: `error: no such file`.
pub(crate) fn of_token(token: &str, first: bool) -> Option<(SeverityNumber, &str)> {
    let bytes = token.as_bytes();
    if bytes.iter().all(u8::is_ascii_alphabetic) {
        // A word alone is a level only in capitals.
        let is_shouted = bytes.iter().all(u8::is_ascii_uppercase);
        return if is_shouted { of_word(bytes).map(|severity| (severity, token)) } else { None };
    }
    let mut from = 0;
    for at in 0..=bytes.len() {
        if bytes.get(at).is_some_and(u8::is_ascii_alphabetic) {
            continue;
        }
        let word = &bytes[from..at];
        let (before, after) = (from.checked_sub(1).map(|at| bytes[at]), bytes.get(at).copied());
        let is_bracketed =
            matches!((before, after), (Some(b'['), Some(b']')) | (Some(b'<'), Some(b'>')) | (Some(b'('), Some(b')')));
        let is_bare = matches!(before, None | Some(b':' | b'|')) && matches!(after, None | Some(b':' | b'|' | b','));
        let is_placed = is_bracketed
            || (after == Some(b':') && from == 0 && first)
            || (is_bare && word.iter().all(u8::is_ascii_uppercase));
        if is_placed && let Some(severity) = of_word(word) {
            return token.get(from..at).map(|word| (severity, word));
        }
        from = at + 1;
    }
    None
}
