//! The consumer: from the topics to the tables, each message once. [The module above](super) says why.
//!
//! One thread polls, and alone commits: so what it believes to have of the group's partitions is what the client believes, as partitions come
//! and go while it polls. Look-ups, conversions and inserts are tasks, one at a time a partition, whose results come back to it. Invariants: a
//! block is inserted after its intent was committed in the generation in which the partition was given to us; offsets are committed after
//! the insert; a result of a partition that was taken away meanwhile is passed over.

mod access;
pub(crate) mod block;
mod insert;
pub(crate) mod intent;
mod watch;

use super::message::{Head, Message};
use super::{Context, Health, SIGNALS, SetUpError, reason_of, settings, topics};
use crate::admin::Broker;
use crate::config::Config;
use crate::telemetry::metrics::SharedMetrics;
use crate::write::Writer;
use access::Access;
use block::{Batch, Gatherer, Limits, Taken};
use bytes::Bytes;
use insert::Inserter;
use intent::Intent;
use ollystack_receive::Signal;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use watch::Watch;

/// A look at what came back from tasks, at least.
const POLL: Duration = Duration::from_millis(20);

/// Messages that are taken before the next look.
const POLLS_MAX: usize = 500;

/// Offsets of partitions that nothing is intended with are committed so often.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// What the group has committed is asked for so long at a time.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(5);
const COMMITTED_PAUSE: Duration = Duration::from_secs(1);

/// On stop, blocks that are being written have so long.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

type Client = BaseConsumer<Group>;

/// What the consumer shows.
#[derive(Debug)]
pub(crate) struct Consumer {
    health: Health,
    access: Access,
    /// The group has given partitions to this one, or has none for it.
    joined: AtomicBool,
    /// By partition: up to which offset everything is in the tables.
    confirmed: Mutex<BTreeMap<(u8, i32), i64>>,
}

impl Broker for Consumer {
    fn replaces_tables(&self) -> bool {
        false
    }

    fn report(&self) -> (bool, Vec<String>) {
        let mut notes: Vec<String> =
            self.health.trouble().map(|problem| format!("kafka: {problem}")).into_iter().collect();
        let joined = self.joined.load(Relaxed);
        let missing = self.access.missing();
        if !joined && missing.is_empty() {
            notes.push("kafka: waiting for the group to share out its partitions".to_owned());
        }
        notes.extend(missing.iter().map(|missing| format!("kafka: {missing}")));
        (joined && missing.is_empty(), notes)
    }

    fn waiting(&self) -> (u64, u64) {
        (0, 0)
    }

    fn waiting_records(&self) -> [u64; 3] {
        [0; 3]
    }
}

/// What the client tells while it is polled.
struct Group {
    context: Context,
    shown: Arc<Consumer>,
    changes: Mutex<Vec<Change>>,
}

enum Change {
    Given(Vec<(String, i32)>),
    Taken(Vec<(String, i32)>),
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.context.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.shown.access.refused(error.rdkafka_error_code(), reason);
        self.context.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.shown.access.reads(&statistics);
    }
}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let list = |list: &TopicPartitionList| {
            list.elements().iter().map(|of| (of.topic().to_owned(), of.partition())).collect()
        };
        let change = match rebalance {
            Rebalance::Assign(given) => Change::Given(list(given)),
            Rebalance::Revoke(taken) => Change::Taken(list(taken)),
            Rebalance::Error(error) => return tracing::warn!(%error, "the group could not share out its partitions"),
        };
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }
}

