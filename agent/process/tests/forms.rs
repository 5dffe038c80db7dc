//! What becomes of a request does not depend on the form in which it came: with what it has in common with others apart, or as a span.
//!
//! The same requests go through the whole stage in both forms. What is counted, who is told to have called whom, what is redacted, what is
//! kept and its bytes are compared, and so are the books.

#![allow(clippy::unwrap_used, reason = "a test may stop")]

use ollystack_process::sample::rule::{Keep, Rule, Scalar};
use ollystack_process::{Config, Process, Stats};
use ollystack_record::attribute::{Attribute, int, string};
use ollystack_record::otlp::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind};
use ollystack_record::{
    Ack, Batch, Ledger, Records, Reduced, ReducedRecords, Request, Resource, Scope, Signal, Source, Template, value,
};
use prost::Message;
use std::sync::Arc;

const START: u64 = 1_700_000_040_000_000_000;
const SECOND: u64 = 1_000_000_000;
const REQUESTS: u64 = 20_000;

/// A repeatable number.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn resource(service: &str) -> Arc<Resource> {
    Arc::new(Resource::new(vec![
        value::string("service.name", service),
        value::string("process.command_line", "shopd --token hunter2hunter2"),
    ]))
}

fn template(name: &str, kind: SpanKind, error: Option<&str>, attributes: &[(&str, &str)]) -> Arc<Template> {
    let mut attributes: Vec<_> = attributes.iter().map(|(key, text)| value::string(*key, *text)).collect();
    attributes.push(value::int("server.port", 8_080));
    attributes.extend(error.map(|error| value::string("error.type", error)));
    let mut scope = Scope::default();
    scope.proto.name = "ollystack.ebpf".into();
    let span = Span {
        name: name.into(),
        kind: kind as i32,
        attributes,
        status: error.map(|_| Status { code: 2, ..Status::default() }),
        ..Span::default()
    };
    Arc::new(Template::new(Arc::new(scope), span))
}

fn templates() -> Vec<Arc<Template>> {
    let (front, stock) = (("client.address", "10.0.0.7"), ("server.address", "10.0.0.9"));
    let users = [("http.request.method", "GET"), ("http.route", "/users/{id}"), front];
    let secret =
        [("http.request.method", "GET"), ("url.path", "/a/AKIAIOSFODNN7EXAMPLE"), ("http.route", "/a/{id}"), front];
    let calls =
        [("http.request.method", "GET"), ("url.template", "/stock/{id}"), stock, ("service.peer.name", "stock")];
    let asks =
        [("db.system.name", "postgresql"), ("db.namespace", "orders"), stock, ("network.peer.address", "10.0.0.9")];
    let queue = [("messaging.system", "kafka"), ("messaging.destination.name", "orders"), stock];
    vec![
        template("GET /users/{id}", SpanKind::Server, None, &users),
        template("GET /users/{id}", SpanKind::Server, Some("503"), &users),
        template("GET /a/{id}", SpanKind::Server, None, &secret),
        template(
            "GET /healthz",
            SpanKind::Server,
            None,
            &[("url.path", "/healthz"), ("http.route", "/healthz"), front],
        ),
        template("GET /stock/{id}", SpanKind::Client, None, &calls),
        template("GET /stock/{id}", SpanKind::Client, Some("404"), &calls),
        template("SELECT orders", SpanKind::Client, None, &asks),
        template("publish orders", SpanKind::Producer, None, &queue),
        template("receive orders", SpanKind::Consumer, None, &queue),
        template("GET /check/{id}", SpanKind::Server, None, &[("client.address", "8.8.8.8")]),
        template("DNS A", SpanKind::Client, None, &[("dns.question.type", "A"), stock]),
        template("DNS A", SpanKind::Client, Some("NXDOMAIN"), &[("dns.question.type", "A"), stock]),
    ]
}

