//! Host metrics: `system.*`, `process.*` and `container.*`, from /proc and /sys to the intake.
//!
//! Names follow the OpenTelemetry semantic conventions 1.44. Each second's readings (CPU, load, memory, paging, pressure,
//! disks, network) come from this crate's own parsers over files that stay open: sysinfo and procfs build maps and strings for
//! each reading, which at one reading a second would cost more than all the rest. Where it pays, they are used: sysinfo counts
//! physical cores, procfs reads the mount table and knows the kernel's constants. What follows from another metric is not read
//! twice: a process' uptime from its resource's creation time. Shares are, although totals have them: the worst second of a minute
//! is in no total. Invariant: one batch a resource and round;
//! samples are taken, never waited for, and what finds no room is counted as dropped.

mod config;
mod container;
mod process;
mod read;
mod run;
mod scrape;
mod series;
mod stats;
mod system;
mod text;

pub use config::Config;
pub use stats::{ScraperStats, Stats};

use ollystack_record::{Availability, Intake, Resource};
use run::Reader;
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;
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
    /// A scraper crashed the thread.
    #[error("the host metrics thread ended unexpectedly: see the log, restart the agent and report it")]
    Ended,
}

/// What can be read on this host, one row per scraper: each is tried once.
pub fn availability(config: &Config) -> Vec<Availability> {
    if !config.enabled {
        return vec![Availability::off("host", "host.enabled is false", "set host.enabled to true")];
    }
    let reader = config.check().and_then(|()| Reader::new(config, Arc::new(Resource::default())));
    let reader = match reader {
        Ok(reader) => reader,
        Err(error) => return vec![Availability::off("host", error.to_string(), "correct the configuration")],
    };
    reader.probe().into_iter().map(|(name, samples, error)| row(config, name, samples, error)).collect()
}

fn row(config: &Config, scraper: &str, samples: u64, error: String) -> Availability {
    let name = format!("host.{scraper}");
    let remedy = match scraper {
        "pressure" => "a kernel with CONFIG_PSI, booted with psi=1",
        "container" => "mount the host's /sys/fs/cgroup below host.root_path",
        _ => "make the file readable below host.root_path",
    };
    match (samples, error.is_empty()) {
        (0, false) => Availability::off(name, error, remedy),
        (_, false) => Availability::partial(name, error, remedy),
        // The kernel shows other users' descriptors and I/O to root and CAP_SYS_PTRACE only.
        _ if scraper == "process" && !may_look_closer(&config.root_path) => Availability::partial(
            name,
            format!("{samples} samples; other users' descriptors, I/O and sockets are not readable"),
            "run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
        ),
        (0, true) => Availability::on(name, "nothing of the kind on this host now"),
        _ => Availability::on(name, format!("{samples} samples a reading")),
    }
}

fn may_look_closer(root: &Path) -> bool {
    std::fs::read(root.join("proc/1/io")).is_ok()
}

/// Read and hand in samples until `stop`.
pub async fn run(
    config: Config,
    resource: Arc<Resource>,
    intake: Intake,
    stop: CancellationToken,
    stats: Arc<Stats>,
) -> Result<(), Error> {
    if !config.enabled {
        return Ok(());
    }
    config.check()?;
    let reader = Reader::new(&config, resource)?;
    let (running, stopped) = mpsc::sync_channel(0);
    let (ended, end) = oneshot::channel::<()>();
    let work = move || {
        reader.run(&intake, &stopped, &stats);
        drop(ended);
    };
    std::thread::Builder::new().name("host-metrics".into()).spawn(work).map_err(Error::Thread)?;
    let mut end = end;
    tokio::select! {
        () = stop.cancelled() => {}
        _ = &mut end => return Err(Error::Ended),
    }
    drop::<mpsc::SyncSender<()>>(running);
    let _ = end.await; // the thread finishes its round
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::{Ledger, Records, Source};

    #[tokio::test]
    async fn it_reads_until_it_is_stopped_and_the_ledger_counts_every_sample() {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(256, 100_000, Arc::clone(&ledger));
        let stop = CancellationToken::new();
        let host = Arc::new(Resource::new(vec![ollystack_record::value::string("host.name", "h")]));
        let config = Config { interval_ms: 100, ..Config::default() };
        let task = tokio::spawn(run(config, Arc::clone(&host), intake, stop.clone(), Arc::default()));
        let (mut rounds, mut received) = (0, 0);
        while rounds < 2 {
            let batch = receiver.recv().await.unwrap().take(&ledger);
            assert_eq!(batch.source, Source::Host);
            assert_eq!(batch.resource.get("host.name"), Some("h"));
            rounds += u32::from(batch.resource == host);
            received += batch.records.count();
            let Records::Metrics(samples) = batch.records else { unreachable!() };
            assert!(samples.iter().all(|sample| sample.time_unix_nano > sample.start_unix_nano));
        }
        stop.cancel();
        task.await.unwrap().unwrap();
        while let Some(rest) = receiver.recv().await {
            received += rest.take(&ledger).records.count();
        }
        assert_eq!(ledger.read().signals[0].seen, received);
    }

    #[tokio::test]
    async fn a_root_without_a_kernel_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { root_path: folder.path().to_owned(), ..Config::default() };
        let (intake, _receiver) = Intake::new(1, 1, Arc::default());
        let result = run(config.clone(), Arc::default(), intake, CancellationToken::new(), Arc::default()).await;
        assert!(result.unwrap_err().to_string().contains("proc/stat"));
        assert_eq!(availability(&config).len(), 1);
    }

    #[test]
    fn doctor_tells_of_each_scraper() {
        let rows = availability(&Config::default());
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        for name in ["host.cpu", "host.memory", "host.disk", "host.network", "host.filesystem", "host.process"] {
            assert!(names.contains(&name), "{names:?}");
        }
        let off = availability(&Config { enabled: false, ..Config::default() });
        assert_eq!(off[0].state, ollystack_record::State::Off);
    }
}
