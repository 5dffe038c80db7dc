//! Loss of power: everything that a buffer asked of the disk is on record, and whatever of it a careless disk may keep is made and
//! opened again.
//!
//! Killing a process cannot show a sync that is missing, as the page cache outlives it. So the calls of a working process are
//! recorded, cut anywhere, and turned into states ([`Disk`]). Every other recording begins on such a state.

pub(crate) mod agent;

use crate::disk::Disk;
use crate::io::answers;
use crate::report::Report;
use crate::run::{Cycle, Run};
use crate::strace::{self, Call, Event, Strace};
use crate::workload::{self, Books, Plan};
use anyhow::{Context, Result, ensure};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// States made from one recording.
const STATES: u64 = 250;
/// Steps of a recorded workload.
const STEPS: u64 = 60;

/// What a process asked of the disk, and from where it started.
struct Recording {
    events: Vec<Event>,
    /// The directory as it was before, for [`Disk::new`]; its path in the calls.
    before: PathBuf,
    directory: PathBuf,
    books: Books,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    if let Some(why) = strace::impossible() {
        report.note(format!("skipped: {why}"));
        return Ok(report);
    }
    strace::check()?;
    let folder = in_memory()?;
    let cycles: Vec<Cycle> = run.cycles().collect();
    let mut former: Option<(u64, Recording)> = None;
    for states in cycles.chunk_by(|a, b| a.number / STATES == b.number / STATES) {
        let number = states[0].number / STATES;
        let recording = record(run, number, former.take(), folder.path())?;
        replay(run, &recording, states, folder.path(), &mut report)?;
        former = Some((number, recording));
    }
    Ok(report)
}

/// A folder in memory where there is one: what a sync is worth is not asked of this disk.
pub(crate) fn in_memory() -> Result<tempfile::TempDir> {
    let named = || tempfile::Builder::new().prefix("ollystack-torture-").to_owned();
    named().tempdir_in("/dev/shm").or_else(|_| named().tempdir()).context("no temporary folder")
}

/// Recording `number`: even ones begin with nothing, odd ones on a state that the loss of power left of the one before.
fn record(run: &Run, number: u64, former: Option<(u64, Recording)>, folder: &Path) -> Result<Recording> {
    let place = |what: &str| folder.join(format!("{what}-{number}"));
    let (before, mut books) = (place("before"), Books::default());
    std::fs::create_dir(&before)?;
    if number % 2 == 1 {
        let former = match former {
            Some((before, recording)) if before + 1 == number => recording,
            _ => record(run, number - 1, None, folder)?,
        };
        let mut random = fastrand::Rng::with_seed(run.seed() ^ number);
        let (disk, heard) = former.until(random.usize(..former.events.len()))?;
        disk.lose_power(&mut random, &before)?;
        let copy = place("judged");
        copy_folder(&before, &copy)?;
        let (_, there) = heard.judge(&copy.join("buffer")).context("the state that a recording was to begin on")?;
        std::fs::remove_dir_all(&copy)?;
        books = heard.going_on(&there);
    }
    let directory = place("work");
    copy_folder(&before, &directory)?;
    let plan =
        Plan { seed: run.seed().wrapping_add(number), steps: STEPS, first: books.next(), overfill: number % 4 >= 2 };
    let record = place("calls");
    let command = workload::command(&directory.join("buffer"), plan)?;
    let output = Strace { record: Some(record.clone()), ..Strace::default() }.around(command).output()?;
    ensure!(output.status.success(), "the workload: {}", String::from_utf8_lossy(&output.stderr));
    let events = settled(&record)?;
    std::fs::remove_dir_all(&directory)?;
    std::fs::remove_file(&record)?;
    Ok(Recording { events, before, directory, books })
}

/// The tracer ends after what it traces: its file is whole once the first thread's end is in it.
pub(crate) fn settled(record: &Path) -> Result<Vec<Event>> {
    ollystack_tests::until("the recording is whole", || {
        let text = std::fs::read_to_string(record).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default();
        let ended = |line: &str| line.strip_prefix(first).is_some_and(|rest| rest.trim_start().starts_with("+++ "));
        Ok(text.lines().any(ended).then_some(text))
    })
    .and_then(|text| strace::events(&text))
}

/// What the process said of itself.
pub(crate) fn said(event: &Event) -> Option<&[u8]> {
    match &event.call {
        Call::Write { fd: 1, bytes, .. } => Some(bytes),
        _ => None,
    }
}

impl Recording {
    /// The disk and the books after so many calls.
    fn until(&self, count: usize) -> Result<(Disk, Books)> {
        let (mut disk, mut books) = (self.start()?, self.books.clone());
        for event in &self.events[..count] {
            disk.apply(event);
            said(event).into_iter().for_each(|text| books.hear(text));
        }
        Ok((disk, books))
    }

    fn start(&self) -> Result<Disk> {
        Disk::new(&self.before, &self.directory)
    }
}

/// Makes and judges the states, in the order of their cuts.
fn replay(run: &Run, recording: &Recording, states: &[Cycle], folder: &Path, report: &mut Report) -> Result<()> {
    let count = recording.events.len();
    let (_, early) = answers::judge(&recording.events, recording.start()?, &recording.directory.join("buffer"));
    early.into_iter().for_each(|broken| report.violation(broken));
    let mut cuts: Vec<(usize, u64, fastrand::Rng)> = states
        .iter()
        .map(|cycle| {
            let mut random = cycle.random.clone();
            (random.usize(..=count), cycle.number, random)
        })
        .collect();
    cuts.sort_by_key(|(cut, number, _)| (*cut, *number));
    let (mut disk, mut books, mut done) = (recording.start()?, recording.books.clone(), 0);
    for (cut, number, mut random) in cuts {
        for event in &recording.events[done..cut] {
            disk.apply(event);
            said(event).into_iter().for_each(|text| books.hear(text));
        }
        done = cut;
        let state = folder.join("state");
        let again = random.clone();
        let how = disk.lose_power(&mut random, &state)?;
        run.progress(number, &how);
        match catch_unwind(AssertUnwindSafe(|| books.judge(&state.join("buffer")))) {
            Ok(Ok((found, _))) => {
                report.add("states", 1);
                report.add("entries_found", found.entries);
                report.add("delivered_without_acknowledgement_or_again", found.beyond);
                report.add("set_aside_entries", found.damaged);
                report.most("opened_in_ms_max", found.opened.as_millis() as u64);
            }
            failed => {
                let why = failed.map_or("panicked".to_owned(), |judged| {
                    format!("{:#}", judged.err().unwrap_or_else(|| anyhow::anyhow!("?")))
                });
                let kept = std::env::temp_dir().join(format!("ollystack-torture-power-{}-{number}", run.seed()));
                disk.lose_power(&mut again.clone(), &kept)?;
                report.violation(format!(
                    "after {cut} of {count} calls, {how}: {why}; the state is in {}; {}",
                    kept.display(),
                    run.replay_of(number)
                ));
            }
        }
        std::fs::remove_dir_all(&state)?;
    }
    report.add("recordings", 1);
    report.add("calls", count as u64);
    books = recording.until(count)?.1;
    report.add("acknowledged", books.acknowledged);
    Ok(())
}

/// Files and folders, as they are.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}
