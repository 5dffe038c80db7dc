//! Data points to `metrics_raw`, and the labels of series that are new here to `metrics_series`.
//!
//! A gauge or an up-down counter that an agent folded over a window arrives as a histogram without buckets, and is what it was again here. Invariant: a point's
//! row and its series' row carry the same hash, which depends on nothing but the series.

use super::series::{LABELS_EXTRA_SECONDS, Seen};
use super::{Delivery, Origin, Outcome, Overflow, Push, Reason, attributes, nanos, nanos_not_zero, optional_id};
use ollystack_schema::names::semconv::SERVICE_NAME;
use ollystack_schema::names::{FOLD, FOLD_GAUGE, FOLD_UPDOWNCOUNTER, SPAN_DURATION, key};
use ollystack_schema::rows::{Attributes, MetricRow, MetricType, SeriesRow, Temporality};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint,
    SummaryDataPoint, exemplar, metric::Data, number_data_point,
};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// OTLP data point flag: the series has no value here any more.
pub(super) const NO_RECORDED_VALUE: u32 = 1;

/// How many data points a metric has. One without data counts as one, so that it can be rejected.
pub(super) fn count(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 1,
    }
}

pub(super) fn convert(
    request: ExportMetricsServiceRequest,
    delivery: &Delivery,
    seen: &Seen,
    sink: &mut impl Push,
) -> Result<Outcome, Overflow> {
    let mut outcome = Outcome::default();
    for metrics in request.resource_metrics {
        let resource = Origin::resource(metrics.resource, metrics.schema_url);
        for metrics in metrics.scope_metrics {
            let scope = Origin::scope(metrics.scope, metrics.schema_url);
            let (resource, scope) = match (&resource, &scope) {
                (Ok(resource), Ok(scope)) => (resource, scope),
                (Err(reason), _) | (_, Err(reason)) => {
                    let points = metrics.metrics.iter().map(count).sum();
                    outcome.reject(*reason, points);
                    sink.left_out(points);
                    continue;
                }
            };
            let origin_hash = origin_hash(resource, scope);
            for metric in metrics.metrics {
                let points = count(&metric);
                let data = match metric.data {
                    Some(_) if metric.name.is_empty() => Err(Reason::Name),
                    Some(data) => Ok(data),
                    None => Err(Reason::Value),
                };
                let data = match data {
                    Ok(data) => data,
                    Err(reason) => {
                        outcome.reject(reason, points);
                        sink.left_out(points);
                        continue;
                    }
                };
                let kind = Kind::of(&data, &metric.metadata);
                let metric = Described { name: metric.name, unit: metric.unit, description: metric.description, kind };
                let mut to =
                    Destination { delivery, seen, sink, outcome: &mut outcome, resource, scope, origin_hash, metric };
                to.points(data)?;
            }
        }
    }
    Ok(outcome)
}

/// What the numbers of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) metric_type: MetricType,
    pub(super) temporality: Temporality,
    pub(super) monotonic: bool,
    pub(super) folded: bool,
}

impl Kind {
    fn of(data: &Data, metadata: &[KeyValue]) -> Kind {
        match data {
            Data::Gauge(_) => Kind::gauge(),
            Data::Sum(sum) => Kind::sum(sum.aggregation_temporality, sum.is_monotonic),
            Data::Histogram(histogram) => {
                Kind::histogram(histogram.aggregation_temporality, metadata.iter().find_map(fold).map(str::as_bytes))
            }
            Data::ExponentialHistogram(histogram) => Kind::exponential_histogram(histogram.aggregation_temporality),
            Data::Summary(_) => Kind::summary(),
        }
    }

    const fn new(metric_type: MetricType, temporality: Temporality, monotonic: bool) -> Kind {
        Kind { metric_type, temporality, monotonic, folded: false }
    }

    pub(super) fn gauge() -> Kind {
        Kind::new(MetricType::Gauge, Temporality::Unspecified, false)
    }

    pub(super) fn sum(aggregation_temporality: i32, monotonic: bool) -> Kind {
        Kind::new(MetricType::Sum, temporality(aggregation_temporality), monotonic)
    }

