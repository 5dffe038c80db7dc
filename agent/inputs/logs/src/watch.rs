//! Notices from the kernel that something changed in a folder, gathered for the follower to take when it is ready.
//!
//! inotify through the notify crate, one watch a folder. A notice is only a hint to look: the poll finds what was missed, so
//! nothing here can lose data. Invariant: at most [`PATHS_MAX`] paths are held; more become one hint to look at everything.

use crate::discover::Globs;
use hashbrown::HashSet;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

const PATHS_MAX: usize = 1_024;

/// What changed since it was last taken.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changed {
    /// Files that were written to.
    pub(crate) files: HashSet<PathBuf>,
    /// Files that got a name that does not match instead of one that does, in order.
    pub(crate) renamed: Vec<Renamed>,
    /// Whether names changed, or too much happened: walk again.
    pub(crate) walk: bool,
}

/// One file's change of names.
#[derive(Debug, PartialEq)]
pub(crate) struct Renamed {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
}

/// Watches folders.
#[derive(Debug)]
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    inbox: Arc<Inbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    changed: Mutex<Changed>,
    notify: Notify,
}

impl Watch {
    /// Without inotify (no instances left, an odd kernel) there is still the poll; the reason is returned too.
    pub(crate) fn new(globs: Arc<Globs>) -> (Watch, Option<notify::Error>) {
        let inbox = Arc::new(Inbox::default());
        let own = Arc::clone(&inbox);
        let result = notify::recommended_watcher(move |event| own.take_in(event, &globs));
        let (watcher, error) = match result {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error)),
        };
        (Watch { watcher, watched: HashSet::new(), inbox }, error)
    }

    /// Watch exactly these folders. The first failure is returned; the others are tried all the same.
    pub(crate) fn set(&mut self, folders: &[PathBuf]) -> Result<(), notify::Error> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        let wanted: HashSet<&PathBuf> = folders.iter().collect();
        self.watched.retain(|folder| {
            let keep = wanted.contains(folder);
            if !keep {
                // A folder that is gone has taken its watch along.
                let _ = watcher.unwatch(folder);
            }
            keep
        });
        let mut result = Ok(());
        for folder in folders {
            if self.watched.contains(folder) {
                continue;
            }
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.clone());
                }
                Err(error) if result.is_ok() => result = Err(error),
                Err(_) => {}
            }
        }
        result
    }

    /// Wait until there is something to take.
    pub(crate) async fn changed(&self) {
        self.inbox.notify.notified().await;
    }

    /// Whether names changed since it was last taken.
    pub(crate) fn has_names(&self) -> bool {
        let changed = self.inbox.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.walk || !changed.renamed.is_empty()
    }

    /// Take what changed.
    pub(crate) fn take(&self) -> Changed {
        std::mem::take(&mut self.inbox.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inbox {
    fn take_in(&self, event: notify::Result<notify::Event>, globs: &Globs) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if event.need_rescan() => changed.walk = true,
            Ok(event) => match event.kind {
                // Opening and reading, our own above all, changes nothing.
                EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Data(_)) => {
                    changed.files.extend(event.paths.into_iter().filter(|path| globs.is_match(path)));
                    if changed.files.is_empty() {
                        return;
                    }
                }
                EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => return,
                EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                    changed.walk = true;
                    if let Ok([from, to]) = <[PathBuf; 2]>::try_from(event.paths)
                        && globs.is_match(&from)
                        && !globs.is_match(&to)
                    {
                        changed.renamed.push(Renamed { from, to });
                    }
                }
                // A new file is looked at at once: it may be gone by the next walk.
                EventKind::Create(_) => {
                    changed.walk = true;
                    changed.files.extend(event.paths.into_iter().filter(|path| globs.is_match(path)));
                }
                _ => changed.walk = true,
            },
            Err(_) => changed.walk = true,
        }
        if changed.files.len() + changed.renamed.len() > PATHS_MAX {
            *changed = Changed { walk: true, ..Changed::default() };
        }
        drop(changed);
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use notify::Event;
    use notify::event::{CreateKind, DataChange, Flag};

    fn inbox() -> (Inbox, Globs) {
        let config = Config { include: vec!["/logs/*.log".into()], exclude: vec![], ..Config::default() };
        (Inbox::default(), Globs::new(&config).unwrap())
    }

    fn taken(inbox: &Inbox) -> Changed {
        std::mem::take(&mut inbox.changed.lock().unwrap())
    }

    #[test]
    fn only_what_matters_is_noticed() {
        let (inbox, globs) = inbox();
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        for (kind, path, files, walk) in [
            (written, "/logs/a.log", 1, false),
            (written, "/logs/binary", 0, false),
            (read, "/logs/a.log", 0, false),
            (EventKind::Create(CreateKind::File), "/logs/b", 0, true),
        ] {
            inbox.take_in(Ok(Event::new(kind).add_path(path.into())), &globs);
            let changed = taken(&inbox);
            assert_eq!((changed.files.len(), changed.walk), (files, walk), "{kind:?} {path}");
        }
        let both = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        for to in ["/logs/a.log.1", "/logs/b.log"] {
            let event = Event::new(both).add_path("/logs/a.log".into()).add_path(to.into());
            inbox.take_in(Ok(event), &globs);
        }
        let renamed = Renamed { from: "/logs/a.log".into(), to: "/logs/a.log.1".into() };
        assert_eq!(taken(&inbox), Changed { renamed: vec![renamed], walk: true, ..Changed::default() });
        inbox.take_in(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)), &globs);
        assert!(taken(&inbox).walk, "the kernel's queue ran over");
    }

    #[test]
    fn a_flood_of_notices_becomes_one() {
        let (inbox, globs) = inbox();
        for number in 0..=PATHS_MAX {
            let kind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
            inbox.take_in(Ok(Event::new(kind).add_path(format!("/logs/{number}.log").into())), &globs);
        }
        assert_eq!(taken(&inbox), Changed { walk: true, ..Changed::default() });
    }
}
