//! The key file: keys (as hashes) and tenants, one TOML file that people may edit and `keys` changes in place.
//!
//! Reading gives a [`KeyFile`]; [`add`], [`rotate`], [`revoke`], [`set_tenant`] and [`remove_tenant`] change the text and keep its
//! comments, each with a line in the [`audit`] log before. Invariant: a change is one atomic replacement by a synced file of mode 0600 that
//! can be read, under a lock, so that a reader sees the old file or the new one.

use super::audit::{self, Act};
use super::{Key, KeyHash};
use crate::tenants::{ATTRIBUTES_HASH, Entry, HASH_KEY, Unfit};
use rustix::fs::{Gid, Uid};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table};

const HEADER: &str = "\
# OllyStack gateway: API keys and tenants. Reloaded when it changes. Keys are SHA-256 hashes: the keys themselves were
# shown once, by `ollystack-gateway keys new`. A tenant needs no section here unless it differs from [tenants] in the
# gateway's configuration; `ollystack-gateway tenants set NAME FIELD=VALUE` writes one, `tenants --help` lists the fields:
#   [tenants.NAME]
#   plan = \"startup\"
#   retention_days = 14
";

/// What the file says.
#[derive(Debug, Default)]
pub(crate) struct KeyFile {
    pub(crate) tenants: BTreeMap<String, Entry>,
    pub(crate) keys: Vec<KeyEntry>,
}

/// The file as TOML has it: a section that cannot be read must not hide behind a line number.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    #[serde(default)]
    tenants: BTreeMap<String, toml::Table>,
    #[serde(default)]
    keys: Vec<KeyEntry>,
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
    /// From then on it is refused.
    #[serde(default)]
    pub(crate) expires: Option<String>,
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
    #[error(
        "{path}: tenants.{tenant}.{unfit}; put it right with `ollystack-gateway tenants set {tenant} FIELD=VALUE`, or in the file"
    )]
    Tenant { path: PathBuf, tenant: String, unfit: Unfit },
    #[error("{path}: there is no section for tenant {tenant}; `ollystack-gateway tenants list` shows all tenants")]
    NoSuchTenant { path: PathBuf, tenant: String },
    #[error("{path}: no key has the id {id}; `ollystack-gateway keys list` shows them")]
    NoSuchKey { path: PathBuf, id: String },
    #[error(
        "{path}: key {id} is refused already, and has no successor; make a new one with `ollystack-gateway keys new`"
    )]
    Spent { path: PathBuf, id: String },
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
        let Sections { tenants, keys } = toml::from_str(text).map_err(|e| content(e.to_string()))?;
        for name in tenants.keys().chain(keys.iter().map(|key| &key.tenant)) {
            check_tenant(name)?;
        }
        let mut seen = std::collections::BTreeSet::new();
        for key in &keys {
            if KeyHash::parse(&key.sha256).is_none() {
                return Err(content(format!("key {}: sha256 is not 64 lower-case hex digits", key.id)));
            }
            if let Some(expires) = &key.expires
                && instant(expires).is_none()
            {
                return Err(content(format!(
                    "key {}: expires is {expires:?}; a time like 2026-01-31T00:00:00Z is allowed",
                    key.id
                )));
            }
            if !seen.insert(&key.id) {
                return Err(content(format!("key {}: its id stands here twice; remove one of them", key.id)));
            }
        }
        let entries = tenants.into_iter().map(|(tenant, section)| match Entry::read(&section) {
            Ok(entry) => Ok((tenant, entry)),
            Err(unfit) => Err(Error::Tenant { path: path.to_owned(), tenant, unfit }),
        });
        Ok(KeyFile { tenants: entries.collect::<Result<_, _>>()?, keys })
    }
}

impl KeyEntry {
    /// When it expires, in seconds since the epoch.
    pub(crate) fn expires_at(&self) -> Option<u64> {
        instant(self.expires.as_deref()?)
    }

    /// Whether it lets anybody in at a time in seconds since the epoch.
    pub(crate) fn is_valid(&self, now: u64) -> bool {
        self.revoked.is_none() && self.expires_at().is_none_or(|expires| now < expires)
    }
}

