//! From reduced records to an endpoint that says yes, not now, not you, or never.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use futures::FutureExt;
use http::HeaderMap;
use ollystack_buffer::{Buffer, Entry, Options};
use ollystack_export::{ApiKey, Config, Status, freeze, measure, open_buffer, send};
use ollystack_receive::{Accepted, Export, Limits, Message, OtlpService, Refusal, RequestHead, Server, Tls, bind};
use ollystack_record::otlp::common::v1::{AnyValue, any_value::Value};
use ollystack_record::otlp::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use ollystack_record::{Ack, Class, Ledger, Outcome, Place, Reduced, ReducedRecords, Signal};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_millis(1);

/// Says what the script says, then yes.
#[derive(Default)]
struct Endpoint {
    script: Mutex<VecDeque<Result<Accepted, Refusal>>>,
    /// Refuses requests with this grpc-encoding.
    refused_encoding: Mutex<Vec<&'static str>>,
    key: Mutex<String>,
    seen: Mutex<Vec<Export>>,
    /// One notification per request that got past `admit`, or was refused there.
    request: Notify,
}

impl OtlpService for Endpoint {
    type Caller = ();
    type Body = Message;

    fn admit(&self, head: &RequestHead<'_>) -> Result<(), Refusal> {
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        if text("authorization") != format!("Bearer {}", self.key.lock().unwrap()) {
            self.request.notify_one();
            return Err(Refusal::Unauthenticated("unknown key".into()));
        }
        let encoding = text("grpc-encoding");
        if self.refused_encoding.lock().unwrap().contains(&encoding.as_str()) {
            return Err(Refusal::Unsupported(format!("no decompressor for {encoding}")));
        }
        Ok(())
    }

    async fn export(&self, (): (), request: Export) -> Result<Accepted, Refusal> {
        self.seen.lock().unwrap().push(request);
        let answer = self.script.lock().unwrap().pop_front().unwrap_or_else(|| Ok(Accepted::default()));
        self.request.notify_one();
        answer
    }
}

/// An endpoint on a free port.
async fn serve(endpoint: &Arc<Endpoint>, tls: Option<&Tls>) -> (u16, CancellationToken) {
    serve_at("127.0.0.1:0".parse().unwrap(), endpoint, tls).await
}

async fn serve_at(address: SocketAddr, endpoint: &Arc<Endpoint>, tls: Option<&Tls>) -> (u16, CancellationToken) {
    "good".clone_into(&mut endpoint.key.lock().unwrap());
    let server = Server::new(Arc::clone(endpoint), Limits::default(), tls).unwrap();
    let listener = bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move { server.serve(listener, token).await });
    (port, stop)
}

/// The stage under test.
struct Stage {
    buffer: Buffer,
    ledger: Arc<Ledger>,
    status: Arc<Status>,
    stop: CancellationToken,
    sending: JoinHandle<Result<(), ollystack_export::Error>>,
}

fn config(endpoint: String) -> Config {
    Config {
        endpoint,
        batch_interval_ms: 1,
        retry_initial_ms: 1,
        retry_max_ms: 2,
        retry_key_ms: 1,
        drain_timeout_ms: 1_000,
        ..Config::default()
    }
}

impl Stage {
    fn start(config: Config, directory: &Path) -> Stage {
        let ledger = Arc::new(Ledger::default());
        let (buffer, _) = open_buffer(Options::new(directory), &ledger).unwrap();
        let (status, stop) = (Arc::new(Status::default()), CancellationToken::new());
        let key = ApiKey::new("good");
        let sending = tokio::spawn(send(
            config,
            key,
            "agent-1".into(),
            buffer.clone(),
            Arc::clone(&ledger),
            stop.clone(),
            Arc::clone(&status),
        ));
        Stage { buffer, ledger, status, stop, sending }
    }

