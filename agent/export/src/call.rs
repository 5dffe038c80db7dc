//! One unary OTLP/gRPC call: the frozen bytes out as they are, a verdict back.
//!
//! tonic's channel connects, agrees TLS and multiplexes; the message is framed here, because tonic's encoder would compress again
//! what is compressed already. Invariant: nothing that an endpoint answers makes us hold more than [`ANSWER_BYTES_MAX`] of it,
//! and nothing compressed from it is opened.

use crate::clock::Clock;
use crate::frozen::{Encoding, Frozen};
use crate::status::Sampling;
use crate::{ApiKey, Config, Error, Status};
use bytes::{BufMut, BytesMut};
use futures::stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, LengthLimitError, Limited, StreamBody};
use ollystack_record::Signal;
use ollystack_record::otlp::collector::logs::v1::ExportLogsServiceResponse;
use ollystack_schema::names::{
    HEADER_AGENT, HEADER_ATTEMPT_AGE, HEADER_CLOCK, HEADER_REDELIVERED, HEADER_SENT, HEADER_SEQUENCE, HEADER_UNTOUCHED,
    UNTOUCHED_THIS,
};
use prost::Message;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError};
use tonic_types::StatusExt;
use tower::{Service, ServiceExt};

/// A success is a few bytes, a partial one has a message for people.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What an endpoint may send ahead of being read, over all answers on a connection; HTTP/2 knows no less.
const WINDOW_BYTES: u32 = 64 << 10;
/// Headers, or trailers, of one answer.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Of an endpoint's message, this much is shown.
const MESSAGE_CHARS_MAX: usize = 300;

/// The way to the endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    authorization: Option<HeaderValue>,
    agent: HeaderValue,
    timeout: Duration,
    /// The endpoint's, if it tells one.
    clock: Arc<Clock>,
    /// Told what it asks of sampling.
    status: Arc<Status>,
}

/// What the endpoint took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Records it rejected for good.
    pub(crate) rejected: u64,
    /// Its words.
    pub(crate) message: String,
}

/// Why it did not.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) verdict: Verdict,
    /// Code and words.
    pub(crate) message: String,
    /// The batch may be there nevertheless.
    pub(crate) may_have_arrived: bool,
    /// When it was sent, or later.
    pub(crate) sent: Instant,
    /// Other batches may fare better: this one alone has to wait.
    pub(crate) of_this_alone: bool,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Again, after this or after the usual pause.
    Retry(Option<Duration>),
    /// Again, but seldom: somebody has to change a key or an address first.
    Person(Cause),
    /// Never with this encoding.
    Encoding,
    /// Never.
    Drop,
}

/// Who has to act, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Key,
    Address,
}

