//! What the live tests said in a kernel, and the tables made of it.
//!
//! In: a step's log, whose lines are those that `agent/inputs/ebpf/tests/live.rs` prints. Out: a row for each feature and way of
//! attaching, and the instructions that the verifier went through, by program. Invariant: tests that did not end count as failed.

use super::machine::ENDED;
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Instructions that the verifier may go through for one program: a quarter of what the kernel allows, as other kernels than those
/// tried here may need more.
const INSTRUCTIONS_MAX: u32 = 250_000;

/// How lines and outcomes begin that tell of a refusal.
const REFUSED: &str = "refused: ";

/// One kernel's.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    kernel: String,
    /// As it names itself.
    release: String,
    rows: Vec<Row>,
    /// Instructions gone through, by program. Kernels before 5.16 do not tell.
    verified: BTreeMap<String, u32>,
    /// Whether the tests came to their end, and held.
    held: bool,
}

/// One feature, one way of attaching it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    feature: String,
    way: String,
    outcome: String,
}

impl Report {
    /// From the log of the step that ran them.
    pub(super) fn read(kernel: &str, logs: &Path) -> Result<Report> {
        let path = logs.join(format!("{kernel}.log"));
        let log = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Report::of(kernel, &String::from_utf8_lossy(&log)))
    }

    fn of(kernel: &str, log: &str) -> Report {
        let mut report = Report { kernel: kernel.to_owned(), ..Report::default() };
        let mut tests = BTreeMap::new();
        for line in log.lines().map(str::trim) {
            if let Some((attached, text)) = row(line, "attached: ") {
                report.rows.push(Row { outcome: text.to_owned(), ..attached });
            } else if let Some((refused, text)) = row(line, REFUSED) {
                report.rows.push(Row { outcome: format!("{REFUSED}{text}"), ..refused });
            } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                tests.insert(name.trim().to_owned(), outcome.to_owned());
            } else if let Some((name, count)) = line.strip_prefix("verified: ").and_then(|rest| rest.split_once(' ')) {
                report.verified.extend(count.parse().ok().map(|count| (name.to_owned(), count)));
            } else if line.starts_with(|first: char| first.is_ascii_digit()) && !line.contains(' ') {
                report.release = line.to_owned();
            } else if let Some(status) = line.strip_prefix(ENDED) {
                report.held = status == "0";
            }
        }
        for row in report.rows.iter_mut().filter(|row| row.feature == "ebpf.requests") {
            let ending = format!("_by_{}", row.way);
            let of_it: Vec<&str> =
                tests.iter().filter(|(name, _)| name.ends_with(&ending)).map(|(_, outcome)| outcome.as_str()).collect();
            let passed = of_it.iter().filter(|outcome| **outcome == "ok").count();
            if !of_it.is_empty() {
                let _ = write!(row.outcome, "; {passed} of {} tests passed", of_it.len());
            }
        }
        report
    }

    /// An error unless the tests held, every feature has a way to be attached, and no program has grown too large.
    pub(super) fn verdict(&self) -> Result<()> {
        ensure!(self.held, "the live tests failed, or did not come to their end");
        let refused = self.rows.iter().find(|row| row.way == "auto" && row.outcome.starts_with(REFUSED));
        if let Some(row) = refused {
            bail!("{} is attached in no way: {}", row.feature, row.outcome);
        }
        match self.verified.iter().find(|(_, count)| **count > INSTRUCTIONS_MAX) {
            Some((name, count)) => {
                bail!("{name} takes the verifier {count} instructions, allowed are {INSTRUCTIONS_MAX}")
            }
            None => Ok(()),
        }
    }
}

/// `PREFIXfeature by way: text`.
fn row<'a>(line: &'a str, prefix: &str) -> Option<(Row, &'a str)> {
    let (name, text) = line.strip_prefix(prefix)?.split_once(": ")?;
    let (feature, way) = name.split_once(" by ")?;
    Some((Row { feature: feature.to_owned(), way: way.to_owned(), outcome: String::new() }, text))
}

