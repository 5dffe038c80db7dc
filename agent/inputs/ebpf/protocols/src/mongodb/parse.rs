//! Messages of MongoDB as the kernel copied them: possibly cut, possibly hostile, never trusted.
//!
//! Documents are walked at their top, their values stepped over by their size. Invariant: no input panics, and a walk ends where the
//! copy does. Format: MongoDB Wire Protocol; BSON 1.1; codes: MongoDB's `error_codes.yml`.

use crate::Measure;
use crate::bytes::{Bytes, text};
use std::borrow::Cow;

/// Of a message, as much is looked at.
const BYTES_WANTED: u32 = 1024;
/// No message may be longer (`maxMessageSizeBytes`).
const MESSAGE_BYTES_MAX: u32 = 48_000_000;
const HEAD_BYTES: usize = 16;
/// Of a database or a collection; the name of an exchange holds both a command and one of them.
const NAME_BYTES_MAX: usize = 150;
const COMMAND_BYTES_MAX: usize = 40;
/// Elements of a document that are looked at.
const ELEMENTS_MAX: usize = 64;

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_COMPRESSED: i32 = 2012;
const OP_MSG: i32 = 2013;

/// The command of a message whose inside is not seen.
pub(super) const COMPRESSED: &str = "compressed";

/// A command.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Box<str>,
    pub(super) collection: Option<Box<str>>,
    pub(super) database: Option<Box<str>>,
    /// The sender wants no answer (`moreToCome`).
    pub(super) is_unanswered: bool,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: u32,
    /// The request.
    pub(super) to: u32,
    /// Another one follows without a request (`moreToCome`).
    pub(super) is_followed: bool,
    pub(super) failure: Option<Failure>,
}

/// A failure, by code, name or both.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub(super) code: Option<i32>,
    pub(super) name: Option<Box<str>>,
}

impl Failure {
    /// The name that the server or MongoDB's list gives it, else its code.
    pub(super) fn name(self) -> Cow<'static, str> {
        match (self.name, self.code) {
            (Some(name), _) => String::from(name).into(),
            (None, Some(code)) => match CODES.iter().find(|(known, ..)| *known == code) {
                Some((_, name, _)) => Cow::Borrowed(*name),
                None => code.to_string().into(),
            },
            (None, None) => Cow::Borrowed("_OTHER"),
        }
    }

    /// Unless it is of the server's own condition.
    pub(super) fn is_fault_of_client(&self) -> bool {
        let of_server = |code| CODES.iter().any(|(known, _, of_server)| *known == code && *of_server);
        self.code.is_some_and(|code| !of_server(code))
    }
}

/// Codes that single writes carry without a name, and those that are the server's own failure.
const CODES: [(i32, &str, bool); 24] = [
    (1, "InternalError", true),
    (2, "BadValue", false),
    (6, "HostUnreachable", true),
    (7, "HostNotFound", true),
    (8, "UnknownError", true),
    (13, "Unauthorized", false),
    (18, "AuthenticationFailed", false),
    (50, "MaxTimeMSExpired", true),
    (64, "WriteConcernFailed", true),
    (89, "NetworkTimeout", true),
    (91, "ShutdownInProgress", true),
    (112, "WriteConflict", false),
    (121, "DocumentValidationFailure", false),
    (133, "FailedToSatisfyReadPreference", true),
    (146, "ExceededMemoryLimit", true),
    (189, "PrimarySteppedDown", true),
    (202, "NetworkInterfaceExceededTimeLimit", true),
    (262, "ExceededTimeLimit", true),
    (10107, "NotWritablePrimary", true),
    (11000, "DuplicateKey", false),
    (11600, "InterruptedAtShutdown", true),
    (11602, "InterruptedDueToReplStateChange", true),
    (13436, "NotPrimaryOrSecondary", true),
    (14031, "OutOfDiskSpace", true),
];

