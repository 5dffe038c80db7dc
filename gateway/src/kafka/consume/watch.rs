//! Looks now and then how far the topics reach: the lag, also of partitions that are paused; whether they are shown to us, and whether the
//! cluster is there. Invariant: it changes nothing but what is shown, and a broker that is silent keeps nobody but it.

use super::{Client, Consumer};
use crate::kafka::{is_hidden, reason_of};
use crate::telemetry::metrics::SharedMetrics;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(2);

/// What it looks at, and where it tells.
pub(super) struct Watch {
    pub(super) client: Arc<Client>,
    pub(super) shown: Arc<Consumer>,
    pub(super) topics: [String; 3],
    pub(super) metrics: SharedMetrics,
    pub(super) stop: CancellationToken,
}

impl Watch {
    /// Whether the topics are shown to us.
    fn look(&self) -> Result<(), KafkaError> {
        for (number, topic) in self.topics.iter().enumerate() {
            let metadata = self.client.fetch_metadata(Some(topic), TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            self.shown.access.shown(number, !is_hidden(found));
        }
        Ok(())
    }

    pub(super) fn run(self) {
        while !self.stop.is_cancelled() {
            std::thread::sleep(INTERVAL);
            let looked = self.look();
            let confirmed = self.shown.confirmed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if confirmed.is_empty() {
                self.shown.health.set(looked.err().map(|error| error.to_string()));
            }
            for ((signal, partition), next) in confirmed {
                if self.shown.access.is_hidden(usize::from(signal)) {
                    continue;
                }
                let topic = &self.topics[usize::from(signal)];
                match self.client.fetch_watermarks(topic, partition, TIMEOUT) {
                    Ok((low, high)) => {
                        self.shown.health.set(None);
                        // Meanwhile it may have been taken from us.
                        let known = self.shown.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
                        if known.contains_key(&(signal, partition)) {
                            self.metrics.kafka.lag(topic, partition, high.saturating_sub(next.max(low)).max(0));
                        }
                    }
                    Err(error) => {
                        self.metrics.kafka.failure("watermarks", reason_of(&error));
                        self.shown.health.set(Some(error.to_string()));
                        break;
                    }
                }
            }
        }
    }
}
