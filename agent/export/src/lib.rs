//! The last stage on the host: [`freeze()`] groups reduced records into frozen batches on the disk buffer, and [`send()`] sends
//! those, byte for byte, over OTLP/gRPC.
//!
//! Invariant: a frozen batch never changes: every attempt sends the same bytes under the same identity (agent and sequence), so
//! that a gateway can tell a repetition from news.

mod config;

pub use config::{ApiKey, Config};

use ollystack_buffer::{Buffer, Options};
use ollystack_record::{Ledger, Reduced};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
        allowed: &'static str,
    },
    /// The buffer cannot be opened.
    #[error(transparent)]
    Buffer(#[from] ollystack_buffer::Error),
}

/// Open the disk buffer with the ledger as its observer, and enter what it still holds as carried.
pub fn open_buffer(_options: Options, _ledger: &Arc<Ledger>) -> Result<Buffer, Error> {
    Err(Error::Buffer(ollystack_buffer::Error::Closed))
}

/// Enter what the buffer holds now: call before the ledger is read.
pub fn measure(_buffer: &Buffer, _ledger: &Ledger) {}

/// Freeze until `reduced` is closed and empty; everything that came is then on disk or counted as dropped.
pub async fn freeze(_config: Config, mut reduced: mpsc::Receiver<Reduced>, _buffer: Buffer, _ledger: Arc<Ledger>) {
    while reduced.recv().await.is_some() {}
}

/// Send until `stop`, then for the drain timeout, and leave the rest on disk. `agent` is the agent's UUID.
pub async fn send(
    _config: Config,
    _key: ApiKey,
    _agent: String,
    _buffer: Buffer,
    _ledger: Arc<Ledger>,
    stop: CancellationToken,
    _status: Arc<Status>,
) -> Result<(), Error> {
    stop.cancelled().await;
    Ok(())
}

/// How sending goes, for `status` and /healthz.
#[derive(Debug, Default)]
pub struct Status {}
