//! Whose child is what a server asks in turn: never the wrong request's, whether threads, goroutines, a pool or an async runtime serve.
//!
//! A front process answers `/in/N` after asking a back end `/call/N`; a third process asks it, many at once. The number tells
//! whether a span's parent is the right one. Needs root; otherwise it says so and tests nothing. Without Go its part is skipped by name.

#![allow(clippy::expect_used, reason = "the children tell by failing what went wrong")]

#[path = "go/build.rs"]
mod go;

use libtest_mimic::{Arguments, Failed, Trial};
use ollystack_input_ebpf::{Config, Stats, availability, run};
use ollystack_record::otlp::trace::v1::{Span, span::SpanKind};
use ollystack_record::value::{int_attribute, string_attribute};
use ollystack_record::{Intake, Ledger, Records, Resource, State};
use ollystack_schema::names::semconv;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// Set in the children: which part they play.
const PLAY: &str = "OLLYSTACK_PARENTS_PLAY";
/// The front that is a Go program.
const GO: &str = "go";
/// Of the pool: fewer than there are clients.
const WORKERS: usize = 4;
const REQUESTS: usize = 50;
const DEADLINE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if let Ok(part) = std::env::var(PLAY) {
        play(&part);
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: the kernel programs were not tried: needs root");
        return ExitCode::SUCCESS;
    }
    if let Some(row) = availability(&Config::default()).into_iter().find(|row| row.state == State::Off) {
        println!("skipped: {}: {}", row.name, row.why);
        return ExitCode::SUCCESS;
    }
    let trial = |name: &'static str, front: &'static str, clients: usize, share: usize| {
        Trial::test(name, move || observe(front, clients, share))
    };
    let mut trials = vec![
        // All but those from before the process was known.
        trial("a_thread_s_calls_are_its_request_s", "threads", 8, 90),
        trial("a_pool_that_answers_through_its_loop_has_no_wrong_parents", "pool", 8, 0),
        trial("an_async_runtime_has_no_wrong_parents", "async", 8, 0),
    ];
    match go::missing() {
        Some(missing) => println!("skipped: goroutines: {missing}"),
        None => trials.push(trial("a_goroutine_s_calls_are_its_request_s", GO, 32, 90)),
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// This program again, in a part; its first line.
fn start(part: &str) -> Result<(Child, String), Failed> {
    first_line(Command::new(std::env::current_exe()?).env(PLAY, part))
}

fn first_line(command: &mut Command) -> Result<(Child, String), Failed> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    Ok((child, line.trim().to_owned()))
}

/// No wrong parent, and at least so many of a hundred with one.
fn observe(front: &'static str, clients: usize, share: usize) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(1_024, 100_000, Arc::clone(&ledger));
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        // Whatever else the host does, there is room for this.
        let config = Config { ring_bytes: 4 * 1024 * 1024, ..Config::default() };
        let input = tokio::spawn(run(config, Arc::new(Resource::default()), intake, stop.clone(), Arc::clone(&stats)));
        while stats.read().features.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (mut back, address) = start("back")?;
        let folder = tempfile::tempdir()?;
        let program = folder.path().join("front");
        let (mut front, address) = if front == GO {
            go::build(&program, &["-ldflags=-s -w"])?;
            let started = first_line(Command::new(&program).args(["front", &address]))?;
            let all_seen = tokio::time::timeout(DEADLINE, async {
                while !stats.read().tls.iter().any(|told| told.file == program) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            all_seen.await.map_err(|_| "the program's goroutines are not told apart")?;
            started
        } else {
            start(&format!("{front} {address}"))?
        };
        let (mut driver, done) = start(&format!("drive {address} {clients}"))?;
        let pid = i64::from(front.id());
        let mut spans: Vec<Span> = Vec::new();
        let complete = tokio::time::timeout(DEADLINE, async {
            while spans.len() < 2 * clients * REQUESTS {
                let Some(received) = receiver.recv().await else { break };
                let batch = received.take(&ledger);
                if let Records::Traces(scopes) = batch.records.into_otlp()
                    && int_attribute(batch.resource.attributes(), semconv::PROCESS_PID) == Some(pid)
                {
                    spans.extend(scopes.into_iter().flat_map(|scope| scope.spans));
                }
            }
        });
        let complete = complete.await.is_ok();
        for child in [&mut driver, &mut front, &mut back] {
            drop(child.stdin.take());
            child.wait()?;
        }
        stop.cancel();
        input.await??;
        if !complete || done != "done" {
            return Err(format!("{} spans came, the clients said {done:?}: {:?}", spans.len(), stats.read()).into());
        }
        judge(&spans, clients, share)
    })
}

fn number(span: &Span) -> Option<&str> {
    string_attribute(&span.attributes, semconv::URL_PATH)?.rsplit('/').next()
}

