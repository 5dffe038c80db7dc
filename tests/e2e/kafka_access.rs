//! Kafka that asks who is there: with the right password, and over TLS, records come from agent and sender to the tables; and with anything
//! wrong gateway and consumer say which key to look at, or which right their user lacks, while nothing is lost.

use crate::numbered::{are_there_once, arrives, send, send_to_gateway};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{
    BrokerConfig, Consumer, Gateway, GatewayConfig, Mechanism, Outcome, PASSWORD, Right, Security, Topics, USER, World,
    get, until,
};

/// A setting that keeps a client out, and a key that it has to name then.
struct Wrong {
    key: &'static str,
    value: String,
    named: &'static str,
}

pub(crate) fn by_a_password_is_named_when_it_is_wrong_and_loses_nothing(world: &World) -> Result<Outcome> {
    if let Some(missing) = BrokerConfig::missing() {
        return Ok(Outcome::Skipped(missing));
    }
    let security = Security::new(&world.folder().join("security"), Mechanism::Plain, false)?;
    let wrong = [
        wrong_password(world)?,
        Wrong { key: "kafka.sasl_mechanism", value: "\"\"".to_owned(), named: "kafka.sasl_mechanism" },
    ];
    from_wrong_to_right(world, &security, &wrong)
}

pub(crate) fn by_tls_and_scram_is_named_when_it_is_wrong_and_loses_nothing(world: &World) -> Result<Outcome> {
    if let Some(missing) = BrokerConfig::missing() {
        return Ok(Outcome::Skipped(missing));
    }
    if !has_tls(world)? {
        return Ok(Outcome::Skipped("the gateway was built without the feature kafka-tls".to_owned()));
    }
    let security = Security::new(&world.folder().join("security"), Mechanism::ScramSha512, true)?;
    let wrong = [
        wrong_password(world)?,
        Wrong {
            key: "kafka.tls_ca_file",
            value: format!("{:?}", security.other_ca_file()),
            named: "kafka.tls_ca_file",
        },
        Wrong { key: "kafka.brokers", value: format!("{:?}", security.other_address()), named: "kafka.brokers" },
        Wrong { key: "kafka.tls", value: "false".to_owned(), named: "kafka.tls" },
    ];
    from_wrong_to_right(world, &security, &wrong)
}

fn wrong_password(world: &World) -> Result<Wrong> {
    let file = world.folder().join("wrong password");
    std::fs::write(&file, "battery-staple\n")?;
    Ok(Wrong { key: "kafka.sasl_password_file", value: format!("{file:?}"), named: "kafka.sasl_password" })
}

/// Whether the gateway is one that can.
fn has_tls(world: &World) -> Result<bool> {
    let config = world.gateway()?.set("kafka.tls", "true");
    config.write()?;
    let output = config.command(world.binaries(), &["config", "check"])?.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() || said.contains("without the feature kafka-tls"), "{said}");
    Ok(output.status.success())
}

fn from_wrong_to_right(world: &World, security: &Security, wrong: &[Wrong]) -> Result<Outcome> {
    let broker = BrokerConfig::secured(&world.folder().join("kafka"), Topics::ByThemselves(1), security)?;
    let _broker = broker.start()?;
    let [right, consumes] = let_in(world, security)?;

    // Nobody waits for the tables then.
    ensure!(world.gateway_with_tables()?.stop()?.success(), "the gateway that made the tables did not stop in order");
    // With each that is wrong records come, and none goes.
    let mut agent = None;
    let mut services = Vec::new();
    for (number, Wrong { key, value, named }) in wrong.iter().enumerate() {
        let mut gateway = right.clone().set(key, value).start(world.binaries())?;
        let mut consumer = Consumer::spawn(&consumes.clone().set(key, value), world.binaries())?;
        let of_tenant = gateway.new_key("acme")?;
        let agent = match &agent {
            Some(agent) => agent,
            None => agent.insert(
                world
                    .agent_to(&format!("http://{}", gateway.grpc()), &of_tenant.secret)?
                    .set("otlp.enabled", "true")
                    .start(world.binaries())?,
            ),
        };
        let [of_sender, of_agent] = ["sender", "agent"].map(|kind| format!("{kind}-{number}"));
        send_to_gateway(&gateway, &of_tenant, &of_sender)?;
        send(agent, &of_agent)?;
        services.extend([of_sender, of_agent]);
        for (admin, log) in [(right.ports[2], gateway.process().log()), (consumes.ports[2], consumer.process().log())] {
            names(admin, named).with_context(|| format!("{key} = {value}: {}", log.display()))?;
            let logged = std::fs::read_to_string(log)?;
            ensure!(logged.contains(named), "{key} = {value}: the log does not name {named}:\n{logged}");
            ensure!(!logged.contains("battery-staple") && !logged.contains(PASSWORD), "a password is in the log");
        }
        nothing_went(&gateway)?;
        ensure!(agent.account("logs")?["waiting"]["buffer"].as_u64() > Some(0), "nothing waits on the agent's disk");
        ensure!(gateway.stop()?.success() && consumer.process().stop()?.success(), "they did not stop in order");
    }

    let mut gateway = right.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let mut consumer = Consumer::spawn(&consumes, world.binaries())?;
    consumer.wait_until_it_is_ready()?;
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    services.iter().try_for_each(|service| arrives(world, service))?;
    are_there_once(world, &services)?;
    if let Some(agent) = agent {
        agent.ledger_closes()?;
    }
    Ok(Outcome::Held)
}

