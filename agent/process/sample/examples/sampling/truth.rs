//! Known truth against what was kept: errors, slow requests, weighted sums, the budget.
//!
//! Invariant: weights are read off the wire (`ot=th`) by code of its own, not by the sampler's.

use crate::PORTION_BYTES;
use crate::Report;
use crate::traffic::{Known, OPERATIONS, SERVICES, START, Shape, Traffic, resources};
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Ledger, Reduced, ReducedRecords, Resource, Signal};
use ollystack_sample::{Config, Sampler};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub(crate) const NOTES: &[&str] = &[
    "traffic: 3 services, 8 operations with log-normal durations, 0.5% of traces fail, 2% of spans come 1 to 21 s late, 1% of roots never, 5% health checks",
    "steady: 6 seeds, 240 s of 200 traces/s; bursts: 20 seeds, 180 s of 200 traces/s and of 2,000 in the last third of each minute",
    "slow: over the true p99 of its operation, and over the p99 of what the operation had until then; counted from 1,000 requests on",
    "bias: sum of weights less the truth over all seeds, in standard errors of that sum; health checks, which are let go whole, are left out",
    "budget: all spans kept a second over the 800 asked for, with baseline_ratio = 1 so that it alone decides; the first 20 s are left out",
];

const BUDGET: f64 = 800.0;
/// Requests of an operation before it is asked what is slow for it.
const WARM: usize = 1_000;
const WARM_SECONDS: u64 = 20;

/// Sums over one service.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    truth: f64,
    estimate: f64,
    variance: f64,
}

impl Sum {
    fn bias(&self) -> f64 {
        if self.variance > 0.0 { (self.estimate - self.truth) / self.variance.sqrt() } else { 0.0 }
    }
}

/// What all seeds of a shape found.
#[derive(Debug, Default)]
struct Found {
    errors: (u64, u64),
    slow_known: (u64, u64),
    slow_true: (u64, u64),
    spans: [Sum; SERVICES.len()],
    requests: [Sum; SERVICES.len()],
    health_checks: (u64, u64),
    /// Spans kept and seconds, by whether a burst was on.
    kept: [(f64, f64); 2],
    worst_ten_seconds: f64,
    taken: u64,
    handed_out: u64,
    unaccounted: i64,
    let_go_early: u64,
}

