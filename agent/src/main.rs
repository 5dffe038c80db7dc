//! The OllyStack host agent.
fn main() {}
