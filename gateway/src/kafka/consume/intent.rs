//! What a consumer is about to do with a partition, as it stands in the metadata of the committed offset.
//!
//! `v1 last=<offset> at=<ms> known=<offset>,<offset>`: the block goes from the committed offset to `last`, its first message is of `at`, and the
//! messages at the offsets of `known` (counted from the block's first) are in the tables already. Without metadata nothing is intended.
//! Invariant: what is written here fits into what brokers keep, and says all that the same block is made from again.

use std::fmt::{Display, Formatter, Result};

/// Brokers keep 4096 bytes by default (`offset.metadata.max.bytes`).
const BYTES_MAX: usize = 4096;

/// What `known` may hold so that it always fits: an offset takes six digits and a comma at most, as a block has fewer messages.
pub(crate) const KNOWN_MAX: usize = (BYTES_MAX - 128) / 7;

/// A block has at most so many messages.
pub(crate) const MESSAGES_MAX: usize = 100_000;

/// The next block of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intent {
    /// Offset of its last message.
    pub(crate) last: i64,
    /// Milliseconds since the epoch, of the first message: a topic that is made anew counts from zero again.
    pub(crate) at: i64,
    /// Messages that are left out, counted from the first offset.
    pub(crate) known: Vec<u32>,
}

impl Display for Intent {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let known: Vec<String> = self.known.iter().map(u32::to_string).collect();
        write!(f, "v1 last={} at={} known={}", self.last, self.at, known.join(","))
    }
}

impl Intent {
    /// From a commit's metadata. None when nothing is intended; an error of what is none of ours.
    pub(crate) fn read(metadata: &str) -> std::result::Result<Option<Intent>, String> {
        if metadata.is_empty() {
            return Ok(None);
        }
        let strange = || format!("the metadata of the committed offset is not ours: {metadata:?}");
        let words: Vec<&str> = metadata.split(' ').collect();
        let ["v1", last, at, known] = words[..] else { return Err(strange()) };
        let field =
            |word: &str, name: &str| -> Option<String> { Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()) };
        let read = || {
            let known = field(known, "known")?;
            let known = known.split(',').filter(|offset| !offset.is_empty()).map(|offset| offset.parse().ok());
            Some(Intent {
                last: field(last, "last")?.parse().ok()?,
                at: field(at, "at")?.parse().ok()?,
                known: known.collect::<Option<_>>()?,
            })
        };
        read().map(Some).ok_or_else(strange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_comes_back_as_it_was_and_fits() {
        for known in [vec![], vec![0], vec![3, 99_999], vec![(MESSAGES_MAX - 1) as u32; KNOWN_MAX]] {
            let intent = Intent { last: i64::MAX, at: i64::MAX, known };
            let text = intent.to_string();
            assert!(text.len() <= BYTES_MAX, "{}", text.len());
            assert_eq!(Intent::read(&text), Ok(Some(intent)));
        }
        assert_eq!(Intent::read(""), Ok(None));
    }

    #[test]
    fn what_somebody_else_committed_is_no_intent() {
        for text in
            ["v2 last=1 at=1 known=", "v1 last=1 at=1", "v1 last=x at=1 known=", "v1 last=1 at=1 known=a", "hello"]
        {
            assert!(Intent::read(text).is_err(), "{text}");
        }
    }
}
