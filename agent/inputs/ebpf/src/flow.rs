//! What calls moved over sockets to spans, one batch a process.
//!
//! In: records in the order in which the kernel wrote them. Each connection has the parser of its protocol, which gives
//! exchanges; `span` makes spans of them. A gap in a connection's numbers means that a record was lost in the kernel: its
//! parser lets go of what it can no longer join. Invariant: at most `max` connections are remembered, each with a bounded
//! parser; a span is handed in once; whatever did not become a span is counted.

mod joint;
mod parents;
mod span;
mod templates;

pub(crate) use span::addresses;
pub use templates::BYTES_MAX as TEMPLATE_BYTES_MAX;

use crate::processes::Processes;
use crate::stats::{Stats, add};
use hashbrown::HashMap;
use joint::Joint;
use ollystack_ebpf::flow::{
    BARE_BYTES, CARRY, CLIENT, CLOSE, GIVEN_UP, LINE, LINE_HEAD_BYTES, MIDWAY, Meta, SENT, SERVER, SMALL_BYTES, TURN,
};
use ollystack_ebpf::read;
use ollystack_protocols::{Chunk, Found, Moment, Protocol, Routes, Side, parser};
use ollystack_record::lines::{HEAD_BYTES, Under, WHOLE_BYTES};
use ollystack_record::{Ack, Batch, DropReason, Intake, Lines, Records, Request, Resource, Signal, Source};
use parents::Parents;
use span::{Identifiers, Ids};
use std::sync::Arc;
use templates::Templates;

// Lines are shown as they are asked for.
const _: () = assert!(WHOLE_BYTES == SMALL_BYTES && HEAD_BYTES == LINE_HEAD_BYTES);

/// Spans that are handed in before their time is up.
const SPANS_MAX: usize = 512;
/// A connection without traffic for this long is forgotten; a request that waits longer is not a request any more.
const SILENCE_NS: u64 = 300_000_000_000;
/// Services whose operations are kept few, each with what 256 routes take; with more of them all begin anew.
const SERVICES_MAX: usize = 64;
/// A line that was missed may be read in its log for so long.
const DOUBT_NS: u64 = 2_000_000_000;
/// How many are looked at to find one that may give way.
const EVICTION_SAMPLE: usize = 16;

/// The state of all connections.
pub(crate) struct Flows {
    connections: HashMap<u64, Connection>,
    max: usize,
    found: Found,
    identifiers: Identifiers,
    parents: Parents,
    lines: Arc<Lines>,
    /// Lines are doubtful until then, as some before them are missing.
    doubt_until_ns: u64,
    /// Lines read, and those among them that were written under a request.
    wrote: [u64; 2],
    /// By process; the resource is the one of its first span.
    spans: HashMap<u32, (Arc<Resource>, Vec<Request>)>,
    templates: Templates,
    /// By service: what it serves and what it calls are operations of its own.
    routes: HashMap<String, [Routes; 2]>,
    held: usize,
    /// Heads that were there and not looked at.
    heads_left: u64,
    /// Connections that are looked at no more, as nothing on them was of a known protocol: from their beginning on, and since they were joined.
    given_up: [u64; 2],
}

struct Connection {
    /// Of its last record: whose it is, and what is told when it ends goes under it.
    last: Meta,
    parser: Box<dyn Protocol>,
    /// Of the client's last turn, until a request has it.
    joint: Option<Joint>,
    /// A record that overtook the one before it, as they were written on different processors.
    early: Option<Vec<u8>>,
    /// The first byte of what a side says, if it was read by itself: Go's servers look for one while they answer, and another goroutine than that
    /// one reads the rest and serves it.
    first: Option<(Side, u32, u8)>,
}

impl Flows {
    pub(crate) fn new(connections_max: usize) -> Flows {
        Flows {
            connections: HashMap::new(),
            max: connections_max,
            found: Found::default(),
            identifiers: Identifiers::new(),
            parents: Parents::default(),
            lines: Arc::default(),
            doubt_until_ns: 0,
            wrote: [0; 2],
            spans: HashMap::new(),
            templates: Templates::default(),
            routes: HashMap::new(),
            held: 0,
            heads_left: 0,
            given_up: [0; 2],
        }
    }

