//! The service map from all spans, before any is dropped: who calls whom, how often, how many fail, how long it takes.
//!
//! In: spans of clients, servers, producers and consumers. Out: one exponential histogram, `ollystack.edge.duration`, as `red` has
//! one by operation. A call between two watched services is measured by both and told apart by `span.kind`. An end that no service is known
//! for is its address; a client on the internet is `internet`. Invariant: no end is guessed: a span that does not tell with whom
//! it spoke has no edge. Past the limit further edges share one, `_OTHER`.

use crate::red::{IDLE_NANOS, KINDS, OPERATION_OTHER, STATUSES, SWEEP_NANOS, durations, measurement};
use hashbrown::HashMap;
use ollystack_fold::{Fold, Measurement};
use ollystack_record::otlp::common::v1::{KeyValue, any_value::Value};
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind};
use ollystack_record::peers::is_private;
use ollystack_record::{Metric, Resource, Scope, Series, value};
use ollystack_schema::names::{EDGE_DURATION, edge_kind, key, semconv};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Longer names of ends are cut: each series holds two.
const NAME_BYTES_MAX: usize = 256;

/// Who spoke with whom, as one side saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Edge<'a> {
    source: End<'a>,
    target: End<'a>,
    protocol: Cow<'a, str>,
    /// Of the target, where it is only known by that.
    address: Cow<'a, str>,
    kind: usize,
    status: usize,
}

/// One end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct End<'a> {
    name: Cow<'a, str>,
    kind: &'static str,
}

/// Derives.
#[derive(Debug)]
pub(crate) struct Edges {
    max: usize,
    resource: Arc<Resource>,
    scope: Arc<Scope>,
    metric: Arc<Metric>,
    /// With the time each was last counted in.
    known: HashMap<Edge<'static>, (Arc<Series>, AtomicU64)>,
    swept_unix_nano: u64,
}

impl Edges {
    /// For an agent with this resource; `max` 0 derives none.
    pub(crate) fn new(max: usize, resource: Arc<Resource>) -> Edges {
        let (scope, metric) =
            durations("ollystack.edges", EDGE_DURATION, "Duration of requests between two services, before sampling");
        Edges { max, resource, scope, metric, known: HashMap::new(), swept_unix_nano: 0 }
    }

    /// Count one span.
    pub(crate) fn observe(&mut self, service: &str, span: &Span, fold: &mut Fold, now: u64) {
        if let Some(series) = self.series(service, span, now) {
            self.count(&series, &measurement(span), fold, now);
        }
    }

    /// Count a span in the series that counts it.
    pub(crate) fn count(&self, series: &Arc<Series>, measurement: &Measurement<'_>, fold: &mut Fold, now: u64) {
        fold.observe(&self.resource, series, measurement, now);
    }

    /// The series that counts a span like this; its identifiers and times do not matter. None: it tells of no edge.
    pub(crate) fn series(&mut self, service: &str, span: &Span, now: u64) -> Option<Arc<Series>> {
        if self.max == 0 {
            return None;
        }
        let edge = edge(service, span)?;
        // Shared for a moment, so that what is looked for may be borrowed.
        let known: &HashMap<Edge<'_>, (Arc<Series>, AtomicU64)> = &self.known;
        Some(match known.get(&edge) {
            Some((series, used_unix_nano)) => {
                used_unix_nano.store(now, Relaxed);
                Arc::clone(series)
            }
            None => self.admit(edge.into_owned(), now),
        })
    }

    /// An edge that is new, or the one that stands for it past the limit.
    #[cold]
    fn admit(&mut self, edge: Edge<'static>, now: u64) -> Arc<Series> {
        if self.known.len() >= self.max && now.abs_diff(self.swept_unix_nano) >= SWEEP_NANOS {
            self.swept_unix_nano = now;
            self.known.retain(|_, (_, used)| now.abs_diff(used.load(Relaxed)) < IDLE_NANOS);
        }
        let edge = if self.known.len() < self.max { edge } else { edge.other() };
        let Edges { known, scope, metric, .. } = self;
        let (series, used_unix_nano) = known.entry(edge).or_insert_with_key(|edge| {
            (Arc::new(Series::new(Arc::clone(scope), Arc::clone(metric), edge.attributes())), AtomicU64::new(now))
        });
        used_unix_nano.store(now, Relaxed);
        Arc::clone(series)
    }

