//! What a program or library is made of: its sections, and where its functions are, as uprobes want them.
//!
//! In: an ELF file (System V ABI, 64 bits, little-endian), of any size and from anybody. It is read in pieces: a program with
//! its libraries linked in may have a hundred megabytes of symbols. Invariant: never more than [`PIECE_BYTES`] of a table are held,
//! and no more than [`TABLE_BYTES_MAX`] of it are read.

pub(crate) mod at;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Held at a time.
const PIECE_BYTES: usize = 64 * 1024;
/// Of a table of symbols or of their names; a browser has 60 MB of them.
const TABLE_BYTES_MAX: u64 = 128 * 1024 * 1024;
const SEGMENTS_MAX: u16 = 256;
const SECTIONS_MAX: u16 = 16 * 1024;

const HEADER_BYTES: usize = 64;
const SEGMENT_BYTES: u64 = 56;
const SECTION_BYTES: u64 = 64;
const SYMBOL_BYTES: usize = 24;
const RELOCATION_BYTES: usize = 24;
const LOADED: u32 = 1; // PT_LOAD
const SYMBOLS: u32 = 2; // SHT_SYMTAB
const RELOCATIONS: u32 = 4; // SHT_RELA
const DYNAMIC_SYMBOLS: u32 = 11; // SHT_DYNSYM
const FUNCTION: u8 = 2; // STT_FUNC

/// An open file of this kind.
pub(crate) struct Elf<'a> {
    pub(crate) file: &'a File,
    pub(crate) machine: u16,
    sections: Vec<Section>,
    segments: Vec<Segment>,
    /// Which section has the sections' names.
    names: usize,
}

/// Where a section is in the file and, while it runs, in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    name: u32,
    kind: u32,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// Which section has the names of its entries.
    link: u32,
}

/// What is loaded: where from, where to, how many bytes.
struct Segment {
    offset: u64,
    address: u64,
    bytes: u64,
}

impl Section {
    /// A part of it.
    pub(crate) fn part(self, from: u64, to: u64) -> Section {
        Section { offset: self.offset.saturating_add(from), bytes: to.saturating_sub(from), ..self }
    }
}

impl<'a> Elf<'a> {
    /// `None` if the file is none of these.
    pub(crate) fn read(file: &'a File) -> io::Result<Option<Elf<'a>>> {
        let mut header = [0; HEADER_BYTES];
        if file.read_at(&mut header, 0)? < HEADER_BYTES || header[..6] != *b"\x7FELF\x02\x01" {
            return Ok(None);
        }
        let names = u16_at(&header, 62).into();
        let (sections, segments) = (sections(file, &header)?, segments(file, &header)?);
        Ok(Some(Elf { file, machine: u16_at(&header, 18), sections, segments, names }))
    }

    /// The functions among `names`: index of the name, and offset of the code in the file. What the file exports comes first; its
    /// other symbols, which it may have been stripped of, are looked at if it exports none of them.
    pub(crate) fn functions(&self, names: &[&str]) -> io::Result<Vec<(usize, u64)>> {
        for kind in [DYNAMIC_SYMBOLS, SYMBOLS] {
            for table in self.sections.iter().filter(|section| section.kind == kind) {
                let Some(strings) = self.sections.get(table.link as usize) else { continue };
                let wanted = find_names(self.file, strings, names)?;
                let addresses = if wanted.is_empty() { Vec::new() } else { find_symbols(self.file, table, &wanted)? };
                if !addresses.is_empty() {
                    let offset = |(index, address)| Some((index, self.offset(address)?));
                    return Ok(addresses.into_iter().filter_map(offset).collect());
                }
            }
        }
        Ok(Vec::new())
    }

    /// The first section of this name.
    pub(crate) fn section(&self, name: &str) -> io::Result<Option<Section>> {
        let Some(names) = self.sections.get(self.names) else { return Ok(None) };
        let mut found = vec![0; name.len() + 1];
        for section in &self.sections {
            let at = names.offset.saturating_add(section.name.into());
            if self.file.read_at(&mut found, at)? == found.len() && found.strip_suffix(b"\0") == Some(name.as_bytes()) {
                return Ok(Some(*section));
            }
        }
        Ok(None)
    }

    /// Where in the file an address is, if it is loaded from there.
    pub(crate) fn offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address).filter(|within| *within < segment.bytes)?;
            segment.offset.checked_add(within)
        })
    }

    /// A pointer as it will be before the program is moved: what the file has there, or what its relocation says.
    pub(crate) fn pointer(&self, address: u64) -> io::Result<Option<u64>> {
        let Some(offset) = self.offset(address) else { return Ok(None) };
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, offset)?;
        let mut found = Some(u64::from_le_bytes(bytes)).filter(|pointer| *pointer != 0);
        for table in self.sections.iter().filter(|section| section.kind == RELOCATIONS) {
            if found.is_some() {
                break;
            }
            each_piece(self.file, table, RELOCATION_BYTES, |piece| {
                let mut entries = piece.chunks_exact(RELOCATION_BYTES);
                if let Some(entry) = entries.find(|entry| u64_at(entry, 0) == address) {
                    found = Some(u64_at(entry, 16));
                }
            })?;
        }
        Ok(found)
    }
}

