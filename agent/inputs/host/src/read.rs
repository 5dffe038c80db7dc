//! Reading small kernel files into a buffer that is used again and again.
//!
//! A file that is read each second stays open and is read from its start with `pread`: two system calls a second instead of
//! four, and no allocation. Invariant: at most [`BYTES_MAX`] bytes of any file are held.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// 4 MiB: /proc/stat of a machine with 8,192 interrupts and 1,024 CPUs takes about 150 KB; 30,000 connections 4.5 MB.
pub(crate) const BYTES_MAX: usize = 4 << 20;

/// Where a read that fills the buffer continues from: start small, /proc files mostly fit in a page.
const FIRST_BYTES: usize = 4096;

/// A kernel file that stays open between readings.
#[derive(Debug)]
pub(crate) struct KernelFile {
    path: PathBuf,
    file: Option<File>,
}

impl KernelFile {
    /// Opened at the first reading.
    pub(crate) fn new(path: impl Into<PathBuf>) -> KernelFile {
        KernelFile { path: path.into(), file: None }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Read it from its start; the buffer then holds its text. After a failure it is opened anew the next time.
    pub(crate) fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        read_from_start(&file, buffer, BYTES_MAX)?;
        self.file = Some(file);
        Ok(())
    }
}

/// Open, read and close; the buffer then holds the text.
pub(crate) fn read_once(path: &Path, buffer: &mut Vec<u8>) -> io::Result<()> {
    read_at_most(path, buffer, BYTES_MAX)
}

/// The same for a file whose first `max` bytes are enough.
pub(crate) fn read_at_most(path: &Path, buffer: &mut Vec<u8>, max: usize) -> io::Result<()> {
    read_from_start(&File::open(path)?, buffer, max)
}

fn read_from_start(file: &File, buffer: &mut Vec<u8>, max: usize) -> io::Result<()> {
    let mut length = 0;
    buffer.resize(FIRST_BYTES.min(max), 0);
    let result = loop {
        if length == buffer.len() {
            if length >= max {
                break Ok(());
            }
            buffer.resize((length * 2).min(max), 0);
        }
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => break Ok(()),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    buffer.truncate(length);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_from_its_start_each_time_and_a_shorter_one_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stat");
        let mut buffer = Vec::new();
        std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
        let mut file = KernelFile::new(&path);
        file.read(&mut buffer).unwrap();
        assert_eq!(buffer.len(), 10_000);
        std::fs::write(&path, "short").unwrap();
        file.read(&mut buffer).unwrap();
        assert_eq!(buffer, b"short");
    }

    #[test]
    fn a_file_that_appears_later_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = KernelFile::new(folder.path().join("late"));
        let mut buffer = Vec::new();
        assert!(file.read(&mut buffer).is_err());
        std::fs::write(file.path(), "1").unwrap();
        file.read(&mut buffer).unwrap();
        assert_eq!(buffer, b"1");
    }

    #[test]
    fn no_file_takes_more_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge");
        File::create(&path).unwrap().set_len(BYTES_MAX as u64 + 1).unwrap();
        let mut buffer = Vec::new();
        read_once(&path, &mut buffer).unwrap();
        assert_eq!(buffer.len(), BYTES_MAX);
    }
}
