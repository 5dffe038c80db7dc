//! Log files are read to their ends: every line once, through rotation by rename, over a restart of the agent and over a kill -9; a
//! file that vanishes costs nothing but itself, and the agent reads on.

use anyhow::{Context, Result, ensure};
use ollystack_tests::{AgentConfig, Outcome, World, until};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

const LINES: usize = 200;

pub(crate) fn rotation_and_restart_lose_and_double_no_line(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let folder = world.folder().join("logs");
    fs::create_dir(&folder)?;
    let mut agent = reading(world.agent(&gateway, "acme")?, &folder).start(world.binaries())?;
    let current = folder.join("app.log");
    let mut written = 0;
    for rotation in 0..3 {
        written += write(&current, written)?;
        fs::rename(&current, folder.join(format!("app.log.{rotation}")))?;
        // Into the new file at once: the agent may still be busy with the old one.
        written += write(&current, written)?;
    }
    arrives(world, written)?;

    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    written += write(&current, written)?;
    agent.restart()?;
    written += write(&current, written)?;
    arrives(world, written)?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

pub(crate) fn a_kill_loses_and_doubles_no_line(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let folder = world.folder().join("logs");
    fs::create_dir(&folder)?;
    let mut agent = reading(world.agent(&gateway, "acme")?, &folder).start(world.binaries())?;
    let current = folder.join("app.log");
    let mut written = 0;
    for _ in 0..5 {
        written += write(&current, written)?;
        agent.process().kill()?;
        written += write(&current, written)?;
        agent.restart()?;
        written += write(&current, written)?;
    }
    arrives(world, written)?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

pub(crate) fn a_file_that_vanishes_is_no_trouble_for_the_others(world: &World) -> Result<Outcome> {
    let gateway = world.gateway_with_tables()?;
    let folder = world.folder().join("logs");
    fs::create_dir(&folder)?;
    let mut agent = reading(world.agent(&gateway, "acme")?, &folder).start(world.binaries())?;
    let (doomed, lasting) = (folder.join("doomed.log"), folder.join("lasting.log"));
    let mut written = write(&doomed, 0)?;
    arrives(world, written)?;
    fs::remove_file(&doomed)?;
    written += write(&lasting, written)?;
    arrives(world, written)?;
    // The name comes back as another file: it is read from its beginning.
    written += write(&doomed, written)?;
    arrives(world, written)?;
    // The whole folder goes, and comes back.
    fs::remove_dir_all(&folder)?;
    fs::create_dir(&folder)?;
    written += write(&lasting, written)?;
    arrives(world, written)?;
    agent.process().must_run()?;
    let logs = agent.status()?["inputs"].as_array().and_then(|all| all.iter().find(|i| i["name"] == "logs").cloned());
    let logs = logs.context("/status does not know the input")?;
    ensure!(logs["phase"] == "running" && logs["restarts"] == 0, "the input did not just read on: {logs}");
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

fn reading(config: AgentConfig, folder: &Path) -> AgentConfig {
    let globs = format!("[{:?}]", folder.join("*.log*").display().to_string());
    let config = config.set("logs.enabled", "true").set("logs.include", &globs).set("logs.start_at", "\"beginning\"");
    config.set("logs.poll_interval_ms", "200")
}

/// Appends lines numbered from `first`; how many.
fn write(path: &Path, first: usize) -> Result<usize> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let lines: String = (first..first + LINES).map(|number| format!("line number {number}\n")).collect();
    file.write_all(lines.as_bytes())?;
    Ok(LINES)
}

/// Waits for that many different lines, then insists that none is there twice.
fn arrives(world: &World, lines: usize) -> Result<()> {
    all_are_there(world, lines)?;
    let rows = world.count("SELECT count() FROM {db}.logs_raw")?;
    ensure!(rows == lines as u64, "{rows} rows of {lines} lines");
    Ok(())
}

/// Waits for that many different lines.
fn all_are_there(world: &World, lines: usize) -> Result<()> {
    let mut last = 0;
    let all = until(&format!("{lines} lines are there"), || {
        last = world.count("SELECT uniqExact(Body) FROM {db}.logs_raw")?;
        Ok((last >= lines as u64).then_some(()))
    });
    all.with_context(|| format!("{last} different lines of {lines}"))
}
