//! A thousand connections that do what they may not, all from one address, while honest senders at another go on.
//!
//! A cycle lasts [`CYCLE`]. Every attacker connects again when it is thrown out. Invariant: what attackers do follows from the
//! seed; when they are thrown out does not.

use crate::client::{Call, Client, Verdict, Way};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, PING, RST_STREAM, SETTINGS, begin,
    export, frame,
};
use crate::otlp::Signal;
use crate::report::Report;
use crate::run::Run;
use anyhow::{Context, Result};
use fastrand::Rng;
use ollystack_tests::{Gateway, MemoryWatch, resident_bytes, until};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout_at};

const ATTACKERS: usize = 1_000;
/// Of those, as many may be connected: one address has no more.
const PER_ADDRESS: u64 = 400;
/// Honest senders, each with one request at a time.
const HONEST: usize = 32;
const CYCLE: Duration = Duration::from_secs(5);
/// What requests may hold, and what their connections may beside it.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
const CONNECTION_BYTES: u64 = 64 << 10;
const SLACK_BYTES: u64 = 8 << 20;
/// Between two bursts of a flood, or two bytes of what is slow: attackers and attacked share this machine's cores.
const PAUSE: Duration = Duration::from_millis(200);
const BURST: usize = 40;

/// What attackers do.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Connects and says nothing.
    Silence,
    /// Headers of HTTP/1.1, a byte at a time.
    SlowHeaders,
    /// A body with a valid key, a byte at a time.
    SlowBody,
    /// The preface of HTTP/2, then nothing.
    Preface,
    /// Streams opened and reset at once (CVE-2023-44487).
    RapidReset,
    /// A header block without end (CVE-2024-27316).
    Continuation,
    /// A body without end and without a byte.
    EmptyData,
    Pings,
    Settings,
    /// Requests whose answers it gives no window for, and does not read.
    Stall,
    /// What begins like TLS.
    Tls,
    Garbage,
}

const ATTACKS: [Attack; 12] = [
    Attack::Silence,
    Attack::SlowHeaders,
    Attack::SlowBody,
    Attack::Preface,
    Attack::RapidReset,
    Attack::Continuation,
    Attack::EmptyData,
    Attack::Pings,
    Attack::Settings,
    Attack::Stall,
    Attack::Tls,
    Attack::Garbage,
];

/// What became of honest requests.
#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    failed: Vec<String>,
    slowest: Duration,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("connections")?;
    let config = world.gateway()?.set("server.connections_per_address_max", &PER_ADDRESS.to_string());
    let config = config.set("server.header_timeout_ms", "2000").set("server.body_timeout_ms", "2000");
    let config = config.set("server.in_flight_bytes_max", &IN_FLIGHT_BYTES.to_string());
    let config = config.set("tenants.in_flight_bytes_max", &IN_FLIGHT_BYTES.to_string());
    let mut gateway = config.set("tenants.records_per_second", "0").start(world.binaries())?;
    gateway.wait_until_it_writes()?;
    let (honest, hostile) = (gateway.new_key("honest")?, gateway.new_key("hostile")?);
    let address: SocketAddr = gateway.grpc().parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before = resident_bytes(gateway.process().id())?;
    let watch = MemoryWatch::start(gateway.process().id());

    for mut cycle in run.cycles() {
        let end = Instant::now() + CYCLE;
        let tally = runtime.block_on(async {
            let attackers: Vec<_> = (0..ATTACKERS)
                .map(|number| {
                    let attack = ATTACKS[number % ATTACKS.len()];
                    let random = Rng::with_seed(cycle.random.u64(..));
                    tokio::spawn(keep_at_it(attack, address, hostile.secret.clone(), random, end))
                })
                .collect();
            let senders: Vec<_> =
                (0..HONEST).map(|number| tokio::spawn(honestly(address, honest.secret.clone(), number, end))).collect();
            sleep(CYCLE / 2).await;
            let open = tokio::task::spawn_blocking(connections_open(&gateway)).await??;
            report.most("connections_open_most", open);
            report.must(open <= PER_ADDRESS + 2 * HONEST as u64, || {
                format!("{open} connections; {}", run.replay_of(cycle.number))
            });
            let mut tally = Tally::default();
            for sender in senders {
                let one = sender.await?;
                tally.requests += one.requests;
                tally.failed.extend(one.failed);
                tally.slowest = tally.slowest.max(one.slowest);
            }
            let mut thrown_out = 0;
            for attacker in attackers {
                thrown_out += attacker.await?;
            }
            report.add("hostile_connections", thrown_out);
            anyhow::Ok(tally)
        })?;
        report.add("honest_requests", tally.requests);
        report.add("honest_failed", tally.failed.len() as u64);
        report.most("honest_slowest_ms", tally.slowest.as_millis() as u64);
        // One in a thousand may fail.
        let failed = tally.failed.len() as u64;
        report.must(failed * 1_000 <= tally.requests, || {
            let first = tally.failed.first().cloned().unwrap_or_default();
            format!("{failed} of {} honest requests failed ({first}); {}", tally.requests, run.replay_of(cycle.number))
        });
        gateway.process().must_run()?;
        run.progress(cycle.number, "connections");
    }

    let grown = watch.rss_bytes_peak().saturating_sub(before);
    report.figure("memory_grown_bytes", grown);
    let allowed = IN_FLIGHT_BYTES + PER_ADDRESS * CONNECTION_BYTES + SLACK_BYTES;
    report.must(grown <= allowed, || format!("memory grew by {grown} bytes, {allowed} are allowed"));
    let refused = gateway.metric("ollystack_connections_refused_total", &["reason=\"connections_per_address\""])?;
    report.must(refused > 0.0, || "no connection was refused for its address's sake".to_owned());
    until("the attackers' connections are closed", || {
        let open = gateway.metric("ollystack_connections", &[])?;
        Ok((open < 1.0).then_some(()))
    })?;
    report.must(!gateway.process().output().contains("panicked"), || "the gateway panicked".to_owned());
    Ok(report)
}

