//! A schema laid out on a cluster. The embedded engine has no Keeper: it knows a cluster of one, itself, and takes the statements that the
//! gateway plans for it without `ON CLUSTER` and replication.

use anyhow::{Context, Result, ensure};
use ollystack_tests::{CLUSTER, GatewayConfig, Outcome, World};

/// Lay out what `migrate --plan` says, and configure a gateway for it, which then finds nothing left to be done.
pub(crate) fn lay_out(world: &World, config: GatewayConfig) -> Result<GatewayConfig> {
    let config = config.set("clickhouse.cluster", &format!("{CLUSTER:?}"));
    let plan = migrate(world, &config, &["migrate", "--plan"])?;
    let statements = plan.lines().filter(|line| !line.starts_with("would apply ")).collect::<Vec<_>>().join("\n");
    for statement in statements.split(";\n\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        let local = format!("{}_local", world.database());
        let database = if statement.starts_with("CREATE DATABASE") { "default" } else { &local };
        world.store().sql_in(database, &on_one_server(statement))?;
    }
    let said = migrate(world, &config, &["migrate"])?;
    ensure!(said.contains("is up to date"), "the plan left something to be done: {said}");
    Ok(config)
}

/// A block that comes again under its token counts once, in the table and in a view behind it.
pub(crate) fn a_block_counts_once(world: &World) -> Result<()> {
    for body in ["sent", "sent again"] {
        world.sql(&format!(
            "INSERT INTO {{db}}.logs_raw (TenantId, Timestamp, ServiceName, SeverityNumber, LineCount, Body, IngestedAt, ExpiresAt) \
             SETTINGS insert_deduplication_token = 'one', deduplicate_blocks_in_dependent_materialized_views = 1, \
             distributed_foreground_insert = 1 VALUES ('acme', now(), 'one block', 17, 1, '{body}', now(), now() + 86400)"
        ))?;
    }
    for counted in ["SELECT count() FROM {db}.logs_raw", "SELECT sum(Errors) FROM {db}.error_aggregates"] {
        let counted = world.count(&format!("{counted} WHERE ServiceName = 'one block'"))?;
        ensure!(counted == 1, "a block that came twice counts {counted} times");
    }
    Ok(())
}

/// Every row went through a table that hands on, to the shard's own.
pub(crate) fn rows_are_on_the_shard(world: &World) -> Result<()> {
    let handing_on = "SELECT countIf(engine != 'Distributed') FROM system.tables WHERE database = '{db}'";
    ensure!(world.count(handing_on)? == 0, "a table of the outer database is none that hands on");
    let local = world.store().sql(&format!("SELECT count() FROM {}_local.logs_raw", world.database()))?;
    ensure!(local == world.sql("SELECT count() FROM {db}.logs_raw")?, "{local} rows are on the shard");
    Ok(())
}

pub(crate) fn is_refused_where_it_cannot_be_or_would_replace_tables(world: &World) -> Result<Outcome> {
    let single = world.gateway()?;
    let refusal = |config: &GatewayConfig| -> Result<String> {
        config.write()?;
        let output = config.command(world.binaries(), &["migrate"])?.output()?;
        ensure!(!output.status.success(), "it was not refused");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let unknown = refusal(&single.clone().set("clickhouse.cluster", "\"elsewhere\""))?;
    ensure!(unknown.contains("clickhouse.cluster is elsewhere") && unknown.contains(CLUSTER), "{unknown}");
    migrate(world, &single, &["migrate"])?;
    let laid_out = refusal(&single.set("clickhouse.cluster", &format!("{CLUSTER:?}")))?;
    ensure!(laid_out.contains("was laid out for one server"), "{laid_out}");
    ensure!(world.count("SELECT count() FROM {db}.logs_raw")? == 0, "a table was replaced");
    Ok(Outcome::Held)
}

fn migrate(world: &World, config: &GatewayConfig, arguments: &[&str]) -> Result<String> {
    config.write()?;
    let output = config.command(world.binaries(), arguments)?.output().context("migrate")?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn on_one_server(statement: &str) -> String {
    let statement = statement
        .replace(&format!(" ON CLUSTER '{CLUSTER}'"), "")
        .replace("('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', ", "(")
        .replace("('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')", "")
        .replace("('/clickhouse/tables/{database}/{table}', '{shard}-{replica}')", "")
        .replace("ENGINE = Replicated", "ENGINE = ");
    let tokens = "replicated_deduplication_window = 10000";
    statement.replace(&format!("{tokens}, replicated_deduplication_window_seconds = 604800"), &format!("non_{tokens}"))
}