    /// Records in, on disk when this returns.
    async fn freeze(&self, config: &Config, batches: Vec<Vec<LogRecord>>) -> Vec<Outcome> {
        let (sender, receiver) = mpsc::channel(8);
        let freezing = tokio::spawn(freeze(config.clone(), receiver, self.buffer.clone(), Arc::clone(&self.ledger)));
        let mut pending = Vec::new();
        for log_records in batches {
            let (ack, verdict) = Ack::new();
            pending.push(verdict);
            // What the inputs and `process` would have entered.
            self.ledger.seen(Signal::Logs, log_records.len() as u64);
            self.ledger.waiting_add(Signal::Logs, Place::Freezer, log_records.len() as i64);
            let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
            let records = ReducedRecords::Logs(ResourceLogs { scope_logs, ..ResourceLogs::default() });
            sender.send(Reduced { class: Class::Normal, records, acks: vec![ack] }).await.unwrap();
        }
        drop(sender);
        freezing.await.unwrap();
        let mut outcomes = Vec::new();
        for verdict in pending {
            outcomes.push(verdict.outcome().await);
        }
        outcomes
    }

    /// Wait until an attempt has failed.
    async fn fails(&self) {
        while self.status.read().attempts_failed == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Wait until nothing is left to send, then stop.
    async fn settle(self) -> (Arc<Ledger>, Arc<Status>) {
        while self.buffer.stats().entries > 0 {
            tokio::task::yield_now().await;
        }
        self.end().await
    }

    async fn end(self) -> (Arc<Ledger>, Arc<Status>) {
        self.stop.cancel();
        self.sending.await.unwrap().unwrap();
        measure(&self.buffer, &self.ledger);
        self.buffer.close().await;
        for signal in self.ledger.read().signals {
            assert_eq!(signal.balance(), 0, "{signal:?}");
        }
        (self.ledger, self.status)
    }
}

fn lines(count: usize) -> Vec<LogRecord> {
    let body = |index: usize| Some(AnyValue { value: Some(Value::IntValue(index as i64)) });
    (0..count).map(|index| LogRecord { body: body(index), ..LogRecord::default() }).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn logs(ledger: &Ledger) -> ollystack_record::ledger::SignalReading {
    ledger.read().signals[Signal::Logs as usize].clone()
}

#[tokio::test]
async fn what_is_frozen_arrives_once_as_it_was_with_its_identity() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let (port, _stop) = serve(&endpoint, None).await;
    let config = Config { batch_records_max: 30, ..config(format!("http://127.0.0.1:{port}")) };
    let stage = Stage::start(config.clone(), directory.path());
    let outcomes = stage.freeze(&config, vec![lines(20), lines(20), lines(70)]).await;
    assert_eq!(outcomes, [Outcome::Durable; 3]);
    let (ledger, status) = stage.settle().await;

    let seen = endpoint.seen.lock().unwrap();
    let mut sequences: Vec<u64> = Vec::new();
    let mut bodies = Vec::new();
    for export in seen.iter() {
        assert_eq!(header(&export.headers, "x-ollystack-agent"), "agent-1");
        assert_eq!(header(&export.headers, "grpc-encoding"), "zstd");
        assert_eq!(header(&export.headers, "x-ollystack-redelivered"), "");
        sequences.push(header(&export.headers, "x-ollystack-sequence").parse().unwrap());
        let Message::Logs(request) = &export.message else { panic!() };
        let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
        let records: Vec<_> = scopes.flat_map(|scope| &scope.log_records).collect();
        assert!(records.len() <= 30);
        bodies.extend(records.iter().map(|record| record.body.clone()));
    }
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), seen.len());
    let expected = [lines(20), lines(20), lines(70)].concat();
    let count = |body: &Option<AnyValue>| bodies.iter().filter(|b| *b == body).count();
    for record in &expected {
        assert_eq!(count(&record.body), expected.iter().filter(|r| r.body == record.body).count());
    }
    assert_eq!(bodies.len(), 110);
    let reading = logs(&ledger);
    assert_eq!((reading.sent, reading.dropped_total()), (110, 0));
    assert!(reading.bytes_out > 0);
    assert_eq!((status.read().state, status.read().batches_sent as usize), ("sending", seen.len()));
}

