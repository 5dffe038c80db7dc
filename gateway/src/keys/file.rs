//! The key file: keys (as hashes) and tenants, one TOML file that people may edit and `keys` changes in place.
//!
//! Reading gives a [`KeyFile`]; [`add`] and [`revoke`] change the text and keep its comments. Invariant: a change is one atomic
//! replacement by a synced file of mode 0600, under a lock, so that a reader sees the old file or the new one.

use super::{Key, KeyHash};
use rustix::fs::{Gid, Uid};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

const HEADER: &str = "\
# OllyStack gateway: API keys and tenants. Reloaded when it changes. Keys are SHA-256 hashes: the keys themselves were
# shown once, by `ollystack-gateway keys new`. A tenant needs no section here unless it differs from [tenants] in the
# gateway's configuration:
#   [tenants.NAME]
#   records_per_second = 100000
#   burst_seconds = 10
#   retention_days = 30
#   in_flight_bytes_max = 134217728
#   requests_in_flight_max = 2048
";

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    #[serde(default)]
    pub(crate) tenants: BTreeMap<String, TenantEntry>,
    #[serde(default)]
    pub(crate) keys: Vec<KeyEntry>,
}

/// Where a tenant differs from the defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantEntry {
    pub(crate) records_per_second: Option<u64>,
    pub(crate) burst_seconds: Option<u64>,
    pub(crate) retention_days: Option<u32>,
    pub(crate) in_flight_bytes_max: Option<usize>,
    pub(crate) requests_in_flight_max: Option<usize>,
}

/// One key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyEntry {
    pub(crate) id: String,
    pub(crate) tenant: String,
    #[serde(default)]
    pub(crate) label: String,
    pub(crate) sha256: String,
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) revoked: Option<String>,
}

/// What can be wrong with the file or with a change to it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no key file at {0}; make the first key with `ollystack-gateway keys new --tenant NAME`")]
    Missing(PathBuf),
    #[error("cannot {action} {path}: {source}; check its owner, its mode (0600) and that the disk has room")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path}: {message}")]
    Content { path: PathBuf, message: String },
    #[error("{path}: no key has the id {id}; `ollystack-gateway keys list` shows them")]
    NoSuchKey { path: PathBuf, id: String },
    #[error("{what} is {found:?}; {allowed}")]
    Name { what: &'static str, found: String, allowed: &'static str },
    #[error("the kernel gave no random bytes: {0}")]
    Random(getrandom::Error),
}

