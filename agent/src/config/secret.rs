//! The API key from configuration, environment or its own file, until the exporter has it.
//!
//! Invariant: nothing that this module formats, serializes or refuses shows the key; only [`Secret::expose`] hands it out.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// What is printed in place of a key.
const MASK: &str = "***";

/// A key that a header can carry. It never prints itself; empty means none.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// Without surrounding white space, such as the last line break of a key file; or what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Secret, &'static str> {
        let text = text.trim();
        if text == MASK {
            return Err("the API key is the placeholder ***: put the key itself there");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the API key holds spaces, line breaks or other characters that cannot be sent: copy it again");
        }
        Ok(Secret(text.to_owned()))
    }

    /// The key itself, for whoever sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "none" } else { MASK })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { MASK })
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// Serde's own messages quote the value that they did not expect; these do not.
struct KeyVisitor;

impl<'de> de::Visitor<'de> for KeyVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the API key in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Secret::parse(text).map_err(E::custom)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        Err(unquoted())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        Err(unquoted())
    }
}

fn unquoted<E: de::Error>() -> E {
    E::custom("the API key must be text in quotes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn neither_debug_nor_serialization_shows_the_key() {
        let config = Config { api_key: Secret::parse("olly_live_abc\n").unwrap(), ..Config::default() };
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(shown.contains("\"api_key\":\"***\"") && !shown.contains("olly_live"), "{shown}");
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_without_being_shown() {
        for text in ["olly secret", "olly\nsecret", "***"] {
            let message = Secret::parse(text).unwrap_err();
            assert!(!message.contains("secret"), "{message}");
        }
        let message = serde_json::from_str::<Config>("{\"api_key\": 4711}").unwrap_err().to_string();
        assert!(message.contains("quotes") && !message.contains("4711"), "{message}");
    }
}
