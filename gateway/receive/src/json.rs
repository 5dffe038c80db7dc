//! OTLP's JSON to protobuf bytes, in one pass without a tree in between.
//!
//! The table in `schema` says which name is which field; what comes out goes through the same weighing and decoding as protobuf
//! that came over the wire. As the specification has it: 64-bit integers as numbers or strings, ids in hexadecimal, other bytes in
//! base64, enums as numbers, `NaN` and `Infinity` as strings, unknown names ignored, null as absent; names are lowerCamelCase.
//! Values nested too deeply are left out, as `weigh` does with protobuf. Invariant: the output grows only within the request's share of the budget.

use crate::allowance::{NoRoom, Share};
use crate::schema::{Field, Kind, NESTS_MAX, Shape};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use std::fmt;

/// Why there is no output.
#[derive(Debug)]
pub(crate) enum NotTranscoded {
    /// Not JSON, or a value of the wrong kind.
    Invalid(serde_json::Error),
    /// The budget.
    NoRoom(NoRoom),
}

/// The protobuf bytes of a JSON message, and how many values were nested too deeply and left out. What the bytes take is held by
/// `share`.
pub(crate) fn transcode(
    shape: &'static Shape,
    json: &[u8],
    share: &mut Share,
) -> Result<(Vec<u8>, u64), NotTranscoded> {
    let mut writer = Writer { out: Vec::new(), share, no_room: None, nests: 0, cut: 0 };
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let result = Body { shape, writer: &mut writer }.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (writer.no_room, result) {
        (Some(no_room), _) => Err(NotTranscoded::NoRoom(no_room)),
        (None, Err(error)) => Err(NotTranscoded::Invalid(error)),
        (None, Ok(())) => Ok((writer.out, writer.cut)),
    }
}

struct Writer<'s> {
    out: Vec<u8>,
    share: &'s mut Share,
    no_room: Option<NoRoom>,
    /// Lists and maps that what is written now lies in.
    nests: usize,
    /// Of those, how many lay too deep.
    cut: u64,
}

/// Lengths are written as varints of this many bytes, so that they can be filled in afterwards; protobuf allows the padding.
const LENGTH_BYTES: usize = 5;
/// The least that the output grows by.
const STEP_BYTES: usize = 16 << 10;
/// Most that one call of a `put_` writes besides its slice: a tag, a length or a number, 10 bytes each.
const MARGIN_BYTES: usize = 32;

impl Writer<'_> {
    /// Make room for a slice and a few numbers.
    fn room<E: Error>(&mut self, slice: usize) -> Result<(), E> {
        let needed = self.out.len() + slice + MARGIN_BYTES;
        if needed > self.out.capacity() {
            let target = needed.max(self.out.capacity() * 2).max(STEP_BYTES);
            if let Err(no_room) = self.share.enlarge(&mut self.out, target) {
                self.no_room = Some(no_room);
                return Err(E::custom("more than may be held"));
            }
        }
        Ok(())
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn put_tag(&mut self, field: &Field, wire_type: u8) {
        self.put_varint(u64::from(field.number) << 3 | u64::from(wire_type));
    }

    fn put_slice<E: Error>(&mut self, field: &Field, slice: &[u8]) -> Result<(), E> {
        self.room(slice.len())?;
        self.put_tag(field, 2);
        self.put_varint(slice.len() as u64);
        self.out.extend_from_slice(slice);
        Ok(())
    }

    /// Begin something with a length; give what this returns to [`Writer::end`].
    fn begin<E: Error>(&mut self, field: &Field) -> Result<usize, E> {
        self.room(0)?;
        self.put_tag(field, 2);
        self.out.extend_from_slice(&[0; LENGTH_BYTES]);
        Ok(self.out.len())
    }

    fn end(&mut self, start: usize) {
        let mut length = self.out.len() - start;
        let last = start - 1;
        for slot in &mut self.out[start - LENGTH_BYTES..last] {
            *slot = length as u8 | 0x80;
            length >>= 7;
        }
        self.out[last] = length as u8;
    }
}

/// The fields of one message, without tag and length.
struct Body<'a, 's> {
    shape: &'static Shape,
    writer: &'a mut Writer<'s>,
}

