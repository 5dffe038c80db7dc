//! Three brokers of Kafka between gateway and ClickHouse, killed and stopped one after the other, under load: what was acknowledged is in
//! the tables once, and in the views.
//!
//! Each cycle takes away the broker that leads a partition, or the one that coordinates the consumers, so that others are elected: by
//! SIGKILL, or by SIGSTOP for longer than the controller waits for it, and then it goes on as if nothing had been. Once a consumer is killed at
//! the same time. Records must arrive while the broker is away; it comes back, and the next cycle begins when all replicas are in sync.

use crate::kill::{drained, views_agree};
use crate::oracle::Oracle;
use crate::otlp::{PROTOBUF, Signal};
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{
    BrokerConfig, Cluster, Consumer, Gateway, GatewayConfig, Key, Topics, World, post, resident_bytes, until,
};
use rustix::process::Signal as UnixSignal;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Records of a request.
const RECORDS: u64 = if cfg!(debug_assertions) { 50 } else { 500 };
/// Between two requests of a sender.
const PAUSE: Duration = Duration::from_millis(50);
/// Of each topic.
const PARTITIONS: u32 = 3;
/// Senders of each kind, each a service: so that every partition has some.
const SERVICES: usize = 3;
/// Load goes on for so long at most before a fault, and before its end.
const LOAD_MS: u64 = 1_500;
const TOPICS: [&str; 2] = ["ollystack-logs", "ollystack-traces"];
/// Which broker speaks for the consumers' group is the leader of its one partition.
const OFFSETS: &str = "__consumer_offsets";

/// What a cycle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LeaderKilled,
    LeaderStopped,
    CoordinatorKilled,
    CoordinatorStopped,
    LeaderAndConsumerKilled,
}

const FAULTS: [Fault; 5] = [
    Fault::LeaderKilled,
    Fault::LeaderStopped,
    Fault::CoordinatorKilled,
    Fault::CoordinatorStopped,
    Fault::LeaderAndConsumerKilled,
];

/// A way through Kafka.
struct Site<'a> {
    world: &'a World<'a>,
    cluster: Cluster,
    gateway: Gateway,
    consumers: Vec<(GatewayConfig, Consumer)>,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if let Some(missing) = BrokerConfig::missing() {
        report.note(format!("skipped: {missing}"));
        return Ok(report);
    }
    let world = run.world("kafka")?;
    torture(run, &world, &mut report).with_context(|| world.logs())?;
    Ok(report)
}

fn torture(run: &Run, world: &World<'_>, report: &mut Report) -> Result<()> {
    let mut site = Site::start(world)?;
    let key = site.gateway.new_key("acme")?;
    let mut agent = world.agent(&site.gateway, "acme")?.set("otlp.enabled", "true").start(world.binaries())?;
    let oracles = |kind: &str| (0..SERVICES).map(|n| Oracle::new(&format!("{kind}-{n}"))).collect::<Vec<_>>();
    let (direct, through, stop) = (oracles("direct"), oracles("agent"), AtomicBool::new(false));
    let ways = [(&direct, site.gateway.http(), Some(&key)), (&through, agent.http(), None)];
    let tortured = std::thread::scope(|scope| {
        for (oracles, url, key) in &ways {
            for oracle in oracles.iter() {
                let stop = &stop;
                scope.spawn(move || send(oracle, url, *key, stop));
            }
        }
        let tortured: Result<()> = site.begin().and_then(|()| {
            run.cycles().try_for_each(|cycle| {
                let number = cycle.number;
                run.progress(number, "brokers");
                // By the seed, so that the gate's one cycle is another one each time.
                let fault = FAULTS[(run.seed().wrapping_add(number) % FAULTS.len() as u64) as usize];
                site.cycle(cycle, fault, report).with_context(|| run.replay_of(number))
            })
        });
        stop.store(true, Relaxed);
        tortured
    });
    tortured?;
    drained(&agent)?;
    until("the gateway has produced what it took", || {
        let status = site.gateway.status()?;
        let signals = status["signals"].as_array().context("/status has no ledger")?;
        let waiting = |place: &str| signals.iter().all(|account| account["waiting"][place] == 0);
        Ok((waiting("memory") && waiting("spill")).then_some(()))
    })?;
    for oracle in direct.iter().chain(&through) {
        oracle.judge(world, report)?;
    }
    views_agree(world, report)?;
    agent.ledger_closes()?;
    site.end(report)?;
    ensure!(agent.stop()?.success(), "the agent did not stop in order");
    Ok(())
}

/// Requests of logs and of spans by turns, one after the other, until told to stop.
fn send(oracle: &Oracle, url: &str, key: Option<&Key>, stop: &AtomicBool) {
    let authorization = key.map(|key| format!("Bearer {}", key.secret));
    let mut headers = vec![PROTOBUF];
    headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
    for signal in [Signal::Logs, Signal::Traces].into_iter().cycle() {
        if stop.load(Relaxed) {
            return;
        }
        let ids = oracle.allot(signal, RECORDS);
        if post(&format!("{url}{}", signal.path()), &headers, &oracle.body(ids))
            .is_ok_and(|answer| answer.status == 200)
        {
            oracle.acknowledged(ids);
        }
        std::thread::sleep(PAUSE);
    }
}

