//! RED metrics from all spans, before any is dropped: rate, errors and duration by service, operation, kind and status.
//!
//! One exponential histogram, `ollystack.span.duration`, carries all three: its count is the requests, its count with status `error`
//! the errors. The resource is the agent's (a service is more than the processes that come and go), the service is an
//! attribute. Invariant: every span is in exactly one series; past a limit a service's further operations share the operation
//! `_OTHER`, and further services the service `_OTHER`.

use hashbrown::HashMap;
use ollystack_fold::{Fold, Measurement};
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind, status::StatusCode};
use ollystack_record::{Kind, Metric, Resource, Scope, Series, value};
use ollystack_sample::operation::operation;
use ollystack_schema::names::{HISTOGRAM_SCALE, SPAN_DURATION, key, semconv};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The operation of spans whose own finds no room, as the semantic conventions name the rest.
pub const OPERATION_OTHER: &str = "_OTHER";

/// Longer names of services are cut, as those of operations are: each series holds one.
pub(crate) const SERVICE_BYTES_MAX: usize = 256;

const NANOS_PER_SECOND: f64 = 1e9;

/// Section `[red]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Derive RED metrics from spans.
    pub enabled: bool,
    /// Services told apart.
    pub services_max: usize,
    /// Operations told apart in one service.
    pub operations_per_service_max: usize,
    /// Series in all: an operation has one for each kind and status that its spans have.
    pub series_max: usize,
    /// Edges of the service map told apart, each side and status for itself; 0: none.
    pub edges_max: usize,
    /// Names looked up in DNS told apart, each service and error for itself; 0: none.
    pub lookups_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            services_max: 100,
            operations_per_service_max: 100,
            series_max: 900,
            edges_max: 300,
            lookups_max: 100,
        }
    }
}

/// How often a full table looks for series that nobody counts in any more, and since when nobody must have.
pub(crate) const SWEEP_NANOS: u64 = 60_000_000_000;
pub(crate) const IDLE_NANOS: u64 = 900_000_000_000;

/// Derives.
#[derive(Debug)]
pub struct Red {
    config: Config,
    resource: Arc<Resource>,
    scope: Arc<Scope>,
    metric: Arc<Metric>,
    services: HashMap<String, HashMap<String, Variants>>,
    series: usize,
    swept_unix_nano: u64,
}

/// The series of one operation by kind (6) and status (3), made when first needed, and when it was last counted in.
type Variants = [[Option<(Arc<Series>, u64)>; 3]; 6];

/// Kinds of spans, by OTLP's number.
pub(crate) const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
/// Statuses of spans, by OTLP's number.
pub(crate) const STATUSES: [&str; 3] = ["unset", "ok", "error"];

impl Red {
    /// For an agent with this resource.
    pub fn new(config: Config, resource: Arc<Resource>) -> Red {
        let (scope, metric) = durations("ollystack.red", SPAN_DURATION, "Duration of all spans, before sampling");
        Red { config, resource, scope, metric, services: HashMap::new(), series: 0, swept_unix_nano: 0 }
    }

    /// Count one span.
    pub fn observe(&mut self, service: &str, span: &Span, fold: &mut Fold, now: u64) {
        if let Some(series) = self.series(service, span, now) {
            self.count(&series, &measurement(span), fold, now);
        }
    }

    /// Count a span in the series that counts it.
    pub(crate) fn count(&self, series: &Arc<Series>, measurement: &Measurement<'_>, fold: &mut Fold, now: u64) {
        fold.observe(&self.resource, series, measurement, now);
    }

    /// The series that counts a span like this; its identifiers and times do not matter. None: nothing is counted.
    pub(crate) fn series(&mut self, service: &str, span: &Span, now: u64) -> Option<Arc<Series>> {
        if !self.config.enabled {
            return None;
        }
        let kind = usize::try_from(span.kind).ok().filter(|kind| *kind < KINDS.len()).unwrap_or(0);
        let code = span.status.as_ref().map_or(0, |status| status.code);
        let status = usize::try_from(code).ok().filter(|code| *code < STATUSES.len()).unwrap_or(0);
        let service = &service[..service.floor_char_boundary(SERVICE_BYTES_MAX)];
        let operation = operation(span);
        Some(match self.known(service, &operation, kind, status) {
            Some((series, used_unix_nano)) => {
                *used_unix_nano = now;
                Arc::clone(series)
            }
            None => self.admit(service, &operation, kind, status, now),
        })
    }

    fn known(&mut self, service: &str, operation: &str, kind: usize, status: usize) -> Option<&mut (Arc<Series>, u64)> {
        self.services.get_mut(service)?.get_mut(operation)?[kind][status].as_mut()
    }

