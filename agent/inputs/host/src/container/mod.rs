//! `container.*` of containers, pods and systemd services, each a resource of its own, from control groups v1 and v2.
//!
//! Services are measured with the same metrics: they are told by `service.name` and have no `container.id`. Invariant: a group
//! that ends while it is read gives what could be read of it, and an error only when there are no groups at all.

mod files;
mod find;

use crate::read::read_once;
use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, Groups, Samples, amount, counter, gauge};
use files::Usage;
use find::Found;
use hashbrown::HashMap;
use ollystack_record::{Resource, Series, service_name, value};
use ollystack_schema::names::semconv;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const CPU_TIME: Definition = counter("container.cpu.time", "s", "CPU seconds by mode");
const CPU_USAGE: Definition = gauge("container.cpu.usage", "{cpu}", "CPUs in use since the last reading");
const MEMORY: Definition = amount("container.memory.usage", "By", "Memory in use, file cache included");
const WORKING_SET: Definition = amount("container.memory.working_set", "By", "Memory in use without idle file cache");
const RSS: Definition = amount("container.memory.rss", "By", "Anonymous memory");
const AVAILABLE: Definition = amount("container.memory.available", "By", "Limit minus working set");
const FAULTS: Definition = counter("container.paging.faults", "{fault}", "Page faults by type");
const DISK_IO: Definition = counter("container.disk.io", "By", "Bytes read from and written to disks");

const DEVICES_MAX: usize = 256;

pub(crate) struct Containers {
    hierarchies: Option<Hierarchies>,
    devices: PathBuf,
    services: bool,
    max: usize,
    ticks_per_second: f64,
    known: HashMap<Found, Known>,
    series: AllSeries,
    disks: Groups<2>,
}

/// Where the groups are.
#[derive(Debug, PartialEq)]
enum Hierarchies {
    /// All in one.
    Two(PathBuf),
    /// One a controller; any may be missing.
    One { cpu: Option<PathBuf>, memory: Option<PathBuf>, disk: Option<PathBuf> },
}

struct Known {
    resource: Arc<Resource>,
    cpu: Option<f64>,
    at: Instant,
}

struct AllSeries {
    cpu_time: [Arc<Series>; 2],
    cpu_usage: Arc<Series>,
    memory: Arc<Series>,
    working_set: Arc<Series>,
    rss: Arc<Series>,
    available: Arc<Series>,
    faults: [Arc<Series>; 2],
}

impl Hierarchies {
    /// A hybrid system (v1 controllers beside an empty v2 tree) counts as v1: that is where the numbers are.
    fn detect(sys: &Path) -> Option<Hierarchies> {
        let root = sys.join("fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            return Some(Hierarchies::Two(root));
        }
        let controller = |names: &[&str]| names.iter().map(|name| root.join(name)).find(|path| path.is_dir());
        let cpu = controller(&["cpuacct", "cpu,cpuacct", "cpuacct,cpu"]);
        let (memory, disk) = (controller(&["memory"]), controller(&["blkio"]));
        (cpu.is_some() || memory.is_some()).then_some(Hierarchies::One { cpu, memory, disk })
    }

    /// The tree that is searched.
    fn tree(&self) -> Option<&Path> {
        match self {
            Hierarchies::Two(root) => Some(root),
            Hierarchies::One { cpu, memory, .. } => cpu.as_deref().or(memory.as_deref()),
        }
    }

