//! The programs in a real kernel, on every rung it has: exactly the traffic of one process comes out, and nothing stays behind.
//!
//! The agent leaves its own process out, so the traffic is that of a child: this program again, told by a variable to play
//! server and client. Needs root; otherwise it says so and tests nothing.

#![allow(clippy::expect_used, reason = "the child tells by failing what went wrong")]

use libtest_mimic::{Arguments, Failed, Trial};
use ollystack_input_ebpf::{Config, Stats, Taps, availability, run};
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind, status::StatusCode};
use ollystack_record::value::{int_attribute, string, string_attribute};
use ollystack_record::{Intake, Ledger, Received, Records, Resource, Signal, State, Value};
use ollystack_schema::names::{self, key, semconv};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Set in the child.
const PLAY: &str = "OLLYSTACK_LIVE_PLAY";
/// Requests of the child, over two connections.
const REQUESTS: usize = 20;
/// What the child's exit tells.
const STATUS: u8 = 7;
const DEADLINE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    if std::env::var_os(PLAY).is_some() {
        play();
        return ExitCode::from(STATUS);
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the kernel programs were not tried: needs root");
        return ExitCode::SUCCESS;
    }
    let mut trials = Vec::new();
    for (name, taps) in [("sockets", Taps::Sockets), ("calls", Taps::Calls), ("raw", Taps::Raw)] {
        let config = Config {
            http_taps: taps,
            metrics_interval_ms: 1_000,
            process_events_per_second_max: 1_000_000,
            ..Config::default()
        };
        match availability(&config).into_iter().find(|row| row.state == State::Off) {
            Some(row) => println!("skipped: {} by {name}: {}", row.name, row.why),
            None => {
                let title = format!("the_traffic_of_a_process_comes_out_exactly_by_{name}");
                trials.push(Trial::test(title, move || observe(name, config)));
            }
        }
    }
    trials.push(Trial::test("what_is_switched_off_is_told_with_its_key", || {
        let rows = availability(&Config { tcp: false, ..Config::default() });
        let row = rows.iter().find(|row| row.name == "ebpf.tcp").ok_or("no row for ebpf.tcp")?;
        same("row", (row.state, row.remedy.as_str()), (State::Off, "set ebpf.tcp = true"))
    }));
    let mut arguments = Arguments::from_args();
    // One after the other: each looks whether anything is left in this process.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// All that came about the child.
#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    /// By metric, then by what distinguishes its series.
    sums: BTreeMap<(String, String), i64>,
    events: Vec<LogRecord>,
}

fn observe(name: &'static str, config: Config) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(1_024, 100_000, Arc::clone(&ledger));
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let host = Arc::new(Resource::new(vec![string(semconv::HOST_NAME, "here")]));
        let input = tokio::spawn(run(config, host, intake, stop.clone(), Arc::clone(&stats)));
        while stats.read().features.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let service = format!("live-{name}");
        let mut child = Command::new(std::env::current_exe()?);
        let mut child = child.env(PLAY, "1").env("OTEL_SERVICE_NAME", &service).stdin(Stdio::piped()).spawn()?;
        let pid = i64::from(child.id());
        let mut seen = Seen::default();
        let complete = tokio::time::timeout(DEADLINE, async {
            while !seen.has_traffic() {
                seen.gather(&mut receiver, &ledger, &service, pid).await;
            }
            // It has done its part, and ends.
            drop(child.stdin.take());
            while !seen.has_end() {
                seen.gather(&mut receiver, &ledger, &service, pid).await;
            }
        });
        let complete = complete.await;
        drop(child.stdin.take());
        same("exit status", child.wait()?.code(), Some(STATUS.into()))?;
        stop.cancel();
        input.await??;
        while !receiver.is_closed() || !receiver.is_empty() {
            seen.gather(&mut receiver, &ledger, &service, pid).await;
        }
        if complete.is_err() {
            return Err(format!("incomplete: {} spans, {:?}, {:?}", seen.spans.len(), seen.sums, stats.read()).into());
        }
        seen.judge()?;
        for reading in ledger.read().signals {
            same(reading.signal.name(), (reading.waiting_total(), reading.dropped_total()), (0, 0))?;
        }
        same("spans counted", stats.read().http_spans, ledger.read().signals[Signal::Traces as usize].seen)?;
        same("programs, maps and links left", left_behind()?, Vec::<String>::new())
    })
}

