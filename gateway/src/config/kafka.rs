//! The section `[kafka]`: which cluster, which topics, how to get in. Invariant: what this build cannot do is refused by name.

#![cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "what is read is checked in any build"))]

use super::{Error, Secret};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// As `default.toml` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kafka {
    pub(crate) brokers: String,
    pub(crate) topic_prefix: String,
    pub(crate) group: String,
    pub(crate) message_bytes_max: usize,
    produce_timeout_ms: u64,
    pub(crate) session_timeout_ms: u64,
    pub(crate) tls: bool,
    pub(crate) tls_ca_file: PathBuf,
    pub(crate) tls_cert_file: PathBuf,
    pub(crate) tls_key_file: PathBuf,
    pub(crate) sasl_mechanism: String,
    pub(crate) sasl_user: String,
    pub(crate) sasl_password: Secret,
    sasl_password_file: PathBuf,
}

fn value<T>(key: &'static str, found: impl ToString, allowed: impl ToString) -> Result<T, Error> {
    Err(Error::Value { key, found: found.to_string(), allowed: allowed.to_string() })
}

impl Kafka {
    pub(crate) fn produce_timeout(&self) -> Duration {
        Duration::from_millis(self.produce_timeout_ms)
    }

    /// What must hold for whoever uses it.
    pub(crate) fn check_usable(&self) -> Result<(), Error> {
        if !cfg!(feature = "kafka") {
            return value(
                "sink",
                "kafka",
                "only \"clickhouse\" is allowed: this program was built without the feature kafka",
            );
        }
        if self.brokers.trim().is_empty() {
            return value("kafka.brokers", "empty", "HOST:PORT is needed, several separated by commas");
        }
        Ok(())
    }

    /// What must hold always. Fills in the password from its file.
    pub(super) fn check(mut self) -> Result<Kafka, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        for (key, name) in [("kafka.topic_prefix", &self.topic_prefix), ("kafka.group", &self.group)] {
            if name.is_empty() || name.len() > 200 || !name.chars().all(plain) {
                return value(key, name, "1 to 200 of A-Z a-z 0-9 . _ - are allowed");
            }
        }
        for broker in self.brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
            let port = broker.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
            if port.is_none_or(|(host, _)| host.is_empty() || host.contains('/')) {
                return value("kafka.brokers", broker, "HOST:PORT is allowed, several separated by commas");
            }
        }
        if !(1_000..=20_000).contains(&self.produce_timeout_ms) {
            let allowed = "1000 to 20000 is allowed: a sender is answered within 30 s";
            return value("kafka.produce_timeout_ms", self.produce_timeout_ms, allowed);
        }
        if !(6_000..=300_000).contains(&self.session_timeout_ms) {
            let allowed = "6000 to 300000 is allowed, as brokers have it by default";
            return value("kafka.session_timeout_ms", self.session_timeout_ms, allowed);
        }
        if !(10_000..=100_000_000).contains(&self.message_bytes_max) {
            return value("kafka.message_bytes_max", self.message_bytes_max, "10000 to 100000000 is allowed");
        }
        if self.tls && !cfg!(feature = "kafka-tls") {
            let allowed = "only false is allowed: this program was built without the feature kafka-tls";
            return value("kafka.tls", true, allowed);
        }
        if self.tls_cert_file.as_os_str().is_empty() != self.tls_key_file.as_os_str().is_empty() {
            let found = self.tls_cert_file.display();
            return value("kafka.tls_cert_file", found, "set it together with kafka.tls_key_file, or neither");
        }
        match self.sasl_mechanism.as_str() {
            "" | "PLAIN" => {}
            "SCRAM-SHA-256" | "SCRAM-SHA-512" if cfg!(feature = "kafka-tls") => {}
            "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                let allowed = "\"PLAIN\" is allowed: this program was built without the feature kafka-tls";
                return value("kafka.sasl_mechanism", &self.sasl_mechanism, allowed);
            }
            other => {
                return value("kafka.sasl_mechanism", other, "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 is allowed");
            }
        }
        if !self.sasl_mechanism.is_empty() && self.sasl_user.is_empty() {
            return value("kafka.sasl_user", "empty", "with kafka.sasl_mechanism a user is needed");
        }
        if !self.sasl_password_file.as_os_str().is_empty() {
            let path = self.sasl_password_file.clone();
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
            self.sasl_password = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(self)
    }
}
