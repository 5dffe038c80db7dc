//! The thread that looks: wakes at each interval, looks at all sockets, tells the map and who answers where.
//!
//! A thread of its own, because it enters other network namespaces. Invariant: however many sockets there are, it takes no more than 0.25% of a
//! CPU for long: a look that costs more comes less often.

use crate::look::{Look, look};
use crate::map::{Ephemeral, Map, Totals, map};
use crate::metrics::Metrics;
use crate::namespaces::Home;
use crate::nat::Nat;
use crate::netlink::BUFFER_BYTES;
use crate::owners::{Owners, processes};
use crate::stats::{Reading, Stats};
use crate::{Config, Error};
use hashbrown::HashSet;
use ollystack_record::{Ack, Batch, Intake, Peers, Pressure, Records, Resource, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Of its interval, a look may take this part in CPU time.
const COST_MAX: u32 = 400;

/// What `ip_local_port_range` is where it cannot be read.
const EPHEMERAL: Ephemeral = 32_768..=60_999;

/// Everything that is kept between two looks.
pub(crate) struct Reader {
    config: Config,
    pub(crate) proc: PathBuf,
    home: Home,
    owners: Owners,
    totals: Totals,
    nat: Nat,
    metrics: Metrics,
    pub(crate) ephemeral: Ephemeral,
    pub(crate) buffer: Vec<u8>,
    looked_unix_nano: u64,
}

impl Reader {
    pub(crate) fn new(config: &Config) -> Result<Reader, Error> {
        let proc = PathBuf::from("/proc");
        Ok(Reader {
            config: config.clone(),
            home: Home::open().map_err(|error| Error::NoProc(error.into()))?,
            owners: Owners::new(&proc),
            totals: Totals::default(),
            nat: Nat::open(),
            metrics: Metrics::new(),
            ephemeral: ephemeral(&proc),
            buffer: vec![0; BUFFER_BYTES],
            looked_unix_nano: 0,
            proc,
        })
    }

    /// Look until the other end of `stop` is dropped. `Err`: the thread was lost to another namespace.
    pub(crate) fn run(
        mut self,
        host: &Arc<Resource>,
        intake: &Intake,
        peers: &Peers,
        stop: &Receiver<()>,
        stats: &Stats,
    ) -> Result<(), Error> {
        let mut said = String::new();
        loop {
            let before = cpu_time();
            let (look, mut map) = self.look()?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
            let start = std::mem::replace(&mut self.looked_unix_nano, now);
            let samples = self.metrics.samples(&map, &self.config, start, now);
            let resource = Arc::clone(host);
            intake.offer(Batch {
                source: Source::Host,
                resource,
                records: Records::Metrics(samples),
                ack: Ack::none(),
            });
            let cost = cpu_time().saturating_sub(before);
            let reading = reading(&look, &map, cost);
            if reading.error != said {
                said.clone_from(&reading.error);
                match said.is_empty() {
                    true => tracing::info!("sockets are seen in full again"),
                    false => tracing::warn!(error = said, "sockets are not seen in full; said once until it changes"),
                }
            }
            stats.replace(reading);
            peers.replace(std::mem::take(&mut map.known));
            drop((look, map));
            let wait = wait(Duration::from_millis(self.config.interval_ms), cost, intake.pressure());
            match stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// One look.
    pub(crate) fn look(&mut self) -> Result<(Look, Map), Error> {
        let processes = processes(&self.proc).map_err(Error::NoProc)?;
        let look = look(&self.config, &self.home, &self.proc, &processes, &mut self.buffer);
        if look.is_lost {
            return Err(Error::Lost);
        }
        let sockets = look.places.iter().flat_map(|place| place.listening.iter().chain(&place.connected));
        let inodes: HashSet<u32> = sockets.map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
        self.owners.find(&inodes, &processes);
        self.owners.sweep(&processes.into_iter().collect());
        self.nat.refill();
        let Reader { owners, totals, nat, ephemeral, buffer, .. } = self;
        let map =
            map(&look, owners, totals, ephemeral, Instant::now(), |local, remote| nat.behind(local, remote, buffer));
        Ok((look, map))
    }

    /// Whether conntrack can be asked.
    pub(crate) fn try_nat(&mut self) -> rustix::io::Result<()> {
        self.nat.try_out(&mut self.buffer)
    }
}

fn reading(look: &Look, map: &Map, cost: Duration) -> Reading {
    let count = |of: fn(&crate::look::Place) -> usize| look.places.iter().map(of).sum::<usize>() as u64;
    let refused = |what: &str, error: &Option<rustix::io::Errno>| error.map(|error| format!("{what}: {error}"));
    let errors =
        [refused("sock_diag", &look.diag_refused), refused("other network namespaces", &look.namespace_refused)];
    Reading {
        looks: 0,
        connections: count(|place| place.connected.len()),
        listening: count(|place| place.listening.len()),
        namespaces: look.places.len() as u64 - 1,
        unowned: map.unowned,
        unclear: map.unclear,
        over_limit: look.over_limit,
        edges: map.edges.len() as u64,
        endpoints: map.endpoints.len() as u64,
        translated: map.known.translated.len() as u64,
        last_cpu_us: cost.as_micros() as u64,
        error: errors.into_iter().flatten().collect::<Vec<_>>().join("; "),
    }
}

/// How long until the next look: longer the more it costs, and as memory or CPU press.
fn wait(interval: Duration, cost: Duration, pressure: &Pressure) -> Duration {
    interval.max(cost * COST_MAX) * pressure.level().stretch() + pressure.cpu_pause()
}

/// CPU time of this thread: what a look costs, whatever else the host does meanwhile.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn ephemeral(proc: &Path) -> Ephemeral {
    let text = std::fs::read_to_string(proc.join("sys/net/ipv4/ip_local_port_range")).unwrap_or_default();
    let mut ports = text.split_ascii_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => EPHEMERAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::Level;

    #[test]
    fn a_look_that_costs_much_comes_less_often() {
        let (pressure, interval) = (Pressure::default(), Duration::from_secs(15));
        assert_eq!(wait(interval, Duration::from_millis(5), &pressure), interval);
        assert_eq!(wait(interval, Duration::from_millis(50), &pressure), Duration::from_secs(20));
        pressure.set_level(Level::Slow);
        assert_eq!(wait(interval, Duration::ZERO, &pressure), 2 * interval);
    }

    #[test]
    fn the_kernel_says_which_ports_callers_have() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ephemeral(folder.path()), EPHEMERAL);
        std::fs::create_dir_all(folder.path().join("sys/net/ipv4")).unwrap();
        std::fs::write(folder.path().join("sys/net/ipv4/ip_local_port_range"), "1024\t65535\n").unwrap();
        assert_eq!(ephemeral(folder.path()), 1024..=65535);
    }
}
