//! Applies the schema's numbered migrations to the database, under a lock, and records them.
//!
//! The lock is a table whose creation fails when it exists; its comment says who made it. Whoever is stopped ends with the statement under way and
//! releases it. Every statement of a migration may be run again, so a lock whose holder died is broken after a minute, and doing so cannot
//! harm; until then whoever waits says for whom. Invariant: a migration is recorded after all its statements ran, and one whose text differs
//! from what was recorded is never run.
//!
//! On a cluster each statement goes to all servers by the cluster's own queue, which has one order: of two gateways that make the lock, each server
//! tells the second one that it exists. A statement that a server has not run in time is an error and is run again, so what is recorded is
//! on every server; once all is recorded, a server that is away keeps no gateway from starting.

use crate::config::Tiers;
use crate::tiers;
use crate::write::clickhouse::{ClickHouse, Error as ClickHouseError};
use ollystack_schema::migrations::{MIGRATIONS, Migration, TemplateError, local_database};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const RECORDS: &str = "schema_migrations";
const LOCK_TABLE: &str = "schema_migrations_lock";

/// A migration's statements take milliseconds; a holder that is silent for this long has died. A cluster takes longer for each.
const LOCK_SECONDS_MAX: u64 = 60;
const LOCK_SECONDS_MAX_ON_CLUSTER: u64 = 600;

const LOCK_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// On stop, the statement under way and the release of the lock have so long: ClickHouse may stand still. Less than our units' TimeoutStopSec.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// ClickHouse's numbers for "table already exists" and "unknown table", "unknown database".
const TABLE_EXISTS: u32 = 57;
const UNKNOWN_TABLE: u32 = 60;
const UNKNOWN_DATABASE: u32 = 81;

/// Some servers have not run a statement yet; they will.
const TIMEOUT_EXCEEDED: u32 = 159;

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
    #[error(
        "clickhouse.cluster is {name}: ClickHouse knows the clusters {known}; set one of them, or add this one to remote_servers"
    )]
    Cluster { name: String, known: String },
    #[error(
        "clickhouse.cluster is {name}, whose shards do not all have internal_replication: set it to true in remote_servers, or \
         every row is written to each replica by itself"
    )]
    Replication { name: String },
    #[error(
        "clickhouse.cluster is \"{cluster}\", but database {database} was laid out {how}, and rows do not move by themselves: set \
         clickhouse.cluster back, or another clickhouse.database"
    )]
    Placed { cluster: String, database: String, how: &'static str },
    #[error(transparent)]
    Tiers(#[from] tiers::Error),
    #[error("stopped before all migrations were applied; the next start goes on with them")]
    Stopped,
}

impl Error {
    /// Whether a person is needed: by itself it stays as it is.
    fn needs_person(&self) -> bool {
        match self {
            Error::ClickHouse(_) | Error::Statement { .. } | Error::Stopped => false,
            Error::Tiers(error) => error.needs_person(),
            _ => true,
        }
    }
}

/// What the database has recorded: number to name and checksum.
type Recorded = BTreeMap<u32, (String, String)>;

/// What would be run now, or everything when the database is not there yet.
pub(crate) async fn pending(clickhouse: &ClickHouse) -> Result<Vec<&'static Migration>, Error> {
    check_cluster(clickhouse).await?;
    match recorded(clickhouse, &own_records(clickhouse)).await? {
        Some(recorded) => check(MIGRATIONS, &recorded),
        None => {
            check_place(clickhouse).await?;
            check(MIGRATIONS, &Recorded::new())
        }
    }
}

/// The statements that make room for the migrations, the last one in [`ClickHouse::home`].
pub(crate) fn foundation(clickhouse: &ClickHouse) -> Vec<String> {
    let on_cluster = clickhouse.on_cluster();
    let mut databases = vec![clickhouse.database().to_owned(), clickhouse.home()];
    databases.dedup();
    let create = |database: String| format!("CREATE DATABASE IF NOT EXISTS `{database}`{on_cluster}");
    databases.into_iter().map(create).chain([clickhouse.placement().record_table()]).collect()
}

