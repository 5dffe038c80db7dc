//! An OTLP/gRPC endpoint that keeps nothing and counts everything: each batch once, by the identity that it carries.
//!
//! It can be slow, and it can be away for as long as it is told to. Invariant: what [`Sink::counted`] says was answered with success.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use prost::Message;
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// What arrived, by signal in the order metrics, logs, traces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) records: [u64; 3],
    /// How many lines the log records stand for, by service.
    pub(crate) lines: BTreeMap<String, u64>,
}

/// A running endpoint; it ends with its runtime.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sink(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counted: Mutex<Counted>,
    seen: Mutex<HashSet<(String, String)>>,
    delay_ms: AtomicU64,
    is_away: AtomicBool,
}

/// Headers alone, or a message with trailers.
type Answer = Response<BoxBody<Bytes, Infallible>>;

impl Sink {
    /// Serve on a free port of the loopback, on the runtime that this is called in.
    pub(crate) async fn start() -> Result<(Self, SocketAddr)> {
        let sink = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let served = sink.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sink = served.clone();
                let service = hyper::service::service_fn(move |request| {
                    let sink = sink.clone();
                    async move { Ok::<_, Infallible>(sink.answer(request).await) }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok((sink, address))
    }

    /// Answer each call so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        self.0.delay_ms.store(delay.as_millis() as u64, Relaxed);
    }

    /// Refuse everything as unavailable, or take it again.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Relaxed);
    }

    /// What was taken so far.
    pub(crate) fn counted(&self) -> Counted {
        self.0.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        tokio::time::sleep(Duration::from_millis(self.0.delay_ms.load(Relaxed))).await;
        if self.0.is_away.load(Relaxed) {
            return refusal("14", "away");
        }
        match self.take(request).await {
            Ok(()) => success(),
            Err(error) => refusal("3", &error.to_string()),
        }
    }

    async fn take(&self, request: Request<Incoming>) -> Result<()> {
        let (parts, body) = request.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let identity = (header("x-ollystack-agent").to_owned(), header("x-ollystack-sequence").to_owned());
        let is_zstd = header("grpc-encoding") == "zstd";
        let frame = body.collect().await?.to_bytes();
        let (flag, message) = (frame.first().copied().unwrap_or(0), frame.get(5..).context("no message")?);
        let message = if flag == 1 && is_zstd { zstd::decode_all(message)? } else { message.to_vec() };
        let counted = count(parts.uri.path(), &message)?;
        let is_new = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(identity);
        if is_new {
            self.0.counted.lock().unwrap_or_else(PoisonError::into_inner).add(counted);
        }
        Ok(())
    }
}

impl Counted {
    fn add(&mut self, other: Counted) {
        for (sum, records) in self.records.iter_mut().zip(other.records) {
            *sum += records;
        }
        for (service, lines) in other.lines {
            *self.lines.entry(service).or_default() += lines;
        }
    }
}

fn count(path: &str, message: &[u8]) -> Result<Counted> {
    let mut counted = Counted::default();
    if path.contains("Metrics") {
        for resource in ExportMetricsServiceRequest::decode(message)?.resource_metrics {
            let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
            counted.records[0] += metrics.map(points).sum::<u64>();
        }
    } else if path.contains("Logs") {
        for resource in ExportLogsServiceRequest::decode(message)?.resource_logs {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = text(&attributes, "service.name").unwrap_or_default().to_owned();
            let records = || resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
            counted.records[1] += records().count() as u64;
            let lines = records().map(|record| number(&record.attributes, "ollystack.log.count").unwrap_or(1));
            *counted.lines.entry(service).or_default() += lines.sum::<u64>();
        }
    } else {
        for resource in ExportTraceServiceRequest::decode(message)?.resource_spans {
            counted.records[2] += resource.scope_spans.iter().map(|scope| scope.spans.len() as u64).sum::<u64>();
        }
    }
    Ok(counted)
}

fn points(metric: &Metric) -> u64 {
    let points = match &metric.data {
        None => 0,
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
    };
    points as u64
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attribute(attributes, key) {
        Some(Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn number(attributes: &[KeyValue], key: &str) -> Option<u64> {
    match attribute(attributes, key) {
        Some(Value::IntValue(number)) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn success() -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    // A message of no bytes: uncompressed, of length 0.
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
    grpc(Response::new(BoxBody::new(body)))
}

fn refusal(status: &'static str, message: &str) -> Answer {
    let mut answer = Response::new(BoxBody::new(Empty::new()));
    answer.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    if let Ok(message) = HeaderValue::from_str(message) {
        answer.headers_mut().insert("grpc-message", message);
    }
    grpc(answer)
}

fn grpc(mut answer: Answer) -> Answer {
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}
