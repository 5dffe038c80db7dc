//! Fuzz target of the segment reader: a segment file that is not what was written.
//!
//! Invariants held here: opening never fails or panics for damage; what was put into other segments is all there; what is given out is
//! what was put, and every record of the damaged segment is given out or told as lost.

#![allow(clippy::expect_used, reason = "a target fails by panicking")]

use crate::{Buffer, Entry, KINDS, Loss, Observer, Options};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
struct Lost(AtomicU64);

impl Observer for Lost {
    fn lost(&self, _: u8, records: u64, _: u64, _: Loss) {
        self.0.fetch_add(records, Relaxed);
    }
}

const ENTRIES: u64 = 6;

fn entry(class: u8, number: u64) -> Entry {
    let payload: Vec<u8> = (0..512 + number * 700).map(|at| (at * 31 + number * 7) as u8).collect();
    Entry {
        class,
        signal: class,
        records: number as u32 + 1,
        meta: Bytes::from_static(b"meta"),
        payload: payload.into(),
    }
}

/// Edits of the segment of class 1: three bytes of position, one to write there; an odd number of bytes left cuts the file.
pub fn segment(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    runtime.block_on(async {
        let options = Options { bytes_max: 8 << 20, segment_bytes_max: 256 << 10, ..Options::new(folder.path()) };
        let (buffer, _) = Buffer::open(options.clone(), Arc::new(Lost::default())).expect("a new folder opens");
        for class in [0, 1] {
            buffer.put((0..ENTRIES).map(|number| entry(class, number)).collect()).await.expect("there is room");
        }
        buffer.close().await;
        damage(folder.path(), data);
        let lost = Arc::new(Lost::default());
        let (buffer, recovery) = Buffer::open(options, lost.clone()).expect("damage is no reason not to open");
        let (mut good, mut records, mut failures) = (0, 0, 0);
        loop {
            // A segment that cannot be read is tried a few times, and then set aside and told as lost.
            let Ok(next) = buffer.next().await else {
                failures += 1;
                assert!(failures <= 16, "it fails for ever");
                continue;
            };
            let Some(stored) = next else { break };
            let class = stored.entry.class;
            let number = u64::from(stored.entry.records) - 1;
            assert_eq!(stored.entry, entry(class, number), "given out changed");
            good += u64::from(class == 0);
            records += u64::from(class == 1) * (number + 1);
        }
        assert_eq!(good, ENTRIES, "another segment lost entries");
        let all: u64 = (1..=ENTRIES).sum();
        let exact = recovery.quarantined.iter().all(|quarantined| quarantined.exact);
        assert!(!exact || records + lost.0.load(Relaxed) == all, "{records} given out, {} lost", lost.0.load(Relaxed));
        assert!(recovery.records_by_signal.len() == KINDS);
        buffer.close().await;
    });
}

fn damage(folder: &Path, data: &[u8]) {
    let mut files = std::fs::read_dir(folder).expect("the folder is there").flatten().map(|file| file.path());
    let segment = |path: &std::path::PathBuf| {
        path.to_string_lossy().contains("-1.segment") && !path.to_string_lossy().ends_with("-wal")
    };
    let Some(path) = files.find(segment) else { return };
    let mut bytes = std::fs::read(&path).expect("the segment is there");
    for edit in data.chunks_exact(4) {
        let at = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize % bytes.len();
        bytes[at] = edit[3];
    }
    if !data.len().is_multiple_of(4) {
        bytes.truncate(bytes.len() * usize::from(data[data.len() - 1]) / 256);
    }
    std::fs::write(&path, bytes).expect("the segment can be written");
}
