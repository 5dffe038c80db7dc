//! Opening a log file without being led astray.
//!
//! Who may write to a log folder may swap what is in it for links while we look. So a path below a glob's fixed part is opened
//! with openat2(2) and RESOLVE_NO_SYMLINKS; kernels before 5.6 refuse the last part only. Opening never blocks and never
//! touches a device. Invariant: what is returned is a regular file.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::path::Path;

/// Open `path`, which lies below `base`.
pub(crate) fn open(base: &Path, path: &Path, follow_symlinks: bool) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: File = if follow_symlinks {
        rustix::fs::openat(CWD, path, flags, Mode::empty())?.into()
    } else {
        let below = path.strip_prefix(base).unwrap_or(path);
        let folder = rustix::fs::openat(CWD, base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&folder, below, flags, Mode::empty(), resolve) {
            // Not in this kernel, or hidden by a seccomp profile that does not know it.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                rustix::fs::openat(CWD, path, flags | OFlags::NOFOLLOW, Mode::empty())?.into()
            }
            result => result?.into(),
        }
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_link_nor_a_folder_that_is_one_nor_a_pipe_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (root, secret) = (folder.path().join("logs"), folder.path().join("secret"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&secret).unwrap();
        std::fs::write(secret.join("key.log"), "x").unwrap();
        std::fs::write(root.join("a.log"), "x").unwrap();
        std::os::unix::fs::symlink(secret.join("key.log"), root.join("link.log")).unwrap();
        std::os::unix::fs::symlink(&secret, root.join("folder")).unwrap();
        rustix::fs::mkfifoat(CWD, root.join("pipe.log"), Mode::RUSR).unwrap();
        let opens = |name: &str, follow| open(&root, &root.join(name), follow).is_ok();
        assert!(opens("a.log", false));
        assert!(!opens("link.log", false) && opens("link.log", true));
        assert!(!opens("folder/key.log", false) && opens("folder/key.log", true));
        assert!(!opens("pipe.log", false) && !opens("pipe.log", true));
    }
}
