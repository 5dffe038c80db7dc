//! The OllyStack gateway: OTLP in, ClickHouse out.
fn main() {}
