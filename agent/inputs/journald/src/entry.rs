//! One journal entry, and what becomes of it: a severity, a service, attributes.
//!
//! The [`Reader`](crate::reader::Reader) fills it. Invariant: pure, and no field is longer than it may be.

use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::logs::v1::SeverityNumber;
use ollystack_record::service_name::{self, Process};
use ollystack_record::value;
use ollystack_schema::names::semconv;

/// The fields that are read: journalctl need not print others.
pub(crate) const FIELDS: &str = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_TRANSPORT,_SYSTEMD_UNIT,_SYSTEMD_CGROUP,_PID,_COMM,_EXE,\
                                 _HOSTNAME,_STREAM_ID,CONTAINER_ID_FULL,CONTAINER_NAME,IMAGE_NAME";

/// Of a name that whoever writes an entry gives itself; the rest is cut off, as names are remembered and go with each record.
const NAME_BYTES_MAX: usize = 1_024;

/// Of other fields: journald's own words, which are paths at most. A cursor has some 200.
const FIELD_BYTES_MAX: usize = 4_096;

/// An entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Never cut.
    pub(crate) cursor: Text,
    realtime_micros: Text,
    pub(crate) message: Text,
    /// The message was longer.
    pub(crate) is_cut: bool,
    priority: Text,
    identifier: Text,
    transport: Text,
    pub(crate) unit: Text,
    cgroup: Text,
    pid: Text,
    command: Text,
    executable: Text,
    host: Text,
    pub(crate) stream: Text,
    container_id: Text,
    container_name: Text,
    image: Text,
}

/// A field's value; of several the first. Empty: not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) String);

/// A field that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Cursor,
    RealtimeMicros,
    Message,
    Priority,
    Identifier,
    Transport,
    Unit,
    Cgroup,
    Pid,
    Command,
    Executable,
    Host,
    Stream,
    ContainerId,
    ContainerName,
    Image,
}

impl Field {
    /// By the journal's name for it.
    pub(crate) fn named(name: &[u8]) -> Option<Field> {
        Some(match name {
            b"__CURSOR" => Field::Cursor,
            b"__REALTIME_TIMESTAMP" => Field::RealtimeMicros,
            b"MESSAGE" => Field::Message,
            b"PRIORITY" => Field::Priority,
            b"SYSLOG_IDENTIFIER" => Field::Identifier,
            b"_TRANSPORT" => Field::Transport,
            b"_SYSTEMD_UNIT" => Field::Unit,
            b"_SYSTEMD_CGROUP" => Field::Cgroup,
            b"_PID" => Field::Pid,
            b"_COMM" => Field::Command,
            b"_EXE" => Field::Executable,
            b"_HOSTNAME" => Field::Host,
            b"_STREAM_ID" => Field::Stream,
            b"CONTAINER_ID_FULL" => Field::ContainerId,
            b"CONTAINER_NAME" => Field::ContainerName,
            b"IMAGE_NAME" => Field::Image,
            _ => return None,
        })
    }

    /// How much of it is kept.
    pub(crate) fn bytes_max(self, message_bytes_max: usize) -> usize {
        match self {
            Field::Message => message_bytes_max,
            Field::Identifier | Field::ContainerId | Field::ContainerName | Field::Image => NAME_BYTES_MAX,
            _ => FIELD_BYTES_MAX,
        }
    }
}

impl Entry {
    /// Enter what was read of a field, and whether there was more.
    pub(crate) fn set(&mut self, field: Field, text: Text, is_cut: bool) {
        let place = match field {
            Field::Cursor => {
                // A part of it is the place of nothing.
                self.cursor = if is_cut { Text::default() } else { text };
                return;
            }
            Field::Message => {
                self.is_cut = is_cut;
                &mut self.message
            }
            Field::RealtimeMicros => &mut self.realtime_micros,
            Field::Priority => &mut self.priority,
            Field::Identifier => &mut self.identifier,
            Field::Transport => &mut self.transport,
            Field::Unit => &mut self.unit,
            Field::Cgroup => &mut self.cgroup,
            Field::Pid => &mut self.pid,
            Field::Command => &mut self.command,
            Field::Executable => &mut self.executable,
            Field::Host => &mut self.host,
            Field::Stream => &mut self.stream,
            Field::ContainerId => &mut self.container_id,
            Field::ContainerName => &mut self.container_name,
            Field::Image => &mut self.image,
        };
        *place = text;
    }

