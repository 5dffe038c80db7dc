//! OTLP from applications on this host: from 127.0.0.1:4317 and :4318 to the intake.
//!
//! A sender is answered after the verdict on its records: logs when they are on a synced disk, spans and metrics when they were
//! folded into state that a clean stop keeps. Invariant: every record of a request is either handed to the intake or counted as
//! rejected in the answer, and a sender that is told to come back may send the same again.

mod availability;
mod config;
mod convert;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod series;
mod service;
mod stats;

pub use availability::availability;
pub use config::Config;
pub use stats::{Stats, StatsReading};

use ollystack_receive::{Server, bind};
use ollystack_record::Intake;
use service::Service;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why the input cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Limits that contradict each other, or none of the addresses to listen on.
    #[error("otlp: {0}")]
    Receive(#[from] ollystack_receive::Error),
}

/// Receive until `stop`; then answer what is in progress and return. With one of the two addresses taken, the other one is served.
pub async fn run(config: Config, intake: Intake, stop: CancellationToken, stats: Arc<Stats>) -> Result<(), Error> {
    let service = Arc::new(Service::new(&config, intake, stats, stop.clone()));
    let server = Server::new(service, config.limits.clone(), None)?;
    let listeners = match (bind(config.grpc_address).await, bind(config.http_address).await) {
        (Err(error), Err(_)) => return Err(error.into()),
        (Ok(grpc), Ok(http)) => (Some(grpc), Some(http)),
        (Ok(grpc), Err(error)) => {
            tracing::warn!(%error, "otlp: one of two addresses is not served");
            (Some(grpc), None)
        }
        (Err(error), Ok(http)) => {
            tracing::warn!(%error, "otlp: one of two addresses is not served");
            (None, Some(http))
        }
    };
    let serve = |listener: Option<_>| async {
        if let Some(listener) = listener {
            server.serve(listener, stop.clone()).await;
        }
    };
    tokio::join!(serve(listeners.0), serve(listeners.1));
    Ok(())
}
