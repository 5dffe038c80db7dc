//! Values that a name gives away: `password=x`, `"token": "x"`, `X-Api-Key: x`, `--secret x`, `<pwd>x</pwd>`.
//!
//! From the word that ended a secret's name the whole name is read, then what assigns, then the value, in quotes or up to the next
//! blank or separator. Invariant: no byte is read more than a few times, because the search goes on behind what was read.

use crate::kind::{Find, Kind};
use crate::{mark, name};

/// Blanks allowed on either side of what assigns.
const BLANKS_MAX: usize = 4;
/// How far a name is followed back: further than any name of a secret is long.
const NAME_BYTES_MAX: usize = 48;
/// The schemes of `Authorization` whose credentials are one word, and those whose credentials take the rest of the line.
const SCHEMES: [&str; 9] = ["Basic", "Bearer", "Token", "Negotiate", "NTLM", "ApiKey", "SharedKey", "GSSAPI", "Splunk"];
const LONG_SCHEMES: [&str; 4] = ["Digest", "AWS4-HMAC-SHA256", "OAuth", "Hawk"];

/// What is assigned to the name of which a word takes `start..end`, and where the search goes on.
pub(crate) fn find(text: &[u8], start: usize, end: usize) -> (Option<Find>, usize) {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let back = &text[start.saturating_sub(NAME_BYTES_MAX)..start];
    let begin = start - back.iter().rev().take_while(|byte| is_name(byte)).count();
    let stop = end + text[end..].iter().take_while(|byte| is_name(byte)).count();
    let named = &text[begin..stop];
    // "API key: ..."
    let spaced = || {
        let before = text[..begin].strip_suffix(b" ")?;
        let length = before.iter().rev().take(NAME_BYTES_MAX).take_while(|byte| byte.is_ascii_alphanumeric()).count();
        name::of_secret(&text[before.len() - length..stop])
    };
    let kind = match name::of_secret(named) {
        None if named.eq_ignore_ascii_case(b"key") || named.eq_ignore_ascii_case(b"keys") => spaced(),
        kind => kind,
    };
    let found = kind.and_then(|kind| assigned(text, begin, stop, kind));
    (found, stop)
}

/// How a value is assigned.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// `=`, `=>`, `:=`
    Equals,
    /// `:`, and whether a blank follows.
    Colon { blank: bool },
    /// `<name>`
    Tag,
    /// A blank, after a flag.
    Flag,
    /// A blank, before a value in quotes: SQL.
    Quoted,
}

fn assigned(text: &[u8], begin: usize, stop: usize, kind: Kind) -> Option<Find> {
    let named = &text[begin..stop];
    let quote = quote_at(text, stop);
    let after_name = stop + quote.map_or(0, |quote| quote.bytes) + usize::from(text.get(stop) == Some(&b']'));
    let (by, mut at) = operator(text, begin, after_name, quote.is_some())?;
    // What stands in brackets is a list or a mark.
    if text.get(at) == Some(&b'[') && mark::mark_len(&text[at..]) == 0 {
        at += 1;
    }
    if mark::mark_len(&text[at..]) > 0 {
        return None;
    }
    let value_quote = quote_at(text, at);
    if by == By::Quoted && value_quote.is_none() {
        return None;
    }
    let is_header = kind == Kind::Token && (ends_with(named, b"authorization") || ends_with(named, b"cookie"));
    let (from, to) = match value_quote {
        Some(opened) => {
            let from = at + opened.bytes;
            (from, quote_end(text, from, opened))
        }
        None if is_header => (at, line_end(text, at)),
        None => (at, word_end(text, at, by)),
    };
    let (from, to) = if is_header { credentials(text, from, to, value_quote.is_some()) } else { (from, to) };
    let value = text.get(from..to)?;
    let bare_json = quote.is_some_and(|quote| quote.byte == b'"' && quote.escapes == 0)
        && value_quote.is_none()
        && value.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    let refers =
        value.starts_with(b"${") || value.starts_with(b"$(") || value.starts_with(b"{{") || value.starts_with(b"%s");
    let opens = value_quote.is_none() && matches!(value.first(), Some(b'{' | b'('));
    // PWD is also where a shell is.
    let is_folder = ends_with(named, b"pwd") && value.first() == Some(&b'/');
    if name::says_nothing(value) || mark::mark_len(value) > 0 || refers || opens || is_folder {
        return None;
    }
    if value_quote.is_none() && by == (By::Colon { blank: true }) && !is_header && is_prose(text, from, to, kind) {
        return None;
    }
    let mut find = Find::new(from, to, kind);
    find.bare_json = bare_json;
    Some(find)
}

/// `'...'` after a word that ends at `end`.
pub(crate) fn quoted_after(text: &[u8], end: usize) -> Option<Find> {
    let at = skip_blanks(text, end);
    let opened = quote_at(text, at)?;
    let from = at + opened.bytes;
    let to = quote_end(text, from, opened);
    (!name::says_nothing(&text[from..to])).then(|| Find::new(from, to, Kind::Password))
}

