//! What a disk may hold after the power went: every state that the calls so far allow, not only the one that is likely.
//!
//! Calls come from [`crate::strace`]; states go into folders. The rules are POSIX's, as kept by the most careless file system:
//! what a file's sync covered is there; what was written since is there, not there, or there in part, by sectors, each write for
//! itself, as is its length; a name made, moved or removed since its folder's sync is so or as it was before. After a failed sync
//! the pages count as clean: no later sync brings them to the disk. Invariant: content is a function of the calls and the choice.

use crate::strace::{Call, Event};
use anyhow::{Context, Result};
use fastrand::Rng;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// One folder and all below it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    root: PathBuf,
    files: Vec<File>,
    /// As the processes see it, relative to the root.
    names: BTreeMap<PathBuf, usize>,
    /// As they are certainly on disk.
    names_synced: BTreeMap<PathBuf, usize>,
    names_changed: Vec<NameChange>,
    open: HashMap<i64, Open>,
    events: usize,
}

/// A file or a folder, whatever its name.
#[derive(Debug, Default)]
struct File {
    folder: bool,
    content: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    event: usize,
    kind: Kind,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unsynced,
    /// A sync that was to cover it failed.
    Doomed,
    /// On disk, over something that is doomed.
    Synced,
}

#[derive(Debug)]
enum Kind {
    Write { at: u64, bytes: Vec<u8> },
    Resize(u64),
}

#[derive(Debug)]
struct NameChange {
    event: usize,
    folder: PathBuf,
    gone: Option<PathBuf>,
    made: Option<(PathBuf, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    file: usize,
    position: u64,
    append: bool,
}

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    AllGone,
    AllThere,
    OneGone(usize),
    LastTorn,
    EachAtRandom,
    EachTornAtRandom,
    LengthsOnly,
}

/// What becomes of names that were not synced: a number of them in their order, or any.
#[derive(Clone, Copy, Debug)]
enum Names {
    First(usize),
    Any,
}

impl Disk {
    /// Of the folder `before` as it is now, which counts as synced; the calls know it as `root`.
    pub(crate) fn new(before: &Path, root: &Path) -> Result<Disk> {
        let mut disk = Disk { root: root.to_owned(), ..Disk::default() };
        disk.read(before, Path::new(""))?;
        disk.names_synced = disk.names.clone();
        Ok(disk)
    }

