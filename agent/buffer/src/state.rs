//! The `state` file: which block of ids is in use, and what each segment holds.
//!
//! Written in place and never grown, so that it works on a full disk. The block is synced before an id of it is given; the
//! counts are not: they follow every change, survive a crash of the process, and serve to say what is missing. After a
//! loss of power they may be older than the segments: beside the block stands the boot that it was taken in, or that the
//! process stopped in order. What could not be written is written with the next: until then segments keep what they hold. Invariants:
//! every record carries its own XXH3; one that does not match is not there. A count goes down before what it counts is deleted.

use crate::segment::{Segment, Totals};
use crate::{Error, KINDS};
use std::collections::{BTreeMap, HashMap};
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
    /// By slot, what could not be written to it.
    unwritten: BTreeMap<usize, Vec<u8>>,
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
            State { file, path, block, turn, taken: vec![false; LAST_IDS_SLOT], boot, unwritten: BTreeMap::new() },
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
        self.taken.fill(false);
        self.unwritten = (0..LAST_IDS_SLOT).map(|slot| (slot, vec![0; SLOT_BYTES as usize])).collect();
        self.try_again();
    }

    /// A place to count a segment in; none when all are taken: then it is counted only in memory.
    pub(crate) fn take_slot(&mut self) -> Option<usize> {
        let slot = self.taken.iter().position(|taken| !taken)?;
        self.taken[slot] = true;
        Some(slot)
    }

    /// Count what a segment holds.
    pub(crate) fn note(&mut self, segment: &Segment) {
        if let Some(slot) = segment.slot {
            self.write_slot(slot, segment.first_id, &segment.live);
        }
    }

    fn write_slot(&mut self, slot: usize, first_id: u64, totals: &Totals) {
        let mut words = [0; WORDS - 1];
        words[..3].copy_from_slice(&[first_id, totals.entries, totals.bytes]);
        words[3..].copy_from_slice(&totals.records);
        self.write(slot, sealed(&words));
    }

    /// Ids were committed: before anybody may lease what has them, and it go without a trace.
    pub(crate) fn write_last_ids(&mut self, last_ids: &[u64; KINDS]) {
        let mut words = [0; WORDS - 1];
        words[0] = LAST_IDS;
        words[3..].copy_from_slice(last_ids);
        self.write(LAST_IDS_SLOT, sealed(&words));
    }

    /// The segment is gone.
    pub(crate) fn give_back(&mut self, slot: usize) {
        self.write(slot, vec![0; SLOT_BYTES as usize]);
        self.taken[slot] = false;
    }

    fn write(&mut self, slot: usize, bytes: Vec<u8>) {
        self.unwritten.insert(slot, bytes);
        self.try_again();
    }

    fn try_again(&mut self) {
        if let Err(error) = self.settle() {
            tracing::debug!(%error, "cannot note what a segment holds; trying again");
        }
    }

    /// Write what could not be written. After an error the file may count what is no longer there as soon as anything is deleted: the
    /// next start would tell of it as lost.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        let mut settled = Ok(());
        self.unwritten.retain(|slot, bytes| {
            let written = self.file.write_all_at(bytes, offset(*slot));
            let is_unwritten = written.is_err();
            if let Err(error) = written {
                settled = Err(Error::io(&self.path, &error));
            }
            is_unwritten
        });
        settled
    }

    /// Sync the counts, and then that they are the last: on a clean stop.
    pub(crate) fn stop(&mut self) {
        self.try_again();
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
    use crate::store::Store;
    use crate::writer::Put;
    use crate::{Entry, EntryId, Loss, Observer, Options, WhenFull};
    use bytes::Bytes;
    use std::sync::Arc;

    /// In memory where there is one: what a sync is worth is not the subject.
    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    struct NoneLost;

    impl Observer for NoneLost {
        fn lost(&self, _: u8, records: u64, _: u64, reason: Loss) {
            panic!("{records} records were told as {reason:?}");
        }
    }

    /// The store that a kill of the one before left, and how many entries are in it.
    fn open(directory: &Path) -> (Store, u64) {
        let directory = directory.to_path_buf();
        let options =
            Options { directory, bytes_max: 4 << 20, segment_bytes_max: 256 << 10, when_full: WhenFull::Evict };
        let opened = crate::recovery::open(options, Arc::new(NoneLost)).unwrap();
        (opened.store, opened.recovery.entries)
    }

    fn entry() -> Entry {
        Entry { class: 1, signal: 1, records: 1, meta: Bytes::new(), payload: vec![7; 5_000].into() }
    }

    fn put(store: &mut Store, count: usize) {
        let (answer, _) = tokio::sync::oneshot::channel();
        let answers = store.commit(vec![Put { entries: vec![entry(); count], answer }]);
        assert!(answers.iter().all(|(_, result)| result.is_ok()));
    }

    /// Acks the next, while the file can be written or not.
    fn ack(store: &mut Store, is_writable: bool) {
        let id = store.lease().unwrap().unwrap().id;
        fail(store, !is_writable);
        store.ack(&[id]);
    }

    /// Fail each write to the file from now on, or no more.
    fn fail(store: &mut Store, is_failing: bool) {
        store.state.file = File::options().read(true).write(!is_failing).open(&store.state.path).unwrap();
    }

    #[test]
    fn an_ack_that_could_not_be_counted_is_counted_before_its_entry_is_deleted() {
        let directory = directory();
        let (mut store, _) = open(directory.path());
        put(&mut store, 4);
        ack(&mut store, false);
        fail(&mut store, false);
        store.idle();
        drop(store);
        assert_eq!(open(directory.path()).1, 3, "deleted, and not told as lost");
    }

    #[test]
    fn nothing_is_deleted_while_its_count_cannot_be_written() {
        let directory = directory();
        let (mut store, _) = open(directory.path());
        put(&mut store, 4);
        ack(&mut store, false);
        store.idle();
        drop(store);
        let (mut store, found) = open(directory.path());
        assert_eq!(found, 4, "by itself");
        // The first needs an id of a new block.
        put(&mut store, 1);
        ack(&mut store, false);
        put(&mut store, 1);
        drop(store);
        assert_eq!(open(directory.path()).1, 6, "with a put");
    }

    #[test]
    fn nothing_is_replaced_while_its_count_cannot_be_written() {
        let directory = directory();
        let (mut store, _) = open(directory.path());
        put(&mut store, 4);
        let old = store.waiting(1, 1, EntryId(0), 4).unwrap();
        fail(&mut store, true);
        store.replace(&old, &[entry()]).unwrap_err();
        assert_eq!(store.stats().entries, 4);
        drop(store);
        let (mut store, found) = open(directory.path());
        assert_eq!(found, 4);
        put(&mut store, 4);
        let old = store.waiting(1, 1, EntryId(0), 4).unwrap();
        assert!(store.replace(&old, &[entry()]).unwrap(), "it can be written again");
        drop(store);
        assert_eq!(open(directory.path()).1, 5);
    }

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
