//! Section `[redact]`. What cannot work is refused while the section is read, so that a configuration that was read can run.
//!
//! Invariant: neither the hash key nor the value of an attribute shows in anything printed from here.

use crate::kind::{Action, Kind};
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Rules of one's own at most: each is a pass over every text and may hold [`RULE_BYTES_MAX`].
pub const RULES_MAX: usize = 32;
/// What one rule may hold: its program and as much again while it searches.
pub const RULE_BYTES_MAX: usize = 2 * PATTERN_BYTES_MAX;
const PATTERN_BYTES_MAX: usize = 64 << 10;

/// What is redacted, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Redact at all.
    pub enabled: bool,
    /// Numbers of payment cards.
    pub cards: Action,
    /// E-mail addresses.
    pub emails: Action,
    /// International bank account numbers.
    pub ibans: Action,
    /// Bearer tokens, `Authorization`, JSON web tokens, cookies, signatures.
    pub tokens: Action,
    /// Access keys and API keys.
    pub keys: Action,
    /// Private keys.
    pub private_keys: Action,
    /// Passwords and secrets by name, in URLs and in commands.
    pub passwords: Action,
    /// Keys of attributes whose value is always masked.
    pub attributes: Vec<String>,
    /// What hashes are keyed with; empty: derived from the API key.
    pub hash_key: HashKey,
    /// One's own.
    pub rules: Rules,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            cards: Action::Mask,
            // Personal, but no secret: a hash hides who it is and still tells one from another.
            emails: Action::Hash,
            ibans: Action::Hash,
            tokens: Action::Mask,
            keys: Action::Mask,
            private_keys: Action::Mask,
            passwords: Action::Mask,
            attributes: Vec::new(),
            hash_key: HashKey::default(),
            rules: Rules::default(),
        }
    }
}

impl Config {
    /// Hashes keyed with a key derived from `secret`, unless one is set: whoever does not hold it cannot try values out.
    pub fn keyed(mut self, secret: &str) -> Config {
        if self.hash_key.0.is_empty() {
            self.hash_key = HashKey(format!("ollystack redact {secret}"));
        }
        self
    }

    pub(crate) fn action(&self, kind: Kind) -> Action {
        match kind {
            Kind::Card => self.cards,
            Kind::Email => self.emails,
            Kind::Iban => self.ibans,
            Kind::Token => self.tokens,
            Kind::Key => self.keys,
            Kind::PrivateKey => self.private_keys,
            Kind::Password => self.passwords,
            Kind::Attribute => Action::Mask,
        }
    }
}

/// A key that never prints itself.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct HashKey(String);

impl HashKey {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "***" })
    }
}

impl Serialize for HashKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "***" })
    }
}

/// At most [`RULES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Rules(Vec<Rule>);

impl Rules {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rules, D::Error> {
        let rules = Vec::<Rule>::deserialize(deserializer)?;
        if rules.len() > RULES_MAX {
            let count = rules.len();
            return Err(de::Error::custom(format!(
                "redact.rules has {count} rules, at most {RULES_MAX} are allowed: join some patterns with |"
            )));
        }
        Ok(Rules(rules))
    }
}

/// A pattern of one's own. If it has a group, only what the first group holds goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rule {
    pub(crate) name: String,
    #[serde(serialize_with = "as_written")]
    pub(crate) pattern: Regex,
    pub(crate) action: Action,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        (&self.name, self.pattern.as_str(), self.action) == (&other.name, other.pattern.as_str(), other.action)
    }
}

fn as_written<S: Serializer>(pattern: &Regex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(pattern.as_str())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    pattern: String,
    #[serde(default = "mask")]
    action: Action,
}

fn mask() -> Action {
    Action::Mask
}

/// A rule that cannot work.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error(
        "redact.rules.name is `{0}`, allowed are 1 to 32 of a-z, 0-9 and _, and not the name of a built-in kind: rename the rule"
    )]
    Name(String),
    #[error(
        "redact.rules.pattern of rule `{name}` is no regular expression of at most {PATTERN_BYTES_MAX} bytes compiled: {error}"
    )]
    Pattern { name: String, error: regex::Error },
    #[error(
        "redact.rules.pattern of rule `{0}` finds the empty text, and so something everywhere: ask for at least one character"
    )]
    Empty(String),
}

impl TryFrom<Written> for Rule {
    type Error = Unfit;

    fn try_from(Written { name, pattern, action }: Written) -> Result<Rule, Unfit> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let taken = name == "redacted" || Kind::ALL.iter().any(|kind| kind.name() == name);
        if !(1..=32).contains(&name.len()) || !name.bytes().all(plain) || taken {
            return Err(Unfit::Name(name));
        }
        let pattern = regex::RegexBuilder::new(&pattern)
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX)
            .build()
            .map_err(|error| Unfit::Pattern { name: name.clone(), error })?;
        if pattern.is_match("") {
            return Err(Unfit::Empty(name));
        }
        Ok(Rule { name, pattern, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        toml::from_str::<Config>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_rule_that_cannot_work_is_refused_by_name() {
        let rule = |name: &str, pattern: &str| format!("[[rules]]\nname = '{name}'\npattern = '{pattern}'\n");
        for (text, part) in [
            (rule("Kunde", "a"), "redact.rules.name is `Kunde`"),
            (rule("card", "a"), "redact.rules.name is `card`"),
            (rule("redacted", "a"), "redact.rules.name is `redacted`"),
            (rule("kunde", "("), "redact.rules.pattern of rule `kunde`"),
            (rule("kunde", "a*"), "finds the empty text"),
            (rule("kunde", "\\w{1000}"), "redact.rules.pattern of rule `kunde`"),
            (rule("kunde", "a").repeat(33), "redact.rules has 33 rules"),
        ] {
            assert!(refusal(&text).contains(part), "{text}: {}", refusal(&text));
        }
        assert!(toml::from_str::<Config>(&rule("kunde", "K-[0-9]+").repeat(32)).is_ok());
    }

    #[test]
    fn the_section_reads_back_from_what_it_prints() {
        let text = "emails = 'off'\n[[rules]]\nname = 'kunde'\npattern = 'K-[0-9]+'\naction = 'hash'\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
    }

    #[test]
    fn the_hash_key_never_prints_itself() {
        let config = Config { hash_key: HashKey("hunter2".into()), ..Config::default() };
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(shown.contains("\"hash_key\":\"***\"") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(config.clone().keyed("api key"), config, "what is set stands");
    }
}
