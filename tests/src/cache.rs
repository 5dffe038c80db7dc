//! What set-up fetches once and keeps outside the repository: the Python OpenTelemetry SDK, tools, servers that tests watch.

use anyhow::{Context, Result, bail};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// The SDK packages and their versions.
pub const REQUIREMENTS: &str = include_str!("../e2e/requirements.txt");

/// The version of Apache Kafka whose broker is watched.
pub const KAFKA: &str = "4.1.0";

/// The version of FerretDB, which speaks MongoDB's protocol, that is watched.
pub const FERRETDB: &str = "v1.24.2";

/// `$OLLYSTACK_CACHE_DIR`, else `$XDG_CACHE_HOME/ollystack`, else `~/.cache/ollystack`: where the engine is kept, too.
pub fn folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("OLLYSTACK_CACHE_DIR").filter(|folder| !folder.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set: set one, set-up keeps what it fetches there"),
    };
    Ok(base.join("ollystack"))
}

/// The virtual environment with exactly [`REQUIREMENTS`]; another set of versions is another folder.
pub fn python_environment() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    REQUIREMENTS.hash(&mut hasher);
    Ok(folder()?.join(format!("python-{:016x}", hasher.finish())))
}

/// The Python that has the SDK; an error says how to get it.
pub fn python() -> Result<PathBuf> {
    let python = python_environment()?.join("bin/python");
    if !python_environment()?.join("complete").is_file() {
        bail!("the Python OpenTelemetry SDK is not set up; run `cargo xtask check`, or `cargo xtask setup` first");
    }
    python.canonicalize().map(|_| python.clone()).with_context(|| format!("{} is gone", python.display()))
}

/// The folder of the broker's and its dependencies' libraries.
pub fn kafka() -> Result<PathBuf> {
    Ok(folder()?.join(format!("kafka-{KAFKA}")))
}

/// The folder of the program `ferretdb`.
pub fn ferretdb() -> Result<PathBuf> {
    Ok(folder()?.join(format!("ferretdb-{FERRETDB}")))
}
