//! `system.cpu.*` times and `system.process.created`, from /proc/stat.
//!
//! Invariant: the seven modes of a CPU add up to its time: `guest` is inside `user` and is not counted twice, soft and hard
//! interrupts are one mode as the semantic conventions have it.

use crate::read::KernelFile;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, Groups, amount, counter, gauge};
use crate::text;
use ollystack_record::{Series, value};
use ollystack_schema::names::semconv;
use std::sync::Arc;

const TIME: Definition = counter("system.cpu.time", "s", "Seconds each logical CPU spent in each mode");
const UTILIZATION: Definition =
    gauge("system.cpu.utilization", "1", "Share of all CPUs' time in each mode since the last reading");
const LOGICAL: Definition = amount("system.cpu.logical.count", "{cpu}", "Logical CPUs that are online");
const PHYSICAL: Definition = amount("system.cpu.physical.count", "{cpu}", "Physical processor cores");
const CREATED: Definition = counter("system.process.created", "{process}", "Processes created since boot");

const MODES: [&str; 7] = ["user", "nice", "system", "idle", "iowait", "interrupt", "steal"];

/// A machine with more CPUs than this is measured in the sum only: 7 series each.
const CPUS_MAX: usize = 1024;

/// Ticks by mode, in the order of [`MODES`].
type Times = [u64; 7];

#[derive(Debug, Default, PartialEq)]
struct Snapshot {
    all: Times,
    by_cpu: Vec<(u32, Times)>,
    created: u64,
}

pub(crate) struct Cpu {
    file: KernelFile,
    per_cpu: bool,
    ticks_per_second: f64,
    physical: Option<u64>,
    snapshot: Snapshot,
    before: Option<Times>,
    by_cpu: Groups<7>,
    all: [Arc<Series>; 7],
    utilization: [Arc<Series>; 7],
    logical: Arc<Series>,
    physical_series: Arc<Series>,
    created: Arc<Series>,
}

impl Cpu {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog, per_cpu: bool) -> Cpu {
        let mode = |at: usize| vec![value::string(semconv::CPU_MODE, MODES[at])];
        // Cores do not come and go: sysinfo knows how to count them on every architecture, and is asked once.
        let physical = sysinfo::System::physical_core_count().ok().map(|count| count as u64);
        Cpu {
            file: KernelFile::new(roots.proc.join("stat")),
            per_cpu,
            ticks_per_second: procfs::ticks_per_second() as f64,
            physical,
            snapshot: Snapshot::default(),
            before: None,
            by_cpu: Groups::new(CPUS_MAX),
            all: std::array::from_fn(|at| catalog.series(&TIME, mode(at))),
            utilization: std::array::from_fn(|at| catalog.series(&UTILIZATION, mode(at))),
            logical: catalog.series(&LOGICAL, vec![]),
            physical_series: catalog.series(&PHYSICAL, vec![]),
            created: catalog.series(&CREATED, vec![]),
        }
    }
}

impl Scraper for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        context.read(&mut self.file)?;
        parse(context.buffer, &mut self.snapshot).ok_or_else(|| ScrapeError::parse(&self.file, "CPU times"))?;
        let now = &self.snapshot;
        let samples = &mut *context.samples;
        if self.per_cpu && now.by_cpu.len() <= CPUS_MAX {
            for (cpu, times) in &now.by_cpu {
                let catalog = &mut *context.catalog;
                let make = || {
                    let number = value::int(semconv::CPU_LOGICAL_NUMBER, i64::from(*cpu));
                    let attributes = |mode: &str| vec![number.clone(), value::string(semconv::CPU_MODE, mode)];
                    MODES.map(|mode| catalog.series(&TIME, attributes(mode)))
                };
                let Some(series) = self.by_cpu.get(&cpu.to_le_bytes(), make) else { continue };
                for (series, ticks) in series.iter().zip(times) {
                    samples.double(series, *ticks as f64 / self.ticks_per_second);
                }
            }
            self.by_cpu.sweep();
        } else {
            for (series, ticks) in self.all.iter().zip(&now.all) {
                samples.double(series, *ticks as f64 / self.ticks_per_second);
            }
        }
        if let Some(shares) = self.before.and_then(|before| shares(&before, &now.all)) {
            for (series, share) in self.utilization.iter().zip(shares) {
                samples.quotient(series, share);
            }
        }
        self.before = Some(now.all);
        samples.int(&self.logical, now.by_cpu.len() as u64);
        if let Some(physical) = self.physical {
            samples.int(&self.physical_series, physical);
        }
        samples.int(&self.created, now.created);
        Ok(())
    }
}

