//! What did not fit: counters that the kernel programs keep by reason and CPU.

use crate::refusal::Refusal;
use aya::maps::{Map, MapData, PerCpuArray};

/// Counters, and what of them was reported already.
pub(crate) struct Losses {
    counters: PerCpuArray<MapData, u64>,
    reported: Vec<u64>,
}

impl Losses {
    pub(crate) fn new(map: Map) -> Result<Losses, Refusal> {
        let counters = PerCpuArray::try_from(map)?;
        let reported = vec![0; counters.len() as usize];
        Ok(Losses { counters, reported })
    }

    /// What was lost since this was last asked, by reason.
    pub(crate) fn read(&mut self) -> Vec<u64> {
        let mut losses = Vec::with_capacity(self.reported.len());
        for (reason, reported) in (0..).zip(&mut self.reported) {
            let total = self.counters.get(&reason, 0).map_or(*reported, |cpus| cpus.iter().sum());
            losses.push(total.saturating_sub(*reported));
            *reported = total;
        }
        losses
    }
}