/// Requests of two services, some of one trace, some late.
fn requests() -> Vec<(u64, Arc<Resource>, Vec<Request>)> {
    let (templates, resources, mut random) = (templates(), [resource("shop"), resource("front")], Random(7));
    let mut batches = Vec::new();
    for number in 0..REQUESTS / 20 {
        let now = START + number * SECOND / 20;
        let resource = Arc::clone(&resources[(number % 2) as usize]);
        let batch = (0..20).map(|_| {
            // Errors are few.
            let which = match random.below(12 * 12) / 12 {
                1 | 5 | 11 if random.below(20) > 0 => 0,
                which => which,
            };
            let trace =
                u128::from(number * 4 + random.below(40)) << 64 | u128::from(random.below(u64::MAX >> 33)) << 25 | 1;
            let trace = if random.below(3) == 0 { trace >> 40 << 40 | 1 } else { trace };
            let is_server = templates[which as usize].span().kind == SpanKind::Server as i32;
            let own: Vec<Attribute> = match random.below(4) {
                _ if which >= 10 => {
                    let name =
                        ["api.example.com", "API.example.com", "7.shard.example.com", "AKIAIOSFODNN7EXAMPLE.example"];
                    vec![string("dns.question.name", name[random.below(4) as usize])]
                }
                0 => vec![
                    string("url.path", format!("/users/{}", random.below(1_000))),
                    int("http.response.body.size", 7),
                ],
                // The port of a server is part of whom a client called, and in common.
                1 if is_server => vec![string("url.path", "/check/7"), int("network.peer.port", 50_000)],
                2 => vec![string("url.path", "/mail/somebody@example.com/AKIAIOSFODNN7EXAMPLE")],
                _ => Vec::new(),
            };
            let start_unix_nano = now - random.below(5) * 1_000_000;
            Request {
                template: Arc::clone(&templates[which as usize]),
                names: (trace.to_be_bytes(), (random.below(1 << 30) + 1).to_be_bytes()),
                parent: (random.below(2) == 0).then_some([9; 8]),
                flags: random.below(2) as u32 * 0x301,
                start_unix_nano,
                end_unix_nano: start_unix_nano + 1_000_000 * 64 / (random.below(64) + 1),
                link: (random.below(2) == 0).then_some(([7; 16], [8; 8])),
                own,
            }
        });
        batches.push((now, resource, batch.collect()));
    }
    batches
}

/// Of one signal: seen, sampled out, dropped.
type Book = (u64, u64, u64);

/// What came out, each span with its class, resource and scope, encoded and sorted; the books; what the stage says of itself.
fn through(config: &Config, form: fn(Vec<Request>) -> Records) -> (Vec<Vec<u8>>, [Book; 3], Stats) {
    let ledger = Arc::new(Ledger::default());
    let mut process = Process::new(config.clone(), Arc::default(), Arc::clone(&ledger));
    let mut out: Vec<Reduced> = Vec::new();
    for (now, resource, requests) in requests() {
        let records = form(requests);
        ledger.seen(Signal::Traces, records.count());
        process.take(Batch { source: Source::Ebpf, resource, records, ack: Ack::none() }, now, &mut out);
        process.tick(now, &mut out);
        while process.hand_out(now, &mut out) {}
    }
    let stats = process.stats();
    let end = START + 3_600 * SECOND;
    process.drain(end, &mut out);
    while process.hand_out(end, &mut out) {}
    let mut all: Vec<Vec<u8>> = out.into_iter().flat_map(one_by_one).collect();
    all.sort();
    let books = [0, 1, 2].map(|signal| {
        let reading = &ledger.read().signals[signal];
        (reading.seen, reading.sampled_out, reading.dropped_total())
    });
    (all, books, stats)
}

fn one_by_one(reduced: Reduced) -> Vec<Vec<u8>> {
    let class = reduced.class as u8;
    let of = |message: ResourceSpans| [vec![class], message.encode_to_vec()].concat();
    match reduced.records {
        ReducedRecords::Metrics(metrics) => vec![metrics.encode_to_vec()],
        ReducedRecords::Logs(logs) => vec![logs.encode_to_vec()],
        ReducedRecords::Traces(ResourceSpans { resource, scope_spans, schema_url }) => {
            let one = |scope: &ScopeSpans, span| {
                let scope_spans = vec![ScopeSpans { spans: vec![span], ..scope.clone() }];
                of(ResourceSpans { resource: resource.clone(), scope_spans, schema_url: schema_url.clone() })
            };
            let scopes = scope_spans.into_iter().flat_map(|mut scope| {
                let spans = std::mem::take(&mut scope.spans);
                spans.into_iter().map(|span| one(&scope, span)).collect::<Vec<_>>()
            });
            scopes.collect()
        }
    }
}

