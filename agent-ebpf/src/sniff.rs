//! Which protocol a connection speaks, by the first bytes of what a call moved.
//!
//! Compiled twice: into the kernel programs, which decide by it what to copy, and into the agent, where it is tested and
//! fuzzed. So it looks at fixed places only: no loops over lengths, no slices, nothing that may panic. There each is a function of its own, so that the
//! verifier looks at one after the other, not at all their combinations. A row is one
//! protocol; the parser of the same number is in `agent/inputs/ebpf/protocols`. Invariant: what matches is a message of the
//! protocol with a chance of error that is small per message, as a connection that was recognised wrongly is lost for good.

use crate::http2;

mod databases;

/// Bytes that are looked at. Behind what a call moved they are zero.
pub const PREFIX_BYTES: usize = 32;

/// Not known yet.
pub const UNKNOWN: u8 = 0;
/// HTTP/1.x.
pub const HTTP1: u8 = 1;
/// HTTP/2, and gRPC over it.
pub const HTTP2: u8 = 2;
/// PostgreSQL.
pub const POSTGRESQL: u8 = 3;
/// MySQL and MariaDB.
pub const MYSQL: u8 = 4;
/// Redis.
pub const REDIS: u8 = 5;
/// Kafka.
pub const KAFKA: u8 = 6;
/// MongoDB.
pub const MONGODB: u8 = 7;
/// NATS.
pub const NATS: u8 = 8;
/// AMQP 0-9-1.
pub const AMQP: u8 = 9;
/// DNS, over UDP or TCP.
pub const DNS: u8 = 10;
/// TLS: what is in it shows elsewhere, if at all.
pub const TLS: u8 = 11;

/// Set beside a protocol's number where the server says so.
pub const BY_SERVER: u8 = 0x80;

/// A protocol's number, with [`BY_SERVER`] where it is; [`UNKNOWN`] if it is none. One byte, because the kernel wants its functions
/// to return whole registers.
pub type Sniffed = u8;

const fn client(protocol: u8) -> Sniffed {
    protocol
}

const fn server(protocol: u8) -> Sniffed {
    protocol | BY_SERVER
}

const fn when(is_found: bool, found: Sniffed) -> Sniffed {
    if is_found { found } else { UNKNOWN }
}

/// What is looked at: together in memory, as the kernel's verifier would follow a length in a register through every comparison.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Seen {
    /// The first bytes; zeros behind what the call moved.
    pub bytes: [u8; PREFIX_BYTES],
    /// Bytes that the call moved.
    pub length: u32,
}

/// What the first bytes of a call are of.
#[inline(always)]
pub fn sniff(seen: &Seen) -> Sniffed {
    if is_http1_request(seen) {
        return client(HTTP1);
    }
    if is_http1_response(seen) {
        return server(HTTP1);
    }
    if is_http2_preface(seen) {
        return client(HTTP2);
    }
    if is_tls(seen) {
        return client(TLS);
    }
    let found = databases::mysql(seen);
    if found != UNKNOWN {
        return found;
    }
    let found = databases::postgresql(seen);
    if found != UNKNOWN {
        return found;
    }
    let found = databases::redis(seen);
    if found != UNKNOWN {
        return found;
    }
    let found = nats(seen);
    if found != UNKNOWN {
        return found;
    }
    let found = mongodb(seen);
    if found != UNKNOWN {
        return found;
    }
    let found = amqp(seen);
    if found != UNKNOWN {
        return found;
    }
    let found = dns(seen);
    if found != UNKNOWN {
        return found;
    }
    if is_kafka_request(seen) {
        return client(KAFKA);
    }
    http2_headers(seen)
}

#[inline(always)]
fn is_visible(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~')
}

