//! How long names take to be looked up, from the spans of whoever asks for them: by service, name and error.
//!
//! One exponential histogram, `dns.lookup.duration` of the semantic conventions, under the agent's resource, as `red` has it. Names come from
//! outside and are without number, so they are told in lower case (resolvers vary it) and without what a machine made of them: labels
//! that are numbers or long hexadecimal become `{id}`, and an address that is asked for its name becomes one. Invariant: every
//! look-up is counted once; past the limit further ones share the name `_OTHER`.

use crate::red::{IDLE_NANOS, OPERATION_OTHER, SERVICE_BYTES_MAX, SWEEP_NANOS, durations, measurement};
use hashbrown::HashMap;
use ollystack_fold::{Fold, Measurement};
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind};
use ollystack_record::value::string_attribute;
use ollystack_record::{Attribute, Metric, Resource, Scope, Series, attribute, value};
use ollystack_sample::operation::is_id;
use ollystack_schema::names::{DNS_LOOKUP_DURATION, semconv};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Of a name, dots included (RFC 1035, section 2.3.4); longer ones are cut, as errors are.
const NAME_BYTES_MAX: usize = 255;

/// Where addresses are looked up by (RFC 1035, section 3.5; RFC 3596, section 2.5).
const REVERSE: [&str; 2] = [".in-addr.arpa", ".ip6.arpa"];

/// Who looked for what, and how it failed; without an error it did not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lookup<'a> {
    service: Cow<'a, str>,
    name: Cow<'a, str>,
    error: Option<Cow<'a, str>>,
}

/// Derives.
#[derive(Debug)]
pub(crate) struct Lookups {
    max: usize,
    resource: Arc<Resource>,
    scope: Arc<Scope>,
    metric: Arc<Metric>,
    /// With the time each was last counted in.
    known: HashMap<Lookup<'static>, (Arc<Series>, AtomicU64)>,
    swept_unix_nano: u64,
}

impl Lookups {
    /// For an agent with this resource; `max` 0 derives none.
    pub(crate) fn new(max: usize, resource: Arc<Resource>) -> Lookups {
        let (scope, metric) =
            durations("ollystack.red", DNS_LOOKUP_DURATION, "Measures the time taken to perform a DNS lookup");
        Lookups { max, resource, scope, metric, known: HashMap::new(), swept_unix_nano: 0 }
    }

    /// Count one span, if it is of one who looked a name up.
    pub(crate) fn observe(&mut self, service: &str, span: &Span, fold: &mut Fold, now: u64) {
        if is_lookup(span) {
            self.count(service, span, &[], &measurement(span), fold, now);
        }
    }

    /// Count a look-up by what it has in common with others and what is its own, if either tells its name.
    pub(crate) fn count(
        &mut self,
        service: &str,
        common: &Span,
        own: &[Attribute],
        measurement: &Measurement<'_>,
        fold: &mut Fold,
        now: u64,
    ) {
        let name = attribute::string_attribute(own, semconv::DNS_QUESTION_NAME)
            .or_else(|| string_attribute(&common.attributes, semconv::DNS_QUESTION_NAME));
        let Some(name) = name.filter(|_| self.max > 0) else { return };
        let error = string_attribute(&common.attributes, semconv::ERROR_TYPE);
        let lookup = Lookup {
            service: Cow::Borrowed(cut(service, SERVICE_BYTES_MAX)),
            name: template(cut(name, NAME_BYTES_MAX)),
            error: error.map(|error| Cow::Borrowed(cut(error, NAME_BYTES_MAX))),
        };
        // Shared for a moment, so that what is looked for may be borrowed.
        let known: &HashMap<Lookup<'_>, (Arc<Series>, AtomicU64)> = &self.known;
        let series = match known.get(&lookup) {
            Some((series, used_unix_nano)) => {
                used_unix_nano.store(now, Relaxed);
                Arc::clone(series)
            }
            None => self.admit(lookup.into_owned(), now),
        };
        fold.observe(&self.resource, &series, measurement, now);
    }

    /// One that is new, or what stands for it past the limit.
    #[cold]
    fn admit(&mut self, lookup: Lookup<'static>, now: u64) -> Arc<Series> {
        if self.known.len() >= self.max && now.abs_diff(self.swept_unix_nano) >= SWEEP_NANOS {
            self.swept_unix_nano = now;
            self.known.retain(|_, (_, used)| now.abs_diff(used.load(Relaxed)) < IDLE_NANOS);
        }
        let lookup = if self.known.len() < self.max { lookup } else { lookup.other() };
        let Lookups { known, scope, metric, .. } = self;
        let (series, used_unix_nano) = known.entry(lookup).or_insert_with_key(|lookup| {
            let said = [
                (semconv::SERVICE_NAME, Some(&lookup.service)),
                (semconv::DNS_QUESTION_NAME, Some(&lookup.name)),
                (semconv::ERROR_TYPE, lookup.error.as_ref()),
            ];
            let attributes = said.into_iter().filter_map(|(key, text)| Some(value::string(key, text?.as_ref())));
            let series = Series::new(Arc::clone(scope), Arc::clone(metric), attributes.collect());
            (Arc::new(series), AtomicU64::new(now))
        });
        used_unix_nano.store(now, Relaxed);
        Arc::clone(series)
    }
}

/// Whether spans like this, or with a name of their own besides, look names up.
pub(crate) fn is_lookup(span: &Span) -> bool {
    let asks = [semconv::DNS_QUESTION_NAME, semconv::DNS_QUESTION_TYPE];
    span.kind == SpanKind::Client as i32
        && span.attributes.iter().any(|attribute| asks.contains(&attribute.key.as_str()))
}

