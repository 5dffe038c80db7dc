//! A plain OTLP client: builds requests, sends them by gRPC or HTTP, and hands back whatever is answered.
//!
//! It decides nothing and retries nothing, so that a test sees each answer as it is.

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
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
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status as OtlpStatus};
use prost::Message;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Code, Status};

/// Protobuf over OTLP/HTTP.
pub(crate) const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

/// The three of OTLP, with their gRPC method and HTTP path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Metrics,
    Logs,
    Traces,
}

impl Signal {
    pub(crate) const ALL: [Signal; 3] = [Signal::Metrics, Signal::Logs, Signal::Traces];

    /// As opentelemetry/proto/collector names it.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        }
    }

    pub(crate) fn path(self) -> &'static str {
        match self {
            Signal::Metrics => "/v1/metrics",
            Signal::Logs => "/v1/logs",
            Signal::Traces => "/v1/traces",
        }
    }

    /// Where its rows land.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Signal::Metrics => "metrics_raw",
            Signal::Logs => "logs_raw",
            Signal::Traces => "traces_raw",
        }
    }

    /// One valid request with one record.
    pub(crate) fn one(self, service: &str) -> Vec<u8> {
        match self {
            Signal::Metrics => gauge(service, "test.gauge", 1.0),
            Signal::Logs => logs(service, [format!("one record of {service}")]),
            Signal::Traces => spans(service, vec![span("one", 1)]),
        }
    }
}

/// One gRPC call, framed by hand, so that what no library would send can be sent too.
pub(crate) struct Call<'a> {
    pub(crate) address: &'a str,
    pub(crate) method: &'a str,
    pub(crate) headers: Vec<(&'a str, String)>,
    pub(crate) gzip: bool,
}

impl<'a> Call<'a> {
    /// To one signal's service at `host:port`.
    pub(crate) fn to(address: &'a str, signal: Signal) -> Self {
        Self { address, method: signal.method(), headers: Vec::new(), gzip: false }
    }

    /// With an API key.
    pub(crate) fn with_key(mut self, key: &str) -> Self {
        self.headers.push(("authorization", format!("Bearer {key}")));
        self
    }

    /// Sends the message's bytes as they are, or in gzip. The outer error: no answer at all.
    pub(crate) fn send(&self, message: Vec<u8>) -> Result<Result<Bytes, Status>> {
        let message = if self.gzip { gzip(&message)? } else { message };
        // Length-prefixed message: a flag that says whether it is compressed, four bytes of length, the bytes.
        let mut frame = vec![u8::from(self.gzip)];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        let mut request = Request::post(format!("http://{}{}", self.address, self.method))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if self.gzip {
            request = request.header("grpc-encoding", "gzip");
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(frame)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), exchange(self.address, request)).await? })
    }
}

async fn exchange(address: &str, request: Request<Full<Bytes>>) -> Result<Result<Bytes, Status>> {
    let stream = tokio::net::TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let head = response.headers().clone();
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    connection.abort();
    // A refusal may come as headers alone.
    let status = Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head));
    let status = status.context("an answer without grpc-status")?;
    if status.code() != Code::Ok {
        return Ok(Err(status));
    }
    let bytes = body.to_bytes();
    Ok(Ok(bytes.slice(bytes.len().min(5)..)))
}

/// As gzip compresses it best.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// A string attribute.
pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: text(value), ..KeyValue::default() }
}

fn text(value: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) })
}

fn resource(service: &str) -> Option<Resource> {
    Some(Resource { attributes: vec![attribute("service.name", service)], ..Resource::default() })
}

/// A log record of now.
pub(crate) fn log(body: &str) -> LogRecord {
    LogRecord {
        time_unix_nano: now(),
        observed_time_unix_nano: now(),
        severity_number: 9,
        body: text(body),
        ..LogRecord::default()
    }
}

/// A request with one record a body.
pub(crate) fn logs(service: &str, bodies: impl IntoIterator<Item = String>) -> Vec<u8> {
    log_records(service, bodies.into_iter().map(|body| log(&body)).collect())
}

/// The same as errors.
pub(crate) fn error_logs(service: &str, bodies: impl IntoIterator<Item = String>) -> Vec<u8> {
    let error = |body: String| LogRecord { severity_number: 17, ..log(&body) };
    log_records(service, bodies.into_iter().map(error).collect())
}

/// A request with these records.
pub(crate) fn log_records(service: &str, log_records: Vec<LogRecord>) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource(service), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

/// A server span of one millisecond that ended now; `id` makes its trace and itself.
pub(crate) fn span(name: &str, id: u64) -> Span {
    let end = now();
    Span {
        trace_id: (u128::from(id) + (1 << 100)).to_be_bytes().to_vec(),
        span_id: (id + (1 << 50)).to_be_bytes().to_vec(),
        name: name.to_owned(),
        kind: 2,
        start_time_unix_nano: end - 1_000_000,
        end_time_unix_nano: end,
        ..Span::default()
    }
}

/// The same, failed: sampling keeps it.
pub(crate) fn error_span(name: &str, id: u64) -> Span {
    Span { status: Some(OtlpStatus { message: "failed".to_owned(), code: 2 }), ..span(name, id) }
}

/// A request with these spans.
pub(crate) fn spans(service: &str, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: resource(service), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// A request with one point of one gauge.
pub(crate) fn gauge(service: &str, name: &str, value: f64) -> Vec<u8> {
    metric(service, name, Data::Gauge(Gauge { data_points: vec![point(0, value)] }))
}

/// A request with one point of one cumulative counter that began at `start`.
pub(crate) fn total(service: &str, name: &str, start: u64, value: f64) -> Vec<u8> {
    let aggregation_temporality = AggregationTemporality::Cumulative as i32;
    let data_points = vec![point(start, value)];
    metric(service, name, Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true }))
}

fn point(start_time_unix_nano: u64, value: f64) -> NumberDataPoint {
    let value = Some(number_data_point::Value::AsDouble(value));
    NumberDataPoint { start_time_unix_nano, time_unix_nano: now(), value, ..NumberDataPoint::default() }
}

fn metric(service: &str, name: &str, data: Data) -> Vec<u8> {
    let metrics = vec![Metric { name: name.to_owned(), unit: "1".to_owned(), data: Some(data), ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: resource(service), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}