pub(crate) fn run(report: &mut Report) {
    let steady = Shape { seconds: 240, traces_per_second: 200.0, bursts: false };
    let bursts = Shape { seconds: 180, traces_per_second: 200.0, bursts: true };
    let (mut calm, mut rough) = (Found::default(), Found::default());
    for seed in 0..6 {
        eprintln!("steady traffic, seed {seed}");
        seed_of(1_000 + seed, steady, &mut calm);
    }
    for seed in 0..20 {
        eprintln!("bursts, seed {seed}");
        seed_of(seed, bursts, &mut rough);
    }
    for (name, key, found) in [("steady", "steady", &calm), ("bursts", "bursts", &rough)] {
        report.share(&format!("{name}: failed spans kept"), &format!("errors_kept_{key}"), found.errors, "100%");
        let what = format!("{name}: slow requests kept, by the p99 until then");
        report.share(&what, &format!("slow_kept_{key}"), found.slow_known, "100%");
        let what = format!("{name}: slow requests kept, by the true p99");
        report.share(&what, &format!("slow_true_kept_{key}"), found.slow_true, "100%");
        let what = format!("{name}: health checks kept that did not fail");
        report.share(&what, &format!("health_checks_kept_{key}"), found.health_checks, "0%");
        let sums = [("spans", &found.spans), ("requests", &found.requests)];
        for (unit, sums) in sums {
            for (service, sum) in SERVICES.iter().zip(sums) {
                bias(report, &format!("{name}: {unit} of {service}"), &format!("bias_{key}_{unit}_{service}"), sum);
            }
        }
        let all = found.kept[0].0 + found.kept[1].0;
        let met = all / (found.kept[0].1 + found.kept[1].1) / BUDGET;
        report.add(&format!("{name}: budget used"), &format!("budget_used_{key}"), met, percent(met), "90 to 110%");
        if found.kept[1].1 > 0.0 {
            for (at, when) in [(0, "between"), (1, "during")] {
                let met = found.kept[at].0 / found.kept[at].1 / BUDGET;
                report.add(
                    &format!("budget used {when} bursts"),
                    &format!("budget_used_{when}_bursts"),
                    met,
                    percent(met),
                    "",
                );
            }
            let worst = found.worst_ten_seconds / BUDGET;
            report.add("budget used in the worst 10 s", "budget_used_worst_10s", worst, percent(worst), "");
        }
        let reduction = found.taken as f64 / found.handed_out as f64;
        report.add(
            &format!("{name}: spans in per span out"),
            &format!("reduction_{key}"),
            reduction,
            format!("{reduction:.1}"),
            "",
        );
        let early = found.let_go_early as f64;
        report.add(
            &format!("{name}: traces decided early"),
            &format!("decided_early_{key}"),
            early,
            format!("{early}"),
            "",
        );
        let unaccounted = found.unaccounted as f64;
        report.add(
            &format!("{name}: spans unaccounted for"),
            &format!("unaccounted_{key}"),
            unaccounted,
            format!("{unaccounted}"),
            "0",
        );
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn bias(report: &mut Report, what: &str, name: &str, sum: &Sum) {
    let relative = 100.0 * (sum.estimate / sum.truth - 1.0);
    let shown = format!("{:+.2} SE ({relative:+.2}% of {:.0})", sum.bias(), sum.truth);
    report.add(what, name, sum.bias(), shown, "within 2 SE");
}

/// The sampler at work on one seed, and the books about it.
struct Run {
    sampler: Sampler,
    ledger: Arc<Ledger>,
    resources: Vec<Arc<Resource>>,
    out: Vec<Reduced>,
    /// By span id: its weight.
    kept: HashMap<Vec<u8>, f64>,
    by_second: Vec<f64>,
}

fn seed_of(seed: u64, shape: Shape, found: &mut Found) {
    let config = Config { baseline_ratio: 1.0, budget_spans_per_second: BUDGET, ..Config::default() };
    let ledger = Arc::new(Ledger::default());
    let mut run = Run {
        sampler: Sampler::new(config, Arc::clone(&ledger)),
        ledger,
        resources: resources(),
        out: Vec::new(),
        kept: HashMap::new(),
        by_second: Vec::new(),
    };
    let mut all = Vec::new();
    let mut traffic = Traffic::new(seed, shape);
    while let Some((now, arrived)) = traffic.step() {
        run.step(now, &arrived);
        all.extend(arrived);
    }
    run.sampler.drain();
    while run.sampler.hand_out(PORTION_BYTES, &mut run.out) {}
    run.collect(0);
    found.add(&all, &run, shape);
}

impl Run {
    fn step(&mut self, now: u64, arrived: &[Known]) {
        for (service, resource) in self.resources.clone().iter().enumerate() {
            let spans: Vec<Span> = arrived.iter().filter(|k| k.service == service).map(|k| k.span.clone()).collect();
            if !spans.is_empty() {
                self.ledger.seen(Signal::Traces, spans.len() as u64);
                let scopes = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
                self.sampler.take(resource, scopes, now, &mut self.out);
            }
        }
        self.sampler.tick(now);
        while self.sampler.hand_out(PORTION_BYTES, &mut self.out) {}
        self.collect(((now - START) / 1_000_000_000) as usize);
    }

    fn collect(&mut self, second: usize) {
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0.0);
        }
        for reduced in self.out.drain(..) {
            let ReducedRecords::Traces(traces) = reduced.records else { continue };
            for span in traces.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.by_second[second] += 1.0;
                self.kept.insert(span.span_id, weight(&span.trace_state));
            }
        }
    }
}

