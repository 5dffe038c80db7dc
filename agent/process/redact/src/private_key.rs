//! Private keys in PEM: the whole block, with line breaks or with `\n` written out, and what is there of one that was cut off.
//!
//! Invariant: a search looks no further than the stretch that it then gives away, so that many beginnings cost no more than one.

use crate::kind::{Find, Kind};
use memchr::memmem;

/// What a block begins with, and what says that it is private, within one line.
const BEGIN: &[u8] = b"-----BEGIN";
/// Before the dash that it is known by.
const DASHES_BEFORE: usize = 4;
const END: &[u8] = b"-----END";
const DASHES: &[u8] = b"-----";
const PRIVATE: &[u8] = b"PRIVATE KEY";
/// `-----BEGIN PGP PRIVATE KEY BLOCK-----` is 37 bytes; encryption schemes have longer names.
const LABEL_BYTES_MAX: usize = 64;
/// Lines of PEM have 64 characters (RFC 7468), of OpenSSH 70, of PGP 64 or 76.
const BODY_LINE_BYTES_MAX: usize = 76;

/// The block of whose `-----BEGIN` the last dash is at `dash`.
pub(crate) fn find(text: &[u8], dash: usize) -> Option<Find> {
    let begin = dash.checked_sub(DASHES_BEFORE).filter(|begin| text[*begin..].starts_with(BEGIN))?;
    let label = begin + BEGIN.len();
    let line = text.get(label..text.len().min(label + LABEL_BYTES_MAX))?;
    let line = &line[..memchr::memchr2(b'\n', b'\\', line).unwrap_or(line.len())];
    memmem::find(line, PRIVATE)?;
    // In a string that is quoted the block cannot go on past its end.
    let rest = &text[label..];
    let rest = &rest[..memchr::memchr3(b'"', b'\'', b'`', rest).unwrap_or(rest.len())];
    let end = memmem::find(rest, END).map_or(rest.len(), |at| {
        let after = at + END.len();
        let footer = &rest[after..rest.len().min(after + LABEL_BYTES_MAX)];
        memmem::find(footer, DASHES).map_or(after, |dashes| after + dashes + DASHES.len())
    });
    Some(Find::new(begin, label + end, Kind::PrivateKey))
}

/// Whether a private key goes on in the next line, after this one, in a text that came line by line.
pub(crate) fn goes_on(line: &str, open: bool) -> bool {
    let bytes = line.as_bytes();
    let begins = || {
        let begin = memmem::rfind(bytes, BEGIN)?;
        let found = find(bytes, begin + DASHES_BEFORE)?;
        memmem::find(&bytes[begin..found.end], END).is_none().then_some(())
    };
    (open && is_body(line)) || begins().is_some()
}

/// Whether a line may be one of a key's body: Base64, or a header such as `Proc-Type: 4,ENCRYPTED`.
pub(crate) fn is_body(line: &str) -> bool {
    let line = line.trim();
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let header = ["Proc-Type:", "DEK-Info:", "Version:", "Comment:"].iter().any(|name| line.starts_with(name));
    line.len() <= BODY_LINE_BYTES_MAX && (header || line.bytes().all(base64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_comes_line_by_line_is_open_until_its_end() {
        let lines = [
            ("starting", false),
            ("-----BEGIN RSA PRIVATE KEY-----", true),
            ("Proc-Type: 4,ENCRYPTED", true),
            ("", true),
            ("MIIEpAIBAAKCAQEAu5mE2mCyP3w8vYtLq0nT5cYx1oVnY7vOe6V3b1d2c4f5a6b7", true),
            ("-----END RSA PRIVATE KEY-----", false),
            ("started", false),
            ("-----BEGIN PRIVATE KEY-----", true),
            ("12:00 something else came between", false),
            ("-----BEGIN CERTIFICATE-----", false),
            ("-----BEGIN PRIVATE KEY-----", true),
            ("cut off, and -----BEGIN PRIVATE KEY----- again", true),
            ("MIIEpAIBAAKCAQEAu5mE2mCyP3w8", true),
            ("-----BEGIN PRIVATE KEY-----MIIE-----END PRIVATE KEY-----", false),
        ];
        let mut open = false;
        for (line, expected) in lines {
            open = goes_on(line, open);
            assert_eq!(open, expected, "{line}");
        }
    }
}