impl Client {
    /// Check endpoint, key and certificates; connects with the first call.
    pub(crate) fn new(config: &Config, key: &ApiKey, agent: &str, status: Arc<Status>) -> Result<Client, Error> {
        let invalid = |allowed: &str| Error::Config {
            key: "endpoint",
            found: config.endpoint.clone(),
            allowed: format!("{allowed}, for example https://gateway.example:4317"),
        };
        let uri: Uri = config.endpoint.parse().map_err(|_| invalid("a URL"))?;
        uri.host().ok_or_else(|| invalid("a URL with a host"))?;
        if !matches!(uri.path(), "" | "/") {
            return Err(invalid("a URL without a path (gRPC has its own)"));
        }
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("http:// or https://")),
        };
        let tls =
            |error: tonic::transport::Error| Error::Tls { endpoint: config.endpoint.clone(), message: chain(&error) };
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            // Answers are a few bytes: no endpoint makes us hold more of them ahead of being read.
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .user_agent(concat!("ollystack-agent/", env!("CARGO_PKG_VERSION")))
            .map_err(tls)?;
        if secure {
            endpoint = endpoint.tls_config(config.tls()?).map_err(tls)?;
        }
        let header = |key: &'static str, value: String| {
            let allowed = "printable ASCII without spaces".to_owned();
            HeaderValue::try_from(value).map_err(|_| Error::Config { key, found: "***".to_owned(), allowed })
        };
        let authorization = match key.is_empty() {
            true => None,
            false => {
                let mut value = header("api_key", format!("Bearer {}", key.expose()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Client {
            channel: endpoint.connect_lazy(),
            authorization,
            agent: header("agent", agent.to_owned())?,
            timeout: Duration::from_millis(config.response_timeout_ms),
            clock: Arc::default(),
            status,
        })
    }

    /// One attempt to deliver `frozen`. `doubtful_since` is when the last attempt was sent that may have arrived, if one may.
    pub(crate) async fn call(
        &self,
        frozen: &Frozen,
        encoding: Encoding,
        sequence: u64,
        doubtful_since: Option<Instant>,
    ) -> Result<Taken, Failure> {
        let mut channel = self.channel.clone();
        let sent = OnceLock::new();
        let exchange = async {
            let channel = channel.ready().await.map_err(|error| unsent(&error))?;
            // Dated once it can leave.
            let _ = sent.set(Instant::now());
            let request = self.request(frozen, encoding, sequence, doubtful_since)?;
            let response = channel.call(request).await.map_err(|error| unsent(&error))?;
            if let Some(now_ms) = number(response.headers(), HEADER_CLOCK) {
                // One of ours: the same answer says how to sample, or that it does not matter.
                self.clock.told(now_ms);
                self.status.asked(Sampling::told(response.headers()));
            }
            read(response, encoding).await
        };
        let outcome = timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} ms", self.timeout.as_millis());
            Err(Failure { may_have_arrived: true, ..Failure::new(Verdict::Retry(None), message) })
        });
        outcome.map_err(|failure| Failure { sent: sent.get().copied().unwrap_or(failure.sent), ..failure })
    }

    fn request(
        &self,
        frozen: &Frozen,
        encoding: Encoding,
        sequence: u64,
        doubtful_since: Option<Instant>,
    ) -> Result<Request<Body>, Failure> {
        let path = match frozen.signal {
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        };
        let unusable =
            |error: std::io::Error| Failure::new(Verdict::Drop, format!("a stored batch cannot be read: {error}"));
        let message = frozen.encoded(encoding).map_err(unusable)?;
        let mut prefix = BytesMut::with_capacity(5);
        prefix.put_u8(u8::from(encoding != Encoding::Identity));
        prefix.put_u32(message.len() as u32);
        let frames = [prefix.freeze(), message].map(|data| Ok::<_, Infallible>(Frame::data(data)));
        let mut request = Request::new(Body::new(StreamBody::new(stream::iter(frames))));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        *request.version_mut() = http::Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
        if encoding != Encoding::Identity {
            headers.insert("grpc-encoding", HeaderValue::from_static(encoding.name()));
        }
        let timeout = format!("{}m", self.timeout.as_millis().min(99_999_999));
        // Digits and a letter.
        if let Ok(timeout) = HeaderValue::try_from(timeout) {
            headers.insert("grpc-timeout", timeout);
        }
        headers.insert(HEADER_AGENT, self.agent.clone());
        headers.insert(HEADER_SEQUENCE, HeaderValue::from(sequence));
        headers.insert(HEADER_SENT, HeaderValue::from(self.clock.now_ms()));
        if let Some(since) = doubtful_since {
            headers.insert(HEADER_REDELIVERED, HeaderValue::from_static("1"));
            headers.insert(HEADER_ATTEMPT_AGE, HeaderValue::from(since.elapsed().as_millis() as u64));
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }
}

impl Failure {
    /// One that says that nothing arrived.
    fn new(verdict: Verdict, message: String) -> Failure {
        Failure { verdict, message, may_have_arrived: false, sent: Instant::now(), of_this_alone: false }
    }
}

