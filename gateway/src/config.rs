//! The gateway's configuration: what may be set, and what of it holds together.
//!
//! `default.toml` is the one list of keys, defaults and comments; [`layers`] lays file, environment and flags over it; [`print`]
//! shows the result. Invariant: a `Config` that exists has passed [`Config::check`], and its secrets print as `***`.

mod kafka;
mod layers;
mod print;
mod secret;
mod tiers;

pub(crate) use kafka::Kafka;
pub(crate) use layers::{Flags, Layers, load};
pub(crate) use print::print;
pub(crate) use secret::Secret;
pub(crate) use tiers::Tiers;

use crate::delivered::deadline::Terms;
use crate::tenants::{Limits, RETENTION_DAYS_MAX};
use ollystack_receive::Tls;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the file is looked for when no `--config` names one. It may be missing.
pub(crate) const DEFAULT_FILE: &str = "/etc/ollystack/gateway.toml";

/// On stop, requests in progress have this long: a block waits at most a second for rows, then [`STOP_INSERT_TIMEOUT`] for
/// ClickHouse, then a sync of the spill.
const DRAIN_TIMEOUT_MS: u64 = 15_000;

/// On stop, ClickHouse has this long to confirm a block before it goes to the spill instead.
pub(crate) const STOP_INSERT_TIMEOUT: Duration = Duration::from_secs(5);

/// Blocks that ClickHouse refuses may take this many segments' room: the least that the buffer takes.
pub(crate) const SET_ASIDE_SEGMENTS: u64 = 4;

/// Every key, default and comment.
pub(crate) const DEFAULTS: &str = include_str!("config/default.toml");

/// The whole configuration; `default.toml` says what each key means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    data_dir: PathBuf,
    pub(crate) sink: SinkMode,
    pub(crate) server: Server,
    pub(crate) admin: Admin,
    keys: Keys,
    pub(crate) tenants: Limits,
    pub(crate) clickhouse: ClickHouse,
    pub(crate) tiers: Tiers,
    pub(crate) kafka: Kafka,
    pub(crate) store: Store,
    pub(crate) batch: Batch,
    pub(crate) spill: Spill,
    pub(crate) log: Log,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Server {
    pub(crate) grpc_listen: SocketAddr,
    pub(crate) http_listen: SocketAddr,
    tls_cert_file: PathBuf,
    tls_key_file: PathBuf,
    tls_client_ca_file: PathBuf,
    connections_max: usize,
    connections_per_address_max: usize,
    requests_in_flight_max: usize,
    header_timeout_ms: u64,
    body_timeout_ms: u64,
    wire_bytes_max: usize,
    decoded_bytes_max: usize,
    in_flight_bytes_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) listen: SocketAddr,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    file: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClickHouse {
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) password: Secret,
    password_file: PathBuf,
    pub(crate) database: String,
    cluster: String,
    pub(crate) insert_quorum: String,
    connect_timeout_ms: u64,
    insert_timeout_ms: u64,
    pub(crate) inserts_in_flight_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) mode: StoreMode,
    dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) memory_bytes: u64,
}

/// Where accepted records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SinkMode {
    /// Into the tables.
    ClickHouse,
    /// To topics.
    Kafka,
}

