//! Every string of every record: which fields there are, and that none is left out.
//!
//! Records come in as OTLP has them and are changed in place; what is shared (resources, series) is copied when something in it
//! must go. An attribute whose key is a secret's name loses its whole value. Invariant: a field of type string or an
//! attribute's value that OTLP has, and that our types carry, passes through [`Redaction::text`].

use crate::kind::Kind;
use crate::{Redaction, name};
use ollystack_record::attribute::Value as Plain;
use ollystack_record::otlp::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::otlp::metrics::v1::Exemplar;
use ollystack_record::otlp::trace::v1::{ScopeSpans, Span};
use ollystack_record::{Attribute, Resource, Sample, Scope, Series, Template, Value};
use std::borrow::Cow;
use std::sync::Arc;

// Each of these says whether it changed anything.
impl Redaction {
    pub(crate) fn resource(&self, resource: &Resource) -> Option<Resource> {
        let mut attributes = resource.attributes().to_vec();
        self.attributes(&mut attributes).then(|| {
            let mut redacted = Resource::new(attributes);
            redacted.dropped_attributes_count = resource.dropped_attributes_count;
            redacted
        })
    }

    pub(crate) fn series(&self, series: &Series) -> Option<Series> {
        let mut scope = Scope::clone(&series.scope);
        let mut metric = ollystack_record::Metric::clone(&series.metric);
        let mut attributes = series.attributes().to_vec();
        let new_scope = self.scope(&mut scope.proto) | self.string(&mut scope.schema_url);
        let new_metric = self.string(&mut metric.name)
            | self.string(&mut metric.unit)
            | self.string(&mut metric.description)
            | self.attributes(&mut metric.metadata);
        let new_attributes = self.attributes(&mut attributes);
        (new_scope || new_metric || new_attributes).then(|| {
            let scope = if new_scope { Arc::new(scope) } else { Arc::clone(&series.scope) };
            let metric = if new_metric { Arc::new(metric) } else { Arc::clone(&series.metric) };
            Series::new(scope, metric, attributes)
        })
    }

    /// Exemplars; the rest of a sample is numbers and its series.
    pub(crate) fn sample(&self, sample: &mut Sample) {
        let exemplars = match &mut sample.value {
            Value::Histogram(point) => &mut point.exemplars,
            Value::ExponentialHistogram(point) => &mut point.exemplars,
            _ => &mut sample.exemplars,
        };
        exemplars.iter_mut().for_each(|exemplar| self.exemplar(exemplar));
    }

    fn exemplar(&self, exemplar: &mut Exemplar) {
        self.attributes(&mut exemplar.filtered_attributes);
    }

    pub(crate) fn scope_logs(&self, scope: &mut ScopeLogs) {
        scope.scope.as_mut().map(|scope| self.scope(scope));
        self.string(&mut scope.schema_url);
        let mut key_open = false;
        for record in &mut scope.log_records {
            key_open = self.log_record(record, key_open);
        }
    }

    /// Whether a private key began in this record and goes on in the next: files are read line by line.
    fn log_record(&self, record: &mut LogRecord, key_open: bool) -> bool {
        self.attributes(&mut record.attributes);
        self.string(&mut record.severity_text);
        self.string(&mut record.event_name);
        match record.body.as_mut().and_then(|body| body.value.as_mut()) {
            Some(Any::StringValue(line)) => {
                let key_goes_on = self.is_on(Kind::PrivateKey) && crate::private_key::goes_on(line, key_open);
                if key_open && crate::private_key::is_body(line) {
                    self.whole_string(line, Kind::PrivateKey);
                } else {
                    self.string(line);
                }
                key_goes_on
            }
            Some(body) => {
                self.any(body);
                false
            }
            None => false,
        }
    }

    pub(crate) fn scope_spans(&self, scope: &mut ScopeSpans) {
        scope.scope.as_mut().map(|scope| self.scope(scope));
        self.string(&mut scope.schema_url);
        scope.spans.iter_mut().for_each(|span| self.span(span));
    }

    pub(crate) fn template(&self, template: &Template) -> Option<Template> {
        let Scope { proto, schema_url } = &**template.scope();
        let (scope, spans) = (Some(proto.clone()), vec![template.span().clone()]);
        let mut whole = ScopeSpans { scope, spans, schema_url: schema_url.clone() };
        self.scope_spans(&mut whole);
        let ScopeSpans { scope, mut spans, schema_url } = whole;
        let (scope, span) = (Scope { proto: scope?, schema_url }, spans.pop()?);
        let is_same = scope == **template.scope() && span == *template.span();
        (!is_same).then(|| Template::new(Arc::new(scope), span))
    }