    /// Edges told apart now.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.known.len()
    }
}

impl Edge<'_> {
    fn into_owned(self) -> Edge<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let end = |end: End<'_>| End { name: owned(end.name), kind: end.kind };
        Edge {
            source: end(self.source),
            target: end(self.target),
            protocol: owned(self.protocol),
            address: owned(self.address),
            kind: self.kind,
            status: self.status,
        }
    }

    /// What stands for it where there is no room: at most one for each kind and status.
    fn other(&self) -> Edge<'static> {
        let end = || End { name: Cow::Borrowed(OPERATION_OTHER), kind: edge_kind::SERVICE };
        let (protocol, address) = (Cow::Borrowed(""), Cow::Borrowed(""));
        Edge { source: end(), target: end(), protocol, address, kind: self.kind, status: self.status }
    }

    fn attributes(&self) -> Vec<KeyValue> {
        let said = [
            (key::EDGE_SOURCE, self.source.name.as_ref()),
            (key::EDGE_SOURCE_KIND, self.source.kind),
            (key::EDGE_TARGET, self.target.name.as_ref()),
            (key::EDGE_TARGET_KIND, self.target.kind),
            (key::EDGE_PROTOCOL, self.protocol.as_ref()),
            (key::EDGE_ADDRESS, self.address.as_ref()),
            (key::SPAN_KIND, KINDS[self.kind]),
            (key::STATUS_CODE, STATUSES[self.status]),
        ];
        said.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| value::string(key, text)).collect()
    }
}

/// What a span's attributes say of whom it spoke with, and how. Older names stand beside those that took their place.
#[derive(Default)]
struct Said<'a> {
    peer: &'a str,
    server: &'a str,
    server_port: Option<&'a Value>,
    peer_address: &'a str,
    peer_port: Option<&'a Value>,
    client: &'a str,
    /// Where a translated address leads.
    behind: &'a str,
    database: &'a str,
    namespace: &'a str,
    messaging: &'a str,
    destination: &'a str,
    rpc: &'a str,
    is_http: bool,
    is_dns: bool,
    protocol: &'a str,
}

impl<'a> Said<'a> {
    fn by(span: &'a Span) -> Said<'a> {
        let mut said = Said::default();
        for KeyValue { key, value, .. } in &span.attributes {
            let value = value.as_ref().and_then(|value| value.value.as_ref());
            let text = match value {
                Some(Value::StringValue(text)) => text.as_str(),
                _ => "",
            };
            let port = value.filter(|value| !matches!(value, Value::StringValue(text) if text.is_empty()));
            match key.as_str() {
                semconv::SERVICE_PEER_NAME => said.peer = text,
                "peer.service" if said.peer.is_empty() => said.peer = text,
                semconv::SERVER_ADDRESS => said.server = text,
                "net.peer.name" if said.server.is_empty() => said.server = text,
                semconv::SERVER_PORT => said.server_port = port,
                "net.peer.port" if said.server_port.is_none() => said.server_port = port,
                semconv::NETWORK_PEER_ADDRESS => said.peer_address = text,
                semconv::NETWORK_PEER_PORT => said.peer_port = port,
                semconv::CLIENT_ADDRESS => said.client = text,
                key::EDGE_ADDRESS => said.behind = text,
                semconv::DB_SYSTEM_NAME => said.database = text,
                "db.system" if said.database.is_empty() => said.database = text,
                semconv::DB_NAMESPACE => said.namespace = text,
                "db.name" if said.namespace.is_empty() => said.namespace = text,
                semconv::MESSAGING_SYSTEM => said.messaging = text,
                semconv::MESSAGING_DESTINATION_NAME => said.destination = text,
                "messaging.destination" if said.destination.is_empty() => said.destination = text,
                semconv::RPC_SYSTEM => said.rpc = text,
                semconv::HTTP_REQUEST_METHOD | "http.method" => said.is_http = true,
                semconv::DNS_QUESTION_NAME | semconv::DNS_QUESTION_TYPE => said.is_dns = true,
                semconv::NETWORK_PROTOCOL_NAME => said.protocol = text,
                _ => {}
            }
        }
        said
    }

    /// What is spoken, the innermost first: gRPC goes over HTTP.
    fn protocol(&self) -> &'a str {
        let by_attribute = [
            self.messaging,
            self.database,
            self.rpc,
            if self.is_http { "http" } else { "" },
            if self.is_dns { "dns" } else { "" },
        ];
        by_attribute.into_iter().find(|name| !name.is_empty()).unwrap_or(self.protocol)
    }

