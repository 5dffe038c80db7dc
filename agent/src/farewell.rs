//! The last word: what was left where, and one line that says what became of everything.
//!
//! Invariant: records that neither left nor reached the disk are counted as dropped before the line is written.

use ollystack_export::StatusReading;
use ollystack_record::{DropReason, Ledger, Place, Signal};
use std::time::Duration;

/// Close the books and say so. `sending` is how it went in the end.
pub(crate) fn say(ledger: &Ledger, sending: &StatusReading, took: Duration) {
    let lost = write_off(ledger);
    if lost > 0 {
        tracing::error!(
            records = lost,
            "stopped before all records were on disk; they are counted as dropped, reason shutdown"
        );
    }
    let kept: i64 = Signal::ALL.map(|signal| ledger.waiting(signal, Place::Buffer)).iter().sum();
    if kept > 0 {
        let (endpoint, error) =
            (sending.state, sending.last_error.as_deref().filter(|_| sending.consecutive_failures > 0));
        tracing::warn!(
            records = kept,
            endpoint,
            error,
            "stopped before all records were delivered; these are on disk, and the next start sends them"
        );
    }
    let sums = ledger.read().signals.map(|account| {
        format!(
            "{}: seen {}, carried {}, sent {}, folded {}, sampled out {}, suppressed {}, dropped {}, kept on disk {}, unaccounted {}",
            account.signal.name(),
            account.seen,
            account.carried,
            account.sent,
            account.folded,
            account.sampled_out,
            account.suppressed,
            account.dropped_total(),
            account.waiting_total(),
            account.balance()
        )
    });
    tracing::info!(took_ms = took.as_millis() as u64, "stopped; {}; {}; {}", sums[0], sums[1], sums[2]);
}

/// Whatever still waits outside of the disk buffer dies with the process.
fn write_off(ledger: &Ledger) -> u64 {
    let mut lost = 0;
    for (signal, account) in Signal::ALL.into_iter().zip(ledger.read().signals) {
        for place in Place::ALL.into_iter().filter(|place| *place != Place::Buffer) {
            let waiting =
                account.waiting.iter().find(|(name, _)| *name == place.name()).map_or(0, |(_, records)| *records);
            if waiting > 0 {
                ledger.dropped(signal, DropReason::Shutdown, waiting as u64);
                ledger.waiting_add(signal, place, -waiting);
                lost += waiting as u64;
            }
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_disk_is_written_off_and_the_ledger_still_closes() {
        let ledger = Ledger::default();
        ledger.seen(Signal::Logs, 10);
        ledger.waiting_set(Signal::Logs, Place::Buffer, 7);
        ledger.waiting_set(Signal::Logs, Place::Freezer, 3);
        assert_eq!(write_off(&ledger), 3);
        let account = ledger.read().signals[Signal::Logs as usize].clone();
        assert_eq!((account.dropped_total(), account.waiting_total(), account.balance()), (3, 7, 0));
        assert_eq!(write_off(&ledger), 0);
    }
}