/// A gateway and a consumer that the broker lets in.
fn let_in(world: &World, security: &Security) -> Result<[GatewayConfig; 2]> {
    let file = world.folder().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n"))?;
    let with_kafka = |config: GatewayConfig| {
        let mut config = config.set("kafka.brokers", &format!("{:?}", security.address()));
        if let Some(ca) = security.ca_file() {
            config = config.set("kafka.tls", "true").set("kafka.tls_ca_file", &format!("{ca:?}"));
        }
        let config = config.set("kafka.sasl_mechanism", &format!("{:?}", security.mechanism().name()));
        let config = config.set("kafka.sasl_user", &format!("{USER:?}"));
        let config = config.set("kafka.sasl_password_file", &format!("{file:?}"));
        config.set("kafka.session_timeout_ms", "6000").set("kafka.produce_timeout_ms", "2000")
    };
    let produces = with_kafka(world.gateway()?).set("sink", "\"kafka\"");
    let mut consumes = with_kafka(world.gateway()?);
    consumes.folder = world.folder().join("consumer");
    Ok([produces, consumes])
}

pub(crate) fn by_rights_is_named_for_each_that_a_user_lacks_and_comes_with_them(world: &World) -> Result<Outcome> {
    if let Some(missing) = BrokerConfig::missing() {
        return Ok(Outcome::Skipped(missing));
    }
    const TOPICS: [&str; 3] = ["ollystack-metrics", "ollystack-logs", "ollystack-traces"];
    const GROUP: &str = "ollystack-gateway";
    let security = Security::new(&world.folder().join("security"), Mechanism::Plain, false)?.without_rights();
    let broker = BrokerConfig::secured(&world.folder().join("kafka"), Topics::ByThemselves(1), &security)?.start()?;
    let [produces, consumes] = let_in(world, &security)?;
    ensure!(world.gateway_with_tables()?.stop()?.success(), "the gateway that made the tables did not stop in order");
    let mut gateway = produces.start(world.binaries())?;
    let mut consumer = Consumer::spawn(&consumes, world.binaries())?;
    let of_tenant = gateway.new_key("acme")?;
    let [produces, consumes] = [produces, consumes].map(|config| config.ports[2]);
    let user = format!("kafka.sasl_user \"{USER}\" ");
    let [on_group, on_topics @ ..] = [GROUP, TOPICS[0], TOPICS[1], TOPICS[2]].map(|of| {
        let kind = if of == GROUP { "group" } else { "topic" };
        format!("add the ACL Read on {kind} {of}")
    });

    send_to_gateway(&gateway, &of_tenant, "early")?;
    names(produces, &format!("{user}may not use topic {}; add the ACL Write on topic", TOPICS[0]))?;
    names(consumes, &format!("{user}may not be in group {GROUP}; {on_group}"))?;
    for (topic, on_topic) in TOPICS.iter().zip(&on_topics) {
        names(consumes, &format!("{user}is not shown topic {topic}; {on_topic}"))?;
    }
    nothing_went(&gateway)?;

    // To write is to know of the topics, not to read them.
    let writes: Vec<Right> =
        TOPICS.iter().flat_map(|topic| [Right::WriteTopic(topic), Right::CreateTopic(topic)]).collect();
    broker.give(&writes)?;
    gateway.wait_until_the_schema_is_there()?;
    broker.give(&[Right::ReadGroup(GROUP)])?;
    for (topic, on_topic) in TOPICS.iter().zip(&on_topics) {
        names(consumes, &format!("{user}may not read topic {topic}; {on_topic}"))?;
    }
    ensure!(!readyz(consumes).contains(GROUP), "the group is named after the right to it was given");
    broker.give(&TOPICS.map(Right::ReadTopic))?;
    consumer.wait_until_it_is_ready()?;
    send_to_gateway(&gateway, &of_tenant, "late")?;
    ["early", "late"].iter().try_for_each(|service| arrives(world, service))?;

    // Taken away again while all goes on.
    let lost = [
        (Right::ReadGroup(GROUP), consumes, on_group.clone()),
        (Right::ReadTopic(TOPICS[1]), consumes, on_topics[1].clone()),
        (Right::WriteTopic(TOPICS[1]), produces, format!("add the ACL Write on topic {}", TOPICS[1])),
    ];
    let mut services = vec!["early".to_owned(), "late".to_owned()];
    for (right, admin, named) in lost {
        broker.take(right)?;
        let service = format!("without {right:?}");
        send_to_gateway(&gateway, &of_tenant, &service)?;
        names(admin, &named)?;
        broker.give(&[right])?;
        arrives(world, &service)?;
        services.push(service);
    }
    are_there_once(world, &services.iter().map(String::as_str).collect::<Vec<_>>())?;
    let refusals = gateway.process().output().matches("Kafka is away").count();
    ensure!(refusals < 10, "that one right is missing is told {refusals} times");
    let logged = consumer.process().output();
    for right in on_topics.iter().chain([&on_group]) {
        ensure!(logged.contains(right), "the log does not say {right}:\n{logged}");
    }
    ensure!(gateway.stop()?.success() && consumer.process().stop()?.success(), "they did not stop in order");
    Ok(Outcome::Held)
}

fn readyz(admin: u16) -> String {
    get(&format!("http://127.0.0.1:{admin}/readyz")).map(|answer| answer.text()).unwrap_or_default()
}

/// Waits until a process says that it is not ready, and names a key.
fn names(admin: u16, key: &str) -> Result<()> {
    let mut said = String::new();
    let named = until(&format!("/readyz names {key}"), || {
        said = readyz(admin);
        Ok(said.contains(key).then_some(()))
    });
    named.with_context(|| said)
}

fn nothing_went(gateway: &Gateway) -> Result<()> {
    let produced = gateway.metric("ollystack_kafka_produced_records_total", &[])?;
    let spilled = gateway.metric("ollystack_kafka_spilled_messages_total", &[])?;
    ensure!(produced == 0.0 && spilled > 0.0, "{produced} records went, {spilled} messages were spilled");
    Ok(())
}
