//! Values that a name gives away: `password=x`, `"token": "x"`, `X-Api-Key: x`, `--secret x`, `<pwd>x</pwd>`.
//!
//! From the word that ended a secret's name the whole name is read, then what assigns, then the value, in quotes or up to the next
//! blank or separator. Invariant: no byte is read more than a few times, because a name is asked about once, and the search goes on
//! behind a value that was found.

use crate::kind::{Find, Kind};
use crate::{mark, name};

/// Blanks allowed on either side of what assigns.
const BLANKS_MAX: usize = 4;
/// How far a name is followed back: further than any name of a secret is long.
const NAME_BYTES_MAX: usize = 48;
/// The schemes of `Authorization` whose credentials are one word, and those whose credentials take the rest of the line.
const SCHEMES: [&str; 9] = ["Basic", "Bearer", "Token", "Negotiate", "NTLM", "ApiKey", "SharedKey", "GSSAPI", "Splunk"];
const LONG_SCHEMES: [&str; 4] = ["Digest", "AWS4-HMAC-SHA256", "OAuth", "Hawk"];

/// What is assigned to the name of which a word takes `start..end`, unless its kind is off, and where the name ends.
pub(crate) fn find(text: &[u8], start: usize, end: usize, on: &impl Fn(Kind) -> bool) -> (Option<Find>, usize) {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let back = &text[start.saturating_sub(NAME_BYTES_MAX)..start];
    let begin = start - back.iter().rev().take_while(|byte| is_name(byte)).count();
    let stop = end + text[end..].iter().take_while(|byte| is_name(byte)).count();
    if mark::is_name(text, begin) {
        return (None, stop);
    }
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
    let found = kind.filter(|kind| on(*kind)).and_then(|kind| assigned(text, begin, stop, kind));
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
    let name_quote = quote_at(text, stop);
    let after_name = stop + name_quote.map_or(0, |quote| quote.bytes) + usize::from(text.get(stop) == Some(&b']'));
    let (by, mut at) = operator(text, begin, after_name, name_quote.is_some())?;
    // What stands in brackets is a list or a mark.
    if text.get(at) == Some(&b'[') && mark::mark_len(&text[at..]) == 0 {
        at += 1;
    }
    let quote = quote_at(text, at);
    let from = at + quote.map_or(0, |quote| quote.bytes);
    if (by == By::Quoted && quote.is_none()) || no_value(text, from, quote.is_some(), named) {
        return None;
    }
    let closed = quote.map(|quote| quote_end(text, from, quote));
    let (from, to) = match kind {
        Kind::Token if ends_with(named, b"cookie") => (from, closed.unwrap_or_else(|| line_end(text, from))),
        Kind::Token if ends_with(named, b"authorization") => credentials(text, from, closed)?,
        _ => (from, closed.unwrap_or_else(|| word_end(text, from, by))),
    };
    let value = text.get(from..to)?;
    let bare = quote.is_none();
    let prose = bare && by == (By::Colon { blank: true }) && is_prose(text, from, to, kind, named);
    if prose || name::says_nothing(value) || (bare && kind == Kind::Token && is_object(value)) {
        return None;
    }
    let number = || value.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E'));
    let mut find = Find::new(from, to, kind);
    find.bare_json = bare && name_quote.is_some_and(|quote| quote.byte == b'"' && quote.escapes == 0) && number();
    Some(find)
}

/// Whether what begins here is no value: a mark, a reference to one, a structure, and after PWD the folder that a shell is in.
/// Judged before the value is read: what is refused is not read, or a text of nothing else would be read over and over.
fn no_value(text: &[u8], from: usize, quoted: bool, named: &[u8]) -> bool {
    let rest = text.get(from..).unwrap_or_default();
    let refers = [b"${".as_slice(), b"$(", b"{{", b"%s"].iter().any(|start| rest.starts_with(start));
    let opens = !quoted && matches!(rest.first(), Some(b'{' | b'('));
    let is_folder = ends_with(named, b"pwd") && rest.first() == Some(&b'/');
    refers || opens || is_folder || mark::mark_len(rest) > 0
}

/// The password after `IDENTIFIED BY`, of which `tifi` begins at `at`.
pub(crate) fn identified_by(text: &[u8], at: usize) -> Option<Find> {
    const WORDS: &[u8] = b"identified by";
    let start = at.checked_sub(4)?;
    let end = start + WORDS.len();
    if !text.get(start..end)?.eq_ignore_ascii_case(WORDS) {
        return None;
    }
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
        b'&' => ends_parameter(&text[at + place + 1..]),
        b'"' | b'\'' | b'`' | b',' | b';' | b'>' | b')' | b']' | b'}' | b'|' => true,
        byte => byte.is_ascii_whitespace(),
    };
    let rest = text.get(at..).unwrap_or_default();
    rest.iter().enumerate().position(ends).map_or(text.len(), |length| at + length)
}

