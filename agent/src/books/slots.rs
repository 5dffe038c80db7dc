//! `ledger` in the state directory: two slots of a page each, written in turn, so that one is whole whatever happens to the other.
//!
//! Written in place and, as a rule, not synced: the page cache outlives the process, so after a kill the last entry stands; a power cut
//! leaves the last one that was synced, or a later one. Invariant: what is read was written by one [`Slots::write`], to the last bit.
//!
//! A slot, little-endian, each field of 8 bytes: magic and version, how many reasons and places there are (a later version knows more),
//! generation, the rest of [`Entry`] in its order, the XXH3 of all before it.

use ollystack_record::ledger::{Corrected, Reading, SignalReading};
use ollystack_record::{DropReason, Place};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const NAME: &str = "ledger";
/// The last byte is the version of the layout.
const MAGIC: u64 = u64::from_le_bytes(*b"ollyled\x01");
/// A page, so that a slot shares no sector with the other.
const SLOT_BYTES: usize = 4096;

/// Fields of a signal besides its reasons and places.
const COUNTERS: usize = 9;
const _: () = assert!(
    8 * (11 + 3 * (COUNTERS + DropReason::ALL.len() + Place::ALL.len())) <= SLOT_BYTES,
    "an entry fits its slot"
);

/// What is written: all that the next run must know of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// When the account began.
    pub(super) begun_unix_seconds: u64,
    /// The run came to its end by itself: what waits is on disk, and nothing can be lost any more.
    pub(super) clean: bool,
    pub(super) risk: Risk,
    /// This run and all before it.
    pub(super) reading: Reading,
}

/// What the ledger cannot tell of what a crash would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Risk {
    /// Whether a checkpoint holds the open windows; otherwise a crash takes them.
    pub(crate) checkpointed: bool,
    /// Samples taken since it.
    pub(crate) samples_since: u64,
    /// Points in it: lost as well if it is gone or cannot be used.
    pub(crate) kept: u64,
    /// Points on their way to the disk buffer that it still holds as open windows.
    pub(crate) sheltered: u64,
}

/// Why there is no last entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error("{path}: it is damaged, or of another version")]
    Damaged { path: PathBuf },
}

/// The file.
#[derive(Debug)]
pub(super) struct Slots {
    file: File,
    generation: u64,
    written: Option<Entry>,
}

impl Slots {
    /// Open or make it. With the last entry, if anything was ever written.
    pub(super) fn open(dir: &Path) -> (Option<Slots>, Result<Option<Entry>, Unreadable>) {
        let path = dir.join(NAME);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => return (None, Err(Unreadable::Io { path, error })),
        };
        let mut bytes = Vec::new();
        let read = read_all(&file, &mut bytes);
        let newest = bytes.chunks(SLOT_BYTES).filter_map(decode).max_by_key(|(generation, _)| *generation);
        let generation = newest.as_ref().map_or(0, |(generation, _)| *generation);
        let last = match (read, newest) {
            (Err(error), _) => Err(Unreadable::Io { path, error }),
            (Ok(()), None) if !bytes.is_empty() => Err(Unreadable::Damaged { path }),
            (Ok(()), newest) => Ok(newest.map(|(_, entry)| entry)),
        };
        (Some(Slots { file, generation, written: None }), last)
    }

    /// Write an entry, unless it is the one that was written last. One that fails may leave its slot torn; the next goes there again, never
    /// over the whole one.
    pub(super) fn write(&mut self, entry: Entry) -> std::io::Result<()> {
        if self.written.as_ref() == Some(&entry) {
            return Ok(());
        }
        let generation = self.generation + 1;
        let place = generation % 2 * SLOT_BYTES as u64;
        self.file.write_all_at(&encode(generation, &entry), place)?;
        self.generation = generation;
        self.written = Some(entry);
        Ok(())
    }

    /// Put another file in the place of this one, as if the disk had turned.
    #[cfg(test)]
    pub(super) fn exchange(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// For a sync on another thread.
    pub(super) fn file(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }
}

