//! What whole minutes come to: in and out of those between the first and the last whole minute of a recording.
//!
//! A recording begins with a short window and ends with one that is cut off, and each of them costs a request with everything in
//! it. Invariant: what comes in within these minutes is compared with the points of these very windows, which leave later.

use crate::wire::Sum;

const MINUTE_NANOS: u64 = 60_000_000_000;
/// Until when the windows of a minute that is over have left: they wait for late samples and for others to fill a batch.
const LEFT_NANOS: u64 = MINUTE_NANOS / 2;

#[derive(Default)]
pub(crate) struct Steady {
    minute: u64,
    /// What had come in when the minute began, until what goes with it has left.
    begun: Option<Sum>,
    first: Option<[Sum; 2]>,
    last: Option<[Sum; 2]>,
}

impl Steady {
    /// What had come in and left by `now`.
    pub(crate) fn passed(&mut self, now: u64, into: Sum, out: Sum) {
        let minute = now / MINUTE_NANOS;
        if self.minute != minute {
            self.begun = (self.minute != 0).then_some(into);
            self.minute = minute;
        }
        if now % MINUTE_NANOS >= LEFT_NANOS
            && let Some(into) = self.begun.take()
        {
            self.first.get_or_insert([into, out]);
            self.last = Some([into, out]);
        }
    }

    /// In and out.
    pub(crate) fn sums(&self) -> [Sum; 2] {
        let ([into_first, out_first], [into_last, out_last]) =
            (self.first.unwrap_or_default(), self.last.unwrap_or_default());
        [into_last.since(into_first), out_last.since(out_first)]
    }
}
