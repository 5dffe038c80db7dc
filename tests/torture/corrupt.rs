//! Damage to any file of a buffer: flipped bits, lost and garbled pages, cut heads and tails.
//!
//! Directories with everything in them (full segments, one that is written to, a WAL that was never checkpointed) are damaged in one
//! place and opened by the real buffer. It starts in time, gives nothing that was not put, loses one segment's
//! entries at most, and tells of exactly those that it lost.

pub(crate) mod agent;

use crate::power::{copy_folder, in_memory};
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::workload::{Losses, drain, entry, on_a_thread_of_its_own, options};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use ollystack_buffer::{Buffer, Loss};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries in a directory, before some are acked.
const ENTRIES: u64 = 160;
const PAGE: usize = 4096;
const OPEN_MAX: Duration = Duration::from_secs(5);

/// A directory and what it holds: number by id.
struct Image {
    folder: PathBuf,
    entries: BTreeMap<u64, u64>,
}

/// Where, and what was done there.
struct Damage {
    file: PathBuf,
    what: String,
}

/// What one opening showed.
#[derive(Default)]
struct Outcome {
    opened: Duration,
    lost: u64,
    quarantined: u64,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let folder = in_memory()?;
    let images = on_a_thread_of_its_own(images(folder.path()))?;
    let state = folder.path().join("state");
    for Cycle { number, mut random } in run.cycles() {
        let image = &images[random.usize(..images.len())];
        copy_folder(&image.folder, &state)?;
        let damage = damage(&state, &mut random)?;
        run.progress(number, &damage.what);
        let name = damage.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let judged = catch_unwind(AssertUnwindSafe(|| on_a_thread_of_its_own(judge(image, &state, &damage.file))));
        match judged.unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))) {
            Ok(outcome) => {
                report.add("damages", 1);
                report.add("damages_that_cost_nothing", u64::from(outcome.lost == 0));
                report.add("entries_lost_and_told", outcome.lost);
                report.add("segments_quarantined", outcome.quarantined);
                report.most("entries_lost_at_once_max", outcome.lost);
                report.most("opened_in_ms_max", outcome.opened.as_millis() as u64);
            }
            Err(error) => {
                report.violation(format!("{name}, {}: {error:#}; {}", damage.what, run.replay_of(number)));
            }
        }
        std::fs::remove_dir_all(&state)?;
    }
    Ok(report)
}

/// Closed; closed after acks; and as a kill leaves it.
async fn images(folder: &Path) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for (name, acked, killed) in [("closed", 0, false), ("acked", ENTRIES / 3, false), ("killed", 0, true)] {
        let work = folder.join("work");
        let (buffer, _) = Buffer::open(options(&work), Arc::new(Losses::default()))?;
        let mut entries = BTreeMap::new();
        for number in 0..ENTRIES {
            entries.insert(buffer.put(vec![entry(number)]).await?[0].0, number);
        }
        for _ in 0..acked {
            let stored = buffer.next().await?.context("an entry is missing")?;
            entries.remove(&stored.id.0);
            buffer.ack(vec![stored.id]).await?;
        }
        if !killed {
            buffer.close().await;
        }
        let image = Image { folder: folder.join(name), entries };
        copy_folder(&work, &image.folder)?;
        buffer.close().await;
        std::fs::remove_dir_all(&work)?;
        images.push(image);
    }
    Ok(images)
}

/// Damages one file in one place.
fn damage(state: &Path, random: &mut Rng) -> Result<Damage> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(state)?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    let ending = |file: &PathBuf| file.to_string_lossy().rsplit('.').next().unwrap_or_default().to_owned();
    let kind = match random.u8(..20) {
        0..11 => "segment1",
        11..16 => "segment1-wal",
        _ => "",
    };
    let matching: Vec<&PathBuf> = files.iter().filter(|file| kind.is_empty() || ending(file) == kind).collect();
    let file = matching.get(random.usize(..matching.len().max(1))).map_or(&files[0], |file| *file).clone();
    let mut bytes = std::fs::read(&file)?;
    let what = spoil(&mut bytes, random);
    std::fs::write(&file, bytes)?;
    Ok(Damage { file, what })
}

