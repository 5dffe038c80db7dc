//! Adds rows to columns field by field, whatever the row type.
//!
//! The way of rows that are made one at a time, and what whoever fills columns in another way is compared with. Invariant: what a row
//! holds is added or is an error, and the row's type must have the columns' fields in their order.

use super::{Columns, Data, Type};
use serde::Serialize;
use serde::ser::{self, Impossible};
use std::fmt;

/// Add one row.
pub(crate) fn push<T: Serialize>(row: &T, columns: &mut Columns) -> Result<(), Error> {
    row.serialize(Row { columns })
}

/// A row type that columns have no form for: a mistake in the program, not in the data.
#[derive(Debug, thiserror::Error)]
#[error("a row cannot be written to columns: {0}")]
pub(crate) struct Error(String);

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error(message.to_string())
    }
}

fn no_form<T>(what: &str) -> Result<T, Error> {
    Err(Error(what.to_owned()))
}

/// Everything that no row has.
macro_rules! no_forms {
    ($($method:ident($($argument:ty),*) -> $ok:ty),* $(,)?) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$ok, Error> {
            no_form(stringify!($method))
        })*
    };
}

/// A row: a struct, and nothing else.
struct Row<'a> {
    columns: &'a mut Columns,
}

/// The fields of a row that are still to come.
struct Fields<'a> {
    columns: &'a mut Columns,
    next: usize,
}

impl<'a> ser::Serializer for Row<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Impossible<(), Error>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStruct = Fields<'a>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeStructVariant = Impossible<(), Error>;

    no_forms!(
        serialize_bool(bool) -> (),
        serialize_i8(i8) -> (),
        serialize_i16(i16) -> (),
        serialize_i32(i32) -> (),
        serialize_i64(i64) -> (),
        serialize_u8(u8) -> (),
        serialize_u16(u16) -> (),
        serialize_u32(u32) -> (),
        serialize_u64(u64) -> (),
        serialize_f32(f32) -> (),
        serialize_f64(f64) -> (),
        serialize_char(char) -> (),
        serialize_str(&str) -> (),
        serialize_bytes(&[u8]) -> (),
        serialize_none() -> (),
        serialize_unit() -> (),
        serialize_unit_struct(&'static str) -> (),
        serialize_unit_variant(&'static str, u32, &'static str) -> (),
        serialize_seq(Option<usize>) -> Self::SerializeSeq,
        serialize_tuple(usize) -> Self::SerializeTuple,
        serialize_map(Option<usize>) -> Self::SerializeMap,
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant,
    );

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), Error> {
        no_form("serialize_some")
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<(), Error> {
        no_form("serialize_newtype_struct")
    }

    fn serialize_newtype_variant<T>(self, _: &'static str, _: u32, _: &'static str, _: &T) -> Result<(), Error>
    where
        T: Serialize + ?Sized,
    {
        no_form("serialize_newtype_variant")
    }

    fn serialize_struct(self, _: &'static str, fields: usize) -> Result<Fields<'a>, Error> {
        if fields != self.columns.of.len() {
            return no_form("a row with other fields than columns");
        }
        Ok(Fields { columns: self.columns, next: 0 })
    }
}

impl ser::SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        let column = self.columns.of.get(self.next).zip(self.columns.data.get_mut(self.next));
        self.next += 1;
        match column {
            Some(((column, of), data)) if *column == name => value.serialize(Value { of: *of, data }),
            _ => no_form(name),
        }
    }

    fn end(self) -> Result<(), Error> {
        self.columns.end_rows(1);
        Ok(())
    }
}

/// A value of a column, or an item of one.
struct Value<'a> {
    of: Type,
    data: &'a mut Data,
}

/// The items of a list, or the pairs of a map.
struct Items<'a> {
    of: Type,
    data: &'a mut Data,
    items: usize,
}

/// The key of a pair, then its value.
struct Pair<'a> {
    data: &'a mut Data,
    key: bool,
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            self.data.number(&value.to_le_bytes());
            Ok(())
        })*
    };
}

impl<'a> ser::Serializer for Value<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Items<'a>;
    type SerializeTuple = Pair<'a>;
    type SerializeMap = Impossible<(), Error>;
    type SerializeStruct = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeStructVariant = Impossible<(), Error>;

    numbers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_u8: u8, serialize_u16: u16,
        serialize_u32: u32, serialize_u64: u64, serialize_f32: f32, serialize_f64: f64
    );

    no_forms!(
        serialize_char(char) -> (),
        serialize_unit() -> (),
        serialize_unit_struct(&'static str) -> (),
        serialize_unit_variant(&'static str, u32, &'static str) -> (),
        serialize_map(Option<usize>) -> Self::SerializeMap,
        serialize_struct(&'static str, usize) -> Self::SerializeStruct,
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct,
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant,
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant,
    );

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.serialize_u8(u8::from(value))
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.serialize_bytes(text.as_bytes())
    }

    fn serialize_bytes(self, text: &[u8]) -> Result<(), Error> {
        match self.of {
            Type::LowCardinality => self.data.word(text),
            _ => self.data.text(text),
        }
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.data.is_there(false);
        self.serialize_f64(0.0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.data.is_there(true);
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T>(self, _: &'static str, _: u32, _: &'static str, _: &T) -> Result<(), Error>
    where
        T: Serialize + ?Sized,
    {
        no_form("serialize_newtype_variant")
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items<'a>, Error> {
        Ok(Items { of: self.of, data: self.data, items: 0 })
    }

    fn serialize_tuple(self, _: usize) -> Result<Pair<'a>, Error> {
        Ok(Pair { data: self.data, key: true })
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl ser::SerializeSeq for Items<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.items += 1;
        let of = match self.of {
            Type::Array(items) => *items,
            other => other,
        };
        value.serialize(Value { of, data: self.data })
    }

    fn end(self) -> Result<(), Error> {
        match self.of {
            Type::Array(_) => self.data.end_list(self.items),
            _ => self.data.end_map(self.items),
        }
        Ok(())
    }
}

impl ser::SerializeTuple for Pair<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let of = if std::mem::take(&mut self.key) { Type::LowCardinality } else { Type::String };
        value.serialize(Value { of, data: self.data })
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}