impl KeyFile {
    /// Read and check.
    pub(crate) fn read(path: &Path) -> Result<KeyFile, Error> {
        KeyFile::parse(path, &read_text(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<KeyFile, Error> {
        let content = |message: String| Error::Content { path: path.to_owned(), message };
        let file: KeyFile = toml::from_str(text).map_err(|e| content(e.to_string()))?;
        for name in file.tenants.keys().chain(file.keys.iter().map(|key| &key.tenant)) {
            check_tenant(name)?;
        }
        let mut seen = std::collections::BTreeSet::new();
        for key in &file.keys {
            if KeyHash::parse(&key.sha256).is_none() {
                return Err(content(format!("key {}: sha256 is not 64 lower-case hex digits", key.id)));
            }
            if !seen.insert(&key.id) {
                return Err(content(format!("key {}: its id stands here twice; remove one of them", key.id)));
            }
        }
        for (name, tenant) in &file.tenants {
            if tenant.retention_days.is_some_and(|days| !(1..=36_500).contains(&days)) {
                return Err(content(format!("tenants.{name}.retention_days: 1 to 36500 is allowed")));
            }
            let zeroes = [
                ("burst_seconds", tenant.burst_seconds == Some(0)),
                ("in_flight_bytes_max", tenant.in_flight_bytes_max == Some(0)),
                ("requests_in_flight_max", tenant.requests_in_flight_max == Some(0)),
            ];
            if let Some((key, _)) = zeroes.iter().find(|(_, zero)| *zero) {
                return Err(content(format!("tenants.{name}.{key} is 0; at least 1 is allowed")));
            }
        }
        Ok(file)
    }
}

/// Make a key for a tenant. The only place that ever knows its text is the caller.
pub(crate) fn add(path: &Path, tenant: &str, label: &str, now: SystemTime) -> Result<Key, Error> {
    check_tenant(tenant)?;
    if label.len() > 128 || label.chars().any(char::is_control) {
        let allowed = "at most 128 bytes without control characters are allowed";
        return Err(Error::Name { what: "--name", found: label.to_owned(), allowed });
    }
    let key = Key::random().map_err(Error::Random)?;
    change(path, true, |document| {
        let keys = document.entry("keys").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        let keys = keys.as_array_of_tables_mut().ok_or_else(|| "keys must be [[keys]] sections".to_owned())?;
        let mut entry = Table::new();
        entry["id"] = toml_edit::value(key.id());
        entry["tenant"] = toml_edit::value(tenant);
        entry["label"] = toml_edit::value(label);
        entry["sha256"] = toml_edit::value(key.hash().to_hex());
        entry["created"] = toml_edit::value(timestamp(now));
        keys.push(entry);
        Ok(())
    })?;
    Ok(key)
}

/// Mark a key as revoked. `false` when it already was.
pub(crate) fn revoke(path: &Path, id: &str, now: SystemTime) -> Result<bool, Error> {
    let mut found = None;
    change(path, false, |document| {
        let keys = document.get_mut("keys").and_then(Item::as_array_of_tables_mut);
        for entry in keys.into_iter().flat_map(|keys| keys.iter_mut()) {
            if entry.get("id").and_then(Item::as_str) == Some(id) {
                found = Some(!entry.contains_key("revoked"));
                entry.entry("revoked").or_insert_with(|| toml_edit::value(timestamp(now)));
            }
        }
        Ok(())
    })?;
    found.ok_or_else(|| Error::NoSuchKey { path: path.to_owned(), id: id.to_owned() })
}

fn timestamp(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string()
}

fn check_tenant(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let allowed = "1 to 64 of A-Z a-z 0-9 . _ - are allowed";
        return Err(Error::Name { what: "tenant", found: name.to_owned(), allowed });
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => Error::Io { action: "read", path: path.to_owned(), source },
    })
}

/// Change the document under the lock and replace the file.
fn change(path: &Path, create: bool, edit: impl FnOnce(&mut DocumentMut) -> Result<(), String>) -> Result<(), Error> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if create {
        fs::create_dir_all(directory).map_err(io("create", directory))?;
    }
    let beside = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        directory.join(name)
    };
    let lock_path = beside(".lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(&lock_path).map_err(io("open", &lock_path))?;
    lock.lock().map_err(io("lock", &lock_path))?;

    let text = match read_text(path) {
        Err(Error::Missing(_)) if create => HEADER.to_owned(),
        other => other?,
    };
    KeyFile::parse(path, &text)?;
    let content = |message: String| Error::Content { path: path.to_owned(), message };
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| content(e.to_string()))?;
    edit(&mut document).map_err(content)?;

    // A service that reads the file as another user must still be able to: the owner stays, or is the directory's.
    let owner = fs::metadata(path).or_else(|_| fs::metadata(directory)).map_err(io("look at", directory))?;
    let fresh_path = beside(".new");
    let mut fresh = fresh_file(&fresh_path).map_err(io("create", &fresh_path))?;
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(fresh.as_fd(), Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))
            .map_err(|e| io("set the owner of", &fresh_path)(e.into()))?;
    }
    fresh.write_all(document.to_string().as_bytes()).map_err(io("write", &fresh_path))?;
    fresh.sync_all().map_err(io("sync", &fresh_path))?;
    fs::rename(&fresh_path, path).map_err(io("replace", path))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("sync", directory))
}

/// An empty file of mode 0600 that nobody else has open: a left-over of a crash is removed, not reused.
fn fresh_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn a_new_key_is_stored_as_its_hash_in_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/keys.toml");
        let key = add(&path, "acme", "laptop", now()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(key.expose()));
        let secret = key.expose().rsplit('_').next().unwrap();
        assert!(!text.contains(secret));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let file = KeyFile::read(&path).unwrap();
        assert_eq!(file.keys[0].sha256, key.hash().to_hex());
        assert_eq!((file.keys[0].tenant.as_str(), file.keys[0].label.as_str()), ("acme", "laptop"));
        assert_eq!(file.keys[0].created, "2023-11-14T22:13:20Z");
    }

    #[test]
    fn a_change_keeps_what_people_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::write(&path, "# ours\n[tenants.acme] # big\nrecords_per_second = 5\n").unwrap();
        let key = add(&path, "acme", "", now()).unwrap();
        assert!(revoke(&path, key.id(), now()).unwrap());
        assert!(!revoke(&path, key.id(), now()).unwrap(), "the second time it already was");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("# ours") && text.contains("# big"), "{text}");
        assert!(KeyFile::read(&path).unwrap().keys[0].revoked.is_some());
    }

    #[test]
    fn concurrent_changes_lose_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| add(&path, "acme", "", now()).unwrap());
            }
        });
        assert_eq!(KeyFile::read(&path).unwrap().keys.len(), 8);
    }

    #[test]
    fn errors_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        assert!(KeyFile::read(&path).unwrap_err().to_string().contains("keys new --tenant NAME"));
        assert!(revoke(&path, "abc", now()).unwrap_err().to_string().contains("keys new"));
        add(&path, "acme", "", now()).unwrap();
        let unknown = revoke(&path, "abc", now()).unwrap_err().to_string();
        assert!(unknown.contains("no key has the id abc") && unknown.contains("keys list"), "{unknown}");
        assert!(add(&path, "a b", "", now()).unwrap_err().to_string().contains("1 to 64"));
        fs::write(&path, "[tenants.acme]\nrecords_per_sec = 5\n").unwrap();
        assert!(KeyFile::read(&path).unwrap_err().to_string().contains("records_per_sec"));
    }
}
