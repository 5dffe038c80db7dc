//! The parts that all requests have: attributes, resource, scope.

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;

pub(crate) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

pub(crate) fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// What an SDK says of a service on a host.
pub(crate) fn resource(service: &str, host: usize) -> Option<Resource> {
    let attributes = vec![
        text("service.name", service),
        text("service.namespace", "shop"),
        text("service.version", "1.4.2"),
        text("service.instance.id", format!("{service}-{host}-5f7c9d8b64-x2x7k")),
        text("deployment.environment.name", "production"),
        text("telemetry.sdk.language", "java"),
        text("telemetry.sdk.name", "opentelemetry"),
        text("telemetry.sdk.version", "1.49.0"),
    ];
    Some(Resource { attributes, ..Resource::default() })
}

pub(crate) fn scope(name: &str) -> Option<InstrumentationScope> {
    let (name, version) = (name.to_owned(), "2.11.0".to_owned());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}
