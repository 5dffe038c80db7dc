//! The header of a log line: what stands before the message, told by shape.
//!
//! Loggers write a time, and around it a few fields in no fixed order: host, process, thread, level, component. This walks over them
//! from the left and remembers the end of the last thing that can only be a header: a time, a level, a bracketed field, a
//! component before a colon, a dash, a pipe or a column. Numbers and names in between count only if such a thing follows. It stops
//! at the first word of prose.
//!
//! Invariant: a line without a time (or uptime) has no header, so that nothing is ever taken off a bare message.

use crate::severity::{self, LEVEL_BYTES_MAX};
use crate::stamp::stamp;
use crate::time::Stamp;
use crate::word::Word;
use memchr::{memchr, memchr_iter, memchr2_iter, memrchr};
use ollystack_record::otlp::logs::v1::SeverityNumber;

/// Fields looked at. No layout known has more.
const FIELDS_MAX: usize = 16;
/// Names and numbers in a row that may turn out to be a header.
const WEAK_MAX: usize = 3;
/// How long a bracketed field may be, in bytes.
const BRACKET_BYTES_MAX: usize = 256;

/// What the header says, and where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Head<'a> {
    pub(crate) stamp: Option<Stamp>,
    pub(crate) severity: Option<(SeverityNumber, &'a str)>,
    /// Bytes of the line before its message; 0 if it has no header.
    pub(crate) end: usize,
}

/// Walk over the header of a line.
pub(crate) fn head(line: &str) -> Head<'_> {
    let mut walk = Walk { line, bytes: line.as_bytes(), ..Walk::default() };
    walk.run();
    if walk.stamp.is_none() && !walk.has_uptime {
        return Head::default();
    }
    walk.at = walk.end;
    walk.skip_blanks();
    if !walk.closed {
        walk.skip_separators();
    }
    Head { stamp: walk.stamp, severity: walk.severity, end: walk.at }
}

/// A mark between two fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    /// A dash, a colon, an arrow.
    Line,
    Pipe,
}

/// What was found last that can only be a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    Nothing,
    Time,
    Level,
    Other,
}

#[derive(Debug, Default)]
struct Walk<'a> {
    line: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Behind the last thing that can only be a header.
    end: usize,
    last: Last,
    stamp: Option<Stamp>,
    severity: Option<(SeverityNumber, &'a str)>,
    /// A time as syslog writes it, which host and tag follow.
    is_syslog: bool,
    has_uptime: bool,
    is_named: bool,
    is_bracketed: bool,
    /// Nothing but the message can follow.
    closed: bool,
    weak: usize,
    /// The field before was a number.
    after_number: bool,
}

