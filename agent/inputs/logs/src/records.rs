//! Lines into OTLP log records.
//!
//! A record says what was read, when, and from which file. Its own time and severity stay unset: they stand in the text, and
//! reading them is `process`' part. Invariant: one record a line, in the order of the file.

use crate::lines::Line;
use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Resource, value};
use ollystack_schema::names::{self, semconv};
use std::path::Path;

/// What all records of one file share.
#[derive(Debug)]
pub(crate) struct Origin {
    attributes: [KeyValue; 2],
}

impl Origin {
    pub(crate) fn new(path: &Path) -> Origin {
        let name = path.file_name().unwrap_or_default();
        Origin {
            attributes: [
                value::string(semconv::LOG_FILE_NAME, name.to_string_lossy()),
                value::string(semconv::LOG_FILE_PATH, path.to_string_lossy()),
            ],
        }
    }

    /// One scope with a record for each line. Bytes that are no UTF-8 become replacement characters.
    pub(crate) fn records(&self, lines: &[Line<'_>], observed: u64) -> ScopeLogs {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let record = |line: &Line<'_>| {
            let text = String::from_utf8_lossy(line.text).into_owned();
            let mut attributes = self.attributes.to_vec();
            if line.is_cut {
                attributes.push(value::bool(names::LOG_CUT, true));
            }
            LogRecord {
                observed_time_unix_nano: observed,
                body: Some(AnyValue { value: Some(Value::StringValue(text)) }),
                attributes,
                ..LogRecord::default()
            }
        };
        ScopeLogs { scope: Some(scope), log_records: lines.iter().map(record).collect(), ..ScopeLogs::default() }
    }
}

/// The host, speaking for the file's service.
pub(crate) fn resource(host: &Resource, path: &Path) -> Resource {
    let mut attributes = host.attributes().to_vec();
    attributes.push(value::string(semconv::SERVICE_NAME, crate::service::service_of(path)));
    Resource::new(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_was_read_when_and_where() {
        let origin = Origin::new(Path::new("/var/log/nginx/access.log"));
        let lines = [Line { text: b"GET /\xff", is_cut: false }, Line { text: b"long", is_cut: true }];
        let scope = origin.records(&lines, 7);
        let [first, second] = scope.log_records.as_slice() else { unreachable!() };
        assert_eq!(first.observed_time_unix_nano, 7);
        assert_eq!(first.body.as_ref().unwrap().value, Some(Value::StringValue("GET /\u{fffd}".into())));
        assert_eq!(value::string_attribute(&first.attributes, "log.file.path"), Some("/var/log/nginx/access.log"));
        assert_eq!(value::string_attribute(&first.attributes, "log.file.name"), Some("access.log"));
        assert_eq!(first.attributes.len(), 2);
        assert_eq!(second.attributes[2], value::bool("ollystack.log.cut", true));
    }

    #[test]
    fn the_resource_is_the_host_s_with_the_file_s_service() {
        let host = Resource::new(vec![value::string("host.name", "h"), value::string("service.name", "agent")]);
        let resource = resource(&host, Path::new("/var/log/nginx/access.log"));
        assert_eq!((resource.get("host.name"), resource.service_name()), (Some("h"), "nginx"));
    }
}