/// Make a key for a tenant, valid for so long or until it is revoked. The only place that ever knows its text is the caller.
pub(crate) fn add(
    path: &Path,
    tenant: &str,
    label: &str,
    valid_for: Option<Duration>,
    now: SystemTime,
) -> Result<Key, Error> {
    check_tenant(tenant)?;
    if label.len() > 128 || label.chars().any(char::is_control) {
        let allowed = "at most 128 bytes without control characters are allowed";
        return Err(Error::Name { what: "--name", found: label.to_owned(), allowed });
    }
    let key = Key::random().map_err(Error::Random)?;
    let expires = valid_for.map(|valid_for| timestamp(now + valid_for));
    change(path, true, |document| {
        push(document, &key, tenant, label, expires.as_deref(), now)?;
        let until = expires.as_ref().map(|expires| format!(", expires {expires}")).unwrap_or_default();
        Ok(Act { name: "keys new", tenant: tenant.to_owned(), detail: format!("{} {label:?}{until}", key.id()) })
    })?;
    Ok(key)
}

/// Make the successor of a key: for the same tenant, with the same label. Both are valid for `overlap`, unless the old one expires sooner.
pub(crate) fn rotate(path: &Path, id: &str, overlap: Duration, now: SystemTime) -> Result<Key, Error> {
    let file = KeyFile::read(path)?;
    let no_such_key = || Error::NoSuchKey { path: path.to_owned(), id: id.to_owned() };
    let old = file.keys.iter().find(|key| key.id == id).ok_or_else(no_such_key)?;
    if !old.is_valid(seconds(now)) {
        return Err(Error::Spent { path: path.to_owned(), id: id.to_owned() });
    }
    let (key, end) = (Key::random().map_err(Error::Random)?, now + overlap);
    let expires = old.expires_at().map_or(end, |expires| end.min(UNIX_EPOCH + Duration::from_secs(expires)));
    let expires = timestamp(expires);
    change(path, false, |document| {
        push(document, &key, &old.tenant, &old.label, None, now)?;
        for entry in entries(document, id) {
            entry["expires"] = toml_edit::value(&expires);
        }
        let detail = format!("{} for {id}, which expires {expires}", key.id());
        Ok(Act { name: "keys rotate", tenant: old.tenant.clone(), detail })
    })?;
    Ok(key)
}

fn push(
    document: &mut DocumentMut,
    key: &Key,
    tenant: &str,
    label: &str,
    expires: Option<&str>,
    now: SystemTime,
) -> Result<(), String> {
    let keys = document.entry("keys").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let keys = keys.as_array_of_tables_mut().ok_or_else(|| "keys must be [[keys]] sections".to_owned())?;
    let mut entry = Table::new();
    entry["id"] = toml_edit::value(key.id());
    entry["tenant"] = toml_edit::value(tenant);
    entry["label"] = toml_edit::value(label);
    entry["sha256"] = toml_edit::value(key.hash().to_hex());
    entry["created"] = toml_edit::value(timestamp(now));
    if let Some(expires) = expires {
        entry["expires"] = toml_edit::value(expires);
    }
    keys.push(entry);
    Ok(())
}

/// The section of a key.
fn entries<'a>(document: &'a mut DocumentMut, id: &str) -> impl Iterator<Item = &'a mut Table> {
    let keys = document.get_mut("keys").and_then(Item::as_array_of_tables_mut);
    let all = keys.into_iter().flat_map(|keys| keys.iter_mut());
    all.filter(move |entry| entry.get("id").and_then(Item::as_str) == Some(id))
}

/// Mark a key as revoked. `false` when it already was.
pub(crate) fn revoke(path: &Path, id: &str, now: SystemTime) -> Result<bool, Error> {
    let mut found = None;
    change(path, false, |document| {
        let mut tenant = String::new();
        for entry in entries(document, id) {
            found = Some(!entry.contains_key("revoked"));
            entry.entry("revoked").or_insert_with(|| toml_edit::value(timestamp(now)));
            tenant = entry.get("tenant").and_then(Item::as_str).unwrap_or_default().to_owned();
        }
        Ok(Act { name: "keys revoke", tenant, detail: id.to_owned() })
    })?;
    found.ok_or_else(|| Error::NoSuchKey { path: path.to_owned(), id: id.to_owned() })
}

