//! What `@` gives away: e-mail addresses, and passwords in URLs.
//!
//! Anchored at `@`, and at `%40` as query strings have it. Invariant: every byte is looked at a few times at most, from the `@`
//! before it, the one after it, and as part of a URL, so that time is linear.

use crate::kind::{Find, Kind};
use crate::mark::mark_len;
use crate::name::says_nothing;
use memchr::{memchr, memchr2, memmem, memrchr};
use std::ops::Range;

const SCHEME_END: &[u8] = b"://";
/// RFC 5321, 4.5.3.1.1.
const LOCAL_BYTES_MAX: usize = 64;
/// Ends of unit names, which have the form of an address: `getty@tty1.service`.
const UNITS: [&str; 11] =
    ["service", "socket", "scope", "slice", "timer", "mount", "automount", "target", "device", "swap", "path"];

/// Addresses and passwords in URLs.
pub(crate) fn find(text: &str, on: &impl Fn(Kind) -> bool, finds: &mut Vec<Find>) {
    let bytes = text.as_bytes();
    let Some(mut at) = memchr2(b'@', b'%', bytes) else { return };
    let mut urls = Urls { bytes, from: 0, bare_to: 0 };
    let mut url = urls.next();
    loop {
        while let Some(Url { all, .. }) = &url
            && all.end <= at
        {
            url = urls.next();
        }
        match &url {
            _ if bytes[at..].starts_with(b"%40") && on(Kind::Email) => finds.extend(email(bytes, at, at + 3)),
            _ if bytes[at] == b'%' => {}
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
        match memchr2(b'@', b'%', &bytes[at + 1..]) {
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

/// The URLs of a text that have an authority, in order.
struct Urls<'a> {
    bytes: &'a [u8],
    from: usize,
    /// Up to here it is known that there is no `@` before the next blank.
    bare_to: usize,
}

impl Urls<'_> {
    fn next(&mut self) -> Option<Url> {
        let bytes = self.bytes;
        let start = self.from + memmem::find(&bytes[self.from..], SCHEME_END)? + SCHEME_END.len();
        let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`');
        let ends_authority = |byte: &u8| ends(byte) || matches!(byte, b'\\' | b'/' | b'?' | b'#');
        let mut end = bytes[start..].iter().position(ends_authority).map_or(bytes.len(), |length| start + length);
        let mut authority = &bytes[start..end];
        // A password with an unescaped / ends the authority too early; what follows its colon is then no port.
        if end >= self.bare_to
            && memchr(b'@', authority).is_none()
            && authority.first() != Some(&b'[')
            && let Some(colon) = memchr(b':', authority)
            && authority[colon + 1..].iter().any(|byte| !byte.is_ascii_digit())
        {
            let line = bytes[end..].iter().position(ends).map_or(bytes.len(), |length| end + length);
            match memrchr(b'@', &bytes[end..line]) {
                Some(at) => end += at + 1,
                None => self.bare_to = line,
            }
            authority = &bytes[start..end];
        }
        self.from = end;
        let password = memrchr(b'@', authority).and_then(|at| {
            let colon = memchr(b':', &authority[..at])?;
            let value = &authority[colon + 1..at];
            (!says_nothing(value) && mark_len(value) == 0).then_some(start + colon + 1..start + at)
        });
        Some(Url { all: start..end, password })
    }
}

/// The e-mail address around an `@` that takes `at..after`: one byte, or three as `%40`.
fn email(bytes: &[u8], at: usize, after: usize) -> Option<Find> {
    // Letters beyond ASCII are allowed in both parts (RFC 6531).
    let is_local = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-') || !byte.is_ascii()
    };
    let is_domain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-') || !byte.is_ascii();
    let before = bytes[..at].iter().rev().take(LOCAL_BYTES_MAX).take_while(|byte| is_local(byte)).count();
    // Not in the middle of a character, and not with what joins words.
    let inner = |byte: &u8| matches!(byte, b'.' | b'-' | b'%' | b'+' | 0x80..=0xBF);
    let skip = bytes[at - before..at].iter().take_while(|byte| inner(byte)).count();
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