/// Which ClickHouse the rows go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoreMode {
    /// One that somebody else runs.
    External,
    /// The embedded engine, as a child of this process.
    Embedded,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Batch {
    pub(crate) rows_max: usize,
    wait_ms: u64,
    begin_within_ms: u64,
    pub(crate) bytes_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spill {
    dir: PathBuf,
    pub(crate) bytes_max: u64,
    pub(crate) segment_bytes_max: u64,
}

/// What holds for a command that reads no configuration.
pub(crate) fn default_log() -> Result<Log, Error> {
    Layers::new(None, std::iter::empty(), &Flags::default())?.config().map(|config| config.log)
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What is wrong with the configuration. All of it stops the start; none is worth a retry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot read {path}: {source}; check that it exists and may be read, or name another file with --config")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin} is not valid TOML: {message}")]
    Syntax { origin: String, message: String },
    #[error("{origin}: unknown key {key}{hint}; `ollystack-gateway config print` lists every key")]
    UnknownKey { origin: String, key: String, hint: String },
    #[error("{origin}: {key} is {found}, expected {expected}")]
    Type { origin: String, key: String, found: String, expected: &'static str },
    #[error("configuration: {0}")]
    Form(String),
    #[error("{key} is {found}: {allowed}")]
    Value { key: &'static str, found: String, allowed: String },
}

impl Config {
    /// Where API keys and tenants are.
    pub(crate) fn keys_file(&self) -> PathBuf {
        self.in_data_dir(&self.keys.file, "keys.toml")
    }

    /// Where blocks wait while ClickHouse is away.
    pub(crate) fn spill_dir(&self) -> PathBuf {
        self.in_data_dir(&self.spill.dir, "spill")
    }

    /// Where blocks stand that ClickHouse refuses for good.
    pub(crate) fn set_aside_dir(&self) -> PathBuf {
        self.data_dir.join("set-aside")
    }

    /// Where messages wait while Kafka is away.
    #[cfg(feature = "kafka")]
    pub(crate) fn kafka_spill_dir(&self) -> PathBuf {
        let mut name = self.spill_dir().into_os_string();
        name.push("-kafka");
        name.into()
    }

    /// Where a consumer keeps what ClickHouse refuses for good: apart from a gateway's, so that both can run on one host.
    #[cfg(feature = "kafka")]
    pub(crate) fn consumer_dir(&self) -> PathBuf {
        self.data_dir.join("consumer")
    }

    /// Where the embedded engine keeps its tables.
    pub(crate) fn store_dir(&self) -> PathBuf {
        self.in_data_dir(&self.store.dir, "store")
    }

    fn in_data_dir(&self, configured: &std::path::Path, name: &str) -> PathBuf {
        if configured.as_os_str().is_empty() { self.data_dir.join(name) } else { configured.to_owned() }
    }

    /// What types cannot say. Fills in the password from its file.
    fn check(mut self) -> Result<Config, Error> {
        let value = |key, found: &dyn std::fmt::Display, allowed: &str| {
            Err(Error::Value { key, found: found.to_string(), allowed: allowed.to_owned() })
        };
        let positive = [
            ("tenants.burst_seconds", self.tenants.burst_seconds),
            ("tenants.sampling_slow_ms", self.tenants.sampling_slow_ms),
            ("tenants.requests_in_flight_max", self.tenants.requests_in_flight_max as u64),
            ("clickhouse.connect_timeout_ms", self.clickhouse.connect_timeout_ms),
            ("clickhouse.insert_timeout_ms", self.clickhouse.insert_timeout_ms),
            ("clickhouse.inserts_in_flight_max", self.clickhouse.inserts_in_flight_max as u64),
            ("batch.rows_max", self.batch.rows_max as u64),
        ];
        for (key, found) in positive {
            if found == 0 {
                return value(key, &found, "at least 1 is allowed");
            }
        }
        if self.server.tls_cert_file.as_os_str().is_empty() != self.server.tls_key_file.as_os_str().is_empty() {
            let found = self.server.tls_cert_file.display();
            return value("server.tls_cert_file", &found, "set it together with server.tls_key_file, or neither");
        }
        if self.tls().is_none() && !self.server.tls_client_ca_file.as_os_str().is_empty() {
            let found = self.server.tls_client_ca_file.display();
            return value("server.tls_client_ca_file", &found, "needs server.tls_cert_file and server.tls_key_file");
        }
        self.server.limits().check().map_err(|e| Error::Form(format!("server.{e}")))?;
        if self.clickhouse.insert_timeout_ms > 20_000 {
            let allowed = "1 to 20000 is allowed: a sender is answered within 30 s";
            return value("clickhouse.insert_timeout_ms", &self.clickhouse.insert_timeout_ms, allowed);
        }
        if !(100..=10_000).contains(&self.batch.begin_within_ms) {
            return value("batch.begin_within_ms", &self.batch.begin_within_ms, "100 to 10000 is allowed");
        }
        if !(1..=RETENTION_DAYS_MAX).contains(&self.tenants.retention_days) {
            return value("tenants.retention_days", &self.tenants.retention_days, "1 to 36500 is allowed");
        }
        if !(0.0..=1.0).contains(&self.tenants.sampling_ratio) {
            return value("tenants.sampling_ratio", &self.tenants.sampling_ratio, "0 to 1 is allowed");
        }
        let rest = self.clickhouse.url.strip_prefix("http://").or_else(|| self.clickhouse.url.strip_prefix("https://"));
        match rest {
            None | Some("") => {
                return value(
                    "clickhouse.url",
                    &self.clickhouse.url,
                    "http://HOST:PORT or https://HOST:PORT is allowed",
                );
            }
            Some(rest) if rest.contains('@') => {
                let allowed = "no user or password in it: use clickhouse.user and OLLYSTACK_CLICKHOUSE_PASSWORD";
                return value("clickhouse.url", &"a URL with credentials", allowed);
            }
            Some(_) => {}
        }
        let name = &self.clickhouse.database;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return value("clickhouse.database", name, "1 to 64 letters, digits and underscores are allowed");
        }
        let cluster = &self.clickhouse.cluster;
        if cluster.len() > 64 || !cluster.chars().all(|c| plain(c) || matches!(c, '-' | '.')) {
            let allowed = "up to 64 letters, digits and _ - . are allowed; `SELECT DISTINCT cluster FROM system.clusters` lists them";
            return value("clickhouse.cluster", cluster, allowed);
        }
        if !cluster.is_empty() && self.store.mode == StoreMode::Embedded {
            return value(
                "clickhouse.cluster",
                cluster,
                "with store.mode = \"embedded\" it must be empty: that is one server",
            );
        }
        let quorum = &self.clickhouse.insert_quorum;
        if quorum != "auto" && !quorum.parse::<u8>().is_ok_and(|replicas| replicas != 1) {
            let allowed = "\"auto\", \"0\" and numbers of replicas from \"2\" to \"255\" are allowed";
            return value("clickhouse.insert_quorum", quorum, allowed);
        }
        if quorum != "0" && cluster.is_empty() {
            return value(
                "clickhouse.insert_quorum",
                quorum,
                "only \"0\" is allowed where clickhouse.cluster is empty",
            );
        }
        self.tiers.check()?;
        if self.batch.bytes_max < self.server.decoded_bytes_max {
            let allowed = "at least server.decoded_bytes_max is allowed, or a large request could never pass";
            return value("batch.bytes_max", &self.batch.bytes_max, allowed);
        }
        let (segment, request) = (self.spill.segment_bytes_max, self.server.decoded_bytes_max as u64);
        if segment / 2 < request || segment > self.spill.bytes_max / 4 {
            let allowed = "from twice server.decoded_bytes_max to a quarter of spill.bytes_max is allowed";
            return value("spill.segment_bytes_max", &segment, allowed);
        }
        if !self.clickhouse.password_file.as_os_str().is_empty() {
            let path = self.clickhouse.password_file.clone();
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
            self.clickhouse.password = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        if self.sink == SinkMode::Kafka {
            self.kafka.check_usable()?;
        }
        self.kafka = self.kafka.check()?;
        Ok(self)
    }

    /// Certificate, key and client CA, when TLS is on.
    pub(crate) fn tls(&self) -> Option<Tls> {
        let set = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        Some(Tls {
            cert_file: set(&self.server.tls_cert_file)?,
            key_file: set(&self.server.tls_key_file)?,
            client_ca_file: set(&self.server.tls_client_ca_file),
        })
    }
}

impl Server {
    /// As the OTLP face takes them.
    pub(crate) fn limits(&self) -> ollystack_receive::Limits {
        ollystack_receive::Limits {
            wire_bytes_max: self.wire_bytes_max,
            decoded_bytes_max: self.decoded_bytes_max,
            in_flight_bytes_max: self.in_flight_bytes_max,
            connections_max: self.connections_max,
            connections_per_address_max: self.connections_per_address_max,
            requests_in_flight_max: self.requests_in_flight_max,
            header_timeout_ms: self.header_timeout_ms,
            body_timeout_ms: self.body_timeout_ms,
            drain_timeout_ms: DRAIN_TIMEOUT_MS,
            ..ollystack_receive::Limits::gateway()
        }
    }
}

impl ClickHouse {
    /// The cluster to lay the schema out on, if it is one.
    pub(crate) fn cluster(&self) -> Option<&str> {
        Some(&*self.cluster).filter(|name| !name.is_empty())
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn insert_timeout(&self) -> Duration {
        Duration::from_millis(self.insert_timeout_ms)
    }
}

impl Config {
    /// What holds for attempts of agents to deliver.
    pub(crate) fn terms(&self) -> Terms {
        let begin_within = self.batch.begin_within();
        let insert_within = match self.sink {
            SinkMode::ClickHouse => {
                // The server that is asked hands a block on to its shard, which has as long again from then on.
                let servers = if self.clickhouse.cluster().is_some() { 2 } else { 1 };
                self.clickhouse.connect_timeout() + servers * self.clickhouse.insert_timeout()
            }
            SinkMode::Kafka => self.kafka.produce_timeout(),
        };
        Terms { begin_within, insert_within }
    }
}

impl Batch {
    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    pub(crate) fn begin_within(&self) -> Duration {
        Duration::from_millis(self.begin_within_ms)
    }
}

#[cfg(test)]
mod tests;
