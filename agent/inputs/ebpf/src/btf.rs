//! A small reader of the kernel's own type information (BTF), for few questions: where in a struct is a field, what an
//! enumerator stands for, what a tracepoint or a function is given.
//!
//! In: `/sys/kernel/btf/vmlinux`, some 5 MB, held only while questions are asked. Out: numbers. The format is the
//! kernel's `Documentation/bpf/btf.rst`. Invariant: malformed input gives an error or `None`, never a panic, and the work is
//! bounded by the size of the input and by how many members one question may look at.

use crate::host::Pages;
use std::ops::{Deref, Range};

/// Where the kernel shows its types.
pub(crate) const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xEB9F;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// Anonymous structs nest three deep in the kernel; modifiers add one each.
const DEPTH_MAX: u32 = 16;
/// Looked at for one question; the kernel's largest struct has some 300. Types that hold each other many times would else take the power of
/// their members by the depth.
const MEMBERS_MAX: u32 = 1 << 14;

const POINTER: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const FUNCTION: u32 = 12;
const PROTOTYPE: u32 = 13;

/// Every how many types a position is remembered.
const STRIDE: usize = 64;

/// Type information, parsed as far as an index of types. The bytes are borrowed from wherever they are kept.
pub(crate) struct Btf<B> {
    bytes: B,
    types: Range<usize>,
    strings: Range<usize>,
    /// Positions of types 1, 1 + STRIDE, ...; number 0 is `void` and has none.
    marks: Vec<u32>,
}

impl Btf<Pages> {
    /// The running kernel's.
    pub(crate) fn kernel() -> Result<Btf<Pages>, String> {
        let bytes = Pages::read(KERNEL).map_err(|error| format!("{KERNEL}: {error}"))?;
        Btf::parse(bytes).ok_or_else(|| format!("{KERNEL}: not understood"))
    }
}

