//! From an admitted request to its answer, with a sink that does what the test says.

use super::*;
use crate::batch::{Frozen, Sink as BlockSink, Table};
use crate::config::{Flags, Layers};
use crate::keys::file;
use crate::telemetry::metrics::Metrics;
use crate::tenants::Limits;
use crate::tenants::tests::SMALL;
use http::HeaderValue;
use ollystack_receive::{Busy, Held, Message, Signal, Transport};
use ollystack_schema::names::{
    HEADER_ATTEMPT_AGE, HEADER_CLOCK, HEADER_REDELIVERED, HEADER_SAMPLING_SCALE, HEADER_SENT, HEADER_SEQUENCE,
    HEADER_UNTOUCHED, UNTOUCHED_ALL, UNTOUCHED_THIS,
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point::Value,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const TERMS: Terms = Terms { begin_within: HOUR, insert_within: HOUR };
const HOUR: Duration = Duration::from_secs(3_600);

/// Takes blocks, or loses them, and remembers their tokens.
#[derive(Default)]
struct Disk {
    loses: AtomicBool,
    /// What comes stays where it is.
    keeps: AtomicBool,
    kept: Mutex<Vec<Frozen>>,
    came: Notify,
    tokens: Mutex<Vec<String>>,
    tables: Mutex<Vec<usize>>,
}

impl BlockSink for Disk {
    async fn write(&self, mut frozen: Frozen) {
        self.tokens.lock().unwrap().push(frozen.block.head.token.clone());
        self.tables.lock().unwrap().push(frozen.table);
        if self.keeps.load(Ordering::Relaxed) {
            frozen.step_aside();
            self.kept.lock().unwrap().push(frozen);
            return self.came.notify_one();
        }
        if !self.loses.load(Ordering::Relaxed) {
            frozen.settle(Fate::Safe);
        }
    }
}

/// Says what it was told to say.
struct Said(Mutex<Result<bool, String>>);

impl Arrivals for Said {
    async fn arrived(&self, _: &Identity, _: Duration) -> Result<bool, String> {
        self.0.lock().unwrap().clone()
    }
}

struct Rig {
    ingest: Ingest<Said>,
    disk: Arc<Disk>,
    key: String,
    _gatherers: JoinSet<()>,
    directory: TempDir,
}

fn rig(records_per_second: u64) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.toml");
    let key = file::add(&path, "acme", "", None, SystemTime::now()).unwrap().expose().to_owned();
    let defaults = Limits { records_per_second, requests_in_flight_max: 16, ..SMALL };
    let keys = vec![("batch.wait_ms".to_owned(), "0".to_owned())];
    let layers = Layers::new(None, std::iter::empty(), &Flags { file: None, keys }).unwrap();
    let disk = Arc::new(Disk::default());
    let tables = crate::convert::tables();
    let tables: &[Table] = &tables;
    let config = layers.config().unwrap().batch;
    let (batcher, gatherers) = Batcher::start(&config, 4, tables, &disk, &CancellationToken::new()).unwrap();
    let ingest = Ingest {
        admission: Arc::new(Admission::new(path, defaults)),
        way: Way::Tables(batcher),
        budget: Budget::new(1 << 20),
        seen: Arc::new(Seen::new()),
        arrivals: Arc::new(Said(Mutex::new(Ok(false)))),
        deliveries: Deliveries::default(),
        terms: TERMS,
        metrics: Arc::new(Metrics::new()),
    };
    Rig { ingest, disk, key, _gatherers: gatherers, directory }
}

