//! `process.*` of the processes that matter, each a resource of its own, and `system.process.count` of all.
//!
//! One scan opens /proc/<pid>/stat of every process (about 10 us each); only the chosen ones are looked at closer. That is
//! why this runs each `slow_interval_ms` and is stretched on hosts with many thousand processes. sysinfo would read more of
//! each process and allocate for it; the scan here reads one file into one buffer. Invariant: a process is reported for at
//! least a minute after it was last among the chosen, so that its series do not flicker.

mod choose;
mod identity;
mod serving;
mod stat;

use crate::read;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, Samples, amount, counter, gauge};
use crate::system::connections::Listening;
use crate::text;
use choose::{Key, Limits};
use hashbrown::HashMap;
use ollystack_record::{Resource, Series, value};
use ollystack_schema::names::semconv;
use serving::Serving;
use stat::Stat;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

const CPU_TIME: Definition = counter("process.cpu.time", "s", "CPU seconds by mode");
const CPU_UTILIZATION: Definition =
    gauge("process.cpu.utilization", "1", "Share of all CPUs' time since the last reading");
const MEMORY: Definition = amount("process.memory.usage", "By", "Physical memory in use");
const VIRTUAL: Definition = amount("process.memory.virtual", "By", "Virtual memory committed");
const THREADS: Definition = amount("process.thread.count", "{thread}", "Threads");
const FAULTS: Definition = counter("process.paging.faults", "{fault}", "Page faults by type");
const SWITCHES: Definition = counter("process.context_switches", "{context_switch}", "Context switches by type");
const DISK_IO: Definition = counter("process.disk.io", "By", "Bytes read from and written to storage");
const DESCRIPTORS: Definition = amount("process.unix.file_descriptor.count", "{file_descriptor}", "Open descriptors");
const COUNT: Definition = amount("system.process.count", "{process}", "Processes by state");

const STATES: [&str; 6] = ["running", "sleeping", "blocked", "stopped", "defunct", "idle"];

/// Linux' own limit is 4,194,304; past this the scan stops, which then counts as incomplete.
const PROCESSES_MAX: usize = 65_536;
const LATELY: Duration = Duration::from_secs(60);

pub(crate) struct Processes {
    proc: PathBuf,
    limits: Limits,
    arguments: bool,
    ticks_per_second: f64,
    page_bytes: u64,
    listening: Listening,
    serving: Serving,
    found: Vec<Stat>,
    before: HashMap<Key, [u64; 2]>,
    before_at: Option<Instant>,
    chosen: HashMap<Key, Chosen>,
    series: AllSeries,
}

/// A reported process.
struct Chosen {
    name: Box<[u8]>,
    resource: Arc<Resource>,
    last: Instant,
}

struct AllSeries {
    cpu_time: [Arc<Series>; 2],
    cpu_utilization: [Arc<Series>; 2],
    memory: Arc<Series>,
    virtual_memory: Arc<Series>,
    threads: Arc<Series>,
    faults: [Arc<Series>; 2],
    switches: [Arc<Series>; 2],
    disk_io: [Arc<Series>; 2],
    descriptors: Arc<Series>,
    count: [Arc<Series>; 6],
}

