//! Data points to `metrics_raw`, and the labels of series that are new to `metrics_series`, by the rules of
//! [`metrics`](crate::convert::metrics).

mod points;

use super::values::Pairs;
use super::wire::Fields;
use super::{LOOK_BYTES, Origin, Shared, Stop, Unusual, nanos};
use crate::convert::metrics::{Kind, described_key, feed};
use crate::convert::series::{LABELS_EXTRA_SECONDS, Seen};
use crate::convert::sink::Push as _;
use crate::convert::{Outcome, Sink};
use ollystack_schema::names::semconv::SERVICE_NAME;
use ollystack_schema::names::{FOLD, SPAN_DURATION, key};
use ollystack_schema::rows::{MetricRow, MetricType, SeriesRow};
use points::{Lists, Point};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The field numbers of a metric's data, one of which it has.
const GAUGE: u32 = 5;
const SUM: u32 = 7;
const HISTOGRAM: u32 = 9;
const EXPONENTIAL_HISTOGRAM: u32 = 10;
const SUMMARY: u32 = 11;

/// How many points a metric has.
pub(super) fn count(metric: &[u8]) -> Result<u64, Unusual> {
    let (_, data) = Metric::read(metric, &mut Pairs::default())?.data;
    let (mut points, mut fields) = (0, Fields::of(data));
    while fields.next_of(1)?.is_some() {
        points += 1;
    }
    Ok(points)
}

struct Metric<'a> {
    name: &'a [u8],
    unit: &'a [u8],
    description: &'a [u8],
    /// Its field's number, and the message.
    data: (u32, &'a [u8]),
}

impl<'a> Metric<'a> {
    #[inline]
    fn read(metric: &'a [u8], metadata: &mut Pairs<'a>) -> Result<Metric<'a>, Unusual> {
        let (mut name, mut unit, mut description): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
        let (mut kind, mut data) = (0, None);
        let mut fields = Fields::of(metric);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => name = content.text()?,
                2 => description = content.text()?,
                3 => unit = content.text()?,
                GAUGE | SUM | HISTOGRAM | EXPONENTIAL_HISTOGRAM | SUMMARY => {
                    kind = number;
                    content.once(&mut data)?;
                }
                12 => metadata.add(content.bytes()?)?,
                _ => {}
            }
        }
        if name.is_empty() {
            return Err(Unusual);
        }
        Ok(Metric { name, unit, description, data: (kind, data.ok_or(Unusual)?) })
    }

    /// What its numbers are.
    fn kind(&self, metadata: &Pairs<'_>) -> Result<Kind, Unusual> {
        let (mut temporality, mut monotonic) = (0, false);
        let (number, data) = self.data;
        let mut fields = Fields::of(data);
        while let Some((field, content)) = fields.next()? {
            match (number, field) {
                (SUM | HISTOGRAM | EXPONENTIAL_HISTOGRAM, 2) => temporality = content.varint()? as i32,
                (SUM, 3) => monotonic = content.varint()? != 0,
                _ => {}
            }
        }
        Ok(match number {
            GAUGE => Kind::gauge(),
            SUM => Kind::sum(temporality, monotonic),
            HISTOGRAM => Kind::histogram(temporality, metadata.get(FOLD)),
            EXPONENTIAL_HISTOGRAM => Kind::exponential_histogram(temporality),
            _ => Kind::summary(),
        })
    }
}

/// What series are told apart by, as bytes to be hashed.
fn feed_attributes(attributes: &Pairs<'_>, hashed: &mut Vec<u8>) {
    hashed.extend_from_slice(&(attributes.len() as u64).to_le_bytes());
    for (key, value) in attributes.iter() {
        feed(key, hashed);
        feed(value, hashed);
    }
}

fn origin_hash(resource: &Origin<'_>, scope: &Origin<'_>) -> u64 {
    let mut hashed = Vec::new();
    feed_attributes(&resource.attributes, &mut hashed);
    feed(&scope.name, &mut hashed);
    feed(scope.version, &mut hashed);
    feed_attributes(&scope.attributes, &mut hashed);
    xxh3_64(&hashed)
}