    fn read(&mut self, before: &Path, name: &Path) -> Result<()> {
        self.add(name, File { folder: true, ..File::default() });
        let folder = before.join(name);
        for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let name = name.join(path.file_name().unwrap_or_default());
            if path.is_dir() {
                self.read(before, &name)?;
            } else {
                let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                self.add(&name, File { content, ..File::default() });
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &Path, file: File) {
        self.names.insert(name.to_owned(), self.files.len());
        self.files.push(file);
    }

    /// A call has come back. Those outside of the folder are passed over.
    pub(crate) fn apply(&mut self, event: &Event) {
        self.events += 1;
        match &event.call {
            Call::Open { path, fd, create, truncate, append } => self.opened(path, *fd, *create, *truncate, *append),
            Call::Close { fd } => drop(self.open.remove(fd)),
            Call::Seek { fd, position } => {
                if let Some(open) = self.open.get_mut(fd) {
                    open.position = *position;
                }
            }
            Call::Write { fd, at, bytes } => {
                let Some(open) = self.open.get(fd).copied() else { return };
                let end = self.files[open.file].length();
                let begin = at.unwrap_or(if open.append { end } else { open.position });
                if let (None, Some(open)) = (at, self.open.get_mut(fd)) {
                    open.position = begin + bytes.len() as u64;
                }
                self.change(open.file, Kind::Write { at: begin, bytes: bytes.clone() });
            }
            Call::Resize { fd, length } => {
                if let Some(open) = self.open.get(fd) {
                    self.change(open.file, Kind::Resize(*length));
                }
            }
            Call::Sync { fd, failed } => {
                if let Some(open) = self.open.get(fd) {
                    self.sync(open.file, event.began, *failed);
                }
            }
            Call::Rename { from, to } => {
                let file = self.relative(from).and_then(|name| self.names.get(&name).copied());
                self.rename(self.relative(from), self.relative(to).zip(file));
            }
            Call::Unlink { path } => self.rename(self.relative(path), None),
            Call::MakeFolder { path } => {
                self.files.push(File { folder: true, ..File::default() });
                self.rename(None, self.relative(path).zip(Some(self.files.len() - 1)));
            }
        }
    }

    /// Whether all of a file is on disk, whatever becomes of its name.
    pub(crate) fn is_synced(&self, path: &Path) -> bool {
        let file = self.relative(path).and_then(|name| self.names.get(&name));
        file.is_none_or(|file| self.files[*file].changes.is_empty())
    }

    /// The names in a folder, whether they are on disk yet or not.
    pub(crate) fn names_in(&self, folder: &Path) -> impl Iterator<Item = &Path> {
        let folder = self.relative(folder);
        self.names.keys().map(PathBuf::as_path).filter(move |name| name.parent() == folder.as_deref())
    }

    /// Whether a name is there, or may be after a loss of power.
    pub(crate) fn is_there(&self, path: &Path) -> bool {
        let name = self.relative(path);
        name.is_some_and(|name| self.names.contains_key(&name) || self.names_synced.contains_key(&name))
    }

    /// Whether a loss of power leaves a name as it is now, and those of the folders above it.
    pub(crate) fn is_named(&self, path: &Path) -> bool {
        let Some(name) = self.relative(path) else { return true };
        let changed = |at: &Path| {
            self.names_changed.iter().any(|change| {
                change.gone.as_deref() == Some(at) || change.made.as_ref().is_some_and(|(made, _)| made == at)
            })
        };
        name.ancestors().all(|at| !changed(at) && self.names_synced.contains_key(at) == self.names.contains_key(at))
    }

    /// Whether the latest write to the first bytes of a file is on disk.
    pub(crate) fn is_begun(&self, path: &Path, bytes: u64) -> bool {
        let file = self.relative(path).and_then(|name| self.names.get(&name));
        let changes = file.into_iter().flat_map(|file| self.files[*file].changes.iter().rev());
        let mut of_it = changes.filter(|change| matches!(&change.kind, Kind::Write { at, .. } if *at < bytes));
        of_it.next().is_none_or(|latest| latest.state == State::Synced)
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        Some(path.strip_prefix(&self.root).ok()?.to_owned())
    }

    fn opened(&mut self, path: &Path, fd: i64, create: bool, truncate: bool, append: bool) {
        // What is not of this folder takes the number away from what was.
        self.open.remove(&fd);
        let Some(name) = self.relative(path) else { return };
        let file = match self.names.get(&name) {
            Some(file) => *file,
            None if create => {
                self.files.push(File::default());
                self.rename(None, Some((name, self.files.len() - 1)));
                self.files.len() - 1
            }
            None => return,
        };
        if truncate && self.files[file].length() > 0 {
            self.change(file, Kind::Resize(0));
        }
        self.open.insert(fd, Open { file, position: 0, append });
    }

    fn change(&mut self, file: usize, kind: Kind) {
        self.files[file].changes.push(Change { event: self.events, kind, state: State::Unsynced });
    }

    fn rename(&mut self, gone: Option<PathBuf>, made: Option<(PathBuf, usize)>) {
        let Some(name) = gone.as_ref().or(made.as_ref().map(|(name, _)| name)) else { return };
        let folder = name.parent().unwrap_or(Path::new("")).to_owned();
        let change = NameChange { event: self.events, folder, gone, made };
        change.apply(&mut self.names);
        self.names_changed.push(change);
    }

    /// What had come back before the sync was called is covered by it.
    fn sync(&mut self, file: usize, began: usize, failed: bool) {
        let target = &mut self.files[file];
        let covered = |change: &Change| change.event <= began && change.state == State::Unsynced;
        if failed {
            target.changes.iter_mut().filter(|change| covered(change)).for_each(|change| change.state = State::Doomed);
            return;
        }
        if target.folder {
            let folder = self.names.iter().find(|(_, named)| **named == file).map(|(name, _)| name.clone());
            let covered = |change: &NameChange| change.event <= began && Some(&change.folder) == folder.as_ref();
            self.names_changed.iter().filter(|change| covered(change)).for_each(|c| c.apply(&mut self.names_synced));
            self.names_changed.retain(|change| !covered(change));
            return;
        }
        let mut kept = Vec::new();
        for mut change in target.changes.drain(..) {
            if covered(&change) {
                change.state = State::Synced;
            }
            // What lies over something undecided waits with it, so that their order stays.
            if change.state == State::Synced && kept.is_empty() {
                change.kind.apply(&mut target.content);
            } else {
                kept.push(change);
            }
        }
        target.changes = kept;
    }

    /// Writes one of the states that a loss of power may leave now into an empty folder; how it was chosen.
    pub(crate) fn lose_power(&self, random: &mut Rng, to: &Path) -> Result<String> {
        let unsynced: usize = self.files.iter().map(|file| file.changes.len()).sum();
        let latest = self.files.iter().flat_map(|file| &file.changes).map(|change| change.event).max();
        let fate = match random.u8(..8) {
            0 => Fate::AllGone,
            1 => Fate::AllThere,
            2 | 3 => Fate::OneGone(random.usize(..unsynced.max(1))),
            4 => Fate::LastTorn,
            5 => Fate::EachAtRandom,
            6 => Fate::EachTornAtRandom,
            _ => Fate::LengthsOnly,
        };
        let names = match random.u8(..4) {
            0 => Names::First(0),
            1 => Names::First(self.names_changed.len()),
            2 => Names::First(random.usize(..=self.names_changed.len())),
            _ => Names::Any,
        };
        let mut names_left = self.names_synced.clone();
        for (at, change) in self.names_changed.iter().enumerate() {
            let there = match names {
                Names::First(count) => at < count,
                Names::Any => random.bool(),
            };
            if there {
                change.apply(&mut names_left);
            }
        }
        let mut before = 0;
        for (name, file) in &names_left {
            let reachable = name
                .ancestors()
                .skip(1)
                .all(|above| names_left.get(above).is_some_and(|above| self.files[*above].folder));
            let file = &self.files[*file];
            let changes = before..before + file.changes.len();
            before = changes.end;
            if !reachable && !name.as_os_str().is_empty() {
                continue;
            }
            let path = to.join(name);
            if file.folder {
                std::fs::create_dir_all(&path)?;
            } else {
                let content = file.after(fate, changes.start, latest, random);
                std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(format!("{unsynced} writes and {} names not synced; {fate:?}, names {names:?}", self.names_changed.len()))
    }
}

impl File {
    fn length(&self) -> u64 {
        self.changes.iter().fold(self.content.len() as u64, |length, change| match &change.kind {
            Kind::Write { at, bytes } => length.max(at + bytes.len() as u64),
            Kind::Resize(length) => *length,
        })
    }

    /// Its content after the power went; `first` is the number of its first change among those of all files.
    fn after(&self, fate: Fate, first: usize, latest: Option<usize>, random: &mut Rng) -> Vec<u8> {
        let mut content = self.content.clone();
        for (at, change) in (first..).zip(&self.changes) {
            match fate {
                _ if change.state == State::Synced => change.kind.apply(&mut content),
                Fate::AllGone => {}
                Fate::AllThere => change.kind.apply(&mut content),
                Fate::OneGone(gone) if at == gone => {}
                Fate::LastTorn if Some(change.event) == latest => change.kind.tear(&mut content, random),
                Fate::OneGone(_) | Fate::LastTorn => change.kind.apply(&mut content),
                Fate::EachAtRandom if random.bool() => change.kind.apply(&mut content),
                Fate::EachTornAtRandom => change.kind.tear(&mut content, random),
                Fate::EachAtRandom => {}
                Fate::LengthsOnly => change.kind.lengthen(&mut content),
            }
        }
        content
    }
}

impl Kind {
    fn apply(&self, content: &mut Vec<u8>) {
        self.lengthen(content);
        if let Kind::Write { at, bytes } = self {
            content[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn lengthen(&self, content: &mut Vec<u8>) {
        match self {
            Kind::Write { at, bytes } => content.resize(content.len().max(*at as usize + bytes.len()), 0),
            Kind::Resize(length) => content.resize(*length as usize, 0),
        }
    }

    /// Some of its sectors.
    fn tear(&self, content: &mut Vec<u8>, random: &mut Rng) {
        let Kind::Write { at, bytes } = self else {
            return if random.bool() {
                self.apply(content)
            };
        };
        let sector = if random.bool() { 512 } else { 4096 };
        let (mut begin, end) = (*at as usize, *at as usize + bytes.len());
        while begin < end {
            let next = (begin / sector + 1) * sector;
            let piece = begin..next.min(end);
            if random.bool() {
                content.resize(content.len().max(piece.end), 0);
                content[piece.clone()].copy_from_slice(&bytes[piece.start - *at as usize..piece.end - *at as usize]);
            }
            begin = next;
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(gone) = &self.gone {
            names.remove(gone);
        }
        if let Some((made, file)) = &self.made {
            names.insert(made.clone(), *file);
        }
    }
}
