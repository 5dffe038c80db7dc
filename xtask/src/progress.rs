//! Steps with a name each: runs them, shows what goes on in one line on standard error, keeps each step's whole output in a
//! file, and prints what failed; at the end a table of durations and a closing line on standard output.
//!
//! A failed step never stops the steps after it: the report is the whole picture.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How often the live line is redrawn on a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a sign of life is printed where there is no terminal.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// Lines of a failed step's output that are shown.
const SHOWN_LINES: usize = 150;
/// Lines of a failed test's own output that the closing report repeats: what panicked, where and why, and how its programs' logs end.
const REPORTED_LINES: usize = 40;

/// All steps of one run.
pub(crate) struct Steps {
    start: Instant,
    logs: PathBuf,
    terminal: bool,
    done: Vec<Done>,
}

struct Done {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
    failed_tests: Vec<FailedTest>,
    tests: Tests,
    notes: Vec<String>,
}

/// A test that failed, and what it printed.
#[derive(Debug, PartialEq, Eq)]
struct FailedTest {
    name: String,
    output: Vec<String>,
}

/// The counts of cargo's `test result:` lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// One step while it runs.
pub(crate) struct Step {
    name: &'static str,
    number: usize,
    start: Instant,
    log: Option<File>,
    terminal: bool,
    shown: Vec<String>,
    tests: Tests,
    notes: Vec<String>,
    last_sign: Instant,
}

impl Steps {
    /// Keeps the outputs in `logs`, which is made.
    pub(crate) fn new(logs: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
        Ok(Self { start: Instant::now(), logs, terminal: stderr().is_terminal(), done: Vec::new() })
    }

    /// Runs one step; whether it went well.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Step) -> Result<()>) -> bool {
        let path = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let start = Instant::now();
        let number = self.done.len() + 1;
        let (shown, notes) = (Vec::new(), Vec::new());
        let (log, terminal, tests) = (File::create(&path).ok(), self.terminal, Tests::default());
        let mut step = Step { name, number, start, log, terminal, shown, tests, notes, last_sign: start };
        step.show("");
        let outcome = work(&mut step);
        let Step { shown, tests, notes, .. } = step;
        let took = start.elapsed();
        let failure = outcome.err().map(|error| format!("{error:#}"));
        let verdict = if failure.is_some() { "FAILED" } else { "ok" };
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        eprintln!("{clear}{number:>2}. {name:<18} {verdict:<6} {}", seconds(took));
        for note in &notes {
            eprintln!("      {note}");
        }
        let failed_tests = failed_tests(&shown);
        if let Some(failure) = &failure {
            // What the failed tests printed stands in the closing report; the end of the output would be the tests after them.
            if failed_tests.is_empty() {
                eprintln!("{}", shown[shown.len().saturating_sub(SHOWN_LINES)..].join("\n"));
            }
            eprintln!("      {name} failed: {failure}\n      whole output: {}", path.display());
        }
        self.done.push(Done { name, took, failure, failed_tests, tests, notes });
        self.done.last().is_some_and(|done| done.failure.is_none())
    }

    /// Prints the table and the closing line, in the form cargo's own test runs end with; whether all went well. A step
    /// without tests counts as one.
    pub(crate) fn close(self) -> bool {
        println!("\n{:<22} {:>8}  {:<6} tests", "step", "seconds", "");
        let mut sum = Tests::default();
        for done in &self.done {
            let tests = done.tests.or_one(done.failure.is_none());
            sum.add(tests);
            let verdict = if done.failure.is_some() { "FAILED" } else { "ok" };
            let count = if done.tests == Tests::default() { String::new() } else { tests.passed.to_string() };
            println!("{:<22} {:>8}  {verdict:<6} {count}", done.name, seconds(done.took));
        }
        for done in &self.done {
            for note in &done.notes {
                println!("note: {}: {note}", done.name);
            }
        }
        for done in &self.done {
            if let Some(failure) = &done.failure {
                println!("failed: {}: {failure}", done.name);
                for test in &done.failed_tests {
                    println!("  {}", test.name);
                    test.output.iter().take(REPORTED_LINES).for_each(|line| println!("    {line}"));
                }
            }
        }
        let good = self.done.iter().all(|done| done.failure.is_none());
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
            if good { "ok" } else { "FAILED" },
            sum.passed,
            sum.failed,
            sum.ignored,
            self.start.elapsed().as_secs_f64()
        );
        good
    }
}

impl Step {
    /// Something the reader of the report should know, such as what was left out and why.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a line to the step's output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{line}");
        }
        self.shown.push(line.to_owned());
        self.tests.read(line);
        self.notes.extend(left_out(line));
        self.show(line);
    }

    /// Runs a command to its end; an error when it does not end well.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        self.line(&format!("$ {command:?}"));
        let (sender, lines) = mpsc::channel();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        follow(child.stdout.take(), sender.clone());
        follow(child.stderr.take(), sender);
        loop {
            match lines.recv_timeout(REDRAW) {
                Ok(line) => self.line(&line),
                Err(RecvTimeoutError::Timeout) => {
                    let last = self.shown.last().cloned().unwrap_or_default();
                    self.show(&last);
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("{} ended with {status}", command.get_program().to_string_lossy());
        }
        Ok(())
    }

    /// The one live line: redrawn in place on a terminal, a sign of life each minute elsewhere.
    fn show(&mut self, line: &str) {
        let took = seconds(self.start.elapsed());
        let line: String = line.chars().filter(|c| !c.is_control()).collect();
        if self.terminal {
            // Without wrapping, so that a long line is cut at the edge and the next redraw covers it.
            eprint!("\r\x1b[2K\x1b[?7l{:>2}. {:<18} {took:>6}  {line}\x1b[?7h", self.number, self.name);
            let _ = stderr().flush();
        } else if self.last_sign.elapsed() > SIGN_OF_LIFE {
            self.last_sign = Instant::now();
            eprintln!("{:>2}. {:<18} {took:>6}  {line}", self.number, self.name);
        }
    }
}

