//! Which files are followed, and where each begins: the walks at start and later, and files that notices tell of.
//!
//! Invariant: what was there before the first start begins where the configuration says, what was followed before goes on, and
//! whatever appears later begins at its beginning.

use super::{Follower, WALK_EVERY};
use crate::StartAt;
use crate::discover::Candidate;
use crate::identity::{Beginning, FileId, stamp};
use crate::offsets::{Entry, Mark, State};
use crate::open::open;
use crate::tail::{Start, Tail, find_renamed};
use hashbrown::HashSet;
use ollystack_record::Spans;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

impl Follower {
    /// The first walk: go on where the last run ended.
    pub(super) fn first_walk(&mut self, state: Option<State>, now: Instant) {
        let saved_unix_nano = state.as_ref().map(|state| state.saved_unix_nano);
        let mut saved: Vec<Entry> = state.map(|state| state.files).unwrap_or_default();
        // Beyond those of runs before, also when the clock was set back; what an agent saved that knew no lives has none yet.
        self.last_life = saved.iter().map(|entry| entry.life).fold(self.last_life, u64::max);
        saved.iter_mut().filter(|entry| entry.life == 0).for_each(|entry| entry.life = self.next_life());
        let known = saved.clone();
        let walk = self.globs.walk();
        for found in &walk.files {
            let Some((file, beginning)) = self.opened(found) else { continue };
            let copied = || known.iter().find_map(|entry| entry.copied_to(found, &beginning));
            let start = match take_saved(&mut saved, found, &beginning) {
                Some(entry) if entry.goes_on(found.size, &beginning) => {
                    self.adopt(found, file, &beginning, entry.start(), now);
                    continue;
                }
                Some(entry) => {
                    self.lost(
                        &found.path,
                        found.id,
                        entry.unread(),
                        "a log file was truncated while the agent was down",
                    );
                    Mark::default()
                }
                None if let Some(mark) = copied() => mark,
                None => {
                    // File systems stamp with a coarse clock: a little before the save counts as after it.
                    let since = saved_unix_nano.map(|saved| saved.saturating_sub(1_000_000_000));
                    let is_newer = since.is_some_and(|since| born(&file).is_none_or(|born| born >= since));
                    let at_end = self.config.start_at == StartAt::End && !is_newer;
                    Mark { offset: if at_end { found.size } else { 0 }, ..Mark::default() }
                }
            };
            self.adopt_new(found, file, &beginning, start, now);
        }
        // What was followed and is not there under its name was rotated away while nobody looked.
        for entry in saved {
            self.find_lost(&entry, now);
        }
        self.times.walked = now;
        self.times.walk = now + Duration::from_millis(self.config.poll_interval_ms);
        self.after_walk(&walk.folders, walk.is_incomplete);
    }

    fn find_lost(&mut self, entry: &Entry, now: Instant) {
        let path = PathBuf::from(&entry.path);
        let base: Arc<Path> = path.parent().unwrap_or(&path).into();
        let file = find_renamed(&base, &path, entry.id, self.config.follow_symlinks).ok().flatten();
        let metadata = file.as_ref().and_then(|file| file.metadata().ok());
        let beginning = file.as_ref().and_then(|file| Beginning::read(file).ok());
        match (file, beginning, metadata) {
            (Some(file), Some(beginning), Some(metadata)) if entry.goes_on(metadata.len(), &beginning) => {
                let (size, stamp) = (metadata.len(), stamp(&metadata));
                let found = Candidate { path, base, id: entry.id, size, stamp };
                self.adopt(&found, file, &beginning, entry.start(), now);
                if let Some(tail) = self.tails.get_mut(&entry.id) {
                    tail.set_named(false, now);
                }
            }
            _ => {
                self.lost(&path, entry.id, entry.unread(), "a log file vanished while the agent was down");
            }
        }
    }

    /// A later walk: what is new is read from its beginning.
    pub(super) fn walk(&mut self, now: Instant) {
        let walk = self.globs.walk();
        let mut named = HashSet::with_capacity(walk.files.len());
        let mut over_limit = 0;
        self.by_path.clear();
        for found in &walk.files {
            if let Some(tail) = self.tails.get_mut(&found.id) {
                named.insert(found.id);
                tail.set_named(true, now);
                let has_changed = (found.size, found.stamp) != (tail.size, tail.stamp);
                self.by_path.insert(found.path.clone(), found.id);
                if has_changed {
                    self.enqueue(found.id);
                }
                continue;
            }
            if self.tails.len() >= self.config.files_max {
                over_limit += 1;
                continue;
            }
            let Some((file, beginning)) = self.opened(found) else { continue };
            let start = self.start_of_new(found, &beginning);
            named.insert(found.id);
            self.adopt_new(found, file, &beginning, start, now);
        }
        // What was not found may be where it was: in a folder that could not be read, or beyond a limit. Given up, it would be
        // new when it is found again, and all of it be read twice.
        let follow_symlinks = self.config.follow_symlinks;
        let is_nameless = |tail: &&Tail| !named.contains(&tail.id) && !tail.may_be_named(follow_symlinks);
        let nameless: Vec<FileId> = self.tails.values().filter(is_nameless).map(|tail| tail.id).collect();
        for id in nameless {
            if let Some(tail) = self.tails.get_mut(&id) {
                tail.set_named(false, now);
            }
            self.enqueue(id);
        }
        self.binary.retain(|id, _| walk.files.iter().any(|found| found.id == *id));
        self.stats.update(|stats| stats.over_limit = over_limit);
        self.times.walked = now;
        self.times.walk = now + Duration::from_millis(self.config.poll_interval_ms);
        self.after_walk(&walk.folders, walk.is_incomplete);
    }

