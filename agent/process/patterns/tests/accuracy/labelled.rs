//! Logs of which the true pattern of each line is known: reading them, and scoring a miner by them.
//!
//! Directories in the layout of LogHub's samples come in, plain or gzip: `X/X_2k.log` and `X/X_2k.log_structured.csv`, of which the columns
//! `Content` and `EventId` are read. Scores are those of the LogHub papers. Invariant: a miner sees lines only, never a label.

use anyhow::{Context, Result};
use ollystack_patterns::Miner;
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One system's log.
pub(crate) struct Labelled {
    pub(crate) system: String,
    /// Lines as they are in the file.
    pub(crate) raw: Vec<String>,
    /// What is left of each after its header.
    pub(crate) content: Vec<String>,
    /// The true pattern of each.
    pub(crate) events: Vec<String>,
}

/// How well a grouping of lines agrees with the true one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Score {
    /// Share of the lines whose group is exactly a true one.
    pub(crate) ga: f64,
    /// F1 over groups: exact groups by groups found (precision) and by true groups (recall).
    pub(crate) fga: f64,
    pub(crate) found: usize,
    pub(crate) truth: usize,
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GA {:.3}, FGA {:.3}, {} patterns of {}", self.ga, self.fga, self.found, self.truth)
    }
}

/// The samples that are part of this repository.
pub(crate) fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/data/loghub")
}

/// All systems under `directory`, by name.
pub(crate) fn read(directory: &Path) -> Result<Vec<Labelled>> {
    let mut systems = Vec::new();
    let entries = std::fs::read_dir(directory).with_context(|| format!("{}", directory.display()))?;
    let mut directories: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    directories.retain(|path| path.is_dir());
    directories.sort();
    for path in directories {
        let system = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = |name: &str| read_text(&path.join(format!("{system}_2k.{name}")));
        let raw = file("log")?.lines().map(str::to_owned).collect();
        let table = file("log_structured.csv")?;
        let mut table = csv::Reader::from_reader(table.as_bytes());
        let header = table.headers()?.clone();
        let column = |name: &str| {
            header.iter().position(|found| found == name).with_context(|| format!("{system}: no column {name}"))
        };
        let (content_at, event_at) = (column("Content")?, column("EventId")?);
        let (mut content, mut events) = (Vec::new(), Vec::new());
        for row in table.records() {
            let row = row?;
            content.push(row.get(content_at).unwrap_or_default().to_owned());
            events.push(row.get(event_at).unwrap_or_default().to_owned());
        }
        systems.push(Labelled { system, raw, content, events });
    }
    Ok(systems)
}

/// The text of `path`, or of `path` with `.gz`.
fn read_text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path.exists() {
        bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
    } else {
        let path = path.with_added_extension("gz");
        let file = std::fs::File::open(&path).with_context(|| format!("{}", path.display()))?;
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The patterns of `lines`, as they stand after the last.
pub(crate) fn assign<'a>(miner: &mut Miner, lines: impl Iterator<Item = &'a str>) -> Vec<u64> {
    let ids: Vec<_> = lines.map(|line| miner.observe(line).id).collect();
    ids.into_iter().map(|id| miner.resolve(id).get()).collect()
}

/// Score groups found by true groups, one of each for each line.
pub(crate) fn score<T: std::hash::Hash + Eq>(found: &[u64], truth: &[T]) -> Score {
    let (found, truth) = (groups(found), groups(truth));
    let lines: usize = truth.iter().map(Vec::len).sum();
    let exact = found.intersection(&truth);
    let (exact, exact_lines) = exact.fold((0, 0), |(groups, lines), group| (groups + 1, lines + group.len()));
    Score {
        ga: exact_lines as f64 / lines.max(1) as f64,
        fga: 2.0 * f64::from(exact) / (found.len() + truth.len()).max(1) as f64,
        found: found.len(),
        truth: truth.len(),
    }
}

fn groups<T: std::hash::Hash + Eq>(labels: &[T]) -> std::collections::HashSet<Vec<usize>> {
    let mut groups: HashMap<&T, Vec<usize>> = HashMap::new();
    for (line, label) in labels.iter().enumerate() {
        groups.entry(label).or_default().push(line);
    }
    groups.into_values().collect()
}
