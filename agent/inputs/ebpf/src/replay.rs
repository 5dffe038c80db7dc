//! The way of requests without a kernel: records that somebody else wrote, to the intake. For benches, which run it under tools that count.

use crate::Stats;
use crate::flow::Flows;
use crate::processes::Processes;
use ollystack_record::{Intake, Resource};
use std::sync::Arc;

/// What takes the records of requests.
pub struct Replay {
    flows: Flows,
    processes: Processes,
    intake: Intake,
    stats: Stats,
}

impl Replay {
    /// As the input has it, with its default limits.
    pub fn new(resource: Arc<Resource>, intake: Intake) -> Replay {
        let config = crate::Config::default();
        let flows = Flows::new(config.connections_max);
        Replay { flows, processes: Processes::new(resource, config.processes_max), intake, stats: Stats::default() }
    }

    /// One record, as a kernel program writes it into its ring: `ollystack_ebpf::flow::Meta`, and the bytes that were copied.
    pub fn take(&mut self, record: &[u8]) {
        self.flows.take(record, true, 0, &mut self.processes);
        if self.flows.is_full() {
            self.hand_in();
        }
    }

    /// Hand in what has become of them.
    pub fn hand_in(&mut self) {
        self.flows.hand_in(&self.intake, &self.stats);
    }
}
