//! What the OTLP messages of all signals have in common.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};

pub fn instrumentation_scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "metamcp".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// The resource attributes of this process. `instance` distinguishes the processes of one service.
pub fn service_attributes<'a>(service: &'a str, instance: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("service.name", service),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
    ]
}

/// An attribute whose value is a text.
pub fn attribute(key: &str, value: &str) -> KeyValue {
    attribute_of(key, Value::StringValue(value.to_owned()))
}

/// An attribute whose value is a number. Saturates.
pub fn number_attribute(key: &str, value: u64) -> KeyValue {
    attribute_of(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute_of(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