async fn read(response: Response<Body>, encoding: Encoding) -> Result<Taken, Failure> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(http_failure(head.status, &head.headers));
    }
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !content_type.starts_with("application/grpc") {
        return Err(not_otlp(format!("the answer has content-type {content_type:?}")));
    }
    if let Some(status) = tonic::Status::from_header_map(&head.headers) {
        return match status.code() {
            Code::Ok => Ok(Taken::default()),
            _ => Err(untouched(failure(&status, encoding), &head.headers)),
        };
    }
    let broken = |message: String| Failure { may_have_arrived: true, ..Failure::new(Verdict::Retry(None), message) };
    let collected = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => collected,
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Failure {
                may_have_arrived: true,
                ..not_otlp(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes"))
            });
        }
        Err(error) => return Err(broken(format!("the answer broke off: {error}"))),
    };
    let Some(status) = collected.trailers().and_then(tonic::Status::from_header_map) else {
        return Err(broken("the answer ended without a status".to_owned()));
    };
    match status.code() {
        Code::Ok => Ok(taken(&collected.to_bytes())),
        _ => Err(untouched(failure(&status, encoding), &head.headers)),
    }
}

/// A refusal in the light of what our gateway says of it.
fn untouched(failure: Failure, headers: &HeaderMap) -> Failure {
    match headers.get(HEADER_UNTOUCHED) {
        None => failure,
        Some(what) => Failure { may_have_arrived: false, of_this_alone: what == UNTOUCHED_THIS, ..failure },
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// The three responses are alike on the wire: partial_success with a count and a message.
pub(crate) fn taken(body: &[u8]) -> Taken {
    let message = match body.split_at_checked(5) {
        Some(([0, ..], message)) => message,
        _ => return Taken::default(),
    };
    let partial = ExportLogsServiceResponse::decode(message).ok().and_then(|response| response.partial_success);
    partial.map_or_else(Taken::default, |partial| Taken {
        rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0),
        message: shown(&partial.error_message),
    })
}

/// As the OTLP specification tells retryable from final, but that a refused key keeps the data.
fn failure(status: &tonic::Status, encoding: Encoding) -> Failure {
    let retry_info = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let verdict = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry(retry_info),
        Code::ResourceExhausted if retry_info.is_some() => Verdict::Retry(retry_info),
        Code::Unauthenticated | Code::PermissionDenied => Verdict::Person(Cause::Key),
        Code::Unimplemented if encoding != Encoding::Identity => Verdict::Encoding,
        _ => Verdict::Drop,
    };
    // These say that the request was looked at and not taken; any other failure may have come after it was.
    let may_have_arrived = !matches!(
        status.code(),
        Code::ResourceExhausted
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::InvalidArgument
    );
    let message = format!("{:?}: {}", status.code(), shown(status.message()));
    Failure { may_have_arrived, ..Failure::new(verdict, message) }
}

/// What is between us and the endpoint answered in HTTP; gRPC's http-grpc-status-mapping, but that what looks like a wrong
/// address keeps the data.
fn http_failure(status: StatusCode, headers: &HeaderMap) -> Failure {
    let after = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let verdict = match status.as_u16() {
        401 | 403 => Verdict::Person(Cause::Key),
        429 | 502 | 503 | 504 => Verdict::Retry(after.map(Duration::from_secs)),
        _ => Verdict::Person(Cause::Address),
    };
    Failure::new(verdict, format!("HTTP {status} instead of gRPC"))
}

fn not_otlp(message: String) -> Failure {
    Failure::new(Verdict::Person(Cause::Address), message)
}

/// The channel failed before there was an answer.
fn unsent(error: &tonic::transport::Error) -> Failure {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    let mut connected = true;
    while let Some(error) = source {
        connected &= !error.is::<ConnectError>();
        source = error.source();
    }
    Failure { may_have_arrived: connected, ..Failure::new(Verdict::Retry(None), chain(error)) }
}

/// An error with its causes; those that repeat what was said are left out.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    shown(&text)
}