impl Lookup<'_> {
    fn into_owned(self) -> Lookup<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Lookup { service: owned(self.service), name: owned(self.name), error: self.error.map(owned) }
    }

    /// What stands for it where there is no room: one that found a name, and one that did not.
    fn other(&self) -> Lookup<'static> {
        let other = || Cow::Borrowed(OPERATION_OTHER);
        Lookup { service: other(), name: other(), error: self.error.as_ref().map(|_| other()) }
    }
}

/// A name with what varies replaced; without any of it, the name is borrowed.
fn template(name: &str) -> Cow<'_, str> {
    let lower = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    };
    if let Some(zone) = REVERSE.into_iter().find(|zone| lower.ends_with(zone)) {
        return Cow::Owned(format!("{{id}}{zone}"));
    }
    if !lower.split('.').any(is_id) {
        return lower;
    }
    let labels: Vec<&str> = lower.split('.').map(|label| if is_id(label) { "{id}" } else { label }).collect();
    Cow::Owned(labels.join("."))
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::metrics::v1::metric::Data;
    use ollystack_record::{Ledger, ReducedRecords};
    use std::collections::BTreeMap;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_700_000_040 * SECOND;

    struct Bench {
        lookups: Lookups,
        fold: Fold,
    }

    impl Bench {
        fn new(max: usize) -> Bench {
            let fold = Fold::new(ollystack_fold::Config::default(), Arc::new(Ledger::default()));
            Bench { lookups: Lookups::new(max, Arc::default()), fold }
        }

        fn observe(&mut self, kind: SpanKind, name: &str, error: Option<&str>, now: u64) {
            let mut attributes = vec![value::string(semconv::DNS_QUESTION_NAME, name)];
            attributes.extend(error.map(|error| value::string(semconv::ERROR_TYPE, error)));
            let span = Span {
                kind: kind as i32,
                start_time_unix_nano: now - 20_000_000,
                end_time_unix_nano: now,
                attributes,
                ..Span::default()
            };
            self.lookups.observe("shop", &span, &mut self.fold, now);
        }

        /// Look-ups by `service name error`, and the seconds that they took.
        fn told(&mut self, now: u64) -> BTreeMap<String, (u64, f64)> {
            let mut out = Vec::new();
            self.fold.drain(now);
            while self.fold.hand_out(now, usize::MAX, &mut out) {}
            let metrics = out.into_iter().flat_map(|reduced| match reduced.records {
                ReducedRecords::Metrics(resource) => resource.scope_metrics,
                _ => Vec::new(),
            });
            let mut told = BTreeMap::new();
            for metric in metrics.flat_map(|scope| scope.metrics) {
                assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("dns.lookup.duration", "s"));
                let Some(Data::ExponentialHistogram(data)) = metric.data else { panic!("no exponential histogram") };
                for point in data.data_points {
                    let texts: Vec<&str> = [semconv::SERVICE_NAME, semconv::DNS_QUESTION_NAME, semconv::ERROR_TYPE]
                        .iter()
                        .filter_map(|key| string_attribute(&point.attributes, key))
                        .collect();
                    told.insert(texts.join(" "), (point.count, point.sum.unwrap()));
                }
            }
            told
        }
    }

    #[test]
    fn those_who_ask_are_counted_by_name_and_error_and_those_who_answer_are_not() {
        let mut bench = Bench::new(10);
        for (kind, name, error) in [
            (SpanKind::Client, "api.example.com", None),
            (SpanKind::Client, "aPi.eXample.COM", None),
            (SpanKind::Client, "api.example.com", Some("SERVFAIL")),
            (SpanKind::Server, "api.example.com", None),
        ] {
            bench.observe(kind, name, error, NOW);
        }
        let other = Span { kind: SpanKind::Client as i32, ..Span::default() };
        bench.lookups.observe("shop", &other, &mut bench.fold, NOW);
        let expected = [("shop api.example.com", (2, 0.04)), ("shop api.example.com SERVFAIL", (1, 0.02))]
            .map(|(text, told)| (text.to_owned(), told));
        assert_eq!(bench.told(NOW), expected.into());
    }

    #[test]
    fn past_the_limit_names_share_one_until_others_are_idle() {
        let mut bench = Bench::new(2);
        for name in 0..1_000 {
            let text = format!("{}.{}.example.com", "a".repeat(name / 40), "b".repeat(name % 40));
            bench.observe(SpanKind::Client, &text, (name % 2 == 0).then_some("NXDOMAIN"), NOW);
        }
        let told = bench.told(NOW);
        assert_eq!((told.len(), told.values().map(|(count, _)| count).sum::<u64>()), (4, 1_000));
        assert!(told.contains_key("_OTHER _OTHER") && told.contains_key("_OTHER _OTHER _OTHER"), "{told:?}");
        bench.observe(SpanKind::Client, "new.example.com", None, NOW + IDLE_NANOS);
        assert!(bench.told(NOW + IDLE_NANOS).contains_key("shop new.example.com"));
        let mut none = Bench::new(0);
        none.observe(SpanKind::Client, "a.example.com", None, NOW);
        assert!(none.told(NOW).is_empty());
    }

    #[test]
    fn what_a_machine_made_of_a_name_is_not_told() {
        let table = [
            ("api.example.com", "api.example.com"),
            ("API.Example.com", "api.example.com"),
            ("7.0.0.10.in-addr.arpa", "{id}.in-addr.arpa"),
            ("b.a.9.8.7.ip6.arpa", "{id}.ip6.arpa"),
            ("123e4567-e89b-12d3-a456-426614174000.tracker.example", "{id}.tracker.example"),
            ("42.shard.example", "{id}.shard.example"),
            ("s3.eu-west-1.example", "s3.eu-west-1.example"),
            (".", "."),
        ];
        for (name, expected) in table {
            assert_eq!(template(name), expected);
        }
    }
}
