//! The ledger: what an agent says became of every record, in one query in ClickHouse and over every end that the agent comes to; and the
//! gateway's, against what ClickHouse holds.

use crate::otlp::{PROTOBUF, Signal, gauge, logs, now, span, spans};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, AgentConfig, Gateway, Outcome, World, until};
use serde_json::Value;

/// Longer than any test: what closes so late only a stop brings out.
const NEVER_MS: &str = "600000";

/// Every span is kept, and the agent tells of itself every second.
fn telling(config: AgentConfig) -> AgentConfig {
    let config =
        config.set("otlp.enabled", "true").set("telemetry.enabled", "true").set("telemetry.interval_ms", "1000");
    config.set("traces.baseline_ratio", "1.0").set("traces.budget_spans_per_second", "0")
}

fn send(agent: &Agent, signal: Signal, body: &[u8]) -> Result<()> {
    let answer = agent.post(signal.path(), &[PROTOBUF], body)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

fn send_logs(agent: &Agent, count: u64) -> Result<()> {
    send(agent, Signal::Logs, &logs("shop", (0..count).map(|n| format!("line {n} at {}", now()))))
}

/// What the one query says of a signal.
fn balance(world: &World, signal: &str) -> Result<String> {
    world.sql(&format!(
        "SELECT Seen, Sent, Stored, Lost, Why, Waiting, NotStored, Unaccounted FROM {{db}}.agent_ledger_balance \
         WHERE TenantId = 'acme' AND Signal = '{signal}' AND HostName != '' FORMAT TSV"
    ))
}

fn says(world: &World, signal: &str, expected: &str) -> Result<()> {
    let mut last = String::new();
    let said = until("the query says what happened", || {
        last = balance(world, signal)?;
        Ok((last.trim() == expected.replace(' ', "\t")).then_some(()))
    });
    said.with_context(|| format!("{signal}: {last}, expected {expected}"))
}

/// A number of the account over all runs.
fn in_all(agent: &Agent, signal: Signal, path: &[&str]) -> Result<i64> {
    let status = agent.status()?;
    let account = &status["in_all"]["signals"][signal as usize];
    let number = path.iter().fold(account, |value, key| &value[*key]);
    number.as_i64().with_context(|| format!("/status has no in_all {path:?}: {account}"))
}

/// Waits until the account over all runs is closed, and gives it.
fn closed(agent: &Agent) -> Result<Vec<Value>> {
    until("the ledger closes over all runs", || {
        let status = agent.status()?;
        let accounts = status["in_all"]["signals"].as_array().context("/status has no in_all")?.clone();
        Ok((accounts.len() == 3 && accounts.iter().all(|account| account["balance"] == 0)).then_some(accounts))
    })
}

pub(crate) fn is_one_query_that_says_what_was_seen_sent_stored_and_lost_and_why(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let telling = telling(world.agent(&gateway, "acme")?);
    let mut agent = telling.start(world.binaries())?;
    send_logs(&agent, 100)?;
    // Seven of the spans have no trace that they could belong to.
    let spans_sent = (0..27).map(|id| match span("work", id) {
        span if id < 20 => span,
        span => opentelemetry_proto::tonic::trace::v1::Span { trace_id: vec![1, 2, 3], ..span },
    });
    send(&agent, Signal::Traces, &spans("shop", spans_sent.collect()))?;
    says(world, "logs", "100 100 100 0 {} 0 0 0")?;
    says(world, "traces", "27 20 20 7 {'malformed':7} 0 0 0")?;

    // What is in open windows, and in no checkpoint, a kill takes.
    agent.process().kill()?;
    let silent = telling.clone().set("telemetry.enabled", "false").set("metrics.checkpoint_ms", NEVER_MS);
    let silent = silent.set("metrics.window_ms", NEVER_MS).set("metrics.first_window_ms", NEVER_MS);
    let mut agent = silent.start(world.binaries())?;
    let lost_before = in_all(&agent, Signal::Metrics, &["dropped", "crash"])?;
    for value in 0..9 {
        send(&agent, Signal::Metrics, &gauge("shop", "test.level", f64::from(value)))?;
    }
    send_logs(&agent, 50)?;
    until("the samples are in the books", || Ok((silent.samples_at_risk()? == 9).then_some(())))?;
    agent.process().kill()?;
    let mut agent = telling.start(world.binaries())?;
    let lost = in_all(&agent, Signal::Metrics, &["dropped", "crash"])?;
    ensure!(lost == lost_before + 9, "nine samples were in open windows, {} are counted as lost", lost - lost_before);
    send_logs(&agent, 5)?;
    says(world, "logs", "155 155 155 0 {} 0 0 0")?;
    says(world, "traces", "27 20 20 7 {'malformed':7} 0 0 0")?;
    let why = "SELECT Why['crash'] FROM {db}.agent_ledger_balance WHERE Signal = 'metrics'";
    until(
        "the samples that the kill took are told",
        || Ok((world.sql(why)?.trim() == lost.to_string()).then_some(())),
    )?;
    closed(&agent)?;
    agent.stop()?;
    Ok(Outcome::Held)
}

pub(crate) fn closes_over_kills_and_stops_and_never_goes_down(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let config = world.agent(&gateway, "acme")?.set("otlp.enabled", "true").set("metrics.checkpoint_ms", "300");
    let mut agent = config.start(world.binaries())?;
    let mut before = closed(&agent)?;
    for round in 0..6_u64 {
        for value in 0..40_u64 {
            send(&agent, Signal::Metrics, &gauge("shop", "test.level", value as f64))?;
            let trace = 1_000 * round + 10 * value;
            send(&agent, Signal::Traces, &spans("shop", (0..10).map(|id| span("work", trace + id)).collect()))?;
        }
        send_logs(&agent, 100)?;
        // The last two ends are stops: they correct nothing, and nothing is lost by them.
        let killed = round < 4;
        if killed {
            agent.process().kill()?;
        } else {
            let status = agent.stop()?;
            ensure!(status.success(), "the agent ended with {status}");
        }
        agent.restart()?;
        let after = closed(&agent)?;
        for (before, after) in before.iter().zip(&after) {
            for counter in ["seen", "sent", "folded", "sampled_out", "suppressed", "bytes_in", "bytes_out"] {
                let (then, now) = (before[counter].as_u64(), after[counter].as_u64());
                ensure!(now >= then && now.is_some(), "{counter} went down: {before} {after}");
            }
            if !killed {
                ensure!(before["corrected"] == after["corrected"], "a stop was corrected: {before} {after}");
                ensure!(before["dropped"] == after["dropped"], "a stop lost records: {before} {after}");
            }
        }
        before = after;
    }
    let acknowledged = 600;
    ensure!(before[Signal::Logs as usize]["seen"].as_u64() >= Some(acknowledged), "{}", before[Signal::Logs as usize]);
    Ok(Outcome::Held)
}

/// The gateway's ledger of log records; what is not accounted for is a failure once nothing moves any more.
fn of_gateway(gateway: &Gateway) -> Result<Value> {
    until("the gateway's ledger closes", || {
        let status = gateway.status()?;
        let logs = status["signals"][Signal::Logs as usize].clone();
        Ok((logs["balance"] == 0 && logs["waiting"]["memory"] == 0).then_some(logs))
    })
}

pub(crate) fn of_the_gateway_says_what_clickhouse_holds(world: &World) -> Result<Outcome> {
    let link = world.link_to_store()?;
    let config = world.gateway_behind(&format!("http://127.0.0.1:{}", link.port()))?;
    let mut gateway = config.set("clickhouse.connect_timeout_ms", "500").start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    let post = |gateway: &Gateway, records: u64| -> Result<()> {
        let body = logs("shop", (0..records).map(|n| format!("record {n}")));
        let answer = gateway.post(Signal::Logs.path(), Some(&key), &[PROTOBUF], &body)?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    };
    let stored = |gateway: &Gateway, expected: u64| -> Result<Value> {
        until("all is stored", || {
            let ledger = of_gateway(gateway)?;
            Ok((ledger["stored"] == expected).then_some(ledger))
        })
    };
    post(&gateway, 30)?;
    stored(&gateway, 30)?;
    // ClickHouse takes a block and its answer is lost: stored once all the same.
    link.swallow_answers(1);
    post(&gateway, 7)?;
    stored(&gateway, 37)?;
    ensure!(link.swallowed() > 0, "no answer was swallowed");
    // Away, what comes waits on disk, over the end of the process, too.
    link.cut()?;
    post(&gateway, 50)?;
    let ledger = of_gateway(&gateway)?;
    ensure!(ledger["waiting"]["spill"] == 50 && ledger["received"] == 87, "{ledger}");
    gateway.process().kill()?;
    gateway.restart()?;
    let ledger = of_gateway(&gateway)?;
    ensure!(ledger["carried"] == 50 && ledger["received"] == 0, "{ledger}");
    link.mend()?;
    stored(&gateway, 50)?;
    let rows = world.count("SELECT count() FROM {db}.logs_raw WHERE TenantId = 'acme'")?;
    ensure!(rows == 87, "37 and 50 records are stored by the gateway's ledger, ClickHouse holds {rows}");
    let tenants = gateway.metric("ollystack_ledger_records_total", &["tenant=\"acme\"", "outcome=\"stored\""])?;
    ensure!(tenants == 50.0, "{tenants} of the tenant's records are stored by /metrics");
    Ok(Outcome::Held)
}
