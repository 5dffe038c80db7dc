//! Metric requests to one request in which points that follow each other are one.
//!
//! A request is taken apart only as far as needed: resources, scopes and attributes are compared and written as the bytes they
//! are. So that memory does not follow the number of series, a pass looks only at those series whose hash falls to it.
//! Invariant: after all passes every point taken is in one of the results, alone or in a joined point.

use super::point::Point;
use bytes::Bytes;
use ollystack_record::otlp::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint,
};
use ollystack_schema::names::FOLD;
use prost::{DecodeError, Message};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

const DELTA: i32 = AggregationTemporality::Delta as i32;

// OTLP's messages (opentelemetry/proto/metrics/v1/metrics.proto), with what is not looked at left encoded.

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_metrics: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(bytes = "bytes", optional, tag = "1")]
    resource: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    scope_metrics: Vec<Scope>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(bytes = "bytes", optional, tag = "1")]
    scope: Option<Bytes>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(oneof = "Data", tags = "5, 7, 9, 10, 11")]
    data: Option<Data>,
    #[prost(bytes = "bytes", repeated, tag = "12")]
    metadata: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Data {
    #[prost(message, tag = "5")]
    Gauge(Points),
    #[prost(message, tag = "7")]
    Sum(Points),
    #[prost(message, tag = "9")]
    Histogram(Points),
    #[prost(message, tag = "10")]
    Exponential(Points),
    #[prost(message, tag = "11")]
    Summary(Points),
}

/// All kinds of data have the same fields, as far as they have them.
#[derive(Clone, PartialEq, Message)]
struct Points {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    points: Vec<Bytes>,
    #[prost(int32, tag = "2")]
    temporality: i32,
    #[prost(bool, tag = "3")]
    monotonic: bool,
}

/// The attributes of a point of a sum, gauge or summary.
#[derive(Clone, PartialEq, Message)]
struct OfNumber {
    #[prost(bytes = "bytes", repeated, tag = "7")]
    attributes: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct OfHistogram {
    #[prost(bytes = "bytes", repeated, tag = "9")]
    attributes: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct OfExponential {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    attributes: Vec<Bytes>,
}

/// A resource or scope, and its schema.
type Origin = (Option<Bytes>, String);

/// What points must share to be of one metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    name: String,
    unit: String,
    metadata: Vec<Bytes>,
    kind: u8,
    temporality: i32,
    monotonic: bool,
}

#[derive(Debug, Default)]
struct Series {
    description: String,
    /// By the attributes, as they stand in the encoded point.
    points: BTreeMap<Vec<u8>, Vec<Point>>,
}

/// One pass.
#[derive(Debug)]
pub(crate) struct Regroup {
    pass: u64,
    passes: u64,
    metrics: BTreeMap<Origin, BTreeMap<Origin, BTreeMap<Key, Series>>>,
}

impl Regroup {
    /// The `pass`-th of `passes`, from 0.
    pub(crate) fn new(pass: u64, passes: u64) -> Regroup {
        Regroup { pass, passes, metrics: BTreeMap::new() }
    }

    /// Take an encoded request, in the order of time.
    pub(crate) fn take(&mut self, plain: Bytes) -> Result<(), DecodeError> {
        for resource in Request::decode(plain)?.resource_metrics {
            let of_resource = (resource.resource, resource.schema_url);
            for scope in resource.scope_metrics {
                let of_scope = (scope.scope, scope.schema_url);
                for metric in scope.metrics {
                    self.metric(&of_resource, &of_scope, metric)?;
                }
            }
        }
        Ok(())
    }

