//! `ollystack-agent patterns`: the patterns of log files, as the running agent would find them, without an agent.
//!
//! Lines of files or standard input go through the same parsing and mining as log records do; out comes a table of the top patterns
//! with their counts, or a pattern for every line. Invariant: every line that was read is counted in exactly one pattern, under
//! the one that its pattern had become when the last line was read.

mod assignments;
mod lines;
mod progress;
mod report;

use crate::cli::Patterns;
use assignments::Assignments;
use lines::{Lines, ReadError};
use ollystack_patterns::{Config, Miner, PatternId};
use ollystack_record::otlp::logs::v1::SeverityNumber;
use progress::Progress;
use report::Found;
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Sixteen times what the agent holds: whole files of several programs are one stream here, and the command ends soon.
const LIMITS: Config = Config { patterns_max: 1 << 16, bytes_max: 64 << 20 };
/// Beyond as many tallies, those of patterns that the miner forgot are added up in one.
const TALLIES_MAX: usize = 4 * LIMITS.patterns_max;

/// Read, mine, and write what was asked for. True if every file was read to its end; what could not be is said on stderr.
pub(crate) fn run(asked: &Patterns, width: Option<usize>, out: &mut impl Write) -> std::io::Result<bool> {
    let begin = Instant::now();
    let mut mining = Mining::new(asked);
    let complete = mining.read_all(&asked.files);
    match &mining.assignments {
        Some(assignments) => assignments.write(|id| mining.miner.resolve(id), out)?,
        None => {
            let found = mining.found(begin.elapsed());
            let top = if asked.top == 0 { usize::MAX } else { asked.top };
            out.write_all(if asked.json { found.as_json(top) } else { found.render(top, width) }.as_bytes())?;
        }
    }
    Ok(complete)
}

/// What the lines so far came to.
struct Mining {
    miner: Miner,
    /// Lines are bare messages: nothing is taken off.
    bare: bool,
    lines: u64,
    bytes: u64,
    tallies: HashMap<PatternId, Tally>,
    /// Of patterns that the miner had no room for.
    forgotten: Tally,
    assignments: Option<Assignments>,
    progress: Progress,
}

/// The lines of one pattern.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Tally {
    lines: u64,
    /// The highest that one of them stated.
    severity: Option<SeverityNumber>,
    /// The number of the first one, from 1.
    first: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.first = if self.lines == 0 { other.first } else { self.first.min(other.first) };
        self.lines += other.lines;
        self.severity = self.severity.max(other.severity);
    }
}

impl Mining {
    fn new(asked: &Patterns) -> Mining {
        Mining {
            miner: Miner::new(LIMITS),
            bare: asked.content,
            lines: 0,
            bytes: 0,
            tallies: HashMap::new(),
            forgotten: Tally::default(),
            assignments: asked.assignments.then(Assignments::default),
            progress: Progress::new(&asked.files),
        }
    }

    /// As `cat` does: a file that cannot be read is said, and the others are read still.
    fn read_all(&mut self, files: &[PathBuf]) -> bool {
        let stdin = [PathBuf::from("-")];
        let files = if files.is_empty() { &stdin } else { files };
        let mut complete = true;
        for path in files {
            if path.as_os_str() == "-" && std::io::stdin().is_terminal() {
                eprintln!("reading lines from the terminal, Ctrl-D ends them");
            }
            let read = lines::open(path, &Arc::clone(&self.progress.read)).and_then(|mut lines| self.read(&mut lines));
            self.progress.clear();
            if let Err(error) = read {
                eprintln!("error: {error}");
                complete = false;
            }
        }
        complete
    }

    fn read(&mut self, lines: &mut Lines) -> Result<(), ReadError> {
        while let Some(line) = lines.next()? {
            self.bytes += line.len() as u64;
            self.take(&String::from_utf8_lossy(line));
            self.progress.show(self.lines);
        }
        if lines.cut() > 0 {
            let (cut, name, max) = (lines.cut(), lines.name(), lines::LINE_BYTES_MAX);
            eprintln!("warning: {cut} lines of {name} are longer than {max} bytes; their first {max} were looked at");
        }
        Ok(())
    }

    fn take(&mut self, line: &str) {
        self.lines += 1;
        let parsed = if self.bare {
            ollystack_logs::Parsed { message: line, ..Default::default() }
        } else {
            ollystack_logs::parse(line)
        };
        let sight = self.miner.observe(parsed.message);
        if let Some(assignments) = &mut self.assignments {
            return assignments.push(sight.id);
        }
        let severity = parsed.severity.map(|(number, _)| number);
        self.tallies.entry(sight.id).or_default().add(Tally { lines: 1, severity, first: self.lines });
        if sight.is_new && self.tallies.len() > TALLIES_MAX {
            self.settle();
        }
    }

