//! API keys: what one looks like, how it is made, and how it is told from a wrong one.
//!
//! A key is `olly_` + id (12 hex digits, public) + `_` + secret (64 hex digits, 256 random bits). The gateway keeps the id and the
//! SHA-256 of the whole text ([`file`]). A fast hash suffices because the secret is random: there is nothing to guess.
//! Invariant: the text of a key is held by [`Key`] alone, which prints as `***` behind its id.

pub(crate) mod audit;
pub(crate) mod file;

use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

const PREFIX: &str = "olly_";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// The text of a key, as a sender has it.
#[derive(Clone)]
pub(crate) struct Key {
    text: String,
}

/// SHA-256 of a key's text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash([u8; 32]);

impl Key {
    /// A new one. Fails only when the kernel gives no random bytes.
    pub(crate) fn random() -> Result<Key, getrandom::Error> {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        let (id, secret) = bytes.split_at(ID_BYTES);
        Ok(Key { text: format!("{PREFIX}{}_{}", hex(id), hex(secret)) })
    }

    /// From what a sender shows. `None` when it cannot be a key of ours, whatever the key file says.
    pub(crate) fn parse(text: &str) -> Option<Key> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let well_formed = id.len() == 2 * ID_BYTES && secret.len() == 2 * SECRET_BYTES && is_hex(id) && is_hex(secret);
        well_formed.then(|| Key { text: text.to_owned() })
    }

    /// The public part.
    pub(crate) fn id(&self) -> &str {
        let start = PREFIX.len();
        self.text.get(start..start + 2 * ID_BYTES).unwrap_or_default()
    }

    /// The text, for the one time it is shown.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    /// What is stored of it.
    pub(crate) fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(self.text.as_bytes()).into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{PREFIX}{}_***", self.id())
    }
}

impl KeyHash {
    /// From 64 hex digits.
    pub(crate) fn parse(text: &str) -> Option<KeyHash> {
        unhex(text).map(KeyHash)
    }

    /// As 64 hex digits.
    pub(crate) fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Compare in time that does not depend on where they differ.
    pub(crate) fn matches(&self, other: &KeyHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// 32 bytes from 64 lower-case hex digits.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !is_hex(text) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_reads_back_and_no_two_are_alike() {
        let (one, two) = (Key::random().unwrap(), Key::random().unwrap());
        assert_eq!(one.expose().len(), 82);
        assert_ne!(one.expose(), two.expose());
        let read = Key::parse(one.expose()).unwrap();
        assert_eq!(read.id(), one.id());
        assert!(read.hash().matches(&one.hash()));
        assert!(!read.hash().matches(&two.hash()));
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = Key::random().unwrap().hash();
        assert!(KeyHash::parse(&hash.to_hex()).unwrap().matches(&hash));
        assert!(KeyHash::parse("12").is_none());
        assert!(KeyHash::parse(&"zz".repeat(32)).is_none());
    }

    #[test]
    fn what_is_not_a_key_is_not_taken_for_one() {
        let good = Key::random().unwrap().expose().to_owned();
        let cut = good[..good.len() - 1].to_owned();
        let upper = good.to_uppercase();
        for text in [
            "",
            "olly_",
            "olly__",
            "hunter2",
            cut.as_str(),
            upper.as_str(),
            "olly_\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}_x",
        ] {
            assert!(Key::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_output_shows_the_id_and_never_the_secret() {
        let key = Key::random().unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(key.id()) && !shown.contains(&key.expose()[20..]), "{shown}");
    }
}
