//! The audit log: one line of JSON for each change that a command makes to the key file: when, who, what, and never a key.
//!
//! It lies beside the key file. A line is appended and synced before its change takes effect, and bears the SHA-256 of the line before it
//! and of the file that it leaves: [`check`] tells of lines that were changed or taken out, and of files that no command left so.
//! Invariant: no command changes the key file without a line. Whoever may write the log may still write all of it anew: `chattr +a`, or a
//! copy elsewhere, guards against that.

use super::hex;
use rustix::process::getuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Far more than a line has.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// What the kernel says for nobody in /proc/self/loginuid.
const NO_LOGIN: u32 = u32::MAX;

/// What was done, by which command, to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Act {
    /// As it is typed: `keys new`.
    pub(crate) name: &'static str,
    pub(crate) tenant: String,
    /// A key's id, or fields with their values.
    pub(crate) detail: String,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) time: String,
    /// By the user database of the host; the number where it has none.
    pub(crate) user: String,
    pub(crate) uid: u32,
    /// Who logged in, whatever `sudo` made of them since.
    pub(crate) login_uid: Option<u32>,
    pub(crate) act: String,
    pub(crate) tenant: String,
    pub(crate) detail: String,
    /// SHA-256 of the key file that this leaves.
    file: String,
    /// SHA-256 of the line before, without its end; empty in the first.
    previous: String,
}

/// What a log says.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) lines: Vec<Line>,
    /// What does not fit together, by line.
    pub(crate) problems: Vec<String>,
}

/// Where the log of a key file is.
pub(crate) fn path_of(keys: &Path) -> PathBuf {
    let mut name = keys.file_name().unwrap_or_default().to_owned();
    name.push(".audit");
    keys.with_file_name(name)
}

/// Append that `act` turns the key file `before` into `after`; and, first, that somebody changed it without a command, if so.
/// `owner` is whose a new log is to be.
pub(crate) fn append(
    keys: &Path,
    owner: &fs::Metadata,
    act: &Act,
    before: Option<&str>,
    after: &str,
) -> io::Result<()> {
    let path = path_of(keys);
    let mut log = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
    if rustix::process::geteuid().is_root() {
        let [uid, gid] = [owner.uid(), owner.gid()];
        rustix::fs::fchown(log.as_fd(), Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))?;
    }
    let (whole, mut last) = last_line(&mut log)?;
    let mut text = String::from(if whole { "" } else { "\n" });
    let known = serde_json::from_str(&last).ok().map(|line: Line| line.file);
    let otherwise = Act { name: "changed otherwise", tenant: String::new(), detail: String::new() };
    let found = before.filter(|before| known.as_deref() != Some(hash(before).as_str()));
    let acts = found.map(|before| (&otherwise, before)).into_iter().chain([(act, after)]);
    let (uid, login_uid) = (getuid().as_raw(), login_uid());
    for (act, file) in acts {
        // Nobody knows who changed a file by hand.
        let user = if act == &otherwise { String::new() } else { user_name(uid) };
        let line = Line {
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            user,
            uid,
            login_uid,
            act: act.name.to_owned(),
            tenant: act.tenant.clone(),
            detail: act.detail.clone(),
            file: hash(file),
            previous: if last.is_empty() { String::new() } else { hash(&last) },
        };
        last = serde_json::to_string(&line)?;
        text.push_str(&last);
        text.push('\n');
    }
    log.write_all(text.as_bytes())?;
    log.sync_all()?;
    // Of a relative path the parent is empty.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Read the log of a key file and compare what its lines say of each other, and the last one of the file.
pub(crate) fn check(keys: &Path) -> io::Result<Log> {
    let text = fs::read_to_string(path_of(keys))?;
    let mut log = Log::default();
    let mut previous = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        match serde_json::from_str::<Line>(line) {
            Ok(read) => {
                if read.previous != previous {
                    log.problems.push(format!("line {number}: the line before it is not the one that it followed"));
                }
                log.lines.push(read);
            }
            Err(_) => log.problems.push(format!("line {number} is not whole")),
        }
        previous = hash(line);
    }
    let file = fs::read_to_string(keys).unwrap_or_default();
    if log.lines.last().is_some_and(|line| line.file != hash(&file)) {
        log.problems
            .push("the key file is not as the last line left it: it was changed otherwise, or not yet".to_owned());
    }
    Ok(log)
}