    pub(crate) fn own(&self, attribute: &mut Attribute) {
        let kind = self.kind_of_attribute(attribute.key);
        let redacted = match (&attribute.value, kind) {
            (Plain::Text(text), None) => match self.text(text) {
                Cow::Borrowed(_) => return,
                Cow::Owned(redacted) => redacted,
            },
            (Plain::Text(text), Some(_)) if name::says_nothing(text.as_bytes()) => return,
            (Plain::Text(text), Some(kind)) => self.replaced(text, kind),
            (Plain::Int(number), Some(kind)) => self.replaced(&number.to_string(), kind),
            (Plain::Int(_) | Plain::Bool(_), _) => return,
        };
        attribute.value = Plain::Text(Cow::Owned(redacted));
    }

    fn span(&self, span: &mut Span) {
        self.string(&mut span.name);
        self.string(&mut span.trace_state);
        self.attributes(&mut span.attributes);
        for event in &mut span.events {
            self.string(&mut event.name);
            self.attributes(&mut event.attributes);
        }
        for link in &mut span.links {
            self.string(&mut link.trace_state);
            self.attributes(&mut link.attributes);
        }
        if let Some(status) = &mut span.status {
            self.string(&mut status.message);
        }
    }

    fn scope(&self, scope: &mut InstrumentationScope) -> bool {
        self.string(&mut scope.name) | self.string(&mut scope.version) | self.attributes(&mut scope.attributes)
    }

    fn attributes(&self, attributes: &mut [KeyValue]) -> bool {
        attributes.iter_mut().fold(false, |changed, attribute| changed | self.attribute(attribute))
    }

    fn attribute(&self, attribute: &mut KeyValue) -> bool {
        let value = attribute.value.as_mut().and_then(|value| value.value.as_mut());
        let changed = match (value, self.kind_of_attribute(&attribute.key)) {
            (None, _) => false,
            (Some(value), None) => self.any(value),
            (Some(value), Some(kind)) => self.whole(value, kind),
        };
        changed | self.string(&mut attribute.key)
    }

    fn kind_of_attribute(&self, key: &str) -> Option<Kind> {
        if self.attributes.iter().any(|named| named == key) {
            return Some(Kind::Attribute);
        }
        name::of_secret(key.as_bytes()).filter(|kind| self.is_on(*kind))
    }

    /// A value of an attribute or a body, whatever its type.
    fn any(&self, value: &mut Any) -> bool {
        match value {
            Any::StringValue(text) => self.string(text),
            Any::BytesValue(bytes) => self.bytes(bytes),
            Any::KvlistValue(list) => self.attributes(&mut list.values),
            Any::ArrayValue(array) => {
                let mut changed = false;
                // Arguments of a command: a flag announces the secret that follows it.
                let mut announced = None;
                for value in array.values.iter_mut().filter_map(|value| value.value.as_mut()) {
                    let announces = match &value {
                        Any::StringValue(text) => name::of_flag(text).filter(|kind| self.is_on(*kind)),
                        _ => None,
                    };
                    changed |= match announced {
                        Some(kind) => self.whole(value, kind),
                        None => self.any(value),
                    };
                    announced = announces;
                }
                changed
            }
            _ => false,
        }
    }

    /// A value that must go as a whole. A number under a secret's name is a secret too; true and false are not.
    fn whole(&self, value: &mut Any, kind: Kind) -> bool {
        match value {
            Any::StringValue(text) => self.whole_string(text, kind),
            Any::IntValue(number) => {
                *value = Any::StringValue(self.replaced(&number.to_string(), kind));
                true
            }
            Any::DoubleValue(number) => {
                *value = Any::StringValue(self.replaced(&number.to_string(), kind));
                true
            }
            Any::BytesValue(bytes) => {
                let mut text = String::from_utf8_lossy(bytes).into_owned();
                let changed = self.whole_string(&mut text, kind);
                if changed {
                    *bytes = text.into_bytes();
                }
                changed
            }
            Any::ArrayValue(array) => {
                array.values.iter_mut().fold(false, |changed, value| changed | self.whole_any(value, kind))
            }
            Any::KvlistValue(list) => list.values.iter_mut().fold(false, |changed, attribute| {
                let new_value = attribute.value.as_mut().is_some_and(|value| self.whole_any(value, kind));
                changed | new_value | self.string(&mut attribute.key)
            }),
            _ => false,
        }
    }

    fn whole_any(&self, value: &mut AnyValue, kind: Kind) -> bool {
        value.value.as_mut().is_some_and(|value| self.whole(value, kind))
    }

