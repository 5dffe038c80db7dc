//! The open window of one resource: its lines by pattern.
//!
//! From completed records to those that go on at once and those that wait to become one. A pattern's first lines in a period go on
//! whole; the further ones fold. A pattern that was frequent in the period before folds from its first line, so that what is
//! steady costs one row a window; if it turns out rare this time its lines, kept whole until then, go on whole after all.
//!
//! Invariant: each line taken is in exactly one record that is handed out, at once or when the window closes.

use crate::complete::Line;
use crate::rows::{CLASSES, class};
use crate::rules::Action;
use crate::summary::{Shown, Summary, attributes_bytes, bytes_of};
use crate::windows::Of;
use hashbrown::HashMap;
use ollystack_patterns::PatternId;
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::{Ack, Class, Resource};
use prost::Message;

/// Scopes told apart in one resource; lines of further ones go on whole.
const SCOPES_MAX: usize = 64;
/// The smallest table of entries: four places, and a byte for each and for those that are read with them.
const TABLE_BYTES: usize = 4 * size_of::<(Key, Entry)>() + 32;
/// A window in the table of all, of which seven in sixteen places are taken when it has just grown.
const WINDOW_BYTES: usize = 16 * size_of::<(Of, Window)>() / 7;

/// Where in a file lines stood that wait: a span, in a vector of which half may be empty.
const SPAN_BYTES: usize = 4 * size_of::<u64>();

/// Which lines fold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) scope: usize,
    pub(crate) pattern: PatternId,
    pub(crate) severity: i32,
}

/// What the records of a scope have in common: the scope and its schema's URL.
pub(crate) type Scope = (Option<InstrumentationScope>, String);

/// On which terms lines fold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Over which a pattern's lines are counted, in nanoseconds.
    pub(crate) period: u64,
    /// Lines of a pattern and period that go on whole.
    pub(crate) whole_max: u32,
    pub(crate) shown: Shown,
}

/// The lines of one resource.
#[derive(Debug)]
pub(crate) struct Window {
    entries: HashMap<Key, Entry>,
    scopes: Vec<Scope>,
    /// Of the lines that wait here, by their class. Batches of one file share one.
    acks: [Vec<Ack>; CLASSES.len()],
    /// Spans, or batches without positions, that those stand for.
    batches: usize,
    /// When the first line began to wait.
    opened: Option<u64>,
    /// Of its resource, which lives as long, and of its scopes.
    fixed_bytes: usize,
    /// Of the records that wait.
    held_bytes: usize,
    waiting: u64,
}

#[derive(Debug)]
struct Entry {
    action: Action,
    /// When the period began in which lines are counted, and how many came.
    began: u64,
    seen: u32,
    /// More lines came in the period before than go on whole.
    was_frequent: bool,
    open: Open,
}

#[derive(Debug, Default)]
enum Open {
    #[default]
    Nothing,
    /// Frequent before, rare so far.
    Lines(Vec<LogRecord>),
    Summary(Box<Summary>),
}

/// What became of a line.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It goes on as it is.
    Whole(LogRecord),
    /// It waits among those of its class, and so many lines became part of another's record by it.
    Waits(Class, u64),
}

impl Window {
    pub(crate) fn new(resource: &Resource) -> Window {
        Window {
            entries: HashMap::new(),
            scopes: Vec::new(),
            acks: Default::default(),
            batches: 0,
            opened: None,
            fixed_bytes: WINDOW_BYTES + size_of::<Resource>() + attributes_bytes(resource.attributes()),
            held_bytes: 0,
            waiting: 0,
        }
    }

    /// The number of a scope here, unless there is no room for another.
    pub(crate) fn scope(&mut self, scope: &Scope, room: usize) -> Option<usize> {
        if let Some(known) = self.scopes.iter().position(|known| known == scope) {
            return Some(known);
        }
        let bytes = size_of::<Scope>() + 2 * scope.0.as_ref().map_or(0, Message::encoded_len) + scope.1.len();
        if self.scopes.len() >= SCOPES_MAX || bytes + TABLE_BYTES > room {
            return None;
        }
        self.fixed_bytes += bytes;
        self.scopes.reserve_exact(1);
        self.scopes.push(scope.clone());
        Some(self.scopes.len() - 1)
    }

