//! `windows.checkpoint` in the state directory: what `process` made of its open windows, packed by zstd.
//!
//! Written beside, synced and renamed. Invariant: the file is whole or not there, over crashes and power cuts; one that cannot
//! be used is set aside for a person to look at, and is no reason not to start.

use crate::state;
use std::io::Read;
use std::path::{Path, PathBuf};

const NAME: &str = "windows.checkpoint";
/// Windows of a kind compress well, and the processor has more to do.
const LEVEL: i32 = 1;

/// Where it lies.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointFile {
    dir: PathBuf,
    /// No checkpoint of ours is larger, unpacked: it was in the memory of an agent with this grant.
    bytes_max: u64,
}

impl CheckpointFile {
    /// In this state directory.
    pub(crate) fn new(dir: &Path, bytes_max: u64) -> CheckpointFile {
        CheckpointFile { dir: dir.to_owned(), bytes_max }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// What was written last, if anything was.
    pub(crate) fn read(&self) -> std::io::Result<Option<Vec<u8>>> {
        let packed = match std::fs::File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        zstd::Decoder::new(packed)?.take(self.bytes_max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.bytes_max {
            let message = format!("holds more than {} bytes, limits.memory_bytes_max", self.bytes_max);
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
        }
        Ok(Some(bytes))
    }

    /// Replace it. If that fails the former one is removed, because it holds windows that will have left. True if it is there.
    pub(crate) fn write(&self, bytes: &[u8]) -> bool {
        let packed = zstd::bulk::compress(bytes, LEVEL);
        match packed.and_then(|packed| state::replace(&self.dir, NAME, &packed)) {
            Ok(()) => true,
            Err(error) => {
                let path = self.path();
                tracing::warn!(path = %path.display(), %error, "open windows cannot be kept on disk: a crash takes them, and where totals stood");
                self.remove();
                false
            }
        }
    }

    /// Have none, also after a loss of power: what it holds leaves now.
    pub(crate) fn remove(&self) {
        let removed = std::fs::remove_file(self.path()).and_then(|()| std::fs::File::open(&self.dir)?.sync_all());
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                let path = self.path();
                tracing::error!(path = %path.display(), %error, "an outdated checkpoint cannot be removed: remove it, or the next start may send its windows twice");
            }
            _ => {}
        }
    }

    /// Put one that cannot be used where nobody reads it.
    pub(crate) fn set_aside(&self, why: &str) {
        let aside = self.dir.join(format!("{NAME}.unusable"));
        let moved = std::fs::rename(self.path(), &aside);
        if moved.is_err() {
            self.remove();
        }
        tracing::warn!(path = %aside.display(), why, "the checkpoint of the last run cannot be used and is set aside; totals start anew");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path(), 1000);
        assert_eq!(file.read().unwrap(), None);
        assert!(file.write(&[7; 1000]));
        assert!(file.write(&[8; 1000]), "replaced");
        assert_eq!(file.read().unwrap(), Some(vec![8; 1000]));
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [NAME], "nothing is left beside it");
    }

    #[test]
    fn a_file_that_swells_beyond_all_reason_or_is_none_of_ours_is_an_error_and_can_be_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path(), 1000);
        assert!(file.write(&[7; 1001]));
        assert!(file.read().unwrap_err().to_string().contains("more than 1000 bytes"));
        std::fs::write(file.path(), "no zstd").unwrap();
        assert!(file.read().is_err());
        file.set_aside("of a test");
        assert_eq!(file.read().unwrap(), None);
        assert_eq!(std::fs::read(dir.path().join("windows.checkpoint.unusable")).unwrap(), b"no zstd");
    }

    #[test]
    fn when_it_cannot_be_replaced_the_former_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path(), 1000);
        assert!(file.write(b"former"));
        // A folder in the way of what is written beside.
        std::fs::create_dir(dir.path().join("windows.checkpoint.new")).unwrap();
        assert!(!file.write(b"latter"));
        assert_eq!(file.read().unwrap(), None);
    }
}
