//! A request with good and bad records is taken but for the bad ones, and the answer says how many and why, by gRPC and by HTTP:
//! exactly the good ones are found.

use crate::otlp::{Call, PROTOBUF, Signal, log, log_records, span, spans};
use anyhow::{Result, bail, ensure};
use ollystack_tests::{Outcome, World, until};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, trace::v1::ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

const GOOD: u64 = 5;

pub(crate) fn names_exactly_what_was_left_out(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let key = gateway.new_key("acme")?;
    // A trace id that is too short, one of zeros, no span id, no times.
    let bad_spans = || {
        vec![
            Span { trace_id: vec![1; 8], ..span("bad", 1) },
            Span { trace_id: vec![0; 16], ..span("bad", 2) },
            Span { span_id: Vec::new(), ..span("bad", 3) },
            Span { start_time_unix_nano: 0, end_time_unix_nano: 0, ..span("bad", 4) },
        ]
    };
    // A time after 2262 does not fit ClickHouse's nanoseconds.
    let bad_logs = || {
        vec![LogRecord { time_unix_nano: u64::MAX, ..log("bad") }, LogRecord { time_unix_nano: u64::MAX, ..log("bad") }]
    };
    let trace = |service: &str| {
        let good = (10..10 + GOOD).map(|id| span("good", id));
        spans(service, good.chain(bad_spans()).collect())
    };
    let log =
        |service: &str| log_records(service, (0..GOOD).map(|i| log(&format!("good {i}"))).chain(bad_logs()).collect());

    let by_http = gateway.post("/v1/traces", Some(&key), &[PROTOBUF], &trace("http"))?;
    ensure!(by_http.status == 200, "{} {}", by_http.status, by_http.text());
    let partial = ExportTraceServiceResponse::decode(by_http.body.as_slice())?.partial_success.unwrap_or_default();
    ensure!(partial.rejected_spans == 4 && partial.error_message.contains("trace id"), "{partial:?}");
    let by_http = gateway.post("/v1/logs", Some(&key), &[PROTOBUF], &log("http"))?;
    let partial = ExportLogsServiceResponse::decode(by_http.body.as_slice())?.partial_success.unwrap_or_default();
    ensure!(partial.rejected_log_records == 2 && !partial.error_message.is_empty(), "{partial:?}");

    let address = gateway.grpc();
    let call = |signal, message| Call::to(&address, signal).with_key(&key.secret).send(message);
    let Ok(answer) = call(Signal::Traces, trace("grpc"))? else { bail!("gRPC refused all spans for some") };
    let partial = ExportTraceServiceResponse::decode(answer)?.partial_success.unwrap_or_default();
    ensure!(partial.rejected_spans == 4, "{partial:?}");
    let Ok(answer) = call(Signal::Logs, log("grpc"))? else { bail!("gRPC refused all log records for some") };
    let partial = ExportLogsServiceResponse::decode(answer)?.partial_success.unwrap_or_default();
    ensure!(partial.rejected_log_records == 2, "{partial:?}");
    // Nothing is said where nothing was left out.
    let Ok(answer) = call(Signal::Logs, Signal::Logs.one("whole"))? else { bail!("gRPC refused a good record") };
    ensure!(ExportLogsServiceResponse::decode(answer)?.partial_success.is_none(), "a partial success of everything");

    for table in ["traces_raw", "logs_raw"] {
        for service in ["http", "grpc"] {
            let rows = |which: &str| {
                world.count(&format!("SELECT count() FROM {{db}}.{table} WHERE ServiceName = '{service}' {which}"))
            };
            until(&format!("the good rows of {service} are in {table}"), || Ok((rows("")? >= GOOD).then_some(())))?;
            ensure!(rows("")? == GOOD, "{} rows of {service} in {table}, good were {GOOD}", rows("")?);
        }
    }
    Ok(Outcome::Held)
}