/// What the gateway counts, asked beside everything else.
fn connections_open(gateway: &Gateway) -> impl FnOnce() -> Result<u64> + use<> {
    let url = format!("http://127.0.0.1:{}/metrics", gateway.config().ports[2]);
    move || {
        let text = ollystack_tests::get(&url)?.text();
        let line = text.lines().find_map(|line| line.strip_prefix("ollystack_connections "));
        Ok(line.context("no count of connections")?.parse()?)
    }
}

/// One request after the other, half of the senders over a new connection each time.
async fn honestly(address: SocketAddr, key: String, number: usize, end: Instant) -> Tally {
    let way = if number.is_multiple_of(2) { Way::Grpc } else { Way::Http { json: false } };
    let call = Call::new(way, Signal::Logs, &key, "identity", &Signal::Logs.one("honest"));
    let mut tally = Tally::default();
    let mut kept = None;
    while Instant::now() < end {
        let begun = Instant::now();
        let outcome = async {
            let mut client = match kept.take() {
                Some(client) => client,
                None => Client::connect(way, address, [127, 0, 0, 2]).await?,
            };
            let answer = client.send(&call).await?;
            if number % 4 < 2 {
                kept = Some(client);
            }
            anyhow::ensure!(answer.verdict == Verdict::Taken, "{answer:?}");
            Ok(())
        };
        if let Err(error) = outcome.await {
            tally.failed.push(format!("{way:?}: {error:#}"));
        }
        tally.requests += 1;
        tally.slowest = tally.slowest.max(begun.elapsed());
    }
    tally
}

/// Attack, connect again, attack; how many connections that took.
async fn keep_at_it(attack: Attack, address: SocketAddr, key: String, mut random: Rng, end: Instant) -> u64 {
    let mut connections = 0;
    while Instant::now() < end {
        let once = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            strike(attack, &mut stream, &key, &mut random).await
        };
        // Thrown out, or the time is up: either is how it ends.
        let _ = timeout_at(end.into(), once).await;
        connections += 1;
        sleep(PAUSE).await;
    }
    connections
}

async fn strike(attack: Attack, stream: &mut TcpStream, key: &str, random: &mut Rng) -> std::io::Result<()> {
    match attack {
        Attack::Silence => {}
        Attack::SlowHeaders => {
            stream.write_all(b"POST /v1/logs HTTP/1.1\r\nhost: x\r\nx-slow: ").await?;
            return drip(stream).await;
        }
        Attack::SlowBody => {
            let head = format!(
                "POST /v1/logs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
                 content-type: application/json\r\ncontent-length: 100000\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            return drip(stream).await;
        }
        Attack::Preface => stream.write_all(&begin(&[])).await?,
        Attack::RapidReset => {
            stream.write_all(&begin(&[])).await?;
            let (head, cancel) = (export(key), 8u32.to_be_bytes());
            let mut next = 1;
            return flood(stream, || {
                let opened = frame(HEADERS, END_HEADERS, next, &head);
                let reset = frame(RST_STREAM, 0, next, &cancel);
                next += 2;
                [opened, reset].concat()
            })
            .await;
        }
        Attack::Continuation => {
            stream.write_all(&begin(&[])).await?;
            stream.write_all(&frame(HEADERS, 0, 1, &export(key))).await?;
            let more = crate::frames::block(&[("x-more", &"x".repeat(200))]);
            return flood(stream, || frame(CONTINUATION, 0, 1, &more)).await;
        }
        Attack::EmptyData => {
            stream.write_all(&begin(&[])).await?;
            stream.write_all(&frame(HEADERS, END_HEADERS, 1, &export(key))).await?;
            return flood(stream, || frame(DATA, 0, 1, &[])).await;
        }
        Attack::Pings => {
            stream.write_all(&begin(&[])).await?;
            return flood(stream, || frame(PING, 0, 0, &[7; 8])).await;
        }
        Attack::Settings => {
            stream.write_all(&begin(&[])).await?;
            return flood(stream, || frame(SETTINGS, 0, 0, &[])).await;
        }
        Attack::Stall => {
            stream.write_all(&begin(&[(INITIAL_WINDOW_SIZE, 0)])).await?;
            let head = export(key);
            for stream_id in (1..=255).step_by(2) {
                let request =
                    [frame(HEADERS, END_HEADERS, stream_id, &head), frame(DATA, END_STREAM, stream_id, &[0; 5])];
                stream.write_all(&request.concat()).await?;
            }
            // Never reads.
            return std::future::pending().await;
        }
        Attack::Tls => stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await?,
        Attack::Garbage => {
            let garbage: Vec<u8> = (0..random.usize(1..4096)).map(|_| random.u8(..)).collect();
            stream.write_all(&garbage).await?;
        }
    }
    // Until it is thrown out.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// A byte now and then.
async fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    loop {
        stream.write_all(b"x").await?;
        sleep(PAUSE).await;
    }
}

/// A burst now and then; what comes back is read, so that nobody waits for us.
async fn flood(stream: &mut TcpStream, mut next: impl FnMut() -> Vec<u8>) -> std::io::Result<()> {
    let mut rest = [0; 4096];
    loop {
        let burst: Vec<u8> = (0..BURST).flat_map(|_| next()).collect();
        stream.write_all(&burst).await?;
        loop {
            match stream.try_read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        sleep(PAUSE).await;
    }
}
