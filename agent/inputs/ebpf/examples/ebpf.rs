//! What seeing requests costs: the traced program's throughput and latency with and without the agent's programs, kernel time a
//! hook, the agent's CPU time a request, and how many of the requests made were seen.
//!
//! `cargo run --release -p ollystack-input-ebpf --example ebpf [SECONDS [CASE]]`, as root (0: the cost of a hook alone; cases are named as their
//! figures begin, `nginx_flat` for one). Real servers and clients over loopback (nginx, Redis; what is
//! missing is left out by name); runs with and without take turns. Prints one JSON object with a table and figures.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

#[path = "common/hooks.rs"]
mod hooks;

use hooks::hooks;
use ollystack_input_ebpf::{Config, Stats, run};
use ollystack_record::{Intake, Ledger, Records, Resource, Signal};
use serde_json::{Map, Value, json};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Set in the child that asks: where, how often a second (0: as fast as it can), for how long, over how many connections.
const PLAY: &str = "OLLYSTACK_BENCH_PLAY";
const CONNECTIONS: usize = 8;
/// Pairs of runs, without and with.
const PAIRS: usize = 3;

fn main() {
    if let Ok(plan) = std::env::var(PLAY) {
        return play(&plan);
    }
    let seconds: u64 = std::env::args().nth(1).map_or(5, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (mut rows, mut figures, mut notes) = (Vec::new(), Map::new(), vec![String::from(NOTE)]);
    hook(&mut notes, &mut figures);
    if seconds == 0 {
        return println!("{}", json!({ "columns": [], "rows": [], "notes": notes, "figures": figures }));
    }
    match nginx(folder.path()) {
        None => notes.push("nginx is missing: `apt-get install nginx-light` adds it".into()),
        Some((mut server, address)) => {
            for (name, key, rate) in [
                ("nginx, 1,000/s", "nginx_1k", 1_000),
                ("nginx, 10,000/s", "nginx_10k", 10_000),
                ("nginx, flat out", "nginx_flat", 0),
            ] {
                let client = || asked(&format!("{address} {rate} {seconds} {CONNECTIONS}"));
                case(name, key, &client, &mut rows, &mut figures);
            }
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
    match redis(folder.path()) {
        None => notes.push("Redis is missing: `apt-get install redis-server redis-tools` adds it".into()),
        Some((mut server, port)) => {
            case("Redis, flat out", "redis_flat", &|| redis_benchmark(port, seconds), &mut rows, &mut figures);
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
    match postgresql(folder.path()) {
        None => notes.push("PostgreSQL is missing: `apt-get install postgresql` adds it".into()),
        Some((mut server, port)) => {
            case("PostgreSQL, flat out", "postgresql_flat", &|| pgbench(port, seconds), &mut rows, &mut figures);
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }
    let columns = [
        "load",
        "requests/s without",
        "with",
        "throughput with/without",
        "p50 us without",
        "with",
        "p99 us without",
        "with",
        "seen of made",
        "ns a hook",
        "hooks a request",
        "agent CPU us a request",
        "dropped",
        "RSS peak MB",
    ];
    println!("{}", json!({ "columns": columns, "rows": rows, "notes": notes, "figures": figures }));
}

const NOTE: &str = "client, server and agent share this machine's cores, and what is asked on one end is seen on both: requests seen are spans of \
                    both sides, requests made count twice; agent CPU is the input's own thread, its spans thrown away; medians of three pairs of runs; \
                    ns a hook by the kernel's statistics in a run of its own, as they cost some themselves";

/// What a client measured of one run.
struct Asked {
    requests: u64,
    a_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Runs without and with the programs in turn; the medians in a row.
fn case(name: &str, key: &str, client: &dyn Fn() -> Asked, rows: &mut Vec<Value>, figures: &mut Map<String, Value>) {
    if std::env::args().nth(2).is_some_and(|only| !key.contains(&only)) {
        return;
    }
    let (mut without, mut with, mut watched) = (Vec::new(), Vec::new(), Vec::new());
    let observe = || {
        let watch = Watch::start();
        let asked = client();
        (watch.stop(&asked), asked)
    };
    for pair in 0..PAIRS {
        eprintln!("{name}: {} of {PAIRS}", pair + 1);
        without.push(client());
        let (seen, asked) = observe();
        watched.push(seen);
        with.push(asked);
    }
    let counted = {
        // The kernel counts the programs' time only while somebody asks for it, and that costs some itself.
        let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).ok();
        observe().0
    };
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let of = |runs: &[Asked], field: fn(&Asked) -> f64| median(runs.iter().map(field).collect());
    let seen = |field: fn(&Watched) -> f64| median(watched.iter().map(field).collect());
    let ratio = median(with.iter().zip(&without).map(|(with, without)| with.a_second / without.a_second).collect());
    let dropped: u64 = watched.iter().map(|it| it.dropped).sum();
    let share = watched.iter().map(|it| it.seen).fold(f64::MAX, f64::min);
    let (hook, hooks, cpu) = (counted.hook_ns, counted.hooks, seen(|it| it.cpu_us));
    rows.push(json!([
        name,
        format!("{:.0}", of(&without, |it| it.a_second)),
        format!("{:.0}", of(&with, |it| it.a_second)),
        format!("{ratio:.3}"),
        format!("{:.0}", of(&without, |it| it.p50_us)),
        format!("{:.0}", of(&with, |it| it.p50_us)),
        format!("{:.0}", of(&without, |it| it.p99_us)),
        format!("{:.0}", of(&with, |it| it.p99_us)),
        format!("{:.2}%", share * 100.0),
        format!("{hook:.0}"),
        format!("{hooks:.1}"),
        format!("{cpu:.2}"),
        dropped.to_string(),
        format!("{:.1}", seen(|it| it.rss_mb)),
    ]));
    for (figure, value) in [
        ("throughput_ratio", ratio),
        ("seen_share", share),
        ("hook_ns", hook),
        ("hooks_a_request", hooks),
        ("agent_cpu_us_a_request", cpu),
        ("dropped", dropped as f64),
    ] {
        figures.insert(format!("{key}_{figure}"), json!(value));
    }
}

/// What a hook costs the calling thread: best batches with and without, which nobody else on the host can have disturbed much.
fn hook(notes: &mut Vec<String>, figures: &mut Map<String, Value>) {
    let kinds = [("of a request or an answer", "head"), ("on a connection that was given up", "given_up")];
    // The input leaves its own process out.
    let best = || kinds.map(|(_, kind)| child(kind)["ns"].as_f64().unwrap());
    let without = best();
    let watch = Watch::start();
    let with = best();
    let _ = watch.stop(&Asked { requests: 1, a_second: 0.0, p50_us: 0.0, p99_us: 0.0 });
    for (((what, key), with), without) in kinds.into_iter().zip(with).zip(without) {
        notes.push(format!("a hook {what}: {:.0} ns, without the kernel's statistics", with - without));
        figures.insert(format!("hook_{key}_ns"), json!(with - without));
    }
}

/// Nanoseconds of a call, of four to a question and its answer over loopback on one thread: the best of many batches.
fn talk(kind: &str) -> f64 {
    let (question, answer) = match kind {
        "head" => (
            &b"GET /orders/7 HTTP/1.1\r\nHost: shop\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"[..],
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
        ),
        _ => (&b"no known protocol"[..], &b"nor this"[..]),
    };
    const BATCHES: usize = 4_000;
    const ROUNDS: usize = 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let mut room = [0; 1_024];
    let mut best = f64::MAX;
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            client.write_all(question).unwrap();
            server.read_exact(&mut room[..question.len()]).unwrap();
            server.write_all(answer).unwrap();
            client.read_exact(&mut room[..answer.len()]).unwrap();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (4 * ROUNDS) as f64);
    }
    best
}

/// The input, as it runs in the agent; what it hands in is counted and thrown away.
struct Watch {
    stop: CancellationToken,
    thread: std::thread::JoinHandle<f64>,
    ledger: Arc<Ledger>,
    spans: Arc<AtomicU64>,
    hooks: (u64, u64),
}

struct Watched {
    seen: f64,
    hook_ns: f64,
    hooks: f64,
    cpu_us: f64,
    dropped: u64,
    rss_mb: f64,
}

impl Watch {
    fn start() -> Watch {
        let (ledger, stats, spans) =
            (Arc::new(Ledger::default()), Arc::new(Stats::default()), Arc::new(AtomicU64::new(0)));
        let (intake, mut receiver) = Intake::new(4_096, 1_000_000, Arc::clone(&ledger));
        let stop = CancellationToken::new();
        let (stopped, running, counted, account) =
            (stop.clone(), Arc::clone(&stats), Arc::clone(&spans), Arc::clone(&ledger));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let input =
                    tokio::spawn(run(Config::default(), Arc::new(Resource::default()), intake, stopped, running));
                while let Some(received) = receiver.recv().await {
                    if let Records::Requests(requests) = received.take(&account).records {
                        counted.fetch_add(requests.len() as u64, Relaxed);
                    }
                }
                input.await.unwrap().unwrap();
            });
            cpu_seconds()
        });
        while stats.read().features.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Watch { stop, thread, ledger, spans, hooks: hooks() }
    }

    fn stop(self, asked: &Asked) -> Watched {
        // Spans wait a quarter of a second for company.
        std::thread::sleep(Duration::from_millis(400));
        let (time_ns, count) = hooks();
        self.stop.cancel();
        let cpu = self.thread.join().unwrap();
        let (time_ns, count) = (time_ns - self.hooks.0, (count - self.hooks.1).max(1));
        let requests = asked.requests.max(1) as f64;
        let traces = &self.ledger.read().signals[Signal::Traces as usize];
        Watched {
            // Each shows at the client and at the server.
            seen: self.spans.load(Relaxed) as f64 / (2.0 * requests),
            hook_ns: time_ns as f64 / count as f64,
            hooks: count as f64 / requests,
            cpu_us: cpu * 1e6 / requests,
            dropped: traces.dropped_total(),
            rss_mb: rss_mb(),
        }
    }
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1_024.0
}

