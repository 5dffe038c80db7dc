//! Log records: a severity where there is none, and a class by it.
//!
//! From the inputs to `export`, whole. Invariant: each record goes out once, and its acknowledgement with it.

mod fields;
mod head;
mod parse;
mod severity;
mod time;

pub use parse::{Parsed, parse, parse_at};
pub use time::{Clock, UnknownZone, Zone};

use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use ollystack_record::{Ack, Class, Outcome, Reduced, ReducedRecords, Resource};
use std::sync::Arc;

const CLASSES: [Class; 3] = [Class::Errors, Class::Normal, Class::Baseline];

/// Pass a batch on, by class.
pub fn take(resource: &Arc<Resource>, scopes: Vec<ScopeLogs>, ack: Ack, out: &mut Vec<Reduced>) {
    let mut by_class: [Vec<ScopeLogs>; 3] = Default::default();
    for ScopeLogs { scope, log_records, schema_url } in scopes {
        let mut records: [Vec<LogRecord>; 3] = Default::default();
        for mut record in log_records {
            complete(&mut record);
            records[class(&record) as usize].push(record);
        }
        for (scopes, log_records) in by_class.iter_mut().zip(records).filter(|(_, records)| !records.is_empty()) {
            scopes.push(ScopeLogs { scope: scope.clone(), log_records, schema_url: schema_url.clone() });
        }
    }
    for (class, scope_logs) in CLASSES.into_iter().zip(by_class).filter(|(_, scopes)| !scopes.is_empty()) {
        let resource = Some(resource.to_proto());
        let records = ReducedRecords::Logs(ResourceLogs { resource, scope_logs, ..ResourceLogs::default() });
        out.push(Reduced { class, records, acks: vec![ack.clone()] });
    }
    // Our own share; with no record at all there is nothing to wait for.
    ack.resolve(Outcome::Durable);
}

/// Fill in what the record itself says, number or text.
fn complete(record: &mut LogRecord) {
    if record.severity_number == 0 {
        if let Some(severity) = severity::of_word(&record.severity_text) {
            record.severity_number = severity as i32;
        } else if let Some(Value::StringValue(body)) = record.body.as_ref().and_then(|body| body.value.as_ref())
            && let Some((severity, text)) = parse(body).severity
        {
            record.severity_number = severity as i32;
            if record.severity_text.is_empty() {
                record.severity_text = text.to_owned();
            }
        }
    }
}

fn class(record: &LogRecord) -> Class {
    match record.severity_number {
        number if number >= SeverityNumber::Error as i32 => Class::Errors,
        number if (1..SeverityNumber::Info as i32).contains(&number) => Class::Baseline,
        _ => Class::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::common::v1::AnyValue;

    fn line(body: &str, number: i32, text: &str) -> LogRecord {
        LogRecord {
            severity_number: number,
            severity_text: text.to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) }),
            ..LogRecord::default()
        }
    }

    #[tokio::test]
    async fn records_go_out_once_by_class_and_the_verdict_waits_for_all() {
        let records = ["ERROR a", "INFO b", "DEBUG c", "d", "WARN e"].map(|body| line(body, 0, ""));
        let scopes = vec![ScopeLogs { log_records: records.to_vec(), ..ScopeLogs::default() }];
        let (ack, pending) = Ack::new();
        let mut out = Vec::new();
        take(&Arc::default(), scopes, ack, &mut out);
        let found = out.iter().map(|reduced| (reduced.class, reduced.records.count())).collect::<Vec<_>>();
        assert_eq!(found, [(Class::Errors, 1), (Class::Normal, 3), (Class::Baseline, 1)]);
        for reduced in out.drain(..2) {
            reduced.acks.into_iter().for_each(|ack| ack.resolve(Outcome::Durable));
        }
        drop(out);
        assert_eq!(pending.outcome().await, Outcome::Dropped, "one class of it never became durable");
    }

    #[test]
    fn what_the_sender_said_stands() {
        let mut record = line("ERROR in the body", SeverityNumber::Info as i32, "note");
        complete(&mut record);
        assert_eq!((record.severity_number, record.severity_text.as_str()), (SeverityNumber::Info as i32, "note"));
        let mut record = line("ERROR in the body", 0, "Warning");
        complete(&mut record);
        assert_eq!((record.severity_number, record.severity_text.as_str()), (SeverityNumber::Warn as i32, "Warning"));
    }
}
