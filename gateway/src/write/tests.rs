//! The writer against a ClickHouse that is played: it takes inserts, refuses them or hangs up, as the test says.

use super::*;
use crate::batch::{self, Batcher, Kept, Rows, budget::Budget, columns::Columns, share::Verdict};
use crate::config::{Config, Flags, Layers};
use crate::convert::tables;
use crate::delivered::Deliveries;
use crate::telemetry::metrics::Metrics;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ollystack_buffer::{Options, WhenFull};
use ollystack_receive::Signal;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What the played ClickHouse does with an insert.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Takes,
    HangsUp,
    Says(&'static str),
}

/// An insert that arrived whole.
#[derive(Debug, PartialEq)]
struct Arrived {
    token: String,
    statement: String,
    body: Bytes,
    taken: bool,
}

struct Played {
    url: String,
    mood: watch::Sender<Mood>,
    arrived: mpsc::UnboundedReceiver<Arrived>,
    /// How many of the deliveries that it is asked for it says to have.
    there: Arc<AtomicU64>,
}

async fn play(mood: Mood) -> Played {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, arrived) = mpsc::unbounded_channel();
    let (mood, moods) = watch::channel(mood);
    let there = Arc::new(AtomicU64::new(0));
    let said = there.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if *moods.borrow() == Mood::HangsUp {
                continue;
            }
            let (sender, moods, there) = (sender.clone(), moods.clone(), said.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (sender, there, mood) = (sender.clone(), there.clone(), *moods.borrow());
                async move { Ok::<_, Infallible>(answer(request, mood, &there, &sender).await) }
            });
            // One request a connection, so that a change of mood is felt by the next one.
            let mut builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.keep_alive(false).serve_connection(TokioIo::new(stream), service));
        }
    });
    Played { url, mood, arrived, there }
}

