//! The state directory: who this agent is, and that it is the only one here.
//!
//! Layout: `agent-id` (a UUID, made once), `lock`, `ledger` (see `books`), `windows.checkpoint` (see `checkpoint`), and a directory per
//! stage that keeps something (`buffer/`, `logs/`).
//! Invariant: while a [`State`] lives, no other process has the same directory open.

use crate::config::Config;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The directory, held.
#[derive(Debug)]
pub(crate) struct State {
    /// Where.
    pub(crate) dir: PathBuf,
    /// Who: goes out with every batch, so that the gateway tells a retry from news.
    pub(crate) agent_id: Uuid,
    _lock: File,
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The file system refuses.
    #[error("state_dir {}: {error}; choose another with --state-dir or OLLYSTACK_STATE_DIR", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Somebody else has it.
    #[error("state_dir {} is in use by another agent{pid}; stop it, or give this one its own --state-dir and --admin-listen", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// ` (process 123)`, when it said so.
        pid: String,
    },
    /// Not an id.
    #[error("{} does not hold a UUID; remove it to have a new agent id made", path.display())]
    AgentId {
        /// The file.
        path: PathBuf,
    },
    /// No home to put it in.
    #[error("no place for state: neither root, nor XDG_STATE_HOME or HOME set; give --state-dir")]
    NoHome,
}

/// Where the state lives: as configured, else `/var/lib/ollystack` for root and the XDG state directory for others.
pub(crate) fn locate(config: &Config) -> Result<PathBuf, StateError> {
    if !config.state_dir.is_empty() {
        return Ok(PathBuf::from(&config.state_dir));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/ollystack"));
    }
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("ollystack"))
        .ok_or(StateError::NoHome)
}

/// Make the directory if need be, lock it, and read or make the agent's id.
pub(crate) fn open(dir: &Path) -> Result<State, StateError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| StateError::Io { path, error }
    };
    // 0700: buffered telemetry is nobody else's business.
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
    let lock = lock(dir)?;
    let path = dir.join("agent-id");
    let agent_id = match std::fs::read_to_string(&path) {
        Ok(text) => Uuid::try_parse(text.trim()).map_err(|_| StateError::AgentId { path })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_id(dir).map_err(failed(&path))?,
        Err(error) => return Err(StateError::Io { path, error }),
    };
    Ok(State { dir: dir.to_owned(), agent_id, _lock: lock })
}

fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("lock");
    let io = |error| StateError::Io { path: path.clone(), error };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = match file.read_to_string(&mut text) {
                Ok(_) if !text.trim().is_empty() => format!(" (process {})", text.trim()),
                _ => String::new(),
            };
            return Err(StateError::Locked { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

fn make_id(dir: &Path) -> std::io::Result<Uuid> {
    let id = Uuid::new_v4();
    replace(dir, "agent-id", format!("{id}\n").as_bytes())?;
    Ok(id)
}

/// Written beside, synced and renamed: after a crash there is the former file, or none, or this one, and it is whole.
pub(crate) fn replace(dir: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let beside = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(&dir.path().join("deep/state")).unwrap().agent_id;
        assert_eq!(open(&dir.path().join("deep/state")).unwrap().agent_id, first);
    }

    #[test]
    fn a_second_agent_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _held = open(dir.path()).unwrap();
        let message = open(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("(process {})", std::process::id())), "{message}");
    }

    #[test]
    fn a_spoilt_id_is_an_error_and_not_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("agent-id"), "not a uuid").unwrap();
        let message = open(dir.path()).unwrap_err().to_string();
        assert!(message.contains("agent-id does not hold a UUID"), "{message}");
    }

    #[test]
    fn a_configured_directory_wins() {
        let config = Config { state_dir: "/elsewhere".into(), ..Config::default() };
        assert_eq!(locate(&config).unwrap(), Path::new("/elsewhere"));
    }
}
