//! Programs that know nothing of OllyStack and call each other become edges of the service map: with requests, errors and durations of both
//! sides where eBPF sees what they speak, with connections and bytes from the sockets alone where not. None is told twice, none invented.

use crate::ebpf::{alone, impossible, watching};
use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, Process, World, free_port, get, until};
use std::process::Command;

const FOUND: u64 = 20;
const MISSING: u64 = 5;

/// Asks for a page that is there and one that is not, so many times, and stays: its name is read while there is somebody to read about.
const FRONT: &str = "
import http.client, signal, sys
for path, times in (('/found.txt', int(sys.argv[2])), ('/missing.txt', int(sys.argv[3]))):
    for _ in range(times):
        connection = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]))
        connection.request('GET', path)
        connection.getresponse().read()
        connection.close()
signal.pause()
";

/// Takes whatever comes, and gives half as much back.
const STORE: &str = "
import socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True:
    peer = listener.accept()[0]
    while data := peer.recv(64):
        peer.sendall(b'\\x01' * 8)
";

/// Speaks something of its own over one connection.
const WORKER: &str = "
import socket, sys, time
peer = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
while True:
    peer.sendall(b'\\x01' * 16)
    peer.recv(64)
    time.sleep(0.02)
";

pub(crate) fn tells_each_edge_once_and_invents_none(world: &World) -> Result<Outcome> {
    let sees_requests = impossible()?.is_none();
    let gateway = world.gateway_with_tables()?;
    let _alone = alone();
    let config = watching(world, &gateway)?.set("sockets.enabled", "true").set("sockets.interval_ms", "250");
    // Constants show window by window, too.
    let config = config.set("metrics.constant_ms", "0").set("ebpf.enabled", &sees_requests.to_string());
    let agent = config.start(world.binaries())?;
    let site = world.folder().join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("found.txt"), "found")?;
    let start = |name: &str, arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).env("OTEL_SERVICE_NAME", format!("map-{name}"));
        Process::start(name, command, &world.folder().join(format!("{name}.log")))
    };
    let (web, raw) = (free_port()?, free_port()?);
    let (web_text, raw_text, site) = (web.to_string(), raw.to_string(), site.display().to_string());
    let mut stock = start("stock", &["-m", "http.server", "--bind", "127.0.0.1", "--directory", &site, &web_text])?;
    let mut store = start("store", &["-c", STORE, &raw_text])?;
    for (port, server) in [(web, &mut stock), (raw, &mut store)] {
        until("the servers listen", || {
            server.must_run()?;
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
        })?;
    }
    let _worker = start("worker", &["-c", WORKER, &raw_text])?;

    let edge = |source: &str, target: &str, protocol: &str, figures: &str| {
        world.sql(&format!(
            "SELECT {figures} FROM {{db}}.service_topology \
             WHERE Source = 'map-{source}' AND Target = 'map-{target}' AND TargetKind = 'service' AND Protocol = '{protocol}'"
        ))
    };
    until("the connection that nobody can read is an edge", || {
        let found = edge(
            "worker",
            "store",
            "tcp",
            "max(Connections) = 1 AND sum(BytesSent) > 0 AND sum(BytesReceived) > 0 AND sum(Calls) = 0",
        )?;
        Ok((found == "1").then_some(()))
    })?;
    // It sends twice what it is sent.
    let ratio: f64 = edge("worker", "store", "tcp", "sum(BytesSent) / sum(BytesReceived)")?.parse()?;
    ensure!((1.9..2.1).contains(&ratio), "{ratio} bytes are sent for one that is received");
    if sees_requests {
        until("eBPF sees requests", || {
            get(&format!("http://127.0.0.1:{web}/warm-up"))?;
            let seen = "SELECT count() FROM {db}.service_topology WHERE Target = 'map-stock' AND Protocol = 'http'";
            Ok((world.count(seen)? > 0).then_some(()))
        })?;
        let [found, missing] = [FOUND, MISSING].map(|times| times.to_string());
        let _front = start("front", &["-c", FRONT, &web_text, &found, &missing])?;
        let figures = "concat(toString(sum(Calls)), ' ', toString(sum(Errors)), ' ', toString(sum(ServerCalls)), ' ', toString(sum(ServerErrors)), \
                       ' ', toString(countIf(Calls > 0 AND (DurationAvg <= 0 OR DurationMax > 60 OR ServerDurationAvg > DurationAvg))))";
        // A page that is not there is the client's error.
        let expected = format!("{} {MISSING} {} 0 0", FOUND + MISSING, FOUND + MISSING);
        let mut last = String::new();
        let counted = until("both sides have counted each request", || {
            last = edge("front", "stock", "http", figures)?;
            Ok((last == expected).then_some(()))
        });
        ensure!(counted.is_ok(), "calls, errors, and those of the server: {last}, expected {expected}");
    }
    let invented = world.sql(
        "SELECT DISTINCT Source, Target, Protocol FROM {db}.service_topology WHERE Source LIKE 'map-%' \
         AND (Source, Target) NOT IN (('map-front', 'map-stock'), ('map-worker', 'map-store'))",
    )?;
    ensure!(invented.is_empty(), "edges that nobody made:\n{invented}");
    let twice = world
        .sql("SELECT Time, Source, Target, Protocol FROM {db}.service_topology GROUP BY ALL HAVING count() > 1")?;
    ensure!(twice.is_empty(), "edges that are told twice:\n{twice}");
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}