impl<B: Deref<Target = [u8]>> Btf<B> {
    pub(crate) fn parse(bytes: B) -> Option<Btf<B>> {
        if word(&bytes, 0)? & 0xFFFF != MAGIC || bytes.len() < HEADER_BYTES {
            return None;
        }
        let body = word(&bytes, 4)? as usize;
        let section = |at: usize| {
            let start = body.checked_add(word(&bytes, at)? as usize)?;
            let end = start.checked_add(word(&bytes, at + 4)? as usize)?;
            (end <= bytes.len()).then_some(start..end)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut btf = Btf { bytes, types, strings, marks: Vec::new() };
        let mut at = btf.types.start;
        for number in 0.. {
            if number % STRIDE == 0 {
                btf.marks.push(u32::try_from(at).ok()?);
            }
            if at >= btf.types.end {
                break;
            }
            at = btf.next(at)?;
        }
        Some(btf)
    }

    /// Whether anything has this name: so helpers are found, which are values of an enumeration.
    pub(crate) fn names(&self, name: &str) -> bool {
        let wanted = [b"\0", name.as_bytes(), b"\0"].concat();
        memchr::memmem::find(&self.bytes[self.strings.clone()], &wanted).is_some()
    }

    /// The position behind the type at `at`; `None` for a kind that is not known.
    fn next(&self, at: usize) -> Option<usize> {
        let info = word(&self.bytes, at + 4)?;
        let members = (info & 0xFFFF) as usize;
        let more = match (info >> 24) & 0x1F {
            1 | 14 | 17 => 4,                          // int, variable, declaration tag
            3 => 12,                                   // array
            STRUCT | UNION | 15 | 19 => members * 12,  // members, sections, 64-bit enumerators
            ENUM | PROTOTYPE => members * 8,           // enumerators, parameters
            POINTER | 7 | TYPEDEF..=12 | 16 | 18 => 0, // pointers, names and modifiers of others
            _ => return None,
        };
        Some(at + TYPE_BYTES + more)
    }

    /// The position of a type by its number.
    fn position(&self, number: u32) -> Option<usize> {
        let number = (number as usize).checked_sub(1)?;
        let mut at = *self.marks.get(number / STRIDE)? as usize;
        for _ in 0..number % STRIDE {
            at = self.next(at)?;
        }
        (at < self.types.end).then_some(at)
    }

    /// The offset in bytes of `field` in `struct of`, looked for in its anonymous members too. `None` if either is not
    /// there, or the field is a bit field.
    pub(crate) fn offset(&self, of: &str, field: &str) -> Option<u32> {
        let bits = self.member(self.find(STRUCT, of)?, field, 0, &mut { MEMBERS_MAX })?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Bytes of `struct of`; `None` if there is none.
    pub(crate) fn size(&self, of: &str) -> Option<u32> {
        word(&self.bytes, self.find(STRUCT, of)? + 8)
    }

    /// What `name` stands for in `enum of`.
    pub(crate) fn enumerator(&self, of: &str, name: &str) -> Option<u32> {
        let at = self.find(ENUM, of)?;
        let count = (word(&self.bytes, at + 4)? & 0xFFFF) as usize;
        let at = (0..count).map(|number| at + TYPE_BYTES + number * 8).find(|at| self.is_named(*at, name))?;
        word(&self.bytes, at + 4)
    }

    /// How many arguments a tracepoint is given, by the type that the kernel makes for programs that attach to it.
    pub(crate) fn arguments(&self, tracepoint: &str) -> Option<u32> {
        let inner = |at| self.position(word(&self.bytes, at + 8)?);
        let pointer = inner(self.find(TYPEDEF, &format!("btf_trace_{tracepoint}"))?)?;
        let prototype = (self.kind(pointer)? == POINTER).then(|| inner(pointer)).flatten()?;
        let is_prototype = self.kind(prototype)? == PROTOTYPE;
        // The first is for whoever attaches.
        is_prototype.then_some((word(&self.bytes, prototype + 4)? & 0xFFFF).checked_sub(1)?)
    }

    /// How many parameters a function has.
    pub(crate) fn parameters(&self, function: &str) -> Option<u32> {
        let prototype = self.position(word(&self.bytes, self.find(FUNCTION, function)? + 8)?)?;
        (self.kind(prototype)? == PROTOTYPE).then_some(word(&self.bytes, prototype + 4)? & 0xFFFF)
    }

    /// The position of the first type of a kind and name.
    fn find(&self, kind: u32, name: &str) -> Option<usize> {
        let mut at = self.types.start;
        while self.kind(at)? != kind || !self.is_named(at, name) {
            at = self.next(at).filter(|next| *next < self.types.end)?;
        }
        Some(at)
    }

    /// Offset in bits. `left` is how many members may still be looked at.
    fn member(&self, at: usize, field: &str, depth: u32, left: &mut u32) -> Option<u32> {
        if depth > DEPTH_MAX {
            return None;
        }
        let info = word(&self.bytes, at + 4)?;
        // With the flag, the upper byte of an offset is the width of a bit field.
        let bit_fields = info >> 31 == 1;
        for number in 0..(info & 0xFFFF) as usize {
            *left = left.checked_sub(1)?;
            let member = at + TYPE_BYTES + number * MEMBER_BYTES;
            let offset = word(&self.bytes, member + 8)?;
            let (offset, width) = if bit_fields { (offset & 0xFF_FFFF, offset >> 24) } else { (offset, 0) };
            if word(&self.bytes, member)? == 0 {
                let inner = self.structure(word(&self.bytes, member + 4)?, 0);
                if let Some(found) = inner.and_then(|inner| self.member(inner, field, depth + 1, left)) {
                    return offset.checked_add(found);
                }
            } else if self.is_named(member, field) {
                return (width == 0).then_some(offset);
            }
        }
        None
    }

    /// The struct or union behind a type number, through names and modifiers.
    fn structure(&self, number: u32, depth: u32) -> Option<usize> {
        let at = self.position(number).filter(|_| depth <= DEPTH_MAX)?;
        match self.kind(at)? {
            STRUCT | UNION => Some(at),
            TYPEDEF | VOLATILE | CONST => self.structure(word(&self.bytes, at + 8)?, depth + 1),
            _ => None,
        }
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some((word(&self.bytes, at + 4)? >> 24) & 0x1F)
    }

    /// Whether the string that the word at `at` refers to is `name`.
    fn is_named(&self, at: usize, name: &str) -> bool {
        let text = word(&self.bytes, at).and_then(|offset| {
            let start = self.strings.start.checked_add(offset as usize)?;
            self.bytes[..self.strings.end].get(start..start.checked_add(name.len() + 1)?)
        });
        text.is_some_and(|text| text.strip_suffix(&[0]) == Some(name.as_bytes()))
    }
}

/// In the byte order of the running machine, which is the kernel's.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { struct inner { int deep; }; }; int bits: 3; }`, `enum which { one = 7, two = 9 }` and
    /// `typedef void (*btf_trace_done)(void *, int, int)` and `void apply(void *, int, int)` by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0a\0deep\0bits\0int\0which\0one\0two\0btf_trace_done\0apply\0";
        let name = |text: &str| strings.windows(text.len()).position(|w| w == text.as_bytes()).unwrap() as u32;
        let flag = 1 << 31;
        let words: Vec<u32> = [
            vec![name("int"), 1 << 24, 4, 32],
            vec![0, STRUCT << 24 | 1, 4, name("deep"), 1, 32],
            vec![0, CONST << 24, 2],
            vec![0, UNION << 24 | 1, 8, 0, 3, 0],
            vec![name("outer"), flag | STRUCT << 24 | 3, 16, name("a"), 1, 0, 0, 4, 64, name("bits"), 1, 3 << 24 | 128],
            vec![name("which"), ENUM << 24 | 2, 4, name("one"), 7, name("two"), 9],
            vec![0, PROTOTYPE << 24 | 3, 0, 0, 0, 0, 1, 0, 1],
            vec![0, POINTER << 24, 7],
            vec![name("btf_trace_done"), TYPEDEF << 24, 8],
            vec![name("apply"), FUNCTION << 24, 7],
        ]
        .concat();
        let types = words.len() as u32 * 4;
        let header = [MAGIC | 1 << 16, 24, 0, types, types, strings.len() as u32];
        let mut bytes: Vec<u8> = header.iter().chain(&words).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_in_anonymous_members_behind_modifiers() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "a"), Some(0));
        assert_eq!(btf.offset("outer", "deep"), Some(8 + 4));
        for (of, field) in [("outer", "bits"), ("outer", "dee"), ("out", "a"), ("int", "a"), ("outer", "")] {
            assert_eq!(btf.offset(of, field), None, "{of}.{field}");
        }
    }

    #[test]
    fn sizes_enumerators_and_arguments_are_told() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!((btf.size("outer"), btf.size("which"), btf.size("inner")), (Some(16), None, None));
        assert_eq!((btf.enumerator("which", "one"), btf.enumerator("which", "two")), (Some(7), Some(9)));
        assert_eq!((btf.enumerator("which", "three"), btf.enumerator("outer", "a")), (None, None));
        assert_eq!((btf.arguments("done"), btf.arguments("gone")), (Some(2), None));
        assert_eq!((btf.parameters("apply"), btf.parameters("done")), (Some(3), None));
    }

    fn ask(bytes: Vec<u8>) {
        if let Some(btf) = Btf::parse(bytes) {
            let _ = (
                btf.offset("outer", "deep"),
                btf.enumerator("which", "two"),
                btf.arguments("done"),
                btf.parameters("apply"),
            );
        }
    }

    #[test]
    fn damaged_type_information_never_panics() {
        let whole = sample();
        for length in 0..whole.len() {
            ask(whole[..length].to_vec());
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                ask(bytes);
            }
        }
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let mut bytes = sample();
        // The union's only member becomes the union itself.
        let at = bytes.windows(12).position(|w| w == [0u32, 3, 0].map(u32::to_ne_bytes).concat()).unwrap();
        bytes[at + 4..at + 8].copy_from_slice(&4u32.to_ne_bytes());
        assert_eq!(Btf::parse(bytes).unwrap().offset("outer", "deep"), None);
    }

    #[test]
    fn a_type_that_contains_itself_many_times_ends_soon() {
        let strings = b"\0outer\0";
        let members = [0, 1, 0].repeat(40);
        let types = [vec![1, STRUCT << 24 | 40, 4], members].concat();
        let length = types.len() as u32 * 4;
        let header = [MAGIC | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let mut bytes: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend(strings);
        assert_eq!(Btf::parse(bytes).unwrap().offset("outer", "deep"), None);
    }
}
