//! Loss of power under the whole agent: buffer, log offsets, notes, books and checkpoint, as its calls to the disk leave them.
//!
//! The agent works under a tracer with nowhere to send to: it follows a log file and answers OTLP requests. What it answered before the
//! cut, and every line of the file, must come out of an agent that is started on what a careless disk kept, once. And no file is
//! renamed before it is synced, or without its folder being synced after it.

use super::settled;
use crate::disk::Disk;
use crate::oracle::{Ids, Oracle, line};
use crate::otlp::{PROTOBUF, Signal, total};
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::strace::{self, Call, Event, Strace};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, AgentConfig, World, free_port, until};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// OTLP requests while the agent is recorded, and lines of the file beside each.
const REQUESTS: u64 = 12;
const LINES: u64 = 20;
const START_MAX: Duration = Duration::from_secs(5);
/// The service of a file of this name.
const SERVICE: &str = "written";

/// What the agent did.
struct Recording {
    events: Vec<Event>,
    /// The disk, as the calls name it.
    disk: PathBuf,
    logs: PathBuf,
    /// The state directory on it.
    state: PathBuf,
}

/// The books of one state: the same ids each time.
struct Books {
    otlp: Oracle,
    requests: Vec<Ids>,
    file: Oracle,
    lines: Ids,
}

impl Books {
    fn new() -> Books {
        let (otlp, file) = (Oracle::new("asked"), Oracle::new(SERVICE));
        let requests = (0..REQUESTS).map(|_| otlp.allot(Signal::Logs, LINES)).collect();
        let lines = file.allot(Signal::Logs, REQUESTS * LINES);
        Books { otlp, requests, file, lines }
    }
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if let Some(why) = strace::impossible() {
        report.note(format!("skipped: {why}"));
        return Ok(report);
    }
    let folder = super::in_memory()?;
    let recording = record(run, folder.path())?;
    for broken in renames_unsynced(&recording) {
        report.violation(broken);
    }
    report.figure("calls", recording.events.len());
    for Cycle { number, mut random } in run.cycles() {
        let cut = random.usize(..=recording.events.len());
        let state = folder.path().join(format!("state-{number}"));
        let (answered, how) = recording.lose_power(cut, &mut random, &state)?;
        run.progress(number, &how);
        let world = run.world(&number.to_string())?;
        let restarted = restart(&world, &recording, &state, answered, &mut report);
        restarted.with_context(|| format!("after {cut} calls, {how}; {}\n{}", run.replay_of(number), world.logs()))?;
        report.add("states", 1);
    }
    Ok(report)
}

/// With everything on that keeps something on disk.
fn configured(config: AgentConfig, state: &Path, logs: &Path) -> AgentConfig {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let config = config.set("state_dir", &quoted(state)).set("otlp.enabled", "true").set("logs.enabled", "true");
    let config = config.set("logs.include", &format!("[{}]", quoted(logs))).set("logs.start_at", "\"beginning\"");
    config.set("logs.poll_interval_ms", "100").set("metrics.checkpoint_ms", "1000")
}

fn record(run: &Run, folder: &Path) -> Result<Recording> {
    let (disk, logs, calls) = (folder.join("disk"), folder.join("written.log"), folder.join("calls"));
    std::fs::create_dir(&disk)?;
    let (world, state) = (run.world("recorded")?, disk.join("state"));
    let strace = Strace { record: Some(calls.clone()), ..Strace::default() };
    let status = work(&world, &state, &logs, strace.words())?.0.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(Recording { events: settled(&calls)?, disk, logs, state })
}

