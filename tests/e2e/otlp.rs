//! A plain OTLP client: builds requests, sends them by gRPC or HTTP, and hands back whatever is answered.
//!
//! It decides nothing and retries nothing, so that a test sees each answer as it is.

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status as OtlpStatus};
use prost::Message;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Request, Status};

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

/// One gRPC call. The outer error: no answer at all.
pub(crate) struct Call<'a> {
    pub(crate) address: &'a str,
    pub(crate) method: &'a str,
    pub(crate) metadata: Vec<(&'a str, String)>,
    pub(crate) gzip: bool,
}

impl<'a> Call<'a> {
    /// To one signal's service at `host:port`.
    pub(crate) fn to(address: &'a str, signal: Signal) -> Self {
        Self { address, method: signal.method(), metadata: Vec::new(), gzip: false }
    }

    /// With an API key.
    pub(crate) fn with_key(mut self, key: &str) -> Self {
        self.metadata.push(("authorization", format!("Bearer {key}")));
        self
    }

    /// Sends the message's bytes as they are.
    pub(crate) fn send(&self, message: Vec<u8>) -> Result<Result<Bytes, Status>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let endpoint = Endpoint::new(format!("http://{}", self.address))?.timeout(Duration::from_secs(60));
            let channel = endpoint.connect().await.with_context(|| format!("connect to {}", self.address))?;
            let mut client = tonic::client::Grpc::new(channel);
            if self.gzip {
                client = client.send_compressed(CompressionEncoding::Gzip);
            }
            client.ready().await?;
            let mut request = Request::new(Bytes::from(message));
            for (name, value) in &self.metadata {
                request
                    .metadata_mut()
                    .insert(MetadataKey::from_bytes(name.as_bytes())?, MetadataValue::try_from(value)?);
            }
            let path = http::uri::PathAndQuery::try_from(self.method)?;
            Ok(client.unary(request, path, Raw).await.map(|response| response.into_inner()))
        })
    }
}

/// Messages as the bytes they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
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
    let value = Some(number_data_point::Value::AsDouble(value));
    let point = NumberDataPoint { time_unix_nano: now(), value, ..NumberDataPoint::default() };
    let data = Some(Data::Gauge(Gauge { data_points: vec![point] }));
    let metrics = vec![Metric { name: name.to_owned(), unit: "1".to_owned(), data, ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: resource(service), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}
