//! A record completed from its own text. Invariant: what the sender said stands.

use crate::parse::{Parsed, parse_at};
use crate::severity;
use crate::summary::text_of;
use crate::time::Clock;
use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::otlp::logs::v1::LogRecord;
use std::ops::Range;

/// A completed record. Its level is copied out of its text only if the record goes on: most fold, and are gone.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) record: LogRecord,
    /// Where in the text the message is; none if the body is no text.
    pub(crate) message: Option<Range<usize>>,
    level: Option<Range<usize>>,
}

impl Line {
    /// Fill in what the record leaves open and its text says.
    pub(crate) fn complete(mut record: LogRecord, clock: Clock<'_>) -> Line {
        if record.severity_number == 0
            && let Some(severity) = severity::of_word(record.severity_text.as_bytes())
        {
            record.severity_number = severity as i32;
        }
        let Some(Value::StringValue(text)) = record.body.as_ref().and_then(|body| body.value.as_ref()) else {
            return Line { record, message: None, level: None };
        };
        let Parsed { time_unix_nano, severity, message, trace_id, span_id } = parse_at(text, clock);
        let place = |part: &str| {
            let begin = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
            begin..begin + part.len()
        };
        let message = place(message);
        let severity = severity.map(|(severity, word)| (severity, place(word)));
        if record.time_unix_nano == 0 {
            record.time_unix_nano = time_unix_nano.unwrap_or(0);
        }
        let mut level = None;
        if let Some((severity, word)) = severity
            && record.severity_number == 0
        {
            record.severity_number = severity as i32;
            level = record.severity_text.is_empty().then_some(word);
        }
        if let Some(trace_id) = trace_id
            && record.trace_id.is_empty()
        {
            record.trace_id = trace_id.to_vec();
            record.span_id = span_id.map(Vec::from).unwrap_or_default();
        }
        Line { record, message: Some(message), level }
    }

    pub(crate) fn severity_text(&self) -> &str {
        match &self.level {
            Some(level) => text_of(&self.record).get(level.clone()).unwrap_or_default(),
            None => &self.record.severity_text,
        }
    }

    pub(crate) fn into_record(mut self) -> LogRecord {
        if self.level.is_some() {
            self.record.severity_text = self.severity_text().to_owned();
        }
        self.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Zone;
    use ollystack_record::otlp::common::v1::AnyValue;
    use ollystack_record::otlp::logs::v1::SeverityNumber;

    fn completed(body: &str, mut record: LogRecord) -> (LogRecord, String) {
        record.body = Some(AnyValue { value: Some(Value::StringValue(body.to_owned())) });
        let line = Line::complete(record, Clock { now_unix_nano: 0, zone: &Zone::UTC });
        let message = text_of(&line.record)[line.message.clone().unwrap()].to_owned();
        (line.into_record(), message)
    }

    #[test]
    fn what_the_sender_said_stands() {
        let body = r#"{"time":"2026-11-20T09:12:07Z","level":"error","trace_id":"0102030405060708090a0b0c0d0e0f10","msg":"x"}"#;
        let said = LogRecord {
            time_unix_nano: 7,
            severity_number: SeverityNumber::Info as i32,
            severity_text: "note".into(),
            trace_id: vec![1; 16],
            ..LogRecord::default()
        };
        let (record, message) = completed(body, said.clone());
        assert_eq!((LogRecord { body: None, ..record }, message.as_str()), (said, "x"));
        let (record, _) =
            completed("ERROR in the body", LogRecord { severity_text: "Warning".into(), ..LogRecord::default() });
        assert_eq!((record.severity_number, record.severity_text.as_str()), (SeverityNumber::Warn as i32, "Warning"));
    }

    #[test]
    fn what_the_sender_left_open_is_read_from_the_text() {
        let body = r#"{"time":"2026-11-20T09:12:07Z","level":"error","trace_id":"0102030405060708090a0b0c0d0e0f10","span_id":"0102030405060708","msg":"x"}"#;
        let (record, _) = completed(body, LogRecord::default());
        assert_eq!(record.time_unix_nano, 1_795_165_927_000_000_000);
        assert_eq!((record.severity_number, record.severity_text.as_str()), (SeverityNumber::Error as i32, "error"));
        assert_eq!(record.trace_id, (1..=16).collect::<Vec<u8>>());
        assert_eq!(record.span_id, (1..=8).collect::<Vec<u8>>());
    }
}
