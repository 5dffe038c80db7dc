//! A series as OTLP's own messages, and back.
//!
//! Invariant: `from_proto(to_proto(series))` equals the series, for every kind of metric.

use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::metrics::v1::{
    AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric as Proto, NumberDataPoint, ScopeMetrics, Sum, Summary, SummaryDataPoint, metric::Data,
};
use ollystack_record::{Kind, Metric, Scope, Series};
use std::sync::Arc;

/// One metric with one point that has attributes alone.
pub(crate) fn to_proto(series: &Series) -> ScopeMetrics {
    let Metric { name, unit, description, kind, metadata } = series.metric.as_ref();
    let metric = Proto {
        name: name.clone(),
        unit: unit.clone(),
        description: description.clone(),
        metadata: metadata.clone(),
        data: Some(data(*kind, series.attributes().to_vec())),
    };
    ScopeMetrics {
        scope: Some(series.scope.proto.clone()),
        schema_url: series.scope.schema_url.clone(),
        metrics: vec![metric],
    }
}

/// None when it is not what [`to_proto`] makes.
pub(crate) fn from_proto(mut proto: ScopeMetrics) -> Option<Series> {
    let Proto { name, unit, description, metadata, data } = proto.metrics.pop()?;
    let (kind, attributes) = kind(data?)?;
    let scope = Scope { proto: proto.scope?, schema_url: proto.schema_url };
    Some(Series::new(Arc::new(scope), Arc::new(Metric { name, unit, description, kind, metadata }), attributes))
}

fn data(kind: Kind, attributes: Vec<KeyValue>) -> Data {
    let temporality = |delta: bool| match delta {
        true => AggregationTemporality::Delta as i32,
        false => AggregationTemporality::Cumulative as i32,
    };
    match kind {
        Kind::Gauge => {
            Data::Gauge(Gauge { data_points: vec![NumberDataPoint { attributes, ..NumberDataPoint::default() }] })
        }
        Kind::Sum { monotonic, delta } => Data::Sum(Sum {
            data_points: vec![NumberDataPoint { attributes, ..NumberDataPoint::default() }],
            aggregation_temporality: temporality(delta),
            is_monotonic: monotonic,
        }),
        Kind::Histogram { delta } => Data::Histogram(Histogram {
            data_points: vec![HistogramDataPoint { attributes, ..HistogramDataPoint::default() }],
            aggregation_temporality: temporality(delta),
        }),
        Kind::ExponentialHistogram { delta } => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: vec![ExponentialHistogramDataPoint { attributes, ..Default::default() }],
            aggregation_temporality: temporality(delta),
        }),
        Kind::Summary => {
            Data::Summary(Summary { data_points: vec![SummaryDataPoint { attributes, ..SummaryDataPoint::default() }] })
        }
    }
}

fn kind(data: Data) -> Option<(Kind, Vec<KeyValue>)> {
    let delta = |temporality: i32| temporality == AggregationTemporality::Delta as i32;
    Some(match data {
        Data::Gauge(mut data) => (Kind::Gauge, data.data_points.pop()?.attributes),
        Data::Sum(mut data) => {
            let kind = Kind::Sum { monotonic: data.is_monotonic, delta: delta(data.aggregation_temporality) };
            (kind, data.data_points.pop()?.attributes)
        }
        Data::Histogram(mut data) => {
            (Kind::Histogram { delta: delta(data.aggregation_temporality) }, data.data_points.pop()?.attributes)
        }
        Data::ExponentialHistogram(mut data) => {
            let kind = Kind::ExponentialHistogram { delta: delta(data.aggregation_temporality) };
            (kind, data.data_points.pop()?.attributes)
        }
        Data::Summary(mut data) => (Kind::Summary, data.data_points.pop()?.attributes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::string;

    #[test]
    fn every_kind_of_series_comes_back_as_it_was() {
        let mut kinds = vec![Kind::Gauge, Kind::Summary];
        for delta in [true, false] {
            kinds.extend([Kind::Histogram { delta }, Kind::ExponentialHistogram { delta }]);
            kinds.extend([true, false].map(|monotonic| Kind::Sum { monotonic, delta }));
        }
        for kind in kinds {
            let (name, unit, description) = ("m".into(), "By".into(), "what it is".into());
            let metric = Metric { name, unit, description, kind, metadata: vec![string("b", "2")] };
            let mut scope = Scope { schema_url: "https://schema".into(), ..Scope::default() };
            scope.proto.name = "meter".into();
            let series = Series::new(Arc::new(scope), Arc::new(metric), vec![string("a", "1")]);
            assert_eq!(from_proto(to_proto(&series)), Some(series));
        }
    }
}
