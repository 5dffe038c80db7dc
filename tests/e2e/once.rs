//! An agent's batch is in ClickHouse once whichever gateways it goes through: also where the first one took it, died before its answer came, and
//! another answers the repetition. While ClickHouse is away the agent keeps what it has, and no gateway spills it.

use crate::otlp::{PROTOBUF, Signal, error_logs};
use anyhow::{Result, ensure};
use ollystack_tests::{Agent, Link, Outcome, World, until};

const REQUESTS: usize = 10;
const RECORDS: usize = 20;

pub(crate) fn through_another_gateway_and_over_an_outage(world: &World) -> Result<Outcome> {
    let to_store = world.link_to_store()?;
    let config = world.gateway_behind(&format!("http://127.0.0.1:{}", to_store.port()))?;
    let mut first = config.start(world.binaries())?;
    first.wait_until_the_schema_is_there()?;
    let key = first.new_key("acme")?;
    let to_gateway = Link::to_port(first.grpc_port())?;
    let agent = world.agent_to(&format!("http://127.0.0.1:{}", to_gateway.port()), &key.secret)?;
    let agent = agent.set("otlp.enabled", "true").start(world.binaries())?;
    send(&agent, "before")?;
    arrives(world, "before")?;

    // ClickHouse is away: nothing of an agent goes to the gateway's disk.
    to_store.cut()?;
    send(&agent, "away")?;
    until("the gateway refuses", || {
        Ok((first.metric("ollystack_ingestion_rejected_total", &["unavailable"])? > 0.0).then_some(()))
    })?;
    ensure!(first.metric("ollystack_spill_blocks_written_total", &[])? == 0.0, "rows of an agent were spilled");
    ensure!(agent.account("logs")?["waiting"]["buffer"].as_u64() > Some(0), "nothing waits on the agent's disk");
    to_store.mend()?;
    arrives(world, "away")?;

    // The gateway writes, and dies before the agent hears of it; another one takes its place.
    to_gateway.swallow_answers(1);
    send(&agent, "another")?;
    until("an answer was swallowed", || Ok((to_gateway.swallowed() > 0).then_some(())))?;
    first.process().kill()?;
    let mut config = config.clone();
    let keys = config.folder.join("keys.toml");
    config.folder = world.folder().join("another gateway");
    let another = config.set("keys.file", &format!("{keys:?}")).start(world.binaries())?;
    arrives(world, "another")?;
    send(&agent, "after")?;
    arrives(world, "after")?;
    until("nothing waits on disk", || Ok((agent.account("logs")?["waiting"]["buffer"] == 0).then_some(())))?;
    let known = another.metric("ollystack_redelivered_batches_total", &["outcome=\"known\""])?;
    ensure!(known > 0.0, "the other gateway found nothing that had arrived");
    for service in ["before", "away", "another", "after"] {
        let (rows, distinct) = counts(world, service)?;
        ensure!(rows == distinct, "{service}: {rows} rows of {distinct} records");
    }
    let expected = (4 * REQUESTS * RECORDS) as u64;
    for view in [
        "SELECT sum(Errors) FROM {db}.error_aggregates",
        "SELECT sum(Rows) FROM {db}.ingested_batches WHERE Signal = 'logs'",
    ] {
        let counted = world.count(view)?;
        ensure!(counted == expected, "`{view}` gives {counted}, sent were {expected}");
    }
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

fn send(agent: &Agent, service: &str) -> Result<()> {
    for request in 0..REQUESTS {
        let body = error_logs(service, (0..RECORDS).map(|record| format!("{service} {request} {record}")));
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
