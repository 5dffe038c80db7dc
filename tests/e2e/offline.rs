//! While the gateway is away the agent keeps what it accepted on its disk, over a kill -9 too; once the gateway is back everything
//! arrives exactly once, also where the gateway had taken a batch and only its answer was lost. The ledger closes.

use crate::numbered::{ALL, are_there_once, arrives, send};
use anyhow::{Result, ensure};
use ollystack_tests::{Link, Outcome, World, until};

pub(crate) fn keeps_and_delivers_once(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
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
    ensure!(carried >= Some(ALL), "found on disk after the kill: {carried:?} records");
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
    are_there_once(world, &["before", "during", "unanswered", "after"])?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}