    /// Telling of lines there.
    pub(crate) fn telling(self, lines: Arc<Lines>) -> Flows {
        Flows { lines, ..self }
    }

    /// Take one record as the kernel wrote it. Without `heads`, metadata alone: counts, status and latency stay true.
    pub(crate) fn take(&mut self, record: &[u8], heads: bool, offset_ns: u64, processes: &mut Processes) {
        let Some(meta) = read::<Meta>(record) else { return };
        match meta.kind {
            LINE => return self.line(&meta, &record[size_of::<Meta>()..], offset_ns),
            CLOSE => return self.forget(meta.socket, offset_ns, processes),
            GIVEN_UP => return self.give_up(&meta, processes),
            _ => {}
        }
        // The first of a connection may have been overtaken by the second.
        let is_known =
            |known: &Connection| known.last.ends == meta.ends && (meta.sequence != 1 || known.last.sequence <= 3);
        if !self.connections.get(&meta.socket).is_some_and(is_known) {
            let Some(parser) = parser(meta.protocol) else { return };
            self.forget(meta.socket, offset_ns, processes);
            self.make_room(offset_ns, processes);
            let last = Meta { sequence: meta.sequence.wrapping_sub(1), ..meta };
            let connection = Connection { last, parser, joint: None, early: None, first: None };
            self.connections.insert(meta.socket, connection);
            processes.opened(&meta);
        }
        let Some(connection) = self.connections.get_mut(&meta.socket) else { return };
        connection.last.time_ns = meta.time_ns;
        let ahead = meta.sequence.wrapping_sub(connection.last.sequence.wrapping_add(1));
        if ahead.cast_signed() < 0 {
            // It was given up before it came.
            return;
        }
        if ahead == 1 && connection.early.is_none() {
            // The one between may be right behind.
            connection.early = Some(record.to_vec());
            return;
        }
        let early = connection.early.take();
        // What follows is in order; or it is not, and the parser lets go of what it holds.
        if ahead == 0 || early.is_none() {
            self.read(&meta, record, heads, offset_ns, processes);
        }
        if let Some(early) = early
            && let Some(early_meta) = read::<Meta>(&early)
        {
            self.read(&early_meta, &early, heads, offset_ns, processes);
            if ahead != 0 {
                self.read(&meta, record, heads, offset_ns, processes);
            }
        }
    }

    /// A process that serves has written a line.
    fn line(&mut self, meta: &Meta, shown: &[u8], offset_ns: u64) {
        let at = Moment { time_ns: meta.time_ns, thread: meta.thread };
        let under = self.parents.wrote(meta.process, at).filter(|_| meta.time_ns >= self.doubt_until_ns);
        let [read, served] = &mut self.wrote;
        (*read, *served) = (*read + 1, *served + u64::from(under.is_some()));
        let shown = &shown[..shown.len().min(meta.captured.into())];
        let under = under.map(|(ids, asked_ns)| Under {
            trace: ids.trace,
            span: ids.span,
            asked_unix_nano: asked_ns.saturating_add(offset_ns),
        });
        self.lines.tell(shown, meta.length as usize, under, meta.time_ns.saturating_add(offset_ns));
    }

    /// Lines are missing: one that says the same as another that is missing would seem to be the only one.
    pub(crate) fn missed_lines(&mut self, now_ns: u64) {
        self.lines.forget();
        self.doubt_until_ns = now_ns.saturating_add(DOUBT_NS);
    }

    /// Processes whose lines are to be looked at, and whether one of them is believed to write them under its requests.
    pub(crate) fn loggers(&mut self, now_ns: u64, processes: &Processes) -> (Vec<u32>, bool) {
        let mut is_any_believed = false;
        let loggers = self.parents.loggers(now_ns, |process| processes.has_loop(process));
        let loggers = loggers.map(|(process, is_believed)| {
            is_any_believed |= is_believed;
            process
        });
        (loggers.collect(), is_any_believed)
    }

