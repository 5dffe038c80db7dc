//! Applications: each a connection that sends a prepared OTLP/HTTP request again and again, and does as it is told when refused.
//!
//! Requests are encoded once; what must differ (times, trace ids, values) is written over marks in them, so that a sender costs a
//! hundredth of what it makes the agent do. Invariant: a refused request is sent again, after the time that the answer names, until
//! it is taken or the load ends.

use anyhow::{Context, Result, bail};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Records of one request, by signal in the order metrics, logs, traces.
pub(crate) const RECORDS: [u64; 3] = [400, 400, 200];
/// Connections, likewise. Logs are answered after half a second, when the disk has them, so that they need more: as many as the agent
/// lets in.
const SENDERS: [u64; 3] = [16, 200, 16];
/// Requests that a sender has waiting before it drops new ones, as SDKs do.
const BACKLOG: f64 = 20.0;
/// An answer takes half a second for logs; much longer is a failure.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a sender waits after a refusal that names no time, or a connection that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// The service that all of it claims to come from.
pub(crate) const SERVICE: &str = "load";

/// Stands where a time goes; the lowest 20 bits are nanoseconds before now.
const TIME: u64 = 0x7a5a_6b6b_5c50_0000;
/// Stands where a value goes.
const VALUE: u64 = 0x4135_a1b2_c3d4_e5f6;
/// Stands where the first half of a trace id goes.
const TRACE: [u8; 8] = *b"OLLYMARK";

/// What the senders did, in requests, by signal.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// That were due.
    pub(crate) offered: [AtomicU64; 3],
    pub(crate) accepted: [AtomicU64; 3],
    /// Answers that said when to come back.
    pub(crate) refused: [AtomicU64; 3],
    /// Answers that said no otherwise, and none at all.
    pub(crate) failed: [AtomicU64; 3],
    /// Dropped by the sender, as too many waited.
    pub(crate) overrun: [AtomicU64; 3],
}

/// A reading of one kind of outcome.
pub(crate) fn read(counters: &[AtomicU64; 3]) -> [u64; 3] {
    counters.each_ref().map(|counter| counter.load(Relaxed))
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    /// Requests a second and signal, times 1,000.
    rate: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    senders: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Send so many requests a second of each signal to the agent's OTLP/HTTP port.
    pub(crate) fn start(port: u16, rate: f64) -> Self {
        let (tally, over) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let rate = Arc::new(AtomicU64::new((rate * 1e3) as u64));
        let mut senders = Vec::new();
        for (signal, count) in SENDERS.into_iter().enumerate() {
            let template = Arc::new(Template::new(signal));
            for number in 0..count {
                let (template, over) = (Arc::clone(&template), Arc::clone(&over));
                let (tally, rate) = (Arc::clone(&tally), Arc::clone(&rate));
                let sender = Sender { port, signal, number, count, template, tally, rate, over, stream: None };
                senders.push(tokio::spawn(sender.run()));
            }
        }
        Self { tally, rate, over, senders }
    }

    /// From now on so many.
    pub(crate) fn set_rate(&self, rate: f64) {
        self.rate.store((rate * 1e3) as u64, Relaxed);
    }

    /// Send nothing new, wait for the answers that are due.
    pub(crate) async fn stop(self) -> Arc<Tally> {
        self.over.store(true, Relaxed);
        for sender in self.senders {
            let _ = sender.await;
        }
        self.tally
    }
}

struct Sender {
    port: u16,
    signal: usize,
    number: u64,
    count: u64,
    template: Arc<Template>,
    tally: Arc<Tally>,
    rate: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    stream: Option<TcpStream>,
}

/// What became of one attempt.
enum Answer {
    Accepted,
    Refused(Duration),
    Failed,
}

