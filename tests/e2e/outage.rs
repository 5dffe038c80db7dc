//! While ClickHouse is away the gateway goes on accepting, onto its disk; what it accepted arrives once ClickHouse is back, each
//! record exactly once, also where ClickHouse had taken a block and only its answer was lost, and also in the views.

use crate::otlp::{PROTOBUF, Signal, error_logs};
use anyhow::{Result, ensure};
use ollystack_tests::{Gateway, Key, Outcome, World, until};

const REQUESTS: usize = 20;
const RECORDS: usize = 50;

pub(crate) fn loses_and_doubles_nothing(world: &World) -> Result<Outcome> {
    let link = world.link_to_store()?;
    let config = world.gateway_behind(&format!("http://127.0.0.1:{}", link.port()))?;
    let mut gateway = config.set("clickhouse.connect_timeout_ms", "500").start(world.binaries())?;
    let key = gateway.new_key("acme")?;
    send(&gateway, &key, "before")?;
    arrives(world, "before")?;

    link.cut()?;
    send(&gateway, &key, "during")?;
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
    send(&gateway, &key, "unanswered")?;
    arrives(world, "unanswered")?;
    until("answers were swallowed", || Ok((link.swallowed() > 0).then_some(())))?;
    send(&gateway, &key, "after")?;
    arrives(world, "after")?;
    for service in ["before", "during", "unanswered", "after"] {
        let (rows, distinct) = counts(world, service)?;
        ensure!(rows == distinct, "{service}: {rows} rows of {distinct} records");
    }
    // Fed by every insert of log rows of this severity: once each, too.
    let errors = world.count("SELECT sum(Errors) FROM {db}.error_aggregates")?;
    let expected = 4 * (REQUESTS * RECORDS) as u64;
    ensure!(errors == expected, "error_aggregates counts {errors} errors, sent were {expected}");
    Ok(Outcome::Held)
}

fn send(gateway: &Gateway, key: &Key, service: &str) -> Result<()> {
    for request in 0..REQUESTS {
        let bodies = (0..RECORDS).map(|record| format!("{service} {request} {record}"));
        let body = error_logs(service, bodies);
        let answer = gateway.post(Signal::Logs.path(), Some(key), &[PROTOBUF], &body)?;
        ensure!(answer.status == 200, "{service}: {} {}", answer.status, answer.text());
    }
    Ok(())
}

fn counts(world: &World, service: &str) -> Result<(u64, u64)> {
    let counted = format!("FROM {{db}}.logs_raw WHERE ServiceName = '{service}'");
    Ok((world.count(&format!("SELECT count() {counted}"))?, world.count(&format!("SELECT uniqExact(Body) {counted}"))?))
}

/// Waits for every record of a service.
fn arrives(world: &World, service: &str) -> Result<()> {
    until(&format!("every record of `{service}` is there"), || {
        Ok((counts(world, service)?.1 == (REQUESTS * RECORDS) as u64).then_some(()))
    })
}
