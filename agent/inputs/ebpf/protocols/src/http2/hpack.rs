//! HPACK: blocks of fields, which refer to what earlier blocks of the same side said.
//!
//! In: blocks in the order of the wire, perhaps not from the beginning, perhaps cut. Out: the fields that a span is made of;
//! of all others the place alone is kept, so that no cookie or key is ever held. Entries of the dynamic table are numbered
//! from the newest, so that what was added since a gap is known for certain and all before it is not: an index past it is
//! an unknown field, never a wrong one. For the same reason neither the table's size nor its evictions need to be
//! followed: a peer only refers to what both still have. Format: RFC 7541. Invariant: a table holds at most
//! [`ENTRIES_MAX`] entries and [`TEXT_BYTES_MAX`] bytes of text.

use super::huffman;
use crate::Context;
use crate::http::{METHODS, OTHER_METHOD, context, number};
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries, some 60 bytes each by HPACK's own count: 16 KiB, four times what most peers use.
const ENTRIES_MAX: usize = 256;
/// Bytes of their texts.
const TEXT_BYTES_MAX: usize = 3 * 1024;
/// A longer value is not read.
const VALUE_BYTES_MAX: usize = 1024;
/// The longest name that matters.
const NAME_BYTES_MAX: usize = 14;
/// Entries of the static table (appendix A).
const STATIC: usize = 61;

/// The fields that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Path,
    Authority,
    Status,
    ContentType,
    ContentLength,
    UserAgent,
    Traceparent,
    GrpcStatus,
    GrpcTimeout,
    /// Any other.
    Other,
    /// It may be any of these.
    Unknown,
}

/// What such a field says, as far as it could be read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Unknown,
    /// A method.
    Word(&'static str),
    /// A path without its query, an authority, a user agent.
    Text(Arc<str>),
    /// A status, a length, nanoseconds.
    Number(u64),
    /// Whether the content is gRPC's.
    IsGrpc(bool),
    Context(Box<Context>),
}

/// A field.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: Name,
    pub(super) value: Value,
}

const OTHER: Field = Field { name: Name::Other, value: Value::Unknown };
const UNKNOWN: Field = Field { name: Name::Unknown, value: Value::Unknown };

/// One side's dynamic table, newest entry first.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: VecDeque<Field>,
    text_bytes: usize,
}

impl Table {
    /// A block was missed, or a part of one.
    pub(super) fn forget(&mut self) {
        *self = Table::default();
    }

    /// The fields of a block. Past its end, if it was cut, and from whatever is malformed on, nothing is known any more.
    pub(super) fn decode(&mut self, block: &[u8], is_whole: bool, mut each: impl FnMut(Field)) {
        let mut rest = Rest(block);
        while !rest.0.is_empty() {
            let Some(field) = self.field(&mut rest) else {
                self.forget();
                return each(UNKNOWN);
            };
            field.into_iter().for_each(&mut each);
        }
        if !is_whole {
            self.forget();
            each(UNKNOWN);
        }
    }

    /// The next field, if the next instruction has one; `None` if it cannot be read.
    fn field(&mut self, rest: &mut Rest<'_>) -> Option<Option<Field>> {
        let first = *rest.0.first()?;
        if first & 0x80 != 0 {
            return self.get(rest.integer(7)?).map(Some);
        }
        if first & 0xE0 == 0x20 {
            rest.integer(5)?;
            return Some(None);
        }
        let is_added = first & 0x40 != 0;
        let name = match rest.integer(if is_added { 6 } else { 4 })? {
            0 => name(rest.string()?),
            index => self.get(index)?.name,
        };
        let field = Field { name, value: value(name, rest.string()?) };
        if is_added {
            self.add(field.clone());
        }
        Some(Some(field))
    }

    /// What an index stands for; `None` for the one that stands for nothing.
    fn get(&self, index: usize) -> Option<Field> {
        match index.checked_sub(1)? {
            index if index < STATIC => Some(from_static(index + 1)),
            index => Some(self.entries.get(index - STATIC).cloned().unwrap_or(UNKNOWN)),
        }
    }

    fn add(&mut self, field: Field) {
        self.text_bytes += field.text_bytes();
        self.entries.push_front(field);
        while self.entries.len() > ENTRIES_MAX || self.text_bytes > TEXT_BYTES_MAX {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.text_bytes -= oldest.text_bytes();
        }
    }

    /// Memory that it takes.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn held_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Field>() + self.text_bytes
    }
}

impl Field {
    fn text_bytes(&self) -> usize {
        match &self.value {
            Value::Text(text) => text.len(),
            Value::Context(context) => size_of_val(&**context),
            _ => 0,
        }
    }
}

/// What is still to be read of a block.
struct Rest<'a>(&'a [u8]);

