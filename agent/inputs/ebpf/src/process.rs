//! Program starts and process ends to counters and log events.
//!
//! Every start and end is counted, by program and outcome. A log event for each follows too, up to a number per second;
//! those beyond are counted as suppressed. Arguments are never captured, as they may hold secrets. Invariant: at most
//! [`PROGRAMS_MAX`] programs are told apart between two readings; further ones merge into one marked as overflow.

use crate::processes::text;
use crate::scope;
use hashbrown::HashMap;
use ollystack_ebpf::process::{EXEC, EXIT, Event, Exec};
use ollystack_record::otlp::common::v1::{AnyValue, KeyValue, any_value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs, SeverityNumber};
use ollystack_record::value::{bool, int, string};
use ollystack_record::{Ack, Batch, Intake, Kind, Metric, Records, Resource, Sample, Series, Signal, Source, Value};
use ollystack_schema::names;
use ollystack_schema::names::{key, semconv};
use std::sync::Arc;

/// Programs told apart between two readings.
const PROGRAMS_MAX: usize = 500;
const SECOND_NS: u64 = 1_000_000_000;

/// How something ended, or that it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Started,
    Success,
    Failure(u32),
    Signal(u32),
}

/// The state of processes.
pub(crate) struct ProcessEvents {
    host: Arc<Resource>,
    per_second_max: u32,
    /// The second that is running, by the kernel's clock, and the events it had.
    second: (u64, u32),
    suppressed: u64,
    events: Vec<LogRecord>,
    counts: HashMap<(Option<String>, &'static str), u64>,
    starts: Arc<Metric>,
    exits: Arc<Metric>,
    read_ns: u64,
}

impl ProcessEvents {
    pub(crate) fn new(host: Arc<Resource>, per_second_max: u32, now_ns: u64) -> ProcessEvents {
        let counter = |name: &str, description: &str| {
            let kind = Kind::Sum { monotonic: true, delta: true };
            let (name, description) = (name.into(), description.into());
            Arc::new(Metric { name, unit: "{process}".into(), description, kind, ..Metric::default() })
        };
        ProcessEvents {
            host,
            per_second_max,
            second: (0, 0),
            suppressed: 0,
            events: Vec::new(),
            counts: HashMap::new(),
            starts: counter(names::PROCESS_STARTS, "Programs started"),
            exits: counter(names::PROCESS_EXITS, "Processes ended"),
            read_ns: now_ns,
        }
    }

    /// Take one record as the kernel wrote it; the number of the process it is about.
    pub(crate) fn take(&mut self, record: &[u8], offset_ns: u64) -> Option<u32> {
        let event = ollystack_ebpf::read::<Event>(record)?;
        let path = (event.kind == EXEC).then(|| ollystack_ebpf::read::<Exec>(record)).flatten();
        let path = path.map(|exec| text(&exec.path)).filter(|path| !path.is_empty());
        let outcome = match (event.kind, event.status & 0x7F, (event.status >> 8) & 0xFF) {
            (EXEC, ..) => Outcome::Started,
            (EXIT, 0, 0) => Outcome::Success,
            (EXIT, 0, code) => Outcome::Failure(code),
            (EXIT, signal, _) => Outcome::Signal(signal),
            _ => return None,
        };
        let command = text(&event.command);
        let name = path.as_deref().and_then(|path| path.rsplit('/').next()).filter(|name| !name.is_empty());
        let name = name.unwrap_or(&command).to_owned();
        if self.may_tell(event.time_ns) {
            self.events.push(log(&event, outcome, &name, path.as_deref(), offset_ns));
        } else {
            self.suppressed += 1;
        }
        self.count(name, outcome);
        Some(event.process)
    }

    /// Hand in the events gathered so far.
    pub(crate) fn hand_in(&mut self, intake: &Intake) {
        intake.ledger().seen(Signal::Logs, self.suppressed);
        intake.ledger().suppressed(Signal::Logs, std::mem::take(&mut self.suppressed));
        if !self.events.is_empty() {
            let scope = ScopeLogs {
                scope: Some(scope().proto.clone()),
                log_records: std::mem::take(&mut self.events),
                ..ScopeLogs::default()
            };
            intake.offer(self.batch(Records::Logs(vec![scope])));
        }
    }