/// Whether an `&` before `rest` ends a value: another parameter follows, or a command. Else the value has it: `password=a&b`.
fn ends_parameter(rest: &[u8]) -> bool {
    let of_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'%' | b'[' | b']');
    let length = rest.iter().take(NAME_BYTES_MAX).take_while(of_name).count();
    // `&amp;` is written so in HTML.
    matches!(rest.get(length), Some(b'=' | b';')) && length > 0 || rest.first() == Some(&b'&')
}

/// How Java and Android print an object: its class and its hash code, `Token{a64f992` or `os.BinderProxy@2bd79ce`.
fn is_object(value: &[u8]) -> bool {
    let Some(at) = memchr::memchr2(b'{', b'@', value) else { return false };
    let (class, code) = (&value[..at], &value[at + 1..]);
    let of_class = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
    let last = memchr::memrchr(b'.', class).map_or(class, |dot| &class[dot + 1..]);
    last.first().is_some_and(u8::is_ascii_uppercase)
        && class.iter().all(of_class)
        && (1..=8).contains(&code.len())
        && code.iter().all(u8::is_ascii_hexdigit)
}

/// The end of a header: of the line, or of the quotes that it stands in. Quotes after `=` are a parameter's.
fn line_end(text: &[u8], at: usize) -> usize {
    let mut from = at;
    loop {
        let Some(next) = text[from..].iter().position(|byte| matches!(byte, b'\n' | b'\r' | b'"' | b'\'' | b'`'))
        else {
            return text.len();
        };
        let place = from + next;
        let escapes = text[from..place].iter().rev().take_while(|byte| **byte == b'\\').count();
        let is_quote = !matches!(text[place], b'\n' | b'\r');
        let of_parameter = is_quote && place - escapes > at && text[place - escapes - 1] == b'=';
        match memchr::memchr(text[place], &text[place + 1..]).filter(|_| of_parameter) {
            Some(close) => from = place + 1 + close + 1,
            None => return place - if is_quote { escapes } else { 0 },
        }
    }
}

/// Of the value of an `Authorization` what is secret: the scheme stays, and what follows the one word of a simple one.
fn credentials(text: &[u8], from: usize, closed: Option<usize>) -> Option<(usize, usize)> {
    let end = closed.unwrap_or(text.len());
    let word = |at: usize| {
        let ends = |byte: &u8| {
            matches!(
                byte,
                b' ' | b',' | b';' | b']' | b'}' | b')' | b'"' | b'\'' | b'`' | b'\\' | b'\n' | b'\r' | b'\t'
            )
        };
        text.get(at..end).unwrap_or_default().iter().position(ends).map_or(end, |length| at + length)
    };
    let first = word(from);
    let is = |schemes: &[&str]| schemes.iter().any(|scheme| text[from..first].eq_ignore_ascii_case(scheme.as_bytes()));
    let next = skip_blanks(text, first).min(end);
    let rest_of_line = |at: usize| closed.unwrap_or_else(|| line_end(text, at));
    if is(&SCHEMES) || is(&LONG_SCHEMES) {
        if mark::mark_len(&text[next..]) > 0 {
            return None;
        }
        return Some((next, if is(&SCHEMES) { word(next) } else { rest_of_line(next) }));
    }
    // Parameters of a scheme that is not known; or a secret without a scheme.
    let parameters = memchr::memchr(b'=', &text[from..first]).is_some();
    Some((from, if parameters || closed.is_some() { rest_of_line(from) } else { first }))
}

fn ends_with(named: &[u8], end: &[u8]) -> bool {
    named.len() >= end.len() && named[named.len() - end.len()..].eq_ignore_ascii_case(end)
}

/// "invalid password: too short" assigns nothing. A small word that others follow is prose, and before the end of the text a
/// small word is a secret only where a password or an authorization is asked for.
fn is_prose(text: &[u8], from: usize, to: usize, kind: Kind, named: &[u8]) -> bool {
    let word = &text[from..to];
    let small = word.iter().skip(1).all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'.'))
        && word.first().is_some_and(u8::is_ascii_alphabetic);
    let goes_on = matches!(text.get(to..to + 2), Some([b' ', next]) if next.is_ascii_alphabetic());
    let asked_for = kind == Kind::Password || ends_with(named, b"authorization");
    small && word.len() < 16 && (goes_on || !asked_for)
}
