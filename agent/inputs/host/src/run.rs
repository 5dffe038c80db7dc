//! The thread that reads: wakes at each interval, runs the scrapers that are due and hands their samples in.
//!
//! A thread of its own, because reading /proc blocks and a wake-up of the async runtime costs more than most readings. Each
//! scraper's CPU time is measured, and one that costs more than a thousandth of its interval is run less often.
//! Invariant: however large the host, no scraper takes more than 0.1% of a CPU for long.

use crate::container::Containers;
use crate::process::Processes;
use crate::scrape::{Context, Part, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Samples};
use crate::stats::Stats;
use crate::system::connections::{Connections, Listening};
use crate::system::cpu::Cpu;
use crate::system::disk::Disk;
use crate::system::filesystem::Filesystem;
use crate::system::load::Load;
use crate::system::memory::Memory;
use crate::system::network::Network;
use crate::system::paging::Paging;
use crate::system::pressure::Pressure;
use crate::{Config, Error, read, text};
use ollystack_record::{Ack, Batch, Intake, IntakeError, Pressure as Pressing, Records, Resource, Source};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A scraper may take this part of its interval in CPU time.
const COST_MAX: u32 = 1_000;

/// Connections cost most and change least: they are counted at every third slow reading.
const CONNECTIONS_EVERY: u32 = 3;

/// How long one round may wait for room in the queue before samples are dropped. A round of processes and containers is
/// many small batches, which the next stage takes off within milliseconds.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a large table may have made the buffer grow to is given back.
const BUFFER_BYTES_KEPT: usize = 256 << 10;

/// Everything one thread needs.
pub(crate) struct Reader {
    roots: Roots,
    catalog: Catalog,
    host: Arc<Resource>,
    scrapers: Vec<Scheduled>,
    interval: Duration,
    boot: u64,
    buffer: Vec<u8>,
    samples_before: usize,
}

struct Scheduled {
    scraper: Box<dyn Scraper>,
    every: Duration,
    due_round: u64,
    /// Mean CPU time, the last readings weighing most.
    cost: Duration,
    is_failing: bool,
}

impl Reader {
    /// All scrapers that the configuration wants. An error only if there is no /proc at all.
    pub(crate) fn new(config: &Config, host: Arc<Resource>) -> Result<Reader, Error> {
        let roots = Roots::new(&config.root_path);
        let mut buffer = Vec::new();
        let stat = roots.proc.join("stat");
        read::read_once(&stat, &mut buffer)
            .map_err(|error| Error::NoProc { path: stat.display().to_string(), reason: error.to_string() })?;
        let boot = text::pairs(&buffer).find(|(key, _)| *key == b"btime").map_or(0, |(_, seconds)| seconds);

        let mut catalog = Catalog::new();
        let catalog_mut = &mut catalog;
        let listening = Listening::default();
        let fast: Vec<Box<dyn Scraper>> = vec![
            Box::new(Cpu::new(&roots, catalog_mut, config.per_cpu)),
            Box::new(Load::new(&roots, catalog_mut)),
            Box::new(Memory::new(&roots, catalog_mut)),
            Box::new(Paging::new(&roots, catalog_mut)),
            Box::new(Pressure::new(&roots, catalog_mut)),
            Box::new(Disk::new(&roots)),
            Box::new(Network::new(&roots)),
        ];
        let connections: Box<dyn Scraper> = Box::new(Connections::new(&roots, catalog_mut, Arc::clone(&listening)));
        let mut slow: Vec<Box<dyn Scraper>> = vec![Box::new(Filesystem::new(&roots, config.network_filesystems))];
        if config.processes_top > 0 {
            slow.push(Box::new(Processes::new(&roots, catalog_mut, config, listening)));
        }
        if config.containers_max > 0 {
            slow.push(Box::new(Containers::new(&roots, catalog_mut, config)));
        }
        let interval = Duration::from_millis(config.interval_ms);
        let slow_interval = Duration::from_millis(config.slow_interval_ms);
        let schedule = |every: Duration| {
            move |scraper| Scheduled { scraper, every, due_round: 0, cost: Duration::ZERO, is_failing: false }
        };
        // Connections before processes: they say which sockets listen.
        let mut scrapers: Vec<Scheduled> = fast.into_iter().map(schedule(interval)).collect();
        scrapers.push(schedule(slow_interval * CONNECTIONS_EVERY)(connections));
        scrapers.extend(slow.into_iter().map(schedule(slow_interval)));
        let boot = boot.saturating_mul(1_000_000_000);
        Ok(Reader { roots, catalog, host, scrapers, interval, boot, buffer, samples_before: 0 })
    }

