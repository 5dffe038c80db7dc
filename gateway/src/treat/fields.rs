//! Attributes that a tenant wants taken out, hashed or masked, by their keys.
//!
//! Attributes of resources, scopes, records, points, exemplars, events and links alike; keys inside of values that are maps, and the bodies
//! of log records, are not looked at. Invariant: what is listed nowhere is not touched; of two lists, the stricter one holds.

use hmac::{Hmac, Mac};
use ollystack_receive::Message;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Metric};
use prost::Message as _;
use sha2::Sha256;
use std::fmt;

/// What stands in the place of a masked value.
const MASK: &str = "***";

/// Bytes of a hash: enough that no two of a tenant's values ever share one.
const HASH_BYTES: usize = 16;

/// Bytes of the key that hashes are made under.
pub(crate) const KEY_BYTES: usize = 32;

/// What becomes of which attributes.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) drop: Keys,
    pub(crate) mask: Keys,
    pub(crate) hash: Keys,
    /// What hashes are made under; whoever does not hold it cannot try values out.
    pub(crate) hash_key: [u8; KEY_BYTES],
}

/// Keys of attributes; a `*` at the end stands for any rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys(Vec<String>);

/// What becomes of one attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Dropped,
    Masked,
    Hashed,
}

impl fmt::Debug for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields { drop, mask, hash, hash_key: _ } = self;
        write!(formatter, "Fields {{ drop: {drop:?}, mask: {mask:?}, hash: {hash:?}, hash_key: *** }}")
    }
}

/// As lists of tenants show them.
impl fmt::Display for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("drop", &self.drop), ("mask", &self.mask), ("hash", &self.hash)];
        let shown = lists.into_iter().filter(|(_, keys)| !keys.is_empty());
        let shown = shown.map(|(what, keys)| format!("{what} {}", keys.0.join(",")));
        formatter.write_str(&shown.collect::<Vec<_>>().join("; "))
    }
}

impl Keys {
    /// Keys at most, of bytes at most: each is compared with every attribute.
    pub(crate) const COUNT_MAX: usize = 64;
    const BYTES_MAX: usize = 256;

    /// None when there are too many, or one is empty, too long, or has its `*` elsewhere.
    pub(crate) fn new(keys: Vec<String>) -> Option<Keys> {
        let fits = |key: &String| {
            let name = key.strip_suffix('*').unwrap_or(key);
            !key.is_empty() && key.len() <= Keys::BYTES_MAX && !name.contains('*')
        };
        (keys.len() <= Keys::COUNT_MAX && keys.iter().all(fits)).then_some(Keys(keys))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => key == known,
        })
    }
}

