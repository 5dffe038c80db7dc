//! Patterns of log lines, mined online: from a message to the pattern it is an instance of.
//!
//! A message is what is left of a line after time, severity and process were taken off. Invariant: what is held stays within
//! [`Config`]'s limits, whatever comes.

use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::fmt;

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

const WILDCARD: &str = "<*>";

/// Learns patterns from messages, one pass, without training.
#[derive(Debug)]
pub struct Miner {
    config: Config,
    ids: HashMap<String, PatternId>,
    patterns: BTreeMap<PatternId, String>,
    bytes: usize,
    next: u64,
    forgotten: u64,
}

impl Miner {
    /// A miner that knows nothing yet.
    pub fn new(config: Config) -> Miner {
        Miner { config, ids: HashMap::new(), patterns: BTreeMap::new(), bytes: 0, next: 1, forgotten: 0 }
    }

    /// The pattern of one message, learned now if nothing like it was seen.
    pub fn observe(&mut self, message: &str) -> Sight {
        let template = mask(message);
        if let Some(&id) = self.ids.get(&template) {
            return Sight { id, is_new: false };
        }
        let id = PatternId(self.next);
        self.next += 1;
        self.bytes += 2 * template.len() + 96;
        self.ids.insert(template.clone(), id);
        self.patterns.insert(id, template);
        while self.patterns.len() > self.config.patterns_max || self.bytes > self.config.bytes_max {
            let Some((_, template)) = self.patterns.pop_first() else { break };
            self.bytes -= 2 * template.len() + 96;
            self.ids.remove(&template);
            self.forgotten += 1;
        }
        Sight { id, is_new: true }
    }

    /// The pattern that stands for `id` now: patterns that turn out to be one are merged.
    pub fn resolve(&self, id: PatternId) -> PatternId {
        id
    }

    /// The text of a pattern, `<*>` where its messages differ; none when it was forgotten.
    pub fn template(&self, id: PatternId) -> Option<String> {
        self.patterns.get(&self.resolve(id)).cloned()
    }

    /// The texts at the wildcards of pattern `id` in `message`, in order; empty when the message is not of that pattern.
    pub fn parameters<'m>(&self, id: PatternId, message: &'m str) -> Vec<&'m str> {
        let Some(template) = self.patterns.get(&self.resolve(id)) else { return Vec::new() };
        let (template, words) = (template.split(' '), message.split(' '));
        template.zip(words).filter(|(template, _)| *template == WILDCARD).map(|(_, word)| word).collect()
    }

    /// Patterns held.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Bytes held, tables included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Patterns forgotten for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

fn mask(message: &str) -> String {
    let masked = |word: &str| word.bytes().any(|byte| byte.is_ascii_digit());
    let mut template = String::with_capacity(message.len());
    for (n, word) in message.split(' ').enumerate() {
        if n > 0 {
            template.push(' ');
        }
        template.push_str(if masked(word) { WILDCARD } else { word });
    }
    template
}
