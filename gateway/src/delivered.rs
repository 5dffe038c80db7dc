//! Whether a delivery has arrived before: an agent whose answer was lost sends the same batch again, under the same identity.
//!
//! Fresh deliveries are only remembered while they are under way here ([`Deliveries`]); one that says it may have been made before is looked
//! up in ClickHouse ([`Arrivals`]), which has recorded every batch from the very blocks that carry the rows. While ClickHouse cannot
//! be asked, or blocks of this gateway still wait in the spill, such a delivery is told to come back: the agent has it on disk. Not
//! covered: a first attempt that is still under way in another gateway. Invariant: a delivery is under way until all its blocks
//! are settled, also when its sender hung up.

use hashbrown::HashSet;
use ollystack_receive::Signal;
use std::sync::{Arc, Mutex, PoisonError};

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
    /// How many rows of a delivery are in ClickHouse; an error says why that cannot be known now.
    fn rows(&self, identity: &Identity) -> impl Future<Output = Result<u64, String>> + Send;
}

/// The deliveries that are under way in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deliveries(Arc<Mutex<HashSet<Identity>>>);

/// Ends with the last of the delivery's rows.
#[derive(Debug)]
pub(crate) struct UnderWay {
    deliveries: Deliveries,
    identity: Identity,
}

impl Deliveries {
    /// Take a delivery under way; `None` when it is already.
    pub(crate) fn begin(&self, identity: &Identity) -> Option<UnderWay> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone());
        fresh.then(|| UnderWay { deliveries: self.clone(), identity: identity.clone() })
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
        let under_way = deliveries.begin(&identity).unwrap();
        assert!(deliveries.begin(&identity).is_none());
        for other in [
            Identity { tenant: "u".into(), ..identity.clone() },
            Identity { sequence: 2, ..identity.clone() },
            Identity { signal: Signal::Traces, ..identity.clone() },
        ] {
            assert!(deliveries.begin(&other).is_some(), "{other:?}");
        }
        drop(under_way);
        assert!(deliveries.begin(&identity).is_some());
    }
}