    /// A series that is new, or the one that stands for it past a limit. Names come from outside: nothing grows without end.
    #[cold]
    fn admit(&mut self, service: &str, operation: &str, kind: usize, status: usize, now: u64) -> Arc<Series> {
        if self.is_full(service, operation) && now.abs_diff(self.swept_unix_nano) >= SWEEP_NANOS {
            self.swept_unix_nano = now;
            self.forget_unused(now);
        }
        let room = self.series < self.config.series_max || self.known(service, OPERATION_OTHER, kind, status).is_some();
        let (service, operation) = match self.services.contains_key(service) {
            _ if !self.is_full(service, operation) => (service, operation),
            true if room => (service, OPERATION_OTHER),
            _ => (OPERATION_OTHER, OPERATION_OTHER),
        };
        let Red { scope, metric, services, series, .. } = self;
        let place = &mut services.entry_ref(service).or_default().entry_ref(operation).or_default()[kind][status];
        let (made, used_unix_nano) = place.get_or_insert_with(|| {
            *series += 1;
            let attributes = vec![
                value::string(semconv::SERVICE_NAME, service),
                value::string(key::SPAN_NAME, operation),
                value::string(key::SPAN_KIND, KINDS[kind]),
                value::string(key::STATUS_CODE, STATUSES[status]),
            ];
            (Arc::new(Series::new(Arc::clone(scope), Arc::clone(metric), attributes)), now)
        });
        *used_unix_nano = now;
        Arc::clone(made)
    }

    /// Whether a limit keeps a new series from being told apart.
    fn is_full(&self, service: &str, operation: &str) -> bool {
        let Config { services_max, operations_per_service_max, series_max, .. } = self.config;
        self.series >= series_max
            || match self.services.get(service) {
                None => self.services.len() >= services_max,
                Some(operations) => {
                    operations.len() >= operations_per_service_max && !operations.contains_key(operation)
                }
            }
    }

    /// Make room: forget series of which no span was seen for long.
    fn forget_unused(&mut self, now: u64) {
        let mut series = 0;
        self.services.retain(|_, operations| {
            operations.retain(|_, variants| {
                for place in variants.iter_mut().flatten() {
                    *place = place.take().filter(|(_, used)| now.abs_diff(*used) < IDLE_NANOS);
                    series += usize::from(place.is_some());
                }
                variants.iter().flatten().any(Option::is_some)
            });
            !operations.is_empty()
        });
        self.series = series;
    }

    /// Operations told apart now.
    pub fn operations(&self) -> usize {
        self.services.values().map(HashMap::len).sum()
    }
}

/// The scope and the metric of durations that are derived from spans: an exponential histogram of increases, in seconds.
pub(crate) fn durations(scope: &str, name: &str, description: &str) -> (Arc<Scope>, Arc<Metric>) {
    let proto = InstrumentationScope { name: scope.into(), ..InstrumentationScope::default() };
    let metric = Metric {
        name: name.into(),
        unit: "s".into(),
        description: description.into(),
        kind: Kind::ExponentialHistogram { delta: true },
        ..Metric::default()
    };
    (Arc::new(Scope { proto, schema_url: String::new() }), Arc::new(metric))
}

/// How long a span took, and which it is.
pub(crate) fn measurement(span: &Span) -> Measurement<'_> {
    let Span { start_time_unix_nano: start, end_time_unix_nano: end, trace_id, span_id, .. } = span;
    Measurement { value: seconds(*start, *end), time_unix_nano: *end, trace_id, span_id }
}

/// From one time to another, in nanoseconds both.
pub(crate) fn seconds(start: u64, end: u64) -> f64 {
    end.saturating_sub(start) as f64 / NANOS_PER_SECOND
}

const _: () =
    assert!(HISTOGRAM_SCALE == 6, "the 1% promise and the sizes in fold/exponential.rs are worked out for scale 6");