    /// Bring tallies of patterns that became one together, and those of forgotten ones.
    fn settle(&mut self) {
        for (id, tally) in std::mem::take(&mut self.tallies) {
            let id = self.miner.resolve(id);
            match self.miner.template(id) {
                Some(_) => self.tallies.entry(id).or_default().add(tally),
                None => self.forgotten.add(tally),
            }
        }
    }

    fn found(&mut self, took: std::time::Duration) -> Found {
        self.settle();
        let template = |id| self.miner.template(id).unwrap_or_default();
        let patterns = self.tallies.iter().map(|(&id, &tally)| report::Pattern { id, tally, template: template(id) });
        Found::new(patterns.collect(), self.forgotten, self.lines, self.bytes, took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn file(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn output(asked: &Patterns) -> (String, bool) {
        let mut out = Vec::new();
        let complete = run(asked, None, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), complete)
    }

    fn asked(files: Vec<PathBuf>) -> Patterns {
        Patterns { files, top: 20, assignments: false, content: false, json: false }
    }

    /// The numbers and the pattern of each line.
    fn assigned(text: &str) -> Vec<(u64, u64)> {
        let pair = |line: &str| {
            let (number, id) = line.split_once('\t').unwrap();
            (number.parse().unwrap(), id.parse().unwrap())
        };
        text.lines().map(pair).collect()
    }

    #[test]
    fn every_line_is_assigned_empty_broken_and_unfinished_ones_too_and_numbers_go_on_over_files() {
        let folder = tempfile::tempdir().unwrap();
        let a = file(folder.path(), "a", b"user 1 left\r\n\r\n\xff\xfe\nuser 2 left");
        let b = file(folder.path(), "b", "user 3 left\n");
        let (text, complete) = output(&Patterns { assignments: true, ..asked(vec![a, b]) });
        let pairs = assigned(&text);
        assert!(complete);
        assert_eq!(pairs.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "{text}");
        assert!(pairs[0].1 == pairs[3].1 && pairs[3].1 == pairs[4].1 && pairs[0].1 != pairs[1].1, "{text}");
    }

    #[test]
    fn counts_add_up_to_the_lines_and_the_most_frequent_pattern_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..90).map(|n| format!("ERROR cannot reach 10.0.0.{n} in time\n")).collect();
        let path = file(folder.path(), "a", text + &"all is well\n".repeat(10));
        let (json, _) = output(&Patterns { json: true, ..asked(vec![path.clone()]) });
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["lines"], &json["patterns"]), (&100.into(), &2.into()), "{json}");
        let counts: Vec<_> = json["top"].as_array().unwrap().iter().map(|top| top["lines"].as_u64().unwrap()).collect();
        assert_eq!(counts, [90, 10]);
        assert_eq!((&json["top"][0]["severity"], &json["top"][0]["share"]), (&"error".into(), &0.9.into()), "{json}");
        assert_eq!(json["top"][1]["first_line"], 91);
        let (table, _) = output(&Patterns { top: 1, ..asked(vec![path]) });
        assert!(table.contains("90.0%") && !table.contains("all is well"), "{table}");
        assert!(table.contains("1 more pattern"), "{table}");
    }

    #[test]
    fn bare_messages_keep_what_looks_like_a_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "a", "ERROR one two three\nWARN one two three\n".repeat(5));
        let (bare, _) = output(&Patterns { content: true, json: true, ..asked(vec![path]) });
        assert!(bare.contains("ERROR") && !bare.contains("\"severity\":\"error\""), "{bare}");
    }

    #[test]
    fn a_file_that_cannot_be_read_does_not_keep_the_others_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let good = file(folder.path(), "good", "a line\n");
        let (text, complete) = output(&Patterns { assignments: true, ..asked(vec![folder.path().join("gone"), good]) });
        assert_eq!((assigned(&text).len(), complete), (1, false));
    }

    #[test]
    fn patterns_that_the_miner_has_no_room_for_stay_counted() {
        let mut mining = Mining::new(&asked(Vec::new()));
        mining.miner = Miner::new(Config { patterns_max: 2, ..LIMITS });
        for line in ["alpha", "beta gamma", "delta epsilon zeta", "eta theta iota kappa", "alpha"] {
            mining.take(line);
        }
        let text = mining.found(std::time::Duration::ZERO).render(usize::MAX, None);
        assert!(mining.forgotten.lines > 0, "{text}");
        assert_eq!(mining.forgotten.lines + mining.tallies.values().map(|tally| tally.lines).sum::<u64>(), 5);
        assert!(text.contains("forgotten"), "{text}");
    }
}
