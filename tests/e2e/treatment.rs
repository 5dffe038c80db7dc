//! What a tenant has done to what comes: traces of senders that are no agents are sampled, attributes taken out or hidden.

use crate::otlp::{PROTOBUF, Signal, error_span, span, spans};
use anyhow::{Result, ensure};
use ollystack_tests::{Key, Outcome, World, until};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;

const TRACES: u64 = 400;

/// Their random bits are spread evenly.
fn ordinary(n: u64) -> Span {
    let mut span = span("ordinary", n);
    span.trace_id[9..11].copy_from_slice(&((n * 65_536 / TRACES) as u16).to_be_bytes());
    span
}

pub(crate) fn samples_for_senders_that_do_not_and_the_ledger_and_the_weights_say_so(world: &World) -> Result<Outcome> {
    let config = world.gateway()?.set("tenants.sampling_ratio", "0.25");
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    let mut all: Vec<Span> = (0..TRACES).map(ordinary).collect();
    // One that failed, and what came of its trace; one that took long; one that nobody can read.
    let failed = error_span("failed", 1_000_000);
    let beside = Span { span_id: vec![7; 8], name: "beside".to_owned(), ..span("", 1_000_000) };
    let mut slow = span("slow", 2_000_000);
    slow.start_time_unix_nano = slow.end_time_unix_nano - 1_500_000_000;
    let invalid = Span { trace_id: vec![1], ..span("invalid", 1) };
    all.extend([failed, beside, slow, invalid]);
    let answer = gateway.post(Signal::Traces.path(), Some(&key), &[PROTOBUF], &spans("shop", all))?;
    ensure!(answer.status == 200 && answer.text().contains("1 rejected"), "{} {}", answer.status, answer.text());
    until("a quarter is there, and stands for all", || {
        let found = world.sql(
            "SELECT SpanName, count(), toUInt64(sum(SampleWeight)), any(TraceState) FROM {db}.traces_raw GROUP BY SpanName \
             ORDER BY SpanName FORMAT CSV",
        )?;
        let expected = "\"beside\",1,1,\"\"\n\"failed\",1,1,\"\"\n\"ordinary\",100,400,\"ot=th:c\"\n\"slow\",1,1,\"\"";
        ensure!(found.is_empty() || found.trim() == expected, "{found}");
        Ok((!found.is_empty()).then_some(()))
    })?;
    for (outcome, expected) in [("received", 404.0), ("stored", 103.0), ("sampled_out", 300.0), ("rejected", 1.0)] {
        let outcome = format!("outcome=\"{outcome}\"");
        let found = gateway.metric("ollystack_ledger_records_total", &["tenant=\"acme\"", &outcome])?;
        ensure!(found == expected, "{outcome}: {found} instead of {expected}");
    }
    let red = "SELECT toUInt64(sum(Requests)) FROM {db}.service_metrics_1m WHERE ServiceName = 'shop'";
    let requests = world.count(red)?;
    ensure!(requests == 403, "{requests} requests are estimated of 403");

    // An agent has sampled by itself.
    let agent = world.agent(&gateway, "agents")?.set("otlp.enabled", "true");
    let agent = agent.set("traces.baseline_ratio", "1.0").set("traces.budget_spans_per_second", "0");
    let agent = agent.start(world.binaries())?;
    let failed = (0..20).map(|n| error_span("failed", n)).collect();
    ensure!(agent.post(Signal::Traces.path(), &[PROTOBUF], &spans("shop", failed))?.status == 200);
    until("all that an agent keeps is there", || {
        Ok((world.count("SELECT count() FROM {db}.traces_raw WHERE TenantId = 'agents'")? == 20).then_some(()))
    })?;
    Ok(Outcome::Held)
}

pub(crate) fn takes_out_and_hides_attributes_of_one_tenant_wherever_they_are(world: &World) -> Result<Outcome> {
    let config = world.gateway()?;
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let (key, other) = (gateway.new_key("acme")?, gateway.new_key("open")?);
    let fields = ["attributes_drop=secret.*", "attributes_mask=card", "attributes_hash=user.id"];
    let set = config.command(world.binaries(), &[&["tenants", "set", "acme"][..], &fields].concat())?.output()?;
    ensure!(set.status.success(), "tenants set: {}", String::from_utf8_lossy(&set.stderr));
    let file = std::fs::read_to_string(config.folder.join("keys.toml"))?;
    let secret = file.lines().find_map(|line| line.strip_prefix("hash_key = ")).unwrap_or_default().trim_matches('"');
    let log = std::fs::read_to_string(config.folder.join("keys.toml.audit"))?;
    ensure!(secret.len() == 64 && !log.contains(secret), "the key of hashes is in the audit log");

    let pair = |key: &str, value: &str| {
        let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    };
    let send = |key: &Key, id: u64, name: &str| -> Result<()> {
        let values = [("secret.a", "canary"), ("card", "canary"), ("user.id", "canary"), ("path", "/")];
        let attributes = values.map(|(key, value)| pair(key, value)).to_vec();
        let span = Span { attributes, ..span(name, id) };
        let answer = gateway.post(Signal::Traces.path(), Some(key), &[PROTOBUF], &spans("shop", vec![span]))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    };
    let shown = |name: &str| {
        world.sql(&format!(
            "SELECT mapKeys(SpanAttributes), SpanAttributes['card'], SpanAttributes['user.id'] FROM {{db}}.traces_raw \
             WHERE SpanName = '{name}' ORDER BY Timestamp FORMAT TSV"
        ))
    };
    let mut id = 0;
    until("what is set holds", || {
        id += 1;
        let name = format!("try {id}");
        send(&key, id, &name)?;
        let found = until("it is there", || Ok(Some(shown(&name)?).filter(|found| !found.is_empty())))?;
        Ok(found.starts_with("['card','path','user.id']\t***\thmac:").then_some(()))
    })?;
    for (key, id, name) in [(&key, 1_000, "one"), (&key, 1_001, "one"), (&other, 1_002, "other")] {
        send(key, id, name)?;
    }
    until("all are there", || {
        Ok((world.count("SELECT count() FROM {db}.traces_raw WHERE SpanName IN ('one', 'other')")? == 3).then_some(()))
    })?;
    let (one, other) = (shown("one")?, shown("other")?);
    let lines: Vec<&str> = one.trim().lines().collect();
    ensure!(lines.len() == 2 && lines[0] == lines[1] && !one.contains("canary"), "equal values stay equal: {one}");
    ensure!(
        other.matches("canary").count() == 2 && other.contains("'secret.a'"),
        "another tenant's are as they came: {other}"
    );
    Ok(Outcome::Held)
}
