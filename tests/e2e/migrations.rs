//! Migrations are applied once: a second run changes nothing and says so, and existing rows stay.

use crate::otlp::{PROTOBUF, Signal};
use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, World, until};

pub(crate) fn a_second_run_changes_nothing(world: &World) -> Result<Outcome> {
    let config = world.gateway()?;
    config.write()?;
    let migrate = || -> Result<String> {
        let output = config.command(world.binaries(), &["migrate"])?.output()?;
        ensure!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    // Of every object: its name, what it is and when its definition last changed. A refreshable view swaps the table behind
    // it at each refresh.
    let objects = || {
        world.sql(
            "SELECT name, engine, metadata_modification_time FROM system.tables \
             WHERE database = '{db}' AND name NOT LIKE '.%' ORDER BY name",
        )
    };
    migrate()?;
    let first = objects()?;
    for table in ["metrics_raw", "metrics_series", "logs_raw", "traces_raw", "service_metrics_1m", "error_aggregates"] {
        ensure!(first.lines().any(|line| line.starts_with(&format!("{table}\t"))), "no {table} in:\n{first}");
    }
    let gateway = config.start(world.binaries())?;
    let key = gateway.new_key("acme")?;
    let answer = gateway.post("/v1/logs", Some(&key), &[PROTOBUF], &Signal::Logs.one("kept"))?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let rows = || world.count("SELECT count() FROM {db}.logs_raw");
    until("the row is there", || Ok((rows()? == 1).then_some(())))?;
    let said = migrate()?;
    let second = objects()?;
    ensure!(first == second, "the second run changed something (it said: {said}); before:\n{first}\nafter:\n{second}");
    ensure!(rows()? == 1, "the second run lost a row");
    Ok(Outcome::Held)
}
