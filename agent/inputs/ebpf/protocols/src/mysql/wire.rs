//! Packets of the MySQL protocol: how long each is, and the few fields that are read.
//!
//! A packet is its length in three bytes, least significant first, a count within command and answer, and its body. Invariant:
//! a command has the count 0 and a number that the protocol knows; what is not all there is not read.

use crate::sql::TEXT_BYTES_MAX;
use crate::{Context, Measure};

/// Bytes before a body.
pub(super) const HEAD_BYTES: usize = 4;

pub(super) const QUIT: u8 = 0x01;
pub(super) const INIT_DB: u8 = 0x02;
pub(super) const QUERY: u8 = 0x03;
pub(super) const FIELD_LIST: u8 = 0x04;
pub(super) const STATISTICS: u8 = 0x09;
pub(super) const CHANGE_USER: u8 = 0x11;
pub(super) const BINLOG_DUMP: u8 = 0x12;
pub(super) const PREPARE: u8 = 0x16;
pub(super) const EXECUTE: u8 = 0x17;
pub(super) const LONG_DATA: u8 = 0x18;
pub(super) const CLOSE: u8 = 0x19;
pub(super) const FETCH: u8 = 0x1c;
pub(super) const BINLOG_DUMP_GTID: u8 = 0x1e;
pub(super) const RESET: u8 = 0x1f;
pub(super) const BULK_EXECUTE: u8 = 0xfa;
/// To log in, which is no command.
pub(super) const CONNECT: u8 = 0;

/// Commands by their number.
const NAMES: [&str; 0x20] = [
    "CONNECT",
    "QUIT",
    "USE",
    "QUERY",
    "FIELD LIST",
    "CREATE DATABASE",
    "DROP DATABASE",
    "REFRESH",
    "SHUTDOWN",
    "STATISTICS",
    "PROCESS INFO",
    "CONNECT",
    "KILL",
    "DEBUG",
    "PING",
    "TIME",
    "INSERT",
    "CHANGE USER",
    "BINLOG DUMP",
    "TABLE DUMP",
    "CONNECT OUT",
    "REGISTER SLAVE",
    "PREPARE",
    "EXECUTE",
    "LONG DATA",
    "CLOSE",
    "RESET STATEMENT",
    "SET OPTION",
    "FETCH",
    "DAEMON",
    "BINLOG DUMP",
    "RESET CONNECTION",
];

/// The name of a command that has no SQL.
pub(super) fn name(command: u8) -> &'static str {
    NAMES.get(usize::from(command)).copied().unwrap_or("EXECUTE")
}

/// Capabilities of both sides.
const CONNECT_WITH_DB: u32 = 1 << 3;
const COMPRESS: u32 = 1 << 5;
const PROTOCOL_41: u32 = 1 << 9;
const SSL: u32 = 1 << 11;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
const ZSTD_COMPRESSION: u32 = 1 << 26;

/// Flags of the server's status.
const MORE_RESULTS_EXIST: u16 = 1 << 3;
const CURSOR_EXISTS: u16 = 1 << 6;
const LAST_ROW_SENT: u16 = 1 << 7;
const NO_BACKSLASH_ESCAPES: u16 = 1 << 9;

/// More columns than a table may have.
const COLUMNS_MAX: u64 = 4_096;
/// Attributes of a query that are stepped over.
const ATTRIBUTES_MAX: u8 = 8;

fn length_of(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk::<HEAD_BYTES>().map(|head| u32::from_le_bytes([head[0], head[1], head[2], 0]))
}

/// How long a client's packet is; whether it may go on with what is no command: logging in, or a file.
pub(super) fn measure_request(bytes: &[u8], goes_on: bool) -> Measure {
    let Some(body) = length_of(bytes) else { return Measure::More };
    let length = HEAD_BYTES as u32 + body;
    if bytes[3] != 0 {
        return if goes_on { Measure::Whole { length, wanted: 512 } } else { Measure::Invalid };
    }
    let wanted = match bytes.get(HEAD_BYTES) {
        _ if body == 0 => return Measure::Invalid,
        None => return Measure::More,
        Some(&(QUERY | PREPARE)) => TEXT_BYTES_MAX as u32 + 5,
        Some(&INIT_DB) => 5 + 64,
        Some(0x01..=0x1f | &BULK_EXECUTE) => 9,
        Some(_) => return Measure::Invalid,
    };
    Measure::Whole { length, wanted }
}

