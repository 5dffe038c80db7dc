//! Signals of the kernel and the host in a real kernel, each against what the kernel itself says of the same: a kill for want
//! of memory in a control group, the requests of a block device, the waits of threads for a CPU, the CPU time of a program.
//!
//! Needs root; what else a host lacks (a memory controller, loop devices) is named, and only that is not tested.

#![allow(clippy::expect_used, reason = "the children tell by failing what went wrong")]

mod common;

use common::{same, text};
use libtest_mimic::{Arguments, Failed, Trial};
use ollystack_input_ebpf::{Config, Stats, availability, run};
use ollystack_record::otlp::common::v1::{AnyValue, any_value};
use ollystack_record::otlp::logs::v1::{LogRecord, SeverityNumber};
use ollystack_record::value::{int_attribute, string};
use ollystack_record::{Intake, Ledger, Received, Records, Resource, State, Value};
use ollystack_schema::names::{self, key, semconv};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Set in the child: what it does once it is let go.
const PLAY: &str = "OLLYSTACK_SIGNALS_PLAY";
const DEADLINE: Duration = Duration::from_secs(15);
/// A control group named like a container's.
const CONTAINER: &str = "01234567890123456789abcdefabcdef01234567890123456789abcdefabcdef";

const MEBIBYTE: usize = 1 << 20;
/// What the child that is killed may have, and wants.
const MEMORY: (usize, usize) = (32 * MEBIBYTE, 256 * MEBIBYTE);

const WRITES: u64 = 40;
const READS: u64 = 30;
const FLUSHES: u64 = 5;
const BLOCK: usize = 4_096;