    /// `fold` is what the agent folded it from, if it did.
    pub(super) fn histogram(aggregation_temporality: i32, fold: Option<&[u8]>) -> Kind {
        let folded = |kind| Kind { folded: true, ..kind };
        match fold {
            Some(fold) if fold == FOLD_GAUGE.as_bytes() => folded(Kind::gauge()),
            Some(fold) if fold == FOLD_UPDOWNCOUNTER.as_bytes() => {
                folded(Kind::new(MetricType::Sum, Temporality::Cumulative, false))
            }
            _ => Kind::new(MetricType::Histogram, temporality(aggregation_temporality), false),
        }
    }

    pub(super) fn exponential_histogram(aggregation_temporality: i32) -> Kind {
        Kind::new(MetricType::ExponentialHistogram, temporality(aggregation_temporality), false)
    }

    pub(super) fn summary() -> Kind {
        Kind::new(MetricType::Summary, Temporality::Unspecified, false)
    }

    /// As columns have it: type, temporality, whether it is monotonic.
    pub(super) fn bytes(self) -> [u8; 3] {
        [self.metric_type as u8, self.temporality as u8, u8::from(self.monotonic)]
    }
}

fn temporality(number: i32) -> Temporality {
    match AggregationTemporality::try_from(number) {
        Ok(AggregationTemporality::Delta) => Temporality::Delta,
        Ok(AggregationTemporality::Cumulative) => Temporality::Cumulative,
        _ => Temporality::Unspecified,
    }
}

/// What the agent folded the metric from, if it did.
fn fold(pair: &KeyValue) -> Option<&str> {
    match pair.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) if pair.key == FOLD => Some(text),
        _ => None,
    }
}

struct Described {
    name: String,
    unit: String,
    description: String,
    kind: Kind,
}

/// Where the points of one metric go, with everything they share.
struct Destination<'a, S> {
    delivery: &'a Delivery,
    seen: &'a Seen,
    sink: &'a mut S,
    outcome: &'a mut Outcome,
    resource: &'a Origin,
    scope: &'a Origin,
    origin_hash: u64,
    metric: Described,
}