fn sections(file: &File, header: &[u8]) -> io::Result<Vec<Section>> {
    let (offset, count) = (u64_at(header, 40), u16_at(header, 60).min(SECTIONS_MAX));
    let mut sections = Vec::new();
    for number in 0..u64::from(count) {
        let mut section = [0; SECTION_BYTES as usize];
        file.read_exact_at(&mut section, offset.saturating_add(number * SECTION_BYTES))?;
        let [name, kind, link] = [0, 4, 40].map(|at| u32_at(&section, at));
        let [address, offset, bytes] = [16, 24, 32].map(|at| u64_at(&section, at));
        sections.push(Section { name, kind, address, offset, bytes: bytes.min(TABLE_BYTES_MAX), link });
    }
    Ok(sections)
}

fn segments(file: &File, header: &[u8]) -> io::Result<Vec<Segment>> {
    let (offset, count) = (u64_at(header, 32), u16_at(header, 56).min(SEGMENTS_MAX));
    let mut segments = Vec::new();
    for number in 0..u64::from(count) {
        let mut segment = [0; SEGMENT_BYTES as usize];
        file.read_exact_at(&mut segment, offset.saturating_add(number * SEGMENT_BYTES))?;
        if u32_at(&segment, 0) == LOADED {
            let [offset, address, bytes] = [8, 16, 32].map(|at| u64_at(&segment, at));
            segments.push(Segment { offset, address, bytes });
        }
    }
    Ok(segments)
}

/// Where in a table of strings the names are, each with its index. A name may be the end of a longer one.
pub(super) fn find_names(file: &File, table: &Section, names: &[&str]) -> io::Result<Vec<(u32, usize)>> {
    let longest = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut found = Vec::new();
    // What was read of the last string goes on in the next piece.
    let mut text: Vec<u8> = Vec::new();
    let mut at = 0;
    each_piece(file, table, 1, |piece| {
        let carried = text.len();
        text.extend_from_slice(piece);
        for end in memchr::memchr_iter(0, piece).map(|end| carried + end) {
            for (index, name) in names.iter().enumerate().filter(|(_, name)| text[..end].ends_with(name.as_bytes())) {
                found.push(((at + end - carried - name.len()) as u32, index));
            }
        }
        at += piece.len();
        text.drain(..text.len().saturating_sub(longest));
    })?;
    Ok(found)
}

