//! While ClickHouse is away the gateway goes on accepting, onto its disk; what it accepted arrives once ClickHouse is back, each
//! record exactly once, also where ClickHouse had taken a block and only its answer was lost, and also in the views.

use crate::numbered::{ALL, are_there_once, arrives, send_to_gateway};
use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, World, until};

pub(crate) fn loses_and_doubles_nothing(world: &World) -> Result<Outcome> {
    let link = world.link_to_store()?;
    let config = world.gateway_behind(&format!("http://127.0.0.1:{}", link.port()))?;
    let mut gateway = config.set("clickhouse.connect_timeout_ms", "500").start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    send_to_gateway(&gateway, &key, "before")?;
    arrives(world, "before")?;

    link.cut()?;
    send_to_gateway(&gateway, &key, "during")?;
    // A restart in the middle of it: what waits is on disk.
    let status = gateway.stop()?;
    ensure!(status.success(), "the gateway ended with {status}");
    ensure!(
        world.count("SELECT count() FROM {db}.logs_raw WHERE ServiceName = 'during'")? == 0,
        "the link was not cut"
    );
    gateway.restart()?;
    link.mend()?;
    arrives(world, "during")?;

    // ClickHouse takes the block, the answer is lost: the same block goes out again and must not show twice.
    link.swallow_answers(3);
    send_to_gateway(&gateway, &key, "unanswered")?;
    arrives(world, "unanswered")?;
    until("answers were swallowed", || Ok((link.swallowed() > 0).then_some(())))?;
    send_to_gateway(&gateway, &key, "after")?;
    arrives(world, "after")?;
    are_there_once(world, &["before", "during", "unanswered", "after"])?;
    // Fed by every insert of log rows of this severity: once each, too.
    let errors = world.count("SELECT sum(Errors) FROM {db}.error_aggregates")?;
    let expected = 4 * ALL;
    ensure!(errors == expected, "error_aggregates counts {errors} errors, sent were {expected}");
    Ok(Outcome::Held)
}
