//! Requests and answers of Kafka as the kernel copied them: possibly cut, possibly hostile, never trusted.
//!
//! Invariant: no input panics, and a walk ends where the copy does. Format: Kafka Protocol Guide; the fields of each version by Kafka's
//! message definitions.

use super::apis::{API_VERSIONS, Answer, Api, FETCH, PRODUCE, api};
use super::fields::Fields;
use super::topics;
use crate::Measure;
use crate::bytes::{Bytes, text};

/// Of a message, as much is looked at.
const BYTES_WANTED: u32 = 1024;
/// What brokers take by default (`socket.request.max.bytes`).
const MESSAGE_BYTES_MAX: u32 = 100 << 20;
const CLIENT_BYTES_MAX: usize = 64;
/// A topic's name has at most 249; what is named after it holds a verb besides.
const TOPIC_BYTES_MAX: usize = 180;

/// What a request or an answer is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// Nothing, or several.
    None,
    Name(Box<str>),
    Id([u8; 16]),
}

impl Topic {
    /// Its name, if it is known.
    pub(super) fn name(self) -> Option<Box<str>> {
        match self {
            Topic::None => None,
            Topic::Name(name) => Some(name),
            Topic::Id(id) => topics::name(&id),
        }
    }
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: i16,
    pub(super) version: i16,
    pub(super) client: Option<Box<str>>,
    pub(super) topic: Topic,
    /// The broker will not answer (`acks=0`).
    pub(super) is_unanswered: bool,
    /// By another broker, which follows.
    pub(super) is_of_replica: bool,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// 0 if nothing failed, as far as is seen.
    pub(super) code: i16,
    pub(super) topic: Topic,
    /// Nothing was there to be fetched.
    pub(super) is_empty: bool,
}

/// A size before each message.
pub(super) fn measure(bytes: &[u8]) -> Measure {
    match bytes.first_chunk::<4>().map(|size| u32::from_be_bytes(*size)) {
        None => Measure::More,
        Some(size @ 4..=MESSAGE_BYTES_MAX) => Measure::Whole { length: size + 4, wanted: (size + 4).min(BYTES_WANTED) },
        Some(_) => Measure::Invalid,
    }
}

/// A request, without its size, and its number; `None` if these bytes are none.
pub(super) fn request(bytes: &[u8]) -> Option<(i32, Request)> {
    let mut fields = Fields { rest: Bytes(bytes), is_flexible: false };
    let (key, version, id) = (fields.i16()?, fields.i16()?, fields.i32()?);
    let api = api(key).filter(|_| (0..=32).contains(&version))?;
    // The client's name is never compact.
    let client = text(fields.string()?, CLIENT_BYTES_MAX);
    fields.is_flexible = version >= api.flexible_since;
    let mut request = Request { key, version, client, topic: Topic::None, is_unanswered: false, is_of_replica: false };
    let _ = fields.tags().and_then(|()| subject(fields, &mut request));
    Some((id, request))
}

/// What a request to produce or to fetch is about, as far as it is here.
fn subject(mut fields: Fields<'_>, request: &mut Request) -> Option<()> {
    let version = request.version;
    match request.key {
        PRODUCE => {
            if version >= 3 {
                fields.string()?;
            }
            request.is_unanswered = fields.i16()? == 0;
            fields.skip(4)?;
        }
        FETCH => {
            if version < 15 {
                request.is_of_replica = fields.i32()? >= 0;
            }
            // How long and how much; how isolated; in which session.
            fields.skip(8 + if version >= 3 { 4 } else { 0 } + usize::from(version >= 4))?;
            fields.skip(if version >= 7 { 8 } else { 0 })?;
        }
        _ => return None,
    }
    if fields.array()? == 1 {
        request.topic = topic(&mut fields, version >= 13)?;
    }
    Some(())
}

fn topic(fields: &mut Fields<'_>, by_id: bool) -> Option<Topic> {
    Some(if by_id { Topic::Id(fields.id()?) } else { Topic::Name(text(fields.string()?, TOPIC_BYTES_MAX)?) })
}

/// The number of the request that is answered.
pub(super) fn answered(bytes: &[u8]) -> Option<i32> {
    bytes.get(4..8)?.first_chunk().map(|id| i32::from_be_bytes(*id))
}

/// What an answer says to a request; `is_whole` if nothing of it is missing.
pub(super) fn answer(request: &Request, bytes: &[u8], is_whole: bool) -> Told {
    let mut told = Told { code: 0, topic: Topic::None, is_empty: false };
    let Some(api) = api(request.key) else { return told };
    let fields =
        Fields { rest: Bytes(bytes.get(8..).unwrap_or_default()), is_flexible: request.version >= api.flexible_since };
    // `None` is where the copy ends: what was found until there stands.
    let end = read(fields, request, api, &mut told);
    if request.key == FETCH {
        told.is_empty = told.code == 0 && told.topic == Topic::None && end.is_some() && is_whole;
    }
    told
}