/// Whether the log ends with the end of a line, and its last line.
fn last_line(log: &mut File) -> io::Result<(bool, String)> {
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LINE_BYTES_MAX)))?;
    let mut tail = Vec::new();
    log.take(LINE_BYTES_MAX).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let whole = tail.is_empty() || tail.ends_with('\n');
    Ok((whole, tail.lines().next_back().unwrap_or_default().to_owned()))
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn login_uid() -> Option<u32> {
    let text = fs::read_to_string("/proc/self/loginuid").ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}

fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::file;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn every_change_by_a_command_is_a_line_that_says_when_who_and_what_and_never_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let first = file::add(&path, "acme", "laptop", None, now()).unwrap();
        let second = file::rotate(&path, first.id(), Duration::from_secs(60), now()).unwrap();
        file::revoke(&path, first.id(), now()).unwrap();
        let fields = [("retention_days".to_owned(), Some(toml_edit::Value::from(3))), ("plan".to_owned(), None)];
        file::set_tenant(&path, "acme", &fields).unwrap();
        file::remove_tenant(&path, "acme").unwrap();
        assert!(file::set_tenant(&path, "acme", &[("plan".to_owned(), Some("gold".into()))]).is_err());
        file::revoke(&path, first.id(), now()).unwrap();

        let log = check(&path).unwrap();
        assert_eq!(log.problems, Vec::<String>::new());
        let acts: Vec<_> = log.lines.iter().map(|line| (line.act.as_str(), line.detail.as_str())).collect();
        let rotated = format!("{} for {}, which expires 2023-11-14T22:14:20Z", second.id(), first.id());
        let expected = [
            ("keys new", &*format!("{} \"laptop\"", first.id())),
            ("keys rotate", &rotated),
            ("keys revoke", first.id()),
            ("tenants set", "retention_days = 3, plan taken out"),
            ("tenants remove", ""),
        ];
        assert_eq!(acts, expected, "what changed nothing is no act");
        let uid = getuid().as_raw();
        assert!(log.lines.iter().all(|line| line.tenant == "acme" && line.uid == uid && !line.user.is_empty()));
        assert!(log.lines.iter().all(|line| humantime::parse_rfc3339(&line.time).is_ok()));
        let text = fs::read_to_string(path_of(&path)).unwrap();
        for key in [&first, &second] {
            let secret = key.expose().rsplit('_').next().unwrap();
            assert!(!text.contains(secret) && !text.contains(&key.hash().to_hex()), "{text}");
        }
        assert_eq!(fs::metadata(path_of(&path)).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_was_changed_or_taken_out_shows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        for tenant in ["a", "b", "c"] {
            file::add(&path, tenant, "", None, now()).unwrap();
        }
        let whole = fs::read_to_string(path_of(&path)).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        let problems = |text: String| {
            fs::write(path_of(&path), text).unwrap();
            check(&path).unwrap().problems
        };
        assert_eq!(problems(whole.clone()), Vec::<String>::new());
        assert!(problems(whole.replace("\"b\"", "\"x\""))[0].starts_with("line 3: "));
        assert!(problems(format!("{}\n{}\n", lines[0], lines[2]))[0].starts_with("line 2: "));
        assert!(problems(format!("{}\n{}\n", lines[0], lines[1]))[0].starts_with("the key file is not as"));
        // A crash in the middle of a line: the next one begins anew.
        assert!(problems(whole[..whole.len() - 20].to_owned())[0].starts_with("line 3 is not whole"));
        file::add(&path, "d", "", None, now()).unwrap();
        let log = check(&path).unwrap();
        assert_eq!(log.problems, ["line 3 is not whole"]);
        assert_eq!(
            log.lines.iter().map(|line| line.act.as_str()).skip(2).collect::<Vec<_>>(),
            ["changed otherwise", "keys new"]
        );
    }

    #[test]
    fn a_change_otherwise_is_told_by_the_next_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        file::add(&path, "acme", "", None, now()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + "[tenants.acme]\nrecords_per_second = 0\n").unwrap();
        assert_eq!(check(&path).unwrap().problems.len(), 1);
        file::add(&path, "acme", "", None, now()).unwrap();
        let log = check(&path).unwrap();
        assert_eq!(log.problems, Vec::<String>::new());
        let acts: Vec<_> = log.lines.iter().map(|line| (line.act.as_str(), line.user.is_empty())).collect();
        assert_eq!(acts, [("keys new", false), ("changed otherwise", true), ("keys new", false)]);
    }

    #[test]
    fn without_a_line_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        fs::create_dir(path_of(&path)).unwrap();
        let error = file::add(&path, "acme", "", None, now()).unwrap_err().to_string();
        assert!(error.contains("keys.toml.audit"), "{error}");
        assert!(!path.exists());
    }
}
