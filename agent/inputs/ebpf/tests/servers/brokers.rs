//! Kafka, NATS and RabbitMQ.

use crate::Need;
use crate::case::{Case, command, fine, free_address, refused, serve, took, untimed};
use libtest_mimic::Failed;
use ollystack_tests::{BrokerConfig, Topics};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub(crate) const KAFKA_NEEDS: &[Need] = &[
    Need("java", "apt-get install default-jre-headless"),
    Need("libraries of kafka", "cargo xtask setup --servers"),
    Need("python3 kafka", "pip install kafka-python==3.0.12"),
];
pub(crate) const NATS_NEEDS: &[Need] =
    &[Need("nats-server", "apt-get install nats-server"), Need("python3 nats", "pip install nats-py")];
pub(crate) const RABBITMQ_NEEDS: &[Need] =
    &[Need("rabbitmq-server", "apt-get install rabbitmq-server"), Need("python3 pika", "pip install pika")];

/// A broker that is its own controller. The client tells of what it asks besides: who coordinates is not known to it at once.
pub(crate) fn kafka(folder: &Path) -> Result<Case, Failed> {
    const CLIENT: &str = include_str!("kafka_client.py");
    let broker = BrokerConfig::new(folder, Topics::OnRequest).map_err(|error| format!("{error:#}"))?;
    let address = broker.address();
    let server = serve(broker.command(), address)?.keeping(broker);
    let client = command("python3", ["-c", CLIENT, &address.port().to_string()])?;
    let mut expected = vec![fine("publish orders"); 20];
    expected.extend(
        ["CreateTopics", "FindCoordinator", "JoinGroup", "receive orders", "OffsetCommit", "LeaveGroup"].map(fine),
    );
    expected.push(refused("CreateTopics", "TOPIC_ALREADY_EXISTS"));
    expected.push(refused("Metadata", "UNKNOWN_TOPIC_OR_PARTITION"));
    Ok(Case { _server: server, address, client, expected, clock: took, is_ordered: false, service: "kafka.Kafka" })
}

pub(crate) fn nats(_: &Path) -> Result<Case, Failed> {
    const CLIENT: &str = include_str!("nats_client.py");
    let address = free_address()?;
    let port = address.port().to_string();
    let server = serve(command("nats-server", ["--addr", "127.0.0.1", "--port", &port])?, address)?;
    let client = command("python3", ["-c", CLIENT, &port])?;
    let expected = [
        [fine("publish orders.new"), fine("receive orders.new")].repeat(10),
        [fine("request orders.get"), fine("process orders.get")].repeat(5),
    ];
    let expected = expected.concat();
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: false, service: "nats-server" })
}

pub(crate) fn rabbitmq(folder: &Path) -> Result<Case, Failed> {
    const CLIENT: &str = include_str!("rabbitmq_client.py");
    let (address, between) = (free_address()?, free_address()?);
    let port = address.port().to_string();
    // It runs as a user of its own.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777))?;
    let mut server = command("rabbitmq-server", [] as [&str; 0])?;
    server.env("HOME", folder).env("RABBITMQ_NODENAME", format!("test{port}@localhost"));
    server.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", &port);
    server.env("RABBITMQ_DIST_PORT", between.port().to_string());
    server.env("RABBITMQ_MNESIA_BASE", folder).env("RABBITMQ_LOG_BASE", folder);
    server.env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins")).current_dir(folder);
    server.env("RABBITMQ_PID_FILE", folder.join("pid"));
    let server = serve(server, address)?.told_in(folder.join("pid"));
    let client = command("python3", ["-c", CLIENT, &port])?;
    let mut expected = ["connection.open", "channel.open", "queue.declare", "confirm.select"].map(fine).to_vec();
    expected.extend([fine("publish orders"); 10]);
    expected.extend([fine("get orders"); 5]);
    expected.push(fine("basic.consume"));
    expected.extend([fine("receive orders"); 5]);
    expected.extend([fine("basic.cancel"), refused("queue.declare", "404"), fine("connection.close")]);
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: false, service: "beam" })
}