impl<'a> Walk<'a> {
    fn run(&mut self) {
        for _ in 0..FIELDS_MAX {
            let mark = self.skip_separators();
            if mark == Mark::Line && self.severity.is_some() && (self.is_named || self.is_bracketed) {
                return;
            }
            let Some(&first) = self.bytes.get(self.at) else { return };
            let goes_on = self.time(first)
                || match first {
                    b'[' => self.bracket(),
                    _ => self.word(),
                };
            if !goes_on || self.closed {
                return;
            }
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    /// Blanks, and what stands alone between two fields.
    fn skip_separators(&mut self) -> Mark {
        let mut mark = Mark::None;
        loop {
            self.skip_blanks();
            let Some(&byte) = self.bytes.get(self.at) else { return mark };
            if byte == b'|' {
                self.at += 1;
                mark = Mark::Pipe;
                continue;
            }
            if !matches!(byte, b'-' | b':' | b',' | b';' | b'>') {
                return mark;
            }
            let run = self.bytes[self.at..].iter().take_while(|other| **other == byte).count();
            if run > 3 || !matches!(self.bytes.get(self.at + run), Some(b' ' | b'\t')) {
                return mark;
            }
            self.at += run;
            if !matches!(byte, b',' | b';') && mark == Mark::None {
                mark = Mark::Line;
            }
        }
    }

    /// The header reaches at least to here.
    fn reach(&mut self, end: usize, last: Last) -> bool {
        (self.at, self.end, self.last) = (end, end, last);
        (self.weak, self.after_number) = (0, false);
        true
    }

    fn time(&mut self, first: u8) -> bool {
        if !first.is_ascii_digit() && !first.is_ascii_uppercase() {
            return false;
        }
        let rest = &self.bytes[self.at..];
        // A time without its date stands first, or the date before it is none.
        let Some((stamp, length)) = stamp(rest).filter(|(stamp, _)| stamp.has_date() || self.weak == 0) else {
            return false;
        };
        self.take_stamp(stamp, first, &rest[..length]);
        self.reach(self.at + length, Last::Time)
    }

    /// Of several times the first stands: the program's own, after that of syslog, is the better one only if it has a date.
    fn take_stamp(&mut self, stamp: Stamp, first: u8, text: &[u8]) {
        self.stamp = self.stamp.or(Some(stamp));
        // `Nov 20 09:12:07`, or RFC 3339 in full.
        let zoned =
            text.get(10) == Some(&b'T') && !text.last().is_some_and(|byte| byte.is_ascii_digit() && text.len() < 25);
        self.is_syslog = (first.is_ascii_uppercase() && text.len() <= 15) || zoned;
    }

    /// `[...]`.
    fn bracket(&mut self) -> bool {
        let Some(length) = balanced(&self.bytes[self.at..]) else { return false };
        let end = self.at + length;
        let inner = self.line[self.at + 1..end - 1].trim_ascii();
        let text = inner.as_bytes();
        if let Some((stamp, length)) = stamp(text) {
            self.take_stamp(stamp, text[0], &text[..length]);
            self.is_syslog = false;
            // `[2026-11-20 09:12:07: ERROR/worker]`.
            let others = inner[length..].split(|c: char| !c.is_ascii_alphabetic());
            let is_shouted = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase());
            self.severity = self.severity.or_else(|| others.filter(is_shouted).find_map(named_level));
            return self.reach(end, Last::Time);
        }
        if is_uptime(text) {
            self.has_uptime = true;
            self.closed = true;
            return self.reach(end, Last::Time);
        }
        if self.severity.is_none()
            && memchr(b' ', text).is_none()
            && let Some(found) = inner.split(|c: char| !c.is_ascii_alphabetic()).rev().find_map(named_level)
        {
            self.severity = Some(found);
            return self.reach(end, Last::Level);
        }
        let first_word = text.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
        let is_prose = (first_word > 1 && text.get(first_word) == Some(&b' '))
            || memchr_iter(b':', text).any(|colon| text.get(colon + 1) == Some(&b' '));
        if is_prose {
            return false;
        }
        self.is_bracketed = true;
        self.closed = self.is_named && self.severity.is_some();
        self.reach(end, Last::Other);
        // `[thread] - message` is not closed yet: its dash is to be skipped.
        if self.closed {
            self.skip_separators();
            self.end = self.at;
        }
        true
    }

    /// Anything up to a blank or a pipe.
    fn word(&mut self) -> bool {
        let word = Word::first(&self.line[self.at..]);
        let end = self.at + word.text.len();
        let next = Next::of(&self.bytes[end..]);
        if self.severity.is_none()
            && let Some(found) = self.level(word, &next)
        {
            self.severity = Some(found);
            return self.reach(end, Last::Level);
        }
        if word.text.ends_with(':') && next.byte != Some(b'|') {
            return self.before_colon(word, end);
        }
        let timed = self.stamp.is_some();
        if timed && next.mark == Mark::Pipe && !word.text.is_empty() {
            self.is_named = true;
            return self.reach(end, Last::Other);
        }
        let direct = self.last != Last::Nothing && self.weak == 0 && !self.is_named;
        let leveled = self.severity.is_some();
        let column = leveled && (next.is_tab || (next.blanks >= 2 && direct));
        let dashed = direct && next.mark == Mark::Line;
        if timed && word.is_identifier() && (column || dashed || (direct && leveled && word.is_class())) {
            self.is_named = true;
            return self.reach(end, Last::Other);
        }
        if direct && self.last == Last::Time && matches!(word.text, "*" | "#" | ".") {
            return self.reach(end, Last::Other);
        }
        // A tag with its version between host and colon: `daemon 1.4.1: restart`.
        self.weak += 1;
        let is_host = self.is_syslog && self.last == Last::Time && self.weak <= 2;
        let weak = is_host || !word.is_prose() || (!leveled && begins_with_level(&self.bytes[end + next.blanks..]));
        self.after_number = word.is_number();
        self.at = end;
        weak && self.weak <= WEAK_MAX
    }

    fn level(&self, word: Word<'a>, next: &Next) -> Option<(SeverityNumber, &'a str)> {
        let bare = word.text.trim_end_matches([':', ',']);
        if let [letter] = bare.as_bytes() {
            let severity = severity::of_letter(*letter)?;
            // A letter alone is a level between process numbers and a name.
            let placed = self.stamp.is_some() && (self.after_number || (self.weak == 0 && next.is_name));
            return placed.then_some((severity, bare));
        }
        let is_set_apart = bare.len() < word.text.len() || next.mark == Mark::Pipe || next.is_tab || next.blanks >= 2;
        let is_placed = is_set_apart && self.last == Last::Time && self.weak == 0;
        // `channel.ERROR:` names a level of a channel.
        let channel =
            if word.text.ends_with(':') { memrchr(b'.', bare.as_bytes()).map_or(0, |dot| dot + 1) } else { 0 };
        let level = &bare[channel..];
        if !is_placed && !level.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        named_level(level)
    }

    /// `name:` before the message, or in it.
    fn before_colon(&mut self, word: Word<'_>, end: usize) -> bool {
        let name = word.text.strip_suffix(':').unwrap_or(word.text);
        let bytes = name.as_bytes();
        let timed = self.stamp.is_some();
        if timed && !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'#') {
            return self.reach(end, Last::Other);
        }
        if !timed || bytes.is_empty() || !word.is_tag() {
            return false;
        }
        let component = self.severity.is_some()
            && !self.is_named
            && self.weak == usize::from(self.after_number)
            && !name.ends_with("Error")
            && !name.ends_with("Exception");
        // `host tag[12]: `, `host tag: `, or `host tag 1.4: `.
        let has_process = bytes.ends_with(b"]") && bytes.contains(&b'[');
        let tag = self.last == Last::Time
            && (has_process || (self.is_syslog && (self.weak <= 1 || (self.weak == 2 && bytes[0].is_ascii_digit()))));
        let marked = self.last == Last::Time && self.weak == 0 && bytes.iter().any(|byte| b".$_/:(".contains(byte));
        if !(component || tag || marked) {
            return false;
        }
        self.is_named = true;
        self.reach(end, Last::Other);
        // What a program wrote through syslog may have a header of its own.
        self.closed = !(tag && self.skip_to_inner_time());
        true
    }

