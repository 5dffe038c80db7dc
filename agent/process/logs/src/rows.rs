//! Records on their way out, by class and scope.

use crate::window::Scope;
use ollystack_record::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use ollystack_record::{Ack, Class, Outcome, Reduced, ReducedRecords, Resource};

const CLASSES: [Class; 3] = [Class::Errors, Class::Normal, Class::Baseline];

/// The records of one resource.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    by_class: [Vec<(usize, ScopeLogs)>; 3],
    count: u64,
}

impl Rows {
    /// A record of the scope with this number; scopes come one after the other, so that only the last is looked at.
    pub(crate) fn push(&mut self, number: usize, scope: &Scope, record: LogRecord) {
        self.count += 1;
        let scopes = &mut self.by_class[class(&record) as usize];
        match scopes.last_mut() {
            Some((last, scope)) if *last == number => scope.log_records.push(record),
            _ => {
                let (scope, schema_url) = scope.clone();
                scopes.push((number, ScopeLogs { scope, log_records: vec![record], schema_url }));
            }
        }
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Hand them on. The acknowledgement goes with them; with no record at all there is nothing to wait for.
    pub(crate) fn hand_on(self, resource: &Resource, ack: Ack, out: &mut Vec<Reduced>) {
        for (class, scopes) in CLASSES.into_iter().zip(self.by_class).filter(|(_, scopes)| !scopes.is_empty()) {
            let scope_logs = scopes.into_iter().map(|(_, scope)| scope).collect();
            let resource = Some(resource.to_proto());
            let records = ReducedRecords::Logs(ResourceLogs { resource, scope_logs, ..ResourceLogs::default() });
            out.push(Reduced { class, records, acks: vec![ack.clone()] });
        }
        ack.resolve(Outcome::Durable);
    }
}

/// Whether a severity is that of an error.
pub(crate) fn is_error(severity: i32) -> bool {
    severity >= SeverityNumber::Error as i32
}

fn class(record: &LogRecord) -> Class {
    match record.severity_number {
        number if is_error(number) => Class::Errors,
        number if (1..SeverityNumber::Info as i32).contains(&number) => Class::Baseline,
        _ => Class::Normal,
    }
}
