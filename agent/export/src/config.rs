//! What the export stage may be told.

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
    /// Data points, log records or spans of one frozen batch.
    pub batch_records_max: usize,
    /// Bytes of one frozen batch before compression.
    pub batch_bytes_max: usize,
    /// How long records wait for others to fill a batch, milliseconds.
    pub batch_interval_ms: u64,
    /// zstd level: 1 (fast) to 9; memory grows with it.
    pub compression_level: i32,
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
            batch_records_max: 5_000,
            batch_bytes_max: 1 << 20,
            batch_interval_ms: 1_000,
            compression_level: 3,
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
