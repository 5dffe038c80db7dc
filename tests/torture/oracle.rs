//! Who knows what must be there: allots ids, makes records whose content follows from them, remembers what was acknowledged, and asks
//! ClickHouse in the end.
//!
//! A success answer makes an obligation: each id of the request is there once, as it was sent. What was refused, or never answered,
//! may be there, but not twice; what of it is there is counted apart. Invariant: an id is allotted once in the life of an oracle, so
//! a request that is sent again under new ids is another request.

use crate::otlp::{Signal, attribute, error_logs, error_span, spans};
use crate::report::Report;
use anyhow::{Context, Result, bail};
use ollystack_tests::{World, within};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Ids of one request begin at a multiple of this, so that ClickHouse can group rows by request.
pub(crate) const IDS_PER_REQUEST: u64 = 10_000;

/// How long the last rows may take after the faults have stopped.
const DRAIN: Duration = Duration::from_secs(120);

/// What the sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Success: an obligation.
    Acknowledged,
    /// Refused, or no answer.
    Open,
}

/// Ids of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    pub(crate) signal: Signal,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// The books, by request.
#[derive(Debug)]
pub(crate) struct Oracle {
    service: String,
    requests: Mutex<BTreeMap<u64, (Ids, Fate)>>,
}

/// What ClickHouse has of one request.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    rows: u64,
    distinct: u64,
    wrong: u64,
}

impl Ids {
    /// Each id.
    pub(crate) fn each(self) -> impl Iterator<Item = u64> {
        self.first..self.first + self.count
    }
}

impl Oracle {
    /// For records of this service.
    pub(crate) fn new(service: &str) -> Self {
        Self { service: service.to_owned(), requests: Mutex::default() }
    }

    /// Ids for a request of `count` log records or spans, at most [`IDS_PER_REQUEST`]. Open until it is acknowledged.
    pub(crate) fn allot(&self, signal: Signal, count: u64) -> Ids {
        assert!(signal != Signal::Metrics && count <= IDS_PER_REQUEST, "{count} records of {signal:?}");
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let first = requests.last_key_value().map_or(0, |(first, _)| first + IDS_PER_REQUEST);
        let ids = Ids { signal, first, count };
        requests.insert(first, (ids, Fate::Open));
        ids
    }

    /// The request as OTLP protobuf. Errors, so that no sampling and no folding takes any.
    pub(crate) fn body(&self, ids: Ids) -> Vec<u8> {
        match ids.signal {
            Signal::Logs => error_logs(&self.service, ids.each().map(line)),
            Signal::Traces => {
                let failed = |id| {
                    let mut span = error_span("torture", id);
                    span.attributes.push(attribute("payload", &payload(id)));
                    span
                };
                spans(&self.service, ids.each().map(failed).collect())
            }
            Signal::Metrics => Vec::new(),
        }
    }