impl Fields {
    /// Whether nothing is touched.
    pub(crate) fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.mask.is_empty() && self.hash.is_empty()
    }

    fn fate(&self, key: &str) -> Fate {
        if self.drop.has(key) {
            Fate::Dropped
        } else if self.mask.has(key) {
            Fate::Masked
        } else if self.hash.has(key) {
            Fate::Hashed
        } else {
            Fate::Kept
        }
    }

    /// Change the attributes of a message.
    pub(crate) fn apply(&self, message: &mut Message) {
        if self.is_empty() {
            return;
        }
        match message {
            Message::Logs(request) => {
                for resource in &mut request.resource_logs {
                    self.owned(resource.resource.as_mut().map(|resource| &mut resource.attributes));
                    for scope in &mut resource.scope_logs {
                        self.owned(scope.scope.as_mut().map(|scope| &mut scope.attributes));
                        scope.log_records.iter_mut().for_each(|record| self.list(&mut record.attributes));
                    }
                }
            }
            Message::Traces(request) => {
                for resource in &mut request.resource_spans {
                    self.owned(resource.resource.as_mut().map(|resource| &mut resource.attributes));
                    for scope in &mut resource.scope_spans {
                        self.owned(scope.scope.as_mut().map(|scope| &mut scope.attributes));
                        for span in &mut scope.spans {
                            self.list(&mut span.attributes);
                            span.events.iter_mut().for_each(|event| self.list(&mut event.attributes));
                            span.links.iter_mut().for_each(|link| self.list(&mut link.attributes));
                        }
                    }
                }
            }
            Message::Metrics(request) => {
                for resource in &mut request.resource_metrics {
                    self.owned(resource.resource.as_mut().map(|resource| &mut resource.attributes));
                    for scope in &mut resource.scope_metrics {
                        self.owned(scope.scope.as_mut().map(|scope| &mut scope.attributes));
                        scope.metrics.iter_mut().for_each(|metric| self.metric(metric));
                    }
                }
            }
        }
    }

    fn metric(&self, metric: &mut Metric) {
        let point = |attributes: &mut Vec<KeyValue>, exemplars: &mut [Exemplar]| {
            self.list(attributes);
            exemplars.iter_mut().for_each(|exemplar| self.list(&mut exemplar.filtered_attributes));
        };
        match &mut metric.data {
            Some(Data::Gauge(data)) => {
                data.data_points.iter_mut().for_each(|p| point(&mut p.attributes, &mut p.exemplars))
            }
            Some(Data::Sum(data)) => {
                data.data_points.iter_mut().for_each(|p| point(&mut p.attributes, &mut p.exemplars))
            }
            Some(Data::Histogram(data)) => {
                data.data_points.iter_mut().for_each(|p| point(&mut p.attributes, &mut p.exemplars));
            }
            Some(Data::ExponentialHistogram(data)) => {
                data.data_points.iter_mut().for_each(|p| point(&mut p.attributes, &mut p.exemplars));
            }
            Some(Data::Summary(data)) => data.data_points.iter_mut().for_each(|p| point(&mut p.attributes, &mut [])),
            None => {}
        }
    }

    fn owned(&self, attributes: Option<&mut Vec<KeyValue>>) {
        attributes.into_iter().for_each(|attributes| self.list(attributes));
    }

    fn list(&self, attributes: &mut Vec<KeyValue>) {
        attributes.retain_mut(|KeyValue { key, value, .. }| match self.fate(key) {
            Fate::Kept => true,
            Fate::Dropped => false,
            Fate::Masked => {
                *value = Some(text(MASK.to_owned()));
                true
            }
            Fate::Hashed => {
                *value = value.take().map(|value| text(self.hashed(key, &value)));
                true
            }
        });
    }

    /// HMAC-SHA256 of key and value, so that equal values of one key, in whatever signal, stay equal.
    fn hashed(&self, key: &str, value: &AnyValue) -> String {
        // Fails for no length of key.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.hash_key) else { return MASK.to_owned() };
        mac.update(key.as_bytes());
        mac.update(&[0]);
        match &value.value {
            Some(Value::StringValue(text)) => mac.update(text.as_bytes()),
            // Whether a number comes as such or as text is its library's whim.
            Some(Value::IntValue(number)) => mac.update(number.to_string().as_bytes()),
            Some(Value::BoolValue(truth)) => mac.update(truth.to_string().as_bytes()),
            Some(Value::DoubleValue(number)) => mac.update(number.to_string().as_bytes()),
            _ => mac.update(&value.encode_to_vec()),
        }
        let hash = mac.finalize().into_bytes();
        format!("hmac:{}", crate::keys::hex(hash.get(..HASH_BYTES).unwrap_or_default()))
    }
}

