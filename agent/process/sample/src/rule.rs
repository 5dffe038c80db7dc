//! Rules: what a person wants kept or let go, by service, operation and attribute.
//!
//! A rule names what it applies to and what is then to be done; what it does not name does not matter to it. Of several that match
//! a span, the first one says how to keep it, and the first one with `slow_ms` says what is slow. Invariant: a pattern was
//! compiled within its limits when the configuration was read, so that trying it cannot fail and takes linear time.

use crate::config::RATE_MAX;
use ollystack_record::otlp::common::v1::{AnyValue, KeyValue, any_value::Value};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;

/// What a compiled pattern may hold, and again what it may hold while it is tried.
pub const PATTERN_BYTES_MAX: usize = 256 << 10;

/// One of `[[traces.rules]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// What its counters are called.
    pub name: String,
    /// `service.name`; a `*` at the end stands for any rest, here and in `operation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The operation, as RED metrics call it: ids in paths replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Key of an attribute that must be there, on the span or else on its resource, and be as the next four say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// This text, number or truth value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// A number, at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// A number, at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// A text that has this pattern in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<Pattern>,
    /// How to keep the trace of such a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Or how many of such traces' spans to keep, per service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spans_per_second: Option<f64>,
    /// Milliseconds from which on such a span is slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u64>,
    /// `false`, with `keep = "never"`: not even what failed is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<bool>,
}

/// A value to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(f64),
    /// Any text.
    Text(String),
}

/// How to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// All.
    Always,
    /// None but what failed.
    Never,
    /// This share, by trace id, of what is kept for no better reason.
    Ratio(f64),
}

impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Keep::Always => serializer.serialize_str("always"),
            Keep::Never => serializer.serialize_str("never"),
            Keep::Ratio(ratio) => serializer.serialize_f64(*ratio),
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keep, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) if text == "always" => Ok(Keep::Always),
            Scalar::Text(text) if text == "never" => Ok(Keep::Never),
            Scalar::Number(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Keep::Ratio(ratio)),
            _ => Err(de::Error::custom("keep must be \"always\", \"never\" or a share from 0 to 1")),
        }
    }
}

/// A regular expression, compiled.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compile; the error says where it is wrong, or that it is too large.
    pub fn new(text: &str) -> Result<Pattern, regex::Error> {
        let mut builder = RegexBuilder::new(text);
        Ok(Pattern(builder.size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build()?))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Pattern::new(&text).map_err(|error| de::Error::custom(format!("`{text}` is no pattern: {error}")))
    }
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) service: &'a str,
    pub(crate) operation: &'a str,
    /// The span's.
    pub(crate) own: &'a [KeyValue],
    /// The resource's.
    pub(crate) resource: &'a [KeyValue],
}

impl Rule {
    /// What it must be to mean something, if it does not.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let Rule { attribute, equals, min, max, matches, keep, spans_per_second, slow_ms, errors, .. } = self;
        let conditions = equals.is_some() || min.is_some() || max.is_some() || matches.is_some();
        if self.name.is_empty() {
            Some("`name` set")
        } else if conditions && attribute.is_none() {
            Some("`attribute` set, as equals, min, max and matches say how it must be")
        } else if keep.is_some() && spans_per_second.is_some() {
            Some("one of keep and spans_per_second")
        } else if keep.is_none() && spans_per_second.is_none() && slow_ms.is_none() {
            Some("keep, spans_per_second or slow_ms set")
        } else if spans_per_second.is_some_and(|rate| !(rate > 0.0 && rate <= RATE_MAX)) {
            Some("spans_per_second above 0, at most 1e9; keep = \"never\" keeps none")
        } else if *errors == Some(false) && *keep != Some(Keep::Never) {
            Some("errors = false only with keep = \"never\"")
        } else {
            None
        }
    }

    /// Whether it says how to keep.
    pub(crate) fn keeps(&self) -> bool {
        self.keep.is_some() || self.spans_per_second.is_some()
    }

    /// Whether it is about such a span.
    pub(crate) fn matches(&self, subject: Subject<'_>) -> bool {
        let named = |pattern: &Option<String>, name| pattern.as_deref().is_none_or(|pattern| matches(pattern, name));
        named(&self.service, subject.service)
            && named(&self.operation, subject.operation)
            && self.attribute.as_deref().is_none_or(|key| {
                let value = find(subject.own, key).or_else(|| find(subject.resource, key));
                value.is_some_and(|value| self.accepts(value))
            })
    }

    fn accepts(&self, value: &Value) -> bool {
        let text = match value {
            Value::StringValue(text) => Some(text.as_str()),
            _ => None,
        };
        // Some SDKs send numbers as texts.
        let number = match value {
            Value::IntValue(number) => Some(*number as f64),
            Value::DoubleValue(number) => Some(*number),
            _ => text.and_then(|text| text.parse().ok()),
        };
        let equal = |wanted: &Scalar| match wanted {
            Scalar::Bool(wanted) => matches!(value, Value::BoolValue(found) if found == wanted),
            Scalar::Number(wanted) => number == Some(*wanted),
            Scalar::Text(wanted) => text == Some(wanted),
        };
        self.equals.as_ref().is_none_or(equal)
            && self.min.is_none_or(|least| number.is_some_and(|number| number >= least))
            && self.max.is_none_or(|most| number.is_some_and(|number| number <= most))
            && self.matches.as_ref().is_none_or(|pattern| text.is_some_and(|text| pattern.0.is_match(text)))
    }
}

fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let AnyValue { value } = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    value.as_ref()
}

/// Whether a name is the wanted one; a `*` at the end of what is wanted stands for any rest.
pub(crate) fn matches(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::{bool, double, int, string};

    fn rule(json: &str) -> Rule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_rule_applies_where_all_that_it_names_is_so() {
        let own =
            [string("tier", "gold"), int("size", 7), double("share", 0.5), bool("beta", true), string("code", "503")];
        let resource = [string("tier", "none"), string("zone", "eu-1")];
        let subject = Subject { service: "shop", operation: "GET /a", own: &own, resource: &resource };
        for (json, applies) in [
            (r#"{}"#, true),
            (r#"{"service": "shop"}"#, true),
            (r#"{"service": "sho"}"#, false),
            (r#"{"service": "sh*", "operation": "GET /b*"}"#, false),
            (r#"{"operation": "GET *"}"#, true),
            (r#"{"attribute": "tier"}"#, true),
            (r#"{"attribute": "tiers"}"#, false),
            (r#"{"attribute": "tier", "equals": "gold"}"#, true),
            (r#"{"attribute": "tier", "equals": "none"}"#, false),
            (r#"{"attribute": "zone", "matches": "^eu-\\d$"}"#, true),
            (r#"{"attribute": "size", "equals": 7}"#, true),
            (r#"{"attribute": "size", "equals": "7"}"#, false),
            (r#"{"attribute": "size", "min": 7, "max": 8}"#, true),
            (r#"{"attribute": "size", "min": 7.5}"#, false),
            (r#"{"attribute": "share", "max": 0.4}"#, false),
            (r#"{"attribute": "code", "min": 500}"#, true),
            (r#"{"attribute": "tier", "min": 0}"#, false),
            (r#"{"attribute": "beta", "equals": true}"#, true),
            (r#"{"attribute": "beta", "equals": false}"#, false),
            (r#"{"attribute": "size", "matches": "7"}"#, false),
        ] {
            assert_eq!(rule(json).matches(subject), applies, "{json}");
        }
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused() {
        for (json, fine) in [
            (r#"{"name": "a", "keep": "always"}"#, true),
            (r#"{"name": "a", "keep": 0.5, "slow_ms": 7}"#, true),
            (r#"{"name": "a", "keep": "never", "errors": false}"#, true),
            (r#"{"name": "a", "slow_ms": 7}"#, true),
            (r#"{"keep": "always"}"#, false),
            (r#"{"name": "a"}"#, false),
            (r#"{"name": "a", "keep": "always", "min": 7}"#, false),
            (r#"{"name": "a", "keep": "always", "spans_per_second": 7}"#, false),
            (r#"{"name": "a", "spans_per_second": 0}"#, false),
            (r#"{"name": "a", "spans_per_second": 1e9}"#, true),
            (r#"{"name": "a", "spans_per_second": 1e308}"#, false),
            (r#"{"name": "a", "keep": 1, "errors": false}"#, false),
        ] {
            assert_eq!(rule(json).fault().is_none(), fine, "{json}");
        }
    }

    #[test]
    fn what_is_no_rule_does_not_parse() {
        for json in [
            r#"{"keep": "sometimes"}"#,
            r#"{"keep": 1.5}"#,
            r#"{"matches": "("}"#,
            r#"{"matches": "(a{1000}){1000}"}"#,
            r#"{"colour": "red"}"#,
        ] {
            assert!(serde_json::from_str::<Rule>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        let json = r#"{"name":"a","attribute":"k","matches":"^x","keep":0.25}"#;
        assert_eq!(serde_json::to_string(&rule(json)).unwrap(), json);
    }
}