/// Text that was valid in the request.
fn owned(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn owned_pairs(attributes: &Pairs<'_>) -> Vec<(String, String)> {
    attributes.iter().map(|(key, value)| (owned(key), owned(value))).collect()
}

/// The metrics of one scope.
pub(super) fn convert<'a>(
    mut metrics: Fields<'a>,
    shared: &Shared<'_>,
    seen: &Seen,
    outcome: &mut Outcome,
    sink: &mut Sink,
) -> Result<(), Stop> {
    let origin_hash = origin_hash(shared.resource, shared.scope);
    let mut metadata: Pairs<'a> = Pairs::default();
    while let Some(metric) = metrics.next_of(2)? {
        metadata.clear();
        let metric = Metric::read(metric, &mut metadata)?;
        metadata.sort_unique()?;
        let kind = metric.kind(&metadata)?;
        let mut hashed = origin_hash.to_le_bytes().to_vec();
        feed(metric.name, &mut hashed);
        feed(metric.unit, &mut hashed);
        hashed.extend_from_slice(&kind.bytes());
        Points { metric, kind, hashed, shared, seen }.convert(outcome, sink)?;
    }
    Ok(())
}

/// The points of one metric, with everything they share.
struct Points<'a, 's> {
    metric: Metric<'a>,
    kind: Kind,
    /// What all of its series have in common; they are told apart by what follows.
    hashed: Vec<u8>,
    shared: &'s Shared<'s>,
    seen: &'s Seen,
}

