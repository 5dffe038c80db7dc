//! Rows move to slower disks as they grow old, and expire as before; each is there, wherever it lies.

use anyhow::{Result, ensure};
use ollystack_tests::{GatewayConfig, Outcome, World, get, until};

/// Of these ages in days each, on so many days that they expire on; ten of them lie a day too long.
const FRESH: u32 = 0;
const WARM: u32 = 5;
const COLD: u32 = 20;

pub(crate) fn hold_rows_by_age_and_let_them_expire(world: &World) -> Result<Outcome> {
    let plain = world.gateway()?;
    let tiers = plain.clone().set("tiers.policy", "\"ollystack\"");
    migrate(world, &plain)?;
    // Before there are tiers, and after.
    for age in [FRESH, WARM, COLD] {
        insert(world, age)?;
    }
    ensure!(disks(world)? == "default\t30", "rows lie elsewhere without tiers: {}", disks(world)?);
    let said = migrate(world, &tiers)?;
    ensure!(said.contains("applied tiers"), "{said}");
    for age in [FRESH, WARM, COLD] {
        insert(world, age)?;
    }
    let by_age = "cold\t20\ndefault\t20\nwarm\t20";
    until("rows lie by age", || Ok((disks(world)? == by_age).then_some(())))?;
    ensure!(world.count("SELECT count() FROM {db}.logs_raw")? == 60, "rows are missing");
    ensure!(
        world.count("SELECT uniqExact(Body) FROM {db}.logs_raw WHERE hasToken(Body, 'row')")? == 30,
        "rows changed"
    );

    // A second run finds nothing to do, and what is over goes, from wherever it lies.
    let said = migrate(world, &tiers)?;
    ensure!(said.contains("is up to date"), "{said}");
    world.sql(
        "INSERT INTO {db}.logs_raw (TenantId, Timestamp, IngestedAt, ExpiresAt, Body) \
         SELECT 't', now() - INTERVAL 20 DAY, now() - INTERVAL 20 DAY, now() - INTERVAL 1 DAY, 'over' FROM numbers(10)",
    )?;
    until("expired rows go", || Ok((world.count("SELECT count() FROM {db}.logs_raw")? == 60).then_some(())))?;

    // Off: nothing moves any more, what moved stays and expires as it did.
    migrate(world, &plain)?;
    let ttl = "SELECT count() FROM system.tables WHERE database = '{db}' AND position(engine_full, 'TO VOLUME') > 0";
    ensure!(world.count(ttl)? == 0, "tables still move their rows");
    let expires = "SELECT count() FROM system.tables WHERE database = '{db}' AND position(engine_full, ' TTL ExpiresAt SETTINGS ') > 0";
    ensure!(world.count(expires)? == 4, "tables no longer expire as they did");
    ensure!(disks(world)? == by_age && world.count("SELECT count() FROM {db}.logs_raw")? == 60, "rows moved back");
    Ok(Outcome::Held)
}

pub(crate) fn are_refused_without_the_policy_or_a_volume(world: &World) -> Result<Outcome> {
    for (policy, expected) in [
        ("nowhere", "tiers.policy is nowhere: ClickHouse has the policies default, no_cold, ollystack"),
        ("no_cold", "which has the volumes default, warm and lacks cold"),
    ] {
        let config = world.gateway()?.set("tiers.policy", &format!("{policy:?}"));
        config.write()?;
        let output = config.command(world.binaries(), &["migrate"])?.output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(expected), "{said}");
        // A gateway goes on, and says so.
        let gateway = config.start(world.binaries())?;
        let ready = format!("http://127.0.0.1:{}/readyz", gateway.config().ports[2]);
        until("the gateway says what is in the way", || Ok(get(&ready)?.text().contains(expected).then_some(())))?;
    }
    Ok(Outcome::Held)
}

fn migrate(world: &World, config: &GatewayConfig) -> Result<String> {
    config.write()?;
    let output = config.command(world.binaries(), &["migrate"])?.output()?;
    ensure!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ten rows of an age, each age on a day of its own to expire, so that they are in parts of their own.
fn insert(world: &World, age: u32) -> Result<()> {
    world.sql(&format!(
        "INSERT INTO {{db}}.logs_raw (TenantId, Timestamp, IngestedAt, ExpiresAt, Body) \
         SELECT 't', now64(9) - INTERVAL {age} DAY, now() - INTERVAL {age} DAY, now() + INTERVAL {} DAY, concat('row {age} ', toString(number)) \
         FROM numbers(10)",
        30 - age
    ))?;
    Ok(())
}

fn disks(world: &World) -> Result<String> {
    world.sql(
        "SELECT disk_name, sum(rows) FROM system.parts WHERE database = '{db}' AND table = 'logs_raw' AND active \
         GROUP BY disk_name ORDER BY disk_name",
    )
}
