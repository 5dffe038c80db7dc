//! What one request, one connection and all of them together may take, and the budget that all requests draw from.
//!
//! Invariant: a [`Share`] gives back exactly what it took when it is dropped, whatever became of its request.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The limits of a [`Server`](crate::Server). The default suits an agent; see [`Limits::gateway`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message on the wire, compressed.
    pub wire_bytes_max: usize,
    /// Bytes of one message after decompression.
    pub decoded_bytes_max: usize,
    /// Bytes that all requests in progress may hold: as read, decompressed, and decoded into structures.
    pub in_flight_bytes_max: usize,
    /// Open connections, over all listeners of a server.
    pub connections_max: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// Request headers in all.
    pub header_bytes_max: u32,
    /// What a connection may send ahead of being read, so also what an unknown sender can make us hold.
    pub window_bytes: u32,
    /// TLS must be agreed within this.
    pub handshake_timeout_ms: u64,
    /// The first request of a connection, and each request's headers, must be there within this.
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
            connections_max: 256,
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
            connections_max: 4_096,
            streams_per_connection_max: 128,
            window_bytes: 256 << 10,
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
        at_least("connections_max", self.connections_max as u64, 1)?;
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

/// The bytes that all requests share.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// What one request holds of the budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Budget {
        Budget { used: Arc::default(), max }
    }

    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// Why a share did not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Others hold it now.
    Now,
    /// More than there is at all.
    Ever,
}

impl Share {
    /// Hold `bytes` more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let max = self.budget.max;
        if self.bytes.saturating_add(bytes) > max {
            return Err(NoRoom::Ever);
        }
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= max);
        self.budget.used.fetch_update(Relaxed, Relaxed, add).map_err(|_| NoRoom::Now)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Give a vector more room. While it moves, the old room and the new one are both held, as both are there.
    pub(crate) fn enlarge(&mut self, vector: &mut Vec<u8>, capacity: usize) -> Result<(), NoRoom> {
        let old = vector.capacity();
        self.grow(capacity)?;
        vector.reserve_exact(capacity - vector.len());
        self.shrink(old);
        Ok(())
    }

    /// Hold `bytes` less.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
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

    #[test]
    fn what_a_request_held_is_free_once_it_is_gone() {
        let budget = Budget::new(10);
        let mut one = budget.share();
        let mut two = budget.share();
        assert_eq!(one.grow(7), Ok(()));
        assert_eq!(two.grow(4), Err(NoRoom::Now));
        assert_eq!(two.grow(11), Err(NoRoom::Ever));
        one.shrink(2);
        assert_eq!(two.grow(4), Ok(()));
        drop(one);
        assert_eq!(two.grow(6), Ok(()));
        drop(two);
        assert_eq!(budget.used.load(Relaxed), 0);
    }
}
