//! A request through all of processing, and a checkpoint that is not what was written.
//!
//! Invariants held here: every record is accounted for, whatever the request; a checkpoint is restored or refused.

use ollystack_process::{Config, Process};
use ollystack_receive::fuzz::{message, signal};
use ollystack_record::{Ledger, Place, Reduced, Resource, Signal};
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
/// In 2026.
const NOW: u64 = 1_795_165_927 * SECOND;

/// The first byte names the signal, the rest is protobuf.
pub(crate) fn request(data: &[u8]) {
    let Some((signal, bytes)) = signal(data) else { return };
    let Some(message) = message(signal, false, bytes) else { return };
    let ledger = Arc::new(Ledger::default());
    let mut process = Process::new(Config::default(), Arc::new(Resource::default()), Arc::clone(&ledger));
    let mut out = Vec::new();
    for batch in ollystack_input_otlp::fuzz::batches(message) {
        ledger.seen(batch.records.signal(), batch.records.count());
        process.take(batch, NOW, &mut out);
    }
    process.tick(NOW + 90 * SECOND, &mut out);
    process.drain(NOW + 91 * SECOND, &mut out);
    while process.hand_out(NOW + 91 * SECOND, &mut out) {}
    // What comes out waits for the disk. RED metrics come from spans, not from samples: they are on top.
    let count = |of: Signal| -> u64 {
        out.iter().filter(|reduced| is_input(reduced, of)).map(|reduced| reduced.records.count()).sum()
    };
    for signal in [Signal::Logs, Signal::Traces] {
        ledger.waiting_set(signal, Place::Freezer, count(signal));
        let reading = &ledger.read().signals[signal as usize];
        assert_eq!(reading.balance(), 0, "{reading:?}");
    }
}

fn is_input(reduced: &Reduced, signal: Signal) -> bool {
    reduced.records.signal() == signal
}

/// A checkpoint.
pub(crate) fn checkpoint(data: &[u8]) {
    let mut process = Process::new(Config::default(), Arc::new(Resource::default()), Arc::default());
    let _ = process.restore(data, NOW);
    let mut out = Vec::new();
    process.tick(NOW + 90 * SECOND, &mut out);
    process.drain(NOW + 91 * SECOND, &mut out);
    while process.hand_out(NOW + 91 * SECOND, &mut out) {}
}
