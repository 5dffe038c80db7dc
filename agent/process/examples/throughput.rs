//! How many samples and spans one core folds and samples a second, and what a series and a waiting span take.
//!
//! `cargo run --release -p ollystack-process --example throughput`. Everything runs on one thread. Memory is the growth of the
//! resident set, so it has the allocator's share in it; each measurement runs in a process of its own.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

use ollystack_process::{Config, Process};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{
    Ack, Batch, Kind, Ledger, Metric, Records, Resource, Sample, Scope, Series, Source, Value, value,
};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_700_000_040 * SECOND;

/// Second field of statm, in pages of 4 KiB.
fn resident_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

fn process(grace_ms: u64) -> (Process, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::default());
    let mut config = Config::default();
    config.metrics.series_max = 200_000;
    config.metrics.series_per_source_max = 200_000;
    config.traces.grace_ms = grace_ms;
    config.traces.spans_max = 1_000_000;
    config.traces.bytes_max = 1 << 30;
    (Process::new(config, Arc::default(), Arc::clone(&ledger)), ledger)
}

fn batch(source: Source, resource: &Arc<Resource>, records: Records) -> Batch {
    Batch { source, resource: Arc::clone(resource), records, ack: Ack::none() }
}

fn fold(count: usize) {
    let scope = Arc::new(Scope::default());
    let metric = |kind| Arc::new(Metric { name: "m".into(), unit: "1".into(), kind, ..Metric::default() });
    let kinds = [metric(Kind::Gauge), metric(Kind::Sum { monotonic: true, delta: false })];
    let series: Vec<Arc<Series>> = (0..count)
        .map(|n| {
            let labels = vec![value::int("n", n as i64), value::string("device", "sda")];
            Arc::new(Series::new(Arc::clone(&scope), Arc::clone(&kinds[n % 2]), labels))
        })
        .collect();
    let resource = Arc::new(Resource::default());
    let (mut process, _ledger) = process(500);
    let seconds = (6_000_000 / count).clamp(65, 600);
    let (mut out, mut points, mut spent) = (Vec::new(), 0, 0.0);
    let before = resident_bytes();
    let mut held = 0;
    for second in 0..seconds as u64 {
        let now = START + second * SECOND;
        let samples: Vec<Sample> =
            series.iter().map(|s| Sample::number(s, START, now, Value::Double(second as f64))).collect();
        let begun = Instant::now();
        process.take(batch(Source::Host, &resource, Records::Metrics(samples)), now, &mut out);
        process.tick(now, &mut out);
        spent += begun.elapsed().as_secs_f64();
        points += out.drain(..).map(|reduced| reduced.records.count()).sum::<u64>();
        if second == 50 {
            held = resident_bytes() - before;
        }
    }
    let samples = count * seconds;
    println!(
        "fold    {count:>7} series: {:>6.2} M samples/core-s, {:>4} bytes a series, {:.1} samples a point",
        samples as f64 / spent / 1e6,
        held / count as i64,
        samples as f64 / points as f64
    );
}

fn sample(spans_per_trace: usize, grace_ms: u64) {
    let resource = Arc::new(Resource::new(vec![value::string("service.name", "shop")]));
    let (mut process, _ledger) = process(grace_ms);
    let (mut out, mut kept, mut spent, mut taken) = (Vec::new(), 0, 0.0, 0);
    let (before, mut held) = (resident_bytes(), 0);
    let mut random = 1_u64;
    for round in 0..400_u64 {
        let now = START + round * SECOND / 4;
        let span = |at: usize, random: u64| Span {
            trace_id: (u128::from(random) << 64 | u128::from(random.rotate_left(17))).to_be_bytes().to_vec(),
            span_id: random.wrapping_add(at as u64).to_be_bytes().to_vec(),
            parent_span_id: if at + 1 == spans_per_trace { Vec::new() } else { vec![1; 8] },
            name: format!("GET /orders/{{id}}/{}", at % 20),
            kind: 2 + (at % 2) as i32,
            start_time_unix_nano: now - SECOND / 100 - random % (SECOND / 100),
            end_time_unix_nano: now,
            attributes: (0..8)
                .map(|n| value::string(format!("http.attribute.{n}"), "a value of some length"))
                .collect(),
            ..Span::default()
        };
        let mut spans = Vec::new();
        for _ in 0..2_000 / spans_per_trace {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            spans.extend((0..spans_per_trace).map(|at| span(at, random)));
        }
        taken += spans.len();
        let records = Records::Traces(vec![ScopeSpans { spans, ..ScopeSpans::default() }]);
        let begun = Instant::now();
        process.take(batch(Source::Otlp, &resource, records), now, &mut out);
        process.tick(now, &mut out);
        spent += begun.elapsed().as_secs_f64();
        kept += out.drain(..).filter(|r| r.records.signal().name() == "traces").map(|r| r.records.count()).sum::<u64>();
        if round == 200 {
            held = resident_bytes() - before;
        }
    }
    let stats = process.stats().sample;
    println!(
        "sample  {spans_per_trace:>2} spans a trace, decided after {grace_ms:>4} ms: {:>4.0} k spans/core-s (RED included), {:.1}% kept, {:>5} spans wait in {:.1} MB, counted as {:.1} MB",
        taken as f64 / spent / 1e3,
        100.0 * kept as f64 / taken as f64,
        stats.waiting_spans,
        held as f64 / 1e6,
        stats.waiting_bytes as f64 / 1e6
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |text: &String| text.parse::<u64>().unwrap();
    match &arguments[..] {
        [what, series] if what == "fold" => fold(number(series) as usize),
        [what, spans, grace_ms] if what == "sample" => sample(number(spans) as usize, number(grace_ms)),
        _ => {
            for run in [
                "fold 1000",
                "fold 10000",
                "fold 100000",
                "sample 1 500",
                "sample 1 4500",
                "sample 10 500",
                "sample 10 4500",
            ] {
                let own = std::env::current_exe().unwrap();
                assert!(Command::new(own).args(run.split(' ')).status().unwrap().success());
            }
        }
    }
}