impl<S: Push> Destination<'_, S> {
    fn points(&mut self, data: Data) -> Result<(), Overflow> {
        match data {
            Data::Gauge(gauge) => self.all(gauge.data_points, |p| std::mem::take(&mut p.attributes), number),
            Data::Sum(sum) => self.all(sum.data_points, |p| std::mem::take(&mut p.attributes), number),
            Data::Histogram(histogram) => {
                let fill = if self.metric.kind.folded { folded_level } else { explicit_histogram };
                self.all(histogram.data_points, |p| std::mem::take(&mut p.attributes), fill)
            }
            Data::ExponentialHistogram(histogram) => {
                self.all(histogram.data_points, |p| std::mem::take(&mut p.attributes), exponential_histogram)
            }
            Data::Summary(data) => self.all(data.data_points, |p| std::mem::take(&mut p.attributes), summary),
        }
    }

    /// One row per point: `fill` writes what the point alone knows.
    fn all<P>(
        &mut self,
        points: Vec<P>,
        take_attributes: impl Fn(&mut P) -> Vec<KeyValue>,
        fill: impl Fn(P, &mut MetricRow) -> Result<(), Reason>,
    ) -> Result<(), Overflow> {
        for mut point in points {
            let attributes = attributes::sorted(take_attributes(&mut point));
            let row = attributes.and_then(|attributes| {
                let mut row = self.row(&attributes);
                fill(point, &mut row)?;
                Ok((row, attributes))
            });
            match row {
                Ok((row, attributes)) => {
                    self.describe(&row, attributes)?;
                    self.sink.push(&row)?;
                    self.outcome.accepted += 1;
                }
                Err(reason) => {
                    self.outcome.reject(reason, 1);
                    self.sink.left_out(1);
                }
            }
        }
        Ok(())
    }

    fn row(&self, attributes: &Attributes) -> MetricRow {
        let own = |key| attributes::get(attributes, key).unwrap_or_default().to_owned();
        let spans = self.metric.name == SPAN_DURATION;
        let of_span = |key| if spans { own(key) } else { String::new() };
        MetricRow {
            tenant_id: self.delivery.tenant.clone(),
            metric_name: self.metric.name.clone(),
            series_hash: self.series_hash(attributes),
            service_name: attributes::get(attributes, SERVICE_NAME).unwrap_or(&self.resource.name).to_owned(),
            metric_type: self.metric.kind.metric_type,
            aggregation_temporality: self.metric.kind.temporality,
            is_monotonic: self.metric.kind.monotonic,
            span_name: of_span(key::SPAN_NAME),
            span_kind: of_span(key::SPAN_KIND),
            status_code: of_span(key::STATUS_CODE),
            agent_id: self.delivery.agent.clone(),
            batch_sequence: self.delivery.sequence,
            ingested_at: self.delivery.ingested_at,
            expires_at: self.delivery.expires_at,
            ..MetricRow::default()
        }
    }

    /// Write the labels of a series that has not had them written lately.
    fn describe(&mut self, row: &MetricRow, attributes: Attributes) -> Result<(), Overflow> {
        let series = described_key(&self.delivery.tenant, row.series_hash, !self.metric.description.is_empty());
        let now = self.delivery.ingested_at;
        if self.seen.contains(series, now) || !self.outcome.described.insert(series) {
            return Ok(());
        }
        self.sink.push(&SeriesRow {
            tenant_id: row.tenant_id.clone(),
            metric_name: row.metric_name.clone(),
            series_hash: row.series_hash,
            service_name: row.service_name.clone(),
            metric_type: row.metric_type,
            metric_unit: self.metric.unit.clone(),
            metric_description: self.metric.description.clone(),
            aggregation_temporality: row.aggregation_temporality,
            is_monotonic: row.is_monotonic,
            resource_schema_url: self.resource.schema_url.clone(),
            resource_attributes: self.resource.attributes.clone(),
            scope_name: self.scope.name.clone(),
            scope_version: self.scope.version.clone(),
            scope_schema_url: self.scope.schema_url.clone(),
            scope_attributes: self.scope.attributes.clone(),
            attributes,
            last_seen: now,
            expires_at: row.expires_at.saturating_add(LABELS_EXTRA_SECONDS),
        })
    }

    fn series_hash(&self, attributes: &Attributes) -> u64 {
        let mut hashed = self.origin_hash.to_le_bytes().to_vec();
        feed(self.metric.name.as_bytes(), &mut hashed);
        feed(self.metric.unit.as_bytes(), &mut hashed);
        hashed.extend_from_slice(&self.metric.kind.bytes());
        feed_attributes(attributes, &mut hashed);
        xxh3_64(&hashed)
    }
}

/// What a series' labels are remembered by. An agent describes a metric now and then, with one series or another: the description is news by
/// itself.
pub(super) fn described_key(tenant: &str, series_hash: u64, described: bool) -> u64 {
    xxh3_64_with_seed(&series_hash.to_le_bytes(), xxh3_64(tenant.as_bytes()) ^ u64::from(described))
}

fn origin_hash(resource: &Origin, scope: &Origin) -> u64 {
    let mut hashed = Vec::new();
    feed_attributes(&resource.attributes, &mut hashed);
    feed(scope.name.as_bytes(), &mut hashed);
    feed(scope.version.as_bytes(), &mut hashed);
    feed_attributes(&scope.attributes, &mut hashed);
    xxh3_64(&hashed)
}

fn feed_attributes(attributes: &Attributes, hashed: &mut Vec<u8>) {
    hashed.extend_from_slice(&(attributes.len() as u64).to_le_bytes());
    for (key, value) in attributes {
        feed(key.as_bytes(), hashed);
        feed(value.as_bytes(), hashed);
    }
}

/// With its length, so that no two lists of texts feed the same bytes.
pub(super) fn feed(text: &[u8], hashed: &mut Vec<u8>) {
    hashed.extend_from_slice(&(text.len() as u64).to_le_bytes());
    hashed.extend_from_slice(text);
}