fn main() -> ExitCode {
    match std::env::var(PLAY).as_deref() {
        Ok("eat") => return eat(),
        Ok("spin") => return spin(),
        Ok("burn") => return burn(),
        _ => {}
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the kernel programs were not tried: needs root");
        return ExitCode::SUCCESS;
    }
    let config = Config {
        process: false,
        tcp: false,
        requests: false,
        run_queue: true,
        profile: true,
        metrics_interval_ms: 1_000,
        ..Config::default()
    };
    let rows = availability(&config);
    let mut trials = Vec::new();
    for (feature, title, watch) in [
        ("ebpf.oom", "a_kill_for_want_of_memory_is_told_with_its_container", kill as fn(Config) -> Result<(), Failed>),
        ("ebpf.block_io", "the_requests_of_a_device_are_counted_as_the_kernel_counts_them", requests),
        ("ebpf.run_queue", "the_waits_of_threads_add_up_to_what_the_kernel_says", waits),
        ("ebpf.profile", "a_profile_has_the_function_that_took_the_time_and_all_of_the_time", profile),
    ] {
        match rows.iter().find(|row| row.name == feature && row.state != State::Off) {
            Some(_) => trials.push(Trial::test(title, {
                let config = config.clone();
                move || watch(config)
            })),
            None => println!("skipped: {feature}: {:?}", rows.iter().find(|row| row.name == feature)),
        }
    }
    trials.push(Trial::test("what_is_switched_off_is_told_and_what_nobody_asked_for_is_not", || {
        let rows = availability(&Config { oom: false, ..Config::default() });
        let row = rows.iter().find(|row| row.name == "ebpf.oom").ok_or("no row for ebpf.oom")?;
        same("row", (row.state, row.remedy.as_str()), (State::Off, "set ebpf.oom = true"))?;
        same("row of an option", rows.iter().any(|row| row.name == "ebpf.run_queue"), false)
    }));
    let mut arguments = Arguments::from_args();
    // One after the other: each looks at what the whole host does.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The running input.
struct Watch {
    receiver: mpsc::Receiver<Received>,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    input: tokio::task::JoinHandle<Result<(), ollystack_input_ebpf::Error>>,
    seen: Seen,
}

/// All that came.
#[derive(Default)]
struct Seen {
    events: Vec<(Arc<Resource>, LogRecord)>,
    kills: Vec<(Arc<Resource>, i64)>,
    /// Requests by device and direction.
    requests: BTreeMap<(String, String), u64>,
    /// Count and seconds of waits by container.
    waits: BTreeMap<String, (u64, f64)>,
}

impl Watch {
    async fn start(config: Config) -> Watch {
        let ledger = Arc::new(Ledger::default());
        let (intake, receiver) = Intake::new(1_024, 100_000, Arc::clone(&ledger));
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let host = Arc::new(Resource::new(vec![string(semconv::HOST_NAME, "here")]));
        let input = tokio::spawn(run(config, host, intake, stop.clone(), Arc::clone(&stats)));
        while stats.read().features.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Watch { receiver, ledger, stop, input, seen: Seen::default() }
    }

    /// Gather until `is_enough`.
    async fn until(&mut self, mut is_enough: impl FnMut(&Seen) -> bool) -> Result<(), Failed> {
        let gather = async {
            while !is_enough(&self.seen) {
                let Some(received) = self.receiver.recv().await else { return };
                self.seen.take(received, &self.ledger);
            }
        };
        tokio::time::timeout(DEADLINE, gather).await.map_err(|_| "what was awaited did not come".into())
    }

    /// Everything, to the end.
    async fn end(mut self) -> Result<Seen, Failed> {
        self.stop.cancel();
        self.input.await??;
        while let Some(received) = self.receiver.recv().await {
            self.seen.take(received, &self.ledger);
        }
        // What is lost of other programs when the machine is busy is no fault; what a test awaits has come.
        for reading in self.ledger.read().signals {
            same(reading.signal.name(), reading.waiting_total(), 0)?;
        }
        Ok(self.seen)
    }
}

impl Seen {
    fn take(&mut self, received: Received, ledger: &Ledger) {
        let batch = received.take(ledger);
        let resource = batch.resource;
        match batch.records {
            Records::Logs(scopes) => {
                let logs = scopes.into_iter().flat_map(|scope| scope.log_records);
                self.events.extend(logs.map(|log| (Arc::clone(&resource), log)));
            }
            Records::Metrics(samples) => {
                for sample in samples {
                    let attributes = sample.series.attributes();
                    match (sample.series.metric.name.as_str(), sample.value) {
                        (names::PROCESS_OOM_KILLS, Value::Int(kills)) => {
                            self.kills.push((Arc::clone(&resource), kills))
                        }
                        (names::DISK_OPERATION_DURATION, Value::ExponentialHistogram(point)) => {
                            let of = |key| text(attributes, key).unwrap_or_default().to_owned();
                            let series = (of(semconv::SYSTEM_DEVICE), of(semconv::DISK_IO_DIRECTION));
                            *self.requests.entry(series).or_default() += point.count;
                        }
                        (names::RUN_QUEUE_LATENCY, Value::ExponentialHistogram(point)) => {
                            let container = resource.get(semconv::CONTAINER_ID).unwrap_or_default().to_owned();
                            let (count, seconds) = self.waits.entry(container).or_default();
                            *count += point.count;
                            *seconds += point.sum.unwrap_or(0.0);
                        }
                        _ => {}
                    }
                }
            }
            Records::Traces(_) | Records::Requests(_) => {}
        }
    }
}

fn in_runtime(test: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

/// A control group, for as long as this lives.
struct Group(PathBuf);

impl Group {
    /// By the controller of that name; `None` if the host has none that a group can be made by.
    fn new(controller: &str) -> Option<Group> {
        let root = Path::new("/sys/fs/cgroup");
        let two = fs::read_to_string(root.join("cgroup.controllers")).ok();
        let parent = match &two {
            Some(controllers) if controllers.split_whitespace().any(|word| word == controller) => {
                // It may be on already.
                let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
                root.to_owned()
            }
            Some(_) => return None,
            None => root.join(controller),
        };
        let folder = parent.join(CONTAINER);
        fs::create_dir(&folder).ok()?;
        Some(Group(folder))
    }

    /// The first of the files that there is.
    fn set(&self, files: &[&str], value: &str) -> Result<(), Failed> {
        let file = files.iter().map(|file| self.0.join(file)).find(|file| file.exists());
        Ok(fs::write(file.ok_or_else(|| format!("{}: none of {files:?}", self.0.display()))?, value)?)
    }

    /// This program again, in the group. It waits to be let go.
    fn child(&self, part: &str) -> Result<Child, Failed> {
        let mut command = Command::new(std::env::current_exe()?);
        let child = command.env(PLAY, part).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        self.set(&["cgroup.procs"], &child.id().to_string())?;
        Ok(child)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails while the child is in it: then it was not waited for, and the test has failed.
        let _ = fs::remove_dir(&self.0);
    }
}

fn kill(config: Config) -> Result<(), Failed> {
    let Some(group) = Group::new("memory") else {
        println!("skipped: kills for want of memory: no memory controller by which a control group can be made");
        return Ok(());
    };
    group.set(&["memory.max", "memory.limit_in_bytes"], &MEMORY.0.to_string())?;
    // Without swap it dies; where nothing can be swapped there is nothing to say.
    let _ = group.set(
        &["memory.swap.max", "memory.memsw.limit_in_bytes"],
        if group.0.join("memory.max").exists() { "0".into() } else { MEMORY.0.to_string() }.as_str(),
    );
    in_runtime(async {
        let mut watch = Watch::start(config).await;
        let mut child = group.child("eat")?;
        let pid = i64::from(child.id());
        drop(child.stdin.take());
        let status = child.wait()?;
        same("signal", status.signal(), Some(9))?;
        let is_it = |log: &LogRecord| {
            log.event_name == names::EVENT_PROCESS_OOM_KILL
                && int_attribute(&log.attributes, semconv::PROCESS_PID) == Some(pid)
        };
        watch.until(|seen| seen.events.iter().any(|(_, log)| is_it(log))).await?;
        let seen = watch.end().await?;
        let told: Vec<_> = seen.events.iter().filter(|(_, log)| is_it(log)).collect();
        let [(victim, log)] = &told[..] else { return Err(format!("told {} times", told.len()).into()) };
        same("severity", log.severity_number, SeverityNumber::Error as i32)?;
        same("container", victim.get(semconv::CONTAINER_ID), Some(CONTAINER))?;
        same("group", victim.get(semconv::PROCESS_LINUX_CGROUP), Some(format!("/{CONTAINER}").as_str()))?;
        let name = text(&log.attributes, semconv::PROCESS_EXECUTABLE_NAME).unwrap_or_default();
        // The kernel keeps the beginning of a name.
        let own =
            std::env::current_exe()?.file_name().map(|own| own.to_string_lossy().into_owned()).unwrap_or_default();
        same("name", (name, victim.service_name()), (own.get(..15).unwrap_or(&own), name))?;
        let resident = int_attribute(&log.attributes, key::PROCESS_RESIDENT_BYTES).unwrap_or(0);
        // Its share of the program's file is no memory of the group.
        let bounds = (MEMORY.0 / 2) as i64..=(MEMORY.0 * 2) as i64;
        same(&format!("resident {resident}"), bounds.contains(&resident), true)?;
        let kills: i64 = seen.kills.iter().filter(|(of, _)| of == victim).map(|(_, kills)| kills).sum();
        same("kills", kills, 1)
    })
}

/// In the child: wants more than it may have.
fn eat() -> ExitCode {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let mut all = Vec::new();
    for _ in 0..MEMORY.1 / MEBIBYTE {
        all.push(vec![1u8; MEBIBYTE]);
    }
    // It never comes here.
    ExitCode::from(u8::try_from(all.len() % 7).unwrap_or(1))
}

/// A block device over a file, for as long as this lives.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Option<Loop> {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let device = String::from_utf8(output.stdout).ok()?;
        (!device.trim().is_empty()).then(|| Loop(PathBuf::from(device.trim())))
    }

    fn name(&self) -> String {
        self.0.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Fails if somebody has it open: it is given back when the machine ends.
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Reads, writes, discards and flushes of a device, as the kernel counts them.
fn diskstats(device: &str) -> Result<[u64; 4], Failed> {
    let text = fs::read_to_string("/proc/diskstats")?;
    let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(device)).ok_or("no such device")?;
    let field = |at: usize| line.split_whitespace().nth(at).and_then(|field| field.parse().ok()).unwrap_or(0);
    Ok([field(3), field(7), field(14), field(18)])
}

fn requests(config: Config) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("disk");
    File::create(&path)?.set_len(16 * MEBIBYTE as u64)?;
    let Some(device) = Loop::over(&path) else {
        println!("skipped: requests to a block device: no loop device can be had");
        return Ok(());
    };
    in_runtime(async {
        let mut watch = Watch::start(config).await;
        let before = diskstats(&device.name())?;
        use_device(&device.0)?;
        let name = device.name();
        let counted = |seen: &Seen| {
            ["read", "write", "discard", "flush"]
                .map(|direction| seen.requests.get(&(name.clone(), direction.to_owned())).copied().unwrap_or(0))
        };
        // The host may look at a device that is new: whatever it does, both count it.
        let grown = || diskstats(&name).map(|now| [0, 1, 2, 3].map(|at| now[at] - before[at])).unwrap_or_default();
        let complete = watch.until(|seen| counted(seen) == grown()).await;
        let seen = watch.end().await?;
        same("reads, writes, discards, flushes", counted(&seen), grown())?;
        complete?;
        let [reads, writes, _, flushes] = counted(&seen);
        same("at least", reads >= READS && writes >= WRITES && flushes >= FLUSHES, true)
    })
}

