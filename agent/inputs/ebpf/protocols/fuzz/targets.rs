//! Fuzz targets of what applications say over sockets: a conversation with every protocol's parser, as the kernel might tell it.
//!
//! Invariants held here: nothing panics, whatever bytes come, cut wherever; no name is long, no time runs backwards, and what
//! a connection holds stays within its limit.

use crate::amqp::Amqp;
use crate::dns::Dns;
use crate::kafka::Kafka;
use crate::mongodb::MongoDb;
use crate::mysql::MySql;
use crate::nats::Nats;
use crate::postgresql::PostgreSql;
use crate::redis::Redis;
use crate::{Chunk, Found, HELD_BYTES_MAX, HttpOne, HttpTwo, Moment, Protocol, Side};

/// HTTP/1.x, and what it is upgraded to.
pub fn http1(data: &[u8]) {
    conversation::<HttpOne>(data, |_| 0);
}

/// HTTP/2 and gRPC.
pub fn http2(data: &[u8]) {
    conversation::<HttpTwo>(data, |parser| size_of::<HttpTwo>() + parser.held_bytes());
}

/// AMQP 0-9-1.
pub fn amqp(data: &[u8]) {
    conversation::<Amqp>(data, |parser| size_of::<Amqp>() + parser.held_bytes());
}

/// DNS over UDP or TCP.
pub fn dns(data: &[u8]) {
    conversation::<Dns>(data, |parser| size_of::<Dns>() + parser.held_bytes());
}

/// Kafka.
pub fn kafka(data: &[u8]) {
    conversation::<Kafka>(data, |parser| size_of::<Kafka>() + parser.held_bytes());
}

/// MongoDB.
pub fn mongodb(data: &[u8]) {
    conversation::<MongoDb>(data, |parser| size_of::<MongoDb>() + parser.held_bytes());
}

/// NATS, and JetStream over it.
pub fn nats(data: &[u8]) {
    conversation::<Nats>(data, |parser| size_of::<Nats>() + parser.held_bytes());
}

/// PostgreSQL.
pub fn postgresql(data: &[u8]) {
    conversation::<PostgreSql>(data, |parser| size_of::<PostgreSql>() + parser.held_bytes());
}

/// MySQL and MariaDB.
pub fn mysql(data: &[u8]) {
    conversation::<MySql>(data, |parser| size_of::<MySql>() + parser.held_bytes());
}

/// Redis.
pub fn redis(data: &[u8]) {
    conversation::<Redis>(data, |parser| size_of::<Redis>() + parser.held_bytes());
}

/// Calls, each with two bytes before it: the lowest bit says whose, the next two how it is told (whole, cut, not at all, or
/// lost with a gap), the others how long it is.
fn conversation<P: Protocol + Default>(data: &[u8], held_bytes: impl Fn(&P) -> usize) {
    let (mut parser, mut found) = (P::default(), Found::default());
    let (mut positions, mut last, mut time_ns) = ([0_u32; 2], None, 0);
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<2>() {
        let head = u16::from_le_bytes(*head);
        let (bytes, tail) = tail.split_at(tail.len().min(usize::from(head >> 3)));
        rest = tail;
        let from = if head & 1 == 0 { Side::Client } else { Side::Server };
        let (position, length) = (positions[from as usize], bytes.len() as u32);
        positions[from as usize] = position.wrapping_add(length);
        time_ns += 1;
        let copied = match head >> 1 & 3 {
            0 => bytes,
            1 => &bytes[..bytes.len() / 2],
            2 => continue,
            _ => {
                parser.gap(&mut found);
                last = None;
                continue;
            }
        };
        let (at, is_turn) = (Moment { time_ns, thread: 1 }, last != Some(from));
        last = Some(from);
        parser.take(&Chunk { from, at, position, length, bytes: copied, is_turn }, &mut found);
        assert!(held_bytes(&parser) <= HELD_BYTES_MAX, "more is held than may be");
    }
    parser.end(&mut found);
    for exchange in &found.exchanges {
        assert!(exchange.name.len() <= 200, "a name of {} bytes", exchange.name.len());
        assert!(exchange.asked.time_ns <= exchange.answered.time_ns, "an answer before its request");
    }
}
