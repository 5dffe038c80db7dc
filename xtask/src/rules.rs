//! The house rules, as STYLE.md and ARCHITECTURE.md state them, checked on every text file of the repository.
//!
//! A rule is a function from the tree to its violations, each naming the file, the line and what to do. An exception is
//! listed here, with its reason, or it is a violation.

mod documents;
mod graph;
mod text;

use crate::progress::{Step, Steps};
use crate::repository;
use anyhow::{Context, Result, bail};
use std::process::{Command, ExitCode};

/// Every text file of the repository that git tracks or would track.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    files: Vec<(String, String)>,
}

type Rule = fn(&Tree) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("every Rust file says what it is", text::opens_with_a_description),
    ("no file holds two ideas", text::is_short),
    ("nothing is left to do", text::nothing_left_to_do),
    ("unsafe stays where it is allowed", text::unsafe_where_allowed),
    ("no path of a developer's machine", text::no_machine_paths),
    ("no package registry's host", text::no_registry_hosts),
    ("stages do not import each other", graph::stages_keep_apart),
    ("every crate is in the code map", graph::map_is_complete),
    ("every loss is explained", documents::drop_reasons_explained),
    ("documents point at files that exist", documents::paths_exist),
];

/// `cargo xtask rules`.
pub(crate) fn run() -> Result<ExitCode> {
    let mut steps = Steps::new(repository().join("target/xtask/rules"))?;
    steps.step("house rules", check);
    Ok(if steps.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks all rules.
pub(crate) fn check(step: &mut Step) -> Result<()> {
    let tree = Tree::read()?;
    let mut broken = 0;
    for (name, rule) in RULES {
        let violations = rule(&tree);
        step.line(&format!("{name}: {}", if violations.is_empty() { "ok" } else { "broken" }));
        for violation in &violations {
            step.line(&format!("  {violation}"));
        }
        broken += usize::from(!violations.is_empty());
    }
    if broken > 0 {
        bail!("{broken} of {} house rules broken", RULES.len());
    }
    Ok(())
}

impl Tree {
    fn read() -> Result<Self> {
        let mut list = Command::new("git");
        list.current_dir(repository()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = list.output().context("git lists the files to check: install git")?;
        if !listed.status.success() {
            bail!("`git ls-files` failed: {}", String::from_utf8_lossy(&listed.stderr).trim());
        }
        let mut files = Vec::new();
        for path in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|path| !path.is_empty()) {
            // Deleted but not yet committed, or not text: nothing to read.
            if let Some(text) = std::fs::read(repository().join(path)).ok().and_then(|b| String::from_utf8(b).ok()) {
                files.push((path.to_owned(), text));
            }
        }
        Ok(Self { files })
    }

    fn rust(&self) -> impl Iterator<Item = &(String, String)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs"))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|(p, _)| p == path).map(|(_, text)| text.as_str())
    }

    /// Numbered lines of the files that `which` takes.
    fn lines(&self, which: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, usize, &str)> {
        let files = self.files.iter().filter(move |(path, _)| which(path));
        files.flat_map(|(path, text)| text.lines().enumerate().map(|(i, line)| (path.as_str(), i + 1, line)))
    }

    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect() }
    }
}
