//! What an application sends with an official OpenTelemetry SDK (Python) is found in ClickHouse, each record with equal
//! attributes: to the gateway and to the agent, by gRPC and by HTTP.
//!
//! `sdk.py` prints what it has sent; the tables must say the same. The agent folds metrics, so there the totals must agree.

use anyhow::{Context, Result, ensure};
use ollystack_tests::{Outcome, World, cache, until};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;

pub(crate) fn reaches_the_gateway_by_grpc(world: &World) -> Result<Outcome> {
    to_gateway(world, "grpc")
}

pub(crate) fn reaches_the_gateway_by_http(world: &World) -> Result<Outcome> {
    to_gateway(world, "http")
}

pub(crate) fn reaches_the_agent_by_grpc(world: &World) -> Result<Outcome> {
    to_agent(world, "grpc")
}

pub(crate) fn reaches_the_agent_by_http(world: &World) -> Result<Outcome> {
    to_agent(world, "http")
}

fn to_gateway(world: &World, protocol: &str) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let key = gateway.new_key("acme")?;
    let endpoint = if protocol == "grpc" { format!("http://{}", gateway.grpc()) } else { gateway.http() };
    let sent = send(protocol, &endpoint, Some(&key.secret))?;
    spans_and_logs_are_there(world, &sent)?;
    metrics_are_there(world, &sent, "max")
}

fn to_agent(world: &World, protocol: &str) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let agent = world.agent(&gateway, "acme")?.set("otlp.enabled", "true").start(world.binaries())?;
    let endpoint = if protocol == "grpc" { format!("http://{}", agent.grpc()) } else { agent.http() };
    let sent = send(protocol, &endpoint, None)?;
    spans_and_logs_are_there(world, &sent)?;
    metrics_are_there(world, &sent, "sum")
}

/// Runs the application; what it says it has sent.
fn send(protocol: &str, endpoint: &str, key: Option<&str>) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/sdk.py");
    let mut application = Command::new(cache::python()?);
    application.arg(script).arg(protocol).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_SERVICE_NAME", "shop");
    // One way compressed, the other not.
    if protocol == "grpc" {
        application.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    }
    application.env("NO_PROXY", "127.0.0.1");
    if let Some(key) = key {
        application.env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{key}"));
    }
    let output = application.output().context("start the application")?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    // The SDK writes an error of an exporter there and goes on.
    ensure!(
        output.status.success() && complaint.is_empty(),
        "the application ended with {}: {complaint}",
        output.status
    );
    serde_json::from_slice(&output.stdout).context("the application printed no JSON")
}

/// Rows of a query, as JSON with every number as text.
fn rows(world: &World, statement: &str) -> Result<Vec<Value>> {
    let settings = "SETTINGS output_format_json_quote_64bit_integers = 1";
    let text = world.sql(&format!("{statement} {settings} FORMAT JSONEachRow"))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
}

fn spans_and_logs_are_there(world: &World, sent: &Value) -> Result<()> {
    let spans = "SELECT TraceId, SpanId, ParentSpanId, SpanName, SpanKind, StatusCode, StatusMessage, Duration, ScopeName, \
        ScopeVersion, SpanAttributes, Events.Name AS EventNames, Events.Attributes AS EventAttributes, \
        Links.TraceId AS LinkTraceIds, Links.Attributes AS LinkAttributes, ResourceAttributes \
        FROM {db}.traces_raw WHERE ServiceName = 'shop'";
    let logs = "SELECT toString(toUnixTimestamp64Nano(Timestamp)) AS Time, SeverityNumber, SeverityText, Body, ScopeName, \
        ScopeVersion, LogAttributes, ResourceAttributes FROM {db}.logs_raw WHERE ServiceName = 'shop'";
    for (signal, statement, key) in [("spans", spans, "SpanId"), ("logs", logs, "Body")] {
        let sent_rows = sent[signal].as_array().context("the application says nothing of it")?;
        let found = until(&format!("all {signal} are there"), || {
            let found = rows(world, statement)?;
            Ok((found.len() >= sent_rows.len()).then_some(found))
        })?;
        ensure!(found.len() == sent_rows.len(), "{} {signal} of {}", found.len(), sent_rows.len());
        for sent_row in sent_rows {
            let row = found.iter().find(|row| row[key] == sent_row[key]);
            let mut row = row.with_context(|| format!("not found: {sent_row}; found: {found:?}"))?.clone();
            let resource = row.as_object_mut().and_then(|row| row.remove("ResourceAttributes")).unwrap_or_default();
            ensure!(row == *sent_row, "{signal}: sent {sent_row:#}, found {row:#}");
            holds(&resource, &sent["resource"])?;
        }
    }
    Ok(())
}

/// Every attribute that the application gave is there with its value; an agent adds its own.
fn holds(found: &Value, sent: &Value) -> Result<()> {
    let none = Map::new();
    for (name, value) in sent.as_object().unwrap_or(&none) {
        ensure!(&found[name] == value, "resource attribute {name}: sent {value}, found {}", found[name]);
    }
    Ok(())
}

/// `total` makes one value of a series' points: the gateway keeps cumulative points, so the largest is the total; the agent
/// sends what each window added, so their sum is.
fn metrics_are_there(world: &World, sent: &Value, total: &str) -> Result<Outcome> {
    let statement = format!(
        "SELECT MetricName, any(s.Attributes) AS Attributes, {total}(r.Value) AS Total, min(r.Value) AS Least, \
         argMax(r.Value, r.TimeUnix) AS Last, {total}(r.Count) AS Count, {total}(r.Sum) AS Sum, max(r.Max) AS Max \
         FROM {{db}}.metrics_raw AS r JOIN (SELECT DISTINCT SeriesHash, MetricName, Attributes FROM {{db}}.metrics_series) AS s \
         USING (MetricName, SeriesHash) WHERE r.ServiceName = 'shop' AND startsWith(MetricName, 'e2e.') GROUP BY MetricName"
    );
    let read = || -> Result<Map<String, Value>> {
        let rows = rows(world, &statement)?;
        Ok(rows.into_iter().map(|row| (row["MetricName"].as_str().unwrap_or_default().to_owned(), row)).collect())
    };
    let settled = |found: &Map<String, Value>| {
        found.len() == 4
            && found["e2e.counter"]["Total"] == json!(7)
            && found["e2e.up_down"]["Last"] == json!(-3)
            && found["e2e.gauge"]["Last"] == json!(21.5)
            && found["e2e.histogram"]["Count"] == json!("3")
            && found["e2e.histogram"]["Sum"] == json!(321)
    };
    let mut last = Map::new();
    let found = until("all metrics are there with their totals", || {
        last = read()?;
        Ok(settled(&last).then(|| last.clone()))
    });
    let found = found.with_context(|| format!("found: {:#}", Value::Object(last)))?;
    for metric in sent["metrics"].as_array().into_iter().flatten() {
        let row = &found[metric["MetricName"].as_str().unwrap_or_default()];
        ensure!(row["Attributes"] == metric["Attributes"], "sent {metric:#}, found {row:#}");
    }
    Ok(Outcome::Held)
}
