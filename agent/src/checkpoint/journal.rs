//! What a crash would take at this moment, written down at every moment: `unsaved` in the state directory.
//!
//! 48 bytes, overwritten in place and not synced: the page cache outlives the process, so after a kill or a crash of the agent
//! the figures are exact, and the next start counts them as lost. After a power cut they may be old or missing. Invariant: after a
//! clean stop they are zero.
//!
//! Layout, little-endian: magic, the four figures of [`Lost`], XXH3 of all before it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const NAME: &str = "unsaved";
const MAGIC: [u8; 8] = *b"ollyuns1";
const BYTES: usize = 48;
const HASHED: usize = BYTES - 8;

/// Records that are in memory only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Samples that came since the last checkpoint.
    pub(crate) samples: u64,
    /// Points, each of a window's samples, that had left for the disk buffer and were not in it.
    pub(crate) points: u64,
    /// Spans of traces that were not decided, or not in the disk buffer.
    pub(crate) spans: u64,
    /// Points in the checkpoint: lost as well if that is gone or cannot be used.
    pub(crate) kept: u64,
}

/// The file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Option<File>,
    written: Lost,
}

/// Open it, and read what the last run left there. Where it cannot be had, what a crash takes is not counted, and that is said.
pub(crate) fn open(dir: &Path) -> (Journal, Lost) {
    let path = dir.join(NAME);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "what a crash takes will not be counted"))
        .ok();
    let mut bytes = [0; BYTES];
    let read = file.as_ref().is_some_and(|file| file.read_exact_at(&mut bytes, 0).is_ok());
    let lost = if read { decode(&bytes).unwrap_or_default() } else { Lost::default() };
    (Journal { file, written: lost }, lost)
}

impl Journal {
    /// Overwrite it, if something changed.
    pub(crate) fn write(&mut self, lost: Lost) {
        if lost == self.written {
            return;
        }
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(&encode(lost), 0)
        {
            tracing::warn!(%error, "what a crash takes is not counted any more");
            self.file = None;
        }
        self.written = lost;
    }
}

fn encode(lost: Lost) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let figures = [lost.samples, lost.points, lost.spans, lost.kept].map(u64::to_le_bytes);
    for (place, field) in bytes.chunks_exact_mut(8).zip(std::iter::once(MAGIC).chain(figures)) {
        place.copy_from_slice(&field);
    }
    let hash = xxh3_64(&bytes[..HASHED]).to_le_bytes();
    bytes[HASHED..].copy_from_slice(&hash);
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Option<Lost> {
    let field =
        |at: usize| -> Option<u64> { Some(u64::from_le_bytes(bytes.get(8 * at..8 * at + 8)?.try_into().ok()?)) };
    let whole = bytes.starts_with(&MAGIC) && field(5)? == xxh3_64(&bytes[..HASHED]);
    whole.then_some(Lost { samples: field(1)?, points: field(2)?, spans: field(3)?, kept: field(4)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_run_wrote_last_the_next_one_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, lost) = open(dir.path());
        assert_eq!(lost, Lost::default());
        journal.write(Lost { samples: 1, points: 2, spans: 3, kept: 4 });
        let last = Lost { samples: 7, points: 0, spans: 1 << 40, kept: 9 };
        journal.write(last);
        assert_eq!(open(dir.path()).1, last);
        assert_eq!(std::fs::metadata(dir.path().join(NAME)).unwrap().len(), BYTES as u64);
    }

    #[test]
    fn figures_that_are_damaged_are_not_believed() {
        let bytes = encode(Lost { samples: 1, points: 2, spans: 3, kept: 4 });
        assert!(decode(&bytes).is_some());
        for at in 0..BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "byte {at}");
        }
        assert_eq!(decode(&[0; BYTES]), None);
    }

    #[test]
    fn a_place_that_refuses_it_is_no_reason_not_to_run() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        let (mut journal, lost) = open(dir.path());
        journal.write(Lost { samples: 1, ..lost });
        assert_eq!(open(dir.path()).1, Lost::default());
    }
}