    /// The kernel looks at a connection no more: nothing on it was of a known protocol.
    fn give_up(&mut self, meta: &Meta, processes: &mut Processes) {
        self.given_up[usize::from(meta.flags & MIDWAY != 0)] += 1;
        processes.gave_up(meta);
    }

    /// Hand a record to its connection's parser.
    fn read(&mut self, meta: &Meta, record: &[u8], heads: bool, offset_ns: u64, processes: &mut Processes) {
        let Some(connection) = self.connections.get_mut(&meta.socket) else { return };
        if connection.last.sequence.wrapping_add(1) != meta.sequence {
            connection.parser.gap(&mut self.found);
            self.parents.forget(connection.last.process, meta.socket);
        }
        connection.last = *meta;
        let copied = usize::from(meta.captured).min(record.len() - size_of::<Meta>());
        let allowed = if heads { copied } else { copied.min(BARE_BYTES) };
        self.heads_left += u64::from(allowed < copied);
        let bytes = &record[size_of::<Meta>()..size_of::<Meta>() + allowed];
        let from = if (meta.direction == SENT) == (meta.role == CLIENT) { Side::Client } else { Side::Server };
        if from == Side::Client && meta.flags & (TURN | CARRY) != 0 {
            connection.joint = Joint::of(meta);
        }
        let at = Moment { time_ns: meta.time_ns, thread: meta.thread };
        let (position, length, is_turn) = (meta.position, meta.length, meta.flags & TURN != 0);
        let chunk = Chunk { from, at, position, length, bytes, is_turn };
        if is_turn
            && length == 1
            && from == Side::Client
            && let [first] = bytes
        {
            connection.first = Some((from, position, *first));
            return;
        }
        let first = connection.first.take().filter(|(by, at, _)| *by == from && at.wrapping_add(1) == position);
        if first.is_some()
            && let Some(joint) = &mut connection.joint
        {
            // The request is of who reads the rest of it.
            joint.asked = at;
        }
        let before = match first {
            Some((.., first)) => &[first][..],
            None if meta.flags & CARRY != 0 => &meta.carry,
            None => &[],
        };
        if before.is_empty() {
            connection.parser.take(&chunk, &mut self.found);
        } else {
            let more = before.len() as u32;
            let (position, length) = (position.wrapping_sub(more), length.saturating_add(more));
            let bytes = [before, bytes].concat();
            let joined = Chunk { position, length, bytes: &bytes, is_turn: true, ..chunk };
            connection.parser.take(&joined, &mut self.found);
        }
        self.make_spans(meta, offset_ns, processes);
    }

    /// What the parser found becomes spans of the process that the record is of.
    fn make_spans(&mut self, meta: &Meta, offset_ns: u64, processes: &mut Processes) {
        if self.found.asked.is_empty() && self.found.exchanges.is_empty() {
            return;
        }
        let mut joint = self.connections.get_mut(&meta.socket).map(|connection| &mut connection.joint);
        // Of several requests in one call it is the first's.
        let mut joint = |asked| joint.as_mut().and_then(|joint| joint.take_if(|it| it.asked == asked));
        for (asked, context) in self.found.asked.drain(..) {
            if meta.role == SERVER
                && let Some(ids) = Ids::of_request(SERVER, context, joint(asked), &mut self.identifiers)
            {
                self.parents.began(meta.process, meta.socket, asked, ids);
            }
        }
        for mut exchange in self.found.exchanges.drain(..) {
            let (resource, spans) = self
                .spans
                .entry(meta.process)
                .or_insert_with(|| (processes.who(meta.process, &meta.command, meta.time_ns).process, Vec::new()));
            let service = resource.service_name();
            if self.routes.len() == SERVICES_MAX && !self.routes.contains_key(service) {
                self.routes.clear();
            }
            let routes = self.routes.entry_ref(service).or_default();
            routes[usize::from(meta.role == CLIENT)].limit(&mut exchange);
            let ids = match (meta.role, exchange.context) {
                (SERVER, _) => self.parents.ended(meta.process, meta.socket, exchange.asked, exchange.answered),
                (_, None) => {
                    let parent = self.parents.of(meta.process, exchange.asked);
                    parent.and_then(|parent| parent.child(joint(exchange.asked), &mut self.identifiers))
                }
                // The application has told whom it asks under what.
                _ => None,
            };
            let ids = ids
                .or_else(|| Ids::of_request(meta.role, exchange.context, joint(exchange.asked), &mut self.identifiers));
            if let Some(ids) = ids {
                let peer = processes.spanned(meta);
                spans.push(span::request(exchange, meta, peer, ids, offset_ns, &mut self.templates));
                self.held += 1;
            }
        }
    }

