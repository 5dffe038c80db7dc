//! Whether a delivery has arrived before: an agent whose answer was lost sends the same batch again, under the same identity, perhaps
//! through another gateway.
//!
//! Three things together keep it from counting twice. While it is under way here it is told to come back ([`Deliveries`]). An attempt
//! is written soon after it was sent or never ([`deadline`]), so once that time is over, whatever gateway had it, ClickHouse knows
//! ([`Arrivals`]): a repetition is looked up there and, if it is not there, written under a token made from its identity, so that
//! of several repetitions one counts. Fresh deliveries pay for none of it but a date. Invariant: a delivery is under way until all
//! its blocks are settled, also when its sender hung up.

pub(crate) mod deadline;

use hashbrown::HashSet;
use ollystack_receive::Signal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One batch of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) tenant: Arc<str>,
    pub(crate) agent: Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) signal: Signal,
}

impl Identity {
    /// The deduplication token of a repeated delivery: the same whenever, and through whichever gateway, it is repeated.
    pub(crate) fn token(&self) -> String {
        format!("{}/{}/{}/{}", self.tenant, self.agent, self.sequence, self.signal.name())
    }
}

/// Knows what has arrived.
pub(crate) trait Arrivals: Send + Sync + 'static {
    /// Whether rows of a delivery whose last attempt was sent `age` ago are in ClickHouse: all of them then, as they are in one block. An
    /// error says why that cannot be known now.
    fn arrived(&self, identity: &Identity, age: Duration) -> impl Future<Output = Result<bool, String>> + Send;
}

/// The deliveries that are under way in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deliveries(Arc<Mutex<HashSet<Identity>>>);

/// Ends with the last of the delivery's rows.
#[derive(Debug)]
pub(crate) struct UnderWay {
    deliveries: Deliveries,
    identity: Identity,
    since: u32,
}

impl Deliveries {
    /// Take a delivery under way at `now`; `None` when it is already.
    pub(crate) fn begin(&self, identity: &Identity, now: u32) -> Option<UnderWay> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone());
        fresh.then(|| UnderWay { deliveries: self.clone(), identity: identity.clone(), since: now })
    }
}

impl UnderWay {
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When it began, in seconds since the epoch: `IngestedAt` of its rows, by which they differ from those of another attempt.
    pub(crate) fn since(&self) -> u32 {
        self.since
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.deliveries.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_under_way_once_and_until_it_ends() {
        let deliveries = Deliveries::default();
        let identity = Identity { tenant: "t".into(), agent: "a".into(), sequence: 1, signal: Signal::Logs };
        let under_way = deliveries.begin(&identity, 7).unwrap();
        assert!(deliveries.begin(&identity, 7).is_none());
        for other in [
            Identity { tenant: "u".into(), ..identity.clone() },
            Identity { sequence: 2, ..identity.clone() },
            Identity { signal: Signal::Traces, ..identity.clone() },
        ] {
            assert!(deliveries.begin(&other, 7).is_some(), "{other:?}");
        }
        drop(under_way);
        assert!(deliveries.begin(&identity, 7).is_some());
    }
}
