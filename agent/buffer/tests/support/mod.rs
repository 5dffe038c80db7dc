//! What the tests of the buffer share: an observer that adds up, entries, and the size of a directory.
#![allow(dead_code, reason = "each test file is a crate of its own and uses its part")]

use bytes::Bytes;
use ollystack_buffer::{Buffer, Entry, Loss, Observer, Options, Recovery, Stored, WhenFull};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Records lost by signal and reason.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<HashMap<(u8, Loss), (u64, u64)>>);

impl Observer for Losses {
    fn lost(&self, signal: u8, records: u64, bytes: u64, reason: Loss) {
        let mut losses = self.0.lock().unwrap();
        let sum = losses.entry((signal, reason)).or_default();
        sum.0 += records;
        sum.1 += bytes;
    }
}

impl Losses {
    pub(crate) fn records(&self, signal: u8, reason: Loss) -> u64 {
        self.0.lock().unwrap().get(&(signal, reason)).map_or(0, |sum| sum.0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.lock().unwrap().values().map(|sum| sum.0).sum()
    }
}

/// A directory in memory where there is one: the tests sync thousands of times, and what a sync is worth is not their subject.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The smallest buffer there may be.
pub(crate) fn small(directory: &Path) -> Options {
    Options {
        directory: directory.to_path_buf(),
        bytes_max: 4 << 20,
        segment_bytes_max: 256 << 10,
        when_full: WhenFull::Evict,
    }
}

pub(crate) fn open(options: Options) -> (Buffer, Recovery, Arc<Losses>) {
    let losses = Arc::new(Losses::default());
    let (buffer, recovery) = Buffer::open(options, losses.clone()).unwrap();
    (buffer, recovery, losses)
}

/// An entry of `bytes` that no other number gives.
pub(crate) fn entry(class: u8, number: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..bytes).map(|at| (number as usize * 31 + at * 7) as u8).collect();
    let meta = Bytes::from(number.to_le_bytes().to_vec());
    Entry { class, signal: class % 3, records: 3, meta, payload: payload.into() }
}

pub(crate) fn number(stored: &Stored) -> u64 {
    u64::from_le_bytes(stored.entry.meta[..].try_into().unwrap())
}

/// Lease all there is.
pub(crate) async fn lease_all(buffer: &Buffer) -> Vec<Stored> {
    let mut all = Vec::new();
    while let Some(stored) = buffer.next().await.unwrap() {
        all.push(stored);
    }
    all
}

/// Bytes of all files below a directory.
pub(crate) fn disk_bytes(directory: &Path) -> u64 {
    let mut bytes = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        // A file may be deleted between the listing and the look.
        bytes += if path.is_dir() { disk_bytes(&path) } else { std::fs::metadata(&path).map_or(0, |m| m.len()) };
    }
    bytes
}

/// What a kill leaves: the files as they are while the process that writes them still runs. All as of one moment: the writer may be moving
/// a WAL at an idle one, and no kill leaves one file of before that and another of after it.
pub(crate) fn copy(from: &Path, to: &Path) {
    let mut files = contents(from);
    loop {
        let again = contents(from);
        if again == files {
            break;
        }
        files = again;
    }
    for (path, bytes) in files {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes).unwrap();
    }
}

/// All files below a directory by their paths. One that is deleted between the listing and the look is not there.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            files.insert(path, bytes);
        }
    }
    files
}

/// Segment files, oldest first.
pub(crate) fn segments(directory: &Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "segment1")).collect();
    paths.sort();
    paths
}