    /// The server as the client names it, with its port.
    fn server(&self) -> Cow<'a, str> {
        let (address, port) = match self.server {
            "" => (self.peer_address, self.peer_port),
            server => (server, self.server_port),
        };
        with_port(address, port)
    }

    /// Where the client connected to, if others may know who answers there.
    fn address(&self) -> Cow<'a, str> {
        if !self.behind.is_empty() {
            return Cow::Borrowed(self.behind);
        }
        let (address, port) = match self.peer_address {
            "" => (self.server, self.server_port),
            address => (address, self.peer_port),
        };
        match address.parse::<IpAddr>() {
            Ok(ip) if is_private(ip) => with_port(address, port),
            _ => Cow::Borrowed(""),
        }
    }

    fn queue(&self) -> End<'a> {
        let name = if self.destination.is_empty() {
            Cow::Borrowed(self.messaging)
        } else {
            Cow::Owned(format!("{}/{}", self.messaging, self.destination))
        };
        End { name, kind: edge_kind::QUEUE }
    }

    /// Whom a client called, and its address if that is all that is known.
    fn called(&self) -> Option<(End<'a>, Cow<'a, str>)> {
        let is_service = if self.database.is_empty() { edge_kind::SERVICE } else { edge_kind::DATABASE };
        if !self.peer.is_empty() {
            return Some((End { name: Cow::Borrowed(self.peer), kind: is_service }, Cow::Borrowed("")));
        }
        let (server, address) = (self.server(), self.address());
        let end = if self.database.is_empty() {
            End { name: server, kind: edge_kind::ADDRESS }
        } else {
            let parts = [self.database, self.namespace, &server];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            End { name: Cow::Owned(parts.join("/")), kind: edge_kind::DATABASE }
        };
        (!end.name.is_empty()).then_some((end, address))
    }

    /// Who called a server.
    fn caller(&self) -> Option<End<'a>> {
        if !self.peer.is_empty() {
            return Some(End { name: Cow::Borrowed(self.peer), kind: edge_kind::SERVICE });
        }
        let address = if self.client.is_empty() { self.peer_address } else { self.client };
        match address.parse::<IpAddr>() {
            Ok(ip) if is_private(ip) => Some(End { name: Cow::Borrowed(address), kind: edge_kind::ADDRESS }),
            Ok(_) => Some(End { name: Cow::Borrowed("internet"), kind: edge_kind::INTERNET }),
            Err(_) => None,
        }
    }
}

