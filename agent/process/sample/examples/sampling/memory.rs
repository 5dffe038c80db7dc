//! What a waiting span takes, by the allocator's count.

use crate::traffic::{MS, Random, START};
use crate::{ALLOCATOR, Report, speed};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Ledger, Resource, value};
use ollystack_sample::{Config, Sampler};
use prost::Message;
use std::sync::Arc;

pub(crate) fn run(report: &mut Report) {
    let config = Config { spans_max: 1_000_000, ..Config::default() };
    for spans_per_trace in [10, 1] {
        eprintln!("memory, {spans_per_trace} spans a trace");
        let (resource, ledger) = (Arc::new(Resource::new(vec![value::string("service.name", "a")])), Arc::default());
        let mut sampler = Sampler::new(config.clone(), Arc::<Ledger>::clone(&ledger));
        let (mut random, mut out) = (Random(7), Vec::new());
        let before = ALLOCATOR.allocated();
        let (mut encoded, mut count) = (0, 0);
        // As many as fit: until the first trace is decided for want of room.
        while sampler.stats().decided_early == 0 {
            let trace = u128::from(random.next()) << 64 | u128::from(random.next());
            for at in 0..spans_per_trace {
                let span: Span = speed::span(&mut random, trace, at, false, START + MS);
                encoded += span.encoded_len();
                count += 1;
                let scopes = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
                sampler.take(&resource, scopes, START, &mut out);
            }
            out.clear();
        }
        let each = (ALLOCATOR.allocated() - before) as f64 / count as f64;
        let (wire, fit) = (encoded as f64 / count as f64, f64::from(count));
        let aim = format!("{wire:.0} and a few dozen");
        let what = format!("bytes per waiting span, {spans_per_trace} a trace");
        report.add(
            &what,
            &format!("bytes_per_waiting_span_{spans_per_trace}_a_trace"),
            each,
            format!("{each:.0}"),
            &aim,
        );
        let what = format!("spans that fit into {} MiB, {spans_per_trace} a trace", config.bytes_max >> 20);
        report.add(&what, &format!("spans_that_fit_{spans_per_trace}_a_trace"), fit, format!("{fit}"), "");
        report.figures.insert(format!("encoded_bytes_per_span_{spans_per_trace}_a_trace"), wire.into());
    }
}
