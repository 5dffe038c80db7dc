//! From one request to pieces that a log of messages can hold: each of one service, at most so many bytes, and a request of OTLP by itself.
//!
//! Takes bytes that [`view`] or prost has read before. Protobuf joins what is repeated by writing it one after the other, so pieces are made of
//! the request's own bytes; what is too large is parted at its scopes, records and, of metrics, points, each piece with all that they share.
//! Pure. Invariants: every record is in one piece or counted as too large; the same bytes give the same pieces.

use super::Origin;
use super::view::wire::{Content, Fields};
use super::view::{self, Unusual};
use ollystack_receive::Signal;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use std::collections::BTreeMap;

/// Records of one service.
#[derive(Debug, PartialEq)]
pub(crate) struct Piece {
    /// As the rows of these records would have it from their resource.
    pub(crate) service: String,
    pub(crate) records: u64,
    /// An OTLP request.
    pub(crate) bytes: Vec<u8>,
}

/// All of a request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pieces {
    /// Those of one service follow each other.
    pub(crate) pieces: Vec<Piece>,
    /// Records that do not fit into a piece, alone with what they share with others.
    pub(crate) too_large: u64,
}

/// The fields in which a message holds what it can be parted at, from the request downwards: resources, scopes, records; of metrics their data
/// and its points, too. They are the same in all three signals.
const LEVELS: [&[u32]; 5] = [&[1], &[2], &[2], &[5, 7, 9, 10, 11], &[1]];

/// Levels above single records, which are parted no further.
fn depth(signal: Signal) -> usize {
    if signal == Signal::Metrics { LEVELS.len() } else { 3 }
}

/// Part a request into pieces of at most `bytes_max`.
pub(super) fn by_service(signal: Signal, request: &[u8], bytes_max: usize) -> Result<Pieces, Unusual> {
    let mut services: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    let mut fields = Fields::of(request);
    while let Some(resource) = fields.next_of(1)? {
        services.entry(service(resource)?).or_default().push(resource);
    }
    let mut parted = Pieces::default();
    for (service, resources) in services {
        let mut request = Vec::new();
        for resource in resources {
            put(1, resource, &mut request);
        }
        for bytes in part(&request, &LEVELS[..depth(signal)], bytes_max)? {
            let records = view::count(signal, &bytes)?;
            if bytes.len() > bytes_max {
                parted.too_large += records;
            } else if records > 0 {
                parted.pieces.push(Piece { service: service.clone(), records, bytes });
            }
        }
    }
    Ok(parted)
}

/// Of a message of what belongs to one resource.
fn service(message: &[u8]) -> Result<String, Unusual> {
    view::service(message).or_else(|Unusual| {
        let resource = Fields::of(message).next_of(1)?.unwrap_or_default();
        let resource = Resource::decode(resource).map_err(|_| Unusual)?;
        // Of one with too many attributes no record is left.
        Ok(Origin::resource(Some(resource), String::new()).map(|origin| origin.name).unwrap_or_default())
    })
}

/// Part a message at its `levels`. What is longer than `bytes_max` could not be parted.
fn part(message: &[u8], levels: &[&[u32]], bytes_max: usize) -> Result<Vec<Vec<u8>>, Unusual> {
    let Some((numbers, below)) = levels.split_first().filter(|_| message.len() > bytes_max) else {
        return Ok(vec![message.to_vec()]);
    };
    let (mut shared, mut items) = (Vec::new(), Vec::new());
    let mut fields = Fields::of(message);
    loop {
        let rest = fields.rest();
        match fields.next()? {
            None => break,
            Some((number, Content::Bytes(item))) if numbers.contains(&number) => items.push((number, item)),
            Some(_) => shared.extend_from_slice(&rest[..rest.len() - fields.rest().len()]),
        }
    }
    // Each piece repeats it: more than half would make many times the request of it.
    if items.is_empty() || shared.len() > bytes_max / 2 {
        return Ok(vec![message.to_vec()]);
    }
    let mut parts = Vec::new();
    let mut open = shared.clone();
    for (number, item) in items {
        for item in part(item, below, bytes_max.saturating_sub(shared.len() + HEAD_BYTES_MAX))? {
            if open.len() > shared.len() && open.len() + item.len() + HEAD_BYTES_MAX > bytes_max {
                parts.push(std::mem::replace(&mut open, shared.clone()));
            }
            put(number, &item, &mut open);
        }
    }
    parts.push(open);
    Ok(parts)
}

/// A tag and a length.
const HEAD_BYTES_MAX: usize = 10;

