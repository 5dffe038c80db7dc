//! What the gateway says about itself: log lines on standard error, and [`metrics`].

#[cfg(feature = "kafka")]
pub(crate) mod kafka;
pub(crate) mod ledger;
pub(crate) mod metrics;

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt};

/// A log level that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log.level is {found:?}: {source}; a level (error, warn, info, debug, trace) or a filter is allowed")]
pub(crate) struct LevelError {
    found: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Log to standard error from here on.
pub(crate) fn start_logging(log: &Log) -> Result<(), LevelError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|source| LevelError { found: log.level.clone(), source })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process happens in tests only: the first one stays.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