    /// Take one line. `passes` it does on its own account, as an error or the first of its pattern; `room` is the memory that may
    /// still be taken; `action` is asked when the pattern is new here.
    pub(crate) fn take(
        &mut self,
        key: Key,
        line: Line,
        passes: bool,
        (now, room): (u64, usize),
        terms: Terms,
        action: impl FnOnce(&Line) -> Action,
    ) -> Taken {
        // A full table grows to twice its size.
        let grows = self.entries.len() == self.entries.capacity();
        if grows && room < TABLE_BYTES.max(self.entries.allocation_size()) && !self.entries.contains_key(&key) {
            return Taken::Whole(line.into_record());
        }
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            action: action(&line),
            began: now,
            seen: 0,
            was_frequent: false,
            open: Open::Nothing,
        });
        entry.count(now, terms);
        let is_rare = entry.seen <= terms.whole_max;
        let whole = match entry.action {
            Action::Whole => true,
            Action::Fold => passes || (is_rare && !entry.was_frequent),
            Action::Count => false,
        };
        if whole {
            return Taken::Whole(line.into_record());
        }
        let class = class(&line.record);
        let stays_whole = is_rare && entry.action == Action::Fold;
        // Examples are given up first.
        let shown = if room < terms.shown.bytes() { Shown { samples: 0, ..terms.shown } } else { terms.shown };
        let mut lines = match &mut entry.open {
            Open::Summary(summary) => {
                self.held_bytes += summary.add(&line.record, line.severity_text(), shown);
                return Taken::Waits(class, 1);
            }
            Open::Lines(lines) => std::mem::take(lines),
            Open::Nothing => Vec::new(),
        };
        let record = line.into_record();
        let bytes = bytes_of(&record);
        if lines.is_empty() && bytes + shown.bytes() > room {
            return Taken::Whole(record);
        }
        self.opened.get_or_insert(now);
        self.waiting += 1;
        self.held_bytes += bytes;
        if stays_whole && bytes <= room {
            lines.push(record);
            entry.open = Open::Lines(lines);
            return Taken::Waits(class, 0);
        }
        let folded = lines.len() as u64;
        self.waiting -= folded;
        let mut summary = Summary::new(record, shown);
        self.held_bytes += summary.bytes();
        for line in lines {
            self.held_bytes -= bytes_of(&line);
            self.held_bytes += summary.add(&line, &line.severity_text, shown);
        }
        entry.open = Open::Summary(Box::new(summary));
        Taken::Waits(class, folded)
    }

    /// The lines of a batch that wait here, by class.
    pub(crate) fn hold(&mut self, acks: [Option<Ack>; CLASSES.len()]) {
        for (held, ack) in self.acks.iter_mut().zip(acks) {
            let Some(ack) = ack else { continue };
            let before = held.last().map_or(0, Ack::spans);
            let alone = match held.last_mut() {
                Some(last) => last.join(ack),
                None => Some(ack),
            };
            self.batches += held.last().map_or(0, Ack::spans) - before + alone.as_ref().map_or(0, Ack::spans);
            held.extend(alone);
        }
    }

    /// When the first of the lines that wait began to.
    pub(crate) fn opened(&self) -> Option<u64> {
        self.opened
    }

    /// Hand out what waits, in the same order for the same lines. Who waits for it is handed back.
    pub(crate) fn close(
        &mut self,
        template: impl Fn(PatternId) -> Option<String>,
        mut emit: impl FnMut(&[Scope], Key, LogRecord),
    ) -> [Vec<Ack>; CLASSES.len()] {
        let open = self.entries.iter_mut().map(|(key, entry)| (*key, std::mem::take(&mut entry.open)));
        let mut open: Vec<(Key, Open)> = open.filter(|(_, open)| !matches!(open, Open::Nothing)).collect();
        open.sort_unstable_by_key(|(key, _)| *key);
        for (key, open) in open {
            match open {
                Open::Nothing => (),
                Open::Lines(lines) => lines.into_iter().for_each(|line| emit(&self.scopes, key, line)),
                Open::Summary(summary) => emit(&self.scopes, key, summary.into_record(template(key.pattern))),
            }
        }
        (self.opened, self.held_bytes, self.waiting, self.batches) = (None, 0, 0, 0);
        std::mem::take(&mut self.acks)
    }

    /// Forget the patterns that were not seen in the period before. Whether there is nothing left.
    pub(crate) fn sweep(&mut self, now: u64, terms: Terms) -> bool {
        self.entries.retain(|_, entry| !matches!(entry.open, Open::Nothing) || entry.is_recent(now, terms));
        self.entries.shrink_to_fit();
        self.is_empty()
    }

    /// Whether no pattern is known here.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records that wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Batches that wait: those of one file as one, as long as no line between them went on.
    pub(crate) fn batches(&self) -> usize {
        self.batches
    }

    /// Memory taken.
    pub(crate) fn bytes(&self) -> usize {
        let acks: usize = self.acks.iter().map(|acks| acks.capacity() * size_of::<Ack>()).sum();
        self.fixed_bytes + self.entries.allocation_size() + self.held_bytes + acks + self.batches * SPAN_BYTES
    }
}

impl Entry {
    fn is_recent(&self, now: u64, terms: Terms) -> bool {
        now < self.began.saturating_add(2 * terms.period)
    }

    /// Count a line, in the period that is now.
    fn count(&mut self, now: u64, terms: Terms) {
        if now >= self.began.saturating_add(terms.period) || now < self.began {
            self.was_frequent = self.seen > terms.whole_max && self.is_recent(now, terms);
            (self.began, self.seen) = (now, 0);
        }
        self.seen = self.seen.saturating_add(1);
    }
}
