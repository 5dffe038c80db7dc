//! From an exchange to an OTLP span, by OpenTelemetry's semantic conventions for HTTP.
//!
//! Invariant: nothing of a query, a cookie or an authorization header gets into a span: they are never looked at.

use super::pair::Exchange;
use super::route::route;
use ollystack_ebpf::{Ends, FAMILY_V4};
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::trace::v1::{Span, Status, span::SpanKind, status::StatusCode};
use ollystack_record::value::{int, string};
use ollystack_schema::names::semconv;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// OTLP span flags: whether the parent is remote is known, and it is.
const PARENT_IS_REMOTE: u32 = 0x300;

/// Random identifiers, drawn from the system by the page.
pub(crate) struct Identifiers {
    bytes: [u8; 4096],
    used: usize,
}

impl Identifiers {
    pub(crate) fn new() -> Identifiers {
        Identifiers { bytes: [0; 4096], used: 4096 }
    }

    /// `N` random bytes, not all zero. `None` if the system has no randomness.
    fn draw<const N: usize>(&mut self) -> Option<[u8; N]> {
        loop {
            if self.used + N > self.bytes.len() {
                getrandom::fill(&mut self.bytes).ok()?;
                self.used = 0;
            }
            let drawn: [u8; N] = self.bytes[self.used..self.used + N].try_into().ok()?;
            self.used += N;
            if drawn != [0; N] {
                return Some(drawn);
            }
        }
    }
}

/// The span of an exchange. `epoch_offset_ns` turns the kernel's time into time since the epoch.
pub(crate) fn span(exchange: Exchange, epoch_offset_ns: u64, identifiers: &mut Identifiers) -> Option<Span> {
    let Exchange { request, response, meta, answered_ns, is_server } = exchange;
    let operation = request.path.as_deref().map(route);
    let name = match &operation {
        Some(operation) => format!("{} {operation}", request.method),
        None => request.method.to_owned(),
    };
    let is_error = response.status >= if is_server { 500 } else { 400 };
    let (trace_id, parent_span_id, flags) = match request.context {
        Some(context) => (context.trace, context.parent.to_vec(), u32::from(context.flags) | PARENT_IS_REMOTE),
        None => (identifiers.draw()?, Vec::new(), 0),
    };
    let (local, remote) = addresses(&meta.ends);
    let (server, server_port) = if is_server { (local, meta.ends.local_port) } else { (remote, meta.ends.remote_port) };

    let mut attributes = Vec::with_capacity(16);
    attributes.extend([
        string(semconv::HTTP_REQUEST_METHOD, request.method),
        int(semconv::HTTP_RESPONSE_STATUS_CODE, response.status.into()),
        string(semconv::URL_SCHEME, "http"),
        string(semconv::NETWORK_PEER_ADDRESS, remote.to_string()),
        int(semconv::NETWORK_PEER_PORT, meta.ends.remote_port.into()),
        string(semconv::SERVER_ADDRESS, request.host.unwrap_or_else(|| server.to_string())),
        int(semconv::SERVER_PORT, request.port.unwrap_or(server_port).into()),
    ]);
    if is_server {
        attributes.push(string(semconv::CLIENT_ADDRESS, remote.to_string()));
    }
    let mut add = |attribute: Option<KeyValue>| attributes.extend(attribute);
    add(request.path.map(|path| string(semconv::URL_PATH, path)));
    add(operation
        .map(|operation| string(if is_server { semconv::HTTP_ROUTE } else { semconv::URL_TEMPLATE }, operation)));
    add(request.version.map(|version| string(semconv::NETWORK_PROTOCOL_VERSION, version)));
    add(request.user_agent.map(|agent| string(semconv::USER_AGENT_ORIGINAL, agent)));
    add(request.body_bytes.map(|bytes| size(semconv::HTTP_REQUEST_BODY_SIZE, bytes)));
    add(response.body_bytes.map(|bytes| size(semconv::HTTP_RESPONSE_BODY_SIZE, bytes)));
    add(is_error.then(|| string(semconv::ERROR_TYPE, response.status.to_string())));
    Some(Span {
        trace_id: trace_id.to_vec(),
        span_id: identifiers.draw::<8>()?.to_vec(),
        parent_span_id,
        flags,
        name,
        kind: if is_server { SpanKind::Server } else { SpanKind::Client }.into(),
        start_time_unix_nano: meta.time_ns.saturating_add(epoch_offset_ns),
        end_time_unix_nano: answered_ns.max(meta.time_ns).saturating_add(epoch_offset_ns),
        attributes,
        status: is_error.then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Span::default()
    })
}

