//! OTLP's attributes and values from the wire to text, as [`attributes`](crate::convert::attributes) makes it of decoded ones.
//!
//! Texts point into the request; what has to be written anew (numbers, bytes, lists, maps) goes to a buffer that is used again. Invariant: a
//! text that is given out is valid UTF-8, though it has the type of bytes, as columns do.

use super::Unusual;
use super::wire::{Content, Fields};
use crate::batch::columns::Data;
use crate::convert::attributes::{COUNT_MAX, double};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ollystack_receive::NESTS_MAX;
use std::ops::Range;

/// A value's text.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    /// As it came.
    Given(&'a [u8]),
    /// In the buffer it was written to.
    Made(Range<usize>),
}

impl<'a> Text<'a> {
    /// Of an AnyValue.
    pub(super) fn of(value: &'a [u8], made: &mut Vec<u8>) -> Result<Text<'a>, Unusual> {
        let start = made.len();
        match only(value)? {
            None => return Ok(Text::Given(b"")),
            Some((1, content)) => return content.text().map(Text::Given),
            Some((2, content)) => made.extend_from_slice(flag(content)?.as_bytes()),
            Some((3, content)) => write(made, content.varint()? as i64),
            Some((4, content)) => made.extend_from_slice(double(f64::from_bits(content.fixed64()?)).as_bytes()),
            Some((7, content)) => made.extend_from_slice(BASE64.encode(content.bytes()?).as_bytes()),
            Some(nest) => json(Some(nest), 0, made)?,
        }
        Ok(Text::Made(start..made.len()))
    }

    /// `made` is the buffer that it was made with.
    pub(super) fn bytes<'b>(&'b self, made: &'b [u8]) -> &'b [u8] {
        match self {
            Text::Given(text) => text,
            Text::Made(range) => made.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// Attributes, and the buffer of their values.
#[derive(Debug, Default)]
pub(super) struct Pairs<'a> {
    /// As they were given.
    pairs: Vec<(&'a [u8], Text<'a>)>,
    made: Vec<u8>,
    /// Those that stand, by key.
    order: Vec<u16>,
    known: [Known<'a>; KNOWN],
}

/// How many kinds of things are remembered.
const KNOWN: usize = 8;

/// Keys as they were given before, and their order: what is of one kind has the same keys every time, and they mostly come unsorted.
#[derive(Debug, Default)]
struct Known<'a> {
    keys: Vec<&'a [u8]>,
    order: Vec<u16>,
}

impl<'a> Pairs<'a> {
    pub(super) fn clear(&mut self) {
        self.pairs.clear();
        self.made.clear();
        self.order.clear();
    }

    /// One more KeyValue.
    #[inline]
    pub(super) fn add(&mut self, pair: &'a [u8]) -> Result<(), Unusual> {
        self.pairs.push(match short_texts(pair) {
            Some((key, value)) => (Content::Bytes(key).text()?, Text::Given(Content::Bytes(value).text()?)),
            None => {
                let (key, value) = key_value(pair)?;
                (key, Text::of(value.unwrap_or_default(), &mut self.made)?)
            }
        });
        Ok(())
    }

    /// Sort by key; of equal keys the last one given stands.
    pub(super) fn sort(&mut self) -> Result<(), Unusual> {
        let Some((first, _)) = self.pairs.first() else { return Ok(()) };
        if self.pairs.len() > COUNT_MAX {
            return Err(Unusual);
        }
        let known = &mut self.known[(self.pairs.len() + first.len()) % KNOWN];
        let keys = self.pairs.iter().map(|(key, _)| *key);
        if !(known.keys.len() == self.pairs.len() && known.keys.iter().copied().eq(keys.clone())) {
            known.keys.clear();
            known.keys.extend(keys);
            known.sort();
        }
        self.order.clear();
        self.order.extend_from_slice(&known.order);
        Ok(())
    }

    /// Sort by key, none of which may be there twice.
    pub(super) fn sort_unique(&mut self) -> Result<(), Unusual> {
        self.sort()?;
        if self.order.len() == self.pairs.len() { Ok(()) } else { Err(Unusual) }
    }

    /// How many there are, once they are sorted.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Keys and values, once they are sorted.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a [u8], &[u8])> {
        let sorted = self.order.iter().filter_map(|at| self.pairs.get(usize::from(*at)));
        sorted.map(|(key, value)| (*key, value.bytes(&self.made)))
    }

    /// The value of a key, once they are sorted.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let (_, value) = self.iter().find(|(name, _)| *name == key.as_bytes())?;
        Some(value)
    }

    /// As a map of a column, once they are sorted.
    #[inline]
    pub(super) fn write(&self, column: &mut Data) {
        for (key, value) in self.iter() {
            column.word(key);
            column.text(value);
        }
        column.end_map(self.len());
    }

    /// What a map of them takes, about.
    pub(super) fn bytes(&self) -> usize {
        let lengths = self.iter().map(|(_, value)| size_of::<u32>() + 1 + value.len());
        size_of::<u64>() + lengths.sum::<usize>()
    }
}

impl Known<'_> {
    /// Make the order of the keys, of which there are no more than [`COUNT_MAX`].
    fn sort(&mut self) {
        let Known { keys, order } = self;
        order.clear();
        order.extend(0..keys.len() as u16);
        let key = |at: &u16| keys.get(usize::from(*at));
        order.sort_by(|a, b| key(a).cmp(&key(b)));
        // `dedup` keeps the first of a run, so each run is turned around.
        order.reverse();
        order.dedup_by(|a, b| key(a) == key(b));
        order.reverse();
    }
}