impl Processes {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog, config: &crate::Config, listening: Listening) -> Processes {
        let mut pair = |definition, key: &str, names: [&str; 2]| {
            names.map(|name| catalog.series(definition, vec![value::string(key, name)]))
        };
        let cpu_time = pair(&CPU_TIME, semconv::CPU_MODE, ["user", "system"]);
        let cpu_utilization = pair(&CPU_UTILIZATION, semconv::CPU_MODE, ["user", "system"]);
        let faults = pair(&FAULTS, semconv::SYSTEM_PAGING_FAULT_TYPE, ["minor", "major"]);
        let switches = pair(&SWITCHES, semconv::PROCESS_CONTEXT_SWITCH_TYPE, ["voluntary", "involuntary"]);
        let disk_io = pair(&DISK_IO, semconv::DISK_IO_DIRECTION, ["read", "write"]);
        let series = AllSeries {
            cpu_time,
            cpu_utilization,
            faults,
            switches,
            disk_io,
            memory: catalog.series(&MEMORY, vec![]),
            virtual_memory: catalog.series(&VIRTUAL, vec![]),
            threads: catalog.series(&THREADS, vec![]),
            descriptors: catalog.series(&DESCRIPTORS, vec![]),
            count: STATES.map(|state| catalog.series(&COUNT, vec![value::string(semconv::PROCESS_STATE, state)])),
        };
        Processes {
            proc: roots.proc.clone(),
            limits: Limits { top: config.processes_top, max: config.processes_max },
            arguments: config.process_command_line,
            ticks_per_second: procfs::ticks_per_second() as f64,
            page_bytes: procfs::page_size(),
            listening,
            serving: Serving::default(),
            found: Vec::new(),
            before: HashMap::new(),
            before_at: None,
            chosen: HashMap::new(),
            series,
        }
    }

    /// All processes' stat, into `found`. A process that ends meanwhile is not there.
    fn scan(&mut self, buffer: &mut Vec<u8>) -> Result<(), ScrapeError> {
        self.found.clear();
        let folder = std::fs::read_dir(&self.proc).map_err(|source| ScrapeError::read(&self.proc, source))?;
        for entry in folder.flatten() {
            let name = entry.file_name();
            if text::number(name.as_encoded_bytes()).is_none() {
                continue;
            }
            if self.found.len() >= PROCESSES_MAX {
                return Err(ScrapeError::Stuck(format!("only the first {PROCESSES_MAX} processes were looked at")));
            }
            let mut path = entry.path();
            path.push("stat");
            if read::read_once(&path, buffer).is_ok() {
                self.found.extend(stat::parse(buffer));
            }
        }
        Ok(())
    }

    fn count(&self, samples: &mut Samples) {
        let mut counts = [0; STATES.len()];
        for process in &self.found {
            match process.state {
                b'R' => counts[0] += 1,
                b'S' => counts[1] += 1,
                b'D' => counts[2] += 1,
                b'T' | b't' => counts[3] += 1,
                b'Z' => counts[4] += 1,
                b'I' => counts[5] += 1,
                _ => {}
            }
        }
        for (series, count) in self.series.count.iter().zip(counts) {
            samples.int(series, count);
        }
    }

    /// One process' samples.
    fn project(&self, stat: &Stat, share: Option<[f64; 2]>, samples: &mut Samples, buffer: &mut Vec<u8>) {
        let series = &self.series;
        for (series, ticks) in series.cpu_time.iter().zip([stat.user, stat.system]) {
            samples.double(series, ticks as f64 / self.ticks_per_second);
        }
        for (series, share) in series.cpu_utilization.iter().zip(share.into_iter().flatten()) {
            samples.quotient(series, share);
        }
        samples.int(&series.memory, stat.resident_pages.saturating_mul(self.page_bytes));
        samples.int(&series.virtual_memory, stat.virtual_bytes);
        samples.int(&series.threads, stat.threads);
        samples.int(&series.faults[0], stat.minor_faults);
        samples.int(&series.faults[1], stat.major_faults);
        // Closed to other users' eyes unless the agent may look; what is not readable is not sent.
        let folder = self.proc.join(stat.pid.to_string());
        if read::read_once(&folder.join("io"), buffer).is_ok()
            && let Some(bytes) = stat::parse_io(buffer)
        {
            series.disk_io.iter().zip(bytes).for_each(|(series, bytes)| samples.int(series, bytes));
        }
        if read::read_once(&folder.join("status"), buffer).is_ok()
            && let Some(switches) = stat::parse_status(buffer).0
        {
            series.switches.iter().zip(switches).for_each(|(series, count)| samples.int(series, count));
        }
        if let Some(count) = descriptors(folder.join("fd")) {
            samples.int(&series.descriptors, count);
        }
    }
}

