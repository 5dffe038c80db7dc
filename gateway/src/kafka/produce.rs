//! The producer: brings messages to the brokers, or to the spill until they take them.
//!
//! Takes what `ingest` made of a request. Messages of senders that may not have them on disk go to the spill when the brokers do not
//! acknowledge them in time, and at once while none is reached; [`Producer::replay`] sends them from there. Those of agents are produced in time or
//! refused. Messages of one delivery and service go one after the other, so that of several copies of it each holds a beginning. Invariant: a
//! message is answered as safe only after all replicas in sync have it or the disk was synced.

use super::message::{Head, Message};
use super::{Context, Health, SIGNALS, SetUpError, is_hidden, reason_of, settings, topics, user_of};
use crate::admin::Broker;
use crate::batch::budget::Hold;
use crate::batch::share::{self, Fate, Share, Verdict};
use crate::config::{Kafka, STOP_INSERT_TIMEOUT};
use crate::delivered::UnderWay;
use crate::delivered::deadline::Deadline;
use crate::telemetry::ledger::Held;
use crate::telemetry::metrics::SharedMetrics;
use ollystack_buffer::{Buffer, EntryId, Loss, Observer, Stored};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// A look at whether the cluster is there takes so long at most, and comes again after the pause.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Messages that are replayed at a time.
const REPLAY_MAX: usize = 64;

/// After a failure that somebody has to put right.
const REPAIR_PAUSE: Duration = Duration::from_secs(5);

type Client = FutureProducer<Context>;

/// One per gateway.
pub(crate) struct Producer {
    /// Replaced after an error that it cannot go on from.
    client: Mutex<Client>,
    settings: ClientConfig,
    user: String,
    topics: [String; 3],
    /// By topic: brokers refused what we wrote to it, and have taken nothing since. They may show it all the same.
    refused: [AtomicBool; 3],
    message_bytes_max: usize,
    health: Health,
    spill: Buffer,
    spill_trouble: Mutex<Option<String>>,
    metrics: SharedMetrics,
    stop: CancellationToken,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topics", &self.topics).finish_non_exhaustive()
    }
}

/// A message on its way, with what it holds.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) message: Message,
    /// Its records in the ledger.
    pub(crate) held: Held,
}

/// Why a message is not there for sure.
enum Failure {
    /// The client never had it.
    NotSent(KafkaError),
    /// The brokers will never take it.
    Never(KafkaError),
    /// It may be there.
    Perhaps(Option<KafkaError>),
}

impl Producer {
    pub(crate) fn new(
        config: &Kafka,
        spill: Buffer,
        metrics: SharedMetrics,
        stop: CancellationToken,
    ) -> Result<Producer, SetUpError> {
        let (health, settings) = (Health::new(), settings::producer(config));
        let context = Context { health: health.clone(), metrics: metrics.clone() };
        Ok(Producer {
            client: Mutex::new(settings.create_with_context(context)?),
            settings,
            user: user_of(config),
            topics: topics(&config.topic_prefix),
            refused: Default::default(),
            message_bytes_max: config.message_bytes_max,
            health,
            spill,
            spill_trouble: Mutex::default(),
            metrics,
            stop,
        })
    }

