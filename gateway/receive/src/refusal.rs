//! Every way to say no, and what each is in gRPC and in HTTP.
//!
//! OTLP clients retry CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE and DATA_LOSS, and RESOURCE_EXHAUSTED only
//! with RetryInfo; over HTTP 429, 502, 503, 504. Invariant: what can never succeed is never one of those, and what may
//! succeed later always is.

use crate::Busy;
use http::{HeaderMap, StatusCode};
use std::time::Duration;
use tonic::Code;

/// Requests in progress take about this long.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request was not taken. The text goes to the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No key, or one that nobody knows.
    Unauthenticated(String),
    /// A known key that may not do this.
    PermissionDenied(String),
    /// The message is not what it says it is, or breaks a rule as a whole. Final.
    Invalid(String),
    /// More bytes than are taken at once. Final: the sender must send less at a time.
    TooLarge(String),
    /// Too much for now: load or quota. The same request may pass after `retry_after`.
    Exhausted {
        /// When to try again.
        retry_after: Duration,
        /// Which limit, and its value.
        message: String,
    },
    /// Too much is in progress at the face. The same request may pass in a moment.
    Busy(Busy),
    /// Cannot serve for now: stopping, storage or key store out of reach.
    Unavailable {
        /// When to try again.
        retry_after: Duration,
        /// What is out of reach.
        message: String,
    },
    /// No such method, or an encoding that is not spoken here. Final.
    Unsupported(String),
    /// The protocol was broken below the message: framing, flags. Final.
    Broken(String),
    /// Another refusal, and what its answer says in headers (gRPC: metadata) of the service's own.
    Marked(Box<Refusal>, HeaderMap),
}

impl Refusal {
    /// The same, answered with these headers, too.
    pub fn marked(self, headers: HeaderMap) -> Refusal {
        match self {
            Refusal::Marked(refusal, mut before) => {
                before.extend(headers);
                Refusal::Marked(refusal, before)
            }
            refusal => Refusal::Marked(Box::new(refusal), headers),
        }
    }

    /// What goes into the answer's headers.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        match self {
            Refusal::Marked(_, headers) => Some(headers),
            _ => None,
        }
    }

    /// As a gRPC status code.
    pub fn code(&self) -> Code {
        match self {
            Refusal::Unauthenticated(_) => Code::Unauthenticated,
            Refusal::PermissionDenied(_) => Code::PermissionDenied,
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::TooLarge(_) | Refusal::Exhausted { .. } | Refusal::Busy(_) => Code::ResourceExhausted,
            Refusal::Unavailable { .. } => Code::Unavailable,
            Refusal::Unsupported(_) => Code::Unimplemented,
            Refusal::Broken(_) => Code::Internal,
            Refusal::Marked(refusal, _) => refusal.code(),
        }
    }

    /// As an HTTP status code.
    pub fn http_status(&self) -> StatusCode {
        match self {
            Refusal::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Refusal::PermissionDenied(_) => StatusCode::FORBIDDEN,
            Refusal::Invalid(_) | Refusal::Broken(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Exhausted { .. } | Refusal::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refusal::Marked(refusal, _) => refusal.http_status(),
        }
    }

    /// When to try again; None when never.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::Exhausted { retry_after, .. } | Refusal::Unavailable { retry_after, .. } => Some(*retry_after),
            Refusal::Busy(_) => Some(BUSY_RETRY_AFTER),
            Refusal::Marked(refusal, _) => refusal.retry_after(),
            _ => None,
        }
    }

    /// What the sender is told.
    pub fn message(&self) -> &str {
        match self {
            Refusal::Busy(busy) => busy.message(),
            Refusal::Unauthenticated(message)
            | Refusal::PermissionDenied(message)
            | Refusal::Invalid(message)
            | Refusal::TooLarge(message)
            | Refusal::Exhausted { message, .. }
            | Refusal::Unavailable { message, .. }
            | Refusal::Unsupported(message)
            | Refusal::Broken(message) => message,
            Refusal::Marked(refusal, _) => refusal.message(),
        }
    }

    /// Snake-case name for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Unauthenticated(_) => "unauthenticated",
            Refusal::PermissionDenied(_) => "permission_denied",
            Refusal::Invalid(_) => "invalid",
            Refusal::TooLarge(_) => "too_large",
            Refusal::Exhausted { .. } => "exhausted",
            Refusal::Busy(busy) => busy.name(),
            Refusal::Unavailable { .. } => "unavailable",
            Refusal::Unsupported(_) => "unsupported",
            Refusal::Broken(_) => "broken",
            Refusal::Marked(refusal, _) => refusal.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_succeed_later_is_retryable_and_nothing_else_is() {
        let soon = Duration::from_secs(1);
        let text = String::new;
        let table = [
            (Refusal::Unauthenticated(text()), Code::Unauthenticated, 401, false),
            (Refusal::PermissionDenied(text()), Code::PermissionDenied, 403, false),
            (Refusal::Invalid(text()), Code::InvalidArgument, 400, false),
            (Refusal::TooLarge(text()), Code::ResourceExhausted, 413, false),
            (Refusal::Exhausted { retry_after: soon, message: text() }, Code::ResourceExhausted, 429, true),
            (Refusal::Busy(Busy::Bytes), Code::ResourceExhausted, 429, true),
            (Refusal::Busy(Busy::CallerRequests), Code::ResourceExhausted, 429, true),
            (Refusal::Unavailable { retry_after: soon, message: text() }, Code::Unavailable, 503, true),
            (
                Refusal::Unavailable { retry_after: soon, message: text() }.marked(HeaderMap::new()),
                Code::Unavailable,
                503,
                true,
            ),
            (Refusal::Unsupported(text()), Code::Unimplemented, 415, false),
            (Refusal::Broken(text()), Code::Internal, 400, false),
        ];
        for (refusal, code, status, retryable) in table {
            assert_eq!(refusal.code(), code, "{refusal:?}");
            assert_eq!(refusal.http_status().as_u16(), status, "{refusal:?}");
            assert_eq!(refusal.retry_after().is_some(), retryable, "{refusal:?}");
            let clients_retry_http = [429, 502, 503, 504].contains(&status);
            assert_eq!(clients_retry_http, retryable, "{refusal:?}");
        }
    }
}
