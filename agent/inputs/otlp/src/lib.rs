//! OTLP from applications on this host: from 127.0.0.1:4317 and :4318 to the intake.
//!
//! A sender is answered after the verdict on its records: logs when they are on a synced disk, spans and metrics when they were
//! folded into state that a clean stop keeps. Invariant: every record of a request is either handed to the intake or counted as
//! rejected in the answer, and a sender that is told to come back may send the same again.

mod config;

pub use config::Config;

use ollystack_record::{Availability, Intake};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the input cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Limits that contradict each other, or no address to listen on.
    #[error("otlp: {0}")]
    Receive(#[from] ollystack_receive::Error),
}

/// What would be received on this host.
pub fn availability(_config: &Config) -> Vec<Availability> {
    Vec::new()
}

/// Receive until `stop`; then answer what is in progress and return.
pub async fn run(_config: Config, _intake: Intake, stop: CancellationToken, _stats: Arc<Stats>) -> Result<(), Error> {
    stop.cancelled().await;
    Ok(())
}

/// Counters of the input.
#[derive(Debug, Default)]
pub struct Stats {}