/// The functions of these names that are defined here: index of the name, and address.
fn find_symbols(file: &File, table: &Section, wanted: &[(u32, usize)]) -> io::Result<Vec<(usize, u64)>> {
    let mut found: Vec<(usize, u64)> = Vec::new();
    each_piece(file, table, SYMBOL_BYTES, |piece| {
        for symbol in piece.chunks_exact(SYMBOL_BYTES) {
            let (name, kind, section, address) =
                (u32_at(symbol, 0), symbol[4] & 0xF, u16_at(symbol, 6), u64_at(symbol, 8));
            if kind == FUNCTION
                && section != 0
                && let Some((_, index)) = wanted.iter().find(|(offset, _)| *offset == name)
                && !found.iter().any(|(known, _)| known == index)
            {
                found.push((*index, address));
            }
        }
    })?;
    Ok(found)
}

/// A table piece by piece, each of whole entries. A table that ends before it should is read as far as it goes.
pub(super) fn each_piece(
    file: &File,
    table: &Section,
    entry_bytes: usize,
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES / entry_bytes * entry_bytes];
    let mut done = 0;
    while done < table.bytes {
        let wanted = usize::try_from(table.bytes - done).unwrap_or(usize::MAX).min(piece.len());
        let read = file.read_at(&mut piece[..wanted], table.offset.saturating_add(done))? / entry_bytes * entry_bytes;
        if read == 0 {
            break;
        }
        take(&piece[..read]);
        done += read as u64;
    }
    Ok(())
}

pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

/// A file that exports one function.
#[cfg(test)]
pub(super) fn with_function(name: &str) -> Vec<u8> {
    tests::elf(DYNAMIC_SYMBOLS, format!("\0{name}\0").as_bytes(), &[(1, 0x12, 5, 0x1010)])
}