/// Each mode's share of the time between two readings. `None` when no time passed. Some kernels let idle and iowait run
/// backwards a little: that counts as nothing.
fn shares(before: &Times, now: &Times) -> Option<[f64; 7]> {
    let passed: [u64; 7] = std::array::from_fn(|mode| now[mode].saturating_sub(before[mode]));
    let all: u64 = passed.iter().sum();
    (all > 0).then(|| passed.map(|ticks| ticks as f64 / all as f64))
}

/// Parse /proc/stat into `snapshot`, reusing its room. `None` without the line of all CPUs.
fn parse(text: &[u8], snapshot: &mut Snapshot) -> Option<()> {
    snapshot.by_cpu.clear();
    snapshot.created = 0;
    let mut found = None;
    for line in text::lines(text) {
        let mut words = text::words(line);
        match words.next()? {
            b"cpu" => {
                snapshot.all = times(&mut words)?;
                found = Some(());
            }
            b"processes" => snapshot.created = words.next().and_then(text::number).unwrap_or(0),
            word => {
                let cpu = word.strip_prefix(b"cpu").and_then(text::number).and_then(|cpu| u32::try_from(cpu).ok());
                if let Some((cpu, times)) = cpu.zip(times(&mut words)) {
                    snapshot.by_cpu.push((cpu, times));
                }
            }
        }
    }
    found
}

/// user nice system idle iowait irq softirq steal; kernels before 2.6.11 have no steal.
fn times<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<Times> {
    let [user, nice, system, idle, iowait, irq, softirq] = text::numbers(words)?;
    let steal = words.next().and_then(text::number).unwrap_or(0);
    Some([user, nice, system, idle, iowait, irq.saturating_add(softirq), steal])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  13437 7 4445 184031 1002 5 52 47 3 0\ncpu0 6440 0 1777 93230 84 0 7 20 0 0\n\
        cpu7 6997 0 2668 90800 918 5 45 27 0 0\nintr 276435 0 0\nctxt 534054\nbtime 1795164916\nprocesses 9924\n";

    #[test]
    fn the_modes_of_a_cpu_add_up_and_an_offline_cpu_leaves_a_gap() {
        let mut snapshot = Snapshot::default();
        parse(STAT.as_bytes(), &mut snapshot).unwrap();
        assert_eq!(snapshot.all, [13437, 7, 4445, 184031, 1002, 57, 47]);
        assert_eq!(snapshot.by_cpu[1], (7, [6997, 0, 2668, 90800, 918, 50, 27]));
        assert_eq!(snapshot.created, 9924);
    }

    #[test]
    fn odd_kernels_give_what_they_have_or_nothing() {
        let mut snapshot = Snapshot::default();
        assert_eq!(parse(b"cpu 1 2 3 4 5 6 7\n", &mut snapshot), Some(()), "no steal");
        assert_eq!(snapshot.all, [1, 2, 3, 4, 5, 13, 0]);
        assert_eq!(parse(b"cpu 1 2 3\n", &mut snapshot), None);
        assert_eq!(parse(b"cpu 1 2 3 4 5 6 18446744073709551615\ncpux 1\n", &mut snapshot), Some(()));
        assert_eq!(parse(b"", &mut snapshot), None);
    }

    #[test]
    fn shares_survive_an_idle_time_that_runs_backwards() {
        let shares = shares(&[0, 0, 0, 100, 0, 0, 0], &[30, 0, 10, 99, 0, 0, 0]).unwrap();
        assert_eq!(shares, [0.75, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(super::shares(&[1; 7], &[1; 7]), None);
    }
}
