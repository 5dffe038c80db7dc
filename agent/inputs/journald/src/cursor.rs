//! How far the journal was durably handed in, in one small file that is replaced as a whole.
//!
//! Written to a new file, synced, renamed over the old one, folder synced: after a crash there is the old state or the new one.
//! Invariant: a cursor is written only after everything before it is settled.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "journal-cursor.json";
const VERSION: u32 = 1;

/// A place in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Of the last entry before it, as journald gave it.
    pub(crate) cursor: String,
    /// When that was, in case its cursor is not known any more. Nanoseconds since the epoch.
    pub(crate) time_unix_nano: u64,
}

#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    place: Place,
}

/// The file that holds it.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    folder: PathBuf,
}

impl Store {
    /// In `folder`, which is made if need be.
    pub(crate) fn new(folder: &Path) -> io::Result<Store> {
        std::fs::create_dir_all(folder)?;
        if let Some(parent) = folder.parent() {
            // What is in it would be lost with its name.
            File::open(parent)?.sync_all()?;
        }
        Ok(Store { path: folder.join(FILE), folder: folder.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `None` at the first start, and if it is damaged, which is said: it is set aside.
    pub(crate) fn load(&self) -> io::Result<Option<Place>> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<State>(&bytes) {
            Ok(state) if state.version == VERSION => Ok(Some(state.place)),
            _ => {
                let aside = self.path.with_extension("damaged");
                std::fs::rename(&self.path, &aside)?;
                tracing::error!(
                    path = %aside.display(),
                    "the journal's cursor was damaged and set aside: it is read as at the first start, so entries are lost or doubled"
                );
                Ok(None)
            }
        }
    }

    pub(crate) fn save(&self, place: &Place) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let bytes = serde_json::to_vec(&State { version: VERSION, place: place.clone() })?;
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

    #[test]
    fn what_was_saved_is_loaded_and_what_is_torn_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("state")).unwrap();
        assert_eq!(store.load().unwrap(), None);
        let place = Place { cursor: "s=1".into(), time_unix_nano: 7 };
        store.save(&Place::default()).unwrap();
        store.save(&place).unwrap();
        assert_eq!(store.load().unwrap(), Some(place));
        std::fs::write(store.path(), "{torn").unwrap();
        assert_eq!(store.load().unwrap(), None);
        assert!(store.path().with_extension("damaged").exists());
    }
}
