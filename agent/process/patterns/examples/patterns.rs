//! How well and how fast patterns are mined: from labelled logs to one JSON report on standard output.
//!
//! `cargo xtask bench patterns [--data DIR]`. Each system is mined in one pass with the defaults by a new miner, twice: the labelled
//! content alone, and the raw lines after the agent's own parser took their head off. Speed is CPU time of this thread. Invariant: a
//! miner sees lines only, never a label.

#[path = "../tests/accuracy/labelled.rs"]
mod labelled;

use anyhow::{Context, Result, bail};
use labelled::{Labelled, Score, assign, committed, read, score};
use ollystack_patterns::{Config, Miner};
use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Counts what is allocated, for the memory column.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Long enough for the caches and the clock to settle.
const SECONDS_MIN: f64 = 0.5;

/// Lines of which none is like another, to see what that does to memory and speed.
const NOVEL_LINES: usize = 200_000;

/// What one system, or their mean, comes to.
#[derive(Default)]
struct Outcome {
    content: Score,
    raw: Score,
    lines_per_second: f64,
    bytes: f64,
}

fn main() -> Result<()> {
    let systems = read(&directory()?)?;
    if systems.is_empty() {
        bail!("no system in the directory: want DIR/X/X_2k.log and DIR/X/X_2k.log_structured.csv");
    }
    let mut rows = Vec::new();
    let mut mean = Outcome::default();
    let count = systems.len() as f64;
    for system in &systems {
        eprintln!("{}", system.system);
        let one = measure(system);
        rows.push(row(&system.system, system.content.len(), &one));
        mean.content.ga += one.content.ga / count;
        mean.content.fga += one.content.fga / count;
        mean.content.found += one.content.found;
        mean.content.truth += one.content.truth;
        mean.raw.ga += one.raw.ga / count;
        mean.raw.fga += one.raw.fga / count;
        mean.lines_per_second += one.lines_per_second / count;
        mean.bytes = f64::max(mean.bytes, one.bytes);
    }
    rows.push(row("average", systems.iter().map(|system| system.content.len()).sum(), &mean));
    let mixed: Vec<&str> = systems.iter().flat_map(|system| &system.content).map(String::as_str).collect();
    let (mixed_speed, mixed_bytes, mixed_held) = speed(&mixed);
    rows.push(row_of_speed("all in one", mixed.len(), mixed_speed, mixed_bytes, mixed_held));
    let novel = novel_lines();
    let novel: Vec<&str> = novel.iter().map(String::as_str).collect();
    let (novel_speed, novel_bytes, novel_held) = speed(&novel);
    rows.push(row_of_speed("every line new", novel.len(), novel_speed, novel_bytes, novel_held));
    let report = json!({
        "columns": ["log", "lines", "GA", "FGA", "patterns", "true", "raw GA", "raw FGA", "M lines/core-s", "KiB"],
        "rows": rows,
        "notes": [
            "GA: share of the lines whose group is exactly a true one; FGA: F1 over groups.",
            "One pass, defaults, a new miner for each log.",
            "raw: whole lines, their head taken off by the agent's parser; the other columns: the labelled content.",
            "Speed: CPU time of one thread, the log over and over for half a second, first pass included.",
            "KiB: heap after that, by a counting allocator; in the row of averages the most.",
            "Drain3 0.9 with its defaults on the committed eight: GA 0.775, FGA 0.796.",
        ],
        "figures": {
            "ga": mean.content.ga,
            "fga": mean.content.fga,
            "raw_ga": mean.raw.ga,
            "raw_fga": mean.raw.fga,
            "lines_per_core_second": mean.lines_per_second,
            "lines_per_core_second_mixed": mixed_speed,
            "lines_per_core_second_novel": novel_speed,
            "bytes_max": f64::max(mean.bytes, f64::max(mixed_bytes, novel_bytes)),
        },
    });
    println!("{report}");
    Ok(())
}

/// The value of `--data`, or the committed samples.
fn directory() -> Result<PathBuf> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => Ok(committed()),
        Some("--data") => Ok(arguments.next().context("--data wants a directory")?.into()),
        Some(other) => bail!("unknown argument {other:?}: only --data DIR is known"),
    }
}

fn measure(system: &Labelled) -> Outcome {
    let content: Vec<&str> = system.content.iter().map(String::as_str).collect();
    let raw = system.raw.iter().map(|line| ollystack_logs::parse(line).message);
    let mut miner = Miner::new(Config::default());
    let raw = assign(&mut miner, raw);
    let raw = if raw.len() == system.events.len() { score(&raw, &system.events) } else { Score::default() };
    let content_ids = assign(&mut Miner::new(Config::default()), content.iter().copied());
    let (lines_per_second, bytes, _) = speed(&content);
    Outcome { content: score(&content_ids, &system.events), raw, lines_per_second, bytes }
}

/// Lines a second of CPU, bytes of heap held then, and patterns.
fn speed(lines: &[&str]) -> (f64, f64, usize) {
    let heap_before = HEAP.current_usage();
    let mut miner = Miner::new(Config::default());
    let (mut observed, start) = (0_usize, cpu_seconds());
    let seconds = loop {
        for line in lines {
            std::hint::black_box(miner.observe(line));
        }
        observed += lines.len();
        let seconds = cpu_seconds() - start;
        if seconds >= SECONDS_MIN {
            break seconds;
        }
    };
    let bytes = HEAP.current_usage().saturating_sub(heap_before);
    (observed as f64 / seconds, bytes as f64, miner.len())
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Lines of twelve words drawn from a thousand: no two are alike, and no word is a value by its looks.
fn novel_lines() -> Vec<String> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let letters = b"ghijklmnopqrstuvwxyz";
    let words: Vec<String> =
        (0..1000).map(|_| (0..7).map(|_| char::from(letters[next() as usize % letters.len()])).collect()).collect();
    let mut line = || (0..12).map(|_| words[next() as usize % words.len()].as_str()).collect::<Vec<_>>().join(" ");
    (0..NOVEL_LINES).map(|_| line()).collect()
}

fn row(name: &str, lines: usize, one: &Outcome) -> Value {
    json!([
        name,
        lines.to_string(),
        format!("{:.3}", one.content.ga),
        format!("{:.3}", one.content.fga),
        one.content.found.to_string(),
        one.content.truth.to_string(),
        format!("{:.3}", one.raw.ga),
        format!("{:.3}", one.raw.fga),
        format!("{:.2}", one.lines_per_second / 1e6),
        format!("{:.0}", one.bytes / 1024.0),
    ])
}

fn row_of_speed(name: &str, lines: usize, lines_per_second: f64, bytes: f64, held: usize) -> Value {
    let (speed, kib) = (format!("{:.2}", lines_per_second / 1e6), format!("{:.0}", bytes / 1024.0));
    json!([name, lines.to_string(), "", "", held.to_string(), "", "", "", speed, kib])
}
