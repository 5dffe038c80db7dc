//! CPU profiles: what ran when the clocks of the CPUs ticked, as folded stacks, one log event a service and window.
//!
//! In: stacks and counts in two maps of the kernel, emptied every second. Out: a record whose body has a line a stack,
//! outermost function first, with its ticks, as flame graphs take them. It runs in a task of its own, as tables of symbols
//! take their time. Invariant: at most [`FRAMES_MAX`] frames are held; a tick beyond, or one whose stack the kernel could not
//! keep, still counts for its service. Ticks in the moment a count is taken out of the map are lost.

mod mappings;
mod symbols;

use crate::host::{epoch_offset_ns, monotonic_ns};
use crate::losses::Losses;
use crate::processes::{Processes, text};
use crate::refusal::Refusal;
use crate::scope;
use aya::Ebpf;
use aya::maps::{HashMap as KernelMap, MapData, StackTraceMap};
use hashbrown::{HashMap, HashSet};
use mappings::{Files, Mappings, Place};
use ollystack_ebpf::COMMAND_BYTES;
use ollystack_ebpf::profile::{Key, NO_STACK, TICKS_PER_SECOND};
use ollystack_record::otlp::common::v1::{AnyValue, any_value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs, SeverityNumber};
use ollystack_record::value::int;
use ollystack_record::{Ack, Batch, Intake, Records, Resource, Source};
use ollystack_schema::names::{self, key};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use symbols::Symbols;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

/// Between two readings of the kernel's maps: the more often, the fewer stacks find their place in the kernel's map taken.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Readings of a window.
const READINGS: u32 = 60;
/// Readings for which what a process runs is believed, and processes of which it is remembered.
const FRESH: u32 = 10;
const PROCESSES_MAX: usize = 128;
/// Frames held in a window: 1.5 MB.
const FRAMES_MAX: usize = 64 * 1024;
/// Of a record; what does not fit is told as one line.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A function, as far as it is known before it has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Frame {
    Program(Place),
    Kernel(u64),
    /// In no file: made by a just-in-time compiler, or its process is gone.
    Unknown,
    /// The kernel had no room for the stack, or the agent none for its frames.
    Lost,
}

/// The addresses of stacks by their numbers, innermost first.
type Addresses = HashMap<u32, Vec<u64>>;

/// What is counted.
#[derive(PartialEq, Eq, Hash)]
struct Stack {
    command: [u8; COMMAND_BYTES],
    /// Outermost first.
    frames: Vec<Frame>,
}

/// The ticks of a window.
#[derive(Default)]
struct Window {
    services: HashMap<Arc<Resource>, HashMap<Stack, u64>>,
    files: Files,
    frames: usize,
    began_ns: u64,
}

/// What the kernel counts, and what was made of it.
pub(crate) struct Profile {
    stacks: StackTraceMap<MapData>,
    samples: KernelMap<MapData, Key, u64>,
    losses: Losses,
    window: Window,
    /// What processes run, by number and command.
    mapped: HashMap<(u32, [u8; COMMAND_BYTES]), Mappings>,
    symbols: Symbols,
    /// Dropping them detaches.
    _programs: Ebpf,
}

impl Profile {
    /// `now_ns` is time since the epoch.
    pub(crate) fn new(mut programs: Ebpf, now_ns: u64) -> Result<Profile, Refusal> {
        let mut map = |name| programs.take_map(name).ok_or_else(|| Refusal::damaged(name));
        Ok(Profile {
            stacks: StackTraceMap::try_from(map("STACKS")?)?,
            samples: KernelMap::try_from(map("SAMPLES")?)?,
            losses: Losses::new(map("LOSSES")?)?,
            window: Window { began_ns: now_ns, ..Window::default() },
            mapped: HashMap::new(),
            symbols: Symbols::default(),
            _programs: programs,
        })
    }

