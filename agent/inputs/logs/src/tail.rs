//! One followed file: where it stands, what of it is under way, and reading on.
//!
//! Nothing here waits: `look` asks the file system, `read` reads one chunk, `handed_in` and `settle` move the marks. What the run
//! before had settled beyond its mark is passed over. Invariant: `committed` never passes a byte that is not settled, and never
//! moves over bytes of an earlier life of the file.

use crate::discover::Candidate;
use crate::identity::{Beginning, FileId, Fingerprint, Stamp, stamp};
use crate::join::{Due, Joined, Layout, Limits, join};
use crate::offsets::{Earlier, Entry, Mark};
use crate::open::open;
use crate::records::Origin;
use crate::rules::Rules;
use ollystack_record::{Resource, Spans};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a file that lost its name is still looked at after its last growth: its writer may hold it for a while.
const AFTERLIFE: Duration = Duration::from_secs(60);

/// What is read at once; a batch is seldom more. A record that is longer is read with the whole buffer.
const CHUNK_BYTES: usize = 128 << 10;

/// Entries of a folder that are looked at for a file that was renamed.
const RENAMED_ENTRIES_MAX: usize = 10_000;

/// Of an open record in memory, so that truncating the file does not lose it. Longer ones are lost and counted.
const HELD_BYTES_MAX: usize = 64 << 10;

/// A record that keeps growing waits this many times as long as a silent one.
const GROWING_WAITS: u32 = 5;

#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) id: FileId,
    /// Verdicts on an earlier life are not for this one.
    pub(crate) life: u64,
    /// Where it was first seen; its records keep saying so after a rotation.
    pub(crate) path: PathBuf,
    base: Arc<Path>,
    pub(crate) resource: Arc<Resource>,
    pub(crate) origin: Origin,
    layout: Layout,
    fingerprint: Fingerprint,
    file: Option<File>,
    /// Everything before is handed in.
    pub(crate) position: Mark,
    /// Everything before is settled.
    pub(crate) committed: Mark,
    /// Size when last looked at.
    pub(crate) size: u64,
    /// Beside it: a file of the same size may be another, with the inode of one that is gone.
    pub(crate) stamp: Stamp,
    /// Settled beyond.
    done: Spans,
    /// Ends of batches, not committed yet, at which a line or a record goes on.
    marks: VecDeque<Mark>,
    /// How long the unfinished last line has been as long as it is.
    unfinished: Option<(u64, Instant)>,
    open: Option<Open>,
    /// What of the file was read and may go on, so it is not handed in.
    held: Vec<u8>,
    /// Whether a chunk of the usual size holds no whole record.
    needs_room: bool,
    /// How it began before it was truncated, and how far it was read then: a copy of that may come to light later.
    earlier: Option<Earlier>,
    /// Since when its name is gone and it has not grown.
    nameless: Option<Instant>,
    /// Closed for good, as others needed its descriptor: it only waits for verdicts.
    is_retired: bool,
    pub(crate) used: Instant,
    pub(crate) records: u64,
    bytes: u64,
}

/// The first record of the file that may go on.
#[derive(Clone, Copy, Debug)]
struct Open {
    start: u64,
    end: u64,
    seen: Instant,
    grown: Instant,
}

/// Where to begin in a file.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) life: u64,
    pub(crate) mark: Mark,
    /// Beyond the mark, and not to be read again.
    pub(crate) done: Spans,
    pub(crate) earlier: Option<Earlier>,
}

/// How long is waited for what may go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// For the end of a line.
    pub(crate) line: Duration,
    /// For more lines of a record.
    pub(crate) record: Duration,
}

/// What of an earlier life of a file was read and not handed in.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    bytes: Vec<u8>,
    from: Mark,
    layout: Layout,
}

/// What looking at a file told.
#[derive(Debug)]
pub(crate) enum Look {
    /// As expected; perhaps with more to read.
    Same,
    /// It begins anew. This many bytes of its earlier life were never read, as far as is known.
    Anew { unread: u64, remains: Remains },
    /// It is nowhere to be found. This many bytes of it were never read.
    Gone { unread: u64 },
}

