//! Damage to any file that an agent keeps: buffer, log offsets and notes, books, checkpoint, identity.
//!
//! The state that a kill left behind is damaged in one place, and the agent started on it: it is up in time, or names the file that keeps
//! it from starting; it does not panic, takes work, and its ledger closes over what is left.

use super::{OPEN_MAX, spoil};
use crate::otlp::{PROTOBUF, Signal};
use crate::power::{agent::work, copy_folder, in_memory};
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{AgentConfig, Binaries, until};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let (folder, world) = (in_memory()?, run.world("agent")?);
    let (state, image) = (folder.path().join("state"), folder.path().join("image"));
    let (mut agent, config) = work(&world, &state, &folder.path().join("written.log"), Vec::new())?;
    agent.process().kill()?;
    copy_folder(&state, &image)?;
    for Cycle { number, mut random } in run.cycles() {
        std::fs::remove_dir_all(&state)?;
        copy_folder(&image, &state)?;
        let mut files = Vec::new();
        list(&state, &mut files)?;
        files.sort();
        let file = &files[random.usize(..files.len())];
        let mut bytes = std::fs::read(file)?;
        let what = format!("{}: {}", file.strip_prefix(&state)?.display(), spoil(&mut bytes, &mut random));
        std::fs::write(file, bytes)?;
        run.progress(number, &what);
        if let Err(error) = start(&config, run.binaries(), file, &mut report) {
            report.violation(format!("{what}: {error:#}; {}", run.replay_of(number)));
        }
        report.add("damages", 1);
        let log = config.folder.join("agent.log");
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        report.must(!said.contains("panicked at"), || format!("{what}: the agent panicked: {said:.2000}"));
        std::fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))?;
    }
    Ok(report)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn start(config: &AgentConfig, binaries: &Binaries, damaged: &Path, report: &mut Report) -> Result<()> {
    let begin = Instant::now();
    let mut agent = config.spawn(binaries)?;
    if let Err(ended) = agent.wait_until_it_runs() {
        let name = damaged.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let said = format!("{ended:#}");
        ensure!(said.contains(&name), "it does not start, and does not name {name}: {said}");
        report.add("damages_that_a_person_must_see_to", 1);
        return Ok(());
    }
    let started = begin.elapsed();
    ensure!(started <= OPEN_MAX, "it took {started:?} to start");
    report.most("agent_started_in_ms_max", started.as_millis() as u64);
    let body = Signal::Logs.one("after");
    until("it takes work", || Ok((agent.post(Signal::Logs.path(), &[PROTOBUF], &body)?.status == 200).then_some(())))?;
    agent.ledger_closes()?;
    let status = agent.stop()?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}
