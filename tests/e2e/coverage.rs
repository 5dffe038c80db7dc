//! `ollystack-agent doctor --processes` tells of real processes whether their requests are seen, with which library they encrypt, and why not, with a
//! running agent beside it and without.

use crate::ebpf::{alone, impossible, watching};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{AgentConfig, Outcome, Process, World, free_port, get, until};
use serde_json::Value;
use std::process::Command;

/// Listens, and has the library of TLS in it.
const ENCRYPTING: &str = "
import socket, ssl, sys
ssl.create_default_context()
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
listener.accept()[0].recv(1)
";

pub(crate) fn of_processes_says_who_is_seen_and_why_others_are_not(world: &World) -> Result<Outcome> {
    let sees_requests = impossible()?.is_none();
    let gateway = world.gateway_with_tables()?;
    let _alone = alone();
    let config = watching(world, &gateway)?.set("sockets.enabled", "true").set("sockets.interval_ms", "250");
    let config = config.set("ebpf.enabled", &sees_requests.to_string()).set("ebpf.metrics_interval_ms", "1000");
    let start = |name: &str, arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).env("OTEL_SERVICE_NAME", format!("covered-{name}"));
        Process::start(name, command, &world.folder().join(format!("{name}.log")))
    };
    let (plain, encrypting) = (free_port()?, free_port()?);
    let (plain_text, encrypting_text) = (plain.to_string(), encrypting.to_string());
    let _plain = start("plain", &["-m", "http.server", "--bind", "127.0.0.1", &plain_text])?;
    let _encrypting = start("encrypting", &["-c", ENCRYPTING, &encrypting_text])?;

    config.write()?;
    let row = until("both processes listen", || {
        let rows = [row_of(world, &config, "covered-plain")?, row_of(world, &config, "covered-encrypting")?];
        let [Some(plain), Some(encrypting)] = rows else { return Ok(None) };
        Ok(is_encrypting(&encrypting).then_some(plain))
    })?;
    ensure!(row["listens"][0] == format!("tcp 127.0.0.1:{plain}"), "{row}");
    ensure!(row["instrumented"] == "no", "nobody watches: {row}");

    let mut agent = config.start(world.binaries())?;
    if sees_requests {
        let row = until("the server's requests are seen", || {
            get(&format!("http://127.0.0.1:{plain}/"))?;
            let row = row_of(world, &config, "covered-plain")?.context("the server is not listed")?;
            Ok((row["instrumented"] == "yes").then_some(row))
        })?;
        ensure!(row["protocols"] == serde_json::json!(["http1"]), "{row}");
        ensure!(row["why"].as_str().is_some_and(|why| why.ends_with("requests seen")), "{row}");
    }
    let row = row_of(world, &config, "covered-encrypting")?.context("the encrypting process is not listed")?;
    ensure!(is_encrypting(&row) && row["instrumented"] == "no" && row["why"] != "", "{row}");
    agent.stop()?;
    Ok(Outcome::Held)
}

fn is_encrypting(row: &Value) -> bool {
    row["tls"] == serde_json::json!([{"name": "OpenSSL", "linked": "shared"}])
}

/// The row of the process that calls itself so.
fn row_of(world: &World, config: &AgentConfig, service: &str) -> Result<Option<Value>> {
    let output = config.command(world.binaries(), &["doctor", "--processes", "--json"])?.output()?;
    ensure!(output.status.success(), "doctor fails: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let rows = report["processes"].as_array().context("no processes")?;
    Ok(rows.iter().find(|row| row["service"] == service).cloned())
}