impl Tail {
    /// Begin to follow an opened file at `start`, in this life of it, of which this much beyond is done.
    pub(crate) fn new(
        found: &Candidate,
        file: File,
        beginning: &Beginning,
        Start { life, mark, done, earlier }: Start,
        (host, rules): (&Resource, &Rules),
        now: Instant,
    ) -> Tail {
        let mut tail = Tail {
            id: found.id,
            life,
            path: found.path.clone(),
            base: Arc::clone(&found.base),
            resource: Arc::new(crate::records::resource(host, &found.path)),
            origin: Origin::new(&found.path),
            layout: rules.layout(&found.path, beginning.bytes()),
            fingerprint: beginning.fingerprint(),
            file: Some(file),
            position: mark,
            committed: mark,
            size: found.size,
            stamp: found.stamp,
            done,
            marks: VecDeque::new(),
            unfinished: None,
            open: None,
            held: Vec::new(),
            needs_room: false,
            earlier,
            nameless: None,
            is_retired: false,
            used: now,
            records: 0,
            bytes: 0,
        };
        // What is done may begin at the mark.
        tail.settle(&Spans::default());
        tail.position = tail.committed;
        tail
    }

    /// Ask how large it is and whether it is still the same. Opens it if need be.
    /// If it begins anew, its life is `next_life`.
    pub(crate) fn look(
        &mut self,
        rules: &Rules,
        follow_symlinks: bool,
        next_life: u64,
        now: Instant,
    ) -> io::Result<Look> {
        self.ensure_open(follow_symlinks)?;
        let Some(file) = &self.file else {
            return Ok(Look::Gone { unread: self.unread() });
        };
        let metadata = file.metadata()?;
        let (size, stamp) = (metadata.size(), stamp(&metadata));
        if (size, stamp) == (self.size, self.stamp) && size >= self.position.offset && size > 0 {
            return Ok(Look::Same);
        }
        let beginning = Beginning::read(file)?;
        self.stamp = stamp;
        if size < self.position.offset || !beginning.continues(&self.fingerprint) {
            let remains =
                Remains { bytes: std::mem::take(&mut self.held), from: self.position, layout: self.layout.clone() };
            let held = remains.bytes.len() as u64;
            let unread = self.unread().saturating_sub(held);
            self.earlier = Some(Earlier { fingerprint: self.fingerprint, mark: past(self.position, held) });
            self.life = next_life;
            self.begin_anew(size, &beginning, rules);
            return Ok(Look::Anew { unread, remains });
        }
        if self.fingerprint.length < crate::identity::FINGERPRINT_BYTES {
            self.fingerprint = beginning.fingerprint();
            self.layout = rules.layout(&self.path, beginning.bytes());
        }
        if size != self.size {
            self.size = size;
            self.nameless = self.nameless.map(|_| now);
        }
        Ok(Look::Same)
    }

    fn begin_anew(&mut self, size: u64, beginning: &Beginning, rules: &Rules) {
        self.fingerprint = beginning.fingerprint();
        self.layout = rules.layout(&self.path, beginning.bytes());
        self.position = Mark::default();
        self.committed = Mark::default();
        (self.done, self.marks) = Default::default();
        (self.unfinished, self.open) = (None, None);
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
        self.is_open() && self.unread() == 0
    }

    /// As [`Tail::close`], of a file without a name: it is not looked at again.
    pub(crate) fn retire(&mut self) {
        self.close();
        self.is_retired = true;
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.is_retired
    }

    /// Bytes that were there when last looked and are not handed in.
    pub(crate) fn unread(&self) -> u64 {
        self.size.saturating_sub(self.position.offset)
    }

    /// Bytes of the file that are kept in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// When what may go on is to be taken as it is.
    pub(crate) fn due(&self, waits: Waits) -> Option<Instant> {
        let line = self.unfinished.map(|(_, since)| since + waits.line);
        let record = self.open.map(|open| open.due(waits.record));
        line.into_iter().chain(record).min()
    }

