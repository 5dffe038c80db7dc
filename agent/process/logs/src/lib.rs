//! Log records: completed from their text, and those that repeat folded into counts by pattern.
//!
//! From the inputs to `export`. [`parse`] reads time, severity, trace and message out of a line; `patterns` tells which lines are alike;
//! [`Logs`] lets errors, first sights and rare lines go on whole and makes one record of the others for each pattern, severity
//! and window. A record stands for one line unless it says how many (`ollystack.log.count`).
//!
//! Invariant: the records handed out stand for exactly the lines taken, and a batch's acknowledgement is resolved only after every
//! record that stands for one of its lines.

mod complete;
mod config;
mod fields;
mod head;
mod parse;
mod rows;
mod rules;
mod severity;
mod stamp;
mod summary;
#[cfg(test)]
mod tests;
mod time;
mod window;
mod windows;
mod word;

pub use config::{Config, Error};
pub use parse::{Parsed, parse, parse_at};
pub use rules::{Action, RULE_BYTES_MAX, Rule};
pub use time::{Clock, Zone};

use complete::Line;
use ollystack_patterns::{Miner, PatternId};
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Ack, Ledger, Place, Reduced, Resource, Signal, Source, value};
use ollystack_schema::names;
use rows::{CLASSES, Rows, is_error, way};
use rules::Rules;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use summary::{Shown, text_of};
use window::{Key, Scope, Taken, Terms, Window};
use windows::{Closing, Windows};
use xxhash_rust::xxh3::xxh3_64;

const NANOS_PER_MS: u64 = 1_000_000;
/// The longest text that patterns are mined from: what comes later in a line does not tell patterns apart.
const MESSAGE_BYTES_MAX: usize = 4_096;
/// Attributes of a record that may fold, as many as OpenTelemetry's SDKs allow by default: what lines share is found by comparing
/// each with each.
const ATTRIBUTES_MAX: usize = 128;

/// What is held and was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Lines taken.
    pub lines: u64,
    /// Records handed out.
    pub rows: u64,
    /// Patterns known.
    pub patterns: usize,
    /// Patterns forgotten for want of room.
    pub patterns_forgotten: u64,
    /// Records that wait for their window to close.
    pub waiting: u64,
    /// Batches whose acknowledgement waits with them.
    pub batches_held: usize,
    /// Memory of patterns and windows.
    pub bytes: usize,
}

/// Completes and folds.
#[derive(Debug)]
pub struct Logs {
    config: Config,
    terms: Terms,
    rules: Rules,
    zone: Zone,
    ledger: Arc<Ledger>,
    miner: Miner,
    windows: Windows,
    swept: u64,
    stats: Stats,
}

impl Logs {
    /// Of a configuration that was checked: what it refuses is left out here.
    pub fn new(config: Config, ledger: Arc<Ledger>) -> Logs {
        let shown = Shown { samples: config.samples, bytes_max: config.sample_bytes_max };
        let period = config.window_ms * NANOS_PER_MS;
        Logs {
            terms: Terms { period, whole_max: config.whole_per_window, shown },
            rules: Rules::new(&config.rules).unwrap_or_default(),
            zone: Zone::named(&config.time_zone).unwrap_or(Zone::UTC),
            ledger,
            miner: Miner::new(config.miner()),
            windows: Windows::new(period, config.answer_ms * NANOS_PER_MS),
            swept: 0,
            stats: Stats::default(),
            config,
        }
    }

    /// Take a batch at `now`, nanoseconds since the epoch. Its acknowledgement goes with its records, at once or when the last
    /// window closes that holds a line of it: for log files after `window_ms`, for whoever waits for an answer after
    /// `answer_ms`.
    pub fn take(
        &mut self,
        source: Source,
        resource: &Arc<Resource>,
        scopes: Vec<ScopeLogs>,
        ack: Ack,
        now: u64,
        out: &mut Vec<Reduced>,
    ) {
        let of = (Arc::clone(resource), source == Source::Logs);
        let mut window = self.windows.take_out(&of);
        let mut rows = Rows::default();
        let mut ways = Vec::new();
        for (number, ScopeLogs { scope, log_records, schema_url }) in scopes.into_iter().enumerate() {
            let scope: Scope = (scope, schema_url);
            let place = match self.config.enabled {
                true => window.scope(&scope, self.room(&window)),
                false => None,
            };
            for record in log_records {
                self.stats.lines += 1;
                let room = self.room(&window);
                match self.line(record, resource, place, &mut window, now, room) {
                    Taken::Whole(record) => ways.push(way(rows.push(number, &scope, record))),
                    Taken::Waits(class, folded) => {
                        ways.push(CLASSES.len() + way(class));
                        self.ledger.folded(Signal::Logs, folded);
                    }
                }
            }
        }
        // What goes out together and what waits, by class: each is durable at a time of its own.
        let [errors, normal, debug, waiting @ ..] = ack.split::<{ 2 * CLASSES.len() }>(&ways);
        window.hold(waiting);
        self.stats.rows += rows.count();
        rows.hand_on(resource, [errors, normal, debug], out);
        self.windows.put_back(of, window);
        let is_full = self.windows.held().batches_patient > self.config.batches_held_max;
        self.close(now, if is_full { Closing::Patient } else { Closing::Due }, out);
    }