    /// Take what was counted out of the kernel.
    fn read(&mut self, processes: &mut Processes) {
        let now_ns = monotonic_ns();
        let (samples, stacks) = self.take_out();
        for (key, ticks) in samples {
            let [process, words @ .., in_program, in_kernel] = key;
            let mut command = [0; COMMAND_BYTES];
            for (bytes, word) in command.chunks_exact_mut(4).zip(words) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            let who = processes.who(process, &command, now_ns);
            if self.mapped.len() >= PROCESSES_MAX {
                self.mapped.clear();
            }
            let mapped = self.mapped.entry((process, command));
            let mapped = mapped.or_insert_with(|| Mappings::of_process(Path::new(&format!("/proc/{process}"))));
            let files = &mut self.window.files;
            let in_file = |address| mapped.place(address, files).map_or(Frame::Unknown, Frame::Program);
            let mut frames = frames(&stacks, in_program, in_file);
            frames.extend(self::frames(&stacks, in_kernel, Frame::Kernel));
            self.window.count(who.service, Stack { command, frames }, ticks);
        }
        let lost: u64 = self.losses.read().iter().sum();
        if lost > 0 {
            let stack = Stack { command: [0; COMMAND_BYTES], frames: vec![Frame::Lost] };
            self.window.count(Arc::clone(processes.host()), stack, lost);
        }
    }

    /// Counts, and the addresses of their stacks, innermost first. Nothing else is done meanwhile: a stack that is found again
    /// in that time has a count that goes on to the next reading, and stays for it.
    fn take_out(&mut self) -> (Vec<(Key, u64)>, Addresses) {
        let (mut samples, mut stacks) = (Vec::new(), HashMap::new());
        for key in self.samples.keys().flatten().collect::<Vec<Key>>() {
            let Ok(ticks) = self.samples.get(&key, 0) else { continue };
            let _ = self.samples.remove(&key);
            samples.push((key, ticks));
            for number in stacks_of(&key) {
                if let Ok(stack) = self.stacks.get(&number, 0) {
                    stacks.entry(number).or_insert_with(|| stack.frames().iter().map(|frame| frame.ip).collect());
                }
            }
        }
        let again: HashSet<u32> = self.samples.keys().flatten().flat_map(|key| stacks_of(&key)).collect();
        for number in stacks.keys().filter(|number| !again.contains(*number)) {
            let _ = self.stacks.remove(number);
        }
        (samples, stacks)
    }

    /// End the window. `now_ns` is time since the epoch.
    fn tell(&mut self, now_ns: u64, intake: &Intake) {
        let ended = std::mem::replace(&mut self.window, Window { began_ns: now_ns, ..Window::default() });
        for (service, log) in ended.tell(now_ns, &mut self.symbols) {
            let scope =
                ScopeLogs { scope: Some(scope().proto.clone()), log_records: vec![log], ..ScopeLogs::default() };
            let records = Records::Logs(vec![scope]);
            intake.offer(Batch { source: Source::Ebpf, resource: service, records, ack: Ack::none() });
        }
    }
}

/// The numbers of a sample's two stacks.
fn stacks_of(key: &Key) -> [u32; 2] {
    let [.., in_program, in_kernel] = *key;
    [in_program, in_kernel]
}

/// The frames of a stack, outermost first.
fn frames(stacks: &Addresses, number: u32, name: impl FnMut(u64) -> Frame) -> Vec<Frame> {
    match stacks.get(&number) {
        Some(addresses) => addresses.iter().rev().copied().map(name).collect(),
        None if number == NO_STACK => Vec::new(),
        None => vec![Frame::Lost],
    }
}

/// Read every second and tell every window, until `stop`.
pub(crate) async fn follow(mut profile: Profile, mut processes: Processes, intake: Intake, stop: CancellationToken) {
    let mut reading = interval_at(Instant::now() + READ_EVERY, READ_EVERY);
    reading.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            _ = reading.tick() => false,
        };
        let intake = intake.clone();
        let done = tokio::task::spawn_blocking(move || {
            profile.read(&mut processes);
            if number % FRESH == 0 {
                profile.mapped.clear();
            }
            if is_last || number % READINGS == 0 {
                profile.tell(monotonic_ns() + epoch_offset_ns(), &intake);
            }
            (profile, processes)
        });
        match done.await {
            Ok(back) if !is_last => (profile, processes) = back,
            _ => return,
        }
    }
}