async fn answer(
    request: Request<Incoming>,
    mood: Mood,
    there: &AtomicU64,
    sender: &mpsc::UnboundedSender<Arrived>,
) -> Response<Full<Bytes>> {
    let uri = request.uri().query().unwrap_or_default().to_owned();
    let value = |name: &str| {
        let pair = uri.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.unwrap_or_default().replace('+', " ").replace("%60", "`").replace("%2C", ",")
    };
    if value("query").is_empty() {
        // How many of some deliveries have rows: one number, in RowBinaryWithNamesAndTypes.
        let there = there.load(Relaxed).to_le_bytes();
        return Response::new(Full::from([b"\x01\x01n\x06UInt64", &there[..]].concat()));
    }
    let arrived = Arrived {
        token: value("insert_deduplication_token"),
        statement: value("query").split(' ').take(3).collect::<Vec<_>>().join(" "),
        body: request.into_body().collect().await.unwrap().to_bytes(),
        taken: mood == Mood::Takes,
    };
    sender.send(arrived).unwrap();
    match mood {
        Mood::Says(text) => {
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
        _ => Response::new(Full::default()),
    }
}

/// The verdict, as a word.
trait Safe {
    fn safe(self) -> impl Future<Output = bool>;
}

impl Safe for Verdict {
    async fn safe(self) -> bool {
        self.fate().await == Fate::Safe
    }
}

struct Rig {
    writer: Arc<Writer>,
    batcher: Option<Batcher>,
    gatherers: JoinSet<()>,
    budget: Budget,
    stop: CancellationToken,
}

/// An insert is over at once.
const TERMS: Terms = Terms { begin_within: HOUR, insert_within: Duration::ZERO };
const HOUR: Duration = Duration::from_secs(3_600);

fn config() -> Config {
    let keys = [("batch.rows_max", "1"), ("clickhouse.insert_timeout_ms", "5000")];
    let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    Layers::new(None, std::iter::empty(), &Flags { file: None, keys }).unwrap().config().unwrap()
}

fn rig(directory: &TempDir, url: &str, schema_ready: bool) -> Rig {
    let config = config();
    let metrics = Arc::new(Metrics::new());
    let open = |name: &str| {
        let options = Options {
            directory: directory.path().join(name),
            bytes_max: 4 << 20,
            segment_bytes_max: 1 << 20,
            when_full: WhenFull::Refuse,
        };
        let losses = Losses { tables: tables().iter().map(|table| table.name).collect(), metrics: metrics.clone() };
        Buffer::open(options, Arc::new(losses)).unwrap().0
    };
    let disks = Disks { spill: open("spill"), set_aside: open("set-aside") };
    let clickhouse = ClickHouse::new(&config.clickhouse, url).unwrap();
    let stop = CancellationToken::new();
    let writer = Arc::new(Writer::new(clickhouse, disks, tables().into(), TERMS, 4, metrics, stop.clone()));
    writer.schema_ready().send_replace(schema_ready);
    let (batcher, gatherers) = Batcher::start(&config.batch, 4, &tables(), &writer, &stop).unwrap();
    Rig { writer, batcher: Some(batcher), gatherers, budget: Budget::new(64 << 20), stop }
}

impl Rig {
    /// A block of one row of logs.
    async fn add(&self, bytes: Vec<u8>) -> Verdict {
        let hold = self.budget.hold(bytes.len()).unwrap();
        let rows = vec![Rows { table: 2, columns: Columns::of_bytes(1, &bytes), hold, held: None }];
        self.batcher.as_ref().unwrap().add(batch::Request { rows, kept: None }).await.unwrap()
    }

    /// The same, of an agent.
    async fn add_kept(&self, bytes: Vec<u8>, left: Duration) -> Verdict {
        let hold = self.budget.hold(bytes.len()).unwrap();
        let rows = vec![Rows { table: 2, columns: Columns::of_bytes(1, &bytes), hold, held: None }];
        let identity = Identity { tenant: "t".into(), agent: "a".into(), sequence: 1, signal: Signal::Logs };
        let under_way = Deliveries::default().begin(&identity, 7).unwrap();
        let kept = Some(Kept { under_way, begin_by: Deadline::after(left), repeated: false });
        self.batcher.as_ref().unwrap().add(batch::Request { rows, kept }).await.unwrap()
    }

    async fn end(mut self) {
        self.stop.cancel();
        drop(self.batcher.take());
        while self.gatherers.join_next().await.is_some() {}
        self.writer.close().await;
    }

    /// Wait until ClickHouse has everything.
    async fn until_spill_is_empty(&self) {
        while self.writer.waiting().0 > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_block_goes_straight_to_clickhouse_when_that_takes_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::Takes).await;
    let rig = rig(&directory, &played.url, true);
    assert!(rig.add(b"one".to_vec()).await.safe().await);
    let arrived = played.arrived.recv().await.unwrap();
    assert_eq!((arrived.statement.as_str(), arrived.taken), ("INSERT INTO `logs_raw`", true));
    assert!(!arrived.token.is_empty());
    assert_eq!(rig.writer.waiting().0, 0);
    assert_eq!(rig.budget.used(), 0);
    rig.end().await;
}

#[tokio::test]
async fn an_outage_is_bridged_in_order_with_bytes_and_tokens_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::Says("Code: 241. DB::Exception: Memory limit exceeded")).await;
    let rig = rig(&directory, &played.url, true);
    for text in ["one", "two", "three"] {
        assert!(rig.add(text.into()).await.safe().await, "safe on disk");
    }
    let refused = played.arrived.recv().await.unwrap();
    assert!(played.arrived.try_recv().is_err(), "later blocks queue behind the first one and are not tried");
    assert_eq!(rig.writer.waiting().0, 3);

    played.mood.send_replace(Mood::Takes);
    let replay = tokio::spawn(rig.writer.clone().replay());
    let first = played.arrived.recv().await.unwrap();
    assert_eq!(first, Arrived { taken: true, ..refused }, "the same token, statement and bytes");
    let (second, third) = (played.arrived.recv().await.unwrap(), played.arrived.recv().await.unwrap());
    let number = |arrived: &Arrived| arrived.token.rsplit('-').next().unwrap().parse::<u64>().unwrap();
    assert!(number(&first) < number(&second) && number(&second) < number(&third));
    rig.until_spill_is_empty().await;
    assert!(rig.add(b"four".to_vec()).await.safe().await);
    assert!(played.arrived.recv().await.unwrap().taken);
    rig.end().await;
    replay.await.unwrap();
    assert!(played.arrived.try_recv().is_err(), "nothing is sent twice once it was confirmed");
}