impl Sender {
    async fn run(mut self) {
        let (mut due, mut last) = (self.number as f64 / self.count as f64, Instant::now());
        let mut turn = self.number << 32;
        while !self.over.load(Relaxed) {
            let rate = self.rate.load(Relaxed) as f64 / 1e3 / self.count as f64;
            let before = due.floor();
            due += last.elapsed().as_secs_f64() * rate;
            last = Instant::now();
            self.tally.offered[self.signal].fetch_add((due.floor() - before) as u64, Relaxed);
            if due > BACKLOG {
                self.tally.overrun[self.signal].fetch_add((due - BACKLOG) as u64, Relaxed);
                due -= (due - BACKLOG).floor();
            }
            if due < 1.0 {
                let wait = Duration::from_secs_f64(((1.0 - due) / rate).clamp(0.001, 0.1));
                tokio::time::sleep(wait).await;
                continue;
            }
            turn += 1;
            match self.attempt(turn).await {
                Answer::Accepted => {
                    self.tally.accepted[self.signal].fetch_add(1, Relaxed);
                    due -= 1.0;
                }
                Answer::Refused(time) => {
                    self.tally.refused[self.signal].fetch_add(1, Relaxed);
                    self.rest(time).await;
                }
                Answer::Failed => {
                    self.tally.failed[self.signal].fetch_add(1, Relaxed);
                    self.stream = None;
                    self.rest(PAUSE).await;
                }
            }
        }
    }

