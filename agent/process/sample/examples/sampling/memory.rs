//! What a waiting span takes, by the allocator's count.

use crate::traffic::{MS, Random, START};
use crate::{ALLOCATOR, Report, speed};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Resource, value};
use ollystack_sample::{Config, Sampler};
use prost::Message;
use std::sync::Arc;

/// Operations that are learnt, and requests of each.
const OPERATIONS: usize = 500;
const REQUESTS: usize = 400;

pub(crate) fn run(report: &mut Report) {
    waiting(report);
    operations(report);
}

fn operations(report: &mut Report) {
    eprintln!("memory, {OPERATIONS} operations");
    let resource = Arc::new(Resource::new(vec![value::string("service.name", "a")]));
    let mut sampler = Sampler::new(Config::default(), Arc::default());
    let (mut random, mut out) = (Random(7), Vec::new());
    let before = ALLOCATOR.allocated();
    for _ in 0..REQUESTS {
        for operation in 0..OPERATIONS {
            // They fail, so that none of them waits, and all in one trace, so that one decision is held.
            let span = Span { name: format!("op{operation}"), ..speed::span(&mut random, 1, 9, true, START + MS) };
            sampler.take(&resource, vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }], START, &mut out);
            out.clear();
        }
    }
    let each = (ALLOCATOR.allocated() - before) as f64 / OPERATIONS as f64;
    report.add("bytes per operation known", "bytes_per_operation", each, format!("{each:.0}"), "1280");
}

fn waiting(report: &mut Report) {
    let config = Config { spans_max: 1_000_000, ..Config::default() };
    for spans_per_trace in [10, 1] {
        eprintln!("memory, {spans_per_trace} spans a trace");
        let resource = Arc::new(Resource::new(vec![value::string("service.name", "a")]));
        let mut sampler = Sampler::new(config.clone(), Arc::default());
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
