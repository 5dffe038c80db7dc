//! Where the functions of a Go program are, and where they return: probes at returns, as C's functions bear them, would break a Go
//! program, whose stacks move.
//!
//! In: the table that each Go program carries for its own unwinder (`.gopclntab`, in the format of Go 1.18 and 1.20, as
//! `cmd/link/internal/ld/pcln.go` writes it), stripped or not. It has all functions by name, and for each how far its stack pointer is from
//! where it stood at its entry, instruction by instruction; a function with a frame returns only where that is nothing again. Invariant: what
//! is handed out was compared with the code itself: each function begins as Go's do, each return is the instruction of that name.

use super::elf::{Elf, Section, find_names, u32_at, u64_at};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The table's first word, by Go's versions: 1.18, and 1.20 on.
const MAGIC: [u32; 2] = [0xFFFF_FFF0, 0xFFFF_FFF1];
const HEADER_BYTES: usize = 72;
/// A function's address and the place of its description.
const ENTRY_BYTES: u64 = 8;
const FUNCTIONS_MAX: u64 = 4 * 1024 * 1024;
/// Held of the table at a time, of its index and of what that points to.
const WINDOW_BYTES: usize = 64 * 1024;
/// Of one function's table of its stack pointer.
const STEPS_BYTES_MAX: usize = 4 * 1024;
/// The largest of what is probed has some 6 KB.
const FUNCTION_BYTES_MAX: u32 = 256 * 1024;
/// Returns of one function; `crypto/tls.(*Conn).Read` has seven.
const RETURNS_MAX: usize = 32;
/// How much of a function's start may come before it looks whether its stack suffices.
const PROLOGUE_BYTES: usize = 32;
/// In `runtime.moduledata`, where the program's first function is: behind 22 words (Go 1.26).
const MODULE_TEXT: u64 = 22 * 8;

/// A function, in offsets of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) entry: u64,
    pub(crate) returns: Vec<u64>,
}

/// A Go program's version, as far as it matters: 26 of 1.26.8.
pub(crate) fn version(elf: &Elf<'_>) -> io::Result<Option<u32>> {
    let Some(section) = elf.section(".go.buildinfo")? else { return Ok(None) };
    let mut info = [0; 64];
    let read = elf.file.read_at(&mut info, section.offset)?;
    // Strings that are written out are so since Go 1.18: flags, then, from 32 on, a length and so many bytes.
    if read < 40 || info[..14] != *b"\xFF Go buildinf:" || info[15] & 2 == 0 {
        return Ok(None);
    }
    let text = &info[33..read.min(33 + usize::from(info[32]))];
    let minor = text.strip_prefix(b"go1.").unwrap_or_default();
    let digits = minor.iter().take_while(|byte| byte.is_ascii_digit()).take(4);
    Ok(digits.fold(None, |number, digit| Some(number.unwrap_or(0) * 10 + u32::from(digit - b'0'))))
}

/// Where `runtime.g` has the goroutine's number, by version: with it goroutines are told apart for good, as their structures are
/// used again. `None` for versions whose structure is not known.
pub(crate) fn number_offset(version: u32) -> Option<u32> {
    match version {
        18..=22 | 25 | 26 => Some(152),
        23 | 24 => Some(160),
        _ => None,
    }
}

/// The functions of these names, in their order, with where they return if that is asked for; or why they cannot be told, in words. A name
/// that the program has not is `None`.
pub(crate) fn functions(
    elf: &Elf<'_>,
    wanted: &[(&str, bool)],
) -> io::Result<Result<Vec<Option<Function>>, &'static str>> {
    let table = match elf.section(".gopclntab")? {
        Some(section) => Some(section),
        None => elf.section(".data.rel.ro.gopclntab")?,
    };
    let Some(table) = table else { return Ok(Err("its table of functions (.gopclntab) is not there")) };
    let Some(table) = Table::read(elf, table)? else {
        return Ok(Err("its table of functions has a format that is not known: Go 1.18 and later have one that is"));
    };
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let found = table.find(&names)?;
    let Some(start) = table.start(elf, &found)? else {
        return Ok(Err("its functions are not where its table says"));
    };
    let mut functions = Vec::new();
    for (found, (_, returns)) in found.into_iter().zip(wanted) {
        let Some(found) = found else {
            functions.push(None);
            continue;
        };
        let Some(function) = table.function(elf, start, found, *returns)? else {
            return Ok(Err("a function of it returns where its table does not say"));
        };
        functions.push(Some(function));
    }
    Ok(Ok(functions))
}