/// Give fields of a tenant other values; `None` takes a field out, and the plan or the configuration holds for it again.
pub(crate) fn set_tenant(
    path: &Path,
    tenant: &str,
    fields: &[(String, Option<toml_edit::Value>)],
) -> Result<(), Error> {
    check_tenant(tenant)?;
    change(path, true, |document| {
        let tenants = document.entry("tenants").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let tenants = tenants.as_table_mut().ok_or_else(|| "tenants must be [tenants.NAME] sections".to_owned())?;
        let section = tenants.entry(tenant).or_insert_with(|| Item::Table(Table::new()));
        let section = section.as_table_like_mut().ok_or_else(|| format!("tenants.{tenant} must be a section"))?;
        let mut detail = Vec::new();
        for (field, value) in fields {
            match value {
                Some(value) => {
                    detail.push(format!("{field} = {}", value.to_string().trim()));
                    section.insert(field, Item::Value(value.clone()));
                }
                None => {
                    detail.push(format!("{field} taken out"));
                    section.remove(field);
                }
            }
        }
        if section.contains_key(ATTRIBUTES_HASH) && !section.contains_key(HASH_KEY) {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(|error| format!("the kernel gave no random bytes: {error}"))?;
            section.insert(HASH_KEY, toml_edit::value(super::hex(&key)));
        }
        Ok(Act { name: "tenants set", tenant: tenant.to_owned(), detail: detail.join(", ") })
    })
}

/// Take a tenant's section out: the configuration holds for it again.
pub(crate) fn remove_tenant(path: &Path, tenant: &str) -> Result<(), Error> {
    let mut found = false;
    change(path, false, |document| {
        let tenants = document.get_mut("tenants").and_then(Item::as_table_like_mut);
        found = tenants.is_some_and(|tenants| tenants.remove(tenant).is_some());
        Ok(Act { name: "tenants remove", tenant: tenant.to_owned(), detail: String::new() })
    })?;
    found.then_some(()).ok_or_else(|| Error::NoSuchTenant { path: path.to_owned(), tenant: tenant.to_owned() })
}

fn timestamp(now: SystemTime) -> String {
    humantime::format_rfc3339_seconds(now).to_string()
}