impl Rig {
    fn headers(&self, more: &[(&'static str, &str)]) -> HeaderMap {
        let bearer = format!("Bearer {}", self.key);
        let pairs = more.iter().copied().chain([("authorization", bearer.as_str())]);
        pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<Vec<_>>().into_iter().fold(
            HeaderMap::new(),
            |mut headers, (name, value): (http::HeaderName, HeaderValue)| {
                headers.insert(name, value);
                headers
            },
        )
    }

    /// What became of the records of a signal; all of them are accounted for.
    fn ledger(&self, signal: Signal) -> crate::telemetry::ledger::Outcomes {
        let reading = self.ingest.metrics.ledger.read([0; 3], [0; 3]).signals[signal as usize].clone();
        assert_eq!(reading.balance, 0, "{reading:?}");
        reading.outcomes
    }

    async fn send(&self, message: Message, more: &[(&'static str, &str)]) -> Result<Accepted, Refusal> {
        let headers = self.headers(more);
        let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let head = RequestHead { headers: &headers, peer, signal: message.signal(), transport: Transport::Grpc };
        let caller = self.ingest.admit(&head)?;
        self.export(caller, message, more).await
    }

    async fn export(
        &self,
        caller: Caller,
        message: Message,
        more: &[(&'static str, &str)],
    ) -> Result<Accepted, Refusal> {
        let bytes = match &message {
            Message::Metrics(message) => message.encode_to_vec(),
            Message::Logs(message) => message.encode_to_vec(),
            Message::Traces(message) => message.encode_to_vec(),
        };
        let export = Export {
            message: Wire::new(message.signal(), bytes),
            headers: self.headers(more),
            peer: "127.0.0.1:1".parse().unwrap(),
            transport: Transport::Grpc,
            wire_bytes: 1,
            decoded_bytes: 1,
            held: Held::default(),
        };
        self.ingest.export(caller, export).await
    }

    fn tokens(&self) -> Vec<String> {
        self.disk.tokens.lock().unwrap().clone()
    }

    fn metric(&self, line: &str) -> bool {
        self.ingest.metrics.encode().unwrap().lines().any(|found| found == line)
    }
}

fn logs(records: usize) -> Message {
    let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord::default(); records], ..ScopeLogs::default() }];
    Message::Logs(ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }],
    })
}

/// So long ago that any earlier attempt is over.
const LONG_AGO: &str = "86400000";
const FRESH: [(&str, &str); 2] = [(HEADER_AGENT, "aa-11"), (HEADER_SEQUENCE, "7")];
const AGAIN: [(&str, &str); 4] = [FRESH[0], FRESH[1], (HEADER_REDELIVERED, "1"), (HEADER_ATTEMPT_AGE, LONG_AGO)];

/// What a refusal says in headers.
fn said(refusal: &Refusal, name: &str) -> String {
    let Refusal::Marked(_, headers) = refusal else { return String::new() };
    headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
}

#[tokio::test]
async fn what_is_safe_is_answered_and_counted() {
    let rig = rig(0);
    assert_eq!(rig.send(logs(3), &[]).await, Ok(Accepted::default()));
    assert!(rig.metric("ollystack_ingestion_data_points_total{tenant=\"acme\",signal=\"logs\"} 3"));
    assert_eq!(rig.ingest.metrics.totals().accepted[Signal::Logs as usize], 3);
}

#[tokio::test]
async fn a_signal_that_the_tenant_may_not_send_is_rejected_for_good_and_said_so() {
    let rig = rig(0);
    file::set_tenant(
        &rig.directory.path().join("keys.toml"),
        "acme",
        &[crate::administer::field("signals=traces").unwrap()],
    )
    .unwrap();
    rig.ingest.admission.refresh();
    let answer = rig.send(logs(3), &FRESH).await.unwrap();
    assert_eq!((answer.rejected, answer.message.as_str()), (3, "tenant acme may not send logs, only traces"));
    assert!(answer.headers.contains_key(HEADER_CLOCK), "an agent's answer dates its next attempt");
    assert_eq!(rig.ledger(Signal::Logs).rejected["signal"], 3);
    assert!(rig.tokens().is_empty());
}

#[tokio::test]
async fn what_is_not_safe_is_told_to_come_back_and_costs_no_quota() {
    let rig = rig(10);
    rig.disk.loses.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        // More than the quota in all: each is given back.
        let refusal = rig.send(logs(10), &[]).await.unwrap_err();
        assert_eq!(refusal.reason(), "unavailable");
        assert!(refusal.retry_after().is_some());
    }
    assert!(rig.metric("ollystack_ingestion_rejected_total{signal=\"logs\",reason=\"unavailable\"} 30"));
}

#[tokio::test]
async fn over_quota_is_told_when_to_come_back() {
    let rig = rig(10);
    // Far into debt, so that no passing of time during the test pays it.
    assert!(rig.send(logs(1000), &[]).await.is_ok());
    let refusal = rig.send(logs(1), &[]).await.unwrap_err();
    assert_eq!(refusal.reason(), "exhausted");
    assert!(refusal.retry_after().unwrap() > Duration::from_secs(10));
    assert!(rig.metric("ollystack_ingestion_rejected_total{signal=\"logs\",reason=\"quota\"} 1"));
}

#[tokio::test]
async fn the_good_records_of_a_request_pass_and_the_bad_ones_are_named() {
    let rig = rig(0);
    let good = Span { trace_id: vec![1; 16], span_id: vec![1; 8], start_time_unix_nano: 1, ..Span::default() };
    let spans = vec![good.clone(), Span { trace_id: vec![], ..good }];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    let answer = rig.send(Message::Traces(ExportTraceServiceRequest { resource_spans }), &[]).await.unwrap();
    assert_eq!(answer.rejected, 1);
    assert!(answer.message.contains("trace id"), "{}", answer.message);
}

