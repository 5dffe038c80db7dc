//! Host metrics: `system.*`, `process.*` and `container.*`, from /proc and /sys to the intake.

mod config;
mod stats;

pub use config::Config;
pub use stats::{ScraperStats, Stats};

use ollystack_record::{Availability, Intake, Resource};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the host input cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key has a value that is not allowed.
    #[error("host.{key} is {found}: allowed is {allowed}; change it in the configuration")]
    Config {
        /// Which key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Nothing below `root_path` looks like a kernel.
    #[error("{path} is not readable ({reason}): mount the host's /proc there or set host.root_path")]
    NoProc {
        /// What was looked for.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The system gave no thread.
    #[error("no thread for the host metrics ({0}): raise the limit on tasks and restart")]
    Thread(std::io::Error),
}

/// What can be read on this host, one row per scraper.
pub fn availability(_config: &Config) -> Vec<Availability> {
    Vec::new()
}

/// Read and hand in samples until `stop`.
pub async fn run(
    _config: Config,
    _resource: Arc<Resource>,
    _intake: Intake,
    stop: CancellationToken,
    _stats: Arc<Stats>,
) -> Result<(), Error> {
    stop.cancelled().await;
    Ok(())
}
