//! Answers: what a service said, or why it could not be asked, as exact gRPC and OTLP/HTTP responses.
//!
//! gRPC: HTTP 200; a success is one message and trailers, a refusal is trailers only, with `grpc-status-details-bin` carrying
//! a `google.rpc.Status` (and RetryInfo when the sender may try again). HTTP: the message, or a `google.rpc.Status`, in the
//! encoding of the request; Retry-After in whole seconds. Invariant: RetryInfo or Retry-After is there exactly when
//! [`Refusal::retry_after`] says so.

use crate::allowance::Share;
use crate::server::InProgress;
use crate::{Accepted, Refusal, Signal, Transport};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message as _;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// At most one chunk of data, then at most one set of trailers.
#[derive(Debug, Default)]
pub(crate) struct Body {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    place: Option<Place>,
}

/// What an answer takes until it has left: a sender that does not read has no more of them than of requests in progress.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) _share: Option<Share>,
    pub(crate) _in_progress: InProgress,
}

impl Body {
    /// Give the place back when the body has left, or its stream is gone.
    pub(crate) fn hold(&mut self, place: Place) {
        self.place = Some(place);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// A success.
pub(crate) fn accepted(signal: Signal, transport: Transport, accepted: Accepted) -> Response<Body> {
    let mut response = match transport {
        Transport::Grpc => {
            let message = message(signal, &accepted);
            let mut data = BytesMut::with_capacity(message.len() + 5);
            data.put_u8(0);
            data.put_u32(message.len() as u32);
            data.put_slice(&message);
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            typed(StatusCode::OK, GRPC, Body { data: Some(data.freeze()), trailers: Some(trailers), place: None })
        }
        Transport::HttpProtobuf => typed(StatusCode::OK, PROTOBUF, whole(message(signal, &accepted).into())),
        Transport::HttpJson => typed(StatusCode::OK, JSON, whole(message_json(signal, &accepted).into())),
    };
    response.headers_mut().extend(accepted.headers);
    response
}

/// A refusal. `transport` is None when the content type was none of ours: JSON then, which a person can read.
pub(crate) fn refused(transport: Option<Transport>, refusal: &Refusal) -> Response<Body> {
    let mut response = match transport {
        Some(Transport::Grpc) => grpc_status(refusal),
        _ => http_status(transport, refusal.http_status(), refusal.code(), refusal.message(), refusal.retry_after()),
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.headers_mut().extend(refusal.headers().cloned().unwrap_or_default());
    response
}

/// HTTP only: no such path.
pub(crate) fn not_found(transport: Option<Transport>) -> Response<Body> {
    let message = "no such path; send to /v1/traces, /v1/metrics or /v1/logs";
    http_status(transport, StatusCode::NOT_FOUND, Code::Unimplemented, message, None)
}

/// HTTP only: not POST.
pub(crate) fn wrong_method(transport: Option<Transport>) -> Response<Body> {
    let message = "this path takes POST only";
    let mut response = http_status(transport, StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message, None);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}

const GRPC: &str = "application/grpc";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";
/// What a sender is told when its encoding was not understood.
pub(crate) const ENCODINGS: &str = "identity,gzip,zstd";

fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn whole(data: Bytes) -> Body {
    Body { data: (!data.is_empty()).then_some(data), ..Body::default() }
}

fn grpc_status(refusal: &Refusal) -> Response<Body> {
    let mut details = ErrorDetails::new();
    if let Some(delay) = refusal.retry_after() {
        details.set_retry_info(Some(delay));
    }
    let status = Status::with_error_details(refusal.code(), refusal.message(), details);
    let mut response = typed(StatusCode::OK, GRPC, Body::default());
    // Fails only for a message that no header can carry, which percent-encoding rules out; the code alone is the fallback.
    if status.add_header(response.headers_mut()).is_err() {
        response.headers_mut().insert("grpc-status", HeaderValue::from(refusal.code() as i32));
    }
    if matches!(refusal, Refusal::Unsupported(_)) {
        response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static(ENCODINGS));
    }
    response
}

fn http_status(
    transport: Option<Transport>,
    status: StatusCode,
    code: Code,
    message: &str,
    retry_after: Option<Duration>,
) -> Response<Body> {
    let mut response = if transport == Some(Transport::HttpProtobuf) {
        let mut details = ErrorDetails::new();
        if let Some(delay) = retry_after {
            details.set_retry_info(Some(delay));
        }
        let status_message = Status::with_error_details(code, message, details);
        // tonic keeps the encoded google.rpc.Status in `details`.
        typed(status, PROTOBUF, whole(Bytes::copy_from_slice(status_message.details())))
    } else {
        let mut body = json!({ "code": code as i32, "message": message });
        if let Some(delay) = retry_after {
            let delay = format!("{}.{:09}s", delay.as_secs(), delay.subsec_nanos());
            body["details"] = json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay }]);
        }
        typed(status, JSON, whole(body.to_string().into()))
    };
    if let Some(delay) = retry_after {
        // Whole seconds, rounded up: earlier would be refused again.
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

fn message(signal: Signal, accepted: &Accepted) -> Vec<u8> {
    let error_message = accepted.message.clone();
    let rejected = accepted.rejected;
    let partial = partial(accepted);
    match signal {
        Signal::Metrics => ExportMetricsServiceResponse {
            partial_success: partial
                .then_some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message }),
        }
        .encode_to_vec(),
        Signal::Logs => ExportLogsServiceResponse {
            partial_success: partial
                .then_some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message }),
        }
        .encode_to_vec(),
        Signal::Traces => ExportTraceServiceResponse {
            partial_success: partial.then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message }),
        }
        .encode_to_vec(),
    }
}

fn message_json(signal: Signal, accepted: &Accepted) -> String {
    if !partial(accepted) {
        return "{}".to_owned();
    }
    let key = match signal {
        Signal::Metrics => "rejectedDataPoints",
        Signal::Logs => "rejectedLogRecords",
        Signal::Traces => "rejectedSpans",
    };
    // 64-bit integers are strings in protobuf's JSON.
    let mut fields = serde_json::Map::new();
    fields.insert(key.to_owned(), Value::String(accepted.rejected.to_string()));
    fields.insert("errorMessage".to_owned(), Value::String(accepted.message.clone()));
    json!({ "partialSuccess": fields }).to_string()
}

/// "The server MUST leave partial_success unset in case of a successful response."
fn partial(accepted: &Accepted) -> bool {
    accepted.rejected != 0 || !accepted.message.is_empty()
}
