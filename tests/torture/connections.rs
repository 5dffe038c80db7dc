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
use anyhow::{Result, anyhow};
use fastrand::Rng;
use ollystack_tests::{MemoryWatch, resident_bytes, until};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout_at};

const ATTACKERS: usize = 1_000;
/// Of those, as many may be connected: one address has no more.
const PER_ADDRESS: u64 = 400;
/// Honest senders, each with one request at a time.
const HONEST: usize = 32;
/// And of those whose requests hold no record.
const PROBES: usize = 8;
/// Each with one connection, and one that is ending.
const HONEST_CONNECTIONS: u64 = 2 * (HONEST + PROBES) as u64;
/// Between two requests of an honest sender.
const BETWEEN: Duration = Duration::from_millis(20);
/// The same honest senders alone, before each attack.
const CALM: Duration = Duration::from_secs(2);
const CYCLE: Duration = Duration::from_secs(5);
/// What requests may hold, and what their connections may beside it.
const IN_FLIGHT_BYTES: u64 = 64 << 20;
const CONNECTION_BYTES: u64 = 64 << 10;
const SLACK_BYTES: u64 = 8 << 20;
/// Between two bursts of a flood, or two bytes of what is slow: attackers and attacked share this machine's cores.
const PAUSE: Duration = Duration::from_millis(200);
const BURST: usize = 200;

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
    failed: Vec<String>,
    took: Vec<Duration>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.failed.extend(other.failed);
        self.took.extend(other.took);
    }

    /// Of what is sorted.
    fn quantile_ms(&self, quantile: f64) -> u64 {
        let last = self.took.len().saturating_sub(1);
        self.took.get((last as f64 * quantile) as usize).map_or(0, |took| took.as_millis() as u64)
    }
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("connections")?;
    let config = world.gateway()?.set("server.connections_per_address_max", &PER_ADDRESS.to_string());
    let config = config.set("server.header_timeout_ms", "2000").set("server.body_timeout_ms", "2000");
    let config = config.set("server.in_flight_bytes_max", &IN_FLIGHT_BYTES.to_string());
    let config = config.set("tenants.in_flight_bytes_max", &IN_FLIGHT_BYTES.to_string());
    let mut gateway = config.set("tenants.records_per_second", "0").start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let (honest, hostile) = (gateway.new_key("honest")?, gateway.new_key("hostile")?);
    let address: SocketAddr = gateway.grpc().parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before = resident_bytes(gateway.process().id())?;
    let watch = MemoryWatch::start(gateway.process().id());

    let (mut calm, mut stormy) = ([Tally::default(), Tally::default()], [Tally::default(), Tally::default()]);
    for mut cycle in run.cycles() {
        let before = ended(honest_load(address, &honest.secret, Instant::now() + CALM))?;
        let end = Instant::now() + CYCLE;
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|number| {
                let attack = ATTACKS[number % ATTACKS.len()];
                let random = Rng::with_seed(cycle.random.u64(..));
                runtime.spawn(keep_at_it(attack, address, hostile.secret.clone(), random, end))
            })
            .collect();
        let load = honest_load(address, &honest.secret, end);
        std::thread::sleep(CYCLE / 2);
        let open = gateway.metric("ollystack_connections", &[])? as u64;
        report.most("connections_open_most", open);
        report.must((1..=PER_ADDRESS + HONEST_CONNECTIONS).contains(&open), || {
            format!("{open} connections; {}", run.replay_of(cycle.number))
        });
        let meanwhile = ended(load)?;
        for attacker in attackers {
            report.add("hostile_connections", runtime.block_on(attacker)?);
        }
        for (sum, of_cycle) in calm.iter_mut().chain(&mut stormy).zip(before.into_iter().chain(meanwhile)) {
            sum.add(of_cycle);
        }
        gateway.process().must_run()?;
        run.progress(cycle.number, "connections");
    }
    for (name, tallies) in [("calm", &mut calm), ("attacked", &mut stormy)] {
        for (kind, tally) in ["stored", "empty"].into_iter().zip(tallies) {
            tally.took.sort_unstable();
            report.figure(&format!("{kind}_{name}_requests"), tally.took.len());
            report.figure(&format!("{kind}_{name}_p50_ms"), tally.quantile_ms(0.5));
            report.figure(&format!("{kind}_{name}_max_ms"), tally.quantile_ms(1.0));
            report.add("honest_requests", tally.took.len() as u64);
            report.add("honest_failed", tally.failed.len() as u64);
            // One in a thousand may fail.
            let (failed, asked) = (tally.failed.len(), tally.took.len());
            report.must(failed * 1_000 <= asked, || {
                let first = tally.failed.first().cloned().unwrap_or_default();
                format!("{failed} of {asked} honest requests ({kind}, {name}) failed: {first}")
            });
        }
    }

    let grown = watch.rss_bytes_peak().saturating_sub(before);
    report.figure("memory_grown_bytes", grown);
    let allowed = IN_FLIGHT_BYTES + PER_ADDRESS * CONNECTION_BYTES + SLACK_BYTES;
    report.must(grown <= allowed, || format!("memory grew by {grown} bytes, {allowed} are allowed"));
    let refused = gateway.metric("ollystack_connections_refused_total", &["reason=\"connections_per_address\""])?;
    let flooding = gateway.metric("ollystack_connections_refused_total", &["reason=\"frames_of_connection\""])?;
    report.figure("flooding_connections_ended", flooding);
    report.must(flooding > 0.0, || "no connection was ended for its flood of frames".to_owned());
    report.must(refused > 0.0, || "no connection was refused for its address's sake".to_owned());
    until("the attackers' connections are closed", || {
        let open = gateway.metric("ollystack_connections", &[])?;
        Ok((open < 1.0).then_some(()))
    })?;
    report.must(!gateway.process().output().contains("panicked"), || "the gateway panicked".to_owned());
    Ok(report)
}

/// Honest senders until then: what became of requests that are stored, and of empty ones, which the face answers by itself. They have a
/// thread of their own, as they would a machine: who waits behind a thousand attackers for his turn to speak is not held up by the gateway.
fn honest_load(address: SocketAddr, key: &str, end: Instant) -> JoinHandle<Result<[Tally; 2]>> {
    let key = key.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = |number: usize, message: &[u8]| {
            runtime.spawn(honestly(address, key.clone(), number, message.to_vec(), end))
        };
        let stored: Vec<_> = (0..HONEST).map(|number| sender(number, &Signal::Logs.one("honest"))).collect();
        let empty: Vec<_> = (0..PROBES).map(|number| sender(number, &[])).collect();
        let mut tallies = [Tally::default(), Tally::default()];
        for (tally, senders) in tallies.iter_mut().zip([stored, empty]) {
            for sender in senders {
                tally.add(runtime.block_on(sender)?);
            }
        }
        Ok(tallies)
    })
}

fn ended(load: JoinHandle<Result<[Tally; 2]>>) -> Result<[Tally; 2]> {
    load.join().map_err(|_| anyhow!("the honest senders panicked"))?
}

/// One request after the other, half of the senders over a new connection each time.
async fn honestly(address: SocketAddr, key: String, number: usize, message: Vec<u8>, end: Instant) -> Tally {
    let way = if number.is_multiple_of(2) { Way::Grpc } else { Way::Http { json: false } };
    let call = Call::new(way, Signal::Logs, &key, "identity", &message);
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
        tally.took.push(begun.elapsed());
        sleep(BETWEEN).await;
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