/// Add a message in field `number`.
fn put(number: u32, message: &[u8], to: &mut Vec<u8>) {
    use prost::encoding::{WireType, encode_key, encode_varint};
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(message.len() as u64, to);
    to.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    };

    fn text(text: &str) -> Option<AnyValue> {
        Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) })
    }

    fn resource(service: &str) -> Option<Resource> {
        let attributes = [("a", "b"), ("service.name", service)].map(|(key, value)| KeyValue {
            key: key.into(),
            value: text(value),
            ..KeyValue::default()
        });
        Some(Resource { attributes: attributes.into(), ..Resource::default() })
    }

    fn logs(service: &str, bodies: &[&str]) -> ResourceLogs {
        let record = |body: &&str| LogRecord { body: text(body), ..LogRecord::default() };
        let log_records = bodies.iter().map(record).collect();
        let scope_logs = vec![ScopeLogs { log_records, schema_url: "scope".into(), ..ScopeLogs::default() }];
        ResourceLogs { resource: resource(service), scope_logs, schema_url: "resource".into() }
    }

    fn read(piece: &Piece) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest::decode(piece.bytes.as_slice()).unwrap()
    }

    #[test]
    fn each_service_has_a_request_of_its_own() {
        let resource_logs = vec![logs("shop", &["1"]), logs("", &["2"]), logs("shop", &["3", "4"])];
        let request = ExportLogsServiceRequest { resource_logs };
        let parted = by_service(Signal::Logs, &request.encode_to_vec(), 1 << 20).unwrap();
        let [none, shop] = &parted.pieces[..] else { panic!("{parted:?}") };
        assert_eq!((none.service.as_str(), none.records, read(none).resource_logs), ("", 1, vec![logs("", &["2"])]));
        assert_eq!((shop.service.as_str(), shop.records), ("shop", 3));
        assert_eq!(read(shop).resource_logs, [logs("shop", &["1"]), logs("shop", &["3", "4"])]);
    }

    #[test]
    fn what_is_too_large_is_parted_with_what_it_shares_and_what_cannot_be_is_counted() {
        let bodies: Vec<String> = (0..100).map(|n| format!("{n:03} {}", "x".repeat(n * 3))).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        let huge = "y".repeat(2_000);
        let resource_logs = vec![logs("shop", &bodies), logs("shop", &[&huge, "small"])];
        let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
        let parted = by_service(Signal::Logs, &request, 1_000).unwrap();
        assert_eq!((parted.too_large, parted.pieces.iter().map(|piece| piece.records).sum::<u64>()), (1, 101));
        let mut found = Vec::new();
        for piece in &parted.pieces {
            assert!(piece.bytes.len() <= 1_000, "{}", piece.bytes.len());
            for logs in read(piece).resource_logs {
                assert_eq!((logs.resource, logs.schema_url.as_str()), (resource("shop"), "resource"));
                for scope in logs.scope_logs {
                    assert_eq!(scope.schema_url, "scope");
                    found.extend(scope.log_records.into_iter().map(|record| record.body));
                }
            }
        }
        assert_eq!(found, bodies.iter().copied().chain(["small"]).map(text).collect::<Vec<_>>());
        assert_eq!(by_service(Signal::Logs, &request, 1_000).unwrap(), parted);
    }

    #[test]
    fn a_metric_is_parted_at_its_points() {
        let point = |time_unix_nano| NumberDataPoint { time_unix_nano, ..NumberDataPoint::default() };
        let data = Sum { data_points: (0..500).map(point).collect(), aggregation_temporality: 2, is_monotonic: true };
        let metric = Metric { name: "n".into(), unit: "1".into(), data: Some(Data::Sum(data)), ..Metric::default() };
        let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
        let resource_metrics =
            vec![ResourceMetrics { resource: resource("shop"), scope_metrics, ..ResourceMetrics::default() }];
        let request = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
        let parted = by_service(Signal::Metrics, &request, 600).unwrap();
        assert_eq!((parted.too_large, parted.pieces.iter().map(|piece| piece.records).sum::<u64>()), (0, 500));
        let mut times = Vec::new();
        for piece in &parted.pieces {
            assert!(piece.bytes.len() <= 600);
            let read = ExportMetricsServiceRequest::decode(piece.bytes.as_slice()).unwrap();
            let metrics = &read.resource_metrics[0].scope_metrics[0].metrics;
            for metric in metrics {
                let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
                assert!(sum.is_monotonic && sum.aggregation_temporality == 2 && metric.name == "n");
                times.extend(sum.data_points.iter().map(|point| point.time_unix_nano));
            }
        }
        assert_eq!(times, (0..500).collect::<Vec<u64>>());
    }
}
