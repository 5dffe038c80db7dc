//! The systemd journal: from `journalctl` to the intake, with a cursor that survives restarts.
//!
//! `journalctl` runs as a child, `entry` reads what it prints, `gather` makes records of it, `follow` hands them in and `commit`
//! saves the cursor once they are settled. An entry is delivered at least once. Invariant: what is not handed in stays in the
//! journal, and a restart goes on after the last entry whose batch was settled.

mod availability;
mod commit;
mod config;
mod cursor;
mod entry;
mod follow;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod gather;
mod journalctl;
mod reader;
mod stats;

pub use availability::{Decision, availability, decide};
pub use config::{Config, Enabled, StartAt};
pub use stats::{Stats, StatsReading};

use follow::Follower;
use ollystack_record::{Afterwork, Intake, Resource};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the journal input cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key has a value that is not allowed.
    #[error("journald.{key} is {found}: allowed is {allowed}; change it in the configuration")]
    Config {
        /// Which key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// The cursor cannot be kept.
    #[error(
        "the journal's cursor cannot be kept in {path} ({source}): make the state directory writable for the agent"
    )]
    State {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// journalctl does not start.
    #[error(
        "journalctl does not run as {program:?} ({source}): install systemd's journalctl, set journald.journalctl to its path or journald.enabled to false"
    )]
    Journalctl {
        /// As configured.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The follower crashed.
    #[error("the journal input ended unexpectedly ({0}): see the log, restart the agent and report it")]
    Ended(tokio::task::JoinError),
}

impl Error {
    fn start(config: &Config, source: std::io::Error) -> Error {
        Error::Journalctl { program: config.journalctl.clone(), source }
    }
}

/// Follow the journal until `stop`; the cursor is kept in `state_dir`. On `stop` it returns once nothing more is handed in; the
/// cursor goes on being committed as part of `after`. Whether to run it at all, [`decide`] says.
pub async fn run(
    config: Config,
    state_dir: PathBuf,
    resource: Arc<Resource>,
    intake: Intake,
    stop: CancellationToken,
    after: Afterwork,
    stats: Arc<Stats>,
) -> Result<(), Error> {
    config.check()?;
    let (handed_in, all_handed_in) = tokio::sync::oneshot::channel();
    let given_up = after.clone();
    let work = after.spawn(async move {
        // A journalctl that does not answer keeps nobody from stopping.
        let follower = tokio::select! {
            follower = Follower::new(config, &state_dir, resource, intake, stats) => follower?,
            () = stop.cancelled() => return Ok(()),
        };
        let commits = follower.run(stop).await?;
        // Nobody listens if the supervisor gave up waiting: what is left to do is the same.
        let _ = handed_in.send(());
        follow::settle(commits, given_up).await;
        Ok(())
    });
    match all_handed_in.await {
        Ok(()) => Ok(()),
        // It ended before: why, it says itself.
        Err(_) => work.await.map_err(Error::Ended)?,
    }
}
