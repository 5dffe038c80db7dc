//! What is counted of Kafka: produced and consumed records, failures, and how far the tables lag behind the topics.
//!
//! Invariant: labels are signals, topics of the configuration, partitions and words of ours.

use ollystack_receive::Signal;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPartition {
    topic: String,
    partition: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSignal {
    signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    operation: &'static str,
    reason: &'static str,
}

type Seconds = Family<OfSignal, Histogram, fn() -> Histogram>;

/// Producer's and consumer's.
#[derive(Debug)]
pub(crate) struct Kafka {
    lag: Family<OfPartition, Gauge>,
    produced: Family<OfSignal, Counter>,
    produce_seconds: Seconds,
    spilled: Family<OfSignal, Counter>,
    consumed: Family<OfSignal, Counter>,
    missed: Family<OfSignal, Counter>,
    failures: Family<Failure, Counter>,
}

impl Kafka {
    pub(crate) fn new() -> Kafka {
        // 1 ms to 32 s: an acknowledgement takes milliseconds, its timeout is 10 s.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        Kafka {
            lag: Family::default(),
            produced: Family::default(),
            produce_seconds: Family::new_with_constructor(seconds),
            spilled: Family::default(),
            consumed: Family::default(),
            missed: Family::default(),
            failures: Family::default(),
        }
    }

    /// Register what `/metrics` shows of it.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Messages of a partition that are not in the tables yet, of the partitions that this consumer has";
        registry.register("kafka_consumer_lag", help, self.lag.clone());
        registry.register("kafka_produced_records", "Records acknowledged by the brokers", self.produced.clone());
        let help = "From handing a message to the client to the brokers' acknowledgement";
        registry.register_with_unit("kafka_produce_latency", help, Unit::Seconds, self.produce_seconds.clone());
        registry.register("kafka_spilled_messages", "Messages written to the spill", self.spilled.clone());
        let help = "Records read from the topics and brought into the tables";
        registry.register("kafka_consumed_records", help, self.consumed.clone());
        let help = "Messages that the brokers deleted before they were read";
        registry.register("kafka_missed_messages", help, self.missed.clone());
        registry.register("kafka_failures", "What failed, by operation and reason", self.failures.clone());
    }

    /// Messages that are not in the tables yet.
    pub(crate) fn lag(&self, topic: &str, partition: i32, messages: i64) {
        self.lag.get_or_create(&OfPartition { topic: topic.to_owned(), partition }).set(messages);
    }

    /// Another consumer has the partition, and tells its lag.
    pub(crate) fn forget_lag(&self, topic: &str, partition: i32) {
        self.lag.remove(&OfPartition { topic: topic.to_owned(), partition });
    }

    /// A message was acknowledged.
    pub(crate) fn produced(&self, signal: Signal, records: u64, took: Duration) {
        let signal = OfSignal { signal: signal.name() };
        self.produced.get_or_create(&signal).inc_by(records);
        self.produce_seconds.get_or_create(&signal).observe(took.as_secs_f64());
    }

    /// A message waits in the spill.
    pub(crate) fn spilled(&self, signal: Signal) {
        self.spilled.get_or_create(&OfSignal { signal: signal.name() }).inc();
    }

    /// The records of a block are dealt with.
    pub(crate) fn consumed(&self, signal: Signal, records: u64) {
        self.consumed.get_or_create(&OfSignal { signal: signal.name() }).inc_by(records);
    }

    /// Messages were gone before they were read.
    pub(crate) fn missed(&self, signal: Signal, messages: u64) {
        self.missed.get_or_create(&OfSignal { signal: signal.name() }).inc_by(messages);
    }

    /// Something failed.
    pub(crate) fn failure(&self, operation: &'static str, reason: &'static str) {
        self.failures.get_or_create(&Failure { operation, reason }).inc();
    }
}