/// Start to consume, until `stop`. The thread ends when all is done.
pub(crate) fn start(
    config: &Config,
    writer: Arc<Writer>,
    metrics: SharedMetrics,
    stop: CancellationToken,
) -> Result<(Arc<Consumer>, JoinHandle<()>), StartError> {
    let health = Health::new();
    let context = Context { health: health.clone(), metrics: metrics.clone() };
    let access = Access::new(&config.kafka);
    let shown = Arc::new(Consumer { health, access, joined: AtomicBool::new(false), confirmed: Mutex::default() });
    let group = Group { context, shown: Arc::clone(&shown), changes: Mutex::default() };
    let client: Client = settings::consumer(&config.kafka).create_with_context(group).map_err(SetUpError::from)?;
    let topics = topics(&config.kafka.topic_prefix);
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    client.subscribe(&names).map_err(SetUpError::from)?;
    let (results, received) = mpsc::unbounded_channel();
    let inserter = Arc::new(Inserter::new(config, writer, metrics.clone()));
    let client = Arc::new(client);
    let watched = Watch {
        client: Arc::clone(&client),
        shown: Arc::clone(&shown),
        topics: topics.clone(),
        metrics: metrics.clone(),
        stop: stop.clone(),
    };
    std::thread::Builder::new().name("kafka-lag".to_owned()).spawn(move || watched.run())?;
    let consuming = Consuming {
        client,
        shown: Arc::clone(&shown),
        topics,
        limits: Limits { records: config.batch.rows_max as u64, wait: config.batch.wait() },
        partitions: BTreeMap::new(),
        generation: 0,
        results,
        received,
        inserter,
        tasks: Handle::current(),
        committed_at: Instant::now(),
        metrics,
        stop,
    };
    let thread = std::thread::Builder::new().name("kafka-consume".to_owned()).spawn(move || consuming.run())?;
    Ok((shown, thread))
}

/// Why nothing is consumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Client(#[from] SetUpError),
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The polling thread's own.
struct Consuming {
    client: Arc<Client>,
    shown: Arc<Consumer>,
    topics: [String; 3],
    limits: Limits,
    partitions: BTreeMap<(u8, i32), Partition>,
    /// Counts how often partitions came and went.
    generation: u64,
    results: mpsc::UnboundedSender<Done>,
    received: mpsc::UnboundedReceiver<Done>,
    inserter: Arc<Inserter>,
    tasks: Handle,
    committed_at: Instant,
    metrics: SharedMetrics,
    stop: CancellationToken,
}

struct Partition {
    signal: Signal,
    generation: u64,
    gatherer: Gatherer,
    stage: Stage,
    /// Everything before it is in the tables; none until something is known.
    confirmed: Option<i64>,
    /// As the group has it.
    committed: Option<i64>,
    paused: bool,
    /// A message came that is none of ours.
    strange: bool,
}

/// Where the block of a partition is.
enum Stage {
    /// There is none.
    Gathering,
    /// A task asks which of its messages are in the tables.
    Asking,
    /// To be inserted, once its intent is committed.
    Ready(Batch),
    /// A task inserts it.
    Inserting,
}

/// What a task has done.
struct Done {
    key: (u8, i32),
    generation: u64,
    result: Outcome,
}

enum Outcome {
    Asked(Batch),
    Inserted(i64),
}

impl Consuming {
    fn run(mut self) {
        let mut stop_by: Option<Instant> = None;
        loop {
            if self.stop.is_cancelled() {
                let by = *stop_by.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
                let inserting = self.partitions.values().any(|of| matches!(of.stage, Stage::Inserting));
                if !inserting || Instant::now() >= by {
                    break;
                }
            }
            self.poll(stop_by.is_some());
            self.receive();
            if stop_by.is_none() {
                self.advance();
            }
            self.commit(stop_by.is_none(), false);
        }
        self.receive();
        self.commit(false, true);
        self.client.unsubscribe();
    }

    /// Take what came, and what became of the group. When stopping, messages are passed over: they are not committed.
    fn poll(&mut self, stopping: bool) {
        let client = Arc::clone(&self.client);
        let mut wait = POLL;
        for _ in 0..POLLS_MAX {
            let polled = client.poll(wait);
            // Before the message: it may be of a partition that was given with it.
            self.change(&client);
            match polled {
                None => return,
                Some(Ok(_)) if stopping => {}
                Some(Ok(message)) => self.take(&message),
                // Counted where the client tells of it.
                Some(Err(error)) => tracing::debug!(%error, "kafka: nothing can be read now"),
            }
            wait = Duration::ZERO;
        }
    }