/// Since Linux 6.2 the size of /proc/<pid>/fd is the number of descriptors; before, they are counted, up to a bound.
fn descriptors(folder: PathBuf) -> Option<u64> {
    const COUNTED_MAX: usize = 10_000;
    let size = std::fs::metadata(&folder).ok()?.len();
    if size > 0 {
        return Some(size);
    }
    Some(std::fs::read_dir(folder).ok()?.take(COUNTED_MAX).count() as u64)
}

impl Scraper for Processes {
    fn name(&self) -> &'static str {
        "process"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        let complete = self.scan(context.buffer);
        let now = Instant::now();
        self.count(context.samples);

        let serving = {
            let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.serving.update(&listening, &self.found, &self.proc, now)
        };
        let lately =
            |key: &Key| self.chosen.get(key).is_some_and(|chosen| now.saturating_duration_since(chosen.last) < LATELY);
        let ranked = choose::choose(&self.found, &self.before, serving, lately, self.limits);
        let elapsed = self.before_at.map(|at| now.saturating_duration_since(at).as_secs_f64());
        let all_cpus = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);

        for (index, is_fresh) in ranked {
            let stat = &self.found[index];
            let key = (stat.pid, stat.start);
            let created = context.samples.start + (stat.start as f64 / self.ticks_per_second * 1e9) as u64;
            // The same process under another name has called exec: it is somebody else now.
            let known = self.chosen.get(&key).filter(|chosen| chosen.name == stat.name);
            let resource = match known {
                Some(chosen) => Arc::clone(&chosen.resource),
                None => Arc::new(identity::resource(&self.proc, stat, created, context.host, self.arguments)),
            };
            let last = known.map(|chosen| chosen.last).filter(|_| !is_fresh).unwrap_or(now);
            self.chosen.insert(key, Chosen { name: stat.name.clone(), resource: Arc::clone(&resource), last });

            let share = self.before.get(&key).zip(elapsed.filter(|elapsed| *elapsed > 0.0)).map(|(before, elapsed)| {
                let share = |now: u64, before: u64| {
                    now.saturating_sub(before) as f64 / self.ticks_per_second / elapsed / all_cpus
                };
                [share(stat.user, before[0]), share(stat.system, before[1])]
            });
            let mut samples = Samples { time: context.samples.time, start: created, taken: Vec::with_capacity(16) };
            self.project(stat, share, &mut samples, context.buffer);
            context.parts.push((resource, samples.taken));
        }

        self.before.clear();
        self.before.extend(self.found.iter().map(|stat| ((stat.pid, stat.start), [stat.user, stat.system])));
        self.before_at = Some(now);
        let before = &self.before;
        self.chosen.retain(|key, _| before.contains_key(key));
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_its_samples_agree_with_its_own_file() {
        let (roots, mut catalog) = (Roots::new(std::path::Path::new("/")), Catalog::new());
        let config = crate::Config { processes_max: 10_000, processes_top: 10_000, ..crate::Config::default() };
        let mut processes = Processes::new(&roots, &mut catalog, &config, Listening::default());
        let (mut buffer, mut samples, mut parts) = (Vec::new(), Samples::default(), Vec::new());
        let host = Resource::new(vec![value::string("host.name", "h")]);
        let mut context = Context {
            roots: &roots,
            buffer: &mut buffer,
            catalog: &mut catalog,
            host: &host,
            samples: &mut samples,
            parts: &mut parts,
        };
        processes.scrape(&mut context).unwrap();
        let pid = i64::from(std::process::id());
        let own =
            parts.iter().find(|(resource, _)| value::int_attribute(resource.attributes(), "process.pid") == Some(pid));
        let (resource, samples) = own.unwrap();
        assert_eq!(resource.get("host.name"), Some("h"));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(resource.get("process.executable.path"), exe.to_str());
        let resident = samples.iter().find(|sample| sample.series.metric.name == "process.memory.usage").unwrap();
        let ollystack_record::Value::Int(bytes) = resident.value else { unreachable!() };
        assert!(bytes > 100_000, "{bytes}");
        assert!(samples.iter().any(|sample| sample.series.metric.name == "process.unix.file_descriptor.count"));
    }
}
