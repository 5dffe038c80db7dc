//! What the kernel sees: processes, TCP connections and requests of many protocols, without touching an application.
//!
//! In: records that the programs of `agent-ebpf` write into ring buffers, and what they count in maps. Out: spans of requests,
//! counters of processes and TCP connections, log events of process starts and ends, and the signals of the host (`signals`). The modules in the datum's order: `btf`, `layouts` and
//! `load` get the programs running, `tls` puts more of them where there is TLS; `run` drains; `process`, `tcp` and `flow` make records of what comes; `processes` says
//! whose they are. Invariant: what the kernel refuses is a row in [`availability`], never an error.

mod block;
mod btf;
mod cgroup;
mod config;
mod flow;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod histograms;
mod host;
mod layouts;
mod lines;
mod load;
mod losses;
mod oom;
mod peers;
mod process;
mod processes;
mod profile;
mod refusal;
#[cfg(feature = "replay")]
pub mod replay;
mod run;
mod run_queue;
mod seen;
mod signals;
mod stats;
mod tcp;
mod tls;

pub use config::{Config, Protocol, Taps};
pub use flow::TEMPLATE_BYTES_MAX;
pub use seen::SeenProcess;
pub use stats::{Feature, Reading, Stats};
pub use tls::TlsFile;

/// What the kernel holds for all maps of what is on without being asked for, besides the ring of `ring_bytes`, in bytes: sockets, calls,
/// connections, disks, smaller rings.
pub const MAP_BYTES_MAX: u64 = 5_085 << 10;

use ollystack_record::{Availability, Intake, Lines, Peers, Resource, Scope, State};
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
    run_among(config, resource, intake, Around::default(), stop, stats).await
}

/// What the input has in common with others.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// What was found out of who answers where: spans then name the service at the other end.
    pub peers: Arc<Peers>,
    /// Where it tells of lines that processes write as they serve.
    pub lines: Arc<Lines>,
}

/// The same, together with others.
pub async fn run_among(
    config: Config,
    resource: Arc<Resource>,
    intake: Intake,
    around: Around,
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
    let rungs =
        [("ebpf.process", &features.process), ("ebpf.tcp", &features.tcp), ("ebpf.requests", &features.requests)];
    let told = rungs.map(|(name, loaded)| Feature { name, rung: loaded.as_ref().map_or("off", |l| l.rung) });
    let tls = Feature { name: "ebpf.tls", rung: if features.tls.is_some() { "uprobes" } else { "off" } };
    if let Some(tls) = &features.tls {
        stats.set_tls(tls.probed(), tls.told());
    }
    let lines = Feature { name: "ebpf.log_traces", rung: features.lines.as_ref().map_or("off", |lines| lines.rung) };
    let told: Vec<Feature> = told.into_iter().chain([tls, lines]).chain(features.signals.features()).collect();
    let is_idle = told.iter().all(|feature| feature.rung == "off");
    stats.set_features(told);
    if is_idle {
        stop.cancelled().await;
        return Ok(());
    }
    run::run(&config, features, resource, intake, around, stop, stats).await;
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