#[tokio::test]
async fn a_retry_sends_the_same_bytes_under_the_same_identity_and_says_that_it_is_one() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let throttled = Refusal::Exhausted { retry_after: SOON, message: "quota".into() };
    let away = Refusal::Unavailable { retry_after: SOON, message: "away".into() };
    endpoint.script.lock().unwrap().extend([Err(throttled), Err(untouched("all", SOON)), Err(away)]);
    let (port, _stop) = serve(&endpoint, None).await;
    let config = config(format!("http://127.0.0.1:{port}"));
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5)]).await;
    let (ledger, status) = stage.settle().await;

    let seen = endpoint.seen.lock().unwrap();
    let redelivered: Vec<_> = seen.iter().map(|e| header(&e.headers, "x-ollystack-redelivered")).collect();
    // Throttling says that nothing was taken, as a gateway of ours does; after UNAVAILABLE alone nobody knows.
    assert_eq!(redelivered, ["", "", "", "1"]);
    for pair in seen.windows(2) {
        assert_eq!(pair[0].message, pair[1].message);
        assert_eq!(pair[0].wire_bytes, pair[1].wire_bytes);
        let sequence = |export: &Export| header(&export.headers, "x-ollystack-sequence").to_owned();
        assert_eq!(sequence(&pair[0]), sequence(&pair[1]));
    }
    assert_eq!(logs(&ledger).sent, 5);
    let reading = status.read();
    assert_eq!((reading.attempts_failed, reading.consecutive_failures, reading.batches_sent), (3, 0, 1));
    assert!(reading.last_error.unwrap().contains("away"));
}

/// As a gateway of ours refuses what it did not touch.
fn untouched(what: &'static str, retry_after: Duration) -> Refusal {
    let headers = [("x-ollystack-untouched", what), ("x-ollystack-clock-ms", "1700000000000")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Refusal::Unavailable { retry_after, message: "later".into() }.marked(HeaderMap::from_iter(headers))
}

#[tokio::test]
async fn a_batch_that_has_to_wait_alone_lets_others_pass_and_goes_again_as_what_it_was() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    endpoint.script.lock().unwrap().extend([Err(untouched("this", Duration::from_millis(300)))]);
    let (port, _stop) = serve(&endpoint, None).await;
    let config = Config { in_flight_max: 1, batch_records_max: 5, ..config(format!("http://127.0.0.1:{port}")) };
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5), lines(5), lines(5)]).await;
    let (ledger, status) = stage.settle().await;
    assert_eq!((logs(&ledger).sent, status.read().attempts_failed), (15, 0));

    let seen = endpoint.seen.lock().unwrap();
    let column = |name: &str| seen.iter().map(|export| header(&export.headers, name).to_owned()).collect::<Vec<_>>();
    let sequences = column("x-ollystack-sequence");
    assert_eq!((sequences.len(), &sequences[0]), (4, &sequences[3]), "{sequences:?}");
    assert_eq!(column("x-ollystack-redelivered"), ["", "", "", ""], "no attempt may have arrived");
    // Dated by the clock of the answers once there was one.
    let sent: Vec<u64> = column("x-ollystack-sent-ms").iter().map(|sent| sent.parse().unwrap()).collect();
    assert_eq!(sent[0], 0);
    assert!(sent[1..].is_sorted() && sent[1] >= 1_700_000_000_000 && sent[3] >= 1_700_000_000_300, "{sent:?}");
}

#[tokio::test]
async fn a_repetition_says_how_long_ago_it_may_have_arrived_however_often_it_has_to_wait() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let away = Refusal::Unavailable { retry_after: SOON, message: "perhaps".into() };
    let wait = Duration::from_millis(100);
    endpoint.script.lock().unwrap().extend([Err(away), Err(untouched("this", wait)), Err(untouched("this", wait))]);
    let (port, _stop) = serve(&endpoint, None).await;
    let config = config(format!("http://127.0.0.1:{port}"));
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5)]).await;
    let (ledger, _) = stage.settle().await;
    assert_eq!(logs(&ledger).sent, 5);
    let seen = endpoint.seen.lock().unwrap();
    let ages = seen.iter().map(|export| header(&export.headers, "x-ollystack-attempt-age-ms").parse().ok());
    let ages: Vec<Option<u64>> = ages.collect();
    assert!(ages.len() == 4 && ages[0].is_none() && ages.is_sorted(), "{ages:?}");
    assert!(ages[3] >= Some(200), "{ages:?}");
}

