//! Fuzz target of the journal: one line of `journalctl --output=json`.

use crate::entry::Entry;

/// A line.
pub fn entry(data: &[u8]) {
    if let Some(entry) = Entry::parse(data) {
        let _ = (entry.time_unix_nano(), entry.severity(), entry.source(), entry.resource_attributes());
    }
}
