//! OTLP's attributes and values from the wire to text, as [`attributes`](crate::convert::attributes) makes it of decoded ones.
//!
//! Texts point into the request; what has to be written anew (numbers, bytes, lists, maps) goes to a buffer that is used again. Invariant: a
//! text that is given out is valid UTF-8.

use super::Unusual;
use super::wire::{Content, Fields};
use crate::batch::columns::Data;
use crate::convert::attributes::{COUNT_MAX, double};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ollystack_receive::NESTS_MAX;
use std::io::Write as _;
use std::ops::Range;

/// A value's text.
#[derive(Clone, Debug)]
pub(super) enum Text<'a> {
    /// As it came.
    Given(&'a str),
    /// In the buffer it was written to.
    Made(Range<usize>),
}

impl<'a> Text<'a> {
    /// Of an AnyValue.
    pub(super) fn of(value: &'a [u8], made: &mut Vec<u8>) -> Result<Text<'a>, Unusual> {
        let start = made.len();
        match only(value)? {
            None => return Ok(Text::Given("")),
            Some((1, content)) => return content.text().map(Text::Given),
            Some((2, content)) => made.extend_from_slice(flag(content)?.as_bytes()),
            Some((3, content)) => write(made, content.varint()? as i64)?,
            Some((4, content)) => made.extend_from_slice(double(f64::from_bits(content.fixed64()?)).as_bytes()),
            Some((7, content)) => made.extend_from_slice(BASE64.encode(content.bytes()?).as_bytes()),
            Some(nest) => json(Some(nest), 0, made)?,
        }
        Ok(Text::Made(start..made.len()))
    }

    /// `made` is the buffer that it was made with.
    pub(super) fn bytes<'b>(&'b self, made: &'b [u8]) -> &'b [u8] {
        match self {
            Text::Given(text) => text.as_bytes(),
            Text::Made(range) => made.get(range.clone()).unwrap_or_default(),
        }
    }
}

/// Attributes, and the buffer of their values.
#[derive(Debug, Default)]
pub(super) struct Pairs<'a> {
    pairs: Vec<(&'a str, Text<'a>)>,
    made: Vec<u8>,
}

impl<'a> Pairs<'a> {
    pub(super) fn clear(&mut self) {
        self.pairs.clear();
        self.made.clear();
    }

    /// One more KeyValue.
    #[inline]
    pub(super) fn add(&mut self, pair: &'a [u8]) -> Result<(), Unusual> {
        let (key, value) = key_value(pair)?;
        let value = Text::of(value.unwrap_or_default(), &mut self.made)?;
        self.pairs.push((key, value));
        Ok(())
    }

    /// Sort by key; of equal keys the last one given stands.
    pub(super) fn sort(&mut self) -> Result<(), Unusual> {
        if self.pairs.len() > COUNT_MAX {
            return Err(Unusual);
        }
        if !self.pairs.is_sorted_by(|a, b| a.0 < b.0) {
            self.pairs.sort_by(|a, b| a.0.cmp(b.0));
            // `dedup` keeps the first of a run, so each run is turned around.
            self.pairs.reverse();
            self.pairs.dedup_by(|a, b| a.0 == b.0);
            self.pairs.reverse();
        }
        Ok(())
    }

    /// Sort by key, none of which may be there twice.
    pub(super) fn sort_unique(&mut self) -> Result<(), Unusual> {
        let given = self.pairs.len();
        self.sort()?;
        if self.pairs.len() == given { Ok(()) } else { Err(Unusual) }
    }

    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Keys and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, &[u8])> {
        self.pairs.iter().map(|(key, value)| (*key, value.bytes(&self.made)))
    }

    /// The value of a key, once they are sorted.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let (_, value) = self.pairs.iter().find(|(name, _)| *name == key)?;
        Some(value.bytes(&self.made))
    }

    /// As a map of a column.
    #[inline]
    pub(super) fn write(&self, column: &mut Data) {
        for (key, value) in &self.pairs {
            column.word(key.as_bytes());
            column.text(value.bytes(&self.made));
        }
        column.end_map(self.pairs.len());
    }

    /// What a map of them takes, about.
    pub(super) fn bytes(&self) -> usize {
        let lengths = self.pairs.iter().map(|(_, value)| size_of::<u32>() + 1 + value.bytes(&self.made).len());
        size_of::<u64>() + lengths.sum::<usize>()
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

#[inline(always)]
fn key_value(pair: &[u8]) -> Result<(&str, Option<&[u8]>), Unusual> {
    let (mut key, mut value) = ("", None);
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
fn write(out: &mut Vec<u8>, number: i64) -> Result<(), Unusual> {
    // Writing to memory does not fail.
    write!(out, "{number}").map_err(|_| Unusual)
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
        3 => write(out, content.varint()? as i64),
        4 => {
            let number = f64::from_bits(content.fixed64()?);
            if number.is_finite() {
                serde_json::to_writer(out, &number).map_err(|_| Unusual)
            } else {
                quoted(&double(number), out)
            }
        }
        5 | 6 if nests == NESTS_MAX => Err(Unusual),
        5 => list(content.bytes()?, nests + 1, out),
        6 => map(content.bytes()?, nests + 1, out),
        7 => quoted(&BASE64.encode(content.bytes()?), out),
        _ => Err(Unusual),
    }
}

fn quoted(text: &str, out: &mut Vec<u8>) -> Result<(), Unusual> {
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
