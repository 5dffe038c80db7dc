//! Log files that are rotated in every way there is, over and over, while an agent reads them: each line is there once.
//!
//! Every way has a folder of its own and all are read by one agent. Of the ways that destroy lines by their nature, only truncation after
//! copying is among them: what it loses is measured, and must be counted. Files go with their inodes used again at once. Invariant: no
//! file is removed that was not read.

use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, World, until, within};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Lines between two rotations, at most.
const LINES_MAX: u64 = 20;
/// Renames in a row, and how many such rows a cycle has; of each other way to rotate there is one in a cycle.
const RENAMES: u64 = 5;
const ROWS: u64 = 5;
/// Between two renames.
const PAUSE: Duration = Duration::from_millis(5);
/// Rotated files that stay at the end of a row. The others go once they are read, and what is made next has their inodes.
const KEPT: u64 = 2;
/// Of truncations, which come as often as an administrator's cron job would have them at worst.
const TRUNCATION_PAUSE: Duration = Duration::from_millis(150);
const ARRIVAL: Duration = Duration::from_secs(60);

/// One log and what was written to it.
struct Log {
    /// What its lines begin with.
    name: &'static str,
    folder: PathBuf,
    lines: u64,
    rotations: u64,
    /// The last rotated file that was removed.
    forgotten: u64,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("rotation")?;
    let mut gateway = world.gateway()?.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let root = world.folder().join("log");
    fs::create_dir(&root)?;
    let glob = format!("[{:?}]", root.join("*/app*log*").display().to_string());
    let config = world.agent(&gateway, "acme")?.set("logs.enabled", "true").set("logs.include", &glob);
    let config = config.set("logs.start_at", "\"beginning\"").set("logs.poll_interval_ms", "200");
    // An inode is free once nobody holds the file open any more.
    let config = config.set("logs.files_open_max", "12");
    let mut agent = config.set("logs.follow_symlinks", "true").start(world.binaries())?;
    let log = |name| Log::new(&root, name);
    let mut logs =
        [log("renamed")?, log("compressed")?, log("recreated")?, log("linked")?, log("absent")?, log("stale")?];
    let mut copied = log("copied")?;
    let mut inodes = Inodes::default();
    for cycle in run.cycles() {
        run.progress(cycle.number, "cycles");
        let number = cycle.number;
        let turned = turn(&world, &mut logs, &mut copied, &mut inodes, &mut agent, cycle);
        turned.with_context(|| format!("{}\n{}", run.replay_of(number), world.logs()))?;
    }
    for log in &logs {
        log.judge(&world, &mut report)?;
    }
    copied.measure(&world, &agent, &mut report)?;
    report.figure("inodes_reused", inodes.reused);
    let reuses = inodes_are_reused(&root)?;
    report.must(!reuses || inodes.reused > 0, || "no file had the inode of one that is gone".to_owned());
    if !reuses {
        report.note("this file system does not use inodes again");
    }
    agent.ledger_closes()?;
    ensure!(agent.stop()?.success(), "the agent did not stop in order");
    Ok(report)
}

fn turn(
    world: &World<'_>,
    [renamed, compressed, recreated, linked, absent, stale]: &mut [Log; 6],
    copied: &mut Log,
    inodes: &mut Inodes,
    agent: &mut Agent,
    mut cycle: Cycle,
) -> Result<()> {
    let mut lines = || cycle.random.u64(1..LINES_MAX);
    for _ in 0..ROWS {
        for _ in 0..RENAMES {
            renamed.write("app.log", lines())?;
            renamed.rename()?;
            renamed.write("app.log", lines())?;
            inodes.see(&renamed.path("app.log"))?;
            std::thread::sleep(PAUSE);
        }
        renamed.rename()?;
        // No reader knows of a file that was gone before it saw it.
        renamed.until_stored(world)?;
        renamed.forget(KEPT)?;
        inodes.reuse(&renamed.path("app.log"))?;
        renamed.write("app.log", lines())?;
        inodes.see(&renamed.path("app.log"))?;
    }
    // What a reader has never opened is gone with its name; this one has, and reads on what it cannot find any more.
    compressed.write("app.log", lines())?;
    compressed.until_read(agent)?;
    compressed.write("app.log", lines())?;
    compressed.rename()?;
    compressed.compress()?;
    compressed.write("app.log", lines())?;

    recreated.write("app.log", lines())?;
    recreated.until_read(agent)?;
    recreated.write("app.log", lines())?;
    fs::remove_file(recreated.path("app.log"))?;
    recreated.rotations += 1;
    recreated.write("app.log", lines())?;

    linked.write_linked(lines())?;
    linked.swap_link()?;
    linked.write_linked(lines())?;

    stale.write("app.log", lines())?;
    stale.stop_clock("app.log")?;
    stale.rename()?;
    stale.write("app.log", lines())?;
    stale.stop_clock("app.log")?;

    copied.write("app.log", lines())?;
    std::thread::sleep(TRUNCATION_PAUSE);
    copied.truncate_copied()?;
    copied.write("app.log", lines())?;

    absent.write("app.log", lines())?;
    absent.until_stored(world)?;
    ensure!(agent.stop()?.success(), "the agent did not stop in order");
    // The inodes of files that it remembers go to others meanwhile.
    renamed.forget(0)?;
    absent.forget(0)?;
    absent.write("app.log", lines())?;
    absent.rename()?;
    inodes.reuse(&absent.path("app.log"))?;
    absent.write("app.log", lines())?;
    inodes.see(&absent.path("app.log"))?;
    agent.restart()
}