/// The edge that a span is one call of, if it tells both ends.
fn edge<'a>(service: &'a str, span: &'a Span) -> Option<Edge<'a>> {
    let kind = SpanKind::try_from(span.kind).ok()?;
    if matches!(kind, SpanKind::Internal | SpanKind::Unspecified) || service.is_empty() {
        return None;
    }
    let said = Said::by(span);
    let own = |kind| End { name: Cow::Borrowed(service), kind };
    let (source, target, address) = match kind {
        SpanKind::Server => {
            let is_database = !said.database.is_empty();
            let own = own(if is_database { edge_kind::DATABASE } else { edge_kind::SERVICE });
            (said.caller()?, own, Cow::Borrowed(""))
        }
        SpanKind::Consumer if said.messaging.is_empty() => return None,
        SpanKind::Consumer => (said.queue(), own(edge_kind::SERVICE), Cow::Borrowed("")),
        _ if !said.messaging.is_empty() => (own(edge_kind::SERVICE), said.queue(), Cow::Borrowed("")),
        _ => {
            let (target, address) = said.called()?;
            (own(edge_kind::SERVICE), target, address)
        }
    };
    let code = span.status.as_ref().map_or(0, |status| status.code);
    let status = usize::try_from(code).ok().filter(|code| *code < STATUSES.len()).unwrap_or(0);
    let protocol = cut(Cow::Borrowed(said.protocol()));
    let [source, target] = [source, target].map(|end| End { name: cut(end.name), ..end });
    Some(Edge { source, target, protocol, address, kind: kind as usize, status })
}

fn cut(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= NAME_BYTES_MAX {
        return text;
    }
    Cow::Owned(text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned())
}

