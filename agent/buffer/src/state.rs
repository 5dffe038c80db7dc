//! The `state` file: which block of ids is in use, and what each segment holds.
//!
//! Written in place and never grown, so that it works on a full disk. The block is synced before an id of it is given; the
//! counts are not: they follow every change, survive a crash of the process, and serve to say what is missing. After a
//! loss of power they may be older than the segments: beside the block stands the boot that it was taken in, or that the
//! process stopped in order. Invariant: every record carries its own XXH3; one that does not match is not there.

use crate::segment::Totals;
use crate::{Error, KINDS};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Ids of one block: a start takes a fresh one, so that ids which only the lost end of a segment knew never come again.
/// 2^20 a start leaves ids below 2^53 (exact in JSON) for 8 G starts.
pub(crate) const BLOCK_IDS: u64 = 1 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"ollybuf1");
const SLOTS: usize = 512;
const WORDS: usize = 4 + KINDS;
const SLOT_BYTES: u64 = 8 * WORDS as u64;
/// Two copies of the header, written in turn, each in a disk sector of its own.
const HEADER_BYTES: u64 = 4096;
/// Behind the block, in the same sector: the boot, sealed for itself, as the first version did not write it.
const BOOT_OFFSET: u64 = 64;
/// In place of a boot: stopped in order, all synced.
const STOPPED: u64 = 1;
/// The last slot: in place of a segment's first id this, and the highest id that each class was given. Earlier versions pass it over.
const LAST_IDS_SLOT: usize = SLOTS - 1;
const LAST_IDS: u64 = u64::MAX;
/// All of it.
pub(crate) const FILE_BYTES: u64 = 2 * HEADER_BYTES + SLOTS as u64 * SLOT_BYTES;

/// The open file.
#[derive(Debug)]
pub(crate) struct State {
    file: File,
    path: PathBuf,
    /// In use; 0 when the file is new or unreadable.
    pub(crate) block: u64,
    turn: u64,
    taken: Vec<bool>,
    boot: u64,
}

/// What the file says about segments.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// By first id.
    pub(crate) totals: HashMap<u64, Totals>,
    /// The highest id that was committed, by class. Never too high: it is noted after the commit.
    pub(crate) last_ids: [u64; KINDS],
    /// Whether that is how it was in the end: no power was lost since.
    pub(crate) latest: bool,
}

impl State {
    /// Open, or create at full size, in this boot of the machine.
    pub(crate) fn open(directory: &Path) -> Result<(State, Noted), Error> {
        State::open_in(directory, boot())
    }

    fn open_in(directory: &Path, boot: u64) -> Result<(State, Noted), Error> {
        let path = directory.join("state");
        let failed = |error: std::io::Error| Error::io(&path, &error);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != FILE_BYTES {
            file.set_len(0).map_err(failed)?;
            file.write_all_at(&vec![0; FILE_BYTES as usize], 0).map_err(failed)?;
            file.sync_all().map_err(failed)?;
        }
        let header = |turn: u64| read::<4>(&file, turn * HEADER_BYTES).filter(|words| words[0] == MAGIC);
        let newest = [header(0), header(1)].into_iter().flatten().max_by_key(|words| words[2]);
        let (block, turn) = newest.map_or((0, 0), |words| (words[1], words[2]));
        let mut last_ids = [0; KINDS];
        if let Some(words) = read::<WORDS>(&file, offset(LAST_IDS_SLOT)).filter(|words| words[0] == LAST_IDS) {
            last_ids.copy_from_slice(&words[3..3 + KINDS]);
        }
        let segments = (0..SLOTS).filter_map(|slot| read::<WORDS>(&file, offset(slot)));
        let segments = segments.filter(|words| ![0, LAST_IDS].contains(&words[0])).map(|words| {
            let mut totals = Totals { entries: words[1], bytes: words[2], records: [0; KINDS] };
            totals.records.copy_from_slice(&words[3..3 + KINDS]);
            (words[0], totals)
        });
        let totals = segments.collect();
        let written_in = read::<2>(&file, turn % 2 * HEADER_BYTES + BOOT_OFFSET).map_or(0, |words| words[0]);
        let latest = written_in == STOPPED || (written_in == boot && boot != 0);
        Ok((
            State { file, path, block, turn, taken: vec![false; LAST_IDS_SLOT], boot },
            Noted { totals, last_ids, latest },
        ))
    }

