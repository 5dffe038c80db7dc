//! How far the reading is, for whoever waits at a terminal.
//!
//! One line on stderr that is written over, and gone at the end. Invariant: nothing is written where nobody watches, nor in the
//! first two seconds.

use crate::table::{bytes, grouped};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Nobody has begun to wonder before.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two lines.
const PAUSE: Duration = Duration::from_millis(200);
/// Lines between two looks at the clock; 2^12 take some milliseconds.
const LINES: u64 = 1 << 12;

/// The line on the terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Bytes read so far, as they are on disk.
    pub(crate) read: Arc<AtomicU64>,
    /// All bytes, if it is known how many there are.
    total: Option<u64>,
    watched: bool,
    begin: Instant,
    next: Instant,
    shown: bool,
}

impl Progress {
    /// Of reading these files.
    pub(crate) fn new(files: &[PathBuf]) -> Progress {
        let size = |path: &PathBuf| path.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
        let total = files.iter().map(size).sum::<Option<u64>>().filter(|total| *total > 0);
        let begin = Instant::now();
        let watched = std::io::stderr().is_terminal();
        Progress { read: Arc::default(), total, watched, begin, next: begin + PATIENCE, shown: false }
    }

    /// After each line: mostly nothing.
    pub(crate) fn show(&mut self, lines: u64) {
        if !self.watched || !lines.is_multiple_of(LINES) {
            return;
        }
        let now = Instant::now();
        if now >= self.next {
            self.next = now + PAUSE;
            self.shown = true;
            let text = text(lines, self.read.load(Relaxed), self.total, now - self.begin);
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Take the line away, so that something else can be written there.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn text(lines: u64, read: u64, total: Option<u64>, took: Duration) -> String {
    let rate = grouped((lines as f64 / took.as_secs_f64().max(1e-3)) as i64);
    let of = total.map_or(String::new(), |total| format!(" of {} ({}%)", bytes(total), (100 * read / total).min(100)));
    format!("{} lines, {}{of}, {rate} lines/s", grouped(lines as i64), bytes(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_shown_where_the_whole_is_known() {
        let shown = |total| text(2_000_000, 50 << 20, total, Duration::from_secs(2));
        assert_eq!(shown(Some(200 << 20)), "2,000,000 lines, 50.0 MiB of 200 MiB (25%), 1,000,000 lines/s");
        assert_eq!(shown(None), "2,000,000 lines, 50.0 MiB, 1,000,000 lines/s");
    }

    #[test]
    fn the_whole_is_not_known_of_a_pipe_or_a_missing_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(Progress::new(&[file.path().to_owned()]).total, Some(5));
        assert_eq!(Progress::new(&[file.path().to_owned(), "-".into()]).total, None);
        assert_eq!(Progress::new(&[]).total, None);
    }
}
