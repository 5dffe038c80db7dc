//! Names for addresses: of functions in files from their tables of symbols, of the kernel's from `/proc/kallsyms`.
//!
//! Invariant: a table is read once for all addresses that are asked for together, in bounded pieces, and what was found is
//! remembered, for at most [`KNOWN_MAX`] addresses.

use crate::tls::elf::at::functions_at;
use hashbrown::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

/// Addresses that are remembered: some 2 MB with their names.
const KNOWN_MAX: usize = 16 * 1024;
/// Where the kernel tells its functions.
const KERNEL: &str = "/proc/kallsyms";

/// What is known of addresses; `None` is an address without a name.
#[derive(Default)]
pub(crate) struct Symbols {
    files: HashMap<(u64, u64, u64), Option<Arc<str>>>,
    kernel: HashMap<u64, Option<Arc<str>>>,
}

impl Symbols {
    /// The functions at these offsets of a file.
    pub(crate) fn of_file(&mut self, file: &File, offsets: &[u64]) -> HashMap<u64, Arc<str>> {
        let Ok(metadata) = file.metadata() else { return HashMap::new() };
        let key = |offset: u64| (metadata.dev(), metadata.ino(), offset);
        if self.files.len() + offsets.len() > KNOWN_MAX {
            self.files.clear();
        }
        let unknown: Vec<u64> =
            offsets.iter().copied().filter(|offset| !self.files.contains_key(&key(*offset))).collect();
        if !unknown.is_empty() {
            // What cannot be read has no names.
            let names = functions_at(file, &unknown).unwrap_or_else(|_| vec![None; unknown.len()]);
            for (offset, name) in unknown.into_iter().zip(names) {
                self.files.insert(key(offset), name.map(Arc::from));
            }
        }
        let found = |offset: &u64| Some((*offset, self.files.get(&key(*offset))?.clone()?));
        offsets.iter().filter_map(found).collect()
    }

    /// The kernel's functions at these addresses.
    pub(crate) fn of_kernel(&mut self, addresses: &[u64]) -> HashMap<u64, Arc<str>> {
        if self.kernel.len() + addresses.len() > KNOWN_MAX {
            self.kernel.clear();
        }
        let mut unknown: Vec<u64> =
            addresses.iter().copied().filter(|address| !self.kernel.contains_key(address)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        if !unknown.is_empty() {
            let names = File::open(KERNEL).map(|file| kernel_functions(BufReader::new(file), &unknown));
            let names = names.unwrap_or_else(|_| vec![None; unknown.len()]);
            self.kernel.extend(unknown.into_iter().zip(names));
        }
        let found = |address: &u64| Some((*address, self.kernel.get(address)?.clone()?));
        addresses.iter().filter_map(found).collect()
    }
}

/// The functions that begin last before these ascending addresses, from lines `address type name [module]` in any order.
fn kernel_functions(lines: impl BufRead, addresses: &[u64]) -> Vec<Option<Arc<str>>> {
    // Each symbol is offered to the first address behind it alone: at the end, those further on look back.
    let mut nearest: Vec<Option<(u64, Arc<str>)>> = vec![None; addresses.len()];
    for line in lines.split(b'\n').map_while(Result::ok) {
        let Some((begin, name)) = function(&line) else { continue };
        let at = addresses.partition_point(|address| *address < begin);
        if let Some(known) = nearest.get_mut(at)
            && known.as_ref().is_none_or(|(nearest, _)| *nearest <= begin)
        {
            *known = Some((begin, name.into()));
        }
    }
    let mut last: Option<(u64, Arc<str>)> = None;
    let names = nearest.into_iter().map(|found| {
        last = found.or(last.take());
        last.as_ref().map(|(_, name)| Arc::clone(name))
    });
    names.collect()
}

/// The kernel hides addresses from who may not see them: they are zero then.
fn function(line: &[u8]) -> Option<(u64, &str)> {
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let begin = u64::from_str_radix(fields.next()?, 16).ok().filter(|begin| *begin != 0)?;
    matches!(fields.next()?, "t" | "T" | "w" | "W").then_some(())?;
    Some((begin, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_function_that_begins_last_before_it() {
        let lines = "0000000000000000 T hidden\n2000 T two\n1000 T one\n3000 D data\n1800 t middle [module]\nbroken\n";
        let names = kernel_functions(lines.as_bytes(), &[0x500, 0x1000, 0x17FF, 0x1800, 0x1900, 0x3500]);
        let names: Vec<_> = names.iter().map(Option::as_deref).collect();
        assert_eq!(names, [None, Some("one"), Some("one"), Some("middle"), Some("middle"), Some("two")]);
    }

    #[test]
    fn what_was_asked_for_is_remembered_and_has_its_limit() {
        let (nothing, mut symbols) = (tempfile::tempfile().unwrap(), Symbols::default());
        assert!(symbols.of_file(&nothing, &[1, 2, 2]).is_empty());
        assert_eq!(symbols.files.len(), 2);
        let many: Vec<u64> = (0..KNOWN_MAX as u64).collect();
        assert!(symbols.of_file(&nothing, &many).is_empty());
        assert_eq!(symbols.files.len(), KNOWN_MAX);
    }
}
