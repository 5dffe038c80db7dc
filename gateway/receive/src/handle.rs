//! One request, from its head to its answer.
//!
//! Invariant: the order is route, admit, read, decompress, decode, export; nothing of the body is touched before `admit` said
//! yes, and whatever goes wrong becomes an answer.

use crate::allowance::Share;
use crate::answer::{self, Body, Place};
use crate::body::{self, Framing};
use crate::decode::{self, decode};
use crate::decompress::{Encoding, decompress, grow, no_room};
use crate::limits::{Limits, millis};
use crate::schema::NESTS_MAX;
use crate::server::{InProgress, Shared};
use crate::{Accepted, Event, Export, OtlpService, Refusal, RequestHead, Signal, Transport};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, request::Parts};
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tonic::Code;

/// What a request in progress takes beside its message and the text of its headers: its task, its stream, places in tables.
const REQUEST_BYTES: usize = 4 << 10;
const HEADER_BYTES: usize = 128;

/// Answer one request.
pub(crate) async fn answer<S, B>(
    shared: &Shared<S>,
    mut in_progress: InProgress,
    peer: SocketAddr,
    request: Request<B>,
) -> Response<Body>
where
    S: OtlpService,
    B: http_body::Body<Data = Bytes>,
    B::Error: Display,
{
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let route = route(&parts);
    let mut size = Size::default();
    let mut share: Option<Share> = None;
    let outcome = match &route {
        Route::Export(signal, transport) => {
            let way = (peer, *signal, *transport);
            let result = export(shared, &in_progress, way, (parts, body), &mut size, &mut share).await;
            result.map(|accepted| answer::accepted(*signal, *transport, accepted))
        }
        Route::Refuse(_, refusal) => Err(refusal.clone()),
        Route::NotFound(_) | Route::WrongMethod(_) => Err(Refusal::Unsupported("no such path or method".to_owned())),
    };
    let (signal, transport) = match &route {
        Route::Export(signal, transport) => (Some(*signal), Some(*transport)),
        Route::Refuse(transport, _) | Route::NotFound(transport) | Route::WrongMethod(transport) => (None, *transport),
    };
    let (code, reason) = match &outcome {
        Ok(_) => (Code::Ok, ""),
        Err(refusal) => (refusal.code(), refusal.reason()),
    };
    let Size { wire: wire_bytes, decoded: decoded_bytes, cut: values_cut } = size;
    let elapsed = begun.elapsed();
    shared.service.observe(Event::Answered {
        signal,
        transport,
        code,
        reason,
        wire_bytes,
        decoded_bytes,
        values_cut,
        elapsed,
    });
    let mut response = match (outcome, route) {
        (Ok(response), _) => response,
        (Err(_), Route::NotFound(transport)) => answer::not_found(transport),
        (Err(_), Route::WrongMethod(transport)) => answer::wrong_method(transport),
        (Err(refusal), _) => answer::refused(transport, &refusal),
    };
    in_progress.answered();
    // Of the request nothing is left but its stream.
    drop(share.as_mut().map(|share| share.part(REQUEST_BYTES)));
    response.body_mut().hold(Place { _share: share, _in_progress: in_progress });
    response
}

#[derive(Default)]
struct Size {
    wire: u64,
    decoded: u64,
    cut: u64,
}

/// Whence a request comes, and where it goes.
type Way = (SocketAddr, Signal, Transport);

async fn export<S, B>(
    shared: &Shared<S>,
    in_progress: &InProgress,
    (peer, signal, transport): Way,
    (parts, body): (Parts, B),
    size: &mut Size,
    share: &mut Option<Share>,
) -> Result<Accepted, Refusal>
where
    S: OtlpService,
    B: http_body::Body<Data = Bytes>,
    B::Error: Display,
{
    let (service, limits) = (&shared.service, &shared.limits);
    let caller = service.admit(&RequestHead { headers: &parts.headers, peer, signal, transport })?;
    in_progress.admitted();
    let received = match Share::new(&shared.allowance, service.allowance(&caller)) {
        Ok(own) => receive(limits, (peer, signal, transport), (parts, body), size, share.insert(own)).await,
        Err(none) => Err(no_room(none)),
    };
    let request = received.map_err(|refusal| service.untouched(&caller, refusal))?;
    let time = millis(limits.answer_timeout_ms);
    let accepted = timeout(time, service.export(caller, request)).await.unwrap_or_else(|_| {
        Err(Refusal::Unavailable {
            retry_after: Duration::from_secs(1),
            message: format!("no answer within {} ms; the data may or may not have been taken", time.as_millis()),
        })
    });
    let accepted = accepted?;
    size.cut += accepted.values_cut;
    Ok(if size.cut > 0 { warned(accepted, size.cut) } else { accepted })
}

