//! Attribute values: building, sorting and hashing OTLP's `KeyValue`s.

use crate::otlp::common::v1::{AnyValue, KeyValue, any_value::Value};
use xxhash_rust::xxh3::Xxh3;

/// A string attribute.
pub fn string(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    key_value(key, Value::StringValue(value.into()))
}

/// An integer attribute.
pub fn int(key: impl Into<String>, value: i64) -> KeyValue {
    key_value(key, Value::IntValue(value))
}

/// A boolean attribute.
pub fn bool(key: impl Into<String>, value: bool) -> KeyValue {
    key_value(key, Value::BoolValue(value))
}

/// A floating-point attribute.
pub fn double(key: impl Into<String>, value: f64) -> KeyValue {
    key_value(key, Value::DoubleValue(value))
}

fn key_value(key: impl Into<String>, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The string value of `key`, if it is there and is a string.
pub fn string_attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The integer value of `key`; a string of digits counts, as several SDKs send status codes so.
pub fn int_attribute(attributes: &[KeyValue], key: &str) -> Option<i64> {
    match attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::IntValue(number) => Some(*number),
        Value::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}

/// Sort by key; of duplicate keys the last one given stands.
pub fn sort_attributes(attributes: &mut Vec<KeyValue>) {
    if attributes.windows(2).all(|pair| pair[0].key < pair[1].key) {
        return;
    }
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    let mut kept: Vec<KeyValue> = Vec::with_capacity(attributes.len());
    for attribute in attributes.drain(..) {
        match kept.last_mut() {
            Some(last) if last.key == attribute.key => *last = attribute,
            _ => kept.push(attribute),
        }
    }
    *attributes = kept;
}

/// Bytes that attributes take on the heap, their list included, without room it may have for more.
pub fn attributes_heap_bytes(attributes: &[KeyValue]) -> usize {
    let value = |attribute: &KeyValue| attribute.value.as_ref().map_or(0, value_heap_bytes);
    attributes.iter().map(|attribute| size_of::<KeyValue>() + attribute.key.capacity() + value(attribute)).sum()
}

fn value_heap_bytes(value: &AnyValue) -> usize {
    match &value.value {
        Some(Value::StringValue(text)) => text.capacity(),
        Some(Value::BytesValue(bytes)) => bytes.capacity(),
        Some(Value::ArrayValue(array)) => {
            let values = array.values.iter().map(value_heap_bytes);
            array.values.capacity() * size_of::<AnyValue>() + values.sum::<usize>()
        }
        Some(Value::KvlistValue(list)) => {
            let spare = list.values.capacity() - list.values.len();
            attributes_heap_bytes(&list.values) + spare * size_of::<KeyValue>()
        }
        _ => 0,
    }
}

/// XXH3 over keys and typed values in the order given: sort first.
pub fn attributes_hash(attributes: &[KeyValue]) -> u64 {
    let mut hasher = Xxh3::new();
    for attribute in attributes {
        feed_text(&mut hasher, &attribute.key);
        feed(&mut hasher, attribute.value.as_ref());
    }
    hasher.digest()
}

/// Feed one value, type first, so that "1" and 1 differ.
pub(crate) fn feed(hasher: &mut Xxh3, value: Option<&AnyValue>) {
    match value.and_then(|v| v.value.as_ref()) {
        None => hasher.update(&[0]),
        Some(Value::StringValue(text)) => {
            hasher.update(&[1]);
            feed_text(hasher, text);
        }
        Some(Value::BoolValue(flag)) => hasher.update(&[2, u8::from(*flag)]),
        Some(Value::IntValue(number)) => {
            hasher.update(&[3]);
            hasher.update(&number.to_le_bytes());
        }
        Some(Value::DoubleValue(number)) => {
            hasher.update(&[4]);
            hasher.update(&number.to_bits().to_le_bytes());
        }
        Some(Value::BytesValue(bytes)) => {
            hasher.update(&[5]);
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        Some(Value::ArrayValue(array)) => {
            hasher.update(&[6]);
            hasher.update(&(array.values.len() as u64).to_le_bytes());
            for value in &array.values {
                feed(hasher, Some(value));
            }
        }
        Some(Value::KvlistValue(list)) => {
            hasher.update(&[7]);
            hasher.update(&(list.values.len() as u64).to_le_bytes());
            for pair in &list.values {
                feed_text(hasher, &pair.key);
                feed(hasher, pair.value.as_ref());
            }
        }
        Some(_) => hasher.update(&[8]),
    }
}

pub(crate) fn feed_text(hasher: &mut Xxh3, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_stands() {
        let mut attributes = vec![string("b", "1"), string("a", "2"), string("b", "3")];
        sort_attributes(&mut attributes);
        assert_eq!(attributes, vec![string("a", "2"), string("b", "3")]);
    }

    #[test]
    fn a_number_and_its_text_hash_apart() {
        assert_ne!(attributes_hash(&[string("a", "1")]), attributes_hash(&[int("a", 1)]));
    }

    #[test]
    fn key_and_value_boundaries_count() {
        assert_ne!(attributes_hash(&[string("ab", "c")]), attributes_hash(&[string("a", "bc")]));
    }
}
