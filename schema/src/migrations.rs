//! The numbered migrations: embedded, checksummed, rendered and split into statements; nothing here talks to a database.
//!
//! To apply them to a database:
//! 1. `CREATE DATABASE IF NOT EXISTS` it, then run [`Placement::record_table`] in it.
//! 2. `SELECT Number, Name, Checksum FROM schema_migrations FINAL ORDER BY Number`.
//! 3. For each of [`MIGRATIONS`] in order: if its number is recorded, its checksum must be the recorded one, or stop: a migration that was
//!    applied was edited. A recorded number that is not in the list means that a newer version was here: say so and stop. If it
//!    is not recorded, run each of [`Migration::statements`] in turn, then insert `(Number, Name, Checksum)` into `schema_migrations`.
//!
//! There is no transaction and no lock in ClickHouse. Invariant: every statement may be run again (`IF NOT EXISTS`, `OR REPLACE`, `DROP ... IF EXISTS`, `MODIFY`), so two gateways that
//! start at once, and one that died half-way, both end with the same schema. Forward only: an applied file is never edited.
//!
//! On a cluster there are two databases of one content. What the migrations make is in [`local_database`], on every server: replicated
//! tables, views over them, and materialized views that feed a shard's tables from that shard's own. Everybody else, the gateway
//! included, sees the database that is configured: it has a `Distributed` table of the same name before each of them that keeps anything. A row's shard follows
//! from its tenant, so all of a tenant lies on one: what a view groups or joins is together there, and a view is asked shard by shard
//! like a table. A table without a tenant would break that, and so would a statement that copies rows, which runs on one server only.

use sha2::{Digest, Sha256};
use std::fmt;

/// Where a shard's tables stand in Keeper; ClickHouse puts in the server's macro and the names.
const SHARD_PATH: &str = "/clickhouse/tables/{shard}/{database}/{table}";

/// Where tables stand of which each server of the cluster is a replica.
const CLUSTER_PATH: &str = "/clickhouse/tables/{database}/{table}";

/// How many inserts a table knows again by their tokens, as the templates have it, and what stands for it where tokens are in Keeper: by
/// default those are forgotten after an hour, and a block may wait for days in a spill.
const TOKENS: &str = "non_replicated_deduplication_window = 10000";
const REPLICATED_TOKENS: &str =
    "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800";

/// How a table ends that keeps nothing: by way of it one materialized view feeds others.
const NOTHING_KEPT: &str = "\nENGINE = Null";

/// One numbered file.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// From 1, without gaps.
    pub number: u32,
    /// Its file, without the ending.
    pub name: &'static str,
    /// The template.
    pub sql: &'static str,
}

macro_rules! migrations {
    ($($number:literal $file:literal),+ $(,)?) => {
        &[$(Migration { number: $number, name: $file, sql: include_str!(concat!("../migrations/", $file, ".sql")) }),+]
    };
}

/// All, in order.
pub const MIGRATIONS: &[Migration] = migrations![
    1 "0001_metrics",
    2 "0002_logs",
    3 "0003_traces",
    4 "0004_ingested_batches",
    5 "0005_service_metrics",
    6 "0006_error_aggregates",
    7 "0007_service_topology",
    8 "0008_metric_anomalies",
    9 "0009_otel_views",
    10 "0010_log_patterns",
    11 "0011_metric_descriptions",
    12 "0012_agent_ledger",
    13 "0013_ingested_at",
    14 "0014_delivery_indexes",
    15 "0015_service_map",
    16 "0016_tenant_usage",
    17 "0017_storage",
    18 "0018_rollups",
    19 "0019_otel_tools",
    20 "0020_by_time",
    21 "0021_service_edges",
    22 "0022_views_in_steps",
];

/// Where the schema is to live: what a template's placeholders become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// One server, or the embedded engine: plain engines, no `ON CLUSTER`.
    #[default]
    SingleNode,
    /// The servers of a cluster, each with the macros `shard` and `replica`.
    Cluster {
        /// As `system.clusters` has it.
        name: String,
        /// The database that everybody sees.
        database: String,
    },
}

