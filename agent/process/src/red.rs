//! RED metrics from all spans, before any is dropped: rate, errors and duration by service, operation, kind and status.
//!
//! One exponential histogram, `ollystack.span.duration`, carries all three: its count is the requests, its count with status `error`
//! the errors. The resource is the agent's (a service is more than the processes that come and go), the service is an
//! attribute. Invariant: every span is in exactly one series; past the limit on operations a service's further ones share
//! the operation `_OTHER`.

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
}

impl Default for Config {
    fn default() -> Config {
        Config { enabled: true, services_max: 500, operations_per_service_max: 200 }
    }
}

/// Derives.
#[derive(Debug)]
pub struct Red {
    config: Config,
    resource: Arc<Resource>,
    scope: Arc<Scope>,
    metric: Arc<Metric>,
    services: HashMap<String, HashMap<String, Variants>>,
}

/// The series of one operation by kind (6) and status (3), made when first needed.
type Variants = [[Option<Arc<Series>>; 3]; 6];

const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
const STATUSES: [&str; 3] = ["unset", "ok", "error"];

impl Red {
    /// For an agent with this resource.
    pub fn new(config: Config, resource: Arc<Resource>) -> Red {
        let proto = InstrumentationScope { name: "ollystack.red".into(), ..InstrumentationScope::default() };
        let metric = Metric {
            name: SPAN_DURATION.into(),
            unit: "s".into(),
            description: "Duration of all spans, before sampling".into(),
            kind: Kind::ExponentialHistogram { delta: true },
            ..Metric::default()
        };
        Red {
            config,
            resource,
            scope: Arc::new(Scope { proto, schema_url: String::new() }),
            metric: Arc::new(metric),
            services: HashMap::new(),
        }
    }

    /// Count one span.
    pub fn observe(&mut self, service: &str, span: &Span, fold: &mut Fold, now: u64) {
        if !self.config.enabled {
            return;
        }
        let kind = usize::try_from(span.kind).ok().filter(|kind| *kind < KINDS.len()).unwrap_or(0);
        let code = span.status.as_ref().map_or(0, |status| status.code);
        let status = usize::try_from(code).ok().filter(|code| *code < STATUSES.len()).unwrap_or(0);
        let series = self.series(service, &operation(span), kind, status);
        let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
        let seconds = nanos as f64 / NANOS_PER_SECOND;
        let measurement = Measurement {
            value: seconds,
            time_unix_nano: span.end_time_unix_nano,
            trace_id: &span.trace_id,
            span_id: &span.span_id,
        };
        fold.observe(&self.resource, &series, &measurement, now);
    }

    fn series(&mut self, service: &str, operation: &str, kind: usize, status: usize) -> Arc<Series> {
        let Red { config, scope, metric, services, .. } = self;
        // Names come from outside: past the limit they share one place, so that nothing grows without end.
        let service = if services.contains_key(service) || services.len() < config.services_max {
            service
        } else {
            OPERATION_OTHER
        };
        let operations = services.entry_ref(service).or_default();
        let room = operations.len() < config.operations_per_service_max || operations.contains_key(operation);
        let operation = if room { operation } else { OPERATION_OTHER };
        let variants = operations.entry_ref(operation).or_default();
        let place = &mut variants[kind][status];
        let series = place.get_or_insert_with(|| {
            let attributes = vec![
                value::string(semconv::SERVICE_NAME, service),
                value::string(key::SPAN_NAME, operation),
                value::string(key::SPAN_KIND, KINDS[kind]),
                value::string(key::STATUS_CODE, STATUSES[status]),
            ];
            Arc::new(Series::new(Arc::clone(scope), Arc::clone(metric), attributes))
        });
        Arc::clone(series)
    }

    /// Operations told apart now.
    pub fn operations(&self) -> usize {
        self.services.values().map(HashMap::len).sum()
    }
}

const _: () =
    assert!(HISTOGRAM_SCALE == 6, "the 1% promise and the sizes in fold/exponential.rs are worked out for scale 6");
const _: () =
    assert!(SpanKind::Consumer as usize == KINDS.len() - 1 && StatusCode::Error as usize == STATUSES.len() - 1);
