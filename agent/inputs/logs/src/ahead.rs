//! What is about to become durable, written down before it does: so that a kill between the buffer's commit and the next save of the
//! offsets makes no line show twice.
//!
//! A line of `handed-on.0` or `handed-on.1` is a put to come, with the highest id that the buffer had given before, and the parts of
//! files that its entries hold; or that the last put is over. [`recover`] asks the buffer's ids whether the last one happened, and
//! enters in the offsets what is durable. The two files take turns: one is emptied once a save of the offsets holds what is in it.
//! Invariant: of a put that the process did not live to see the end of, a part counts as durable only if its entry is in the buffer.

use crate::offsets::{Entry, Loaded, Store};
use hashbrown::HashMap;
use ollystack_record::{Ahead, Putting};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const FILES: [&str; 2] = ["handed-on.0", "handed-on.1"];

/// A line of them.
#[derive(Debug, Serialize, Deserialize)]
enum Line {
    /// Parts go into entries above this id, each into one of this class.
    Put { after: u64, parts: Vec<(u8, Entry)> },
    /// The last put is over.
    Over,
}

/// The files, and what is known of those that are followed.
#[derive(Debug)]
pub(crate) struct Notes {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: [Turn; 2],
    /// Which is written.
    current: usize,
    /// In which of them a put is not over.
    open: Option<usize>,
    /// What the offsets will say of a file, by its life.
    followed: HashMap<u64, Entry>,
    failing: bool,
}

#[derive(Debug)]
struct Turn {
    file: File,
    is_empty: bool,
}

/// A save of the offsets has begun; whether it makes the file that is not written needless.
#[derive(Debug)]
pub(crate) struct Saving(bool);

impl Notes {
    /// In `folder`; what was there is forgotten.
    pub(crate) fn new(folder: &Path) -> io::Result<Notes> {
        let open = |name| -> io::Result<Turn> {
            let file = OpenOptions::new().append(true).create(true).open(folder.join(name))?;
            file.set_len(0)?;
            Ok(Turn { file, is_empty: true })
        };
        let files = [open(FILES[0])?, open(FILES[1])?];
        let inner = Inner { files, current: 0, open: None, followed: HashMap::new(), failing: false };
        Ok(Notes { inner: Mutex::new(inner) })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the offsets would say of a file now.
    pub(crate) fn follow(&self, entry: Entry) {
        self.with(|inner| inner.followed.insert(entry.life, entry));
    }

    /// Before the verdicts are taken that the offsets will hold. Those that are followed are these.
    pub(crate) fn begin_save(&self, is_followed: impl Fn(u64) -> bool) -> Saving {
        self.with(|inner| {
            inner.followed.retain(|life, _| is_followed(*life));
            let other = 1 - inner.current;
            if inner.files[other].is_empty && !inner.files[inner.current].is_empty {
                inner.current = other;
            }
            Saving(inner.open != Some(1 - inner.current))
        })
    }

    /// The offsets are on disk.
    pub(crate) fn saved(&self, Saving(is_needless): Saving) {
        self.with(|inner| {
            let turn = &mut inner.files[1 - inner.current];
            // What stays is durable twice, which is harmless.
            if is_needless && !turn.is_empty && turn.file.set_len(0).is_ok() {
                turn.is_empty = true;
            }
        });
    }
}

impl Inner {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let turn = &mut self.files[self.current];
        turn.is_empty = false;
        turn.file.write_all(&bytes)
    }

    fn note(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(%error, "log lines on their way cannot be written down: a crash would let them show twice; check the disk");
            }
            Err(_) => {}
        }
    }
}

impl Ahead for Notes {
    fn announce(&self, after: u64, parts: &[Putting]) {
        self.with(|inner| {
            let entry = |part: &Putting| {
                let entry = inner.followed.get(&part.source)?;
                Some((part.class as u8, Entry { done: part.spans.clone(), ..entry.clone() }))
            };
            let line = Line::Put { after, parts: parts.iter().filter_map(entry).collect() };
            inner.open = Some(inner.current);
            let written = inner.write(&line).and_then(|()| inner.files[inner.current].file.sync_data());
            inner.note(written);
        });
    }

    fn settled(&self) {
        self.with(|inner| {
            if let Some(current) = inner.open.take() {
                // The other one if a save began meanwhile: a put is over when a later line says so, in its own file.
                let now = std::mem::replace(&mut inner.current, current);
                let written = inner.write(&Line::Over);
                inner.current = now;
                inner.note(written);
            }
        });
    }
}

/// Enter in the offsets in `folder` what the last run made durable and could not save. `last_ids` are the highest that the buffer
/// holds of each class. Before anything is put: ids tell only of what was put before.
pub(crate) fn recover(folder: &Path, last_ids: &[u64]) -> io::Result<()> {
    let paths = FILES.map(|name| folder.join(name));
    let durable: Vec<Entry> = paths.iter().flat_map(|path| durable(path, last_ids)).collect();
    let saved = if durable.is_empty() { Ok(()) } else { enter(folder, durable) };
    // Without them lines may show twice; read again later, when ids have gone on, they could hide some.
    paths.iter().try_for_each(remove)?;
    match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => opened?.sync_all()?,
    }
    saved
}

