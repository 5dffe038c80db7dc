//! Patterns of log lines, mined online: from a message to the pattern it is an instance of.
//!
//! A message is what is left of a line after time, severity and process were taken off. There is no training and no rule for any one
//! system; a pattern is what stays when everything that varies is taken out, and that is told in two steps:
//!
//! 1. By looks (`scan`, `shape`). Numbers, paths, addresses and the like vary in every log, so they are wildcards at first sight, and
//!    lists and dates of them are one. What is left, hashed, is the signature: a line whose signature is known costs one probe.
//! 2. By evidence (`evidence`). A line with a new signature is a pattern of its own until enough others turn up that differ in the same
//!    place only: names come by the dozen, verbs do not. Then that place becomes a wildcard and the patterns one, under the oldest
//!    id; [`Miner::resolve`] leads there from the others. Merging late, and only on proof, makes the outcome independent of the
//!    order of lines.
//!
//! Masking by type and comparing within one length is Drain's (He et al., ICWS 2017); that frequent words are constant and positions with many
//! values are not is Brain's (Yu et al., TSC 2023), here without its second pass; correcting templates as they come is Spell's (Du and
//! Li, ICDM 2016). Unlike these there is no threshold of similarity: what differs must be shown to vary.
//!
//! Invariant: what is held stays within [`Config`]'s limits, whatever comes.

mod evidence;
mod scan;
mod shape;
mod store;
#[cfg(test)]
mod tests;

use scan::{TOKENS_MAX, Token};
use std::fmt;
use store::Store;

/// What a miner may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Patterns held at once; past it the one unused for longest is forgotten.
    pub patterns_max: usize,
    /// Bytes held at once, tables included.
    pub bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { patterns_max: 4096, bytes_max: 2 << 20 }
    }
}

/// Names a pattern for as long as the miner lives; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternId(u64);

impl PatternId {
    /// The number itself, counted from 1.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PatternId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a message was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The pattern that it is an instance of.
    pub id: PatternId,
    /// Whether this message is the first of its pattern.
    pub is_new: bool,
}

/// What the tokens of the message at hand take.
const TOKENS_BYTES: usize = TOKENS_MAX * size_of::<Token>();

/// Learns patterns from messages, one pass, without training.
#[derive(Debug)]
pub struct Miner {
    store: Store,
    /// Of the message at hand; kept for its allocation.
    tokens: Vec<Token>,
}

impl Miner {
    /// A miner that knows nothing yet.
    pub fn new(config: Config) -> Miner {
        let bytes_max = config.bytes_max.saturating_sub(TOKENS_BYTES);
        Miner { store: Store::new(Config { bytes_max, ..config }), tokens: Vec::with_capacity(TOKENS_MAX) }
    }

    /// The pattern of one message, learned now if nothing like it was seen.
    pub fn observe(&mut self, message: &str) -> Sight {
        scan::scan(message, &mut self.tokens);
        let signature = scan::signature(&self.tokens);
        let known = self.store.recall(signature).or_else(|| self.store.recognise(&self.tokens, signature));
        if let Some(id) = known {
            return Sight { id, is_new: false };
        }
        let id = self.store.insert(message, &self.tokens, signature);
        self.learn(id);
        let kept = self.store.resolve(id);
        Sight { id: kept, is_new: kept == id }
    }

    /// See what a new pattern says about those like it, and what these say then.
    fn learn(&mut self, id: PatternId) {
        let mut changed = vec![id];
        while let Some(id) = changed.pop() {
            if self.store.resolve(id) == id
                && let Some((mask, ids)) = evidence::weigh(&self.store, id)
            {
                changed.extend(self.store.vary(&ids, mask));
            }
        }
    }

    /// The pattern that stands for `id` now: patterns that turn out to be one are merged.
    pub fn resolve(&self, id: PatternId) -> PatternId {
        self.store.resolve(id)
    }

    /// The text of a pattern, `<*>` where its messages differ; none when it was forgotten.
    pub fn template(&self, id: PatternId) -> Option<String> {
        self.store.by_id(id).map(|pattern| pattern.text().to_owned())
    }

    /// The texts at the wildcards of pattern `id` in `message`, in order; empty when the message is not of that pattern.
    #[cfg(test)]
    fn parameters<'m>(&self, id: PatternId, message: &'m str) -> Vec<&'m str> {
        let Some(pattern) = self.store.by_id(id) else { return Vec::new() };
        let mut tokens = Vec::new();
        scan::scan(message, &mut tokens);
        let pairs = || pattern.tokens.iter().zip(&tokens);
        if tokens.len() != pattern.tokens.len()
            || pairs().any(|(held, token)| !held.is_wildcard() && held.hash != token.hash)
        {
            return Vec::new();
        }
        pairs().filter(|(held, _)| held.is_wildcard()).map(|(_, token)| token.text(message)).collect()
    }

    /// Patterns held.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, tables included.
    pub fn bytes(&self) -> usize {
        self.store.bytes() + TOKENS_BYTES
    }

    /// Patterns forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.store.forgotten()
    }
}
