//! The agent's preconditions on this host: configuration, key, state directory, memory, clock.
//!
//! Invariant: nothing is created or locked; a state directory that is not there yet is judged by its nearest parent.

use crate::config::{Config, Loaded};
use crate::{budget, guard, state, table};
use ollystack_record::Availability;
use std::path::Path;
use std::time::SystemTime;

pub(super) fn configuration(loaded: &Loaded) -> Availability {
    let read = match &loaded.file {
        Some(file) => format!("{}, {} keys set", file.display(), loaded.origins.len()),
        None => format!("no file, {} keys set by environment and flags", loaded.origins.len()),
    };
    let faults: Vec<String> = loaded.config.faults().iter().map(ToString::to_string).collect();
    if !faults.is_empty() {
        return Availability::off("config", faults.join("; "), "correct it, then `ollystack-agent config check`");
    }
    let clear_text = loaded.config.clear_text_warning().into_iter().collect();
    let warnings = [loaded.warnings.clone(), loaded.config.warnings(loaded.file.as_deref()), clear_text].concat();
    match warnings.is_empty() {
        true => Availability::on("config", read),
        false => Availability::partial("config", format!("{read}, with warnings"), warnings.join("; ")),
    }
}

pub(super) fn api_key(config: &Config) -> Availability {
    match config.require_key() {
        Ok(_) if config.api_key.is_empty() => Availability::on("api_key", format!("from {}", config.api_key_file)),
        Ok(_) => Availability::on("api_key", "set"),
        Err(error) => Availability::off("api_key", error.to_string(), ""),
    }
}

pub(super) fn state_dir(config: &Config) -> Availability {
    let dir = match state::locate(config) {
        Ok(dir) => dir,
        Err(error) => return Availability::off("state_dir", error.to_string(), ""),
    };
    let found = dir.ancestors().find(|parent| parent.exists()).unwrap_or(Path::new("/"));
    let (shown, remedy) = (dir.display(), "make it writable for this user, or give --state-dir");
    if rustix::fs::access(found, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        return Availability::off("state_dir", format!("{shown}: {} is not writable", found.display()), remedy);
    }
    let Ok(space) = rustix::fs::statvfs(found) else {
        return Availability::partial("state_dir", format!("{shown}: free space is unknown"), "");
    };
    let (free, wanted) = (space.f_bavail * space.f_frsize, config.buffer.bytes_max);
    if free < wanted {
        let why = format!("{shown}: {} free, the buffer may grow to {}", table::bytes(free), table::bytes(wanted));
        return Availability::partial("state_dir", why, "free some space, or lower buffer.bytes_max");
    }
    Availability::on("state_dir", format!("{shown}, {} free", table::bytes(free)))
}

pub(super) fn memory(config: &Config) -> Availability {
    match budget::check(config) {
        Ok(budget) => {
            if let Some(advice) = budget.beyond(guard::grant(&config.limits)) {
                return Availability::partial("memory", advice, "");
            }
            let (declared, grant) = (table::bytes(budget.total()), table::bytes(config.limits.memory_bytes_max));
            Availability::on("memory", format!("the stages' limits add up to {declared} of {grant}"))
        }
        Err(error) => Availability::off("memory", error.to_string(), ""),
    }
}

/// A clock that is years behind puts every record where nobody looks; the program file knows an earliest date.
pub(super) fn clock() -> Availability {
    let built = std::env::current_exe().and_then(|path| path.metadata()).and_then(|metadata| metadata.modified());
    match built {
        Ok(built) if SystemTime::now() < built => Availability::off(
            "clock",
            "the clock is behind the date of this program",
            "set the clock, for example with chrony or timesyncd",
        ),
        _ if Path::new("/run/systemd/timesync/synchronized").exists() => {
            Availability::on("clock", "synchronised by systemd-timesyncd")
        }
        _ => Availability::on("clock", "plausible; whether it is synchronised is not known here"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::State;

    #[test]
    fn a_state_directory_that_is_not_there_yet_is_judged_by_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("not/yet");
        let config = Config { state_dir: inside.display().to_string(), ..Config::default() };
        assert_ne!(state_dir(&config).state, State::Off);
        assert!(!inside.exists(), "looking must not create it");
    }

    #[test]
    fn a_missing_key_is_off_and_says_what_to_set() {
        let finding = api_key(&Config::default());
        assert_eq!(finding.state, State::Off);
        assert!(finding.why.contains("OLLYSTACK_API_KEY"));
    }
}