fn remove(path: &PathBuf) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn enter(folder: &Path, durable: Vec<Entry>) -> io::Result<()> {
    let store = Store::new(folder)?;
    let mut state = match store.load()? {
        Loaded::State(state) => state,
        Loaded::Nothing => return Ok(()),
        Loaded::Damaged(aside) => {
            let message = format!("the log offsets were damaged and set aside as {}", aside.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    };
    for entry in durable {
        match state.files.iter_mut().find(|known| known.id == entry.id && known.life == entry.life) {
            Some(known) => known.done.extend(&entry.done),
            // It began after the last save.
            None => state.files.push(entry),
        }
    }
    store.save(state.saved_unix_nano, state.files)
}

/// What one of the files tells.
fn durable(path: &Path, last_ids: &[u64]) -> Vec<Entry> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let (mut durable, mut open) = (Vec::new(), None);
    // A torn line is the last: its put was never begun.
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    for line in lines.map_while(|line| serde_json::from_slice(&line).ok()) {
        match line {
            Line::Put { after, parts } => open = Some((after, parts)),
            Line::Over => durable.extend(open.take().into_iter().flat_map(|(_, parts)| parts).map(|(_, entry)| entry)),
        }
    }
    if let Some((after, parts)) = open {
        let happened = |class: u8| last_ids.get(usize::from(class)).is_some_and(|last| *last > after);
        durable.extend(parts.into_iter().filter(|(class, _)| happened(*class)).map(|(_, entry)| entry));
    }
    durable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{FileId, Fingerprint};
    use crate::offsets::Mark;
    use ollystack_record::{Class, Spans};

    fn entry(life: u64) -> Entry {
        Entry {
            id: FileId { device: 1, inode: life },
            life,
            fingerprint: Fingerprint::default(),
            path: format!("/{life}"),
            mark: Mark::default(),
            done: Spans::default(),
            earlier: None,
            size: 100,
        }
    }

    fn putting(source: u64, from: u64, class: Class) -> Putting {
        Putting { source, spans: Spans::one(from, from + 10), class }
    }

    /// What is done of each life, after a crash with these ids in the buffer.
    fn recovered(folder: &Path, last_ids: &[u64]) -> Vec<(u64, Vec<(u64, u64)>)> {
        recover(folder, last_ids).unwrap();
        let Loaded::State(state) = Store::new(folder).unwrap().load().unwrap() else { unreachable!() };
        state.files.iter().map(|entry| (entry.life, entry.done.iter().collect())).collect()
    }

    fn notes(folder: &Path) -> Notes {
        Store::new(folder).unwrap().save(5, vec![entry(1)]).unwrap();
        let notes = Notes::new(folder).unwrap();
        [1, 2].map(entry).into_iter().for_each(|entry| notes.follow(entry));
        notes
    }

    #[test]
    fn of_the_last_put_what_the_buffer_holds_is_durable_and_of_those_before_all() {
        let folder = tempfile::tempdir().unwrap();
        let notes = notes(folder.path());
        notes.announce(7, &[putting(1, 0, Class::Normal), putting(3, 0, Class::Normal)]);
        notes.settled();
        notes.announce(8, &[putting(1, 20, Class::Normal), putting(2, 0, Class::Errors)]);
        assert_eq!(recovered(folder.path(), &[9, 8, 0]), [(1, vec![(0, 10)]), (2, vec![(0, 10)])]);
        assert_eq!(recovered(folder.path(), &[99, 99, 99]), [(1, vec![(0, 10)]), (2, vec![(0, 10)])], "asked once");
    }

    #[test]
    fn what_the_offsets_hold_is_forgotten_and_what_they_may_not_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let notes = notes(folder.path());
        let lines = || FILES.map(|name| std::fs::read(folder.path().join(name)).unwrap().len());
        notes.announce(7, &[putting(1, 0, Class::Normal)]);
        let saving = notes.begin_save(|_| true);
        // Its verdict is not among those that are saved.
        notes.settled();
        notes.saved(saving);
        assert!(lines()[0] > 0);
        notes.announce(8, &[putting(1, 10, Class::Normal)]);
        notes.settled();
        let saving = notes.begin_save(|_| true);
        notes.announce(9, &[putting(1, 20, Class::Normal)]);
        notes.saved(saving);
        assert!(lines()[0] == 0 && lines()[1] > 0);
        assert_eq!(recovered(folder.path(), &[0, 0, 0]), [(1, vec![(10, 20)])]);
    }

    #[test]
    fn a_torn_line_is_a_put_that_was_never_begun() {
        let folder = tempfile::tempdir().unwrap();
        let notes = notes(folder.path());
        notes.announce(7, &[putting(1, 0, Class::Normal)]);
        let path = folder.path().join(FILES[0]);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(recovered(folder.path(), &[0, 99, 0]), [(1, vec![])]);
    }
}
