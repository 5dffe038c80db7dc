//! Answers before their time: each sync of a few puts fails once, in turn, and at every answer what it stands on must be durable.
//!
//! States of lost power show such an answer only where chance hits it; the calls themselves show it each time. At the answer to a put the
//! names of its segment and of that one's WAL are synced, with all folders above; no rollback journal is there, which may come back and
//! take the commit with it; and the block of its ids is on disk. Invariant: the rules hold whichever call has failed before.

use super::work;
use crate::disk::Disk;
use crate::power::{in_memory, said};
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::strace::{self, Call, Event};
use crate::workload::{Plan, entry};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Steps of a workload: enough for a segment of each class.
const STEPS: u64 = 4;
/// Both copies of the header of `state` (agent/buffer/src/state.rs).
const HEADERS_BYTES: u64 = 8192;

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if let Some(why) = strace::impossible() {
        report.note(format!("skipped: {why}"));
        return Ok(report);
    }
    let folder = in_memory()?;
    for Cycle { number, mut random } in run.cycles() {
        let plan = Plan { seed: random.u64(..), steps: STEPS, first: 0, overfill: false };
        // Undisturbed first, which tells how many syncs there are.
        let mut by_thread = BTreeMap::new();
        for event in attempt(run, number, plan, None, folder.path(), &mut report)? {
            if let Call::Sync { .. } = event.call {
                *by_thread.entry(event.thread).or_insert(0_u64) += 1;
            }
        }
        // strace counts by thread.
        for nth in 1..=by_thread.into_values().max().unwrap_or(0) {
            attempt(run, number, plan, Some(nth), folder.path(), &mut report)?;
        }
    }
    Ok(report)
}

/// The workload, in which the `nth` sync of each thread fails: its calls.
fn attempt(
    run: &Run,
    cycle: u64,
    plan: Plan,
    nth: Option<u64>,
    folder: &Path,
    report: &mut Report,
) -> Result<Vec<Event>> {
    let what = nth.map_or("undisturbed".to_owned(), |nth| format!("with sync {nth} failed"));
    run.progress(cycle, &what);
    let place = folder.join("work");
    std::fs::create_dir_all(place.join("nothing"))?;
    let inject = nth.map(|nth| format!("fsync,fdatasync:error=EIO:when={nth}"));
    let (_, events) = work(plan, inject, &place).with_context(|| format!("{what}; {}", run.replay_of(cycle)))?;
    let disk = Disk::new(&place.join("nothing"), &place.join("disk"))?;
    let (answers, early) = judge(&events, disk, &place.join("disk/buffer"));
    report.add("answers", answers);
    report.add("syncs_failed", events.iter().filter(|event| failed(event)).count() as u64);
    for broken in early {
        report.violation(format!("{what}: {broken}; {}", run.replay_of(cycle)));
    }
    std::fs::remove_dir_all(&place)?;
    Ok(events)
}

fn failed(event: &Event) -> bool {
    matches!(event.call, Call::Sync { failed: true, .. })
}

/// How many entries were answered in these calls, and each whose answer came before what it stands on was durable.
pub(crate) fn judge(events: &[Event], mut disk: Disk, buffer: &Path) -> (u64, Vec<String>) {
    let (mut answers, mut early) = (0, Vec::new());
    for event in events {
        disk.apply(event);
        let text = String::from_utf8_lossy(said(event).unwrap_or_default());
        for line in text.lines().filter_map(|line| line.strip_prefix("stored ")) {
            let numbers: Vec<u64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
            for pair in numbers.chunks_exact(2) {
                answers += 1;
                early.extend(missing(&disk, buffer, pair[0], entry(pair[1]).class));
            }
        }
    }
    (answers, early)
}

/// What the answer that gave this id came too early for, if anything.
fn missing(disk: &Disk, buffer: &Path, id: u64, class: u8) -> Option<String> {
    if !disk.is_begun(&buffer.join("state"), HEADERS_BYTES) {
        return Some(format!("id {id} was given before the block that it is of was synced"));
    }
    let segment = segment_of(disk, buffer, id, class)?;
    let beside = |end: &str| buffer.join(format!("{segment}{end}"));
    if disk.is_there(&beside("-journal")) {
        return Some(format!("id {id} was answered on a rollback journal, that of {segment}"));
    }
    let unnamed = ["", "-wal"].into_iter().find(|end| !disk.is_named(&beside(end)))?;
    Some(format!("id {id} was answered before the name of {segment}{unnamed} was synced"))
}

/// The file it went to: named by the first id it may hold and its class.
fn segment_of(disk: &Disk, buffer: &Path, id: u64, class: u8) -> Option<String> {
    let names = disk.names_in(buffer).filter_map(|name| name.file_name()?.to_str());
    let first = |name: &&str| -> Option<u64> {
        let (first, rest) = name.split_once('-')?;
        let (of, end) = rest.split_once(".segment")?;
        let is_of_it = of == class.to_string() && end.parse::<u64>().is_ok();
        first.parse().ok().filter(|first| is_of_it && *first <= id)
    };
    names.filter(|name| first(name).is_some()).max_by_key(|name| first(name)).map(str::to_owned)
}
