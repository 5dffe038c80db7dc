//! What is small on the wire and large behind it: to the gateway, to the agent, and from an endpoint to the agent that sends to it.
//!
//! Each bomb alone gets its exact answer; a volley of them at once may also be told to come back. Invariant: the memory of the
//! process grows by no more than the bytes that its requests may hold and 8 MiB.

use crate::client::{Call, Verdict, Way, once};
use crate::evil::{Endpoint, Mood};
use crate::oracle::Oracle;
use crate::otlp::{PROTOBUF, Signal};
use crate::report::Report;
use crate::run::Run;
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, Key, MemoryWatch, World, resident_bytes, until};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// What requests in progress may hold, of the gateway and of the agent, and what a process may take beside it.
const GATEWAY_BYTES: u64 = 24 << 20;
const AGENT_BYTES: u64 = 12 << 20;
const SLACK_BYTES: u64 = 8 << 20;
/// Of one message, on the wire and decompressed.
const WIRE_BYTES: usize = 2 << 20;
const DECODED_BYTES: usize = 4 << 20;
/// What compressed bombs unpack to.
const UNPACKED: usize = 8 << 20;
/// At once.
const VOLLEY: usize = 16;
/// Records that wait on the agent's disk while its endpoint is evil.
const RECORDS: u64 = 200;

/// A message and what it must come to.
struct Bomb {
    name: &'static str,
    encoding: &'static str,
    json: bool,
    bytes: Vec<u8>,
    expected: Verdict,
}

/// How often an honest sender comes back, and after how long: half a minute in all.
const HONEST_TRIES: usize = 60;
const HONEST_PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("bombs")?;
    let config = world.gateway()?.set("tenants.records_per_second", "0");
    let config = config.set("server.in_flight_bytes_max", &GATEWAY_BYTES.to_string());
    let config = config.set("tenants.in_flight_bytes_max", &GATEWAY_BYTES.to_string());
    let config = config.set("server.wire_bytes_max", &WIRE_BYTES.to_string());
    let mut gateway = config.set("server.decoded_bytes_max", &DECODED_BYTES.to_string()).start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("bombs")?;
    let endpoint = Endpoint::before(gateway.grpc().parse()?)?;
    let agent = world.agent_to(&format!("http://{}", endpoint.address()), &key.secret)?;
    let settings = [
        ("otlp.enabled", "true"),
        ("otlp.limits.wire_bytes_max", "2097152"),
        ("export.response_timeout_ms", "400"),
        ("export.retry_key_ms", "100"),
        ("export.retry_max_ms", "100"),
    ];
    let agent = settings.into_iter().fold(agent, |agent, (name, value)| agent.set(name, value));
    let mut agent = agent.start(world.binaries())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bombs = std::sync::Arc::new(bombs()?);

    for cycle in run.cycles() {
        for (name, process, address, limit) in [
            ("gateway", gateway.process().id(), gateway.grpc(), GATEWAY_BYTES),
            ("agent", agent.process().id(), agent.grpc(), AGENT_BYTES),
        ] {
            let address: SocketAddr = address.parse()?;
            // Warm: what the first requests allocate for good is no bomb's.
            runtime.block_on(honest(address, &key))?;
            let before = resident_bytes(process)?;
            let watch = MemoryWatch::start(process);
            runtime.block_on(async {
                for bomb in bombs.iter() {
                    alone(address, name, bomb, &key, &mut report).await?;
                }
                volley(address, name, std::sync::Arc::clone(&bombs), &key, &mut report).await
            })?;
            let grown = watch.rss_bytes_peak().saturating_sub(before);
            report.most(&format!("{name}_grown_bytes"), grown);
            report.must(grown <= limit + SLACK_BYTES, || {
                format!(
                    "the {name} grew by {grown} bytes, {limit} and 8 MiB are allowed; {}",
                    run.replay_of(cycle.number)
                )
            });
            runtime.block_on(honest(address, &key))?;
        }
        evil_endpoints(&world, &mut agent, &endpoint, cycle.number, &mut report)?;
        gateway.process().must_run()?;
        agent.process().must_run()?;
        run.progress(cycle.number, "bombs");
    }
    agent.ledger_closes()?;
    for (name, log) in [("gateway", gateway.process().output()), ("agent", agent.process().output())] {
        report.must(!log.contains("panicked"), || format!("the {name} panicked"));
    }
    Ok(report)
}

