//! What a tenant may send is changed while the gateway runs, by its commands, and holds on the next request.

use crate::otlp::{PROTOBUF, Signal};
use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, World, until};

pub(crate) fn are_changed_while_it_runs_and_a_broken_file_changes_nothing(world: &World) -> Result<Outcome> {
    let config = world.gateway()?;
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    let tenants = |arguments: &[&str]| -> Result<(bool, String)> {
        let output = config.command(world.binaries(), &[&["tenants"], arguments].concat())?.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let send = |signal: Signal| gateway.post(signal.path(), Some(&key), &[PROTOBUF], &signal.one("acme"));
    for signal in Signal::ALL {
        ensure!(send(signal)?.status == 200 && send(signal)?.body.is_empty(), "{signal:?} is taken whole");
    }

    let (done, said) = tenants(&["set", "acme", "plan=startup", "signals=logs"])?;
    let line: Vec<&str> = said.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure!(done && line.starts_with(&["acme", "startup", "1", "1000"]), "tenants set: {said}");
    until("traces are rejected, with the reason", || {
        let answer = send(Signal::Traces)?;
        ensure!(answer.status == 200, "a partial success is one: {}", answer.status);
        Ok(answer.text().contains("tenant acme may not send traces, only logs").then_some(()))
    })?;
    ensure!(send(Signal::Logs)?.body.is_empty(), "logs are still taken whole");

    let (done, said) = tenants(&["set", "acme", "retention_days=0"])?;
    ensure!(!done && said.contains("tenants.acme.retention_days is 0; a whole number from 1 to 36500"), "{said}");

    let file = config.folder.join("keys.toml");
    let good = std::fs::read_to_string(&file)?;
    std::fs::write(&file, good.replace("plan = \"startup\"", "plan = \"gold\""))?;
    let ready = format!("http://127.0.0.1:{}/readyz", config.ports[2]);
    until("what is wrong with the file is said where people look", || {
        let said = ollystack_tests::get(&ready)?.text();
        Ok((said.contains("keys.toml: tenants.acme.plan is \"gold\"") && said.contains("tenants set acme"))
            .then_some(()))
    })?;
    ensure!(send(Signal::Logs)?.status == 200, "the key is valid as before");
    ensure!(send(Signal::Traces)?.text().contains("may not send traces"), "and so is what it may send");

    // The command that the error names puts it right.
    let (done, said) = tenants(&["set", "acme", "plan=free", "signals=", "sampling_ratio=1"])?;
    ensure!(done, "tenants set: {said}");
    until("traces are taken again", || Ok(send(Signal::Traces)?.body.is_empty().then_some(())))?;
    let days = world.sql(
        "SELECT DISTINCT dateDiff('day', IngestedAt, ExpiresAt) FROM {db}.traces_raw ORDER BY IngestedAt DESC LIMIT 1",
    )?;
    ensure!(days == "1", "rows of a free tenant expire after {days} days");
    Ok(Outcome::Held)
}