/// An agent with nowhere to send to that has something of everything in its state, and still runs.
pub(crate) fn work(world: &World<'_>, state: &Path, logs: &Path, through: Vec<String>) -> Result<(Agent, AgentConfig)> {
    let nowhere = format!("http://127.0.0.1:{}", free_port()?);
    let config = configured(world.agent_to(&nowhere, "olly_nobody")?, state, logs);
    let agent = AgentConfig { through, ..config.clone() }.start(world.binaries())?;
    let mut file = File::create(logs)?;
    let books = Books::new();
    for (number, ids) in (0..).zip(&books.requests) {
        let first = books.lines.first + number * LINES;
        let lines = (first..first + LINES).map(|id| line(id) + "\n");
        file.write_all(lines.collect::<String>().as_bytes())?;
        let metric =
            agent.post(Signal::Metrics.path(), &[PROTOBUF], &total("asked", "asked.total", 1, number as f64))?;
        ensure!(metric.status == 200, "{} {}", metric.status, metric.text());
        let answer = agent.post(Signal::Logs.path(), &[PROTOBUF], &books.otlp.body(*ids))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        if number == REQUESTS / 2 {
            until("offsets and a checkpoint are saved", || {
                let saved =
                    ["logs/log-offsets.json", "windows.checkpoint"].iter().all(|name| state.join(name).exists());
                Ok(saved.then_some(()))
            })?;
        }
    }
    Ok((agent, config))
}

impl Recording {
    /// A state of the disk after so many calls, and how many OTLP log requests were answered before.
    fn lose_power(&self, cut: usize, random: &mut fastrand::Rng, to: &Path) -> Result<(usize, String)> {
        let empty = tempfile::tempdir()?;
        let mut disk = Disk::new(empty.path(), &self.disk)?;
        self.events[..cut].iter().for_each(|event| disk.apply(event));
        // Metrics and logs in turn, each answered in protobuf; nothing else is.
        let answers = self.events[..cut].iter().filter(|event| is_answer(event)).count();
        Ok((answers / 2, disk.lose_power(random, to)?))
    }
}

fn is_answer(event: &Event) -> bool {
    let Call::Write { at: None, bytes, .. } = &event.call else { return false };
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text));
    bytes.starts_with(b"HTTP/1.1 200") && has(b"application/x-protobuf")
}

/// Every rename of the agent's, as far as it is not safe against a loss of power.
fn renames_unsynced(recording: &Recording) -> Vec<String> {
    let mut broken = Vec::new();
    let Ok(empty) = tempfile::tempdir() else { return broken };
    let Ok(mut disk) = Disk::new(empty.path(), &recording.disk) else { return broken };
    for (at, event) in recording.events.iter().enumerate() {
        if let Call::Rename { from, to } = &event.call {
            let name = to.strip_prefix(&recording.disk).unwrap_or(to).display().to_string();
            if !disk.is_synced(from) {
                broken.push(format!("{name}: renamed before it was synced"));
            }
            let rest = recording.events[at + 1..].iter().filter(|after| after.thread == event.thread);
            let mut next =
                rest.map(|after| &after.call).filter(|call| matches!(call, Call::Open { .. } | Call::Sync { .. }));
            let opened = matches!(next.next(), Some(Call::Open { path, .. }) if Some(path.as_path()) == to.parent());
            let synced = matches!(next.next(), Some(Call::Sync { failed: false, .. }));
            if !(opened && synced) {
                broken.push(format!("{name}: its folder was not synced after it was renamed"));
            }
        }
        disk.apply(event);
    }
    broken
}

/// Starts an agent on the state, with a gateway, and asks ClickHouse.
fn restart(world: &World, recording: &Recording, state: &Path, answered: usize, report: &mut Report) -> Result<()> {
    let mut gateway = world.gateway()?.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let directory = state.join(recording.state.strip_prefix(&recording.disk)?);
    let config = configured(world.agent(&gateway, "acme")?, &directory, &recording.logs);
    let begin = std::time::Instant::now();
    let mut agent = config.start(world.binaries())?;
    let started = begin.elapsed();
    report.must(started <= START_MAX, || format!("an agent took {started:?} to start"));
    report.most("agent_started_in_ms_max", started.as_millis() as u64);
    let books = Books::new();
    books.requests[..answered].iter().for_each(|ids| books.otlp.acknowledged(*ids));
    books.file.acknowledged(books.lines);
    let fresh = books.otlp.allot(Signal::Logs, 1);
    until("the agent takes something new", || {
        Ok((agent.post(Signal::Logs.path(), &[PROTOBUF], &books.otlp.body(fresh))?.status == 200).then_some(()))
    })?;
    books.otlp.acknowledged(fresh);
    books.otlp.judge(world, report)?;
    books.file.judge(world, report)?;
    agent.ledger_closes()?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    Ok(())
}