/// `10.0.0.1:80`, `[fd00::1]:80`; without a port, which attributes have as a number or a text of one, the address alone.
fn with_port<'a>(address: &'a str, port: Option<&Value>) -> Cow<'a, str> {
    let port = match port {
        Some(Value::IntValue(port)) => Cow::Owned(port.to_string()),
        Some(Value::StringValue(port)) => Cow::Borrowed(port.as_str()),
        _ => Cow::Borrowed(""),
    };
    match (address, port.as_ref()) {
        ("", _) | (_, "") => Cow::Borrowed(address),
        _ if address.contains(':') => Cow::Owned(format!("[{address}]:{port}")),
        _ => Cow::Owned(format!("{address}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::Ledger;
    use ollystack_record::otlp::trace::v1::{Status, status::StatusCode};

    fn span(kind: SpanKind, said: &[(&str, &str)]) -> Span {
        let attributes = said.iter().map(|(key, text)| match text.parse::<i64>() {
            Ok(number) => value::int(*key, number),
            Err(_) => value::string(*key, *text),
        });
        Span { kind: kind as i32, attributes: attributes.collect(), ..Span::default() }
    }

    /// `source > target (kind) protocol @address`.
    fn told(kind: SpanKind, said: &[(&str, &str)]) -> String {
        let span = span(kind, said);
        edge("shop", &span).map_or("none".to_owned(), |edge| {
            let Edge { source, target, protocol, address, .. } = edge;
            let at = if address.is_empty() { String::new() } else { format!(" @{address}") };
            format!("{} ({}) > {} ({}) {protocol}{at}", source.name, source.kind, target.name, target.kind)
        })
    }

    #[test]
    fn a_client_s_edge_goes_to_the_service_the_database_the_queue_or_else_the_address() {
        let table: [(&[(&str, &str)], &str); 10] = [
            (
                &[
                    ("server.address", "stock"),
                    ("network.peer.address", "10.96.0.1"),
                    ("ollystack.edge.address", "10.1.0.2:80"),
                ],
                "shop (service) > stock (address)  @10.1.0.2:80",
            ),
            (
                &[("http.request.method", "GET"), ("service.peer.name", "stock"), ("server.address", "10.0.0.1")],
                "shop (service) > stock (service) http",
            ),
            (&[("peer.service", "stock"), ("rpc.system", "grpc")], "shop (service) > stock (service) grpc"),
            (
                &[
                    ("server.address", "stock.local"),
                    ("server.port", "80"),
                    ("network.peer.address", "10.0.0.1"),
                    ("network.peer.port", "8080"),
                ],
                "shop (service) > stock.local:80 (address)  @10.0.0.1:8080",
            ),
            (
                &[
                    ("server.address", "api.example.com"),
                    ("server.port", "443"),
                    ("network.peer.address", "93.184.216.34"),
                    ("network.peer.port", "443"),
                ],
                "shop (service) > api.example.com:443 (address) ",
            ),
            (
                &[("network.peer.address", "fd00::1"), ("network.peer.port", "80")],
                "shop (service) > [fd00::1]:80 (address)  @[fd00::1]:80",
            ),
            (
                &[
                    ("db.system.name", "postgresql"),
                    ("db.namespace", "orders"),
                    ("server.address", "10.0.0.5"),
                    ("server.port", "5432"),
                ],
                "shop (service) > postgresql/orders/10.0.0.5:5432 (database) postgresql @10.0.0.5:5432",
            ),
            (
                &[("db.system.name", "postgresql"), ("db.namespace", "orders"), ("service.peer.name", "postgres")],
                "shop (service) > postgres (database) postgresql",
            ),
            (&[("http.request.method", "GET")], "none"),
            (&[], "none"),
        ];
        for (said, expected) in table {
            assert_eq!(told(SpanKind::Client, said), expected, "{said:?}");
        }
    }

    #[test]
    fn a_server_s_edge_comes_from_who_is_known_to_call_and_strangers_are_the_internet() {
        let table: [(&[(&str, &str)], &str); 6] = [
            (&[("service.peer.name", "front"), ("client.address", "10.0.0.9")], "front (service) > shop (service) "),
            (&[("client.address", "10.0.0.9")], "10.0.0.9 (address) > shop (service) "),
            (&[("client.address", "100.100.0.9")], "100.100.0.9 (address) > shop (service) "),
            (&[("network.peer.address", "8.8.8.8")], "internet (internet) > shop (service) "),
            (
                &[("client.address", "10.0.0.9"), ("db.system.name", "redis")],
                "10.0.0.9 (address) > shop (database) redis",
            ),
            (&[("http.request.method", "GET")], "none"),
        ];
        for (said, expected) in table {
            assert_eq!(told(SpanKind::Server, said), expected, "{said:?}");
        }
    }

    #[test]
    fn queues_lie_between_those_who_write_and_those_who_read() {
        let said = [("messaging.system", "kafka"), ("messaging.destination.name", "orders")];
        assert_eq!(told(SpanKind::Producer, &said), "shop (service) > kafka/orders (queue) kafka");
        assert_eq!(told(SpanKind::Consumer, &said), "kafka/orders (queue) > shop (service) kafka");
        assert_eq!(told(SpanKind::Consumer, &[]), "none");
        assert_eq!(told(SpanKind::Internal, &[("peer.service", "stock")]), "none");
    }

    fn observe(edges: &mut Edges, fold: &mut Fold, peer: &str, code: StatusCode, now: u64) {
        let status = Some(Status { code: code as i32, ..Status::default() });
        let span = Span { status, end_time_unix_nano: now, ..span(SpanKind::Client, &[("peer.service", peer)]) };
        edges.observe("shop", &span, fold, now);
    }

    #[test]
    fn each_status_is_told_apart_and_the_same_edge_is_found_again() {
        let mut fold = Fold::new(ollystack_fold::Config::default(), Arc::new(Ledger::default()));
        let mut edges = Edges::new(10, Arc::default());
        for code in [StatusCode::Ok, StatusCode::Error, StatusCode::Ok] {
            observe(&mut edges, &mut fold, "stock", code, 1_700_000_040_000_000_000);
        }
        assert_eq!(edges.len(), 2);
        let mut none = Edges::new(0, Arc::default());
        observe(&mut none, &mut fold, "stock", StatusCode::Ok, 1);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn past_the_limit_edges_share_one_until_others_are_idle() {
        let mut fold = Fold::new(ollystack_fold::Config::default(), Arc::new(Ledger::default()));
        let mut edges = Edges::new(2, Arc::default());
        let start = 1_700_000_040_000_000_000;
        for peer in ["a", "b", "c", "d"] {
            observe(&mut edges, &mut fold, peer, StatusCode::Ok, start);
        }
        let names = |edges: &Edges| {
            let mut names: Vec<String> = edges.known.keys().map(|edge| edge.target.name.to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&edges), ["_OTHER", "a", "b"]);
        observe(&mut edges, &mut fold, "e", StatusCode::Ok, start + IDLE_NANOS);
        assert_eq!(names(&edges), ["e"]);
    }
}