/// One record, sent until it is taken: a process that has just opened bombs may ask for a moment.
async fn honest(address: SocketAddr, key: &Key) -> Result<()> {
    let call = Call::new(Way::Grpc, Signal::Logs, &key.secret, "identity", &Signal::Logs.one("honest"));
    for _ in 0..HONEST_TRIES {
        let answer = once(address, &call).await?;
        if answer.verdict == Verdict::Taken {
            return Ok(());
        }
        ensure!(answer.verdict == Verdict::Busy, "an honest request is answered {answer:?}");
        tokio::time::sleep(HONEST_PAUSE).await;
    }
    anyhow::bail!("an honest request was told to come back {HONEST_TRIES} times")
}

/// One bomb by every way that can carry it.
async fn alone(address: SocketAddr, name: &str, bomb: &Bomb, key: &Key, report: &mut Report) -> Result<()> {
    for call in calls(bomb, key) {
        let answer = once(address, &call).await.with_context(|| format!("{name}, {}, {:?}", bomb.name, call.way))?;
        report.add("bombs", 1);
        report.must(answer.verdict == bomb.expected, || {
            format!("{name}, {} by {:?}: {answer:?} instead of {:?}", bomb.name, call.way, bomb.expected)
        });
    }
    Ok(())
}

/// Many at once, each of every kind.
async fn volley(
    address: SocketAddr,
    name: &str,
    bombs: std::sync::Arc<Vec<Bomb>>,
    key: &Key,
    report: &mut Report,
) -> Result<()> {
    let shots = (0..VOLLEY).map(|number| {
        let (bombs, key) = (std::sync::Arc::clone(&bombs), key.clone());
        tokio::spawn(async move {
            let bomb = &bombs[number % bombs.len()];
            let calls = calls(bomb, &key);
            let call = &calls[number % calls.len()];
            (bomb.name, bomb.expected, once(address, call).await)
        })
    });
    for shot in shots.collect::<Vec<_>>() {
        let (bomb, expected, answer) = shot.await?;
        let answer = answer.with_context(|| format!("{name}, {bomb} in a volley"))?;
        report.add("bombs", 1);
        report.must(answer.verdict == expected || answer.verdict == Verdict::Busy, || {
            format!("{name}, {bomb} in a volley: {answer:?} instead of {expected:?} or a time to come back")
        });
    }
    Ok(())
}

fn calls(bomb: &Bomb, key: &Key) -> Vec<Call> {
    let json = bomb.json;
    let ways = [Way::Http { json }, Way::Grpc];
    let ways = &ways[..if json { 1 } else { 2 }];
    ways.iter().map(|way| Call::new(*way, Signal::Traces, &key.secret, bomb.encoding, &bomb.bytes)).collect()
}