/// The table, and where in the file its parts begin.
struct Table<'a> {
    file: &'a File,
    count: u64,
    /// As the program's first function says of itself; 0 in Go 1.26 and later.
    start: u64,
    /// The address of that word.
    start_at: u64,
    names: Section,
    steps: u64,
    functions: u64,
    /// Bytes of the shortest instruction.
    quantum: u32,
}

/// A function as the table has it: where it is behind the first, and where its stack pointer's steps are.
#[derive(Clone, Copy)]
struct Found {
    from: u32,
    to: u32,
    steps: u32,
}

impl<'a> Table<'a> {
    fn read(elf: &Elf<'a>, section: Section) -> io::Result<Option<Table<'a>>> {
        let mut header = [0; HEADER_BYTES];
        if elf.file.read_at(&mut header, section.offset)? < HEADER_BYTES
            || !MAGIC.contains(&u32_at(&header, 0))
            || header[7] != 8
            || !matches!((elf.machine, header[6]), (X86_64, 1) | (AARCH64, 4))
        {
            return Ok(None);
        }
        let [count, start, names, behind_names, steps, functions] =
            [8, 24, 32, 40, 56, 64].map(|at| u64_at(&header, at));
        let is_whole = count <= FUNCTIONS_MAX
            && names <= behind_names
            && [behind_names, steps, functions].iter().all(|at| *at <= section.bytes);
        Ok(is_whole.then(|| Table {
            file: elf.file,
            count,
            start,
            start_at: section.address + 24,
            names: section.part(names, behind_names),
            steps: section.offset + steps,
            functions: section.offset + functions,
            quantum: header[6].into(),
        }))
    }

    fn find(&self, names: &[&str]) -> io::Result<Vec<Option<Found>>> {
        let mut found = vec![None; names.len()];
        let wanted = find_names(self.file, &self.names, names)?;
        if wanted.is_empty() {
            return Ok(found);
        }
        let (mut index, mut described) = (Window::new(self.file), Window::new(self.file));
        for number in 0..self.count {
            let entry: [u8; 12] = index.at(self.functions + number * ENTRY_BYTES)?;
            let [from, described_at, to] = [0, 4, 8].map(|at| u32_at(&entry, at));
            let description: [u8; 20] = described.at(self.functions + u64::from(described_at))?;
            if let Some((_, name)) = wanted.iter().find(|(name, _)| *name == u32_at(&description, 4))
                && u32_at(&description, 0) == from
                && to.checked_sub(from).is_some_and(|bytes| bytes <= FUNCTION_BYTES_MAX)
            {
                found[*name] = Some(Found { from, to, steps: u32_at(&description, 16) });
            }
        }
        Ok(found)
    }

    /// The address from which functions are counted: the table's own word for it, or a later Go's, or where code begins at all, whichever
    /// has Go's functions behind it.
    fn start(&self, elf: &Elf<'_>, found: &[Option<Found>]) -> io::Result<Option<u64>> {
        let told = if self.start != 0 { Some(self.start) } else { elf.pointer(self.start_at)? };
        let module = match elf.section(".go.module")? {
            Some(module) => elf.pointer(module.address + MODULE_TEXT)?,
            None => None,
        };
        let code = elf.section(".text")?.map(|section| section.address);
        for start in [told, module, code].into_iter().flatten() {
            let mut begins = true;
            for found in found.iter().flatten() {
                let mut code = [0; PROLOGUE_BYTES];
                begins &= match elf.offset(start.wrapping_add(found.from.into())) {
                    Some(offset) => elf.file.read_at(&mut code, offset)? > 4 && is_prologue(elf.machine, &code),
                    None => false,
                };
            }
            if begins {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }

    /// A function, with its returns if they are asked for; `None` if they cannot be told.
    fn function(&self, elf: &Elf<'_>, start: u64, found: Found, returning: bool) -> io::Result<Option<Function>> {
        let Some(entry) = elf.offset(start.wrapping_add(found.from.into())) else { return Ok(None) };
        let mut returns = Vec::new();
        if !returning {
            return Ok(Some(Function { entry, returns }));
        }
        let mut steps = vec![0; STEPS_BYTES_MAX];
        let read = self.file.read_at(&mut steps, self.steps.saturating_add(found.steps.into()))?;
        let Some(empty) = without_frame(&steps[..read], self.quantum, found.to - found.from) else { return Ok(None) };
        for at in empty {
            let mut code = [0; 4];
            let read = elf.file.read_at(&mut code, entry + u64::from(at))?;
            if is_return(elf.machine, &code[..read]) {
                returns.push(entry + u64::from(at));
            }
        }
        Ok((1..=RETURNS_MAX).contains(&returns.len()).then_some(Function { entry, returns }))
    }
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// Whether code begins by comparing the stack pointer with the limit that the goroutine (in R14, X28) has 16 bytes from its start.
fn is_prologue(machine: u16, code: &[u8]) -> bool {
    match machine {
        // cmp rsp, [r14+16], or for larger frames cmp r12, [r14+16] behind what puts the frame's end into R12
        X86_64 => code.starts_with(b"\x49\x3B\x66\x10") || code.windows(4).any(|four| four == b"\x4D\x3B\x66\x10"),
        // ldr x16, [x28, #16]
        _ => u32_at(code, 0) == 0xF940_0B90,
    }
}

fn is_return(machine: u16, code: &[u8]) -> bool {
    match machine {
        X86_64 => code.first() == Some(&0xC3),
        _ => u32_at(code, 0) == 0xD65F_03C0,
    }
}

/// Where the stack pointer comes back to where it stood at a function's entry, from its steps: pairs of a change (zigzag) and of how far it
/// holds, both in base 128. A return, which comes right behind the last of the frame, is the first instruction there. `None` if the steps make no
/// sense, or the function never has a frame.
fn without_frame(steps: &[u8], quantum: u32, length: u32) -> Option<Vec<u32>> {
    let mut steps = steps.iter();
    let mut number = || {
        let mut number = 0u32;
        for shift in (0..32).step_by(7) {
            let byte = *steps.next()?;
            number |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    };
    let (mut value, mut at) = (-1i32, 0u32);
    let (mut found, mut has_frame) = (Vec::new(), false);
    while at < length {
        let change = number()?;
        if change == 0 && at > 0 {
            break;
        }
        value = value.checked_add((change >> 1).cast_signed() ^ -(change & 1).cast_signed())?;
        has_frame |= value > 0;
        if value == 0 && at > 0 {
            found.push(at);
        }
        at = at.checked_add(number()?.checked_mul(quantum)?)?;
    }
    (has_frame && at <= length).then_some(found)
}

/// A part of a file that is read in order, mostly.
struct Window<'a> {
    file: &'a File,
    bytes: Vec<u8>,
    begin: u64,
}

impl<'a> Window<'a> {
    fn new(file: &'a File) -> Window<'a> {
        Window { file, bytes: Vec::new(), begin: 0 }
    }

    fn at<const N: usize>(&mut self, offset: u64) -> io::Result<[u8; N]> {
        let within = |window: &Window<'_>| {
            let from = usize::try_from(offset.checked_sub(window.begin)?).ok()?;
            window.bytes.get(from..from.checked_add(N)?)?.try_into().ok()
        };
        if let Some(found) = within(self) {
            return Ok(found);
        }
        self.begin = offset;
        self.bytes.resize(WINDOW_BYTES, 0);
        let read = self.file.read_at(&mut self.bytes, offset)?;
        self.bytes.truncate(read);
        within(self).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// A program of Go 1.26 that has these functions, each with two returns.
#[cfg(test)]
pub(super) fn with_functions(names: &[&'static str]) -> Vec<u8> {
    let functions: Vec<_> = names.iter().map(|name| tests::function(name, 0)).collect();
    tests::program(&functions, tests::START)
}

#[cfg(test)]
mod tests {
    use super::super::elf;
    use super::*;
    use std::io::Write as _;

    pub(super) const START: u64 = 0x40_1000;
    const CODE: u64 = 0x40_0000;
    const PROLOGUE: &[u8] = b"\x49\x3B\x66\x10";

    /// A function: its code, with returns where `0xC3` stands, and its steps.
    pub(super) fn function(name: &'static str, padding: usize) -> (&'static str, Vec<u8>, Vec<u8>) {
        // A frame of 16 bytes from the 6th byte on, away before the return at the 10th, there again, away at the 20th, where it ends.
        let mut code = [PROLOGUE, &[0x90; 17]].concat();
        (code[10], code[20]) = (0xC3, 0xC3);
        code.extend(vec![0xCC; padding]);
        (name, code, vec![2, 6, 32, 4, 31, 1, 32, 9, 31, 1, 0])
    }

    /// A program of these functions.
    pub(super) fn program(functions: &[(&str, Vec<u8>, Vec<u8>)], told_start: u64) -> Vec<u8> {
        let (mut names, mut steps, mut code) = (vec![0], vec![0], vec![0x90; (START - CODE) as usize]);
        let (mut index, mut described) = (Vec::new(), Vec::new());
        let index_bytes = functions.len() * 8 + 4;
        for (name, body, moves) in functions {
            let from = (code.len() as u64 - (START - CODE)) as u32;
            index.extend([from, (index_bytes + described.len()) as u32].map(u32::to_le_bytes).concat());
            let words = [from, names.len() as u32, 0, 0, steps.len() as u32, 0, 0, 0, 0, 0];
            described.extend(words.map(u32::to_le_bytes).concat());
            names.extend([name.as_bytes(), b"\0"].concat());
            steps.extend(moves);
            code.extend(body);
        }
        index.extend(((code.len() as u64 - (START - CODE)) as u32).to_le_bytes());
        let parts = [72, 72 + names.len(), 72 + names.len() + steps.len()].map(|at| at as u64);
        let mut table = [&MAGIC[1].to_le_bytes()[..], &[0, 0, 1, 8]].concat();
        for word in [functions.len() as u64, 0, told_start, parts[0], parts[1], parts[1], parts[1], parts[2]] {
            table.extend(word.to_le_bytes());
        }
        let table = [table, names, steps, index, described].concat();
        let info = [b"\xFF Go buildinf:\x08\x02".to_vec(), vec![0; 16], b"\x08go1.26.8\x00".to_vec(), vec![0; 16]];
        elf::with_sections(
            X86_64,
            &[(".text", CODE, &code), (".gopclntab", 0x50_0000, &table), (".go.buildinfo", 0x60_0000, &info.concat())],
        )
    }

    fn opened(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn found(bytes: &[u8]) -> Result<Vec<Option<Function>>, &'static str> {
        let file = opened(bytes);
        let elf = Elf::read(&file).unwrap().unwrap();
        functions(&elf, &[("a.Read", true), ("b.Write", true), ("c.Close", false)]).unwrap()
    }

    fn offset(bytes: &[u8], address: u64) -> u64 {
        let file = opened(bytes);
        Elf::read(&file).unwrap().unwrap().offset(address).unwrap()
    }

    #[test]
    fn functions_are_found_with_each_of_their_returns() {
        let bytes = program(
            &[function("main.main", 3), function("my.a.Read", 0), function("b.Write", 11), function("c.Close", 0)],
            START,
        );
        let write = offset(&bytes, START + 24 + 21);
        let close = offset(&bytes, START + 24 + 21 + 32);
        let expected = [
            None,
            Some(Function { entry: write, returns: vec![write + 10, write + 20] }),
            Some(Function { entry: close, returns: vec![] }),
        ];
        assert_eq!(found(&bytes).unwrap(), expected);
    }

    #[test]
    fn where_code_begins_is_believed_only_if_functions_are_there() {
        let functions = [function("b.Write", 0)];
        assert!(found(&program(&functions, START)).is_ok());
        for wrong in [0, START + 16, CODE, 0x7000_0000] {
            assert_eq!(
                found(&program(&functions, wrong)),
                Err("its functions are not where its table says"),
                "{wrong:x}"
            );
        }
    }

    #[test]
    fn a_function_that_returns_elsewhere_is_refused() {
        let (name, mut code, steps) = function("b.Write", 0);
        (code[10], code[20]) = (0x90, 0x90);
        assert!(found(&program(&[(name, code.clone(), steps.clone())], START)).is_err(), "there is no return");
        let (_, code, _) = function("b.Write", 0);
        assert!(found(&program(&[(name, code.clone(), vec![2, 21, 0])], START)).is_err(), "it has no frame");
        assert!(found(&program(&[(name, code, vec![2, 6, 32])], START)).is_err(), "its steps are cut");
    }

    #[test]
    fn versions_are_told_and_later_ones_than_known_have_no_goroutines() {
        let told = |bytes: &[u8]| {
            let file = opened(bytes);
            version(&Elf::read(&file).unwrap().unwrap()).unwrap()
        };
        assert_eq!(told(&program(&[function("b.Write", 0)], START)), Some(26));
        let other = elf::with_sections(
            X86_64,
            &[(".go.buildinfo", 0x1000, b"\xFF Go buildinf:\x08\x02 and so on: no version is here at all")],
        );
        assert_eq!(told(&other), None);
        assert_eq!([17, 22, 23, 26, 27].map(number_offset), [None, Some(152), Some(160), Some(152), None]);
    }

    #[test]
    fn no_bytes_of_a_table_make_it_fail_otherwise_than_by_an_error() {
        let whole = program(&[function("b.Write", 0), function("c.Close", 0)], START);
        let table = offset(&whole, 0x50_0000) as usize;
        for at in table..table + 200 {
            for value in [0, 0x7F, 0xFF] {
                let mut damaged = whole.clone();
                damaged[at..at + 4].fill(value);
                let file = opened(&damaged);
                let elf = Elf::read(&file).unwrap().unwrap();
                let _ = functions(&elf, &[("b.Write", true), ("c.Close", false)]);
            }
        }
    }
}
