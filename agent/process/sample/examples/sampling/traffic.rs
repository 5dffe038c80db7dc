//! Synthetic traces of three services, with everything known about each: which failed, how slow each request is among its like.
//!
//! Invariant: the same seed and shape give the same spans, in the same order.

use ollystack_record::otlp::trace::v1::{Span, Status, span::SpanKind, status::StatusCode};
use ollystack_record::{Resource, value};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const START: u64 = 1_700_000_040_000 * MS;
/// Time goes in steps of so many milliseconds.
pub(crate) const STEP_MS: u64 = 50;

/// A repeatable source of chance (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        self.uniform() < share
    }

    /// Of the standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// An operation: its durations are log-normal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) service: usize,
    pub(crate) name: &'static str,
    median_ms: f64,
    sigma: f64,
}

const fn operation(service: usize, name: &'static str, median_ms: f64, sigma: f64) -> Operation {
    Operation { service, name, median_ms, sigma }
}

/// What enters a service; the first four at the front.
pub(crate) const OPERATIONS: [Operation; 8] = [
    operation(0, "GET /", 30.0, 0.6),
    operation(0, "GET /products/{id}", 45.0, 0.8),
    operation(0, "GET /search", 90.0, 0.9),
    operation(0, "POST /orders", 150.0, 1.1),
    operation(1, "POST /payments", 60.0, 0.8),
    operation(1, "GET /payments/{id}", 15.0, 0.7),
    operation(2, "GET /index", 25.0, 1.0),
    operation(2, "GET /suggest", 8.0, 0.5),
];
pub(crate) const SERVICES: [&str; 3] = ["front", "pay", "find"];
const Z99: f64 = 2.326_347_874;

impl Operation {
    /// The true 99th percentile.
    pub(crate) fn p99_ms(&self) -> f64 {
        self.median_ms * (Z99 * self.sigma).exp()
    }
}

/// What the traffic is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) seconds: u64,
    pub(crate) traces_per_second: f64,
    /// Tenfold traffic in the last third of every minute.
    pub(crate) bursts: bool,
}

impl Shape {
    /// Whether a burst is on.
    pub(crate) fn bursts_at(&self, second: u64) -> bool {
        self.bursts && second % 60 >= 40
    }
}

/// A span with what is known of it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) span: Span,
    pub(crate) service: usize,
    pub(crate) trace: u128,
    /// For what enters a service: the operation and how long it took.
    pub(crate) entry: Option<(usize, f64)>,
    pub(crate) failed: bool,
    pub(crate) health_check: bool,
}

/// Spans by the step in which they arrive.
#[derive(Debug)]
pub(crate) struct Traffic {
    random: Random,
    shape: Shape,
    step: u64,
    arrivals: BTreeMap<u64, Vec<Known>>,
}

const ERRORS: f64 = 0.005;
const LATE: f64 = 0.02;
const ROOT_MISSING: f64 = 0.01;
const HEALTH_CHECKS: f64 = 0.05;

impl Traffic {
    pub(crate) fn new(seed: u64, shape: Shape) -> Traffic {
        Traffic { random: Random(seed), shape, step: 0, arrivals: BTreeMap::new() }
    }

    /// What arrives in the next step, by service, and the time then; `None` when all has arrived.
    pub(crate) fn step(&mut self) -> Option<(u64, Vec<Known>)> {
        let now_ms = self.step * STEP_MS;
        let second = now_ms / 1_000;
        if second >= self.shape.seconds && self.arrivals.is_empty() {
            return None;
        }
        if second < self.shape.seconds {
            let times = if self.shape.bursts_at(second) { 10.0 } else { 1.0 };
            let mean = self.shape.traces_per_second * times * STEP_MS as f64 / 1e3;
            for _ in 0..self.count(mean) {
                self.trace(now_ms);
            }
        }
        let arrived = self.arrivals.remove(&self.step).unwrap_or_default();
        self.step += 1;
        Some((START + (now_ms + STEP_MS) * MS, arrived))
    }

