//! Log files: from the files that match the globs to the intake, with offsets that survive restarts.
//!
//! `discover` finds files, `watch` hears of changes, `follow` reads them through `tail`, `lines`, `frame` and `join` into
//! `records`, and `offsets` remembers what of each was made durable. A line is delivered once: it counts as done only after the verdict on
//! it, and what is about to be made durable is written down before (`ahead`), so that a restart after a crash reads exactly the rest. Lines that belong together are one record, which counts
//! as one wherever records are counted and says how many lines it is. Invariant: what is not handed in stays in its file, and a
//! file that goes before it was read is counted.
//!
//! What no tailer can know is how much a file held when it was truncated in place between two looks (copytruncate): such loss is
//! counted as far as its size was seen.

mod ahead;
mod config;
mod container;
mod discover;
mod follow;
mod frame;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod identity;
mod join;
mod lines;
mod offsets;
mod open;
mod records;
mod rules;
mod service;
mod stats;
mod tail;
mod watch;

pub use config::{Config, MultilineMode, MultilineRule, StartAt};
pub use stats::{FileStats, Stats, StatsReading};

use discover::Globs;
use follow::Follower;
use ollystack_record::{Afterwork, Availability, Intake, Resource};
use std::path::{Path, PathBuf};
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

/// After a crash: enter in the offsets what became durable and could not be saved, by the highest ids that the buffer holds of each
/// class. Call before anything is put into it.
pub fn recover(state_dir: &Path, last_ids: &[u64]) {
    if let Err(error) = ahead::recover(state_dir, last_ids) {
        let path = state_dir.display();
        tracing::error!(%path, %error, "what the last run sent of log files is not known to the line: some may show twice; check the disk");
    }
}

/// Follow the files until `stop`; offsets are kept in `state_dir`. On `stop` it returns once nothing more is handed in; the offsets
/// of what was go on being committed as part of `after`.
pub async fn run(
    config: Config,
    state_dir: PathBuf,
    resource: Arc<Resource>,
    intake: Intake,
    stop: CancellationToken,
    after: Afterwork,
    stats: Arc<Stats>,
) -> Result<(), Error> {
    if !config.enabled {
        return Ok(());
    }
    config.check()?;
    let runtime = tokio::runtime::Handle::current();
    let (handed_in, all_handed_in) = tokio::sync::oneshot::channel();
    let given_up = after.clone();
    // Reading files blocks: a thread where that harms nobody.
    let work = after.spawn_blocking(move || {
        let follower = Follower::new(config, &state_dir, resource, intake, stats)?;
        let unsettled = runtime.block_on(follower.run(stop));
        // Nobody listens if the supervisor gave up waiting: what is left to do is the same.
        let _ = handed_in.send(());
        runtime.block_on(unsettled.settle(given_up));
        Ok(())
    });
    match all_handed_in.await {
        Ok(()) => Ok(()),
        // It ended before: why, it says itself.
        Err(_) => work.await.map_err(Error::Ended)?,
    }
}