/// The database of what migrations make on a cluster's servers, by the one that everybody sees.
pub fn local_database(database: &str) -> String {
    format!("{database}_local")
}

impl Placement {
    /// The statement for the table that records what was applied, on a cluster one for all of it. Its rows replace each other, so recording
    /// twice does no harm.
    pub fn record_table(&self) -> String {
        let (on_cluster, engine) = match self {
            Placement::SingleNode => (String::new(), "ReplacingMergeTree".to_owned()),
            Placement::Cluster { name, .. } => (
                format!(" ON CLUSTER '{name}'"),
                format!("ReplicatedReplacingMergeTree('{CLUSTER_PATH}', '{{shard}}-{{replica}}')"),
            ),
        };
        format!(
            "CREATE TABLE IF NOT EXISTS schema_migrations{on_cluster} (Number UInt32, Name String, Checksum String, \
             AppliedAt DateTime64(3) DEFAULT now64(3)) ENGINE = {engine} ORDER BY Number"
        )
    }
}

/// A template that cannot be rendered: a fault of the migration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The file.
    pub migration: &'static str,
    /// What is wrong in it.
    pub what: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migration {}: {}", self.migration, self.what)
    }
}

impl std::error::Error for TemplateError {}

impl Migration {
    /// SHA-256 of the template, hexadecimal: the same for every placement.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The statements for a placement, without comments and semicolons. On a cluster they run in [`local_database`].
    pub fn statements(&self, placement: &Placement) -> Result<Vec<String>, TemplateError> {
        let mut statements = Vec::new();
        for template in split(self.sql) {
            let rendered = render(&template, placement);
            statements.push(rendered.map_err(|what| TemplateError { migration: self.name, what })?);
            statements.extend(front(&template, placement));
        }
        Ok(statements)
    }
}

/// On a cluster, what everybody sees of what a statement makes or changes the columns of: made anew, with the columns that there are now.
fn front(template: &str, placement: &Placement) -> Option<String> {
    let Placement::Cluster { name: cluster, database } = placement else { return None };
    let (head, rest) = template.split_once(" ${on_cluster}")?;
    let (verb, name) = head.rsplit_once(' ')?;
    let seen = match verb {
        // What one view hands on to the next is nobody else's.
        "CREATE TABLE IF NOT EXISTS" => !rest.contains(NOTHING_KEPT),
        "CREATE VIEW IF NOT EXISTS" | "CREATE OR REPLACE VIEW" => true,
        "CREATE MATERIALIZED VIEW IF NOT EXISTS" => !rest.starts_with(" TO "),
        "ALTER TABLE" => rest.contains(" COLUMN "),
        _ => false,
    };
    let local = local_database(database);
    seen.then(|| {
        format!(
            "CREATE OR REPLACE TABLE `{database}`.{name} ON CLUSTER '{cluster}'\n\
             ENGINE = Distributed('{cluster}', '{local}', '{name}', cityHash64(TenantId))"
        )
    })
}

/// Replace `${on_cluster}` and `${<Engine>}` or `${<Engine>(<arguments>)}`.
fn render(template: &str, placement: &Placement) -> Result<String, String> {
    // What a view makes anew at each refresh cannot be replicated: each server makes its own, of its own rows.
    let replicated = !template.contains("\nREFRESH ");
    let mut rendered = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or_else(|| "`${` without `}`".to_owned())?;
        let (engine, arguments) = name.split_once('(').unwrap_or((name, ")"));
        match placement {
            Placement::SingleNode if name == "on_cluster" => {
                // The blank before it goes too.
                rendered.push_str(before.trim_end_matches(' '));
            }
            Placement::Cluster { name: cluster, .. } if name == "on_cluster" => {
                rendered.push_str(&format!("{before}ON CLUSTER '{cluster}'"));
            }
            _ if !engine.ends_with("MergeTree") => {
                return Err(format!(
                    "unknown placeholder `${{{name}}}`, known are `on_cluster` and the MergeTree engines"
                ));
            }
            Placement::Cluster { .. } if replicated => {
                let more = if arguments == ")" { "" } else { ", " };
                rendered
                    .push_str(&format!("{before}Replicated{engine}('{SHARD_PATH}', '{{replica}}'{more}{arguments}"));
            }
            _ => {
                rendered.push_str(before);
                rendered.push_str(name);
            }
        }
        rest = after;
    }
    rendered.push_str(rest);
    Ok(match placement {
        Placement::SingleNode => rendered,
        Placement::Cluster { .. } => rendered.replace(TOKENS, REPLICATED_TOKENS),
    })
}

