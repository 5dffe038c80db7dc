//! Migrations are applied once: a second run changes nothing and says so, and existing rows stay. A gateway that is stopped in the middle of
//! them leaves nothing in the way of the next start; one that is killed leaves its lock, and whoever waits for it says whose it is.

use crate::otlp::{PROTOBUF, Signal};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Outcome, World, get, until};

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

pub(crate) fn are_left_in_order_on_stop_and_whoever_waits_for_a_killed_gateway_says_so(
    world: &World,
) -> Result<Outcome> {
    let config = world.gateway()?;
    let locked = || {
        let lock = "SELECT count() FROM system.tables WHERE database = '{db}' AND name = 'schema_migrations_lock'";
        Ok::<bool, anyhow::Error>(world.count(lock)? == 1)
    };
    let is_locked = || Ok(locked()?.then_some(()));

    let mut gateway = config.spawn(world.binaries())?;
    until("migrations are under way", is_locked)?;
    let status = gateway.stop()?;
    ensure!(status.success(), "in the middle of migrations the gateway ended with {status}");
    ensure!(!locked()?, "a gateway that was stopped left its lock");

    let mut gateway = config.spawn(world.binaries())?;
    until("migrations are under way again", is_locked)?;
    gateway.process().kill()?;
    ensure!(locked()?, "the kill came too late: this test needs longer migrations");
    let holder = format!("process {} has since ", gateway.process().id());

    let mut gateway = config.spawn(world.binaries())?;
    gateway.wait_until_it_serves()?;
    let mut said = String::new();
    let told = until("/readyz names who has the lock", || {
        said = get(&format!("http://127.0.0.1:{}/readyz", config.ports[2]))?.text();
        Ok((said.contains(&holder) && said.contains("it lapses at ")).then_some(()))
    });
    told.with_context(|| said)?;
    ensure!(gateway.process().output().contains(&holder), "the log does not name who has the lock");
    // Whoever waits is stopped at once, and leaves the lock to whose it is.
    let status = gateway.stop()?;
    ensure!(status.success() && locked()?, "while it waited the gateway ended with {status}");
    let mut gateway = config.start(world.binaries())?;
    world.sql("DROP TABLE {db}.schema_migrations_lock")?;
    gateway.wait_until_the_schema_is_there()?;
    ensure!(!locked()?, "the lock is there after the migrations");
    Ok(Outcome::Held)
}
