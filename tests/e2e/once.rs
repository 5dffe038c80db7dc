//! An agent's batch is in ClickHouse once whichever gateways it goes through: also where the first one took it, died before its answer came, and
//! another answers the repetition. While ClickHouse is away the agent keeps what it has, and no gateway spills it. On one server, and through
//! a cluster's tables.

use crate::cluster;
use crate::numbered::{ALL, are_there_once, arrives, send};
use anyhow::{Result, ensure};
use ollystack_tests::{GatewayConfig, Link, Outcome, World, until};

pub(crate) fn through_another_gateway_and_over_an_outage(world: &World) -> Result<Outcome> {
    let to_store = world.link_to_store()?;
    let config = world.gateway_behind(&format!("http://127.0.0.1:{}", to_store.port()))?;
    over_an_outage(world, &to_store, &config)
}

pub(crate) fn through_a_clusters_tables(world: &World) -> Result<Outcome> {
    let to_store = world.link_to_store()?;
    let config = world.gateway_behind(&format!("http://127.0.0.1:{}", to_store.port()))?;
    let config = cluster::lay_out(world, config.set("tiers.policy", "\"ollystack\""))?;
    let held = over_an_outage(world, &to_store, &config)?;
    cluster::rows_are_on_the_shard(world)?;
    cluster::a_block_counts_once(world)?;
    Ok(held)
}

fn over_an_outage(world: &World, to_store: &Link, config: &GatewayConfig) -> Result<Outcome> {
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
    let all_is_sent =
        || until("nothing waits on disk", || Ok((agent.account("logs")?["waiting"]["buffer"] == 0).then_some(())));
    // Or what is known by then is answered at once, and the connection dies of that before anything is written.
    all_is_sent()?;

    // The gateway writes, and dies before the agent hears of it, however often that asks again; another one takes its place.
    to_gateway.swallow_answers(usize::MAX);
    send(&agent, "another")?;
    let written = || world.count("SELECT count() FROM {db}.logs_raw WHERE ServiceName = 'another'");
    until("the gateway wrote what it cannot answer", || Ok((written()? > 0).then_some(())))?;
    first.process().kill()?;
    to_gateway.swallow_answers(0);
    let mut config = config.clone();
    let keys = config.folder.join("keys.toml");
    config.folder = world.folder().join("another gateway");
    let another = config.set("keys.file", &format!("{keys:?}")).start(world.binaries())?;
    arrives(world, "another")?;
    send(&agent, "after")?;
    arrives(world, "after")?;
    all_is_sent()?;
    let known = another.metric("ollystack_redelivered_batches_total", &["outcome=\"known\""])?;
    ensure!(known > 0.0, "the other gateway found nothing that had arrived");
    are_there_once(world, &["before", "away", "another", "after"])?;
    let expected = 4 * ALL;
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
