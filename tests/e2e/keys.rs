//! Who has no valid key gets nothing in: no key, a wrong one, a revoked one, on gRPC and on HTTP, each with the exact answer,
//! which never is one that a client would retry or take for an outage.

use crate::otlp::{Call, PROTOBUF, Signal};
use anyhow::{Result, ensure};
use ollystack_tests::{Key, Outcome, World, until};
use tonic::Code;

pub(crate) fn only_a_valid_key_gets_in(world: &World) -> Result<Outcome> {
    let config = world.gateway()?;
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    let forged = Key { secret: forge(&key.secret), ..key.clone() };
    let revoked = gateway.new_key("acme")?;
    let id = revoked.secret.split('_').nth(1).unwrap_or_default().to_owned();
    let revoke = config.command(world.binaries(), &["keys", "revoke", &id])?.output()?;
    ensure!(revoke.status.success(), "keys revoke: {}", String::from_utf8_lossy(&revoke.stderr));
    until("the revoked key is refused", || {
        Ok((gateway.post("/v1/logs", Some(&revoked), &[PROTOBUF], &Signal::Logs.one("valid"))?.status == 401)
            .then_some(()))
    })?;

    for signal in Signal::ALL {
        for refused in [None, Some(&forged), Some(&revoked)] {
            let answer = gateway.post(signal.path(), refused, &[PROTOBUF], &signal.one("intruder"))?;
            ensure!(answer.status == 401, "{signal:?}: HTTP {} for {refused:?}", answer.status);
            ensure!(answer.header("retry-after").is_none(), "{signal:?}: told to retry");
            let address = gateway.grpc();
            let call = Call::to(&address, signal);
            let call = if let Some(key) = refused { call.with_key(&key.secret) } else { call };
            let Err(status) = call.send(signal.one("intruder"))? else { anyhow::bail!("{signal:?}: accepted by gRPC") };
            ensure!(status.code() == Code::Unauthenticated, "{signal:?}: {status:?}");
        }
        let address = gateway.grpc();
        let taken = Call::to(&address, signal).with_key(&key.secret).send(signal.one("valid"))?;
        ensure!(taken.is_ok(), "{signal:?}: the valid key was refused: {taken:?}");
    }
    // Rows of the valid key are there; had any intruder's been taken, they would be too.
    for signal in Signal::ALL {
        let table = signal.table();
        until(&format!("rows are in {table}"), || {
            let rows = world.count(&format!("SELECT count() FROM {{db}}.{table} WHERE ServiceName = 'valid'"))?;
            Ok((rows > 0).then_some(()))
        })?;
        let intruders = world.count(&format!("SELECT count() FROM {{db}}.{table} WHERE ServiceName = 'intruder'"))?;
        ensure!(intruders == 0, "{intruders} rows of intruders in {table}");
        let tenants = world.sql(&format!("SELECT DISTINCT TenantId FROM {{db}}.{table}"))?;
        ensure!(tenants == "acme", "tenants in {table}: {tenants}");
    }
    Ok(Outcome::Held)
}

pub(crate) fn can_be_changed_for_others_while_both_are_valid_and_every_act_is_on_record(
    world: &World,
) -> Result<Outcome> {
    let config = world.gateway()?;
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let old = gateway.new_key("acme")?;
    let id = old.secret.split('_').nth(1).unwrap_or_default().to_owned();
    let run = |arguments: &[&str]| -> Result<(bool, String, String)> {
        let output = config.command(world.binaries(), arguments)?.output()?;
        let [out, error] = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).trim().to_owned());
        Ok((output.status.success(), out, error))
    };
    let (rotated, secret, said) = run(&["keys", "rotate", &id, "--overlap", "4s"])?;
    ensure!(rotated, "keys rotate: {said}");
    let new = Key { secret, ..old.clone() };
    let send = |key: &Key| gateway.post("/v1/logs", Some(key), &[PROTOBUF], &Signal::Logs.one("acme"));
    until("the new key is valid", || Ok((send(&new)?.status == 200).then_some(())))?;
    until("the old key expires", || {
        ensure!(send(&new)?.status == 200, "the new key is refused");
        let answer = send(&old)?;
        ensure!(answer.status == 200 || answer.text().contains("this API key expired"), "{}", answer.text());
        Ok((answer.status == 401).then_some(()))
    })?;

    ensure!(run(&["tenants", "set", "acme", "plan=free"])?.0, "tenants set");
    ensure!(run(&["keys", "revoke", &id])?.0, "keys revoke");
    let (whole, log, said) = run(&["keys", "audit"])?;
    ensure!(whole, "keys audit: {said}");
    for (line, act) in log.lines().skip(1).zip(["keys new", "keys rotate", "tenants set", "keys revoke"]) {
        ensure!(line.contains(act) && line.contains("acme"), "{act} is not in {line}");
    }
    let file = config.folder.join("keys.toml.audit");
    let text = std::fs::read_to_string(&file)?;
    for key in [&old, &new] {
        let secret = key.secret.rsplit('_').next().unwrap_or_default();
        ensure!(!text.contains(secret), "a key is in the audit log");
    }
    std::fs::write(&file, text.replace("plan = ", "plan  = "))?;
    let (whole, _, said) = run(&["keys", "audit"])?;
    ensure!(!whole && said.contains("line 4: "), "a line was changed: {said}");
    Ok(Outcome::Held)
}

/// The same public id with another secret.
fn forge(secret: &str) -> String {
    let last = if secret.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &secret[..secret.len() - 1])
}
