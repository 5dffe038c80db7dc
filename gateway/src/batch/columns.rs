//! Rows as columns: what a request becomes, what requests are gathered in, and from what a block's bytes are made.
//!
//! Filled by `convert`, gathered in `batch`, written as FORMAT Native by [`into_native`], which joins what several requests gave. Every column
//! has the same streams, of which its type uses some, so that joining columns is joining streams. Texts of few values (LowCardinality, and the
//! keys of maps) are kept once and pointed to. Invariant: at each [`Columns::end_rows`] every column has grown by so many values.

mod dictionary;
mod native;
pub(crate) mod rows;

pub(crate) use native::into_native;

use dictionary::Dictionary;
use ollystack_schema::columns::{Column, Type};

/// Rows of one table.
#[derive(Debug)]
pub(crate) struct Columns {
    of: &'static [Column],
    rows: u32,
    data: Vec<Data>,
}

/// One column.
#[derive(Debug, Default)]
pub(crate) struct Data {
    /// Where the items of each list end, counted in items.
    lists: Vec<u64>,
    /// Where the pairs of each map end, counted in pairs.
    maps: Vec<u64>,
    /// 1 where there is no value.
    nulls: Vec<u8>,
    /// Texts of few values, and a map's keys.
    dictionary: Dictionary,
    /// For each of them, which.
    indexes: Vec<u32>,
    /// Numbers, little-endian; texts, each behind its length; a map's values.
    bytes: Vec<u8>,
}

impl Columns {
    pub(crate) fn new(of: &'static [Column]) -> Columns {
        Columns { of, rows: 0, data: of.iter().map(|_| Data::default()).collect() }
    }

    /// So many rows of a table whose one column holds these bytes.
    #[cfg(test)]
    pub(crate) fn of_bytes(rows: u32, bytes: &[u8]) -> Columns {
        let mut columns = Columns::new(&[("a", Type::UInt8)]);
        columns.data[0].numbers(bytes);
        columns.rows = rows;
        columns
    }

    /// How many.
    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// What they take.
    pub(crate) fn bytes(&self) -> usize {
        self.data.iter().map(Data::size).sum()
    }

    /// These, and none are left.
    pub(crate) fn take(&mut self) -> Columns {
        std::mem::replace(self, Columns::new(self.of))
    }

    /// All columns, of a table that has so many.
    pub(crate) fn all<const N: usize>(&mut self) -> Option<&mut [Data; N]> {
        self.data.as_mut_slice().try_into().ok()
    }

    /// Every column has its values of so many rows.
    pub(crate) fn end_rows(&mut self, rows: u32) {
        self.rows = self.rows.saturating_add(rows);
    }
}

impl Data {
    fn size(&self) -> usize {
        let words = (self.lists.len() + self.maps.len()) * size_of::<u64>() + self.indexes.len() * size_of::<u32>();
        words + self.nulls.len() + self.bytes.len() + self.dictionary.size()
    }

    /// A number, as its bytes.
    #[inline(always)]
    pub(crate) fn number<const BYTES: usize>(&mut self, little_endian: &[u8; BYTES]) {
        self.bytes.extend_from_slice(little_endian);
    }

    /// Several, of a list.
    pub(crate) fn numbers(&mut self, little_endian: &[u8]) {
        self.bytes.extend_from_slice(little_endian);
    }

    /// A text, or any bytes.
    pub(crate) fn text(&mut self, text: &[u8]) {
        put_text(&mut self.bytes, text);
    }

    /// Whether the value that comes next is there; of one that is not, zeros come.
    pub(crate) fn is_there(&mut self, there: bool) {
        self.nulls.push(u8::from(!there));
    }

    /// A text of few values, or a map's key.
    pub(crate) fn word(&mut self, text: &[u8]) {
        let index = self.dictionary.index(text);
        self.indexes.push(index);
    }

    /// Bytes as text: lower-case hexadecimal.
    #[inline]
    pub(crate) fn hex(&mut self, bytes: &[u8]) {
        put_length(&mut self.bytes, bytes.len() * 2);
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            self.bytes.extend_from_slice(eight.map(digits).as_flattened());
        }
        self.bytes.extend(rest.iter().flat_map(|byte| digits(*byte)));
    }

    /// Have `write` add one value, and have it there so many times. None of a list.
    pub(crate) fn repeat(&mut self, times: u32, write: impl FnOnce(&mut Data)) {
        if times == 0 {
            return;
        }
        let (map, index, byte) = (self.maps.len(), self.indexes.len(), self.bytes.len());
        let pairs_before = self.maps.last().copied().unwrap_or(0);
        write(self);
        let more = times as usize - 1;
        if self.maps.len() > map {
            let pairs = self.maps.last().copied().unwrap_or(0) - pairs_before;
            self.maps.extend((2..=u64::from(times)).map(|time| pairs_before + pairs * time));
        }
        again(&mut self.indexes, index, more);
        again(&mut self.bytes, byte, more);
    }

    /// A map ends, of so many pairs.
    pub(crate) fn end_map(&mut self, pairs: usize) {
        end(&mut self.maps, pairs);
    }

    /// A list ends, of so many items.
    pub(crate) fn end_list(&mut self, items: usize) {
        end(&mut self.lists, items);
    }
}

/// A byte in hexadecimal.
#[inline(always)]
fn digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|digit| digit + if digit < 10 { b'0' } else { b'a' - 10 })
}

/// Add what follows `start` so many times again, by ever longer pieces.
fn again<T: Copy>(values: &mut Vec<T>, start: usize, times: usize) {
    let mut missing = values.len().saturating_sub(start) * times;
    values.reserve(missing);
    while missing > 0 {
        let piece = missing.min(values.len() - start);
        values.extend_from_within(start..start + piece);
        missing -= piece;
    }
}

fn end(ends: &mut Vec<u64>, more: usize) {
    let start = ends.last().copied().unwrap_or(0);
    ends.push(start + more as u64);
}

/// Behind its length as LEB128, as ClickHouse has strings everywhere.
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_length(out, text.len());
    out.extend_from_slice(text);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The text that `bytes` begin with, and what follows it.
fn take_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0usize, 0);
    for (at, byte) in bytes.iter().enumerate().take(10) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes.get(at + 1..)?.split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests;