    /// Take a block into use, synced.
    pub(crate) fn set_block(&mut self, block: u64) -> Result<(), Error> {
        self.write_header(block, self.boot).map_err(|error| Error::io(&self.path, &error))?;
        self.block = block;
        Ok(())
    }

    fn write_header(&mut self, block: u64, boot: u64) -> std::io::Result<()> {
        self.turn += 1;
        let mut bytes = sealed(&[MAGIC, block, self.turn]);
        bytes.resize(BOOT_OFFSET as usize, 0);
        bytes.extend(sealed(&[boot]));
        self.file.write_all_at(&bytes, self.turn % 2 * HEADER_BYTES)?;
        self.file.sync_data()
    }

    /// Forget all counts: recovery has read them and writes them anew.
    pub(crate) fn clear(&mut self) {
        (0..LAST_IDS_SLOT).for_each(|slot| self.give_back(slot));
    }

    /// A place to count a segment in; none when all are taken: then it is counted only in memory.
    pub(crate) fn take_slot(&mut self) -> Option<usize> {
        let slot = self.taken.iter().position(|taken| !taken)?;
        self.taken[slot] = true;
        Some(slot)
    }

    /// Count.
    pub(crate) fn write_slot(&self, slot: usize, first_id: u64, totals: &Totals) {
        let mut words = [0; WORDS - 1];
        words[..3].copy_from_slice(&[first_id, totals.entries, totals.bytes]);
        words[3..].copy_from_slice(&totals.records);
        self.write(slot, &sealed(&words));
    }

    /// Ids were committed: before anybody may lease what has them, and it go without a trace.
    pub(crate) fn write_last_ids(&self, last_ids: &[u64; KINDS]) {
        let mut words = [0; WORDS - 1];
        words[0] = LAST_IDS;
        words[3..].copy_from_slice(last_ids);
        self.write(LAST_IDS_SLOT, &sealed(&words));
    }

    /// The segment is gone.
    pub(crate) fn give_back(&mut self, slot: usize) {
        self.write(slot, &[0; SLOT_BYTES as usize]);
        self.taken[slot] = false;
    }

    fn write(&self, slot: usize, bytes: &[u8]) {
        if let Err(error) = self.file.write_all_at(bytes, offset(slot)) {
            tracing::debug!(path = %self.path.display(), %error, "cannot note what a segment holds");
        }
    }

    /// Sync the counts, and then that they are the last: on a clean stop.
    pub(crate) fn stop(&mut self) {
        let synced = self.file.sync_data().and_then(|()| self.write_header(self.block, STOPPED));
        if let Err(error) = synced {
            tracing::debug!(path = %self.path.display(), %error, "cannot sync what the segments hold");
        }
    }
}

/// Which boot of the machine this is; 0 where that is not told.
fn boot() -> u64 {
    std::fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| xxh3_64(&id))
}

fn offset(slot: usize) -> u64 {
    2 * HEADER_BYTES + slot as u64 * SLOT_BYTES
}

/// Words and their checksum, as bytes.
fn sealed(words: &[u64]) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

fn read<const N: usize>(file: &File, offset: u64) -> Option<[u64; N]> {
    let mut bytes = vec![0; 8 * N];
    file.read_exact_at(&mut bytes, offset).ok()?;
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    (words[N - 1] == xxh3_64(&bytes[..8 * (N - 1)])).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_the_last_after_a_stop_and_within_one_boot_only() {
        let directory = tempfile::tempdir().unwrap();
        let open = |boot| State::open_in(directory.path(), boot).unwrap();
        let totals = Totals { entries: 7, bytes: 70, records: [7, 0, 0, 0, 0, 0, 0, 0] };
        let (mut state, noted) = open(10);
        assert!(!noted.latest, "a new file knows nothing");
        state.set_block(5).unwrap();
        state.write_slot(3, 99, &totals);
        drop(state);
        assert_eq!(open(10).1.totals[&99], totals);
        assert_eq!([10, 11, 0].map(|boot| open(boot).1.latest), [true, false, false], "killed");
        open(10).0.stop();
        assert_eq!([10, 11].map(|boot| open(boot).1.latest), [true, true], "stopped");
        assert_eq!(open(11).0.block, 5);
        open(11).0.set_block(6).unwrap();
        assert_eq!([10, 11].map(|boot| open(boot).1.latest), [false, true], "started again");
    }
}
