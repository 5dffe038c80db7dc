//! With Kafka between gateway and ClickHouse each record is in the tables once, whoever is killed: consumer, gateway, broker; also where the
//! answer to an agent is lost, and where ClickHouse took a block and its answer is lost. Tenants stay apart, and the lag is what is missing.

use crate::numbered::{ALL, are_there_once, arrives, send, send_to_gateway};
use crate::otlp::{PROTOBUF, Signal};
use anyhow::{Result, ensure};
use ollystack_tests::{BrokerConfig, Consumer, GatewayConfig, Key, Link, Outcome, Topics, World, until};

pub(crate) fn keeps_each_record_once_whoever_is_killed(world: &World) -> Result<Outcome> {
    if let Some(missing) = BrokerConfig::missing() {
        return Ok(Outcome::Skipped(missing));
    }
    let mut broker = BrokerConfig::new(&world.folder().join("kafka"), Topics::ByThemselves(2))?.start()?;
    let brokers = format!("{:?}", broker.address().to_string());
    let with_kafka = |config: GatewayConfig| {
        let config = config.set("kafka.brokers", &brokers).set("kafka.session_timeout_ms", "6000");
        // A repetition waits for the attempt before it.
        config.set("batch.begin_within_ms", "2000").set("kafka.produce_timeout_ms", "2000")
    };
    let mut gateway = with_kafka(world.gateway()?).set("sink", "\"kafka\"").start(world.binaries())?;
    let to_store = world.link_to_store()?;
    let consumer = |name: &str| -> Result<Consumer> {
        let mut config = world.gateway_behind(&format!("http://127.0.0.1:{}", to_store.port()))?;
        config.folder = world.folder().join(name);
        Consumer::spawn(&with_kafka(config), world.binaries())
    };
    // From here on the topics are there.
    gateway.wait_until_the_schema_is_there()?;
    let mut first = consumer("first consumer")?;
    let [acme, other] = [gateway.new_key("acme")?, gateway.new_key("other")?];
    let to_gateway = Link::to_port(gateway.grpc_port())?;
    let agent = world.agent_to(&format!("http://127.0.0.1:{}", to_gateway.port()), &acme.secret)?;
    let agent = agent.set("otlp.enabled", "true").start(world.binaries())?;

    first.wait_until_it_is_ready()?;
    send_to_gateway(&gateway, &acme, "before")?;
    send_to_gateway(&gateway, &other, "others")?;
    send(&agent, "agent")?;
    for signal in Signal::ALL {
        one(&gateway, &acme, signal)?;
    }
    for service in ["before", "others", "agent"] {
        arrives(world, service)?;
    }

    // What is in the topics and not in the tables is the lag: a message a request and service.
    let consumed = || first.metric("ollystack_kafka_consumed_records_total", &[]);
    until("all is consumed", || Ok((consumed()? == (3 * ALL + 3) as f64).then_some(())))?;
    to_store.cut()?;
    send_to_gateway(&gateway, &acme, "lagging")?;
    let lag = || first.metric("ollystack_kafka_consumer_lag", &["topic=\"ollystack-logs\""]);
    until("the lag is what was sent", || Ok((lag()? == 10.0).then_some(())))?;
    // ClickHouse takes blocks of which the consumer hears nothing; killed then, it leaves the rest to another one.
    to_store.swallow_answers(1);
    to_store.mend()?;
    until("an answer was swallowed", || Ok((to_store.swallowed() > 0).then_some(())))?;
    first.process().kill()?;
    let mut second = consumer("second consumer")?;
    arrives(world, "lagging")?;
    second.wait_until_it_is_ready()?;
    until("nothing lags behind", || Ok((second.metric("ollystack_kafka_consumer_lag", &[])? == 0.0).then_some(())))?;

    // The gateway produces, and dies before the agent hears of it; the copy finds the first one in the tables.
    to_gateway.swallow_answers(usize::MAX);
    send(&agent, "unanswered")?;
    let written = || world.count("SELECT count() FROM {db}.logs_raw WHERE ServiceName = 'unanswered'");
    until("the gateway produced what it cannot answer", || Ok((written()? > 0).then_some(())))?;
    gateway.process().kill()?;
    to_gateway.swallow_answers(0);
    gateway.restart()?;
    send(&agent, "answered")?;
    arrives(world, "unanswered")?;
    arrives(world, "answered")?;
    let all_is_sent = || {
        until("nothing waits on the agent's disk", || {
            Ok((agent.account("logs")?["waiting"]["buffer"] == 0).then_some(()))
        })
    };
    all_is_sent()?;
    until("the copies are known", || {
        Ok((second.metric("ollystack_ledger_records_total", &["outcome=\"repeated\""])? > 0.0).then_some(()))
    })?;

    // The broker is away: what senders may not have goes to the disk, agents keep theirs. A consumer dies meanwhile.
    broker.kill()?;
    send_to_gateway(&gateway, &acme, "spilled")?;
    send(&agent, "kept")?;
    ensure!(gateway.metric("ollystack_kafka_spilled_messages_total", &[])? > 0.0, "nothing was spilled");
    ensure!(agent.account("logs")?["waiting"]["buffer"].as_u64() > Some(0), "nothing waits on the agent's disk");
    second.process().kill()?;
    broker.restart()?;
    let third = consumer("third consumer")?;
    for service in ["spilled", "kept"] {
        arrives(world, service)?;
    }
    all_is_sent()?;
    until("nothing lags behind", || Ok((third.metric("ollystack_kafka_consumer_lag", &[])? == 0.0).then_some(())))?;

    let services = ["before", "others", "agent", "lagging", "unanswered", "answered", "spilled", "kept"];
    are_there_once(world, &services)?;
    let expected = services.len() as u64 * ALL;
    let mut errors = 0;
    // Views are written after their table.
    let counted = until("each error is counted in the view", || {
        errors = world.count("SELECT sum(Errors) FROM {db}.error_aggregates")?;
        Ok((errors >= expected).then_some(()))
    });
    ensure!(counted.is_ok() && errors == expected, "error_aggregates counts {errors} errors, sent were {expected}");
    for signal in Signal::ALL {
        let rows = world.count(&format!("SELECT count() FROM {{db}}.{} WHERE ServiceName = 'one'", signal.table()))?;
        ensure!(rows == 1, "{rows} rows of one record in {}", signal.table());
    }
    let strangers =
        world.count("SELECT count() FROM {db}.logs_raw WHERE (TenantId = 'other') != (ServiceName = 'others')")?;
    ensure!(strangers == 0, "{strangers} rows are another tenant's");
    let status = gateway.status()?;
    for signal in status["signals"].as_array().into_iter().flatten() {
        ensure!(signal["balance"] == 0, "the gateway's ledger does not close: {signal}");
    }
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

fn one(gateway: &ollystack_tests::Gateway, key: &Key, signal: Signal) -> Result<()> {
    let answer = gateway.post(signal.path(), Some(key), &[PROTOBUF], &signal.one("one"))?;
    ensure!(answer.status == 200, "{signal:?}: {} {}", answer.status, answer.text());
    Ok(())
}