    fn read(&self, group: &str, ticks_per_second: f64, buffer: &mut Vec<u8>) -> Usage {
        let group = group.trim_start_matches('/');
        let mut usage = Usage::default();
        match self {
            Hierarchies::Two(root) => {
                let folder = root.join(group);
                usage.cpu = text(&folder, "cpu.stat", buffer).and_then(files::cpu_v2);
                usage.memory = text(&folder, "memory.current", buffer).and_then(files::limit);
                usage.memory_limit = text(&folder, "memory.max", buffer).and_then(files::limit);
                usage.detail = text(&folder, "memory.stat", buffer).and_then(files::memory_detail);
                usage.io = text(&folder, "io.stat", buffer).map(files::io_v2).unwrap_or_default();
            }
            Hierarchies::One { cpu, memory, disk } => {
                if let Some(folder) = cpu.as_ref().map(|root| root.join(group)) {
                    let all = text(&folder, "cpuacct.usage", buffer).map(<[u8]>::to_vec);
                    let modes = text(&folder, "cpuacct.stat", buffer);
                    usage.cpu = all.zip(modes).and_then(|(all, modes)| files::cpu_v1(&all, modes, ticks_per_second));
                }
                if let Some(folder) = memory.as_ref().map(|root| root.join(group)) {
                    usage.memory = text(&folder, "memory.usage_in_bytes", buffer).and_then(files::limit);
                    usage.memory_limit = text(&folder, "memory.limit_in_bytes", buffer).and_then(files::limit);
                    usage.detail = text(&folder, "memory.stat", buffer).and_then(files::memory_detail);
                }
                if let Some(folder) = disk.as_ref().map(|root| root.join(group)) {
                    let bytes = text(&folder, "blkio.throttle.io_service_bytes_recursive", buffer);
                    usage.io = bytes.map(files::io_v1).unwrap_or_default();
                }
            }
        }
        usage
    }
}

/// A file of a group; `None` if it is not there or the group is gone.
fn text<'a>(folder: &Path, file: &str, buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    read_once(&folder.join(file), buffer).ok()?;
    Some(buffer)
}

impl Containers {
    pub(crate) fn new(roots: &Roots, catalog: &mut Catalog, config: &crate::Config) -> Containers {
        let mode = |mode: &str| vec![value::string(semconv::CPU_MODE, mode)];
        let kind = |kind: &str| vec![value::string(semconv::SYSTEM_PAGING_FAULT_TYPE, kind)];
        Containers {
            hierarchies: Hierarchies::detect(&roots.sys),
            devices: roots.sys.join("dev/block"),
            services: config.systemd_services,
            max: config.containers_max,
            ticks_per_second: procfs::ticks_per_second() as f64,
            known: HashMap::new(),
            series: AllSeries {
                cpu_time: ["user", "system"].map(|name| catalog.series(&CPU_TIME, mode(name))),
                cpu_usage: catalog.series(&CPU_USAGE, vec![]),
                memory: catalog.series(&MEMORY, vec![]),
                working_set: catalog.series(&WORKING_SET, vec![]),
                rss: catalog.series(&RSS, vec![]),
                available: catalog.series(&AVAILABLE, vec![]),
                faults: ["minor", "major"].map(|name| catalog.series(&FAULTS, kind(name))),
            },
            disks: Groups::new(DEVICES_MAX),
        }
    }

    fn project(&mut self, usage: &Usage, cpus_used: Option<f64>, samples: &mut Samples, catalog: &mut Catalog) {
        let series = &self.series;
        if let Some(cpu) = usage.cpu {
            samples.double(&series.cpu_time[0], cpu.user);
            samples.double(&series.cpu_time[1], cpu.system);
        }
        if let Some(cpus) = cpus_used {
            samples.quotient(&series.cpu_usage, cpus);
        }
        if let Some(memory) = usage.memory {
            samples.int(&series.memory, memory);
            let working_set = memory.saturating_sub(usage.detail.map_or(0, |detail| detail.inactive_file));
            samples.int(&series.working_set, working_set);
            if let Some(limit) = usage.memory_limit {
                samples.int(&series.available, limit.saturating_sub(working_set));
            }
        }
        if let Some(detail) = usage.detail {
            samples.int(&series.rss, detail.anonymous);
            samples.int(&series.faults[0], detail.faults.saturating_sub(detail.major_faults));
            samples.int(&series.faults[1], detail.major_faults);
        }
        for (device, read, written) in &usage.io {
            let make = || {
                let device = value::string(semconv::SYSTEM_DEVICE, device_name(&self.devices, device));
                let direction = |name: &str| vec![device.clone(), value::string(semconv::DISK_IO_DIRECTION, name)];
                ["read", "write"].map(|name| catalog.series(&DISK_IO, direction(name)))
            };
            if let Some(series) = self.disks.get(device.as_bytes(), make) {
                samples.int(&series[0], *read);
                samples.int(&series[1], *written);
            }
        }
    }
}

