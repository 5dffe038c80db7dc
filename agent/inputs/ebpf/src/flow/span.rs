//! From an exchange to a request as it is handed in: what the connection tells is added to what the protocol told.

use super::joint::Joint;
use super::templates::Templates;
use ollystack_ebpf::flow::{ENCRYPTED, Meta, SERVER};
use ollystack_ebpf::{Ends, FAMILY_V4, sniff};
use ollystack_protocols::{Context, Exchange, Kind};
use ollystack_record::attribute::int;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::trace::v1::{Span, Status, span::SpanKind, status::StatusCode};
use ollystack_record::{Attribute, Peer, Request, value};
use ollystack_schema::names::{key, semconv};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// OTLP span flags: whether the parent is remote is known.
const PARENT_IS_KNOWN: u32 = 0x100;
/// And it is.
const PARENT_IS_REMOTE: u32 = 0x300;

/// Random identifiers, drawn from the system by the page.
pub(super) struct Identifiers {
    bytes: [u8; 4096],
    used: usize,
}

impl Identifiers {
    pub(super) fn new() -> Identifiers {
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

/// What names a span: its trace and itself, and the caller's span, if it told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    parent: Option<[u8; 8]>,
    flags: u32,
    /// Trace and span of the same request at the connection's other end.
    link: Option<([u8; 16], [u8; 8])>,
}

impl Ids {
    /// Of a request: in its caller's trace, if it told of one; else in the one that both ends give it. `None` if the system has no
    /// randomness.
    pub(super) fn of_request(
        role: u8,
        context: Option<Context>,
        joint: Option<Joint>,
        identifiers: &mut Identifiers,
    ) -> Option<Ids> {
        let none = Ids { trace: [0; 16], span: [0; 8], parent: None, flags: 0, link: None };
        Some(match (context, joint) {
            (Some(Context { trace, parent, flags }), _) => {
                let flags = u32::from(flags) | PARENT_IS_REMOTE;
                Ids { trace, span: identifiers.draw()?, parent: Some(parent), flags, ..none }
            }
            // Whether anybody watches the client is not known: its span is linked to, but no parent.
            (None, Some(joint)) if role == SERVER => {
                let trace = joint.trace();
                Ids { trace, span: joint.server(), link: Some((trace, joint.client())), ..none }
            }
            (None, Some(joint)) => Ids { trace: joint.trace(), span: joint.client(), ..none },
            (None, None) => Ids { trace: identifiers.draw()?, span: identifiers.draw()?, ..none },
        })
    }