/// Seconds since the epoch.
fn instant(text: &str) -> Option<u64> {
    humantime::parse_rfc3339_weak(text).ok().map(seconds)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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

/// Change the document under the lock, write the audit log, and replace the file.
fn change(path: &Path, create: bool, edit: impl FnOnce(&mut DocumentMut) -> Result<Act, String>) -> Result<(), Error> {
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

    let before = match read_text(path) {
        Err(Error::Missing(_)) if create => None,
        other => Some(other?),
    };
    let text = before.as_deref().unwrap_or(HEADER);
    let content = |message: String| Error::Content { path: path.to_owned(), message };
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| content(e.to_string()))?;
    let act = edit(&mut document).map_err(content)?;
    let changed = document.to_string();
    KeyFile::parse(path, &changed)?;
    if changed == text {
        return Ok(());
    }

    // A service that reads the file as another user must still be able to: the owner stays, or is the directory's.
    let owner = fs::metadata(path).or_else(|_| fs::metadata(directory)).map_err(io("look at", directory))?;
    let fresh_path = beside(".new");
    let mut fresh = fresh_file(&fresh_path).map_err(io("create", &fresh_path))?;
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(fresh.as_fd(), Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))
            .map_err(|e| io("set the owner of", &fresh_path)(e.into()))?;
    }
    fresh.write_all(changed.as_bytes()).map_err(io("write", &fresh_path))?;
    fresh.sync_all().map_err(io("sync", &fresh_path))?;
    let log = audit::path_of(path);
    audit::append(path, &owner, &act, before.as_deref(), &changed).map_err(io("append to", &log))?;
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
        let key = add(&path, "acme", "laptop", None, now()).unwrap();
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
        let key = add(&path, "acme", "", None, now()).unwrap();
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
                scope.spawn(|| add(&path, "acme", "", None, now()).unwrap());
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
        add(&path, "acme", "", None, now()).unwrap();
        let unknown = revoke(&path, "abc", now()).unwrap_err().to_string();
        assert!(unknown.contains("no key has the id abc") && unknown.contains("keys list"), "{unknown}");
        assert!(add(&path, "a b", "", None, now()).unwrap_err().to_string().contains("1 to 64"));
        for (section, what) in [
            ("records_per_sec = 5", "tenants.acme.records_per_sec is no field of a tenant"),
            ("retention_days = 0", "tenants.acme.retention_days is 0; a whole number from 1 to 36500 is allowed"),
        ] {
            fs::write(&path, format!("[tenants.acme]\n{section}\n")).unwrap();
            let error = KeyFile::read(&path).unwrap_err().to_string();
            assert!(
                error.contains("keys.toml: ") && error.contains(what) && error.contains("tenants set acme"),
                "{error}"
            );
        }
    }

    fn set(path: &Path, tenant: &str, field: &str, value: Option<i64>) -> Result<(), Error> {
        set_tenant(path, tenant, &[(field.to_owned(), value.map(toml_edit::Value::from))])
    }

    #[test]
    fn a_tenants_fields_are_set_put_right_and_taken_out_beside_what_people_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        set(&path, "acme", "retention_days", Some(3)).unwrap();
        set(&path, "big.one", "retention_days", Some(4)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("[tenants.acme]\nretention_days = 3\n"), "{text}");
        assert_eq!(KeyFile::read(&path).unwrap().tenants.len(), 2);

        let refused = set(&path, "acme", "retention_days", Some(0)).unwrap_err().to_string();
        assert!(refused.contains("tenants.acme.retention_days is 0"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "a refused change changes nothing");

        fs::write(&path, text.replace("days = 3", "days = 0 # typo")).unwrap();
        assert!(add(&path, "acme", "", None, now()).is_err());
        set(&path, "acme", "retention_days", Some(5)).unwrap();
        assert!(KeyFile::read(&path).is_ok(), "a wrong field can be put right by the command that says so");
        set(&path, "acme", "retention_days", None).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap().tenants["acme"], Entry::default());

        remove_tenant(&path, "acme").unwrap();
        assert_eq!(KeyFile::read(&path).unwrap().tenants.keys().collect::<Vec<_>>(), ["big.one"]);
        let unknown = remove_tenant(&path, "acme").unwrap_err().to_string();
        assert!(unknown.contains("no section for tenant acme") && unknown.contains("tenants list"), "{unknown}");
    }

    #[test]
    fn a_rotated_key_and_its_successor_are_both_valid_until_the_old_one_expires() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let at = |seconds: u64| 1_700_000_000 + seconds;
        let old = add(&path, "acme", "laptop", Some(Duration::from_secs(100)), now()).unwrap();
        let new = rotate(&path, old.id(), Duration::from_secs(60), now()).unwrap();
        let file = KeyFile::read(&path).unwrap();
        let validity = |second: u64| file.keys.iter().map(|key| key.is_valid(at(second))).collect::<Vec<_>>();
        assert_eq!((validity(0), validity(59), validity(60)), (vec![true; 2], vec![true; 2], vec![false, true]));
        assert_eq!((file.keys[1].tenant.as_str(), file.keys[1].label.as_str()), ("acme", "laptop"));
        assert_ne!(old.id(), new.id());

        let later = now() + Duration::from_secs(60);
        let spent = rotate(&path, old.id(), Duration::from_secs(60), later).unwrap_err().to_string();
        assert!(spent.contains("refused already") && spent.contains("keys new"), "{spent}");
        rotate(&path, old.id(), Duration::from_secs(90), now()).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap().keys[0].expires_at(), Some(at(60)), "none becomes valid for longer");

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("2023-11-14T22:14:20Z", "soon")).unwrap();
        let error = KeyFile::read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("key {}: expires is \"soon\"", old.id())), "{error}");
    }
}