#[tokio::test]
async fn rows_of_a_sender_that_hung_up_are_its_tenants_until_they_are_safe() {
    let rig = rig(0);
    rig.disk.keeps.store(true, Ordering::Relaxed);
    let mut sent = 0;
    // Each hangs up once its rows are on their way.
    let refusal = loop {
        let mut request = Box::pin(rig.send(logs(1_000), &[]));
        tokio::select! {
            answer = &mut request => break answer.unwrap_err(),
            () = rig.disk.came.notified() => sent += 1,
        }
    };
    let (used, max) = (rig.ingest.budget.used(), rig.ingest.budget.max());
    assert!(sent > 1 && used <= max / 4 * 3, "{used} of {max}");
    assert_eq!(refusal.reason(), "exhausted");
    assert!(refusal.retry_after().is_some());

    let other = rig.ingest.budget.of(&Waiting::default());
    assert!(other.hold(max - used).is_some(), "another tenant has the rest");
    rig.disk.kept.lock().unwrap().drain(..).for_each(|frozen| frozen.settle(Fate::Safe));
    assert_eq!(rig.ingest.budget.used(), 0);
}

#[tokio::test]
async fn a_request_that_grows_too_large_is_refused_for_good() {
    let rig = rig(0);
    let refusal = rig.send(logs(100_000), &[]).await.unwrap_err();
    assert_eq!((refusal.reason(), refusal.retry_after()), ("too_large", None));
    assert_eq!(rig.ingest.budget.used(), 0);
}

#[tokio::test]
async fn what_the_face_refuses_by_itself_is_untouched() {
    let rig = rig(0);
    let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (more, expected) in [(&FRESH[..], UNTOUCHED_ALL), (&[], "")] {
        let headers = rig.headers(more);
        let head = RequestHead { headers: &headers, peer, signal: Signal::Logs, transport: Transport::Grpc };
        let caller = rig.ingest.admit(&head).unwrap();
        let refusal = rig.ingest.untouched(&caller, Refusal::Busy(Busy::Bytes));
        assert_eq!((refusal.reason(), said(&refusal, HEADER_UNTOUCHED).as_str()), ("bytes_in_flight", expected));
    }
}

#[tokio::test]
async fn an_identity_that_is_there_twice_is_none() {
    let rig = rig(0);
    let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let once = [AGAIN[0], AGAIN[1], AGAIN[2], AGAIN[3], (HEADER_SENT, "0")];
    for (name, value) in once {
        let mut headers = rig.headers(&AGAIN);
        headers.insert(HEADER_SENT, caller::clock()[HEADER_CLOCK].clone());
        headers.append(name, value.parse().unwrap());
        let head = RequestHead { headers: &headers, peer, signal: Signal::Logs, transport: Transport::Grpc };
        let refusal = rig.ingest.admit(&head).unwrap_err();
        assert_eq!(refusal.reason(), "invalid", "{name}");
        assert!(refusal.message().contains(name), "{}", refusal.message());
    }
}

#[tokio::test]
async fn an_identity_that_is_none_is_refused_before_the_body() {
    let rig = rig(0);
    let long = "a".repeat(65);
    for header in [(HEADER_AGENT, "drop table"), (HEADER_AGENT, long.as_str()), (HEADER_SEQUENCE, "-1")] {
        assert_eq!(rig.send(logs(1), &[header]).await.unwrap_err().reason(), "invalid", "{header:?}");
    }
    assert!(rig.tokens().is_empty());
}

#[tokio::test]
async fn a_delivery_that_arrived_before_is_answered_and_not_written_again() {
    let rig = rig(0);
    *rig.ingest.arrivals.0.lock().unwrap() = Ok(true);
    assert!(rig.send(logs(3), &AGAIN).await.is_ok());
    assert!(rig.tokens().is_empty());
    assert!(rig.metric("ollystack_redelivered_batches_total{outcome=\"known\"} 1"));
}

#[tokio::test]
async fn a_repeated_delivery_that_did_not_arrive_is_written_under_its_own_token() {
    let rig = rig(0);
    for _ in 0..2 {
        assert!(rig.send(logs(3), &AGAIN).await.is_ok());
    }
    assert_eq!(rig.tokens(), ["acme/aa-11/7/logs", "acme/aa-11/7/logs"]);
    assert!(rig.metric("ollystack_redelivered_batches_total{outcome=\"new\"} 2"));
}