    /// Of what was asked under this span. The server's span, in a trace of its own, is linked to.
    pub(super) fn child(self, joint: Option<Joint>, identifiers: &mut Identifiers) -> Option<Ids> {
        let flags = self.flags & 0xFF | PARENT_IS_KNOWN;
        let span = match joint {
            Some(joint) => joint.client(),
            None => identifiers.draw()?,
        };
        let link = joint.map(|joint| (joint.trace(), joint.server()));
        Some(Ids { span, parent: Some(self.span), flags, link, ..self })
    }
}

/// The request that an exchange on the connection of `meta` was, under these names. `offset_ns` turns the kernel's time into time since the epoch.
pub(super) fn request(
    mut exchange: Exchange,
    meta: &Meta,
    peer: Option<Peer>,
    ids: Ids,
    offset_ns: u64,
    templates: &mut Templates,
) -> Request {
    let (asked, answered) = (exchange.asked.time_ns, exchange.answered.time_ns);
    let template = templates.of(&exchange, meta, peer);
    let more = usize::from(varies(meta));
    let mut own = Vec::with_capacity(exchange.attributes.iter().filter(|attribute| attribute.is_own).count() + more);
    own.extend(exchange.attributes.drain(..).filter(|attribute| attribute.is_own));
    if varies(meta) {
        own.push(int(semconv::NETWORK_PEER_PORT, meta.ends.remote_port.into()));
    }
    Request {
        template,
        names: (ids.trace, ids.span),
        parent: ids.parent,
        flags: ids.flags,
        start_unix_nano: asked.saturating_add(offset_ns),
        end_unix_nano: answered.max(asked).saturating_add(offset_ns),
        link: ids.link,
        own,
    }
}

/// Whether each connection like this one has another port at its other end.
pub(super) fn varies(meta: &Meta) -> bool {
    meta.role == SERVER && is_between(meta)
}

/// Of what is encrypted the ends may not have been seen.
fn is_between(meta: &Meta) -> bool {
    meta.ends.family != 0
}

/// What the spans of exchanges like this one have in common, on a connection like that of `meta`.
pub(super) fn common(exchange: &Exchange, meta: &Meta, peer: Option<&Peer>) -> Span {
    let is_server = meta.role == SERVER;
    let (local, remote) = addresses(&meta.ends);
    let (server, port) = if is_server { (local, meta.ends.local_port) } else { (remote, meta.ends.remote_port) };
    let has = |key: &str| exchange.attributes.iter().any(|attribute| attribute.key == key);
    let is_common = |attribute: &&Attribute| !attribute.is_own;
    let mut attributes: Vec<KeyValue> = exchange.attributes.iter().filter(is_common).map(Into::into).collect();
    if is_between(meta) {
        if !has(semconv::SERVER_ADDRESS) {
            attributes.push(value::string(semconv::SERVER_ADDRESS, server.to_string()));
        }
        if !has(semconv::SERVER_PORT) {
            attributes.push(value::int(semconv::SERVER_PORT, port.into()));
        }
        attributes.push(value::string(semconv::NETWORK_PEER_ADDRESS, remote.to_string()));
        if !varies(meta) {
            attributes.push(value::int(semconv::NETWORK_PEER_PORT, meta.ends.remote_port.into()));
        }
    }
    if meta.flags & ENCRYPTED != 0 {
        attributes.push(match meta.protocol {
            sniff::HTTP1 | sniff::HTTP2 => value::string(semconv::URL_SCHEME, "https"),
            _ => value::bool(semconv::TLS_ESTABLISHED, true),
        });
    }
    if is_server {
        attributes.extend(is_between(meta).then(|| value::string(semconv::CLIENT_ADDRESS, remote.to_string())));
    } else if let Some(route) = attributes.iter_mut().find(|attribute| attribute.key == semconv::HTTP_ROUTE) {
        // Routes are the server's; of a client they are guessed.
        semconv::URL_TEMPLATE.clone_into(&mut route.key);
    }
    let error = exchange.error.as_deref().filter(|_| !(is_server && exchange.is_fault_of_client));
    attributes.extend(error.map(|error| value::string(semconv::ERROR_TYPE, error)));
    attributes.extend(peer.map(|peer| match peer {
        Peer::Service(name) => value::string(semconv::SERVICE_PEER_NAME, &**name),
        Peer::Address(address) => value::string(key::EDGE_ADDRESS, address.to_string()),
    }));
    let kind = match exchange.kind {
        _ if is_server => SpanKind::Server,
        Kind::Call => SpanKind::Client,
        Kind::Publish => SpanKind::Producer,
        Kind::Receive => SpanKind::Consumer,
    };
    Span {
        name: exchange.name.clone(),
        kind: kind.into(),
        attributes,
        status: error.map(|_| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Span::default()
    }
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
    use super::*;
    use ollystack_ebpf::flow::CLIENT;
    use ollystack_protocols::Moment;
    use ollystack_record::attribute::{own, string};
    use ollystack_record::value::{int_attribute, string_attribute};

    fn of(role: u8, kind: Kind, change: impl FnOnce(&mut Exchange)) -> Span {
        over(Meta { role, ends: ends(), ..Meta::default() }, kind, change)
    }

    fn ends() -> Ends {
        let (mut local, mut remote) = ([0; 16], [0; 16]);
        local[..4].copy_from_slice(&[10, 0, 0, 1]);
        remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        Ends { local, remote, local_port: 80, remote_port: 999, family: FAMILY_V4, reserved: 0 }
    }

    fn over(meta: Meta, kind: Kind, change: impl FnOnce(&mut Exchange)) -> Span {
        let at = |time_ns| Moment { time_ns, thread: 1 };
        let mut exchange = Exchange {
            name: "GET /a".into(),
            kind,
            asked: at(100),
            answered: at(250),
            attributes: vec![string(semconv::HTTP_ROUTE, "/a"), own(int(semconv::HTTP_RESPONSE_BODY_SIZE, 7))],
            error: Some("404".into()),
            is_fault_of_client: true,
            context: None,
        };
        change(&mut exchange);
        let ids = Ids::of_request(meta.role, exchange.context, None, &mut Identifiers::new()).unwrap();
        request(exchange, &meta, None, ids, 1_000, &mut Templates::default()).span()
    }

    #[test]
    fn a_client_s_fault_is_an_error_of_the_client_alone() {
        let is_error =
            |span: &Span| (span.status.is_some(), string_attribute(&span.attributes, semconv::ERROR_TYPE).is_some());
        assert_eq!(is_error(&of(SERVER, Kind::Call, |_| {})), (false, false));
        assert_eq!(is_error(&of(CLIENT, Kind::Call, |_| {})), (true, true));
        assert_eq!(is_error(&of(SERVER, Kind::Call, |exchange| exchange.is_fault_of_client = false)), (true, true));
    }

    #[test]
    fn both_ends_are_told_as_the_span_s_side_sees_them() {
        let told = |span: &Span| {
            let text = |key| string_attribute(&span.attributes, key).map(str::to_owned);
            (
                text(semconv::SERVER_ADDRESS),
                int_attribute(&span.attributes, semconv::SERVER_PORT),
                text(semconv::CLIENT_ADDRESS),
                text(semconv::NETWORK_PEER_ADDRESS),
            )
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            told(&of(SERVER, Kind::Call, |_| {})),
            (some("10.0.0.1"), Some(80), some("10.0.0.2"), some("10.0.0.2"))
        );
        assert_eq!(told(&of(CLIENT, Kind::Call, |_| {})), (some("10.0.0.2"), Some(999), None, some("10.0.0.2")));
        let named = of(CLIENT, Kind::Call, |exchange| {
            exchange.attributes.extend([string(semconv::SERVER_ADDRESS, "shop"), int(semconv::SERVER_PORT, 8080)]);
        });
        assert_eq!(told(&named), (some("shop"), Some(8080), None, some("10.0.0.2")));
    }

    #[test]
    fn what_was_encrypted_is_told_as_such_and_ends_that_were_not_seen_are_not_made_up() {
        let told = |protocol, flags, ends| {
            let span = over(Meta { role: SERVER, protocol, flags, ends, ..Meta::default() }, Kind::Call, |_| {});
            let has = |key: &str| span.attributes.iter().any(|attribute| attribute.key == key);
            let addresses = [semconv::SERVER_ADDRESS, semconv::CLIENT_ADDRESS, semconv::NETWORK_PEER_PORT].map(has);
            let scheme = string_attribute(&span.attributes, semconv::URL_SCHEME).map(str::to_owned);
            (scheme, has(semconv::TLS_ESTABLISHED), addresses)
        };
        let https = Some("https".to_owned());
        assert_eq!(told(sniff::HTTP1, 0, ends()), (None, false, [true; 3]));
        assert_eq!(told(sniff::HTTP2, ENCRYPTED, ends()), (https.clone(), false, [true; 3]));
        assert_eq!(told(sniff::HTTP1, ENCRYPTED, Ends::default()), (https, false, [false; 3]));
        assert_eq!(told(sniff::POSTGRESQL, ENCRYPTED, ends()), (None, true, [true; 3]));
    }

    #[test]
    fn kinds_times_and_routes_are_those_of_the_side() {
        for (role, kind, expected) in [
            (SERVER, Kind::Publish, SpanKind::Server),
            (CLIENT, Kind::Call, SpanKind::Client),
            (CLIENT, Kind::Publish, SpanKind::Producer),
            (CLIENT, Kind::Receive, SpanKind::Consumer),
        ] {
            assert_eq!(of(role, kind, |_| {}).kind, expected as i32);
        }
        let client = of(CLIENT, Kind::Call, |_| {});
        assert_eq!((client.start_time_unix_nano, client.end_time_unix_nano), (1_100, 1_250));
        assert_eq!(string_attribute(&client.attributes, semconv::URL_TEMPLATE), Some("/a"));
        assert_eq!(string_attribute(&of(SERVER, Kind::Call, |_| {}).attributes, semconv::HTTP_ROUTE), Some("/a"));
    }

    #[test]
    fn a_caller_s_context_is_adopted() {
        let context = Context { trace: [1; 16], parent: [2; 8], flags: 1 };
        let span = of(SERVER, Kind::Call, |exchange| exchange.context = Some(context));
        assert_eq!((span.trace_id, span.parent_span_id, span.flags), (vec![1; 16], vec![2; 8], 0x301));
    }

    #[test]
    fn a_child_is_in_its_parent_s_trace_and_its_parent_is_here() {
        let mut identifiers = Identifiers::new();
        let context = Context { trace: [1; 16], parent: [2; 8], flags: 1 };
        let parent = Ids::of_request(SERVER, Some(context), None, &mut identifiers).unwrap();
        let child = parent.child(None, &mut identifiers).unwrap();
        assert_eq!((child.trace, child.parent, child.flags), ([1; 16], Some(parent.span), 0x101));
        assert_ne!(child.span, parent.span);
    }

    #[test]
    fn both_ends_of_a_connection_are_in_one_trace_and_know_of_each_other() {
        let mut identifiers = Identifiers::new();
        let joint = Joint::of(&Meta { tcp_sequence: 7, tcp_acknowledgment: 9, ..Meta::default() });
        let mut ids = |role, context| Ids::of_request(role, context, joint, &mut identifiers).unwrap();
        let (asks, answers) = (ids(CLIENT, None), ids(SERVER, None));
        assert_eq!((answers.trace, answers.link, answers.parent), (asks.trace, Some((asks.trace, asks.span)), None));
        // What the application told comes first.
        let told = ids(SERVER, Some(Context { trace: [1; 16], parent: [2; 8], flags: 1 }));
        assert_eq!((told.trace, told.link), ([1; 16], None));
        // Under a parent the client's span is in that one's trace, and both ends know of each other all the same.
        let child = told.child(joint, &mut identifiers).unwrap();
        assert_eq!((child.trace, child.span, child.link), ([1; 16], asks.span, Some((answers.trace, answers.span))));
    }

    #[test]
    fn identifiers_do_not_repeat_over_many_pages() {
        let mut identifiers = Identifiers::new();
        let drawn: std::collections::HashSet<[u8; 16]> = (0..2_000).filter_map(|_| identifiers.draw()).collect();
        assert_eq!(drawn.len(), 2_000);
    }
}
