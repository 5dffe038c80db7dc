//! The programs in a real kernel, on every rung it has: exactly the traffic of one process comes out, and nothing stays behind.
//!
//! The agent leaves its own process out, so the traffic is that of a child: this program again, told by a variable to play
//! server and client. Needs root; otherwise it says so and tests nothing.

#![allow(clippy::expect_used, reason = "the child tells by failing what went wrong")]

mod common;

use common::{same, text};
use io_uring::{IoUring, opcode, squeue, types};
use libtest_mimic::{Arguments, Failed, Trial};
use ollystack_input_ebpf::{Config, Stats, Taps, availability, run};
use ollystack_record::otlp::logs::v1::LogRecord;
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind, status::StatusCode};
use ollystack_record::value::{int_attribute, string, string_attribute};
use ollystack_record::{Availability, Intake, Ledger, Received, Records, Resource, Signal, State, Value};
use ollystack_schema::names::{self, key, semconv};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Set in the child, to the means by which it moves its bytes.
const PLAY: &str = "OLLYSTACK_LIVE_PLAY";
const CALLS: &str = "calls";
const URING: &str = "io_uring";
/// What the server receives comes by io_uring while it is in a call about something else.
const ASIDE: &str = "aside";
/// Connections of no known protocol, one of which is older than the agent.
const UNKNOWN: &str = "unknown";
/// Requests of the child, over two connections.
const REQUESTS: usize = 20;
/// Lines of what the verifier said of a program that are shown: the reason stands last.
const REASON_LINES: usize = 40;
/// What the child's exit tells.
const STATUS: u8 = 7;
const DEADLINE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    if let Some(means) = std::env::var_os(PLAY) {
        if means == UNKNOWN {
            say_what_nobody_knows();
        } else if means == ASIDE {
            play(Wire::by_calls, Wire::aside);
        } else if means == URING {
            play(Wire::by_uring, Wire::by_uring);
        } else {
            play(Wire::by_calls, Wire::by_calls);
        }
        return ExitCode::from(STATUS);
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the kernel programs were not tried: needs root");
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt()
        .with_env_filter("ollystack_input_ebpf::refusal=debug")
        .with_ansi(false)
        .with_writer(|| Reason)
        .init();
    let mut trials = Vec::new();
    // With what has to be asked for.
    for row in availability(&Config { run_queue: true, profile: true, ..Config::default() }) {
        tell("auto", &row);
    }
    let has_uring = IoUring::new(1).is_ok();
    if !has_uring {
        println!("skipped: what io_uring moves: this kernel refuses to set it up");
    }
    for (name, taps, sees_uring) in [
        ("sockets", Taps::Sockets, false),
        ("functions", Taps::Functions, true),
        ("calls", Taps::Calls, false),
        ("probes", Taps::Probes, true),
        ("raw", Taps::Raw, false),
    ] {
        let config =
            Config { taps, metrics_interval_ms: 1_000, process_events_per_second_max: 1_000_000, ..Config::default() };
        let rows = availability(&config);
        rows.iter().filter(|row| row.name == "ebpf.requests").for_each(|row| tell(name, row));
        if let Some(row) = rows.iter().find(|row| row.state == State::Off) {
            println!("skipped: {} by {name}: {}", row.name, row.why);
            continue;
        }
        if has_uring {
            let what = if sees_uring { "comes_out_exactly" } else { "is_not_seen_and_nothing_is_made_up" };
            let spans = if sees_uring { REQUESTS } else { 0 };
            let (title, uring) = (format!("what_io_uring_moves_{what}_by_{name}"), config.clone());
            trials.push(Trial::test(title, move || observe(name, uring, URING, [spans; 2])));
            let (title, aside) = (format!("what_io_uring_moves_during_a_call_{what}_by_{name}"), config.clone());
            trials.push(Trial::test(title, move || observe(name, aside, ASIDE, [spans, REQUESTS])));
        }
        let (title, unknown) = (format!("connections_of_no_known_protocol_are_told_by_{name}"), config.clone());
        trials.push(Trial::test(title, move || give_up(unknown)));
        let title = format!("the_traffic_of_a_process_comes_out_exactly_by_{name}");
        trials.push(Trial::test(title, move || observe(name, config, CALLS, [REQUESTS; 2])));
    }
    trials.push(Trial::test("what_is_switched_off_is_told_with_its_key", || {
        let rows = availability(&Config { tcp: false, ..Config::default() });
        let row = rows.iter().find(|row| row.name == "ebpf.tcp").ok_or("no row for ebpf.tcp")?;
        same("row", (row.state, row.remedy.as_str()), (State::Off, "set ebpf.tcp = true"))
    }));
    let mut arguments = Arguments::from_args();
    // One after the other: each looks whether anything is left in this process.
    arguments.test_threads = Some(1);
    let conclusion = libtest_mimic::run(&arguments, trials);
    for (program, count) in VERIFIED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("verified: {program} {count}");
    }
    conclusion.exit_code()
}