#[tokio::test]
async fn when_nobody_knows_whether_it_arrived_it_is_told_to_come_back() {
    let rig = rig(0);
    *rig.ingest.arrivals.0.lock().unwrap() = Err("rows wait for ClickHouse".to_owned());
    let refusal = rig.send(logs(3), &AGAIN).await.unwrap_err();
    assert_eq!(refusal.reason(), "unavailable");
    assert!(rig.tokens().is_empty());
    // A first delivery asks nobody.
    assert!(rig.send(logs(3), &FRESH).await.is_ok());
}

#[tokio::test]
async fn a_repeated_delivery_waits_until_its_earlier_attempt_is_over() {
    let rig = rig(0);
    let soon = [&AGAIN[..3], &[(HEADER_ATTEMPT_AGE, "1000")]].concat();
    let refusal = rig.send(logs(3), &soon).await.unwrap_err();
    assert_eq!((refusal.reason(), said(&refusal, HEADER_UNTOUCHED).as_str()), ("unavailable", UNTOUCHED_THIS));
    assert_eq!(refusal.retry_after(), Some(TERMS.settled_within() - Duration::from_secs(1)));
    assert!(rig.tokens().is_empty());
    assert!(rig.metric("ollystack_redelivered_batches_total{outcome=\"deferred\"} 1"));
    // What is there needs no waiting.
    *rig.ingest.arrivals.0.lock().unwrap() = Ok(true);
    assert!(rig.send(logs(3), &soon).await.is_ok());
    assert!(rig.tokens().is_empty());
}

#[tokio::test]
async fn an_attempt_that_was_long_on_its_way_is_sent_back_with_the_clock() {
    let rig = rig(0);
    let dated = async |ms: u64| rig.send(logs(3), &[FRESH[0], FRESH[1], (HEADER_SENT, &ms.to_string())]).await;
    let refusal = dated(0).await.unwrap_err();
    assert_eq!((refusal.reason(), said(&refusal, HEADER_UNTOUCHED).as_str()), ("unavailable", UNTOUCHED_THIS));
    let clock: u64 = said(&refusal, HEADER_CLOCK).parse().unwrap();
    let hour_ms = HOUR.as_millis() as u64;
    // What is late is not alone on a slow way: all are told to come later, of which an agent makes one at a time.
    for (other, untouched) in [(clock - hour_ms, UNTOUCHED_ALL), (clock + hour_ms, UNTOUCHED_THIS)] {
        assert_eq!(said(&dated(other).await.unwrap_err(), HEADER_UNTOUCHED), untouched);
    }
    assert!(rig.tokens().is_empty());
    let accepted = dated(clock).await.unwrap();
    assert!(accepted.headers.contains_key(HEADER_CLOCK), "every answer tells it");
}

#[tokio::test]
async fn a_body_that_was_long_on_its_way_makes_its_agent_send_fewer_at_a_time() {
    let mut rig = rig(0);
    let caller = Caller::new(&rig.headers(&FRESH), &rig.ingest.admission, TERMS).unwrap();
    // Less than a quarter of the time is left, as if the rest had gone by since the head.
    rig.ingest.terms.begin_within = HOUR * 8;
    let refusal = rig.export(caller, logs(3), &FRESH).await.unwrap_err();
    assert_eq!((refusal.reason(), said(&refusal, HEADER_UNTOUCHED).as_str()), ("unavailable", UNTOUCHED_ALL));
    assert!(refusal.retry_after() > Some(Duration::ZERO));
    assert!(rig.tokens().is_empty());
}

#[tokio::test]
async fn what_is_sampled_out_is_in_no_table_and_in_the_ledger_and_agents_sample_by_themselves() {
    let rig = rig(0);
    let none = [("sampling_ratio".to_owned(), Some(0_i64.into()))];
    file::set_tenant(&rig.directory.path().join("keys.toml"), "acme", &none).unwrap();
    rig.ingest.admission.refresh();
    let spans = || {
        let span = Span { trace_id: vec![1; 16], span_id: vec![1; 8], start_time_unix_nano: 1, ..Span::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span; 3], ..ScopeSpans::default() }];
        let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
        Message::Traces(ExportTraceServiceRequest { resource_spans })
    };
    assert_eq!(rig.send(spans(), &[]).await.unwrap().rejected, 0);
    let ledger = rig.ledger(Signal::Traces);
    assert_eq!((ledger.received, ledger.sampled_out, ledger.stored, rig.tokens().len()), (3, 3, 0, 0));
    rig.send(spans(), &FRESH).await.unwrap();
    let ledger = rig.ledger(Signal::Traces);
    assert_eq!((ledger.received, ledger.sampled_out, ledger.stored), (6, 3, 3));
}