const _: () =
    assert!(SpanKind::Consumer as usize == KINDS.len() - 1 && StatusCode::Error as usize == STATUSES.len() - 1);

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::metrics::v1::{ExponentialHistogramDataPoint, metric::Data};
    use ollystack_record::otlp::trace::v1::Status;
    use ollystack_record::{Ledger, ReducedRecords};
    use std::collections::BTreeMap;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_700_000_040 * SECOND;

    struct Bench {
        red: Red,
        fold: Fold,
    }

    impl Bench {
        fn new(config: Config) -> Bench {
            let fold = Fold::new(ollystack_fold::Config::default(), Arc::new(Ledger::default()));
            Bench { red: Red::new(config, Arc::default()), fold }
        }

        fn observe(&mut self, service: &str, operation: &str, code: StatusCode, milliseconds: u64, now: u64) {
            let span = Span {
                name: operation.into(),
                kind: SpanKind::Server as i32,
                status: Some(Status { code: code as i32, ..Status::default() }),
                trace_id: vec![milliseconds as u8; 16],
                start_time_unix_nano: now - milliseconds * 1_000_000,
                end_time_unix_nano: now,
                ..Span::default()
            };
            self.red.observe(service, &span, &mut self.fold, now);
        }

        fn points(&mut self, now: u64) -> Vec<ExponentialHistogramDataPoint> {
            let mut out = Vec::new();
            self.fold.drain(now);
            while self.fold.hand_out(now, usize::MAX, &mut out) {}
            let metrics = out.into_iter().flat_map(|reduced| match reduced.records {
                ReducedRecords::Metrics(resource) => resource.scope_metrics,
                _ => Vec::new(),
            });
            let data = metrics.flat_map(|scope| scope.metrics).filter_map(|metric| metric.data);
            let points = data.flat_map(|data| match data {
                Data::ExponentialHistogram(data) => data.data_points,
                other => panic!("expected an exponential histogram, got {other:?}"),
            });
            points.collect()
        }

        /// Spans by service and operation.
        fn counts(&mut self) -> BTreeMap<(String, String), u64> {
            let mut counts = BTreeMap::new();
            for point in self.points(NOW) {
                let text = |key| value::string_attribute(&point.attributes, key).unwrap().to_owned();
                *counts.entry((text(semconv::SERVICE_NAME), text(key::SPAN_NAME))).or_default() += point.count;
            }
            counts
        }
    }

    fn counts<const N: usize>(expected: [(&str, &str, u64); N]) -> BTreeMap<(String, String), u64> {
        expected.map(|(service, operation, count)| ((service.to_owned(), operation.to_owned()), count)).into()
    }

    #[test]
    fn rate_errors_and_duration_are_exact_and_the_slowest_trace_is_named() {
        let mut bench = Bench::new(Config::default());
        for (code, milliseconds) in
            [(StatusCode::Ok, 10), (StatusCode::Ok, 200), (StatusCode::Error, 30), (StatusCode::Ok, 20)]
        {
            bench.observe("shop", "GET /orders/17", code, milliseconds, NOW);
        }
        let points = bench.points(NOW);
        let of = |code: &str| {
            let is = |point: &&ExponentialHistogramDataPoint| {
                value::string_attribute(&point.attributes, key::STATUS_CODE) == Some(code)
            };
            points.iter().find(is).unwrap()
        };
        let (ok, error) = (of("ok"), of("error"));
        assert_eq!((ok.count, ok.min, ok.max, error.count, error.sum), (3, Some(0.01), Some(0.2), 1, Some(0.03)));
        assert_eq!(value::string_attribute(&ok.attributes, key::SPAN_NAME), Some("GET /orders/{id}"));
        let traces: Vec<u8> = ok.exemplars.iter().map(|exemplar| exemplar.trace_id[0]).collect();
        assert_eq!(traces, vec![200]);
    }

    #[test]
    fn past_each_limit_every_span_is_still_counted_once() {
        let table = [
            (
                Config { operations_per_service_max: 1, ..Config::default() },
                counts([("a", "one", 1), ("a", "_OTHER", 1), ("b", "one", 1), ("b", "_OTHER", 1)]),
            ),
            (
                Config { services_max: 1, ..Config::default() },
                counts([("a", "one", 1), ("a", "two", 1), ("_OTHER", "_OTHER", 2)]),
            ),
            (
                Config { series_max: 3, ..Config::default() },
                counts([("a", "one", 1), ("a", "two", 1), ("b", "one", 1), ("_OTHER", "_OTHER", 1)]),
            ),
        ];
        for (config, expected) in table {
            let mut bench = Bench::new(config.clone());
            for (service, operation) in [("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")] {
                bench.observe(service, operation, StatusCode::Unset, 1, NOW);
            }
            assert_eq!(bench.counts(), expected, "{config:?}");
        }
    }

    #[test]
    fn the_longest_name_of_a_service_is_cut_at_a_character() {
        let mut bench = Bench::new(Config::default());
        bench.observe(&"é".repeat(1_000), "one", StatusCode::Unset, 1, NOW);
        assert_eq!(bench.counts(), counts([("é".repeat(SERVICE_BYTES_MAX / 2).as_str(), "one", 1)]));
    }

    #[test]
    fn a_full_table_makes_room_once_what_it_holds_is_no_longer_counted_in() {
        for (last_seen, expected) in [(NOW, "new"), (NOW + 1_900 * SECOND, OPERATION_OTHER)] {
            let mut bench = Bench::new(Config { series_max: 1, ..Config::default() });
            bench.observe("a", "old", StatusCode::Unset, 1, NOW);
            bench.observe("a", "old", StatusCode::Unset, 1, last_seen);
            // The folder knows the series as well, as it does one that was restored.
            bench.points(last_seen);
            bench.observe("a", "new", StatusCode::Unset, 1, NOW + 2_000 * SECOND);
            let points = bench.points(NOW + 2_000 * SECOND);
            assert_eq!(value::string_attribute(&points[0].attributes, key::SPAN_NAME), Some(expected));
        }
    }
}
