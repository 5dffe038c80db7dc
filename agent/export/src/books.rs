//! The buffer in the ledger's books: what it carried over, what it holds, what it lost.
//!
//! Invariant: a record that the buffer threw away is in the ledger with its reason before anyone can read that it is gone.

use crate::Error;
use ollystack_buffer::{Buffer, Loss, Observer, Options};
use ollystack_record::{DropReason, Ledger, Place, Signal};
use std::sync::Arc;

/// Open the disk buffer with the ledger as its observer, and enter what it still holds as carried. Reads files. True if some of it was
/// damaged: what it held is then known only as far as it can be read.
pub fn open_buffer(options: Options, ledger: &Arc<Ledger>) -> Result<(Buffer, bool), Error> {
    let (buffer, recovery) = Buffer::open(options, Arc::new(Books(Arc::clone(ledger))))?;
    // The observer has heard of the records of damaged segments already: they were carried, too.
    let carried = recovery.quarantined.iter().map(|damaged| damaged.records_by_signal);
    for records_by_signal in carried.chain([recovery.records_by_signal]) {
        for signal in Signal::ALL {
            ledger.carried(signal, records_by_signal[signal as usize]);
        }
    }
    for damaged in &recovery.quarantined {
        let path = damaged.path.display();
        tracing::error!(%path, why = damaged.why, records = damaged.records_by_signal.iter().sum::<u64>(), "a damaged segment was set aside");
    }
    measure(&buffer, ledger);
    Ok((buffer, !recovery.quarantined.is_empty()))
}

/// Enter what the buffer holds now: call before the ledger is read.
pub fn measure(buffer: &Buffer, ledger: &Ledger) {
    let stats = buffer.stats();
    for signal in Signal::ALL {
        ledger.waiting_set(signal, Place::Buffer, stats.records[signal as usize]);
    }
}

struct Books(Arc<Ledger>);

impl Observer for Books {
    fn lost(&self, signal: u8, records: u64, _bytes: u64, reason: Loss) {
        let Some(signal) = Signal::from_u8(signal) else { return };
        let reason = match reason {
            Loss::Evicted => DropReason::BufferEvicted,
            Loss::Corrupt => DropReason::BufferCorrupt,
        };
        self.0.dropped(signal, reason, records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_buffer_loses_is_in_the_ledger_with_its_reason() {
        let ledger = Arc::new(Ledger::default());
        let books = Books(Arc::clone(&ledger));
        books.lost(Signal::Logs as u8, 7, 700, Loss::Evicted);
        books.lost(Signal::Logs as u8, 2, 200, Loss::Corrupt);
        let reading = ledger.read();
        let logs = &reading.signals[Signal::Logs as usize];
        for (reason, records) in [(DropReason::BufferEvicted, 7), (DropReason::BufferCorrupt, 2)] {
            assert!(logs.dropped.contains(&(reason.name(), records)), "{:?}", logs.dropped);
        }
        assert_eq!(logs.dropped_total(), 9);
    }
}
