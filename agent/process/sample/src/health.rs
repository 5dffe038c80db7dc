//! Health checks: requests that a machine makes to see whether a service lives.
//!
//! They are counted in RED metrics like all, but a trace that is nothing else is not worth keeping unless it failed. Asked about spans
//! that enter a service. Invariant: a request is a health check by its path, operation or user agent in whole, or up to the
//! `*` of a pattern.

use hashbrown::HashSet;
use ollystack_record::otlp::common::v1::any_value::Value;
use ollystack_record::otlp::trace::v1::Span;
use ollystack_schema::names::semconv;

/// What health checks look like.
#[derive(Debug)]
pub(crate) struct HealthChecks {
    whole: HashSet<String>,
    beginnings: Vec<String>,
}

impl HealthChecks {
    pub(crate) fn new(patterns: &[String]) -> HealthChecks {
        let (beginnings, whole): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.ends_with('*'));
        HealthChecks {
            whole: whole.into_iter().cloned().collect(),
            beginnings: beginnings.into_iter().map(|pattern| pattern.trim_end_matches('*').to_owned()).collect(),
        }
    }

    /// Whether a request is one.
    pub(crate) fn has(&self, span: &Span) -> bool {
        let path = span.name.split_once(' ').map_or("", |(_, path)| path);
        self.is(&span.name) || self.is(path) || {
            let texts = span.attributes.iter().filter_map(|attribute| {
                let tells = matches!(
                    attribute.key.as_str(),
                    semconv::URL_PATH | semconv::HTTP_ROUTE | semconv::USER_AGENT_ORIGINAL | "http.target"
                );
                match attribute.value.as_ref()?.value.as_ref()? {
                    Value::StringValue(text) if tells => Some(text.as_str()),
                    _ => None,
                }
            });
            texts.into_iter().any(|text| self.is(text))
        }
    }

    /// Whether a path or route is that of one.
    pub(crate) fn is(&self, text: &str) -> bool {
        !text.is_empty()
            && (self.whole.contains(text) || self.beginnings.iter().any(|beginning| text.starts_with(beginning)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::string;

    #[test]
    fn a_health_check_is_known_by_path_operation_or_user_agent() {
        let checks = HealthChecks::new(&crate::Config::default().health_checks);
        let span = |name: &str, key: &str, text: &str| Span {
            name: name.into(),
            attributes: vec![string(key, text)],
            ..Span::default()
        };
        for (name, key, text, is) in [
            ("GET /healthz", "a", "", true),
            ("/ready", "a", "", true),
            ("GET /healthz/cart", "a", "", false),
            ("GET /shop/health", "a", "", false),
            ("GET", "url.path", "/livez", true),
            ("GET", "http.route", "/metrics", true),
            ("GET", "http.target", "/ping", true),
            ("GET", "other", "/ping", false),
            ("grpc.health.v1.Health/Check", "a", "", true),
            ("GET /", "user_agent.original", "kube-probe/1.30", true),
            ("GET /", "user_agent.original", "curl/8", false),
            ("GET /actuator/health/liveness", "a", "", true),
            ("", "a", "", false),
        ] {
            assert_eq!(checks.has(&span(name, key, text)), is, "{name} {key} {text}");
        }
        assert!(!HealthChecks::new(&[]).has(&span("GET /healthz", "a", "")));
    }
}
