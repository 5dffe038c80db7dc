//! From a program's addresses to places in the files that it runs.
//!
//! In: `/proc/<pid>/maps`, line by line. Invariant: at most [`LINES_MAX`] lines are read of a process, and at most
//! [`FILES_MAX`] files are open at a time.

use hashbrown::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 16 * 1024;
/// A path has at most 4,096 bytes.
const LINE_BYTES_MAX: u64 = 5_000;
const FILES_MAX: usize = 128;

/// A place in one of [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) file: u16,
    pub(crate) offset: u64,
}

/// What a process runs, in ascending order.
pub(crate) struct Mappings {
    process: PathBuf,
    all: Vec<Mapping>,
}

struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    /// Device and inode as the kernel writes them.
    file: (String, u64),
    name: String,
}

/// Files that are run, open so that they can be read after the last process that ran them has gone.
#[derive(Default)]
pub(crate) struct Files {
    numbers: HashMap<(String, u64), Option<u16>>,
    files: Vec<(File, String)>,
}

impl Mappings {
    /// Of a process by its folder in /proc; none if it cannot be read (any more).
    pub(crate) fn of_process(process: &Path) -> Mappings {
        let mut mappings = Mappings { process: process.to_owned(), all: Vec::new() };
        let Ok(file) = File::open(process.join("maps")) else { return mappings };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for _ in 0..LINES_MAX {
            line.clear();
            match reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => break,
                Ok(_) => mappings.all.extend(mapping(&String::from_utf8_lossy(&line))),
            }
        }
        mappings
    }

    /// Where an address is in a file, which is opened if it was not yet.
    pub(crate) fn place(&self, address: u64, files: &mut Files) -> Option<Place> {
        let at = self.all.partition_point(|mapping| mapping.end <= address);
        let mapping = self.all.get(at).filter(|mapping| mapping.start <= address)?;
        let file = files.number(mapping, &self.process)?;
        Some(Place { file, offset: address - mapping.start + mapping.offset })
    }
}

impl Files {
    fn number(&mut self, mapping: &Mapping, process: &Path) -> Option<u16> {
        if let Some(known) = self.numbers.get(&mapping.file) {
            return *known;
        }
        // There it can be opened, also when it was deleted or is in another mount namespace.
        let path = process.join(format!("map_files/{:x}-{:x}", mapping.start, mapping.end));
        let file = (self.files.len() < FILES_MAX).then(|| File::open(path).ok()).flatten();
        let number = file.and_then(|file| {
            self.files.push((file, mapping.name.clone()));
            u16::try_from(self.files.len() - 1).ok()
        });
        self.numbers.insert(mapping.file.clone(), number);
        number
    }

    /// A file and its name without folders.
    pub(crate) fn get(&self, number: u16) -> Option<(&File, &str)> {
        self.files.get(usize::from(number)).map(|(file, name)| (file, name.as_str()))
    }
}

/// `start-end permissions offset device inode path`, of what is run and is a file's.
fn mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.trim_end().splitn(6, ' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (device, inode, path) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.trim_start());
    let (start, end) = range.split_once('-')?;
    let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).ok());
    let is_run = permissions.as_bytes().get(2) == Some(&b'x') && path.starts_with('/');
    is_run.then_some(Mapping {
        start: start?,
        end: end?,
        offset,
        file: (device.to_owned(), inode),
        name: path.rsplit('/').next().unwrap_or(path).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_the_file_that_is_mapped_there() {
        let process = tempfile::tempdir().unwrap();
        let maps = "00400000-00401000 r--p 00000000 fe:00 7 /usr/bin/shop\n\
                    00401000-00403000 r-xp 00001000 fe:00 7 /usr/bin/shop\n\
                    00500000-00501000 r-xp 00000000 00:00 0 \n\
                    00600000-00601000 r-xp 00002000 fe:00 9                          /usr/lib/lib shop.so (deleted)\n\
                    not a line\n";
        std::fs::write(process.path().join("maps"), maps).unwrap();
        std::fs::create_dir(process.path().join("map_files")).unwrap();
        std::fs::write(process.path().join("map_files/401000-403000"), b"program").unwrap();
        let (mappings, mut files) = (Mappings::of_process(process.path()), Files::default());
        let found = mappings.place(0x402010, &mut files).unwrap();
        assert_eq!((found, files.get(found.file).unwrap().1), (Place { file: 0, offset: 0x2010 }, "shop"));
        // Only read; nobody's file; one that cannot be opened; behind the last.
        for address in [0x400010, 0x500010, 0x600010, 0x700000, 0] {
            assert_eq!(mappings.place(address, &mut files), None, "{address:x}");
        }
    }

    #[test]
    fn a_process_that_is_gone_runs_nothing() {
        let mappings = Mappings::of_process(Path::new("/does/not/exist"));
        assert_eq!(mappings.place(0x1000, &mut Files::default()), None);
    }
}
