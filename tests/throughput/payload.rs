//! Requests as services send them, made once from a seed: a batch of an SDK or a collector, zstd inside gRPC's frame.
//!
//! | | of a request | of a record |
//! |---|---|---|
//! | resource | [`RESOURCES`] services in Kubernetes, 12 attributes each (names, versions, node, a pod's random end) | |
//! | logs | [`RECORDS`], in order of time, 1 us to 2 ms apart | a line of 8 patterns with paths, numbers, addresses and hexadecimal ids in it, 30 to 180 bytes; level; 4 attributes; of 2 in 5 the trace and span |
//! | spans | [`RECORDS`] in traces of 8 | random ids, 9 or 10 attributes of HTTP, databases or queues; of 1 in 20 an exception as event (a stack of 600 bytes), of 1 in 50 a link |
//! | points | [`RECORDS`], 10 of a metric | counters and gauges; of 1 metric in 8 explicit histograms with 14 buckets, of 1 in 16 exponential ones; 4 attributes; values that walk |
//!
//! Every request is another one (ids, numbers and pods differ), of metrics the series are those of the request at each sending, as with
//! senders that stay. Invariant: one seed, one load.

use fastrand::Rng;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use prost::Message;
use std::time::{SystemTime, UNIX_EPOCH};

/// Records of a request.
pub(crate) const RECORDS: u64 = 1_000;
/// Services whose records are in one request.
const RESOURCES: u64 = 4;
/// Different requests of a load.
const REQUESTS: u64 = 64;
/// As collectors have it by default.
const ZSTD_LEVEL: i32 = 3;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Logs,
    Traces,
    Metrics,
}

impl Signal {
    pub(crate) const ALL: [Signal; 3] = [Signal::Logs, Signal::Traces, Signal::Metrics];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Signal::Logs => "logs",
            Signal::Traces => "traces",
            Signal::Metrics => "metrics",
        }
    }

    /// gRPC's method.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }

    /// The table that the records become rows of.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Signal::Logs => "logs_raw",
            Signal::Traces => "traces_raw",
            Signal::Metrics => "metrics_raw",
        }
    }
}

/// The requests of one signal.
#[derive(Debug)]
pub(crate) struct Payload {
    /// Each with gRPC's prefix.
    pub(crate) frames: Vec<Vec<u8>>,
    /// A record's part of a request, before and after compression, on average.
    pub(crate) raw_bytes: f64,
    pub(crate) wire_bytes: f64,
}

impl Payload {
    pub(crate) fn new(signal: Signal) -> std::io::Result<Payload> {
        let mut rng = Rng::with_seed(signal as u64 + 1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let (mut frames, mut raw, mut wire) = (Vec::new(), 0, 0);
        for _ in 0..REQUESTS {
            let mut make = Make { rng: &mut rng, time: now };
            let message = match signal {
                Signal::Logs => make.logs().encode_to_vec(),
                Signal::Traces => make.traces().encode_to_vec(),
                Signal::Metrics => make.metrics().encode_to_vec(),
            };
            let packed = zstd::bulk::compress(&message, ZSTD_LEVEL)?;
            (raw, wire) = (raw + message.len(), wire + packed.len());
            let mut frame = vec![1];
            frame.extend((packed.len() as u32).to_be_bytes());
            frame.extend(packed);
            frames.push(frame);
        }
        let per_record = |bytes: usize| bytes as f64 / (REQUESTS * RECORDS) as f64;
        Ok(Payload { frames, raw_bytes: per_record(raw), wire_bytes: per_record(wire) })
    }
}

struct Make<'a> {
    rng: &'a mut Rng,
    time: u64,
}

const SERVICES: [&str; 8] =
    ["checkout", "cart", "payment-gateway", "inventory", "recommendation", "frontend", "shipping", "user-profile"];
const ROUTES: [&str; 6] =
    ["/api/orders/{id}", "/api/carts/{id}/items", "/api/users/{id}", "/api/prices", "/healthz", "/api/search"];

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn scope(name: &str) -> Option<InstrumentationScope> {
    Some(InstrumentationScope {
        name: name.to_owned(),
        version: "2.11.0".to_owned(),
        ..InstrumentationScope::default()
    })
}

