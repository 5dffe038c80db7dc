//! Storage tiers: has ClickHouse move old rows to slower volumes, by the configuration, and only where tables are not so already.
//!
//! Comes after the migrations; which tables, and by what, is [`ollystack_schema::tiers`]. The first volume of the policy must be the one that
//! tables have without it, `default`: ClickHouse lets no table leave a volume behind. For that reason tiers that are turned off leave the policy,
//! and parts where they are; what goes is the moving. Invariant: the TTL by which rows expire is the same before and after.

use crate::config::Tiers;
use crate::write::clickhouse::{ClickHouse, Error as ClickHouseError};
use ollystack_schema::tiers::TIERED_TABLES;
use std::collections::HashMap;

/// Where tables begin.
const FIRST_VOLUME: &str = "default";

/// Why rows cannot move as they are configured to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    ClickHouse(#[from] ClickHouseError),
    #[error(
        "tiers.policy is {policy}: ClickHouse has the policies {known}; set one of them, or add this one to storage_configuration, as \
         packaging/clickhouse/tiers.xml does"
    )]
    Policy { policy: String, known: String },
    #[error(
        "tiers.policy is {policy}, which has the volumes {found} and lacks {lacking}: add it in storage_configuration, as \
         packaging/clickhouse/tiers.xml does{instead}"
    )]
    Volume { policy: String, found: String, lacking: &'static str, instead: String },
}

impl Error {
    /// Whether a person is needed: by itself it stays as it is.
    pub(crate) fn needs_person(&self) -> bool {
        !matches!(self, Error::ClickHouse(_))
    }
}

/// The statements that bring tables to what is configured, for [`ClickHouse::run`]; none where they are so. Tables that are not there yet are
/// taken for fresh.
pub(crate) async fn pending(clickhouse: &ClickHouse, tiers: &Tiers) -> Result<Vec<String>, Error> {
    if tiers.is_on() {
        check(clickhouse, tiers).await?;
    }
    let query = format!(
        "SELECT name, storage_policy, replaceAll(engine_full, '\\n', ' ') FROM system.tables WHERE database = '{}'",
        clickhouse.home()
    );
    let mut tables: HashMap<String, (String, String)> = HashMap::new();
    for line in clickhouse.lines_outside(&query).await? {
        if let Ok([name, policy, engine]) = <[String; 3]>::try_from(line) {
            // As a line shows it, quotes are behind backslashes.
            tables.insert(name, (policy, engine.replace('\\', "")));
        }
    }
    let on_cluster = clickhouse.on_cluster();
    let mut statements = Vec::new();
    for table in TIERED_TABLES {
        let (policy, engine) = tables.get(table.name).map_or(("", ""), |(policy, engine)| (policy, engine));
        let alter = format!("ALTER TABLE {}{on_cluster} MODIFY", table.name);
        if tiers.is_on() && policy != tiers.policy {
            // What is there already learns when to move without being written anew.
            statements.push(format!(
                "{alter} SETTING storage_policy = '{}', materialize_ttl_recalculate_only = 1",
                tiers.policy
            ));
        }
        let ttl = table.ttl(tiers.moves());
        let has_it = engine.contains(&format!(" TTL {ttl} SETTINGS "));
        if !has_it && (tiers.is_on() || engine.contains(" TO VOLUME ")) {
            statements.push(format!("{alter} TTL {ttl}"));
        }
    }
    Ok(statements)
}

/// Bring tables to what is configured; returns the statements that it took.
pub(crate) async fn apply(clickhouse: &ClickHouse, tiers: &Tiers) -> Result<Vec<String>, Error> {
    let statements = pending(clickhouse, tiers).await?;
    for statement in &statements {
        clickhouse.run(statement).await?;
    }
    if !statements.is_empty() {
        tracing::info!(statements = statements.len(), policy = tiers.policy, "storage tiers applied");
    }
    Ok(statements)
}

/// Refuse a policy that is not there, or lacks a volume that rows are to move to.
async fn check(clickhouse: &ClickHouse, tiers: &Tiers) -> Result<(), Error> {
    let lines = clickhouse.lines_outside("SELECT policy_name, volume_name FROM system.storage_policies").await?;
    let mut policies: Vec<&str> = lines.iter().filter_map(|line| line.first().map(String::as_str)).collect();
    policies.dedup();
    let of_policy = lines.iter().filter(|line| line.first() == Some(&tiers.policy));
    let volumes: Vec<&str> = of_policy.filter_map(|line| line.get(1).map(String::as_str)).collect();
    let policy = tiers.policy.clone();
    if volumes.is_empty() {
        return Err(Error::Policy { policy, known: policies.join(", ") });
    }
    let needed = tiers.moves().into_iter();
    let needed = needed.map(|(volume, _)| (volume, format!(", or set tiers.{volume}_after_days to 0")));
    for (lacking, instead) in needed.chain([(FIRST_VOLUME, String::new())]) {
        if !volumes.contains(&lacking) {
            return Err(Error::Volume { policy, found: volumes.join(", "), lacking, instead });
        }
    }
    Ok(())
}