    /// A whole line; `None` if it is no entry.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn parse(line: &[u8]) -> Option<Entry> {
        let mut reader = crate::reader::Reader::new(1 << 16);
        reader.read(line);
        reader.end()
    }

    /// When the journal received it. Nanoseconds since the epoch; 0: not said.
    pub(crate) fn time_unix_nano(&self) -> u64 {
        self.realtime_micros.0.parse::<u64>().ok().and_then(|micros| micros.checked_mul(1_000)).unwrap_or(0)
    }

    /// Whether it is a line that a service wrote to its output, so that what it means stands in its text: the journal gives all of
    /// these one priority, and each line of a stack trace is an entry.
    pub(crate) fn is_output(&self) -> bool {
        self.transport.0 == "stdout"
    }

    /// As syslog has it (RFC 5424, 6.2.1).
    pub(crate) fn severity(&self) -> Option<(SeverityNumber, &'static str)> {
        use SeverityNumber::{Debug, Error, Fatal, Info, Info2, Warn};
        const LEVELS: [(SeverityNumber, &str); 8] = [
            (Fatal, "emerg"),
            (Fatal, "alert"),
            (Fatal, "crit"),
            (Error, "err"),
            (Warn, "warning"),
            (Info2, "notice"),
            (Info, "info"),
            (Debug, "debug"),
        ];
        let level = self.priority.0.parse::<usize>().ok().and_then(|level| LEVELS.get(level));
        // `info` is what output has that says nothing else.
        level.copied().filter(|(_, name)| !(self.is_output() && *name == "info"))
    }

    /// What tells who wrote it: by it, resources are remembered.
    pub(crate) fn source(&self) -> [&str; 7] {
        [
            &self.transport.0,
            &self.host.0,
            &self.unit.0,
            &self.cgroup.0,
            &self.identifier.0,
            &self.command.0,
            &self.container_id.0,
        ]
    }

    /// The attributes of who wrote it, beside the host's.
    pub(crate) fn resource_attributes(&self) -> Vec<KeyValue> {
        let cgroup = format!("0::{}", self.cgroup.0);
        let container = match self.container_id.0.as_str() {
            "" => service_name::container_id(&cgroup).unwrap_or_default(),
            id => id,
        };
        let pod = service_name::pod_uid(&cgroup).unwrap_or_default();
        let service = self.service(&cgroup);
        let all = [
            (semconv::HOST_NAME, self.host.0.as_str()),
            (semconv::SERVICE_NAME, &service),
            (semconv::CONTAINER_ID, container),
            (semconv::CONTAINER_NAME, &self.container_name.0),
            (semconv::CONTAINER_IMAGE_NAME, &self.image.0),
            (semconv::K8S_POD_UID, &pod),
        ];
        all.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| value::string(key, text)).collect()
    }

    /// The container, else the unit by the rule that all inputs share, else what it calls itself.
    fn service(&self, cgroup: &str) -> String {
        let unit = [service_name::systemd_unit(cgroup), Some(self.unit.0.as_str())].into_iter().flatten();
        let unit = unit.into_iter().find(|unit| unit.ends_with(".service")).map(|unit| {
            let cgroup = format!("0::/{unit}");
            service_name::service_name(Process { cgroup: &cgroup, ..Process::default() })
        });
        let kernel = (self.transport.0 == "kernel").then(|| "kernel".to_owned());
        let named = [&self.container_name, &self.identifier, &self.command].map(|name| &name.0);
        let [container, identifier, command] = named.map(|name| (!name.is_empty()).then(|| name.clone()));
        container.or(kernel).or(unit).or(identifier).or(command).unwrap_or_else(|| "journal".to_owned())
    }

    /// The attributes of the record itself.
    pub(crate) fn record_attributes(&self) -> Vec<KeyValue> {
        let mut attributes = Vec::new();
        if let Ok(pid) = self.pid.0.parse() {
            attributes.push(value::int(semconv::PROCESS_PID, pid));
        }
        for (key, text) in [
            (semconv::PROCESS_EXECUTABLE_NAME, &self.command.0),
            (semconv::PROCESS_EXECUTABLE_PATH, &self.executable.0),
        ] {
            if !text.is_empty() {
                attributes.push(value::string(key, text));
            }
        }
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(fields: &str) -> Entry {
        Entry::parse(
            format!(r#"{{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1795165927123456",{fields}}}"#).as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn a_field_is_text_bytes_several_of_them_or_null() {
        let table = [
            (r#""MESSAGE":"a""#, "a"),
            (r#""MESSAGE":[97,255,98]"#, "a\u{fffd}b"),
            (r#""MESSAGE":["first","second"]"#, "first"),
            (r#""MESSAGE":[[97,98],"second"]"#, "ab"),
            (r#""MESSAGE":[[97,98],[99]]"#, "ab"),
            (r#""MESSAGE":[null,"second"]"#, ""),
            (r#""MESSAGE":[]"#, ""),
            (r#""MESSAGE":null"#, ""),
            (r#""OTHER":"x""#, ""),
        ];
        for (fields, expected) in table {
            assert_eq!(entry(fields).message.0, expected, "{fields}");
        }
        assert_eq!(entry(r#""MESSAGE":"a""#).time_unix_nano(), 1_795_165_927_123_456_000);
        for line in ["", "{", "-- No entries --", r#"{"MESSAGE":"no cursor"}"#, r#"{"__CURSOR":{}}"#] {
            assert!(Entry::parse(line.as_bytes()).is_none(), "{line}");
        }
        for value in ["7", "true", "[97,256]", "[97,-1]", "[97,\"b\"]", "{}", "[{}]"] {
            let line = format!(r#"{{"__CURSOR":"c","MESSAGE":{value}}}"#);
            assert!(Entry::parse(line.as_bytes()).is_none(), "{line}");
        }
    }

    #[test]
    fn the_priority_is_the_severity_unless_it_says_nothing() {
        let severity = |fields: &str| entry(fields).severity().map(|(number, name)| (number as i32, name));
        assert_eq!(severity(r#""PRIORITY":"3","_TRANSPORT":"syslog""#), Some((17, "err")));
        assert_eq!(severity(r#""PRIORITY":"6","_TRANSPORT":"syslog""#), Some((9, "info")));
        assert_eq!(severity(r#""PRIORITY":"6","_TRANSPORT":"stdout""#), None, "the text may say more");
        assert_eq!(severity(r#""PRIORITY":"4","_TRANSPORT":"stdout""#), Some((13, "warning")));
        assert_eq!(severity(r#""PRIORITY":"9""#), None);
    }

    #[test]
    fn who_wrote_it_is_the_container_the_unit_or_what_it_calls_itself() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!(r#""CONTAINER_NAME":"web","CONTAINER_ID_FULL":"{id}","_SYSTEMD_UNIT":"docker.service""#);
        let table = [
            (r#""_SYSTEMD_CGROUP":"/system.slice/nginx.service","SYSLOG_IDENTIFIER":"x""#, "nginx"),
            (r#""_SYSTEMD_UNIT":"postgresql@15-main.service""#, "postgresql"),
            (r#""_SYSTEMD_UNIT":"init.scope","SYSLOG_IDENTIFIER":"systemd""#, "systemd"),
            (r#""_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel""#, "kernel"),
            (r#""_COMM":"sudo""#, "sudo"),
            (&docker, "web"),
            (r#""MESSAGE":"x""#, "journal"),
        ];
        for (fields, expected) in table {
            let attributes = entry(fields).resource_attributes();
            assert_eq!(value::string_attribute(&attributes, "service.name"), Some(expected), "{fields}");
        }
        let attributes = entry(&docker).resource_attributes();
        assert_eq!(value::string_attribute(&attributes, "container.id"), Some(id.as_str()));
        let attributes = entry(r#""_PID":"42","_COMM":"sshd","_EXE":"/usr/sbin/sshd""#).record_attributes();
        assert_eq!(attributes[0], value::int("process.pid", 42));
        assert_eq!(value::string_attribute(&attributes, "process.executable.path"), Some("/usr/sbin/sshd"));
    }

    #[test]
    fn a_name_that_somebody_gives_itself_is_no_longer_than_names_are() {
        for field in ["SYSLOG_IDENTIFIER", "CONTAINER_ID_FULL", "CONTAINER_NAME", "IMAGE_NAME"] {
            let entry = entry(&format!(r#""{field}":"{}""#, "ä".repeat(100_000)));
            let bytes: usize = entry.source().iter().map(|text| text.len()).sum();
            let said = value::attributes_heap_bytes(&entry.resource_attributes());
            assert!(bytes <= NAME_BYTES_MAX && said <= 4 * NAME_BYTES_MAX, "{field}: {bytes} and {said}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_fail(line in "(\\{\"__CURSOR\":\"c\",\"MESSAGE\":)?[\\[\\]{}\",:0-9a-z]{0,60}\\}?") {
            let _ = Entry::parse(line.as_bytes()).map(|entry| (entry.time_unix_nano(), entry.resource_attributes()));
        }
    }
}
