//! Which library of TLS a process encrypts with, by the files that it runs.
//!
//! In: /proc/<pid>/maps and the program itself, searched for what such libraries cannot be without. Out: the library, and whether its functions
//! can be found by name, which seeing into it takes. Invariant: a file is read in pieces, once, and no further than [`FILE_BYTES_MAX`].

use memchr::memmem::Finder;
use serde::Serialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const FILE_BYTES_MAX: u64 = 512 << 20;
const PIECE_BYTES: usize = 1 << 20;
const MAPS_BYTES_MAX: u64 = 8 << 20;

/// A library, as a process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Library {
    /// As its authors call it.
    pub(super) name: &'static str,
    pub(super) linked: Linked,
}

/// How its functions can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Linked {
    /// In a file of its own.
    Shared,
    /// In the program, which has their names.
    Named,
    /// In the program, which was stripped of them.
    Stripped,
}

/// Remembers files.
#[derive(Default)]
pub(super) struct Encryption {
    programs: HashMap<(u64, u64), Vec<Library>>,
}

impl Encryption {
    /// Of a process, by its folder in /proc.
    pub(super) fn of(&mut self, process: &Path) -> Vec<Library> {
        let mut found = shared(process);
        let program = process.join("exe");
        let Ok(metadata) = std::fs::metadata(&program) else { return found };
        let linked = self.programs.entry((metadata.dev(), metadata.ino())).or_insert_with(|| {
            // Not permitted, or gone: not known.
            File::open(&program).map(linked_in).unwrap_or_default()
        });
        for library in linked.iter() {
            // A program that uses a shared library names its functions, too.
            if !found.iter().any(|known| known.name == library.name) {
                found.push(*library);
            }
        }
        found
    }
}

/// Libraries in files of their own, by their names.
fn shared(process: &Path) -> Vec<Library> {
    let Ok(maps) = File::open(process.join("maps")) else { return Vec::new() };
    let mut found: Vec<Library> = Vec::new();
    for line in BufReader::new(maps.take(MAPS_BYTES_MAX)).lines().map_while(Result::ok) {
        let file = line.rsplit('/').next().unwrap_or_default();
        let Some(name) = by_file_name(file).filter(|_| line.contains('/')) else { continue };
        if !found.iter().any(|known| known.name == name) {
            found.push(Library { name, linked: Linked::Shared });
        }
    }
    found
}

fn by_file_name(file: &str) -> Option<&'static str> {
    // OpenSSL's is libssl.so.3, that of NSS libssl3.so.
    let names = [
        ("libssl3.so", "NSS"),
        ("libboringssl", "BoringSSL"),
        ("libssl.so", "OpenSSL"),
        ("libssl-", "OpenSSL"),
        ("libgnutls.so", "GnuTLS"),
        ("libjvm.so", "Java"),
        ("librustls", "rustls"),
    ];
    names.into_iter().find(|(start, _)| file.starts_with(start)).map(|(_, name)| name)
}

/// What to search for, last byte first, as this program is none of those that have it in them: paths of sources, which errors and panics name,
/// and names of functions.
const MARKS: [&[u8]; 7] = [
    b":fnidliub oG ",
    b"etirW.)nnoC*(.slt/otpyrc",
    b".0-sltsur/",
    b"sltsur6",
    b"cc.bil_lss/",
    b"/metats/lss",
    b"\0etirw_LSS\0",
];

/// Libraries in the program itself.
fn linked_in(mut file: impl Read) -> Vec<Library> {
    let marks = MARKS.map(|mark| mark.iter().rev().copied().collect::<Vec<u8>>());
    let finders = marks.each_ref().map(Finder::new);
    let longest = marks.iter().map(Vec::len).max().unwrap_or(0);
    let mut has = [false; MARKS.len()];
    let mut piece = vec![0; PIECE_BYTES];
    let (mut kept, mut left) = (0, FILE_BYTES_MAX);
    while left > 0 {
        let Ok(read @ 1..) = file.read(&mut piece[kept..]) else { break };
        left = left.saturating_sub(read as u64);
        let filled = kept + read;
        for (found, finder) in has.iter_mut().zip(&finders) {
            *found = *found || finder.find(&piece[..filled]).is_some();
        }
        // The end of one piece may begin what the next ends.
        kept = filled.min(longest - 1);
        piece.copy_within(filled - kept..filled, 0);
    }
    let [is_go, go_tls, rustls, rustls_names, boring, open, ssl_names] = has;
    let linked = |is_named| if is_named { Linked::Named } else { Linked::Stripped };
    let mut found = Vec::new();
    if is_go && go_tls {
        // Go keeps the names of its functions in a table that stripping leaves.
        found.push(Library { name: "Go crypto/tls", linked: Linked::Named });
    }
    if rustls || rustls_names {
        found.push(Library { name: "rustls", linked: linked(rustls_names) });
    }
    if boring {
        found.push(Library { name: "BoringSSL", linked: linked(ssl_names) });
    } else if open {
        found.push(Library { name: "OpenSSL", linked: linked(ssl_names) });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(parts: &[&[u8]]) -> Vec<Library> {
        // Where a piece ends within a mark.
        let mut bytes = vec![b'x'; PIECE_BYTES - 6];
        bytes.extend(parts.concat());
        linked_in(&bytes[..])
    }

    #[test]
    fn a_library_in_the_program_is_told_with_whether_its_functions_have_names() {
        let of = |name, linked| vec![Library { name, linked }];
        let go: &[u8] = b"\xFF Go buildinf:..crypto/tls.(*Conn).Write";
        assert_eq!(program(&[go]), of("Go crypto/tls", Linked::Named));
        assert_eq!(program(&[b"\xFF Go buildinf:"]), [], "of Go, without TLS");
        assert_eq!(program(&[b"../ssl/statem/statem_clnt.c"]), of("OpenSSL", Linked::Stripped));
        assert_eq!(program(&[b"/x/rustls-0.23.5/src/conn.rs"]), of("rustls", Linked::Stripped));
        assert_eq!(program(&[b"/x/rustls-0.23.5/src", b"_ZN6rustls4conn"]), of("rustls", Linked::Named));
        assert_eq!(program(&[b"boringssl/ssl/ssl_lib.cc", b"\0SSL_write\0"]), of("BoringSSL", Linked::Named));
        assert_eq!(program(&[b"sees into OpenSSL, BoringSSL and rustls"]), [], "to name them is not to have them");
    }

    #[test]
    fn files_are_told_apart_by_their_names() {
        let table = [
            ("libssl.so.3", Some("OpenSSL")),
            ("libssl3.so", Some("NSS")),
            ("libgnutls.so.30", Some("GnuTLS")),
            ("libjvm.so", Some("Java")),
            ("libc.so.6", None),
        ];
        for (file, expected) in table {
            assert_eq!(by_file_name(file), expected, "{file}");
        }
    }
}