/// A line of the protocol; what both sides may say is left out.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn nats(seen: &Seen) -> Sniffed {
    let p = &seen.bytes;
    let spaced = p[4] == b' ' && is_visible(p[5]);
    match &[p[0], p[1], p[2], p[3]] {
        b"PUB " | b"SUB " if is_visible(p[4]) => client(NATS),
        b"HPUB" if spaced => client(NATS),
        b"CONN" if p[4] == b'E' && p[5] == b'C' && p[6] == b'T' && p[7] == b' ' && p[8] == b'{' => client(NATS),
        b"MSG " if is_visible(p[4]) => server(NATS),
        b"HMSG" if spaced => server(NATS),
        b"INFO" if p[4] == b' ' && p[5] == b'{' && p[6] == b'"' => server(NATS),
        _ => UNKNOWN,
    }
}

/// A message's head, also by itself: an operation of the list, and what it has to begin with.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn mongodb(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    let bytes = u32::from_le_bytes([p[0], p[1], p[2], p[3]]);
    let is_request = u32::from_le_bytes([p[8], p[9], p[10], p[11]]) == 0;
    let inner = u32::from_le_bytes([p[16], p[17], p[18], p[19]]);
    let is_message = match u32::from_le_bytes([p[12], p[13], p[14], p[15]]) {
        // Flags, then the kind of the first section.
        2013 => inner & !0x0001_0003 == 0 && p[20] <= 1,
        // Flags, then the name of a collection.
        2004 => inner <= 0xFF && (length == 16 || is_visible(p[20])) && is_request,
        // The operation that was compressed.
        2012 => matches!(inner, 2013 | 2004 | 1) || length == 16,
        1 => inner <= 0xF && bytes == length && !is_request,
        _ => false,
    };
    if !is_message || bytes <= 16 || bytes > 48_000_000 || length < 16 {
        return UNKNOWN;
    }
    if is_request { client(MONGODB) } else { server(MONGODB) }
}

/// The protocol's header, or a whole method of the list. Both sides may open, close and settle.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn amqp(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    if p[0] == b'A' && p[1] == b'M' && p[2] == b'Q' && p[3] == b'P' && p[4] == 0 && p[5] == 0 && p[6] == 9 && p[7] == 1
    {
        return client(AMQP);
    }
    let payload_bytes = u32::from_be_bytes([p[3], p[4], p[5], p[6]]);
    if p[0] != 1
        || p[1] > 0x0F
        || p[3] != 0
        || p[7] != 0
        || p[9] != 0
        || payload_bytes < 4
        || payload_bytes + 8 > length
    {
        return UNKNOWN;
    }
    match (p[8], p[10]) {
        (10, 11 | 31 | 40)
        | (20, 10)
        | (40, 10 | 20 | 30 | 40)
        | (50, 10 | 20 | 30 | 40 | 50)
        | (60, 10 | 20 | 30 | 40 | 70 | 110)
        | (85, 10)
        | (90, 10 | 20 | 30) => client(AMQP),
        (10, 10 | 30 | 41)
        | (20, 11)
        | (40, 11 | 21 | 31 | 51)
        | (50, 11 | 21 | 31 | 41 | 51)
        | (60, 11 | 21 | 31 | 50 | 60 | 71 | 72 | 111)
        | (85, 11)
        | (90, 11 | 21 | 31) => server(AMQP),
        _ => UNKNOWN,
    }
}

/// A standard query or its answer, over TCP behind its length. Multicast DNS has the identifier 0.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn dns(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    let found =
        dns_message([p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13]], length);
    if found != UNKNOWN {
        return found;
    }
    if u32::from(u16::from_be_bytes([p[0], p[1]])) + 2 != length {
        return UNKNOWN;
    }
    dns_message([p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]], length - 2)
}