impl<'de> DeserializeSeed<'de> for Body<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(known) = map.next_key_seed(Name(self.shape))? {
            match known {
                Some(field) => map.next_value_seed(Content { field, writer: self.writer })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A key of an object: one of the message's fields, or unknown.
struct Name(&'static Shape);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<&'static Field>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<&'static Field>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().find(|field| field.name == name))
    }
}

/// The value of a field, or one element of a repeated one.
struct Content<'a, 's> {
    field: &'static Field,
    writer: &'a mut Writer<'s>,
}

impl<'de> DeserializeSeed<'de> for Content<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.field.kind {
            Kind::Message(_) => "an object",
            Kind::Messages(_) | Kind::Texts | Kind::Fixed64s | Kind::Doubles | Kind::Uint64s => "an array",
            Kind::Text => "a string",
            Kind::Hex => "a string of hexadecimal digits",
            Kind::Base64 => "a string in base64",
            Kind::Bool => "true or false",
            Kind::Enum => "an integer",
            Kind::Int | Kind::Uint32 | Kind::Sint32 | Kind::Fixed32 | Kind::Fixed64 | Kind::Sfixed64 => {
                "an integer, or a string of one"
            }
            Kind::Double => "a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
        };
        write!(formatter, "{what} for {}", self.field.name)
    }

    /// null: as if the field were not there.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(shape) = self.field.kind else {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        };
        let nest = usize::from(shape.is_nest());
        if nest > 0 && self.writer.nests == NESTS_MAX {
            self.writer.cut += 1;
            return IgnoredAny.visit_map(map).map(drop);
        }
        self.writer.nests += nest;
        let start = self.writer.begin(self.field)?;
        Body { shape, writer: &mut *self.writer }.visit_map(map)?;
        self.writer.end(start);
        self.writer.nests -= nest;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let Content { field, writer } = self;
        match field.kind {
            Kind::Messages(shape) => while elements.next_element_seed(Element { field, shape, writer })?.is_some() {},
            Kind::Texts => while elements.next_element_seed(Scalar { field, kind: Kind::Text, writer })?.is_some() {},
            Kind::Fixed64s | Kind::Doubles | Kind::Uint64s => {
                let kind = match field.kind {
                    Kind::Fixed64s => Kind::Fixed64,
                    Kind::Doubles => Kind::Double,
                    _ => Kind::Uint64s,
                };
                let start = writer.begin(field)?;
                while elements.next_element_seed(Packed(Scalar { field, kind, writer }))?.is_some() {}
                writer.end(start);
            }
            _ => return Err(A::Error::invalid_type(Unexpected::Seq, &Content { field, writer })),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar()?.visit_str(text)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        self.scalar()?.visit_bool(flag)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.scalar()?.visit_u64(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.scalar()?.visit_i64(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.scalar()?.visit_f64(number)
    }
}

impl<'a, 's> Content<'a, 's> {
    fn scalar<E: Error>(self) -> Result<Scalar<'a, 's>, E> {
        match self.field.kind {
            Kind::Message(_) | Kind::Messages(_) | Kind::Texts | Kind::Fixed64s | Kind::Doubles | Kind::Uint64s => {
                Err(E::invalid_type(Unexpected::Other("a single value"), &self))
            }
            kind => Ok(Scalar { field: self.field, kind, writer: self.writer }),
        }
    }
}

/// One message of a repeated field.
struct Element<'a, 's> {
    field: &'static Field,
    shape: &'static Shape,
    writer: &'a mut Writer<'s>,
}

impl<'de> DeserializeSeed<'de> for Element<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let start = self.writer.begin(self.field)?;
        Body { shape: self.shape, writer: &mut *self.writer }.deserialize(deserializer)?;
        self.writer.end(start);
        Ok(())
    }
}

/// A number, text or flag.
struct Scalar<'a, 's> {
    field: &'static Field,
    kind: Kind,
    writer: &'a mut Writer<'s>,
}