    fn skip_to_inner_time(&mut self) -> bool {
        self.skip_blanks();
        let rest = &self.bytes[self.at..];
        match rest {
            [b'[', rest @ ..] => {
                let text = rest.trim_ascii_start();
                let length = text.iter().position(|byte| *byte == b']').unwrap_or(text.len());
                is_uptime(&text[..length]) || stamp(text).is_some()
            }
            _ => stamp(rest).is_some(),
        }
    }
}

/// What follows a word.
struct Next {
    byte: Option<u8>,
    blanks: usize,
    is_tab: bool,
    mark: Mark,
    /// Something that begins as a name or a bracketed field.
    is_name: bool,
}

impl Next {
    #[inline]
    fn of(bytes: &[u8]) -> Next {
        let blanks = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let rest = &bytes[blanks..];
        let mark = match rest {
            [b'|', ..] => Mark::Pipe,
            [b'-' | b':', b' ', ..] if blanks > 0 => Mark::Line,
            _ => Mark::None,
        };
        let is_name = rest.first().is_some_and(|byte| byte.is_ascii_uppercase() || *byte == b'[');
        Next { byte: bytes.first().copied(), blanks, is_tab: bytes.first() == Some(&b'\t'), mark, is_name }
    }
}

/// Whether an upper-case level stands here.
fn begins_with_level(bytes: &[u8]) -> bool {
    let length = bytes.iter().take(LEVEL_BYTES_MAX + 1).take_while(|byte| byte.is_ascii_uppercase()).count();
    let ends = bytes.get(length).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    ends && severity::of_word(&bytes[..length]).is_some()
}

fn named_level(word: &str) -> Option<(SeverityNumber, &str)> {
    severity::of_word(word.as_bytes()).map(|severity| (severity, word))
}

/// How long the bracketed field is that begins here, brackets included.
fn balanced(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    for at in memchr2_iter(b'[', b']', &bytes[..bytes.len().min(BRACKET_BYTES_MAX)]) {
        if bytes[at] == b'[' {
            depth += 1;
        } else {
            depth -= 1;
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// Seconds since the start with six decimals, as kernels write them.
fn is_uptime(text: &[u8]) -> bool {
    let Some(point) = text.iter().position(|byte| *byte == b'.') else { return false };
    let (seconds, fraction) = (&text[..point], &text[point + 1..]);
    !seconds.is_empty() && fraction.len() == 6 && seconds.iter().chain(fraction).all(u8::is_ascii_digit)
}