impl Tests {
    fn add(&mut self, other: Tests) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    fn or_one(self, passed: bool) -> Tests {
        match (self == Tests::default(), passed) {
            (true, true) => Tests { passed: 1, ..self },
            (true, false) => Tests { failed: 1, ..self },
            (false, true) => self,
            // A test process that died has failed without a count.
            (false, false) => Tests { failed: self.failed.max(1), ..self },
        }
    }

    /// Adds the counts of a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`.
    fn read(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = counts.split_whitespace().collect();
        let count = |name: &str| {
            let at = words.iter().position(|word| word.trim_end_matches(';') == name);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
        };
        self.add(Tests { passed: count("passed"), failed: count("failed"), ignored: count("ignored") });
    }
}

/// What a line of output says was not done, and why: `skipped: ...`, or a test that was ignored with a reason.
fn left_out(line: &str) -> Option<String> {
    if line.starts_with("skipped: ") {
        return Some(line.to_owned());
    }
    let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    let reason = reason.trim_matches([' ', ',', '(', ')']);
    (!reason.is_empty()).then(|| format!("skipped: {}: {reason}", name.trim_end()))
}

/// The tests that failed by the output of a test run: `test NAME ... FAILED`, and later `---- NAME stdout ----` (or
/// `---- NAME ----`) with what it printed up to the next of them or the list of names.
fn failed_tests(lines: &[String]) -> Vec<FailedTest> {
    let mut failed: Vec<FailedTest> = Vec::new();
    let mut printing = None;
    for line in lines {
        if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            failed.push(FailedTest { name: name.trim_end().to_owned(), output: Vec::new() });
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" ----")) {
            let name = name.strip_suffix(" stdout").unwrap_or(name);
            printing = failed.iter().position(|test| test.name == name && test.output.is_empty());
        } else if line.starts_with("failures:") || line.starts_with("test result: ") {
            printing = None;
        } else if let Some(test) = printing.and_then(|at| failed.get_mut(at))
            && !line.trim().is_empty()
        {
            test.output.push(line.clone());
        }
    }
    failed
}

fn follow(output: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(output) = output else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

fn seconds(took: Duration) -> String {
    format!("{:.1}", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u64, failed: u64, ignored: u64) -> Tests {
        Tests { passed, failed, ignored }
    }

    #[test]
    fn the_counts_of_several_test_runs_add_up() {
        let mut tests = Tests::default();
        tests.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tests.read("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out");
        tests.read("running 7 tests");
        assert_eq!(tests, counts(5, 4, 1));
    }

    #[test]
    fn what_was_left_out_is_told_with_its_reason() {
        let skipped = |line| left_out(line).unwrap_or_default();
        assert_eq!(skipped("skipped: a: no root"), "skipped: a: no root");
        assert_eq!(skipped("test a::b   ... ignored (no BTF)"), "skipped: a::b: no BTF");
        assert_eq!(skipped("test a::b ... ignored, takes an hour"), "skipped: a::b: takes an hour");
        assert_eq!(skipped("test a::b ... ok"), "");
    }

    #[test]
    fn failed_tests_are_named_with_what_they_printed() {
        let output = "test a::b ... ok\ntest a::c ... FAILED\ntest a::d     ... FAILED\n\nfailures:\n\n---- a::c stdout ----\n\n\
                      thread 'a::c' panicked at a.rs:3:5:\nleft: 1\n\n---- a::d ----\nno answer\n\n\nfailures:\n    a::c\n    a::d\n\n\
                      test result: FAILED. 1 passed; 2 failed\nlater";
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        let test = |name: &str, output: &[&str]| FailedTest {
            name: name.to_owned(),
            output: output.iter().map(|line| (*line).to_owned()).collect(),
        };
        let expected =
            [test("a::c", &["thread 'a::c' panicked at a.rs:3:5:", "left: 1"]), test("a::d", &["no answer"])];
        assert_eq!(failed_tests(&lines), expected);
    }

    #[test]
    fn a_failed_step_is_a_failure_whatever_its_tests_say() {
        assert_eq!(Tests::default().or_one(true), counts(1, 0, 0));
        assert_eq!(Tests::default().or_one(false), counts(0, 1, 0));
        assert_eq!(counts(3, 0, 0).or_one(false), counts(3, 1, 0));
        assert_eq!(counts(3, 2, 0).or_one(false), counts(3, 2, 0));
    }

    #[test]
    fn a_failed_step_does_not_stop_the_next_and_fails_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut steps = Steps::new(folder.path().to_owned()).unwrap();
        assert!(!steps.step("bad", |step| step.run(&mut Command::new("false"))));
        assert!(steps.step("good", |step| step.run(Command::new("echo").arg("hello"))));
        assert!(std::fs::read_to_string(folder.path().join("good.log")).unwrap().contains("hello"));
        assert!(!steps.close());
    }
}