    fn key(&self, topic: &str, partition: i32) -> Option<(Signal, (u8, i32))> {
        let signal = SIGNALS.into_iter().find(|signal| self.topics[*signal as usize] == topic)?;
        Some((signal, (signal as u8, partition)))
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let Some((signal, key)) = self.key(message.topic(), message.partition()) else { return };
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let head = Head::read(message.headers());
        if let Err(error) = &head {
            self.metrics.kafka.failure("consume", "foreign");
            // The first one says enough: whoever writes one writes many.
            if !std::mem::replace(&mut partition.strange, true) {
                tracing::error!(topic = message.topic(), partition = message.partition(), offset = message.offset(), %error,
                    "messages that are none of a gateway's are passed over, this is the first; let gateways alone write to the topics");
            }
        }
        let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        let message = Taken {
            offset: message.offset(),
            at: message.timestamp().to_millis().unwrap_or(0),
            message: head.ok().map(|head| Message { signal, head, payload }),
        };
        partition.gatherer.take(message, Instant::now());
        let missed = partition.gatherer.missed();
        if missed > 0 {
            self.metrics.kafka.missed(signal, missed);
            tracing::error!(
                topic = self.topics[signal as usize],
                partition = key.1,
                messages = missed,
                "messages were deleted before they were read; give the topic a longer retention, or consumers more to run on"
            );
        }
        if partition.gatherer.is_full() && !partition.paused {
            partition.paused = true;
            let list = of_partition(&self.topics[signal as usize], key.1);
            if let Err(error) = self.client.pause(&list) {
                tracing::debug!(%error, "kafka: a partition is not paused");
            }
        }
    }

    /// Partitions that were given to us and taken from us.
    fn change(&mut self, client: &Client) {
        let changes = std::mem::take(&mut *client.context().changes.lock().unwrap_or_else(PoisonError::into_inner));
        for change in changes {
            self.generation += 1;
            match change {
                Change::Taken(list) => {
                    for (topic, partition) in list {
                        let Some((signal, key)) = self.key(&topic, partition) else { continue };
                        self.partitions.remove(&key);
                        self.shown.confirmed.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                        self.metrics.kafka.forget_lag(&self.topics[signal as usize], partition);
                    }
                }
                Change::Given(list) => self.given(client, list),
            }
        }
    }

    /// Begin with partitions where the group stands. Asks until it is told: without the intents nothing can be written.
    fn given(&mut self, client: &Client, list: Vec<(String, i32)>) {
        let committed = loop {
            if list.is_empty() {
                break TopicPartitionList::new();
            }
            let mut wanted = TopicPartitionList::new();
            for (topic, partition) in &list {
                wanted.add_partition(topic, *partition);
            }
            match client.committed_offsets(wanted, COMMITTED_TIMEOUT) {
                Ok(committed) => break committed,
                Err(error) => {
                    self.metrics.kafka.failure("offsets", reason_of(&error));
                    self.shown.access.refused(error.rdkafka_error_code(), "");
                    tracing::warn!(%error, "what the group has committed cannot be read; asking again");
                    if self.stop.is_cancelled() {
                        return;
                    }
                    // A broker that refuses does so at once.
                    std::thread::sleep(COMMITTED_PAUSE);
                }
            }
        };
        for of in committed.elements() {
            let Some((signal, key)) = self.key(of.topic(), of.partition()) else { continue };
            let offset = if let Offset::Offset(offset) = of.offset() { Some(offset) } else { None };
            let intended = Intent::read(of.metadata()).unwrap_or_else(|error| {
                tracing::warn!(
                    topic = of.topic(),
                    partition = of.partition(),
                    error,
                    "taken as if nothing were intended"
                );
                None
            });
            let partition = Partition {
                signal,
                generation: self.generation,
                gatherer: Gatherer::new(self.limits, offset, intended.filter(|_| offset.is_some())),
                stage: Stage::Gathering,
                confirmed: offset,
                committed: offset,
                paused: false,
                strange: false,
            };
            self.partitions.insert(key, partition);
            let mut confirmed = self.shown.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            confirmed.insert(key, offset.unwrap_or(0));
        }
        tracing::info!(partitions = self.partitions.len(), "the group has shared out its partitions");
        self.shown.access.in_group();
        self.shown.joined.store(true, Relaxed);
    }

    /// What tasks have done.
    fn receive(&mut self) {
        while let Ok(Done { key, generation, result }) = self.received.try_recv() {
            let Some(partition) = self.partitions.get_mut(&key).filter(|of| of.generation == generation) else {
                continue;
            };
            match result {
                Outcome::Asked(batch) => partition.stage = Stage::Ready(batch),
                Outcome::Inserted(next) => {
                    partition.stage = Stage::Gathering;
                    partition.confirmed = Some(next);
                    self.shown.confirmed.lock().unwrap_or_else(PoisonError::into_inner).insert(key, next);
                }
            }
        }
    }