fn read(mut fields: Fields<'_>, request: &Request, api: &Api, told: &mut Told) -> Option<()> {
    let version = request.version;
    if request.key != API_VERSIONS {
        fields.tags()?;
    }
    let throttled = |fields: &mut Fields<'_>, since: i16| if version >= since { fields.skip(4) } else { Some(()) };
    match api.answer {
        Answer::Unknown => {}
        Answer::First(since) => {
            throttled(&mut fields, since)?;
            told.code = fields.i16()?;
        }
        Answer::Topics(since, with_id_since) => {
            throttled(&mut fields, since)?;
            if fields.array()? > 0 {
                fields.string()?;
                fields.skip(if version >= with_id_since { 16 } else { 0 })?;
                told.code = fields.i16()?;
            }
        }
        Answer::Partitions(since, by_id_since) => {
            throttled(&mut fields, since)?;
            if fields.array()? > 0 {
                if version >= by_id_since {
                    fields.id()?;
                } else {
                    fields.string()?;
                }
                if fields.array()? > 0 {
                    fields.skip(4)?;
                    told.code = fields.i16()?;
                }
            }
        }
        Answer::Coordinator => {
            throttled(&mut fields, 1)?;
            if version >= 4 && fields.array()? > 0 {
                fields.string()?;
                fields.skip(4)?;
                fields.string()?;
                fields.skip(4)?;
            }
            told.code = fields.i16()?;
        }
        Answer::Produce => produced(fields, version, told)?,
        Answer::Fetch => fetched(fields, version, told)?,
        Answer::Metadata => described(fields, version, told)?,
    }
    Some(())
}

/// The first failure of a partition.
fn produced(mut fields: Fields<'_>, version: i16, told: &mut Told) -> Option<()> {
    for _ in 0..fields.array()? {
        let topic = topic(&mut fields, version >= 13)?;
        for _ in 0..fields.array()? {
            fields.skip(4)?;
            let code = fields.i16()?;
            if code != 0 {
                (told.code, told.topic) = (code, topic);
                return Some(());
            }
            // Offset, time of the append, start of the log.
            fields.skip(8 + if version >= 2 { 8 } else { 0 } + if version >= 5 { 8 } else { 0 })?;
            if version >= 8 {
                for _ in 0..fields.array()? {
                    fields.skip(4)?;
                    fields.string()?;
                    fields.tags()?;
                }
                fields.string()?;
            }
            fields.tags()?;
        }
        fields.tags()?;
    }
    Some(())
}

/// The first topic with records or a failure; the whole answer may be one.
fn fetched(mut fields: Fields<'_>, version: i16, told: &mut Told) -> Option<()> {
    fields.skip(if version >= 1 { 4 } else { 0 })?;
    if version >= 7 {
        told.code = fields.i16()?;
        fields.skip(4)?;
    }
    for _ in 0..fields.array()? {
        let topic = topic(&mut fields, version >= 13)?;
        for _ in 0..fields.array()? {
            fields.skip(4)?;
            let code = fields.i16()?;
            // Offsets: of what is safe, of what is stable, of the start.
            fields.skip(8 + if version >= 4 { 8 } else { 0 } + if version >= 5 { 8 } else { 0 })?;
            if version >= 4 {
                for _ in 0..fields.array()? {
                    fields.skip(16)?;
                    fields.tags()?;
                }
            }
            fields.skip(if version >= 11 { 4 } else { 0 })?;
            let bytes = fields.length()?;
            if code != 0 || bytes > 0 {
                (told.code, told.topic) = (code, topic);
                return Some(());
            }
            fields.tags()?;
        }
        fields.tags()?;
    }
    Some(())
}

/// The first failure of a topic; identifiers and names are learned on the way.
fn described(mut fields: Fields<'_>, version: i16, told: &mut Told) -> Option<()> {
    fields.skip(if version >= 3 { 4 } else { 0 })?;
    for _ in 0..fields.array()? {
        fields.skip(4)?;
        fields.string()?;
        fields.skip(4)?;
        if version >= 1 {
            fields.string()?;
        }
        fields.tags()?;
    }
    if version >= 2 {
        fields.string()?;
    }
    fields.skip(if version >= 1 { 4 } else { 0 })?;
    for _ in 0..fields.array()? {
        let code = fields.i16()?;
        if told.code == 0 {
            told.code = code;
        }
        let name = text(fields.string()?, TOPIC_BYTES_MAX);
        if version >= 10 {
            let id = fields.id()?;
            if let Some(name) = name.filter(|_| id != [0; 16]) {
                topics::learn(id, &name);
            }
        }
        fields.skip(usize::from(version >= 1))?;
        for _ in 0..fields.array()? {
            // Failure, number, leader and its epoch; then who follows, who keeps up, who is away.
            fields.skip(10 + if version >= 7 { 4 } else { 0 })?;
            for _ in 0..if version >= 5 { 3 } else { 2 } {
                let brokers = fields.array()?;
                fields.skip(brokers * 4)?;
            }
            fields.tags()?;
        }
        fields.skip(if (8..=12).contains(&version) { 4 } else { 0 })?;
        fields.tags()?;
    }
    Some(())
}