fn read_all(file: &File, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    bytes.resize(2 * SLOT_BYTES, 0);
    let mut end = 0;
    loop {
        match file.read_at(&mut bytes[end..], end as u64) {
            Ok(0) => break,
            Ok(read) => end += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(end);
    Ok(())
}

fn encode(generation: u64, entry: &Entry) -> Vec<u8> {
    let Entry { begun_unix_seconds, clean, risk, reading } = entry;
    let mut fields =
        vec![MAGIC, DropReason::ALL.len() as u64, Place::ALL.len() as u64, generation, *begun_unix_seconds];
    fields.extend([u64::from(*clean), u64::from(risk.checkpointed), risk.samples_since, risk.kept, risk.sheltered]);
    for account in &reading.signals {
        fields.extend([account.seen, account.sent, account.folded, account.sampled_out, account.suppressed]);
        fields.extend([account.bytes_in, account.bytes_out]);
        fields.extend([account.corrected.buffer as u64, account.corrected.memory as u64]);
        fields.extend(account.dropped.iter().map(|(_, records)| *records));
        fields.extend(account.waiting.iter().map(|(_, records)| *records as u64));
    }
    let mut bytes: Vec<u8> = fields.into_iter().flat_map(u64::to_le_bytes).collect();
    let hash = xxh3_64(&bytes);
    bytes.extend(hash.to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Option<(u64, Entry)> {
    let mut at = 0;
    let mut field = || {
        let bytes = slot.get(at..at + 8)?;
        at += 8;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    if field()? != MAGIC {
        return None;
    }
    let (reasons, places) = (usize::try_from(field()?).ok()?, usize::try_from(field()?).ok()?);
    if reasons > DropReason::ALL.len() || places > Place::ALL.len() {
        return None;
    }
    let generation = field()?;
    let begun_unix_seconds = field()?;
    let clean = field()? != 0;
    let risk = Risk { checkpointed: field()? != 0, samples_since: field()?, kept: field()?, sheltered: field()? };
    let mut reading = Reading::default();
    for account in &mut reading.signals {
        let SignalReading { seen, sent, folded, sampled_out, suppressed, bytes_in, bytes_out, .. } = account;
        for counter in [seen, sent, folded, sampled_out, suppressed, bytes_in, bytes_out] {
            *counter = field()?;
        }
        account.corrected = Corrected { buffer: field()? as i64, memory: field()? as i64 };
        for (_, records) in account.dropped.iter_mut().take(reasons) {
            *records = field()?;
        }
        for (_, records) in account.waiting.iter_mut().take(places) {
            *records = field()? as i64;
        }
    }
    let hash = field()?;
    let hashed = slot.get(..at - 8)?;
    (xxh3_64(hashed) == hash).then_some((generation, Entry { begun_unix_seconds, clean, risk, reading }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::{Ledger, Signal};

    fn entry(seen: u64) -> Entry {
        let ledger = Ledger::default();
        ledger.seen(Signal::Logs, seen);
        ledger.dropped(Signal::Traces, DropReason::Refused, 3);
        ledger.waiting_add(Signal::Metrics, Place::Queue, -2);
        let mut reading = ledger.read();
        reading.signals[2].corrected = Corrected { buffer: -5, memory: 7 };
        let risk = Risk { checkpointed: true, samples_since: 1, kept: 2, sheltered: 3 };
        Entry { begun_unix_seconds: 1_800_000_000, clean: false, risk, reading }
    }

    fn last(dir: &Path) -> Option<Entry> {
        Slots::open(dir).1.unwrap()
    }

    #[test]
    fn what_is_written_last_is_read_however_many_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = Slots::open(dir.path()).0.unwrap();
        assert_eq!(last(dir.path()), None);
        for seen in 0..5 {
            slots.write(entry(seen)).unwrap();
            assert_eq!(last(dir.path()), Some(entry(seen)));
        }
        let mut slots = Slots::open(dir.path()).0.unwrap();
        slots.write(entry(9)).unwrap();
        assert_eq!(last(dir.path()), Some(entry(9)), "the next run goes on behind this one");
    }

    #[test]
    fn an_entry_that_fails_halfway_does_not_cost_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = Slots::open(dir.path()).0.unwrap();
        slots.write(entry(1)).unwrap();
        slots.write(entry(2)).unwrap();
        let file = slots.exchange(File::open("/dev/null").unwrap());
        for seen in 3..6 {
            assert!(slots.write(entry(seen)).is_err(), "it is open for reading only");
        }
        // What a write that failed may have left where it went.
        file.write_all_at(&[0xff; 100], SLOT_BYTES as u64).unwrap();
        assert_eq!(last(dir.path()), Some(entry(2)));
        slots.exchange(file);
        slots.write(entry(6)).unwrap();
        assert_eq!(std::fs::read(dir.path().join(NAME)).unwrap().chunks(SLOT_BYTES).filter_map(decode).count(), 2);
        assert_eq!(last(dir.path()), Some(entry(6)));
    }

    #[test]
    fn a_slot_that_is_damaged_leaves_the_one_before_and_two_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut slots = Slots::open(dir.path()).0.unwrap();
        slots.write(entry(1)).unwrap();
        slots.write(entry(2)).unwrap();
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        // Generation 2 lies first.
        for at in 0..encode(2, &entry(2)).len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(last(dir.path()), Some(entry(1)), "byte {at}");
        }
        std::fs::write(&path, vec![7; 2 * SLOT_BYTES]).unwrap();
        let (slots, last) = Slots::open(dir.path());
        assert!(last.unwrap_err().to_string().contains("damaged"));
        slots.unwrap().write(entry(3)).unwrap();
        assert_eq!(Slots::open(dir.path()).1.unwrap(), Some(entry(3)), "and it can be written again");
    }

    #[test]
    fn an_entry_of_a_version_with_fewer_reasons_and_places_is_read() {
        let now = encode(1, &entry(6));
        let words: Vec<u64> = now.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        // As if the last reason and the last place had not been thought of.
        let (reasons, places) = (DropReason::ALL.len(), Place::ALL.len());
        let mut older = vec![words[0], words[1] - 1, words[2] - 1];
        older.extend(&words[3..10]);
        for account in words[10..words.len() - 1].chunks_exact(COUNTERS + reasons + places) {
            older.extend(&account[..COUNTERS + reasons - 1]);
            older.extend(&account[COUNTERS + reasons..COUNTERS + reasons + places - 1]);
        }
        let mut bytes: Vec<u8> = older.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        assert_eq!(decode(&bytes), Some((1, entry(6))));
        let mut newer = now.clone();
        newer[8] += 1;
        assert_eq!(decode(&newer), None);
    }

    #[test]
    fn numbers_in_the_file_never_come_to_mean_something_else() {
        let reasons = [
            "queue_full",
            "kernel_ring_full",
            "series_limit",
            "trace_limit",
            "memory_limit",
            "buffer_evicted",
            "buffer_failed",
            "buffer_corrupt",
            "too_large",
            "refused",
            "partial_success",
            "malformed",
            "source_vanished",
            "shutdown",
            "crash",
        ];
        assert!(DropReason::ALL.map(DropReason::name).starts_with(&reasons), "new ones come last");
        assert!(Place::ALL.map(Place::name).starts_with(&["queue", "window", "sampler", "freezer", "buffer"]));
    }
}