/// This program again, as somebody else; what it told.
fn child(plan: &str) -> Value {
    let output =
        Command::new(std::env::current_exe().unwrap()).env(PLAY, plan).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the client ended with {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// As the client.
fn asked(plan: &str) -> Asked {
    let told = child(plan);
    let number = |key: &str| told[key].as_f64().unwrap();
    Asked {
        requests: number("requests") as u64,
        a_second: number("a_second"),
        p50_us: number("p50_us"),
        p99_us: number("p99_us"),
    }
}

/// Ask over several connections, each on its thread; at a rate, or as fast as it goes.
fn play(plan: &str) {
    if !plan.contains(' ') {
        return println!("{}", json!({ "ns": talk(plan) }));
    }
    let mut words = plan.split(' ');
    let mut word = || words.next().unwrap();
    let address: SocketAddr = word().parse().unwrap();
    let (rate, seconds, connections): (u64, u64, usize) =
        (word().parse().unwrap(), word().parse().unwrap(), word().parse().unwrap());
    let (begin, length) = (Instant::now(), Duration::from_secs(seconds));
    let each = (rate > 0).then(|| Duration::from_secs(1) * connections as u32 / rate as u32);
    let threads = (0..connections).map(|_| {
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut answer, mut took) = ([0; 4_096], Vec::new());
            let mut next = begin;
            while begin.elapsed() < length {
                if let Some(each) = each {
                    next += each;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                let asked = Instant::now();
                stream
                    .write_all(
                        b"GET /index.html HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n",
                    )
                    .unwrap();
                assert!(stream.read(&mut answer).unwrap() > 0, "an answer");
                took.push(asked.elapsed().as_nanos() as u64);
            }
            took
        })
    });
    let threads: Vec<_> = threads.collect();
    let mut took: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    let a_second = took.len() as f64 / begin.elapsed().as_secs_f64();
    println!("{}", json!({ "requests": took.len(), "a_second": a_second, "p50_us": at(0.5), "p99_us": at(0.99) }));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Wait until somebody listens there.
fn listening(child: &mut Child, port: u16) -> bool {
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// One worker, small answers, no log. `None` if it is not installed.
fn nginx(folder: &std::path::Path) -> Option<(Child, SocketAddr)> {
    let port = free_port();
    let path = folder.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log stderr crit; events {{ worker_connections 256; }}\n\
         http {{ access_log off; keepalive_requests 100000000; server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }} }}\n",
        folder.display()
    );
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&path).stdout(Stdio::null());
    let mut child = command.spawn().ok()?;
    listening(&mut child, port).then(|| (child, SocketAddr::from(([127, 0, 0, 1], port))))
}

