//! While the gateway is away the agent keeps what it accepted on its disk, over a kill -9 too; once the gateway is back everything
//! arrives exactly once, also where the gateway had taken a batch and only its answer was lost. The ledger closes.

use crate::otlp::{PROTOBUF, Signal, logs};
use anyhow::{Result, ensure};
use ollystack_tests::{Agent, Link, Outcome, World, until};

const REQUESTS: usize = 10;
const RECORDS: usize = 20;

pub(crate) fn keeps_and_delivers_once(world: &World) -> Result<Outcome> {
    let gateway = world.gateway()?.start(world.binaries())?;
    let key = gateway.new_key("acme")?;
    let link = Link::to_port(gateway.grpc_port())?;
    let config = world.agent_to(&format!("http://127.0.0.1:{}", link.port()), &key.secret)?;
    let mut agent = config.set("otlp.enabled", "true").start(world.binaries())?;
    send(&agent, "before")?;
    arrives(world, "before")?;

    link.cut()?;
    send(&agent, "during")?;
    agent.process().kill()?;
    agent.restart()?;
    let carried = agent.account("logs")?["carried"].as_u64();
    // And perhaps some that had arrived: the kill may come before the disk knows of their answer.
    ensure!(carried >= Some((REQUESTS * RECORDS) as u64), "found on disk after the kill: {carried:?} records");
    link.mend()?;
    arrives(world, "during")?;

    // The gateway takes the batch, its answer is lost: the agent sends the same again and says so.
    link.swallow_answers(2);
    send(&agent, "unanswered")?;
    arrives(world, "unanswered")?;
    ensure!(link.swallowed() > 0, "no answer was swallowed");
    send(&agent, "after")?;
    arrives(world, "after")?;
    until("nothing waits on disk", || Ok((agent.account("logs")?["waiting"]["buffer"] == 0).then_some(())))?;
    for service in ["before", "during", "unanswered", "after"] {
        let (rows, distinct) = counts(world, service)?;
        ensure!(rows == distinct, "{service}: {rows} rows of {distinct} records");
    }
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

fn send(agent: &Agent, service: &str) -> Result<()> {
    for request in 0..REQUESTS {
        let body = logs(service, (0..RECORDS).map(|record| format!("{service} {request} {record}")));
        let answer = agent.post(Signal::Logs.path(), &[PROTOBUF], &body)?;
        ensure!(answer.status == 200, "{service}: {} {}", answer.status, answer.text());
    }
    Ok(())
}

fn counts(world: &World, service: &str) -> Result<(u64, u64)> {
    let counted = format!("FROM {{db}}.logs_raw WHERE ServiceName = '{service}'");
    Ok((world.count(&format!("SELECT count() {counted}"))?, world.count(&format!("SELECT uniqExact(Body) {counted}"))?))
}

fn arrives(world: &World, service: &str) -> Result<()> {
    until(&format!("every record of `{service}` is there"), || {
        Ok((counts(world, service)?.1 == (REQUESTS * RECORDS) as u64).then_some(()))
    })
}