#[inline(always)]
fn dns_message(p: [u8; 14], length: u32) -> Sniffed {
    // Twelve bytes of head, a name of at least one byte, its type and class: one question.
    let is_message = length >= 17 && (p[0] | p[1]) != 0 && p[4] == 0 && p[5] == 1 && p[3] & 0x40 == 0;
    // The first label of the name, or the root.
    let is_name = p[12] == 0 && p[13] == 0 || matches!(p[12], 1..=63) && is_visible(p[13]);
    if !is_message || !is_name {
        return UNKNOWN;
    }
    // No answers in a query, and at most an option and a signature besides.
    if p[2] & 0xFE == 0
        && p[3] & 0xCF == 0
        && p[6] == 0
        && p[7] == 0
        && p[8] == 0
        && p[9] == 0
        && p[10] == 0
        && p[11] <= 2
    {
        return when(length <= 512, client(DNS));
    }
    let is_answer = p[2] & 0xF8 == 0x80 && p[3] & 0x0F <= 10 && p[6] == 0 && p[8] == 0 && p[10] == 0;
    when(is_answer, server(DNS))
}

/// A request, with its size before it or by itself, as some read it: a key and a version of the list, and a client's name.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn is_kafka_request(seen: &Seen) -> bool {
    let (p, length) = (&seen.bytes, seen.length);
    let size = u32::from_be_bytes([p[0], p[1], p[2], p[3]]);
    if size == length.wrapping_sub(4) && size >= 10 {
        // A client may have no name: then the size alone tells.
        let is_nameless = p[12] == 0xFF && p[13] == 0xFF;
        return is_kafka_head(
            [p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17], p[18], p[19]],
            length,
        ) || is_nameless && is_kafka_key(p[4], p[5], p[6], p[7]) && p[8] < 0x10;
    }
    // Several at once, or one that is longer than the call; or none has a size here.
    (12..100 << 20).contains(&size)
        && length > 16
        && p[8] == 0
        && is_kafka_head(
            [p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17], p[18], p[19]],
            length,
        )
        || is_bare_kafka_request(p, length)
}

/// A request whose size was read by a call before.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn is_bare_kafka_request(p: &[u8; PREFIX_BYTES], length: u32) -> bool {
    p[4] == 0
        && length > 12
        && is_kafka_head(
            [p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]],
            length,
        )
}

/// Producing and fetching since Kafka 0.11; the other versions with some room above those of Kafka 4.
#[inline(always)]
fn is_kafka_key(a: u8, key: u8, c: u8, version: u8) -> bool {
    let is_known = match key {
        0 => matches!(version, 3..=15),
        1 => matches!(version, 4..=20),
        2..=16 => version <= 14,
        17..=92 => version <= 8,
        _ => false,
    };
    a == 0 && c == 0 && is_known
}

/// Key, version, number of the request (of few bits, as it counts from 0), and a name of at least three letters.
#[inline(always)]
fn is_kafka_head(p: [u8; 16], length: u32) -> bool {
    let name = p[9];
    let is_letter = |number: u8, byte: u8| name <= number || is_visible(byte);
    let is_name = p[8] == 0 && matches!(name, 3..=127) && name as u32 + 10 <= length && p[10].is_ascii_alphanumeric();
    let are_letters =
        is_visible(p[11]) && is_visible(p[12]) && is_letter(3, p[13]) && is_letter(4, p[14]) && is_letter(5, p[15]);
    is_name && are_letters && is_kafka_key(p[0], p[1], p[2], p[3]) && p[4] < 0x10
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn is_http2_preface(seen: &Seen) -> bool {
    let p = &seen.bytes;
    let first = [p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]];
    let then = [p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15]];
    let last = [p[16], p[17], p[18], p[19], p[20], p[21], p[22], p[23]];
    &first == b"PRI * HT" && &then == b"TP/2.0\r\n" && &last == b"\r\nSM\r\n\r\n"
}

