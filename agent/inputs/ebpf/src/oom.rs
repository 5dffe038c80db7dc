//! Kills for want of memory to a log event each, of severity error, and a counter.
//!
//! In: one record a victim. Out: both under the victim's service, with its container and pod. Nothing of a victim is read from
//! /proc: it may hold the lock that a reader would wait for until there is memory again. Invariant: at most [`GROUPS_MAX`]
//! series are open between two readings; further ones merge into one marked as overflow.

use crate::cgroup;
use crate::processes::{Processes, text};
use crate::scope;
use hashbrown::HashMap;
use ollystack_ebpf::oom::Event;
use ollystack_record::otlp::common::v1::{AnyValue, any_value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs, SeverityNumber};
use ollystack_record::value::{bool, int, string};
use ollystack_record::{Ack, Batch, Intake, Kind, Metric, Records, Resource, Sample, Series, Source, Value};
use ollystack_schema::names::{self, key, semconv};
use std::sync::Arc;

/// Whose kills are told apart between two readings.
const GROUPS_MAX: usize = 256;

/// The state of kills.
pub(crate) struct Oom {
    page_bytes: u64,
    events: HashMap<Arc<Resource>, Vec<LogRecord>>,
    /// By whose they are, and whether that is known.
    counts: HashMap<(Arc<Resource>, bool), u64>,
    kills: Arc<Metric>,
    read_ns: u64,
}

impl Oom {
    pub(crate) fn new(now_ns: u64) -> Oom {
        Oom {
            page_bytes: rustix::param::page_size() as u64,
            events: HashMap::new(),
            counts: HashMap::new(),
            kills: Arc::new(Metric {
                name: names::PROCESS_OOM_KILLS.into(),
                unit: "{process}".into(),
                description: "Processes that the kernel killed for want of memory".into(),
                kind: Kind::Sum { monotonic: true, delta: true },
                ..Metric::default()
            }),
            read_ns: now_ns,
        }
    }

    /// Take one record as the kernel wrote it.
    pub(crate) fn take(&mut self, record: &[u8], offset_ns: u64, processes: &Processes) {
        let Some(event) = ollystack_ebpf::read::<Event>(record) else { return };
        let (command, path) = (text(&event.command), cgroup::path(&event.cgroup));
        let mut attributes = match processes.known(event.process) {
            Some(who) => who.service.attributes().to_vec(),
            None => {
                let own = [
                    string(semconv::SERVICE_NAME, cgroup::service(&path, &command)),
                    string(semconv::PROCESS_EXECUTABLE_NAME, &command),
                ];
                [processes.host().attributes(), &own].concat()
            }
        };
        attributes.extend(cgroup::attributes(&path));
        let victim = Arc::new(Resource::new(attributes));
        let log = self.log(&event, &command, &path, event.time_ns.saturating_add(offset_ns));
        self.events.entry(Arc::clone(&victim)).or_default().push(log);
        let mut group = (victim, true);
        if self.counts.len() >= GROUPS_MAX && !self.counts.contains_key(&group) {
            group = (Arc::clone(processes.host()), false);
        }
        *self.counts.entry(group).or_default() += 1;
    }

    /// Hand in the events gathered so far.
    pub(crate) fn hand_in(&mut self, intake: &Intake) {
        for (victim, log_records) in self.events.drain() {
            let scope = ScopeLogs { scope: Some(scope().proto.clone()), log_records, ..ScopeLogs::default() };
            intake.offer(batch(victim, Records::Logs(vec![scope])));
        }
    }

    /// What changed since the last reading, one batch a victim's resource. `now_ns` is time since the epoch.
    pub(crate) fn read(&mut self, now_ns: u64) -> Vec<Batch> {
        let start = std::mem::replace(&mut self.read_ns, now_ns);
        let mut batches = Vec::with_capacity(self.counts.len());
        for ((victim, is_known), count) in self.counts.drain() {
            let attributes = if is_known { Vec::new() } else { vec![bool(names::OVERFLOW, true)] };
            let series = Arc::new(Series::new(scope(), Arc::clone(&self.kills), attributes));
            let value = Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
            batches.push(batch(victim, Records::Metrics(vec![Sample::number(&series, start, now_ns, value)])));
        }
        batches
    }