fn spoil(bytes: &mut Vec<u8>, random: &mut Rng) -> String {
    let length = bytes.len();
    if length == 0 {
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(100));
        return "100 bytes of junk in an empty file".to_owned();
    }
    // Every third hit goes to the pages that hold the structure.
    let at = if random.u8(..3) == 0 { random.usize(..length.min(2 * PAGE)) } else { random.usize(..length) };
    let page = at / PAGE * PAGE..(at / PAGE * PAGE + PAGE).min(length);
    match random.u8(..10) {
        0..3 => {
            bytes[at] ^= 1 << random.u8(..8);
            format!("a bit of byte {at} of {length} flipped")
        }
        3 => {
            for _ in 0..8 {
                let at = random.usize(..length);
                bytes[at] = random.u8(..);
            }
            "eight bytes anywhere garbled".to_owned()
        }
        4 => {
            bytes[page.clone()].fill(0);
            format!("{page:?} of {length} zeroed")
        }
        5 => {
            bytes[page.clone()].fill_with(|| random.u8(..));
            format!("{page:?} of {length} garbled")
        }
        6 => {
            bytes.truncate(at);
            format!("cut at {at} of {length}")
        }
        7 => {
            bytes.drain(..at);
            format!("the first {at} of {length} gone")
        }
        8 => {
            bytes[at..].fill(0);
            format!("zeroed from {at} of {length} on")
        }
        _ => {
            bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(PAGE));
            "a page of junk behind its end".to_owned()
        }
    }
}

async fn judge(image: &Image, state: &Path, damaged: &Path) -> Result<Outcome> {
    let losses = Arc::new(Losses::default());
    let begin = Instant::now();
    let (buffer, recovery) = Buffer::open(options(state), losses.clone()).context("it does not open")?;
    let opened = begin.elapsed();
    ensure!(opened <= OPEN_MAX, "opening took {opened:?}");
    let there: BTreeMap<u64, u64> = {
        let there = drain(&buffer).await?;
        let count = there.len();
        let there: BTreeMap<u64, u64> = there.into_iter().collect();
        ensure!(there.len() == count, "an id came twice");
        there
    };
    for (id, number) in &there {
        ensure!(image.entries.get(id) == Some(number), "id {id} holds {number}, which was not there");
    }
    let gone: BTreeMap<u64, u64> =
        image.entries.iter().filter(|(id, _)| !there.contains_key(id)).map(|(i, n)| (*i, *n)).collect();
    let told = losses.records(Loss::Corrupt);
    ensure!(told == gone.len() as u64, "{} entries are gone, {told} were told; {recovery:?}", gone.len());
    let left: u64 = buffer.stats().entries;
    ensure!(left == there.len() as u64, "{left} entries are counted, {} are there", there.len());
    let segments: BTreeSet<PathBuf> = gone.iter().filter_map(|(id, number)| segment(image, *id, *number)).collect();
    let own = damaged.file_name().unwrap_or_default().to_string_lossy().replace("-wal", "");
    ensure!(
        segments.iter().all(|segment| segment.file_name().is_some_and(|name| name.to_string_lossy() == own)),
        "damage to {own} cost entries of {segments:?}"
    );
    let fresh = buffer.put(vec![entry(ENTRIES)]).await.context("nothing can be put afterwards")?[0];
    ensure!(image.entries.keys().all(|id| *id < fresh.0), "id {} is given again", fresh.0);
    buffer.close().await;
    Ok(Outcome { opened, lost: told, quarantined: recovery.quarantined.len() as u64 })
}

/// The segment that held an entry: the last of its class that begins at or below its id.
fn segment(image: &Image, id: u64, number: u64) -> Option<PathBuf> {
    let class = entry(number).class;
    let files = std::fs::read_dir(&image.folder).ok()?.filter_map(|file| Some(file.ok()?.path()));
    let begins = |file: &PathBuf| -> Option<u64> {
        let (first, rest) = file.file_name()?.to_str()?.split_once('-')?;
        (rest == format!("{class}.segment1")).then(|| first.parse().ok())?
    };
    files.filter(|file| begins(file).is_some_and(|first| first <= id)).max_by_key(begins)
}