fn redis(folder: &std::path::Path) -> Option<(Child, u16)> {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder);
    let mut child = command.stdout(Stdio::null()).spawn().ok()?;
    listening(&mut child, port).then_some((child, port))
}

/// A cluster of its own, made for this, that serves as nobody: PostgreSQL refuses root. `None` if it is not installed.
fn postgresql(folder: &std::path::Path) -> Option<(Child, u16)> {
    const NOBODY: u32 = 65_534;
    let data = folder.join("postgresql");
    std::fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    // Nobody must come to its own folder.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |name: &str| {
        let mut command = Command::new(name);
        command.uid(NOBODY).gid(NOBODY).current_dir(&data).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let made = as_nobody("initdb").args(["--auth=trust", "--username=bench", "--no-sync", "-D"]).arg(&data).status();
    made.ok().filter(|status| status.success())?;
    let port = free_port();
    let mut command = as_nobody("postgres");
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]);
    let mut child = command.args(["-p", &port.to_string(), "-D"]).arg(&data).spawn().ok()?;
    let ready = listening(&mut child, port)
        && (0..100).any(|_| {
            // It accepts connections before it takes statements.
            std::thread::sleep(Duration::from_millis(100));
            pgbench_at(port, &["--initialize", "--quiet", "--scale=1"]).is_some()
        });
    if !ready {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    ready.then_some((child, port))
}