impl<'de> DeserializeSeed<'de> for Scalar<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Scalar<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "another value for {}", self.field.name)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let wrong = || E::invalid_value(Unexpected::Str(text), &self);
        match self.kind {
            Kind::Text => self.writer.put_slice(self.field, text.as_bytes()),
            Kind::Hex => {
                let bytes = hex(text).ok_or_else(wrong)?;
                self.writer.put_slice(self.field, &bytes)
            }
            Kind::Base64 => {
                let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
                let bytes = engine.decode(text).map_err(|_| wrong())?;
                self.writer.put_slice(self.field, &bytes)
            }
            Kind::Bool | Kind::Enum => Err(wrong()),
            _ => {
                let bits = number_of_text(self.kind, text).ok_or_else(wrong)?;
                self.put(bits)
            }
        }
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<(), E> {
        match self.kind {
            Kind::Bool => self.put(u64::from(flag)),
            _ => Err(E::invalid_type(Unexpected::Bool(flag), &self)),
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        match bits(self.kind, Number::Unsigned(number)) {
            Some(bits) => self.put(bits),
            None => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        match bits(self.kind, Number::Signed(number)) {
            Some(bits) => self.put(bits),
            None => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        match bits(self.kind, Number::Float(number)) {
            Some(bits) => self.put(bits),
            None => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }
}

impl Scalar<'_, '_> {
    fn put<E: Error>(self, bits: u64) -> Result<(), E> {
        self.writer.room(0)?;
        self.writer.put_tag(self.field, wire_type(self.kind));
        put_bits(self.writer, self.kind, bits);
        Ok(())
    }
}

/// An element of a packed field: no tag of its own.
struct Packed<'a, 's>(Scalar<'a, 's>);

impl<'de> DeserializeSeed<'de> for Packed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Packed<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "another number in {}", self.0.field.name)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let bits = number_of_text(self.0.kind, text);
        self.put(bits, Unexpected::Str(text))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        let bits = bits(self.0.kind, Number::Unsigned(number));
        self.put(bits, Unexpected::Unsigned(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        let bits = bits(self.0.kind, Number::Signed(number));
        self.put(bits, Unexpected::Signed(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        let bits = bits(self.0.kind, Number::Float(number));
        self.put(bits, Unexpected::Float(number))
    }
}

impl Packed<'_, '_> {
    fn put<E: Error>(self, bits: Option<u64>, found: Unexpected<'_>) -> Result<(), E> {
        let bits = bits.ok_or_else(|| E::invalid_value(found, &self))?;
        self.0.writer.room(0)?;
        put_bits(self.0.writer, self.0.kind, bits);
        Ok(())
    }
}

fn wire_type(kind: Kind) -> u8 {
    match kind {
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => 1,
        Kind::Fixed32 => 5,
        _ => 0,
    }
}

fn put_bits(writer: &mut Writer<'_>, kind: Kind, bits: u64) {
    match wire_type(kind) {
        1 => writer.out.extend_from_slice(&bits.to_le_bytes()),
        5 => writer.out.extend_from_slice(&(bits as u32).to_le_bytes()),
        _ => writer.put_varint(bits),
    }
}

#[derive(Clone, Copy)]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl Number {
    /// The whole number it stands for: 1.0 and 1e3 are integers too in protobuf's JSON.
    fn whole(self) -> Option<i128> {
        match self {
            Number::Unsigned(number) => Some(i128::from(number)),
            Number::Signed(number) => Some(i128::from(number)),
            Number::Float(number) => (number.fract() == 0.0 && number.abs() < 2e19).then_some(number as i128),
        }
    }
}

/// A number as the bits that go on the wire; None when it is out of the kind's range.
fn bits(kind: Kind, number: Number) -> Option<u64> {
    match kind {
        Kind::Double => Some(
            match number {
                Number::Unsigned(number) => number as f64,
                Number::Signed(number) => number as f64,
                Number::Float(number) => number,
            }
            .to_bits(),
        ),
        Kind::Int | Kind::Sfixed64 => Some(i64::try_from(number.whole()?).ok()? as u64),
        Kind::Enum => Some(i64::from(i32::try_from(number.whole()?).ok()?) as u64),
        Kind::Sint32 => {
            let number = i32::try_from(number.whole()?).ok()?;
            Some(u64::from(((number << 1) ^ (number >> 31)) as u32))
        }
        Kind::Uint32 | Kind::Fixed32 => Some(u64::from(u32::try_from(number.whole()?).ok()?)),
        Kind::Fixed64 | Kind::Uint64s => u64::try_from(number.whole()?).ok(),
        _ => None,
    }
}

fn number_of_text(kind: Kind, text: &str) -> Option<u64> {
    let number = match text {
        "NaN" => Number::Float(f64::NAN),
        "Infinity" => Number::Float(f64::INFINITY),
        "-Infinity" => Number::Float(f64::NEG_INFINITY),
        _ => match (text.parse::<u64>(), text.parse::<i64>()) {
            (Ok(number), _) => Number::Unsigned(number),
            (_, Ok(number)) => Number::Signed(number),
            // Rust's own names for the special values ("inf") are not JSON's.
            _ => Number::Float(text.parse().ok().filter(|number: &f64| number.is_finite())?),
        },
    };
    bits(kind, number)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

// Protobuf's JSON: "either standard or URL-safe base64 encoding with/without paddings are accepted".
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
static STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
static URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

#[cfg(test)]
mod tests;
