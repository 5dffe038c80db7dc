//! Rows move to slower disks as they grow old, and expire as before; each is there, wherever it lies.

use anyhow::{Result, ensure};
use ollystack_tests::{GatewayConfig, Outcome, Process, StoreConfig, World, free_port, get, until};
use rustix::process::Signal as UnixSignal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

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
        world.sql(&insert(age))?;
    }
    ensure!(world.sql(DISKS)? == "default\t30", "rows lie elsewhere without tiers: {}", world.sql(DISKS)?);
    let said = migrate(world, &tiers)?;
    ensure!(said.contains("applied tiers"), "{said}");
    for age in [FRESH, WARM, COLD] {
        world.sql(&insert(age))?;
    }
    let by_age = "cold\t20\ndefault\t20\nwarm\t20";
    until("rows lie by age", || Ok((world.sql(DISKS)? == by_age).then_some(())))?;
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
    ensure!(world.sql(DISKS)? == by_age && world.count("SELECT count() FROM {db}.logs_raw")? == 60, "rows moved back");
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

/// The configuration that we ship, with a server of S3 in the bucket's place.
pub(crate) fn reach_into_object_storage_as_they_are_shipped(world: &World) -> Result<Outcome> {
    let port = free_port()?;
    let mut command = Command::new("moto_server");
    command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
    let Ok(mut s3) = Process::start("s3", command, &world.folder().join("s3.log")) else {
        return Ok(Outcome::Skipped("no server of S3: `pip install 'moto[server]'` adds one".to_owned()));
    };
    until("the bucket is made", || {
        s3.must_run()?;
        Ok(put(port, "/example-bucket").ok().filter(|answer| answer.starts_with("HTTP/1.1 200")))
    })?;
    let folder = world.folder().join("tiered");
    let store = StoreConfig { more_xml: Some(shipped(&folder, port)?), ..StoreConfig::new(&folder)? }
        .start(world.binaries())?;
    let gateway =
        GatewayConfig::new(&folder.join("gateway"), &store.url(), "tiered")?.set("tiers.policy", "\"ollystack\"");
    migrate(world, &gateway)?;
    let insert = |age| store.sql(&insert(age).replace("{db}", "tiered"));
    for age in [FRESH, WARM, COLD, COLD] {
        insert(age)?;
    }
    let disks = || store.sql(&DISKS.replace("{db}", "tiered"));
    until("rows lie by age", || Ok((disks()? == "cold\t20\ndefault\t10\nwarm\t10").then_some(())))?;
    ensure!(objects(port)? > 0, "the bucket is empty");
    // Merged there, and read from there.
    store.sql("OPTIMIZE TABLE tiered.logs_raw FINAL")?;
    let rows = store.sql("SELECT count() FROM tiered.logs_raw WHERE hasToken(Body, 'row')")?;
    ensure!(rows == "40", "rows are missing: {rows} of 40");

    // What is new does not wait for what is old.
    s3.signal(UnixSignal::STOP)?;
    insert(FRESH)?;
    let fresh = store.sql("SELECT count() FROM tiered.logs_raw WHERE Timestamp > now() - INTERVAL 1 DAY")?;
    s3.signal(UnixSignal::CONT)?;
    ensure!(fresh == "20", "{fresh} of 20 fresh rows");

    let cold = "SELECT any(partition_id) FROM system.parts WHERE database = 'tiered' AND table = 'logs_raw' AND active AND disk_name = 'cold'";
    store.sql(&format!("ALTER TABLE tiered.logs_raw DROP PARTITION ID '{}'", store.sql(cold)?))?;
    until("the bucket is empty", || Ok((objects(port)? == 0).then_some(())))?;
    Ok(Outcome::Held)
}

/// packaging/clickhouse/tiers.xml, for this host.
fn shipped(folder: &std::path::Path, port: u16) -> Result<String> {
    let mut xml = include_str!("../../packaging/clickhouse/tiers.xml").to_owned();
    let folder = folder.display();
    for (from, to) in [
        ("/mnt/warm/clickhouse/", format!("{folder}/warm/")),
        ("/var/lib/clickhouse/disks/", format!("{folder}/disks/")),
        ("https://s3.eu-central-1.amazonaws.com/", format!("http://127.0.0.1:{port}/")),
        ("{replica}", "one".to_owned()),
        (
            "<use_environment_credentials>true</use_environment_credentials>",
            "<access_key_id>any</access_key_id><secret_access_key>any</secret_access_key>".to_owned(),
        ),
        // Not the room that a server of the field has.
        ("53687091200", "1048576".to_owned()),
        ("<move_factor>0.1</move_factor>", "<move_factor>0</move_factor>".to_owned()),
    ] {
        ensure!(xml.contains(from), "tiers.xml has no {from}");
        xml = xml.replace(from, &to);
    }
    Ok(xml)
}

/// An empty PUT; the answer's head.
fn put(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Objects in the bucket.
fn objects(port: u16) -> Result<usize> {
    let list = get(&format!("http://127.0.0.1:{port}/example-bucket?list-type=2"))?;
    ensure!(list.status == 200, "the bucket cannot be listed: {}", list.text());
    Ok(list.text().matches("<Key>").count())
}

fn migrate(world: &World, config: &GatewayConfig) -> Result<String> {
    config.write()?;
    let output = config.command(world.binaries(), &["migrate"])?.output()?;
    ensure!(output.status.success(), "migrate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ten rows of an age, each age on a day of its own to expire, so that they are in parts of their own.
fn insert(age: u32) -> String {
    format!(
        "INSERT INTO {{db}}.logs_raw (TenantId, Timestamp, IngestedAt, ExpiresAt, Body) \
         SELECT 't', now64(9) - INTERVAL {age} DAY, now() - INTERVAL {age} DAY, now() + INTERVAL {} DAY, concat('row {age} ', toString(number)) \
         FROM numbers(10)",
        30 - age
    )
}

/// How many rows lie where.
const DISKS: &str = "SELECT disk_name, sum(rows) FROM system.parts WHERE database = '{db}' AND table = 'logs_raw' AND active \
                     GROUP BY disk_name ORDER BY disk_name";
