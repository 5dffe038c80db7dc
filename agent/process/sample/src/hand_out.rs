//! Kept spans as messages: one per class and resource, their scopes within.
//!
//! Invariant: spans of an origin go out in the order in which they were kept.

use crate::origins::{Origin, Origins};
use ollystack_record::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span};
use ollystack_record::{Class, Reduced, ReducedRecords};

/// A span that goes out; it holds its origin.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) class: Class,
    pub(crate) origin: u32,
    pub(crate) span: Span,
}

/// Append them to `out`, and let their origins go.
pub(crate) fn hand_out(mut kept: Vec<Kept>, origins: &mut Origins, out: &mut Vec<Reduced>) {
    let resource = |number: u32| origins.get(number).map_or(0, |origin| origin.resource.hash());
    kept.sort_by_key(|kept| (kept.class, resource(kept.origin), kept.origin));
    let mut last: Option<(Class, u32)> = None;
    let mut message: Option<(Class, ResourceSpans)> = None;
    for Kept { class, origin: number, span } in kept {
        if let Some(origin) = origins.get(number)
            && last != Some((class, number))
        {
            let before = last.and_then(|(_, number)| origins.get(number));
            let same = |before: &Origin| before.resource == origin.resource;
            if last.is_none_or(|(of, _)| of != class) || !before.is_some_and(same) {
                out.extend(message.take().map(reduced));
                let resource = Some(origin.resource.to_proto());
                message = Some((class, ResourceSpans { resource, ..ResourceSpans::default() }));
            }
            if let Some((_, message)) = &mut message {
                let Origin { scope, schema_url, .. } = origin;
                let (scope, schema_url) = (scope.clone(), schema_url.clone());
                message.scope_spans.push(ScopeSpans { scope, schema_url, spans: Vec::new() });
            }
            if let Some((_, before)) = last.replace((class, number)) {
                origins.let_go(before);
            }
        } else {
            origins.let_go(number);
        }
        if let Some(scope) = message.as_mut().and_then(|(_, message)| message.scope_spans.last_mut()) {
            scope.spans.push(span);
        }
    }
    if let Some((_, number)) = last {
        origins.let_go(number);
    }
    out.extend(message.map(reduced));
}

fn reduced((class, spans): (Class, ResourceSpans)) -> Reduced {
    Reduced { class, records: ReducedRecords::Traces(spans), acks: Vec::new() }
}
