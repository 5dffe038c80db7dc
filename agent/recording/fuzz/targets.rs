//! Fuzz target of recordings, which may come from another host.

use crate::Reader;

/// A file, its magic and compression included.
pub fn recording(data: &[u8]) {
    let Ok(reader) = Reader::new(data) else { return };
    for entry in reader.take(1_000) {
        if entry.is_err() {
            return;
        }
    }
}
