//! Traces of a small shop: eight services that call each other, their databases and a queue.
//!
//! | | |
//! |---|---|
//! | requests | five kinds, by weight, of 1 to 17 spans; one in fifty is a health check |
//! | durations | lognormal around each operation's median; in one trace of a hundred one operation takes ten times as long |
//! | errors | one trace in a hundred: one operation fails, with an exception, and all above it |
//! | attributes | those of the conventions for HTTP, databases and messaging, 5 to 8 a span; paths, statements and addresses with values |
//!
//! A span that its caller waits for lies within the caller's. Invariant: one seed, one sequence of traces; they end when they are made.

use super::otlp::{int, resource, scope, text};
use fastrand::Rng;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use prost::Message;

/// Whose spans and metrics they are.
pub(crate) const SERVICES: [&str; 8] =
    ["frontend", "catalog", "cart", "checkout", "payment", "inventory", "shipping", "accounts"];

/// One operation of a request.
struct Step {
    /// The step that called it; its own number in a root.
    caller: usize,
    service: usize,
    does: Does,
    name: &'static str,
    /// Microseconds of its own, without what it waits for.
    median_us: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Does {
    Serve,
    Call,
    Query,
    Publish,
}

struct Request {
    weight: u32,
    steps: &'static [Step],
}

const fn step(caller: usize, service: usize, does: Does, name: &'static str, median_us: f64) -> Step {
    Step { caller, service, does, name, median_us }
}

use Does::{Call, Publish, Query, Serve};

const REQUESTS: &[Request] = &[
    Request {
        weight: 50,
        steps: &[
            step(0, 0, Serve, "GET /products/{id}", 900.0),
            step(0, 0, Call, "GET", 400.0),
            step(1, 1, Serve, "GET /catalog/{id}", 600.0),
            step(2, 1, Query, "SELECT products", 2_500.0),
            step(0, 0, Call, "GET", 400.0),
            step(4, 5, Serve, "GET /stock/{id}", 500.0),
            step(5, 5, Query, "SELECT stock", 1_500.0),
        ],
    },
    Request {
        weight: 28,
        steps: &[
            step(0, 0, Serve, "GET /cart", 800.0),
            step(0, 0, Call, "GET", 400.0),
            step(1, 2, Serve, "GET /carts/{id}", 500.0),
            step(2, 2, Query, "HGETALL", 300.0),
        ],
    },
    Request {
        weight: 12,
        steps: &[
            step(0, 0, Serve, "POST /orders", 1_500.0),
            step(0, 0, Call, "POST", 500.0),
            step(1, 3, Serve, "POST /checkout", 2_000.0),
            step(2, 3, Call, "GET", 400.0),
            step(3, 2, Serve, "GET /carts/{id}", 500.0),
            step(4, 2, Query, "HGETALL", 300.0),
            step(2, 3, Call, "POST", 400.0),
            step(6, 4, Serve, "POST /charges", 25_000.0),
            step(7, 4, Query, "INSERT charges", 3_000.0),
            step(2, 3, Call, "POST", 400.0),
            step(9, 5, Serve, "POST /reservations", 900.0),
            step(10, 5, Query, "UPDATE stock", 4_000.0),
            step(2, 3, Query, "INSERT orders", 3_500.0),
            step(2, 3, Publish, "send orders", 700.0),
            step(2, 3, Call, "POST", 400.0),
            step(14, 6, Serve, "POST /shipments", 1_100.0),
            step(15, 6, Query, "INSERT shipments", 2_800.0),
        ],
    },
    Request {
        weight: 8,
        steps: &[
            step(0, 0, Serve, "POST /login", 900.0),
            step(0, 0, Call, "POST", 400.0),
            step(1, 7, Serve, "POST /sessions", 45_000.0),
            step(2, 7, Query, "SELECT accounts", 1_800.0),
        ],
    },
    Request { weight: 2, steps: &[step(0, 0, Serve, "GET /healthz", 150.0)] },
];

/// The shop on one host.
pub(crate) struct Shop {
    rng: Rng,
    host: usize,
    /// That wait to be sent, by service.
    waiting: [Vec<Span>; SERVICES.len()],
}

impl Shop {
    pub(crate) fn new(host: usize) -> Shop {
        Shop { rng: Rng::with_seed(host as u64), host, waiting: Default::default() }
    }

