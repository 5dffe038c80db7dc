//! Applies the schema's numbered migrations to the database, under a lock, and records them.
//!
//! The lock is a table whose creation fails when it exists. Every statement of a migration may be run again, so a lock whose holder
//! died is broken after a minute, and doing so cannot harm. Invariant: a migration is recorded after all its statements ran,
//! and one whose text differs from what was recorded is never run.

use crate::write::clickhouse::{ClickHouse, Error as ClickHouseError};
use ollystack_schema::migrations::{MIGRATIONS, Migration, Placement, RECORD_TABLE, TemplateError};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

const LOCK_TABLE: &str = "schema_migrations_lock";

/// A migration's statements take milliseconds; a holder that is silent for this long has died.
const LOCK_SECONDS_MAX: u64 = 60;

const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// ClickHouse's numbers for "table already exists" and "unknown table", "unknown database".
const TABLE_EXISTS: u32 = 57;
const UNKNOWN_TABLE: u32 = 60;
const UNKNOWN_DATABASE: u32 = 81;

/// Pause after a failure: doubles from the first to the second.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// A ClickHouse that is started together with the gateway answers before so many tries (4 s) have failed: no reason to warn.
const STARTS_WITHIN: u32 = 4;

/// Why the schema is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error("migration {name}: {source}")]
    Statement { name: &'static str, source: ClickHouseError },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(
        "migration {number} ({name}) was applied with checksum {recorded} and is {here} in this program; an applied migration \
         is never edited: run the version of ollystack-gateway that applied it, or a newer one"
    )]
    Checksum { number: u32, name: String, recorded: String, here: String },
    #[error(
        "the database has migration {number} ({name}), which this version of ollystack-gateway does not know; run the newer \
         version that applied it"
    )]
    Newer { number: u32, name: String },
}

/// What the database has recorded: number to name and checksum.
type Recorded = BTreeMap<u32, (String, String)>;

/// What would be run now, or everything when the database is not there yet.
pub(crate) async fn pending(clickhouse: &ClickHouse) -> Result<Vec<&'static Migration>, Error> {
    let recorded = match recorded(clickhouse).await {
        Ok(recorded) => recorded,
        Err(error) if matches!(error.code, Some(UNKNOWN_TABLE | UNKNOWN_DATABASE)) => Recorded::new(),
        Err(error) => return Err(error.into()),
    };
    check(MIGRATIONS, &recorded)
}

/// Run what is pending; returns what was run.
pub(crate) async fn apply(clickhouse: &ClickHouse) -> Result<Vec<&'static Migration>, Error> {
    clickhouse.run_outside(&format!("CREATE DATABASE IF NOT EXISTS `{}`", clickhouse.database())).await?;
    clickhouse.run(RECORD_TABLE).await?;
    if check(MIGRATIONS, &recorded(clickhouse).await?)?.is_empty() {
        return Ok(Vec::new());
    }
    lock(clickhouse).await?;
    let applied = apply_locked(clickhouse).await;
    // Left behind, the lock is broken after a minute: what matters is whether the migrations ran.
    if let Err(error) = clickhouse.run(&format!("DROP TABLE IF EXISTS {LOCK_TABLE}")).await {
        tracing::warn!(%error, "the migration lock could not be removed; it lapses after {LOCK_SECONDS_MAX} s");
    }
    applied
}

async fn apply_locked(clickhouse: &ClickHouse) -> Result<Vec<&'static Migration>, Error> {
    // Again, as another gateway may have run them while this one waited for the lock.
    let pending = check(MIGRATIONS, &recorded(clickhouse).await?)?;
    for migration in &pending {
        for statement in migration.statements(Placement::SingleNode)? {
            let failed = |source| Error::Statement { name: migration.name, source };
            clickhouse.run(&statement).await.map_err(failed)?;
        }
        // Number, file name and hexadecimal digits of this program: nothing in them needs quoting.
        let record = format!(
            "INSERT INTO schema_migrations (Number, Name, Checksum) VALUES ({}, '{}', '{}')",
            migration.number,
            migration.name,
            migration.checksum()
        );
        clickhouse.run(&record).await?;
        tracing::info!(migration = migration.name, "migration applied");
    }
    Ok(pending)
}

async fn recorded(clickhouse: &ClickHouse) -> Result<Recorded, ClickHouseError> {
    let query = "SELECT Number, Name, Checksum FROM schema_migrations FINAL ORDER BY Number";
    let lines = clickhouse.lines(query).await?;
    let record = |line: Vec<String>| match <[String; 3]>::try_from(line) {
        Ok([number, name, checksum]) => Some((number.parse().ok()?, (name, checksum))),
        Err(_) => None,
    };
    Ok(lines.into_iter().filter_map(record).collect())
}