/// Writes, reads and flushes past the page cache.
fn use_device(device: &Path) -> Result<(), Failed> {
    let [direct, flushed] = [rustix::fs::OFlags::DIRECT, rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC]
        .map(|flags| OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(device));
    let (file, flushed) = (direct?, flushed?);
    let mut room = vec![0u8; 2 * BLOCK];
    // Such requests want memory at an even address.
    let at = room.as_ptr().align_offset(BLOCK);
    let block = &mut room[at..at + BLOCK];
    for number in 0..WRITES {
        file.write_all_at(block, number * BLOCK as u64)?;
    }
    for number in 0..READS {
        file.read_exact_at(block, number * BLOCK as u64)?;
    }
    for number in 0..FLUSHES {
        // Alone, and as the end of a write, which then goes in two steps.
        file.sync_all()?;
        flushed.write_all_at(block, number * BLOCK as u64)?;
    }
    Ok(())
}

fn waits(config: Config) -> Result<(), Failed> {
    let Some(group) = Group::new("cpu") else {
        println!("skipped: waits for a CPU: no CPU controller by which a control group can be made");
        return Ok(());
    };
    in_runtime(async {
        let mut watch = Watch::start(config).await;
        let mut child = group.child("spin")?;
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        let told = String::from_utf8(output.stdout)?;
        let mut told = told.split_whitespace().map(str::parse::<f64>);
        let mut next = || -> Result<f64, Failed> { Ok(told.next().ok_or("the child told too little")??) };
        let (count, seconds) = (next()?, next()? / 1e9);
        watch.until(|seen| seen.waits.get(CONTAINER).is_some_and(|(found, _)| *found as f64 >= count)).await?;
        let seen = watch.end().await?;
        let (found, found_seconds) = seen.waits[CONTAINER];
        // The child has a few waits before and after those that it tells of.
        same(&format!("{found} waits, the kernel has {count}"), (found as f64) < count + 30.0, true)?;
        let share = found_seconds / seconds;
        same(&format!("{share} of the time that the kernel has"), (0.9..1.1).contains(&share), true)
    })
}

