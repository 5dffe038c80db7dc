//! Errors of the disk under the whole agent and the whole gateway: calls chosen at random from all that they make.
//!
//! A program that works under a tracer meets one error in each of its threads that come so far. It goes on, or does not start and then
//! starts; what it accepted is in ClickHouse once, and its ledger closes.

use super::ERRORS;
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::strace::{self, Strace};
use crate::subject::Subject;
use anyhow::{Context, Result};
use fastrand::Rng;
use ollystack_tests::{World, until};
use std::path::{Path, PathBuf};

/// Requests while the way out is cut, and as many after.
const REQUESTS: u64 = 4;
/// What a program calls on files alone, and about how often one thread does so in this time.
const CALLS: [(&str, u32); 4] = [("pwrite64", 120), ("fsync", 12), ("fdatasync", 40), ("ftruncate", 3)];
/// Files of an agent that are written without a position, on the disk; `write` goes to sockets, too.
const REPLACED: [&str; 4] = ["windows.checkpoint.new", "agent-id.new", "logs/log-offsets.new", "buffer/reserve"];

/// In each cycle an agent and a gateway.
pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if let Some(why) = strace::impossible() {
        report.note(format!("skipped: {why}"));
        return Ok(report);
    }
    let folder = crate::power::in_memory()?;
    for Cycle { number, mut random } in run.cycles() {
        for name in ["agent", "gateway"] {
            let disk = folder.path().join(format!("{name}-{number}"));
            let strace = fault(name, &disk, &mut random);
            run.progress(number, &format!("{name}: {strace:?}"));
            let world = run.world(&format!("{name}_{number}"))?;
            let met = meet(&world, name, &disk, &strace, &mut report);
            met.with_context(|| format!("{name}, {strace:?}; {}\n{}", run.replay_of(number), world.logs()))?;
            report.add("programs", 1);
        }
    }
    Ok(report)
}

fn fault(name: &str, disk: &Path, random: &mut Rng) -> Strace {
    let (error, replaced) = (ERRORS[random.usize(..ERRORS.len())], random.u8(..4) == 0);
    let (call, most) = CALLS[random.usize(..CALLS.len())];
    let mut inject = |call: &str, most: u32| Some(format!("{call}:error={error}:when={}", random.u32(1..=most)));
    if name == "agent" && replaced {
        let paths: Vec<PathBuf> = REPLACED.iter().map(|file| disk.join(file)).collect();
        return Strace { inject: inject("write", 2), paths, ..Strace::default() };
    }
    Strace { inject: inject(call, most), ..Strace::default() }
}

fn meet(world: &World<'_>, name: &str, disk: &Path, strace: &Strace, report: &mut Report) -> Result<()> {
    let start = |through: Vec<String>| match name {
        "agent" => Subject::agent(world, disk, |mut config| {
            config.through = through;
            config.set("metrics.checkpoint_ms", "1000")
        }),
        _ => Subject::gateway(world, disk, |mut config| {
            config.through = through;
            config
        }),
    };
    let mut subject = match start(strace.words()) {
        Ok(subject) => subject,
        Err(_) => {
            // A disk that fails at the start is a reason not to start, once.
            report.add("did_not_start_with_the_fault", 1);
            start(Vec::new()).context("it does not start after the fault either")?
        }
    };
    subject.link.cut()?;
    send(&subject, report)?;
    subject.link.mend()?;
    send(&subject, report)?;
    until("work is accepted after the fault", || Ok((subject.send()?.status == 200).then_some(())))?;
    subject.judge(report)?;
    until("nothing is left on the disk", || Ok((subject.waiting()? == 0.0).then_some(())))
}

fn send(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    for _ in 0..REQUESTS {
        let refused = subject.send()?.status != 200;
        report.add("refused", u64::from(refused));
    }
    Ok(())
}
