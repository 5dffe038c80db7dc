//! Log records to `logs_raw`. A record without a time gets its observed one, and one without either the time of arrival.

use super::{Delivery, Origin, Outcome, Overflow, Push, Reason, attributes, nanos, optional_id};
use ollystack_schema::names::LOG_COUNT;
use ollystack_schema::rows::LogRow;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

/// OTLP's highest severity, FATAL4.
pub(super) const SEVERITY_MAX: i32 = 24;

pub(super) fn convert(
    request: ExportLogsServiceRequest,
    delivery: &Delivery,
    sink: &mut impl Push,
) -> Result<Outcome, Overflow> {
    let mut outcome = Outcome::default();
    for logs in request.resource_logs {
        let resource = Origin::resource(logs.resource, logs.schema_url);
        for logs in logs.scope_logs {
            let scope = Origin::scope(logs.scope, logs.schema_url);
            let (resource, scope) = match (&resource, &scope) {
                (Ok(resource), Ok(scope)) => (resource, scope),
                (Err(reason), _) | (_, Err(reason)) => {
                    outcome.reject(*reason, logs.log_records.len());
                    sink.left_out(logs.log_records.len());
                    continue;
                }
            };
            for record in logs.log_records {
                match row(record, delivery, resource, scope) {
                    Ok(row) => {
                        sink.push(&row)?;
                        outcome.accepted += 1;
                    }
                    Err(reason) => {
                        outcome.reject(reason, 1);
                        sink.left_out(1);
                    }
                }
            }
        }
    }
    Ok(outcome)
}

fn row(record: LogRecord, delivery: &Delivery, resource: &Origin, scope: &Origin) -> Result<LogRow, Reason> {
    let arrived = i64::from(delivery.ingested_at) * 1_000_000_000;
    let given = |time: u64, instead: i64| if time == 0 { Ok(instead) } else { nanos(time) };
    let observed_timestamp = given(record.observed_time_unix_nano, arrived)?;
    let timestamp = given(record.time_unix_nano, observed_timestamp)?;
    let log_attributes = attributes::sorted(record.attributes)?;
    let line_count = attributes::get(&log_attributes, LOG_COUNT).and_then(|text| text.parse().ok()).unwrap_or(1).max(1);
    let severity = Some(record.severity_number).filter(|number| (0..=SEVERITY_MAX).contains(number)).unwrap_or(0);
    Ok(LogRow {
        tenant_id: delivery.tenant.clone(),
        timestamp,
        observed_timestamp,
        trace_id: optional_id(&record.trace_id, 16),
        span_id: optional_id(&record.span_id, 8),
        // The lower eight bits are W3C's; the rest is reserved.
        trace_flags: (record.flags & 0xff) as u8,
        severity_text: record.severity_text,
        severity_number: severity as u8,
        service_name: resource.name.clone(),
        event_name: record.event_name,
        body: attributes::text(record.body),
        line_count,
        resource_schema_url: resource.schema_url.clone(),
        resource_attributes: resource.attributes.clone(),
        scope_schema_url: scope.schema_url.clone(),
        scope_name: scope.name.clone(),
        scope_version: scope.version.clone(),
        scope_attributes: scope.attributes.clone(),
        log_attributes,
        agent_id: delivery.agent.clone(),
        batch_sequence: delivery.sequence,
        ingested_at: delivery.ingested_at,
        expires_at: delivery.expires_at,
    })
}
