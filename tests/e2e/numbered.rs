//! Numbered records of a service: sent as some requests, counted in ClickHouse.
//!
//! Every record says which it is, so that what is missing and what is there twice shows.

use crate::otlp::{PROTOBUF, Signal, error_logs};
use anyhow::{Result, ensure};
use ollystack_tests::{Agent, Answer, Gateway, Key, World, until};

const REQUESTS: usize = 10;
const RECORDS: usize = 20;

/// Of one service.
pub(crate) const ALL: u64 = (REQUESTS * RECORDS) as u64;

/// To an agent, which must accept each.
pub(crate) fn send(agent: &Agent, service: &str) -> Result<()> {
    send_by(service, |path, body| agent.post(path, &[PROTOBUF], body))
}

/// To a gateway, which must accept each.
pub(crate) fn send_to_gateway(gateway: &Gateway, key: &Key, service: &str) -> Result<()> {
    send_by(service, |path, body| gateway.post(path, Some(key), &[PROTOBUF], body))
}

fn send_by(service: &str, post: impl Fn(&str, &[u8]) -> Result<Answer>) -> Result<()> {
    for request in 0..REQUESTS {
        let body = error_logs(service, (0..RECORDS).map(|record| format!("{service} {request} {record}")));
        let answer = post(Signal::Logs.path(), &body)?;
        ensure!(answer.status == 200, "{service}: {} {}", answer.status, answer.text());
    }
    Ok(())
}

/// Waits for every record of a service.
pub(crate) fn arrives(world: &World, service: &str) -> Result<()> {
    until(&format!("every record of `{service}` is there"), || Ok((counts(world, service)?.1 == ALL).then_some(())))
}

/// Each of these services' records is there once.
pub(crate) fn are_there_once(world: &World, services: &[&str]) -> Result<()> {
    for service in services {
        let (rows, distinct) = counts(world, service)?;
        ensure!(rows == ALL && distinct == ALL, "{service}: {rows} rows of {distinct} records, {ALL} were sent");
    }
    Ok(())
}

/// Rows, and different ones among them.
fn counts(world: &World, service: &str) -> Result<(u64, u64)> {
    let counted = format!("FROM {{db}}.logs_raw WHERE ServiceName = '{service}'");
    Ok((world.count(&format!("SELECT count() {counted}"))?, world.count(&format!("SELECT uniqExact(Body) {counted}"))?))
}
