//! Log files: from the files that match the globs to the intake, with offsets that survive restarts.

mod config;
mod stats;

pub use config::{Config, StartAt};
pub use stats::{FileStats, Stats, StatsReading};

use ollystack_record::{Availability, Intake, Resource};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the log file input cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key has a value that is not allowed.
    #[error("logs.{key} is {found}: allowed is {allowed}; change it in the configuration")]
    Config {
        /// Which key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The offsets cannot be kept.
    #[error("log offsets cannot be kept in {path} ({source}): make the state directory writable for the agent")]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What would be read on this host.
pub fn availability(_config: &Config) -> Vec<Availability> {
    Vec::new()
}

/// Follow the files until `stop`; offsets are kept in `state_dir`.
pub async fn run(
    _config: Config,
    _state_dir: PathBuf,
    _resource: Arc<Resource>,
    _intake: Intake,
    stop: CancellationToken,
    _stats: Arc<Stats>,
) -> Result<(), Error> {
    stop.cancelled().await;
    Ok(())
}
