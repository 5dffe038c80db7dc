//! A tenant over its quota is told when to come back, by gRPC and by HTTP, and only that tenant.

use crate::otlp::{Call, PROTOBUF, Signal, logs};
use anyhow::{Result, bail, ensure};
use ollystack_tests::{Outcome, World, until};
use tonic::Code;
use tonic_types::StatusExt;

pub(crate) fn says_when_to_come_back(world: &World) -> Result<Outcome> {
    let config = world.gateway()?.set("tenants.records_per_second", "1").set("tenants.burst_seconds", "50");
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let (greedy, modest) = (gateway.new_key("greedy")?, gateway.new_key("modest")?);
    // The burst, and a debt that takes hours to pay, so that no passing of time during the test lets anything in.
    let first = logs("greedy", (0..20_000).map(|i| format!("line {i}")));
    let answer = gateway.post("/v1/logs", Some(&greedy), &[PROTOBUF], &first)?;
    ensure!(answer.status == 200, "the burst was refused: {} {}", answer.status, answer.text());

    let answer = gateway.post("/v1/logs", Some(&greedy), &[PROTOBUF], &Signal::Logs.one("greedy"))?;
    ensure!(answer.status == 429, "over quota: {} instead of 429", answer.status);
    let seconds: u64 = answer.header("retry-after").unwrap_or_default().parse()?;
    ensure!(seconds > 0, "Retry-After is {seconds}");

    let address = gateway.grpc();
    let Err(status) = Call::to(&address, Signal::Logs).with_key(&greedy.secret).send(Signal::Logs.one("greedy"))?
    else {
        bail!("over quota, and accepted by gRPC");
    };
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    ensure!(delay.is_some_and(|delay| !delay.is_zero()), "RESOURCE_EXHAUSTED without RetryInfo is final: {status:?}");

    let answer = gateway.post("/v1/logs", Some(&modest), &[PROTOBUF], &Signal::Logs.one("modest"))?;
    ensure!(answer.status == 200, "another tenant's quota was touched: {}", answer.status);
    until("exactly the accepted records are there", || {
        let rows = world.count("SELECT count() FROM {db}.logs_raw WHERE TenantId = 'greedy'")?;
        ensure!(rows <= 20_000, "{rows} rows of 20,000 accepted");
        Ok((rows == 20_000).then_some(()))
    })?;
    Ok(Outcome::Held)
}