impl Make<'_> {
    fn bytes<const N: usize>(&mut self) -> Vec<u8> {
        (0..N).map(|_| self.rng.u8(..)).collect()
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| self.rng.digit(16)).collect()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.usize(..of.len())]
    }

    /// Some nanoseconds later.
    fn later(&mut self) -> u64 {
        self.time += self.rng.u64(1_000..2_000_000);
        self.time
    }

    fn resource(&mut self) -> Option<Resource> {
        let service = self.one(&SERVICES);
        let pod = format!("{service}-{}-{}", self.hex(9), self.hex(5));
        let attributes = vec![
            text("service.name", service),
            text("service.version", format!("1.{}.{}", self.rng.u8(..20), self.rng.u8(..9))),
            text("service.namespace", "shop"),
            text("service.instance.id", format!("{}-{}-{}", self.hex(8), self.hex(4), self.hex(12))),
            text("deployment.environment.name", "production"),
            text("host.name", format!("ip-10-0-{}-{}.ec2.internal", self.rng.u8(..4), self.rng.u8(..))),
            text("k8s.namespace.name", "shop"),
            text("k8s.pod.name", pod),
            text("k8s.node.name", format!("ip-10-0-{}-{}.ec2.internal", self.rng.u8(..4), self.rng.u8(..))),
            text("k8s.deployment.name", service),
            text("telemetry.sdk.language", "java"),
            text("telemetry.sdk.version", "1.49.0"),
        ];
        Some(Resource { attributes, ..Resource::default() })
    }

    fn logs(&mut self) -> ExportLogsServiceRequest {
        let mut resource_logs = Vec::new();
        for _ in 0..RESOURCES {
            let resource = self.resource();
            let log_records = (0..RECORDS / RESOURCES).map(|_| self.log()).collect();
            let scope_logs =
                vec![ScopeLogs { scope: scope("com.shop.orders.OrderService"), log_records, ..ScopeLogs::default() }];
            resource_logs.push(ResourceLogs { resource, scope_logs, ..ResourceLogs::default() });
        }
        ExportLogsServiceRequest { resource_logs }
    }

    fn log(&mut self) -> LogRecord {
        let time = self.later();
        let pattern = self.rng.u8(..8);
        let body = match pattern {
            0 => format!(
                "slow query took {} ms: SELECT * FROM orders WHERE customer_id = {} AND state = 'open' ORDER BY created_at DESC LIMIT 50",
                self.rng.u16(..),
                self.rng.u32(..)
            ),
            1 => format!(
                "GET /api/orders/{} 200 in {} ms, {} bytes",
                self.rng.u32(..),
                self.rng.u8(..),
                self.rng.u16(..)
            ),
            2 => format!("cache miss for key session:{}, loading from store", self.hex(24)),
            3 => format!("worker {} finished job {} after {} steps", self.rng.u8(..8), self.hex(16), self.rng.u8(..40)),
            4 => format!(
                "Connection to 10.0.{}.{}:{} refused, retrying in {} ms (attempt {})",
                self.rng.u8(..),
                self.rng.u8(..),
                self.rng.u16(..),
                self.rng.u16(..),
                self.rng.u8(..9)
            ),
            5 => format!(
                "{{\"event\":\"order_placed\",\"order\":\"{}\",\"total\":{}.{:02},\"currency\":\"EUR\",\"items\":{}}}",
                self.hex(12),
                self.rng.u16(..),
                self.rng.u8(..100),
                self.rng.u8(..20)
            ),
            6 => format!(
                "Payment {} authorised for customer {} by provider adyen in {} ms",
                self.hex(20),
                self.rng.u32(..),
                self.rng.u16(..900)
            ),
            _ => "Health check passed, all dependencies up".to_owned(),
        };
        let (severity_text, severity_number) = match pattern {
            0 => ("WARN", 13),
            4 => ("ERROR", 17),
            _ => ("INFO", 9),
        };
        let traced = self.rng.u8(..5) < 2;
        LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: time + self.rng.u64(1_000..90_000),
            severity_number,
            severity_text: severity_text.to_owned(),
            body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
            attributes: vec![
                text("thread.name", format!("http-nio-8080-exec-{}", self.rng.u8(..32))),
                text("log.file.name", "orders.log"),
                int("user.id", i64::from(self.rng.u32(..))),
                text("http.route", self.one(&ROUTES)),
            ],
            flags: u32::from(traced),
            trace_id: if traced { self.bytes::<16>() } else { Vec::new() },
            span_id: if traced { self.bytes::<8>() } else { Vec::new() },
            ..LogRecord::default()
        }
    }

    fn traces(&mut self) -> ExportTraceServiceRequest {
        let mut resource_spans = Vec::new();
        for _ in 0..RESOURCES {
            let resource = self.resource();
            let mut spans = Vec::new();
            while (spans.len() as u64) < RECORDS / RESOURCES {
                if spans.len() % 8 == 0 {
                    self.later();
                }
                let root = spans.len() - spans.len() % 8;
                let root: Option<(Vec<u8>, Vec<u8>)> =
                    spans.get(root).map(|root: &Span| (root.trace_id.clone(), root.span_id.clone()));
                spans.push(self.span(root));
            }
            let scope_spans =
                vec![ScopeSpans { scope: scope("io.opentelemetry.netty-4.1"), spans, ..ScopeSpans::default() }];
            resource_spans.push(ResourceSpans { resource, scope_spans, ..ResourceSpans::default() });
        }
        ExportTraceServiceRequest { resource_spans }
    }

    fn span(&mut self, root: Option<(Vec<u8>, Vec<u8>)>) -> Span {
        let start = self.time + self.rng.u64(..400_000);
        let failed = self.rng.u8(..20) == 0;
        let route = self.one(&ROUTES);
        let (name, kind, mut attributes) = match (&root, self.rng.u8(..3)) {
            (None, _) | (Some(_), 0) => (
                format!("GET {route}"),
                if root.is_none() { 2 } else { 3 },
                vec![
                    text("http.request.method", "GET"),
                    text("http.route", route),
                    text("url.path", route.replace("{id}", &self.rng.u32(..).to_string())),
                    text("url.scheme", "https"),
                    text("server.address", "shop.internal"),
                    int("server.port", 8443),
                    int("http.response.status_code", if failed { 500 } else { 200 }),
                    text(
                        "user_agent.original",
                        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/129.0",
                    ),
                    text("client.address", format!("10.1.{}.{}", self.rng.u8(..), self.rng.u8(..))),
                ],
            ),
            (Some(_), 1) => (
                "SELECT shop.orders".to_owned(),
                3,
                vec![
                    text("db.system.name", "postgresql"),
                    text("db.namespace", "shop"),
                    text("db.operation.name", "SELECT"),
                    text("db.collection.name", "orders"),
                    text(
                        "db.query.text",
                        format!(
                            "SELECT id, state, total FROM orders WHERE customer_id = {} AND state = ?",
                            self.rng.u32(..)
                        ),
                    ),
                    text("server.address", "orders-db.internal"),
                    int("server.port", 5432),
                    int("db.response.returned_rows", i64::from(self.rng.u8(..))),
                    text("network.peer.address", format!("10.2.{}.{}", self.rng.u8(..), self.rng.u8(..))),
                ],
            ),
            _ => (
                "publish orders".to_owned(),
                4,
                vec![
                    text("messaging.system", "kafka"),
                    text("messaging.destination.name", "orders"),
                    text("messaging.operation.name", "publish"),
                    text("messaging.kafka.message.key", self.hex(16)),
                    int("messaging.kafka.offset", i64::from(self.rng.u32(..))),
                    int("messaging.batch.message_count", i64::from(self.rng.u8(..))),
                    text("messaging.client.id", "producer-1"),
                    text("server.address", "kafka-0.kafka.internal"),
                    int("server.port", 9092),
                ],
            ),
        };
        attributes.push(text("thread.name", format!("netty-worker-{}", self.rng.u8(..16))));
        let events = if failed { vec![self.exception(start)] } else { Vec::new() };
        let link = |make: &mut Self| span::Link {
            trace_id: make.bytes::<16>(),
            span_id: make.bytes::<8>(),
            ..span::Link::default()
        };
        let links = if self.rng.u8(..50) == 0 { vec![link(self)] } else { Vec::new() };
        let (trace_id, parent_span_id) = root.unwrap_or_else(|| (self.bytes::<16>(), Vec::new()));
        Span {
            trace_id,
            span_id: self.bytes::<8>(),
            parent_span_id,
            name,
            kind,
            start_time_unix_nano: start,
            end_time_unix_nano: start + self.rng.u64(20_000..80_000_000),
            attributes,
            events,
            links,
            status: Some(Status { code: if failed { 2 } else { 0 }, ..Status::default() }),
            flags: 0x101,
            ..Span::default()
        }
    }

    fn exception(&mut self, time: u64) -> span::Event {
        let frame = |line: u32| format!("\tat com.shop.orders.OrderService.place(OrderService.java:{line})\n");
        let stack: String = (0..10).map(|_| frame(self.rng.u32(..900))).collect();
        span::Event {
            time_unix_nano: time + 9_000,
            name: "exception".to_owned(),
            attributes: vec![
                text("exception.type", "java.sql.SQLTransientConnectionException"),
                text("exception.message", format!("connection {} timed out", self.hex(8))),
                text("exception.stacktrace", stack),
            ],
            ..span::Event::default()
        }
    }

    fn metrics(&mut self) -> ExportMetricsServiceRequest {
        let mut resource_metrics = Vec::new();
        for _ in 0..RESOURCES {
            let resource = self.resource();
            let metrics = (0..RECORDS / RESOURCES / 10).map(|number| self.metric(number)).collect();
            let scope_metrics =
                vec![ScopeMetrics { scope: scope("io.micrometer"), metrics, ..ScopeMetrics::default() }];
            resource_metrics.push(ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() });
        }
        ExportMetricsServiceRequest { resource_metrics }
    }

    fn metric(&mut self, number: u64) -> Metric {
        let time = self.later();
        let start = time - 60_000_000_000;
        let cumulative = AggregationTemporality::Cumulative as i32;
        let data = match number % 16 {
            3 | 11 => Data::Histogram(Histogram {
                data_points: (0..10).map(|series| self.histogram(series, start, time)).collect(),
                aggregation_temporality: cumulative,
            }),
            7 => Data::ExponentialHistogram(ExponentialHistogram {
                data_points: (0..10).map(|series| self.exponential(series, start, time)).collect(),
                aggregation_temporality: cumulative,
            }),
            even if even % 2 == 0 => Data::Sum(Sum {
                data_points: (0..10).map(|series| self.number(series, start, time)).collect(),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            _ => Data::Gauge(Gauge { data_points: (0..10).map(|series| self.number(series, 0, time)).collect() }),
        };
        let description = "As the instrumentation library describes it".to_owned();
        Metric {
            name: format!("shop.subsystem{}.metric{number}", number % 5),
            unit: "1".to_owned(),
            description,
            data: Some(data),
            ..Metric::default()
        }
    }

    fn series(&mut self, series: u64) -> Vec<KeyValue> {
        vec![
            text("http.request.method", ["GET", "POST", "PUT", "DELETE"][series as usize % 4]),
            text("http.route", ROUTES[series as usize % 6]),
            int("http.response.status_code", [200, 201, 404, 500][series as usize % 4]),
            text("server.address", format!("shop-{series}.internal")),
        ]
    }

    fn number(&mut self, series: u64, start_time_unix_nano: u64, time_unix_nano: u64) -> NumberDataPoint {
        let value = match self.rng.bool() {
            true => number_data_point::Value::AsDouble(self.rng.f64() * 1e3),
            false => number_data_point::Value::AsInt(i64::from(self.rng.u32(..))),
        };
        NumberDataPoint {
            attributes: self.series(series),
            start_time_unix_nano,
            time_unix_nano,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(&mut self, series: u64, start_time_unix_nano: u64, time_unix_nano: u64) -> HistogramDataPoint {
        let bucket_counts: Vec<u64> = (0..15).map(|_| self.rng.u64(..500)).collect();
        HistogramDataPoint {
            attributes: self.series(series),
            start_time_unix_nano,
            time_unix_nano,
            count: bucket_counts.iter().sum(),
            sum: Some(self.rng.f64() * 1e4),
            bucket_counts,
            explicit_bounds: vec![5e-3, 1e-2, 2.5e-2, 5e-2, 7.5e-2, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0],
            min: Some(self.rng.f64()),
            max: Some(10.0 + self.rng.f64()),
            ..HistogramDataPoint::default()
        }
    }

    fn exponential(
        &mut self,
        series: u64,
        start_time_unix_nano: u64,
        time_unix_nano: u64,
    ) -> ExponentialHistogramDataPoint {
        let bucket_counts: Vec<u64> = (0..40).map(|_| self.rng.u64(..100)).collect();
        ExponentialHistogramDataPoint {
            attributes: self.series(series),
            start_time_unix_nano,
            time_unix_nano,
            count: bucket_counts.iter().sum(),
            sum: Some(self.rng.f64() * 1e4),
            scale: 3,
            positive: Some(Buckets { offset: -20, bucket_counts }),
            min: Some(self.rng.f64()),
            max: Some(10.0 + self.rng.f64()),
            ..ExponentialHistogramDataPoint::default()
        }
    }
}
