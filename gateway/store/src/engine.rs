//! The engine's library: found in the cache, or fetched by package name, verified against pinned hashes and unpacked.
//!
//! The engine is ClickHouse as a shared library (libchdb, Apache-2.0). It comes from its npm package through npm, to
//! `<cache>/engine/<version>/libchdb.so`, outside of any repository. Invariant: a path is returned only for a file whose SHA-256 was once
//! verified here and whose size and modification time have not changed since (hashing half a gigabyte at each start would
//! take longer than the start).

mod fetch;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is fetched, and what must come of it.
#[derive(Debug)]
struct Pin {
    /// npm's name of it.
    package: &'static str,
    /// npm's version of it.
    version: &'static str,
    /// The file that `npm pack` writes.
    tarball: &'static str,
    tarball_sha256: &'static str,
    library_sha256: &'static str,
}

/// The one engine that is pinned. The package for aarch64 is not offered at this version.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
const PIN: Option<Pin> = Some(Pin {
    package: "@chdb/lib-linux-x64-gnu",
    version: "26.5.3",
    tarball: "chdb-lib-linux-x64-gnu-26.5.3.tgz",
    tarball_sha256: "b874e449710950da3abd7e20376f7bb3387d9e03adcc7082f022be18dfdf316a",
    library_sha256: "4330da79405733f7572f27c1442f46c03a08301f00859dce0368645731b1e1dc",
});
#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
const PIN: Option<Pin> = None;

const LIBRARY: &str = "libchdb.so";
const MARKER: &str = "libchdb.so.verified";

/// What `ensure` is doing; its text is fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another process is fetching it.
    Waiting,
    /// A tarball that was put into the cache by hand is taken.
    Given(PathBuf),
    /// The command runs; 167 MB are on their way.
    Fetching(String),
    /// The tarball is hashed and unpacked.
    Unpacking,
    /// The library is hashed.
    Verifying,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Waiting => f.write_str("engine: another process is fetching it; waiting"),
            Progress::Given(path) => write!(f, "engine: taking {}", path.display()),
            Progress::Fetching(command) => write!(f, "engine: fetching 167 MB, once: {command}"),
            Progress::Unpacking => f.write_str("engine: verifying the package and unpacking 559 MB"),
            Progress::Verifying => f.write_str("engine: verifying the library"),
        }
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing is pinned for this kind of machine.
    #[error("there is no embedded engine for {0}; run a ClickHouse server and give the gateway its URL")]
    Platform(String),
    /// No folder to keep it in.
    #[error("no cache folder: set OLLYSTACK_CACHE_DIR, XDG_CACHE_HOME or HOME to a folder that this user can write")]
    NoCache,
    /// A file or folder of the cache.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// npm is not there.
    #[error("npm is not installed; install it, or run `{command}` where it is and put the file it writes into {}", folder.display())]
    NoNpm {
        /// What would fetch the package.
        command: String,
        /// Where a file put by hand is found.
        folder: PathBuf,
    },
    /// npm failed.
    #[error("`{command}` failed: {what}")]
    Npm {
        /// What was run.
        command: String,
        /// How it ended.
        what: String,
    },
    /// Not the file that was pinned.
    #[error("{}: SHA-256 is {found}, pinned is {pinned}; remove the file and try again", path.display())]
    Hash {
        /// Which.
        path: PathBuf,
        /// Of the file.
        found: String,
        /// Of the right one.
        pinned: &'static str,
    },
    /// The package has no library in it.
    #[error("{}: holds no package/libchdb.so", path.display())]
    NoLibrary {
        /// The tarball.
        path: PathBuf,
    },
}

impl EngineError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> EngineError {
        let path = path.to_owned();
        move |source| EngineError::File { path, source }
    }
}

/// The engine's library, fetched if it is not there yet. Blocks: seconds when it must be fetched, none when not.
pub fn ensure(progress: &dyn Fn(Progress)) -> Result<PathBuf, EngineError> {
    let pin =
        PIN.ok_or_else(|| EngineError::Platform(format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)))?;
    ensure_in(&cache()?.join("engine"), &pin, progress)
}

fn ensure_in(engines: &Path, pin: &Pin, progress: &dyn Fn(Progress)) -> Result<PathBuf, EngineError> {
    let folder = engines.join(pin.version);
    let library = folder.join(LIBRARY);
    if is_verified(&folder, pin) {
        return Ok(library);
    }
    fs::create_dir_all(&folder).map_err(EngineError::file(&folder))?;
    let _lock = lock(&folder, progress)?;
    if is_verified(&folder, pin) {
        return Ok(library);
    }
    if library.exists() {
        progress(Progress::Verifying);
        let found = hash_file(&library)?;
        if found == pin.library_sha256 {
            mark(&folder, pin)?;
            return Ok(library);
        }
        fs::remove_file(&library).map_err(EngineError::file(&library))?;
    }
    let work = folder.join("unpacking");
    // What an earlier attempt left when it was killed; the lock says that nobody is at it.
    match fs::remove_dir_all(&work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(EngineError::file(&work)(error)),
        _ => {}
    }
    fs::create_dir(&work).map_err(EngineError::file(&work))?;
    let done = install(engines, &folder, &work, pin, progress);
    let cleared = fs::remove_dir_all(&work).map_err(EngineError::file(&work));
    done.and(cleared).map(|()| library)
}

