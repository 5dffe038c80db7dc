//! The short way beside the long one, for tests and fuzzing: what goes both ways becomes the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a difference is told by panicking")]

use super::{Stop, Unusual, convert, count};
use crate::batch::budget::Budget;
use crate::batch::columns::into_native;
use crate::convert::series::Seen;
use crate::convert::{Delivery, Outcome, Sink, convert as convert_message};
use ollystack_receive::{Body as _, Held, Message, Wire};

/// What a request becomes: per table its index and its rows as they are inserted.
type Became = (Outcome, Vec<(usize, bytes::Bytes)>);

pub(super) fn delivery() -> Delivery {
    Delivery {
        tenant: "acme".into(),
        agent: "a-1".into(),
        sequence: 9,
        ingested_at: 1_700_000_000,
        expires_at: 1_800_000_000,
        treatment: Default::default(),
    }
}

fn rows(sink: Sink) -> Vec<(usize, bytes::Bytes)> {
    sink.finish().unwrap().into_iter().map(|rows| (rows.table, into_native(vec![rows.columns]))).collect()
}

pub(super) fn short_way(wire: &Wire) -> Result<Became, Unusual> {
    let mut sink = Sink::new(Budget::new(1 << 30));
    match convert(wire, &delivery(), &Seen::new(), &mut sink) {
        Ok(outcome) => Ok((outcome, rows(sink))),
        Err(Stop::Unusual) => Err(Unusual),
        Err(Stop::Overflow(overflow)) => panic!("{overflow}"),
    }
}

/// And how many records there are.
pub(super) fn long_way(wire: &Wire) -> Option<(u64, Became)> {
    let (message, _) = Message::read(wire.clone(), &mut Held::default()).ok()?;
    let mut sink = Sink::new(Budget::new(1 << 30));
    let records = crate::convert::count(&message);
    let outcome = convert_message(message, &delivery(), &Seen::new(), &mut sink).unwrap();
    Some((records, (outcome, rows(sink))))
}

/// Whether a request goes the short way; if so it becomes what it becomes on the long one.
pub(crate) fn goes_the_short_way(wire: &Wire) -> bool {
    let Ok(became) = short_way(wire) else { return false };
    let (records, expected) = long_way(wire).expect("prost refuses what the short way takes");
    assert_eq!(became, expected);
    assert_eq!(count(wire.signal(), wire.bytes()), Ok(records));
    true
}