fn judge(spans: &[Span], clients: usize, share: usize) -> Result<(), Failed> {
    let of = |kind: SpanKind| spans.iter().filter(move |span| span.kind == kind as i32);
    let servers: HashMap<&[u8], &Span> = of(SpanKind::Server).map(|span| (&span.span_id[..], span)).collect();
    let (mut right, mut wrong) = (0, Vec::new());
    for span in of(SpanKind::Client).filter(|span| !span.parent_span_id.is_empty()) {
        match servers.get(&span.parent_span_id[..]) {
            Some(parent) if number(parent) == number(span) && parent.trace_id == span.trace_id => right += 1,
            parent => wrong.push((number(span), parent.map(|parent| number(parent)))),
        }
    }
    let calls = of(SpanKind::Client).count();
    println!("{right} of {calls} with their parent, {} with a wrong one", wrong.len());
    if !wrong.is_empty() || right * 100 < calls * share || calls != clients * REQUESTS {
        return Err(format!("{right} of {calls} with their parent, wrong: {wrong:?}").into());
    }
    Ok(())
}

/// In a child, until its input ends.
fn play(part: &str) {
    let (part, address) = part.split_once(' ').unwrap_or((part, ""));
    let say = |line: &str| {
        println!("{line}");
        std::io::stdout().flush().expect("heard");
    };
    if part == "drive" {
        let (address, clients) = address.split_once(' ').expect("an address and how many");
        let (address, clients) = (address.parse().expect("an address"), clients.parse().expect("a number"));
        let clients = (0..clients).map(|client| std::thread::spawn(move || drive(address, client)));
        let clients: Vec<_> = clients.collect();
        clients.into_iter().for_each(|client| client.join().expect("all answered"));
        say("done");
    } else {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        say(&listener.local_addr().expect("an address").to_string());
        let back = address.parse().ok();
        let part = part.to_owned();
        std::thread::spawn(move || match (part.as_str(), back) {
            ("threads", Some(back)) => each_on_a_thread(&listener, move |number| ask(back, "call", number)),
            ("pool", Some(back)) => through_a_pool(&listener, back),
            ("async", Some(back)) => on_a_runtime(listener, back),
            _ => each_on_a_thread(&listener, |number| std::thread::sleep(pause(number))),
        });
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Different for each, so that requests overtake one another.
fn pause(number: usize) -> Duration {
    Duration::from_micros((number as u64 * 7_919) % 3_000)
}

fn drive(address: SocketAddr, client: usize) {
    let mut stream = TcpStream::connect(address).expect("the front");
    for request in 0..REQUESTS {
        exchange(&mut stream, "in", client * REQUESTS + request);
    }
}

fn ask(address: SocketAddr, path: &str, number: usize) {
    exchange(&mut TcpStream::connect(address).expect("the back end"), path, number);
}

fn exchange(stream: &mut TcpStream, path: &str, number: usize) {
    stream.write_all(request(path, number).as_bytes()).expect("asked");
    let mut answer = [0; 256];
    assert!(stream.read(&mut answer).expect("an answer") > 0, "an answer");
}

fn request(path: &str, number: usize) -> String {
    format!("GET /{path}/{number} HTTP/1.1\r\nHost: there\r\n\r\n")
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The number of a request; `None` at the end.
fn read_number(stream: &mut TcpStream) -> Option<usize> {
    let mut head = [0; 256];
    let length = stream.read(&mut head).ok().filter(|length| *length > 0)?;
    number_of(&head[..length])
}

fn number_of(head: &[u8]) -> Option<usize> {
    std::str::from_utf8(head).ok()?.split(['/', ' ']).nth(3)?.parse().ok()
}

fn each_on_a_thread(listener: &TcpListener, work: impl Fn(usize) + Clone + Send + 'static) {
    for stream in listener.incoming().flatten() {
        let (mut stream, work) = (stream, work.clone());
        std::thread::spawn(move || {
            while let Some(number) = read_number(&mut stream) {
                work(number);
                stream.write_all(ANSWER).expect("answered");
            }
        });
    }
}

/// Each connection's thread reads and answers; workers, of which there are fewer, ask the back end.
fn through_a_pool(listener: &TcpListener, back: SocketAddr) {
    let (jobs, queue) = mpsc::channel::<(usize, mpsc::Sender<()>)>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..WORKERS {
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || {
            loop {
                let job = queue.lock().expect("no worker fails").recv();
                let Ok((number, done)) = job else { return };
                ask(back, "call", number);
                let _ = done.send(());
            }
        });
    }
    let jobs = Mutex::new(jobs);
    let jobs = Arc::new(jobs);
    each_on_a_thread(listener, move |number| {
        let (done, is_done) = mpsc::channel();
        jobs.lock().expect("no worker fails").send((number, done)).expect("workers");
        is_done.recv().expect("done");
    });
}

fn on_a_runtime(listener: TcpListener, back: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        listener.set_nonblocking(true).expect("non-blocking");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 256];
                while let Ok(length @ 1..) = stream.read(&mut head).await {
                    let number = number_of(&head[..length]).expect("a number");
                    let mut call = tokio::net::TcpStream::connect(back).await.expect("the back end");
                    call.write_all(request("call", number).as_bytes()).await.expect("asked");
                    assert!(call.read(&mut [0; 256]).await.expect("an answer") > 0, "an answer");
                    stream.write_all(ANSWER).await.expect("answered");
                }
            });
        }
    });
}