/// The one field of a message that has at most one.
#[inline(always)]
fn only(message: &[u8]) -> Result<Option<(u32, Content<'_>)>, Unusual> {
    let mut fields = Fields::of(message);
    let field = fields.next()?;
    match fields.next()? {
        None => Ok(field),
        Some(_) => Err(Unusual),
    }
}

/// Key and value of a KeyValue as nearly all are: the key, then a value that is a text, either of them shorter than 128 bytes.
#[inline(always)]
fn short_texts(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x0a, length @ ..0x80, rest @ ..] = pair else { return None };
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let [0x12, length @ 2..0x80, 0x0a, text_length, text @ ..] = rest else { return None };
    (*text_length == *length - 2 && text.len() == usize::from(*text_length)).then_some((key, text))
}

#[inline(always)]
fn key_value(pair: &[u8]) -> Result<(&[u8], Option<&[u8]>), Unusual> {
    let (mut key, mut value): (&[u8], _) = (b"", None);
    let mut fields = Fields::of(pair);
    while let Some((number, content)) = fields.next()? {
        match number {
            1 => key = content.text()?,
            2 => content.once(&mut value)?,
            _ => return Err(Unusual),
        }
    }
    Ok((key, value))
}

fn flag(content: Content<'_>) -> Result<&'static str, Unusual> {
    Ok(if content.varint()? == 0 { "false" } else { "true" })
}

/// A number within JSON, or by itself.
fn write(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A value within so many lists and maps. Where there are too many of those, or so many values that what they take should be held first, or
/// a map has a key twice, it is a matter for the long way.
fn json(value: Option<(u32, Content<'_>)>, nests: usize, out: &mut Vec<u8>) -> Result<(), Unusual> {
    let Some((number, content)) = value else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    match number {
        1 => quoted(content.text()?, out),
        2 => {
            out.extend_from_slice(flag(content)?.as_bytes());
            Ok(())
        }
        3 => {
            write(out, content.varint()? as i64);
            Ok(())
        }
        4 => {
            let number = f64::from_bits(content.fixed64()?);
            if number.is_finite() {
                serde_json::to_writer(out, &number).map_err(|_| Unusual)
            } else {
                quoted(double(number).as_bytes(), out)
            }
        }
        5 | 6 if nests == NESTS_MAX => Err(Unusual),
        5 => list(content.bytes()?, nests + 1, out),
        6 => map(content.bytes()?, nests + 1, out),
        7 => quoted(BASE64.encode(content.bytes()?).as_bytes(), out),
        _ => Err(Unusual),
    }
}

fn quoted(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unusual> {
    let text = std::str::from_utf8(text).map_err(|_| Unusual)?;
    serde_json::to_writer(out, text).map_err(|_| Unusual)
}

fn list(values: &[u8], nests: usize, out: &mut Vec<u8>) -> Result<(), Unusual> {
    let (mut fields, mut open) = (Fields::of(values), b'[');
    while let Some(value) = fields.next_of(1)? {
        out.push(open);
        open = b',';
        json(only(value)?, nests, out)?;
    }
    out.extend_from_slice(if open == b'[' { b"[]" } else { b"]" });
    Ok(())
}

fn map(pairs: &[u8], nests: usize, out: &mut Vec<u8>) -> Result<(), Unusual> {
    let (mut fields, mut sorted) = (Fields::of(pairs), Vec::new());
    while let Some(pair) = fields.next_of(1)? {
        if sorted.len() == COUNT_MAX {
            return Err(Unusual);
        }
        sorted.push(key_value(pair)?);
    }
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    if sorted.windows(2).any(|pair| matches!(pair, [a, b] if a.0 == b.0)) {
        return Err(Unusual);
    }
    let mut open = b'{';
    for (key, value) in sorted {
        out.push(open);
        open = b',';
        quoted(key, out)?;
        out.push(b':');
        json(only(value.unwrap_or_default())?, nests, out)?;
    }
    out.extend_from_slice(if open == b'{' { b"{}" } else { b"}" });
    Ok(())
}
