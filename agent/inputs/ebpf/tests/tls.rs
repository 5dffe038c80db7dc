//! What goes through libraries of TLS comes out as if it were plain: by OpenSSL, GnuTLS and Go's own, over sockets and over memory.
//!
//! Servers and clients are programs of others, each a child, as the agent leaves its own process out. Needs root; what is not
//! installed is skipped by name.

#[path = "tls/children.rs"]
mod children;
mod common;
#[path = "go/build.rs"]
mod go;

use children::{Build, Children, Client, PATH, Server};
use common::{same, text};
use libtest_mimic::{Arguments, Failed, Trial};
use ollystack_input_ebpf::{Config, MAP_BYTES_MAX, Protocol, Reading, Stats, Taps, availability, run};
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind, status::StatusCode};
use ollystack_record::value::{int_attribute, string};
use ollystack_record::{Intake, Ledger, Received, Records, Resource, State};
use ollystack_schema::names::semconv;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Of each client, over two connections if it can.
const REQUESTS: usize = 20;
const DEADLINE: Duration = Duration::from_secs(15);

/// The largest there may be.
const RING_BYTES: u64 = 4 << 20;

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: TLS was not tried: needs root");
        return ExitCode::SUCCESS;
    }
    let mut trials = Vec::new();
    let tried = |config: Config| {
        let (began, before) = (Instant::now(), peak_kib());
        let rows = availability(&config);
        (rows, began.elapsed().as_millis(), peak_kib() - before)
    };
    let (_, milliseconds, kibibytes) = tried(Config { tls: false, ..Config::default() });
    println!("loaded and dropped without TLS in {milliseconds} ms, peak of memory +{kibibytes} KiB");
    let (rows, milliseconds, kibibytes) = tried(Config::default());
    println!("loaded, probed and dropped in {milliseconds} ms, peak of memory +{kibibytes} KiB more");
    for row in rows.iter().filter(|row| row.name == "ebpf.tls") {
        println!("{}: {:?}: {}", row.name, row.state, row.why);
        if row.state != State::On {
            println!("skipped: ebpf.tls: {}", row.why);
            return ExitCode::SUCCESS;
        }
    }
    let sockets = availability(&Config { taps: Taps::Sockets, ..Config::default() });
    let best = if sockets.iter().all(|row| row.state == State::On) { Taps::Sockets } else { Taps::Raw };
    for (name, taps, server, client) in [
        ("openssl_over_sockets", best, Server::Python("direct"), Client::Python("direct")),
        ("openssl_over_sockets_by_raw_tracepoints", Taps::Raw, Server::Python("direct"), Client::Python("direct")),
        ("openssl_over_memory", best, Server::Python("memory"), Client::Python("memory")),
        ("curl_and_nginx", best, Server::Nginx, Client::Curl),
        ("gnutls", best, Server::Python("direct"), Client::Wget),
        ("go", best, Server::Go(Build::Stripped, "http1"), Client::Go(Build::Movable, "http1")),
        ("go_by_raw_tracepoints", Taps::Raw, Server::Go(Build::Stripped, "http1"), Client::Go(Build::Linked, "http1")),
        ("go_http2", best, Server::Go(Build::Linked, "http2"), Client::Go(Build::Stripped, "http2")),
        ("go_from_openssl", best, Server::Go(Build::Movable, "http1"), Client::Python("direct")),
    ] {
        match server.missing().or_else(|| client.missing()) {
            Some(missing) => println!("skipped: {name}: {missing}"),
            None => {
                let title = format!("each_request_through_{name}_is_a_span_of_the_server_and_one_of_the_client");
                trials.push(Trial::test(title, move || observe(taps, server, client)));
            }
        }
    }
    trials.push(Trial::test("what_is_switched_off_is_told_with_its_key", || {
        let rows = availability(&Config { tls: false, ..Config::default() });
        let row = rows.iter().find(|row| row.name == "ebpf.tls").ok_or("no row for ebpf.tls")?;
        same("row", (row.state, row.remedy.as_str()), (State::Off, "set ebpf.tls = true"))
    }));
    let mut arguments = Arguments::from_args();
    // One after the other: each looks whether anything is left in this process.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn observe(taps: Taps, server: Server, client: Client) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(1_024, 100_000, Arc::clone(&ledger));
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let host = Arc::new(Resource::new(vec![string(semconv::HOST_NAME, "here")]));
        // Whatever else the host does, there is room for this.
        let config = Config {
            taps,
            protocols: vec![Protocol::Http1, Protocol::Http2],
            ring_bytes: RING_BYTES as u32,
            ..Config::default()
        };
        let input = tokio::spawn(run(config, host, intake, stop.clone(), Arc::clone(&stats)));
        while stats.read().features.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut children = Children::start(server)?;
        children.prepare(client, REQUESTS)?;
        // A program is looked at when it runs.
        let is_seen = |reading: &Reading, program: &PathBuf| {
            reading.tls.iter().any(|told| told.file == *program && told.why_not.is_none())
        };
        let all_seen = tokio::time::timeout(DEADLINE, async {
            while !children.built.iter().all(|program| is_seen(&stats.read(), program)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        all_seen.await.map_err(|_| format!("a program is not seen into: {:?}", stats.read().tls))?;
        children.ask(client, REQUESTS)?;
        let mut spans = Vec::new();
        let complete = tokio::time::timeout(DEADLINE, async {
            while spans.len() < 2 * REQUESTS {
                gather(&mut spans, &mut receiver, &ledger).await;
            }
        });
        let complete = complete.await.is_ok();
        children.end()?;
        stop.cancel();
        input.await??;
        while !receiver.is_closed() || !receiver.is_empty() {
            gather(&mut spans, &mut receiver, &ledger).await;
        }
        if !complete {
            let told: Vec<_> = spans.iter().map(|(service, span)| (service, &span.name)).collect();
            return Err(format!("incomplete: {told:?}, {:?}", stats.read()).into());
        }
        judge(&spans, server, client)?;
        let maps = stats.read().map_bytes;
        same("maps within what the agent's budget allows", maps <= RING_BYTES + MAP_BYTES_MAX, true)?;
        same("programs, maps and probes left", left_behind()?, Vec::<String>::new())
    })
}