impl Seen {
    fn has_traffic(&self) -> bool {
        let accepted = self.sum(names::TCP_CONNECTIONS, "inbound");
        let refused = self.sum(names::TCP_CONNECTIONS_FAILED, "outbound ECONNREFUSED");
        let closed = self.sum(names::TCP_SENT, "outbound") > 0;
        self.spans.len() >= 2 * REQUESTS && closed && accepted >= 3 && refused >= 1
    }

    fn has_end(&self) -> bool {
        self.events.iter().any(|event| event.event_name == names::EVENT_PROCESS_EXIT)
    }

    async fn gather(&mut self, receiver: &mut mpsc::Receiver<Received>, ledger: &Ledger, service: &str, pid: i64) {
        let Some(received) = receiver.recv().await else { return };
        let batch = received.take(ledger);
        let resource = batch.resource;
        let is_child = resource.service_name() == service;
        match batch.records {
            Records::Traces(scopes) if int_attribute(resource.attributes(), semconv::PROCESS_PID) == Some(pid) => {
                self.spans.extend(scopes.into_iter().flat_map(|scope| scope.spans));
            }
            Records::Metrics(samples) if is_child => {
                for sample in samples {
                    let Value::Int(value) = sample.value else { continue };
                    let attributes = sample.series.attributes();
                    let told = [key::TCP_DIRECTION, semconv::ERROR_TYPE].map(|key| string_attribute(attributes, key));
                    let series = told.into_iter().flatten().collect::<Vec<_>>().join(" ");
                    *self.sums.entry((sample.series.metric.name.clone(), series)).or_default() += value;
                }
            }
            Records::Logs(scopes) => {
                let logs = scopes.into_iter().flat_map(|scope| scope.log_records);
                self.events
                    .extend(logs.filter(|log| int_attribute(&log.attributes, semconv::PROCESS_PID) == Some(pid)));
            }
            _ => {}
        }
    }

    fn sum(&self, metric: &str, series: &str) -> i64 {
        self.sums.get(&(metric.to_owned(), series.to_owned())).copied().unwrap_or(0)
    }

