//! One request on its tenant's account, entered when it is known what became of it.
//!
//! Invariant: a request is entered once; its bytes when it was taken, and at most once, however often an agent repeats it.

use super::{Account, Counts};
use crate::tenants::Plan;
use ollystack_receive::Signal;
use std::sync::Arc;

/// A request that came.
#[derive(Debug)]
pub(crate) struct Charge {
    pub(crate) account: Arc<Account>,
    /// Seconds since the epoch.
    pub(crate) now: u64,
    pub(crate) signal: Signal,
    pub(crate) plan: Option<Plan>,
    pub(crate) records: u64,
    /// After decompression.
    pub(crate) bytes: u64,
    pub(crate) wire_bytes: u64,
    /// Its sender keeps it until it is answered, and sends it again.
    pub(crate) comes_again: bool,
}

/// One whose end is not known. When it is dropped its sender hung up: it is entered as taken unless it comes again, or whoever never
/// waits for an answer would never pay.
#[derive(Debug)]
pub(crate) struct Open(Option<Charge>);

impl Charge {
    pub(crate) fn open(self) -> Open {
        Open(Some(self))
    }

    fn enter(&self, counts: Counts) {
        self.account.add(self.now, self.signal, self.plan, Counts { received: self.records, ..counts });
    }

    fn take(&self, rejected: u64) -> u64 {
        self.enter(Counts { rejected, bytes: self.bytes, wire_bytes: self.wire_bytes, ..Counts::default() });
        self.bytes
    }

    fn refuse(&self) {
        self.enter(Counts { refused: self.records, ..Counts::default() });
    }
}

impl Open {
    /// Taken, but for so many of its records. Returns the bytes that were charged.
    pub(crate) fn taken(mut self, rejected: u64) -> u64 {
        self.0.take().map_or(0, |charge| charge.take(rejected))
    }

    /// Taken before: nothing is charged.
    pub(crate) fn known(mut self) -> u64 {
        self.0 = None;
        0
    }

    /// None of its records, for good.
    pub(crate) fn rejected(mut self) {
        if let Some(charge) = self.0.take() {
            charge.enter(Counts { rejected: charge.records, ..Counts::default() });
        }
    }

    /// None of its records, for now.
    pub(crate) fn refused(mut self) {
        if let Some(charge) = self.0.take() {
            charge.refuse();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        match self.0.take() {
            Some(charge) if charge.comes_again => charge.refuse(),
            Some(charge) => drop(charge.take(0)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_entered_once_by_what_became_of_it() {
        let taken = Counts { received: 7, bytes: 100, wire_bytes: 10, ..Counts::default() };
        let refused = Counts { received: 7, refused: 7, ..Counts::default() };
        type End = fn(Open);
        let ends: [(End, bool, Option<Counts>); 6] = [
            (|open| assert_eq!(open.taken(2), 100), true, Some(Counts { rejected: 2, ..taken })),
            (|open| assert_eq!(open.known(), 0), true, None),
            (Open::rejected, false, Some(Counts { received: 7, rejected: 7, ..Counts::default() })),
            (Open::refused, false, Some(refused)),
            (drop, false, Some(taken)),
            (drop, true, Some(refused)),
        ];
        for (index, (end, comes_again, expected)) in ends.into_iter().enumerate() {
            let account = Arc::new(Account::default());
            let charge = Charge {
                account: Arc::clone(&account),
                now: 1_709_161_200,
                signal: Signal::Logs,
                plan: None,
                records: 7,
                bytes: 100,
                wire_bytes: 10,
                comes_again,
            };
            end(charge.open());
            let entered: Vec<Counts> = account.unreported().into_iter().map(|(_, counts)| counts).collect();
            assert_eq!(entered, expected.into_iter().collect::<Vec<_>>(), "{index}");
        }
    }
}
