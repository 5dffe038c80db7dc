//! `cargo xtask mutations [NAME]...`: breaks a promise on purpose, one line at a time, and runs the test that must notice.
//!
//! The tree is copied beside the build, one text of one file is replaced there, the test runs, and the text is put back. A mutation that
//! the tests survive is a promise that nothing holds. Invariant: the repository itself is never touched.

mod list;

use crate::progress::{Step, Steps};
use crate::{cargo, repository};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use list::MUTATIONS;
use ollystack_tests::through;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Of coreutils: ends what it starts, with all that was started by it, after so many seconds, and exits with a status of its own.
const BOUNDED: [&str; 2] = ["timeout", "1200"];
const TIMED_OUT: i32 = 124;

/// Flags.
#[derive(Args)]
pub(crate) struct Options {
    /// Which; without a name, all
    names: Vec<String>,
    /// List them and what each breaks
    #[arg(long)]
    list: bool,
}

/// One line that holds a promise, and what holds the line.
struct Mutation {
    name: &'static str,
    breaks: &'static str,
    file: &'static str,
    /// As it stands in the file, once.
    text: &'static str,
    replacement: &'static str,
    caught_by: Test,
}

/// The quickest test that must go red.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    package: &'static str,
    /// Which target of it: `--lib`, `--test name`, `--bins`.
    target: &'static [&'static str],
    /// Packages whose programs it starts.
    programs: &'static [&'static str],
    /// For the test program itself.
    arguments: &'static [&'static str],
}

/// Runs some, or lists all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let known: Vec<&str> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
    if let Some(name) = options.names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no mutation is called {name}; there are: {}", known.join(", "));
    }
    let chosen =
        |mutation: &&Mutation| options.names.is_empty() || options.names.iter().any(|name| name == mutation.name);
    let chosen: Vec<&Mutation> = MUTATIONS.iter().filter(chosen).collect();
    if options.list {
        for mutation in chosen {
            println!("{:<28} {}", mutation.name, mutation.breaks);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let folder = repository().join("target/xtask/mutations");
    let tree = folder.join("tree");
    let mut steps = Steps::new(folder.clone())?;
    steps.step("copy", |_| copy(&repository(), &tree));
    let tests: BTreeSet<Test> = chosen.iter().map(|mutation| mutation.caught_by).collect();
    let sound = steps.step("unchanged", |step| {
        tests.iter().try_for_each(|test| match test.holds(&tree, step)? {
            true => Ok(()),
            false => bail!("{test:?} fails without any mutation"),
        })
    });
    if sound {
        for mutation in chosen {
            steps.step(mutation.name, |step| mutation.must_be_caught(&tree, step));
        }
    }
    Ok(if steps.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files that git knows or would know. What is as it was keeps its time, so that cargo builds only what changed.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.current_dir(from).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = list.output().context("git does not start")?;
    ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|name| !name.is_empty()) {
        let (source, target) = (from.join(name), to.join(name));
        // Deleted, and not yet said to git.
        let Ok(content) = std::fs::read(&source) else { continue };
        if std::fs::read(&target).is_ok_and(|there| there == content) {
            continue;
        }
        let folder = target.parent().unwrap_or(to);
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        std::fs::write(&target, content).with_context(|| format!("write {}", target.display()))?;
    }
    Ok(())
}

impl Mutation {
    /// Good when the test fails, and not for want of compiling or ending.
    fn must_be_caught(&self, tree: &Path, step: &mut Step) -> Result<()> {
        step.line(self.breaks);
        let path = tree.join(self.file);
        let sound = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        std::fs::write(&path, self.apply(&sound)?)?;
        let survived = self.caught_by.holds(tree, step);
        std::fs::write(&path, sound)?;
        match survived? {
            false => Ok(()),
            true => bail!("nothing noticed: {}", self.breaks),
        }
    }

    /// The file with the promise broken.
    fn apply(&self, sound: &str) -> Result<String> {
        let count = sound.matches(self.text).count();
        ensure!(
            count == 1,
            "{}: {} is in {} {count} times, must be once: {:?}",
            self.name,
            "its text",
            self.file,
            self.text
        );
        Ok(sound.replace(self.text, self.replacement))
    }
}

impl Test {
    /// Whether it passes. That it does not even build, or does not end, is an error.
    fn holds(&self, tree: &Path, step: &mut Step) -> Result<bool> {
        let in_tree = |arguments: &[&str]| {
            let mut command = cargo(arguments);
            command.env("CARGO_TARGET_DIR", target(tree));
            let mut bounded = through(&BOUNDED.map(str::to_owned), command);
            bounded.current_dir(tree);
            bounded
        };
        for program in self.programs {
            let built = step.run(&mut in_tree(&["build", "--locked", "-p", program]));
            built.with_context(|| format!("{program} does not build"))?;
        }
        let command = |more: &[&str]| {
            let mut command = in_tree(&["test", "--locked", "-p", self.package]);
            command.args(self.target).args(more);
            command
        };
        step.run(&mut command(&["--no-run"])).with_context(|| format!("{self:?} does not build"))?;
        let output = command(&["--"]).args(self.arguments).output();
        let output = output.with_context(|| format!("{} does not start", BOUNDED[0]))?;
        let said = [output.stdout, output.stderr].concat();
        for line in String::from_utf8_lossy(&said).lines().filter(|line| !line.starts_with("test result: ")) {
            step.line(line);
        }
        // It may be slow, or wait for what the mutation took away: no verdict either way.
        ensure!(output.status.code() != Some(TIMED_OUT), "{self:?} did not end within {} s", BOUNDED[1]);
        Ok(output.status.success())
    }
}

/// A build of its own: programs of a broken tree must not come among the others.
fn target(tree: &Path) -> PathBuf {
    tree.with_file_name("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_still_finds_its_line() {
        let lost = MUTATIONS.iter().filter_map(|mutation| {
            let file = std::fs::read_to_string(repository().join(mutation.file)).unwrap();
            mutation.apply(&file).err().map(|error| error.to_string())
        });
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<String>::new());
    }
}
