//! What the journal input may be told, with the defaults that suit an unconfigured Linux host.

use crate::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Section `[journald]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether the journal is read.
    pub enabled: Enabled,
    /// Units whose entries are read, as `journalctl --unit` takes them, with globs; empty: all of the journal.
    pub units: Vec<String>,
    /// Units whose entries are not read, by exact name; the agent's own, lest it read what it says about reading.
    pub exclude_units: Vec<String>,
    /// Where the journal is: a container names the host's, mounted; empty: this host's own.
    pub directory: String,
    /// Where to start when the agent first runs: `end` or `beginning`.
    pub start_at: StartAt,
    /// The program that reads the journal.
    pub journalctl: String,
    /// The longest message kept whole, in bytes: 1,024 to 1,048,576. The rest of a longer one is cut off and counted.
    pub message_bytes_max: usize,
    /// How many records one batch holds at most.
    pub batch_records_max: usize,
    /// How many batches may be on their way to processing.
    pub batches_in_flight_max: usize,
}

/// Whether the journal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// If it can be, and its entries do not come through a syslog daemon's files as well.
    Auto,
    /// Yes.
    True,
    /// No.
    False,
}

/// Where to start in a journal that was there before the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// Only what is written from now on.
    End,
    /// All of it.
    Beginning,
}

impl Serialize for Enabled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Enabled::Auto => "auto",
            Enabled::True => "true",
            Enabled::False => "false",
        })
    }
}

/// A file may say `true`, an environment variable says `"true"`.
impl<'de> Deserialize<'de> for Enabled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Enabled, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Bool(bool),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Bool(true) => Ok(Enabled::True),
            Either::Bool(false) => Ok(Enabled::False),
            Either::Text(text) => match text.as_str() {
                "auto" => Ok(Enabled::Auto),
                "true" => Ok(Enabled::True),
                "false" => Ok(Enabled::False),
                other => Err(serde::de::Error::custom(format!("`{other}` is none of \"auto\", true and false"))),
            },
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: Enabled::Auto,
            units: Vec::new(),
            exclude_units: vec!["ollystack-agent.service".to_owned()],
            directory: String::new(),
            start_at: StartAt::End,
            journalctl: "journalctl".to_owned(),
            message_bytes_max: 65_536,
            batch_records_max: 1_000,
            batches_in_flight_max: 2,
        }
    }
}

impl Config {
    /// Refuse what cannot work, naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, found: String, allowed| Error::Config { key, found, allowed };
        let range = |key, found: usize, allowed: std::ops::RangeInclusive<usize>, text| {
            allowed.contains(&found).then_some(()).ok_or_else(|| wrong(key, found.to_string(), text))
        };
        if self.journalctl.is_empty() {
            return Err(wrong("journalctl", "empty".to_owned(), "the name or path of a program"));
        }
        if !self.directory.is_empty() && !self.directory.starts_with('/') {
            return Err(wrong("directory", format!("{:?}", self.directory), "an absolute path, or empty"));
        }
        range("message_bytes_max", self.message_bytes_max, 1_024..=1_048_576, "1024 to 1048576")?;
        range("batch_records_max", self.batch_records_max, 1..=10_000, "1 to 10000")?;
        range("batches_in_flight_max", self.batches_in_flight_max, 1..=256, "1 to 256")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_an_error_names_key_value_and_what_is_allowed() {
        assert!(Config::default().check().is_ok());
        let message = Config { batch_records_max: 0, ..Config::default() }.check().unwrap_err().to_string();
        assert!(message.starts_with("journald.batch_records_max is 0: allowed is 1 to 10000"), "{message}");
    }

    #[test]
    fn enabled_is_a_word_or_a_truth_value() {
        let read = |text: &str| serde_json::from_str::<Enabled>(text).ok();
        let table = [("true", Enabled::True), ("false", Enabled::False), ("\"auto\"", Enabled::Auto)];
        for (text, expected) in table {
            assert_eq!(read(text), Some(expected));
            let written = serde_json::to_string(&expected).unwrap();
            assert_eq!(read(&written), Some(expected));
        }
        assert_eq!(read("\"yes\""), None);
    }
}
