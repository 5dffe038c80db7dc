//! Log lines of eight real systems, as their services would write them today: time, level, message.
//!
//! Messages and levels are LogHub's (`tests/data/loghub`), in their order. Each pass through them has its digits exchanged, so that
//! identifiers, addresses and numbers are others than in the pass before and hang together within it. Invariant: what a line says
//! depends on its number alone.

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// One system's lines.
pub(crate) struct System {
    /// Names its file, and so the service that the agent takes them to be of.
    pub(crate) name: String,
    /// Level and message.
    lines: Vec<(&'static str, String)>,
}

/// All systems of a folder.
pub(crate) fn systems(folder: &Path) -> Result<Vec<System>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    names.iter().map(|name| System::read(folder, name)).collect()
}

impl System {
    fn read(folder: &Path, name: &str) -> Result<System> {
        let text = |end: &str| -> Result<String> {
            let path = folder.join(name).join(format!("{name}_2k.{end}.gz"));
            let mut bytes = Vec::new();
            GzDecoder::new(File::open(&path).with_context(|| path.display().to_string())?).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (raw, table) = (text("log")?, text("log_structured.csv")?);
        let messages = table.lines().skip(1).map(message);
        let lines = raw.lines().zip(messages).map(|(raw, message)| (level(raw, &message), message));
        let system = System { name: name.to_lowercase(), lines: lines.collect() };
        ensure!(!system.lines.is_empty(), "{name} has no lines");
        Ok(system)
    }

    /// The line of this number, with its end.
    pub(crate) fn line(&self, number: usize, time: &str) -> String {
        let (pass, at) = (number / self.lines.len(), number % self.lines.len());
        let (level, message) = &self.lines[at];
        let mut digits: Vec<char> = ('0'..='9').collect();
        Rng::with_seed(pass as u64).shuffle(&mut digits);
        let message = message.chars().map(|c| c.to_digit(10).map_or(c, |digit| digits[digit as usize]));
        format!("{time} {level} {}\n", message.collect::<String>())
    }
}

/// The first column of a row of LogHub's table of labels.
fn message(row: &str) -> String {
    let column = row.rsplit_once(',').map_or(row, |(message, _)| message);
    match column.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => column.to_owned(),
    }
}

/// What stands before the message tells it, in most systems.
fn level(raw: &str, message: &str) -> &'static str {
    let head = raw.trim_end().strip_suffix(message.trim_end()).unwrap_or_default();
    let mut words = head.split([' ', '[', ']']).map(|word| match word {
        "E" | "ERROR" | "error" => "ERROR",
        "W" | "WARN" | "warn" => "WARN",
        "D" | "V" | "DEBUG" => "DEBUG",
        _ => "INFO",
    });
    words.find(|level| *level != "INFO").unwrap_or("INFO")
}
