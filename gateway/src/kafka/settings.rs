//! From the configuration to the client's own settings. Invariant: what promises depend on stands here and cannot be configured away.

use crate::config::Kafka;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::path::Path;
use std::time::Duration;

/// `silence`: a broker that has a request for so long and says nothing is left, and another one is asked. The client's own minute would be the
/// time for which a broker that stands still keeps what others could tell by then.
fn client(config: &Kafka, silence: Duration) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "ollystack-gateway")
        .set("socket.keepalive.enable", "true")
        // A cluster that comes back is noticed soon; a topic that is made, too.
        .set("reconnect.backoff.max.ms", "2000")
        // So is another leader, where the one before stands still.
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set("socket.timeout.ms", silence.as_millis().to_string())
        .set("allow.auto.create.topics", "true")
        // What its connections ended with is told at this level.
        .set_log_level(RDKafkaLogLevel::Info);
    let sasl = !config.sasl_mechanism.is_empty();
    let protocol = match (config.tls, sasl) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if sasl {
        client
            .set("sasl.mechanism", &config.sasl_mechanism)
            .set("sasl.username", &config.sasl_user)
            .set("sasl.password", config.sasl_password.expose());
    }
    let files = [
        ("ssl.ca.location", &config.tls_ca_file),
        ("ssl.certificate.location", &config.tls_cert_file),
        ("ssl.key.location", &config.tls_key_file),
    ];
    for (name, file) in files.into_iter().filter(|(_, file)| config.tls && **file != *Path::new("")) {
        client.set(name, file.to_string_lossy());
    }
    client
}

/// Room for key, headers and framing beside a message's own bytes.
const MESSAGE_HEAD_BYTES: usize = 64 << 10;

pub(super) fn producer(config: &Kafka) -> ClientConfig {
    let mut client = client(config, config.produce_timeout());
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.codec", "lz4")
        // As Java's clients do, so that others find a service's partition too.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", (config.message_bytes_max + MESSAGE_HEAD_BYTES).to_string())
        .set("message.timeout.ms", config.produce_timeout().as_millis().to_string())
        .set("request.timeout.ms", config.produce_timeout().as_millis().to_string())
        // What waits is held of batch.bytes_max, too; this is for what the client adds.
        .set("queue.buffering.max.kbytes", "262144")
        .set("linger.ms", "5");
    client
}

pub(super) fn consumer(config: &Kafka) -> ClientConfig {
    let mut client = client(config, Duration::from_millis(config.session_timeout_ms));
    client
        .set("group.id", &config.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        // What is read of each partition; see `consume/access.rs`.
        .set("statistics.interval.ms", "2000")
        .set("heartbeat.interval.ms", (config.session_timeout_ms / 4).to_string())
        // Fetched ahead, of all partitions together.
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.max.bytes", "52428800")
        .set("fetch.message.max.bytes", (config.message_bytes_max + MESSAGE_HEAD_BYTES).to_string());
    client
}
