//! A full disk is refused work, not a crash and not a loss: what was accepted arrives once the way is free again, what was not
//! is answered with a time to retry, and both programs live and count it.

use crate::otlp::{PROTOBUF, Signal, logs};
use anyhow::{Result, ensure};
use ollystack_tests::{Answer, Link, Outcome, SmallDisk, World, until};

/// Small enough to be full after some dozen requests, large enough to hold some.
const DISK_BYTES: u64 = 24 << 20;
/// Of text that does not compress.
const REQUEST_BYTES: usize = 512 << 10;
/// More than fit by far.
const REQUESTS_MAX: usize = 200;

pub(crate) fn of_the_gateway_is_refused_work_and_no_loss(world: &World) -> Result<Outcome> {
    let disk = SmallDisk { folder: world.folder().join("disk"), bytes: DISK_BYTES };
    std::fs::create_dir(&disk.folder)?;
    if let Some(reason) = disk.impossible() {
        return Ok(Outcome::Skipped(reason));
    }
    let link = world.link_to_store()?;
    let mut config = world.gateway_behind(&format!("http://127.0.0.1:{}", link.port()))?;
    config = config.set("clickhouse.connect_timeout_ms", "500").set("spill.dir", &format!("{:?}", disk.folder));
    config.disk = Some(disk);
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let key = gateway.new_key("acme")?;
    link.cut()?;
    let accepted = fill(|body| gateway.post(Signal::Logs.path(), Some(&key), &[PROTOBUF], body))?;
    gateway.process().must_run()?;
    link.mend()?;
    arrives(world, accepted)?;
    // Room again, and work again.
    until("the gateway accepts again", || {
        let answer =
            gateway.post(Signal::Logs.path(), Some(&key), &[PROTOBUF], &logs("again", ["again".to_owned()]))?;
        Ok((answer.status == 200).then_some(()))
    })?;
    Ok(Outcome::Held)
}

pub(crate) fn of_the_agent_is_refused_work_and_no_loss(world: &World) -> Result<Outcome> {
    let disk = SmallDisk { folder: world.folder().join("disk"), bytes: DISK_BYTES };
    std::fs::create_dir(&disk.folder)?;
    if let Some(reason) = disk.impossible() {
        return Ok(Outcome::Skipped(reason));
    }
    let gateway = world.gateway_with_tables()?;
    let key = gateway.new_key("acme")?;
    let link = Link::to_port(gateway.grpc_port())?;
    let mut config =
        world.agent_to(&format!("http://127.0.0.1:{}", link.port()), &key.secret)?.set("otlp.enabled", "true");
    config = config.set("state_dir", &format!("{:?}", disk.folder));
    config.disk = Some(disk);
    let mut agent = config.start(world.binaries())?;
    link.cut()?;
    let accepted = fill(|body| agent.post(Signal::Logs.path(), &[PROTOBUF], body))?;
    agent.process().must_run()?;
    link.mend()?;
    arrives(world, accepted)?;
    until("the agent accepts again", || {
        let answer = agent.post(Signal::Logs.path(), &[PROTOBUF], &logs("again", ["again".to_owned()]))?;
        Ok((answer.status == 200).then_some(()))
    })?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

/// Sends one record a request until one is refused; how many were accepted.
fn fill(send: impl Fn(&[u8]) -> Result<Answer>) -> Result<usize> {
    for request in 0..REQUESTS_MAX {
        let answer = send(&logs("accepted", [format!("{request} {}", noise(request as u64))]))?;
        if answer.status != 200 {
            ensure!(matches!(answer.status, 429 | 503), "a full disk was answered {} {}", answer.status, answer.text());
            ensure!(answer.header("retry-after").is_some(), "refused without a time to retry");
            ensure!(request > 0, "nothing was accepted at all: {}", answer.text());
            return Ok(request);
        }
    }
    anyhow::bail!("{REQUESTS_MAX} requests of {REQUEST_BYTES} bytes were accepted with {DISK_BYTES} bytes of disk")
}

/// Text that no compressor makes much smaller: splitmix64, in hexadecimal of 5 bits a letter.
fn noise(seed: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let letters = (0..REQUEST_BYTES / 12).flat_map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (0..12).map(move |letter| char::from(b"abcdefghijklmnopqrstuvwxyzABCDEF"[(z >> (5 * letter)) as usize & 31]))
    });
    letters.collect()
}

fn arrives(world: &World, accepted: usize) -> Result<()> {
    // The one that was refused may have got as far as the disk before the answer: unacknowledged but delivered is allowed,
    // an accepted one that is missing, or anything twice, is not.
    let numbers = "FROM {db}.logs_raw WHERE ServiceName = 'accepted'";
    until("every accepted record is there", || {
        let missing = format!(
            "SELECT {accepted} - uniqExactIf(Body, toUInt32(splitByChar(' ', Body)[1]) < {accepted}) {numbers}"
        );
        Ok((world.sql(&missing)? == "0").then_some(()))
    })?;
    let doubled = world.count(&format!("SELECT count() - uniqExact(Body) {numbers}"))?;
    ensure!(doubled == 0, "{doubled} records are there twice");
    Ok(())
}