#[tokio::test]
async fn a_repetition_is_as_old_as_the_last_attempt_that_may_have_arrived() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let away = || Refusal::Unavailable { retry_after: SOON, message: "perhaps".into() };
    let wait = Duration::from_millis(300);
    endpoint.script.lock().unwrap().extend([Err(away()), Err(untouched("this", wait)), Err(away())]);
    let (port, _stop) = serve(&endpoint, None).await;
    let config = config(format!("http://127.0.0.1:{port}"));
    let begun = Instant::now();
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5)]).await;
    stage.settle().await;
    let passed = begun.elapsed().as_millis() as u64;
    let seen = endpoint.seen.lock().unwrap();
    let age = header(&seen[3].headers, "x-ollystack-attempt-age-ms").parse::<u64>().unwrap();
    assert!(seen.len() == 4 && age + 300 <= passed, "{age} of {passed} ms: not from before the wait");
}

#[tokio::test]
async fn a_refused_key_keeps_the_data_until_it_is_taken() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let (port, _stop) = serve(&endpoint, None).await;
    "another".clone_into(&mut endpoint.key.lock().unwrap());
    let config = config(format!("http://127.0.0.1:{port}"));
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5)]).await;
    while stage.status.read().attempts_failed < 3 {
        endpoint.request.notified().await;
    }
    let reading = stage.status.read();
    assert_eq!(reading.state, "key refused");
    assert!(reading.last_error.unwrap().contains("check OLLYSTACK_API_KEY"));
    assert_eq!(stage.buffer.stats().entries, 1);
    "good".clone_into(&mut endpoint.key.lock().unwrap());
    let (ledger, _) = stage.settle().await;
    assert_eq!((logs(&ledger).sent, logs(&ledger).dropped_total()), (5, 0));
}

#[tokio::test]
async fn what_can_never_be_taken_is_dropped_and_counted_and_the_next_batch_passes() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let partial = Accepted { rejected: 2, message: "two are bad".into(), ..Accepted::default() };
    endpoint.script.lock().unwrap().extend([Err(Refusal::Invalid("all bad".into())), Ok(partial)]);
    let (port, _stop) = serve(&endpoint, None).await;
    let config = Config { in_flight_max: 1, batch_records_max: 5, ..config(format!("http://127.0.0.1:{port}")) };
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5), lines(5), lines(5)]).await;
    let (ledger, status) = stage.settle().await;
    let reading = logs(&ledger);
    let dropped: Vec<_> = reading.dropped.iter().filter(|(_, records)| *records > 0).collect();
    assert_eq!(dropped, [&("refused", 5), &("partial_success", 2)]);
    assert_eq!((reading.sent, endpoint.seen.lock().unwrap().len()), (8, 3));
    assert_eq!(status.read().batches_refused, 1);
}

#[tokio::test]
async fn an_endpoint_without_zstd_gets_gzip_and_one_without_either_gets_it_plain() {
    for (refused, expected) in [(vec!["zstd"], "gzip"), (vec!["zstd", "gzip"], "")] {
        let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
        *endpoint.refused_encoding.lock().unwrap() = refused;
        let (port, _stop) = serve(&endpoint, None).await;
        let config = config(format!("http://127.0.0.1:{port}"));
        let stage = Stage::start(config.clone(), directory.path());
        stage.freeze(&config, vec![lines(5)]).await;
        let (ledger, _) = stage.settle().await;
        assert_eq!(logs(&ledger).sent, 5);
        let seen = endpoint.seen.lock().unwrap();
        assert_eq!(header(&seen[0].headers, "grpc-encoding"), expected);
        let Message::Logs(request) = &seen[0].message else { panic!() };
        assert_eq!(request.resource_logs[0].scope_logs[0].log_records, lines(5));
    }
}

#[tokio::test]
async fn an_unreachable_endpoint_delays_stop_by_one_attempt_and_the_next_start_sends_what_was_left() {
    let directory = tempfile::tempdir().unwrap();
    let (_, away) = nobody().await;
    let stage = Stage::start(away.clone(), directory.path());
    stage.freeze(&away, vec![lines(5)]).await;
    stage.fails().await;
    assert_eq!(stage.status.read().state, "unreachable");
    // Were it to wait for the pause of ten minutes, this test would not end.
    let (ledger, status) = stage.end().await;
    assert_eq!((logs(&ledger).sent, logs(&ledger).waiting_total()), (0, 5));
    assert_eq!(status.read().attempts_failed, 2, "one more on stop");

    let endpoint = Arc::new(Endpoint::default());
    let (port, _stop) = serve(&endpoint, None).await;
    let stage = Stage::start(config(format!("http://127.0.0.1:{port}")), directory.path());
    let (ledger, _) = stage.settle().await;
    assert_eq!((logs(&ledger).carried, logs(&ledger).sent), (5, 5));
    // The earlier process may have sent it for all this one knows.
    assert_eq!(header(&endpoint.seen.lock().unwrap()[0].headers, "x-ollystack-redelivered"), "1");
}