impl<'a> Site<'a> {
    /// Three brokers, a gateway and two consumers that are about to share the partitions.
    fn start(world: &'a World<'a>) -> Result<Site<'a>> {
        let cluster = Cluster::start(&world.folder().join("brokers"), Topics::ByThemselves(PARTITIONS))?;
        let brokers = format!("{:?}", cluster.addresses());
        let with_kafka = |config: GatewayConfig| {
            let config = config.set("kafka.brokers", &brokers).set("kafka.session_timeout_ms", "6000");
            // Shorter than an election: some messages are given up, and come again as copies.
            config.set("batch.begin_within_ms", "2000").set("kafka.produce_timeout_ms", "2000")
        };
        let mut gateway = with_kafka(world.gateway()?).set("sink", "\"kafka\"").start(world.binaries())?;
        gateway.wait_until_the_schema_is_there()?;
        let consumers = ["first consumer", "second consumer"].map(|name| -> Result<_> {
            let mut config = with_kafka(world.gateway()?);
            config.folder = world.folder().join(name);
            let consumer = Consumer::spawn(&config, world.binaries())?;
            Ok((config, consumer))
        });
        Ok(Site { world, cluster, gateway, consumers: consumers.into_iter().collect::<Result<_>>()? })
    }

    /// Waits until all of it works.
    fn begin(&mut self) -> Result<()> {
        self.consumers.iter_mut().try_for_each(|(_, consumer)| consumer.wait_until_it_is_ready())?;
        self.rows_arrive()?;
        self.cluster.wait_until_all_are_in_sync(&[TOPICS[0], TOPICS[1], OFFSETS])
    }

    fn cycle(&mut self, mut cycle: Cycle, fault: Fault, report: &mut Report) -> Result<()> {
        let (topic, partition) = match fault {
            Fault::CoordinatorKilled | Fault::CoordinatorStopped => (OFFSETS, 0),
            _ => (TOPICS[cycle.random.usize(..TOPICS.len())], cycle.random.i32(0..PARTITIONS as i32)),
        };
        std::thread::sleep(Duration::from_millis(cycle.random.u64(..LOAD_MS)));
        let victim = self.cluster.leader(topic, partition, None)?;
        let begin = Instant::now();
        let stopped = matches!(fault, Fault::LeaderStopped | Fault::CoordinatorStopped);
        match stopped {
            true => self.cluster.broker(victim).process().signal(UnixSignal::STOP)?,
            false => self.cluster.broker(victim).kill()?,
        }
        if fault == Fault::LeaderAndConsumerKilled {
            let (config, consumer) = &mut self.consumers[cycle.random.usize(..2)];
            consumer.process().kill()?;
            *consumer = Consumer::spawn(config, self.world.binaries())?;
        }
        self.cluster.leader(topic, partition, Some(victim))?;
        report.most("election_ms_max", begin.elapsed().as_millis() as u64);
        self.rows_arrive().with_context(|| format!("{fault:?}, without broker {}", victim + 1))?;
        let again = if stopped { "rows_after_a_stop_ms_max" } else { "rows_after_a_kill_ms_max" };
        report.most(again, begin.elapsed().as_millis() as u64);
        std::thread::sleep(Duration::from_millis(cycle.random.u64(..LOAD_MS)));
        match stopped {
            true => self.cluster.broker(victim).process().signal(UnixSignal::CONT)?,
            false => self.cluster.broker(victim).restart()?,
        }
        self.cluster.wait_until_all_are_in_sync(&[TOPICS[0], TOPICS[1], OFFSETS])?;
        report.add(if stopped { "brokers_stopped" } else { "brokers_killed" }, 1);
        Ok(())
    }

    /// Waits until more of both signals is in the tables, that was sent after now.
    fn rows_arrive(&self) -> Result<()> {
        let now = self.world.sql("SELECT toUnixTimestamp(now() + 1)")?;
        until("rows arrive", || {
            let tables = ["logs_raw", "traces_raw"].into_iter();
            let newer = tables.map(|table| {
                self.world.count(&format!("SELECT count() FROM {{db}}.{table} WHERE IngestedAt > toDateTime({now})"))
            });
            Ok(newer.collect::<Result<Vec<_>>>()?.into_iter().all(|rows| rows > 0).then_some(()))
        })
    }

    /// Nothing lags behind, nothing was missed, and the gateway's ledger closes.
    fn end(mut self, report: &mut Report) -> Result<()> {
        until("nothing lags behind", || {
            let lags = self.consumers.iter().map(|(_, consumer)| consumer.metric("ollystack_kafka_consumer_lag", &[]));
            Ok(lags.collect::<Result<Vec<_>>>()?.into_iter().all(|lag| lag == 0.0).then_some(()))
        })?;
        for (_, consumer) in &self.consumers {
            let missed = consumer.metric("ollystack_kafka_missed_messages_total", &[])?;
            report.must(missed == 0.0, || format!("{missed} messages were missed"));
            let repeated = consumer.metric("ollystack_ledger_records_total", &["outcome=\"repeated\""])?;
            report.add("copies_left_out_records", repeated as u64);
        }
        let spilled = self.gateway.metric("ollystack_kafka_spilled_messages_total", &[])?;
        report.add("spilled_messages", spilled as u64);
        let status = self.gateway.status()?;
        for signal in status["signals"].as_array().into_iter().flatten() {
            report.must(signal["balance"] == 0, || format!("the gateway's ledger does not close: {signal}"));
        }
        let brokers = (0..3).map(|number| resident_bytes(self.cluster.broker(number).process().id()));
        let bytes: u64 = brokers.collect::<Result<Vec<_>>>()?.into_iter().sum();
        report.figure("brokers_resident_mb", bytes / 1_000_000);
        ensure!(self.gateway.stop()?.success(), "the gateway did not stop in order");
        // All is told: nobody has to wait until each has taken leave of its group.
        self.consumers.iter_mut().try_for_each(|(_, consumer)| consumer.process().kill())
    }
}