fn install(
    engines: &Path,
    folder: &Path,
    work: &Path,
    pin: &Pin,
    progress: &dyn Fn(Progress),
) -> Result<(), EngineError> {
    let given = engines.join(pin.tarball);
    let tarball = if given.exists() {
        progress(Progress::Given(given.clone()));
        given
    } else {
        fetch::npm_pack(pin, work, engines, progress)?
    };
    progress(Progress::Unpacking);
    let found = hash_file(&tarball)?;
    if found != pin.tarball_sha256 {
        return Err(EngineError::Hash { path: tarball, found, pinned: pin.tarball_sha256 });
    }
    let unpacked = work.join(LIBRARY);
    let found = fetch::unpack(&tarball, &unpacked)?;
    if found != pin.library_sha256 {
        return Err(EngineError::Hash { path: unpacked, found, pinned: pin.library_sha256 });
    }
    let library = folder.join(LIBRARY);
    fs::rename(&unpacked, &library).map_err(EngineError::file(&library))?;
    mark(folder, pin)
}

/// `$OLLYSTACK_CACHE_DIR`, `$XDG_CACHE_HOME/ollystack`, `~/.cache/ollystack`, and for root without a home `/var/cache/ollystack`.
fn cache() -> Result<PathBuf, EngineError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("OLLYSTACK_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("ollystack")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/ollystack")))
        .or_else(|| rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/cache/ollystack")))
        .ok_or(EngineError::NoCache)
}

/// Held until the file is closed, by the kernel's doing even when the process dies.
fn lock(folder: &Path, progress: &dyn Fn(Progress)) -> Result<File, EngineError> {
    let path = folder.join("lock");
    let file = File::create(&path).map_err(EngineError::file(&path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        progress(Progress::Waiting);
        flock(&file, FlockOperation::LockExclusive).map_err(|error| EngineError::file(&path)(error.into()))?;
    }
    Ok(file)
}

/// Hash, size and time of the verified library.
fn marker(library: &Path, pin: &Pin) -> io::Result<String> {
    let metadata = fs::metadata(library)?;
    Ok(format!("{} {} {}.{:09}\n", pin.library_sha256, metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

fn is_verified(folder: &Path, pin: &Pin) -> bool {
    let recorded = fs::read_to_string(folder.join(MARKER));
    matches!((recorded, marker(&folder.join(LIBRARY), pin)), (Ok(recorded), Ok(current)) if recorded == current)
}

fn mark(folder: &Path, pin: &Pin) -> Result<(), EngineError> {
    let path = folder.join(MARKER);
    let text = marker(&folder.join(LIBRARY), pin).map_err(EngineError::file(&path))?;
    fs::write(&path, text).map_err(EngineError::file(&path))
}

fn hash_file(path: &Path) -> Result<String, EngineError> {
    let file = File::open(path).map_err(EngineError::file(path))?;
    hash_copy(file, io::sink()).map_err(EngineError::file(path))
}

/// Copy, and say the SHA-256 of what was copied.
fn hash_copy(mut from: impl Read, mut to: impl Write) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        hasher.update(&chunk[..length]);
        to.write_all(&chunk[..length])?;
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// SHA-256 of `engine`.
    const ENGINE: &str = "f6c0aed26bd1ed7d7ae4fe5c51ac9ab8d4e6b8ad6ab59a1d9e02e02cd8af2e0c";

    fn tarball(folder: &Path, content: &[u8]) -> (PathBuf, String) {
        let path = folder.join("engine.tgz");
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, "package/libchdb.so", content).unwrap();
        fs::write(&path, tar.into_inner().unwrap().finish().unwrap()).unwrap();
        let hash = hash_file(&path).unwrap();
        (path, hash)
    }

    fn pin(tarball_sha256: String, library_sha256: String) -> Pin {
        Pin {
            package: "none",
            version: "1",
            tarball: "engine.tgz",
            tarball_sha256: tarball_sha256.leak(),
            library_sha256: library_sha256.leak(),
        }
    }

    #[test]
    fn a_tarball_put_by_hand_is_unpacked_once_and_then_found() {
        let cache = tempfile::tempdir().unwrap();
        let (_, hash) = tarball(cache.path(), b"engine");
        let pin = pin(hash, hash_copy(&b"engine"[..], io::sink()).unwrap());
        let steps = RefCell::new(Vec::new());
        let library = ensure_in(cache.path(), &pin, &|step| steps.borrow_mut().push(step)).unwrap();
        assert_eq!(fs::read(&library).unwrap(), b"engine");
        assert_eq!(steps.take(), [Progress::Given(cache.path().join("engine.tgz")), Progress::Unpacking]);
        assert_eq!(ensure_in(cache.path(), &pin, &|step| panic!("did {step}")).unwrap(), library);
        assert!(!cache.path().join("1/unpacking").exists());
    }

    #[test]
    fn a_changed_library_is_replaced_before_it_is_used() {
        let cache = tempfile::tempdir().unwrap();
        let (_, hash) = tarball(cache.path(), b"engine");
        let pin = pin(hash, hash_copy(&b"engine"[..], io::sink()).unwrap());
        let library = ensure_in(cache.path(), &pin, &|_| ()).unwrap();
        fs::write(&library, b"changed").unwrap();
        ensure_in(cache.path(), &pin, &|_| ()).unwrap();
        assert_eq!(fs::read(&library).unwrap(), b"engine");
    }

    #[test]
    fn another_tarball_or_library_than_the_pinned_one_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let (_, hash) = tarball(cache.path(), b"engine");
        for pin in [pin(ENGINE.to_owned(), ENGINE.to_owned()), pin(hash, ENGINE.to_owned())] {
            assert!(matches!(ensure_in(cache.path(), &pin, &|_| ()), Err(EngineError::Hash { .. })));
            assert!(!cache.path().join("1/libchdb.so").exists());
        }
    }
}