/// An endpoint's words: bounded, and on one line.
fn shown(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn every_code_is_retried_or_not_as_the_specification_says() {
        let soon = Some(Duration::from_secs(3));
        let table = [
            (Code::Cancelled, Verdict::Retry(None), true),
            (Code::Unknown, Verdict::Drop, true),
            (Code::InvalidArgument, Verdict::Drop, false),
            (Code::DeadlineExceeded, Verdict::Retry(None), true),
            (Code::NotFound, Verdict::Drop, true),
            (Code::AlreadyExists, Verdict::Drop, true),
            (Code::PermissionDenied, Verdict::Person(Cause::Key), false),
            (Code::ResourceExhausted, Verdict::Drop, false),
            (Code::FailedPrecondition, Verdict::Drop, true),
            (Code::Aborted, Verdict::Retry(None), true),
            (Code::OutOfRange, Verdict::Retry(None), true),
            (Code::Unimplemented, Verdict::Drop, false),
            (Code::Internal, Verdict::Drop, true),
            (Code::Unavailable, Verdict::Retry(None), true),
            (Code::DataLoss, Verdict::Retry(None), true),
            (Code::Unauthenticated, Verdict::Person(Cause::Key), false),
        ];
        for (code, verdict, may_have_arrived) in table {
            let found = failure(&tonic::Status::new(code, "why"), Encoding::Identity);
            assert_eq!((found.verdict, found.may_have_arrived), (verdict, may_have_arrived), "{code:?}");
            let details = ErrorDetails::with_retry_info(soon);
            let asked = failure(&tonic::Status::with_error_details(code, "why", details), Encoding::Identity).verdict;
            let retryable = matches!(verdict, Verdict::Retry(_)) || code == Code::ResourceExhausted;
            assert_eq!(asked, if retryable { Verdict::Retry(soon) } else { verdict }, "{code:?} with RetryInfo");
        }
        assert_eq!(failure(&tonic::Status::unimplemented("zstd?"), Encoding::Zstd).verdict, Verdict::Encoding);
    }

    #[test]
    fn what_a_gateway_left_untouched_did_not_arrive() {
        let away = || failure(&tonic::Status::unavailable("away"), Encoding::Zstd);
        for (said, may_have_arrived, of_this_alone) in
            [(None, true, false), (Some("all"), false, false), (Some(UNTOUCHED_THIS), false, true)]
        {
            let mut headers = HeaderMap::new();
            if let Some(said) = said {
                headers.insert(HEADER_UNTOUCHED, HeaderValue::from_static(said));
            }
            let found = untouched(away(), &headers);
            assert_eq!((found.may_have_arrived, found.of_this_alone), (may_have_arrived, of_this_alone), "{said:?}");
        }
    }

    #[test]
    fn what_answers_in_plain_http_never_costs_data() {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let seven = Verdict::Retry(Some(Duration::from_secs(7)));
        let (key, address) = (Verdict::Person(Cause::Key), Verdict::Person(Cause::Address));
        let table = [
            (401, key),
            (403, key),
            (404, address),
            (500, address),
            (429, seven),
            (502, seven),
            (503, seven),
            (504, seven),
        ];
        for (status, verdict) in table {
            assert_eq!(http_failure(StatusCode::from_u16(status).unwrap(), &headers).verdict, verdict, "{status}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read_to_its_end() {
        let chunk = || Some((Ok::<_, Infallible>(Frame::data(bytes::Bytes::from_static(&[0; 1024]))), ()));
        let endless = Body::new(StreamBody::new(stream::unfold((), move |()| std::future::ready(chunk()))));
        let mut response = Response::new(endless);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let failure = read(response, Encoding::Zstd).await.unwrap_err();
        assert_eq!((failure.verdict, failure.may_have_arrived), (Verdict::Person(Cause::Address), true));
    }

    #[test]
    fn an_endpoint_that_cannot_work_is_refused_with_an_example() {
        for endpoint in ["", "gateway:4317", "ftp://gateway", "http://gateway:4317/v1/traces", "https://"] {
            let config = Config { endpoint: endpoint.to_owned(), ..Config::default() };
            let error = Client::new(&config, &ApiKey::default(), "agent", Arc::default()).unwrap_err().to_string();
            assert!(
                error.starts_with("export.endpoint is ") && error.contains("https://gateway.example:4317"),
                "{error}"
            );
        }
    }
}
