//! Records on their way out, by class and scope.

use crate::window::Scope;
use ollystack_record::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use ollystack_record::{Ack, Class, Outcome, Reduced, ReducedRecords, Resource};

/// Those of log records.
pub(crate) const CLASSES: [Class; 3] = [Class::Errors, Class::Normal, Class::Debug];

/// Where a class stands among them.
pub(crate) fn way(class: Class) -> usize {
    CLASSES.iter().position(|known| *known == class).unwrap_or(CLASSES.len() - 1)
}

/// The records of one resource.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    by_class: [Vec<(usize, ScopeLogs)>; 3],
    count: u64,
}

impl Rows {
    /// A record of the scope with this number; scopes come one after the other, so that only the last is looked at. Its class.
    pub(crate) fn push(&mut self, number: usize, scope: &Scope, record: LogRecord) -> Class {
        self.count += 1;
        let class = class(&record);
        let scopes = &mut self.by_class[way(class)];
        match scopes.last_mut() {
            Some((last, scope)) if *last == number => scope.log_records.push(record),
            _ => {
                let (scope, schema_url) = scope.clone();
                scopes.push((number, ScopeLogs { scope, log_records: vec![record], schema_url }));
            }
        }
        class
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Hand them on, those of each class with its acknowledgement. With no record there is nothing to wait for.
    pub(crate) fn hand_on(self, resource: &Resource, acks: [Option<Ack>; 3], out: &mut Vec<Reduced>) {
        for ((class, scopes), ack) in CLASSES.into_iter().zip(self.by_class).zip(acks) {
            if scopes.is_empty() {
                ack.into_iter().for_each(|ack| ack.resolve(Outcome::Durable));
                continue;
            }
            let scope_logs = scopes.into_iter().map(|(_, scope)| scope).collect();
            let resource = Some(resource.to_proto());
            let records = ReducedRecords::Logs(ResourceLogs { resource, scope_logs, ..ResourceLogs::default() });
            out.push(Reduced { class, records, acks: ack.into_iter().collect() });
        }
    }
}

/// Whether a severity is that of an error.
pub(crate) fn is_error(severity: i32) -> bool {
    severity >= SeverityNumber::Error as i32
}

/// What a record is worth.
pub(crate) fn class(record: &LogRecord) -> Class {
    match record.severity_number {
        number if is_error(number) => Class::Errors,
        number if (1..SeverityNumber::Info as i32).contains(&number) => Class::Debug,
        _ => Class::Normal,
    }
}
