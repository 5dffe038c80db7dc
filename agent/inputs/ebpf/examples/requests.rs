//! What a request that the kernel saw costs from its ring to the bytes of what is kept, stage by stage, without a kernel.
//!
//! `cargo run --release -p ollystack-input-ebpf --features replay --example requests [http|redis|postgresql] [REQUESTS]`. Requests over
//! 64 connections, each seen at both its ends, so two spans and four records a request, with what a service has: ids in paths, sizes
//! that differ, a long tail of durations, one in 200 failed. Prints one JSON object with a table and figures. For instructions: `valgrind --tool=callgrind`,
//! inclusive counts of `input`, `process_batches` and `encode`.
#![allow(clippy::unwrap_used, reason = "a bench may stop")]

use ollystack_ebpf::flow::{CLIENT, DATA, Meta, RECEIVED, SENT, SERVER, TURN};
use ollystack_ebpf::{Ends, FAMILY_V4, bytes_of, sniff};
use ollystack_input_ebpf::replay::Replay;
use ollystack_process::{Config, Process};
use ollystack_record::value::string;
use ollystack_record::{Intake, Ledger, Received, Reduced, ReducedRecords, Resource, Signal};
use prost::Message;
use serde_json::{Map, json};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;

const CONNECTIONS: u64 = 64;
/// Between two requests: 10,000 a second.
const STEP_NS: u64 = 100_000;
const START_NS: u64 = 1_700_000_040_000_000_000;
/// As often as the agent hands in.
const HAND_IN_NS: u64 = 250_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let requests: u64 = arguments.get(1).map_or(50_000, |text| text.parse().unwrap());
    assert!(arguments.first().is_none_or(|kind| KINDS.contains(&kind.as_str())), "one of {KINDS:?}");
    let kinds = match arguments.first() {
        Some(kind) => vec![kind.as_str()],
        None => KINDS.to_vec(),
    };
    let (mut rows, mut figures) = (Vec::new(), Map::new());
    for kind in kinds {
        let Cost { made, ns, sampled_out, bytes } = cost(kind, requests);
        let spans = 2 * made;
        let mut row = vec![kind.to_owned(), spans.to_string(), sampled_out.to_string(), bytes.to_string()];
        row.extend(ns.map(|ns| format!("{ns:.0}")));
        row.push(format!("{:.0}", ns.iter().sum::<f64>()));
        rows.push(row);
        for (stage, ns) in STAGES.into_iter().zip(ns) {
            figures.insert(format!("{kind}_{stage}_ns_a_request"), json!(ns));
        }
    }
    let columns = [&["requests", "spans", "sampled out", "bytes kept"][..], &STAGES, &["ns a request"]].concat();
    println!("{}", json!({ "columns": columns, "rows": rows, "notes": [NOTE], "figures": figures }));
}

const KINDS: [&str; 3] = ["http", "redis", "postgresql"];

const STAGES: [&str; 3] = ["input", "process", "encode"];

const NOTE: &str = "CPU time of one thread; a request is seen at both its ends: four records, two spans; waiting for rings, and waking up, left out; \
                    some metrics are among the bytes kept";

/// What requests of a kind cost, by stage.
struct Cost {
    made: u64,
    ns: [f64; 3],
    sampled_out: u64,
    bytes: usize,
}

