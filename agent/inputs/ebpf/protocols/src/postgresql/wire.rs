//! Messages of PostgreSQL's protocol 3: how long each is, and the few fields that are read.
//!
//! A message is a byte that names it, its length without that byte in four, and its body; the first ones of a connection have
//! no name. Invariant: a message of an unknown name, or of a length that its kind cannot have, is none.

use crate::sql::TEXT_BYTES_MAX;
use crate::{Measure, Message};

/// Longer messages are none: the server takes no more.
const LENGTH_MAX: u32 = 1 << 30;
/// What is read of names before a statement's text.
const NAME_BYTES_MAX: u32 = 64;
/// Bytes of a startup message, which has none of the user's data but names.
const STARTUP_BYTES_MAX: u32 = 10_000;

/// Requests for encryption and for the cancelling of a query, and versions, in place of a version.
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;
const VERSION_MAJOR: u32 = 3;

/// How long a client's message is.
pub(super) fn measure_request(bytes: &[u8]) -> Measure {
    let kind = bytes[0];
    if kind == 0 {
        let Some(head) = bytes.first_chunk::<8>() else { return Measure::More };
        let (length, code) = (u32_of(&head[..4]), u32_of(&head[4..]));
        return match code {
            SSL | GSS if length == 8 => Measure::Whole { length, wanted: 8 },
            CANCEL if (16..=STARTUP_BYTES_MAX).contains(&length) => Measure::Whole { length, wanted: 8 },
            code if code >> 16 == VERSION_MAJOR && (8..=STARTUP_BYTES_MAX).contains(&length) => {
                Measure::Whole { length, wanted: TEXT_BYTES_MAX as u32 }
            }
            _ => Measure::Invalid,
        };
    }
    let text = TEXT_BYTES_MAX as u32;
    let (least, most, wanted) = match kind {
        b'Q' => (5, LENGTH_MAX, 5 + text),
        b'P' => (8, LENGTH_MAX, 5 + NAME_BYTES_MAX + text),
        b'B' => (12, LENGTH_MAX, 5 + 2 * NAME_BYTES_MAX),
        b'E' => (9, 4 + 2 * NAME_BYTES_MAX, u32::MAX),
        b'D' | b'C' => (6, 4 + 2 * NAME_BYTES_MAX, u32::MAX),
        b'S' | b'H' | b'X' | b'c' => (4, 4, 0),
        b'd' | b'F' => (4, LENGTH_MAX, 0),
        b'f' => (5, LENGTH_MAX, 0),
        b'p' => (4, 1 << 16, 0),
        _ => return Measure::Invalid,
    };
    measure(bytes, least, most, wanted)
}

/// How long a server's message is.
pub(super) fn measure_response(bytes: &[u8]) -> Measure {
    let (least, most, wanted) = match bytes[0] {
        b'Z' => (5, 5, 0),
        b'1' | b'2' | b'3' | b'I' | b'n' | b's' | b'c' => (4, 4, 0),
        b'C' => (5, 4 + 2 * NAME_BYTES_MAX, u32::MAX),
        b'E' => (5, 1 << 20, 256),
        b'T' | b't' => (6, 1 << 20, 0),
        b'R' => (8, 1 << 16, 0),
        b'K' => (12, 1 << 10, 0),
        b'G' | b'H' | b'W' => (7, 1 << 16, 0),
        b'A' => (8, 1 << 16, 0),
        b'N' | b'S' | b'v' => (5, 1 << 20, 0),
        b'D' => (6, LENGTH_MAX, 0),
        b'd' | b'V' => (4, LENGTH_MAX, 0),
        _ => return Measure::Invalid,
    };
    measure(bytes, least, most, wanted)
}

fn measure(bytes: &[u8], least: u32, most: u32, wanted: u32) -> Measure {
    let Some(head) = bytes.first_chunk::<5>() else { return Measure::More };
    match u32_of(&head[1..]) {
        length if (least..=most).contains(&length) => Measure::Whole { length: length + 1, wanted },
        _ => Measure::Invalid,
    }
}

/// What a client's first message asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Startup<'a> {
    Encrypt,
    /// To a database, which has the user's name if it is not given.
    LogIn(Option<&'a [u8]>),
    /// To cancel what another connection does: there is no answer.
    Other,
}

pub(super) fn startup(bytes: &[u8]) -> Startup<'_> {
    let Some(code) = bytes.get(4..8) else { return Startup::Other };
    match u32_of(code) {
        SSL | GSS => Startup::Encrypt,
        CANCEL => Startup::Other,
        _ => {
            let (mut rest, mut user) = (&bytes[8..], None);
            while let (Some(key), Some(value)) = (c_string(&mut rest), c_string(&mut rest)) {
                match key {
                    b"database" => return Startup::LogIn(Some(value)),
                    b"user" => user = Some(value),
                    _ => {}
                }
            }
            Startup::LogIn(user)
        }
    }
}

/// A message's body, as far as it is there.
#[derive(Debug)]
pub(super) struct Body<'a> {
    rest: &'a [u8],
    is_cut: bool,
}

impl<'a> Body<'a> {
    pub(super) fn of(message: &Message<'a>) -> Body<'a> {
        Body { rest: message.bytes.get(5..).unwrap_or_default(), is_cut: message.bytes.len() < message.length as usize }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    pub(super) fn c_string(&mut self) -> Option<&'a [u8]> {
        c_string(&mut self.rest)
    }

    /// A string, and whether its end is missing.
    pub(super) fn text(&mut self) -> (&'a [u8], bool) {
        match self.c_string() {
            Some(text) => (text, false),
            None => (self.rest, self.is_cut),
        }
    }
}

/// A string up to its zero byte.
pub(super) fn c_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == 0)?;
    let text = &rest[..end];
    *rest = &rest[end + 1..];
    Some(text)
}

/// What was done, of a command's tag: `INSERT` of `INSERT 0 1`.
pub(super) fn tag(body: &[u8]) -> Option<String> {
    let letters = body.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b' ').take(32).count();
    let tag = std::str::from_utf8(body[..letters].trim_ascii_end()).ok()?;
    (!tag.is_empty()).then(|| tag.to_owned())
}

/// The SQLSTATE among an error's fields.
pub(super) fn error_code(body: &[u8]) -> Option<&[u8]> {
    let mut rest = body;
    loop {
        let field = c_string(&mut rest)?;
        if let [b'C', code @ ..] = field {
            return Some(code).filter(|code| code.len() == 5 && code.iter().all(u8::is_ascii_alphanumeric));
        }
    }
}

fn u32_of(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}