/// Which of `migrations` are not recorded; an error when what is recorded is not what they are.
fn check(migrations: &'static [Migration], recorded: &Recorded) -> Result<Vec<&'static Migration>, Error> {
    if let Some((number, (name, _))) =
        recorded.iter().find(|(number, _)| migrations.iter().all(|m| m.number != **number))
    {
        return Err(Error::Newer { number: *number, name: name.clone() });
    }
    let mut pending = Vec::new();
    for migration in migrations {
        match recorded.get(&migration.number) {
            None => pending.push(migration),
            Some((_, checksum)) if *checksum == migration.checksum() => {}
            Some((name, checksum)) => {
                return Err(Error::Checksum {
                    number: migration.number,
                    name: name.clone(),
                    recorded: checksum.clone(),
                    here: migration.checksum(),
                });
            }
        }
    }
    Ok(pending)
}

async fn lock(clickhouse: &ClickHouse) -> Result<(), ClickHouseError> {
    loop {
        // No IF NOT EXISTS: of two gateways one is told that it exists.
        let create = format!("CREATE TABLE {LOCK_TABLE} (Held UInt8) ENGINE = Memory");
        match clickhouse.run(&create).await {
            Err(error) if error.code == Some(TABLE_EXISTS) => {}
            other => return other,
        }
        let age = format!(
            "SELECT toUInt64(now() - metadata_modification_time) FROM system.tables WHERE database = '{}' AND name = '{LOCK_TABLE}'",
            clickhouse.database()
        );
        let lines = clickhouse.lines(&age).await?;
        let seconds: Option<u64> = lines.first().and_then(|line| line.first()?.parse().ok());
        if seconds.is_some_and(|seconds| seconds > LOCK_SECONDS_MAX) {
            tracing::warn!(seconds, "breaking the migration lock of a gateway that died");
            clickhouse.run(&format!("DROP TABLE IF EXISTS {LOCK_TABLE}")).await?;
        } else {
            sleep(LOCK_LOOK_INTERVAL).await;
        }
    }
}

/// Apply the migrations whenever `ready` says that the schema is not there, for ever. `problem` holds what is in the way.
pub(crate) async fn keep_applied(clickhouse: ClickHouse, ready: watch::Sender<bool>, problem: &Mutex<Option<String>>) {
    let mut states = ready.subscribe();
    let set_problem = |text: Option<String>| *problem.lock().unwrap_or_else(PoisonError::into_inner) = text;
    let (mut pause, mut failures) = (RETRY_MIN, 0_u32);
    loop {
        // An error means that the sender is gone, and it is ours.
        let _ = states.wait_for(|ready| !*ready).await;
        match apply(&clickhouse).await {
            Ok(_) => {
                set_problem(None);
                tracing::info!(database = clickhouse.database(), "the schema is up to date");
                ready.send_replace(true);
                // A table that goes missing again and again must not become a busy loop.
                sleep(RETRY_MIN).await;
                (pause, failures) = (RETRY_MIN, 0);
            }
            Err(error) => {
                let text = error.to_string();
                let known = problem.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&text);
                let person = matches!(error, Error::Checksum { .. } | Error::Newer { .. } | Error::Template(_));
                failures += 1;
                if person {
                    if !known {
                        tracing::error!(error = text, "the schema cannot be used; rows wait in the spill");
                    }
                } else if failures == STARTS_WITHIN || (failures > STARTS_WITHIN && !known) {
                    tracing::warn!(error = text, "no schema; rows wait in the spill; trying again");
                } else if failures == 1 {
                    tracing::info!("waiting for ClickHouse; rows wait in the spill");
                }
                set_problem(Some(text));
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(numbers: std::ops::RangeInclusive<u32>) -> Recorded {
        let of = |migration: &Migration| (migration.number, (migration.name.to_owned(), migration.checksum()));
        MIGRATIONS.iter().filter(|migration| numbers.contains(&migration.number)).map(of).collect()
    }

    #[test]
    fn what_is_not_recorded_is_pending() {
        assert_eq!(check(MIGRATIONS, &Recorded::new()).unwrap().len(), MIGRATIONS.len());
        let numbers: Vec<u32> = check(MIGRATIONS, &recorded(1..=3)).unwrap().iter().map(|m| m.number).collect();
        assert_eq!(numbers.first(), Some(&4));
        assert!(check(MIGRATIONS, &recorded(1..=u32::MAX)).unwrap().is_empty());
    }

    #[test]
    fn an_edited_migration_is_refused_by_its_name() {
        let mut recorded = recorded(1..=u32::MAX);
        recorded.insert(2, ("0002_logs".to_owned(), "00".repeat(32)));
        let error = check(MIGRATIONS, &recorded).unwrap_err().to_string();
        assert!(error.contains("migration 2 (0002_logs)") && error.contains(&"00".repeat(32)), "{error}");
    }

    #[test]
    fn a_database_of_a_newer_version_is_refused() {
        let mut recorded = recorded(1..=u32::MAX);
        recorded.insert(9999, ("9999_future".to_owned(), String::new()));
        let error = check(MIGRATIONS, &recorded).unwrap_err().to_string();
        assert!(error.contains("9999_future") && error.contains("newer"), "{error}");
    }
}