/// How long a server's packet is.
pub(super) fn measure_response(bytes: &[u8]) -> Measure {
    match length_of(bytes) {
        None => Measure::More,
        Some(0) => Measure::Invalid,
        // The greeting names the server, the others a few numbers.
        Some(body) => Measure::Whole { length: HEAD_BYTES as u32 + body, wanted: if bytes[3] == 0 { 128 } else { 32 } },
    }
}

/// The server's first packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) capabilities: u32,
    pub(super) is_mariadb: bool,
}

pub(super) fn greeting(body: &[u8]) -> Option<Greeting> {
    let mut rest = body.strip_prefix(&[10])?;
    let version = c_string(&mut rest)?;
    // Number of the connection, and the first part of what the password is hashed with.
    let flags = rest.get(13..)?;
    let (low, high) = (flags.first_chunk::<2>()?, flags.get(5..7)?);
    Some(Greeting {
        capabilities: u32::from_le_bytes([low[0], low[1], high[0], high[1]]),
        is_mariadb: version.windows(7).any(|window| window == b"MariaDB"),
    })
}

/// The client's first packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandshakeResponse<'a> {
    pub(super) is_encrypted: bool,
    pub(super) is_compressed: bool,
    pub(super) database: Option<&'a [u8]>,
}

pub(super) fn handshake_response(count: u8, body: &[u8], server: u32) -> Option<HandshakeResponse<'_>> {
    let flags = u32::from_le_bytes(*body.first_chunk()?);
    if count != 1 || flags & PROTOCOL_41 == 0 {
        return None;
    }
    let database = || {
        let mut rest = body.get(32..)?;
        c_string(&mut rest)?;
        if flags & (PLUGIN_AUTH_LENENC | SECURE_CONNECTION) == 0 {
            c_string(&mut rest)?;
        } else {
            let length = number(&mut rest)?;
            rest = rest.get(usize::try_from(length).ok()?..)?;
        }
        c_string(&mut rest).filter(|name| !name.is_empty())
    };
    Some(HandshakeResponse {
        is_encrypted: flags & SSL != 0 && body.len() == 32,
        is_compressed: flags & server & (COMPRESS | ZSTD_COMPRESSION) != 0,
        database: if flags & CONNECT_WITH_DB == 0 { None } else { database() },
    })
}

/// A query's text, and the trace context among its attributes. These stand before the text where both sides know of them; no
/// text begins with their number.
pub(super) fn query(body: &[u8]) -> (&[u8], Option<Context>) {
    match body {
        [0, 1, sql @ ..] => (sql, None),
        // Without what would tell where it begins, none of it is text.
        [count @ 1..=ATTRIBUTES_MAX, 1, rest @ ..] => attributes(*count, rest).unwrap_or_default(),
        sql => (sql, None),
    }
}

fn attributes(count: u8, rest: &[u8]) -> Option<(&[u8], Option<Context>)> {
    let (nulls, rest) = rest.split_at_checked(usize::from(count).div_ceil(8))?;
    let mut rest = rest.strip_prefix(&[1])?;
    let mut types = [(0_u8, false); ATTRIBUTES_MAX as usize];
    for (kind, is_context) in types.iter_mut().take(count.into()) {
        let (head, tail) = rest.split_first_chunk::<2>()?;
        rest = tail;
        (*kind, *is_context) = (head[0], string(&mut rest)? == b"traceparent");
    }
    let mut context = None;
    for (place, (kind, is_context)) in types.iter().take(count.into()).enumerate() {
        if nulls[place / 8] >> (place % 8) & 1 == 1 {
            continue;
        }
        // Numbers have the length of their type, times say theirs in a byte, all else in a number of variable length.
        let fixed = match kind {
            1 => 1,
            2 | 13 => 2,
            3 | 4 | 9 => 4,
            5 | 8 => 8,
            6 => 0,
            _ => {
                let value = string(&mut rest)?;
                context = context.or_else(|| is_context.then(|| crate::http::context(value)).flatten());
                continue;
            }
        };
        rest = rest.get(fixed..)?;
    }
    Some((rest, context))
}

