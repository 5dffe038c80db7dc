//! Whether every log line is accounted for: rows that stand for several say for how many.
//!
//! Lines come from the recording, and from log files of other systems, each line a record as the log input makes them, a
//! thousand lines a second. Invariant: nothing of a line is interpreted here.

use flate2::read::GzDecoder;
use ollystack_record::otlp::common::v1::{AnyValue, any_value};
use ollystack_record::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use ollystack_record::value::{int_attribute, string};
use ollystack_record::{Ack, Batch, Records, Resource, Source};
use ollystack_recording::Recorded;
use ollystack_schema::names::LOG_COUNT;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LINES_PER_BATCH: usize = 1_000;
const NANOS_PER_BATCH: u64 = 1_000_000_000;
/// When lines without a recorded time are said to come.
const START_UNIX_NANO: u64 = 1_795_000_000_000_000_000;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Truth {
    /// Lines seen.
    pub(crate) lines: u64,
    /// Lines that the rows say they stand for.
    pub(crate) counted: u64,
    /// Rows that stand for themselves.
    pub(crate) whole: u64,
    /// Rows of severity ERROR or worse.
    pub(crate) errors: u64,
}

impl Truth {
    pub(crate) fn saw(&mut self, scopes: &[ScopeLogs]) {
        self.lines += scopes.iter().map(|scope| scope.log_records.len() as u64).sum::<u64>();
    }

    pub(crate) fn got(&mut self, resource: &ResourceLogs) {
        for record in resource.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            let count = int_attribute(&record.attributes, LOG_COUNT).map(|count| count as u64);
            self.counted += count.unwrap_or(1);
            self.whole += u64::from(count.is_none_or(|count| count == 1));
            self.errors += u64::from(record.severity_number >= SeverityNumber::Error as i32);
        }
    }
}

/// The lines of all `*.log.gz` of a folder's folders, a system each, one system after the other.
pub(crate) fn of_files(folder: &Path) -> impl Iterator<Item = Recorded> {
    let within = |folder: &Path| -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let systems = within(folder).into_iter().filter(|path| path.is_dir());
    let files: Vec<PathBuf> = systems.flat_map(|system| within(&system)).collect();
    let logs = files.into_iter().filter(|path| path.to_string_lossy().ends_with(".log.gz"));
    let batches = logs.flat_map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let service = name.trim_end_matches("_2k.log.gz").to_lowercase();
        let resource = Arc::new(Resource::new(vec![
            string("service.name", service.clone()),
            string("log.file.path", format!("/var/log/{service}.log")),
        ]));
        let lines = BufReader::new(GzDecoder::new(File::open(&path).unwrap())).split(b'\n').map(Result::unwrap);
        let records: Vec<LogRecord> = lines.map(|line| record(String::from_utf8_lossy(&line).trim_end())).collect();
        let batches: Vec<_> =
            records.chunks(LINES_PER_BATCH).map(|records| (Arc::clone(&resource), records.to_vec())).collect();
        batches
    });
    batches.enumerate().map(|(at, (resource, mut log_records))| {
        let came_unix_nano = START_UNIX_NANO + at as u64 * NANOS_PER_BATCH;
        log_records.iter_mut().for_each(|record| record.observed_time_unix_nano = came_unix_nano);
        let records = Records::Logs(vec![ScopeLogs { log_records, ..ScopeLogs::default() }]);
        Recorded { came_unix_nano, batch: Batch { source: Source::Logs, resource, records, ack: Ack::none() } }
    })
}

fn record(line: &str) -> LogRecord {
    let body = Some(AnyValue { value: Some(any_value::Value::StringValue(line.to_owned())) });
    LogRecord { body, ..LogRecord::default() }
}