    /// Let time pass: close the windows that are due.
    pub fn tick(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.close(now, Closing::Due, out);
        if now >= self.swept.saturating_add(self.terms.period) || now < self.swept {
            self.swept = now;
            self.windows.sweep(now, self.terms);
        }
    }

    /// Close every window: the agent stops.
    pub fn drain(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.close(now, Closing::All, out);
    }

    /// Memory is short: close every window, and forget patterns of resources that had no line for two periods.
    pub fn relieve(&mut self, now: u64, out: &mut Vec<Reduced>) {
        self.close(now, Closing::All, out);
        self.windows.sweep(now, self.terms);
    }

    /// What is held and was done.
    pub fn stats(&self) -> Stats {
        let held = self.windows.held();
        Stats {
            patterns: self.miner.len(),
            patterns_forgotten: self.miner.forgotten(),
            waiting: held.waiting,
            batches_held: held.batches,
            bytes: self.miner.bytes() + held.bytes,
            ..self.stats.clone()
        }
    }

    /// Complete a record, and take it into the window if it may fold.
    fn line(
        &mut self,
        record: LogRecord,
        resource: &Resource,
        place: Option<usize>,
        window: &mut Window,
        now: u64,
        room: usize,
    ) -> Taken {
        let Logs { miner, rules, zone, .. } = self;
        let line = Line::complete(record, Clock { now_unix_nano: now, zone });
        let (Some(scope), Some(message)) = (place.filter(|_| may_fold(&line.record)), beginning(&line)) else {
            return Taken::Whole(line.into_record());
        };
        let sight = miner.observe(message);
        let severity = line.record.severity_number;
        let passes = sight.is_new || is_error(severity);
        let taken = if is_error(severity) && rules.is_empty() {
            Taken::Whole(line.into_record())
        } else {
            let key = Key { scope, pattern: sight.id, severity };
            window.take(key, line, passes, (now, room), self.terms, |line| match rules.is_empty() {
                true => Action::Fold,
                false => {
                    let template = miner.template(sight.id);
                    let message = beginning(line).unwrap_or_default();
                    rules.action(resource.service_name(), message, template.as_deref())
                }
            })
        };
        match taken {
            Taken::Whole(record) => Taken::Whole(mark(record, miner, sight.id)),
            waits => waits,
        }
    }

    fn close(&mut self, now: u64, closing: Closing, out: &mut Vec<Reduced>) {
        let Logs { windows, miner, stats, ledger, .. } = self;
        windows.close(now, closing, |resource, window| {
            let mut rows = Rows::default();
            let acks = window.close(
                |pattern| miner.template(miner.resolve(pattern)),
                |scopes, key, record| {
                    if let Some(scope) = scopes.get(key.scope) {
                        rows.push(key.scope, scope, mark(record, miner, key.pattern));
                    }
                },
            );
            stats.rows += rows.count();
            rows.hand_on(resource, acks.map(|acks| Some(Ack::all(acks))), out);
        });
        ledger.waiting_set(Signal::Logs, Place::Window, windows.held().waiting);
    }

    /// Memory that the window which is taken out may still take.
    fn room(&self, window: &Window) -> usize {
        self.config.window_bytes_max.saturating_sub(self.windows.held().bytes + window.bytes())
    }
}

/// Whether a record can be one of many. An event is what its attributes say, and folding would lose them; and what stands for many
/// lines already, as another agent folded them, keeps their number.
fn may_fold(record: &LogRecord) -> bool {
    record.event_name.is_empty()
        && record.attributes.len() <= ATTRIBUTES_MAX
        && record.attributes.iter().all(|attribute| attribute.key != names::LOG_COUNT)
}

/// Name the record's pattern, so that lines which went on whole and those that were folded are found together.
fn mark(mut record: LogRecord, miner: &Miner, pattern: PatternId) -> LogRecord {
    if let Some(template) = miner.template(miner.resolve(pattern)) {
        let id = format!("{:016x}", xxh3_64(template.as_bytes()));
        record.attributes.push(value::string(names::LOG_PATTERN_ID, id));
    }
    record
}

/// The beginning of the line's message, if text is its body.
fn beginning(line: &Line) -> Option<&str> {
    let message = text_of(&line.record).get(line.message.clone()?)?;
    Some(&message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)])
}
