//! Contracts: names, ClickHouse rows, numbered migrations, and what samplers write into a tracestate. No I/O, and nothing of ours below it.
//!
//! The agent takes the names; feature `rows` adds what the gateway needs.

#[cfg(feature = "rows")]
pub mod columns;
#[cfg(feature = "rows")]
pub mod migrations;
pub mod names;
pub mod probability;
#[cfg(feature = "rows")]
pub mod rows;
#[cfg(feature = "rows")]
pub mod tiers;
