//! Which file is which: device and inode, and a fingerprint of its first bytes.
//!
//! Names change at rotation and inodes are used again after deletion; device, inode and beginning together tell a file from
//! its successor. Invariant: a fingerprint covers only bytes that were there when it was taken, so it holds while a file only
//! grows.

use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use xxhash_rust::xxh3::xxh3_64;

/// How many first bytes count. Enough to go past equal headers of most formats; one read of one page.
pub(crate) const FINGERPRINT_BYTES: usize = 1024;

/// Where a file lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// When a file was last changed, its name included, as its file system stamps it: seconds and nanoseconds. Nobody can set it.
pub(crate) type Stamp = (i64, i64);

/// Of a file.
pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ctime(), metadata.ctime_nsec())
}

/// How a file begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Of how many bytes.
    pub(crate) length: usize,
    hash: u64,
}

/// A file's first bytes.
pub(crate) struct Beginning([u8; FINGERPRINT_BYTES], usize);

impl Beginning {
    pub(crate) fn read(file: &File) -> io::Result<Beginning> {
        let mut bytes = [0; FINGERPRINT_BYTES];
        let mut length = 0;
        while length < bytes.len() {
            match file.read_at(&mut bytes[length..], length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Beginning(bytes, length))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0[..self.1]
    }

    /// Of all that is there.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint { length: self.1, hash: xxh3_64(self.bytes()) }
    }

    /// Whether the file begins as it did when `earlier` was taken.
    pub(crate) fn continues(&self, earlier: &Fingerprint) -> bool {
        self.bytes().get(..earlier.length).is_some_and(|bytes| xxh3_64(bytes) == earlier.hash)
    }

    /// Whether it holds bytes that no text has.
    pub(crate) fn looks_binary(&self) -> bool {
        self.bytes().contains(&0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_grows_continues_and_one_that_was_rewritten_does_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"first\n").unwrap();
        let earlier = Beginning::read(&file).unwrap().fingerprint();
        file.write_all(&[b'x'; 2 * FINGERPRINT_BYTES]).unwrap();
        let later = Beginning::read(&file).unwrap();
        assert!(later.continues(&earlier));
        assert_eq!(later.fingerprint().length, FINGERPRINT_BYTES);
        file.set_len(0).unwrap();
        assert!(!Beginning::read(&file).unwrap().continues(&earlier), "shorter");
        file.write_at(b"other\nother\n", 0).unwrap();
        assert!(!Beginning::read(&file).unwrap().continues(&earlier), "another beginning");
    }
}
