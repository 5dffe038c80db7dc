//! From a map to samples: each edge's connections, bytes and round trips, and what answers at the addresses of this host.
//!
//! Invariant: at most `edges_max` edges and `endpoints_max` endpoints are told; further edges share one, further endpoints are left out. A
//! series is built once and kept while its edge is there.

use crate::Config;
use crate::map::{Edge, End, Endpoint, Map, Tally};
use hashbrown::HashMap;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::value::{int, string};
use ollystack_record::{Kind, Metric, Sample, Scope, Series, Value};
use ollystack_schema::names::{self, edge_kind, key, semconv};
use std::sync::Arc;

/// The protocol of connections that nobody looked into.
const PROTOCOL: &str = "tcp";
/// Both ends of the edge that stands for those over the limit, as the semantic conventions name the rest.
const OTHER: &str = "_OTHER";

/// Connections, bytes sent and received, round trip.
type Four = [Arc<Series>; 4];

/// Makes samples.
pub(crate) struct Metrics {
    scope: Arc<Scope>,
    described: [Arc<Metric>; 4],
    endpoint: Arc<Metric>,
    edges: HashMap<Edge, Four>,
    endpoints: HashMap<Endpoint, Arc<Series>>,
    other: Option<Four>,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let describe = |name: &str, unit: &str, description: &str, kind| {
            let (name, unit, description) = (name.into(), unit.into(), description.into());
            Arc::new(Metric { name, unit, description, kind, ..Metric::default() })
        };
        let counter = Kind::Sum { monotonic: true, delta: true };
        let mut scope = Scope::default();
        scope.proto.name = "ollystack.sockets".to_owned();
        scope.proto.version = env!("CARGO_PKG_VERSION").to_owned();
        Metrics {
            scope: Arc::new(scope),
            described: [
                describe(
                    names::EDGE_CONNECTIONS,
                    "{connection}",
                    "TCP connections open between two services",
                    Kind::Gauge,
                ),
                describe(names::EDGE_SENT, "By", "Payload bytes that the caller sent over them", counter),
                describe(names::EDGE_RECEIVED, "By", "Payload bytes that the caller received over them", counter),
                describe(names::EDGE_ROUND_TRIP, "s", "Mean smoothed round trip of them", Kind::Gauge),
            ],
            endpoint: describe(names::ENDPOINT, "1", "Who answers at an address of this host", Kind::Gauge),
            edges: HashMap::new(),
            endpoints: HashMap::new(),
            other: None,
        }
    }

    /// Everything of a map, at `now`; what is counted is since `start`. In nanoseconds since the epoch.
    pub(crate) fn samples(&mut self, map: &Map, config: &Config, start: u64, now: u64) -> Vec<Sample> {
        self.edges.retain(|edge, _| map.edges.contains_key(edge));
        self.endpoints.retain(|endpoint, _| map.endpoints.contains(endpoint));
        let mut samples = Vec::new();
        let mut rest = Tally::default();
        // Known ones first, then in order, so that the same ones are told each time.
        let mut edges: Vec<(&Edge, &Tally)> = map.edges.iter().collect();
        edges.sort_unstable_by_key(|(edge, _)| (!self.edges.contains_key(*edge), *edge));
        for (index, (edge, tally)) in edges.into_iter().enumerate() {
            if index >= config.edges_max {
                rest.add(tally);
                continue;
            }
            if !self.edges.contains_key(edge) {
                self.edges.insert(edge.clone(), self.four(&attributes(edge)));
            }
            if let Some(series) = self.edges.get(edge) {
                put(series, tally, start, now, &mut samples);
            }
        }
        if rest.connections > 0 {
            let end = || End::Service(OTHER.into());
            let other = Edge { source: end(), target: end() };
            let series = self.other.take().unwrap_or_else(|| self.four(&attributes(&other)));
            put(&series, &rest, start, now, &mut samples);
            self.other = Some(series);
        }
        let mut endpoints: Vec<&Endpoint> = map.endpoints.iter().collect();
        endpoints.sort_unstable_by_key(|endpoint| (!self.endpoints.contains_key(*endpoint), *endpoint));
        for endpoint in endpoints.into_iter().take(config.endpoints_max) {
            let series = self.endpoints.entry_ref(endpoint).or_insert_with(|| {
                let mut attributes = vec![string(semconv::SERVER_ADDRESS, endpoint.address.to_string())];
                attributes.extend((endpoint.port != 0).then(|| int(semconv::SERVER_PORT, endpoint.port.into())));
                attributes
                    .extend(endpoint.service.as_ref().map(|name| string(semconv::SERVICE_NAME, name.to_string())));
                Arc::new(Series::new(Arc::clone(&self.scope), Arc::clone(&self.endpoint), attributes))
            });
            samples.push(Sample::number(series, 0, now, Value::Int(1)));
        }
        samples
    }

    fn four(&self, attributes: &[KeyValue]) -> Four {
        let series = |metric| Series::new(Arc::clone(&self.scope), Arc::clone(metric), attributes.to_vec());
        self.described.each_ref().map(|metric| Arc::new(series(metric)))
    }
}

