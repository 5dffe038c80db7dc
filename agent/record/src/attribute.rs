//! Attributes of what the agent itself observes: their keys are known when it is built, and so are most of their values.
//!
//! OTLP's own `KeyValue` holds its key as a text of its own; these become ones only when they go out.

use crate::otlp::common::v1::KeyValue;
use crate::value;
use std::borrow::Cow;

/// A key and what is said under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// By OpenTelemetry's semantic conventions.
    pub key: &'static str,
    /// The value.
    pub value: Value,
    /// Hardly another request has the same, and next to nothing is decided by it: see [`own`] and `request`.
    pub is_own: bool,
}

/// What an attribute may be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A text.
    Text(Cow<'static, str>),
    /// A whole number.
    Int(i64),
    /// True or false.
    Bool(bool),
}

/// A text.
pub fn string(key: &'static str, text: impl Into<Cow<'static, str>>) -> Attribute {
    Attribute { key, value: Value::Text(text.into()), is_own: false }
}

/// A whole number.
pub fn int(key: &'static str, number: i64) -> Attribute {
    Attribute { key, value: Value::Int(number), is_own: false }
}

/// True or false.
pub fn bool(key: &'static str, is: bool) -> Attribute {
    Attribute { key, value: Value::Bool(is), is_own: false }
}

/// The same, as what hardly another request has: it stays out of [`crate::Template`]s.
pub fn own(attribute: Attribute) -> Attribute {
    Attribute { is_own: true, ..attribute }
}

/// The text under `key`, if there is one.
pub fn string_attribute<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    match &attributes.iter().find(|attribute| attribute.key == key)?.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// The number under `key`, if there is one.
pub fn int_attribute(attributes: &[Attribute], key: &str) -> Option<i64> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value {
        Value::Int(number) => Some(number),
        _ => None,
    }
}

impl From<&Attribute> for KeyValue {
    fn from(Attribute { key, value, .. }: &Attribute) -> KeyValue {
        match value {
            Value::Text(text) => value::string(*key, &**text),
            Value::Int(number) => value::int(*key, *number),
            Value::Bool(is) => value::bool(*key, *is),
        }
    }
}
