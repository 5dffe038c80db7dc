//! Whether what was seen is what happened.

use crate::case::{Case, Expected};
use crate::observe::Seen;
use libtest_mimic::Failed;
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind, status::StatusCode};
use ollystack_record::value::string_attribute;
use ollystack_schema::names::semconv;

/// Kernel time becomes time since the epoch by an offset that is read anew with each batch.
const CLOCKS_NS: u64 = 5_000_000;

/// Each request once on each side, named and judged rightly, no longer than its client found it and no shorter than it took,
/// the server's part within the client's.
pub(crate) fn judge(case: &Case, seen: &[Seen], told: &str) -> Result<(), Failed> {
    let mut expected = case.expected(told)?;
    let clock = (case.clock)(told);
    if !clock.is_empty() && clock.len() != expected.len() {
        return Err(format!("the client told of {} requests, {} are expected", clock.len(), expected.len()).into());
    }
    let mut clock: Vec<(&str, f64)> = expected.iter().map(|expected| expected.name).zip(clock).collect();
    let side = |is_server: bool| {
        let kind = SpanKind::Server as i32;
        let mut spans: Vec<&Seen> = seen.iter().filter(|seen| (seen.span.kind == kind) == is_server).collect();
        spans.sort_by_key(|seen| seen.span.start_time_unix_nano);
        spans
    };
    let (mut clients, mut servers) = (side(false), side(true));
    if !case.is_ordered {
        // Those of one name are in their order.
        clients.sort_by_key(|seen| seen.span.name.as_str());
        servers.sort_by_key(|seen| seen.span.name.as_str());
        expected.sort_by_key(|expected| expected.name);
        clock.sort_by_key(|(name, _)| *name);
    }
    for (name, spans) in [("client", &clients), ("server", &servers)] {
        let found: Vec<String> = spans.iter().map(|seen| words(&seen.span)).collect();
        let expected: Vec<String> = expected.iter().map(|expected| wanted(expected, name == "server")).collect();
        if found != expected {
            return Err(differ(name, &found, &expected).into());
        }
    }
    if let Some(other) = seen.iter().map(|seen| &seen.span).find(|span| !tells_its_destination(span)) {
        return Err(format!("{}: attributes {:?}", other.name, other.attributes).into());
    }
    if let Some(other) = servers.iter().find(|seen| !seen.service.starts_with(case.service)) {
        return Err(format!("service {}, expected {}", other.service, case.service).into());
    }
    for expected in expected.iter().filter(|expected| expected.least_ms > 0) {
        let of_it = seen.iter().map(|seen| &seen.span).filter(|span| span.name == expected.name);
        if let Some(took_ms) = of_it.map(duration_ms).find(|took_ms| *took_ms < expected.least_ms as f64) {
            return Err(format!("{}: {took_ms} ms, at least {}", expected.name, expected.least_ms).into());
        }
    }
    if !case.is_ordered && clock.is_empty() {
        return Ok(());
    }
    for ((client, server), expected) in clients.iter().zip(&servers).zip(&expected) {
        let (client, server) = (&client.span, &server.span);
        // Who waits for no answer is done once it has asked.
        let is_answered = client.end_time_unix_nano > client.start_time_unix_nano;
        let is_within = client.start_time_unix_nano <= server.start_time_unix_nano + CLOCKS_NS
            && (!is_answered || server.end_time_unix_nano <= client.end_time_unix_nano + CLOCKS_NS);
        if !is_within {
            return Err(format!("{}: the server's part is not within the client's", expected.name).into());
        }
    }
    for (seen, (_, by_clock)) in clients.iter().zip(clock) {
        let took_ms = duration_ms(&seen.span);
        if took_ms > by_clock + ROUNDING_MS {
            return Err(format!("{}: {took_ms} ms, {by_clock} by the client's clock", seen.span.name).into());
        }
    }
    Ok(())
}

/// Clients round what they tell.
const ROUNDING_MS: f64 = 1.0;

fn duration_ms(span: &Span) -> f64 {
    span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) as f64 / 1e6
}

/// Of messaging: whether the attributes say what the name does, as the semantic conventions have it.
fn tells_its_destination(span: &Span) -> bool {
    let said = |key| string_attribute(&span.attributes, key);
    let is_messaging = said(semconv::MESSAGING_SYSTEM).is_some();
    span.name.split_once(' ').filter(|_| is_messaging).is_none_or(|(operation, destination)| {
        said(semconv::MESSAGING_OPERATION_NAME) == Some(operation)
            && said(semconv::MESSAGING_DESTINATION_NAME) == Some(destination)
            && said(semconv::MESSAGING_OPERATION_TYPE).is_some()
    })
}

/// A span in words: its name, and its error.
fn words(span: &Span) -> String {
    let error = string_attribute(&span.attributes, semconv::ERROR_TYPE);
    let is_error = span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
    match (error, is_error) {
        (None, false) => span.name.clone(),
        (Some(error), true) => format!("{} {error}", span.name),
        (error, is_error) => format!("{}: error.type {error:?}, but status error {is_error}", span.name),
    }
}

fn wanted(expected: &Expected, is_server: bool) -> String {
    match expected.error.filter(|_| !is_server || expected.is_fault_of_server) {
        Some(error) => format!("{} {error}", expected.name),
        None => expected.name.to_owned(),
    }
}

fn differ(side: &str, found: &[String], expected: &[String]) -> String {
    let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let first = first.unwrap_or(found.len().min(expected.len()));
    let from = first.saturating_sub(2);
    let show = |list: &[String]| list[from.min(list.len())..list.len().min(first + 30)].join("\n    ");
    format!(
        "{side}: {} spans, expected {}; from number {from} on\n  found:\n    {}\n  expected:\n    {}",
        found.len(),
        expected.len(),
        show(found),
        show(expected)
    )
}