    /// What changed since the last reading. `now_ns` is time since the epoch.
    pub(crate) fn read(&mut self, now_ns: u64) -> Option<Batch> {
        let start = std::mem::replace(&mut self.read_ns, now_ns);
        let mut samples = Vec::with_capacity(self.counts.len());
        for ((program, outcome), count) in self.counts.drain() {
            let mut attributes = vec![match program {
                Some(program) => string(semconv::PROCESS_EXECUTABLE_NAME, program),
                None => bool(names::OVERFLOW, true),
            }];
            let metric = if outcome == Outcome::Started.name() { &self.starts } else { &self.exits };
            if Arc::ptr_eq(metric, &self.exits) {
                attributes.push(string(key::PROCESS_OUTCOME, outcome));
            }
            let series = Arc::new(Series::new(scope(), Arc::clone(metric), attributes));
            samples.push(Sample::number(&series, start, now_ns, Value::Int(i64::try_from(count).unwrap_or(i64::MAX))));
        }
        (!samples.is_empty()).then(|| self.batch(Records::Metrics(samples)))
    }

    fn batch(&self, records: Records) -> Batch {
        Batch { source: Source::Ebpf, resource: Arc::clone(&self.host), records, ack: Ack::none() }
    }

    fn may_tell(&mut self, time_ns: u64) -> bool {
        let second = time_ns / SECOND_NS;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        self.second.1 <= self.per_second_max
    }

    fn count(&mut self, name: String, outcome: Outcome) {
        let mut group = (Some(name), outcome.name());
        if self.counts.len() >= PROGRAMS_MAX && !self.counts.contains_key(&group) {
            group.0 = None;
        }
        *self.counts.entry(group).or_default() += 1;
    }
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Started => "started",
            Outcome::Success => "success",
            Outcome::Failure(_) => "failure",
            Outcome::Signal(_) => "signal",
        }
    }
}