impl Window {
    fn count(&mut self, service: Arc<Resource>, mut stack: Stack, ticks: u64) {
        let stacks = self.services.entry(service).or_default();
        let is_known = stacks.contains_key(&stack);
        if !is_known && self.frames + stack.frames.len() > FRAMES_MAX {
            stack = Stack { command: [0; COMMAND_BYTES], frames: vec![Frame::Lost] };
        } else if !is_known {
            self.frames += stack.frames.len();
        }
        *stacks.entry(stack).or_default() += ticks;
    }

    /// A record a service.
    fn tell(self, now_ns: u64, symbols: &mut Symbols) -> Vec<(Arc<Resource>, LogRecord)> {
        let names = self.names(symbols);
        let record = |(service, stacks): (Arc<Resource>, HashMap<Stack, u64>)| {
            let ticks = stacks.values().sum();
            let mut lines: HashMap<String, u64> = HashMap::new();
            for (stack, ticks) in stacks {
                *lines.entry(folded(&stack, &names)).or_default() += ticks;
            }
            (service, log(lines, ticks, self.began_ns, now_ns))
        };
        self.services.into_iter().map(record).collect()
    }

    /// The name of each frame, asked for together.
    fn names(&self, symbols: &mut Symbols) -> HashMap<Frame, Arc<str>> {
        let (mut in_files, mut in_kernel): (HashMap<u16, Vec<u64>>, Vec<u64>) = Default::default();
        let frames: HashSet<Frame> =
            self.services.values().flat_map(HashMap::keys).flat_map(|stack| stack.frames.iter().copied()).collect();
        for frame in frames {
            match frame {
                Frame::Program(Place { file, offset }) => in_files.entry(file).or_default().push(offset),
                Frame::Kernel(address) => in_kernel.push(address),
                Frame::Unknown | Frame::Lost => {}
            }
        }
        let mut names: HashMap<Frame, Arc<str>> =
            HashMap::from([(Frame::Unknown, "[unknown]".into()), (Frame::Lost, "[lost]".into())]);
        for (number, offsets) in in_files {
            let Some((file, name)) = self.files.get(number) else { continue };
            let (found, nameless) = (symbols.of_file(file, &offsets), Arc::from(format!("[{name}]")));
            names.extend(offsets.into_iter().map(|offset| {
                let name = found.get(&offset).unwrap_or(&nameless);
                (Frame::Program(Place { file: number, offset }), Arc::clone(name))
            }));
        }
        let found = symbols.of_kernel(&in_kernel);
        names.extend(in_kernel.into_iter().map(|address| {
            // As the tools that draw flame graphs mark the kernel's.
            let name = found.get(&address).map_or("[kernel]".into(), |name| format!("{name}_[k]"));
            (Frame::Kernel(address), name.into())
        }));
        names
    }
}

/// `command;outermost;...;innermost`.
fn folded(stack: &Stack, names: &HashMap<Frame, Arc<str>>) -> String {
    let mut line = text(&stack.command);
    for frame in &stack.frames {
        line.push(';');
        line.push_str(names.get(frame).map_or("[unknown]", |name| name));
    }
    // What ends a frame and a stack is in no name.
    line.replace('\n', " ")
}

