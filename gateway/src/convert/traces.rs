//! Spans to `traces_raw`, each with the number of spans it stands for.

use super::{Delivery, Origin, Outcome, Overflow, Push, Reason, attributes, id, nanos, nanos_not_zero, optional_id};
use ollystack_schema::names::{SPAN_KINDS, STATUS_CODES, TRACESTATE_THRESHOLD, TRACESTATE_VENDOR};
use ollystack_schema::rows::SpanRow;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;

pub(super) fn convert(
    request: ExportTraceServiceRequest,
    delivery: &Delivery,
    sink: &mut impl Push,
) -> Result<Outcome, Overflow> {
    let mut outcome = Outcome::default();
    for spans in request.resource_spans {
        let resource = Origin::resource(spans.resource, spans.schema_url);
        for spans in spans.scope_spans {
            let scope = Origin::scope(spans.scope, spans.schema_url);
            let (resource, scope) = match (&resource, &scope) {
                (Ok(resource), Ok(scope)) => (resource, scope),
                (Err(reason), _) | (_, Err(reason)) => {
                    outcome.reject(*reason, spans.spans.len());
                    sink.left_out(spans.spans.len());
                    continue;
                }
            };
            for span in spans.spans {
                match row(span, delivery, resource, scope) {
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

fn row(span: Span, delivery: &Delivery, resource: &Origin, scope: &Origin) -> Result<SpanRow, Reason> {
    let status = span.status.unwrap_or_default();
    let mut row = SpanRow {
        tenant_id: delivery.tenant.clone(),
        timestamp: nanos_not_zero(span.start_time_unix_nano)?,
        trace_id: id(&span.trace_id, 16, Reason::TraceId)?,
        span_id: id(&span.span_id, 8, Reason::SpanId)?,
        parent_span_id: optional_id(&span.parent_span_id, 8),
        sample_weight: weight(&span.trace_state),
        trace_state: span.trace_state,
        trace_flags: span.flags,
        span_name: span.name,
        span_kind: named(&SPAN_KINDS, span.kind).to_owned(),
        service_name: resource.name.clone(),
        resource_schema_url: resource.schema_url.clone(),
        resource_attributes: resource.attributes.clone(),
        scope_schema_url: scope.schema_url.clone(),
        scope_name: scope.name.clone(),
        scope_version: scope.version.clone(),
        scope_attributes: scope.attributes.clone(),
        span_attributes: attributes::sorted(span.attributes)?,
        duration: u64::try_from(nanos(span.end_time_unix_nano)?).unwrap_or(0).saturating_sub(span.start_time_unix_nano),
        status_code: named(&STATUS_CODES, status.code).to_owned(),
        status_message: status.message,
        agent_id: delivery.agent.clone(),
        batch_sequence: delivery.sequence,
        ingested_at: delivery.ingested_at,
        expires_at: delivery.expires_at,
        ..SpanRow::default()
    };
    for event in span.events {
        row.event_timestamps.push(nanos(event.time_unix_nano)?);
        row.event_names.push(event.name);
        row.event_attributes.push(attributes::sorted(event.attributes)?);
    }
    for link in span.links {
        row.link_trace_ids.push(optional_id(&link.trace_id, 16));
        row.link_span_ids.push(optional_id(&link.span_id, 8));
        row.link_trace_states.push(link.trace_state);
        row.link_attributes.push(attributes::sorted(link.attributes)?);
    }
    Ok(row)
}

/// The name of an enum's number; of one that is not known, that of 0.
pub(super) fn named(names: &[&'static str], number: i32) -> &'static str {
    usize::try_from(number).ok().and_then(|index| names.get(index)).or(names.first()).copied().unwrap_or_default()
}

/// How many spans a span stands for, from W3C tracestate `ot=th:T`: the sampler kept those of its trace ids whose 56 random bits
/// are at least T, so 1 in 2^56 / (2^56 - T). T is written as up to 14 hexadecimal digits without its trailing zeros.
/// <https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>
pub(super) fn weight(tracestate: &str) -> f64 {
    threshold(tracestate).map_or(1.0, |threshold| {
        const ALL: u64 = 1 << 56;
        // Subtracted as whole numbers: near 2^56 a double would round the difference to nothing.
        ALL as f64 / (ALL - threshold) as f64
    })
}

fn threshold(tracestate: &str) -> Option<u64> {
    let ours =
        tracestate.split(',').find_map(|member| member.trim().strip_prefix(TRACESTATE_VENDOR)?.strip_prefix('='))?;
    let digits = ours.split(';').find_map(|pair| pair.strip_prefix(TRACESTATE_THRESHOLD)?.strip_prefix(':'))?;
    if digits.is_empty() || digits.len() > 14 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(&format!("{digits:0<14}"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_one_over_the_probability() {
        for (tracestate, expected) in [
            ("", 1.0),
            ("ot=th:0", 1.0),
            ("ot=th:8", 2.0),
            ("ot=th:c", 4.0),
            ("congo=t61rcWkgMzE,ot=rv:aa;th:c", 4.0),
            ("congo=x, ot=th:80000000000000;rv:1", 2.0),
            ("other=th:8", 1.0),
            ("ot=th:", 1.0),
            ("ot=th:zz", 1.0),
            ("ot=th:123456789abcdef", 1.0),
        ] {
            assert_eq!(weight(tracestate), expected, "{tracestate}");
        }
        let one_percent = weight("ot=th:fd70a3d70a3d7");
        assert!((one_percent - 100.0).abs() < 1e-6, "{one_percent}");
        assert!(weight("ot=th:ffffffffffffff").is_finite());
    }

    #[test]
    fn an_unknown_number_is_unspecified() {
        assert_eq!(named(&SPAN_KINDS, 2), "Server");
        assert_eq!(named(&SPAN_KINDS, -1), "Unspecified");
        assert_eq!(named(&STATUS_CODES, 99), "Unset");
    }
}
