//! The last stage on the host: [`freeze()`] groups reduced records into frozen batches on the disk buffer, and [`send()`] sends
//! those, byte for byte, over OTLP/gRPC.
//!
//! Invariant: a frozen batch never changes: every attempt sends the same message under the same identity (agent and sequence), so
//! that a gateway can tell a repetition from news.

mod backoff;
mod books;
mod call;
mod clock;
mod config;
mod deferred;
mod freeze;
mod frozen;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod gather;
mod pack;
mod send;
mod split;
mod status;
mod thin;
mod tls;

pub use books::{measure, open_buffer};
pub use config::{ApiKey, Config};
pub use freeze::freeze;
pub use gather::{Gather, Gathered, TooLarge};
pub use send::send;
pub use status::{Sampling, Status, StatusReading};
pub use thin::{THIN_BYTES_MAX, thin};

use std::path::PathBuf;

/// Why the stage cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key of the configuration.
    #[error("export.{key} is {found}; allowed is {allowed}")]
    Config {
        /// Which.
        key: &'static str,
        /// As found.
        found: String,
        /// What would do.
        allowed: String,
    },
    /// A file with certificates or a key cannot be read.
    #[error("export.{key}: {}: {source}; expected PEM with {expected}", path.display())]
    File {
        /// Of the configuration.
        key: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
        /// What should be in it.
        expected: &'static str,
    },
    /// TLS cannot be set up.
    #[error("export: tls for {endpoint}: {message}")]
    Tls {
        /// To whom.
        endpoint: String,
        /// What the library says.
        message: String,
    },
    /// The buffer cannot be opened.
    #[error(transparent)]
    Buffer(#[from] ollystack_buffer::Error),
}