    /// One more request that ends now; how many spans it has.
    pub(crate) fn serve(&mut self, now_unix_nano: u64) -> u64 {
        let mut at = self.rng.u32(0..REQUESTS.iter().map(|request| request.weight).sum());
        let chosen = REQUESTS.iter().find(|request| match at.checked_sub(request.weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        let steps = chosen.map_or(&[][..], |request| request.steps);
        let slow = (self.rng.u32(..100) == 0).then(|| self.rng.usize(..steps.len()));
        let failed = (self.rng.u32(..100) == 0).then(|| self.rng.usize(..steps.len()));
        let mut failing = failed;
        let mut own: Vec<f64> = steps.iter().map(|step| step.median_us * self.lognormal()).collect();
        if let Some(slow) = slow {
            own[slow] *= 10.0;
        }
        // Callees stand behind their callers.
        let mut whole = own.clone();
        for (number, step) in steps.iter().enumerate().skip(1).rev() {
            whole[step.caller] += whole[number];
        }
        let mut fails = vec![false; steps.len()];
        while let Some(number) = failing {
            fails[number] = true;
            failing = (number > 0).then(|| steps[number].caller);
        }
        let trace_id: [u8; 16] = std::array::from_fn(|_| self.rng.u8(..));
        let ids: Vec<[u8; 8]> = steps.iter().map(|_| std::array::from_fn(|_| self.rng.u8(..))).collect();
        // Where each step begins, microseconds after the trace, and when it comes to its next callee.
        let (mut begins, mut next) = (vec![0.0; steps.len()], own.iter().map(|own| own / 2.0).collect::<Vec<_>>());
        let trace_unix_nano = now_unix_nano - (whole.first().copied().unwrap_or_default() * 1e3) as u64;
        for (number, step) in steps.iter().enumerate() {
            if number > 0 {
                begins[number] = begins[step.caller] + next[step.caller];
                next[step.caller] += whole[number];
            }
            let start_time_unix_nano = trace_unix_nano + (begins[number] * 1e3) as u64;
            let exception = (failed == Some(number)).then(|| self.exception(start_time_unix_nano));
            let made = Span {
                trace_id: trace_id.to_vec(),
                span_id: ids[number].to_vec(),
                parent_span_id: if number == 0 { Vec::new() } else { ids[step.caller].to_vec() },
                name: step.name.to_owned(),
                kind: match step.does {
                    Serve => span::SpanKind::Server,
                    Call | Query => span::SpanKind::Client,
                    Publish => span::SpanKind::Producer,
                } as i32,
                start_time_unix_nano,
                end_time_unix_nano: start_time_unix_nano + (whole[number] * 1e3) as u64,
                attributes: self.attributes(step, steps.get(number + 1), fails[number]),
                events: exception.into_iter().collect(),
                status: Some(Status { code: if fails[number] { 2 } else { 0 }, ..Status::default() }),
                flags: 0x101,
                ..Span::default()
            };
            self.waiting[step.service].push(made);
        }
        steps.len() as u64
    }

    /// The next request to send of a service that has so many spans waiting, and how many are in it.
    pub(crate) fn request(&mut self, least: usize) -> Option<(Vec<u8>, u64)> {
        let service = self.waiting.iter().position(|waiting| waiting.len() >= least)?;
        let spans = std::mem::take(&mut self.waiting[service]);
        let count = spans.len() as u64;
        let scope_spans = vec![ScopeSpans { scope: scope("shop.tracing"), spans, ..ScopeSpans::default() }];
        let resource = resource(SERVICES[service], self.host);
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        Some((ExportTraceServiceRequest { resource_spans }.encode_to_vec(), count))
    }

    /// A factor around 1, by Box and Muller.
    fn lognormal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.rng.f64(), self.rng.f64());
        (0.4 * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()).exp()
    }

    fn attributes(&mut self, step: &Step, callee: Option<&Step>, fails: bool) -> Vec<KeyValue> {
        let (method, rest) = step.name.split_once(' ').unwrap_or((step.name, ""));
        let status = if fails { 500 } else { 200 };
        let path = |route: &str, rng: &mut Rng| route.replace("{id}", &rng.u32(..100_000).to_string());
        match step.does {
            Serve => vec![
                text("http.request.method", method),
                text("http.route", rest),
                text("url.path", path(rest, &mut self.rng)),
                text("url.scheme", "http"),
                text("server.address", format!("{}.shop.internal", SERVICES[step.service])),
                int("http.response.status_code", status),
                text("client.address", format!("10.1.{}.{}", self.rng.u8(..4), self.rng.u8(..))),
                text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0"),
            ],
            Call => {
                let (peer, route) = callee.map_or(("", ""), |callee| {
                    (SERVICES[callee.service], callee.name.split_once(' ').map_or("", |n| n.1))
                });
                vec![
                    text("http.request.method", method),
                    text("url.full", format!("http://{peer}.shop.internal:8080{}", path(route, &mut self.rng))),
                    text("server.address", format!("{peer}.shop.internal")),
                    int("server.port", 8080),
                    int("http.response.status_code", status),
                ]
            }
            Query if rest.is_empty() => vec![
                text("db.system.name", "redis"),
                text("db.operation.name", method),
                text("db.query.text", format!("{method} cart:{}", self.rng.u32(..100_000))),
                text("server.address", "redis.shop.internal"),
                int("server.port", 6379),
            ],
            Query => vec![
                text("db.system.name", "postgresql"),
                text("db.namespace", "shop"),
                text("db.operation.name", method),
                text("db.collection.name", rest),
                text("db.query.text", format!("{method} {rest} WHERE id = ? AND region = ?")),
                text("server.address", "postgres.shop.internal"),
                int("server.port", 5432),
                int("db.response.returned_rows", i64::from(self.rng.u8(..20))),
            ],
            Publish => vec![
                text("messaging.system", "kafka"),
                text("messaging.destination.name", rest),
                text("messaging.operation.name", method),
                text("messaging.kafka.message.key", self.rng.u32(..100_000).to_string()),
                text("server.address", "kafka.shop.internal"),
                int("server.port", 9092),
            ],
        }
    }

    fn exception(&mut self, time_unix_nano: u64) -> span::Event {
        let frame = |line: u32| format!("\tat com.shop.orders.OrderService.place(OrderService.java:{line})\n");
        let stack: String = (0..10).map(|number| frame(100 + number)).collect();
        span::Event {
            time_unix_nano,
            name: "exception".to_owned(),
            attributes: vec![
                text("exception.type", "java.sql.SQLTransientConnectionException"),
                text("exception.message", format!("connection {} timed out", self.rng.u32(..10_000))),
                text("exception.stacktrace", stack),
            ],
            ..span::Event::default()
        }
    }
}