/// Read, decompress and decode an admitted request.
async fn receive<B, M>(
    limits: &Limits,
    (peer, signal, transport): Way,
    (parts, body): (Parts, B),
    size: &mut Size,
    share: &mut Share,
) -> Result<Export<M>, Refusal>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Display,
    M: decode::Body,
{
    let encoding = encoding(&parts.headers, transport)?;
    let framing = if transport == Transport::Grpc { Framing::Grpc } else { Framing::Whole };
    let text: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum();
    let own = REQUEST_BYTES + text;
    grow(share, own)?;
    let sent = body::read(body, framing, limits.wire_bytes_max, millis(limits.body_timeout_ms), share).await?;
    size.wire = sent.bytes.len() as u64;
    let encoding = match (sent.compressed, encoding) {
        (false, _) => Encoding::Identity,
        (true, Encoding::Identity) if framing == Framing::Grpc => {
            return Err(Refusal::Broken("compressed-flag 1 without a grpc-encoding".to_owned()));
        }
        (true, encoding) => encoding,
    };
    let bytes = decompress(encoding, sent.bytes, limits.decoded_bytes_max, share)?;
    size.decoded = bytes.len() as u64;
    let (message, cut) = decode(signal, transport == Transport::HttpJson, bytes, share)?;
    size.cut = cut;
    Ok(Export {
        message,
        headers: parts.headers,
        peer,
        transport,
        wire_bytes: size.wire,
        decoded_bytes: size.decoded,
        held: share.part(own),
    })
}

/// A success that says what was left out.
fn warned(mut accepted: Accepted, cut: u64) -> Accepted {
    let end = if accepted.message.is_empty() { "" } else { "; " };
    accepted.message += &format!("{end}{cut} lists or maps within more than {NESTS_MAX} others were left out");
    accepted
}

/// Where a request goes, by method, path and content type.
#[derive(Debug)]
enum Route {
    Export(Signal, Transport),
    Refuse(Option<Transport>, Refusal),
    NotFound(Option<Transport>),
    WrongMethod(Option<Transport>),
}

fn route(parts: &Parts) -> Route {
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let transport = match content_type.as_str() {
        "application/grpc" | "application/grpc+proto" => Some(Transport::Grpc),
        "application/x-protobuf" => Some(Transport::HttpProtobuf),
        "application/json" => Some(Transport::HttpJson),
        _ => None,
    };
    let path = parts.uri.path();
    if transport == Some(Transport::Grpc) {
        let signal = match path {
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Signal::Metrics,
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Signal::Logs,
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Signal::Traces,
            _ => {
                let refusal =
                    Refusal::Unsupported(format!("no method {path}; OTLP's Export of metrics, logs and traces"));
                return Route::Refuse(transport, refusal);
            }
        };
        return match parts.method == Method::POST {
            true => Route::Export(signal, Transport::Grpc),
            false => Route::WrongMethod(transport),
        };
    }
    let signal = match path {
        "/v1/metrics" => Signal::Metrics,
        "/v1/logs" => Signal::Logs,
        "/v1/traces" => Signal::Traces,
        _ => return Route::NotFound(transport),
    };
    if parts.method != Method::POST {
        return Route::WrongMethod(transport);
    }
    match transport {
        Some(transport) => Route::Export(signal, transport),
        None => {
            let message = format!("content-type {content_type:?}; application/x-protobuf or application/json");
            Route::Refuse(None, Refusal::Unsupported(message))
        }
    }
}

fn encoding(headers: &HeaderMap, transport: Transport) -> Result<Encoding, Refusal> {
    let name = if transport == Transport::Grpc { "grpc-encoding" } else { CONTENT_ENCODING.as_str() };
    let Some(value) = headers.get(name) else { return Ok(Encoding::Identity) };
    value
        .to_str()
        .ok()
        .and_then(Encoding::parse)
        .ok_or_else(|| Refusal::Unsupported(format!("{name} {value:?}; {} are understood", answer::ENCODINGS)))
}
