//! What stands in the place of something redacted: a mask, or a keyed hash.
//!
//! The hash is HMAC-SHA256 under a key that the tenant's agents share, cut to 64 bits. Card numbers, e-mail addresses and the
//! like are few enough to try them all, so a plain hash would hide nothing; with the key unknown there is nothing to try, and
//! equal values still get equal hashes, on every host with the same key. Invariant: a mark is not redacted again.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Hexadecimal digits of a hash: 64 bits, so that a million values share one with a probability of 3 in a hundred million.
const DIGITS: usize = 16;
/// The longest mark: `[`, a name of 32, `:`, 16 digits, `]`.
const MARK_BYTES_MAX: usize = 51;

/// Hashes under one key.
#[derive(Clone)]
pub(crate) struct Hasher(Option<Hmac<Sha256>>);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher(***)")
    }
}

impl Hasher {
    pub(crate) fn new(key: &[u8]) -> Hasher {
        // HMAC takes keys of any length; were it to refuse one, `hash` would mask.
        Hasher(Hmac::new_from_slice(key).ok())
    }

    /// `[card:9f86d081884c7d65]`.
    pub(crate) fn hash(&self, name: &str, value: &str, to: &mut String) {
        let Some(mut mac) = self.0.clone() else { return mask(name, to) };
        mac.update(name.as_bytes());
        mac.update(&[0]);
        mac.update(value.as_bytes());
        to.push('[');
        to.push_str(name);
        to.push(':');
        for byte in mac.finalize().into_bytes().iter().take(DIGITS / 2) {
            for digit in [byte >> 4, byte & 15] {
                to.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        to.push(']');
    }
}

/// `[redacted:card]`.
pub(crate) fn mask(name: &str, to: &mut String) {
    to.push_str("[redacted:");
    to.push_str(name);
    to.push(']');
}

/// The bytes of the mark that `text` begins with, 0 if it does not.
pub(crate) fn mark_len(text: &[u8]) -> usize {
    if text.first() != Some(&b'[') {
        return 0;
    }
    let head = &text[..text.len().min(MARK_BYTES_MAX)];
    let Some(end) = memchr::memchr(b']', head) else { return 0 };
    let Some(colon) = memchr::memchr(b':', &head[..end]) else { return 0 };
    let (name, rest) = (&head[1..colon], &head[colon + 1..end]);
    let hash = rest.len() == DIGITS && rest.iter().all(u8::is_ascii_hexdigit);
    if name == b"redacted" || (hash && !name.is_empty()) { end + 1 } else { 0 }
}

/// Whether what begins at `at` is the name in a mask, which names nothing that stands behind the mask.
pub(crate) fn is_name(text: &[u8], at: usize) -> bool {
    let start = text.get(..at).and_then(|before| before.strip_suffix(b"[redacted:")).map(<[u8]>::len);
    start.is_some_and(|start| mark_len(&text[start..]) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &str, name: &str, value: &str) -> String {
        let mut to = String::new();
        Hasher::new(key.as_bytes()).hash(name, value, &mut to);
        to
    }

    #[test]
    fn a_hash_depends_on_key_kind_and_value_and_on_nothing_else() {
        assert_eq!(hash("k", "card", "1"), hash("k", "card", "1"));
        let others = [hash("l", "card", "1"), hash("k", "card", "2"), hash("k", "iban", "1")];
        assert!(others.iter().all(|other| other[5..] != hash("k", "card", "1")[5..]));
        // As `printf 'card\x001' | openssl dgst -sha256 -hmac k` has it.
        assert_eq!(hash("k", "card", "1"), "[card:7e948b8826b7ce0b]");
    }

    #[test]
    fn the_name_in_a_mask_is_known_and_other_names_are_not() {
        assert!(is_name(b"x[redacted:token] :1", 11));
        for other in ["[redacted:token", "[redacted:token :1", "(redacted:token]", "[redact_d:token]"] {
            assert!(!is_name(other.as_bytes(), 10), "{other}");
        }
        assert!(!is_name(b"token", 0));
    }

    #[test]
    fn a_mark_is_known_and_other_brackets_are_not() {
        let masked = {
            let mut to = String::new();
            mask("private_key", &mut to);
            to
        };
        for mark in [masked.as_str(), &hash("k", "email", "a@b.de"), &hash("k", &"r".repeat(32), "x")] {
            assert_eq!(mark_len(format!("{mark} rest").as_bytes()), mark.len(), "{mark}");
        }
        for other in ["", "[", "[x", "[a:b]", "[2026-11-20 12:00:00]", "[:0123456789abcdef]", "x[redacted:card]"] {
            assert_eq!(mark_len(other.as_bytes()), 0, "{other}");
        }
    }
}