/// For people.
pub(super) fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let _ = writeln!(text, "\n{} ({})", report.kernel, report.release);
        for row in &report.rows {
            let _ = writeln!(text, "  {:<16}{:<11}{}", row.feature, row.way, row.outcome);
        }
    }
    text
}

/// Whether the tests held in each of these kernels.
pub(super) fn is_whole(reports: &[Report], kernels: &[(&str, &str)]) -> bool {
    kernels.iter().all(|(kernel, _)| reports.iter().any(|report| report.kernel == *kernel && report.held))
}

/// The file of the verifier's counts: of Debian's kernels, as each machine's own kernel is another.
pub(super) fn verified(reports: &[Report]) -> String {
    let told: Vec<&Report> =
        reports.iter().filter(|report| report.kernel != super::HERE && !report.verified.is_empty()).collect();
    let programs: BTreeSet<&String> = told.iter().flat_map(|report| report.verified.keys()).collect();
    let mut text = String::from(
        "Instructions that the verifier goes through, by program and kernel. Written by `cargo xtask kernels`.\n\
         Allowed are 250,000 here, and a million by the kernel. Kernels before 5.16 do not tell.\n\n",
    );
    let mut line = |first: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:>10}")).collect();
        let _ = writeln!(text, "{first:<20}{cells}");
    };
    line("program", told.iter().map(|report| report.kernel.clone()).collect());
    for program in programs {
        let count = |report: &&Report| report.verified.get(program).map_or("-".to_owned(), u32::to_string);
        line(program, told.iter().map(count).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "6.1.0-40-cloud-amd64\r\n\
        attached: ebpf.tcp by auto: attached by raw tracepoints\r\n\
        refused: ebpf.requests by sockets: no such file: really\r\n\
        skipped: ebpf.requests by sockets: no such file: really\r\n\
        attached: ebpf.requests by calls: attached by call tracepoints\r\n\
        test the_traffic_comes_out_by_calls                ... ok\r\n\
        test its_payload_is_seen_by_calls                  ... FAILED\r\n\
        verified: call_exit 43210\r\n\
        the live tests ended with 0\r\n";

    #[test]
    fn what_a_kernel_said_becomes_its_rows() {
        let report = Report::of("6.1", LOG);
        assert_eq!(report.release, "6.1.0-40-cloud-amd64");
        let outcomes: Vec<&str> = report.rows.iter().map(|row| row.outcome.as_str()).collect();
        assert_eq!(
            outcomes,
            [
                "attached by raw tracepoints",
                "refused: no such file: really",
                "attached by call tracepoints; 1 of 2 tests passed"
            ]
        );
        assert_eq!(report.verified, BTreeMap::from([("call_exit".to_owned(), 43210)]));
        report.verdict().unwrap();
    }

    #[test]
    fn tests_without_an_end_a_feature_without_a_way_and_programs_that_grew_fail() {
        let refused = LOG.replace("attached: ebpf.tcp", "refused: ebpf.tcp");
        assert!(Report::of("6.1", &refused).verdict().unwrap_err().to_string().contains("ebpf.tcp"));
        let (unended, _) = LOG.split_once("the live tests").unwrap();
        assert!(Report::of("6.1", unended).verdict().is_err());
        assert!(
            Report::of("6.1", &LOG.replace("43210", "250001")).verdict().unwrap_err().to_string().contains("call_exit")
        );
    }

    #[test]
    fn the_file_has_a_column_for_each_kernel_that_tells() {
        let reports = [Report::of("5.10", ""), Report::of("6.1", LOG), Report::of(super::super::HERE, LOG)];
        let text = verified(&reports);
        assert!(!is_whole(&reports, &[("5.10", ""), ("6.1", "")]), "nothing was said in 5.10");
        assert!(is_whole(&reports, &[("6.1", "")]));
        assert!(text.ends_with("program                    6.1\ncall_exit                43210\n"), "{text}");
    }
}
