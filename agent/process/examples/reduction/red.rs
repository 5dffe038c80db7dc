//! Whether the RED metrics say what the spans said: how many there were, and how long they took, by service, kind and status.
//!
//! Operations are not told apart here, so that it does not matter how paths are made templates. Invariant: quantiles are compared
//! with those of the very durations, at the same rank.

use ollystack_record::otlp::metrics::v1::{ExponentialHistogramDataPoint, ResourceMetrics, metric::Data};
use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::value::string_attribute;
use ollystack_schema::names::{SPAN_DURATION, key, semconv};
use std::collections::{BTreeMap, HashMap};

const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
const STATUSES: [&str; 3] = ["unset", "ok", "error"];
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// Service, kind, status.
type Key = (String, String, String);

#[derive(Default)]
pub(crate) struct Truth {
    seconds: HashMap<Key, Vec<f64>>,
    got: HashMap<Key, Merged>,
}

/// Exponential histograms of one scale, added up.
#[derive(Default)]
struct Merged {
    count: u64,
    zero: u64,
    buckets: BTreeMap<i32, u64>,
    scale: i32,
}

/// Whether these are the RED metrics: they are about the agent's own resource, by themselves.
pub(crate) fn is_derived(resource: &ResourceMetrics) -> bool {
    resource.scope_metrics.iter().flat_map(|scope| &scope.metrics).all(|metric| metric.name == SPAN_DURATION)
}

/// What the comparison showed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) spans: u64,
    pub(crate) counted: u64,
    pub(crate) series_wrong: u64,
    /// Relative.
    pub(crate) quantile_error_max: f64,
}

impl Truth {
    pub(crate) fn saw(&mut self, service: &str, span: &Span) {
        let status = span.status.as_ref().map_or(0, |status| status.code);
        let key = (service.to_owned(), KINDS[span.kind as usize].to_owned(), STATUSES[status as usize].to_owned());
        let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        self.seconds.entry(key).or_default().push(nanos as f64 / 1e9);
    }

    pub(crate) fn got(&mut self, resource: &ResourceMetrics) {
        let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
        for metric in metrics.filter(|metric| metric.name == SPAN_DURATION) {
            let Some(Data::ExponentialHistogram(data)) = &metric.data else { continue };
            for point in &data.data_points {
                let text = |name| string_attribute(&point.attributes, name).unwrap_or_default().to_owned();
                let key = (text(semconv::SERVICE_NAME), text(key::SPAN_KIND), text(key::STATUS_CODE));
                self.got.entry(key).or_default().add(point);
            }
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict { counted: self.got.values().map(|merged| merged.count).sum(), ..Verdict::default() };
        for (key, seconds) in &self.seconds {
            let mut seconds = seconds.clone();
            seconds.sort_by(f64::total_cmp);
            verdict.spans += seconds.len() as u64;
            let Some(merged) = self.got.get(key).filter(|merged| merged.count == seconds.len() as u64) else {
                verdict.series_wrong += 1;
                eprintln!("wrong: RED of {key:?}");
                continue;
            };
            for quantile in QUANTILES {
                let rank = (quantile * seconds.len() as f64).ceil() as u64;
                let (exact, found) = (seconds[rank as usize - 1], merged.at_rank(rank));
                if exact > 0.0 {
                    verdict.quantile_error_max = verdict.quantile_error_max.max((found - exact).abs() / exact);
                }
            }
        }
        verdict
    }
}

impl Merged {
    fn add(&mut self, point: &ExponentialHistogramDataPoint) {
        // OTLP: a histogram of a higher scale merges into one of a lower by halving indexes; ours are of one scale, or lower
        // when a range is wide.
        if self.count == 0 {
            self.scale = point.scale;
        }
        let lower = self.scale.min(point.scale);
        let shift = self.scale - lower;
        let known = std::mem::take(&mut self.buckets);
        known.into_iter().for_each(|(index, count)| *self.buckets.entry(index >> shift).or_default() += count);
        let positive = point.positive.clone().unwrap_or_default();
        for (index, count) in (positive.offset..).zip(positive.bucket_counts).filter(|(_, count)| *count > 0) {
            *self.buckets.entry(index >> (point.scale - lower)).or_default() += count;
        }
        self.scale = lower;
        self.count += point.count;
        self.zero += point.zero_count;
    }

    /// The middle, by ratio, of the bucket that holds the rank.
    fn at_rank(&self, rank: u64) -> f64 {
        let mut below = self.zero;
        for (index, count) in &self.buckets {
            below += count;
            if below >= rank {
                return 2_f64.powf((f64::from(*index) + 0.5) / 2_f64.powi(self.scale));
            }
        }
        0.0
    }
}
