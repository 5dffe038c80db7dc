//! What the kernel sees: processes, TCP connections and HTTP requests, without touching an application.
//!
//! In: records that the programs of `agent-ebpf` write into ring buffers. Out: spans of HTTP requests, counters of processes
//! and TCP connections, and log events of process starts and ends. The modules in the datum's order: `btf`, `layouts` and
//! `load` get the programs running; `run` drains; `process`, `tcp` and `http` make records of what comes; `processes` says
//! whose they are. Invariant: what the kernel refuses is a row in [`availability`], never an error.

mod btf;
mod config;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod host;
mod http;
mod layouts;
mod load;
mod process;
mod processes;
mod refusal;
mod run;
mod stats;
mod tcp;

pub use config::{Config, Taps};
pub use stats::{Feature, Reading, Stats};

use ollystack_record::{Availability, Intake, Resource, Scope, State};
use std::sync::{Arc, LazyLock, atomic::Ordering::Relaxed};
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
pub fn availability(config: &Config) -> Vec<Availability> {
    match load::load(config) {
        Ok(features) => features.availability,
        Err(error) => vec![Availability::off("ebpf", error.to_string(), "")],
    }
}

/// Load what the kernel allows, and hand in what it sees until `stop`. If nothing can be loaded this waits for `stop`.
pub async fn run(
    config: Config,
    resource: Arc<Resource>,
    intake: Intake,
    stop: CancellationToken,
    stats: Arc<Stats>,
) -> Result<(), Error> {
    config.check()?;
    let loading = config.clone();
    // The blocking pool, because the kernel's verifier takes its time. If the runtime is shutting down there is no answer.
    let Ok(features) = tokio::task::spawn_blocking(move || load::load(&loading)).await else { return Ok(()) };
    let features = features?;
    for row in &features.availability {
        match row.state {
            State::On => tracing::info!(feature = row.name, why = row.why, "kernel programs attached"),
            _ if !config.enabled => tracing::debug!(feature = row.name, why = row.why, "kernel programs off"),
            _ => tracing::warn!(feature = row.name, why = row.why, remedy = row.remedy, "kernel programs not in full"),
        }
    }
    stats.map_bytes.store(features.map_bytes, Relaxed);
    let rungs = [("ebpf.process", &features.process), ("ebpf.tcp", &features.tcp), ("ebpf.http", &features.http)];
    stats.set_features(
        rungs.map(|(name, loaded)| Feature { name, rung: loaded.as_ref().map_or("off", |l| l.rung) }).into(),
    );
    if rungs.iter().all(|(_, loaded)| loaded.is_none()) {
        stop.cancelled().await;
        return Ok(());
    }
    run::run(&config, features, resource, intake, stop, stats).await;
    Ok(())
}

/// Who measured.
fn scope() -> Arc<Scope> {
    static SCOPE: LazyLock<Arc<Scope>> = LazyLock::new(|| {
        let mut scope = Scope::default();
        scope.proto.name = "ollystack.ebpf".to_owned();
        scope.proto.version = env!("CARGO_PKG_VERSION").to_owned();
        Arc::new(scope)
    });
    Arc::clone(&SCOPE)
}
