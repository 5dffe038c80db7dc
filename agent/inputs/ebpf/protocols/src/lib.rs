//! What the bytes of a connection mean: requests and their answers, protocol by protocol.
//!
//! In: [`Chunk`]s, what single calls moved over one connection, of which only the first bytes may have been copied. Out:
//! [`Exchange`]s: a request with its answer, named and judged by the protocol's own rules. One file a protocol, each a
//! [`Protocol`]; [`parser`] is the list, and `ollystack_ebpf::sniff` tells the kernel how each is recognised. Pure: no
//! clock, no I/O. Invariant: no bytes make a parser panic, and each holds at most [`HELD_BYTES_MAX`] however many come.

mod amqp;
mod bytes;
mod destination;
mod dns;
#[cfg(feature = "fuzz")]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;
mod http;
mod http1;
mod http2;
mod kafka;
mod mongodb;
mod mysql;
mod nats;
mod pending;
#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test that cannot go on fails")]
mod play;
mod postgresql;
mod redis;
mod route;
mod routes;
mod sql;
mod stream;

pub use http1::HttpOne;
pub use http2::HttpTwo;
pub use pending::{Fifo, Pair, WAITING_MAX};
pub use route::route;
pub use routes::{ROUTES_MAX, Routes};
pub use stream::{CARRY_BYTES_MAX, Measure, Message, Stream};

use ollystack_ebpf::sniff;
use ollystack_record::Attribute;
use std::borrow::Cow;

/// What one connection's parser may hold: its waiting requests, and the starts of two messages.
pub const HELD_BYTES_MAX: usize = 64 * 1024;

/// Who sent bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that asks.
    Client,
    /// The side that answers.
    Server,
}

/// When something happened, and on which thread of this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds of the kernel's monotonic clock: entry of a call that sent, exit of one that received.
    pub time_ns: u64,
    /// Thread.
    pub thread: u32,
}

/// What one call moved.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Who sent it.
    pub from: Side,
    /// When, and by whom on this host.
    pub at: Moment,
    /// Bytes that this side sent before, wrapping around. Calls may be missing between two chunks: then it jumps.
    pub position: u32,
    /// Bytes that the call moved.
    pub length: u32,
    /// The first of them, as many as were copied.
    pub bytes: &'a [u8],
    /// First of its side after the other side spoke, or of the connection: most likely a message begins here.
    pub is_turn: bool,
}

/// What the span is to be of, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request with an answer.
    Call,
    /// Messages given to a broker.
    Publish,
    /// Messages taken from a broker, or pushed by it.
    Receive,
}

/// An adopted trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Trace.
    pub trace: [u8; 16],
    /// Span that asked.
    pub parent: [u8; 8],
    /// W3C trace flags.
    pub flags: u8,
}

/// A request and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// The span's name, of low cardinality: `GET /users/{id}`, `SELECT shop.orders`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// When the request began.
    pub asked: Moment,
    /// When the answer began; the same as `asked` where the protocol has none.
    pub answered: Moment,
    /// By OpenTelemetry's semantic conventions: everything that the connection itself does not tell.
    pub attributes: Vec<Attribute>,
    /// `error.type`, if the answer says that it failed.
    pub error: Option<Cow<'static, str>>,
    /// The failure is the client's own: a server's span then is no error (HTTP 404).
    pub is_fault_of_client: bool,
    /// The caller's trace context.
    pub context: Option<Context>,
}

/// What a parser found, and what did not become an exchange.
#[derive(Debug, Default)]
pub struct Found {
    /// Requests with their answers.
    pub exchanges: Vec<Exchange>,
    /// Requests that began, with their callers' contexts: of those protocols whose servers ask others in turn.
    pub asked: Vec<(Moment, Option<Context>)>,
    /// Requests whose connection ended or fell silent before an answer was seen.
    pub unanswered: u64,
    /// Answers whose request was not seen.
    pub unpaired: u64,
    /// Requests behind a gap.
    pub lost: u64,
    /// Requests beyond [`WAITING_MAX`].
    pub over_limit: u64,
}

/// The parser of one connection.
pub trait Protocol: Send {
    /// Take a chunk; chunks of both sides come in the order in which the kernel wrote them.
    fn take(&mut self, chunk: &Chunk<'_>, found: &mut Found);

    /// Chunks were lost: let go of what can no longer be joined, count it as lost, and go on with what comes.
    fn gap(&mut self, found: &mut Found);

    /// The connection is over: what waits is unanswered.
    fn end(&mut self, found: &mut Found);
}

/// The parser for a protocol that the kernel recognised.
pub fn parser(protocol: u8) -> Option<Box<dyn Protocol>> {
    match protocol {
        sniff::HTTP1 => Some(Box::<HttpOne>::default()),
        sniff::HTTP2 => Some(Box::<HttpTwo>::default()),
        sniff::NATS => Some(Box::<nats::Nats>::default()),
        sniff::DNS => Some(Box::<dns::Dns>::default()),
        sniff::MONGODB => Some(Box::<mongodb::MongoDb>::default()),
        sniff::AMQP => Some(Box::<amqp::Amqp>::default()),
        sniff::KAFKA => Some(Box::<kafka::Kafka>::default()),
        sniff::POSTGRESQL => Some(Box::<postgresql::PostgreSql>::default()),
        sniff::MYSQL => Some(Box::<mysql::MySql>::default()),
        sniff::REDIS => Some(Box::<redis::Redis>::default()),
        _ => None,
    }
}
