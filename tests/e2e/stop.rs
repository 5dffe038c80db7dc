//! SIGTERM loses nothing that was accepted: the gateway writes or keeps it, the agent sends or keeps it, open metric windows and
//! undecided traces included; what was kept is delivered after the next start.

use crate::otlp::{PROTOBUF, Signal, error_span, logs, spans};
use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, World, until};

const RECORDS: usize = 500;

pub(crate) fn of_the_gateway_writes_what_it_took(world: &World) -> Result<Outcome> {
    // Rows wait a while for company, and the stop falls into that while.
    let config = world.gateway()?.set("batch.wait_ms", "1000");
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    let http = gateway.http();
    // A request is answered when its rows are safe, so the stop falls into the wait for the answer.
    let body = logs("stopped", (0..RECORDS).map(|record| format!("line {record}")));
    let bearer = format!("Bearer {}", key.secret);
    let sender = std::thread::spawn(move || {
        ollystack_tests::post(&format!("{http}/v1/logs"), &[PROTOBUF, ("authorization", &bearer)], &body)
    });
    until("the request is in progress", || Ok((gateway.metric("ollystack_pending_bytes", &[])? > 0.0).then_some(())))?;
    let status = gateway.stop()?;
    ensure!(status.success(), "the gateway ended with {status}");
    let answer = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(answer.status == 200, "the request in progress was answered {}", answer.status);
    let rows = world.count("SELECT count() FROM {db}.logs_raw")?;
    ensure!(rows == RECORDS as u64, "{rows} rows of {RECORDS} accepted records after the stop");
    Ok(Outcome::Held)
}

pub(crate) fn of_the_agent_sends_or_keeps_what_it_took(world: &World) -> Result<Outcome> {
    let mut gateway = world.gateway()?.start(world.binaries())?;
    // Until the tables are there, agents are told to keep what they have.
    gateway.wait_until_the_schema_is_there()?;
    // A window and a decision that would take minutes: only the stop brings them out.
    let config = world.agent(&gateway, "acme")?.set("otlp.enabled", "true");
    let config = config
        .set("metrics.window_ms", "600000")
        .set("metrics.first_window_ms", "600000")
        .set("metrics.constant_ms", "0")
        .set("traces.wait_ms", "300000");
    let mut agent = config.start(world.binaries())?;
    let send = |agent: &ollystack_tests::Agent, service: &str| -> Result<()> {
        let requests = [
            (Signal::Logs, logs(service, (0..RECORDS).map(|record| format!("line {record}")))),
            (Signal::Traces, spans(service, vec![error_span("failing", 7), error_span("failing", 8)])),
            (Signal::Metrics, Signal::Metrics.one(service)),
        ];
        for (signal, body) in requests {
            let answer = agent.post(signal.path(), &[PROTOBUF], &body)?;
            ensure!(answer.status == 200, "{signal:?}: {} {}", answer.status, answer.text());
        }
        Ok(())
    };
    let arrived = |service: &str| -> Result<[u64; 3]> {
        let count = |table| world.count(&format!("SELECT count() FROM {{db}}.{table} WHERE ServiceName = '{service}'"));
        let gauge = "AND MetricName = 'test.gauge'";
        let metrics =
            world.count(&format!("SELECT count() FROM {{db}}.metrics_raw WHERE ServiceName = '{service}' {gauge}"))?;
        Ok([count("logs_raw")?, count("traces_raw")?, metrics])
    };
    let all = [RECORDS as u64, 2, 1];

    send(&agent, "connected")?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    until("what the stop sent is there", || Ok((arrived("connected")? == all).then_some(())))?;

    agent.restart()?;
    gateway.stop()?;
    send(&agent, "alone")?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status} without a gateway");
    gateway.restart()?;
    ensure!(arrived("alone")? == [0, 0, 0], "the gateway was away, and still something arrived");
    agent.restart()?;
    until("what the agent kept is there after its restart", || Ok((arrived("alone")? == all).then_some(())))?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}