/// A string as it stands in a block.
#[derive(Clone, Copy)]
struct Coded<'a> {
    is_huffman: bool,
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    /// An integer whose first `prefix` bits are in the next byte (section 5.1). `None` beyond 28 bits more.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let (first, mut rest) = self.0.split_first()?;
        let mask = (1_u8 << prefix) - 1;
        let mut number = usize::from(first & mask);
        if first & mask == mask {
            let mut shift = 0;
            loop {
                let (byte, more) = rest.split_first()?;
                rest = more;
                number += usize::from(byte & 0x7F) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
                shift += 7;
                if shift > 21 {
                    return None;
                }
            }
        }
        self.0 = rest;
        Some(number)
    }

    fn string(&mut self) -> Option<Coded<'a>> {
        let is_huffman = self.0.first()? & 0x80 != 0;
        let length = self.integer(7)?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(Coded { is_huffman, bytes })
    }
}

impl<'a> Coded<'a> {
    /// The string, as much of it as there is room for, and whether that is all. `None` if it is malformed.
    fn decode<'r>(self, room: &'r mut [u8]) -> Option<(&'r [u8], bool)>
    where
        'a: 'r,
    {
        if !self.is_huffman {
            let length = self.bytes.len().min(room.len());
            return Some((&self.bytes[..length], length == self.bytes.len()));
        }
        let (length, is_all) = huffman::decode(self.bytes, room)?;
        Some((&room[..length], is_all))
    }
}

fn name(coded: Coded<'_>) -> Name {
    match coded.decode(&mut [0; NAME_BYTES_MAX]) {
        Some((b":method", true)) => Name::Method,
        Some((b":path", true)) => Name::Path,
        Some((b":authority" | b"host", true)) => Name::Authority,
        Some((b":status", true)) => Name::Status,
        Some((b"content-type", true)) => Name::ContentType,
        Some((b"content-length", true)) => Name::ContentLength,
        Some((b"user-agent", true)) => Name::UserAgent,
        Some((b"traceparent", true)) => Name::Traceparent,
        Some((b"grpc-status", true)) => Name::GrpcStatus,
        Some((b"grpc-timeout", true)) => Name::GrpcTimeout,
        _ => Name::Other,
    }
}

fn value(name: Name, coded: Coded<'_>) -> Value {
    if matches!(name, Name::Other | Name::Unknown) {
        return Value::Unknown;
    }
    read(name, coded).unwrap_or(Value::Unknown)
}

fn read(name: Name, coded: Coded<'_>) -> Option<Value> {
    let mut room = [0; VALUE_BYTES_MAX];
    let (bytes, is_all) = coded.decode(&mut room)?;
    let text = |bytes: &[u8]| Value::Text(String::from_utf8_lossy(bytes).into());
    if name == Name::Path {
        let end = bytes.iter().position(|byte| matches!(byte, b'?' | b'#'));
        return end.or(is_all.then_some(bytes.len())).map(|end| text(&bytes[..end]));
    }
    if !is_all {
        return None;
    }
    Some(match name {
        Name::Method => Value::Word(METHODS.into_iter().find(|it| it.as_bytes() == bytes).unwrap_or(OTHER_METHOD)),
        Name::Status => Value::Number(number(bytes).filter(|status| (100..600).contains(status))?),
        Name::ContentLength | Name::GrpcStatus => Value::Number(number(bytes)?),
        Name::ContentType => {
            let rest = bytes.strip_prefix(b"application/grpc");
            Value::IsGrpc(rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';'))))
        }
        Name::GrpcTimeout => Value::Number(timeout_ns(bytes)?),
        Name::Traceparent => Value::Context(Box::new(context(bytes)?)),
        _ => text(bytes),
    })
}

/// A timeout of gRPC: up to eight digits and a unit.
fn timeout_ns(bytes: &[u8]) -> Option<u64> {
    let (unit, digits) = bytes.split_last()?;
    let unit_ns = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    number(digits).filter(|_| matches!(digits.len(), 1..=8)).map(|count| count.saturating_mul(unit_ns))
}