/// What became of a feature, as `cargo xtask kernels` reads it.
fn tell(way: &str, row: &Availability) {
    let outcome = if row.state == State::Off { "refused" } else { "attached" };
    println!("{outcome}: {} by {way}: {}", row.name, row.why);
}

/// Shows why a kernel has refused a program: the end of what its verifier said.
struct Reason;

impl Write for Reason {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let lines: Vec<&str> = text.lines().collect();
        // Most that is refused has no log.
        if lines.len() > 1 {
            lines[lines.len().saturating_sub(REASON_LINES)..].iter().for_each(|line| println!("    {line}"));
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Instructions that the verifier went through, by program; `cargo xtask kernels` reads them.
static VERIFIED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// Remember how much the verifier went through for the programs that this process has loaded.
fn note_verified() -> Result<(), Failed> {
    let own = |number: &str| {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        info.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok())
    };
    let numbers = std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name());
    let programs: BTreeSet<u32> = numbers.filter_map(|number| own(&number.to_string_lossy())).collect();
    for program in aya::programs::loaded_programs().flatten().filter(|program| programs.contains(&program.id())) {
        if let Some(count) = program.verified_instruction_count() {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            VERIFIED.lock().unwrap_or_else(PoisonError::into_inner).insert(name, count);
        }
    }
    Ok(())
}

/// All that came about the child.
#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    /// By metric, then by what distinguishes its series.
    sums: BTreeMap<(String, String), i64>,
    events: Vec<LogRecord>,
}