    /// Begin the next block of each partition that has none.
    fn advance(&mut self) {
        let now = Instant::now();
        for (key, partition) in &mut self.partitions {
            if !matches!(partition.stage, Stage::Gathering) {
                continue;
            }
            let Some(batch) = partition.gatherer.batch(now) else { continue };
            if std::mem::take(&mut partition.paused) {
                let list = of_partition(&self.topics[partition.signal as usize], key.1);
                if let Err(error) = self.client.resume(&list) {
                    tracing::debug!(%error, "kafka: a partition is not resumed");
                }
            }
            let repeated = |taken: &Taken| taken.message.as_ref().is_some_and(|message| message.head.repeated);
            if batch.again || !batch.messages.iter().any(repeated) {
                partition.stage = Stage::Ready(batch);
                continue;
            }
            partition.stage = Stage::Asking;
            let (inserter, results) = (Arc::clone(&self.inserter), self.results.clone());
            let (key, generation) = (*key, partition.generation);
            self.tasks.spawn(async move {
                let batch = inserter.ask(batch).await;
                // Nobody listens when the consumer ends.
                let _ = results.send(Done { key, generation, result: Outcome::Asked(batch) });
            });
        }
    }

    /// Commit what is intended, and begin it; where nothing is, what is done, now and then or `at_once`.
    fn commit(&mut self, begin: bool, at_once: bool) {
        let mut offsets = TopicPartitionList::new();
        let due = at_once || self.committed_at.elapsed() >= COMMIT_INTERVAL;
        for (key, partition) in &self.partitions {
            let topic = &self.topics[partition.signal as usize];
            let (offset, metadata) = match &partition.stage {
                // It stands there already.
                Stage::Ready(batch) if begin && batch.again => continue,
                Stage::Ready(batch) if begin => (batch.first, batch.intent.to_string()),
                Stage::Gathering if due && partition.confirmed != partition.committed => {
                    let Some(confirmed) = partition.confirmed else { continue };
                    (confirmed, String::new())
                }
                _ => continue,
            };
            let mut element = offsets.add_partition(topic, key.1);
            if let Err(error) = element.set_offset(Offset::Offset(offset)) {
                tracing::error!(%error, offset, "an offset cannot be committed");
                return;
            }
            element.set_metadata(metadata);
        }
        if due {
            self.committed_at = Instant::now();
        }
        // An assignment that is lost, and not yet taken from us, is another's.
        if self.client.assignment_lost() {
            return;
        }
        if offsets.count() > 0 {
            if let Err(error) = self.client.commit(&offsets, CommitMode::Sync) {
                self.metrics.kafka.failure("commit", reason_of(&error));
                self.shown.access.refused(error.rdkafka_error_code(), "");
                tracing::debug!(%error, "kafka: offsets are not committed");
                return;
            }
            self.shown.access.in_group();
            self.shown.health.set(None);
        }
        let confirmed: Vec<((u8, i32), i64)> = offsets
            .elements()
            .iter()
            .filter_map(|of| {
                let Offset::Offset(offset) = of.offset() else { return None };
                Some((self.key(of.topic(), of.partition())?.1, offset))
            })
            .collect();
        for (key, offset) in confirmed {
            if let Some(partition) = self.partitions.get_mut(&key) {
                partition.committed = Some(offset);
            }
        }
        if begin {
            self.begin(&offsets);
        }
    }

    /// Insert the blocks whose intents stand in what was committed now, or did before.
    fn begin(&mut self, committed: &TopicPartitionList) {
        for (key, partition) in &mut self.partitions {
            let topic = &self.topics[partition.signal as usize];
            let stands = match &partition.stage {
                Stage::Ready(batch) => batch.again || committed.find_partition(topic, key.1).is_some(),
                _ => false,
            };
            if !stands {
                continue;
            }
            let Stage::Ready(batch) = std::mem::replace(&mut partition.stage, Stage::Inserting) else { continue };
            let (inserter, results, topic) = (Arc::clone(&self.inserter), self.results.clone(), topic.clone());
            let (key, generation, signal) = (*key, partition.generation, partition.signal);
            self.tasks.spawn(async move {
                let next = inserter.insert(signal, &topic, key.1, batch).await;
                let _ = results.send(Done { key, generation, result: Outcome::Inserted(next) });
            });
        }
    }
}

fn of_partition(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}