fn number(point: NumberDataPoint, row: &mut MetricRow) -> Result<(), Reason> {
    times(row, point.start_time_unix_nano, point.time_unix_nano, point.flags)?;
    let value = match point.value {
        Some(number_data_point::Value::AsDouble(value)) => value,
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        // A series that ended: a row with no measurement in it.
        None if point.flags & NO_RECORDED_VALUE != 0 => return exemplars(row, point.exemplars),
        None => return Err(Reason::Value),
    };
    if point.flags & NO_RECORDED_VALUE == 0 {
        row.value = value;
        row.count = 1;
        row.sum = Some(value);
        if row.metric_type == MetricType::Gauge {
            (row.min, row.max) = (Some(value), Some(value));
        }
    }
    exemplars(row, point.exemplars)
}

fn folded_level(point: HistogramDataPoint, row: &mut MetricRow) -> Result<(), Reason> {
    times(row, point.start_time_unix_nano, point.time_unix_nano, point.flags)?;
    (row.count, row.sum, row.min, row.max) = (point.count, point.sum, point.min, point.max);
    // The exemplar is the last value's carrier and no exemplar of its own. A level that did not move needs none; without it, the
    // mean of one that did is the best there is.
    let still = || point.min.filter(|min| point.max == Some(*min));
    let mean = || Some(point.sum? / point.count as f64).filter(|mean| mean.is_finite());
    row.value = point.exemplars.first().and_then(exemplar_value).or_else(still).or_else(mean).ok_or(Reason::Value)?;
    Ok(())
}

fn explicit_histogram(point: HistogramDataPoint, row: &mut MetricRow) -> Result<(), Reason> {
    times(row, point.start_time_unix_nano, point.time_unix_nano, point.flags)?;
    if !point.bucket_counts.is_empty() && point.bucket_counts.len() != point.explicit_bounds.len() + 1 {
        return Err(Reason::Buckets);
    }
    (row.count, row.sum, row.min, row.max) = (point.count, point.sum, point.min, point.max);
    row.explicit_bounds = point.explicit_bounds;
    row.bucket_counts = point.bucket_counts;
    exemplars(row, point.exemplars)
}

fn exponential_histogram(point: ExponentialHistogramDataPoint, row: &mut MetricRow) -> Result<(), Reason> {
    times(row, point.start_time_unix_nano, point.time_unix_nano, point.flags)?;
    (row.count, row.sum, row.min, row.max) = (point.count, point.sum, point.min, point.max);
    (row.scale, row.zero_count, row.zero_threshold) = (point.scale, point.zero_count, point.zero_threshold);
    let (positive, negative) = (point.positive.unwrap_or_default(), point.negative.unwrap_or_default());
    (row.positive_offset, row.positive_bucket_counts) = (positive.offset, positive.bucket_counts);
    (row.negative_offset, row.negative_bucket_counts) = (negative.offset, negative.bucket_counts);
    exemplars(row, point.exemplars)
}

fn summary(point: SummaryDataPoint, row: &mut MetricRow) -> Result<(), Reason> {
    times(row, point.start_time_unix_nano, point.time_unix_nano, point.flags)?;
    (row.count, row.sum) = (point.count, Some(point.sum));
    for value in point.quantile_values {
        row.quantiles.push(value.quantile);
        row.quantile_values.push(value.value);
    }
    Ok(())
}

fn times(row: &mut MetricRow, start: u64, time: u64, flags: u32) -> Result<(), Reason> {
    row.start_time_unix = nanos(start)?;
    row.time_unix = nanos_not_zero(time)?;
    row.flags = flags;
    Ok(())
}

fn exemplars(row: &mut MetricRow, exemplars: Vec<Exemplar>) -> Result<(), Reason> {
    for exemplar in exemplars {
        let Some(value) = exemplar_value(&exemplar) else { continue };
        row.exemplar_attributes.push(attributes::sorted(exemplar.filtered_attributes)?);
        row.exemplar_times.push(nanos(exemplar.time_unix_nano)?);
        row.exemplar_values.push(value);
        row.exemplar_span_ids.push(optional_id(&exemplar.span_id, 8));
        row.exemplar_trace_ids.push(optional_id(&exemplar.trace_id, 16));
    }
    Ok(())
}

fn exemplar_value(exemplar: &Exemplar) -> Option<f64> {
    match exemplar.value? {
        exemplar::Value::AsDouble(value) => Some(value),
        exemplar::Value::AsInt(value) => Some(value as f64),
    }
}
