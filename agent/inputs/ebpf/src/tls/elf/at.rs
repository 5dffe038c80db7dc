//! The other way round: from offsets in a file to the names of the functions there.
//!
//! Invariant: a table of symbols is read once for all offsets, and of the names only those that are told.

use super::{
    DYNAMIC_SYMBOLS, FUNCTION, HEADER_BYTES, LOADED, SEGMENT_BYTES, SEGMENTS_MAX, SYMBOL_BYTES, SYMBOLS, Section,
    each_piece, sections, u16_at, u32_at, u64_at,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Of a longer name the beginning is told.
const NAME_BYTES_MAX: usize = 200;

/// An address that is asked for, and the function around it as far as it is known: where it begins, and where in the
/// names its name is.
struct Wanted {
    address: u64,
    index: usize,
    found: Option<(u64, u32)>,
}

/// The function at each of the offsets, by all symbols of the file or, where it has none left, by those that it exports.
/// A file that is no such ELF has none.
pub(crate) fn functions_at(file: &File, offsets: &[u64]) -> io::Result<Vec<Option<String>>> {
    let mut names = vec![None; offsets.len()];
    let mut header = [0; HEADER_BYTES];
    if file.read_at(&mut header, 0)? < HEADER_BYTES || header[..6] != *b"\x7FELF\x02\x01" {
        return Ok(names);
    }
    let (sections, mut wanted) = (sections(file, &header)?, addresses(file, &header, offsets)?);
    for kind in [SYMBOLS, DYNAMIC_SYMBOLS] {
        for table in sections.iter().filter(|section| section.kind == kind) {
            let Some(strings) = sections.get(table.link as usize) else { continue };
            find(file, table, &mut wanted)?;
            for wanted in wanted.iter_mut().filter(|wanted| wanted.found.is_some()) {
                let name = wanted.found.take().map(|(_, name)| name_at(file, strings, name)).transpose()?;
                names[wanted.index] = name.filter(|name| !name.is_empty());
            }
            wanted.retain(|wanted| names[wanted.index].is_none());
        }
    }
    Ok(names)
}

/// What is loaded from the offsets, ascending. What is loaded from none of the segments is left out.
fn addresses(file: &File, header: &[u8], offsets: &[u64]) -> io::Result<Vec<Wanted>> {
    let (at, count) = (u64_at(header, 32), u16_at(header, 56).min(SEGMENTS_MAX));
    let mut wanted = Vec::new();
    for number in 0..u64::from(count) {
        let mut segment = [0; SEGMENT_BYTES as usize];
        file.read_exact_at(&mut segment, at.saturating_add(number * SEGMENT_BYTES))?;
        let [start, address, bytes] = [8, 16, 32].map(|at| u64_at(&segment, at));
        if u32_at(&segment, 0) == LOADED {
            wanted.extend(offsets.iter().enumerate().filter_map(|(index, offset)| {
                let within = offset.checked_sub(start).filter(|within| *within < bytes)?;
                Some(Wanted { address: address.checked_add(within)?, index, found: None })
            }));
        }
    }
    wanted.sort_unstable_by_key(|wanted| wanted.address);
    Ok(wanted)
}

/// Of functions within each other, the inner one.
fn find(file: &File, table: &Section, wanted: &mut [Wanted]) -> io::Result<()> {
    each_piece(file, table, SYMBOL_BYTES, |piece| {
        for symbol in piece.chunks_exact(SYMBOL_BYTES) {
            let (name, kind, section) = (u32_at(symbol, 0), symbol[4] & 0xF, u16_at(symbol, 6));
            let (begin, bytes) = (u64_at(symbol, 8), u64_at(symbol, 16));
            if kind != FUNCTION || section == 0 {
                continue;
            }
            let first = wanted.partition_point(|wanted| wanted.address < begin);
            for wanted in &mut wanted[first..] {
                if wanted.address - begin >= bytes {
                    break;
                }
                if wanted.found.is_none_or(|(known, _)| known <= begin) {
                    wanted.found = Some((begin, name));
                }
            }
        }
    })
}

fn name_at(file: &File, strings: &Section, at: u32) -> io::Result<String> {
    let mut bytes = [0; NAME_BYTES_MAX];
    let read = file.read_at(&mut bytes, strings.offset.saturating_add(at.into()))?;
    let length = memchr::memchr(0, &bytes[..read]).unwrap_or(read);
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn code_is_told_by_the_function_that_it_lies_in() {
        // Of 24 bytes each: `outer` from 0x1010 on, and in it `inner`; one that is no function around both.
        let strings = b"\0outer\0inner\0object\0";
        let mut bytes =
            super::super::tests::elf(SYMBOLS, strings, &[(1, 2, 5, 0x1010), (7, 2, 5, 0x1018), (13, 1, 5, 0x1000)]);
        let table = 0x400 + strings.len();
        for (symbol, size) in [(0, 24u64), (1, 4), (2, 0x100)] {
            let at = table + symbol * SYMBOL_BYTES + 16;
            bytes[at..at + 8].copy_from_slice(&size.to_le_bytes());
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let offsets = [0x218, 0x210, 0x20F, 0x21C, 0x228, 0x5000];
        let names = functions_at(&file, &offsets).unwrap();
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        assert_eq!(names, [Some("inner"), Some("outer"), None, Some("outer"), None, None]);
        for length in 0..bytes.len() {
            file.set_len(length as u64).unwrap();
            // Nothing, or an error, and never a panic.
            let _ = functions_at(&file, &offsets);
        }
    }
}