/// What the first byte of a server's packet makes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    Done(Status),
    Error {
        code: u16,
        sqlstate: Option<&'a [u8]>,
    },
    /// Behind definitions or rows.
    End(Status),
    /// The server asks for a file.
    File,
    /// So many columns; whether their definitions follow.
    Columns {
        count: u64,
        follow: bool,
    },
    /// A column's definition.
    Definition,
    /// A row, or data of a login.
    Other,
}

/// What the server says of itself behind a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) has_more: bool,
    /// Rows are to be fetched.
    pub(super) has_cursor: bool,
    pub(super) plain_backslash: bool,
    /// The packet is one of older servers, which stands behind definitions too.
    pub(super) is_mark: bool,
}

/// Tell what a packet is whose body is `length` bytes long; `None` if it is none.
pub(super) fn reply(body: &[u8], length: usize) -> Option<Reply<'_>> {
    let (first, rest) = body.split_first()?;
    let status = |flags: u16, is_mark| Status {
        has_more: flags & MORE_RESULTS_EXIST != 0,
        has_cursor: flags & CURSOR_EXISTS != 0 && flags & LAST_ROW_SENT == 0,
        plain_backslash: flags & NO_BACKSLASH_ESCAPES != 0,
        is_mark,
    };
    let of_ok = || {
        let mut rest = rest;
        // Rows, and the last number that was given out.
        number(&mut rest)?;
        number(&mut rest)?;
        rest.first_chunk().map(|flags| status(u16::from_le_bytes(*flags), false))
    };
    Some(match first {
        0 if length >= 7 => of_ok().map_or(Reply::Other, Reply::Done),
        0xff => {
            let (code, rest) = rest.split_first_chunk()?;
            let sqlstate = rest.strip_prefix(b"#").and_then(|rest| rest.get(..5));
            Reply::Error { code: u16::from_le_bytes(*code), sqlstate }
        }
        0xfe if length == 5 => Reply::End(status(u16::from_le_bytes(*rest.get(2..)?.first_chunk()?), true)),
        0xfe => of_ok().map_or(Reply::Other, Reply::End),
        0xfb if length > 1 => Reply::File,
        3 if rest.starts_with(b"def") => Reply::Definition,
        _ => {
            let mut rest = body;
            let count = number(&mut rest).filter(|count| (1..=COLUMNS_MAX).contains(count));
            match (count, body.len() == length, rest) {
                (Some(count), true, []) => Reply::Columns { count, follow: true },
                // MariaDB leaves out definitions that the client has.
                (Some(count), true, [follow @ 0..=1]) => Reply::Columns { count, follow: *follow == 1 },
                _ => Reply::Other,
            }
        }
    })
}

/// A statement's number, and whether definitions follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) number: u32,
    pub(super) definitions: u32,
}

pub(super) fn prepared(body: &[u8]) -> Option<Prepared> {
    let [0, n0, n1, n2, n3, c0, c1, p0, p1, ..] = body else { return None };
    let definitions = u32::from(u16::from_le_bytes([*c0, *c1])) + u32::from(u16::from_le_bytes([*p0, *p1]));
    Some(Prepared { number: u32::from_le_bytes([*n0, *n1, *n2, *n3]), definitions })
}

/// A number of variable length.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let (first, tail) = rest.split_first()?;
    let length = match first {
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        0xfb | 0xff => return None,
        small => {
            *rest = tail;
            return Some((*small).into());
        }
    };
    let (bytes, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(text)
}

fn c_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}
