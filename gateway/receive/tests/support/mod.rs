//! A service that remembers what came, a server of it on a free port, and plain HTTP clients.
#![allow(clippy::unwrap_used, dead_code)] // each test binary uses its part

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ollystack_receive::{
    Accepted, Allowance, Event, Export, Limits, OtlpService, Refusal, RequestHead, Server, Tls, bind,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Answers as the `x-answer` header asks; takes only the key `good`.
pub(crate) struct Recorder {
    pub(crate) exports: Mutex<Vec<Export>>,
    pub(crate) events: Mutex<Vec<String>>,
    /// A request that was asked to wait is in `export`.
    pub(crate) entered: Notify,
    pub(crate) closed: Notify,
    /// A permit lets one of them go on.
    pub(crate) gate: Semaphore,
    /// Of whoever has the key `good`.
    pub(crate) allowance: Allowance,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            exports: Mutex::default(),
            events: Mutex::default(),
            entered: Notify::new(),
            closed: Notify::new(),
            gate: Semaphore::new(0),
            allowance: Allowance::new(usize::MAX, 3),
        }
    }
}

impl OtlpService for Recorder {
    type Caller = ();
    type Body = ollystack_receive::Message;

    fn admit(&self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        match head.headers.get("authorization").and_then(|value| value.to_str().ok()) {
            Some("Bearer good") => Ok(()),
            Some("Bearer weak") => Err(Refusal::PermissionDenied("not with this key".into())),
            _ => Err(Refusal::Unauthenticated("no key, or an unknown one".into())),
        }
    }

    fn allowance<'a>(&'a self, (): &'a ()) -> Option<&'a Allowance> {
        Some(&self.allowance)
    }

    async fn export(&self, (): (), request: Export) -> Result<Accepted, Refusal> {
        let answer = request.headers.get("x-answer").and_then(|value| value.to_str().ok()).unwrap_or("ok").to_owned();
        self.exports.lock().unwrap().push(request);
        let retry_after = std::time::Duration::from_millis(1_500);
        match answer.as_str() {
            "partial" => Ok(Accepted { rejected: 3, message: "three of them".into(), ..Accepted::default() }),
            "quota" => Err(Refusal::Exhausted { retry_after, message: "100 records/s".into() }),
            "outage" => Err(Refusal::Unavailable { retry_after, message: "the key store – away".into() }),
            "wait" => {
                self.entered.notify_one();
                let _ = self.gate.acquire().await;
                Ok(Accepted::default())
            }
            _ => {
                let mut headers = HeaderMap::new();
                headers.insert("x-ollystack-left", "7".parse().unwrap());
                Ok(Accepted { headers, ..Accepted::default() })
            }
        }
    }

    fn observe(&self, event: Event) {
        if matches!(event, Event::ConnectionClosed) {
            self.closed.notify_one();
        }
        let text = match event {
            Event::Answered { code, reason, .. } => format!("{code:?} {reason}"),
            other => format!("{other:?}"),
        };
        self.events.lock().unwrap().push(text);
    }
}

/// A running server; stops when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) service: Arc<Recorder>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn start(limits: Limits, tls: Option<&Tls>) -> Running {
    let service = Arc::new(Recorder::default());
    let server = Server::new(Arc::clone(&service), limits, tls).unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let task = tokio::spawn(async move { server.serve(listener, token).await });
    Running { address, service, stop, task }
}

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    /// grpc-status, from the trailers or, without a message, from the headers.
    pub(crate) fn code(&self) -> i32 {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        status.unwrap().to_str().unwrap().parse().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn whole(response: Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body: collected.to_bytes(), trailers }
}

/// One request over HTTP/1.1.
pub(crate) async fn http1(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

/// One request over HTTP/2.
pub(crate) async fn http2(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let executor = TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

pub(crate) fn post(path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut builder = Request::post(format!("http://test{path}"));
    let mut key = true;
    for (name, value) in headers {
        key &= *name != "authorization";
        builder = builder.header(*name, *value);
    }
    if key {
        builder = builder.header("authorization", "Bearer good");
    }
    builder.body(Full::new(body.into())).unwrap()
}

pub(crate) const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A gRPC request with one message.
pub(crate) fn grpc(path: &str, headers: &[(&str, &str)], flag: u8, message: &[u8]) -> Request<Full<Bytes>> {
    let mut framed = vec![flag];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
    all.extend_from_slice(headers);
    post(path, &all, framed)
}

pub(crate) fn spans(count: usize) -> ExportTraceServiceRequest {
    let span = Span { trace_id: vec![1; 16], span_id: vec![2; 8], name: "op".into(), ..Span::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span; count], ..ScopeSpans::default() }];
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
}

pub(crate) fn spans_bytes() -> Vec<u8> {
    spans(2).encode_to_vec()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}
