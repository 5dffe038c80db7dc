//! One followed file: where it stands, what of it is under way, and reading on.
//!
//! Nothing here waits: `look` asks the file system, `read` reads one chunk, `handed_in` and `settle` move the marks. Invariant:
//! `committed` never passes a byte whose batch is not settled, and never moves over bytes of an earlier life of the file.

use crate::discover::Candidate;
use crate::identity::{Beginning, FileId, Fingerprint};
use crate::lines::{self, Rules, Split};
use crate::offsets::{Entry, Mark};
use crate::open::open;
use crate::records::Origin;
use ollystack_record::Resource;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a file that lost its name is still looked at after its last growth: its writer may hold it for a while.
const AFTERLIFE: Duration = Duration::from_secs(60);

/// Entries of a folder that are looked at for a file that was renamed.
const RENAMED_ENTRIES_MAX: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) id: FileId,
    /// Where it was first seen; its records keep saying so after a rotation.
    pub(crate) path: PathBuf,
    base: Arc<Path>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) origin: Origin,
    fingerprint: Fingerprint,
    file: Option<File>,
    /// Everything before is handed in.
    pub(crate) position: Mark,
    /// Everything before is settled.
    pub(crate) committed: Mark,
    /// Size when last looked at.
    pub(crate) size: u64,
    in_flight: VecDeque<InFlight>,
    /// How long the unfinished last line has been as long as it is.
    unfinished: Option<(u64, Instant)>,
    /// Since when its name is gone and it has not grown.
    nameless: Option<Instant>,
    pub(crate) used: Instant,
    pub(crate) lines: u64,
    bytes: u64,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    end: Mark,
    is_settled: bool,
}

/// What looking at a file told.
#[derive(Debug, PartialEq)]
pub(crate) enum Look {
    /// As expected; perhaps with more to read.
    Same,
    /// It begins anew. This many bytes of its earlier life were never read, as far as is known.
    Anew { unread: u64 },
    /// It is nowhere to be found. This many bytes of it were never read.
    Gone { unread: u64 },
}

impl Tail {
    /// Begin to follow an opened file at `start`.
    pub(crate) fn new(
        found: &Candidate,
        file: File,
        beginning: &Beginning,
        start: Mark,
        host: &Resource,
        now: Instant,
    ) -> Tail {
        Tail {
            id: found.id,
            path: found.path.clone(),
            base: Arc::clone(&found.base),
            resource: Arc::new(crate::records::resource(host, &found.path)),
            origin: Origin::new(&found.path),
            fingerprint: beginning.fingerprint(),
            file: Some(file),
            position: start,
            committed: start,
            size: found.size,
            in_flight: VecDeque::new(),
            unfinished: None,
            nameless: None,
            used: now,
            lines: 0,
            bytes: 0,
        }
    }

    /// Ask how large it is and whether it is still the same. Opens it if need be.
    pub(crate) fn look(&mut self, follow_symlinks: bool, now: Instant) -> io::Result<Look> {
        self.ensure_open(follow_symlinks)?;
        let Some(file) = &self.file else {
            return Ok(Look::Gone { unread: self.unread() });
        };
        let size = file.metadata()?.size();
        if size == self.size && size >= self.position.offset && size > 0 {
            return Ok(Look::Same);
        }
        let beginning = Beginning::read(file)?;
        if size < self.position.offset || !beginning.continues(&self.fingerprint) {
            let unread = self.size.saturating_sub(self.position.offset);
            self.begin_anew(size, &beginning);
            return Ok(Look::Anew { unread });
        }
        if self.fingerprint.length < crate::identity::FINGERPRINT_BYTES {
            self.fingerprint = beginning.fingerprint();
        }
        if size != self.size {
            self.size = size;
            self.nameless = self.nameless.map(|_| now);
        }
        Ok(Look::Same)
    }

    fn begin_anew(&mut self, size: u64, beginning: &Beginning) {
        self.fingerprint = beginning.fingerprint();
        self.position = Mark::default();
        self.committed = Mark::default();
        self.in_flight.clear();
        self.unfinished = None;
        self.size = size;
    }