/// `254:0` is vda, as /sys/dev/block has it; a number without a name stays one.
fn device_name(devices: &Path, number: &str) -> String {
    let link = std::fs::read_link(devices.join(number)).ok();
    let name = link.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| number.to_owned())
}

/// Whose samples they are. The path goes with them, as a service's name need not be its unit's for ever.
fn resource(found: &Found, host: &Resource) -> Resource {
    let mut attributes = host.attributes().to_vec();
    attributes.push(value::string(semconv::PROCESS_LINUX_CGROUP, found.path.as_str()));
    match &found.container {
        Some(id) => {
            attributes.push(value::string(semconv::CONTAINER_ID, id.as_str()));
            attributes.extend(service_name::pod_uid(&found.path).map(|uid| value::string(semconv::K8S_POD_UID, uid)));
            attributes.extend(runtime(&found.path).map(|name| value::string(semconv::CONTAINER_RUNTIME_NAME, name)));
        }
        None => {
            let cgroup = format!("0::{}", found.path);
            let process = service_name::Process { cgroup: &cgroup, ..service_name::Process::default() };
            attributes.push(value::string(semconv::SERVICE_NAME, service_name::service_name(process)));
        }
    }
    Resource::new(attributes)
}

/// The runtime, where it puts its name into the group's.
fn runtime(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next()?;
    [("docker-", "docker"), ("cri-containerd", "containerd"), ("crio-", "cri-o"), ("libpod-", "podman")]
        .into_iter()
        .find_map(|(prefix, runtime)| name.contains(prefix).then_some(runtime))
        .or_else(|| path.starts_with("/docker/").then_some("docker"))
}

impl Scraper for Containers {
    fn name(&self) -> &'static str {
        "container"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        let missing = || ScrapeError::Stuck(format!("no control groups below {}", context.roots.sys.display()));
        // Taken out for the time of the reading, as its paths are borrowed while series are made.
        let hierarchies = self.hierarchies.take().ok_or_else(missing)?;
        let found = hierarchies.tree().map(|tree| (find::find(tree, self.services, self.max), tree.to_owned()));
        let now = Instant::now();
        let result = match found {
            Some((Ok(groups), _)) => {
                for group in groups {
                    let usage = hierarchies.read(&group.path, self.ticks_per_second, context.buffer);
                    let all = usage.cpu.map(|cpu| cpu.all);
                    let known = self.known.get(&group);
                    let cpus_used = known.and_then(|known| {
                        let elapsed = now.saturating_duration_since(known.at).as_secs_f64();
                        (elapsed > 0.0).then_some((all? - known.cpu?).max(0.0) / elapsed)
                    });
                    let make = || Arc::new(resource(&group, context.host));
                    let resource = known.map_or_else(make, |known| Arc::clone(&known.resource));
                    let mut samples = Samples { time: context.samples.time, ..Samples::default() };
                    self.project(&usage, cpus_used, &mut samples, context.catalog);
                    self.known.insert(group, Known { resource: Arc::clone(&resource), cpu: all, at: now });
                    context.parts.push((resource, samples.taken));
                }
                self.known.retain(|_, known| known.at == now);
                self.disks.sweep();
                Ok(())
            }
            Some((Err(source), tree)) => Err(ScrapeError::read(&tree, source)),
            None => Ok(()),
        };
        self.hierarchies = Some(hierarchies);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::Value;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join("sys/fs/cgroup").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    /// Metric name and value of the one group in the tree, sorted.
    fn scrape(folder: &tempfile::TempDir) -> (Arc<Resource>, Vec<(String, f64)>) {
        let (roots, mut catalog) = (Roots::new(folder.path()), Catalog::new());
        let mut containers = Containers::new(&roots, &mut catalog, &crate::Config::default());
        let (mut buffer, mut samples, mut parts) = (Vec::new(), Samples::default(), Vec::new());
        let mut context = Context {
            roots: &roots,
            buffer: &mut buffer,
            catalog: &mut catalog,
            host: &Resource::default(),
            samples: &mut samples,
            parts: &mut parts,
        };
        containers.scrape(&mut context).unwrap();
        assert_eq!(parts.len(), 1);
        let (resource, samples) = parts.remove(0);
        let number = |value: Value| match value {
            Value::Int(number) => number as f64,
            Value::Double(number) => number,
            _ => unreachable!(),
        };
        let mut found: Vec<_> =
            samples.into_iter().map(|sample| (sample.series.metric.name.clone(), number(sample.value))).collect();
        found.sort_by(|a, b| a.partial_cmp(b).unwrap());
        (resource, found)
    }

