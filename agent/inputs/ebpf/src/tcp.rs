//! TCP events to counters, by service and other end.
//!
//! In: one event per outcome, close and retransmission. Out, each interval: delta samples of what changed. A connection that
//! was opened here is counted when it is established, one that was accepted when it closes, because only then the kernel
//! tells whose it is. Invariant: at most `max` series groups are open between two readings; further ones merge into one that
//! is marked as overflow.

use crate::flow::addresses;
use crate::processes::Processes;
use crate::scope;
use hashbrown::HashMap;
use ollystack_ebpf::tcp::{CLOSED, CONNECTED, Event, FAILED, INBOUND, OUTBOUND, RETRANSMITTED};
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::metrics::v1::HistogramDataPoint;
use ollystack_record::value::{bool, int, string};
use ollystack_record::{Ack, Batch, Kind, Metric, Records, Resource, Sample, Series, Source, Value};
use ollystack_schema::names;
use ollystack_schema::names::semconv;
use std::net::IpAddr;
use std::sync::Arc;

/// Bounds of round trips in seconds: loopback to satellite.
const BOUNDS: [f64; 13] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];

/// What one group counted since the last reading.
#[derive(Debug, Default)]
struct Tally {
    connections: u64,
    /// By `error.type`; the kernel gives a handful of errors for a connect.
    failed: HashMap<&'static str, u64>,
    sent: u64,
    received: u64,
    retransmits: u64,
    round_trips: [u64; BOUNDS.len() + 1],
    round_trip_sum: f64,
    round_trip_least: f64,
    round_trip_most: f64,
}

/// Service (by its resource), and the other end as far as it is of low cardinality.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    service: Arc<Resource>,
    direction: &'static str,
    /// The server's address for an outbound connection; the client's, if it is a private one, for an inbound one.
    peer: Option<IpAddr>,
    /// The server's port.
    port: u16,
    is_overflow: bool,
}

/// The state of TCP.
pub(crate) struct Tcp {
    groups: HashMap<Group, Tally>,
    max: usize,
    metrics: Metrics,
    read_ns: u64,
}

impl Tcp {
    pub(crate) fn new(max: usize, now_ns: u64) -> Tcp {
        Tcp { groups: HashMap::new(), max, metrics: Metrics::new(), read_ns: now_ns }
    }

    /// Take one record as the kernel wrote it.
    pub(crate) fn take(&mut self, record: &[u8], processes: &mut Processes) {
        let Some(event) = ollystack_ebpf::read::<Event>(record) else { return };
        let service = processes.who(event.process, &event.command, event.time_ns).service;
        let mut group = group(&event, service);
        if self.groups.len() >= self.max && !self.groups.contains_key(&group) {
            group = Group {
                service: Arc::clone(processes.host()),
                direction: "unknown",
                peer: None,
                port: 0,
                is_overflow: true,
            };
        }
        self.groups.entry(group).or_default().add(&event);
    }

    /// What changed since the last reading, one batch a service. `now_ns` is time since the epoch.
    pub(crate) fn read(&mut self, now_ns: u64) -> Vec<Batch> {
        let start = std::mem::replace(&mut self.read_ns, now_ns);
        let mut samples: HashMap<Arc<Resource>, Vec<Sample>> = HashMap::new();
        for (group, tally) in self.groups.drain() {
            let samples = samples.entry(Arc::clone(&group.service)).or_default();
            self.metrics.samples(&group.attributes(), &tally, start, now_ns, samples);
        }
        let batch = |(resource, samples)| Batch {
            source: Source::Ebpf,
            resource,
            records: Records::Metrics(samples),
            ack: Ack::none(),
        };
        samples.into_iter().map(batch).collect()
    }
}