/// A record of TLS 1.0 to 1.3 (RFC 8446, 5.1): the first of a handshake, or of data on a connection that was joined midway. Many libraries
/// read its head by itself.
#[cfg_attr(target_arch = "bpf", inline(never))]
fn is_tls(seen: &Seen) -> bool {
    const HANDSHAKE: u8 = 22;
    const DATA: u8 = 23;
    const PAYLOAD_BYTES_MAX: u16 = (1 << 14) + 2048;
    const MESSAGE_HEAD_BYTES: u16 = 4;
    let p = &seen.bytes;
    let bytes = u16::from_be_bytes([p[3], p[4]]);
    let is_hello = bytes >= MESSAGE_HEAD_BYTES && (seen.length == 5 || matches!(p[5], 1 | 2) && p[6] == 0);
    let is_record = seen.length >= 5 && p[1] == 3 && bytes > 0 && bytes <= PAYLOAD_BYTES_MAX;
    is_record && (p[0] == HANDSHAKE && matches!(p[2], 1..=3) && is_hello || p[0] == DATA && p[2] == 3)
}

/// A request or an answer of a connection that was joined midway: a whole block of fields of a client's stream, which begins
/// with two of a request's own fields, or with a status (RFC 7541, appendix A, tells their indices).
#[cfg_attr(target_arch = "bpf", inline(never))]
fn http2_headers(seen: &Seen) -> Sniffed {
    let (p, length) = (&seen.bytes, seen.length);
    let frame = http2::frame(&[p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8]]);
    let is_block = frame.kind == http2::HEADERS && frame.flags & http2::END_HEADERS != 0 && frame.is_likely();
    if !is_block || p[5] & 0x80 != 0 || frame.stream & 1 == 0 || frame.bytes() > length {
        return UNKNOWN;
    }
    let [a, b, c, d] = match frame.flags & (http2::PADDED | http2::WITH_PRIORITY) {
        0 => [p[9], p[10], p[11], p[12]],
        http2::WITH_PRIORITY => [p[14], p[15], p[16], p[17]],
        _ => return UNKNOWN,
    };
    let of_request = |field: u8| matches!(field, 0x82..=0x87);
    let may_precede = |field: u8| of_request(field) || field >= 0xBE;
    // Two of a request's own among the first four, with nothing but them and the dynamic table's before; or one, and then
    // :path or :authority as a literal.
    let literal = |field: u8| matches!(field, 0x01 | 0x04 | 0x05 | 0x11 | 0x14 | 0x41 | 0x44 | 0x45);
    let two = of_request(a) && of_request(b) && a != b
        || may_precede(a) && may_precede(b) && of_request(c) && (of_request(a) || of_request(b) || of_request(d));
    let one = of_request(a) && (literal(b) || b >= 0xBE) || a >= 0xBE && of_request(b);
    if frame.payload_bytes > 2 && (two || one) {
        return client(HTTP2);
    }
    // A status of the static table, or as a literal of three digits.
    let is_literal = matches!(a, 0x08 | 0x48) && matches!(b, 0x03 | 0x82 | 0x83);
    when(matches!(a, 0x88..=0x8E) || is_literal, server(HTTP2))
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn is_http1_response(seen: &Seen) -> bool {
    let p = &seen.bytes;
    p[0] == b'H' && p[1] == b'T' && p[2] == b'T' && p[3] == b'P' && p[4] == b'/' && p[5] == b'1' && p[6] == b'.'
}

