//! Who has no valid key gets nothing in: no key, a wrong one, a revoked one, on gRPC and on HTTP, each with the exact answer,
//! which never is one that a client would retry or take for an outage.

use crate::otlp::{Call, PROTOBUF, Signal};
use anyhow::{Result, ensure};
use ollystack_tests::{Key, Outcome, World, until};
use tonic::Code;

pub(crate) fn only_a_valid_key_gets_in(world: &World) -> Result<Outcome> {
    let config = world.gateway()?;
    let gateway = config.start(world.binaries())?;
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

/// The same public id with another secret.
fn forge(secret: &str) -> String {
    let last = if secret.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &secret[..secret.len() - 1])
}
