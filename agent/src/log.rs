//! The agent's own log: on stderr, for people or as JSON, at the configured level.
//!
//! Invariant: stdout belongs to commands; nothing is logged there.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Start logging; to be called once, by `run`.
pub(crate) fn start(config: &Log) {
    // The configuration was checked, so the filter parses; `info` is what an unreadable one would have meant.
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start is refused by the library and changes nothing.
    let _ = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
