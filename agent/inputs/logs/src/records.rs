//! Records into OTLP.
//!
//! A record says what was read, when, from which file and, if a container runtime noted it, when it was written and to which
//! stream. Times and severities that stand in the text are `process`' part to read. Invariant: one OTLP record a record, in the
//! order of the file.

use crate::container::Container;
use crate::join::Record;
use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Resource, value};
use ollystack_schema::names::{self, semconv};
use std::borrow::Cow;
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

    /// One scope with all of them.
    pub(crate) fn records(&self, records: Vec<Record<'_>>, observed: u64) -> ScopeLogs {
        let scope = InstrumentationScope {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let log_records = records.into_iter().map(|record| self.record(record, observed)).collect();
        ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }
    }

    fn record(&self, record: Record<'_>, observed: u64) -> LogRecord {
        let mut attributes = self.attributes.to_vec();
        if let Some(stream) = record.stream.name() {
            attributes.push(value::string(semconv::LOG_IOSTREAM, stream));
        }
        if record.lines > 1 {
            attributes.push(value::int(names::LOG_LINES, i64::from(record.lines)));
        }
        if record.is_cut {
            attributes.push(value::bool(names::LOG_CUT, true));
        }
        LogRecord {
            time_unix_nano: record.time_unix_nano,
            observed_time_unix_nano: observed,
            body: Some(AnyValue { value: Some(Value::StringValue(text(record.text))) }),
            attributes,
            ..LogRecord::default()
        }
    }
}

/// Bytes that are no UTF-8 become replacement characters.
fn text(bytes: Cow<'_, [u8]>) -> String {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Cow::Owned(bytes) => {
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
    }
}

/// The host, speaking for the file's service, and for its container if it is of one.
pub(crate) fn resource(host: &Resource, path: &Path) -> Resource {
    let mut attributes = host.attributes().to_vec();
    match Container::of(path) {
        Some(container) => {
            attributes.push(value::string(semconv::SERVICE_NAME, container.service()));
            attributes.extend(container.attributes());
        }
        None => attributes.push(value::string(semconv::SERVICE_NAME, crate::service::service_of(path))),
    }
    Resource::new(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Framing;
    use crate::join::{Due, Layout, Limits, Multiline, join};
    use crate::offsets::Mark;

    fn records(framing: Framing, chunk: &str) -> Vec<LogRecord> {
        let limits = Limits { line_bytes_max: 8, lines_max: 9, records_max: 9, chunk_bytes_max: 99 };
        let layout = Layout { framing, multiline: Multiline::Auto };
        let origin = Origin::new(Path::new("/var/log/nginx/access.log"));
        let bytes = [chunk.as_bytes(), b"\xff\n"].concat();
        origin.records(join(&bytes, Mark::default(), &layout, limits, Due::Line).records, 7).log_records
    }

    #[test]
    fn a_record_says_what_was_read_when_and_where() {
        let [first, second, third] =
            <[LogRecord; 3]>::try_from(records(Framing::Plain, "a\n\tb\n123456789\nGET ")).unwrap();
        assert_eq!((first.time_unix_nano, first.observed_time_unix_nano), (0, 7));
        assert_eq!(value::string_attribute(&first.attributes, "log.file.path"), Some("/var/log/nginx/access.log"));
        assert_eq!(value::string_attribute(&first.attributes, "log.file.name"), Some("access.log"));
        assert_eq!(first.attributes[2..], [value::int("ollystack.log.lines", 2)]);
        assert_eq!(second.attributes[2..], [value::bool("ollystack.log.cut", true)]);
        assert_eq!(third.body.as_ref().unwrap().value, Some(Value::StringValue("GET \u{fffd}".into())));
        assert_eq!(third.attributes.len(), 2);
    }

    #[test]
    fn what_the_runtime_noted_becomes_time_and_stream() {
        let limits = Limits { line_bytes_max: 99, lines_max: 9, records_max: 9, chunk_bytes_max: 99 };
        let layout = Layout { framing: Framing::Cri, multiline: Multiline::Auto };
        let line = b"1970-01-01T00:00:01Z stderr F a\n";
        let joined = join(line, Mark::default(), &layout, limits, Due::Line);
        let record = &Origin::new(Path::new("/x")).records(joined.records, 7).log_records[0];
        assert_eq!(record.time_unix_nano, 1_000_000_000);
        assert_eq!(value::string_attribute(&record.attributes, "log.iostream"), Some("stderr"));
    }

    #[test]
    fn the_resource_is_the_host_s_with_the_file_s_service_and_container() {
        let host = Resource::new(vec![value::string("host.name", "h"), value::string("service.name", "agent")]);
        let of = |path| resource(&host, Path::new(path));
        let nginx = of("/var/log/nginx/access.log");
        assert_eq!((nginx.get("host.name"), nginx.service_name()), (Some("h"), "nginx"));
        let pod = of("/var/log/pods/shop_checkout-x_0a1b/server/0.log");
        assert_eq!((pod.service_name(), pod.get("k8s.pod.name")), ("server", Some("checkout-x")));
    }
}