/// Split at semicolons outside of quotes and comments; comments go, empty statements too.
fn split(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '-' if chars.peek() == Some(&'-') => while chars.next_if(|&c| c != '\n').is_some() {},
            ';' => statements.push(std::mem::take(&mut statement)),
            '\'' | '"' | '`' => {
                statement.push(c);
                while let Some(quoted) = chars.next() {
                    statement.push(quoted);
                    if quoted == c {
                        break;
                    }
                    if quoted == '\\' {
                        statement.extend(chars.next());
                    }
                }
            }
            _ => statement.push(c),
        }
    }
    statements.push(statement);
    statements
        .iter()
        .map(|statement| {
            let lines = statement.lines().map(str::trim_end).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join("\n")
        })
        .filter(|statement| !statement.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{self, edge_kind, key};
    use std::collections::HashSet;
    use std::fmt::Write as _;

    #[test]
    fn numbers_run_on_from_one_and_files_bear_them() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.number as usize, index + 1);
            assert!(migration.name.starts_with(&format!("{:04}_", migration.number)), "{}", migration.name);
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
        assert_eq!(files, MIGRATIONS.len(), "a file is not in the list");
    }

    #[test]
    fn every_statement_makes_something_new_or_a_view_anew_and_may_be_run_again() {
        let mut names = HashSet::new();
        for migration in MIGRATIONS {
            for statement in migration.statements(&Placement::SingleNode).unwrap() {
                assert!(
                    !statement.contains('?'),
                    "the clickhouse crate takes a question mark for a parameter: {statement}"
                );
                let head = statement.lines().next().unwrap();
                // A table's settings, and what is rewritten or dropped once more, are then as they were.
                if head.starts_with("ALTER TABLE ") && !statement.contains(" ADD ") {
                    let table = head.split(' ').nth(2).unwrap();
                    assert!(names.contains(table), "{table} is not there");
                    let again = [
                        "MODIFY SETTING",
                        "MODIFY COLUMN",
                        "MODIFY TTL\n",
                        "DROP INDEX IF EXISTS",
                        "MATERIALIZE INDEX IF EXISTS",
                    ];
                    assert!(again.iter().any(|again| statement.contains(again)), "{statement}");
                    continue;
                }
                let name = |rest: &str| rest.split([' ', '(']).next().unwrap().to_owned();
                // Of states of which one counts, however often it comes.
                if head == "INSERT INTO log_templates" {
                    assert!(statement.contains("argMaxMergeState"), "{statement}");
                    continue;
                }
                let again = ["CREATE OR REPLACE VIEW ", "DROP VIEW IF EXISTS "];
                match again.into_iter().find_map(|again| head.strip_prefix(again)).map(name) {
                    Some(view) => assert!(names.contains(&view), "{view} replaces or drops nothing"),
                    None => {
                        let name = name(head.split_once(" IF NOT EXISTS ").expect(head).1);
                        assert!(names.insert(name.clone()), "{name} is made twice");
                    }
                }
            }
        }
    }

    /// What the migrations come to, word for word: a change to one that was released must not pass unseen.
    /// After an intended change to one that was not: `UPDATE_GOLDEN=1 cargo test -p ollystack-schema --features rows`.
    #[test]
    fn the_ddl_is_the_golden_one() {
        let ddl = ddl(&Placement::SingleNode);
        compare(&ddl, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/single_node.golden.sql"));
    }

    /// The same for a cluster.
    #[test]
    fn the_ddl_of_a_cluster_is_the_golden_one() {
        let ddl = format!("{};\n\n{}", cluster().record_table(), ddl(&cluster()));
        compare(&ddl, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster.golden.sql"));
    }

    fn cluster() -> Placement {
        Placement::Cluster { name: "c".to_owned(), database: "ollystack".to_owned() }
    }

    fn ddl(placement: &Placement) -> String {
        let mut ddl = String::new();
        for migration in MIGRATIONS {
            writeln!(ddl, "-- {} {}", migration.name, migration.checksum()).unwrap();
            for statement in migration.statements(placement).unwrap() {
                writeln!(ddl, "{statement};\n").unwrap();
            }
        }
        ddl
    }

    fn compare(ddl: &str, path: &str) {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, ddl).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap();
        let differs = ddl.lines().zip(golden.lines()).find(|(now, then)| now != then);
        assert!(ddl == golden, "the first line that differs (now, golden): {differs:?}");
    }

    /// All of a tenant lies on one shard only if every table knows whose its rows are.
    #[test]
    fn every_table_begins_with_the_tenant_in_columns_and_key() {
        for migration in MIGRATIONS {
            for table in split(migration.sql).iter().filter(|statement| statement.starts_with("CREATE TABLE")) {
                assert!(table.contains("(\n    TenantId "), "{table}");
                assert!(table.contains("\nORDER BY (TenantId, ") || table.ends_with(NOTHING_KEPT), "{table}");
            }
        }
    }

    /// A cluster that has rows began with migration 20: a later one that copies rows would copy those of one server.
    #[test]
    fn nothing_but_on_cluster_runs_on_a_cluster() {
        for migration in MIGRATIONS {
            for statement in migration.statements(&cluster()).unwrap() {
                let head = statement.lines().next().unwrap();
                let copies = migration.number <= 20 && head == "INSERT INTO log_templates";
                assert!(copies || head.contains(" ON CLUSTER 'c'"), "{}: {head}", migration.name);
                assert!(!statement.contains("non_replicated_"), "{}: {statement}", migration.name);
            }
        }
    }

    #[test]
    fn everybody_sees_every_table_and_view_of_a_cluster_and_none_that_only_feeds_others() {
        let (mut made, mut seen) = (HashSet::new(), HashSet::new());
        for statement in MIGRATIONS.iter().flat_map(|migration| migration.statements(&cluster()).unwrap()) {
            let (head, rest) = statement.split_once(" ON CLUSTER 'c'").unwrap_or_default();
            let name = head.rsplit([' ', '.']).next().unwrap().to_owned();
            match head {
                _ if head.starts_with("CREATE OR REPLACE TABLE `ollystack`.") => seen.insert(name),
                _ if head.starts_with("CREATE ") && !rest.starts_with(" TO ") && !rest.ends_with(NOTHING_KEPT) => {
                    made.insert(name)
                }
                _ if head.starts_with("DROP ") => made.remove(&name),
                _ => false,
            };
        }
        assert_eq!(made, seen);
        assert!(seen.contains("logs_raw") && seen.contains("metric_anomalies") && seen.contains("otel_logs"));
    }

    #[test]
    fn names_in_sql_are_those_of_the_code() {
        for feeds_red in ["service_metrics", "by_time"] {
            let red = MIGRATIONS.iter().find(|migration| migration.name.contains(feeds_red)).unwrap().sql;
            assert!(red.contains(&format!("MetricName = '{}'", names::SPAN_DURATION)));
            assert!(red.contains(&format!("{} AS Scale", names::HISTOGRAM_SCALE)));
            assert!(red.contains(&format!("log2(Seconds) * {})", 1 << names::HISTOGRAM_SCALE)));
        }
        let every: String = MIGRATIONS.iter().map(|migration| migration.sql).collect();
        for name in [names::LOG_PATTERN_ID, names::LOG_LAST] {
            assert!(every.contains(&format!("LogAttributes['{name}']")), "{name}");
        }
        let ledger = MIGRATIONS.iter().find(|migration| migration.name.contains("agent_ledger")).unwrap().sql;
        assert!(ledger.contains(&format!("MetricName = '{}'", names::AGENT_LEDGER)));
        for key in [key::LEDGER_ACCOUNT, key::SIGNAL, key::LEDGER_OUTCOME, key::LEDGER_DETAIL] {
            assert!(ledger.contains(&format!("Attributes['{key}']")), "{key}");
        }
        let map = MIGRATIONS.iter().find(|migration| migration.name.contains("service_map")).unwrap().sql;
        for name in [
            names::EDGE_DURATION,
            names::EDGE_CONNECTIONS,
            names::EDGE_SENT,
            names::EDGE_RECEIVED,
            names::EDGE_ROUND_TRIP,
            names::ENDPOINT,
        ] {
            assert!(map.contains(&format!("'{name}'")), "{name}");
        }
        for key in [
            key::EDGE_SOURCE,
            key::EDGE_SOURCE_KIND,
            key::EDGE_TARGET,
            key::EDGE_TARGET_KIND,
            key::EDGE_PROTOCOL,
            key::EDGE_ADDRESS,
            key::SPAN_KIND,
            key::STATUS_CODE,
        ] {
            assert!(map.contains(&format!("Attributes['{key}']")), "{key}");
        }
        for kind in [edge_kind::SERVICE, edge_kind::DATABASE, edge_kind::QUEUE, edge_kind::ADDRESS, edge_kind::INTERNET]
        {
            assert!(map.contains(&format!("'{kind}'")), "{kind}");
        }
        for kind in ["Client", "Producer", "Consumer"] {
            assert!(names::SPAN_KINDS.contains(&kind) && every.contains(&format!("'{kind}'")));
        }
        assert!(names::STATUS_CODES.contains(&"Error") && every.contains("StatusCode = 'Error'"));
    }

    #[test]
    fn statements_end_at_semicolons_of_their_own() {
        let sql = "-- a; b\nSELECT ';', \"x;\" -- c;\n;\n\nSELECT 'it\\'s;' ;-- end";
        assert_eq!(split(sql), ["SELECT ';', \"x;\"", "SELECT 'it\\'s;'"]);
    }

    #[test]
    fn placeholders_are_rendered_and_unknown_ones_refused() {
        let render = |template| render(template, &Placement::SingleNode);
        let template = "CREATE TABLE a ${on_cluster} (x Int8) ENGINE = ${ReplacingMergeTree(x)}";
        assert_eq!(render(template).unwrap(), "CREATE TABLE a (x Int8) ENGINE = ReplacingMergeTree(x)");
        assert!(render("${cluster}").unwrap_err().contains("`${cluster}`"));
        assert!(render("ENGINE = ${MergeTree").is_err());
    }

    #[test]
    fn on_a_cluster_tables_are_replicated_and_what_a_view_makes_anew_is_not() {
        let rendered =
            super::render("CREATE TABLE a ${on_cluster} (x Int8) ENGINE = ${ReplacingMergeTree(x)}", &cluster());
        let replicated =
            "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', x)";
        assert_eq!(rendered.unwrap(), format!("CREATE TABLE a ON CLUSTER 'c' (x Int8) ENGINE = {replicated}"));
        let refreshed = "CREATE MATERIALIZED VIEW a ${on_cluster}\nREFRESH EVERY 1 MINUTE ENGINE = ${MergeTree}";
        assert!(super::render(refreshed, &cluster()).unwrap().ends_with(" ENGINE = MergeTree"));
    }
}