    /// A success answer came.
    pub(crate) fn acknowledged(&self, ids: Ids) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.insert(ids.first, (ids, Fate::Acknowledged));
    }

    /// How many records are acknowledged so far.
    pub(crate) fn obligations(&self) -> u64 {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.values().filter(|(_, fate)| *fate == Fate::Acknowledged).map(|(ids, _)| ids.count).sum()
    }

    /// Waits until every obligation is there, then writes down what is missing, there twice, or not as it was sent.
    pub(crate) fn judge(&self, world: &World<'_>, report: &mut Report) -> Result<()> {
        let all = |signal| -> Result<bool> {
            let stored = self.stored(world, signal)?;
            let missing = self.of(signal).into_iter().any(|(ids, fate)| {
                fate == Fate::Acknowledged && stored.get(&ids.first).is_none_or(|stored| stored.distinct < ids.count)
            });
            Ok(!missing)
        };
        let waited = within(DRAIN, "every acknowledged record is there", || {
            Ok((all(Signal::Logs)? && all(Signal::Traces)?).then_some(()))
        });
        if let Err(error) = waited {
            report.note(format!("{error:#}"));
        }
        for signal in [Signal::Logs, Signal::Traces] {
            let stored = self.stored(world, signal)?;
            let requests = self.of(signal);
            for first in stored.keys().filter(|first| !requests.iter().any(|(ids, _)| ids.first == **first)) {
                report.violation(format!("{signal:?}: rows of request {first}, which was never sent"));
            }
            for (ids, fate) in requests {
                self.compare(ids, fate, stored.get(&ids.first).copied().unwrap_or_default(), report);
            }
        }
        Ok(())
    }

    fn compare(&self, ids: Ids, fate: Fate, stored: Stored, report: &mut Report) {
        let name = format!("{:?} {} to {} of {}", ids.signal, ids.first, ids.first + ids.count, self.service);
        let twice = stored.rows - stored.distinct;
        report.must(twice == 0, || format!("{name}: {twice} rows more than records"));
        report.must(stored.wrong == 0, || format!("{name}: {} rows are not as they were sent", stored.wrong));
        report.add("visible_twice", twice);
        match fate {
            Fate::Acknowledged => {
                let lost = ids.count.saturating_sub(stored.distinct);
                report.must(lost == 0, || format!("{name}: {lost} acknowledged records are lost"));
                report.add("acknowledged", ids.count);
                report.add("acknowledged_lost", lost);
            }
            Fate::Open => report.add("delivered_without_acknowledgement", stored.distinct),
        }
    }

    fn of(&self, signal: Signal) -> Vec<(Ids, Fate)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.values().filter(|(ids, _)| ids.signal == signal).copied().collect()
    }

    /// By the first id of each request.
    fn stored(&self, world: &World<'_>, signal: Signal) -> Result<BTreeMap<u64, Stored>> {
        let (id, said, made) = match signal {
            Signal::Logs => (
                "toUInt64OrZero(splitByChar(' ', Body)[2])",
                "Body",
                format!("concat('id ', toString(id), ' ', {PAYLOAD_SQL})"),
            ),
            Signal::Traces => (
                "reinterpretAsUInt64(reverse(unhex(SpanId))) - bitShiftLeft(toUInt64(1), 50)",
                "SpanAttributes['payload']",
                PAYLOAD_SQL.to_owned(),
            ),
            Signal::Metrics => bail!("metrics are folded: compare sums"),
        };
        let text = world.sql(&format!(
            "SELECT intDiv(id, {IDS_PER_REQUEST}) * {IDS_PER_REQUEST} AS first, count(), uniqExact(id), countIf(said != {made}) \
             FROM (SELECT {id} AS id, {said} AS said FROM {{db}}.{} WHERE ServiceName = '{}') GROUP BY first",
            signal.table(),
            self.service
        ))?;
        let rows = text.lines().map(|line| {
            let cells: Option<Vec<u64>> = line.split('\t').map(|cell| cell.parse().ok()).collect();
            match cells.as_deref() {
                Some(&[first, rows, distinct, wrong]) => Ok((first, Stored { rows, distinct, wrong })),
                _ => bail!("ClickHouse gave `{line}`, not four numbers"),
            }
        });
        rows.collect::<Result<_>>().context("counting what is stored")
    }
}

/// The content of a log record, and a line of a file: `id 17 <payload>`.
pub(crate) fn line(id: u64) -> String {
    format!("id {id} {}", payload(id))
}

/// [`payload`] in ClickHouse's words, of a column `id`.
const PAYLOAD_SQL: &str = "translate(leftPad(lower(hex(toUInt64(id * 6364136223846793005 + 1442695040888963407))), 16, '0'), '0123456789', 'ghijklmnop')";

/// Sixteen letters that follow from the id: nothing in them looks like a number to be redacted or a pattern's parameter.
pub(crate) fn payload(id: u64) -> String {
    let mixed = id.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let letter = |digit: char| digit.to_digit(10).map_or(digit, |digit| char::from(b'g' + digit as u8));
    format!("{mixed:016x}").chars().map(letter).collect()
}