/// What assigns, and where the value begins.
fn operator(text: &[u8], begin: usize, after_name: usize, quoted: bool) -> Option<(By, usize)> {
    let at = skip_blanks(text, after_name);
    let byte = *text.get(at)?;
    let next = text.get(at + 1).copied();
    let by = match (byte, next) {
        (b'=', Some(b'>')) | (b':', Some(b'=')) => (By::Equals, at + 2),
        (b'=', Some(b'=')) => (By::Equals, at + 2),
        (b'=', _) => (By::Equals, at + 1),
        (b':', Some(b':')) => return None,
        (b':', next) => (By::Colon { blank: matches!(next, Some(b' ' | b'\t')) && !quoted }, at + 1),
        (b'%', _) if matches!(text.get(at + 1..at + 3), Some(b"3D" | b"3d")) => (By::Equals, at + 3),
        (b'>', _) if begin > 0 && text[begin - 1] == b'<' && at == after_name => return Some((By::Tag, at + 1)),
        (b'-', _) if at > after_name => return None,
        _ if at > after_name && text[begin] == b'-' && !quoted => (By::Flag, at),
        (b'\'' | b'"', _) if at > after_name && !quoted => (By::Quoted, at),
        _ => return None,
    };
    Some((by.0, skip_blanks(text, by.1)))
}

fn skip_blanks(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().take(BLANKS_MAX).take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// A quotation mark, escaped once or more where a text stands in another.
#[derive(Clone, Copy)]
struct Quote {
    byte: u8,
    escapes: usize,
    bytes: usize,
}

fn quote_at(text: &[u8], at: usize) -> Option<Quote> {
    let rest = text.get(at..)?;
    let escapes = rest.iter().take(8).take_while(|byte| **byte == b'\\').count();
    let byte = *rest.get(escapes).filter(|byte| matches!(byte, b'"' | b'\'' | b'`'))?;
    Some(Quote { byte, escapes, bytes: escapes + 1 })
}

/// Where what was opened by `quote` is closed: at the next one that is escaped no deeper. Unclosed, it goes to the end.
fn quote_end(text: &[u8], from: usize, quote: Quote) -> usize {
    let mut at = from;
    while let Some(next) = memchr::memchr(quote.byte, &text[at..]) {
        let place = at + next;
        let escapes = text[from..place].iter().rev().take_while(|byte| **byte == b'\\').count();
        let closes = if quote.escapes == 0 { escapes % 2 == 0 } else { escapes <= quote.escapes };
        if closes {
            return place - if quote.escapes == 0 { 0 } else { escapes };
        }
        at = place + 1;
    }
    text.len()
}

/// The end of a value without quotes.
fn word_end(text: &[u8], at: usize, by: By) -> usize {
    let ends = |(place, byte): (usize, &u8)| match byte {
        b'<' => true,
        _ if by == By::Tag => false,
        b'\\' => matches!(text.get(at + place + 1), Some(b'n' | b'r' | b't' | b'"' | b'\'' | b'\\')),
        b'"' | b'\'' | b'`' | b',' | b';' | b'&' | b'>' | b')' | b']' | b'}' | b'|' => true,
        byte => byte.is_ascii_whitespace(),
    };
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().enumerate().position(ends).map_or(text.len(), |length| at + length)
}

/// The end of a header: of the line, or of the quotes that it stands in.
fn line_end(text: &[u8], at: usize) -> usize {
    let ends = |(place, byte): (usize, &u8)| match byte {
        b'\n' | b'\r' | b'"' | b'\'' | b'`' => true,
        b'\\' => matches!(text.get(at + place + 1), Some(b'n' | b'r' | b'"' | b'\'')),
        _ => false,
    };
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().enumerate().position(ends).map_or(text.len(), |length| at + length)
}

/// Of the value of a header what is secret: the scheme stays, and what follows the one word of a simple one.
fn credentials(text: &[u8], from: usize, to: usize, quoted: bool) -> (usize, usize) {
    let value = &text[from..to];
    let word = |value: &[u8]| value.iter().take_while(|byte| !matches!(byte, b' ' | b',' | b']' | b'}' | b')')).count();
    let first = word(value);
    let is = |schemes: &[&str]| schemes.iter().any(|scheme| value[..first].eq_ignore_ascii_case(scheme.as_bytes()));
    let begin = skip_blanks(text, from + first).min(to);
    if is(&LONG_SCHEMES) {
        (begin, to)
    } else if is(&SCHEMES) {
        (begin, begin + word(&text[begin..to]))
    } else if quoted || memchr::memchr(b'=', value).is_some() {
        // All cookies, or credentials of a scheme that is not known.
        (from, to)
    } else {
        (from, from + first)
    }
}

fn ends_with(named: &[u8], end: &[u8]) -> bool {
    named.len() >= end.len() && named[named.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// "invalid password: too short" assigns nothing. A small word that others follow is prose, and before the end of the text a
/// small word is a secret only where a password is asked for.
fn is_prose(text: &[u8], from: usize, to: usize, kind: Kind) -> bool {
    let word = &text[from..to];
    let small = word.iter().skip(1).all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'.'))
        && word.first().is_some_and(u8::is_ascii_alphabetic);
    let goes_on = matches!(text.get(to..to + 2), Some([b' ', next]) if next.is_ascii_alphabetic());
    small && word.len() < 16 && (goes_on || kind != Kind::Password)
}
