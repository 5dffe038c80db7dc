//! Metrics over the end of the agent: a stop goes on exactly, a crash takes little and says how much, and nothing shows twice.

use crate::otlp::{PROTOBUF, Signal, gauge, now, total};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, AgentConfig, Outcome, World, until};
use std::os::unix::fs::MetadataExt;

const LEVEL: &str = "test.level";
const TOTAL: &str = "test.total";
/// Longer than any test: what closes so late only a stop brings out.
const NEVER_MS: &str = "600000";

fn with_endless_windows(config: AgentConfig) -> AgentConfig {
    let config = config.set("otlp.enabled", "true").set("metrics.constant_ms", "0");
    config.set("metrics.window_ms", NEVER_MS).set("metrics.first_window_ms", NEVER_MS)
}

fn send(agent: &Agent, body: &[u8]) -> Result<()> {
    let answer = agent.post(Signal::Metrics.path(), &[PROTOBUF], body)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

/// So many samples of a level that always moves.
fn send_levels(agent: &Agent, values: std::ops::Range<u64>) -> Result<()> {
    values.into_iter().try_for_each(|value| send(agent, &gauge("kept", LEVEL, value as f64)))
}

/// Samples of the level, and the increase of the total, that ClickHouse has.
fn arrived(world: &World) -> Result<(u64, u64)> {
    let one = |what: &str, name| {
        world.count(&format!("SELECT toUInt64(sum({what})) FROM {{db}}.metrics_raw WHERE MetricName = '{name}'"))
    };
    Ok((one("Count", LEVEL)?, one("Value", TOTAL)?))
}

/// Records of metrics that the agent says a crash took.
fn lost(agent: &Agent) -> Result<u64> {
    agent.account("metrics")?["dropped"]["crash"].as_u64().context("/status has no drops by crash")
}

/// Waits until a checkpoint that was begun after this call is on disk, and the agent has written down that nothing is at risk.
fn checkpointed(config: &AgentConfig) -> Result<()> {
    let file = config.folder.join("state/windows.checkpoint");
    for _ in 0..2 {
        // Each is a new file. One that appears may have been begun before; the one after it was not.
        let inode = || file.metadata().map_or(0, |metadata| metadata.ino());
        let before = inode();
        until("a checkpoint is written", || Ok((![0, before].contains(&inode())).then_some(())))?;
    }
    until("nothing is at risk", || Ok((config.samples_at_risk()? == 0).then_some(())))
}

/// Waits until the agent has written down that a crash would take this many samples.
fn at_risk(config: &AgentConfig, samples: u64) -> Result<()> {
    until("the samples are written down as at risk", || Ok((config.samples_at_risk()? >= samples).then_some(())))
}

pub(crate) fn a_stop_goes_on_where_levels_and_totals_were(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let mut agent = with_endless_windows(world.agent(&gateway, "acme")?).start(world.binaries())?;
    // A counter that began under the agent's eyes, and goes on growing while the agent is away.
    let start = now();
    for value in [10.0, 25.0] {
        send(&agent, &total("kept", TOTAL, start, value))?;
    }
    send_levels(&agent, 0..20)?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    agent.restart()?;
    for value in [40.0, 70.0] {
        send(&agent, &total("kept", TOTAL, start, value))?;
    }
    send_levels(&agent, 20..50)?;
    ensure!(lost(&agent)? == 0, "a clean stop lost {} samples", lost(&agent)?);
    agent.ledger_closes()?;
    agent.stop()?;
    // A gateway whose tables are not there yet has left some of it on the agent's disk.
    agent.restart()?;
    let mut last = (0, 0);
    let all = until("all is there, once", || {
        let arrived = arrived(world)?;
        last = arrived;
        ensure!(arrived.0 <= 50 && arrived.1 <= 70, "{arrived:?} is more than the 50 samples and the total of 70 sent");
        Ok((arrived == (50, 70)).then_some(()))
    });
    all.with_context(|| {
        format!(
            "{last:?} of 50 samples and a total of 70 are there: {:?}",
            world.sql("SELECT * FROM {db}.metrics_raw FORMAT Vertical")
        )
    })?;
    Ok(Outcome::Held)
}

pub(crate) fn a_kill_takes_what_came_after_the_checkpoint_and_no_total(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let config = with_endless_windows(world.agent(&gateway, "acme")?).set("metrics.checkpoint_ms", "100");
    let mut agent = config.start(world.binaries())?;
    let start = now();
    send(&agent, &total("kept", TOTAL, start, 10.0))?;
    send_levels(&agent, 0..20)?;
    checkpointed(&config)?;
    agent.process().kill()?;

    // From here on no checkpoint is written: what comes is lost with the next kill, and what was restored stays.
    let config = config.set("metrics.checkpoint_ms", NEVER_MS);
    let mut agent = config.start(world.binaries())?;
    ensure!(lost(&agent)? == 0, "everything was in the checkpoint, and still {} samples are lost", lost(&agent)?);
    send(&agent, &total("kept", TOTAL, start, 25.0))?;
    send_levels(&agent, 20..27)?;
    at_risk(&config, 8)?;
    agent.process().kill()?;

    agent.restart()?;
    ensure!(lost(&agent)? == 8, "8 samples came after the checkpoint, {} are counted as lost", lost(&agent)?);
    agent.ledger_closes()?;
    ensure!(agent.process().output().contains("ended without a stop"), "the loss is not in the log");
    send(&agent, &total("kept", TOTAL, start, 40.0))?;
    agent.stop()?;
    // A gateway whose tables are not there yet has left some of it on the agent's disk.
    agent.restart()?;
    until("what was in the checkpoint is there, once, and the whole total", || {
        let arrived = arrived(world)?;
        ensure!(arrived.0 <= 20 && arrived.1 <= 40, "{arrived:?} is more than was in the checkpoint");
        Ok((arrived == (20, 40)).then_some(()))
    })?;
    Ok(Outcome::Held)
}

pub(crate) fn kills_in_a_row_double_nothing_and_no_loss_is_silent(world: &World) -> Result<Outcome> {
    const KILLS: u64 = 4;
    const SAMPLES: u64 = 300;
    let gateway = world.gateway_with_tables()?;
    // Windows close all the time, and each kill falls somewhere else between closing, checkpoint and disk.
    let config = world.agent(&gateway, "acme")?.set("otlp.enabled", "true").set("metrics.checkpoint_ms", "300");
    let mut agent = config.start(world.binaries())?;
    let mut crashes = 0;
    for kill in 0..KILLS {
        send_levels(&agent, kill * SAMPLES..(kill + 1) * SAMPLES)?;
        agent.process().kill()?;
        agent.restart()?;
        crashes += lost(&agent)?;
    }
    // The last word, behind all others: once it is there, so is everything that will come.
    send(&agent, &total("kept", TOTAL, now(), 1.0))?;
    agent.stop()?;
    agent.restart()?;
    until("nothing is left to send", || {
        let metrics = agent.account("metrics")?;
        Ok((metrics["waiting"]["buffer"] == 0 && arrived(world)?.1 == 1).then_some(()))
    })?;
    let ((arrived, _), sent) = (arrived(world)?, KILLS * SAMPLES);
    ensure!(arrived <= sent, "{arrived} samples arrived of {sent}: some twice");
    // A point that was lost is one record and stands for many samples, and one that was on its way may have arrived all the same.
    ensure!(arrived == sent || crashes > 0, "{} samples are missing and nothing is counted as lost", sent - arrived);
    Ok(Outcome::Held)
}
