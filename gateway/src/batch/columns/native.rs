//! Columns as one block of ClickHouse's FORMAT Native, as it comes over HTTP: without a protocol version there is no header before it.
//!
//! Number of columns and rows as LEB128; of each column name, type, then its streams: the ends of lists and maps as u64, a byte for each
//! null, texts of few values as their dictionary and indexes, bytes. A column with a dictionary begins with its version.
//! <https://clickhouse.com/docs/interfaces/specs/NativeFormat>. Invariant: what is written depends on the rows and their order alone.

use super::dictionary::Dictionary;
use super::{Columns, Data, Type, put_length, put_text};
use bytes::Bytes;

/// Of dictionaries: keys in each block, none shared between blocks.
const DICTIONARY_VERSION: u64 = 1;
/// The dictionary of the block follows, and is all there is.
const HAS_KEYS: u64 = 1 << 9;
const IS_WHOLE: u64 = 1 << 10;

/// The block of these rows of one table, in their order. Each column is let go as soon as it is written.
pub(crate) fn into_native(parts: Vec<Columns>) -> Bytes {
    let of = parts.first().map_or(&[][..], |part| part.of);
    let mut out = Vec::with_capacity(parts.iter().map(Columns::bytes).sum::<usize>() + of.len() * 64);
    put_length(&mut out, of.len());
    put_length(&mut out, parts.iter().map(|part| part.rows as usize).sum());
    let mut parts: Vec<_> = parts.into_iter().map(|part| part.data.into_iter()).collect();
    for (name, of) in of {
        put_text(&mut out, name.as_bytes());
        put_text(&mut out, of.to_string().as_bytes());
        if has_dictionary(*of) {
            out.extend_from_slice(&DICTIONARY_VERSION.to_le_bytes());
        }
        let column: Vec<Data> = parts.iter_mut().filter_map(Iterator::next).collect();
        write(&column, &mut out);
    }
    out.into()
}

fn has_dictionary(of: Type) -> bool {
    match of {
        Type::LowCardinality | Type::Map => true,
        Type::Array(items) => has_dictionary(*items),
        _ => false,
    }
}

fn write(column: &[Data], out: &mut Vec<u8>) {
    write_ends(column.iter().map(|part| part.lists.as_slice()), out);
    write_ends(column.iter().map(|part| part.maps.as_slice()), out);
    column.iter().for_each(|part| out.extend_from_slice(&part.nulls));
    write_words(column, out);
    column.iter().for_each(|part| out.extend_from_slice(&part.bytes));
}

/// Each part's ends follow those of the parts before it.
fn write_ends<'a>(parts: impl Iterator<Item = &'a [u64]>, out: &mut Vec<u8>) {
    let mut base = 0;
    for ends in parts {
        ends.iter().for_each(|end| out.extend_from_slice(&(base + end).to_le_bytes()));
        base += ends.last().copied().unwrap_or(0);
    }
}

/// One dictionary of all parts, and all their indexes. Of no texts nothing is written, not even that there are none.
fn write_words(column: &[Data], out: &mut Vec<u8>) {
    let indexes: usize = column.iter().map(|part| part.indexes.len()).sum();
    if indexes == 0 {
        return;
    }
    let mut dictionary = Dictionary::default();
    let here: Vec<Vec<u32>> =
        column.iter().map(|part| part.dictionary.texts().map(|text| dictionary.index(text)).collect()).collect();
    let keys = dictionary.len();
    let width: u64 = match keys {
        0..=0x100 => 0,
        0x101..=0x1_0000 => 1,
        _ => 2,
    };
    for word in [HAS_KEYS | IS_WHOLE | width, keys as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(dictionary.written());
    out.extend_from_slice(&(indexes as u64).to_le_bytes());
    for (part, here) in column.iter().zip(&here) {
        // Each is an index of its part's dictionary.
        let indexes = part.indexes.iter().map(|there| here.get(*there as usize).copied().unwrap_or_default());
        match width {
            0 => out.extend(indexes.map(|index| index as u8)),
            1 => indexes.for_each(|index| out.extend_from_slice(&(index as u16).to_le_bytes())),
            _ => indexes.for_each(|index| out.extend_from_slice(&index.to_le_bytes())),
        }
    }
}
