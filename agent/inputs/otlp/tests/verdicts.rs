//! A sender is answered by what became of its records, never before and never otherwise.
#![allow(clippy::unwrap_used, clippy::panic)]

use ollystack_input_otlp::{Config, Stats, run};
use ollystack_record::{Batch, Intake, Ledger, Level, Outcome, Pressure, Received, Records, Signal};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Input {
    config: Config,
    ledger: Arc<Ledger>,
    stats: Arc<Stats>,
    pressure: Arc<Pressure>,
    received: mpsc::Receiver<Received>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ollystack_input_otlp::Error>>,
}

/// Two addresses that were free a moment ago.
fn addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap())
}

async fn start(change: impl FnOnce(&mut Config)) -> Input {
    let [grpc_address, http_address] = addresses();
    let mut config = Config { grpc_address, http_address, ..Config::default() };
    change(&mut config);
    let (ledger, stats, stop) = (Arc::new(Ledger::default()), Arc::new(Stats::default()), CancellationToken::new());
    let (intake, received) = Intake::new(1, 100, Arc::clone(&ledger));
    let pressure = Arc::new(Pressure::default());
    let intake = intake.under(Arc::clone(&pressure));
    let running = tokio::spawn(run(config.clone(), intake, stop.clone(), Arc::clone(&stats)));
    while TcpStream::connect(config.http_address).await.is_err() {
        tokio::task::yield_now().await;
    }
    Input { config, ledger, stats, pressure, received, stop, running }
}

/// Status line, headers and body of one request over HTTP/1.1.
async fn post(address: SocketAddr, path: &str, json: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = json.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
    stream.write_all(format!("{head}connection: close\r\n\r\n{json}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Input {
    fn send(&self, path: &'static str, json: &'static str) -> JoinHandle<String> {
        tokio::spawn(post(self.config.http_address, path, json))
    }

    async fn next(&mut self) -> Batch {
        self.received.recv().await.unwrap().take(&self.ledger)
    }
}

const LOGS: &str = r#"{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},
    "scopeLogs":[{"logRecords":[{"body":{"stringValue":"one"}},{"body":{"stringValue":"two"}}]}]}]}"#;
const TWO_RESOURCES: &str =
    r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{}]}]},{"scopeLogs":[{"logRecords":[{}]}]}]}"#;
const SPANS: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"0102030405060708090a0b0c0d0e0f10",
    "spanId":"0102030405060708"},{"traceId":"01","spanId":"0102030405060708"}]}]}]}"#;

#[tokio::test]
async fn the_answer_waits_for_the_verdict_on_every_resource() {
    let mut input = start(|_| {}).await;
    let answer = input.send("/v1/logs", TWO_RESOURCES);
    let (first, second) = (input.next().await, input.next().await);
    assert_ne!(input.stats.read().requests_accepted, 1);
    first.ack.resolve(Outcome::Durable);
    assert!(!answer.is_finished(), "one of two is not enough");
    second.ack.resolve(Outcome::Durable);
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(input.stats.read().requests_accepted, 1);
}

#[tokio::test]
async fn while_memory_or_cpu_press_senders_are_told_when_to_come_back_and_nothing_of_theirs_is_seen() {
    let mut input = start(|_| {}).await;
    for (what, level, seconds) in [("memory", Level::Lean, 0), ("CPU", Level::Shrink, 60)] {
        input.pressure.set_level(level);
        input.pressure.rest(std::time::Duration::from_secs(seconds));
        let answer = input.send("/v1/logs", LOGS).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains(what), "{answer}");
        let retry_after = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
        assert!(["1", "2"].contains(&retry_after.trim()), "{answer}");
    }
    input.pressure.rest(std::time::Duration::ZERO);
    assert_eq!(input.ledger.read().signals[Signal::Logs as usize].seen, 0);
    let answer = input.send("/v1/logs", LOGS);
    input.next().await.ack.resolve(Outcome::Durable);
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn records_keep_their_resource_and_are_counted() {
    let mut input = start(|_| {}).await;
    let answer = input.send("/v1/logs", LOGS);
    let batch = input.next().await;
    assert_eq!((batch.resource.service_name(), batch.records.count()), ("shop", 2));
    batch.ack.resolve(Outcome::Accepted);
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n{}"), "{answer}");
    let reading = input.ledger.read().signals[Signal::Logs as usize].clone();
    assert_eq!(reading.seen, 2);
    assert!(reading.bytes_in > 0);
}