/// What a span stands for: 2^56 over what its rejection threshold lets through.
fn weight(tracestate: &str) -> f64 {
    let Some(digits) = tracestate.strip_prefix("ot=th:") else { return 1.0 };
    let threshold = u64::from_str_radix(&format!("{digits:0<14}"), 16).unwrap();
    (1_u64 << 56) as f64 / ((1_u64 << 56) - threshold) as f64
}

impl Found {
    fn add(&mut self, all: &[Known], run: &Run, shape: Shape) {
        let mut durations: Vec<Vec<f64>> = vec![Vec::new(); OPERATIONS.len()];
        let mut p99 = vec![f64::INFINITY; OPERATIONS.len()];
        // Spans of a trace are kept or let go together: what varies is the sum over a trace.
        let mut clusters: HashMap<(u128, usize), (f64, f64, f64)> = HashMap::new();
        let health_checks: HashSet<u128> = all.iter().filter(|k| k.health_check).map(|k| k.trace).collect();
        for known in all {
            let weight = run.kept.get(&known.span.span_id).copied();
            if known.failed {
                tally(&mut self.errors, weight.is_some());
            } else if known.health_check {
                tally(&mut self.health_checks, weight.is_some());
            }
            if let Some((operation, ms)) = known.entry {
                let before = &mut durations[operation];
                if before.len() >= WARM {
                    if ms > p99[operation] {
                        tally(&mut self.slow_known, weight.is_some());
                    }
                    if ms > OPERATIONS[operation].p99_ms() {
                        tally(&mut self.slow_true, weight.is_some());
                    }
                }
                before.push(ms);
                if before.len().is_multiple_of(64) && before.len() >= WARM {
                    let (mut sorted, at) = (before.clone(), before.len() * 99 / 100);
                    p99[operation] = *sorted.select_nth_unstable_by(at, f64::total_cmp).1;
                }
            }
            if health_checks.contains(&known.trace) {
                continue;
            }
            let entry = f64::from(u8::from(known.entry.is_some()));
            let (spans, requests) = (&mut self.spans[known.service], &mut self.requests[known.service]);
            spans.truth += 1.0;
            requests.truth += entry;
            let Some(weight) = weight else { continue };
            spans.estimate += weight;
            requests.estimate += weight * entry;
            if weight > 1.0 {
                let cluster = clusters.entry((known.trace, known.service)).or_insert((weight, 0.0, 0.0));
                cluster.1 += 1.0;
                cluster.2 += entry;
            }
        }
        // The estimator of Horvitz and Thompson, and of its variance: each cluster was kept with probability 1/w.
        for ((_, service), (weight, spans, requests)) in clusters {
            self.spans[service].variance += weight * (weight - 1.0) * spans * spans;
            self.requests[service].variance += weight * (weight - 1.0) * requests * requests;
        }
        self.add_budget(&run.by_second, shape);
        let stats = run.sampler.stats();
        self.taken += stats.spans;
        self.let_go_early += stats.decided_early;
        self.handed_out += run.kept.len() as u64;
        run.ledger.sent(Signal::Traces, run.kept.len() as u64);
        self.unaccounted += run.ledger.read().signals[Signal::Traces as usize].balance().abs();
    }

    fn add_budget(&mut self, by_second: &[f64], shape: Shape) {
        let seconds = WARM_SECONDS as usize..shape.seconds as usize;
        for second in seconds.clone() {
            let kept = &mut self.kept[usize::from(shape.bursts_at(second as u64))];
            *kept = (kept.0 + by_second[second], kept.1 + 1.0);
        }
        let windows = by_second[seconds].windows(10).map(|window| window.iter().sum::<f64>() / 10.0);
        self.worst_ten_seconds = windows.fold(self.worst_ten_seconds, f64::max);
    }
}

fn tally((kept, all): &mut (u64, u64), is_kept: bool) {
    *kept += u64::from(is_kept);
    *all += 1;
}
