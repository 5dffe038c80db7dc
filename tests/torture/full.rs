//! A disk without a byte left, over and over: agent and gateway refuse work and live, deliver and delete what they hold while it is
//! full, and take work again when there is room.
//!
//! Each has a small disk of its own. In every cycle the way out is cut, work is accepted, somebody else takes the rest of the disk,
//! work is refused, and the way out is mended before there is room again.

use crate::report::Report;
use crate::run::Run;
use crate::subject::Subject;
use anyhow::{Context, Result, bail, ensure};
use ollystack_tests::{SmallDisk, World, until};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const DISK_BYTES: u64 = 24 << 20;
/// More requests than find room in what SQLite's files have left in themselves.
const REQUESTS_MAX: u64 = 400;

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let worlds = [run.world("gateway")?, run.world("agent")?];
    let disks = [small_disk(&worlds[0])?, small_disk(&worlds[1])?];
    if let Some(why) = disks[0].impossible() {
        report.note(format!("skipped: {why}"));
        return Ok(report);
    }
    let gateway = Subject::gateway(&worlds[0], &disks[0].folder, |mut config| {
        config.disk = Some(disks[0].clone());
        config
    })?;
    let agent = Subject::agent(&worlds[1], &disks[1].folder, |mut config| {
        config.disk = Some(disks[1].clone());
        config
    })?;
    let mut subjects = [(gateway, &disks[0]), (agent, &disks[1])];
    for cycle in run.cycles() {
        for (subject, disk) in &mut subjects {
            run.progress(cycle.number, subject.name);
            let held = fill_and_drain(subject, disk, &mut report);
            held.with_context(|| format!("{}, {}\n{}", subject.name, run.replay_of(cycle.number), subject.logs()))?;
        }
        report.add("disks_filled_and_drained", 1);
    }
    subjects.iter_mut().try_for_each(|(subject, _)| subject.judge(&mut report))?;
    Ok(report)
}

fn small_disk(world: &World<'_>) -> Result<SmallDisk> {
    let disk = SmallDisk { folder: world.folder().join("disk"), bytes: DISK_BYTES };
    std::fs::create_dir(&disk.folder)?;
    Ok(disk)
}

fn fill_and_drain(subject: &mut Subject<'_>, disk: &SmallDisk, report: &mut Report) -> Result<()> {
    subject.link.cut()?;
    for _ in 0..3 {
        ensure!(subject.send()?.status == 200, "refused with room on the disk");
    }
    // The mount is the process's own: seen through it.
    let root = PathBuf::from(format!("/proc/{}/root", subject.process().id()));
    let filler = root.join(disk.folder.join("filler").strip_prefix("/")?);
    fill(&filler)?;
    let mut requests = 0;
    while subject.send()?.status == 200 {
        requests += 1;
        ensure!(requests < REQUESTS_MAX, "{REQUESTS_MAX} requests were accepted on a full disk");
    }
    report.add("refused", 1);
    subject.process().must_run()?;
    subject.link.mend()?;
    until("all that waits is delivered, and deleted on a full disk", || Ok((subject.waiting()? == 0.0).then_some(())))?;
    ensure!(filler.exists(), "the disk was not full any more");
    std::fs::remove_file(&filler)?;
    until("work is accepted again", || Ok((subject.send()?.status == 200).then_some(())))?;
    subject.process().must_run()
}

/// Takes every byte that is left.
fn fill(filler: &Path) -> Result<()> {
    let mut file = File::create(filler).with_context(|| format!("make {}", filler.display()))?;
    let zeros = vec![0; 64 << 10];
    for piece in [zeros.len(), 4096, 1] {
        loop {
            match file.write_all(&zeros[..piece]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => bail!("{}: {error}", filler.display()),
            }
        }
    }
    Ok(())
}