#[tokio::test]
async fn a_refusal_says_whether_anything_was_touched() {
    let rig = rig(0);
    rig.disk.loses.store(true, Ordering::Relaxed);
    let refusal = rig.send(logs(3), &FRESH).await.unwrap_err();
    assert_eq!((refusal.reason(), said(&refusal, HEADER_UNTOUCHED).as_str()), ("unavailable", ""), "in doubt");
    let refusal = rig.send(logs(100_000), &FRESH).await.unwrap_err();
    assert_eq!(said(&refusal, HEADER_UNTOUCHED), UNTOUCHED_ALL);
    let refusal = rig.send(logs(3), &[]).await.unwrap_err();
    let told = [HEADER_UNTOUCHED, HEADER_CLOCK, HEADER_SAMPLING_SCALE].map(|name| said(&refusal, name));
    assert_eq!(told, [""; 3], "only agents are told");
}

#[tokio::test]
async fn the_labels_of_points_that_arrived_are_written_all_the_same() {
    let rig = rig(0);
    *rig.ingest.arrivals.0.lock().unwrap() = Ok(true);
    let point = NumberDataPoint { time_unix_nano: 1, value: Some(Value::AsInt(1)), ..NumberDataPoint::default() };
    let data = Some(Data::Gauge(Gauge { data_points: vec![point] }));
    let metrics = vec![Metric { name: "m".into(), data, ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    let message = Message::Metrics(ExportMetricsServiceRequest { resource_metrics });
    assert!(rig.send(message.clone(), &AGAIN).await.is_ok());
    assert_eq!(*rig.disk.tables.lock().unwrap(), [LABELS]);
    // Labels that are known to be there are not written again.
    assert!(rig.send(message, &AGAIN).await.is_ok());
    assert_eq!(rig.tokens().len(), 1);
}

#[tokio::test]
async fn a_delivery_that_is_under_way_is_told_to_come_back() {
    let rig = rig(0);
    let identity = Identity { tenant: "acme".into(), agent: "aa-11".into(), sequence: 7, signal: Signal::Logs };
    let under_way = rig.ingest.deliveries.begin(&identity, 7);
    let refusal = rig.send(logs(3), &AGAIN).await.unwrap_err();
    assert_eq!((refusal.reason(), said(&refusal, HEADER_UNTOUCHED).as_str()), ("unavailable", UNTOUCHED_THIS));
    drop(under_way);
    assert!(rig.send(logs(3), &AGAIN).await.is_ok());
}

#[tokio::test]
async fn every_record_of_every_request_is_in_the_ledger_once_whatever_became_of_it() {
    let rig = rig(30);
    rig.send(logs(3), &FRESH).await.unwrap();
    // Known to be there already.
    *rig.ingest.arrivals.0.lock().unwrap() = Ok(true);
    rig.send(logs(3), &AGAIN).await.unwrap();
    // Not to be known now.
    *rig.ingest.arrivals.0.lock().unwrap() = Err("ClickHouse is away".to_owned());
    rig.send(logs(3), &AGAIN).await.unwrap_err();
    // Lost on the way, nobody knows how far.
    rig.disk.loses.store(true, Ordering::Relaxed);
    rig.send(logs(4), &[]).await.unwrap_err();
    rig.disk.loses.store(false, Ordering::Relaxed);
    // Its share of the next seconds, and more.
    rig.send(logs(1_000), &[]).await.unwrap();
    rig.send(logs(5), &[]).await.unwrap_err();
    let outcomes = rig.ledger(Signal::Logs);
    assert_eq!((outcomes.received, outcomes.stored, outcomes.repeated), (1_018, 1_003, 3));
    assert_eq!((outcomes.refused["unavailable"], outcomes.refused["quota"], outcomes.doubtful), (3, 5, 4));
}

#[tokio::test]
async fn a_record_that_is_left_out_is_rejected_in_the_ledger_and_the_others_are_stored() {
    let rig = rig(1_000);
    let spans = vec![valid_times(), Span { trace_id: vec![1; 16], span_id: vec![1; 8], ..valid_times() }];
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    rig.send(Message::Traces(ExportTraceServiceRequest { resource_spans }), &[]).await.unwrap();
    let outcomes = rig.ledger(Signal::Traces);
    assert_eq!((outcomes.received, outcomes.stored, outcomes.rejected["trace_id"]), (2, 1, 1));
}

fn valid_times() -> Span {
    Span { start_time_unix_nano: 1, end_time_unix_nano: 2, ..Span::default() }
}
