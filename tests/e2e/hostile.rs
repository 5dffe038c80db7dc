//! Requests that are too large, bombs, garbage and strangers' paths: each gets its exact answer, none that a client would
//! retry, none leaves a row, and the gateway serves on.

use crate::otlp::{Call, PROTOBUF, Signal, gzip, logs};
use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, World, until};
use tonic::Code;
use tonic_types::StatusExt;

const WIRE_BYTES_MAX: usize = 64 << 10;
const DECODED_BYTES_MAX: usize = 256 << 10;

/// What it is, path, headers, body, and the status it must get.
type Hostile<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], u16);

pub(crate) fn is_answered_exactly(world: &World) -> Result<Outcome> {
    let config = world.gateway()?.set("server.wire_bytes_max", &WIRE_BYTES_MAX.to_string());
    let config = config.set("server.decoded_bytes_max", &DECODED_BYTES_MAX.to_string());
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;

    const JSON: (&str, &str) = ("content-type", "application/json");
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    let long = logs("hostile", ["x".repeat(2 * WIRE_BYTES_MAX)]);
    let bomb_content = logs("hostile", ["x".repeat(40 * DECODED_BYTES_MAX)]);
    let bomb = gzip(&bomb_content)?;
    ensure!(bomb.len() < WIRE_BYTES_MAX, "the bomb is {} bytes: it must pass the limit on the wire", bomb.len());
    let garbage = b"\xff\xff\xff\xff garbage \x00\x01".to_vec();
    let table: [Hostile; 10] = [
        ("too long", "/v1/logs", &[PROTOBUF], &long, 413),
        ("bomb", "/v1/logs", &[PROTOBUF, GZIP], &bomb, 413),
        ("not gzip", "/v1/logs", &[PROTOBUF, GZIP], &garbage, 400),
        ("not protobuf", "/v1/logs", &[PROTOBUF], &garbage, 400),
        ("not protobuf", "/v1/metrics", &[PROTOBUF], &garbage, 400),
        ("not protobuf", "/v1/traces", &[PROTOBUF], &garbage, 400),
        ("not JSON", "/v1/logs", &[JSON], b"{\"resourceLogs\": [", 400),
        ("JSON of another form", "/v1/logs", &[JSON], b"{\"resourceLogs\": 7}", 400),
        ("unknown content", "/v1/logs", &[("content-type", "text/html")], b"<p>", 415),
        ("unknown path", "/v1/profiles", &[PROTOBUF], b"", 404),
    ];
    for (name, path, headers, body, expected) in table {
        let answer = gateway.post(path, Some(&key), headers, body)?;
        ensure!(
            answer.status == expected,
            "{name} to {path}: {} instead of {expected}: {}",
            answer.status,
            answer.text()
        );
        ensure!(answer.header("retry-after").is_none(), "{name}: told to retry");
    }
    let answer = ollystack_tests::get(&format!("{}/v1/logs", gateway.http()))?;
    ensure!(answer.status == 405, "GET: {} instead of 405", answer.status);

    let address = gateway.grpc();
    let call = |gzip| Call { gzip, ..Call::to(&address, Signal::Logs).with_key(&key.secret) };
    for (name, gzip, message, expected) in [
        ("too long", false, &long, Code::ResourceExhausted),
        ("bomb", true, &bomb_content, Code::ResourceExhausted),
        ("not protobuf", false, &garbage, Code::InvalidArgument),
    ] {
        let Err(status) = call(gzip).send(message.clone())? else { anyhow::bail!("gRPC {name}: accepted") };
        ensure!(status.code() == expected, "gRPC {name}: {status:?}");
        // RESOURCE_EXHAUSTED with RetryInfo is retried for ever; without, it is final.
        ensure!(status.get_error_details().retry_info().is_none(), "gRPC {name}: told to retry");
    }
    let unknown = Call { method: "/opentelemetry.proto.collector.profiles.v1/Export", ..call(false) };
    let Err(status) = unknown.send(Vec::new())? else { anyhow::bail!("gRPC unknown method: accepted") };
    ensure!(status.code() == Code::Unimplemented, "gRPC unknown method: {status:?}");

    let answer = gateway.post("/v1/logs", Some(&key), &[PROTOBUF], &logs("polite", ["still here".to_owned()]))?;
    ensure!(answer.status == 200, "the gateway does not serve any more: {}", answer.status);
    until("the last record is there", || {
        let rows = world.count("SELECT count() FROM {db}.logs_raw WHERE Body = 'still here'")?;
        Ok((rows == 1).then_some(()))
    })?;
    let hostile = world.count("SELECT count() FROM {db}.logs_raw WHERE ServiceName != 'polite'")?;
    ensure!(hostile == 0, "{hostile} rows of hostile requests");
    Ok(Outcome::Held)
}