#[tokio::test]
async fn invalid_spans_are_told_and_counted_and_the_others_pass() {
    let mut input = start(|_| {}).await;
    let answer = input.send("/v1/traces", SPANS);
    let batch = input.next().await;
    let Records::Traces(_) = &batch.records else { panic!("{batch:?}") };
    assert_eq!(batch.records.count(), 1);
    batch.ack.resolve(Outcome::Accepted);
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(r#""rejectedSpans":"1""#), "{answer}");
    let reading = input.ledger.read().signals[Signal::Traces as usize].clone();
    assert_eq!((reading.seen, reading.dropped_total()), (2, 1));
    assert_eq!(input.stats.read().records_rejected, 1);
}

/// An input, and a request so long that while it is in flight there are not bytes enough to read and decode another.
async fn start_with_bytes_for_one() -> (Input, String) {
    let input = start(|config| {
        (config.limits.wire_bytes_max, config.limits.decoded_bytes_max) = (256 << 10, 256 << 10);
        config.limits.in_flight_bytes_max = 640 << 10;
    });
    let text = "x".repeat(200 << 10);
    let json =
        format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{{"stringValue":"{text}"}}}}]}}]}}]}}"#);
    (input.await, json)
}

#[tokio::test]
async fn requests_that_wait_for_their_verdict_keep_no_others_out() {
    let (mut input, json) = start_with_bytes_for_one().await;
    let (mut answers, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let (address, json) = (input.config.http_address, json.clone());
        let mut answer = tokio::spawn(async move { post(address, "/v1/logs", &json).await });
        tokio::select! {
            batch = input.next() => taken.push(batch),
            answer = &mut answer => panic!("after {}: {}", taken.len(), answer.unwrap()),
        }
        answers.push(answer);
    }
    assert!(answers.iter().all(|answer| !answer.is_finished()), "all of them wait");
    taken.into_iter().for_each(|batch| batch.ack.resolve(Outcome::Durable));
    for answer in answers {
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn what_is_queued_is_in_flight_although_its_sender_is_gone() {
    let (mut input, json) = start_with_bytes_for_one().await;
    let head = format!("content-type: application/json\r\ncontent-length: {}\r\n\r\n", json.len());
    let request = format!("POST /v1/logs HTTP/1.1\r\nhost: test\r\n{head}{json}");
    let mut sender = TcpStream::connect(input.config.http_address).await.unwrap();
    sender.write_all(request.as_bytes()).await.unwrap();
    while input.ledger.read().signals[Signal::Logs as usize].seen == 0 {
        tokio::task::yield_now().await;
    }
    drop(sender);
    while input.stats.read().connections > 0 {
        tokio::task::yield_now().await;
    }
    let answer = post(input.config.http_address, "/v1/logs", &json).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("bytes"), "{answer}");
    input.next().await.ack.resolve(Outcome::Durable);
    let address = input.config.http_address;
    let answer = tokio::spawn(async move { post(address, "/v1/logs", &json).await });
    input.next().await.ack.resolve(Outcome::Durable);
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_full_agent_sends_the_sender_away_and_counts_nothing() {
    let mut input = start(|config| config.intake_timeout_ms = 1).await;
    // The queue holds one batch; nobody takes it.
    let waiting = input.send("/v1/logs", LOGS);
    while input.ledger.read().signals[Signal::Logs as usize].seen == 0 {
        tokio::task::yield_now().await;
    }
    let answer = post(input.config.http_address, "/v1/logs", LOGS).await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert_eq!(input.ledger.read().signals[Signal::Logs as usize].seen, 2, "the first request's records only");
    input.next().await.ack.resolve(Outcome::Durable);
    assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn records_that_are_not_safe_are_asked_for_again() {
    let mut input = start(|config| config.ack_timeout_ms = 20).await;
    let answer = input.send("/v1/logs", LOGS);
    let batch = input.next().await;
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: 1\r\n"), "no verdict: {answer}");
    batch.ack.resolve(Outcome::Durable);

    let answer = input.send("/v1/logs", LOGS);
    input.next().await.ack.resolve(Outcome::Dropped);
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "dropped: {answer}");
    assert_eq!(input.stats.read().requests_refused["unavailable"], 2);
}

#[tokio::test]
async fn stop_answers_what_is_in_progress_and_frees_both_ports() {
    let mut input = start(|_| {}).await;
    let answer = input.send("/v1/logs", LOGS);
    let batch = input.next().await;
    input.stop.cancel();
    batch.ack.resolve(Outcome::Durable);
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200 "));
    input.running.await.unwrap().unwrap();
    for address in [input.config.grpc_address, input.config.http_address] {
        TcpListener::bind(address).unwrap();
    }
}

#[tokio::test]
async fn one_address_that_is_taken_leaves_the_other_and_two_are_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut input = start(|config| config.grpc_address = address).await;
    let answer = input.send("/v1/logs", LOGS);
    input.next().await.ack.resolve(Outcome::Durable);
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200 "));

    let config = Config { grpc_address: address, http_address: address, ..Config::default() };
    let (intake, _received) = Intake::new(1, 100, Arc::clone(&input.ledger));
    let error = run(config, intake, CancellationToken::new(), Arc::clone(&input.stats)).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}
