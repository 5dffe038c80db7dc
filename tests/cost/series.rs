//! Metrics of the same services: each series one sample a second.
//!
//! | of [`METRICS`] metrics with [`SERIES`] series each | |
//! |---|---|
//! | 12 | cumulative counters; three series in ten stand still |
//! | 7 | gauges that walk |
//! | 4 | gauges that stand still, as limits and sizes of pools do |
//! | 2 | cumulative histograms of 14 bounds |
//!
//! Invariant: one seed, one sequence of values.

use super::otlp::{int, resource, scope, text};
use super::services::SERVICES;
use fastrand::Rng;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric::Data, number_data_point::Value,
};
use prost::Message;

/// Of each service.
const METRICS: usize = 25;
/// Of each metric.
const SERIES: usize = 10;
/// Samples of one second on one host.
pub(crate) const SAMPLES: u64 = (SERVICES.len() * METRICS * SERIES) as u64;
const BOUNDS: [f64; 14] = [5e-3, 1e-2, 2.5e-2, 5e-2, 7.5e-2, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Walk,
    Still,
    Histogram,
}

fn kind(metric: usize) -> Kind {
    match metric {
        0..12 => Kind::Counter,
        12..19 => Kind::Walk,
        19..23 => Kind::Still,
        _ => Kind::Histogram,
    }
}

/// The series of one host.
pub(crate) struct Meters {
    rng: Rng,
    host: usize,
    start_unix_nano: u64,
    /// The last value of each, or the counts of its buckets.
    values: Vec<f64>,
    buckets: Vec<[u64; BOUNDS.len() + 1]>,
}

impl Meters {
    pub(crate) fn new(host: usize, now_unix_nano: u64) -> Meters {
        let mut rng = Rng::with_seed(host as u64);
        let values = (0..SAMPLES).map(|_| f64::from(rng.u32(..1_000))).collect();
        let buckets = vec![[0; BOUNDS.len() + 1]; SAMPLES as usize];
        Meters { rng, host, start_unix_nano: now_unix_nano, values, buckets }
    }

    /// The requests of one second, a service each.
    pub(crate) fn requests(&mut self, time_unix_nano: u64) -> Vec<Vec<u8>> {
        (0..SERVICES.len()).map(|service| self.request(service, time_unix_nano)).collect()
    }

    fn request(&mut self, service: usize, time: u64) -> Vec<u8> {
        let metrics = (0..METRICS).map(|metric| self.metric(service, metric, time)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: scope("shop.metrics"), metrics, ..ScopeMetrics::default() }];
        let resource = resource(SERVICES[service], self.host);
        let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
        ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
    }

    fn metric(&mut self, service: usize, metric: usize, time: u64) -> Metric {
        let first = (service * METRICS + metric) * SERIES;
        let (kind, cumulative) = (kind(metric), AggregationTemporality::Cumulative as i32);
        let data = match kind {
            Kind::Histogram => Data::Histogram(Histogram {
                data_points: (0..SERIES).map(|series| self.histogram(first, series, time)).collect(),
                aggregation_temporality: cumulative,
            }),
            _ => {
                let data_points = (0..SERIES).map(|series| self.number(kind, first, series, time)).collect();
                match kind {
                    Kind::Counter => {
                        Data::Sum(Sum { data_points, aggregation_temporality: cumulative, is_monotonic: true })
                    }
                    _ => Data::Gauge(Gauge { data_points }),
                }
            }
        };
        let name = format!("shop.{}.metric{metric}", SERVICES[service]);
        Metric { name, unit: "1".to_owned(), data: Some(data), ..Metric::default() }
    }

    fn number(&mut self, kind: Kind, first: usize, series: usize, time_unix_nano: u64) -> NumberDataPoint {
        let value = &mut self.values[first + series];
        let (value, start_time_unix_nano) = match kind {
            Kind::Counter => {
                *value += if series < 7 { f64::from(self.rng.u32(..50)) } else { 0.0 };
                (Value::AsInt(*value as i64), self.start_unix_nano)
            }
            Kind::Walk => {
                *value += self.rng.f64() * 20.0 - 10.0;
                (Value::AsDouble(*value), 0)
            }
            _ => (Value::AsDouble(*value), 0),
        };
        NumberDataPoint {
            attributes: labels(series),
            start_time_unix_nano,
            time_unix_nano,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    fn histogram(&mut self, first: usize, series: usize, time_unix_nano: u64) -> HistogramDataPoint {
        let at = first + series;
        for _ in 0..20 {
            // Most are quick.
            let value = 0.02 * (self.rng.f64() * 5.0).exp() - 0.015;
            self.buckets[at][BOUNDS.partition_point(|bound| *bound < value)] += 1;
            self.values[at] += value;
        }
        let bucket_counts = self.buckets[at].to_vec();
        HistogramDataPoint {
            attributes: labels(series),
            start_time_unix_nano: self.start_unix_nano,
            time_unix_nano,
            count: bucket_counts.iter().sum(),
            sum: Some(self.values[at]),
            bucket_counts,
            explicit_bounds: BOUNDS.to_vec(),
            ..HistogramDataPoint::default()
        }
    }
}

fn labels(series: usize) -> Vec<KeyValue> {
    vec![
        text("http.request.method", ["GET", "POST"][series % 2]),
        text("http.route", format!("/api/v1/route{}", series / 2)),
        int("http.response.status_code", [200, 404][series % 2]),
    ]
}