    /// As long as that, unless the load is over.
    async fn rest(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.over.load(Relaxed) {
            tokio::time::sleep(Duration::from_millis(50).min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    async fn attempt(&mut self, turn: u64) -> Answer {
        match tokio::time::timeout(PATIENCE, self.exchange(turn)).await {
            Ok(Ok((200, _))) => Answer::Accepted,
            Ok(Ok((429 | 503, Some(seconds)))) => Answer::Refused(Duration::from_secs(seconds)),
            _ => Answer::Failed,
        }
    }

    /// Status, and the seconds of Retry-After.
    async fn exchange(&mut self, turn: u64) -> Result<(u16, Option<u64>)> {
        let request = self.template.fresh(turn);
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(TcpStream::connect(("127.0.0.1", self.port)).await?),
        };
        stream.write_all(&request).await?;
        let mut answer = Vec::with_capacity(512);
        loop {
            if stream.read_buf(&mut answer).await? == 0 {
                bail!("the connection was closed");
            }
            let Some(head_end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&answer[..head_end]).to_ascii_lowercase();
            let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            let length = header("content-length:").unwrap_or(0) as usize;
            if answer.len() < head_end + 4 + length {
                continue;
            }
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
            if head.contains("connection: close") {
                self.stream = None;
            }
            return Ok((status, header("retry-after:")));
        }
    }
}

/// A request with marks where it changes.
struct Template {
    bytes: Vec<u8>,
    times: Vec<(usize, u64)>,
    values: Vec<usize>,
    traces: Vec<usize>,
}

impl Template {
    fn new(signal: usize) -> Self {
        let (path, body) = match signal {
            0 => ("/v1/metrics", metrics()),
            1 => ("/v1/logs", logs()),
            _ => ("/v1/traces", traces()),
        };
        let length = body.len();
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nhost: agent\r\ncontent-type: application/x-protobuf\r\ncontent-length: {length}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend(body);
        let mut template = Self { times: Vec::new(), values: Vec::new(), traces: Vec::new(), bytes };
        for (at, window) in template.bytes.windows(8).enumerate() {
            let mut eight = [0; 8];
            eight.copy_from_slice(window);
            let number = u64::from_le_bytes(eight);
            if number & !0xf_ffff == TIME {
                template.times.push((at, number & 0xf_ffff));
            } else if number == VALUE {
                template.values.push(at);
            } else if eight == TRACE {
                template.traces.push(at);
            }
        }
        template
    }

    /// With times, values and trace ids of its own.
    fn fresh(&self, turn: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let now = now();
        let mut write = |at: usize, eight: [u8; 8]| bytes[at..at + 8].copy_from_slice(&eight);
        for &(at, before) in &self.times {
            write(at, (now - before).to_le_bytes());
        }
        for &at in &self.values {
            write(at, (((turn ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64).to_le_bytes());
        }
        for &at in &self.traces {
            write(at, turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        }
        bytes
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

fn attribute(key: &str, value: String) -> KeyValue {
    KeyValue { key: key.to_owned(), value: text(value), ..KeyValue::default() }
}

fn text(value: String) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(value)) })
}

fn resource() -> Option<Resource> {
    Some(Resource { attributes: vec![attribute("service.name", SERVICE.to_owned())], ..Resource::default() })
}

/// Lines as services write them: a few patterns with values in them, one in fifty a warning.
fn logs() -> Vec<u8> {
    let record = |i: u64| {
        let (body, severity_number) = match i % 50 {
            0 => (format!("slow query took {} ms on connection {}", 500 + i * 7, i % 13), 13),
            1..20 => (format!("GET /api/orders/{} 200 in {} ms for customer {}", 1_000 + i * 31, i % 90, i * 17), 9),
            20..35 => (format!("cache miss for key session:{:x}, loading from store", i * 7_919), 9),
            _ => (format!("worker {} finished job {} after {} steps", i % 8, i * 101, i % 40), 9),
        };
        LogRecord { time_unix_nano: TIME + i, severity_number, body: text(body), ..LogRecord::default() }
    };
    let scope_logs = vec![ScopeLogs { log_records: (0..RECORDS[1]).map(record).collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// Traces of four spans, one in a hundred spans failed.
fn traces() -> Vec<u8> {
    let span = |i: u64| {
        let mut trace_id = TRACE.to_vec();
        trace_id.extend((i / 4).to_be_bytes());
        let id = |i: u64| (i + 1).to_be_bytes().to_vec();
        let is_root = i.is_multiple_of(4);
        Span {
            trace_id,
            span_id: id(i),
            parent_span_id: if is_root { Vec::new() } else { id(i / 4 * 4) },
            name: format!("GET /api/{}", ["orders", "customers", "carts", "prices"][(i % 4) as usize]),
            kind: if is_root { 2 } else { 3 },
            start_time_unix_nano: TIME + 900_000 - i,
            end_time_unix_nano: TIME + i,
            attributes: vec![
                attribute("http.request.method", "GET".to_owned()),
                attribute("url.path", format!("/api/orders/{}", i * 31)),
                attribute("server.address", "shop.internal".to_owned()),
                attribute("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)".to_owned()),
            ],
            status: Some(Status { code: if i % 100 == 50 { 2 } else { 0 }, ..Status::default() }),
            ..Span::default()
        }
    };
    let scope_spans = vec![ScopeSpans { spans: (0..RECORDS[2]).map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// Gauges and counters in turn, of ten series each.
fn metrics() -> Vec<u8> {
    let point = |i: u64| NumberDataPoint {
        attributes: vec![attribute("route", format!("/api/{i}")), attribute("method", "GET".to_owned())],
        start_time_unix_nano: TIME + 900_000,
        time_unix_nano: TIME + i,
        value: Some(number_data_point::Value::AsDouble(f64::from_bits(VALUE))),
        ..NumberDataPoint::default()
    };
    let points = || (0..10).map(point).collect::<Vec<_>>();
    let metric = |i: u64| {
        let data = match i % 2 {
            0 => Data::Gauge(Gauge { data_points: points() }),
            _ => Data::Sum(Sum {
                data_points: points(),
                aggregation_temporality: AggregationTemporality::Delta as i32,
                is_monotonic: true,
            }),
        };
        Metric { name: format!("load.metric.{i}"), unit: "1".to_owned(), data: Some(data), ..Metric::default() }
    };
    let scope_metrics =
        vec![ScopeMetrics { metrics: (0..RECORDS[0] / 10).map(metric).collect(), ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}