    /// Exactly what the child did.
    fn judge(&self) -> Result<(), Failed> {
        for kind in [SpanKind::Server, SpanKind::Client] {
            let spans: Vec<&Span> = self.spans.iter().filter(|span| span.kind == kind as i32).collect();
            same("spans", spans.len(), REQUESTS)?;
            let mut paths: Vec<&str> =
                spans.iter().filter_map(|span| text(&span.attributes, semconv::URL_PATH)).collect();
            paths.sort_unstable();
            let mut expected: Vec<String> = (0..REQUESTS).map(|number| format!("/orders/{number}")).collect();
            expected.sort_unstable();
            same("paths", paths, expected.iter().map(String::as_str).collect())?;
            for span in spans {
                let number = text(&span.attributes, semconv::URL_PATH).and_then(|path| path[8..].parse::<usize>().ok());
                let status = status_of(number.ok_or("no number")?);
                let told = int_attribute(&span.attributes, semconv::HTTP_RESPONSE_STATUS_CODE);
                same("status code", told, Some(status.into()))?;
                let is_error = span.status.as_ref().is_some_and(|status| status.code == StatusCode::Error as i32);
                same("error", is_error, status >= if kind == SpanKind::Server { 500 } else { 400 })?;
                same("name", span.name.as_str(), "POST /orders/{id}")?;
                same("host", text(&span.attributes, semconv::SERVER_ADDRESS), Some("shop.local"))?;
                same("body", int_attribute(&span.attributes, semconv::HTTP_REQUEST_BODY_SIZE), Some(3))?;
                let nanoseconds = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
                same("took some time", nanoseconds > 0, true)?;
            }
        }
        same("opened", self.sum(names::TCP_CONNECTIONS, "outbound"), 3)?;
        same("accepted", self.sum(names::TCP_CONNECTIONS, "inbound"), 3)?;
        same("refused", self.sum(names::TCP_CONNECTIONS_FAILED, "outbound ECONNREFUSED"), 1)?;
        for (one, other) in [("outbound", "inbound"), ("inbound", "outbound")] {
            same("bytes", self.sum(names::TCP_SENT, one), self.sum(names::TCP_RECEIVED, other))?;
        }
        let junk = i64::try_from(JUNK.len() * 12)?;
        let requests: usize = (0..REQUESTS).map(|number| request(number).len()).sum();
        same("bytes of the client", self.sum(names::TCP_SENT, "outbound"), i64::try_from(requests)? + junk)?;
        let told = self.events.iter().map(|event| event.event_name.as_str()).collect::<Vec<_>>();
        same("events", told, vec![names::EVENT_PROCESS_EXEC, names::EVENT_PROCESS_EXIT])?;
        let code = int_attribute(&self.events[1].attributes, semconv::PROCESS_EXIT_CODE);
        same("exit code", code, Some(STATUS.into()))
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    string_attribute(attributes, key)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), Failed> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}").into()) }
}

/// Descriptors of BPF objects that this process still has.
fn left_behind() -> Result<Vec<String>, Failed> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let targets = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let names = targets.map(|target| target.to_string_lossy().into_owned());
    Ok(names.filter(|name| name.contains("bpf") && name.starts_with("anon_inode")).collect())
}

/// Not HTTP: each piece is a message of its own.
const JUNK: &[u8] = b"\x16\x03\x01 GET /not HTTP at all\n";

fn request(number: usize) -> String {
    format!("POST /orders/{number} HTTP/1.1\r\nHost: shop.local\r\nContent-Length: 3\r\n\r\nabc")
}

fn status_of(number: usize) -> u16 {
    match number % 5 {
        3 => 404,
        4 => 503,
        _ => 200,
    }
}

/// In the child: three connections to itself, two of HTTP and one of junk, and one that is refused; then wait to be let go.
fn play() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        for _ in 0..3 {
            serve(listener.accept().expect("a client").0);
        }
    });
    for connection in 0..2 {
        let mut client = TcpStream::connect(address).expect("the server");
        for number in (0..REQUESTS).filter(|number| number % 2 == connection) {
            client.write_all(request(number).as_bytes()).expect("asked");
            let mut answer = [0; 256];
            let length = client.read(&mut answer).expect("an answer");
            assert!(answer[..length].ends_with(b"\r\n\r\nok"), "a whole answer");
        }
    }
    let mut client = TcpStream::connect(address).expect("the server");
    for _ in 0..12 {
        client.write_all(JUNK).expect("taken");
    }
    drop(client);
    server.join().expect("served");
    // Nobody listens there any more.
    assert!(TcpStream::connect(address).is_err(), "refused");
    // The agent reads whose traffic it was while there is somebody to read about.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn serve(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
    let mut stream = stream;
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).expect("a line") > 0 {
        let number = String::from_utf8_lossy(&line)
            .split(' ')
            .nth(1)
            .and_then(|path| path.strip_prefix("/orders/")?.parse().ok());
        if let Some(number) = number {
            let mut rest = [0; 256];
            // The request came in one piece, and is in the reader's buffer.
            let length = reader.read(&mut rest).expect("the rest");
            assert!(rest[..length].ends_with(b"abc"), "a whole request");
            let status = status_of(number);
            let answer = format!("HTTP/1.1 {status} Told\r\nContent-Length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).expect("answered");
        }
        line.clear();
    }
}
