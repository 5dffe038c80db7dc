//! What can go wrong, and what to do about it.

use std::path::PathBuf;

/// Errors of the buffer. Cloned, because one failed commit is the answer to every put that shared it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the directory.
    #[error("{}: another process holds the buffer; stop it, or give this one a directory of its own", directory.display())]
    Locked {
        /// Which.
        directory: PathBuf,
    },
    /// A setting is out of range.
    #[error("{field} is {value}, must be {allowed}")]
    Option {
        /// Which setting.
        field: &'static str,
        /// As given.
        value: u64,
        /// In words.
        allowed: String,
    },
    /// An entry that can never be stored.
    #[error("{field} of an entry is {value}, at most {max} is allowed")]
    Entry {
        /// Which part of the entry.
        field: &'static str,
        /// As given.
        value: u64,
        /// The limit.
        max: u64,
    },
    /// Written by a later version of this program.
    #[error("{}: format {found} is newer than {known}, which this version reads; run the newer version, or move the file away", path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The cap is reached, and nothing may be evicted for this put.
    #[error(
        "the buffer holds {disk_bytes} of {bytes_max} bytes and may not evict for this put; retry when entries were acked"
    )]
    Full {
        /// In use.
        disk_bytes: u64,
        /// The cap.
        bytes_max: u64,
    },
    /// No space left on the file system.
    #[error("{}: no space left on the disk ({message}); free some, the buffer goes on by itself", path.display())]
    DiskFull {
        /// The file that was written.
        path: PathBuf,
        /// From below.
        message: String,
    },
    /// Reading or writing failed.
    #[error("{}: {message}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// From below.
        message: String,
    },
    /// The buffer was closed.
    #[error("the buffer is closed")]
    Closed,
}

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same call may succeed later.
    Retry,
    /// This entry never will.
    Drop,
    /// The buffer cannot be used until a person acts.
    Stop,
}

impl Error {
    /// Retry, drop or stop.
    pub fn advice(&self) -> Advice {
        match self {
            Error::Full { .. } | Error::DiskFull { .. } | Error::Disk { .. } => Advice::Retry,
            Error::Entry { .. } => Advice::Drop,
            Error::Locked { .. } | Error::Option { .. } | Error::Version { .. } | Error::Closed => Advice::Stop,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, error: &std::io::Error) -> Error {
        let (path, message) = (path.into(), error.to_string());
        if error.kind() == std::io::ErrorKind::StorageFull {
            Error::DiskFull { path, message }
        } else {
            Error::Disk { path, message }
        }
    }

    pub(crate) fn sqlite(path: impl Into<PathBuf>, error: &rusqlite::Error) -> Error {
        let (path, message) = (path.into(), error.to_string());
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
            Error::DiskFull { path, message }
        } else {
            Error::Disk { path, message }
        }
    }
}