/// Where nobody listens, and a sender that waits for ten minutes after it has found out.
async fn nobody() -> (SocketAddr, Config) {
    let free = bind("127.0.0.1:0".parse().unwrap()).await.unwrap().local_addr().unwrap();
    (free, patient(config(format!("http://{free}"))))
}

fn patient(config: Config) -> Config {
    Config { retry_initial_ms: 600_000, retry_max_ms: 600_000, retry_key_ms: 600_000, ..config }
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_came_meanwhile_is_sent_on_stop() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let (address, config) = nobody().await;
    let config = Config { batch_records_max: 5, ..config };
    let stage = Stage::start(config.clone(), directory.path());
    // More than are under way at once.
    stage.freeze(&config, (0..7).map(|_| lines(5)).collect()).await;
    stage.fails().await;
    let (_, _stop) = serve_at(address, &endpoint, None).await;
    let (ledger, _) = stage.end().await;
    assert_eq!((logs(&ledger).sent, logs(&ledger).waiting_total()), (35, 0));
}

#[tokio::test]
async fn an_endpoint_that_keeps_the_agent_away_is_not_asked_again_on_stop() {
    let later = Refusal::Exhausted { retry_after: Duration::from_secs(600), message: "quota".into() };
    for (refusal, key) in [(Some(later), "good"), (None, "another")] {
        let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
        endpoint.script.lock().unwrap().extend(refusal.map(Err));
        let (port, _stop) = serve(&endpoint, None).await;
        key.clone_into(&mut endpoint.key.lock().unwrap());
        let config = patient(config(format!("http://127.0.0.1:{port}")));
        let stage = Stage::start(config.clone(), directory.path());
        stage.freeze(&config, vec![lines(5)]).await;
        stage.fails().await;
        // It would take them now.
        "good".clone_into(&mut endpoint.key.lock().unwrap());
        let (ledger, status) = stage.end().await;
        assert_eq!((logs(&ledger).sent, logs(&ledger).waiting_total(), status.read().attempts_failed), (0, 5, 1));
    }
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_delays_stop_by_the_drain_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let (address, config) = nobody().await;
    let config = Config { drain_timeout_ms: 100, response_timeout_ms: 600_000, connect_timeout_ms: 600_000, ..config };
    let stage = Stage::start(config.clone(), directory.path());
    stage.freeze(&config, vec![lines(5)]).await;
    stage.fails().await;
    let silent = bind(address).await.unwrap();
    let took = tokio::spawn(async move { silent.accept().await.unwrap() });
    // Were it to wait for an answer, this test would not end.
    let (ledger, _) = stage.end().await;
    took.await.unwrap();
    assert_eq!((logs(&ledger).sent, logs(&ledger).waiting_total()), (0, 5));
}

/// What a batch is in the buffer, but for its description.
async fn put_described(buffer: &Buffer, meta: &'static [u8]) {
    let (meta, payload) = (Bytes::from_static(meta), Bytes::from_static(b"who knows"));
    let entry = Entry { class: 0, signal: Signal::Logs as u8, records: 3, meta, payload };
    buffer.put(vec![entry]).await.unwrap();
}

#[tokio::test]
async fn what_a_later_version_left_waits_on_disk_for_it_and_only_what_no_version_wrote_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (buffer, _) = open_buffer(Options::new(directory.path()), &Arc::default()).unwrap();
    // Of version 2, and longer than those of this one; without a description; of this version, and no encoding of it.
    for meta in [&[2, 9, 9, 9, 9, 9, 9, 9, 9][..], &[], &[1, 7, 0, 0, 0, 0]] {
        put_described(&buffer, meta).await;
    }
    buffer.close().await;
    let endpoint = Arc::new(Endpoint::default());
    let (port, _stop) = serve(&endpoint, None).await;
    let config = config(format!("http://127.0.0.1:{port}"));
    for (carried, corrupt) in [(9, 6), (3, 0)] {
        let stage = Stage::start(config.clone(), directory.path());
        stage.freeze(&config, vec![lines(5)]).await;
        while stage.buffer.stats().entries > 1 || stage.buffer.stats().left < 1 {
            tokio::task::yield_now().await;
        }
        // A later change of the buffer wakes the sender, one that waits does not.
        assert_eq!(stage.buffer.changed().now_or_never(), None);
        let (ledger, _) = stage.end().await;
        let reading = logs(&ledger);
        let dropped = reading.dropped.iter().find(|(name, _)| *name == "buffer_corrupt").unwrap().1;
        assert_eq!((reading.carried, reading.sent, dropped, reading.waiting_total()), (carried, 5, corrupt, 3));
    }
}