    /// What a message may take.
    pub(crate) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// What keeps messages from the spill.
    fn spill_trouble(&self) -> Option<String> {
        self.spill_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Close the spill.
    pub(crate) async fn close(&self) {
        self.spill.close().await;
    }

    /// Bring the messages of a request to safety, in their order by service. They go on when the verdict is dropped. With `begin_by` they are an
    /// agent's, which has them on disk.
    pub(crate) fn produce(
        self: &Arc<Self>,
        messages: Vec<Outbound>,
        hold: Hold,
        kept: Option<(UnderWay, Deadline)>,
    ) -> Verdict {
        let (under_way, begin_by) = kept.unzip();
        let (share, verdict) = share::pair(under_way);
        let hold = Arc::new(hold);
        let mut services: Vec<Vec<Outbound>> = Vec::new();
        for outbound in messages {
            match services.last_mut().filter(|of| of.last().is_some_and(|last| is_behind(last, &outbound))) {
                Some(service) => service.push(outbound),
                None => services.push(vec![outbound]),
            }
        }
        for service in services {
            let (producer, share, hold) = (Arc::clone(self), share.clone(), Arc::clone(&hold));
            tokio::spawn(async move {
                producer.bring(service, begin_by, share).await;
                drop(hold);
            });
        }
        share.hand_over();
        verdict
    }

    /// One after the other; after one that failed none of an agent's is begun.
    async fn bring(&self, messages: Vec<Outbound>, begin_by: Option<Deadline>, share: Share) {
        let mut failed = None;
        for Outbound { message, held } in messages {
            let fate = match (failed, begin_by) {
                (Some(_), _) => Fate::Untouched,
                (None, Some(begin_by)) => self.bring_in_time(&message, begin_by).await,
                (None, None) => {
                    // Tells by itself where it is.
                    let fate = self.bring_or_spill(message, held).await;
                    share.clone().settle(fate);
                    continue;
                }
            };
            match fate {
                Fate::Safe => held.produced(),
                Fate::Untouched => held.refused("unavailable"),
                Fate::Doubtful => held.doubtful(),
            }
            failed = failed.or((fate != Fate::Safe).then_some(fate));
            share.clone().settle(fate);
        }
        share.hand_over();
    }

    /// A message that its sender has on disk.
    async fn bring_in_time(&self, message: &Message, begin_by: Deadline) -> Fate {
        if !self.health.is_reached() || begin_by.passed() {
            return Fate::Untouched;
        }
        match self.send(message).await {
            Ok(()) => Fate::Safe,
            Err(Failure::NotSent(_) | Failure::Never(_)) => Fate::Untouched,
            Err(Failure::Perhaps(_)) => Fate::Doubtful,
        }
    }

    /// A message that its sender may not have any more.
    async fn bring_or_spill(&self, message: Message, held: Held) -> Fate {
        if self.health.is_reached() {
            match self.send(&message).await {
                Ok(()) => {
                    held.produced();
                    return Fate::Safe;
                }
                // On disk it would wait for ever.
                Err(Failure::Never(_)) => {
                    held.refused("unavailable");
                    return Fate::Untouched;
                }
                Err(_) => {}
            }
        }
        let put = match message.to_entry() {
            Ok(entry) => self.spill.put(vec![entry]).await.map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let problem = put.err();
        let fate = if problem.is_none() { Fate::Safe } else { Fate::Doubtful };
        self.set_spill_trouble(problem);
        match fate {
            Fate::Safe => {
                self.metrics.kafka.spilled(message.signal);
                held.on_disk();
            }
            _ => held.doubtful(),
        }
        fate
    }

    /// Hand a message to the client, and wait until the brokers have it. After `stop` they have a shorter time.
    async fn send(&self, message: &Message) -> Result<(), Failure> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let topic = &self.topics[message.signal as usize];
        let key = message.head.key();
        let record =
            FutureRecord::to(topic).key(&key).payload(message.payload.as_ref()).headers(message.head.headers());
        let begun = Instant::now();
        let sent = match client.send_result(record) {
            Err((error, _)) => Err(Failure::NotSent(error)),
            Ok(delivery) => {
                let stopped = async {
                    self.stop.cancelled().await;
                    sleep(STOP_INSERT_TIMEOUT).await;
                };
                tokio::select! {
                    delivered = delivery => match delivered {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err((error, _))) => Err(Failure::of(error)),
                        Err(_) => Err(Failure::Perhaps(None)),
                    },
                    () = stopped => Err(Failure::Perhaps(None)),
                }
            }
        };
        match &sent {
            Ok(()) => {
                self.metrics.kafka.produced(message.signal, message.head.records, begun.elapsed());
                if self.refused[message.signal as usize].swap(false, Relaxed) && !self.is_refused() {
                    self.health.set(None);
                }
            }
            Err(Failure::Perhaps(None)) => self.metrics.kafka.failure("produce", "stopped"),
            Err(Failure::Never(error)) => {
                self.metrics.kafka.failure("produce", reason_of(error));
                tracing::error!(%error, topic, bytes = message.payload.len(),
                    "the brokers refuse a message for good; set kafka.message_bytes_max below max.message.bytes of the topic");
            }
            Err(Failure::NotSent(error) | Failure::Perhaps(Some(error))) => {
                self.metrics.kafka.failure("produce", reason_of(error));
                self.failed(&client, message.signal as usize, error);
            }
        }
        sent
    }

