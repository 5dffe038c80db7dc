//! What one request, one connection and all of them together may take.
//!
//! Invariant: limits that pass [`Limits::check`] let the largest allowed request through when nothing else is in progress.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The limits of a [`Server`](crate::Server). The default suits an agent; see [`Limits::gateway`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message on the wire, compressed.
    pub wire_bytes_max: usize,
    /// Bytes of one message after decompression.
    pub decoded_bytes_max: usize,
    /// Bytes that all requests in progress may hold: as read, decompressed, and decoded into structures, until the service counts them
    /// itself.
    pub in_flight_bytes_max: usize,
    /// Requests in progress: admitted, and not answered yet.
    pub requests_in_flight_max: usize,
    /// Open connections, over all listeners of a server.
    pub connections_max: usize,
    /// Of those, from one address: an IPv4 address, or a /64 of IPv6.
    pub connections_per_address_max: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// Request headers in all.
    pub header_bytes_max: u32,
    /// What a connection may send ahead of being read, so also what an unknown sender can make us hold.
    pub window_bytes: u32,
    /// TLS must be agreed within this.
    pub handshake_timeout_ms: u64,
    /// The first request of a connection, and each request's headers, must be there within this. A connection of which no
    /// request was admitted has no longer either.
    pub header_timeout_ms: u64,
    /// A body must be there within this after its headers.
    pub body_timeout_ms: u64,
    /// A connection without a request for this long is closed.
    pub idle_timeout_ms: u64,
    /// The service must answer within this; else the sender is told UNAVAILABLE.
    pub answer_timeout_ms: u64,
    /// On stop, requests in progress have this long to end.
    pub drain_timeout_ms: u64,
}

impl Default for Limits {
    /// For an agent: applications on this host. 24 MiB in all is about a quarter of the agent's memory.
    fn default() -> Limits {
        Limits {
            wire_bytes_max: 4 << 20,
            decoded_bytes_max: 4 << 20,
            in_flight_bytes_max: 24 << 20,
            requests_in_flight_max: 1_024,
            connections_max: 256,
            // On a loopback all come from one.
            connections_per_address_max: 256,
            streams_per_connection_max: 64,
            header_bytes_max: 16 << 10,
            window_bytes: 64 << 10,
            handshake_timeout_ms: 5_000,
            header_timeout_ms: 30_000,
            body_timeout_ms: 10_000,
            idle_timeout_ms: 600_000,
            answer_timeout_ms: 30_000,
            drain_timeout_ms: 5_000,
        }
    }
}

impl Limits {
    /// For a gateway: thousands of agents over a network. 4,096 connections with a 256 KiB window are 1 GiB at worst.
    pub fn gateway() -> Limits {
        Limits {
            wire_bytes_max: 16 << 20,
            decoded_bytes_max: 64 << 20,
            in_flight_bytes_max: 512 << 20,
            requests_in_flight_max: 8_192,
            connections_max: 4_096,
            connections_per_address_max: 1_024,
            streams_per_connection_max: 128,
            window_bytes: 256 << 10,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            ..Limits::default()
        }
    }

    /// Refuse what cannot work.
    pub fn check(&self) -> Result<(), LimitsError> {
        let at_least = |key: &'static str, value: u64, least: u64| match value < least {
            true => Err(LimitsError { key, value, rule: format!("at least {least}") }),
            false => Ok(()),
        };
        at_least("wire_bytes_max", self.wire_bytes_max as u64, 1 << 10)?;
        at_least("decoded_bytes_max", self.decoded_bytes_max as u64, self.wire_bytes_max as u64)?;
        let both = self.wire_bytes_max + self.decoded_bytes_max;
        at_least("in_flight_bytes_max", self.in_flight_bytes_max as u64, both as u64)?;
        at_least("requests_in_flight_max", self.requests_in_flight_max as u64, 1)?;
        at_least("connections_max", self.connections_max as u64, 1)?;
        at_least("connections_per_address_max", self.connections_per_address_max as u64, 1)?;
        at_least("streams_per_connection_max", u64::from(self.streams_per_connection_max), 1)?;
        // 8 KiB is the least that hyper reads HTTP/1 headers with.
        at_least("header_bytes_max", u64::from(self.header_bytes_max), 8 << 10)?;
        at_least("window_bytes", u64::from(self.window_bytes), 16 << 10)?;
        for (key, value) in [
            ("handshake_timeout_ms", self.handshake_timeout_ms),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("answer_timeout_ms", self.answer_timeout_ms),
        ] {
            at_least(key, value, 1)?;
        }
        Ok(())
    }
}

/// A limit that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key} is {value}; it must be {rule}")]
pub struct LimitsError {
    /// Which.
    pub key: &'static str,
    /// As found.
    pub value: u64,
    /// What would do.
    pub rule: String,
}

pub(crate) fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sets_of_limits_pass_their_own_check() {
        assert_eq!(Limits::default().check(), Ok(()));
        assert_eq!(Limits::gateway().check(), Ok(()));
    }

    #[test]
    fn a_limit_that_cannot_work_is_named() {
        let limits = Limits { in_flight_bytes_max: 1, ..Limits::default() };
        let error = limits.check().unwrap_err().to_string();
        assert_eq!(error, "in_flight_bytes_max is 1; it must be at least 8388608");
    }
}
