//! SIGTERM loses nothing that was accepted: the gateway writes or keeps it, the agent sends or keeps it, open metric windows and
//! undecided traces included, also to a gateway that came while the agent waited to try again; what was kept is said, and delivered after the next
//! start. So it is however they are told, and however often; only
//! Ctrl-C twice ends the agent at once, and that loses nothing of what was acknowledged either.

use crate::numbered;
use crate::otlp::{PROTOBUF, Signal, error_span, logs, spans};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, Link, Outcome, Process, World, until};
use rustix::process::Signal as UnixSignal;
use std::time::Duration;

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
    // Whoever tells it may repeat himself.
    for told in [UnixSignal::INT, UnixSignal::TERM, UnixSignal::TERM] {
        gateway.process().signal(told)?;
    }
    let status = gateway.stop()?;
    ensure!(status.success(), "the gateway ended with {status}");
    let answer = sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(answer.status == 200, "the request in progress was answered {}", answer.status);
    let rows = world.count("SELECT count() FROM {db}.logs_raw")?;
    ensure!(rows == RECORDS as u64, "{rows} rows of {RECORDS} accepted records after the stop");
    Ok(Outcome::Held)
}

pub(crate) fn of_the_agent_sends_or_keeps_what_it_took(world: &World) -> Result<Outcome> {
    let mut gateway = world.gateway_with_tables()?;
    // A window and a decision that would take minutes: only the stop brings them out.
    let config = world.agent(&gateway, "acme")?.set("otlp.enabled", "true");
    let config = config
        .set("metrics.window_ms", "600000")
        .set("metrics.first_window_ms", "600000")
        .set("metrics.constant_ms", "0")
        .set("traces.wait_ms", "300000")
        // And a pause after a failure that would, too.
        .set("export.retry_initial_ms", "600000")
        .set("export.retry_max_ms", "600000");
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
    let said = agent.process().output();
    ensure!(said.contains("on disk, and the next start sends them"), "the agent did not say what it kept:\n{said}");
    gateway.restart()?;
    gateway.wait_until_the_schema_is_there()?;
    ensure!(arrived("alone")? == [0, 0, 0], "the gateway was away, and still something arrived");
    agent.restart()?;
    until("what the agent kept is there after its restart", || Ok((arrived("alone")? == all).then_some(())))?;

    gateway.stop()?;
    send(&agent, "late")?;
    let waits = |agent: &Agent| Ok((agent.status()?["export"]["state"] == "unreachable").then_some(()));
    until("the agent waits to try again", || waits(&agent))?;
    gateway.restart()?;
    gateway.wait_until_the_schema_is_there()?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    until("what waited for the gateway is there", || Ok((arrived("late")? == all).then_some(())))?;
    agent.restart()?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

/// More than any stop here takes, and less than systemd's patience.
const END: Duration = Duration::from_secs(60);
/// What a stop has, where nobody answers.
const DEADLINE_MS: &str = "3000";

pub(crate) fn of_the_agent_is_in_order_however_and_whenever_it_is_told(world: &World) -> Result<Outcome> {
    let mut gateway = world.gateway_with_tables()?;
    let (link, key) = (Link::to_port(gateway.grpc_port())?, gateway.new_key("acme")?);
    let config = world.agent_to(&format!("http://127.0.0.1:{}", link.port()), &key.secret)?;
    let config = config.set("otlp.enabled", "true").set("limits.shutdown_deadline_ms", DEADLINE_MS);
    let mut agent = config.start(world.binaries())?;

    numbered::send(&agent, "repeated")?;
    tell(&mut agent, &[UnixSignal::TERM, UnixSignal::TERM, UnixSignal::HUP, UnixSignal::TERM])?;
    ends_in_order(&mut agent, "told more than once")?;

    agent.restart()?;
    numbered::send(&agent, "interrupted")?;
    tell(&mut agent, &[UnixSignal::INT, UnixSignal::TERM])?;
    ends_in_order(&mut agent, "interrupted")?;

    agent.restart()?;
    link.cut()?;
    numbered::send(&agent, "away")?;
    tell(&mut agent, &[UnixSignal::TERM])?;
    ends_in_order(&mut agent, "without a gateway")?;
    link.mend()?;

    // It takes what is sent to it and never answers: the stop takes all the time that it has, and is told again meanwhile.
    agent.restart()?;
    gateway.process().signal(UnixSignal::STOP)?;
    numbered::send(&agent, "silent")?;
    begins_to_stop(&mut agent, UnixSignal::TERM)?;
    tell(&mut agent, &[UnixSignal::TERM])?;
    ends_in_order(&mut agent, "with a gateway that does not answer")?;

    // As early as it can be told: before it catches signals it has begun nothing.
    agent = config.spawn(world.binaries())?;
    while !catches_sigterm(agent.process())? {
        agent.process().must_run()?;
    }
    tell(&mut agent, &[UnixSignal::TERM])?;
    ends_in_order(&mut agent, "while it started")?;

    agent.restart()?;
    let corrected = agent.account_in_all("logs")?["corrected"].clone();
    numbered::send(&agent, "at once")?;
    begins_to_stop(&mut agent, UnixSignal::INT)?;
    tell(&mut agent, &[UnixSignal::INT])?;
    let status = agent.process().wait(END)?;
    ensure!(status.code() == Some(1), "after Ctrl-C twice the agent ended with {status}");

    gateway.process().signal(UnixSignal::CONT)?;
    agent.restart()?;
    let services = ["repeated", "interrupted", "away", "silent", "at once"];
    services.iter().try_for_each(|service| numbered::arrives(world, service))?;
    numbered::are_there_once(world, &services)?;
    agent.ledger_closes()?;
    let zero = corrected.as_object().context("/status has no corrections")?.values().all(|records| records == 0);
    ensure!(zero, "stops in order were corrected: {corrected}");
    Ok(Outcome::Held)
}

fn tell(agent: &mut Agent, signals: &[UnixSignal]) -> Result<()> {
    signals.iter().try_for_each(|signal| agent.process().signal(*signal))
}

/// The kernel makes one of two signals that wait, so the next must not be sent before this one is heard.
fn begins_to_stop(agent: &mut Agent, signal: UnixSignal) -> Result<()> {
    let stops = |agent: &mut Agent| agent.process().output().matches(": stopping; ").count();
    let before = stops(agent);
    tell(agent, &[signal])?;
    until("the stop has begun", || Ok((stops(agent) > before).then_some(())))
}

fn ends_in_order(agent: &mut Agent, how: &str) -> Result<()> {
    let status = agent.process().wait(END)?;
    ensure!(status.success(), "{how}, the agent ended with {status}");
    Ok(())
}

/// Whether it has said to the kernel what it does on SIGTERM; see proc_pid_status(5).
fn catches_sigterm(process: &mut Process) -> Result<bool> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    let caught = u64::from_str_radix(caught.trim(), 16).with_context(|| format!("SigCgt is {caught}"))?;
    Ok(caught & (1 << (UnixSignal::TERM.as_raw() - 1)) != 0)
}