impl Log {
    fn new(root: &Path, name: &'static str) -> Result<Log> {
        let folder = root.join(name);
        fs::create_dir(&folder)?;
        Ok(Log { name, folder, lines: 0, rotations: 0, forgotten: 0 })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn rotated(&self, number: u64) -> PathBuf {
        self.path(&format!("app.log.{number}"))
    }

    fn write(&mut self, file: &str, lines: u64) -> Result<()> {
        let text: String = (self.lines..self.lines + lines).map(|number| format!("{} {number}\n", self.name)).collect();
        OpenOptions::new().create(true).append(true).open(self.path(file))?.write_all(text.as_bytes())?;
        self.lines += lines;
        Ok(())
    }

    fn rename(&mut self) -> Result<()> {
        self.rotations += 1;
        Ok(fs::rename(self.path("app.log"), self.rotated(self.rotations))?)
    }

    /// Remove all rotated files but the latest.
    fn forget(&mut self, kept: u64) -> Result<()> {
        let last = self.rotations.saturating_sub(kept);
        (self.forgotten + 1..=last).try_for_each(|number| fs::remove_file(self.rotated(number)))?;
        self.forgotten = self.forgotten.max(last);
        Ok(())
    }

    /// As `gzip` does: a new file, and the old one goes.
    fn compress(&self) -> Result<()> {
        let rotated = self.rotated(self.rotations);
        let packed = crate::otlp::gzip(&fs::read(&rotated)?)?;
        fs::write(self.path(&format!("app.log.{}.gz", self.rotations)), packed)?;
        Ok(fs::remove_file(rotated)?)
    }

    fn write_linked(&mut self, lines: u64) -> Result<()> {
        let target = format!("app-{}.log", self.rotations);
        self.write(&target, lines)?;
        if !self.path("app.log").is_symlink() {
            symlink(&target, self.path("app.log"))?;
        }
        Ok(())
    }

    /// The link leads to the next file at once, never to none.
    fn swap_link(&mut self) -> Result<()> {
        self.rotations += 1;
        let (beside, target) = (self.path(".link"), format!("app-{}.log", self.rotations));
        File::create(self.path(&target))?;
        symlink(&target, &beside)?;
        Ok(fs::rename(&beside, self.path("app.log"))?)
    }

    /// As `copytruncate` does.
    fn truncate_copied(&mut self) -> Result<()> {
        self.rotations += 1;
        fs::copy(self.path("app.log"), self.rotated(self.rotations))?;
        let file = OpenOptions::new().write(true).open(self.path("app.log"))?;
        Ok(file.set_len(0)?)
    }

    /// As if the file system stamped with a clock that stands still.
    fn stop_clock(&self, file: &str) -> Result<()> {
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        Ok(File::open(self.path(file))?.set_modified(long_ago)?)
    }

    fn until_read(&self, agent: &Agent) -> Result<()> {
        until("the file is read to its end", || {
            let status = agent.status()?;
            let files = status["stages"]["logs"]["files"].as_array().cloned().unwrap_or_default();
            let path = self.path("app.log");
            let size = path.metadata()?.len();
            let is_read = |file: &serde_json::Value| {
                file["path"].as_str().is_some_and(|name| Path::new(name) == path) && file["read"] == size
            };
            Ok(files.iter().any(is_read).then_some(()))
        })
    }

    fn until_stored(&self, world: &World<'_>) -> Result<()> {
        let there =
            within(ARRIVAL, "every line so far is there", || Ok((self.stored(world)?.1 >= self.lines).then_some(())));
        there.with_context(|| {
            let missing = format!(
                "SELECT groupArray(number) FROM (SELECT number FROM numbers({}) WHERE number NOT IN \
                 (SELECT toUInt64(splitByChar(' ', Body)[2]) FROM {{db}}.logs_raw WHERE startsWith(Body, '{} ')) LIMIT 50)",
                self.lines, self.name
            );
            format!("{}: missing of {} lines: {}", self.name, self.lines, world.sql(&missing).unwrap_or_default())
        })
    }

    /// Rows of this log, and how many of them are different.
    fn stored(&self, world: &World<'_>) -> Result<(u64, u64)> {
        let of = format!("FROM {{db}}.logs_raw WHERE startsWith(Body, '{} ')", self.name);
        Ok((world.count(&format!("SELECT count() {of}"))?, world.count(&format!("SELECT uniqExact(Body) {of}"))?))
    }

    fn judge(&self, world: &World<'_>, report: &mut Report) -> Result<()> {
        if let Err(error) = self.until_stored(world) {
            report.note(format!("{}: {error:#}", self.name));
        }
        let ((rows, distinct), lines) = (self.stored(world)?, self.lines);
        report.add("lines", lines);
        report.add("lines_lost", lines.saturating_sub(distinct));
        report.add("lines_twice", rows - distinct);
        report.figure(&format!("rotations_{}", self.name), self.rotations);
        report.must(distinct == lines, || format!("{}: {distinct} of {lines} lines are there", self.name));
        report.must(rows == distinct, || format!("{}: {} lines show twice", self.name, rows - distinct));
        if rows > distinct {
            report.note(self.twice(world)?);
        }
        Ok(())
    }

    /// Of some lines that are there twice: from which files, read when.
    fn twice(&self, world: &World<'_>) -> Result<String> {
        world.sql(&format!(
            "SELECT Body, groupArray(LogAttributes['log.file.path']), groupArray(ObservedTimestamp) FROM {{db}}.logs_raw \
             WHERE startsWith(Body, '{} ') GROUP BY Body HAVING count() > 1 ORDER BY Body LIMIT 5",
            self.name
        ))
    }

    /// Truncation destroys what was not read; no line of it is there twice, and none is missing without being counted.
    fn measure(&self, world: &World<'_>, agent: &Agent, report: &mut Report) -> Result<()> {
        until("the last lines are there", || {
            let last = format!("SELECT count() FROM {{db}}.logs_raw WHERE Body = '{} {}'", self.name, self.lines - 1);
            Ok((world.count(&last)? > 0).then_some(()))
        })?;
        let ((rows, distinct), lines) = (self.stored(world)?, self.lines);
        let vanished = agent.account_in_all("logs")?["dropped"]["source_vanished"].as_u64();
        let (lost, vanished) = (lines - distinct, vanished.context("/status has no drops by vanishing")?);
        report.figure("copytruncate_lines", lines);
        report.figure("copytruncate_lines_lost", lost);
        report.figure("copytruncate_lines_counted_as_lost", vanished);
        report.figure("copytruncate_lines_twice", rows - distinct);
        report.must(rows == distinct, || format!("{} lines show twice after truncation", rows - distinct));
        if rows > distinct {
            report.note(self.twice(world)?);
        }
        Ok(())
    }
}

/// Tries to get an inode that is free again: others may lie before it.
const TRIES: usize = 64;

/// Which inodes the current files had.
#[derive(Default)]
struct Inodes {
    seen: std::collections::BTreeSet<u64>,
    reused: u64,
}

impl Inodes {
    /// Of a file that was just made.
    fn see(&mut self, path: &Path) -> Result<()> {
        if !self.seen.insert(path.metadata()?.ino()) {
            self.reused += 1;
        }
        Ok(())
    }

    /// Make a file with an inode that was seen, if one comes up.
    fn reuse(&self, path: &Path) -> Result<()> {
        let spares: Vec<PathBuf> = (0..TRIES).map(|number| path.with_file_name(format!(".spare-{number}"))).collect();
        let (mut made, mut is_there) = (0, false);
        while made < TRIES && !is_there {
            is_there = self.seen.contains(&File::create(&spares[made])?.metadata()?.ino());
            made += 1;
        }
        if is_there {
            made -= 1;
            fs::rename(&spares[made], path)?;
        }
        Ok(spares[..made].iter().try_for_each(fs::remove_file)?)
    }
}

/// Whether the file system gives a file the inode of one that is gone: ext4 does, tmpfs does not.
fn inodes_are_reused(folder: &Path) -> Result<bool> {
    let path = folder.join("probe");
    let inode = || -> Result<u64> {
        let inode = File::create(&path)?.metadata()?.ino();
        fs::remove_file(&path)?;
        Ok(inode)
    };
    Ok(inode()? == inode()?)
}
