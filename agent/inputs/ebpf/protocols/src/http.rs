//! What is the same over all versions of HTTP: an exchange's name, attributes and error, and the values of fields.
//!
//! In: requests and responses as a version's parser read them. Names and status: OpenTelemetry's semantic conventions for
//! HTTP; traceparent: W3C Trace Context. Invariant: nothing of a query, a cookie or an authorization field comes out.

use crate::{Context, Exchange, Kind, Moment, route};
use ollystack_record::attribute::{int, own, string};
use ollystack_schema::names::semconv;

/// Where a part of the name was not seen: on a connection that was joined midway, or behind a gap.
pub(crate) const UNKNOWN: &str = "{unknown}";
/// The method of a request with one that HTTP does not define.
pub(crate) const OTHER_METHOD: &str = "_OTHER";
/// What HTTP defines.
pub(crate) const METHODS: [&str; 9] = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// One of [`METHODS`], [`OTHER_METHOD`] or [`UNKNOWN`].
    pub(crate) method: &'static str,
    /// Without query and fragment; `None` when the target was cut or has no path.
    pub(crate) path: Option<String>,
    pub(crate) version: Option<&'static str>,
    /// Name or address, without port and brackets.
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) user_agent: Option<String>,
    pub(crate) body_bytes: Option<u64>,
    pub(crate) context: Option<Context>,
}

/// A response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// `None` where it was not seen.
    pub(crate) status: Option<u16>,
    pub(crate) body_bytes: Option<u64>,
}

/// A request and its answer.
pub(crate) fn exchange(asked: Moment, request: Request, answered: Moment, response: Response) -> Exchange {
    let operation = request.path.as_deref().map(route);
    let method = if request.method == OTHER_METHOD { "HTTP" } else { request.method };
    let name = match &operation {
        Some(operation) => [method, " ", operation].concat(),
        None => method.to_owned(),
    };
    let mut attributes = Vec::with_capacity(16);
    attributes.extend((request.method != UNKNOWN).then(|| string(semconv::HTTP_REQUEST_METHOD, request.method)));
    attributes.extend(response.status.map(|status| int(semconv::HTTP_RESPONSE_STATUS_CODE, status.into())));
    attributes.extend(request.host.map(|host| string(semconv::SERVER_ADDRESS, host)));
    attributes.extend(request.port.map(|port| int(semconv::SERVER_PORT, port.into())));
    attributes.extend(request.path.map(|path| {
        let is_route = operation.as_deref() == Some(path.as_str());
        let path = string(semconv::URL_PATH, path);
        if is_route { path } else { own(path) }
    }));
    attributes.extend(operation.map(|operation| string(semconv::HTTP_ROUTE, operation)));
    attributes.extend(request.version.map(|version| string(semconv::NETWORK_PROTOCOL_VERSION, version)));
    attributes.extend(request.user_agent.map(|agent| string(semconv::USER_AGENT_ORIGINAL, agent)));
    let size = |key: &'static str| move |bytes: u64| own(int(key, i64::try_from(bytes).unwrap_or(i64::MAX)));
    attributes.extend(request.body_bytes.map(size(semconv::HTTP_REQUEST_BODY_SIZE)));
    attributes.extend(response.body_bytes.map(size(semconv::HTTP_RESPONSE_BODY_SIZE)));
    let failed = response.status.filter(|status| *status >= 400);
    Exchange {
        name,
        kind: Kind::Call,
        asked,
        answered,
        attributes,
        error: failed.map(|status| status.to_string().into()),
        is_fault_of_client: failed.is_some_and(|status| status < 500),
        context: request.context,
    }
}

/// `name`, `name:port` or `[v6]:port`; what identifies a user, as in URLs, is left out.
pub(crate) fn authority(value: &[u8]) -> (Option<String>, Option<u16>) {
    let Ok(text) = std::str::from_utf8(value) else { return (None, None) };
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    ((!host.is_empty()).then(|| host.to_owned()), port.and_then(|port| port.parse().ok()))
}

/// Digits alone.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    // A sign would parse, but is none of HTTP.
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A `traceparent`: `00-<32 digits>-<16 digits>-<2 digits>`, lower case; later versions may append.
pub(crate) fn context(value: &[u8]) -> Option<Context> {
    let (fixed, more) = value.split_at_checked(55)?;
    let version = hex::<1>(&fixed[..2])?[0];
    let dashes = [2, 35, 52].iter().all(|at| fixed[*at] == b'-');
    let ends = more.is_empty() || (version > 0 && more[0] == b'-');
    let context =
        Context { trace: hex(&fixed[3..35])?, parent: hex(&fixed[36..52])?, flags: hex::<1>(&fixed[53..55])?[0] };
    let valid = version != 0xFF && context.trace != [0; 16] && context.parent != [0; 8];
    (dashes && ends && valid).then_some(context)
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_lose_port_brackets_and_users() {
        let table: [(&[u8], Option<&str>, Option<u16>); 7] = [
            (b"a.b", Some("a.b"), None),
            (b"a:80", Some("a"), Some(80)),
            (b"[::1]:8080", Some("::1"), Some(8080)),
            (b"[::1]", Some("::1"), None),
            (b"user:word@a:80", Some("a"), Some(80)),
            (b":99999", None, None),
            (b"\xff", None, None),
        ];
        for (value, host, port) in table {
            assert_eq!(authority(value), (host.map(str::to_owned), port));
        }
    }

    #[test]
    fn only_valid_trace_contexts_are_adopted() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let table = [
            (format!("00-{trace}-{parent}-00"), true),
            (format!("cc-{trace}-{parent}-01-more"), true),
            (format!("00-{trace}-{parent}-01-more"), false),
            (format!("ff-{trace}-{parent}-01"), false),
            (format!("00-{}-{parent}-01", "0".repeat(32)), false),
            (format!("00-{trace}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{parent}-01", trace.to_uppercase()), false),
            (format!("00_{trace}-{parent}-01"), false),
            (format!("00-{trace}-{parent}-0"), false),
        ];
        for (value, adopted) in table {
            assert_eq!(context(value.as_bytes()).is_some(), adopted, "{value}");
        }
    }
}