impl<'a> Points<'a, '_> {
    fn convert(mut self, outcome: &mut Outcome, sink: &mut Sink) -> Result<(), Stop> {
        let Shared { delivery, resource, .. } = *self.shared;
        let (number, data) = self.metric.data;
        let (mut points, hashed_length) = (Fields::of(data), self.hashed.len());
        let of_spans = self.metric.name == SPAN_DURATION.as_bytes();
        let (mut attributes, mut inner): (Pairs<'a>, Pairs<'a>) = Default::default();
        loop {
            let columns = sink.open::<MetricRow>();
            let [
                tenant,
                metric_name,
                series_hash,
                service_name,
                start,
                time,
                metric_type,
                temporality,
                monotonic,
                flags,
                value,
                count,
                sum,
                min,
                max,
                bounds,
                counts,
                scale,
                zero_count,
                zero_threshold,
                positive_offset,
                positive,
                negative_offset,
                negative,
                quantiles,
                quantile_values,
                exemplar_attributes,
                exemplar_times,
                exemplar_values,
                exemplar_span_ids,
                exemplar_trace_ids,
                span_name,
                span_kind,
                status_code,
                agent,
                sequence,
                ingested_at,
                expires_at,
            ] = columns.all().ok_or(Unusual)?;
            let mut lists = Lists {
                bounds,
                counts,
                positive,
                negative,
                quantiles,
                quantile_values,
                exemplar_attributes,
                exemplar_times,
                exemplar_values,
                exemplar_span_ids,
                exemplar_trace_ids,
            };
            let (mut rows, mut bytes, mut described) = (0, 0, Vec::new());
            while bytes < LOOK_BYTES
                && let Some(point) = points.next_of(1)?
            {
                attributes.clear();
                bytes += point.len() + size_of::<MetricRow>();
                let folded = self.kind.folded;
                let of = match number {
                    GAUGE | SUM => {
                        let gauge = self.kind.metric_type == MetricType::Gauge;
                        Point::number(point, gauge, &mut attributes, &mut inner, &mut lists)?
                    }
                    HISTOGRAM => Point::histogram(point, folded, &mut attributes, &mut inner, &mut lists)?,
                    EXPONENTIAL_HISTOGRAM => Point::exponential(point, &mut attributes, &mut inner, &mut lists)?,
                    _ => Point::summary(point, &mut attributes, &mut lists)?,
                };
                if of.time == 0 {
                    return Err(Stop::Unusual);
                }
                attributes.sort()?;
                lists.end(&of.items);
                self.hashed.truncate(hashed_length);
                feed_attributes(&attributes, &mut self.hashed);
                let series = xxh3_64(&self.hashed);
                let service = attributes.get(SERVICE_NAME).unwrap_or(&resource.name);
                series_hash.number(&series.to_le_bytes());
                service_name.word(service);
                start.number(&nanos(of.start)?.to_le_bytes());
                time.number(&nanos(of.time)?.to_le_bytes());
                flags.number(&of.flags.to_le_bytes());
                value.number(&of.value.to_le_bytes());
                count.number(&of.count.to_le_bytes());
                for (column, number) in [(&mut *sum, of.sum), (&mut *min, of.min), (&mut *max, of.max)] {
                    column.is_there(number.is_some());
                    column.number(&number.unwrap_or(0.0).to_le_bytes());
                }
                scale.number(&of.scale.to_le_bytes());
                zero_count.number(&of.zero_count.to_le_bytes());
                zero_threshold.number(&of.zero_threshold.to_le_bytes());
                positive_offset.number(&of.positive_offset.to_le_bytes());
                negative_offset.number(&of.negative_offset.to_le_bytes());
                if of_spans {
                    let own = |key| attributes.get(key).unwrap_or_default();
                    span_name.word(own(key::SPAN_NAME));
                    span_kind.word(own(key::SPAN_KIND));
                    status_code.word(own(key::STATUS_CODE));
                }
                let key = described_key(&delivery.tenant, series, !self.metric.description.is_empty());
                if !self.seen.contains(key, delivery.ingested_at) && outcome.described.insert(key) {
                    described.push(self.series(series, service, &attributes));
                }
                rows += 1;
            }
            for (column, word) in [
                (tenant, delivery.tenant.as_bytes()),
                (metric_name, self.metric.name),
                (agent, delivery.agent.as_bytes()),
            ] {
                column.repeat(rows, |column| column.word(word));
            }
            if !of_spans {
                for column in [span_name, span_kind, status_code] {
                    column.repeat(rows, |column| column.word(b""));
                }
            }
            let [of_type, of_temporality, of_monotonic] = self.kind.bytes();
            metric_type.repeat(rows, |column| column.number(&[of_type]));
            temporality.repeat(rows, |column| column.number(&[of_temporality]));
            monotonic.repeat(rows, |column| column.number(&[of_monotonic]));
            sequence.repeat(rows, |column| column.number(&delivery.sequence.to_le_bytes()));
            ingested_at.repeat(rows, |column| column.number(&delivery.ingested_at.to_le_bytes()));
            expires_at.repeat(rows, |column| column.number(&delivery.expires_at.to_le_bytes()));
            columns.end_rows(rows);
            outcome.accepted += u64::from(rows);
            sink.look::<MetricRow>()?;
            described.iter().try_for_each(|series| sink.push(series))?;
            if bytes < LOOK_BYTES {
                return Ok(());
            }
        }
    }

    /// The labels of one.
    fn series(&self, series_hash: u64, service: &[u8], attributes: &Pairs<'_>) -> SeriesRow {
        let Shared { delivery, resource, scope } = self.shared;
        SeriesRow {
            tenant_id: delivery.tenant.clone(),
            metric_name: owned(self.metric.name),
            series_hash,
            service_name: owned(service),
            metric_type: self.kind.metric_type,
            metric_unit: owned(self.metric.unit),
            metric_description: owned(self.metric.description),
            aggregation_temporality: self.kind.temporality,
            is_monotonic: self.kind.monotonic,
            resource_schema_url: owned(resource.schema_url),
            resource_attributes: Arc::new(owned_pairs(&resource.attributes)),
            scope_name: owned(&scope.name),
            scope_version: owned(scope.version),
            scope_schema_url: owned(scope.schema_url),
            scope_attributes: Arc::new(owned_pairs(&scope.attributes)),
            attributes: owned_pairs(attributes),
            last_seen: delivery.ingested_at,
            expires_at: delivery.expires_at.saturating_add(LABELS_EXTRA_SECONDS),
        }
    }
}
