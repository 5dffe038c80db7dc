//! Spans per core-second: CPU time of the thread, over batches as an application sends them.

use crate::PORTION_BYTES;
use crate::Report;
use crate::traffic::{MS, Random, START};
use ollystack_process::Process;
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span, Status, status::StatusCode};
use ollystack_record::{Ack, Batch, Ledger, Records, Reduced, Resource, Source, value};
use ollystack_sample::{Config, Sampler};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;

const SPANS_PER_TRACE: usize = 10;
const SPANS_PER_BATCH: usize = 500;
const BATCHES: u64 = 3_000;

pub(crate) fn run(report: &mut Report) {
    let ledger = Arc::new(Ledger::default());
    // Only traces are measured: what redaction costs a span has a bench of its own.
    let config = ollystack_process::Config {
        redact: ollystack_process::redact::Config { enabled: false, ..Default::default() },
        ..Default::default()
    };
    let mut process = Process::new(config, Arc::default(), ledger);
    let with_red = measure("with RED metrics", |resource, scopes, now, out| {
        let records = Records::Traces(scopes);
        let batch = Batch { source: Source::Otlp, resource: Arc::clone(resource), records, ack: Ack::none() };
        process.take(batch, now, out);
        process.tick(now, out);
    });
    let mut sampler = Sampler::new(Config::default(), Arc::new(Ledger::default()));
    let alone = measure("alone", |resource, scopes, now, out| {
        sampler.take(resource, scopes, now, out);
        sampler.tick(now);
        while sampler.hand_out(PORTION_BYTES, out) {}
    });
    let mut add = |what: &str, name: &str, speed: f64, aim| {
        report.add(what, name, speed, format!("{:.0} k", speed / 1e3), aim);
    };
    add("spans per core-second, RED metrics included", "spans_per_core_second_with_red", with_red, "500 k");
    add("spans per core-second, sampling alone", "spans_per_core_second", alone, "");
}

fn measure(what: &str, mut take: impl FnMut(&Arc<Resource>, Vec<ScopeSpans>, u64, &mut Vec<Reduced>)) -> f64 {
    eprintln!("speed {what}");
    let resource = Arc::new(Resource::new(vec![value::string("service.name", "shop")]));
    let (mut random, mut out) = (Random(7), Vec::new());
    let (mut spent, mut kept) = (Duration::ZERO, 0);
    for batch in 0..BATCHES {
        let now = START + batch * 100 * MS;
        let scopes = vec![ScopeSpans {
            scope: Some(InstrumentationScope { name: "http".into(), ..InstrumentationScope::default() }),
            spans: spans(&mut random, now),
            schema_url: String::new(),
        }];
        let begun = clock();
        take(&resource, scopes, now, &mut out);
        spent += clock() - begun;
        kept += out.drain(..).filter(|r| r.records.signal().name() == "traces").map(|r| r.records.count()).sum::<u64>();
    }
    let taken = BATCHES * SPANS_PER_BATCH as u64;
    eprintln!("{:.1}% of {taken} kept", 100.0 * kept as f64 / taken as f64);
    taken as f64 / spent.as_secs_f64()
}

fn clock() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Whole traces, 1 in 200 of which fails.
pub(crate) fn spans(random: &mut Random, now: u64) -> Vec<Span> {
    let mut spans = Vec::with_capacity(SPANS_PER_BATCH);
    while spans.len() < SPANS_PER_BATCH {
        let trace = u128::from(random.next()) << 64 | u128::from(random.next());
        let failed = random.uniform() < 0.005;
        spans.extend((0..SPANS_PER_TRACE).map(|at| span(random, trace, at, failed && at + 1 == SPANS_PER_TRACE, now)));
    }
    spans
}

/// A span of a web shop: 8 attributes, about 430 bytes as OTLP.
pub(crate) fn span(random: &mut Random, trace: u128, at: usize, failed: bool, now: u64) -> Span {
    let root = at + 1 == SPANS_PER_TRACE;
    let id = random.next();
    let duration = (10.0 * MS as f64 * (1.0 - random.uniform()).powf(-0.3)) as u64;
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        parent_span_id: if root { Vec::new() } else { vec![1; 8] },
        name: ["GET /orders/{id}", "select orders", "HGETALL", "render", "POST /payments"][at % 5].into(),
        kind: if root { 2 } else { 1 + 2 * (at as i32 % 2) },
        start_time_unix_nano: now - duration,
        end_time_unix_nano: now,
        attributes: vec![
            value::string("http.request.method", "GET"),
            value::string("url.path", format!("/orders/{}", id % 100_000)),
            value::string("server.address", "orders.shop.svc.cluster.local"),
            value::int("server.port", 8080),
            value::int("http.response.status_code", 200),
            value::string(
                "user_agent.original",
                "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            ),
            value::string("network.peer.address", "10.42.7.19"),
            value::string("thread.name", "http-nio-8080-exec-7"),
        ],
        status: failed.then(|| Status { code: StatusCode::Error as i32, message: "timeout".into() }),
        ..Span::default()
    }
}