fn cost(kind: &str, requests: u64) -> Cost {
    let ledger = Arc::new(Ledger::default());
    let (intake, mut receiver) = Intake::new(1 << 20, 1 << 28, Arc::clone(&ledger));
    let host = Arc::new(Resource::new(vec![string("host.name", "bench"), string("os.type", "linux")]));
    let mut replay = Replay::new(Arc::clone(&host), intake);
    let mut process = Process::new(Config::default(), host, Arc::clone(&ledger));
    let mut talk = Talk::new(kind);
    let (mut seconds, mut bytes, mut out) = ([0.0; 3], 0, Vec::new());
    let mut timed = |stage: usize, work: &mut dyn FnMut()| {
        let before = cpu_seconds();
        work();
        seconds[stage] += cpu_seconds() - before;
    };
    let each = HAND_IN_NS / STEP_NS;
    let made = requests.div_ceil(each) * each;
    for number in 0..made / each {
        let records: Vec<Vec<u8>> = (0..each).flat_map(|_| talk.request()).collect();
        let now = START_NS + (number + 1) * HAND_IN_NS;
        timed(0, &mut || input(&mut replay, &records));
        timed(1, &mut || process_batches(&mut process, &mut receiver, &ledger, now, &mut out));
        timed(2, &mut || bytes += encode(&mut out));
    }
    let traces = &ledger.read().signals[Signal::Traces as usize];
    assert_eq!((traces.seen, traces.dropped_total()), (2 * made, 0), "each request is seen at both its ends");
    Cost { made, ns: seconds.map(|seconds| seconds * 1e9 / made as f64), sampled_out: traces.sampled_out, bytes }
}

#[inline(never)]
fn input(replay: &mut Replay, records: &[Vec<u8>]) {
    for record in records {
        replay.take(record);
    }
    replay.hand_in();
}

#[inline(never)]
fn process_batches(
    process: &mut Process,
    receiver: &mut Receiver<Received>,
    ledger: &Ledger,
    now: u64,
    out: &mut Vec<Reduced>,
) {
    while let Ok(received) = receiver.try_recv() {
        process.take(received.take(ledger), now, out);
    }
    process.tick(now, out);
    while process.hand_out(now, out) {}
}

/// Bytes of what is kept, as OTLP; they are compressed a batch at a time.
#[inline(never)]
fn encode(out: &mut Vec<Reduced>) -> usize {
    let bytes = out.drain(..).map(|reduced| match reduced.records {
        ReducedRecords::Metrics(metrics) => metrics.encode_to_vec().len(),
        ReducedRecords::Logs(logs) => logs.encode_to_vec().len(),
        ReducedRecords::Traces(traces) => traces.encode_to_vec().len(),
    });
    bytes.sum()
}

/// CPU time of this thread, as the scheduler has it: tools that count know no other clock of it.
fn cpu_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    told.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Writes what the kernel would.
struct Talk {
    protocol: u8,
    made: u64,
    random: u64,
    /// Of each connection: records of either end, bytes that either side sent.
    connections: Vec<([u32; 2], [u32; 2])>,
}