fn group(event: &Event, service: Arc<Resource>) -> Group {
    let (_, remote) = addresses(&event.ends);
    match event.direction {
        OUTBOUND => {
            let port = event.ends.remote_port;
            Group { service, direction: "outbound", peer: Some(remote), port, is_overflow: false }
        }
        INBOUND => {
            let peer = is_private(remote).then_some(remote);
            Group { service, direction: "inbound", peer, port: event.ends.local_port, is_overflow: false }
        }
        // Which of the two ports is the service's is not known.
        _ => Group { service, direction: "unknown", peer: None, port: 0, is_overflow: false },
    }
}

/// Addresses of one's own network: few, and worth telling apart. The internet's are neither.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

impl Group {
    fn attributes(&self) -> Vec<KeyValue> {
        if self.is_overflow {
            return vec![bool(names::OVERFLOW, true)];
        }
        let mut attributes = vec![string(names::key::TCP_DIRECTION, self.direction)];
        let key = if self.direction == "outbound" { semconv::SERVER_ADDRESS } else { semconv::CLIENT_ADDRESS };
        attributes.extend(self.peer.map(|peer| string(key, peer.to_string())));
        if self.port != 0 {
            attributes.push(int(semconv::SERVER_PORT, self.port.into()));
        }
        attributes
    }
}

impl Tally {
    fn add(&mut self, event: &Event) {
        match event.kind {
            CONNECTED => self.connections += 1,
            FAILED => *self.failed.entry(error_type(event.error)).or_default() += 1,
            CLOSED => {
                // Connections opened here were counted when they were established.
                self.connections += u64::from(event.direction == INBOUND);
                self.sent = self.sent.saturating_add(event.bytes_sent);
                self.received = self.received.saturating_add(event.bytes_received);
                if event.round_trip_us > 0 {
                    self.add_round_trip(f64::from(event.round_trip_us) / 1e6);
                }
            }
            RETRANSMITTED => self.retransmits += 1,
            _ => {}
        }
    }

    fn add_round_trip(&mut self, seconds: f64) {
        let is_first = self.round_trips.iter().all(|count| *count == 0);
        self.round_trips[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        self.round_trip_sum += seconds;
        self.round_trip_least = if is_first { seconds } else { self.round_trip_least.min(seconds) };
        self.round_trip_most = self.round_trip_most.max(seconds);
    }
}

/// The errors of a connect, by their names; `cancelled` when the process gave up before an answer.
fn error_type(error: u16) -> &'static str {
    use rustix::io::Errno;
    const NAMES: [(Errno, &str); 8] = [
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::CONNRESET, "ECONNRESET"),
        (Errno::CONNABORTED, "ECONNABORTED"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PERM, "EPERM"),
    ];
    let known = NAMES.iter().find(|(errno, _)| errno.raw_os_error() == i32::from(error));
    known.map_or(if error == 0 { "cancelled" } else { "_OTHER" }, |(_, name)| name)
}

/// The metrics, described once.
struct Metrics {
    connections: Arc<Metric>,
    failed: Arc<Metric>,
    sent: Arc<Metric>,
    received: Arc<Metric>,
    retransmits: Arc<Metric>,
    round_trip: Arc<Metric>,
}

impl Metrics {
    fn new() -> Metrics {
        let counter = |name: &str, unit: &str, description: &str| {
            let kind = Kind::Sum { monotonic: true, delta: true };
            let (name, unit, description) = (name.into(), unit.into(), description.into());
            Arc::new(Metric { name, unit, description, kind, ..Metric::default() })
        };
        Metrics {
            connections: counter(names::TCP_CONNECTIONS, "{connection}", "TCP connections established"),
            failed: counter(names::TCP_CONNECTIONS_FAILED, "{connection}", "TCP connections that were not established"),
            sent: counter(names::TCP_SENT, "By", "Payload bytes sent over connections that closed"),
            received: counter(names::TCP_RECEIVED, "By", "Payload bytes received over connections that closed"),
            retransmits: counter(names::TCP_RETRANSMITS, "{segment}", "TCP segments sent again"),
            round_trip: Arc::new(Metric {
                name: names::TCP_ROUND_TRIP.into(),
                unit: "s".into(),
                description: "Smoothed round trip of TCP connections at their close".into(),
                kind: Kind::Histogram { delta: true },
                ..Metric::default()
            }),
        }
    }