#[tokio::test]
async fn what_was_spilled_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::HangsUp).await;
    let before = rig(&directory, &played.url, true);
    assert!(before.add(b"one".to_vec()).await.safe().await);
    assert!(before.writer.trouble().0.is_some(), "readiness can say why");
    before.end().await;

    played.mood.send_replace(Mood::Takes);
    let after = rig(&directory, &played.url, true);
    let replay = tokio::spawn(after.writer.clone().replay());
    assert!(played.arrived.recv().await.unwrap().taken);
    after.until_spill_is_empty().await;
    assert!(after.writer.trouble().0.is_none());
    after.end().await;
    replay.await.unwrap();
}

#[tokio::test]
async fn without_a_schema_blocks_wait_in_the_spill() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::Takes).await;
    let rig = rig(&directory, &played.url, false);
    let replay = tokio::spawn(rig.writer.clone().replay());
    assert!(rig.add(b"one".to_vec()).await.safe().await);
    assert!(played.arrived.try_recv().is_err());
    rig.writer.schema_ready().send_replace(true);
    assert!(played.arrived.recv().await.unwrap().taken);
    rig.until_spill_is_empty().await;
    rig.end().await;
    replay.await.unwrap();
}

#[tokio::test]
async fn a_missing_table_asks_for_the_migrations() {
    let directory = tempfile::tempdir().unwrap();
    let played = play(Mood::Says("Code: 60. DB::Exception: Table ollystack.logs_raw does not exist")).await;
    let rig = rig(&directory, &played.url, true);
    assert!(rig.add(b"one".to_vec()).await.safe().await);
    assert!(!*rig.writer.schema_ready().borrow());
    rig.end().await;
}

#[tokio::test]
async fn a_block_that_is_refused_for_good_is_set_aside_and_tried_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::Says("Code: 16. DB::Exception: No such column Body in table")).await;
    let before = rig(&directory, &played.url, true);
    assert!(before.add(b"one".to_vec()).await.safe().await, "safe on disk");
    let refused = played.arrived.recv().await.unwrap();
    assert_eq!((before.writer.waiting().0, before.writer.waiting().2), (0, 1));
    before.end().await;

    played.mood.send_replace(Mood::Takes);
    let after = rig(&directory, &played.url, true);
    let replay = tokio::spawn(after.writer.clone().replay());
    assert_eq!(played.arrived.recv().await.unwrap(), Arrived { taken: true, ..refused });
    while after.writer.waiting().2 > 0 {
        tokio::task::yield_now().await;
    }
    after.end().await;
    replay.await.unwrap();
}

#[tokio::test]
async fn a_refused_block_in_the_spill_does_not_hold_up_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::HangsUp).await;
    let rig = rig(&directory, &played.url, true);
    for text in ["one", "two"] {
        assert!(rig.add(text.into()).await.safe().await);
    }
    played.mood.send_replace(Mood::Says("Code: 53. DB::Exception: Type mismatch"));
    let replay = tokio::spawn(rig.writer.clone().replay());
    let (one, two) = (played.arrived.recv().await.unwrap(), played.arrived.recv().await.unwrap());
    assert_ne!(one.token, two.token);
    rig.until_spill_is_empty().await;
    assert_eq!(rig.writer.waiting().2, 2);
    rig.end().await;
    replay.await.unwrap();
}

#[tokio::test]
async fn a_full_spill_refuses_and_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let played = play(Mood::HangsUp).await;
    let rig = rig(&directory, &played.url, true);
    let mut taken = 0;
    // Random, so that packing makes it no smaller.
    let random = || {
        let mut bytes = vec![0; 512 << 10];
        getrandom::fill(&mut bytes).unwrap();
        bytes
    };
    while rig.add(random()).await.safe().await {
        taken += 1;
        assert!(taken <= 8, "{taken} blocks of 512 KiB are safe in 4 MiB");
    }
    assert!(taken > 0);
    assert_eq!(rig.writer.waiting().0, taken);
    assert!(rig.writer.trouble().1.is_some(), "readiness can say why");
    assert_eq!(rig.budget.used(), 0);
    rig.end().await;
}