    fn metric(&mut self, resource: &Origin, scope: &Origin, metric: Metric) -> Result<(), DecodeError> {
        let Metric { name, description, unit, data, metadata } = metric;
        let Some(data) = data else { return Ok(()) };
        let (kind, points) = match data {
            Data::Gauge(points) => (5, points),
            Data::Sum(points) => (7, points),
            Data::Histogram(points) => (9, points),
            Data::Exponential(points) => (10, points),
            Data::Summary(points) => (11, points),
        };
        let Points { points, temporality, monotonic } = points;
        // Copied, here and below: what is kept must not keep the whole request.
        let metadata: Vec<Bytes> = metadata.iter().map(|pair| Bytes::copy_from_slice(pair)).collect();
        let key = Key { name, unit, metadata, kind, temporality, monotonic };
        let mut ours = Vec::new();
        for point in points {
            let attributes = match kind {
                9 => OfHistogram::decode(point.clone())?.encode_to_vec(),
                10 => OfExponential::decode(point.clone())?.encode_to_vec(),
                _ => OfNumber::decode(point.clone())?.encode_to_vec(),
            };
            let mut hasher = DefaultHasher::new();
            (resource, &key.name, &attributes).hash(&mut hasher);
            if hasher.finish() % self.passes == self.pass {
                ours.push((attributes, point));
            }
        }
        if ours.is_empty() {
            return Ok(());
        }
        let copied = |(bytes, schema): &Origin| (bytes.as_deref().map(Bytes::copy_from_slice), schema.clone());
        let scopes = self.metrics.entry(copied(resource)).or_default();
        let level = key.metadata.iter().any(|pair| pair.windows(FOLD.len()).any(|part| part == FOLD.as_bytes()));
        let series = scopes.entry(copied(scope)).or_default().entry(key).or_default();
        if series.description.is_empty() {
            series.description = description;
        }
        for (attributes, point) in ours {
            let point = decode(kind, temporality, &point)?;
            let points = series.points.entry(attributes).or_default();
            if !points.last_mut().is_some_and(|last| last.join(&point, level)) {
                points.push(point);
            }
        }
        Ok(())
    }

    /// The request, encoded, and its points. Requests behind each other are one.
    pub(crate) fn finish(self) -> (Vec<u8>, u64) {
        let (mut request, mut count) = (Request::default(), 0);
        for ((resource, schema_url), scopes) in self.metrics {
            let mut scope_metrics = Vec::new();
            for ((scope, schema_url), metrics) in scopes {
                let metrics = metrics.into_iter().map(|(key, series)| encode(key, series, &mut count)).collect();
                scope_metrics.push(Scope { scope, metrics, schema_url });
            }
            request.resource_metrics.push(Resource { resource, scope_metrics, schema_url });
        }
        (request.encode_to_vec(), count)
    }
}

/// A point without its attributes, if it is of a kind that can be joined.
fn decode(kind: u8, temporality: i32, encoded: &Bytes) -> Result<Point, DecodeError> {
    Ok(match kind {
        7 if temporality == DELTA => {
            Point::Sum(NumberDataPoint { attributes: Vec::new(), ..NumberDataPoint::decode(encoded.clone())? })
        }
        9 if temporality == DELTA => Point::Histogram(HistogramDataPoint {
            attributes: Vec::new(),
            ..HistogramDataPoint::decode(encoded.clone())?
        }),
        10 if temporality == DELTA => Point::Exponential(ExponentialHistogramDataPoint {
            attributes: Vec::new(),
            ..ExponentialHistogramDataPoint::decode(encoded.clone())?
        }),
        _ => Point::Other(encoded.to_vec()),
    })
}

fn encode(key: Key, series: Series, count: &mut u64) -> Metric {
    let mut points = Vec::new();
    for (attributes, of_series) in series.points {
        for point in of_series {
            let without = match point {
                Point::Sum(point) => point.encode_to_vec(),
                Point::Histogram(point) => point.encode_to_vec(),
                Point::Exponential(point) => point.encode_to_vec(),
                Point::Other(whole) => {
                    points.push(whole.into());
                    continue;
                }
            };
            // Fields may stand in any order.
            points.push([without, attributes.clone()].concat().into());
        }
    }
    *count += points.len() as u64;
    let Key { name, unit, metadata, kind, temporality, monotonic } = key;
    let points = Points { points, temporality, monotonic };
    let data = match kind {
        5 => Data::Gauge(points),
        7 => Data::Sum(points),
        9 => Data::Histogram(points),
        10 => Data::Exponential(points),
        _ => Data::Summary(points),
    };
    Metric { name, description: series.description, unit, data: Some(data), metadata }
}
