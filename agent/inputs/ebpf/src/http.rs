//! HTTP records to batches of spans, one batch a process.
//!
//! Invariant: a span is handed in once, as soon as [`Http::hand_in`] is called after its answer was seen.

mod pair;
mod parse;
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
}

impl Http {
    pub(crate) fn new(connections_max: usize) -> Http {
        Http { pairing: Pairing::new(connections_max), identifiers: Identifiers::new(), spans: HashMap::new(), held: 0 }
    }

    /// Take one record as the kernel wrote it.
    pub(crate) fn take(&mut self, record: &[u8], offset_ns: u64, processes: &mut Processes) {
        let Some(meta) = ollystack_ebpf::read::<Meta>(record) else { return };
        let copied = usize::from(meta.captured);
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
        let Counts { unanswered, unpaired, lost, over_limit } = std::mem::take(&mut self.pairing.counts);
        add(&stats.http_unanswered, unanswered);
        add(&stats.http_unpaired, unpaired);
        for (reason, requests) in [(DropReason::KernelRingFull, lost), (DropReason::TraceLimit, over_limit)] {
            intake.ledger().seen(Signal::Traces, requests);
            intake.ledger().dropped(Signal::Traces, reason, requests);
        }
    }
}