/// Both forms, and that enough was kept and let go to compare.
fn compare(config: &Config) -> Vec<Vec<u8>> {
    let (spans, books, mut stats) = through(config, |requests| Records::Requests(requests).into_otlp());
    let (compact, compact_books, mut compact_stats) = through(config, Records::Requests);
    assert_eq!(compact_books, books);
    // In which form spans wait is what differs, and that what many have in common is redacted once.
    assert!(compact_stats.sample.waiting_bytes < stats.sample.waiting_bytes);
    (stats.sample.waiting_bytes, compact_stats.sample.waiting_bytes) = (0, 0);
    assert_eq!(compact_stats.redacted.keys().collect::<Vec<_>>(), stats.redacted.keys().collect::<Vec<_>>());
    (stats.redacted, compact_stats.redacted) = Default::default();
    assert_eq!(compact_stats, stats);
    assert_eq!(compact.len(), spans.len());
    let differing = compact.iter().zip(&spans).filter(|(compact, spans)| compact != spans).count();
    assert_eq!(differing, 0, "of {}", spans.len());
    let (seen, sampled_out, _) = books[Signal::Traces as usize];
    assert!(seen == REQUESTS && sampled_out > 0 && sampled_out < seen, "{sampled_out} of {seen} let go");
    spans
}

#[test]
fn both_forms_give_the_same_metrics_edges_decisions_and_bytes() {
    let all = compare(&Config::default()).concat();
    let has = |text: &[u8]| all.windows(text.len()).any(|window| window == text);
    assert!(has(b"ollystack.span.duration") && has(b"ollystack.edge.duration") && has(b"GET /users/{id}"));
    assert!(has(b"dns.lookup.duration") && has(b"{id}.shard.example.com"));
    for secret in [&b"AKIAIOSFODNN7EXAMPLE"[..], b"somebody@example.com", b"hunter2hunter2"] {
        assert!(!has(secret), "{}", String::from_utf8_lossy(secret));
    }
    assert!(has(b"[redacted:"));
}

#[test]
fn both_forms_give_the_same_under_budgets_limits_and_paths_that_are_health_checks() {
    let mut config = Config::default();
    config.traces.budget_spans_per_second = 0.0;
    config.traces.budget_bytes_per_day = 50 << 20;
    config.traces.baseline_ratio = 0.5;
    config.traces.slow_ms = 30;
    config.traces.spans_per_second_per_service_max = 20.0;
    config.traces.health_checks = vec!["/check/7".into()];
    config.traces.decisions_max = 500;
    config.red.operations_per_service_max = 3;
    config.red.edges_max = 2;
    config.red.lookups_max = 2;
    config.redact.attributes = vec!["network.peer.port".into(), "url.path".into()];
    compare(&config);
}

#[test]
fn where_rules_may_ask_for_anything_requests_are_looked_at_as_spans() {
    let rule = Rule {
        name: "sevens".into(),
        attribute: Some("url.path".into()),
        equals: Some(Scalar::Text("/check/7".into())),
        keep: Some(Keep::Always),
        ..Rule::default()
    };
    let mut config = Config::default();
    config.traces.rules = vec![rule];
    let (spans, ..) = through(&config, |requests| Records::Requests(requests).into_otlp());
    let (compact, ..) = through(&config, Records::Requests);
    assert!(spans == compact);
    let mut config = Config::default();
    config.redact.rules =
        serde_json::from_value(serde_json::json!([{ "name": "ours", "pattern": "peer.port" }])).unwrap();
    let (spans, ..) = through(&config, |requests| Records::Requests(requests).into_otlp());
    let (compact, ..) = through(&config, Records::Requests);
    assert!(spans == compact);
}
