//! Log files: from the files that match the globs to the intake, with offsets that survive restarts.
//!
//! `discover` finds files, `watch` hears of changes, `follow` reads them through `tail` and `lines` into `records`, and
//! `offsets` remembers how far each was made durable. A line is delivered at least once: an offset is committed only after the
//! verdict on its batch, and a restart goes on from there. Invariant: what is not handed in stays in its file, and a file that
//! goes before it was read is counted.
//!
//! What no tailer can know is how much a file held when it was truncated in place between two looks (copytruncate): such loss is
//! counted as far as its size was seen.

mod config;
mod discover;
mod follow;
mod identity;
mod lines;
mod offsets;
mod open;
mod records;
mod service;
mod stats;
mod tail;
mod watch;

pub use config::{Config, StartAt};
pub use stats::{FileStats, Stats, StatsReading};

use discover::Globs;
use follow::Follower;
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
    /// The follower crashed.
    #[error("the log file input ended unexpectedly ({0}): see the log, restart the agent and report it")]
    Ended(tokio::task::JoinError),
}

/// What would be read on this host.
pub fn availability(config: &Config) -> Vec<Availability> {
    let name = "logs.files";
    if !config.enabled {
        return vec![Availability::off(name, "logs.enabled is false", "set logs.enabled to true")];
    }
    let globs = match config.check().and_then(|()| Globs::new(config)) {
        Ok(globs) => globs,
        Err(error) => return vec![Availability::off(name, error.to_string(), "correct the configuration")],
    };
    let walk = globs.walk();
    let readable = |found: &&discover::Candidate| open::open(&found.base, &found.path, config.follow_symlinks).is_ok();
    let (all, readable) = (walk.files.len(), walk.files.iter().filter(readable).count());
    let links = walk.links_refused;
    let row = match (all, readable) {
        (0, _) if links == 0 => {
            let why = format!("no file matches {}", config.include.join(", "));
            Availability::on(name, format!("{why}; files that appear are read"))
        }
        (all, readable) if readable < all => Availability::partial(
            name,
            format!("{readable} of {all} matching files are readable"),
            "run as root or with CAP_DAC_READ_SEARCH, or add the agent's user to the group adm",
        ),
        (all, _) if all > config.files_max => Availability::partial(
            name,
            format!("{all} files match and {} are followed", config.files_max),
            "narrow logs.include or raise logs.files_max",
        ),
        (_, _) if links > 0 => Availability::partial(
            name,
            format!("{readable} files; {links} matching symbolic links are refused"),
            "set logs.follow_symlinks to true if their owners may be trusted",
        ),
        _ => Availability::on(name, format!("{readable} files")),
    };
    vec![row]
}

/// Follow the files until `stop`; offsets are kept in `state_dir`. On `stop` what was handed in is waited for, a few seconds at
/// most, so the stages behind must still run.
pub async fn run(
    config: Config,
    state_dir: PathBuf,
    resource: Arc<Resource>,
    intake: Intake,
    stop: CancellationToken,
    stats: Arc<Stats>,
) -> Result<(), Error> {
    if !config.enabled {
        return Ok(());
    }
    config.check()?;
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        let follower = Follower::new(config, &state_dir, resource, intake, stats)?;
        runtime.block_on(follower.run(stop));
        Ok(())
    };
    // Reading files blocks: a thread where that harms nobody.
    tokio::task::spawn_blocking(work).await.map_err(Error::Ended)?
}
