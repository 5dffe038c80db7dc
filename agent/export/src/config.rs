//! What the export stage may be told.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Section `[export]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to send: `http://host:4317` or `https://host:4317`, any OTLP/gRPC endpoint.
    pub endpoint: String,
    /// PEM: trust these certificate authorities and no others. Unset: those of the system.
    pub ca_file: Option<PathBuf>,
    /// PEM: our certificate, for an endpoint that asks for one, then its intermediates. Together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM: its private key (PKCS#8, PKCS#1 or SEC1).
    pub key_file: Option<PathBuf>,
    /// Data points, log records or spans of one frozen batch.
    pub batch_records_max: usize,
    /// Bytes of one frozen batch before compression.
    pub batch_bytes_max: usize,
    /// How long records wait for others to fill a batch, milliseconds.
    pub batch_interval_ms: u64,
    /// zstd level of logs and traces: 1 (fast) to 9; memory grows with it.
    pub compression_level: i32,
    /// zstd level of metrics, of which there are few bytes: 1 to 19; the memory is the same for all.
    pub metrics_compression_level: i32,
    /// Batches on the way at once.
    pub in_flight_max: usize,
    /// The endpoint must answer within this, milliseconds. A gateway's own deadlines are shorter.
    pub response_timeout_ms: u64,
    /// A connection must stand within this, milliseconds.
    pub connect_timeout_ms: u64,
    /// The first pause before a batch is sent again, milliseconds; doubled up to the next, and varied by chance.
    pub retry_initial_ms: u64,
    /// The longest pause that is not asked for by the endpoint, milliseconds.
    pub retry_max_ms: u64,
    /// How often a refused key is tried again, milliseconds.
    pub retry_key_ms: u64,
    /// On stop, how long what is on disk is still sent, milliseconds. The rest stays for the next start.
    pub drain_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            endpoint: "http://127.0.0.1:4317".to_owned(),
            ca_file: None,
            cert_file: None,
            key_file: None,
            batch_records_max: 5_000,
            batch_bytes_max: 1 << 20,
            batch_interval_ms: 1_000,
            compression_level: 3,
            metrics_compression_level: 15,
            in_flight_max: 4,
            response_timeout_ms: 30_000,
            connect_timeout_ms: 10_000,
            retry_initial_ms: 500,
            retry_max_ms: 30_000,
            retry_key_ms: 60_000,
            drain_timeout_ms: 5_000,
        }
    }
}

impl Config {
    /// Refuse what cannot work, by key. The endpoint is checked when it is used.
    pub fn check(&self) -> Result<(), Error> {
        let within = |key: &'static str, value: u64, least: u64, most: u64| match (least..=most).contains(&value) {
            true => Ok(()),
            false => Err(Error::Config { key, found: value.to_string(), allowed: format!("{least} to {most}") }),
        };
        if self.cert_file.is_some() != self.key_file.is_some() {
            let found = self.cert_file.as_ref().map_or("unset".to_owned(), |path| path.display().to_string());
            let allowed = "one together with export.key_file, or neither".to_owned();
            return Err(Error::Config { key: "cert_file", found, allowed });
        }
        within("batch_records_max", self.batch_records_max as u64, 1, 1_000_000)?;
        // The upper end is what OTLP receivers take by default.
        within("batch_bytes_max", self.batch_bytes_max as u64, 1 << 10, MESSAGE_BYTES_MAX as u64)?;
        within("batch_interval_ms", self.batch_interval_ms, 1, 60_000)?;
        let level = |key: &'static str, level: i32, most: i32| match (1..=most).contains(&level) {
            true => Ok(()),
            false => Err(Error::Config { key, found: level.to_string(), allowed: format!("1 to {most}") }),
        };
        level("compression_level", self.compression_level, 9)?;
        level("metrics_compression_level", self.metrics_compression_level, 19)?;
        within("in_flight_max", self.in_flight_max as u64, 1, 64)?;
        within("response_timeout_ms", self.response_timeout_ms, 1, 600_000)?;
        within("connect_timeout_ms", self.connect_timeout_ms, 1, 600_000)?;
        within("retry_initial_ms", self.retry_initial_ms, 1, 600_000)?;
        within("retry_max_ms", self.retry_max_ms, self.retry_initial_ms, 3_600_000)?;
        within("retry_key_ms", self.retry_key_ms, 1, 3_600_000)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0, 600_000)
    }
}

/// Bytes of one message before compression: a little below the 4 MiB that gRPC servers take by default.
pub(crate) const MESSAGE_BYTES_MAX: usize = 3_900_000;

/// The API key. It never prints itself.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct ApiKey(String);

impl ApiKey {
    /// From the environment or a file; surrounding white space is not part of it.
    pub fn new(key: impl AsRef<str>) -> ApiKey {
        ApiKey(key.as_ref().trim().to_owned())
    }

    /// No key: an endpoint that asks for none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "(none)" } else { "***" })
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl Serialize for ApiKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_and_a_value_out_of_range_is_named() {
        assert!(Config::default().check().is_ok());
        let error = Config { compression_level: -5, ..Config::default() }.check().unwrap_err().to_string();
        assert_eq!(error, "export.compression_level is -5; allowed is 1 to 9");
        let error = Config { cert_file: Some("c.pem".into()), ..Config::default() }.check().unwrap_err().to_string();
        assert_eq!(error, "export.cert_file is c.pem; allowed is one together with export.key_file, or neither");
        let error = Config { metrics_compression_level: 20, ..Config::default() }.check().unwrap_err().to_string();
        assert_eq!(error, "export.metrics_compression_level is 20; allowed is 1 to 19");
    }

    #[test]
    fn a_key_never_shows_itself() {
        let key = ApiKey::new(" olly_secret\n");
        assert_eq!(key.expose(), "olly_secret");
        assert_eq!(format!("{key} {key:?}"), "*** ***");
        assert_eq!(format!("{:?}", ApiKey::default()), "(none)");
    }
}