/// The head says how long the message is.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    if bytes.len() < HEAD_BYTES {
        return Measure::More;
    }
    let mut rest = Bytes(bytes);
    let length = rest.i32_le().map_or(0, i32::cast_unsigned);
    rest.array::<8>();
    let is_known = matches!(rest.i32_le(), Some(OP_REPLY | OP_QUERY | OP_COMPRESSED | OP_MSG));
    if !is_known || !(HEAD_BYTES as u32..=MESSAGE_BYTES_MAX).contains(&length) {
        return Measure::Invalid;
    }
    Measure::Whole { length, wanted: length.min(BYTES_WANTED) }
}

/// A request and its identifier; `None` if these bytes are none, or too few to tell.
pub(super) fn request(bytes: &[u8]) -> Option<(u32, Request)> {
    let (id, _, operation, mut rest) = head(bytes)?;
    let request = match operation {
        OP_MSG => {
            let flags = rest.i32_le()?;
            command(body(rest)?, None, flags & 2 != 0)?
        }
        OP_QUERY => {
            rest.i32_le()?;
            let name = rest.c_string()?;
            let dot = name.iter().position(|byte| *byte == b'.')?;
            let (database, collection) = (text(&name[..dot], NAME_BYTES_MAX), &name[dot + 1..]);
            rest.array::<8>()?;
            if collection == b"$cmd" {
                command(Document::of(rest)?, database, false)?
            } else {
                let collection = text(collection, NAME_BYTES_MAX);
                Request { command: "query".into(), collection, database, is_unanswered: false }
            }
        }
        OP_COMPRESSED => Request { command: COMPRESSED.into(), collection: None, database: None, is_unanswered: false },
        _ => return None,
    };
    Some((id, request))
}

/// An answer; `None` if these bytes are none, or too few to tell to what.
pub(super) fn answer(bytes: &[u8]) -> Option<Answer> {
    let (id, to, operation, mut rest) = head(bytes)?;
    let mut answer = Answer { id, to, is_followed: false, failure: None };
    match operation {
        OP_MSG => {
            answer.is_followed = rest.i32_le().is_some_and(|flags| flags & 2 != 0);
            answer.failure = body(rest).and_then(failure);
        }
        OP_REPLY => {
            let flags = rest.i32_le().unwrap_or(0);
            rest.array::<16>();
            let documents = Document::of(rest);
            // Bit 1: the query failed, and the document says why, without `ok`.
            answer.failure = if flags & 2 != 0 {
                Some(documents.map(codes).unwrap_or_default())
            } else {
                documents.and_then(failure)
            };
        }
        OP_COMPRESSED => {}
        _ => return None,
    }
    Some(answer)
}

/// Identifier, what it answers, operation, and the rest.
fn head(bytes: &[u8]) -> Option<(u32, u32, i32, Bytes<'_>)> {
    let mut rest = Bytes(bytes);
    rest.i32_le()?;
    let (id, to) = (rest.i32_le()?.cast_unsigned(), rest.i32_le()?.cast_unsigned());
    Some((id, to, rest.i32_le()?, rest))
}

/// The body among an OP_MSG's sections; others may come before it.
fn body(mut rest: Bytes<'_>) -> Option<Document<'_>> {
    for _ in 0..ELEMENTS_MAX {
        match rest.u8()? {
            0 => return Document::of(rest),
            1 => {
                let size = usize::try_from(Bytes(rest.0).i32_le()?).ok().filter(|size| *size >= 5)?;
                rest.take(size)?;
            }
            _ => return None,
        }
    }
    None
}

/// The first element names the command, and mostly the collection.
fn command(document: Document<'_>, mut database: Option<Box<str>>, is_unanswered: bool) -> Option<Request> {
    let mut elements = document;
    let (name, first) = elements.next()?;
    let is_word =
        name.len() <= COMMAND_BYTES_MAX && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let command = text(name, COMMAND_BYTES_MAX).filter(|_| is_word)?;
    let mut collection = first.as_name();
    for (name, value) in elements {
        match name {
            b"$db" => database = value.as_name(),
            b"collection" if &*command == "getMore" => collection = value.as_name(),
            _ => {}
        }
    }
    Some(Request { command, collection, database, is_unanswered })
}

/// Why a command failed, if it did, in all or in one of its writes.
fn failure(document: Document<'_>) -> Option<Failure> {
    for (name, value) in document {
        match (name, value) {
            (b"ok", value) if value.is_zero() => return Some(codes(document)),
            (b"writeErrors", Value::Inner(mut writes)) => {
                if let Some((_, Value::Inner(write))) = writes.next() {
                    return Some(codes(write));
                }
            }
            (b"writeConcernError", Value::Inner(concern)) => return Some(codes(concern)),
            _ => {}
        }
    }
    None
}

fn codes(document: Document<'_>) -> Failure {
    let mut failure = Failure::default();
    for (name, value) in document {
        match (name, value) {
            (b"code", Value::Int(code)) => failure.code = Some(code),
            (b"codeName", Value::Text(name)) => {
                let is_word = name.iter().all(u8::is_ascii_alphanumeric);
                failure.name = text(name, COMMAND_BYTES_MAX).filter(|_| is_word);
            }
            _ => {}
        }
    }
    failure
}

/// A document's elements, as far as they were copied.
#[derive(Clone, Copy, Debug)]
struct Document<'a> {
    rest: Bytes<'a>,
    left: usize,
}