fn log(event: &Event, outcome: Outcome, name: &str, path: Option<&str>, offset_ns: u64) -> LogRecord {
    let time = event.time_ns.saturating_add(offset_ns);
    let severity = if matches!(outcome, Outcome::Signal(_)) { SeverityNumber::Warn } else { SeverityNumber::Info };
    let seconds = event.lifetime_ns as f64 / SECOND_NS as f64;
    let body = match outcome {
        Outcome::Started => format!("{name} started"),
        Outcome::Success => format!("{name} ended after {seconds:.3} s"),
        Outcome::Failure(code) => format!("{name} ended with status {code} after {seconds:.3} s"),
        Outcome::Signal(signal) => format!("{name} was ended by signal {signal} after {seconds:.3} s"),
    };
    let mut attributes: Vec<KeyValue> = vec![
        int(semconv::PROCESS_PID, event.process.into()),
        int(semconv::PROCESS_PARENT_PID, event.parent.into()),
        int(semconv::PROCESS_USER_ID, event.user.into()),
        string(semconv::PROCESS_EXECUTABLE_NAME, name),
    ];
    attributes.extend(path.map(|path| string(semconv::PROCESS_EXECUTABLE_PATH, path)));
    match outcome {
        Outcome::Started => {}
        Outcome::Success => attributes.push(int(semconv::PROCESS_EXIT_CODE, 0)),
        Outcome::Failure(code) => attributes.push(int(semconv::PROCESS_EXIT_CODE, code.into())),
        Outcome::Signal(signal) => attributes.push(int(key::PROCESS_SIGNAL, signal.into())),
    }
    LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number: severity.into(),
        severity_text: if severity == SeverityNumber::Warn { "WARN" } else { "INFO" }.to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }),
        attributes,
        event_name: if event.kind == EXEC { names::EVENT_PROCESS_EXEC } else { names::EVENT_PROCESS_EXIT }.to_owned(),
        ..LogRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::bytes_of;
    use ollystack_ebpf::process::PATH_BYTES;
    use ollystack_record::Ledger;
    use ollystack_record::value::{int_attribute, string_attribute};

    fn event(kind: u8, status: u32, time_ns: u64) -> Event {
        let mut command = [0; 16];
        command[..4].copy_from_slice(b"shop");
        Event {
            time_ns,
            lifetime_ns: 1_500_000_000,
            process: 7,
            parent: 1,
            user: 1000,
            status,
            kind,
            reserved: [0; 7],
            command,
        }
    }

    fn exec(path: &[u8]) -> Exec {
        let mut exec = Exec { event: event(EXEC, 0, 1), path: [0; PATH_BYTES] };
        exec.path[..path.len()].copy_from_slice(path);
        exec
    }

    fn state(per_second_max: u32) -> ProcessEvents {
        ProcessEvents::new(Arc::new(Resource::default()), per_second_max, 0)
    }

    #[test]
    fn a_start_names_the_program_by_its_path() {
        let mut state = state(10);
        state.take(bytes_of(&exec(b"/usr/bin/shopd")), 100).unwrap();
        let log = &state.events[0];
        assert_eq!((log.event_name.as_str(), log.time_unix_nano), ("process.exec", 101));
        assert_eq!(string_attribute(&log.attributes, semconv::PROCESS_EXECUTABLE_NAME), Some("shopd"));
        assert_eq!(string_attribute(&log.attributes, semconv::PROCESS_EXECUTABLE_PATH), Some("/usr/bin/shopd"));
        assert_eq!(int_attribute(&log.attributes, semconv::PROCESS_PID), Some(7));
    }

    #[test]
    fn ends_tell_status_and_signal_apart() {
        let table = [
            (0x0000, Some(0), None, SeverityNumber::Info, "success"),
            (0x0300, Some(3), None, SeverityNumber::Info, "failure"),
            (0x0009, None, Some(9), SeverityNumber::Warn, "signal"),
            (0x008B, None, Some(11), SeverityNumber::Warn, "signal"), // with a core dump
        ];
        for (status, code, signal, severity, outcome) in table {
            let mut state = state(10);
            state.take(bytes_of(&event(EXIT, status, 1)), 0).unwrap();
            let log = &state.events[0];
            assert_eq!(int_attribute(&log.attributes, semconv::PROCESS_EXIT_CODE), code);
            assert_eq!(int_attribute(&log.attributes, key::PROCESS_SIGNAL), signal);
            assert_eq!(log.severity_number, severity as i32);
            assert!(state.counts.contains_key(&(Some("shop".into()), outcome)));
        }
    }

    #[test]
    fn beyond_the_rate_events_are_suppressed_and_still_counted() {
        let mut state = state(2);
        for time in [1, 2, 3, SECOND_NS] {
            state.take(bytes_of(&event(EXIT, 0, time)), 0);
        }
        assert_eq!((state.events.len(), state.suppressed), (3, 1));
        let ledger = Arc::new(Ledger::default());
        let (intake, _receiver) = Intake::new(4, 100, ledger.clone());
        state.hand_in(&intake);
        let logs = ledger.read().signals[Signal::Logs as usize].clone();
        assert_eq!((logs.seen, logs.suppressed, logs.balance()), (4, 1, 0));
        let Some(Batch { records: Records::Metrics(samples), .. }) = state.read(9) else { panic!("no samples") };
        assert_eq!(samples[0].value, Value::Int(4));
        assert!(state.read(10).is_none());
    }

    #[test]
    fn programs_beyond_the_limit_merge() {
        let mut state = state(0);
        for number in 0..PROGRAMS_MAX + 50 {
            state.take(bytes_of(&exec(format!("/bin/p{number}").as_bytes())), 0);
        }
        assert_eq!(state.counts.len(), PROGRAMS_MAX + 1);
        assert_eq!(state.counts[&(None, "started")], 50);
    }

    #[test]
    fn damaged_records_are_none() {
        let mut state = state(10);
        assert!(state.take(&[], 0).is_none());
        assert!(state.take(bytes_of(&event(9, 0, 1)), 0).is_none());
        // A start cut after its common part still has its command.
        state.take(bytes_of(&event(EXEC, 0, 1)), 0).unwrap();
        let mut endless = exec(b"");
        endless.path = [b'/'; PATH_BYTES];
        state.take(bytes_of(&endless), 0).unwrap();
        assert_eq!(state.events.len(), 2);
    }
}
