//! OTLP attributes to sorted maps of text, as the OpenTelemetry ClickHouse exporter writes them.
//!
//! Text stays as it is, numbers and booleans are written plainly, bytes as base64, arrays and maps as JSON. Invariant: keys are
//! sorted and unique; of equal keys the last one given stands.

use super::Reason;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ollystack_schema::rows::Attributes;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use serde_json::Value as Json;

/// Attributes of one thing. The SDKs' own limit is 128.
pub(super) const COUNT_MAX: usize = 1024;

/// Sorted by key, values as text.
pub(super) fn sorted(attributes: Vec<KeyValue>) -> Result<Attributes, Reason> {
    if attributes.len() > COUNT_MAX {
        return Err(Reason::Attributes);
    }
    let mut sorted: Attributes = attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect();
    if !sorted.is_sorted_by(|a, b| a.0 < b.0) {
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        // Later ones of equal keys come later: `dedup` keeps the first of a run, so each run is turned around.
        sorted.reverse();
        sorted.dedup_by(|a, b| a.0 == b.0);
        sorted.reverse();
    }
    Ok(sorted)
}

/// The value of a key in sorted attributes.
pub(super) fn get<'a>(attributes: &'a Attributes, key: &str) -> Option<&'a str> {
    let index = attributes.binary_search_by(|(name, _)| name.as_str().cmp(key)).ok()?;
    attributes.get(index).map(|(_, value)| value.as_str())
}

/// A value as text.
pub(super) fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        None | Some(Value::StringValueStrindex(_)) => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(flag)) => flag.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => double(number),
        Some(Value::BytesValue(bytes)) => BASE64.encode(bytes),
        Some(value @ (Value::ArrayValue(_) | Value::KvlistValue(_))) => json(value).to_string(),
    }
}

/// Plain while it is readable, else with an exponent, as JSON encoders of other languages have it.
pub(super) fn double(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) { format!("{number:e}") } else { format!("{number}") }
}

/// Nesting is bounded by the decoders: 100 levels of protobuf, 128 of JSON.
fn json(value: Value) -> Json {
    let inner = |value: Option<AnyValue>| value.and_then(|value| value.value).map_or(Json::Null, json);
    match value {
        Value::StringValue(text) => Json::String(text),
        Value::BoolValue(flag) => Json::Bool(flag),
        Value::IntValue(number) => Json::from(number),
        Value::DoubleValue(number) => {
            serde_json::Number::from_f64(number).map_or_else(|| Json::String(double(number)), Json::Number)
        }
        Value::BytesValue(bytes) => Json::String(BASE64.encode(bytes)),
        Value::ArrayValue(array) => Json::Array(array.values.into_iter().map(|value| inner(Some(value))).collect()),
        Value::KvlistValue(list) => {
            Json::Object(list.values.into_iter().map(|pair| (pair.key, inner(pair.value))).collect())
        }
        Value::StringValueStrindex(_) => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    fn any(value: Value) -> Option<AnyValue> {
        Some(AnyValue { value: Some(value) })
    }

    fn pair(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.to_owned(), value: any(value), ..KeyValue::default() }
    }

    #[test]
    fn every_kind_of_value_has_its_text() {
        let list = KeyValueList {
            values: vec![
                pair("b", Value::IntValue(1)),
                pair("a", Value::DoubleValue(f64::NAN)),
                pair("c", Value::BytesValue(vec![0, 255])),
                KeyValue { key: "d".to_owned(), ..KeyValue::default() },
            ],
        };
        let array = ArrayValue {
            values: vec![
                AnyValue { value: Some(Value::StringValue("x\"<".to_owned())) },
                AnyValue { value: None },
                AnyValue { value: Some(Value::BoolValue(false)) },
            ],
        };
        for (value, expected) in [
            (Value::StringValue(" as is ".to_owned()), " as is "),
            (Value::BoolValue(true), "true"),
            (Value::IntValue(i64::MIN), "-9223372036854775808"),
            (Value::DoubleValue(1.0), "1"),
            (Value::DoubleValue(0.1), "0.1"),
            (Value::DoubleValue(1e21), "1e21"),
            (Value::DoubleValue(-1e-7), "-1e-7"),
            (Value::DoubleValue(0.0), "0"),
            (Value::DoubleValue(f64::NAN), "NaN"),
            (Value::DoubleValue(f64::NEG_INFINITY), "-Infinity"),
            (Value::BytesValue(vec![1, 2, 3]), "AQID"),
            (Value::ArrayValue(array), r#"["x\"<",null,false]"#),
            (Value::KvlistValue(list), r#"{"a":"NaN","b":1,"c":"AP8=","d":null}"#),
            (Value::StringValueStrindex(3), ""),
        ] {
            assert_eq!(text(any(value)), expected);
        }
        assert_eq!(text(None), "");
    }

    #[test]
    fn keys_are_sorted_and_the_last_of_equal_ones_stands() {
        let given = ["b", "a", "b", "c", "a"].iter().zip(0..).map(|(key, n)| pair(key, Value::IntValue(n))).collect();
        let expected = [("a", "4"), ("b", "2"), ("c", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(sorted(given).unwrap(), expected);
        assert_eq!(get(&expected.to_vec(), "b"), Some("2"));
        assert_eq!(get(&expected.to_vec(), "d"), None);
    }

    #[test]
    fn an_absurd_number_of_attributes_is_refused() {
        let many = |n: i64| (0..n).map(|n| pair(&n.to_string(), Value::IntValue(n))).collect::<Vec<_>>();
        assert_eq!(sorted(many(1024)).unwrap().len(), 1024);
        assert_eq!(sorted(many(1025)), Err(Reason::Attributes));
    }
}
