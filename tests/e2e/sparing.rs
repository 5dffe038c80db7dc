//! Agents hear what is left of their tenant's quotas and keep fewer ordinary traces before anything of theirs is refused.

use crate::otlp::{PROTOBUF, Signal, logs, span, spans};
use anyhow::{Result, ensure};
use ollystack_tests::{Agent, Outcome, World, until};

/// Traces of one span each, their random bits spread evenly.
const TRACES: u64 = 400;

pub(crate) fn is_asked_of_agents_before_they_are_refused(world: &World) -> Result<Outcome> {
    // The quota fills so slowly that it stays low for the length of the test.
    let config = world.gateway()?.set("tenants.records_per_second", "10").set("tenants.burst_seconds", "200");
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let beside = gateway.new_key("acme")?;
    let agent = world.agent(&gateway, "acme")?.set("otlp.enabled", "true");
    let agent = agent.set("traces.baseline_ratio", "1.0").set("traces.budget_spans_per_second", "0");
    let agent = agent.start(world.binaries())?;
    // Whatever is sent, the answer says how to sample.
    let hear = || {
        let answer = agent.post("/v1/logs", &[PROTOBUF], &logs("shop", ["a word".to_owned()]))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    };
    let ratio = |agent: &Agent| agent.metric("ollystack_sampling_baseline_ratio", &[]);
    hear()?;
    ensure!(ratio(&agent)? == 1.0, "nothing is asked while the quota is whole");

    let most = logs("other", (0..1_700).map(|n| format!("line {n}")));
    let answer = gateway.post("/v1/logs", Some(&beside), &[PROTOBUF], &most)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let (policy, left) = (answer.header("ratelimit-policy"), answer.header("ratelimit").unwrap_or_default());
    ensure!(policy == Some("\"rate\";q=2000;qu=\"records\";w=200"), "{policy:?}");
    ensure!(left.starts_with("\"rate\";r=") && left.contains(";t="), "{left}");
    until("the agent hears of it", || {
        hear()?;
        Ok((ratio(&agent)? < 0.2).then_some(()))
    })?;

    let ordinary = (0..TRACES).map(|n| {
        let mut span = span("ordinary", n);
        span.trace_id[9..11].copy_from_slice(&((n * 65_536 / TRACES) as u16).to_be_bytes());
        span
    });
    let answer = agent.post(Signal::Traces.path(), &[PROTOBUF], &spans("shop", ordinary.collect()))?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let kept = until("what was let go is in the ledger as such", || {
        let account = agent.account("traces")?;
        let let_go = account["sampled_out"].as_u64().unwrap_or_default();
        let sent = account["sent"].as_u64().unwrap_or_default();
        Ok((let_go + sent == TRACES).then_some(sent))
    })?;
    ensure!((2..TRACES / 4).contains(&kept), "{kept} of {TRACES} were kept");
    agent.ledger_closes()?;
    let refused = agent.status()?["export"]["attempts_failed"].clone();
    ensure!(refused == 0, "{refused} attempts were refused");
    let weights = "SELECT toUInt64(sum(SampleWeight)) FROM {db}.traces_raw WHERE SpanName = 'ordinary'";
    until("what was kept stands for what was let go", || {
        Ok((TRACES / 2..TRACES * 2).contains(&world.count(weights)?).then_some(()))
    })?;

    for (fields, expected) in
        [(["records_per_second=0", "sampling_ratio=0.25"], 0.25), (["plan=", "sampling_ratio="], 1.0)]
    {
        let arguments = [&["tenants", "set", "acme"][..], &fields].concat();
        let set = config.command(world.binaries(), &arguments)?.output()?;
        ensure!(set.status.success(), "tenants set: {}", String::from_utf8_lossy(&set.stderr));
        until("the agent hears what the tenant may now", || {
            hear()?;
            Ok((ratio(&agent)? == expected).then_some(()))
        })?;
    }
    Ok(Outcome::Held)
}