/// A value, as far as it matters.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Text(&'a [u8]),
    Int(i32),
    Double(f64),
    Boolean(bool),
    Inner(Document<'a>),
    Other,
}

impl Value<'_> {
    fn as_name(&self) -> Option<Box<str>> {
        match self {
            Value::Text(bytes) => text(bytes, NAME_BYTES_MAX),
            _ => None,
        }
    }

    fn is_zero(&self) -> bool {
        matches!(self, Value::Int(0) | Value::Boolean(false)) || matches!(self, Value::Double(number) if *number == 0.0)
    }
}

impl<'a> Document<'a> {
    /// The document that begins here.
    fn of(mut rest: Bytes<'a>) -> Option<Document<'a>> {
        let size = usize::try_from(rest.i32_le()?).ok()?.checked_sub(4)?;
        Some(Document { rest: Bytes(&rest.0[..rest.0.len().min(size)]), left: ELEMENTS_MAX })
    }

    fn element(&mut self) -> Option<(&'a [u8], Value<'a>)> {
        self.left = self.left.checked_sub(1)?;
        let rest = &mut self.rest;
        let kind = rest.u8().filter(|kind| *kind != 0)?;
        let name = rest.c_string()?;
        let value = match kind {
            0x01 => Value::Double(rest.array().map(f64::from_le_bytes)?),
            0x02 => {
                let size = usize::try_from(rest.i32_le()?).ok()?;
                Value::Text(rest.take(size)?.strip_suffix(&[0])?)
            }
            0x03 | 0x04 => {
                let size = usize::try_from(Bytes(rest.0).i32_le()?).ok()?;
                let inner = Document::of(*rest)?;
                // One that is cut is still looked into; nothing follows it.
                rest.take(size.min(rest.0.len()))?;
                Value::Inner(inner)
            }
            0x05 => {
                let size = usize::try_from(rest.i32_le()?).ok()?;
                rest.take(size.checked_add(1)?)?;
                Value::Other
            }
            0x06 | 0x0A | 0x7F | 0xFF => Value::Other,
            0x07 => rest.take(12).map(|_| Value::Other)?,
            0x08 => Value::Boolean(rest.u8()? != 0),
            0x0B => {
                rest.c_string()?;
                rest.c_string()?;
                Value::Other
            }
            0x10 => Value::Int(rest.i32_le()?),
            0x09 | 0x11 | 0x12 => rest.take(8).map(|_| Value::Other)?,
            0x13 => rest.take(16).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((name, value))
    }
}

impl<'a> Iterator for Document<'a> {
    type Item = (&'a [u8], Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.element();
        if element.is_none() {
            // Behind what is cut or not known nothing can be found.
            self.left = 0;
        }
        element
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(kind: u8, name: &str, value: &[u8]) -> Vec<u8> {
        [&[kind], name.as_bytes(), &[0], value].concat()
    }

    pub(in super::super) fn text(name: &str, value: &str) -> Vec<u8> {
        element(2, name, &[&(value.len() as i32 + 1).to_le_bytes()[..], value.as_bytes(), &[0]].concat())
    }

    pub(in super::super) fn int(name: &str, value: i32) -> Vec<u8> {
        element(0x10, name, &value.to_le_bytes())
    }

    pub(in super::super) fn long(name: &str, value: i64) -> Vec<u8> {
        element(0x12, name, &value.to_le_bytes())
    }

    pub(in super::super) fn double(name: &str, value: f64) -> Vec<u8> {
        element(1, name, &value.to_le_bytes())
    }

    pub(in super::super) fn inner(name: &str, elements: &[Vec<u8>]) -> Vec<u8> {
        element(3, name, &document(elements))
    }

    pub(in super::super) fn document(elements: &[Vec<u8>]) -> Vec<u8> {
        let elements = elements.concat();
        [&(elements.len() as i32 + 5).to_le_bytes()[..], &elements, &[0]].concat()
    }

    pub(in super::super) fn message(id: u32, to: u32, operation: u32, rest: &[u8]) -> Vec<u8> {
        let head = [rest.len() as u32 + 16, id, to, operation].map(u32::to_le_bytes).concat();
        [&head, rest].concat()
    }

    pub(in super::super) fn op_msg(id: u32, to: u32, flags: u32, document: &[u8]) -> Vec<u8> {
        message(id, to, 2013, &[&flags.to_le_bytes()[..], &[0], document].concat())
    }

    pub(in super::super) fn op_query(id: u32, collection: &str, document: &[u8]) -> Vec<u8> {
        message(id, 0, 2004, &[&[0; 4][..], collection.as_bytes(), &[0; 9], document].concat())
    }

    pub(in super::super) fn op_reply(id: u32, to: u32, flags: u32, document: &[u8]) -> Vec<u8> {
        message(id, to, 1, &[&flags.to_le_bytes()[..], &[0; 16], document].concat())
    }

    #[test]
    fn values_of_every_type_are_stepped_over() {
        let values = [
            double("a", 1.5),
            element(4, "b", &document(&[int("0", 1)])),
            element(5, "c", &[2, 0, 0, 0, 0, 9, 9]),
            element(7, "d", &[1; 12]),
            element(8, "e", &[1]),
            element(9, "f", &[1; 8]),
            element(0x0A, "g", &[]),
            element(0x0B, "h", b"re\0i\0"),
            element(0x11, "i", &[1; 8]),
            element(0x13, "j", &[1; 16]),
            element(0xFF, "k", &[]),
        ];
        let document = document(&[vec![text("find", "c")], values.to_vec(), vec![text("$db", "shop")]].concat());
        let (_, request) = request(&op_msg(1, 0, 0, &document)).unwrap();
        assert_eq!(request.database.as_deref(), Some("shop"));
    }

    #[test]
    fn documents_may_come_before_the_command() {
        let documents = [&[1][..], &26_i32.to_le_bytes(), b"documents\0", &[7; 12]].concat();
        let bytes = [&[0; 4][..], &documents, &[0], &document(&[text("insert", "c"), text("$db", "d")])].concat();
        let (_, request) = request(&message(1, 0, 2013, &bytes)).unwrap();
        assert_eq!((&*request.command, request.collection.as_deref()), ("insert", Some("c")));
    }

    #[test]
    fn what_is_no_message_is_not_measured() {
        assert_eq!(measure(&message(1, 0, 2013, &[0; 9])), Measure::Whole { length: 25, wanted: 25 });
        assert_eq!(measure(&[0; 15]), Measure::More);
        for bytes in [
            message(1, 0, 2014, &[]),
            vec![0; 16],
            [&[0xFF, 0xFF, 0xFF, 0x7F][..], &message(1, 0, 2013, &[])[4..]].concat(),
        ] {
            assert_eq!(measure(&bytes), Measure::Invalid);
        }
        let odd = document(&[text("user: bob, password", "c")]);
        assert!(request(&op_msg(1, 0, 0, &odd)).is_none(), "no command is called so");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(operation in prop::sample::select(vec![1_u32, 2004, 2012, 2013]), rest in prop::collection::vec(0_u8..20, 0..120)) {
            let bytes = message(1, 2, operation, &rest);
            let _ = (measure(&bytes), request(&bytes), answer(&bytes));
        }
    }
}