/// Spans of what the children do, with the services that they are told of.
async fn gather(spans: &mut Vec<(String, Span)>, receiver: &mut mpsc::Receiver<Received>, ledger: &Ledger) {
    let Some(received) = receiver.recv().await else { return };
    let batch = received.take(ledger);
    let service = batch.resource.service_name().to_owned();
    if let Records::Traces(scopes) = batch.records.into_otlp() {
        let found = scopes.into_iter().flat_map(|scope| scope.spans).filter(|span| path(span).starts_with(PATH));
        spans.extend(found.map(|span| (service.clone(), span)));
    }
}

/// Exactly what the client asked, seen from both sides.
fn judge(spans: &[(String, Span)], server: Server, client: Client) -> Result<(), Failed> {
    let has_sockets = !matches!(client, Client::Python("memory"));
    let host = if matches!(client, Client::Python(_)) { "shop.local" } else { "127.0.0.1" };
    for (kind, service) in [(SpanKind::Server, server.service()), (SpanKind::Client, client.service())] {
        let spans: Vec<&(String, Span)> = spans.iter().filter(|(_, span)| span.kind == kind as i32).collect();
        let mut paths: Vec<&str> = spans.iter().map(|(_, span)| path(span)).collect();
        paths.sort_unstable();
        let mut expected: Vec<String> = (0..REQUESTS).map(|number| format!("{PATH}{number}")).collect();
        expected.sort_unstable();
        same("paths", paths, expected.iter().map(String::as_str).collect())?;
        for (told, span) in spans {
            same("service", told.as_str(), service)?;
            same("name", span.name.as_str(), "GET /through-tls/orders/{id}")?;
            same("scheme", text(&span.attributes, semconv::URL_SCHEME), Some("https"))?;
            let number =
                path(span).rsplit('/').next().and_then(|number| number.parse::<i64>().ok()).ok_or("a number")?;
            let status = match number % 5 {
                3 => 404,
                4 => 503,
                _ => 200,
            };
            same("status", int_attribute(&span.attributes, semconv::HTTP_RESPONSE_STATUS_CODE), Some(status))?;
            let is_error = span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
            same("error", is_error, status >= if kind == SpanKind::Server { 500 } else { 400 })?;
            same("took some time", span.end_time_unix_nano > span.start_time_unix_nano, true)?;
            // Over memory no socket is seen.
            let peer = has_sockets.then_some("127.0.0.1");
            same("address", text(&span.attributes, semconv::NETWORK_PEER_ADDRESS), peer)?;
            same("host", text(&span.attributes, semconv::SERVER_ADDRESS), Some(host))?;
        }
    }
    Ok(())
}

fn path(span: &Span) -> &str {
    text(&span.attributes, semconv::URL_PATH).unwrap_or_default()
}

/// Descriptors of BPF objects and of probes that this process still has.
fn left_behind() -> Result<Vec<String>, Failed> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let names = targets.map(|target| target.to_string_lossy().into_owned());
    Ok(names
        .filter(|name| name.starts_with("anon_inode") && (name.contains("bpf") || name.contains("perf_event")))
        .collect())
}

/// The most memory this process had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}
