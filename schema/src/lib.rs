//! Contracts: names, ClickHouse rows and numbered migrations. No I/O, and nothing of ours below it.
//!
//! The agent takes the names; feature `rows` adds what the gateway needs.

#[cfg(feature = "rows")]
pub mod migrations;
pub mod names;
#[cfg(feature = "rows")]
pub mod rows;