    /// A file that a notice told of, at `at`, before any walk saw it: it may be gone by the next one. It is read under the
    /// name it was written to.
    pub(super) fn take_new(&mut self, written_as: &Path, at: &Path, now: Instant) {
        let Ok(metadata) = std::fs::symlink_metadata(at) else { return };
        let (base, id) = (self.globs.base_of(at), FileId::of(&metadata));
        let mut found = Candidate { path: at.to_owned(), base, id, size: metadata.len(), stamp: stamp(&metadata) };
        if !metadata.is_file() {
            return;
        }
        let Some((file, beginning)) = self.opened(&found) else { return };
        found.path = written_as.to_owned();
        let start = self.start_of_new(&found, &beginning);
        self.adopt_new(&found, file, &beginning, start, now);
        if let Some(tail) = self.tails.get_mut(&id) {
            tail.set_named(written_as == at, now);
        }
    }

    /// What appears is read from its beginning, but for a copy of what was read already.
    fn start_of_new(&self, found: &Candidate, beginning: &Beginning) -> Mark {
        self.tails.values().find_map(|tail| tail.copied_to(found, beginning)).unwrap_or_default()
    }

    fn after_walk(&mut self, folders: &[PathBuf], is_incomplete: bool) {
        if std::mem::take(&mut self.has_missed) {
            self.times.walk = self.times.walked + WALK_EVERY;
        }
        if is_incomplete {
            self.complain(Path::new("logs.include"), "more folders or files than are looked at: narrow the globs");
        }
        if let Err(error) = self.watch.set(folders) {
            let what = format!("no notices of changes in some folders: {error}; raise fs.inotify.max_user_watches");
            self.complain(Path::new("inotify"), what);
        }
    }

    /// Open a file that matches; `None` if it is empty, binary, beyond the limit, cannot be read or is not there any more.
    pub(super) fn opened(&mut self, found: &Candidate) -> Option<(File, Beginning)> {
        let is_known_binary = self.binary.get(&found.id).is_some_and(|size| found.size >= *size);
        if found.size == 0 || is_known_binary || self.tails.contains_key(&found.id) {
            return None;
        }
        if self.tails.len() >= self.config.files_max {
            self.stats.update(|stats| stats.over_limit += 1);
            return None;
        }
        let opened = open(&found.base, &found.path, self.config.follow_symlinks);
        match opened.and_then(|file| Ok((Beginning::read(&file)?, FileId::of(&file.metadata()?), file))) {
            // Another has its name by now. Taken for it, its successor would be read twice and it not at all.
            Ok((_, id, _)) if id != found.id => {
                self.has_missed = true;
                None
            }
            Ok((beginning, ..)) if beginning.looks_binary() => {
                self.binary.insert(found.id, found.size);
                self.stats.update(|stats| stats.binary += 1);
                None
            }
            Ok((beginning, _, file)) => Some((file, beginning)),
            // Gone between the look and the opening: it may have a new name.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.has_missed = true;
                None
            }
            Err(error) => {
                self.complain(&found.path, &error);
                None
            }
        }
    }

    fn adopt_new(&mut self, found: &Candidate, file: File, beginning: &Beginning, mark: Mark, now: Instant) {
        let start = Start { life: self.next_life(), mark, done: Spans::default(), earlier: None };
        self.adopt(found, file, beginning, start, now);
    }

    fn adopt(&mut self, found: &Candidate, file: File, beginning: &Beginning, start: Start, now: Instant) {
        let offset = start.mark.offset;
        let tail = Tail::new(found, file, beginning, start, (&self.host, &self.rules), now);
        tracing::debug!(path = %found.path.display(), offset, size = found.size, "following a log file");
        self.tails.insert(found.id, tail);
        self.by_path.insert(found.path.clone(), found.id);
        self.is_unsaved = true;
        self.enqueue(found.id);
        self.bound_open();
    }
}

/// The saved line of a file: by device and inode; or, as devices are numbered anew at boot, by name, inode and beginning. Of several
/// lives the one that goes on, if one does.
fn take_saved(saved: &mut Vec<Entry>, found: &Candidate, beginning: &Beginning) -> Option<Entry> {
    let same = |entry: &Entry| entry.id == found.id;
    let renumbered = |entry: &Entry| {
        entry.id.inode == found.id.inode
            && *entry.path == *found.path.to_string_lossy()
            && beginning.continues(&entry.fingerprint)
    };
    let by_id = saved.iter().any(same);
    let lives: Vec<Entry> = saved.extract_if(.., |entry| if by_id { same(entry) } else { renumbered(entry) }).collect();
    let (going_on, over): (Vec<Entry>, Vec<Entry>) =
        lives.into_iter().partition(|entry| entry.goes_on(found.size, beginning));
    going_on.into_iter().chain(over).next()
}

/// When the file was made, if the file system knows.
fn born(file: &File) -> Option<u64> {
    let created = file.metadata().ok()?.created().ok()?;
    Some(created.duration_since(UNIX_EPOCH).ok()?.as_nanos() as u64)
}
