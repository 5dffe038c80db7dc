//! Who calls whom on this host, from its sockets and /proc alone: a service map on every kernel, whatever is spoken.
//!
//! In: all TCP sockets by sock_diag, in the host's network namespace and in those of containers, and /proc for whose they are. Out: connections,
//! bytes and round trips by pair of services (`ollystack.edge.*`), which service answers at which address (`ollystack.endpoint`), so
//! that other hosts' edges can be named where all come together, and the same to the input that sees requests ([`Peers`]). The modules in the
//! datum's order: `look` asks the kernel (`netlink`, `diag`, `namespaces`), `owners` says whose, `nat` where to, `map` puts it together,
//! `metrics` tells it; `survey` lists the processes, for people. Invariant: no edge is guessed: see `map`.

mod config;
mod diag;
mod look;
mod map;
mod metrics;
mod namespaces;
mod nat;
mod netlink;
mod owners;
mod run;
mod stats;
mod survey;

pub use config::Config;
pub use stats::{Reading, Stats};
pub use survey::{Surveyed, survey};

use ollystack_record::{Availability, Intake, Peers, Resource};
use run::Reader;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Why the input cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key has a value that is not allowed.
    #[error("sockets.{key} is {found}: allowed is {allowed}; change it in the configuration")]
    Config {
        /// Which key.
        key: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        allowed: String,
    },
    /// /proc does not show processes.
    #[error("/proc is not readable ({0}): mount it, or set sockets.enabled to false")]
    NoProc(std::io::Error),
    /// The system gave no thread.
    #[error("no thread for the sockets ({0}): raise the limit on tasks and restart")]
    Thread(std::io::Error),
    /// The thread could not come back from another network namespace.
    #[error(
        "the kernel did not let the thread back into its own network namespace: set sockets.namespaces_max to 0 if it happens again"
    )]
    Lost,
    /// The thread crashed.
    #[error("the thread for the sockets ended unexpectedly: see the log, restart the agent and report it")]
    Ended,
}

/// What can be seen on this host: one look is taken.
pub fn availability(config: &Config) -> Vec<Availability> {
    const NAME: &str = "sockets";
    const ROOT: &str = "run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";
    if !config.enabled {
        return vec![Availability::off(NAME, "sockets.enabled is false", "set sockets.enabled to true")];
    }
    // A thread of its own, as it enters other namespaces.
    let config = config.clone();
    let looked = std::thread::spawn(move || {
        config.check()?;
        let mut reader = Reader::new(&config)?;
        let (look, map) = reader.look()?;
        let connected: usize = look.places.iter().map(|place| place.connected.len()).sum();
        let why = format!("{connected} connections, {} edges", map.edges.len());
        let connections = match (look.diag_refused, map.unowned) {
            (Some(error), _) => Availability::partial(
                NAME,
                format!("{why}, without bytes and round trips: sock_diag: {error}"),
                "a kernel with CONFIG_INET_DIAG",
            ),
            // Some are the kernel's own, or gone meanwhile.
            (None, unowned) if unowned as usize > connected / 4 => {
                Availability::partial(NAME, format!("{why}; whose {unowned} are is not readable"), ROOT)
            }
            _ => Availability::on(NAME, why),
        };
        let name = "sockets.namespaces";
        let namespaces = match look.namespace_refused {
            Some(error) => Availability::partial(
                name,
                format!("other network namespaces: {error}"),
                "run as root or with CAP_SYS_ADMIN",
            ),
            None => Availability::on(name, format!("{} besides the host's", look.places.len() - 1)),
        };
        let name = "sockets.nat";
        let nat = match reader.try_nat() {
            Ok(()) => Availability::on(
                name,
                format!("conntrack answers, {} addresses translated", map.known.translated.len()),
            ),
            Err(error) => Availability::partial(
                name,
                format!("conntrack: {error}: service IPs stay addresses"),
                "run as root or with CAP_NET_ADMIN, with the module nf_conntrack_netlink",
            ),
        };
        Ok::<_, Error>(vec![connections, namespaces, nat])
    });
    match looked.join() {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => vec![Availability::off(NAME, error.to_string(), "")],
        Err(_) => vec![Availability::off(NAME, Error::Ended.to_string(), "")],
    }
}

/// Look and tell until `stop`. `peers` gets what is found, for whoever asks.
pub async fn run(
    config: Config,
    resource: Arc<Resource>,
    intake: Intake,
    peers: Arc<Peers>,
    stop: CancellationToken,
    stats: Arc<Stats>,
) -> Result<(), Error> {
    if !config.enabled {
        return Ok(());
    }
    config.check()?;
    let (running, stopped) = mpsc::sync_channel::<()>(0);
    let (ended, end) = oneshot::channel();
    let work = move || {
        let outcome = Reader::new(&config).and_then(|reader| reader.run(&resource, &intake, &peers, &stopped, &stats));
        // Nobody listens if the agent is stopping.
        let _ = ended.send(outcome);
    };
    std::thread::Builder::new().name("sockets".into()).spawn(work).map_err(Error::Thread)?;
    let mut end = end;
    tokio::select! {
        () = stop.cancelled() => {}
        outcome = &mut end => return outcome.unwrap_or(Err(Error::Ended)),
    }
    drop(running);
    // The thread finishes its look.
    end.await.unwrap_or(Err(Error::Ended))
}