/// A file of a machine with sections at addresses, one after the other, each loaded by itself.
#[cfg(test)]
pub(super) fn with_sections(machine: u16, sections: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let names: String = sections.iter().map(|(name, ..)| format!("{name}\0")).collect();
    let count = sections.len();
    let (segments_at, sections_at) = (64, 64 + 56 * count);
    let mut at = sections_at + 64 * (count + 1);
    let (mut segments, mut heads, mut contents, mut name_at) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut head = |name: u32, address: u64, at: usize, bytes: &[u8]| {
        let mut head = [0; 64];
        head[..4].copy_from_slice(&name.to_le_bytes());
        for (place, value) in [(16, address), (24, at as u64), (32, bytes.len() as u64)] {
            head[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        heads.extend(head);
        contents.extend(bytes);
    };
    for (name, address, bytes) in sections {
        let mut segment = [0; 56];
        segment[0] = 1;
        for (place, value) in [(8, at as u64), (16, *address), (32, bytes.len() as u64)] {
            segment[place..place + 8].copy_from_slice(&value.to_le_bytes());
        }
        segments.extend(segment);
        head(name_at, *address, at, bytes);
        name_at += name.len() as u32 + 1;
        at += bytes.len();
    }
    head(0, 0, at, names.as_bytes());
    let mut header = vec![0; 64];
    header[..6].copy_from_slice(b"\x7FELF\x02\x01");
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    for (place, value) in [(32, segments_at), (40, sections_at)] {
        header[place..place + 8].copy_from_slice(&(value as u64).to_le_bytes());
    }
    for (place, value) in [(56, count), (60, count + 1), (62, count)] {
        header[place..place + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }
    [header, segments, heads, contents].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A file with one loaded segment (address 0x1000 at offset 0x200), a table of symbols and one of `strings`.
    pub(super) fn elf(kind: u32, strings: &[u8], symbols: &[(u32, u8, u16, u64)]) -> Vec<u8> {
        let mut table = Vec::new();
        for (name, kind, section, address) in symbols {
            table.extend(name.to_le_bytes());
            table.extend([*kind, 0]);
            table.extend(section.to_le_bytes());
            table.extend(address.to_le_bytes());
            table.extend([0; 8]);
        }
        let (strings_at, table_at) = (0x400, 0x400 + strings.len() as u64);
        let mut file = vec![0; 0x400];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7FELF\x02\x01");
        for (at, value) in [(32, 64u64), (40, 0x100)] {
            put(at, &value.to_le_bytes());
        }
        for (at, value) in [(56, 1u16), (60, 3)] {
            put(at, &value.to_le_bytes());
        }
        put(64, &1u32.to_le_bytes());
        for (at, value) in [(64 + 8, 0x200u64), (64 + 16, 0x1000), (64 + 32, 0x100)] {
            put(at, &value.to_le_bytes());
        }
        for (section, kind, link, at, bytes) in
            [(1, kind, 2u32, table_at, table.len()), (2, 3, 0, strings_at, strings.len())]
        {
            let head = 0x100 + section * 64;
            put(head + 4, &kind.to_le_bytes());
            put(head + 24, &at.to_le_bytes());
            put(head + 32, &(bytes as u64).to_le_bytes());
            put(head + 40, &link.to_le_bytes());
        }
        [file, strings.to_vec(), table].concat()
    }

    fn found(bytes: &[u8]) -> Vec<(usize, u64)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Elf::read(&file).unwrap().map_or(Vec::new(), |elf| elf.functions(&["SSL_read", "SSL_write"]).unwrap())
    }

    #[test]
    fn functions_are_found_by_their_names_wherever_a_piece_of_the_file_ends() {
        for padding in PIECE_BYTES - 20..PIECE_BYTES + 2 {
            let strings = [vec![b'x'; padding], b"\0SSL_write\0SSL_read\0".to_vec()].concat();
            let [write, read] = [padding as u32 + 1, padding as u32 + 11];
            let symbols = [(read, 0x12, 5, 0x1010), (write, 0x12, 5, 0x1020)];
            assert_eq!(found(&elf(SYMBOLS, &strings, &symbols)), [(0, 0x210), (1, 0x220)], "{padding}");
        }
    }

    #[test]
    fn a_name_may_be_the_end_of_another_and_a_longer_one_is_another() {
        let symbols = [(5, 0x12, 5, 0x1010), (1, 0x12, 5, 0x1030), (14, 0x12, 5, 0x1020)];
        assert_eq!(found(&elf(DYNAMIC_SYMBOLS, b"\0BIO_SSL_read\0SSL_writev\0", &symbols)), [(0, 0x210)]);
    }

    #[test]
    fn what_is_only_used_here_or_is_no_function_or_lies_nowhere_is_not_found() {
        for symbol in [(1, 0x12, 0, 0x1010), (1, 0x11, 5, 0x1010), (1, 0x12, 5, 0x1100), (1, 0x12, 5, 0xFFF)] {
            assert_eq!(found(&elf(DYNAMIC_SYMBOLS, b"\0SSL_read\0", &[symbol])), [], "{symbol:?}");
        }
    }

    #[test]
    fn files_that_are_cut_or_none_of_these_give_nothing() {
        let whole = elf(SYMBOLS, b"\0SSL_read\0", &[(1, 0x12, 5, 0x1010)]);
        assert_eq!(found(&whole), [(0, 0x210)]);
        for length in [0, 5, 63, whole.len() - 1] {
            assert_eq!(found(&whole[..length]), []);
        }
        let mut other = whole;
        other[4] = 1;
        assert_eq!(found(&other), []);
    }

    #[test]
    fn no_bytes_of_a_header_make_it_fail_otherwise_than_by_an_error() {
        let whole = elf(SYMBOLS, b"\0SSL_read\0", &[(1, 0x12, 5, 0x1010)]);
        for at in (6..64).chain(0x140..0x1C0) {
            let mut damaged = whole.clone();
            damaged[at..(at + 8).min(0x1C0)].fill(0xFF);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&damaged).unwrap();
            let _ = Elf::read(&file).map(|elf| elf.map(|elf| elf.functions(&["SSL_read", "SSL_write"])));
        }
    }
}