fn bombs() -> Result<Vec<Bomb>> {
    let zeros = vec![0; UNPACKED];
    let gzip = crate::otlp::gzip(&zeros)?;
    let zstd_of_zeros = zstd::encode_all(zeros.as_slice(), 3)?;
    let member = crate::otlp::gzip(&zeros[..1 << 20])?;
    let frame = zstd::encode_all(&zeros[..1 << 20], 3)?;
    // A window of 128 MiB, which it uses: the largest that decoders take unasked.
    let mut wide = zstd::Encoder::new(Vec::new(), 3)?;
    wide.window_log(27)?;
    wide.write_all(&zeros)?;
    let wide = wide.finish()?;
    // A window of 2 GiB and one empty block (RFC 8878, 3.1.1.1).
    let widest = vec![0x28, 0xB5, 0x2F, 0xFD, 0, 21 << 3, 1, 0, 0];
    let nested = crate::otlp::gzip(&gzip)?;
    // Empty spans: two bytes each, and some three hundred behind them.
    let hollow = field(1, &field(2, &[0x12, 0].repeat(1_000_000)));
    let hollow_json =
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#, "{},".repeat(600_000)).into_bytes();
    // A list in two pieces, which merge: 60 bytes behind every two.
    let list = field(5, &[0x0a, 0].repeat(800_000));
    let merged = field(1, &field(2, &field(2, &field(9, &field(2, &[list.clone(), field(5, &[0x0a, 0])].concat())))));
    // A length of 4 GiB, of which nothing comes.
    let lying = vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let long_number = format!(r#"{{"resourceSpans":{}}}"#, "9".repeat(1 << 20)).into_bytes();
    let open_brackets = [b"{\"resourceSpans\":".as_slice(), &b"[".repeat(1 << 20)].concat();
    let open_texts = [b"{\"x\":\"".as_slice(), &b"\\u0000".repeat(200_000)].concat();

    let bomb = |name, encoding, json, bytes, expected| Bomb { name, encoding, json, bytes, expected };
    let all = vec![
        bomb("gzip", "gzip", false, gzip.clone(), Verdict::TooLarge),
        bomb("zstd", "zstd", false, zstd_of_zeros, Verdict::TooLarge),
        bomb("gzip in members", "gzip", false, member.repeat(32), Verdict::TooLarge),
        bomb("zstd in frames", "zstd", false, frame.repeat(32), Verdict::TooLarge),
        bomb("zstd with a window of 128 MiB", "zstd", false, wide, Verdict::Invalid),
        bomb("zstd with a window of 2 GiB", "zstd", false, widest, Verdict::Invalid),
        // Only the outer one is opened, so it is what it holds: no protobuf.
        bomb("gzip in gzip", "gzip", false, nested, Verdict::Invalid),
        bomb("gzip as JSON", "gzip", true, gzip.clone(), Verdict::TooLarge),
        bomb("hollow spans", "identity", false, hollow, Verdict::TooLarge),
        bomb("hollow spans in JSON", "identity", true, hollow_json, Verdict::TooLarge),
        bomb("a list in pieces", "identity", false, merged, Verdict::TooLarge),
        bomb("a length of 4 GiB", "identity", false, lying, Verdict::Invalid),
        bomb("a number of 1 MiB", "identity", true, long_number, Verdict::Invalid),
        bomb("a million brackets", "identity", true, open_brackets, Verdict::Invalid),
        bomb("a text of escapes without end", "identity", true, open_texts, Verdict::Invalid),
        bomb("more than may be on the wire", "identity", false, vec![0; WIRE_BYTES + 1], Verdict::TooLarge),
    ];
    for bomb in &all {
        let fits = bomb.bytes.len() <= WIRE_BYTES || bomb.name == "more than may be on the wire";
        ensure!(fits, "{}: {} bytes would be refused for that alone", bomb.name, bomb.bytes.len());
    }
    Ok(all)
}

/// A field of protobuf with a length.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(content);
    field
}

/// The agent's own client: whatever the endpoint answers, memory stays, nothing that waits is lost, and all of it arrives once the
/// endpoint is what it should be.
fn evil_endpoints(
    world: &World<'_>,
    agent: &mut Agent,
    endpoint: &Endpoint,
    cycle: u64,
    report: &mut Report,
) -> Result<()> {
    let oracle = Oracle::new(&format!("evil-{cycle}"));
    let before = resident_bytes(agent.process().id())?;
    let watch = MemoryWatch::start(agent.process().id());
    for mood in Mood::EVIL {
        let seen = endpoint.become_of(mood);
        let ids = oracle.allot(Signal::Logs, RECORDS / Mood::EVIL.len() as u64);
        let answer = agent.post(Signal::Logs.path(), &[PROTOBUF], &oracle.body(ids))?;
        ensure!(answer.status == 200, "the agent answers {} while its endpoint is {mood:?}", answer.status);
        oracle.acknowledged(ids);
        until(&format!("the agent has met an endpoint that is {mood:?}"), || {
            agent.process().must_run()?;
            Ok((endpoint.seen() > seen).then_some(()))
        })?;
        report.add("evil_connections", endpoint.seen() - seen);
    }
    let grown = watch.rss_bytes_peak().saturating_sub(before);
    report.most("agent_grown_by_endpoints_bytes", grown);
    // What it sends and what it has on the way, beside what was allowed for bombs before: nothing of an answer.
    report.must(grown <= AGENT_BYTES + SLACK_BYTES, || {
        format!("the agent grew by {grown} bytes for its endpoint's sake")
    });
    endpoint.become_of(Mood::Honest);
    oracle.judge(world, report)
}