    /// It could not be read: what is due is tried again once it was waited for as long again.
    pub(crate) fn wait_anew(&mut self, now: Instant) {
        self.unfinished = self.unfinished.map(|(size, _)| (size, now));
        self.open = self.open.map(|open| Open { seen: now, grown: now, ..open });
    }

    /// Read one chunk into `buffer` and make records of it; true if there is more to read at once. The position moves only with
    /// [`Tail::handed_in`]. At most `held_bytes_max` of what may go on are kept.
    pub(crate) fn read<'a>(
        &mut self,
        buffer: &'a mut [u8],
        limits: Limits,
        waits: Waits,
        held_bytes_max: usize,
        now: Instant,
    ) -> io::Result<(Joined<'a>, bool)> {
        let Some(file) = &self.file else { return Ok((Joined::default(), false)) };
        if let Some(end) = self.done.end_from(self.position.offset) {
            self.position = Mark { offset: end, ..Mark::default() };
        }
        let done_from = self.done.next_start(self.position.offset);
        let mut wanted = if self.needs_room { buffer.len() } else { buffer.len().min(CHUNK_BYTES) };
        wanted = wanted.min(done_from.map_or(usize::MAX, |from| (from - self.position.offset) as usize));
        let mut length = 0;
        while length < wanted {
            match file.read_at(&mut buffer[length..wanted], self.position.offset + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let chunk = &buffer[..length];
        let end = self.position.offset + length as u64;
        self.size = self.size.max(end);
        self.used = now;
        let (at_end, at_done) = (end >= self.size, done_from == Some(end));
        // What comes then was handed on: nothing before it goes on there.
        let due = if at_done { Due::Line } else { Due::Nothing };
        let mut joined = join(chunk, self.position, &self.layout, limits, due);
        if at_end && !at_done {
            let due = self.note(&joined, end, waits, now);
            if due > Due::Nothing {
                joined = join(chunk, self.position, &self.layout, limits, due);
                // What is still open begins to wait now.
                self.note(&joined, end, waits, now);
            }
        } else {
            (self.unfinished, self.open) = (None, None);
        }
        self.held.clear();
        let rest = &chunk[joined.consumed..];
        if at_end && !joined.is_full && rest.len() <= held_bytes_max.min(HELD_BYTES_MAX) {
            self.held.extend_from_slice(rest);
        }
        self.held.shrink_to_fit();
        self.needs_room = !at_end && !at_done && joined.consumed == 0;
        let has_more = !at_end || joined.is_full;
        Ok((joined, has_more))
    }

    /// What of the end of the file may go on, and whether it was waited for long enough.
    fn note(&mut self, joined: &Joined<'_>, end: u64, waits: Waits, now: Instant) -> Due {
        let same = self.unfinished.filter(|(size, _)| *size == end);
        self.unfinished = joined.is_unfinished.then_some(same.unwrap_or((end, now)));
        self.open = joined.open.filter(|_| !joined.is_full).map(|(start, end)| {
            let (start, end) = (self.position.offset + start as u64, self.position.offset + end as u64);
            let before = self.open.filter(|open| open.start == start);
            Open {
                start,
                end,
                seen: before.map_or(now, |open| open.seen),
                grown: before.filter(|open| open.end == end).map_or(now, |open| open.grown),
            }
        });
        match (self.unfinished, self.open) {
            (Some((_, since)), _) if now >= since + waits.line => Due::Line,
            (_, Some(open)) if now >= open.due(waits.record) => Due::Record,
            _ => Due::Nothing,
        }
    }

    /// So many bytes were handed in, or held no records.
    pub(crate) fn handed_in(&mut self, consumed: u64, (in_cut_line, in_record): (bool, bool), records: u64) {
        let from = self.position.offset;
        self.position = Mark { offset: from + consumed, in_cut_line, in_record };
        self.records += records;
        self.bytes += consumed;
        if in_cut_line || in_record {
            self.marks.push_back(self.position);
        }
        if records == 0 {
            self.settle(&Spans::one(from, self.position.offset));
        }
    }

    /// The verdict on these parts is in.
    pub(crate) fn settle(&mut self, spans: &Spans) {
        self.done.extend(spans);
        if let Some(offset) = self.done.end_from(self.committed.offset) {
            while self.marks.front().is_some_and(|mark| mark.offset < offset) {
                self.marks.pop_front();
            }
            let mark = self.marks.front().filter(|mark| mark.offset == offset).copied();
            self.committed = mark.unwrap_or(Mark { offset, ..Mark::default() });
            self.done.forget_before(offset);
            // What was done beyond before this run is not read: that may become known before the next look at it.
            if self.position.offset < offset {
                self.position = self.committed;
            }
        }
    }

    /// Its name is there, or no longer.
    pub(crate) fn set_named(&mut self, is_named: bool, now: Instant) {
        self.nameless = if is_named { None } else { self.nameless.or(Some(now)) };
        self.is_retired &= !is_named;
    }

    /// Whether its name still leads to it, as far as can be seen.
    pub(crate) fn may_be_named(&self, follow_symlinks: bool) -> bool {
        let found = if follow_symlinks { std::fs::metadata(&self.path) } else { std::fs::symlink_metadata(&self.path) };
        match found {
            Ok(metadata) => FileId::of(&metadata) == self.id,
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    pub(crate) fn is_nameless(&self) -> bool {
        self.nameless.is_some()
    }

    /// Read to its end, settled, and silent for long enough since it lost its name.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let is_silent = self.nameless.is_some_and(|since| now.saturating_duration_since(since) >= AFTERLIFE);
        (is_silent || self.is_retired) && self.is_finished()
    }

    /// Whether no name leads to it any more, whatever that was: it will never be found again.
    pub(crate) fn is_deleted(&self) -> bool {
        self.file.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|metadata| metadata.nlink() == 0)
    }

    /// Without a name, read to its end and settled.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_nameless() && self.unread() == 0 && self.committed.offset >= self.position.offset
    }

    /// How many records so many bytes of this file are, by what was read of it so far.
    pub(crate) fn records_in(&self, bytes: u64) -> u64 {
        let record_bytes = self.bytes.checked_div(self.records).unwrap_or(100).max(1);
        bytes.div_ceil(record_bytes)
    }

    /// How far `found` was read already, if it is a copy of this file, or of its earlier life.
    pub(crate) fn copied_to(&self, found: &Candidate, beginning: &Beginning) -> Option<Mark> {
        // What is held comes of this one, whether it goes on or is truncated next; a copy may have been made before it.
        let (with_held, position) = (past(self.position, self.held.len() as u64), self.position);
        let lives = [with_held, position].map(|mark| Earlier { fingerprint: self.fingerprint, mark });
        Earlier::copied(&self.path, lives.into_iter().chain(self.earlier), found, beginning)
    }

    pub(crate) fn entry(&self) -> Entry {
        let path = self.path.to_string_lossy().into_owned();
        let (mark, done) = (self.committed, self.done.clone());
        let Tail { id, life, fingerprint, earlier, size, .. } = *self;
        Entry { id, life, fingerprint, path, mark, done, earlier, size }
    }
}

impl Open {
    fn due(&self, wait: Duration) -> Instant {
        (self.grown + wait).min(self.seen + wait * GROWING_WAITS)
    }
}

impl Remains {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The records of it; nothing more comes.
    pub(crate) fn joined(&self, limits: Limits) -> Joined<'_> {
        join(&self.bytes, self.from, &self.layout, limits, Due::Line)
    }
}

/// Behind so many bytes that are held.
fn past(position: Mark, held: u64) -> Mark {
    if held == 0 { position } else { Mark { offset: position.offset + held, ..Mark::default() } }
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
