//! Fuzz target of log files: lines, the framings of container runtimes, and lines that belong together.
//!
//! Invariants held here: nothing panics; a chunk never yields more bytes than it has, and reading goes on behind what was consumed;
//! whatever is cut into chunks, the reader moves on.

use crate::frame::Framing;
use crate::join::{Due, Layout, Limits, Multiline, join};
use crate::lines::chunk_bytes;
use crate::offsets::Mark;
use std::path::Path;

const LIMITS: Limits = Limits { line_bytes_max: 64, lines_max: 8, records_max: 16, chunk_bytes_max: 4 * (64 + 3) };

/// The first byte chooses framing and patience, the rest is the file.
pub fn file(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    assert!(LIMITS.chunk_bytes_max >= chunk_bytes(LIMITS.line_bytes_max));
    let framing = match first % 4 {
        0 => Framing::Plain,
        1 => Framing::Docker,
        2 => Framing::Cri,
        _ => Framing::of(rest, Path::new("/var/log/a.log")),
    };
    let due = [Due::Nothing, Due::Record, Due::Line][usize::from(first / 4 % 3)];
    let layout = Layout { framing, multiline: Multiline::Auto };
    let mut mark = Mark::default();
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(LIMITS.chunk_bytes_max)];
        let joined = join(chunk, mark, &layout, LIMITS, due);
        assert!(joined.consumed <= chunk.len(), "{} of {}", joined.consumed, chunk.len());
        // One line may end two records, and one that is open may be ended in each stream.
        assert!(joined.records.len() <= LIMITS.records_max + 4, "{} records", joined.records.len());
        for record in &joined.records {
            assert!(record.lines >= 1 && record.lines <= LIMITS.lines_max, "{} lines", record.lines);
        }
        if joined.consumed == 0 {
            assert!(chunk.len() < LIMITS.chunk_bytes_max, "a full chunk yields nothing");
            return;
        }
        mark = Mark { in_cut_line: joined.in_cut_line, in_record: joined.in_record, ..mark };
        rest = &rest[joined.consumed..];
    }
}