    fn whole_string(&self, text: &mut String, kind: Kind) -> bool {
        if name::says_nothing(text.as_bytes()) {
            return false;
        }
        *text = self.replaced(text, kind);
        true
    }

    fn string(&self, text: &mut String) -> bool {
        match self.text(text) {
            Cow::Borrowed(_) => false,
            Cow::Owned(redacted) => {
                *text = redacted;
                true
            }
        }
    }

    /// What of it is text.
    fn bytes(&self, bytes: &mut Vec<u8>) -> bool {
        let mut redacted = Vec::new();
        let mut changed = false;
        for chunk in bytes.utf8_chunks() {
            let text = self.text(chunk.valid());
            changed |= matches!(text, Cow::Owned(_));
            redacted.extend_from_slice(text.as_bytes());
            redacted.extend_from_slice(chunk.invalid());
        }
        if changed {
            *bytes = redacted;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Config, Redactor};
    use ollystack_record::otlp::common::v1::{ArrayValue, KeyValueList};
    use ollystack_record::value::{bool, double, int, string};

    fn key_value(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn list(texts: &[&str]) -> Any {
        let value = |text: &&str| AnyValue { value: Some(Any::StringValue((*text).into())) };
        Any::ArrayValue(ArrayValue { values: texts.iter().map(value).collect() })
    }

    fn logs(records: Vec<LogRecord>) -> Vec<LogRecord> {
        logs_by(&Config { attributes: vec!["customer.number".into()], ..Config::default() }, records)
    }

    fn logs_by(config: &Config, records: Vec<LogRecord>) -> Vec<LogRecord> {
        let mut scopes = [ScopeLogs { log_records: records, ..ScopeLogs::default() }];
        Redactor::new(config).logs(&mut scopes);
        let [scope] = scopes;
        scope.log_records
    }

    #[test]
    fn the_value_of_an_attribute_with_a_secret_s_name_goes_whatever_it_holds() {
        let mask = "[redacted:password]";
        let nested = |value: Any| Any::KvlistValue(KeyValueList { values: vec![key_value("a joe:b@c.de", value)] });
        let table = [
            (string("db.password", "correct horse"), string("db.password", mask)),
            (int("passcode", 1234), string("passcode", mask)),
            (double("passcode", 1234.5), string("passcode", mask)),
            (bool("password", true), bool("password", true)),
            (string("password", ""), string("password", "")),
            (string("token_count", "12"), string("token_count", "12")),
            (string("customer.number", "17"), string("customer.number", "[redacted:attribute]")),
            (key_value("secret", Any::BytesValue(vec![255])), key_value("secret", Any::BytesValue(mask.into()))),
            (key_value("secret", list(&["a", "b"])), key_value("secret", list(&[mask, mask]))),
            (
                key_value("process.command_args", list(&["db", "--password", "x y", "z"])),
                key_value("process.command_args", list(&["db", "--password", mask, "z"])),
            ),
        ];
        for (attribute, expected) in table {
            let record = LogRecord { attributes: vec![attribute.clone()], ..LogRecord::default() };
            assert_eq!(logs(vec![record])[0].attributes, [expected], "{attribute:?}");
        }
        let attributes = vec![key_value("secret", nested(list(&["a"])))];
        let redacted = logs(vec![LogRecord { attributes, ..LogRecord::default() }]);
        let text = format!("{:?}", redacted[0].attributes);
        assert!(text.contains(mask) && text.contains("[email:") && !text.contains("b@c.de"), "{text}");
    }

    #[test]
    fn a_private_key_that_comes_line_by_line_goes_and_what_follows_it_stays() {
        let lines =
            ["-----BEGIN PRIVATE KEY-----", "MIIEpAIBAAKCAQEAu5mE2mCyP3w8", "-----END PRIVATE KEY-----", "aGVsbG8="];
        let record = |line: &str| LogRecord { body: string("", line).value, ..LogRecord::default() };
        let records = lines.map(record).to_vec();
        let off = Config { private_keys: Action::Off, ..Config::default() };
        assert_eq!(logs_by(&off, records.clone()), records, "off is off");
        let redacted = logs(records);
        let bodies = redacted.iter().map(|record| match &record.body.as_ref()?.value {
            Some(Any::StringValue(text)) => Some(text.as_str()),
            _ => None,
        });
        let mask = "[redacted:private_key]";
        assert_eq!(bodies.collect::<Option<Vec<_>>>().unwrap(), [mask, mask, "-----END PRIVATE KEY-----", "aGVsbG8="]);
    }
}
