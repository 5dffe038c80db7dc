//! Writes rows as ClickHouse's RowBinary, so that a block's bytes exist once and can be kept.
//!
//! The `clickhouse` crate has this serializer too, but only behind an insert that is already under way; what goes to the spill
//! and is sent again must be bytes we hold. Format: <https://clickhouse.com/docs/interfaces/formats/RowBinary>: numbers little
//! endian, strings and sequences behind a LEB128 length, `Nullable` behind a 0 (value) or 1 (null), a struct's fields in order.
//! Invariant: what a row holds is written or is an error; nothing is left out.

use serde::Serialize;
use serde::ser::{self, Impossible};
use std::fmt;

/// Append one row.
pub(crate) fn append<T: Serialize>(row: &T, out: &mut Vec<u8>) -> Result<(), Error> {
    row.serialize(&mut Writer { out })
}

/// A row type that RowBinary has no form for: a mistake in the program, not in the data.
#[derive(Debug, thiserror::Error)]
#[error("a row cannot be written as RowBinary: {0}")]
pub(crate) struct Error(String);

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error(message.to_string())
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn length(&mut self, length: usize) {
        let mut rest = length;
        while rest >= 0x80 {
            self.out.push((rest as u8 & 0x7f) | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }
}

macro_rules! little_endian {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            self.out.extend_from_slice(&value.to_le_bytes());
            Ok(())
        })*
    };
}

macro_rules! no_form {
    ($($method:ident($($argument:ty),*) -> $ok:ty: $what:literal),*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$ok, Error> {
            Err(Error($what.to_owned()))
        })*
    };
}

impl ser::Serializer for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeStructVariant = Impossible<(), Error>;

    little_endian!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_f32: f32, serialize_f64: f64
    );

    no_form!(
        serialize_char(char) -> (): "a character",
        serialize_unit() -> (): "a unit",
        serialize_unit_struct(&'static str) -> (): "a unit struct",
        serialize_unit_variant(&'static str, u32, &'static str) -> (): "an enum that is not a number",
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct: "a tuple struct",
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant: "an enum variant",
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant: "an enum variant"
    );

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.out.push(u8::from(value));
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.length(value.len());
        self.out.extend_from_slice(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.out.push(1);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.out.push(0);
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        Err(Error("an enum variant".to_owned()))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self, Error> {
        self.length(length.ok_or_else(|| Error("a sequence of unknown length".to_owned()))?);
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Self, Error> {
        self.length(length.ok_or_else(|| Error("a map of unknown length".to_owned()))?);
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Error> {
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl ser::SerializeTuple for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl ser::SerializeMap for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl ser::SerializeStruct for &mut Writer<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        small: i8,
        large: u64,
        real: f64,
        text: &'static str,
        flag: bool,
        some: Option<u16>,
        none: Option<u16>,
        map: Vec<(&'static str, &'static str)>,
    }

    #[test]
    fn every_field_has_its_bytes() {
        let row = Row {
            small: -1,
            large: 0x0102,
            real: 1.0,
            text: "ab",
            flag: true,
            some: Some(3),
            none: None,
            map: vec![("k", "v")],
        };
        let mut out = Vec::new();
        append(&row, &mut out).unwrap();
        let expected: Vec<u8> = [
            &[0xff][..],
            &[2, 1, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
            &[2, b'a', b'b'],
            &[1],
            &[0, 3, 0],
            &[1],
            &[1, 1, b'k', 1, b'v'],
        ]
        .concat();
        assert_eq!(out, expected);
    }

    #[test]
    fn a_long_text_has_a_long_length() {
        let mut out = Vec::new();
        append(&"x".repeat(300), &mut out).unwrap();
        assert_eq!(&out[..2], &[0xac, 0x02]);
        assert_eq!(out.len(), 302);
    }

    #[test]
    fn what_has_no_form_is_an_error() {
        #[derive(Serialize)]
        enum Kind {
            One,
        }
        let error = append(&Kind::One, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("an enum that is not a number"), "{error}");
    }
}