    /// Whether enough is held to hand it in.
    pub(crate) fn is_full(&self) -> bool {
        self.held >= SPANS_MAX
    }

    /// Hand in all spans.
    pub(crate) fn hand_in(&mut self, intake: &Intake, stats: &Stats) {
        add(&stats.spans, self.held as u64);
        self.held = 0;
        for (_, (resource, spans)) in self.spans.drain() {
            let records = Records::Requests(spans);
            intake.offer(Batch { source: Source::Ebpf, resource, records, ack: Ack::none() });
        }
    }

    /// Forget what has been silent for long, and account for what did not become a span.
    pub(crate) fn settle(
        &mut self,
        now_ns: u64,
        offset_ns: u64,
        processes: &mut Processes,
        intake: &Intake,
        stats: &Stats,
    ) {
        let is_silent = |known: &Connection| now_ns.saturating_sub(known.last.time_ns) >= SILENCE_NS;
        let silent = self.connections.iter().filter(|(_, known)| is_silent(known)).map(|(socket, _)| *socket);
        for socket in silent.collect::<Vec<_>>() {
            self.forget(socket, offset_ns, processes);
        }
        let found = &mut self.found;
        add(&stats.heads_cut, std::mem::take(&mut self.heads_left));
        let [read, served] = std::mem::take(&mut self.wrote);
        add(&stats.lines, read);
        add(&stats.lines_served, served);
        add(&stats.unanswered, std::mem::take(&mut found.unanswered));
        add(&stats.unpaired, std::mem::take(&mut found.unpaired));
        let [unrecognised, midway] = std::mem::take(&mut self.given_up);
        add(&stats.unrecognised, unrecognised);
        add(&stats.midway, midway);
        let (lost, over_limit) = (std::mem::take(&mut found.lost), std::mem::take(&mut found.over_limit));
        for (reason, requests) in [(DropReason::KernelRingFull, lost), (DropReason::TraceLimit, over_limit)] {
            intake.ledger().seen(Signal::Traces, requests);
            intake.ledger().dropped(Signal::Traces, reason, requests);
        }
    }

    /// The connection is over; what came too early comes after nothing any more.
    fn forget(&mut self, socket: u64, offset_ns: u64, processes: &mut Processes) {
        let early = self.connections.get_mut(&socket).and_then(|connection| connection.early.take());
        if let Some(early) = early
            && let Some(meta) = read::<Meta>(&early)
        {
            self.read(&meta, &early, true, offset_ns, processes);
        }
        if let Some(mut connection) = self.connections.remove(&socket) {
            connection.parser.end(&mut self.found);
            self.parents.forget(connection.last.process, socket);
            self.make_spans(&connection.last, offset_ns, processes);
        }
    }

    /// At the limit one of the longest silent gives way: the oldest of a few, as finding the very oldest would cost a walk.
    fn make_room(&mut self, offset_ns: u64, processes: &mut Processes) {
        if self.connections.len() < self.max {
            return;
        }
        let sample = self.connections.iter().take(EVICTION_SAMPLE);
        if let Some(socket) = sample.min_by_key(|(_, known)| known.last.time_ns).map(|(socket, _)| *socket) {
            let unanswered = self.found.unanswered;
            self.forget(socket, offset_ns, processes);
            self.found.over_limit += self.found.unanswered - unanswered;
            self.found.unanswered = unanswered;
        }
    }
}

#[cfg(test)]
mod tests;