    /// What a failure to write to a topic says of it, of the cluster, or of the client.
    fn failed(&self, client: &Client, topic: usize, error: &KafkaError) {
        if let Some((_, why)) = client.client().fatal_error() {
            let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            // All that was under way fails with it: the first of them replaces it.
            if std::ptr::eq(current.client(), client.client()) {
                tracing::warn!(why, "the Kafka client cannot go on; a new one takes its place");
                let context = Context { health: self.health.clone(), metrics: self.metrics.clone() };
                match self.settings.create_with_context(context) {
                    Ok(fresh) => *current = fresh,
                    Err(error) => tracing::error!(%error, "no new Kafka client can be made; restart the gateway"),
                }
            }
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => {}
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                self.refused[topic].store(true, Relaxed);
                self.health.set(Some(self.may_not_use(&self.topics[topic])));
            }
            _ => self.health.set(Some(error.to_string())),
        }
    }

    fn is_refused(&self) -> bool {
        self.refused.iter().any(|refused| refused.load(Relaxed))
    }

    fn may_not_use(&self, topic: &str) -> String {
        let user = &self.user;
        format!(
            "{user} may not use topic {topic}; add the ACL Write on topic {topic}, and Create if it is not there yet"
        )
    }

    fn set_spill_trouble(&self, problem: Option<String>) {
        let mut trouble = self.spill_trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(error)) = (&*trouble, &problem) {
            tracing::error!(error, "the spill cannot take messages; senders are told to try later until it can");
        }
        *trouble = problem;
    }

    /// Look for the cluster whenever it is away, until `stop`.
    pub(crate) async fn keep_reaching(self: Arc<Self>) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                self.health.wait(false).await;
                if self.is_refused() {
                    sleep(REPAIR_PAUSE).await;
                }
                let producer = Arc::clone(&self);
                let looked = tokio::task::spawn_blocking(move || producer.look()).await;
                let problem = looked.map_err(|error| error.to_string()).and_then(|look| look).err();
                match problem {
                    Some(problem) => {
                        sleep(LOOK_PAUSE).await;
                        self.health.set(Some(problem));
                    }
                    // That a topic is shown does not say that it may be written to.
                    None if self.is_refused() => self.health.try_again(),
                    None => self.health.set(None),
                }
            }
        })
        .await;
    }

    /// Whether every topic is there and each of its partitions has a leader.
    fn look(&self) -> Result<(), String> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for topic in &self.topics {
            let metadata = client.client().fetch_metadata(Some(topic), LOOK_TIMEOUT);
            let metadata = metadata.map_err(|error| error.to_string())?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            if is_hidden(found) {
                return Err(self.may_not_use(topic));
            }
            let partitions = found.filter(|topic| topic.error().is_none()).map(|topic| topic.partitions());
            let Some(partitions) = partitions.filter(|partitions| !partitions.is_empty()) else {
                return Err(format!("topic {topic} is not there; make it, or let the brokers make topics"));
            };
            if let Some(without) = partitions.iter().find(|partition| partition.leader() < 0) {
                return Err(format!("partition {} of topic {topic} has no leader", without.id()));
            }
        }
        Ok(())
    }

    /// Send what waits in the spill, until `stop`.
    pub(crate) async fn replay(self: Arc<Self>) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.replay_for_ever()).await;
    }

    async fn replay_for_ever(self: &Arc<Self>) {
        let mut sends: JoinSet<()> = JoinSet::new();
        loop {
            self.spill.changed().await;
            self.health.wait(true).await;
            while sends.len() >= REPLAY_MAX {
                sends.join_next().await;
            }
            match self.spill.next().await {
                Ok(Some(stored)) => {
                    let producer = Arc::clone(self);
                    sends.spawn(async move { producer.replay_one(stored).await });
                }
                Ok(None) => {
                    // All is on its way, or the spill is closed: the wait above is no wait then.
                    if sends.join_next().await.is_none() {
                        sleep(LOOK_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the spill cannot be read; trying again");
                    sleep(REPAIR_PAUSE).await;
                }
            }
        }
    }

    async fn replay_one(&self, stored: Stored) {
        let lease = Lease { spill: &self.spill, id: Some(stored.id) };
        let Some(mut message) = Message::from_entry(&stored.entry) else {
            tracing::error!(
                records = stored.entry.records,
                "a message in the spill cannot be read; its records are lost"
            );
            self.metrics.ledger.lose_of(stored.entry.signal, "corrupt", stored.entry.records.into());
            return lease.done().await;
        };
        // It may have been on its way before it came here, or been sent from here before.
        message.head.repeated = true;
        match self.send(&message).await {
            Ok(()) => {
                self.metrics.ledger.replayed_to_log(&message.head.tenant, message.signal, message.head.records);
                lease.done().await;
            }
            // It was answered as safe: it stays until somebody has put right what is in its way.
            Err(Failure::Never(_)) => sleep(REPAIR_PAUSE).await,
            // Back to where it was.
            Err(_) => {}
        }
    }
}

/// Whether a message is to wait for another one.
fn is_behind(first: &Outbound, second: &Outbound) -> bool {
    let of = |head: &Head| (head.service.clone(), head.agent.clone(), head.sequence);
    of(&first.message.head) == of(&second.message.head)
}

impl Failure {
    fn of(error: KafkaError) -> Failure {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessage) => Failure::Never(error),
            _ => Failure::Perhaps(Some(error)),
        }
    }
}

/// Goes back when it is dropped.
struct Lease<'a> {
    spill: &'a Buffer,
    id: Option<EntryId>,
}

