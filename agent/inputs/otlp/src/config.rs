//! What the OTLP input may be told.

use ollystack_receive::Limits;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

/// Section `[otlp]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether applications' OTLP is received at all.
    pub enabled: bool,
    /// Where gRPC is expected. Every listener speaks gRPC and HTTP; the second address is there because SDKs look there.
    pub grpc_address: SocketAddr,
    /// Where OTLP/HTTP is expected.
    pub http_address: SocketAddr,
    /// How long a request waits for room in the agent before its sender is told to come back, milliseconds.
    pub intake_timeout_ms: u64,
    /// How long a request waits until its records are safe before its sender is told to come back, milliseconds.
    pub ack_timeout_ms: u64,
    /// What a sender who must come back is told to wait, milliseconds.
    pub retry_after_ms: u64,
    /// How many metric series are remembered between requests, each counted as 1 KiB of memory or as many as it takes. Past it
    /// those unused longest are forgotten, which costs time when they come again, never data.
    pub series_max: usize,
    /// Bytes, connections and times.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            grpc_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 4317)),
            http_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 4318)),
            intake_timeout_ms: 2_000,
            ack_timeout_ms: 10_000,
            retry_after_ms: 1_000,
            series_max: 8_000,
            limits: Limits::default(),
        }
    }
}