/// Watch a child that moves its bytes by these means, and is to have so many spans as a server and as a client.
fn observe(name: &str, config: Config, means: &'static str, spans: [usize; 2]) -> Result<(), Failed> {
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
        note_verified()?;
        let service = format!("live-{name}-{means}");
        let mut child = Command::new(std::env::current_exe()?);
        let mut child = child.env(PLAY, means).env("OTEL_SERVICE_NAME", &service).stdin(Stdio::piped()).spawn()?;
        let pid = i64::from(child.id());
        let mut seen = Seen::default();
        let complete = tokio::time::timeout(DEADLINE, async {
            while !seen.has_traffic(spans) {
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
        seen.judge(spans)?;
        // What other programs do may be more than the rings hold when the machine is busy; that nothing of the child's is missing was seen.
        for reading in ledger.read().signals {
            same(reading.signal.name(), reading.waiting_total(), 0)?;
        }
        // Spans that could not be made of what was lost count as seen and dropped in the ledger alone.
        let traces = &ledger.read().signals[Signal::Traces as usize];
        same("spans counted", stats.read().spans, traces.seen - traces.dropped_total())?;
        same("programs, maps and links left", left_behind()?, Vec::<String>::new())
    })
}

impl Seen {
    fn has_traffic(&self, spans: [usize; 2]) -> bool {
        let accepted = self.sum(names::TCP_CONNECTIONS, "inbound");
        let refused = self.sum(names::TCP_CONNECTIONS_FAILED, "outbound ECONNREFUSED");
        let closed = self.sum(names::TCP_SENT, "outbound") > 0;
        self.spans.len() >= spans.iter().sum() && closed && accepted >= 3 && refused >= 1
    }

    fn has_end(&self) -> bool {
        self.events.iter().any(|event| event.event_name == names::EVENT_PROCESS_EXIT)
    }

    async fn gather(&mut self, receiver: &mut mpsc::Receiver<Received>, ledger: &Ledger, service: &str, pid: i64) {
        let Some(received) = receiver.recv().await else { return };
        let batch = received.take(ledger);
        let resource = batch.resource;
        let is_child = resource.service_name() == service;
        match batch.records.into_otlp() {
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
    fn judge(&self, expected: [usize; 2]) -> Result<(), Failed> {
        for (kind, expected) in [SpanKind::Server, SpanKind::Client].into_iter().zip(expected) {
            let spans: Vec<&Span> = self.spans.iter().filter(|span| span.kind == kind as i32).collect();
            same("spans", spans.len(), expected)?;
            if expected > 0 {
                self.judge_spans(kind, &spans)?;
            }
        }
        self.judge_rest()
    }

    fn judge_spans(&self, kind: SpanKind, spans: &[&Span]) -> Result<(), Failed> {
        let mut paths: Vec<&str> = spans.iter().filter_map(|span| text(&span.attributes, semconv::URL_PATH)).collect();
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
        Ok(())
    }

    fn judge_rest(&self) -> Result<(), Failed> {
        self.judge_joints()?;
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

impl Seen {
    /// Each request's spans at both ends are in one trace, of their own, and the server's knows the client's.
    fn judge_joints(&self) -> Result<(), Failed> {
        let is = |kind: SpanKind| move |span: &&Span| span.kind == kind as i32;
        for answers in self.spans.iter().filter(is(SpanKind::Server)) {
            let in_trace = self.spans.iter().filter(|span| span.trace_id == answers.trace_id);
            let asks: Vec<&Span> = in_trace.filter(is(SpanKind::Client)).collect();
            same("client's spans in the server's trace", asks.len(), 1)?;
            let [asked, answered] = [asks[0], answers].map(|span| text(&span.attributes, semconv::URL_PATH));
            same("path of both", asked, answered)?;
            let linked = answers.links.iter().map(|link| (&link.trace_id, &link.span_id)).collect::<Vec<_>>();
            same("links", linked, vec![(&asks[0].trace_id, &asks[0].span_id)])?;
        }
        Ok(())
    }
}

/// Watch a child one of whose connections is older: at both ends, each is told as what it is.
fn give_up(config: Config) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child = Command::new(std::env::current_exe()?);
        let mut child = child.env(PLAY, UNKNOWN).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        same("the older connection", line.as_str(), "connected\n")?;
        let (intake, _receiver) = Intake::new(1_024, 100_000, Arc::default());
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let input = tokio::spawn(run(config, Arc::default(), intake, stop.clone(), Arc::clone(&stats)));
        while stats.read().features.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(child.stdin.take());
        same("exit status", child.wait()?.code(), Some(STATUS.into()))?;
        stop.cancel();
        input.await??;
        let seen = stats.read().processes.into_iter().find(|seen| seen.pid == child.id());
        let counts = seen.map(|seen| (seen.unrecognised, seen.midway, seen.spans));
        same("given up from their beginning, since they were joined, and spans", counts, Some((2, 2, 0)))
    })
}

/// In the child: a connection on which something was said, told of; then, once it is let go, more on it and on a new one.
fn say_what_nobody_knows() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let connect = || {
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("the server");
        (client, listener.accept().expect("a client").0)
    };
    let say = |(client, server): &mut (TcpStream, TcpStream), times: usize| {
        let mut taken = [0; JUNK.len()];
        for _ in 0..times {
            client.write_all(JUNK).expect("said");
            server.read_exact(&mut taken).expect("heard");
        }
    };
    let mut older = connect();
    say(&mut older, 1);
    println!("connected");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let mut newer = connect();
    for pair in [&mut older, &mut newer] {
        say(pair, 12);
    }
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

/// A connection's end of the child's.
struct Wire {
    stream: TcpStream,
    /// Where it sends and receives by that.
    ring: Option<IoUring>,
    /// Whether it only receives so, and is in another call meanwhile.
    is_aside: bool,
}

impl Wire {
    fn by_calls(stream: TcpStream) -> Wire {
        Wire { stream, ring: None, is_aside: false }
    }

    fn by_uring(stream: TcpStream) -> Wire {
        Wire { stream, ring: Some(IoUring::new(1).expect("a ring")), is_aside: false }
    }

    fn aside(stream: TcpStream) -> Wire {
        Wire { is_aside: true, ..Wire::by_uring(stream) }
    }
}

/// Have one thing done by io_uring, and wait for it.
#[allow(unsafe_code)] // the kernel is told of memory by its address
fn done(ring: &mut IoUring, entry: &squeue::Entry, wait: impl FnOnce(&IoUring) -> io::Result<()>) -> io::Result<usize> {
    // SAFETY: the entry's memory is borrowed by the caller, who is here until the kernel is done with it.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    wait(ring)?;
    let result = ring.completion().next().map_or(0, |completion| completion.result());
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Wait in the ring's own call.
fn in_ring(ring: &IoUring) -> io::Result<()> {
    ring.submit_and_wait(1).map(drop)
}

/// Wait in a call that reads from a pipe, into what looks like a request: the kernel interrupts it for what the ring has to do.
fn in_pipe(ring: &IoUring) -> io::Result<()> {
    ring.submit()?;
    let (mut reader, mut writer) = io::pipe()?;
    std::thread::scope(|scope| {
        scope.spawn(move || ring.submit_and_wait(1).and_then(|_| writer.write_all(b"!")));
        reader.read(&mut request(99).into_bytes()).map(drop)
    })
}

/// Of a buffer, for io_uring.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(ring) = &mut self.ring else { return self.stream.read(into) };
        let length = length(into);
        let receive = opcode::Recv::new(types::Fd(self.stream.as_raw_fd()), into.as_mut_ptr(), length).build();
        done(ring, &receive, if self.is_aside { in_pipe } else { in_ring })
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let Some(ring) = self.ring.as_mut().filter(|_| !self.is_aside) else { return self.stream.write(from) };
        let send = opcode::Send::new(types::Fd(self.stream.as_raw_fd()), from.as_ptr(), length(from)).build();
        done(ring, &send, in_ring)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In the child: three connections to itself, two of HTTP and one of junk, and one that is refused; then wait to be let go.
fn play(client: fn(TcpStream) -> Wire, server: fn(TcpStream) -> Wire) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = std::thread::spawn(move || {
        for _ in 0..3 {
            serve(server(listener.accept().expect("a client").0));
        }
    });
    for connection in 0..2 {
        let mut wire = client(TcpStream::connect(address).expect("the server"));
        for number in (0..REQUESTS).filter(|number| number % 2 == connection) {
            wire.write_all(request(number).as_bytes()).expect("asked");
            let mut answer = [0; 256];
            let length = wire.read(&mut answer).expect("an answer");
            assert!(answer[..length].ends_with(b"\r\n\r\nok"), "a whole answer");
        }
    }
    let mut wire = client(TcpStream::connect(address).expect("the server"));
    for _ in 0..12 {
        wire.write_all(JUNK).expect("taken");
    }
    drop(wire);
    serving.join().expect("served");
    // Nobody listens there any more.
    assert!(TcpStream::connect(address).is_err(), "refused");
    // The agent reads whose traffic it was while there is somebody to read about.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

fn serve(wire: Wire) {
    let mut reader = BufReader::new(wire);
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
            reader.get_mut().write_all(answer.as_bytes()).expect("answered");
        }
        line.clear();
    }
}
