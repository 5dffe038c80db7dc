//! Lines of a file, whatever it is packed in: plain text, gzip or zstd, told apart by content, not by name.
//!
//! Bytes go in from a file or standard input, lines come out without their end (`\n` or `\r\n`). Invariant: whatever is read,
//! one line's bytes are held at most; what is longer is cut off, and counted.

use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A line's bytes that are looked at, four times what the agent itself takes of a line.
pub(crate) const LINE_BYTES_MAX: usize = 1 << 20;
/// Read at once: what is read is still in the processor's cache when it is looked at.
const READ_BYTES: usize = 256 << 10;

/// How formats begin; the first two are unpacked here.
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const FOREIGN: [(&[u8], &str); 2] = [(b"BZh", "bzip2"), (&[0xfd, b'7', b'z', b'X', b'Z'], "xz")];

/// Why nothing, or nothing more, is read of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{name}: {error}")]
    Io { name: String, error: std::io::Error },
    #[error("{name} is a folder; name the files in it")]
    Folder { name: String },
    #[error(
        "{name} is packed by {format}, unpacked are gzip and zstd: `{format} -dc {name} | ollystack-agent patterns`"
    )]
    Foreign { name: String, format: &'static str },
}

/// Where lines come from.
pub(crate) struct Lines {
    name: String,
    source: Box<dyn Read>,
    buffer: Vec<u8>,
    /// What is read and not handed out yet: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// The rest of a line that was too long is passed over.
    skipping: bool,
    ended: bool,
    cut: u64,
}

/// Open a file; `-` is standard input. `read` counts its bytes as they are on disk.
pub(crate) fn open(path: &Path, read: &Arc<AtomicU64>) -> Result<Lines, ReadError> {
    if path.as_os_str() == "-" {
        return unpack("standard input".to_owned(), std::io::stdin(), read);
    }
    let name = path.display().to_string();
    let failed = |error| ReadError::Io { name: name.clone(), error };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(ReadError::Folder { name });
    }
    unpack(name, file, read)
}

fn unpack(name: String, mut source: impl Read + 'static, read: &Arc<AtomicU64>) -> Result<Lines, ReadError> {
    let failed = |error| ReadError::Io { name: name.clone(), error };
    let mut head = Vec::new();
    source.by_ref().take(8).read_to_end(&mut head).map_err(failed)?;
    if let Some((_, format)) = FOREIGN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(ReadError::Foreign { name, format });
    }
    let (gzip, zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
    let whole = Counted { source: Cursor::new(head).chain(source), read: Arc::clone(read) };
    let source: Box<dyn Read> = match (gzip, zstd) {
        (true, _) => Box::new(MultiGzDecoder::new(whole)),
        (_, true) => Box::new(zstd::Decoder::new(whole).map_err(failed)?),
        _ => Box::new(whole),
    };
    let buffer = vec![0; LINE_BYTES_MAX];
    Ok(Lines { name, source, buffer, start: 0, end: 0, skipping: false, ended: false, cut: 0 })
}

impl Lines {
    /// The next line; none at the end. What is not valid UTF-8 is left to the caller.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, ReadError> {
        // Up to here nothing ends the line.
        let mut looked = self.start;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[looked..self.end]) {
                let (from, to) = (self.start, looked + at);
                self.start = to + 1;
                if std::mem::take(&mut self.skipping) {
                    looked = self.start;
                    continue;
                }
                return Ok(Some(trim(&self.buffer[from..to])));
            }
            if self.skipping {
                self.start = self.end;
            }
            if self.ended {
                let (from, to) = (self.start, self.end);
                self.start = to;
                return Ok((from < to).then(|| trim(&self.buffer[from..to])));
            }
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            looked = self.end;
            if self.end == self.buffer.len() {
                self.start = self.end;
                self.skipping = true;
                self.cut += 1;
                return Ok(Some(&self.buffer));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), ReadError> {
        let to = self.buffer.len().min(self.end + READ_BYTES);
        let read = loop {
            match self.source.read(&mut self.buffer[self.end..to]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReadError::Io { name: self.name.clone(), error }),
                Ok(read) => break read,
            }
        };
        self.ended = read == 0;
        self.end += read;
        Ok(())
    }

    /// As errors name it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Lines that were longer than [`LINE_BYTES_MAX`].
    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }
}

fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Tells how far a file is read, which of a packed one only its reader knows.
struct Counted<R> {
    source: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(into)?;
        self.read.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    /// A reader that gives a few bytes at a time, as a pipe may.
    struct Drops(Cursor<Vec<u8>>, usize);

    impl Read for Drops {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = into.len().min(self.1);
            self.0.read(&mut into[..most])
        }
    }

    fn all(mut lines: Lines) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            all.push(String::from_utf8_lossy(line).into_owned());
        }
        all
    }

    fn lines(bytes: impl Into<Vec<u8>>, at_once: usize) -> Lines {
        unpack("a".into(), Drops(Cursor::new(bytes.into()), at_once), &Arc::default()).unwrap()
    }

    #[test]
    fn every_line_comes_once_whatever_ends_it_and_however_it_is_read() {
        let text = "one\r\ntwo\n\n\rfour\r\n five";
        for at_once in [1, 2, 3, 7, 100] {
            assert_eq!(all(lines(text, at_once)), ["one", "two", "", "\rfour", " five"], "{at_once} bytes at once");
        }
        assert_eq!(all(lines("a\n", 1)), ["a"]);
        assert_eq!(all(lines("\n\n", 1)), ["", ""]);
        assert_eq!(all(lines("", 1)), Vec::<String>::new());
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        let long = "x".repeat(LINE_BYTES_MAX + 5);
        let mut lines = lines(format!("a\n{long}\nb\n{}\nc", "y".repeat(3 * LINE_BYTES_MAX)), 1000);
        let lengths: Vec<usize> = std::iter::from_fn(|| lines.next().unwrap().map(|line| line.len())).collect();
        assert_eq!(lengths, [1, LINE_BYTES_MAX, 1, LINE_BYTES_MAX, 1]);
        assert_eq!(lines.cut(), 2);
    }

    #[test]
    fn a_line_that_just_fits_is_whole_and_not_counted_as_cut() {
        let fits = "x".repeat(LINE_BYTES_MAX - 1);
        let mut lines = lines(format!("{fits}\nb"), 4096);
        assert_eq!(lines.next().unwrap().unwrap().len(), LINE_BYTES_MAX - 1);
        assert_eq!(lines.next().unwrap().unwrap(), b"b");
        assert_eq!(lines.cut(), 0);
    }

    #[test]
    fn what_a_file_is_packed_in_shows_in_its_content() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(b"one\ntwo").unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(all(lines(gzip.clone(), 3)), ["one", "two"]);
        // As of `cat a.gz b.gz`, and as some programs append to a packed log.
        assert_eq!(all(lines([gzip.clone(), gzip].concat(), 100)), ["one", "twoone", "two"]);
        assert_eq!(all(lines(zstd::encode_all(&b"one\ntwo"[..], 1).unwrap(), 3)), ["one", "two"]);
    }

    #[test]
    fn what_cannot_be_read_says_what_to_do() {
        let refused = |bytes: &[u8]| unpack("a".into(), Cursor::new(bytes.to_vec()), &Arc::default()).err();
        let message = refused(b"BZh91AY").unwrap().to_string();
        assert!(message.ends_with("`bzip2 -dc a | ollystack-agent patterns`"), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let message = open(folder.path(), &Arc::default()).err().unwrap().to_string();
        assert!(message.ends_with("is a folder; name the files in it"), "{message}");
    }

    #[test]
    fn a_packed_file_that_breaks_off_gives_what_it_has_and_then_an_error() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
        gzip.write_all(b"one\ntwo\nthree\n").unwrap();
        let mut bytes = gzip.finish().unwrap();
        bytes.truncate(bytes.len() - 12);
        let mut lines = lines(bytes, 1000);
        assert_eq!(lines.next().unwrap(), Some(&b"one"[..]));
        assert_eq!(lines.next().unwrap(), Some(&b"two"[..]));
        assert!(lines.next().is_err());
    }
}