fn put(series: &Four, tally: &Tally, start: u64, now: u64, samples: &mut Vec<Sample>) {
    let number = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
    samples.push(Sample::number(&series[0], 0, now, number(tally.connections)));
    for (series, bytes) in [(&series[1], tally.sent), (&series[2], tally.received)] {
        if bytes > 0 {
            samples.push(Sample::number(series, start, now, number(bytes)));
        }
    }
    if let Some(seconds) = tally.round_trip() {
        samples.push(Sample::number(&series[3], 0, now, Value::Double(seconds)));
    }
}

fn attributes(edge: &Edge) -> Vec<KeyValue> {
    let mut attributes = vec![string(key::EDGE_PROTOCOL, PROTOCOL)];
    for (end, name, kind) in [
        (&edge.source, key::EDGE_SOURCE, key::EDGE_SOURCE_KIND),
        (&edge.target, key::EDGE_TARGET, key::EDGE_TARGET_KIND),
    ] {
        let (named, of) = match end {
            End::Service(service) => (service.to_string(), edge_kind::SERVICE),
            End::Address(address) => (address.to_string(), edge_kind::ADDRESS),
            End::Host(address) => (address.to_string(), edge_kind::ADDRESS),
            End::Internet => ("internet".to_owned(), edge_kind::INTERNET),
        };
        attributes.extend([string(name, named), string(kind, of)]);
    }
    if let End::Address(address) = edge.target {
        attributes.push(string(key::EDGE_ADDRESS, address.to_string()));
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(target: &str) -> Edge {
        Edge { source: End::Service("a".into()), target: End::Service(target.into()) }
    }

    fn told(metrics: &mut Metrics, targets: &[&str], endpoints: &[u16], config: &Config) -> Vec<String> {
        let tally = Tally { connections: 2, sent: 10, ..Tally::default() };
        let endpoint = |port: &u16| Endpoint { address: [10, 0, 0, 1].into(), port: *port, service: Some("s".into()) };
        let map = Map {
            edges: targets.iter().map(|target| (edge(target), tally)).collect(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..Map::default()
        };
        let shown = |sample: Sample| {
            let text =
                |key| ollystack_record::value::string_attribute(sample.series.attributes(), key).unwrap_or_default();
            let port = ollystack_record::value::int_attribute(sample.series.attributes(), semconv::SERVER_PORT);
            let Value::Int(value) = sample.value else { unreachable!() };
            let name = sample.series.metric.name.trim_start_matches("ollystack.");
            format!(
                "{name} {}{} {value}",
                text(key::EDGE_TARGET),
                port.map(|port| port.to_string()).unwrap_or_default()
            )
        };
        metrics.samples(&map, config, 1, 2).into_iter().map(shown).collect()
    }

    #[test]
    fn past_the_limit_edges_share_one_and_those_that_are_told_stay() {
        let mut metrics = Metrics::new();
        let config = Config { edges_max: 1, endpoints_max: 1, ..Config::default() };
        let first = ["edge.connections b 2", "edge.sent b 10", "endpoint 80 1"];
        assert_eq!(told(&mut metrics, &["b"], &[80], &config), first);
        let more = [
            "edge.connections b 2",
            "edge.sent b 10",
            "edge.connections _OTHER 4",
            "edge.sent _OTHER 20",
            "endpoint 80 1",
        ];
        assert_eq!(told(&mut metrics, &["a", "c", "b"], &[79, 80], &config), more);
        assert_eq!(
            told(&mut metrics, &["a"], &[79], &config),
            ["edge.connections a 2", "edge.sent a 10", "endpoint 79 1"]
        );
    }

    #[test]
    fn an_address_goes_with_the_edge_for_others_to_name() {
        let edge =
            Edge { source: End::Host([10, 0, 0, 9].into()), target: End::Address("[fd00::1]:80".parse().unwrap()) };
        let attributes = attributes(&edge);
        let text = |key| ollystack_record::value::string_attribute(&attributes, key).unwrap().to_owned();
        assert_eq!([text(key::EDGE_SOURCE), text(key::EDGE_SOURCE_KIND)], ["10.0.0.9", "address"]);
        assert_eq!([text(key::EDGE_TARGET), text(key::EDGE_ADDRESS)], ["[fd00::1]:80", "[fd00::1]:80"]);
    }
}
