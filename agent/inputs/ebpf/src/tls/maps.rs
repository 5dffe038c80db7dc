//! Which files a process runs that may have TLS in them: libraries by their names, and its own program.
//!
//! In: `/proc/<pid>/maps`, line by line. Invariant: at most [`LINES_MAX`] lines are read of a process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 16 * 1024;
/// A path has at most 4,096 bytes.
const LINE_BYTES_MAX: u64 = 5_000;

/// A file, wherever it is seen from: device and inode as the kernel writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: String,
    inode: u64,
}

impl FileId {
    /// The file at a path.
    pub(crate) fn at(path: &Path) -> Option<FileId> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
        Some(FileId { device: format!("{major:02x}:{minor:02x}"), inode: metadata.ino() })
    }
}

/// A file that a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) id: FileId,
    /// How the process names it.
    pub(crate) name: PathBuf,
    /// Where it can be opened, also when it was deleted or is in another mount namespace.
    pub(crate) path: PathBuf,
}

/// The files of a process; `None` if it cannot be read (any more).
pub(crate) fn of_process(process: &Path) -> Option<Vec<Mapped>> {
    let program = std::fs::read_link(process.join("exe")).ok()?;
    let mut reader = BufReader::new(File::open(process.join("maps")).ok()?);
    let mut files: Vec<Mapped> = Vec::new();
    let mut line = String::new();
    for _ in 0..LINES_MAX {
        line.clear();
        match reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {}
            // A name that is no text.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => continue,
            Err(_) => return None,
        }
        if let Some(mapped) = mapped(&line, &program, process)
            && !files.iter().any(|known| known.id == mapped.id)
        {
            files.push(mapped);
        }
    }
    Some(files)
}

/// `start-end permissions offset device inode path`, where the file is run and may have TLS in it.
fn mapped(line: &str, program: &Path, process: &Path) -> Option<Mapped> {
    let mut fields = line.splitn(6, ' ');
    let (range, permissions) = (fields.next()?, fields.next()?);
    let (device, inode, name) = (fields.nth(1)?, fields.next()?.parse().ok()?, fields.next()?.trim());
    if permissions.as_bytes().get(2) != Some(&b'x') || !name.starts_with('/') {
        return None;
    }
    let name = Path::new(name);
    (name == program || may_have_tls(name)).then(|| Mapped {
        id: FileId { device: device.to_owned(), inode },
        name: name.to_owned(),
        path: process.join("map_files").join(entry(range)),
    })
}

/// The name of a range's entry in `map_files`, which has no zeros before its numbers, as `maps` has for low addresses.
fn entry(range: &str) -> String {
    let number = |text: &str| match text.trim_start_matches('0') {
        "" => "0".to_owned(),
        digits => digits.to_owned(),
    };
    range.split('-').map(number).collect::<Vec<_>>().join("-")
}

/// Whether a library is one of TLS by its name, or has one linked in.
pub(crate) fn may_have_tls(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.contains(".so") && (name.contains("ssl") || name.contains("tls"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_runs_is_its_program_and_its_libraries_of_tls() {
        let found = |line: &str| {
            let mapped = mapped(line, Path::new("/usr/bin/node"), Path::new("/proc/7"))?;
            Some((mapped.id.device, mapped.id.inode, mapped.name, mapped.path))
        };
        let line = "7f21-7f45 r-xp 0001e000 fd:01 4711                       /usr/lib/x86_64-linux-gnu/libssl.so.3\n";
        let expected = (
            "fd:01".to_owned(),
            4711,
            "/usr/lib/x86_64-linux-gnu/libssl.so.3".into(),
            "/proc/7/map_files/7f21-7f45".into(),
        );
        assert_eq!(found(line), Some(expected));
        let low = found("00400000-006ee000 r-xp 00000000 fd:01 9 /usr/bin/node\n").map(|(.., path)| path);
        assert_eq!(low, Some("/proc/7/map_files/400000-6ee000".into()), "a program that cannot be moved lies low");
        let is_found = |line| found(line).is_some();
        assert!(is_found("0-1 r-xp 0 fd:01 9 /usr/bin/node\n"));
        assert!(is_found("0-1 r-xp 0 fd:01 9 /a b/libgnutls.so.30 (deleted)\n"));
        assert!(!is_found("0-1 r--p 0 fd:01 9 /usr/lib/libssl.so.3\n"), "is not run");
        assert!(!is_found("0-1 r-xp 0 fd:01 9 /usr/lib/libc.so.6\n"));
        assert!(!is_found("0-1 r-xp 0 00:00 0 \n"));
        assert!(!is_found("0-1 r-xp 0 00:00 0 [vdso]\n"));
        assert!(!is_found("nothing"));
    }

    #[test]
    fn a_file_is_the_same_by_its_path_and_by_who_runs_it() {
        let own = std::env::current_exe().unwrap();
        let files = of_process(Path::new("/proc/self")).unwrap();
        let program = files.iter().find(|file| file.name == own).unwrap();
        assert_eq!(Some(&program.id), FileId::at(&own).as_ref());
        assert_eq!(of_process(Path::new("/proc/none")), None);
    }
}