const BROKEN_OFF: Mood = Mood::Says("Code: 159. DB::Exception: Timeout exceeded: elapsed 10001 ms");

#[tokio::test]
async fn what_agents_have_on_disk_is_refused_and_never_spilled_while_clickhouse_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rig = rig(&directory, &format!("http://{free}"), true);
    assert_eq!(rig.add_kept(b"one".to_vec(), HOUR).await.fate().await, Fate::Untouched);
    assert_eq!(rig.writer.waiting(), (0, rig.writer.waiting().1, 0));
    rig.writer.schema_ready().send_replace(false);
    assert_eq!(rig.add_kept(b"two".to_vec(), HOUR).await.fate().await, Fate::Untouched);
    assert_eq!((rig.writer.waiting().0, rig.budget.used()), (0, 0));
    rig.end().await;
}

#[tokio::test]
async fn what_is_late_is_not_begun() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(Mood::Takes).await;
    let rig = rig(&directory, &played.url, true);
    assert_eq!(rig.add_kept(b"one".to_vec(), Duration::ZERO).await.fate().await, Fate::Untouched);
    assert!(played.arrived.try_recv().is_err());
    assert!(rig.add_kept(b"two".to_vec(), HOUR).await.safe().await);
    // Its first byte came in a piece of its own.
    assert!(played.arrived.recv().await.unwrap().body.ends_with(b"wo"));
    rig.end().await;
}

#[tokio::test]
async fn an_insert_that_came_past_the_table_is_completed_under_its_token() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(BROKEN_OFF).await;
    played.there.store(1, Relaxed);
    let rig = rig(&directory, &played.url, true);
    let verdict = rig.add_kept(b"one".to_vec(), HOUR).await;
    let broken_off = played.arrived.recv().await.unwrap();
    played.mood.send_replace(Mood::Takes);
    assert!(verdict.safe().await);
    let mut last = played.arrived.recv().await.unwrap();
    while !last.taken {
        last = played.arrived.recv().await.unwrap();
    }
    assert_eq!(last, Arrived { taken: true, ..broken_off }, "the same token, statement and bytes");
    rig.end().await;
}

#[tokio::test]
async fn an_insert_of_which_some_shards_took_their_part_is_made_again_while_there_is_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(BROKEN_OFF).await;
    // Neither none of the deliveries nor all.
    played.there.store(2, Relaxed);
    let rig = rig(&directory, &played.url, true);
    let verdict = rig.add_kept(b"one".to_vec(), HOUR).await;
    assert!(!played.arrived.recv().await.unwrap().taken);
    played.mood.send_replace(Mood::Takes);
    assert!(verdict.safe().await);
    rig.end().await;
}

#[tokio::test]
async fn an_insert_that_did_not_come_to_the_table_in_its_time_is_ended_and_to_be_looked_up_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut played = play(BROKEN_OFF).await;
    let rig = rig(&directory, &played.url, true);
    let verdict = rig.add_kept(b"one".to_vec(), Duration::from_millis(300)).await;
    assert!(!played.arrived.recv().await.unwrap().taken);
    // A ClickHouse that stood still may take it yet.
    assert_eq!(verdict.fate().await, Fate::Doubtful);
    assert_eq!((rig.writer.waiting().0, rig.budget.used()), (0, 0));
    rig.end().await;
}

#[tokio::test]
async fn a_stop_leaves_in_doubt_what_nobody_knows() {
    let directory = tempfile::tempdir().unwrap();
    let played = play(Mood::HangsUp).await;
    let rig = rig(&directory, &played.url, true);
    let verdict = rig.add_kept(b"one".to_vec(), HOUR).await;
    while rig.writer.trouble().0.is_none() {
        tokio::task::yield_now().await;
    }
    rig.end().await;
    assert_eq!(verdict.fate().await, Fate::Doubtful);
}
