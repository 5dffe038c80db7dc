//! What crosses between the face and the service behind it: the head of a request, the decoded export, the answer.

use crate::{Allowance, Body, Held, Refusal, TooMany};
use http::HeaderMap;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use std::net::SocketAddr;
use std::time::Duration;
use tonic::Code;

/// What stands behind the face: the gateway's admission, or the agent's intake.
pub trait OtlpService: Send + Sync + 'static {
    /// Who calls, as [`admit`](OtlpService::admit) found out; handed to [`export`](OtlpService::export).
    type Caller: Send + 'static;

    /// In what form it takes requests: a decoded [`Message`], or [`Wire`](crate::Wire).
    type Body: Body;

    /// Decide by the head alone, before the body is read: key, limits. Must not block.
    fn admit(&self, head: &RequestHead<'_>) -> Result<Self::Caller, Refusal>;

    /// What this caller may have in progress, beside what all may; `None`: no less than all.
    fn allowance<'a>(&'a self, caller: &'a Self::Caller) -> Option<&'a Allowance> {
        let _ = caller;
        None
    }

    /// What this caller is told when the face refuses a request that [`export`](OtlpService::export) never saw.
    fn untouched(&self, caller: &Self::Caller, refusal: Refusal) -> Refusal {
        let _ = caller;
        refusal
    }

    /// Take one request. The answer goes out when this returns, so return only when the data is safe.
    /// The future is dropped at an await when the client goes away.
    fn export(
        &self,
        caller: Self::Caller,
        request: Export<Self::Body>,
    ) -> impl Future<Output = Result<Accepted, Refusal>> + Send;

    /// Told of everything that happens at the face, for counters. Must not block.
    fn observe(&self, event: Event) {
        let _ = event;
    }
}

/// The three signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Counted in data points.
    Metrics,
    /// Counted in log records.
    Logs,
    /// Counted in spans.
    Traces,
}

impl Signal {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Metrics => "metrics",
            Signal::Logs => "logs",
            Signal::Traces => "traces",
        }
    }
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Unary gRPC.
    Grpc,
    /// OTLP/HTTP with `application/x-protobuf`.
    HttpProtobuf,
    /// OTLP/HTTP with `application/json`.
    HttpJson,
}

impl Transport {
    /// Snake-case name.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Grpc => "grpc",
            Transport::HttpProtobuf => "http_protobuf",
            Transport::HttpJson => "http_json",
        }
    }
}

/// What is known before the body is read.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// HTTP headers, or gRPC metadata: the same thing.
    pub headers: &'a HeaderMap,
    /// The other end of the connection (a load balancer's address, if there is one).
    pub peer: SocketAddr,
    /// What the request carries.
    pub signal: Signal,
    /// How.
    pub transport: Transport,
}

/// One request.
#[derive(Debug)]
pub struct Export<B = Message> {
    /// What.
    pub message: B,
    /// As in the head.
    pub headers: HeaderMap,
    /// As in the head.
    pub peer: SocketAddr,
    /// As in the head.
    pub transport: Transport,
    /// Size of the message as it was on the wire, compressed.
    pub wire_bytes: u64,
    /// Size after decompression, before decoding.
    pub decoded_bytes: u64,
    /// What the message takes of the bytes that requests in progress may hold. Drop it with the message, or once the message is
    /// counted elsewhere: a request that only waits for its answer then keeps nobody out.
    pub held: Held,
}

/// A request message of one of the three services.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// MetricsService/Export, or /v1/metrics.
    Metrics(ExportMetricsServiceRequest),
    /// LogsService/Export, or /v1/logs.
    Logs(ExportLogsServiceRequest),
    /// TraceService/Export, or /v1/traces.
    Traces(ExportTraceServiceRequest),
}

impl Message {
    /// Its signal.
    pub fn signal(&self) -> Signal {
        match self {
            Message::Metrics(_) => Signal::Metrics,
            Message::Logs(_) => Signal::Logs,
            Message::Traces(_) => Signal::Traces,
        }
    }
}

/// A success answer, full or partial. The default is full success.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accepted {
    /// Data points, log records or spans that were refused for good; the sender must not send them again.
    pub rejected: i64,
    /// Why; or, with `rejected` 0, a warning. Empty for none.
    pub message: String,
    /// Extra response headers (gRPC: initial metadata), for example what is left of a quota.
    pub headers: HeaderMap,
    /// Lists and maps that the service left out because they were nested too deeply; the sender is told.
    pub values_cut: u64,
}

/// Something happened at the face.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A connection was accepted.
    ConnectionOpened,
    /// An accepted connection ended.
    ConnectionClosed,
    /// A connection was closed: too many are open, or it did too much of what leads to nothing.
    ConnectionRefused(TooMany),
    /// TLS was not agreed, or not in time.
    HandshakeFailed,
    /// A request was answered.
    Answered {
        /// None when the path names none of the three services.
        signal: Option<Signal>,
        /// None when the content type is none of ours.
        transport: Option<Transport>,
        /// The gRPC code, or the one that the HTTP status stands for.
        code: Code,
        /// Snake-case reason of a refusal; empty on success.
        reason: &'static str,
        /// Bytes of the message on the wire; 0 when it was not read to its end.
        wire_bytes: u64,
        /// Bytes after decompression; 0 when it did not come so far.
        decoded_bytes: u64,
        /// Lists and maps that were left out because they were nested too deeply.
        values_cut: u64,
        /// From the head's arrival until the answer was ready.
        elapsed: Duration,
    },
}