/// In the child: threads that share one CPU, and what the kernel says how often and how long they waited for it.
fn spin() -> ExitCode {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    let thread = move || {
        rustix::thread::sched_setaffinity(None, &one).expect("one CPU");
        // At first a wait that was seen to begin before the thread was in the group or on that CPU.
        let before = waited();
        for _ in 0..20 {
            let work: u64 = (0..4_000_000u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
            std::hint::black_box(work);
            std::thread::yield_now();
        }
        let after = waited();
        [after[0] - before[0], after[1] - before[1]]
    };
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(thread)).collect();
    let all = threads.into_iter().map(|thread| thread.join().expect("it ran"));
    let [nanoseconds, count] = all.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
    print!("{count} {nanoseconds}");
    let _ = std::io::stdout().flush();
    ExitCode::SUCCESS
}

/// Nanoseconds that this thread waited for a CPU, and how often it got one.
fn waited() -> [u64; 2] {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    let mut fields = text.split_whitespace().skip(1).map(|field| field.parse().expect("a number"));
    [fields.next().expect("waited"), fields.next().expect("times")]
}

fn profile(config: Config) -> Result<(), Failed> {
    in_runtime(async {
        let watch = Watch::start(config).await;
        let mut child = Command::new(std::env::current_exe()?);
        child.env(PLAY, "burn").env("OTEL_SERVICE_NAME", "burner");
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut told = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        told.read_line(&mut line)?;
        // It is still there when its maps are read.
        let seen = watch.end().await;
        drop(child.stdin.take());
        child.wait()?;
        let seen = seen?;
        let profiles = seen
            .events
            .iter()
            .filter(|(of, log)| of.service_name() == "burner" && log.event_name == names::EVENT_PROFILE_CPU);
        let [(_, log)] = &profiles.collect::<Vec<_>>()[..] else { return Err("not one profile".into()) };
        let ticks = int_attribute(&log.attributes, key::PROFILE_TICKS).unwrap_or(0) as f64;
        let rate = int_attribute(&log.attributes, key::PROFILE_TICKS_PER_SECOND).unwrap_or(0) as f64;
        let share = ticks / rate / line.trim().parse::<f64>()?;
        same(&format!("{share} of its CPU time"), (0.8..1.2).contains(&share), true)?;
        let Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }) = &log.body else {
            return Err("no body".into());
        };
        let of = |line: &str| line.rsplit_once(' ').and_then(|(_, ticks)| ticks.parse::<f64>().ok()).unwrap_or(0.0);
        let all: f64 = body.lines().map(of).sum();
        let burnt: f64 = body.lines().filter(|line| line.contains("burn_a_processor")).map(of).sum();
        same("ticks in the body", all, ticks)?;
        same(&format!("{burnt} of {ticks} in it:\n{body}"), burnt > 0.8 * ticks, true)
    })
}

/// In the child: takes CPU time in one function, tells how much it took, and goes on until it is let go.
fn burn() -> ExitCode {
    let waits = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut sum = 0;
    while taken() < 3.0 {
        sum ^= burn_a_processor(1_000_000);
    }
    println!("{}", taken());
    let _ = waits.join();
    ExitCode::from(u8::from(sum == 1))
}

#[inline(never)]
fn burn_a_processor(times: u64) -> u64 {
    // Nothing that is a function of its own in a build without optimisation.
    let (mut state, mut left) = (times, times);
    while left > 0 {
        state = (state * 7 + left) % 1_000_003;
        left -= 1;
    }
    state
}

/// Seconds of CPU time of this program.
fn taken() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