/// An entry of the static table, as far as it matters.
fn from_static(index: usize) -> Field {
    let (name, value) = match index {
        1 | 38 => (Name::Authority, Value::Unknown),
        2 => (Name::Method, Value::Word("GET")),
        3 => (Name::Method, Value::Word("POST")),
        4 => (Name::Path, Value::Text("/".into())),
        5 => (Name::Path, Value::Text("/index.html".into())),
        8..=14 => (Name::Status, Value::Number([200, 204, 206, 304, 400, 404, 500][index - 8])),
        28 => (Name::ContentLength, Value::Unknown),
        31 => (Name::ContentType, Value::Unknown),
        58 => (Name::UserAgent, Value::Unknown),
        _ => return OTHER,
    };
    Field { name, value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = hex.replace(' ', "");
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
    }

    /// The fields that matter, in words.
    fn told(table: &mut Table, block: &str) -> Vec<String> {
        let mut told = Vec::new();
        table.decode(&bytes(block), true, |Field { name, value }| match (name, value) {
            (Name::Other, _) => {}
            (name, Value::Unknown) => told.push(format!("{name:?}")),
            (_, Value::Text(text)) => told.push(text.to_string()),
            (_, Value::Word(word)) => told.push(word.to_owned()),
            (_, Value::Number(number)) => told.push(number.to_string()),
            (_, value) => told.push(format!("{value:?}")),
        });
        told
    }

    /// The examples of RFC 7541, appendix C.3 and C.4: three requests that refer to one another.
    #[test]
    fn requests_of_the_specification_are_read_plain_and_coded() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, coded] {
            let mut table = Table::default();
            for (block, path) in blocks.iter().zip(["/", "/", "/index.html"]) {
                assert_eq!(told(&mut table, block), ["GET", path, "www.example.com"]);
            }
        }
    }

    /// Appendix C.6: answers that push entries out of a table of 256 bytes.
    #[test]
    fn answers_of_the_specification_are_read_although_evictions_are_not_followed() {
        let blocks = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        let mut table = Table::default();
        for (block, status) in blocks.iter().zip(["302", "307", "200"]) {
            assert_eq!(told(&mut table, block), [status]);
        }
    }

    #[test]
    fn behind_a_gap_what_was_added_since_is_known_and_what_was_before_is_not() {
        let mut table = Table::default();
        told(&mut table, "44 02 2f61 41 01 68");
        table.forget();
        assert_eq!(told(&mut table, "82 be bf"), ["GET", "Unknown", "Unknown"]);
        // The newest two entries: /b, and an authority.
        assert_eq!(told(&mut table, "44 02 2f62 41 01 69"), ["/b", "i"]);
        assert_eq!(told(&mut table, "be bf c0"), ["i", "/b", "Unknown"]);
        // A literal under the name of an entry from before could be any field: it is none.
        assert_eq!(told(&mut table, "7f 02 02 2f63"), ["Unknown"]);
        assert_eq!(told(&mut table, "bf c0"), ["i", "/b"], "and has its place");
    }

    #[test]
    fn cut_and_malformed_blocks_give_what_came_before_and_leave_nothing_known() {
        for end in ["80", "7f ff ff ff ff 01", "44 85 2f", "44 81 00", "41 7f"] {
            let mut table = Table::default();
            let found = told(&mut table, &format!("44 02 2f61 {end}"));
            assert_eq!((found[0].as_str(), found.len()), ("/a", 2), "{end}");
            let is_path_unreadable = end == "44 81 00";
            assert_eq!(told(&mut table, "be")[0] == "Path", is_path_unreadable, "{end}");
        }
    }

    #[test]
    fn queries_long_values_and_strange_ones_are_not_kept() {
        let mut table = Table::default();
        let mut path = |text: &str| {
            let length = text.len();
            let block = [&[0x04, 0x7F, (length - 127) as u8 | 0x80, ((length - 127) >> 7) as u8], text.as_bytes()];
            let mut found = None;
            table.decode(&block.concat(), true, |field| found = Some(field.value));
            found.unwrap()
        };
        let long = "x".repeat(2_000);
        assert_eq!(path(&format!("/a?token={long}")), Value::Text("/a".into()));
        assert_eq!(path(&format!("/{long}")), Value::Unknown);
        assert_eq!(told(&mut table, "08 03 393939"), ["Status"]);
        assert_eq!(told(&mut table, "02 04 4652 4545"), ["_OTHER"]);
        assert_eq!(told(&mut table, "0f10 10 6170 706c 6963 6174 696f 6e2f 6772 7063"), ["IsGrpc(true)"]);
        assert_eq!(told(&mut table, "0f10 14 6170 706c 6963 6174 696f 6e2f 6772 7063 2d77 6562"), ["IsGrpc(false)"]);
    }

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let table: [(&[u8], Option<u64>); 8] = [
            (b"200m", Some(200_000_000)),
            (b"1S", Some(1_000_000_000)),
            (b"3n", Some(3)),
            (b"5u", Some(5_000)),
            (b"99999999H", Some(u64::MAX)),
            (b"2M", Some(120_000_000_000)),
            (b"999999999n", None),
            (b"m", None),
        ];
        for (bytes, expected) in table {
            assert_eq!(timeout_ns(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn no_blocks_make_it_panic_or_hold_much(blocks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..20)) {
            let mut table = Table::default();
            for (block, is_whole) in &blocks {
                table.decode(block, *is_whole, |_| {});
                prop_assert!(table.held_bytes() <= ENTRIES_MAX * size_of::<Field>() + TEXT_BYTES_MAX);
            }
        }

        #[test]
        fn a_full_table_keeps_the_newest(count in 1_usize..700) {
            let mut table = Table::default();
            for number in 0..count {
                let text = format!("/{number:09}");
                table.decode(&[&[0x44, text.len() as u8], text.as_bytes()].concat(), true, |_| {});
            }
            let mut newest = None;
            table.decode(&[0xBE], true, |field| newest = Some(field.value));
            prop_assert_eq!(newest, Some(Value::Text(format!("/{:09}", count - 1).into())));
            prop_assert!(table.entries.len() <= ENTRIES_MAX && table.text_bytes <= TEXT_BYTES_MAX);
        }
    }
}
