//! Fuzz targets of what the kernel programs write and of what applications send: records, HTTP heads, type information.
//!
//! Invariants held here: nothing panics, whatever bytes a ring or a socket gives; no table grows past its limit.

use crate::btf::Btf;
use crate::flow::Flows;
use crate::process::ProcessEvents;
use crate::processes::Processes;
use crate::tcp::Tcp;
use ollystack_record::{Intake, Ledger, Resource};
use std::sync::Arc;

/// Records of two rings, each with a length before it: two bytes, the first bit says which.
pub fn records(data: &[u8]) {
    let host = Arc::new(Resource::default());
    let mut processes = Processes::new(Arc::clone(&host), 16);
    let (mut flows, mut tcp) = (Flows::new(8), Tcp::new(8, 0));
    let mut events = ProcessEvents::new(host, 4, 0);
    let (intake, mut received) = Intake::new(64, 4_096, Arc::new(Ledger::default()));
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let (record, tail) = tail.split_at(tail.len().min(usize::from(head >> 2)));
        match head & 3 {
            0 => drop(events.take(record, 0)),
            1 => tcp.take(record, &mut processes),
            kind => flows.take(record, kind == 2, 0, &mut processes),
        }
        rest = tail;
    }
    let stats = crate::Stats::default();
    flows.hand_in(&intake, &stats);
    flows.settle(u64::MAX, 0, &mut processes, &intake, &stats);
    events.hand_in(&intake);
    drop((events.read(1), tcp.read(1)));
    while received.try_recv().is_ok() {}
}

/// A kernel's type information.
pub fn btf(data: &[u8]) {
    if let Some(btf) = Btf::parse(data) {
        let _ = (btf.offset("sock", "sk_state"), btf.offset("task_struct", "tgid"));
    }
}