/// The stacks by their ticks, most first.
fn log(lines: HashMap<String, u64>, ticks: u64, began_ns: u64, now_ns: u64) -> LogRecord {
    let mut lines: Vec<(String, u64)> = lines.into_iter().collect();
    lines.sort_unstable_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let (mut body, mut left_out) = (String::new(), 0);
    for (stack, ticks) in lines {
        let line = format!("{stack} {ticks}\n");
        if body.len() + line.len() > BODY_BYTES_MAX {
            left_out += ticks;
        } else {
            body.push_str(&line);
        }
    }
    if left_out > 0 {
        body.push_str(&format!("[others] {left_out}\n"));
    }
    body.truncate(body.trim_end().len());
    let int = |key: &str, value: u64| int(key, i64::try_from(value).unwrap_or(i64::MAX));
    LogRecord {
        time_unix_nano: began_ns,
        observed_time_unix_nano: now_ns,
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }),
        attributes: vec![
            int(key::PROFILE_TICKS, ticks),
            int(key::PROFILE_TICKS_PER_SECOND, TICKS_PER_SECOND),
            int(key::PROFILE_DURATION_MS, now_ns.saturating_sub(began_ns) / 1_000_000),
        ],
        event_name: names::EVENT_PROFILE_CPU.to_owned(),
        ..LogRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::{int_attribute, string};
    use ollystack_schema::names::semconv;

    fn service(name: &str) -> Arc<Resource> {
        Arc::new(Resource::new(vec![string(semconv::SERVICE_NAME, name)]))
    }

    fn stack(frames: &[Frame]) -> Stack {
        let mut command = [0; COMMAND_BYTES];
        command[..4].copy_from_slice(b"shop");
        Stack { command, frames: frames.to_vec() }
    }

    fn body(log: &LogRecord) -> &str {
        match log.body.as_ref().and_then(|body| body.value.as_ref()) {
            Some(any_value::Value::StringValue(body)) => body,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_window_is_one_record_a_service_with_its_stacks_most_frequent_first() {
        let mut window = Window { began_ns: 1_000_000_000, ..Window::default() };
        let (shop, till) = (service("shop"), service("till"));
        window.count(Arc::clone(&shop), stack(&[Frame::Unknown]), 2);
        window.count(Arc::clone(&shop), stack(&[Frame::Unknown, Frame::Kernel(1)]), 3);
        window.count(Arc::clone(&shop), stack(&[Frame::Unknown]), 2);
        window.count(Arc::clone(&till), stack(&[]), 1);
        let told: HashMap<_, _> = window.tell(3_000_000_000, &mut Symbols::default()).into_iter().collect();
        assert_eq!(told.len(), 2);
        let log = &told[&shop];
        assert_eq!(body(log), "shop;[unknown] 4\nshop;[unknown];[kernel] 3");
        let number = |key| int_attribute(&log.attributes, key);
        assert_eq!((number(key::PROFILE_TICKS), number(key::PROFILE_DURATION_MS)), (Some(7), Some(2_000)));
        assert_eq!((log.event_name.as_str(), log.time_unix_nano), ("profile.cpu", 1_000_000_000));
        assert_eq!(body(&told[&till]), "shop 1");
    }

    #[test]
    fn beyond_the_limit_on_frames_ticks_still_count() {
        let mut window = Window::default();
        let shop = service("shop");
        for number in 0..FRAMES_MAX as u64 + 10 {
            window.count(Arc::clone(&shop), stack(&[Frame::Kernel(number)]), 1);
        }
        assert_eq!(window.frames, FRAMES_MAX);
        let lost = Stack { command: [0; COMMAND_BYTES], frames: vec![Frame::Lost] };
        assert_eq!(window.services[&shop][&lost], 10);
    }

    #[test]
    fn a_body_has_its_limit_and_tells_what_it_left_out() {
        let lines = (0..1_000u64).map(|number| (format!("{number:0>200}"), 1_000 - number)).collect();
        let log = log(lines, 0, 0, 0);
        let body = body(&log);
        assert!(body.len() <= BODY_BYTES_MAX + 30);
        let (lines, last) = body.rsplit_once('\n').unwrap();
        let told: u64 = lines.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
        let left_out: u64 = last.strip_prefix("[others] ").unwrap().parse().unwrap();
        assert_eq!(told + left_out, (1..=1_000).sum::<u64>());
    }
}