#[cfg_attr(target_arch = "bpf", inline(never))]
fn is_http1_request(seen: &Seen) -> bool {
    let p = &seen.bytes;
    let first = [p[0], p[1], p[2], p[3]];
    let then = [p[4], p[5], p[6], p[7]];
    match &first {
        b"GET " | b"PUT " => true,
        b"POST" | b"HEAD" => p[4] == b' ',
        b"PATC" => p[4] == b'H' && p[5] == b' ',
        b"TRAC" => p[4] == b'E' && p[5] == b' ',
        b"DELE" => p[4] == b'T' && p[5] == b'E' && p[6] == b' ',
        b"OPTI" => &then == b"ONS ",
        // NATS has an object there.
        b"CONN" => &then == b"ECT " && p[8] != b'{',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::vec::Vec;

    fn sniffed(bytes: &[u8]) -> Option<Sniffed> {
        let mut prefix = [0; PREFIX_BYTES];
        let length = bytes.len().min(PREFIX_BYTES);
        prefix[..length].copy_from_slice(&bytes[..length]);
        Some(sniff(&Seen { bytes: prefix, length: bytes.len() as u32 })).filter(|found| *found != UNKNOWN)
    }

    #[test]
    fn http1_is_known_by_its_methods_and_its_status_line() {
        for method in ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"] {
            assert_eq!(sniffed(format!("{method} / HTTP/1.1\r\n").as_bytes()), Some(client(HTTP1)), "{method}");
            assert_eq!(sniffed(format!("{method}/").as_bytes()), None, "{method}");
        }
        assert_eq!(sniffed(b"HTTP/1.0 404 Not Found\r\n"), Some(server(HTTP1)));
        assert_eq!(sniffed(b"HTTP/2 200"), None);
    }

    #[test]
    fn http2_is_known_by_its_preface_and_by_heads_of_its_streams() {
        assert_eq!(sniffed(http2::PREFACE), Some(client(HTTP2)));
        assert_eq!(sniffed(b"PRI * HTTP/2.0\r\n\r\nXX"), None);
        let with_priority = [0, 0, 8, 1, 0x25, 0, 0, 0, 1, 0, 0, 0, 0, 16, 0x82, 0x86, 0x84];
        let table: [(&[u8], Option<Sniffed>); 14] = [
            (&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84], Some(client(HTTP2))),
            (&[0, 0, 4, 1, 4, 0, 0, 1, 7, 0x83, 0x44, 0x01, b'/'], Some(client(HTTP2))),
            (&[0, 0, 3, 1, 4, 0, 0, 1, 7, 0xBF, 0x83, 0xC0], Some(client(HTTP2))),
            (&[0, 0, 8, 1, 4, 0, 0, 0, 5, 0xC3, 0xC2, 0x83, 0x86, 0xC1, 0xC0, 0xBF, 0xBE], Some(client(HTTP2))),
            (&with_priority, Some(client(HTTP2))),
            (&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x89], Some(server(HTTP2))),
            (&[0, 0, 5, 1, 4, 0, 0, 0, 1, 0x48, 0x03, b'2', b'0', b'1'], Some(server(HTTP2))),
            // Of no client's stream, not whole, with flags of other types, with trailers' fields, another type.
            (&[0, 0, 3, 1, 5, 0, 0, 0, 2, 0x82, 0x86, 0x84], None),
            (&[0, 0, 3, 1, 5, 0, 0, 0, 0, 0x82, 0x86, 0x84], None),
            (&[0, 0, 9, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84], None),
            (&[0, 0, 3, 1, 1, 0, 0, 0, 1, 0x82, 0x86, 0x84], None),
            (&[0, 0, 3, 1, 0x45, 0, 0, 0, 1, 0x82, 0x86, 0x84], None),
            (&[0, 0, 3, 1, 5, 0, 0, 0, 1, 0x40, 0x02, b'x'], None),
            (&[0, 0, 3, 0, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84], None),
        ];
        for (bytes, expected) in table {
            assert_eq!(sniffed(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn tls_is_known_by_its_hellos_by_a_record_s_head_alone_and_by_data_midway() {
        let table: [(&[u8], bool); 9] = [
            (&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], true),
            (&[22, 3, 3, 0, 0x7A, 2, 0, 0, 0x76, 3, 3], true),
            (&[22, 3, 1, 2, 0], true),
            (&[23, 3, 3, 0, 0x45, 0x9A, 0x10, 0xFF], true),
            // Another message, another version, too long, empty, too short.
            (&[22, 3, 1, b' ', b'G', b'E', b'T'], false),
            (&[22, 3, 4, 2, 0, 1, 0, 1, 0xFC], false),
            (&[23, 3, 3, 0x80, 0, 1, 2, 3], false),
            (&[23, 3, 3, 0, 0], false),
            (&[22, 3, 1, 2], false),
        ];
        for (bytes, expected) in table {
            assert_eq!(sniffed(bytes), expected.then_some(client(TLS)), "{bytes:?}");
        }
    }

    #[test]
    fn messages_of_brokers_databases_and_names_are_known_by_their_heads() {
        let amqp = |class: u8, method: u8| [1, 0, 1, 0, 0, 0, 5, 0, class, 0, method, 0, 0xCE];
        let mongodb = |to: u8, operation: u16, rest: &[u8]| {
            let [low, high] = operation.to_le_bytes();
            [&[16 + rest.len() as u8, 0, 0, 0, 7, 0, 0, 0, to, 0, 0, 0, low, high, 0, 0], rest].concat()
        };
        let dns = |flags: [u8; 2], answers: u8| {
            [&[0x12, 0x34, flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, 0][..], b"\x04shop\0\0\x01\0\x01"].concat()
        };
        let kafka = |name: &[u8]| [&[0, 3, 0, 12, 0, 0, 0, 7, 0, name.len() as u8][..], name, &[0, 0, 0]].concat();
        let sized = |bytes: Vec<u8>| [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        let over_tcp = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
        let table = [
            (b"CONNECT {\"verbose\":false}\r\n".to_vec(), Some(client(NATS))),
            (b"CONNECT host:443 HTTP/1.1\r\n".to_vec(), Some(client(HTTP1))),
            (b"PUB a 0\r\n\r\n".to_vec(), Some(client(NATS))),
            (b"HPUB a 12 12\r\n".to_vec(), Some(client(NATS))),
            (b"MSG a 1 0\r\n\r\n".to_vec(), Some(server(NATS))),
            (b"INFO {\"server_id\":\"x\"".to_vec(), Some(server(NATS))),
            (b"PUBLISH a 0\r\n".to_vec(), None),
            (b"INFO server\r\n".to_vec(), None),
            (b"PING\r\n".to_vec(), None),
            (b"AMQP\0\0\x09\x01".to_vec(), Some(client(AMQP))),
            (b"AMQP\0\x01\0\0".to_vec(), None),
            (amqp(50, 10).to_vec(), Some(client(AMQP))),
            (amqp(60, 60).to_vec(), Some(server(AMQP))),
            (amqp(20, 40).to_vec(), None),
            (amqp(70, 10).to_vec(), None),
            (amqp(50, 10)[..12].to_vec(), None),
            (mongodb(0, 2013, &[0, 0, 0, 0, 0, 9]), Some(client(MONGODB))),
            (mongodb(5, 2013, &[0, 0, 0, 0, 0, 9]), Some(server(MONGODB))),
            (mongodb(0, 2013, &[9; 20])[..16].to_vec(), Some(client(MONGODB))),
            (mongodb(0, 2004, b"\0\0\0\0admin.$cmd\0"), Some(client(MONGODB))),
            (mongodb(5, 2012, &[0xDD, 7, 0, 0, 9, 0, 0, 0, 2]), Some(server(MONGODB))),
            (mongodb(5, 1, &[8, 0, 0, 0, 0, 0, 0, 0]), Some(server(MONGODB))),
            (mongodb(0, 1, &[8, 0, 0, 0, 0, 0, 0, 0]), None),
            (mongodb(0, 2013, &[4, 0, 0, 0, 0, 9]), None),
            (mongodb(0, 2014, &[0, 0, 0, 0, 0, 9]), None),
            (dns([1, 0], 0), Some(client(DNS))),
            (dns([0x81, 0x83], 0), Some(server(DNS))),
            (over_tcp(dns([1, 0x20], 0)), Some(client(DNS))),
            (over_tcp(dns([0x81, 0x80], 3)), Some(server(DNS))),
            (dns([1, 0], 1), None),
            (dns([0x28, 0], 0), None),
            (dns([1, 0x40], 0), None),
            (sized(kafka(b"rdkafka")), Some(client(KAFKA))),
            (kafka(b"producer-1"), Some(client(KAFKA))),
            ([sized(kafka(b"app")), sized(kafka(b"app"))].concat(), Some(client(KAFKA))),
            (sized(b"\0\x12\0\x03\0\0\0\x01\xFF\xFF\0".to_vec()), Some(client(KAFKA))),
            (sized(b"\0\x72\0\x03\0\0\0\x01\0\x03app".to_vec()), None),
            (b"\0\0\0\x09\0\x12\0\x03\0\0\0\x01\xFF\xFF\0".to_vec(), None),
        ];
        for (bytes, expected) in table {
            assert_eq!(sniffed(&bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_of_no_protocol_or_of_others_is_taken_for_none_of_them() {
        let table: [&[u8]; 16] = [
            &[0; 32],
            &[0xFF; 32],
            &[1; 32],
            // PostgreSQL: TLS wanted, the start with a user of any name, a query, an answer; MySQL: greeting, query, columns.
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0shop\0\0",
            b"Q\0\0\0\x0dSELECT 1\0",
            b"T\0\0\0\x21\0\x01?column?\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0",
            b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0",
            b"\x09\0\0\0\x03SELECT 1",
            b"\x01\0\0\x01\x05\x2d\0\0\x02\x03def\0\0\0\x0c_utf8\0",
            // Redis, memcached, TLS, HTTP/2 settings, SSH, multicast DNS.
            b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
            b"set key 0 0 5\r\nvalue\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0\0\x06\0\0\x40\0",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\0\0\0\0\0\x01\0\0\0\0\0\0\x05local\0\0\x0c\0\x01",
        ];
        let is_one = |bytes: &[u8]| {
            sniffed(bytes).is_some_and(|found| matches!(found & !BY_SERVER, KAFKA | MONGODB | NATS | AMQP | DNS))
        };
        for bytes in table {
            assert!(!is_one(bytes), "{bytes:x?}");
        }
        // Chance, with the zeros of binary heads: of each byte every second time.
        let mut state = 7_u64;
        for _ in 0..400_000 {
            let mut bytes = [0; PREFIX_BYTES];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = if state >> 63 == 0 { (state >> 48) as u8 } else { 0 };
            }
            assert!(!is_one(&bytes), "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_no_http2_is_not_taken_for_it() {
        let table: [&[u8]; 9] = [
            &[0; 32],
            &[0xFF; 32],
            // PostgreSQL's first messages, MySQL's packets, Kafka's and MongoDB's heads, TLS, DNS over TCP.
            b"\0\0\0\x08\x04\xd2\x16\x2f",
            b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0shop\0\0",
            b"\x01\0\0\x01\x05\x2d\0\0\x02\x03def\0\0\0\x0c_utf8\0",
            b"\0\0\x01\x01\0\x03\0\x0c\0\0\0\x07\0\x0brdkafka",
            b"\0\x01\0\0\x05\0\0\0\x01\0\0\0\xdd\x07\0\0\0\0\0\0\0",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            b"\0\x1d\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05local\0\0\x01\0\x01",
        ];
        let is_http2 = |bytes: &[u8]| sniffed(bytes).is_some_and(|found| found & !BY_SERVER == HTTP2);
        for bytes in table {
            assert!(!is_http2(bytes), "{bytes:x?}");
        }
        // Chance: bytes of a linear congruence, the first always zero as in most binary heads.
        let mut state = 1_u64;
        for _ in 0..200_000 {
            let mut bytes = [0; PREFIX_BYTES];
            for byte in &mut bytes[1..] {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
            assert!(!is_http2(&bytes), "{bytes:x?}");
        }
    }
}
