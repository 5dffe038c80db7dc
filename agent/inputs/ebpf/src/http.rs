//! HTTP records to batches of spans, one batch a process.
//!
//! Invariant: a span is handed in once, as soon as [`Http::hand_in`] is called after its answer was seen.

mod pair;
pub(crate) mod parse;
mod route;
mod span;

pub(crate) use span::addresses;

use crate::processes::Processes;
use crate::scope;
use crate::stats::{Stats, add};
use hashbrown::HashMap;
use ollystack_ebpf::http::{Meta, PREFIX_BYTES};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Ack, Batch, DropReason, Intake, Records, Resource, Signal, Source};
use pair::{Counts, Pairing};
use span::Identifiers;
use std::sync::Arc;

/// Spans that are handed in before their time is up.
const SPANS_MAX: usize = 512;

/// The state of HTTP.
pub(crate) struct Http {
    pairing: Pairing,
    identifiers: Identifiers,
    /// By process; the resource is the one of its first span.
    spans: HashMap<u32, (Arc<Resource>, Vec<Span>)>,
    held: usize,
    /// Heads that were there and not looked at.
    heads_left: u64,
}

impl Http {
    pub(crate) fn new(connections_max: usize) -> Http {
        Http {
            pairing: Pairing::new(connections_max),
            identifiers: Identifiers::new(),
            spans: HashMap::new(),
            held: 0,
            heads_left: 0,
        }
    }

    /// Take one record as the kernel wrote it. Without `heads`, metadata alone: counts, status and latency stay true.
    pub(crate) fn take(&mut self, record: &[u8], heads: bool, offset_ns: u64, processes: &mut Processes) {
        let Some(meta) = ollystack_ebpf::read::<Meta>(record) else { return };
        let copied = if heads { usize::from(meta.captured) } else { 0 };
        self.heads_left += u64::from(!heads && meta.captured > 0);
        let head = record.get(size_of::<Meta>()..size_of::<Meta>() + copied).filter(|head| !head.is_empty());
        let prefix = meta.prefix;
        let length = PREFIX_BYTES.min(meta.length as usize);
        let Some(exchange) = self.pairing.take(&meta, head.unwrap_or(&prefix[..length])) else { return };
        let Some(span) = span::span(exchange, offset_ns, &mut self.identifiers) else { return };
        let (_, spans) = self
            .spans
            .entry(meta.process)
            .or_insert_with(|| (processes.who(meta.process, &meta.command, meta.time_ns).process, Vec::new()));
        spans.push(span);
        self.held += 1;
    }

    /// Whether enough is held to hand it in.
    pub(crate) fn is_full(&self) -> bool {
        self.held >= SPANS_MAX
    }

    /// Hand in all spans.
    pub(crate) fn hand_in(&mut self, intake: &Intake, stats: &Stats) {
        add(&stats.http_spans, self.held as u64);
        self.held = 0;
        for (_, (resource, spans)) in self.spans.drain() {
            let scope = ScopeSpans { scope: Some(scope().proto.clone()), spans, ..ScopeSpans::default() };
            let records = Records::Traces(vec![scope]);
            intake.offer(Batch { source: Source::Ebpf, resource, records, ack: Ack::none() });
        }
    }

    /// Forget what has been silent for long, and account for what did not become a span.
    pub(crate) fn settle(&mut self, now_ns: u64, intake: &Intake, stats: &Stats) {
        self.pairing.expire(now_ns);
        add(&stats.http_heads_cut, std::mem::take(&mut self.heads_left));
        let Counts { unanswered, unpaired, lost, over_limit } = std::mem::take(&mut self.pairing.counts);
        add(&stats.http_unanswered, unanswered);
        add(&stats.http_unpaired, unpaired);
        for (reason, requests) in [(DropReason::KernelRingFull, lost), (DropReason::TraceLimit, over_limit)] {
            intake.ledger().seen(Signal::Traces, requests);
            intake.ledger().dropped(Signal::Traces, reason, requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::http::{RECEIVED, REQUEST, RESPONSE, SENT, Small};
    use ollystack_record::{Ledger, value};

    fn record(kind: u8, direction: u8, sequence: u32, text: &str) -> Vec<u8> {
        let mut small = Small { meta: ollystack_ebpf::read::<Meta>(&[0; size_of::<Meta>()]).unwrap(), head: [0; _] };
        small.head[..text.len()].copy_from_slice(text.as_bytes());
        small.meta.prefix.copy_from_slice(&text.as_bytes()[..PREFIX_BYTES]);
        (small.meta.kind, small.meta.direction, small.meta.sequence) = (kind, direction, sequence);
        (small.meta.captured, small.meta.length) = (text.len() as u16, text.len() as u32);
        (small.meta.time_ns, small.meta.socket) = (u64::from(sequence) * 1_000, 7);
        let mut bytes = ollystack_ebpf::bytes_of(&small.meta).to_vec();
        bytes.extend_from_slice(&small.head[..text.len()]);
        bytes
    }

    #[test]
    fn when_memory_presses_a_request_is_still_a_span_with_its_status_though_its_head_is_not_looked_at() {
        let path_and_status = |heads: bool| {
            let (intake, mut receiver) = Intake::new(8, 100, Arc::new(Ledger::default()));
            let (mut http, stats) = (Http::new(16), Stats::default());
            let mut processes = Processes::new(Arc::default(), 16);
            http.take(&record(REQUEST, RECEIVED, 1, "GET /orders/17/lines HTTP/1.1\r\n\r\n"), heads, 0, &mut processes);
            http.take(&record(RESPONSE, SENT, 2, "HTTP/1.1 503 Service Unavailable\r\n\r\n"), heads, 0, &mut processes);
            http.hand_in(&intake, &stats);
            http.settle(0, &intake, &stats);
            let Records::Traces(scopes) = receiver.try_recv().unwrap().batch.records else { unreachable!() };
            let span = &scopes[0].spans[0];
            let path = value::string_attribute(&span.attributes, "url.path").map(str::to_owned);
            let status = span.attributes.iter().any(|attribute| attribute.key == "http.response.status_code");
            (path, status, stats.read().http_heads_cut)
        };
        assert_eq!(path_and_status(true), (Some("/orders/17/lines".to_owned()), true, 0));
        assert_eq!(path_and_status(false), (None, true, 2));
    }
}