impl Talk {
    fn new(kind: &str) -> Talk {
        let protocol = match kind {
            "http" => sniff::HTTP1,
            "redis" => sniff::REDIS,
            _ => sniff::POSTGRESQL,
        };
        Talk { protocol, made: 0, random: 7, connections: vec![Default::default(); CONNECTIONS as usize] }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// Question and answer.
    fn texts(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (route, id, size) = (self.random(8), self.random(100_000) + 1_000, self.random(5_000));
        let failed = self.random(200) == 0;
        match self.protocol {
            sniff::HTTP1 => {
                let path = match route {
                    0 => "/".to_owned(),
                    1 | 2 => format!("/api/v1/users/{id}"),
                    3 | 4 => format!("/api/v1/orders/{id}/lines"),
                    5 => "/static/app.js".to_owned(),
                    6 => "/api/v1/search".to_owned(),
                    _ => "/healthz".to_owned(),
                };
                let head = "Host: shop.internal:8080\r\nUser-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate\r\n\
                            Accept: */*\r\nConnection: keep-alive\r\n\r\n";
                let status = if failed { "503 Service Unavailable" } else { "200 OK" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nServer: nginx/1.28\r\nDate: Sat, 21 Nov 2026 01:00:00 GMT\r\n\
                     Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
                );
                (format!("GET {path} HTTP/1.1\r\n{head}").into_bytes(), answer.into_bytes())
            }
            sniff::REDIS => {
                let key = format!("session:{id}");
                let question = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
                let answer = if failed { "-WRONGTYPE Operation against a key\r\n" } else { "$5\r\nhello\r\n" };
                (question.into_bytes(), answer.as_bytes().to_vec())
            }
            _ => {
                let query = format!("SELECT id, name FROM orders WHERE customer = {id}\0");
                let question = [&b"Q"[..], &(query.len() as u32 + 4).to_be_bytes(), query.as_bytes()].concat();
                let mut answer = [&b"C"[..], &13_u32.to_be_bytes(), b"SELECT 1\0"].concat();
                if failed {
                    let fields = b"SERROR\0C42P01\0Mno such table\0\0";
                    answer = [&b"E"[..], &(fields.len() as u32 + 4).to_be_bytes(), fields].concat();
                }
                answer.extend(b"Z\0\0\0\x05I");
                (question, answer)
            }
        }
    }

    /// The records of one request, at both its ends.
    fn request(&mut self) -> Vec<Vec<u8>> {
        let (question, answer) = self.texts();
        let time_ns = START_NS + self.made * STEP_NS;
        let number = self.made % CONNECTIONS;
        self.made += 1;
        // 2 ms and a long tail.
        let took_ns = 2_000_000 * 64 / (self.random(64) + 1);
        let (sequences, sent) = &mut self.connections[number as usize];
        let length = if self.protocol == sniff::HTTP1 { answer.len() + content_length(&answer) } else { answer.len() };
        let [asked_at, answered_at] = *sent;
        *sent = [asked_at.wrapping_add(question.len() as u32), answered_at.wrapping_add(length as u32)];
        let (tcp_sequence, tcp_acknowledgment) = (asked_at + 1_000_000 * (number as u32 + 1), answered_at + 77);
        let address = |last| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&[10, 0, 0, last]);
            address
        };
        let (client, server) = (address(1 + (number % 4) as u8), address(200));
        let port = 40_000 + number as u16;
        let mut record = |side: u8, direction, time_ns, position, text: &[u8], length: usize| {
            let sequence = &mut sequences[usize::from(side)];
            *sequence += 1;
            let (local, remote, local_port, remote_port) =
                if side == CLIENT { (client, server, port, 8_080) } else { (server, client, 8_080, port) };
            let is_question = (side == CLIENT) == (direction == SENT);
            let meta = Meta {
                time_ns,
                socket: number * 2 + u64::from(side) + 1,
                // No such process: a name by its command.
                process: 4_194_304 + 10 + u32::from(side),
                thread: number as u32,
                sequence: *sequence,
                length: length as u32,
                position,
                captured: text.len() as u16,
                kind: DATA,
                direction,
                protocol: self.protocol,
                role: side,
                flags: TURN,
                tcp_sequence: if is_question { tcp_sequence } else { 0 },
                tcp_acknowledgment: if is_question { tcp_acknowledgment } else { 0 },
                ends: Ends { local, remote, local_port, remote_port, family: FAMILY_V4, reserved: 0 },
                command: *if side == CLIENT { b"front\0\0\0\0\0\0\0\0\0\0\0" } else { b"shop\0\0\0\0\0\0\0\0\0\0\0\0" },
                ..Meta::default()
            };
            [bytes_of(&meta), text].concat()
        };
        vec![
            record(CLIENT, SENT, time_ns, asked_at, &question, question.len()),
            record(SERVER, RECEIVED, time_ns + 50_000, asked_at, &question, question.len()),
            record(SERVER, SENT, time_ns + took_ns, answered_at, &answer, length),
            record(CLIENT, RECEIVED, time_ns + took_ns + 50_000, answered_at, &answer, length),
        ]
    }
}

fn content_length(answer: &[u8]) -> usize {
    let text = std::str::from_utf8(answer).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap()
}
