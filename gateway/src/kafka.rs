//! Kafka between gateway and ClickHouse: the gateway is a [producer](produce), `ollystack-gateway consume` the [consumer](consume).
//!
//! **What lies in the topics.** `<prefix>-metrics`, `-logs` and `-traces` hold OTLP requests as protobuf, one service of one tenant each
//! (`otlp_proto` to the OpenTelemetry Collector's receiver), with what else belongs to them in [headers](message). What would not become
//! rows is left out before, by the conversion that makes rows, so that a sender hears of it and nobody else has to. The key is
//! [`message::Head::key`]: 64 bits of tenant and service, big-endian, hashed to a partition as Java's clients do (murmur2); so the
//! records of one service are in order.
//!
//! **Acknowledged.** A sender hears of success once all replicas in sync have its messages (`acks=all`), or the spill has synced them, which is
//! for senders that are no agents. The producer is idempotent: what it sends again by itself is there once.
//!
//! **Once, from the sender to the topic.** What comes again by other means, because a gateway died, a broker was silent or a message waited
//! in the spill, says so in a header, and bears the same identity: tenant, agent, sequence and service; for senders that are no agents a
//! random sequence takes the agent's place, and stays with the message in the spill. Being of the same key, it lies behind its first copy in the
//! same partition. The consumer asks ClickHouse for it, when everything before it in the partition is there.
//!
//! **Once, from the topic to the tables.** A consumer gathers a [block] from a partition: messages from a first to a last offset. Before it
//! inserts, it commits what it is about to do: the first offset, and as the commit's metadata the [intent](intent): the last offset, and which of
//! the messages between are there already. Then it inserts under a deduplication token made from group, topic, partition and both offsets.
//! The commit of the next intent says that this one is done. So:
//! - Whoever takes the partition over, after a kill, a stop or a rebalance, reads the intent and makes the same block under the same token:
//!   what was written is dropped, in the table and in each view, and what was not is written.
//! - A consumer that lost the partition without knowing cannot commit, as the group's coordinator knows the generation of who commits; it
//!   begins no block. One that it has begun its successor has made too, under the same token.
//! - Nothing is lost: what is not committed is read again.
//!
//! **Not covered.** A broken-off block whose successor comes after 10,000 other inserts into the same table (ClickHouse has forgotten the token).
//! A change of a topic's number of partitions, or switching between the sinks, while deliveries are repeated. Messages that the broker deletes
//! before they are read (counted, and an error in the log). An attempt of an agent that a broker stood still with, unread, until its repetition
//! through another gateway was written. Topics whose replicas in sync are fewer than their owner believes (`min.insync.replicas`), and unclean
//! elections of leaders. Whoever may write to the topics may write as any tenant: give that right to gateways alone.

pub(crate) mod consume;
pub(crate) mod message;
pub(crate) mod produce;
mod settings;

use crate::config::Kafka;
use crate::telemetry::metrics::SharedMetrics;
use ollystack_receive::Signal;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// In the order of every list of them.
pub(crate) const SIGNALS: [Signal; 3] = [Signal::Metrics, Signal::Logs, Signal::Traces];

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("kafka: {0}; look at the section [kafka] of the configuration")]
pub(crate) struct SetUpError(#[from] KafkaError);

/// The topics, by signal.
pub(crate) fn topics(prefix: &str) -> [String; 3] {
    SIGNALS.map(|signal| format!("{prefix}-{}", signal.name()))
}

/// Who this is to the brokers, for people.
fn user_of(config: &Kafka) -> String {
    match config.sasl_user.as_str() {
        "" => "this client (kafka.sasl_user is empty)".to_owned(),
        user => format!("kafka.sasl_user \"{user}\""),
    }
}

/// How the cluster fares, as far as this process knows. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<State>);

#[derive(Debug)]
struct State {
    reached: watch::Sender<bool>,
    was_reached: AtomicBool,
    /// What is wrong.
    trouble: Mutex<Option<String>>,
    /// Why a broker did not let us in, and what to do about it: it says more than what fails for it afterwards.
    barred: Mutex<Option<Barred>>,
}

#[derive(Debug)]
struct Barred {
    reason: String,
    next_step: &'static str,
}

impl Health {
    pub(crate) fn new() -> Health {
        Health(Arc::new(State {
            reached: watch::Sender::new(false),
            was_reached: AtomicBool::new(false),
            trouble: Mutex::new(Some("not reached yet".to_owned())),
            barred: Mutex::new(None),
        }))
    }

    /// Whether the cluster takes messages, or may, as far as is known.
    pub(crate) fn is_reached(&self) -> bool {
        *self.0.reached.borrow()
    }

    /// Whether it ever did.
    pub(crate) fn was_reached(&self) -> bool {
        self.0.was_reached.load(Relaxed)
    }

    /// Wait until it is so.
    pub(crate) async fn wait(&self, reached: bool) {
        // An error means that the sender is gone, and it is ours.
        let _ = self.0.reached.subscribe().wait_for(|now| *now == reached).await;
    }

    /// What is wrong now.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A broker does not let us in; another one may.
    fn bar(&self, reason: &str, next_step: &'static str) {
        let mut barred = self.0.barred.lock().unwrap_or_else(PoisonError::into_inner);
        if barred.as_ref().is_none_or(|known| known.next_step != next_step) {
            tracing::warn!(reason, "a Kafka broker does not let this client in; {next_step}");
        }
        *barred = Some(Barred { reason: reason.to_owned(), next_step });
    }

    fn set(&self, problem: Option<String>) {
        let mut barred = self.0.barred.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.is_none() {
            *barred = None;
            self.0.was_reached.store(true, Relaxed);
        }
        let told = barred.as_ref().map(|Barred { reason, next_step }| format!("{reason}; {next_step}"));
        let problem = problem.map(|problem| told.unwrap_or(problem));
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*trouble, &problem) {
            (None, Some(problem)) => tracing::warn!(problem, "Kafka is away"),
            (Some(_), None) => tracing::info!("Kafka is reached"),
            _ => {}
        }
        self.0.reached.send_replace(problem.is_none());
        *trouble = problem;
    }

    /// Let messages try whether what is wrong has been put right, where nothing else can tell. It is shown until one has got through.
    fn try_again(&self) {
        self.0.reached.send_replace(true);
    }
}

