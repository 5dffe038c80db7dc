//! How far each file was durably handed in, in one small file that is replaced as a whole.
//!
//! Written to a new file, synced, renamed over the old one, folder synced: after a crash there is the old state or the new
//! one. Invariant: what is written as done, before the mark or beyond it, is durable.

use crate::discover::Candidate;
use crate::identity::{Beginning, FileId, Fingerprint};
use crate::tail::Start;
use ollystack_record::Spans;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "log-offsets.json";
const VERSION: u32 = 1;

/// Where to go on in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Bytes from the beginning.
    pub(crate) offset: u64,
    /// Whether the rest of a line that was cut follows.
    pub(crate) in_cut_line: bool,
    /// Whether lines may follow that belong to a record that was ended before it was over.
    #[serde(default)]
    pub(crate) in_record: bool,
}

/// One file's line in the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: FileId,
    /// Which life of it: it begins anew when it is truncated, or its inode is used again.
    #[serde(default)]
    pub(crate) life: u64,
    pub(crate) fingerprint: Fingerprint,
    /// Where it was first seen: for people, and for finding it again after a rotation.
    pub(crate) path: String,
    pub(crate) mark: Mark,
    /// Beyond the mark: what went on before other lines did.
    #[serde(default, skip_serializing_if = "Spans::is_empty")]
    pub(crate) done: Spans,
    /// Of what it was before it was truncated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) earlier: Option<Earlier>,
    /// Its size when last looked at.
    pub(crate) size: u64,
}

/// How a file began, and how far it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Earlier {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) mark: Mark,
}

impl Earlier {
    /// How far `found` was read already, if it is a copy that a rotation made of one of the `lives` of the file at `path`, beside it:
    /// named after it, beginning like it, and at least as long as what was read.
    pub(crate) fn copied(
        path: &Path,
        lives: impl IntoIterator<Item = Earlier>,
        found: &Candidate,
        beginning: &Beginning,
    ) -> Option<Mark> {
        let name = found.path.as_os_str().as_encoded_bytes();
        let rest = name.strip_prefix(path.as_os_str().as_encoded_bytes())?;
        let is_copy = |life: &Earlier| {
            life.fingerprint.length > 0 && found.size >= life.mark.offset && beginning.continues(&life.fingerprint)
        };
        lives.into_iter().find(|life| !rest.is_empty() && is_copy(life)).map(|life| life.mark)
    }
}

impl Entry {
    /// As [`Earlier::copied`], of what the run before read of this file.
    pub(crate) fn copied_to(&self, found: &Candidate, beginning: &Beginning) -> Option<Mark> {
        let last = Earlier { fingerprint: self.fingerprint, mark: self.mark };
        Earlier::copied(Path::new(&self.path), [last].into_iter().chain(self.earlier), found, beginning)
    }

    /// Whether it says how far a file of this size, which begins like this, was read.
    pub(crate) fn goes_on(&self, size: u64, beginning: &Beginning) -> bool {
        size >= self.mark.offset.max(self.done.end()) && beginning.continues(&self.fingerprint)
    }

    /// Bytes that were there when it was last looked at, and went nowhere.
    pub(crate) fn unread(&self) -> u64 {
        self.size.saturating_sub(self.mark.offset + self.done.covered())
    }

    /// Where to go on.
    pub(crate) fn start(&self) -> Start {
        Start { life: self.life, mark: self.mark, done: self.done.clone(), earlier: self.earlier }
    }
}

/// The whole state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// When it was saved. Nanoseconds since the epoch.
    pub(crate) saved_unix_nano: u64,
    pub(crate) files: Vec<Entry>,
}

/// The file that holds it.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    folder: PathBuf,
}

/// What was found at start.
#[derive(Debug, PartialEq)]
pub(crate) enum Loaded {
    /// The agent runs for the first time.
    Nothing,
    /// As it was saved.
    State(State),
    /// Not readable as a state: set aside under this name.
    Damaged(PathBuf),
}

impl Store {
    /// In `folder`, which is made if need be. Its name is durable then: what is in it would be lost with it.
    pub(crate) fn new(folder: &Path) -> io::Result<Store> {
        std::fs::create_dir_all(folder)?;
        if let Some(parent) = folder.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Store { path: folder.join(FILE), folder: folder.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn load(&self) -> io::Result<Loaded> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Nothing),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<State>(&bytes) {
            Ok(state) if state.version == VERSION => Ok(Loaded::State(state)),
            _ => {
                let aside = self.path.with_extension("damaged");
                std::fs::rename(&self.path, &aside)?;
                Ok(Loaded::Damaged(aside))
            }
        }
    }

    pub(crate) fn save(&self, saved_unix_nano: u64, files: Vec<Entry>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let bytes = serde_json::to_vec(&State { version: VERSION, saved_unix_nano, files })?;
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            id: FileId { device: 1, inode: u64::MAX },
            life: 3,
            fingerprint: Fingerprint::default(),
            path: path.into(),
            mark: Mark { offset: 7, in_cut_line: true, in_record: true },
            done: Spans::from(vec![(8, 9), (11, 12)]),
            earlier: None,
            size: 9,
        }
    }

    #[test]
    fn what_was_saved_is_loaded_and_each_save_replaces_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("state")).unwrap();
        assert_eq!(store.load().unwrap(), Loaded::Nothing);
        store.save(5, vec![entry("/a"), entry("/b")]).unwrap();
        store.save(6, vec![entry("/c")]).unwrap();
        let expected = State { version: VERSION, saved_unix_nano: 6, files: vec![entry("/c")] };
        assert_eq!(store.load().unwrap(), Loaded::State(expected));
    }

    #[test]
    fn a_state_of_an_agent_that_knew_neither_lives_nor_what_is_done_beyond_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path()).unwrap();
        let text = r#"{"version":1,"saved_unix_nano":5,"files":[{"id":{"device":1,"inode":2},
            "fingerprint":{"length":3,"hash":4},"path":"/a","mark":{"offset":7,"in_cut_line":false},"size":9}]}"#;
        std::fs::write(store.path(), text).unwrap();
        let Loaded::State(state) = store.load().unwrap() else { unreachable!() };
        assert_eq!((state.files[0].mark.offset, state.files[0].life), (7, 0));
        let done = Entry { done: Spans::one(8, 9), ..state.files[0].clone() };
        assert_eq!([&state.files[0], &done].map(Entry::unread), [2, 1], "what is done is not lost with its file");
        assert!(state.files[0].done.is_empty());
    }

    #[test]
    fn a_torn_state_is_set_aside_and_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path()).unwrap();
        store.save(5, vec![entry("/a")]).unwrap();
        let whole = std::fs::read(store.path()).unwrap();
        std::fs::write(store.path(), &whole[..whole.len() / 2]).unwrap();
        let Loaded::Damaged(aside) = store.load().unwrap() else { unreachable!() };
        assert!(aside.exists());
        assert_eq!(store.load().unwrap(), Loaded::Nothing);
        std::fs::write(store.path(), r#"{"version":99,"saved_unix_nano":0,"files":[]}"#).unwrap();
        assert!(matches!(store.load().unwrap(), Loaded::Damaged(_)), "of a later agent");
    }
}