fn size(key: &str, bytes: u64) -> KeyValue {
    int(key, i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Local and remote. An IPv4 connection through an IPv6 socket appears as the IPv4 connection it is.
pub(crate) fn addresses(ends: &Ends) -> (IpAddr, IpAddr) {
    let address = |bytes: [u8; 16]| {
        if ends.family == FAMILY_V4 {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
    };
    (address(ends.local), address(ends.remote))
}

#[cfg(test)]
mod tests {
    use super::super::pair::Pairing;
    use super::*;
    use ollystack_ebpf::http::{Meta, RECEIVED, REQUEST, RESPONSE};
    use ollystack_record::value::{int_attribute, string_attribute};

    fn spans(direction: u8, request: &str, response: &str) -> Span {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&[10, 0, 0, 1]);
        let mut remote = [0; 16];
        remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        let ends = Ends { local, remote, local_port: 80, remote_port: 999, family: FAMILY_V4, reserved: 0 };
        let ask = Meta {
            time_ns: 100,
            socket: 1,
            process: 7,
            thread: 7,
            sequence: 1,
            length: 0,
            captured: 0,
            kind: REQUEST,
            direction,
            reserved: 0,
            ends,
            command: [0; 16],
            prefix: [0; 16],
        };
        let answer = Meta { time_ns: 350, sequence: 2, kind: RESPONSE, direction: direction ^ 1, ..ask };
        let mut pairing = Pairing::new(16);
        assert!(pairing.take(&ask, request.as_bytes()).is_none());
        let exchange = pairing.take(&answer, response.as_bytes()).unwrap();
        span(exchange, 1_000, &mut Identifiers::new()).unwrap()
    }

    #[test]
    fn a_server_span_has_what_the_conventions_ask_and_no_query() {
        let span =
            spans(RECEIVED, "GET /users/7?token=secret HTTP/1.1\r\nHost: shop:8080\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
        let text = |key| string_attribute(&span.attributes, key);
        assert_eq!((span.name.as_str(), span.kind), ("GET /users/{id}", SpanKind::Server as i32));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_100, 1_350));
        assert_eq!(text(semconv::HTTP_ROUTE), Some("/users/{id}"));
        assert_eq!(text(semconv::URL_PATH), Some("/users/7"));
        assert_eq!(text(semconv::SERVER_ADDRESS), Some("shop"));
        assert_eq!(int_attribute(&span.attributes, semconv::SERVER_PORT), Some(8080));
        assert_eq!(text(semconv::CLIENT_ADDRESS), Some("10.0.0.2"));
        assert_eq!(text(semconv::NETWORK_PROTOCOL_VERSION), Some("1.1"));
        assert_eq!(int_attribute(&span.attributes, semconv::HTTP_RESPONSE_STATUS_CODE), Some(200));
        assert!(!format!("{span:?}").contains("secret"));
        assert_eq!((span.trace_id.len(), span.span_id.len(), span.status), (16, 8, None));
    }

    #[test]
    fn a_client_is_at_fault_from_400_and_a_server_from_500() {
        for (direction, status, is_error) in
            [(0, 399, false), (0, 400, true), (RECEIVED, 404, false), (RECEIVED, 500, true)]
        {
            let span = spans(direction, "GET / HTTP/1.1\r\n", &format!("HTTP/1.1 {status} X\r\n"));
            assert_eq!(span.status.is_some_and(|status| status.code == StatusCode::Error as i32), is_error, "{status}");
            let error = string_attribute(&span.attributes, semconv::ERROR_TYPE);
            assert_eq!(error, is_error.then_some(status.to_string()).as_deref());
        }
    }

    #[test]
    fn an_incoming_context_is_continued_and_otherwise_a_trace_begins() {
        let context = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
        let span = spans(RECEIVED, &format!("GET / HTTP/1.1\r\n{context}\r\n"), "HTTP/1.1 200 OK\r\n");
        assert_eq!((span.trace_id[0], span.parent_span_id[7], span.flags), (0x0a, 0x31, 0x301));
        let one = spans(RECEIVED, "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n");
        let two = spans(RECEIVED, "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n");
        assert!(one.parent_span_id.is_empty());
        assert_ne!(one.trace_id, two.trace_id);
    }

    #[test]
    fn a_head_that_was_not_copied_still_gives_method_and_status() {
        let span = spans(0, "POST /a/long/tar", "HTTP/1.1 503 Ser");
        assert_eq!(span.name, "POST");
        assert_eq!(string_attribute(&span.attributes, semconv::SERVER_ADDRESS), Some("10.0.0.2"));
        assert_eq!(int_attribute(&span.attributes, semconv::HTTP_RESPONSE_STATUS_CODE), Some(503));
    }

    #[test]
    fn identifiers_do_not_repeat_over_many_pages() {
        let mut identifiers = Identifiers::new();
        let drawn: std::collections::HashSet<[u8; 16]> = (0..2_000).filter_map(|_| identifiers.draw()).collect();
        assert_eq!(drawn.len(), 2_000);
    }
}
