//! Errors of the disk: every write and every sync of a working buffer fails once, in turn, as EIO and as ENOSPC.
//!
//! What fails is not acknowledged, what was acknowledged is there, also after a loss of power (a page whose sync failed counts as
//! clean, and no later sync brings it to the disk), the process lives, and what comes after the fault works.

pub(crate) mod answers;
pub(crate) mod programs;

use crate::disk::Disk;
use crate::power::{in_memory, said, settled};
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::strace::{self, Strace};
use crate::workload::{self, Books, Found, Plan};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::path::Path;

/// Steps of the workload in which one call fails.
const STEPS: u64 = 25;
/// States of lost power that are made behind each fault, beside the directory as it is.
const STATES: u64 = 4;
/// What can fail. `write` is that of the reserve; the others go to segments and state.
const CALLS: &[&str] = &["pwrite64", "write", "ftruncate", "fsync", "fdatasync"];
const ERRORS: &[&str] = &["EIO", "ENOSPC"];

/// One call that fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: &'static str,
    error: &'static str,
    /// From 1.
    nth: usize,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if let Some(why) = strace::impossible() {
        report.note(format!("skipped: {why}"));
        return Ok(report);
    }
    let folder = in_memory()?;
    let (mut round, mut begin) = (0, 0);
    let mut faults = faults(run, round, folder.path())?;
    for Cycle { number, mut random } in run.cycles() {
        // Enough cycles: each in turn, then those of another workload. Fewer: some, evenly.
        while number >= begin + faults.len() as u64 {
            begin += faults.len() as u64;
            round += 1;
            faults = self::faults(run, round, folder.path())?;
        }
        let all = faults.len() as u64;
        let at = if number < run.of() && run.of() < all { number * all / run.of() } else { number - begin };
        let fault = faults[at as usize];
        run.progress(number, &format!("{fault:?}"));
        let place = folder.path().join("work");
        if let Err(error) = meet(run, round, fault, &place, &mut random, &mut report) {
            report.violation(format!("{fault:?}: {error:#}; {}", run.replay_of(number)));
        }
        std::fs::remove_dir_all(&place)?;
    }
    Ok(report)
}

fn plan(run: &Run, round: u64) -> Plan {
    Plan { seed: run.seed().wrapping_add(round), steps: STEPS, first: 0, overfill: false }
}

/// Every call of an undisturbed run that can fail, with every error.
fn faults(run: &Run, round: u64, folder: &Path) -> Result<Vec<Fault>> {
    let place = folder.join("undisturbed");
    std::fs::create_dir(&place)?;
    let text = work(plan(run, round), None, &place)?.0;
    let mut faults = Vec::new();
    for call in CALLS {
        // strace counts by thread: the nth call of any thread that comes so far fails.
        let mut by_thread: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        for (thread, said) in text.lines().filter_map(|line| line.split_once(' ')) {
            if said.trim_start().strip_prefix(call).is_some_and(|rest| rest.starts_with('(')) {
                by_thread.entry(thread).or_default().push(*call != "write" || is_reserve(said));
            }
        }
        let most = by_thread.values().map(Vec::len).max().unwrap_or(0);
        let ours = (1..=most).filter(|nth| by_thread.values().filter_map(|calls| calls.get(nth - 1)).all(|ours| *ours));
        faults.extend(ours.flat_map(|nth| ERRORS.iter().map(move |error| Fault { call, error, nth })));
    }
    std::fs::remove_dir_all(&place)?;
    ensure!(!faults.is_empty(), "the workload writes nothing");
    Ok(faults)
}

/// The reserve is the one file that is written without a position, all zeros; other such writes wake a thread.
fn is_reserve(line: &str) -> bool {
    line.contains("\"\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00")
}

/// Runs the workload; what strace wrote, and the books.
fn work(plan: Plan, inject: Option<String>, place: &Path) -> Result<(String, Vec<strace::Event>)> {
    let record = place.join("calls");
    let command = workload::command(&place.join("disk/buffer"), plan)?;
    std::fs::create_dir(place.join("disk"))?;
    let output = Strace { record: Some(record.clone()), inject, ..Strace::default() }.around(command).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the process ended with {}: {error}", output.status);
    let events = settled(&record)?;
    Ok((std::fs::read_to_string(&record)?, events))
}

fn meet(run: &Run, round: u64, fault: Fault, place: &Path, random: &mut Rng, report: &mut Report) -> Result<()> {
    std::fs::create_dir_all(place.join("nothing"))?;
    let inject = format!("{}:error={}:when={}", fault.call, fault.error, fault.nth);
    let (text, events) = work(plan(run, round), Some(inject), place)?;
    let Some(failed) = text.lines().position(|line| line.contains("(INJECTED)")) else {
        // Timing: a call of the undisturbed run that did not come.
        report.add("faults_not_met", 1);
        return Ok(());
    };
    report.add("faults", 1);
    let fresh = || Disk::new(&place.join("nothing"), &place.join("disk"));
    let (_, early) = answers::judge(&events, fresh()?, &place.join("disk/buffer"));
    ensure!(early.is_empty(), "{early:?}");
    // As many events at most had come back when the call failed.
    let failed = failed.min(events.len());
    let cuts = (1..STATES).map(|_| random.usize(failed..=events.len())).chain([events.len()]);
    let mut cuts: Vec<usize> = cuts.collect();
    cuts.sort_unstable();
    let (mut disk, mut books, mut done) = (fresh()?, Books::default(), 0);
    for cut in cuts {
        for event in &events[done..cut] {
            disk.apply(event);
            said(event).into_iter().for_each(|text| books.hear(text));
        }
        done = cut;
        let state = place.join("state");
        let how = disk.lose_power(random, &state)?;
        let (found, _) =
            books.judge(&state.join("buffer")).with_context(|| format!("power lost after {cut}: {how}"))?;
        add(report, found);
        report.add("states_of_lost_power", 1);
        std::fs::remove_dir_all(&state)?;
    }
    ensure!(books.damaged == 0, "{} records were told to be damaged", books.damaged);
    let (found, _) = books.judge(&place.join("disk/buffer")).context("the directory as it is")?;
    ensure!(found.damaged == 0, "{} records are damaged", found.damaged);
    add(report, found);
    report.add("acknowledged", books.acknowledged);
    report.add("refused", books.refused);
    Ok(())
}

fn add(report: &mut Report, found: Found) {
    report.add("delivered_without_acknowledgement_or_again", found.beyond);
    report.most("opened_in_ms_max", found.opened.as_millis() as u64);
}
