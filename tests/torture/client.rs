//! A client of an OTLP face that sends whatever it is told, and reads each answer as one of the [`Verdict`]s that there are.
//!
//! It retries nothing. Invariant: an answer that is none of the ones we promise is [`Verdict::Other`], which no torture expects.

use crate::otlp::Signal;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tonic::Status;
use tonic_types::StatusExt;

/// Longer than the answer to anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Grpc,
    /// OTLP/HTTP over HTTP/1.1, protobuf or JSON.
    Http {
        json: bool,
    },
    /// OTLP/HTTP over HTTP/2.
    Http2 {
        json: bool,
    },
}

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) way: Way,
    pub(crate) path: String,
    pub(crate) method: Method,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Taken,
    /// 400, or INVALID_ARGUMENT.
    Invalid,
    /// 401, or UNAUTHENTICATED.
    Unauthenticated,
    /// 404 or 405, or UNIMPLEMENTED.
    NoSuch,
    /// 413, or RESOURCE_EXHAUSTED without RetryInfo: final.
    TooLarge,
    /// 415, or UNIMPLEMENTED.
    Unsupported,
    /// 429, or RESOURCE_EXHAUSTED, with a time to come back.
    Busy,
    /// 503, or UNAVAILABLE, with a time to come back.
    Unavailable,
    /// 400, or INTERNAL: gRPC's framing.
    Broken,
    /// HTTP status and gRPC code of anything else.
    Other(u16, i32),
}

/// The answer to one call.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// Records that were left out of what was taken.
    pub(crate) rejected: u64,
    /// What the sender is told.
    pub(crate) message: String,
}

/// One connection.
pub(crate) enum Client {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Call {
    /// One message, as it is or compressed: `encoding` is what it is in.
    pub(crate) fn new(way: Way, signal: Signal, key: &str, encoding: &str, message: &[u8]) -> Call {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut headers = vec![header("authorization", &format!("Bearer {key}"))];
        let (path, body) = match way {
            Way::Grpc => {
                headers.extend([header("content-type", "application/grpc"), header("te", "trailers")]);
                headers.push(header("grpc-encoding", encoding));
                let flag = u8::from(encoding != "identity");
                (signal.method(), [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat())
            }
            Way::Http { json } | Way::Http2 { json } => {
                let content_type = if json { "application/json" } else { "application/x-protobuf" };
                headers.extend([header("content-type", content_type), header("content-encoding", encoding)]);
                (signal.path(), message.to_vec())
            }
        };
        Call { way, path: path.to_owned(), method: Method::POST, headers, body }
    }

    /// With one more header, even if it is there already.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Call {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another value of a header, or without it.
    pub(crate) fn set(mut self, name: &str, value: Option<&str>) -> Call {
        self.headers.retain(|(found, _)| found != name);
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>> {
        let uri = match self.way {
            Way::Http { .. } => self.path.clone(),
            Way::Grpc | Way::Http2 { .. } => format!("http://test{}", self.path),
        };
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if matches!(self.way, Way::Http { .. }) {
            request = request.header("host", "test");
        }
        Ok(request.body(Full::new(Bytes::from(self.body.clone())))?)
    }
}

impl Client {
    /// Connect, from this address of the loopback.
    pub(crate) async fn connect(way: Way, address: SocketAddr, from: [u8; 4]) -> Result<Client> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        let stream = timeout(PATIENCE, socket.connect(address)).await.context("no connection in time")??;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(match way {
            Way::Http { .. } => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Client::One(sender)
            }
            Way::Grpc | Way::Http2 { .. } => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Client::Two(sender)
            }
        })
    }

    /// One request and its answer. An error: no answer.
    pub(crate) async fn send(&mut self, call: &Call) -> Result<Answer> {
        let request = call.request()?;
        let exchange = async {
            let response = match self {
                Client::One(sender) => sender.send_request(request).await?,
                Client::Two(sender) => sender.send_request(request).await?,
            };
            read(call.way, response).await
        };
        timeout(PATIENCE, exchange).await.context("no answer in time")?
    }
}

/// One request over a connection of its own.
pub(crate) async fn once(address: SocketAddr, call: &Call) -> Result<Answer> {
    Client::connect(call.way, address, [127, 0, 0, 1]).await?.send(call).await
}

async fn read(way: Way, response: Response<Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    if way == Way::Grpc && head.status == 200 {
        let status = Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head.headers));
        return Ok(of_grpc(&status.context("an answer without grpc-status")?, &body));
    }
    let retry = head.headers.contains_key("retry-after");
    let verdict = match (head.status.as_u16(), retry) {
        (200, false) => Verdict::Taken,
        (400, false) => Verdict::Invalid,
        (401, false) => Verdict::Unauthenticated,
        (404 | 405, false) => Verdict::NoSuch,
        (413, false) => Verdict::TooLarge,
        (415, false) => Verdict::Unsupported,
        (429, true) => Verdict::Busy,
        (503, true) => Verdict::Unavailable,
        (status, _) => Verdict::Other(status, -1),
    };
    let (rejected, message) = if is_json(&head.headers) { partial_json(&body) } else { partial(&body) };
    Ok(Answer { verdict, rejected, message })
}

fn of_grpc(status: &Status, body: &[u8]) -> Answer {
    let retry = status.get_error_details().retry_info().is_some();
    let verdict = match (status.code() as i32, retry) {
        (0, false) => Verdict::Taken,
        (3, false) => Verdict::Invalid,
        (16, false) => Verdict::Unauthenticated,
        (12, false) => Verdict::NoSuch,
        (8, false) => Verdict::TooLarge,
        (8, true) => Verdict::Busy,
        (14, true) => Verdict::Unavailable,
        (13, false) => Verdict::Broken,
        (code, _) => Verdict::Other(200, code),
    };
    let (rejected, message) = match verdict {
        Verdict::Taken => partial(body.get(5..).unwrap_or_default()),
        _ => (0, status.message().to_owned()),
    };
    Answer { verdict, rejected, message }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get("content-type").is_some_and(|value| value == "application/json")
}

/// The three responses are alike on the wire.
fn partial(body: &[u8]) -> (u64, String) {
    let response = ExportLogsServiceResponse::decode(body).unwrap_or_default();
    let partial = response.partial_success.unwrap_or_default();
    (u64::try_from(partial.rejected_log_records).unwrap_or(0), partial.error_message)
}

fn partial_json(body: &[u8]) -> (u64, String) {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let partial = &json["partialSuccess"];
    let keys = ["rejectedDataPoints", "rejectedLogRecords", "rejectedSpans"];
    let rejected = keys.iter().find_map(|key| partial[*key].as_str()?.parse().ok());
    let message = partial["errorMessage"].as_str().or_else(|| json["message"].as_str());
    (rejected.unwrap_or(0), message.unwrap_or_default().to_owned())
}