/// What `pgbench` says, if all went well.
fn pgbench_at(port: u16, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("pgbench");
    command.args(["--host=127.0.0.1", "--username=bench", "--port", &port.to_string()]).args(arguments);
    command.env("PGDATABASE", "postgres").env("PGSSLMODE", "disable").env("PGGSSENCMODE", "disable");
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Selects of a row, prepared once. Times are of one transaction in ten.
fn pgbench(port: u16, seconds: u64) -> Asked {
    let folder = tempfile::tempdir().unwrap();
    let (log, time) = (folder.path().join("times"), format!("--time={seconds}"));
    let text = pgbench_at(
        port,
        &[
            "--select-only",
            "--protocol=prepared",
            "--no-vacuum",
            "--client=8",
            "--jobs=2",
            "--log",
            "--sampling-rate=0.1",
            &format!("--log-prefix={}", log.display()),
            &time,
        ],
    )
    .unwrap();
    let field = |name: &str| -> f64 {
        let rest = text.split_once(name).unwrap().1.trim_start();
        rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len())].parse().unwrap()
    };
    // client, transaction, microseconds, ...
    let files = std::fs::read_dir(folder.path()).unwrap().flatten();
    let logs: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
    let mut took: Vec<f64> = logs.lines().map(|line| line.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    took.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    Asked {
        requests: field("number of transactions actually processed:") as u64,
        a_second: field("tps ="),
        p50_us: at(0.5),
        p99_us: at(0.99),
    }
}

fn redis_benchmark(port: u16, seconds: u64) -> Asked {
    // About what a core does in that time.
    let requests = seconds * 20_000;
    let mut command = Command::new("redis-benchmark");
    command.args(["-p", &port.to_string(), "-c", "8", "-n", &requests.to_string(), "-t", "get", "--csv"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
    let line = text.lines().find(|line| line.starts_with("\"GET\"")).unwrap();
    let field = |number: usize| line.split(',').nth(number).unwrap().trim_matches('"').parse::<f64>().unwrap();
    Asked { requests, a_second: field(1), p50_us: field(4) * 1e3, p99_us: field(6) * 1e3 }
}