/// What is in the way of the schema, for /readyz.
#[derive(Debug, Default)]
pub(crate) struct Problem(Mutex<Option<String>>);

impl Problem {
    /// What it is now.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is news.
    pub(crate) fn set(&self, problem: Option<String>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *known != problem;
        *known = problem;
        news
    }
}

/// Work that may be broken off: it holds no lock.
pub(crate) async fn unless_stopped<T, E>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error>
where
    Error: From<E>,
{
    Ok(stop.run_until_cancelled(work).await.ok_or(Error::Stopped)??)
}

/// Run what is pending; returns what was run. After `stop` no further statement is begun.
pub(crate) async fn apply(
    clickhouse: &ClickHouse,
    problem: &Problem,
    stop: &CancellationToken,
) -> Result<Vec<&'static Migration>, Error> {
    let prepared = async {
        let pending = pending(clickhouse).await?;
        let foundation = foundation(clickhouse);
        if let Some((record_table, databases)) = foundation.split_last().filter(|_| !pending.is_empty()) {
            for database in databases {
                clickhouse.run_outside(database).await?;
            }
            clickhouse.run(record_table).await?;
        }
        Ok::<bool, Error>(!pending.is_empty())
    };
    if !unless_stopped(stop, prepared).await? {
        return Ok(Vec::new());
    }
    lock(clickhouse, problem, stop).await?;
    let applied = apply_locked(clickhouse, stop).await;
    // Left behind, the lock is broken after its time: what matters is whether the migrations ran.
    if let Err(error) = unlock(clickhouse).await {
        tracing::warn!(%error, "the migration lock could not be removed; it lapses after {} s", lock_seconds_max(clickhouse));
    }
    applied
}

async fn apply_locked(clickhouse: &ClickHouse, stop: &CancellationToken) -> Result<Vec<&'static Migration>, Error> {
    // Again, as another gateway may have run them while this one waited for the lock.
    let recorded = recorded(clickhouse, &clickhouse.everywhere(RECORDS)).await?;
    let pending = check(MIGRATIONS, &recorded.unwrap_or_default())?;
    for migration in &pending {
        for statement in migration.statements(&clickhouse.placement())? {
            if stop.is_cancelled() {
                return Err(Error::Stopped);
            }
            let failed = |source| Error::Statement { name: migration.name, source };
            clickhouse.run(&statement).await.map_err(failed)?;
        }
        clickhouse.run(&record(migration)).await?;
        tracing::info!(migration = migration.name, "migration applied");
    }
    Ok(pending)
}

/// The statement that records a migration. Number, file name and hexadecimal digits of this program: nothing in them needs quoting.
pub(crate) fn record(migration: &Migration) -> String {
    let Migration { number, name, .. } = migration;
    format!("INSERT INTO {RECORDS} (Number, Name, Checksum) VALUES ({number}, '{name}', '{}')", migration.checksum())
}

/// The records of the server that is asked: one that was away may lack the last ones.
fn own_records(clickhouse: &ClickHouse) -> String {
    format!("`{}`.{RECORDS}", clickhouse.home())
}