impl Lease<'_> {
    async fn done(mut self) {
        if let Some(id) = self.id.take()
            && let Err(error) = self.spill.ack(vec![id]).await
        {
            tracing::warn!(%error, "a message that is in Kafka stays in the spill, and is sent again");
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.spill.release(id);
        }
    }
}

/// Counts what the spill loses.
pub(crate) struct SpillLosses(pub(crate) SharedMetrics);

impl Observer for SpillLosses {
    fn lost(&self, signal: u8, records: u64, bytes: u64, reason: Loss) {
        let kind = match reason {
            Loss::Evicted => "evicted",
            Loss::Corrupt => "corrupt",
        };
        self.0.ledger.lose_of(signal, kind, records);
        tracing::error!(records, bytes, reason = kind, "messages in the spill are gone; check the disk");
    }
}

impl Broker for Producer {
    fn replaces_tables(&self) -> bool {
        true
    }

    fn report(&self) -> (bool, Vec<String>) {
        let (trouble, spill) = (self.health.trouble(), self.spill_trouble());
        // Once reached it stays ready, as the spill bridges an outage.
        let ready = self.health.was_reached() && spill.is_none();
        let notes = [("kafka", trouble), ("spill", spill)].into_iter();
        let notes = notes.filter_map(|(name, problem)| Some(format!("{name}: {}", problem?)));
        (ready, notes.collect())
    }

    fn waiting(&self) -> (u64, u64) {
        let stats = self.spill.stats();
        (stats.entries, stats.disk_bytes)
    }

    fn waiting_records(&self) -> [u64; 3] {
        let records = self.spill.stats().records;
        SIGNALS.map(|signal| records.get(signal as usize).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::budget::Budget;
    use crate::config::{Flags, Layers};
    use crate::delivered::{Deliveries, Identity};
    use crate::telemetry::metrics::Metrics;
    use ollystack_buffer::{Options, WhenFull};
    use ollystack_receive::Signal;
    use tempfile::TempDir;

    /// Of brokers that are not there.
    fn producer(directory: &TempDir) -> (Arc<Producer>, SharedMetrics) {
        let keys = vec![("kafka.brokers".to_owned(), "127.0.0.1:1".to_owned())];
        let config = Layers::new(None, std::iter::empty(), &Flags { file: None, keys }).unwrap().config().unwrap();
        let options = Options {
            directory: directory.path().join("spill"),
            bytes_max: 4 << 20,
            segment_bytes_max: 1 << 20,
            when_full: WhenFull::Refuse,
        };
        let metrics = Arc::new(Metrics::new());
        let (spill, _) = Buffer::open(options, Arc::new(SpillLosses(metrics.clone()))).unwrap();
        let producer = Producer::new(&config.kafka, spill, metrics.clone(), CancellationToken::new()).unwrap();
        (Arc::new(producer), metrics)
    }

    fn outbound(metrics: &SharedMetrics, agent: &str, before: u64) -> Outbound {
        let (agent, tenant) = (agent.to_owned(), "acme".to_owned());
        let head = Head { tenant, agent, records: 2, before, ..Head::default() };
        let held = metrics.ledger.receive(&"acme".into(), Signal::Logs, 2).set_out();
        Outbound { message: Message { signal: Signal::Logs, head, payload: vec![7].into() }, held }
    }

    #[tokio::test]
    async fn without_brokers_agents_keep_theirs_and_others_are_on_disk_when_they_are_answered() {
        let directory = tempfile::tempdir().unwrap();
        let (producer, metrics) = producer(&directory);
        let hold = || Budget::new(10).hold(1).unwrap();
        let identity = Identity { tenant: "acme".into(), agent: "a".into(), sequence: 1, signal: Signal::Logs };
        let under_way = Deliveries::default().begin(&identity, 7).unwrap();
        let kept = Some((under_way, Deadline::after(Duration::from_secs(60))));
        let of_agent = vec![outbound(&metrics, "a", 0), outbound(&metrics, "a", 2)];
        assert_eq!(producer.produce(of_agent, hold(), kept).fate().await, Fate::Untouched);
        assert_eq!(producer.waiting().0, 0);
        assert_eq!(producer.produce(vec![outbound(&metrics, "", 0)], hold(), None).fate().await, Fate::Safe);
        assert_eq!((producer.waiting().0, producer.waiting_records()), (1, [0, 2, 0]));
        let reading = metrics.ledger.read(producer.waiting_records(), [0; 3]).signals[Signal::Logs as usize].clone();
        assert_eq!((reading.outcomes.refused["unavailable"], reading.balance), (4, 0));
        assert!(!producer.report().0, "a cluster that was never reached is not ready");
    }
}