    #[test]
    fn a_container_reads_alike_in_both_versions() {
        let docker = format!("docker/{ID}");
        let two = format!("system.slice/docker-{ID}.scope");
        let one = tree(&[
            (&format!("cpu,cpuacct/{docker}/cpuacct.usage"), "3000000000\n"),
            (&format!("cpu,cpuacct/{docker}/cpuacct.stat"), "user 200\nsystem 100\n"),
            (&format!("memory/{docker}/memory.usage_in_bytes"), "1000\n"),
            (&format!("memory/{docker}/memory.limit_in_bytes"), "5000\n"),
            (
                &format!("memory/{docker}/memory.stat"),
                "total_rss 300\ntotal_inactive_file 100\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
            ),
            (
                &format!("blkio/{docker}/blkio.throttle.io_service_bytes_recursive"),
                "254:0 Read 1\n254:0 Write 2\nTotal 3\n",
            ),
        ]);
        let two = tree(&[
            ("cgroup.controllers", "cpu io memory\n"),
            (&format!("{two}/cpu.stat"), "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\n"),
            (&format!("{two}/memory.current"), "1000\n"),
            (&format!("{two}/memory.max"), "5000\n"),
            (&format!("{two}/memory.stat"), "anon 300\ninactive_file 100\npgfault 7\npgmajfault 2\n"),
            (&format!("{two}/io.stat"), "254:0 rbytes=1 wbytes=2 rios=1 wios=1\n"),
        ]);
        let (resource, samples) = scrape(&two);
        assert_eq!(resource.get("container.id"), Some(ID));
        assert_eq!(resource.get("container.runtime.name"), Some("docker"));
        let names = |name: &str| -> Vec<f64> {
            samples.iter().filter(|(found, _)| found == name).map(|(_, value)| *value).collect()
        };
        assert_eq!(names("container.cpu.time"), [1.0, 2.0]);
        assert_eq!(names("container.memory.working_set"), [900.0]);
        assert_eq!(names("container.memory.available"), [4100.0]);
        assert_eq!(names("container.disk.io"), [1.0, 2.0]);
        let (resource, samples_one) = scrape(&one);
        assert_eq!(resource.get("container.id"), Some(ID));
        assert_eq!(samples_one, samples);
    }

    #[test]
    fn a_service_is_told_by_its_name() {
        let tree = tree(&[
            ("cgroup.controllers", ""),
            ("system.slice/nginx.service/memory.current", "10\n"),
            ("system.slice/nginx.service/memory.max", "max\n"),
        ]);
        let (resource, samples) = scrape(&tree);
        assert_eq!(resource.service_name(), "nginx");
        assert_eq!(resource.get("container.id"), None);
        let expected = [("container.memory.usage", 10.0), ("container.memory.working_set", 10.0)];
        assert_eq!(samples, expected.map(|(name, value)| (name.to_owned(), value)));
    }
}