fn text(text: String) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

    fn keys(keys: &[&str]) -> Keys {
        Keys::new(keys.iter().map(|key| (*key).to_owned()).collect()).unwrap()
    }

    fn fields() -> Fields {
        let (drop, mask, hash) =
            (keys(&["secret", "http.request.header.*"]), keys(&["card"]), keys(&["user.*", "card"]));
        Fields { drop, mask, hash, hash_key: [7; KEY_BYTES] }
    }

    fn pair(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn string(key: &str) -> KeyValue {
        pair(key, Value::StringValue("canary".to_owned()))
    }

    fn applied(fields: &Fields, mut attributes: Vec<KeyValue>) -> Vec<(String, String)> {
        fields.list(&mut attributes);
        let shown = |pair: KeyValue| match pair.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => (pair.key, text),
            other => (pair.key, format!("{other:?}")),
        };
        attributes.into_iter().map(shown).collect()
    }

    #[test]
    fn an_attribute_is_taken_out_masked_hashed_or_left_as_it_is() {
        let all = ["secret", "http.request.header.cookie", "card", "user.id", "user", "path"].map(string).to_vec();
        let left = applied(&fields(), all);
        let names: Vec<_> = left.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(names, ["card", "user.id", "user", "path"]);
        assert_eq!((left[0].1.as_str(), left[2].1.as_str(), left[3].1.as_str()), ("***", "canary", "canary"));
        // As `printf 'user.id\0canary' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707...` has it.
        assert_eq!(left[1].1, HASHED);
    }

    const HASHED: &str = "hmac:dd1f400d9799070fc9b7e6b21c8c39c9";

    #[test]
    fn equal_values_stay_equal_under_one_key_and_say_nothing_under_another() {
        let of = |fields: &Fields, value: Value| applied(fields, vec![pair("user.id", value)]).remove(0).1;
        let (ours, theirs) = (fields(), Fields { hash_key: [8; KEY_BYTES], ..fields() });
        let text = of(&ours, Value::StringValue("42".to_owned()));
        assert_eq!(text, of(&ours, Value::IntValue(42)));
        assert_ne!(text, of(&ours, Value::IntValue(43)));
        assert_ne!(text, of(&theirs, Value::IntValue(42)));
        assert_ne!(of(&ours, Value::BytesValue(vec![1])), of(&ours, Value::BytesValue(vec![2])));
        assert!(!format!("{ours:?}").contains('7'), "{ours:?}");
    }

    #[test]
    fn attributes_are_found_wherever_a_message_has_them() {
        let secret = || vec![string("secret")];
        let resource = || Some(Resource { attributes: secret(), ..Resource::default() });
        let scope = || Some(InstrumentationScope { attributes: secret(), ..InstrumentationScope::default() });
        let exemplars = || vec![Exemplar { filtered_attributes: secret(), ..Exemplar::default() }];
        let record = LogRecord { attributes: secret(), ..LogRecord::default() };
        let scope_logs = vec![ScopeLogs { scope: scope(), log_records: vec![record], ..ScopeLogs::default() }];
        let resource_logs = vec![ResourceLogs { resource: resource(), scope_logs, ..ResourceLogs::default() }];
        let span = Span {
            attributes: secret(),
            events: vec![Event { attributes: secret(), ..Event::default() }],
            links: vec![Link { attributes: secret(), ..Link::default() }],
            ..Span::default()
        };
        let scope_spans = vec![ScopeSpans { scope: scope(), spans: vec![span], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { resource: resource(), scope_spans, ..ResourceSpans::default() }];
        macro_rules! points {
            ($($data:ident of $point:ident { $($exemplars:ident)? }),*) => {
                vec![$(Metric {
                    data: Some(Data::$data($data {
                        data_points: vec![$point { attributes: secret(), $($exemplars: exemplars(),)? ..$point::default() }],
                        ..$data::default()
                    })),
                    ..Metric::default()
                }),*]
            };
        }
        let metrics = points![
            Sum of NumberDataPoint { exemplars },
            Histogram of HistogramDataPoint { exemplars },
            ExponentialHistogram of ExponentialHistogramDataPoint { exemplars }
        ];
        let gauge = NumberDataPoint { attributes: secret(), exemplars: exemplars(), ..NumberDataPoint::default() };
        let summary = SummaryDataPoint { attributes: secret(), ..SummaryDataPoint::default() };
        let others =
            [Data::Gauge(Gauge { data_points: vec![gauge] }), Data::Summary(Summary { data_points: vec![summary] })];
        let others = others.map(|data| Metric { data: Some(data), ..Metric::default() });
        let metrics = metrics.into_iter().chain(others).collect();
        let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
        let resource_metrics =
            vec![ResourceMetrics { resource: resource(), scope_metrics, ..ResourceMetrics::default() }];
        let messages = [
            (Message::Logs(ExportLogsServiceRequest { resource_logs }), 3),
            (Message::Traces(ExportTraceServiceRequest { resource_spans }), 5),
            (Message::Metrics(ExportMetricsServiceRequest { resource_metrics }), 11),
        ];
        for (mut message, places) in messages {
            let canaries = |message: &Message| format!("{message:?}").matches("canary").count();
            assert_eq!(canaries(&message), places);
            Fields::default().apply(&mut message);
            assert_eq!(canaries(&message), places, "nothing is listed");
            fields().apply(&mut message);
            assert_eq!(canaries(&message), 0, "{message:?}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_meant_is_refused() {
        for list in [vec![""], vec!["a*b"], vec!["**"], vec!["a"; Keys::COUNT_MAX + 1]] {
            assert_eq!(Keys::new(list.into_iter().map(str::to_owned).collect()), None);
        }
        assert!(keys(&["*"]).has("anything"));
    }
}