    /// Read until the other end of `stop` is dropped.
    pub(crate) fn run(mut self, intake: &Intake, stop: &Receiver<()>, stats: &Stats) {
        let start = Instant::now();
        let mut round = 0;
        loop {
            self.round(round, intake, stats);
            // A round that took too long makes the next ones fall out rather than pile up.
            let wait;
            (round, wait) = next_round(start.elapsed(), self.interval, intake.pressure());
            match stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn round(&mut self, round: u64, intake: &Intake, stats: &Stats) {
        let parts = self.read(round, stats);
        let deadline = Instant::now() + PATIENCE;
        for (resource, samples) in parts.into_iter().filter(|(_, samples)| !samples.is_empty()) {
            let records = Records::Metrics(samples);
            hand_in(intake, Batch { source: Source::Host, resource, records, ack: Ack::none() }, deadline);
        }
    }

    /// Run what is due. The samples of processes and containers, and the host's last.
    fn read(&mut self, round: u64, stats: &Stats) -> Vec<Part> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let mut samples = Samples { time, start: self.boot, taken: Vec::with_capacity(self.samples_before) };
        let mut parts = Vec::new();
        for scheduled in self.scrapers.iter_mut().filter(|scheduled| scheduled.due_round <= round) {
            let before = cpu_time();
            let count = |samples: &Samples, parts: &[Part]| {
                samples.taken.len() + parts.iter().map(|(_, samples)| samples.len()).sum::<usize>()
            };
            let count_before = count(&samples, &parts);
            let mut context = Context {
                roots: &self.roots,
                buffer: &mut self.buffer,
                catalog: &mut self.catalog,
                host: &self.host,
                samples: &mut samples,
                parts: &mut parts,
            };
            let result = scheduled.scraper.scrape(&mut context);
            let cost = cpu_time().saturating_sub(before);
            let gained = count(&samples, &parts) - count_before;
            scheduled.account(round, self.interval, cost, gained as u64, result, stats);
        }
        self.samples_before = samples.taken.len().max(self.samples_before);
        self.buffer.truncate(0);
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        parts.push((Arc::clone(&self.host), samples.taken));
        parts
    }

    /// Each scraper's name and what one reading gave: how many samples, or why none.
    pub(crate) fn probe(mut self) -> Vec<(&'static str, u64, String)> {
        let stats = Stats::default();
        self.read(0, &stats);
        stats.read().into_iter().map(|scraper| (scraper.name, scraper.samples, scraper.error)).collect()
    }
}

impl Scheduled {
    fn account(
        &mut self,
        round: u64,
        interval: Duration,
        cost: Duration,
        gained: u64,
        result: Result<(), ScrapeError>,
        stats: &Stats,
    ) {
        let name = self.scraper.name();
        self.cost = (self.cost * 3 + cost) / 4;
        let wanted = self.every.max(self.cost * COST_MAX);
        let rounds = wanted.as_nanos().div_ceil(interval.as_nanos()).max(1);
        self.due_round = round + rounds as u64;
        stats.update(name, |scraper| {
            scraper.readings += 1;
            scraper.samples += gained;
            scraper.last_cpu_us = cost.as_micros() as u64;
            scraper.interval_ms = (interval.as_millis() * rounds) as u64;
            match &result {
                Ok(()) => scraper.error.clear(),
                Err(error) => {
                    scraper.failures += 1;
                    scraper.error = error.to_string();
                }
            }
        });
        match result {
            Err(error) if !self.is_failing => {
                tracing::warn!(scraper = name, %error, "host metrics are incomplete; said once until it works again");
                self.is_failing = true;
            }
            Ok(()) if self.is_failing => {
                tracing::info!(scraper = name, "host metrics are complete again");
                self.is_failing = false;
            }
            _ => {}
        }
    }
}

/// The number of the next round, and how long until then: longer as memory or CPU press.
fn next_round(elapsed: Duration, interval: Duration, pressure: &Pressing) -> (u64, Duration) {
    let rest = elapsed + pressure.cpu_pause();
    let round = (rest.as_nanos() / interval.as_nanos()) as u64 + u64::from(pressure.level().stretch());
    let begin = interval.saturating_mul(u32::try_from(round).unwrap_or(u32::MAX));
    (round, begin.saturating_sub(elapsed))
}

/// CPU time of this thread: what a reading costs, whatever else the host does meanwhile.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Queue, waiting for room until `deadline`; then drop and count.
fn hand_in(intake: &Intake, mut batch: Batch, deadline: Instant) {
    while Instant::now() < deadline {
        match intake.try_send(batch) {
            Ok(()) => return,
            Err((IntakeError::Full, back)) => {
                batch = back;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err((IntakeError::Closed, back)) => {
                batch = back;
                break;
            }
        }
    }
    intake.offer(batch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::{Ledger, Level};

    struct Costly;

    impl Scraper for Costly {
        fn name(&self) -> &'static str {
            "costly"
        }

        fn scrape(&mut self, _: &mut Context<'_>) -> Result<(), ScrapeError> {
            Ok(())
        }
    }

    fn scheduled(every_ms: u64) -> Scheduled {
        let scraper = Box::new(Costly);
        let every = Duration::from_millis(every_ms);
        Scheduled { scraper, every, due_round: 0, cost: Duration::ZERO, is_failing: false }
    }

    #[test]
    fn a_costly_scraper_runs_less_often_and_a_cheap_one_on_time() {
        let (stats, second) = (Stats::default(), Duration::from_secs(1));
        let account = |every_ms, cost_us| {
            let mut scheduled = scheduled(every_ms);
            for _ in 0..50 {
                scheduled.account(0, second, Duration::from_micros(cost_us), 1, Ok(()), &stats);
            }
            scheduled.due_round
        };
        assert_eq!(account(1_000, 200), 1);
        assert_eq!(account(10_000, 200), 10);
        assert_eq!(account(1_000, 4_500), 5, "4.5 ms each 5 s is 0.1%");
        assert_eq!(account(10_000, 30_000), 30);
    }

    #[test]
    fn rounds_come_less_often_as_memory_or_cpu_press() {
        let (pressure, second) = (Pressing::default(), Duration::from_secs(1));
        let next = || next_round(Duration::from_millis(4_200), second, &pressure);
        assert_eq!(next(), (5, Duration::from_millis(800)));
        pressure.set_level(Level::Slow);
        assert_eq!(next(), (6, Duration::from_millis(1_800)));
        pressure.set_level(Level::Calm);
        pressure.rest(Duration::from_secs(60));
        assert!(next().0 > 60, "{:?}", next());
    }

    #[test]
    fn samples_that_find_no_room_are_dropped_and_counted() {
        let ledger = Arc::new(Ledger::default());
        let (intake, _receiver) = Intake::new(1, 10, Arc::clone(&ledger));
        let config = Config::default();
        let mut reader = Reader::new(&config, Arc::new(Resource::default())).unwrap();
        let stats = Stats::default();
        reader.round(0, &intake, &stats);
        let account = &ledger.read().signals[0];
        let taken: u64 = stats.read().iter().map(|scraper| scraper.samples).sum();
        assert_eq!(account.seen, taken);
        assert_eq!(account.balance(), 0);
        assert!(account.dropped_total() > 0 && account.waiting_total() > 0);
    }

    #[test]
    fn one_scraper_s_failure_leaves_the_others_samples() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("proc")).unwrap();
        std::fs::write(folder.path().join("proc/stat"), "cpu 1 2 3 4 5 6 7 8\nbtime 5\n").unwrap();
        std::fs::write(folder.path().join("proc/meminfo"), "garbage").unwrap();
        let config = Config { root_path: folder.path().to_owned(), ..Config::default() };
        let probe = Reader::new(&config, Arc::new(Resource::default())).unwrap().probe();
        let of = |wanted| probe.iter().find(|(name, _, _)| *name == wanted).unwrap();
        assert!(of("cpu").1 > 0 && of("cpu").2.is_empty());
        assert!(of("memory").1 == 0 && of("memory").2.contains("no MemTotal"));
        assert!(of("disk").2.contains("diskstats"));
    }
}