/// What is recorded in a table; none when it is not there.
async fn recorded(clickhouse: &ClickHouse, table: &str) -> Result<Option<Recorded>, ClickHouseError> {
    let query = format!(
        "SELECT Number, argMax(Name, AppliedAt), argMax(Checksum, AppliedAt) FROM {table} GROUP BY Number ORDER BY Number"
    );
    let lines = match clickhouse.lines(&query).await {
        Ok(lines) => lines,
        Err(error) if matches!(error.code, Some(UNKNOWN_TABLE | UNKNOWN_DATABASE)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let record = |line: Vec<String>| match <[String; 3]>::try_from(line) {
        Ok([number, name, checksum]) => Some((number.parse().ok()?, (name, checksum))),
        Err(_) => None,
    };
    Ok(Some(lines.into_iter().filter_map(record).collect()))
}

/// Refuse a cluster that ClickHouse does not know, or that would write rows twice.
async fn check_cluster(clickhouse: &ClickHouse) -> Result<(), Error> {
    let Some(name) = clickhouse.cluster() else { return Ok(()) };
    let query = "SELECT cluster, min(internal_replication) FROM system.clusters GROUP BY cluster ORDER BY cluster";
    let lines = clickhouse.lines_outside(query).await?;
    match lines.iter().find(|line| line.first().is_some_and(|cluster| cluster == name)).map(|line| line.get(1)) {
        Some(Some(replication)) if replication == "1" => Ok(()),
        Some(_) => Err(Error::Replication { name: name.to_owned() }),
        None => {
            let known: Vec<_> = lines.iter().filter_map(|line| line.first().map(String::as_str)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Err(Error::Cluster { name: name.to_owned(), known })
        }
    }
}

/// Refuse a database that is laid out the other way: on a cluster its tables would be replaced.
async fn check_place(clickhouse: &ClickHouse) -> Result<(), Error> {
    let database = clickhouse.database();
    let (other, how) = match clickhouse.cluster() {
        Some(_) => (database.to_owned(), "for one server"),
        None => (local_database(database), "on a cluster"),
    };
    let query = format!("SELECT name FROM system.tables WHERE database = '{other}' AND name = '{RECORDS}'");
    if clickhouse.lines_outside(&query).await?.is_empty() {
        return Ok(());
    }
    let cluster = clickhouse.cluster().unwrap_or_default().to_owned();
    Err(Error::Placed { cluster, database: database.to_owned(), how })
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

fn lock_seconds_max(clickhouse: &ClickHouse) -> u64 {
    if clickhouse.cluster().is_some() { LOCK_SECONDS_MAX_ON_CLUSTER } else { LOCK_SECONDS_MAX }
}

/// Another gateway's lock, as ClickHouse has it.
struct Held {
    by: String,
    /// In UTC, as the next.
    since: String,
    until: String,
    is_over: bool,
}

impl Held {
    /// None when it is gone.
    async fn read(clickhouse: &ClickHouse) -> Result<Option<Held>, ClickHouseError> {
        let (home, seconds_max) = (clickhouse.home(), lock_seconds_max(clickhouse));
        let query = format!(
            "WITH metadata_modification_time AS since, since + {seconds_max} AS until \
             SELECT comment, formatDateTime(since, '%FT%TZ', 'UTC'), formatDateTime(until, '%FT%TZ', 'UTC'), now() > until \
             FROM system.tables WHERE database = '{home}' AND name = '{LOCK_TABLE}'"
        );
        let line = clickhouse.lines(&query).await?.into_iter().next();
        Ok(line.and_then(|line| <[String; 4]>::try_from(line).ok()).map(|[by, since, until, is_over]| Held {
            by: if by.is_empty() { "a gateway that does not say which".to_owned() } else { by },
            since,
            until,
            is_over: is_over == "1",
        }))
    }
}

/// This process, as others are told of it. Nothing in it needs quoting.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')).collect();
    format!("ollystack-gateway {} on {host}, process {}", env!("CARGO_PKG_VERSION"), std::process::id())
}

async fn lock(clickhouse: &ClickHouse, problem: &Problem, stop: &CancellationToken) -> Result<(), Error> {
    let on_cluster = clickhouse.on_cluster();
    // No IF NOT EXISTS: of two gateways one is told that it exists.
    let create = format!("CREATE TABLE {LOCK_TABLE}{on_cluster} (Held UInt8) ENGINE = Memory COMMENT '{}'", holder());
    let mut waited = false;
    loop {
        if stop.is_cancelled() {
            return Err(Error::Stopped);
        }
        match clickhouse.run(&create).await {
            Err(error) if error.code == Some(TABLE_EXISTS) => {}
            // Made, though not everywhere: in the way of nobody.
            Err(error) if error.code == Some(TIMEOUT_EXCEEDED) => {
                let _ = unlock(clickhouse).await;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
            Ok(()) => {
                if waited {
                    problem.set(None);
                }
                return Ok(());
            }
        }
        match Held::read(clickhouse).await? {
            Some(Held { by, since, is_over: true, .. }) => {
                tracing::warn!(holder = by, since, "breaking the migration lock of a gateway that died");
                unlock(clickhouse).await?;
                continue;
            }
            Some(Held { by, since, until, .. }) => {
                waited = true;
                let waits = format!(
                    "waiting for the migration lock that {by} has since {since}; unless it is released before, it lapses at {until}"
                );
                if problem.set(Some(waits.clone())) {
                    tracing::info!("{waits}");
                }
            }
            // Released meanwhile, or another server of the cluster has it.
            None => {}
        }
        stop.run_until_cancelled(sleep(LOCK_LOOK_INTERVAL)).await;
    }
}

async fn unlock(clickhouse: &ClickHouse) -> Result<(), ClickHouseError> {
    let on_cluster = clickhouse.on_cluster();
    clickhouse.run(&format!("DROP TABLE IF EXISTS {LOCK_TABLE}{on_cluster}")).await
}

/// Apply the migrations whenever `ready` says that the schema is not there, until `stop`. `problem` holds what is in the way.
pub(crate) async fn keep_applied(
    clickhouse: ClickHouse,
    tiers: Tiers,
    ready: watch::Sender<bool>,
    problem: &Problem,
    stop: CancellationToken,
) {
    let overdue = async {
        stop.cancelled().await;
        sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        () = keep(&clickhouse, &tiers, &ready, problem, &stop) => {}
        () = overdue => tracing::warn!(
            "ClickHouse has not answered within {} s of the stop; a migration lock of this gateway lapses {} s after it was made",
            STOP_TIMEOUT.as_secs(),
            lock_seconds_max(&clickhouse)
        ),
    }
}

async fn keep(
    clickhouse: &ClickHouse,
    tiers: &Tiers,
    ready: &watch::Sender<bool>,
    problem: &Problem,
    stop: &CancellationToken,
) {
    let mut states = ready.subscribe();
    let (mut pause, mut failures) = (RETRY_MIN, 0_u32);
    loop {
        // An error means that the sender is gone, and it is ours.
        let _ = stop.run_until_cancelled(states.wait_for(|ready| !*ready)).await;
        let applied = async {
            apply(clickhouse, problem, stop).await?;
            unless_stopped(stop, tiers::apply(clickhouse, tiers)).await
        };
        let wait = match applied.await {
            Ok(_) => {
                problem.set(None);
                tracing::info!(database = clickhouse.database(), "the schema is up to date");
                ready.send_replace(true);
                (pause, failures) = (RETRY_MIN, 0);
                // A table that goes missing again and again must not become a busy loop.
                RETRY_MIN
            }
            Err(Error::Stopped) => return,
            Err(error) => {
                let text = error.to_string();
                let news = problem.set(Some(text.clone()));
                failures += 1;
                if error.needs_person() {
                    if news {
                        tracing::error!(error = text, "the schema cannot be used; rows wait in the spill");
                    }
                } else if failures == STARTS_WITHIN || (failures > STARTS_WITHIN && news) {
                    tracing::warn!(error = text, "no schema; rows wait in the spill; trying again");
                } else if failures == 1 {
                    tracing::info!("waiting for ClickHouse; rows wait in the spill");
                }
                let wait = pause;
                pause = (pause * 2).min(RETRY_MAX);
                wait
            }
        };
        stop.run_until_cancelled(sleep(wait)).await;
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