#[tokio::test]
async fn a_record_that_nobody_could_take_is_dropped_alone() {
    let (endpoint, directory) = (Arc::new(Endpoint::default()), tempfile::tempdir().unwrap());
    let (port, _stop) = serve(&endpoint, None).await;
    let config = config(format!("http://127.0.0.1:{port}"));
    let stage = Stage::start(config.clone(), directory.path());
    let mut records = lines(3);
    records[1].severity_text = "x".repeat(5_000_000);
    let outcomes = stage.freeze(&config, vec![records]).await;
    // Not dropped: to send it again would not help.
    assert_eq!(outcomes, [Outcome::Durable]);
    let (ledger, _) = stage.settle().await;
    let reading = logs(&ledger);
    assert_eq!((reading.sent, reading.dropped.iter().find(|(name, _)| *name == "too_large").unwrap().1), (2, 1));
}

#[tokio::test]
async fn a_buffer_that_takes_nothing_is_told_to_whoever_waits() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start(config("http://127.0.0.1:1".to_owned()), directory.path());
    stage.buffer.close().await;
    let outcomes = stage.freeze(&config(String::new()), vec![lines(5)]).await;
    assert_eq!(outcomes, [Outcome::Dropped]);
    let reading = logs(&stage.ledger);
    assert_eq!(reading.dropped.iter().find(|(name, _)| *name == "buffer_failed").unwrap().1, 5);
    assert_eq!(reading.balance(), 0);
}

#[tokio::test]
async fn https_trusts_the_authorities_that_were_named_and_no_others() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    let tls = Tls { cert_file: path("cert.pem"), key_file: path("key.pem"), client_ca_file: None };
    let endpoint = Arc::new(Endpoint::default());
    let (port, _stop) = serve(&endpoint, Some(&tls)).await;
    let trusting = Config { ca_file: Some(path("cert.pem")), ..config(format!("https://localhost:{port}")) };

    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start(trusting.clone(), directory.path());
    stage.freeze(&trusting, vec![lines(5)]).await;
    let (ledger, _) = stage.settle().await;
    assert_eq!(logs(&ledger).sent, 5);

    // One that asks who we are takes who shows a certificate that it trusts, and nobody else.
    let mutual = Tls { client_ca_file: Some(path("cert.pem")), ..tls };
    let (port, _stop) = serve(&endpoint, Some(&mutual)).await;
    let stranger = Config { endpoint: format!("https://localhost:{port}"), ..trusting.clone() };
    let known = Config { cert_file: Some(path("cert.pem")), key_file: Some(path("key.pem")), ..stranger.clone() };
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start(stranger.clone(), directory.path());
    stage.freeze(&stranger, vec![lines(5)]).await;
    stage.fails().await;
    let (ledger, _) = stage.end().await;
    assert_eq!((logs(&ledger).sent, logs(&ledger).waiting_total()), (0, 5));
    let stage = Stage::start(known.clone(), directory.path());
    stage.freeze(&known, vec![lines(5)]).await;
    let (ledger, _) = stage.settle().await;
    assert_eq!(logs(&ledger).sent, 10);

    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("other.pem"), other.cert.pem()).unwrap();
    let doubting = Config { ca_file: Some(path("other.pem")), ..trusting };
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start(doubting.clone(), directory.path());
    stage.freeze(&doubting, vec![lines(5)]).await;
    stage.fails().await;
    assert!(stage.status.read().last_error.unwrap().contains("certificate"), "{:?}", stage.status.read());
    let (ledger, _) = stage.end().await;
    assert_eq!(logs(&ledger).waiting_total(), 5);
}