    fn samples(&self, attributes: &[KeyValue], tally: &Tally, start: u64, now: u64, samples: &mut Vec<Sample>) {
        let series = |metric: &Arc<Metric>, more: Option<KeyValue>| {
            let attributes = attributes.iter().cloned().chain(more).collect();
            Arc::new(Series::new(scope(), Arc::clone(metric), attributes))
        };
        let mut count = |metric: &Arc<Metric>, more: Option<KeyValue>, value: u64| {
            if value > 0 {
                let value = Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
                samples.push(Sample::number(&series(metric, more), start, now, value));
            }
        };
        count(&self.connections, None, tally.connections);
        for (error, failed) in &tally.failed {
            count(&self.failed, Some(string(semconv::ERROR_TYPE, *error)), *failed);
        }
        count(&self.sent, None, tally.sent);
        count(&self.received, None, tally.received);
        count(&self.retransmits, None, tally.retransmits);
        let round_trips: u64 = tally.round_trips.iter().sum();
        if round_trips > 0 {
            let point = HistogramDataPoint {
                count: round_trips,
                sum: Some(tally.round_trip_sum),
                min: Some(tally.round_trip_least),
                max: Some(tally.round_trip_most),
                bucket_counts: tally.round_trips.to_vec(),
                explicit_bounds: BOUNDS.to_vec(),
                ..HistogramDataPoint::default()
            };
            samples.push(Sample::number(
                &series(&self.round_trip, None),
                start,
                now,
                Value::Histogram(Box::new(point)),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::tcp::UNKNOWN;
    use ollystack_ebpf::{Ends, FAMILY_V4, bytes_of};
    use ollystack_record::value::{int_attribute, string_attribute};

    fn event(kind: u8, direction: u8) -> Event {
        let mut ends = Ends { local_port: 8080, remote_port: 5432, family: FAMILY_V4, ..Ends::default() };
        ends.remote[..4].copy_from_slice(&[10, 0, 0, 2]);
        let mut command = [0; 16];
        command[..4].copy_from_slice(b"shop");
        Event {
            time_ns: 1,
            duration_ns: 0,
            bytes_sent: 0,
            bytes_received: 0,
            // No process has this number, so the command names it.
            process: u32::MAX,
            round_trip_us: 0,
            error: 0,
            kind,
            direction,
            reserved: 0,
            ends,
            command,
        }
    }

    fn samples(max: usize, events: &[Event]) -> Vec<Sample> {
        let mut processes = Processes::new(Arc::new(Resource::default()), 16);
        let mut tcp = Tcp::new(max, 0);
        for event in events {
            tcp.take(bytes_of(event), &mut processes);
        }
        let taken = tcp.read(10).into_iter().flat_map(|batch| match batch.records {
            Records::Metrics(samples) => samples,
            _ => Vec::new(),
        });
        let samples = taken.collect();
        assert!(tcp.read(20).is_empty(), "what was read is not read again");
        samples
    }

    fn value(samples: &[Sample], name: &str) -> Option<Value> {
        samples.iter().find(|sample| sample.series.metric.name == name).map(|sample| sample.value.clone())
    }

    #[test]
    fn a_connection_opened_here_counts_once_and_its_bytes_when_it_closes() {
        let closed = Event { bytes_sent: 7, bytes_received: 9, round_trip_us: 120, ..event(CLOSED, OUTBOUND) };
        let samples = samples(16, &[event(CONNECTED, OUTBOUND), closed]);
        assert_eq!(value(&samples, names::TCP_CONNECTIONS), Some(Value::Int(1)));
        assert_eq!(value(&samples, names::TCP_SENT), Some(Value::Int(7)));
        assert_eq!(value(&samples, names::TCP_RECEIVED), Some(Value::Int(9)));
        let attributes = samples[0].series.attributes();
        assert_eq!(string_attribute(attributes, semconv::SERVER_ADDRESS), Some("10.0.0.2"));
        assert_eq!(int_attribute(attributes, semconv::SERVER_PORT), Some(5432));
        assert_eq!((samples[0].start_unix_nano, samples[0].time_unix_nano), (0, 10));
    }

    #[test]
    fn an_accepted_connection_counts_at_its_close_on_the_local_port() {
        let samples = samples(16, &[event(CLOSED, INBOUND)]);
        assert_eq!(value(&samples, names::TCP_CONNECTIONS), Some(Value::Int(1)));
        assert_eq!(int_attribute(samples[0].series.attributes(), semconv::SERVER_PORT), Some(8080));
        assert_eq!(string_attribute(samples[0].series.attributes(), semconv::CLIENT_ADDRESS), Some("10.0.0.2"));
    }

    #[test]
    fn clients_from_the_internet_are_not_told_apart() {
        let mut from_afar = event(CLOSED, INBOUND);
        from_afar.ends.remote[..4].copy_from_slice(&[8, 8, 8, 8]);
        assert_eq!(string_attribute(samples(16, &[from_afar])[0].series.attributes(), semconv::CLIENT_ADDRESS), None);
    }

    #[test]
    fn failures_count_by_error_and_are_no_connections() {
        let refused = Event { error: 111, ..event(FAILED, OUTBOUND) };
        let samples =
            samples(16, &[refused, refused, Event { error: 0, ..refused }, Event { error: u16::MAX, ..refused }]);
        let failed = |error: &str| {
            let with = |s: &&Sample| string_attribute(s.series.attributes(), semconv::ERROR_TYPE) == Some(error);
            samples.iter().find(with).map(|sample| sample.value.clone())
        };
        assert_eq!(failed("ECONNREFUSED"), Some(Value::Int(2)));
        assert_eq!(failed("cancelled"), Some(Value::Int(1)));
        assert_eq!(failed("_OTHER"), Some(Value::Int(1)));
        assert_eq!(value(&samples, names::TCP_CONNECTIONS), None);
    }

    #[test]
    fn round_trips_are_a_histogram_with_exact_sum_and_extremes() {
        let closed = |us| Event { round_trip_us: us, ..event(CLOSED, UNKNOWN) };
        let samples = samples(16, &[closed(50), closed(60), closed(2_000_000), closed(0)]);
        let Some(Value::Histogram(point)) = value(&samples, names::TCP_ROUND_TRIP) else { panic!("no histogram") };
        assert_eq!((point.count, point.min, point.max), (3, Some(0.000_05), Some(2.0)));
        assert!((point.sum.unwrap() - 2.000_11).abs() < 1e-9);
        assert_eq!((point.bucket_counts[0], point.bucket_counts[1], point.bucket_counts[13]), (1, 1, 1));
    }

    #[test]
    fn beyond_the_limit_everything_merges_into_one_marked_group() {
        let to_port = |port| {
            let mut event = event(RETRANSMITTED, OUTBOUND);
            event.ends.remote_port = port;
            event
        };
        let samples = samples(2, &[to_port(1), to_port(2), to_port(3), to_port(4), to_port(1)]);
        assert_eq!(samples.len(), 3);
        let overflow = samples.iter().find(|s| s.series.attributes()[0].key == names::OVERFLOW).unwrap();
        assert_eq!(overflow.value, Value::Int(2));
    }

    #[test]
    fn a_record_that_is_too_short_is_none() {
        let mut processes = Processes::new(Arc::new(Resource::default()), 16);
        let mut tcp = Tcp::new(1, 0);
        tcp.take(&[1; 103], &mut processes);
        assert!(tcp.read(1).is_empty());
    }
}