    /// Of the Poisson distribution; for large means near enough a normal one.
    fn count(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.random.normal()).round().max(0.0) as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.random.uniform(), 0);
        while product > limit {
            product *= self.random.uniform();
            count += 1;
        }
        count
    }

    fn trace(&mut self, now_ms: u64) {
        let random = &mut self.random;
        let trace = u128::from(random.next()) << 64 | u128::from(random.next());
        let fails = random.chance(ERRORS);
        if random.chance(HEALTH_CHECKS) {
            return self.entry(trace, now_ms, None, fails, true, true);
        }
        let front = (random.next() % 4) as usize;
        let missing = random.chance(ROOT_MISSING);
        let called: Vec<usize> = (0..random.next() % 3).map(|_| 4 + (random.next() % 4) as usize).collect();
        let culprit = random.next() as usize % (called.len() + 1);
        for (place, operation) in called.iter().enumerate() {
            self.entry(trace, now_ms, Some(*operation), fails && place + 1 == culprit, false, false);
        }
        let root_fails = fails && culprit == 0;
        if !missing {
            self.entry(trace, now_ms, Some(front), root_fails, true, false);
        }
    }

    /// A request that enters a service, and what happens inside; `None`: a health check at the front.
    fn entry(
        &mut self,
        trace: u128,
        now_ms: u64,
        operation: Option<usize>,
        fails: bool,
        root: bool,
        health_check: bool,
    ) {
        let at = operation.map(|at| OPERATIONS[at]);
        let (service, name) = at.map_or((0, "GET /healthz"), |at| (at.service, at.name));
        let normal = self.random.normal();
        let ms = at.map_or(1.0, |at| at.median_ms * (normal * at.sigma).exp());
        let inner = if health_check { 0 } else { 1 + self.random.next() % 3 };
        for n in 0..inner {
            let inside_ms = ms * self.random.uniform();
            let name = ["select", "render", "cache get"][n as usize];
            let span = self.span(trace, name, SpanKind::Internal, false, now_ms, inside_ms);
            self.arrive(now_ms, inside_ms, Known { span, service, trace, entry: None, failed: false, health_check });
        }
        let mut span = self.span(trace, name, SpanKind::Server, root, now_ms, ms);
        if fails {
            span.status = Some(Status { code: StatusCode::Error as i32, message: "failed".into() });
        }
        let entry = operation.map(|operation| (operation, ms));
        self.arrive(now_ms, ms, Known { span, service, trace, entry, failed: fails, health_check });
    }

    fn span(&mut self, trace: u128, name: &str, kind: SpanKind, root: bool, now_ms: u64, ms: f64) -> Span {
        let start = START + now_ms * MS;
        Span {
            trace_id: trace.to_be_bytes().to_vec(),
            span_id: self.random.next().to_be_bytes().to_vec(),
            parent_span_id: if root { Vec::new() } else { vec![1; 8] },
            name: name.to_owned(),
            kind: kind as i32,
            start_time_unix_nano: start,
            end_time_unix_nano: start + (ms * MS as f64) as u64,
            ..Span::default()
        }
    }

    /// A span arrives when it has ended and its SDK has sent it, or much later.
    fn arrive(&mut self, now_ms: u64, ms: f64, known: Known) {
        let delay = if self.random.chance(LATE) { 1_000.0 + 20_000.0 * self.random.uniform() } else { 100.0 };
        let step = (now_ms + (ms + delay * self.random.uniform()) as u64) / STEP_MS;
        self.arrivals.entry(step.max(self.step)).or_default().push(known);
    }
}

/// The services' resources.
pub(crate) fn resources() -> Vec<Arc<Resource>> {
    SERVICES.map(|name| Arc::new(Resource::new(vec![value::string("service.name", name)]))).to_vec()
}
