//! Whether the journal is to be read here: what the configuration asks for, and what the host has.
//!
//! Where a syslog daemon writes what journald gives it to files that are read anyway, reading both would show every message twice:
//! `auto` then leaves the journal to the files. Invariant: looking changes nothing and starts nothing.

use crate::config::{Config, Enabled};
use ollystack_record::Availability;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const NAME: &str = "journald";

/// What syslog daemons write everything to: Debian's and Red Hat's.
const SYSLOG_FILES: [&str; 2] = ["/var/log/syslog", "/var/log/messages"];

/// A daemon that still runs has written within this time; hosts log every hour at least.
const SYSLOG_FRESH: Duration = Duration::from_secs(24 * 3_600);

/// Where journald keeps the journal, on disk and in memory.
const JOURNALS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];

/// Whether to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Run,
    /// No, and why.
    Off(String),
}

/// Whether to run on this host. `files_are_read`: whether the log file input reads what syslog daemons write.
pub fn decide(config: &Config, files_are_read: bool) -> Decision {
    decide_on(config, files_are_read, Path::new("/"))
}

fn decide_on(config: &Config, files_are_read: bool, root: &Path) -> Decision {
    let off = |why: String| Decision::Off(why);
    match config.enabled {
        Enabled::False => off("journald.enabled is false".to_owned()),
        // What is missing then is an error that the input says itself, again and again.
        Enabled::True => Decision::Run,
        Enabled::Auto => {
            if find_program(&config.journalctl).is_none() {
                return off(format!("no program {:?}", config.journalctl));
            }
            if journal(config, root).is_none() {
                return off("there is no journal here".to_owned());
            }
            match SYSLOG_FILES.iter().find(|file| files_are_read && is_fresh(&below(root, file))) {
                Some(file) => off(format!("its messages are read from {file} already")),
                None => Decision::Run,
            }
        }
    }
}

/// What would be read on this host.
pub fn availability(config: &Config, files_are_read: bool) -> Vec<Availability> {
    vec![row(config, files_are_read, Path::new("/"))]
}

fn row(config: &Config, files_are_read: bool, root: &Path) -> Availability {
    if let Decision::Off(why) = decide_on(config, files_are_read, root) {
        let remedy = match config.enabled {
            Enabled::Auto if why.starts_with("its messages") => {
                "for the journal instead set journald.enabled to true, and add the file to logs.exclude"
            }
            Enabled::Auto => {
                "install journalctl, and mount the host's journal and name it in journald.directory if this is a container"
            }
            _ => "set journald.enabled to \"auto\" or true",
        };
        return Availability::off(NAME, why, remedy);
    }
    if find_program(&config.journalctl).is_none() {
        return Availability::off(NAME, format!("no program {:?}", config.journalctl), "install systemd's journalctl");
    }
    let Some(folder) = journal(config, root) else {
        return Availability::off(
            NAME,
            "there is no journal here",
            "start systemd-journald, or set journald.directory",
        );
    };
    let twice = SYSLOG_FILES.iter().find(|file| files_are_read && is_fresh(&below(root, file)));
    match twice {
        _ if !is_readable(&folder) => Availability::partial(
            NAME,
            format!("{} is not readable: only this user's own entries show", folder.display()),
            "run as root, or add the agent's user to the group systemd-journal",
        ),
        Some(file) => Availability::partial(
            NAME,
            format!("{}; messages that are in {file} too are read twice", folder.display()),
            "add the file to logs.exclude, or set journald.enabled to \"auto\"",
        ),
        None => Availability::on(NAME, format!("{} through {}", folder.display(), config.journalctl)),
    }
}

/// The folder that holds the journal.
fn journal(config: &Config, root: &Path) -> Option<PathBuf> {
    let has_any = |folder: &PathBuf| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if !config.directory.is_empty() {
        return Some(PathBuf::from(&config.directory)).filter(has_any);
    }
    JOURNALS.iter().map(|folder| below(root, folder)).find(has_any)
}

/// Whether the journal's files can be opened: they lie in it, or in folders by machine.
fn is_readable(folder: &Path) -> bool {
    let folders = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = folders.filter(|path| path.is_dir()).chain([folder.to_owned()]);
    let mut files = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    files.any(|file| {
        file.path().extension().is_some_and(|name| name == "journal") && std::fs::File::open(file.path()).is_ok()
    })
}

fn is_fresh(file: &Path) -> bool {
    let modified =
        file.metadata().ok().filter(|metadata| metadata.len() > 0).and_then(|metadata| metadata.modified().ok());
    modified.is_some_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age < SYSLOG_FRESH))
}

fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::State;

    #[test]
    fn the_journal_is_left_to_files_that_have_it_and_off_says_why() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = below(root.path(), path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        let config = |enabled| Config { enabled, journalctl: "/bin/sh".into(), ..Config::default() };
        let look = |enabled, files| {
            let row = row(&config(enabled), files, root.path());
            assert_eq!(
                matches!(decide_on(&config(enabled), files, root.path()), Decision::Run),
                row.state != State::Off
            );
            (row.state, row.why)
        };
        assert_eq!(
            decide_on(&config(Enabled::Auto), true, root.path()),
            Decision::Off("there is no journal here".into())
        );
        write("/var/log/journal/0123/system.journal");
        assert_eq!(look(Enabled::Auto, true).0, State::On);
        write("/var/log/syslog");
        let (state, why) = look(Enabled::Auto, true);
        assert!(state == State::Off && why.contains("read from /var/log/syslog already"), "{why}");
        assert_eq!(look(Enabled::Auto, false).0, State::On, "the file is there, but nobody reads it");
        let (state, why) = look(Enabled::True, true);
        assert!(state == State::Partial && why.contains("read twice"), "{why}");
        assert_eq!(look(Enabled::False, true).0, State::Off);
        // A daemon that was removed leaves its last file behind.
        let day_old = SystemTime::now() - 2 * SYSLOG_FRESH;
        std::fs::File::options()
            .append(true)
            .open(below(root.path(), "/var/log/syslog"))
            .unwrap()
            .set_modified(day_old)
            .unwrap();
        assert_eq!(look(Enabled::Auto, true).0, State::On);
        let missing = Config { journalctl: "/nowhere/journalctl".into(), ..Config::default() };
        assert!(matches!(decide_on(&missing, true, root.path()), Decision::Off(why) if why.contains("no program")));
    }
}
