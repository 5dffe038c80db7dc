//! What a single span says: which trace it is of, whether it failed, entered a service, took how long, and what went wrong.
//!
//! Read off the span alone. Invariant: nothing of it depends on what came before.

use ollystack_record::otlp::trace::v1::{Span, span::SpanKind, status::StatusCode};
use ollystack_record::value::string_attribute;
use ollystack_schema::names::semconv::ERROR_TYPE;
use xxhash_rust::xxh3::xxh3_64;

/// Whether its status says so.
pub(crate) fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32)
}

/// What went wrong, in a word, be it handled or not; nothing, if nothing did.
pub(crate) fn error_type(span: &Span) -> Option<&str> {
    let exceptions = span.events.iter().filter(|event| event.name == "exception");
    let exception = || exceptions.filter_map(|event| string_attribute(&event.attributes, "exception.type")).next();
    string_attribute(&span.attributes, ERROR_TYPE).or_else(exception).or(is_error(span).then_some(""))
}

/// One that ends before it starts took no time.
pub(crate) fn seconds(start_unix_nano: u64, end_unix_nano: u64) -> f64 {
    end_unix_nano.saturating_sub(start_unix_nano) as f64 / 1e9
}

/// Whether a span is where a trace enters its service: the root, or called from elsewhere.
pub(crate) fn is_entry(span: &Span) -> bool {
    span.parent_span_id.is_empty() || serves(span)
}

/// Whether it was called from elsewhere.
pub(crate) fn serves(span: &Span) -> bool {
    [SpanKind::Server as i32, SpanKind::Consumer as i32].contains(&span.kind)
}

/// The trace; spans without a valid id are traces of their own.
pub(crate) fn trace_id(span: &Span) -> u128 {
    let id = <[u8; 16]>::try_from(&span.trace_id[..]).map_or(0, u128::from_be_bytes);
    if id == 0 { u128::from(xxh3_64(&span.span_id)) << 64 | u128::from(xxh3_64(&span.span_id)) } else { id }
}
