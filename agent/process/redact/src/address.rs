//! What `@` gives away: e-mail addresses, and passwords in URLs.
//!
//! Invariant: every byte is looked at at most once from the `@` before it, once from the one after it and once as part of a
//! URL, so that time is linear.

use crate::kind::{Find, Kind};
use memchr::{memchr, memmem, memrchr};
use std::ops::Range;

const SCHEME_END: &[u8] = b"://";
/// Ends of unit names, which have the form of an address: `getty@tty1.service`.
const UNITS: [&str; 11] =
    ["service", "socket", "scope", "slice", "timer", "mount", "automount", "target", "device", "swap", "path"];

/// Addresses and passwords in URLs.
pub(crate) fn find(text: &str, on: &impl Fn(Kind) -> bool, finds: &mut Vec<Find>) {
    let bytes = text.as_bytes();
    let Some(mut at) = memchr(b'@', bytes) else { return };
    let mut url = next_url(bytes, 0);
    loop {
        while let Some(Url { all, .. }) = &url
            && all.end <= at
        {
            url = next_url(bytes, all.end);
        }
        match &url {
            Some(Url { all, password }) if all.contains(&at) => {
                if let Some(password) = password
                    && password.end == at
                    && on(Kind::Password)
                {
                    finds.push(Find::new(password.start, password.end, Kind::Password));
                }
            }
            _ if on(Kind::Email) => finds.extend(email(bytes, at, at + 1)),
            _ => {}
        }
        match memchr(b'@', &bytes[at + 1..]) {
            Some(next) => at += 1 + next,
            None => return,
        }
    }
}

/// Where user, password and host of a URL are, and the password, if there is one.
struct Url {
    all: Range<usize>,
    password: Option<Range<usize>>,
}

/// The next URL with an authority, from `from`.
fn next_url(bytes: &[u8], from: usize) -> Option<Url> {
    let start = from + memmem::find(&bytes[from..], SCHEME_END)? + SCHEME_END.len();
    let is_end = |byte: &u8| {
        byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`' | b'\\' | b'/' | b'?' | b'#')
    };
    let mut end = bytes[start..].iter().position(is_end).map_or(bytes.len(), |length| start + length);
    let mut authority = &bytes[start..end];
    // A password with an unescaped / ends the authority too early; what follows its colon is then no port.
    if memchr(b'@', authority).is_none()
        && authority.first() != Some(&b'[')
        && let Some(colon) = memchr(b':', authority)
        && authority[colon + 1..].iter().any(|byte| !byte.is_ascii_digit())
    {
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`');
        let line = bytes[end..].iter().position(is_end).map_or(bytes.len(), |length| end + length);
        if let Some(at) = memrchr(b'@', &bytes[end..line]) {
            end += at + 1;
            authority = &bytes[start..end];
        }
    }
    let password = memrchr(b'@', authority).and_then(|at| {
        let colon = memchr(b':', &authority[..at])?;
        let value = &authority[colon + 1..at];
        (!crate::name::says_nothing(value)).then_some(start + colon + 1..start + at)
    });
    Some(Url { all: start..end, password })
}

/// The e-mail address around an `@` that takes `at..after`: one byte, or three as `%40`.
pub(crate) fn email(bytes: &[u8], at: usize, after: usize) -> Option<Find> {
    // Letters beyond ASCII are allowed in both parts (RFC 6531).
    let is_local = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-') || !byte.is_ascii()
    };
    let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') || !byte.is_ascii();
    let before = bytes[..at].iter().rev().take_while(|byte| is_local(byte)).count();
    let skip = bytes[at - before..at].iter().take_while(|byte| matches!(byte, b'.' | b'-' | b'%' | b'+')).count();
    let start = at - before + skip;
    let local = &bytes[start..at];
    if local.is_empty() || local.eq_ignore_ascii_case(b"git") {
        return None;
    }
    let length = bytes[after..].iter().take_while(|byte| is_domain(byte)).count();
    let domain = &bytes[after..after + length];
    let domain = &domain[..domain.iter().rposition(|byte| !matches!(byte, b'.' | b'-'))? + 1];
    let dot = memrchr(b'.', domain)?;
    let top = &domain[dot + 1..];
    let is_top = top.len() >= 2 && top.iter().all(|byte| byte.is_ascii_alphabetic() || !byte.is_ascii());
    let is_unit = UNITS.iter().any(|unit| top.eq_ignore_ascii_case(unit.as_bytes()));
    (dot > 0 && is_top && !is_unit).then(|| Find::new(start, after + domain.len(), Kind::Email))
}