    /// Open it; by its inode if it was renamed meanwhile. It stays closed if it is nowhere in its folder.
    fn ensure_open(&mut self, follow_symlinks: bool) -> io::Result<()> {
        if self.file.is_none() {
            let named = open(&self.base, &self.path, follow_symlinks).ok().filter(|file| is(file, self.id));
            self.file = match named {
                Some(file) => Some(file),
                None => find_renamed(&self.base, &self.path, self.id, follow_symlinks)?,
            };
        }
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Close it until it is needed again. Only for a file that still has its name: another's content goes with its descriptor.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }

    pub(crate) fn may_close(&self) -> bool {
        self.is_open() && self.nameless.is_none() && self.unread() == 0
    }

    /// Bytes that were there when last looked and are not handed in.
    pub(crate) fn unread(&self) -> u64 {
        self.size.saturating_sub(self.position.offset)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When the unfinished last line is to be taken as it is.
    pub(crate) fn unfinished_due(&self, wait: Duration) -> Option<Instant> {
        self.unfinished.map(|(_, since)| since + wait)
    }

    /// Read one chunk into `buffer` and split it. The position moves only with [`Tail::handed_in`].
    pub(crate) fn read<'a>(
        &mut self,
        buffer: &'a mut [u8],
        rules: Rules,
        wait: Duration,
        now: Instant,
    ) -> io::Result<Split<'a>> {
        let Some(file) = &self.file else { return Ok(Split::default()) };
        let mut length = 0;
        while length < buffer.len() {
            match file.read_at(&mut buffer[length..], self.position.offset + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let end = self.position.offset + length as u64;
        self.size = self.size.max(end);
        self.used = now;
        let at_end = end >= self.size;
        let take_unfinished = at_end && self.unfinished.is_some_and(|(size, since)| size == end && now >= since + wait);
        let rules = Rules { in_cut_line: self.position.in_cut_line, take_unfinished, ..rules };
        let split = lines::split(&buffer[..length], rules);
        let is_unfinished = at_end && split.consumed < length && split.lines.len() < rules.lines_max;
        self.unfinished = match self.unfinished {
            _ if !is_unfinished => None,
            Some((size, since)) if size == end => Some((size, since)),
            _ => Some((end, now)),
        };
        Ok(split)
    }

    /// A batch up to `end` was handed in under `number`; without a number there was nothing in it to wait for.
    pub(crate) fn handed_in(&mut self, consumed: u64, in_cut_line: bool, lines: u64, number: Option<u64>) {
        self.position = Mark { offset: self.position.offset + consumed, in_cut_line };
        self.lines += lines;
        self.bytes += consumed;
        let end = self.position;
        self.in_flight.push_back(InFlight { number: number.unwrap_or(0), end, is_settled: number.is_none() });
        self.commit();
    }

    /// The verdict on batch `number` is in. True if the file may be committed further than before.
    pub(crate) fn settle(&mut self, number: u64) -> bool {
        // A batch of the file's earlier life is not there any more.
        if let Some(batch) = self.in_flight.iter_mut().find(|batch| batch.number == number && !batch.is_settled) {
            batch.is_settled = true;
        }
        self.commit()
    }

    fn commit(&mut self) -> bool {
        let before = self.committed;
        while self.in_flight.front().is_some_and(|batch| batch.is_settled) {
            if let Some(batch) = self.in_flight.pop_front() {
                self.committed = batch.end;
            }
        }
        self.committed != before
    }

    /// Its name is there, or no longer.
    pub(crate) fn set_named(&mut self, is_named: bool, now: Instant) {
        self.nameless = if is_named { None } else { self.nameless.or(Some(now)) };
    }

    pub(crate) fn is_nameless(&self) -> bool {
        self.nameless.is_some()
    }

    /// Read to its end, settled, and silent for long enough since it lost its name.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let is_silent = self.nameless.is_some_and(|since| now.saturating_duration_since(since) >= AFTERLIFE);
        is_silent && self.is_finished()
    }

    /// Without a name, read to its end and settled.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_nameless() && self.unread() == 0 && self.in_flight.is_empty()
    }

    /// How many lines so many bytes of this file are, by what was read of it so far.
    pub(crate) fn lines_in(&self, bytes: u64) -> u64 {
        let line_bytes = self.bytes.checked_div(self.lines).unwrap_or(100).max(1);
        bytes.div_ceil(line_bytes)
    }

    /// Whether `found` is a copy of this file that a rotation made beside it: named after it, beginning like it, and at least
    /// as long as what was read.
    pub(crate) fn is_copied_to(&self, found: &Candidate, beginning: &Beginning) -> bool {
        let name = found.path.as_os_str().as_encoded_bytes();
        let is_named_after =
            name.strip_prefix(self.path.as_os_str().as_encoded_bytes()).is_some_and(|rest| !rest.is_empty());
        is_named_after
            && self.fingerprint.length > 0
            && found.size >= self.position.offset
            && beginning.continues(&self.fingerprint)
    }

    pub(crate) fn entry(&self) -> Entry {
        let path = self.path.to_string_lossy().into_owned();
        Entry { id: self.id, fingerprint: self.fingerprint, path, mark: self.committed, size: self.size }
    }
}

fn is(file: &File, id: FileId) -> bool {
    file.metadata().is_ok_and(|metadata| FileId::of(&metadata) == id)
}

/// A file that lost its name, by its inode among the others of its folder.
pub(crate) fn find_renamed(base: &Path, path: &Path, id: FileId, follow_symlinks: bool) -> io::Result<Option<File>> {
    use std::os::unix::fs::DirEntryExt;
    let Some(folder) = path.parent() else { return Ok(None) };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten().take(RENAMED_ENTRIES_MAX).filter(|entry| entry.ino() == id.inode) {
        if let Ok(file) = open(base, &entry.path(), follow_symlinks)
            && is(&file, id)
        {
            return Ok(Some(file));
        }
    }
    Ok(None)
}