/// Whether a broker keeps a topic from us.
fn is_hidden(topic: Option<&MetadataTopic>) -> bool {
    topic.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from) == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

/// What the client tells by itself.
pub(crate) struct Context {
    health: Health,
    metrics: SharedMetrics,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Connections end for other reasons, too: of a cluster that was reached the configuration is right.
        if facility == "FAIL" && is_of_another_kind(text) && !self.health.was_reached() {
            self.health
                .bar(text, "check kafka.tls and kafka.sasl_mechanism against what the brokers' listener asks for");
        }
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.metrics.kafka.failure("client", reason_of(&error));
        if let Some(next_step) = next_step(&error) {
            self.health.bar(reason, next_step);
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.health.set(Some(reason.to_owned()));
        }
    }
}

/// The client's own lines: it has many words for a broker that is away, which [`Health`] says once.
fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, "kafka: {text}")
        }
        _ => tracing::debug!(facility, "kafka: {text}"),
    }
}

/// What to do where a broker does not let us in. The client's own words name its settings, not ours.
fn next_step(error: &KafkaError) -> Option<&'static str> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::SSL => Some(
            "check that kafka.tls_ca_file holds who signed the brokers' certificates, that kafka.brokers and the brokers' advertised \
             listeners have the names that are in them, and kafka.tls_cert_file where brokers ask for one",
        ),
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
            Some("check kafka.sasl_mechanism, kafka.sasl_user and kafka.sasl_password against what the brokers know")
        }
        _ => None,
    }
}

/// Whether a listener seems to ask for TLS or a user where the client has none, or the other way round. Brokers cannot say it: they end the
/// connection that they have just taken, or answer in TLS, whose alert is read as a length.
fn is_of_another_kind(text: &str) -> bool {
    ["Disconnected", "Invalid response size"].iter().any(|sign| text.contains(sign))
}

/// A reason for counters: one of ours, so that there are few.
fn reason_of(error: &KafkaError) -> &'static str {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve | Code::NetworkException) => "network",
        Some(Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut) => "timeout",
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::InvalidMessage) => "message",
        Some(Code::QueueFull) => "queue_full",
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::SSL,
        ) => "access",
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => "topic",
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend) => "replicas",
        Some(
            Code::RebalanceInProgress
            | Code::IllegalGeneration
            | Code::UnknownMemberId
            | Code::AssignmentLost
            | Code::FencedInstanceId,
        ) => "rebalance",
        Some(Code::Fatal) => "fatal",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn what_is_wrong_is_shown_while_messages_try_again_until_one_got_through() {
        let health = Health::new();
        health.set(None);
        for _ in 0..2 {
            health.set(Some("may not".to_owned()));
            assert!(!health.is_reached());
            health.try_again();
            assert_eq!((health.is_reached(), health.trouble().as_deref()), (true, Some("may not")));
        }
        health.set(None);
        assert_eq!((health.is_reached(), health.trouble()), (true, None));
    }

    #[test]
    fn what_bars_a_client_is_told_with_a_next_step_until_the_cluster_is_reached() {
        let health = Health::new();
        let context = Context { health: health.clone(), metrics: Arc::new(Metrics::new()) };
        let failed = |code| context.error(KafkaError::Global(code), "k1:9092: no");
        let told = || {
            // What fails behind it says less.
            health.set(Some("timed out".to_owned()));
            health.trouble().unwrap_or_default()
        };
        assert_eq!(told(), "timed out");
        for (code, key) in
            [(RDKafkaErrorCode::SSL, "kafka.tls_ca_file"), (RDKafkaErrorCode::Authentication, "kafka.sasl_password")]
        {
            failed(code);
            assert!(told().starts_with("k1:9092: no; check ") && told().contains(key), "{}", told());
        }
        context.log(RDKafkaLogLevel::Info, "FAIL", "k1:9092: Disconnected: connection closed by peer");
        assert!(told().contains("kafka.tls and kafka.sasl_mechanism"), "{}", told());
        health.set(None);
        assert_eq!((health.trouble(), told().as_str()), (None, "timed out"));
        context.log(RDKafkaLogLevel::Info, "FAIL", "k1:9092: Disconnected: connection closed by peer");
        assert_eq!(told(), "timed out", "connections of a cluster that was reached end for other reasons");
    }
}