    fn log(&self, event: &Event, command: &str, path: &str, time: u64) -> LogRecord {
        let resident_bytes = event.resident_pages.saturating_mul(self.page_bytes);
        let mebibytes = resident_bytes >> 20;
        let body = format!(
            "the kernel killed {command} (process {}) for want of memory: {mebibytes} MiB in memory, control group {path}",
            event.process
        );
        LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: time,
            severity_number: SeverityNumber::Error.into(),
            severity_text: "ERROR".to_owned(),
            body: Some(AnyValue { value: Some(any_value::Value::StringValue(body)) }),
            attributes: vec![
                int(semconv::PROCESS_PID, event.process.into()),
                int(semconv::PROCESS_USER_ID, event.user.into()),
                string(semconv::PROCESS_EXECUTABLE_NAME, command),
                int(key::PROCESS_RESIDENT_BYTES, i64::try_from(resident_bytes).unwrap_or(i64::MAX)),
            ],
            event_name: names::EVENT_PROCESS_OOM_KILL.to_owned(),
            ..LogRecord::default()
        }
    }
}

fn batch(resource: Arc<Resource>, records: Records) -> Batch {
    Batch { source: Source::Ebpf, resource, records, ack: Ack::none() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::{CONTAINER, names as folders};
    use ollystack_ebpf::bytes_of;
    use ollystack_record::value::{int_attribute, string_attribute};

    fn event(process: u32, path: &str) -> Event {
        let mut command = [0; 16];
        command[..5].copy_from_slice(b"shopd");
        Event { time_ns: 5, resident_pages: 512, process, user: 1000, command, cgroup: folders(path) }
    }

    fn processes() -> Processes {
        Processes::new(Arc::new(Resource::new(vec![string(semconv::HOST_NAME, "h1")])), 16)
    }

    #[test]
    fn a_kill_is_an_error_of_the_victims_service_with_its_container() {
        let mut oom = Oom { page_bytes: 4_096, ..Oom::new(0) };
        oom.take(bytes_of(&event(7, &format!("/docker/{CONTAINER}"))), 100, &processes());
        let (victim, logs) = oom.events.drain().next().unwrap();
        assert_eq!((victim.service_name(), victim.get(semconv::HOST_NAME)), ("shopd", Some("h1")));
        assert_eq!(victim.get(semconv::CONTAINER_ID), Some(CONTAINER));
        let log = &logs[0];
        assert_eq!((log.event_name.as_str(), log.time_unix_nano), ("process.oom_kill", 105));
        assert_eq!(log.severity_number, SeverityNumber::Error as i32);
        assert_eq!(int_attribute(&log.attributes, semconv::PROCESS_PID), Some(7));
        assert_eq!(int_attribute(&log.attributes, key::PROCESS_RESIDENT_BYTES), Some(2 << 20));
        assert_eq!(string_attribute(&log.attributes, semconv::PROCESS_EXECUTABLE_NAME), Some("shopd"));
        let batches = oom.read(10);
        let Records::Metrics(samples) = &batches[0].records else { panic!("no samples") };
        assert_eq!((samples[0].value.clone(), batches[0].resource.clone()), (Value::Int(1), victim));
        assert!(oom.read(20).is_empty(), "what was read is not read again");
    }

    #[test]
    fn a_victim_that_was_known_keeps_its_name() {
        let mut processes = processes();
        let mut command = [0; 16];
        command[..4].copy_from_slice(b"shop");
        // No process has this number, so the command names it.
        processes.who(u32::MAX, &command, 1);
        let mut oom = Oom::new(0);
        oom.take(bytes_of(&event(u32::MAX, "/system.slice/unit.service")), 0, &processes);
        oom.take(bytes_of(&event(7, "/system.slice/unit.service")), 0, &processes);
        let mut services: Vec<_> = oom.events.keys().map(|victim| victim.service_name().to_owned()).collect();
        services.sort();
        assert_eq!(services, ["shop", "unit"]);
    }

    #[test]
    fn victims_beyond_the_limit_are_counted_together() {
        let mut oom = Oom::new(0);
        for number in 0..GROUPS_MAX + 7 {
            oom.take(bytes_of(&event(7, &format!("/group-{number}"))), 0, &processes());
        }
        assert_eq!(oom.counts.len(), GROUPS_MAX + 1);
        assert_eq!(oom.counts.iter().find(|((_, is_known), _)| !is_known).unwrap().1, &7);
    }

    #[test]
    fn damaged_records_are_none() {
        let mut oom = Oom::new(0);
        oom.take(&bytes_of(&event(7, "/"))[1..], 0, &processes());
        assert!(oom.events.is_empty());
    }
}
